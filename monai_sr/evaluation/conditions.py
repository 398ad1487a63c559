"""Conditions under which thick slices are simulated, and what is given to the methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Orientation
from torch import Tensor

from ..acquired import Acquired
from ..errors import UsageError, collect_notices, give
from ..grid import Grid, grid_of, on_grid, positions_on, target_grid, thick_grid
from ..intensities import data_range
from ..slices import Profile, apply_along, interpolation_matrix, profile_matrix
from ..transforms import check_even, reference_for

SimulatedProfile = Literal["gaussian", "box", "triangle", "point"]
"""The slice profiles of :mod:`monai_sr.slices`, and "point": plain subsampling, thin slices with gaps (the mean of
two thin slices if a thick slice is between them)."""

PROFILES = get_args(SimulatedProfile)

NoiseType = Literal["white", "scanner"]
"""White noise, or that of a scanner: Rician in MR, correlated in plane in CT."""

NOISE_TYPES = get_args(NoiseType)

CT_NOISE_PEAK = 0.3
"""Frequency of the most noise power in a simulated CT, cycles/mm. Soft kernels have 0.2 to 0.35.

Source: Solomon 2012, "Quantitative comparison of noise texture across CT scanners from different manufacturers".
"""

TRIM = 1
"""Thick slices left out at each end, because every method extrapolates there."""


@dataclass(frozen=True)
class Condition:
    """How thick slices are simulated and described to the methods; the defaults are the plain condition.

    Args:
        factor: thin slices per thick slice; need not be an integer.
        profile: slice profile of the simulation. It is not given to the methods: bundles estimate it, baselines
            assume a Gaussian.
        thickness_ratio: slice thickness (FWHM) divided by slice spacing: below 1 gaps, above 1 overlaps.
        given_thickness: slice thickness given to the methods, divided by the true one.
        noise: standard deviation of noise on the thick slices, as a fraction of the data range.
        noise_type: see :data:`NoiseType`. Rician noise has this standard deviation where the signal is strong.
        permuted: the volume is stored with its axes permuted and two of them flipped.
        slices: maximum number of thick slices, from the middle.
    """

    factor: float
    profile: SimulatedProfile = "gaussian"
    thickness_ratio: float = 1.0
    given_thickness: float = 1.0
    noise: float = 0.0
    noise_type: NoiseType = "white"
    permuted: bool = False
    slices: int | None = None

    @property
    def name(self) -> str:
        """The differences from the plain condition, without the factor."""
        words = [
            {"gaussian": "", "box": "box profile", "triangle": "triangle profile", "point": "subsampled"}[self.profile],
            f"thickness {self.thickness_ratio:g} × spacing" if self.thickness_ratio != 1 else "",
            f"thickness given × {self.given_thickness:g}" if self.given_thickness != 1 else "",
            f"{100 * self.noise:g} % {'scanner ' if self.noise_type == 'scanner' else ''}noise" if self.noise else "",
            "axes permuted and flipped" if self.permuted else "",
            f"{self.slices} slices" if self.slices else "",
        ]
        return ", ".join(filter(None, words)) or "plain"


def every_condition(
    factors: Sequence[float],
    *,
    profiles: Sequence[SimulatedProfile] = ("gaussian",),
    thickness_ratios: Sequence[float] = (1.0,),
    given_thicknesses: Sequence[float] = (1.0,),
    noise: Sequence[float] = (0.0,),
    noise_types: Sequence[NoiseType] = ("white",),
) -> list[Condition]:
    """All combinations, the factors innermost. Subsampled slices have one thickness, and no noise one type."""
    conditions = [
        Condition(factor, profile, 1.0 if profile == "point" else ratio, given, level, kind if level else "white")
        for profile, ratio, given, kind, level, factor in itertools.product(
            profiles, thickness_ratios, given_thicknesses, noise_types, noise, factors
        )
    ]
    return list(dict.fromkeys(conditions))


def robustness_conditions(factors: Sequence[float] = (2, 3, 4)) -> list[Condition]:
    """Hard conditions: each departure from the plain condition alone, and factors that are not integers."""
    conditions = []
    for factor in factors:
        plain = Condition(factor)
        conditions += [
            plain,
            replace(plain, profile="box"),
            replace(plain, given_thickness=0.75),
            replace(plain, given_thickness=1.25),
            *(replace(plain, noise=level) for level in (0.01, 0.02, 0.04)),
            replace(plain, noise=0.02, noise_type="scanner"),
            replace(plain, profile="point"),
            replace(plain, thickness_ratio=0.6),
            replace(plain, thickness_ratio=1.4),
            replace(plain, permuted=True),
            replace(plain, slices=12),
        ]
    return list(dict.fromkeys([*conditions, *(Condition(factor) for factor in (1.7, 2.5, 3.3))]))


@dataclass(frozen=True)
class Acquisition:
    """Simulated thick slices of a volume, their reference, and the simulation.

    Attributes:
        hr: (1, X, Y, Z) thin slices, as stored under the condition.
        axis: through-plane axis of ``hr`` and ``lr``.
        lr: thick slices.
        reference: ``hr`` on the grid of the super-resolved ``lr``.
        slice_thickness: FWHM that is given to the methods, mm.
        matrix: A, (m, n) from the slices of ``reference`` to those of ``lr``.
        noise: standard deviation of the noise added to ``lr``, in the units of the file.
        nearest: (n,) index of the slice of ``hr`` nearest to each slice of ``reference``.
        measured: (n,) bool, the slices of ``reference`` that are compared.
    """

    hr: MetaTensor
    axis: int
    lr: MetaTensor
    reference: MetaTensor
    slice_thickness: float
    matrix: Tensor
    noise: float
    nearest: np.ndarray
    measured: np.ndarray


def acquire(hr: MetaTensor, condition: Condition, axis: int) -> Acquisition:
    """Simulate thick slices of ``hr`` along ``axis``.

    The edge of the first slice is that of the volume; the last slice is the last one with its center inside.
    Noise is the same for the same shape of slices.

    Raises:
        UsageError: the volume is too short for one thick slice, its slices are unevenly spaced, or the factor is
            below 1.
    """
    factor = condition.factor
    if factor < 1:
        raise UsageError("E-USE", f"the factor is {factor:g}, must be above 1", fix="give a factor such as 4")
    check_even(hr)
    hr, axis = _as_stored(hr, condition, axis)
    grid = grid_of(hr)
    thin, n = grid.spacing[axis], grid.shape[axis]
    m = math.floor((n - 1 - (factor - 1) / 2) / factor + 1e-9) + 1
    # a last slice that is half outside the volume counts, as in other comparisons
    slab = list(grid.shape)
    slab[axis] = max(math.ceil(m * factor - 1e-9), 1)
    thick = thick_grid(Grid((slab[0], slab[1], slab[2]), grid.affine), axis, factor * thin)
    thin_at, thick_at = positions_on(grid, axis, grid), positions_on(thick, axis, grid)
    # Subsampled slices are as thick as thin slices, as a header would say. A slice between two thin ones is
    # their mean: a Gaussian of one thin spacing gives each of them 0.49.
    thickness = thin if condition.profile == "point" else factor * thin * condition.thickness_ratio
    lr = apply_along(_weights(thin_at, thick_at, condition.profile, thickness), hr.as_tensor().float(), axis + 1)
    deviation = condition.noise * data_range(hr[0].numpy())
    if deviation:
        modality = "" if condition.noise_type == "white" else Acquired.of(hr, axis=axis).modality
        lr = _noisy(lr, thick, axis, deviation, modality)
    lr = on_grid(lr, thick, hr)
    reference = reference_for(lr, hr, axis=axis)
    wanted, _ = target_grid(thick, spacing=thin, axis=axis)
    wanted_at = positions_on(wanted, axis, grid)
    places = wanted_at / thin
    measured = (places >= TRIM * factor - 0.5) & (places <= n - 1 - TRIM * factor + 0.5)
    return Acquisition(
        hr=hr,
        axis=axis,
        lr=lr,
        reference=reference,
        slice_thickness=thickness * condition.given_thickness,
        matrix=_weights(wanted_at, thick_at, condition.profile, thickness),
        noise=deviation,
        nearest=np.clip(np.round(places), 0, n - 1).astype(int),
        measured=measured if measured.sum() >= factor else np.ones_like(measured),
    )


def _noisy(lr: Tensor, grid: Grid, axis: int, deviation: float, modality: str) -> Tensor:
    """Thick slices (1, X, Y, Z) with white noise, or that of a modality.

    CT: in plane, noise power is that of filtered back projection, ``f exp(-f² / 2 p²)`` with its maximum at p,
    :data:`CT_NOISE_PEAK`; slices are independent. MR: the magnitude of a signal with noise in both its channels.

    Source: Riederer 1978, "The noise power spectrum in computed X-ray tomography"; Gudbjartsson 1995, "The Rician
    distribution of noisy MRI data".
    """
    generator = np.random.default_rng(0)
    first = generator.normal(0, deviation, lr.shape)
    if modality == "MR":
        second = generator.normal(0, deviation, lr.shape)
        return torch.from_numpy(np.hypot(lr.numpy() + first, second).astype(np.float32))
    if modality == "CT":
        frequencies = [np.zeros(1) if a == axis else np.fft.fftfreq(lr.shape[a + 1], grid.spacing[a]) for a in range(3)]
        power = np.square(np.stack(np.meshgrid(*frequencies, indexing="ij"))).sum(axis=0)
        gain = np.sqrt(np.sqrt(power) * np.exp(-power / (2 * CT_NOISE_PEAK**2)))
        plane = [a + 1 for a in range(3) if a != axis]
        first = np.fft.ifftn(np.fft.fftn(first, axes=plane) * gain / np.sqrt((gain**2).mean()), axes=plane).real
    return lr + torch.from_numpy(first.astype(np.float32))


def middle(hr: MetaTensor, size: int | Sequence[int]) -> MetaTensor:
    """The middle of a volume: at most so many voxels a side, or along each axis (all of one of -1)."""
    return cast(MetaTensor, CenterSpatialCrop([size] * 3 if isinstance(size, int) else size)(hr))


def _weights(thin: np.ndarray, thick: np.ndarray, profile: SimulatedProfile, thickness: float) -> Tensor:
    """(m, n) A of a scanner that acquires nothing outside the volume: profiles are cut off at its ends.

    :func:`profile_matrix` repeats the end slices instead, as methods must assume. The simulation should not favor
    methods with this assumption.
    """
    if profile == "point":
        return interpolation_matrix(thin, thick, order=1)
    step = thin[1] - thin[0]
    outside = np.arange(1, math.ceil(2 * thickness / step) + 1) * step
    longer = np.concatenate([thin[0] - outside[::-1], thin, thin[-1] + outside])
    matrix = profile_matrix(longer, thick, slice_thickness=thickness, profile=cast(Profile, profile))
    matrix = matrix[:, len(outside) : -len(outside)]
    return matrix / matrix.sum(dim=1, keepdim=True)


def _as_stored(hr: MetaTensor, condition: Condition, axis: int) -> tuple[MetaTensor, int]:
    """The volume after shortening and permuting it, and its slice axis."""
    if condition.slices:
        size = [-1, -1, -1]
        size[axis] = min(math.ceil(condition.slices * condition.factor - 1e-9), hr.shape[axis + 1])
        hr = middle(hr, size)
    if condition.permuted:
        x, y, z = nib.aff2axcodes(np.asarray(hr.affine))
        opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
        hr = cast(MetaTensor, Orientation(axcodes=opposite[z] + x + opposite[y])(hr))
        axis = (axis + 1) % 3
    return hr, axis


@contextmanager
def without_noise_notice() -> Iterator[None]:
    """Pass warnings on, but not that of noise (W-CON-NOISE), which is that of a simulation."""
    with collect_notices() as notices:
        yield
    for notice in notices:
        if notice.code != "W-CON-NOISE":
            give(notice)
