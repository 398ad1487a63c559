"""Cases on an existing Dask cluster whose workers see the same files as we do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..bundles import Model
from ..engine.devices import set_threads
from ..engine.memory import memory_budget
from ..errors import SuperResolutionError, UsageError
from ..options import RunOptions
from .case import process
from .chosen import Case
from .log import Outcome
from .model import load_model
from .workers import lost

PATIENCE = "30s"
"""How long a scheduler may take to answer."""

_ONE_AT_A_TIME = threading.Lock()
"""A worker with several threads gives them all to one volume: memory is planned for one."""


def run_on_cluster(
    cases: Sequence[Case], options: RunOptions, *, scheduler: str, resources: Mapping[str, float] | None = None
) -> Iterator[tuple[Case, Outcome]]:
    """Outcomes in the order in which cases end on the workers of a cluster.

    Workers read and write the files themselves, and load the model once each. The scheduler gives
    the case of a lost worker to another, as often as its setting ``allowed-failures`` allows.

    Args:
        cases: with absolute paths that are the same on every worker.
        options: for each of them.
        scheduler: address such as ``tcp://host:8786``, or the path of a scheduler file.
        resources: what a case takes of a worker's resources, such as ``{"GPU": 1}``.

    Raises:
        UsageError: dask is not installed (E-EXTRA), or the scheduler does not answer (E-SCHED).
    """
    try:
        from dask.distributed import Client, as_completed
    except ImportError as error:
        raise UsageError("E-EXTRA", "dask is not installed", fix='pip install "monai-sr[cluster]"') from error
    if any(case.series is not None and case.series.unpacked is not None for case in cases):
        raise UsageError("E-SCHED", "the workers cannot look into a zip", fix="unpack it and give the folder")
    where = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    if "scheduler_file" in where and not Path(scheduler).is_file():
        raise UsageError("E-SCHED", "no such scheduler file", fix="give its path, or tcp://host:port", path=scheduler)
    try:
        client = Client(**where, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise UsageError("E-SCHED", f"no scheduler answers at {scheduler}") from error
    waiting = deque(cases)
    running: dict[Any, Case] = {}
    with client:
        ended = as_completed()
        try:
            while waiting or running:
                # one for each worker: a case that waits on a worker is blamed too when another kills it
                while waiting and len(running) < max(1, len(client.nthreads())):
                    case = waiting.popleft()
                    key = f"monai-sr-{uuid4().hex}"
                    future = client.submit(
                        _process_here, case.without_archive(), options, key=key, pure=False, resources=resources
                    )
                    running[future] = case
                    ended.add(future)
                future = next(ended)
                case = running.pop(future)
                if future.status == "finished":
                    yield case, future.result()
                else:
                    yield case, lost(case, "was lost, more often than the scheduler allows")
        finally:
            client.cancel(list(running))


def _process_here(case: Case, options: RunOptions) -> Outcome:
    """On a worker: one case, with the model, memory and threads of the worker."""
    from dask.distributed import get_worker

    with _ONE_AT_A_TIME:
        set_threads(get_worker().state.nthreads)  # Dask lets libraries use one
        try:
            model = _model(options)
        except SuperResolutionError as error:
            return Outcome.failed(case.name, error)
        return process(case, options, model, memory=_memory())


@cache
def _model(options: RunOptions) -> Model:
    return load_model(options)


@cache
def _memory() -> int:
    return memory_budget()
