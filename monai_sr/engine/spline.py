"""The consistent spline, which needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..grid import blocks
from ..slices import Banded
from . import Place, Progress
from .sizes import SplineSizes

if TYPE_CHECKING:
    from torch import nn


class SplineEngine(SplineSizes):
    """No network: the proposal is the consistent spline itself."""

    works_on = "thin"
    in_numpy = True
    network = None
    device = "cpu"

    def with_network(self, network: nn.Module) -> SplineEngine:
        """It has no network."""
        return self

    def reach(self, levels: int = 0) -> tuple[int, int]:
        """Nothing beyond the voxel."""
        return 0, 0

    def propose(
        self,
        slices: np.ndarray,
        along: np.ndarray,
        *,
        levels: int = 0,
        tile_voxels: int,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Place, np.ndarray]]:
        """See :meth:`Engine.propose`; blocks of rows, whatever ``tile_voxels``."""
        spline = Banded(along)
        for rows in blocks(len(slices), slices.shape[1] * len(along)):
            yield (rows, slice(None)), spline(slices[rows])
