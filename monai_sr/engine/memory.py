"""Memory that a volume needs and memory that is available, so that a run is not killed.

The constants are peak resident memory on the CPU, measured by
``python tests/benchmarks/memory_constants.py`` (torch 2.13, monai 1.6.1, openvino 2026.4) and rounded up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..errors import Later, SuperResolutionError
from . import Sizes
from .devices import MEMORY_LIMIT

if TYPE_CHECKING:
    import torch
else:
    torch = Later("torch")

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TILE_VOXELS = 4_000_000
"""Output voxels that a network computes at once at most."""

TILE_LADDER = tuple(TILE_VOXELS // n for n in (1, 2, 4, 8, 16))
"""Tiles to try, in voxels of the output, the largest and fastest first."""

PROCESS = 560 * 2**20
"""Memory of interpreter, torch, MONAI, and the blocks in which matrices are applied; bytes. A run without torch takes
200 MiB less."""

PER_VOXEL_IN, PER_VOXEL_OUT = 20, 4
"""Bytes per acquired and per output voxel, with any engine; four of the first are for slices without noise."""

SHARE = 0.85
"""Fraction of the available memory that a run plans with; the rest covers errors of the estimate."""

OUT_OF_MEMORY = ("not enough memory", "can't alloc", "bad_alloc", "Failed to allocate")
"""Messages of torch and OpenVINO when memory ran out; the type of these errors does not show it."""


class MemoryShortError(SuperResolutionError):
    """Not even the smallest tile fits into memory."""

    exit_code = 8


def volume_bytes(voxels_in: int, voxels_out: int) -> int:
    """Memory of a volume without the engine, bytes."""
    return PER_VOXEL_IN * voxels_in + PER_VOXEL_OUT * voxels_out


def needed_bytes(engine: Sizes, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
    """Memory of a process for a volume of this size in these tiles, bytes."""
    on_tile = engine.tile_bytes(tile_voxels, voxels_in=voxels_in, voxels_out=voxels_out)
    return PROCESS + volume_bytes(voxels_in, voxels_out) + on_tile


def choose_tile(engine: Sizes, *, voxels_in: int, voxels_out: int, memory: int, vram: int | None) -> int:
    """The largest tile that fits.

    Args:
        engine: the engine.
        voxels_in, voxels_out: of the volume.
        memory: bytes that this process may take.
        vram: bytes free on the GPU that the network is on; None where it is on the CPU.

    Raises:
        MemoryShortError: none fits.
    """
    fixed = PROCESS + volume_bytes(voxels_in, voxels_out)
    for tile in engine.tile_sizes(voxels_in=voxels_in, voxels_out=voxels_out):
        on_tile = engine.tile_bytes(tile, voxels_in=voxels_in, voxels_out=voxels_out)
        fits = fixed + on_tile <= memory if vram is None else fixed <= memory and on_tile <= SHARE * vram
        if fits:
            return tile
    needed = fixed + (on_tile if vram is None else 0)
    raise MemoryShortError(
        "E-MEM",
        f"about {needed / 2**20:.0f} MiB are needed with the smallest tiles, {memory / 2**20:.0f} MiB are available",
    )


def memory_budget(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Memory that this run may use, bytes: :data:`SHARE` of the smallest limit.

    Limits are free RAM, the control groups (v1 and v2), Slurm's limit for the job, and :data:`MEMORY_LIMIT`.
    """
    used_here = psutil.Process().memory_info().rss
    limits: list[float] = [psutil.virtual_memory().available + used_here, *_group_limits(root)]
    if "SLURM_MEM_PER_NODE" in environment:
        limits.append(_slurm(environment["SLURM_MEM_PER_NODE"]))
    elif "SLURM_MEM_PER_CPU" in environment:
        cpus = int(environment.get("SLURM_CPUS_ON_NODE", "1") or 1)
        limits.append(_slurm(environment["SLURM_MEM_PER_CPU"]) * cpus)
    if MEMORY_LIMIT in environment:
        limits.append(int(environment[MEMORY_LIMIT]))
    return int(SHARE * min(limits))


def free_vram(device: str | torch.device | None) -> int | None:
    """Bytes free on a GPU; None for anything else."""
    if device is None or not str(device).startswith("cuda"):
        return None
    return torch.cuda.mem_get_info(device)[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy or OpenVINO ran out of memory, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def reset_peak() -> None:
    """Start the count of peak memory here, if the system supports it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_mib() -> float:
    """Peak memory of this process since :func:`reset_peak`, or since its start, MiB.

    Not by ``ru_maxrss`` on Linux: that begins at what the process had in memory that started this one.
    """
    if resource is None:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**20
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if os.uname().sysname == "Darwin" else 2**10)


def _slurm(text: str) -> float:
    """Bytes of a limit of Slurm: in MB, or with a unit; 0 is no limit."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    unit = text[-1:].upper()
    return float(text[:-1]) * units[unit] if unit in units else (int(text) * 2**20 or math.inf)


def _group_limits(root: Path) -> Iterator[int]:
    """Limits of the control groups that this process is in, and of those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        place = base / group.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(base):
                try:
                    yield int((folder / name).read_text())
                except (OSError, ValueError):  # no such file in the root group; "max"
                    continue
