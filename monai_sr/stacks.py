"""How the acquired slices of one volume and the wanted ones lie: order, positions, and their matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from monai.data import MetaTensor
from torch import Tensor

from .errors import ImageError, UsageError
from .grid import SAME_SPACING, Grid, grid_of, uneven_positions
from .profiles import recognize_profile
from .slices import Profile, SliceModel, interpolation_matrix

FEWEST_SLICES = 3
"""Below this there is no through-plane structure to go by."""


@dataclass(frozen=True)
class Stack:
    """Acquired and wanted slices of a volume on one line, in an order that does not depend on the file's.

    Attributes:
        order, flips: see :meth:`monai_sr.grid.Grid.canonical_order`.
        thick, thin: (m,) and (n,) centers of the slices, mm, increasing.
        thickness: FWHM of the slice profile, mm; one number, or (m,).
        in_plane: spacing of the other two axes, mm, in that order.
        profile: how the acquired slices weigh what lies within them.
        model: the matrices between them.
    """

    order: list[int]
    flips: list[int]
    thick: np.ndarray
    thin: np.ndarray
    thickness: np.ndarray
    in_plane: tuple[float, float]
    profile: Profile
    model: SliceModel

    @classmethod
    def of(
        cls,
        image: Tensor,
        wanted: Grid,
        axis: int,
        *,
        slice_thickness: float | np.ndarray | None = None,
        profile: Profile = "gaussian",
    ) -> Stack:
        """The slices of an image along ``axis``, and those of the grid that is wanted.

        Args:
            image: (C, X, Y, Z) with affine.
            wanted, axis: see :func:`monai_sr.grid.wanted_grid`.
            slice_thickness, profile: see :func:`monai_sr.inference.super_resolve`.

        Raises:
            ImageError: fewer than three slices.
            UsageError: the thickness is none.
        """
        grid, uneven = grid_of(image), uneven_positions(image)
        if grid.shape[axis] < FEWEST_SLICES:
            raise ImageError(
                "E-IMG-FEW",
                f"{grid.shape[axis]} slices, at least {FEWEST_SLICES} are needed",
                fix="give the whole series",
            )
        meta = image.meta if isinstance(image, MetaTensor) else {}
        if slice_thickness is None and axis == meta.get("slice_axis", axis):
            slice_thickness = meta.get("slice_thickness")
        thickness = np.array(grid.spacing[axis] if slice_thickness is None else slice_thickness, dtype=np.float64)
        if not ((thickness > 0) & (thickness < math.inf)).all():
            raise UsageError("E-USE", f"a slice thickness of {slice_thickness} mm was given", fix="give one above 0 mm")
        order, flips = grid.canonical_order(axis)
        thick, thin = grid.positions(axis), wanted.positions(axis)
        if uneven is not None:
            thick = -uneven[::-1] if 2 in flips else uneven
        if 2 in flips:
            thickness = np.flip(thickness)
        model = SliceModel.between(thick, thin, slice_thickness=thickness, profile=profile)
        in_plane = grid.spacing[order[0]], grid.spacing[order[1]]
        return cls(order, flips, thick, thin, thickness, in_plane, profile, model)

    def recognized(self, slices: Tensor) -> Stack:
        """The same with the profile that the slices (X, Y, m), canonical and normalized, tell themselves."""
        profile = recognize_profile(
            slices, in_plane=self.in_plane, positions=self.thick, slice_thickness=self.thickness
        )
        if profile == self.profile:
            return self
        model = SliceModel.between(self.thick, self.thin, slice_thickness=self.thickness, profile=profile)
        return replace(self, profile=profile, model=model)

    @property
    def step(self) -> float:
        """Mean distance of the acquired slices, mm."""
        return float(self.thick[-1] - self.thick[0]) / (len(self.thick) - 1)

    @property
    def thin_step(self) -> float:
        """Distance of the wanted slices, mm."""
        return float(self.thin[1] - self.thin[0])

    @property
    def factor(self) -> float:
        """Wanted slices for a typical (median) step of the acquired ones."""
        return float(np.median(np.diff(self.thick))) / self.thin_step

    @cached_property
    def nearest(self) -> np.ndarray:
        """(n,) the acquired slice that each wanted one lies closest to."""
        return self._distances.argmin(axis=1)

    @property
    def filled(self) -> np.ndarray:
        """Wanted slices in a gap, in the order of the file: no acquired one is as near as its spacing explains."""
        reach = np.maximum(np.median(np.diff(self.thick)), self.thickness) / 2 * (1 + SAME_SPACING)
        far = (self._distances > reach).all(axis=1)
        return np.flatnonzero(far[::-1] if 2 in self.flips else far)

    @property
    def _distances(self) -> np.ndarray:
        return np.abs(self.thin[:, None] - self.thick)

    def from_even(self, count: int) -> Tensor | None:
        """(n, count): from ``count`` even slices over the same slab to the wanted ones; None if they are those."""
        middle, step = (self.thick[0] + self.thick[-1]) / 2, self.step * len(self.thick) / count
        positions = middle + (np.arange(count) - (count - 1) / 2) * step
        if count == len(self.thin) and np.allclose(positions, self.thin, atol=1e-6 * self.step):
            return None
        return interpolation_matrix(positions, self.thin)

    def oriented(self, voxels: Tensor) -> Tensor:
        """(X, Y, Z) of the file in canonical order, through-plane axis last."""
        return voxels.permute(self.order).flip(self.flips).contiguous()

    def put(self, block: Tensor, target: Tensor, place: tuple[slice, slice]) -> None:
        """Write canonical rows and columns (x, y, Z') of a volume to where they belong in a file's (X', Y', Z')."""
        target = target.permute(self.order)
        turned = []
        for axis, part in enumerate(place):
            start, stop, _ = part.indices(target.shape[axis])
            turned.append(slice(target.shape[axis] - stop, target.shape[axis] - start) if axis in self.flips else part)
        target[tuple(turned)] = block.flip(self.flips) if self.flips else block
