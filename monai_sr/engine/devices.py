"""The processors and GPUs of this machine, found without torch, whose import takes seconds."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

MEMORY_LIMIT = "MONAI_SR_MEMORY"
"""Environment variable of ``--memory``, bytes; processes that are started inherit it."""

DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""Devices of NVIDIA's driver on Linux and of Windows' subsystem for it, where ``nvidia-smi`` may be absent."""

PATIENCE = 5.0
"""Maximum time of the driver to answer, seconds."""


def cpu_threads() -> int:
    """Physical cores that this process may use, or what OMP_NUM_THREADS says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def thread_count(root: Path = Path("/")) -> int:
    """Threads to compute with: torch's, if a program set them, within the quota of a container."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else cpu_threads()
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        threads = min(threads, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or no quota ("max")
        pass
    return threads


def set_threads(count: int) -> None:
    """Let this process, and those that it starts, compute with so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch:  # which reads the environment when it is imported
        torch.set_num_threads(count)


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is installed; it is not imported."""
    try:
        return find_spec(engine) is not None and bool(version(engine))
    except (PackageNotFoundError, ValueError):  # ValueError: hidden by None in sys.modules
        return False


def may_use_gpu() -> bool:
    """Whether torch may find a GPU here; it alone knows, and it is not imported."""
    try:
        built = version("torch")
    except PackageNotFoundError:
        return False
    if built.endswith("+cpu"):
        return False
    return "+rocm" in built or any(map(os.path.exists, DRIVERS)) or bool(gpu_names())


def gpu_names() -> list[str]:
    """The GPUs that NVIDIA's driver lists, and whether the installed torch can use them.

    A card that it cannot use for another reason shows when a command tries (W-DEV).
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer: no GPU to use
        return []
    try:
        note = " (not used: this torch is built for the CPU)" if version("torch").endswith("+cpu") else ""
    except PackageNotFoundError:
        note = " (not used: torch is not installed)"
    return [f"{line.strip()}{note}" for line in listed.splitlines() if line.strip()]
