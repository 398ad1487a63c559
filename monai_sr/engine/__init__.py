"""What computes a network: torch or OpenVINO, in tiles or rows, within the available memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # devices are listed without torch, whose import takes seconds
    import torch
    from torch import Tensor, nn

Place = tuple[slice, slice]
"""Rows and columns of a volume."""

Progress = Callable[[float], None]
"""Called with the fraction of the work that is done, 0..1."""


class Engine(Protocol):
    """What computes the proposal for a volume. Nobody outside this room asks which one it is."""

    @property
    def name(self) -> str:
        """As ``--engine`` names it; empty for the spline, which has no network."""

    @property
    def precision(self) -> str:
        """What the convolutions are computed in; the image and its sums are in float32. Empty for the spline."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    @property
    def network(self) -> nn.Module | None:
        """The network itself, in float32; None for the spline."""

    @property
    def works_on(self) -> str:
        """The slices that it takes: "thin", interpolated to the wanted grid, or "thick", as acquired."""

    def reach(self, levels: int = 0) -> tuple[int, int]:
        """Voxels that an output voxel sees to each side: in plane, and slices of the input through plane."""

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        """What one tile takes, bytes, and all of the proposal where it is held whole.

        Args:
            tile_voxels: voxels of the output that are asked for.
            voxels_in, voxels_out: of the volume.
        """

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        """Voxels of the output to compute at once where memory is not short."""

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        """Tiles to try for a volume, in voxels of the output: the usual one, then smaller ones."""

    def propose(
        self, slices: Tensor, along: Tensor, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
        """The slices that the network makes of ``along`` applied to the acquired ones.

        Args:
            slices: (X, Y, m) acquired, canonical and normalized.
            along: (Z, m) matrix from the acquired slices to those that the network takes.
            levels: how often the network doubles the slices.
            tile_voxels: output voxels computed at once; the result does not depend on it.
            progress: called with the fraction that is done.

        Yields:
            Some rows and columns, and their proposal (x, y, Z·2^levels).
        """
