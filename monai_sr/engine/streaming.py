"""Networks computed on the CPU, a few rows of a volume at a time, so that nothing is computed twice.

A tile needs a halo as wide as the reach of the network; with twenty layers, the halo of a usual tile is larger
than the tile. Here every layer keeps the last two input rows along the first in-plane axis and continues with
the next rows. This needs no halo, and memory for a few rows only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..networks import PyramidNet, ResidualNet
from ..slices import Banded
from . import Place, Progress
from .sizes import StreamedSizes
from .tiles import apply_in_rows, reach_of

ROWS = 8
"""Number of rows computed at once."""


class Block(Protocol):
    """Computes a network for blocks of one size."""

    def __call__(self, part: Tensor, kept: list[Tensor], within: Tensor) -> Tensor:
        """The rows that are complete now.

        Args:
            part: (1, ROWS, Y, Z/fold, fold) the next rows of the input.
            kept: what layers keep, changed in place.
            within: (1, 1, lag + ROWS, 1, 1) 1 for rows inside the volume, 0 before and behind it.
        """

    def nothing(self) -> list[Tensor]:
        """What layers keep at the start."""

    def release(self) -> None:
        """Release the working memory of the layers until the next call."""


class StreamedEngine(StreamedSizes, ABC):
    """A ResidualNet or PyramidNet, computed a few rows at a time.

    Args:
        network: in eval mode on the CPU, in float32.
        precision: of the convolutions.
    """

    device = torch.device("cpu")
    in_numpy = False

    def __init__(self, network: ResidualNet | PyramidNet, precision: str) -> None:
        super().__init__(precision)
        self.network = network
        self.works_on, self.fold = str(network.works_on), int(getattr(network, "fold", 1))

    @abstractmethod
    def block(self, shape: tuple[int, ...], levels: int, *, lag: int, edge: bool) -> Block:
        """What computes blocks of so many rows, columns and (folded) slices; at the edge rows may be outside."""

    def prepare(self, shape: tuple[int, ...], levels: int, *, lag: int) -> None:
        """Called before the blocks of a size that has blocks at the edge and others, in that order."""

    def forget(self) -> None:
        """Free what was prepared for the widest blocks: memory ran out."""

    def reach(self, levels: int = 0) -> tuple[int, int]:
        return reach_of(self.network, levels)

    def propose(
        self, slices: Tensor, along: Tensor, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
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

    def _rows_of(self, read: Callable[[slice], Tensor], rows: int, levels: int) -> Iterator[Tensor]:
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
        block, part, done, settled = None, torch.empty(0), torch.empty(0), False
        kept: list[Tensor] = []
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
                    earlier = [rows_kept.clone() for rows_kept in kept] if still else []
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

    def _part(self, rows: Tensor) -> Tensor:
        """(1, ROWS, Y, Z/fold, fold) of (x, Y, Z): neighboring slices folded, and zeros behind the rows."""
        count, columns, slices = rows.shape
        part = torch.zeros(1, ROWS, columns, math.ceil(slices / self.fold) * self.fold)
        part[0, :count, :, :slices] = rows
        part[0, :count, :, slices:] = rows[..., -1:]
        return part.reshape(1, ROWS, columns, -1, self.fold)


def is_same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape and values."""
    return torch.equal(first, second)


def _within(first: int, count: int, rows: int) -> Tensor:
    """(1, 1, count, 1, 1) 1 for rows inside the volume, 0 before and behind it."""
    index = torch.arange(first, first + count)
    return ((index >= 0) & (index < rows)).float().reshape(1, 1, -1, 1, 1)
