"""``doctor``: whether monai-sr works here: packages, processor, memory, folder of the results, and a self-test."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, SuperResolutionError, UsageError, printable, write_error
from ..options import BUNDLES
from .info import show_machine
from .terminal import answer, complain, say

INSTRUCTIONS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""What decides the speed of the networks, as Linux calls it: for x86 and for ARM."""

BLOCK, BLOCKS = 2**20, 64
"""Bytes that are written at once to measure the speed of a folder, and how often."""


def doctor(options: argparse.Namespace) -> int:
    """``monai-sr doctor [FOLDER]``; the exit code is that of the first fault."""
    show_machine()
    say(f"  python       {platform.python_version()} on {platform.platform()}")
    say(f"  instructions {' '.join(instruction_sets()) or 'none that speed up the networks'}")
    answer(python=platform.python_version(), instruction_sets=instruction_sets())
    faults: list[SuperResolutionError] = []
    _look(partial(_show_folder, Path(options.folder)), faults)
    test = _look(_load_self_test, faults)
    if test is not None:
        _look(_show_memory, faults)
        say("self-test, as a fraction of the range of the voxels")
        results: list[Any] = []
        for bundle in BUNDLES:
            for engine in test.engines():
                _look(partial(_show_test, test, bundle, engine, results), faults)
        answer(self_test=results)
    say("all is well" if not faults else f"{len(faults)} fault(s): {', '.join(fault.code for fault in faults)}")
    return faults[0].exit_code if faults else 0


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of :data:`INSTRUCTIONS` that the processor has; on other systems than Linux, what numpy finds."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        simd = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[index]
        return [*simd["baseline"], *simd.get("found", [])]
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


def _look(at: Callable[[], Any], faults: list[SuperResolutionError]) -> Any:
    """Go on after a fault, so that all of them are seen."""
    try:
        return at()
    except SuperResolutionError as error:
        complain(error)
        faults.append(error)
        return None


def _show_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError("E-OUT-FOLDER", "there is no such folder", path=folder)
    rate, free = _writing_rate(folder), shutil.disk_usage(folder).free
    say(f"folder\n  {printable(str(folder))}: {rate / 1e6:.0f} MB/s written, {free / 1e9:.0f} GB free")
    answer(folder={"path": str(folder), "write_mb_per_s": round(rate / 1e6), "free_gb": round(free / 1e9, 1)})


def _writing_rate(folder: Path) -> float:
    """Bytes a second, until they are on the disk; they cannot be compressed."""
    block = os.urandom(BLOCK)
    started = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(BLOCKS):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(folder, error) from error
    return BLOCKS * BLOCK / (time.perf_counter() - started)


def _load_self_test() -> Any:
    """The module of the self-test, with which torch and MONAI are loaded."""
    try:
        return import_module("..evaluation.self_test", __package__)
    except (ImportError, OSError) as error:  # OSError: a library that it needs cannot be loaded
        first = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "install monai-sr again in an environment of its own"
        raise UsageError("E-EXTRA", f"a package cannot be loaded ({first})", fix=fix) from error


def _show_memory() -> None:
    memory = import_module("..engine.memory", __package__)
    budget = memory.memory_budget()
    say(f"memory\n  a run plans with {budget / 2**30:.1f} GiB, {memory.SHARE:.0%} of what is free")
    answer(memory={"planned_mib": round(budget / 2**20)})


def _show_test(test: Any, bundle: str, engine: tuple[str, str, str], results: list[Any]) -> None:
    result = test.run_self_test(bundle, *engine)
    good = result.difference <= result.tolerance
    names = f"{result.bundle:9} {result.engine:9} {result.precision:8} {result.device:5}"
    figures = f"{result.difference:.1e} (at most {result.tolerance:g}) {result.seconds:6.2f} s"
    say(f"  {names} {figures}  {'as expected' if good else 'WRONG'}")
    results.append(vars(result) | {"as_expected": good})
    result.check()
