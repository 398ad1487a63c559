"""How much memory a volume takes and how much there is, so that a run is planned and not killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import torch
from torch import nn

from ..engine.memory import PROCESS, TILE_VOXELS, tile_bytes, usual_tile, volume_bytes
from ..engine.openvino import StreamedNet
from ..errors import SuperResolutionError

SHARE = 0.85
"""Of the memory there is that a run may plan with; the rest is for what no estimate foresees."""

TILE_LADDER = tuple(TILE_VOXELS // n for n in (1, 2, 4, 8, 16))
"""Tiles to try, in voxels of the output, the largest and fastest first."""


OUT_OF_MEMORY = ("not enough memory", "can't alloc", "bad_alloc", "Failed to allocate")
"""How torch and OpenVINO say that memory ran out, in an error that says nothing by its type."""


class MemoryShortError(SuperResolutionError):
    """Not even the smallest tile fits into memory."""

    exit_code = 8


def choose_tile(network: nn.Module | None, *, voxels_in: int, voxels_out: int, memory: int, vram: int | None) -> int:
    """The largest tile of the ladder that fits.

    Args:
        network: what is to run; None for the spline.
        voxels_in, voxels_out: of the volume.
        memory: bytes that this process may take.
        vram: bytes free on the GPU that the network is on; None where it is on the CPU.

    Raises:
        MemoryShortError: none fits.
    """
    fixed = PROCESS + volume_bytes(voxels_in, voxels_out)
    for tile in ladder(network, voxels_in=voxels_in, voxels_out=voxels_out):
        on_tile = tile_bytes(network, tile, voxels_in=voxels_in, voxels_out=voxels_out)
        fits = fixed + on_tile <= memory if vram is None else fixed <= memory and on_tile <= SHARE * vram
        if fits:
            return tile
    needed = fixed + (on_tile if vram is None else 0)
    raise MemoryShortError(
        "E-MEM",
        f"about {needed / 2**20:.0f} MiB are needed with the smallest tiles, {memory / 2**20:.0f} MiB may be used",
        fix="run on a machine with more memory, with fewer --jobs, or ask for a coarser --spacing",
    )


def ladder(network: nn.Module | None, *, voxels_in: int, voxels_out: int) -> list[int]:
    """Tiles to try for a volume, in voxels of the output: the usual one, then smaller ones."""
    usual = usual_tile(network, voxels_in=voxels_in, voxels_out=voxels_out)
    if isinstance(network, StreamedNet):
        return [min(usual, voxels_out) // n for n in (1, 2, 4, 8, 16)]
    usual = min(usual, max(voxels_out, TILE_LADDER[-1]))
    return [usual, *(tile for tile in TILE_LADDER if tile < usual)]


def memory_budget(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that this run may plan with: :data:`SHARE` of the tightest of all limits.

    What is free in RAM, the limits of its control groups (v1 and v2), and Slurm's for the job.
    """
    used_here = psutil.Process().memory_info().rss
    limits = [psutil.virtual_memory().available + used_here, *_group_limits(root)]
    if "SLURM_MEM_PER_NODE" in environment:
        limits.append(_slurm(environment["SLURM_MEM_PER_NODE"]))
    elif "SLURM_MEM_PER_CPU" in environment:
        cpus = int(environment.get("SLURM_CPUS_ON_NODE", "1") or 1)
        limits.append(_slurm(environment["SLURM_MEM_PER_CPU"]) * cpus)
    return int(SHARE * min(limits))


def free_vram(device: torch.device | None) -> int | None:
    """Bytes free on a GPU; None for anything else."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, numpy or OpenVINO ran out of memory, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def reset_peak() -> None:
    """Let the peak memory count from here, where the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """The most memory that this process held since :func:`reset_peak`, or since its start, MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if os.uname().sysname == "Darwin" else 2**10)


def _slurm(text: str) -> int:
    """Slurm's figures: MB, or with a unit."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    unit = text[-1:].upper()
    return int(float(text[:-1]) * units[unit]) if unit in units else int(text) * 2**20


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
