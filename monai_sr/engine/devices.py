"""The processors and GPUs of this machine, found without torch, whose import takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

MEMORY_LIMIT = "MONAI_SR_MEMORY"
"""Environment variable of ``--memory``, bytes; processes that are started inherit it."""

PATIENCE = 5.0
"""Maximum time of the driver to answer, seconds."""


def cpu_threads() -> int:
    """Processors that this process may use, or what OMP_NUM_THREADS says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
