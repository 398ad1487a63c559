"""Names, tiles and memory of engines, so far as they need no torch: a dry run plans with them."""

from __future__ import annotations

from . import Sizes
from .memory import PROCESS, TILE_LADDER, TILE_VOXELS, volume_bytes

MIRRORS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
"""In-plane axes that are reversed in the images whose results are averaged."""

HALVES = "float16", "bfloat16"
"""Precisions of 16 bits."""

TRAINING_BYTES = 700 * 2**20
"""Memory of a training on one volume; both networks take less."""

STREAMED = 100 * 2**20
"""Memory for any network, bytes; see :mod:`.memory`."""

PER_VOXEL_STREAMED = {"float32": 900, "bfloat16": 600, "int8": 450}
"""Bytes per output voxel of the rows that are computed at once; most of it for rows that layers keep."""

ROOF, ROOF_PER_VOXEL_OUT = 10**9, 12
"""Maximum memory of a volume: a constant, and three times its result in float32; bytes."""


class SplineSizes:
    """Of the consistent spline, which has no network."""

    name = precision = ""

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        """Nothing besides the volume."""
        return 0

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        return TILE_VOXELS

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        """One size: memory does not depend on it."""
        return [min(TILE_VOXELS, max(voxels_out, TILE_LADDER[-1]))]


class StreamedSizes:
    """Of a network computed on the CPU a few rows at a time, by OpenVINO unless a subclass names another engine.

    Args:
        precision: "float32", "bfloat16" or "int8".
    """

    name = "openvino"

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        return STREAMED + min(tile_voxels, voxels_out) * PER_VOXEL_STREAMED[self.precision]

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        """The largest number of voxels below the maximum memory; narrower strips cost little."""
        left = ROOF + ROOF_PER_VOXEL_OUT * voxels_out - PROCESS - volume_bytes(voxels_in, voxels_out) - STREAMED
        return min(max(left // PER_VOXEL_STREAMED[self.precision], TILE_LADDER[-1]), TILE_VOXELS)

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        largest = min(self.usual_tile(voxels_in=voxels_in, voxels_out=voxels_out), voxels_out)
        return [largest // n for n in (1, 2, 4, 8, 16)]


class TorchRowsSizes(StreamedSizes):
    """The same by torch."""

    name = "torch"


class AveragedSizes:
    """Of the mean over mirror images; name, precision and tiles are those of the engine that computes each.

    Args:
        engine: which.
    """

    def __init__(self, engine: Sizes) -> None:
        self.of_one_pass = engine
        self.name, self.precision = engine.name, engine.precision

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        """Also the sum, its mirror image, and mirrored slices, in float32."""
        of_one_pass = self.of_one_pass.tile_bytes(tile_voxels, voxels_in=voxels_in, voxels_out=voxels_out)
        return of_one_pass + 4 * (voxels_in + 2 * voxels_out)

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        return self.of_one_pass.usual_tile(voxels_in=voxels_in, voxels_out=voxels_out)

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        return self.of_one_pass.tile_sizes(voxels_in=voxels_in, voxels_out=voxels_out)
