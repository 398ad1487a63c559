"""A network over a volume of any size: tiles with a halo as wide as the reach of the network, then cropped.

Every output voxel depends on the same voxels as in the whole volume. So tiled equals untiled up to float
rounding, and nothing is blended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Later
from ..grid import blocks
from ..intensities import Voxels
from ..slices import apply_along
from . import Place

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .weights import Weights
else:
    torch = Later("torch")


@dataclass(frozen=True)
class Tile:
    """A part of a volume: what is kept (``core``) and what is computed for it (``padded``)."""

    core: tuple[slice, ...]
    padded: tuple[slice, ...]

    @property
    def crop(self) -> tuple[slice, ...]:
        """The core within the padded part."""
        return tuple(slice(c.start - p.start, c.stop - p.start) for c, p in zip(self.core, self.padded, strict=True))


def reach_of(network: nn.Module | Weights, levels: int) -> tuple[int, int]:
    """Voxels that an output voxel of a network sees to each side, in plane and through plane."""
    return network.reach_of(levels) if levels else network.reach  # type: ignore[operator, return-value, union-attr]


def blocks_of_rows(voxels: Voxels) -> Iterator[Place]:
    """(X, Y, Z) in blocks of rows."""
    return ((rows, slice(None)) for rows in blocks(len(voxels), math.prod(voxels.shape[1:])))


def plan_tiles(shape: tuple[int, ...], halo: tuple[int, ...], *, voxels: int, align: tuple[int, ...]) -> list[Tile]:
    """The cheapest cut of ``shape`` whose tiles, halo included, have at most ``voxels`` voxels.

    Args:
        shape: voxels along each axis.
        halo: voxels needed beyond a tile to each side.
        voxels: largest tile. Smaller cores than halos would compute mostly halo, so tiles of four halos
            a side are made even if they are larger.
        align: tiles and halos start at multiples of this along each axis.
    """
    halo = tuple(math.ceil(h / a) * a for h, a in zip(halo, align, strict=True))
    most = max(voxels, math.prod(min(n, 4 * h + a) for n, h, a in zip(shape, halo, align, strict=True)))
    best: tuple[int, tuple[int, ...]] | None = None
    for steps in _cuts(shape, halo, align):
        sizes = [min(s + 2 * h, n) for s, h, n in zip(steps, halo, shape, strict=True)]
        work = math.prod(math.ceil(n / s) * p for n, s, p in zip(shape, steps, sizes, strict=True))
        if math.prod(sizes) <= most and (best is None or work < best[0]):
            best = work, steps
    assert best is not None
    return list(_grid_of_tiles(shape, best[1], halo))


def apply_in_tiles(
    network: Callable[[Tensor], Tensor],
    voxels: Tensor,
    *,
    along: np.ndarray | None = None,
    halo: tuple[int, int, int],
    align: int = 1,
    scale: int = 1,
    tile_voxels: int,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """``network`` over (X, Y, Z) in tiles.

    Args:
        network: (1, 1, x, y, z) to (1, 1, x, y, z·scale).
        voxels: (X, Y, Z) normalized; the result is on its device.
        along: (Z, m) matrix applied to ``voxels`` (X, Y, m), one tile at a time, before the network.
        halo: reach of the network to each side, in voxels of the input.
        align: tiles start at multiples of this along Z.
        scale: output slices per input slice.
        tile_voxels: largest tile, in voxels of the output.
        progress: called with the fraction that is done.
    """
    shape = (*voxels.shape[:2], voxels.shape[2] if along is None else len(along))
    result = torch.empty(*shape[:2], shape[2] * scale, dtype=voxels.dtype, device=voxels.device)
    tiles = plan_tiles(shape, halo, voxels=max(1, tile_voxels // scale), align=(1, 1, align))
    for done, tile in enumerate(tiles, start=1):
        part = voxels[tile.padded] if along is None else apply_along(along[tile.padded[2]], voxels[tile.padded[:2]])
        output = network(part[None, None].contiguous(memory_format=torch.channels_last_3d))[0, 0]
        result[_scaled(tile.core, scale)] = output[_scaled(tile.crop, scale)]
        if progress:
            progress(done / len(tiles))
    return result


def apply_in_rows(
    rows_of: Callable[[Callable[[slice], np.ndarray], int], Iterator[np.ndarray]],
    read: Callable[[Place], np.ndarray],
    shape: tuple[int, ...],
    *,
    halo: int,
    strip_voxels: int,
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[Place, np.ndarray]]:
    """A network that takes a few rows at a time over (X, Y, Z) in strips along Y: X is not cut and needs no halo.

    Args:
        rows_of: see :class:`monai_sr.engine.openvino.OpenVinoEngine`.
        read: returns the input of the network for rows and columns, (x, y, Z).
        shape: (X, Y, Z).
        halo: reach of the network to each side along Y.
        strip_voxels: maximum voxels of a row of a strip, with its halo. A strip has at least two halos and
            their halo.
        progress: called with the fraction that is done.

    Yields:
        Rows and columns, and the output of the network for them: (x, y, Z').
    """
    length, width, slices = shape
    most = max(strip_voxels // slices, 4 * halo)
    step = width if width <= most else most - 2 * halo
    step = math.ceil(width / math.ceil(width / step))  # all nearly alike
    for start in range(0, width, step):
        stop = min(start + step, width)
        columns = slice(max(0, start - halo), min(width, stop + halo))
        done = 0
        for made in rows_of(lambda rows, columns=columns: read((rows, columns)), length):  # type: ignore[misc]
            place = slice(done, done + len(made)), slice(start, stop)
            yield place, made[:, start - columns.start : stop - columns.start]
            done += len(made)
            if progress:
                progress((start + (stop - start) * done / length) / width)


def _cuts(
    shape: tuple[int, ...], halo: tuple[int, ...], align: tuple[int, ...], most: int = 40
) -> Iterator[tuple[int, ...]]:
    """Aligned tile sizes to try: each axis cut into 1, 2, … equal parts, or the smallest size."""
    choices = []
    for n, h, a in zip(shape, halo, align, strict=True):
        equal = {math.ceil(math.ceil(n / parts) / a) * a for parts in range(1, min(most, n) + 1)}
        # forty parts of a long axis can still be too large; this one never is
        choices.append(sorted(equal | {2 * h + a}))
    return (
        (x, y, z) for x in choices[0] for y in choices[1] for z in choices[2]
    )  # a few thousand: milliseconds beside any network


def _grid_of_tiles(shape: tuple[int, ...], steps: tuple[int, ...], halo: tuple[int, ...]) -> Iterator[Tile]:
    starts = [range(0, n, s) for n, s in zip(shape, steps, strict=True)]
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                core = tuple(slice(i, min(i + s, n)) for i, s, n in zip((x, y, z), steps, shape, strict=True))
                padded = tuple(
                    slice(max(0, c.start - h), min(n, c.stop + h)) for c, h, n in zip(core, halo, shape, strict=True)
                )
                yield Tile(core, padded)


def _scaled(part: tuple[slice, ...], scale: int) -> tuple[slice, ...]:
    """A part of the input as one of the output, which has ``scale`` times the slices."""
    return (*part[:2], slice(part[2].start * scale, part[2].stop * scale))
