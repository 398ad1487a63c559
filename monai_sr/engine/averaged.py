"""The mean of what a network proposes for a volume and its mirror images: more accurate, at four times the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..intensities import Voxels, beside, library_of
from . import Engine, Place, Progress
from .sizes import MIRRORS, AveragedSizes
from .tiles import blocks_of_rows

if TYPE_CHECKING:
    from torch import nn


class AveragedEngine(AveragedSizes):
    """Another engine, asked for the volume and its three in-plane mirror images.

    A network was trained on mirrored crops as often as on others, so its errors on them differ by chance and partly
    cancel in the mean.

    Args:
        engine: what computes the network.

    Source: Timofte 2016, "Seven ways to improve example-based single image super resolution", section 3.7.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.engine, self.works_on, self.in_numpy = engine, engine.works_on, engine.in_numpy

    @property
    def device(self) -> str:
        """See :class:`Engine`."""
        return self.engine.device

    @property
    def network(self) -> nn.Module | None:
        """See :class:`Engine`."""
        return self.engine.network

    def with_network(self, network: nn.Module) -> AveragedEngine:
        """See :meth:`Engine.with_network`."""
        return AveragedEngine(self.engine.with_network(network))

    def reach(self, levels: int = 0) -> tuple[int, int]:
        """See :meth:`Engine.reach`."""
        return self.engine.reach(levels)

    def propose(
        self, slices: Voxels, along: np.ndarray, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Voxels]]:
        """See :meth:`Engine.propose`; blocks of rows, when all mirror images are done."""
        flip = library_of(slices).flip
        mean = beside(np.zeros((*slices.shape[:2], len(along) * 2**levels), np.float32), slices)
        options: dict[str, Any] = {"levels": levels, "tile_voxels": tile_voxels}
        for done, axes in enumerate(MIRRORS):
            seen, into = flip(slices, axes), flip(mean, axes)
            for place, part in self.engine.propose(seen, along, **options):
                into[place] += part / len(MIRRORS)
            mean = flip(into, axes)
            if progress:
                progress((done + 1) / len(MIRRORS))
        yield from ((place, mean[place]) for place in blocks_of_rows(mean))
