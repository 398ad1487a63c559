"""What a run of many small scans costs besides reading and writing, and whether its memory grows.

``python tests/benchmarks/batch_overhead.py --scans 1000`` runs that many tiny volumes through the
consistent spline, in this process, and prints milliseconds per scan: in all, of reading, network and
writing together (timed in the same run), and the rest; then the resident memory after every 100th scan.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from monai.data import MetaTensor

from monai_sr.batch import RunLog, case, find_cases, run_cases
from monai_sr.io.images import write_image
from monai_sr.options import RunOptions

SHAPE = (16, 16, 8)


class Clock:
    """Time spent in functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started, cpu_started = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started
                self.cpu_seconds += time.process_time() - cpu_started

        return call


def main() -> None:
    """Make the scans, run them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=200)
    count = parser.parse_args().scans
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="batch-overhead-"))
    voxels = torch.from_numpy(np.random.default_rng(0).normal(500, 90, (1, *SHAPE)).astype(np.float32))
    first = write_image(MetaTensor(voxels, affine=torch.diag(torch.tensor([1.0, 1, 4, 1]))), folder / "a.nii.gz")
    (folder / "in").mkdir()
    for number in range(count):
        shutil.copy(first, folder / "in" / f"{number:05}.nii.gz")

    clock = Clock()
    for name in ("read_image", "super_resolve_within", "write_image", "write_record"):
        setattr(case, name, clock.timed(getattr(case, name)))
    memory: list[float] = []

    def report(_: Any) -> None:
        memory.append(psutil.Process().memory_info().rss / 2**20)

    (folder / "out").mkdir()
    started, cpu_started = time.perf_counter(), time.process_time()
    places = {"input": str(folder / "in"), "output": str(folder / "out")}
    options = RunOptions.from_dict({"bundle": "none", "device": "cpu"} | places)
    cases = find_cases(options)
    run_cases(cases, options, log=RunLog(folder / "out"), report=report)
    whole, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    started = time.perf_counter()
    run_cases(cases, options, log=RunLog(folder / "out"))
    again = time.perf_counter() - started
    per_scan = 1000 / count
    print(f"{count} scans of {'x'.join(map(str, SHAPE))}: {whole * per_scan:.1f} ms each")
    print(f"  reading, resolving, writing {clock.seconds * per_scan:.1f} ms, the rest", end=" ")
    print(f"{(whole - clock.seconds) * per_scan:.1f} ms (search, hashes, claim, log with fsync)")
    print(f"  of processor time: {cpu * per_scan:.1f} ms, the rest {(cpu - clock.cpu_seconds) * per_scan:.1f} ms")
    print(f"  again, all done already: {again * per_scan:.1f} ms each")
    marks = sorted({0, *range(99, count, 100), count - 1})
    print("  MiB resident after scan " + ", ".join(f"{n + 1}: {memory[n]:.0f}" for n in marks))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
