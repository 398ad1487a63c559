"""A stack of thick slices on its way into one volume: where it lies, and the grid that all stacks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ..acquired import Acquired
from ..errors import ImageError, UsageError
from ..grid import Grid
from .options import Field

SAME_PLANE = 20.0
"""Degrees; stacks whose slices are closer to parallel than this add little resolution to each other."""


@dataclass(frozen=True, eq=False)
class Stack:
    """One stack and where it was moved to.

    Attributes:
        acquired: the volume as acquired, of one channel.
        name: in messages and records.
        motion: (4, 4) rigid, RAS+ mm of this stack to RAS+ mm of the first stack.
        voxels: (X, Y, Z) in the intensities of the first stack; voxels outside the scan are air.
        known: (X, Y, Z) measured voxels: no padding, and no NaN that was filled.
    """

    acquired: Acquired
    name: str
    voxels: Tensor
    known: Tensor
    motion: np.ndarray = field(default_factory=lambda: np.eye(4))

    @classmethod
    def of(cls, acquired: Acquired, name: str) -> Stack:
        """A stack where its header puts it.

        Raises:
            UsageError: several channels.
            ImageError: fewer than three slices.
        """
        if len(acquired.voxels) != 1:
            raise UsageError("E-IMG-4D", f"{len(acquired.voxels)} volumes in one stack", fix="choose one (--volume)")
        acquired.check_slices()
        voxels = acquired.voxels[0].float().cpu()
        known = torch.ones_like(voxels, dtype=torch.bool)
        if acquired.missing is not None:
            known &= ~torch.as_tensor(acquired.missing[0]).cpu()
        outside = acquired.outside(voxels, 0)
        if outside is not None:
            known &= ~outside
            voxels = torch.where(outside, acquired.air(0), voxels)
        return cls(acquired, name, voxels, known)

    @property
    def grid(self) -> Grid:
        """The acquired grid where it was moved to."""
        return self.moved(self.acquired.grid)

    def moved(self, grid: Grid) -> Grid:
        """A grid of this stack, such as that of its result, where it was moved to."""
        return Grid(grid.shape, self.motion @ grid.affine)

    def by(self, motion: np.ndarray) -> Stack:
        """The stack moved so far in all."""
        return replace(self, motion=motion)

    @property
    def in_plane_spacing(self) -> float:
        """The finer one, mm."""
        return min(s for a, s in enumerate(self.acquired.grid.spacing) if a != self.acquired.axis)

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector across the slices."""
        axis = self.acquired.axis
        return self.grid.affine[:3, axis] / self.grid.spacing[axis]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise, from differences within the slices.

        The median of second differences along both in-plane axes: edges are few, so it is that of flat regions.

        Source: Immerkaer 1996, "Fast noise variance estimation".
        """
        voxels, known = self.voxels, self.known
        for axis in (a for a in range(3) if a != self.acquired.axis):
            n = voxels.shape[axis]
            if n < 3:
                return 0.0
            parts = [voxels.narrow(axis, k, n - 2) for k in range(3)]
            masks = [known.narrow(axis, k, n - 2) for k in range(3)]
            voxels, known = parts[0] - 2 * parts[1] + parts[2], masks[0] & masks[1] & masks[2]
        sizes = voxels[known].abs()
        sizes = sizes[sizes > 0]  # of the background that a scanner has set to 0
        return float(sizes.median()) / 0.6745 / 6 if len(sizes) else 0.0

    @property
    def corners(self) -> np.ndarray:
        """(8, 3) corners of the covered box, to the edges of its voxels, RAS+ mm."""
        ends = [(-0.5, n - 0.5) for n in self.grid.shape]
        points = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]])
        return (points @ self.grid.affine.T)[:, :3]


def common_grid(stacks: Sequence[Stack], *, spacing: float | None = None, field: Field = "union") -> Grid:
    """The isotropic grid along the axes of the first stack, whose voxel centers it keeps where the spacing allows.

    Args:
        stacks: the first gives the axes.
        spacing: mm. Default: the finest in-plane spacing of all.
        field: what it covers. Oblique stacks count with the box around them.

    Raises:
        UsageError: the spacing is not positive, or there is no such field.
        ImageError: the stacks have no common region (E-FUSE-OVERLAP), for "intersection".
    """
    if field not in get_args(Field):
        raise UsageError("E-USE", f"field {field!r} was asked for", fix=f"give one of {', '.join(get_args(Field))}")
    step = min(stack.in_plane_spacing for stack in stacks) if spacing is None else spacing
    grid = stacks[0].grid
    for axis in range(3):
        if abs(grid.spacing[axis] - step) > 1e-6 * step:
            grid = grid.respaced(axis, step)
    inverse = np.linalg.inv(grid.affine)
    boxes = [stack.corners @ inverse[:3, :3].T + inverse[:3, 3] for stack in stacks]
    low, high = (np.array([reduce(box, axis=0) for box in boxes]) for reduce in (np.min, np.max))
    if field == "union":
        first, last = low.min(axis=0), high.max(axis=0)
    elif field == "intersection":
        first, last = low.max(axis=0), high.min(axis=0)
    else:
        first, last = low[0], high[0]
    # to whole voxels; one whose center is outside by less than the rounding counts
    start, stop = np.ceil(first - 1e-3).astype(int), np.floor(last + 1e-3).astype(int) + 1
    if (stop - start < 2).any():
        raise no_overlap("the stacks have no common region")
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    shape = stop - start
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def are_parallel(normals: Sequence[np.ndarray]) -> bool:
    """Whether all stacks have their slices in the same plane, by their normals; see :data:`SAME_PLANE`."""
    return all(abs(float(normal @ normals[0])) > np.cos(np.radians(SAME_PLANE)) for normal in normals[1:])


def no_overlap(problem: str) -> ImageError:
    """E-FUSE-OVERLAP: the stacks do not cover the same region."""
    return ImageError("E-FUSE-OVERLAP", problem, fix="give stacks of one scan in one frame of reference")
