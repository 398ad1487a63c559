"""Networks computed on the CPU, a few rows of a volume at a time, so that nothing is computed twice.

A tile needs a halo as wide as the reach of the network; with twenty layers, the halo of a usual tile is larger
than the tile. Here every layer keeps the last two input rows along the first in-plane axis and continues with
the next rows. This needs no halo, and memory for a few rows only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..slices import Banded
from . import Place, Progress
from .sizes import StreamedSizes
from .tiles import apply_in_rows, reach_of
from .weights import Weights, weights_of

if TYPE_CHECKING:
    from torch import nn

ROWS = 8
"""Number of rows computed at once."""


class Block(Protocol):
    """Computes a network for blocks of one size."""

    def __call__(self, part: np.ndarray, kept: list[Any], within: np.ndarray) -> np.ndarray:
        """The rows that are complete now.

        Args:
            part: (1, ROWS, Y, Z/fold, fold) the next rows of the input.
            kept: what layers keep, arrays or tensors, changed in place.
            within: (1, 1, lag + ROWS, 1, 1) 1 for rows inside the volume, 0 before and behind it.
        """

    def nothing(self) -> list[Any]:
        """What layers keep at the start."""

    def release(self) -> None:
        """Release the working memory of the layers until the next call."""


class StreamedEngine(StreamedSizes, ABC):
    """A ResidualNet or PyramidNet, computed a few rows at a time.

    Args:
        network: in eval mode on the CPU, in float32, or its weights.
        precision: of the convolutions.
    """

    device = "cpu"
    in_numpy = True

    def __init__(self, network: nn.Module | Weights, precision: str) -> None:
        super().__init__(precision)
        self.weights = weights_of(network)
        self.works_on, self.fold = self.weights.works_on, self.weights.fold

    @property
    def network(self) -> nn.Module:
        """See :class:`Engine`; made of its weights if it was not given."""
        return self.weights.module

    @abstractmethod
    def block(self, shape: tuple[int, ...], levels: int, *, lag: int, edge: bool) -> Block:
        """What computes blocks of so many rows, columns and (folded) slices; at the edge rows may be outside."""

    def prepare(self, shape: tuple[int, ...], levels: int, *, lag: int) -> None:
        """Called before the blocks of a size that has blocks at the edge and others, in that order."""

    def forget(self) -> None:
        """Free what was prepared for the widest blocks: memory ran out."""

    def reach(self, levels: int = 0) -> tuple[int, int]:
        return reach_of(self.weights, levels)

    def propose(
        self,
        slices: np.ndarray,
        along: np.ndarray,
        *,
        levels: int = 0,
        tile_voxels: int,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Place, np.ndarray]]:
        """See :meth:`Engine.propose`; strips of rows, as wide as ``tile_voxels`` allows."""
        seen = Banded(along)
        return apply_in_rows(
            lambda read, rows: self._rows_of(read, rows, levels),
            lambda place: seen(slices[place]),
            (*slices.shape[:2], len(along)),
            halo=self.reach(levels)[0],
            strip_voxels=tile_voxels // 2**levels // ROWS,
            progress=progress,
        )

    def _rows_of(self, read: Callable[[slice], np.ndarray], rows: int, levels: int) -> Iterator[np.ndarray]:
        """The output of the network for a volume, a few rows at a time, in order.

        If a volume does not change from row to row, as in air of one value, the kept rows of the layers
        become constant. Then the output is the same too and is not computed again.

        Args:
            read: returns rows of the volume, (x, Y, Z).
            rows: number of rows of the volume.
            levels: how often the network doubles the slices.

        Yields:
            (x', Y, Z') the next rows.
        """
        lag, scale = self.reach(levels)[0], 2**levels
        block, part, done, settled = None, np.empty(0), np.empty(0), False
        kept: list[Any] = []
        starts = range(0, rows + lag, ROWS)
        inner = {start for start in starts if lag <= start <= rows - ROWS}
        try:
            for start in starts:
                given = read(slice(min(start, rows), min(start + ROWS, rows)))
                before, part = part, self._part(given)
                if inner and start == 0:
                    self.prepare(tuple(part.shape[1:4]), levels, lag=lag)
                inside = start in inner
                still = inside and is_same(part, before)
                if not (still and settled):
                    last, block = block, self.block(tuple(part.shape[1:4]), levels, lag=lag, edge=not inside)
                    if last is not None and last is not block:
                        last.release()
                    kept = kept or block.nothing()
                    earlier = deepcopy(kept) if still else []
                    done = block(part, kept, _within(start - lag, lag + ROWS, rows))
                    settled = still and all(map(is_same, kept, earlier))
                first = start - lag  # the first row of the output; rows outside the volume are discarded
                made = done[0, max(0, -first) : max(0, rows - first)]
                if len(made):
                    yield made.reshape(*made.shape[:2], -1)[..., : given.shape[2] * scale]
        except RuntimeError:  # possibly out of memory, so free it for narrower strips
            self.forget()
            raise
        finally:
            if block is not None:
                block.release()

    def _part(self, rows: np.ndarray) -> np.ndarray:
        """(1, ROWS, Y, Z/fold, fold) of (x, Y, Z): neighboring slices folded, and zeros behind the rows."""
        count, columns, slices = rows.shape
        part = np.zeros((1, ROWS, columns, math.ceil(slices / self.fold) * self.fold), np.float32)
        part[0, :count, :, :slices] = rows
        part[0, :count, :, slices:] = rows[..., -1:]
        return part.reshape(1, ROWS, columns, -1, self.fold)


def is_same(first: Any, second: Any) -> bool:
    """Whether two arrays or tensors have the same shape and values."""
    return first.shape == second.shape and bool((first == second).all())


def _within(first: int, count: int, rows: int) -> np.ndarray:
    """(1, 1, count, 1, 1) 1 for rows inside the volume, 0 before and behind it."""
    index = np.arange(first, first + count)
    return ((index >= 0) & (index < rows)).astype(np.float32).reshape(1, 1, -1, 1, 1)
