"""Cases on processes of this machine. A process that is killed costs only its own case.

concurrent.futures.ProcessPoolExecutor loses all of its work when one of its processes dies, and does not
report which case that process had. A Dask cluster on this machine would do, but it is a large dependency
for what a pipe per process does; :mod:`monai_sr.batch.cluster` uses one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..bundles import pick_device
from ..engine.devices import set_threads, thread_count
from ..errors import ImageError, Later, SuperResolutionError
from ..options import RunOptions
from .case import process
from .chosen import Case
from .log import Outcome
from .model import load_model

if TYPE_CHECKING:
    import torch
else:
    torch = Later("torch")

GRACE = 8.0
"""Seconds that a process has to drop its case when the run is interrupted."""

LOST = "E-WORKER"

ATTEMPTS = 2
"""How often a case is begun whose process dies."""


def run_in_processes(
    cases: Sequence[Case], options: RunOptions, *, jobs: int, memory: int
) -> Iterator[tuple[Case, Outcome]]:
    """Outcomes in the order in which cases end, from ``jobs`` processes. Each loads the model once.

    Threads are divided among the processes, and each has a GPU of its own where there are any. A
    case whose process dies is tried once more by another process, after all other cases; then it fails.

    Raises:
        SuperResolutionError: the bundle or device cannot be used.
    """
    waiting = deque((case, 1) for case in cases)
    devices = _devices(options.compute.device)
    jobs = min(jobs, len(cases), len(devices) if devices[0].startswith("cuda") else jobs)
    threads = max(1, thread_count() // jobs)
    workers = [_Worker(options, devices[n % len(devices)], threads, memory) for n in range(jobs)]
    try:
        while waiting or any(worker.case for worker in workers):
            for worker in workers:
                if worker.case is None and waiting:
                    worker.begin(*waiting.popleft())
            busy = {worker.pipe: worker for worker in workers if worker.case}
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                assert worker.case is not None
                case, attempt = worker.case
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):
                    how = worker.end(restart=True)
                    if attempt < ATTEMPTS:
                        waiting.append((case, attempt + 1))
                    else:
                        yield case, lost(case, f"{how}, {ATTEMPTS} times")
                    continue
                worker.case = None
                if isinstance(answer, SuperResolutionError):
                    raise answer
                yield case, answer
    finally:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.end(patience=max(0.0, deadline - time.monotonic()))


def lost(case: Case, how: str) -> Outcome:
    """The outcome of a case whose process died twice."""
    fix = "give it more memory, or look into the system's log"
    return Outcome(case.name, "failed", error=ImageError(LOST, f"the process that worked on it {how}", fix=fix))


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, options: RunOptions, device: str, threads: int, memory: int) -> None:
        self._arguments = options, device, threads, memory, dict(os.environ)
        self.case: tuple[Case, int] | None = None
        self._start()

    def _start(self) -> None:
        # imports take a second: a fork server imports once for all processes on the CPU
        forks = sys.platform == "linux" and self._arguments[1] == "cpu"
        context: Any = get_context("forkserver" if forks else "spawn")
        context.set_forkserver_preload([__name__])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def begin(self, case: Case, attempt: int) -> None:
        self.case = case, attempt
        with suppress(OSError):  # it died while it had nothing to do; the pipe ends at once
            self.pipe.send(case.without_archive())

    def end(self, *, patience: float = GRACE, restart: bool = False) -> str:
        """Wait so many seconds for the process to end, then kill it; returns how it ended, in words."""
        self.pipe.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        self.case = None
        if restart:
            self._start()
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _devices(wanted: str) -> list[str]:
    """The devices, one for each process."""
    device = pick_device(wanted)
    if device == "cuda" and torch.cuda.device_count() > 1:
        return [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    return [device]


def _serve(
    pipe: connection.Connection,
    options: RunOptions,
    device: str,
    threads: int,
    memory: int,
    environment: Mapping[str, str],
) -> None:
    """The work of a process: load the model, then process case after case until the pipe ends."""
    os.environ.update(environment)  # as it is now, not as it was when the fork server started
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal signals all of them, the first process decides
    signal.signal(signal.SIGTERM, _terminated)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_threads(threads)
    warnings.simplefilter("ignore")
    try:
        model = load_model(options, device=device)
        while True:
            case = pipe.recv()
            pipe.send(process(case, options, model, memory=memory))
    except SuperResolutionError as error:
        pipe.recv()
        pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the run has ended
        return


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """End this process if its parent was killed; otherwise it would go on and hold its claim."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
