"""How much memory a volume takes, known before it is taken.

The figures are peak resident memory on the CPU, measured by ``python tests/benchmarks/memory_constants.py``
(torch 2.13, monai 1.6.1, openvino 2026.4) and rounded up.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from ..networks import PyramidNet, ResidualNet, levels_for
from .openvino import StreamedNet

TILE_VOXELS = 4_000_000
"""Output voxels that a network computes at once at most."""

LEAST_TILE = TILE_VOXELS // 16
"""Fewer are not planned for."""

PROCESS = 576 * 2**20
"""Interpreter, torch and MONAI, and the blocks in which matrices are applied; bytes."""

PER_VOXEL_IN, PER_VOXEL_OUT = 16, 4
"""Bytes per acquired and per new voxel of a volume, whatever computes it."""

TILE_FEATURES = 4
"""Feature maps of a tile that torch holds at once, of 4 bytes a voxel and feature."""

STREAMED = 100 * 2**20
"""What OpenVINO takes for any network; bytes."""

PER_VOXEL_STREAMED = {"float32": 900, "int8": 420}
"""Bytes for each voxel of the output in the rows that OpenVINO computes at once; most of it is what layers keep."""

ROOF, ROOF_PER_VOXEL_OUT = 10**9, 12
"""What a volume may take by OpenVINO: so much, and three times its result in float32; bytes."""


def volume_bytes(voxels_in: int, voxels_out: int) -> int:
    """What a volume takes besides what computes it, bytes."""
    return PER_VOXEL_IN * voxels_in + PER_VOXEL_OUT * voxels_out


def tile_bytes(network: nn.Module | None, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
    """What a network takes for one tile, bytes; and for all that it proposes, where it is not one by rows.

    Args:
        network: None for the spline, which takes nothing.
        tile_voxels: voxels of the output that are asked for. A tile is never larger than the volume, and by
            torch never smaller than :func:`least_tile`.
        voxels_in, voxels_out: of the volume.
    """
    if network is None:
        return 0
    if isinstance(network, StreamedNet):
        return STREAMED + min(tile_voxels, voxels_out) * _per_voxel(network)
    tile_voxels = min(max(tile_voxels, least_tile(network, voxels_out / max(1, voxels_in))), voxels_out)
    features = max(layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv3d))
    fold = int(getattr(network, "fold", 1))  # slices that are channels within the network
    return 4 * voxels_out + tile_voxels * 4 * (TILE_FEATURES * features // fold + 4)


def usual_tile(network: nn.Module | None, *, voxels_in: int, voxels_out: int) -> int:
    """Voxels of the output to compute at once where memory is not short.

    By OpenVINO as many as keep the run under the roof, because narrower strips cost it little. By torch
    :data:`TILE_VOXELS`, because smaller tiles compute mostly halo.
    """
    if not isinstance(network, StreamedNet):
        return TILE_VOXELS
    left = ROOF + ROOF_PER_VOXEL_OUT * voxels_out - PROCESS - volume_bytes(voxels_in, voxels_out) - STREAMED
    return min(max(left // _per_voxel(network), LEAST_TILE), TILE_VOXELS)


def least_tile(network: nn.Module, factor: float) -> int:
    """Output voxels of the smallest tile that torch makes: four halos a side, see :mod:`monai_sr.engine.tiles`."""
    scale = 1
    if network.works_on == "thick":
        levels = levels_for(factor)
        (in_plane, through), scale = cast(PyramidNet, network).reach_of(levels), 2**levels
    else:
        in_plane, through = cast(ResidualNet, network).reach
    return (4 * in_plane + 1) ** 2 * (4 * through + int(getattr(network, "fold", 1))) * scale


def _per_voxel(network: StreamedNet) -> int:
    return PER_VOXEL_STREAMED["float32" if network.ranges is None else "int8"]
