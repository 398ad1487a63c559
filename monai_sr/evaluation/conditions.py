"""Under which conditions thick slices are simulated, and what a method is told about them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Orientation
from torch import Tensor

from ..errors import UsageError
from ..grid import Grid, grid_of, on_grid, positions_on, target_grid, thick_grid
from ..intensities import data_range
from ..slices import Profile, apply_along, interpolation_matrix, profile_matrix
from ..transforms import check_even, truth_for

SimulatedProfile = Literal["gaussian", "box", "point"]
"""The slice profiles of :mod:`monai_sr.slices`, and "point": plain subsampling, thin slices with gaps
(where a thick slice lies between two thin ones, their mean)."""

PROFILES = get_args(SimulatedProfile)

TRIM = 1
"""Thick slices left out at each end, where every method extrapolates."""


@dataclass(frozen=True)
class Condition:
    """One way to make and to describe thick slices; as it stands, the plain one.

    Args:
        factor: thin slices per thick one; need not be an integer.
        profile: of the simulation. Methods are not told it: bundles recognize it or
            take it for a Gaussian, baselines always do the latter.
        thickness_ratio: slice thickness (FWHM) in slice spacings: below 1 gaps, above 1 overlaps.
        told: the thickness that methods are told, in true ones.
        noise: white noise on the thick slices, its standard deviation as a share of the data range.
        turned: the volume is stored with its axes exchanged and two of them reversed.
        slices: at most so many thick slices, from the middle.
    """

    factor: float
    profile: SimulatedProfile = "gaussian"
    thickness_ratio: float = 1.0
    told: float = 1.0
    noise: float = 0.0
    turned: bool = False
    slices: int | None = None

    @property
    def name(self) -> str:
        """What is particular about it, whatever the factor."""
        words = [
            {"gaussian": "", "box": "box profile", "point": "subsampled"}[self.profile],
            f"thickness {self.thickness_ratio:g} of spacing" if self.thickness_ratio != 1 else "",
            f"told {self.told:g} of thickness" if self.told != 1 else "",
            f"{100 * self.noise:g} % noise" if self.noise else "",
            "stored turned" if self.turned else "",
            f"{self.slices} slices" if self.slices else "",
        ]
        return ", ".join(filter(None, words)) or "plain"


def every_condition(
    factors: Sequence[float],
    *,
    profiles: Sequence[SimulatedProfile] = ("gaussian",),
    thickness_ratios: Sequence[float] = (1.0,),
    told: Sequence[float] = (1.0,),
    noise: Sequence[float] = (0.0,),
) -> list[Condition]:
    """All combinations, the factors innermost. Subsampled slices have a thickness of their own: one for all ratios."""
    found = [
        Condition(factor, profile, 1.0 if profile == "point" else ratio, told=share, noise=level)
        for profile, ratio, share, level, factor in itertools.product(profiles, thickness_ratios, told, noise, factors)
    ]
    return list(dict.fromkeys(found))


def robustness_conditions(factors: Sequence[float] = (4,)) -> list[Condition]:
    """What a bundle must stand: each departure from the plain condition by itself, and odd factors."""
    found = []
    for factor in factors:
        plain = Condition(factor)
        found += [
            plain,
            replace(plain, profile="box"),
            replace(plain, told=0.75),
            replace(plain, told=1.25),
            replace(plain, noise=0.02),
            replace(plain, profile="point"),
            replace(plain, thickness_ratio=0.6),
            replace(plain, thickness_ratio=1.4),
            replace(plain, turned=True),
            replace(plain, slices=12),
        ]
    return list(dict.fromkeys([*found, *(Condition(factor) for factor in (1.7, 2.5, 3.3))]))


@dataclass(frozen=True)
class Acquisition:
    """Thick slices made of a volume, what should become of them, and how they were made.

    Attributes:
        hr: (1, X, Y, Z) the thin slices they were made of, as the condition has them.
        axis: through-plane axis of ``hr`` and ``lr``.
        lr: the thick slices.
        truth: ``hr`` on the grid that ``lr`` is super-resolved to.
        slice_thickness: FWHM that methods are told, mm.
        matrix: A, (m, n) from the slices of ``truth`` to those of ``lr``.
        noise: standard deviation of what was added to ``lr``, in the file's units.
        nearest: (n,) the slice of ``hr`` nearest to each of ``truth``.
        measured: (n,) bool, the slices of ``truth`` that count.
    """

    hr: MetaTensor
    axis: int
    lr: MetaTensor
    truth: MetaTensor
    slice_thickness: float
    matrix: Tensor
    noise: float
    nearest: np.ndarray
    measured: np.ndarray


def acquire(hr: MetaTensor, condition: Condition, axis: int) -> Acquisition:
    """Simulate thick slices of ``hr`` along ``axis``.

    The first slice is centered so that its edge is that of the volume; the last one is the last whose
    center lies within. Noise is the same for the same shape of slices.

    Raises:
        UsageError: the volume is too short for a single thick slice, its own slices are unevenly spaced, or
            the factor is below 1.
    """
    factor = condition.factor
    if factor < 1:
        raise UsageError("E-USE", f"a factor of {factor:g} was given", fix="give a factor above 1, such as 4")
    check_even(hr)
    hr, axis = _as_stored(hr, condition, axis)
    grid = grid_of(hr)
    thin, n = grid.spacing[axis], grid.shape[axis]
    m = math.floor((n - 1 - (factor - 1) / 2) / factor + 1e-9) + 1
    # a last slice that reaches half out of the volume counts, as it does where others compare
    slab = list(grid.shape)
    slab[axis] = max(math.ceil(m * factor - 1e-9), 1)
    thick = thick_grid(Grid((slab[0], slab[1], slab[2]), grid.affine), axis, factor * thin)
    thin_at, thick_at = positions_on(grid, axis, grid), positions_on(thick, axis, grid)
    # Subsampled slices are as thick as thin ones, which is what a scanner's header would say. A slice
    # that lies between two is their mean: a Gaussian of one thin spacing gives each of them 0.49.
    thickness = thin if condition.profile == "point" else factor * thin * condition.thickness_ratio
    lr = apply_along(_weights(thin_at, thick_at, condition.profile, thickness), hr.as_tensor().float(), axis + 1)
    deviation = condition.noise * data_range(hr[0].numpy())
    if deviation:
        lr = lr + torch.from_numpy(np.random.default_rng(0).normal(0, deviation, lr.shape).astype(np.float32))
    lr = on_grid(lr, thick, hr)
    truth = truth_for(lr, hr, axis=axis)
    wanted, _ = target_grid(thick, spacing=thin, axis=axis)
    wanted_at = positions_on(wanted, axis, grid)
    places = wanted_at / thin
    measured = (places >= TRIM * factor - 0.5) & (places <= n - 1 - TRIM * factor + 0.5)
    return Acquisition(
        hr=hr,
        axis=axis,
        lr=lr,
        truth=truth,
        slice_thickness=thickness * condition.told,
        matrix=_weights(wanted_at, thick_at, condition.profile, thickness),
        noise=deviation,
        nearest=np.clip(np.round(places), 0, n - 1).astype(int),
        measured=measured if measured.sum() >= factor else np.ones_like(measured),
    )


def _weights(thin: np.ndarray, thick: np.ndarray, profile: SimulatedProfile, thickness: float) -> Tensor:
    """(m, n) A as a scanner that sees nothing beyond the volume's ends: profiles are cut off there.

    :func:`profile_matrix` lets the end slices go on instead, as methods must assume; what is simulated
    should not favor those that assume the same.
    """
    if profile == "point":
        return interpolation_matrix(thin, thick, order=1)
    step = thin[1] - thin[0]
    beyond = np.arange(1, math.ceil(2 * thickness / step) + 1) * step
    longer = np.concatenate([thin[0] - beyond[::-1], thin, thin[-1] + beyond])
    matrix = profile_matrix(longer, thick, slice_thickness=thickness, profile=cast(Profile, profile))
    matrix = matrix[:, len(beyond) : -len(beyond)]
    return matrix / matrix.sum(dim=1, keepdim=True)


def _as_stored(hr: MetaTensor, condition: Condition, axis: int) -> tuple[MetaTensor, int]:
    """The volume, and where its slice axis went, after shortening and turning it."""
    if condition.slices:
        size = [-1, -1, -1]
        size[axis] = min(math.ceil(condition.slices * condition.factor - 1e-9), hr.shape[axis + 1])
        hr = cast(MetaTensor, CenterSpatialCrop(size)(hr))
    if condition.turned:
        x, y, z = nib.aff2axcodes(np.asarray(hr.affine))
        opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
        hr = cast(MetaTensor, Orientation(axcodes=opposite[z] + x + opposite[y])(hr))
        axis = (axis + 1) % 3
    return hr, axis
