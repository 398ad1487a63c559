"""What computes a network: torch or OpenVINO, in tiles or rows, within the available memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # devices are listed without numpy and torch
    import numpy as np
    from torch import nn

Place = tuple[slice, slice]
"""Rows and columns of a volume."""

Progress = Callable[[float], None]
"""Called with the fraction of the work that is done, 0..1."""


def part_of(progress: Progress | None, start: float, length: float) -> Progress | None:
    """The progress of a part of the work, which begins at ``start`` and is ``length`` of the whole."""
    return None if progress is None else lambda done: progress(start + length * done)


def one_of(progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of several equal pieces of work."""
    return lambda done: progress((index + done) / count)


class Sizes(Protocol):
    """What is known of an engine without a network: its name, its tiles, and the memory they take."""

    @property
    def name(self) -> str:
        """As ``--engine`` names it; empty for the spline, which has no network."""

    @property
    def precision(self) -> str:
        """What the convolutions are computed in; the image and its sums are in float32. Empty for the spline."""

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        """Memory of one tile, bytes; also of the whole proposal if the engine keeps it.

        Args:
            tile_voxels: wanted output voxels of a tile.
            voxels_in, voxels_out: of the volume.
        """

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        """Output voxels to compute at once if there is enough memory."""

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        """Tiles to try for a volume, in output voxels, the largest first."""


class Engine(Sizes, Protocol):
    """Computes the proposal for a volume. Code outside this room does not depend on which engine it is."""

    @property
    def device(self) -> str:
        """Where the network is, as torch names it."""

    @property
    def network(self) -> nn.Module | None:
        """The network itself, in float32; None for the spline."""

    @property
    def in_numpy(self) -> bool:
        """Whether :meth:`propose` takes and makes arrays; else tensors on the device of the image."""

    @property
    def works_on(self) -> str:
        """The slices of its input: "thin", interpolated to the wanted grid, or "thick", as acquired."""

    def with_network(self, network: nn.Module) -> Engine:
        """The same for a network of the same form with other weights."""

    def reach(self, levels: int = 0) -> tuple[int, int]:
        """Distance of the farthest input voxel that an output voxel uses: in plane, and in slices of the input."""

    def propose(
        self, slices: Any, along: np.ndarray, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Any]]:
        """The output of the network, computed from the acquired slices in parts.

        Args:
            slices: (X, Y, m) acquired, canonical and normalized.
            along: (Z, m) matrix from the acquired slices to the input of the network.
            levels: how often the network doubles the slices.
            tile_voxels: output voxels computed at once; the result does not depend on it.
            progress: called with the fraction that is done.

        Yields:
            Rows and columns of a part, and its proposal (x, y, Z·2^levels).
        """
