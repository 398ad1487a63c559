"""How a stack sees the common grid: ``A T x``, its adjoint, and volumes resampled between grids.

Along the slices the weights are those of :func:`monai_sr.slices.profile_matrix`. Where a stack is parallel to the
grid, every axis has a matrix of its own and nothing is approximated. Where it is oblique, the grid is sampled
linearly on lines through the pixels of the stack and the profile is applied along these lines. No matrix of the
whole is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from ..grid import Grid, positions_on
from ..slices import apply_along, interpolation_matrix, profile_matrix
from ..trust.alignment import PARALLEL, in_plane_matrix, turn_grid
from .stacks import Stack

TAIL = 1.5
"""Slice thicknesses: how far beyond its center a slice collects signal (a Gaussian all but 4e-4)."""

LINEAR = 2 / 3
"""Sum of the squared weights of a linear interpolation, the mean over all places between two voxels."""

SLAB_POINTS = 2**21
"""Points sampled at once along oblique lines; see the memory plan."""

EDGE = 1e-3
"""Voxels; a center beyond the edge of the grid by less is inside."""


def operator_of(stack: Stack, grid: Grid) -> StackOperator:
    """The operator between the common grid and a stack where it was moved to."""
    parallel = _turned(grid, stack.grid)
    return ObliqueOperator(stack, grid) if parallel is None else ParallelOperator(stack, *parallel)


class StackOperator:
    """``A T``: (X, Y, Z) of the common grid to the voxels of a stack, and the adjoint.

    Attributes:
        seen: (X, Y, Z) bool of the stack: measured, and its center is inside the common grid.
        squares: (X, Y, Z), or of length 1 where alike: the sum of the squared weights of a voxel of the stack.
    """

    seen: Tensor
    squares: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The stack's voxels as acquired from ``x``; meaningless where not :attr:`seen`."""
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose, for voxels that are 0 where not :attr:`seen`."""
        raise NotImplementedError


class ParallelOperator(StackOperator):
    """One matrix along each axis; exact.

    Args:
        stack: where it was moved to.
        there: the common grid with the axes of the stack.
        order, flips: how to turn its voxels, see :func:`monai_sr.trust.alignment.turn_grid`.
    """

    def __init__(self, stack: Stack, there: Grid, order: list[int], flips: list[int]) -> None:
        self._order, self._flips = order, flips
        acquired, grid, axis = stack.acquired, stack.grid, stack.acquired.axis
        inside = np.ones(grid.shape, dtype=bool)
        self._matrices: list[Tensor | None] = [None, None, None]
        for a in range(3):
            ours, theirs = positions_on(grid, a, grid), positions_on(there, a, grid)
            ours = acquired.positions_from_first if a == axis else ours
            within = _are_within(ours, theirs, there.spacing[a])
            inside &= np.expand_dims(within, tuple({0, 1, 2} - {a}))
            if a != axis:
                in_plane, _ = in_plane_matrix(grid, there, a)
                self._matrices[a] = None if in_plane is None else torch.from_numpy(in_plane)
                continue
            matrix = torch.zeros(len(ours), len(theirs), dtype=torch.float64)
            if within.any():
                thickness = np.broadcast_to(acquired.slice_thickness, ours.shape)[within]
                matrix[torch.from_numpy(within)] = profile_matrix(
                    theirs, ours[within], slice_thickness=thickness, profile=acquired.slice_profile
                )
            self._matrices[a] = matrix
        self._axes = [axis, *(a for a in range(3) if a != axis)]  # the slice axis first: fewer voxels remain
        self.squares = torch.ones(1, 1, 1)
        for a, weights in enumerate(self._matrices):
            if weights is not None:
                rows = weights.square().sum(dim=1).float()
                self.squares = self.squares * rows.reshape([-1 if b == a else 1 for b in range(3)])
        self.seen = stack.known & torch.from_numpy(inside)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(self._order).flip(self._flips)
        for a in self._axes:
            matrix = self._matrices[a]
            x = x if matrix is None else apply_along(matrix, x, a)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for a in reversed(self._axes):
            matrix = self._matrices[a]
            y = y if matrix is None else apply_along(matrix.T, y, a)
        return y.flip(self._flips).permute(list(np.argsort(self._order)))


@dataclass(frozen=True)
class _Slab:
    """Rows of a stack, the part of the grid around them, and where their points lie in it, (parts, ..., 3)."""

    rows: slice
    box: tuple[slice, slice, slice]
    points: Tensor


class ObliqueOperator(StackOperator):
    """Lines through the pixels, sampled linearly on the grid, and the slice profile along them.

    Args:
        stack: where it was moved to.
        grid: the common grid.
    """

    def __init__(self, stack: Stack, grid: Grid) -> None:
        acquired, axis = stack.acquired, stack.acquired.axis
        self._order = [*(a for a in range(3) if a != axis), axis]
        offsets, step = acquired.positions_from_first, min(grid.spacing)
        thickness = np.broadcast_to(acquired.slice_thickness, offsets.shape)
        tail = TAIL * float(thickness.max())
        count = int(np.ceil((offsets[-1] - offsets[0] + 2 * tail) / step)) + 1
        fine = (offsets[0] + offsets[-1]) / 2 + (np.arange(count) - (count - 1) / 2) * step
        self._profile = profile_matrix(fine, offsets, slice_thickness=thickness, profile=acquired.slice_profile).float()
        inverse, affine = np.linalg.inv(grid.affine), stack.grid.affine
        along = affine[:3, axis] / stack.grid.spacing[axis]
        columns = [affine[:3, self._order[0]], affine[:3, self._order[1]], along * step]
        self._steps = inverse[:3, :3] @ np.stack(columns, axis=1)  # grid indices for a step along each
        self._first = inverse[:3, :3] @ (affine[:3, 3] + along * fine[0]) + inverse[:3, 3]
        self._counts = (*(stack.grid.shape[a] for a in self._order[:2]), count)
        self._grid = grid
        slices = (offsets - fine[0]) / step
        inside = self._are_inside(slices)
        self.seen = stack.known & inside.permute(list(np.argsort(self._order)))
        rows = LINEAR**2 * self._profile.square().sum(dim=1)
        self.squares = rows.reshape([-1 if a == axis else 1 for a in range(3)])

    def _are_inside(self, slices: np.ndarray) -> Tensor:
        """(rows, columns, m) whether centers of voxels are inside the grid."""
        inside = torch.ones(*self._counts[:2], len(slices), dtype=torch.bool)
        for a, size in enumerate(self._grid.shape):
            parts = [self._steps[a, k] * np.arange(self._counts[k]) for k in (0, 1)]
            place = (
                self._first[a]
                + parts[0][:, None, None]
                + parts[1][None, :, None]
                + (self._steps[a, 2] * slices)[None, None]
            )
            inside &= torch.from_numpy((place >= -0.5 - EDGE) & (place <= size - 0.5 + EDGE))
        return inside

    def _slabs(self) -> Iterator[_Slab]:
        """The fine lines in slabs of rows, each with the part of the grid that it touches; those outside left out."""
        rows, columns, count = self._counts
        step = max(1, SLAB_POINTS // (columns * count))
        size = np.array(self._grid.shape)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            ends = np.array([(r, c, k) for r in (start, stop - 1) for c in (0, columns - 1) for k in (0, count - 1)])
            places = ends @ self._steps.T + self._first
            low = np.clip(np.floor(places.min(axis=0)).astype(int) - 1, 0, size - 2)
            high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 2, low + 2, size)
            if (places.max(axis=0) < -1).any() or (places.min(axis=0) > size).any():
                continue
            x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            scale = 2 / (high - low - 1)  # to -1..1, the last axis first, as grid_sample counts
            first = ((self._first + self._steps[:, 0] * start - low) * scale - 1)[::-1].copy()
            steps = torch.from_numpy((self._steps * scale[:, None])[::-1].copy()).float()
            lines = [torch.arange(n, dtype=torch.float32) for n in (stop - start, columns, count)]
            points = (
                torch.from_numpy(first).float()
                + lines[0][:, None, None, None] * steps[:, 0]
                + lines[1][:, None, None] * steps[:, 1]
                + lines[2][:, None] * steps[:, 2]
            )
            # torch samples the items of a batch in parallel
            part = 2 if points.shape[0] % 2 == 0 and torch.get_num_threads() > 1 else 1
            yield _Slab(slice(start, stop), (x, y, z), points.reshape(part, -1, *points.shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        made = torch.zeros(*self._counts[:2], len(self._profile))
        for slab in self._slabs():
            made[slab.rows] = self._seen_in(slab, x)
        return made.permute(list(np.argsort(self._order)))

    def adjoint(self, y: Tensor) -> Tensor:
        x, y = torch.zeros(self._grid.shape), y.permute(self._order)
        for slab in self._slabs():
            self._spread(slab, y[slab.rows], x)
        return x

    def _seen_in(self, slab: _Slab, x: Tensor) -> Tensor:
        """(rows, columns, m) of the stack as acquired from ``x``."""
        box = x[slab.box].expand(len(slab.points), 1, -1, -1, -1)
        lines = functional.grid_sample(box, slab.points, padding_mode="border", align_corners=True)
        return lines.reshape(-1, self._counts[1], self._counts[2]) @ self._profile.T

    def _spread(self, slab: _Slab, y: Tensor, x: Tensor) -> None:
        """Add the transpose of rows of the stack to ``x``."""
        box = x[slab.box].expand(len(slab.points), 1, -1, -1, -1)
        lines = (y @ self._profile).reshape(len(slab.points), 1, *slab.points.shape[1:-1])
        gradient = torch.ops.aten.grid_sampler_3d_backward(lines, box, slab.points, 0, 1, True, [True, False])[0]
        for part in gradient:
            x[slab.box] += part[0]


def _are_within(places: np.ndarray, centers: np.ndarray, spacing: float) -> np.ndarray:
    """Which places lie in the voxels of these centers."""
    reach = spacing * (0.5 + EDGE)
    return (places >= centers[0] - reach) & (places <= centers[-1] + reach)


def _turned(there: Grid, like: Grid) -> tuple[Grid, list[int], list[int]] | None:
    """A grid with its axes in the order and direction of another; None if they are not parallel."""
    return turn_grid(there, like, tolerance=PARALLEL * min(*there.spacing, *like.spacing))


def resample(voxels: Tensor, source: Grid, target: Grid, *, degree: Literal[1, 3] = 3) -> tuple[Tensor, Tensor]:
    """A volume on another grid by cubic interpolation (degree 3), or linear (degree 1).

    Args:
        voxels: (X, Y, Z) on ``source``.
        source: as moved.
        target: where to.

    Returns:
        (X', Y', Z') values, held beyond the source, and a mask of the voxels inside it.
    """
    parallel = _turned(source, target)
    if parallel is None:
        return _resample_oblique(voxels, source, target, degree)
    there, order, flips = parallel
    voxels = voxels.permute(order).flip(flips)
    inside = torch.ones(target.shape, dtype=torch.bool)
    for a in range(3):
        ours, theirs = positions_on(target, a, target), positions_on(there, a, target)
        within = torch.from_numpy(_are_within(ours, theirs, there.spacing[a]))
        inside &= within.reshape([-1 if b == a else 1 for b in range(3)])
        if len(ours) != len(theirs) or np.abs(ours - theirs).max() > EDGE * target.spacing[a]:
            places, index = np.unique(np.clip(ours, theirs[0], theirs[-1]), return_inverse=True)
            voxels = apply_along(interpolation_matrix(theirs, places, order=degree)[index], voxels, a)
    return voxels.clone(), inside


def is_known(known: Tensor, source: Grid, target: Grid) -> Tensor:
    """A mask on another grid: the voxels around are known; those beyond the source count as the ones at its edge."""
    if bool(known.all()):
        return torch.ones(target.shape, dtype=torch.bool)
    return resample(known.float(), source, target, degree=1)[0] > 0.5


def _resample_oblique(voxels: Tensor, source: Grid, target: Grid, degree: int) -> tuple[Tensor, Tensor]:
    matrix = np.linalg.inv(source.affine) @ target.affine
    made = ndimage.affine_transform(
        voxels.numpy(), matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=degree, mode="nearest"
    )
    inside = torch.ones(target.shape, dtype=torch.bool)
    for a, size in enumerate(source.shape):
        lines = [matrix[a, k] * torch.arange(n) for k, n in enumerate(target.shape)]
        place = matrix[a, 3] + lines[0][:, None, None] + lines[1][:, None] + lines[2]
        inside &= (place >= -0.5 - EDGE) & (place <= size - 0.5 + EDGE)
    return torch.from_numpy(made), inside
