"""A thick slice is a weighted mean of thin ones: three matrices along the through-plane axis.

``A`` (acquisition) turns thin slices into thick ones, ``U`` (interpolation) thick into thin, and
``B = U (A U)⁻¹`` (consistent spline) thick into the cubic spline whose slice averages are exactly
those thick slices. Whatever thin slices ``x`` are proposed, ``x + B (y - A x)`` agrees with the
acquired slices ``y`` and keeps the part of ``x`` that the scanner could not see.

>>> profile_matrix([0, 1, 2, 3], [0.5, 2.5], slice_thickness=2, profile="box")
tensor([[0.5000, 0.5000, 0.0000, 0.0000],
        [0.0000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
>>> model = SliceModel.between(np.arange(12) * 4.0 + 1.5, np.arange(48.0), slice_thickness=4.0)
>>> proposal, acquired = torch.rand(48), torch.rand(12)
>>> result = enforce_consistency(proposal, acquired, model.acquisition, model.spline)
>>> torch.allclose(model.acquisition.float() @ result, acquired, atol=1e-3)
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from .errors import Later
from .intensities import Voxels, as_array, beside, empty_like, library_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike
    from torch import Tensor
else:
    torch = Later("torch")

Profile = Literal["gaussian", "box", "triangle"]

PROFILES: tuple[Profile, ...] = get_args(Profile)

FWHM = 2 * np.sqrt(2 * np.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""

RIDGE = 1e-5
"""Added to the normal equations of B, so that strongly overlapping slices do not amplify noise
without bound. A B differs from the identity by about this much."""

BAND = 64
"""New slices that are computed from one range of acquired slices."""

NEGLIGIBLE = 1e-9
"""A weight too small to change a float32 voxel; all weights of a slice sum to 1."""


def profile_matrix(
    thin: np.ndarray | Tensor,
    thick: np.ndarray | Tensor,
    *,
    slice_thickness: float | np.ndarray | Tensor,
    profile: Profile = "gaussian",
) -> Tensor:
    """Weights that turn thin slices into thick ones: ``lr = weights @ hr``.

    Row j integrates the slice profile centered on thick slice j over each thin
    slice (a difference of its cumulative function), so any factor, gap, overlap
    or uneven position is exact. The part of a profile beyond the first or last
    thin slice is added to the weight of that slice.

    Args:
        thin: (n,) increasing centers of the thin slices along the through-plane axis, mm.
        thick: (m,) increasing centers of the thick slices on the same line, mm.
        slice_thickness: FWHM of the profile, mm; (m,) where slices differ. Below the
            spacing there are gaps, above it slices overlap.
        profile: "gaussian", "box" or "triangle" of that width.

    Returns:
        (m, n) float64, every row sums to 1.

    Raises:
        ValueError: a thickness is not positive, their number is not m, positions do not increase, a thick slice
            lies outside the thin ones, or the profile is unknown.

    Source: Greenspan 2009, "Super-resolution in medical imaging", section 2.
    """
    return torch.from_numpy(profile_weights(thin, thick, slice_thickness=slice_thickness, profile=profile))


def profile_weights(
    thin: ArrayLike, thick: ArrayLike, *, slice_thickness: float | np.ndarray | Tensor, profile: Profile = "gaussian"
) -> np.ndarray:
    """:func:`profile_matrix` without torch."""
    thin, thick = _positions(thin, "thin"), _positions(thick, "thick")
    thickness = np.asarray(slice_thickness, dtype=np.float64)
    if not (thickness > 0).all():
        raise ValueError(f"slice_thickness is {slice_thickness} mm, must be above 0")
    if thickness.shape not in ((), thick.shape):
        raise ValueError(f"slice_thickness has shape {thickness.shape}, must be one number or {len(thick)}")
    width = np.broadcast_to(thickness, thick.shape)[:, None]
    borders = (thin[1:] + thin[:-1]) / 2
    half_step = (np.diff(thin).max() if len(thin) > 1 else width.max()) / 2
    if thick[0] < thin[0] - half_step * (1 + 1e-6) or thick[-1] > thin[-1] + half_step * (1 + 1e-6):
        raise ValueError(
            f"thick slices at {thick[0]:.4g}..{thick[-1]:.4g} mm lie outside the thin ones "
            f"at {thin[0]:.4g}..{thin[-1]:.4g} mm"
        )
    distance = borders[None, :] - thick[:, None]
    below = np.pad(_cumulative(distance, width, profile), ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    return np.diff(below, axis=1)


def _cumulative(distance: np.ndarray, width: np.ndarray, profile: Profile) -> np.ndarray:
    """Integral of a profile up to a distance from its center, 0 to 1; distance and FWHM in mm."""
    if profile == "gaussian":
        z = distance * FWHM / width
        below, near = (z > 0).astype(np.float64), np.abs(z) < 9  # beyond, float64 has 0 and 1
        below[near] = np.array(list(map(math.erfc, (z[near] * -math.sqrt(0.5)).tolist()))) / 2
        return below
    if profile == "box":
        return np.clip(distance / width + 0.5, 0, 1)
    if profile == "triangle":  # its base is twice its FWHM
        tail = np.clip(1 - np.abs(distance / width), 0, 1) ** 2 / 2
        return np.where(distance < 0, tail, 1 - tail)
    raise ValueError(f"profile is {profile!r}, must be one of {', '.join(PROFILES)}")


def interpolation_matrix(source: np.ndarray | Tensor, target: np.ndarray | Tensor, *, order: int = 3) -> Tensor:
    """Weights that interpolate slices: ``thin = weights @ thick``.

    Beyond the first and last source position they are mirrored (cubic) or held (linear), so nothing is extrapolated.

    Args:
        source: (m,) increasing slice positions, mm; spacing may be uneven.
        target: (n,) wanted positions, mm.
        order: 1 for linear, 3 for the cubic spline.

    Returns:
        (n, m) float64, every row sums to 1.

    Raises:
        ValueError: another order, or positions that do not increase.

    Source: Unser 1999, "Splines: a perfect fit for signal and image processing";
    equal to ``scipy.ndimage`` with ``mode="mirror"`` on even spacing (tested).
    """
    return torch.from_numpy(interpolation_weights(source, target, order=order))


def interpolation_weights(source: ArrayLike, target: ArrayLike, *, order: int = 3) -> np.ndarray:
    """:func:`interpolation_matrix` without torch."""
    source, target = _positions(source, "source"), _positions(target, "target")
    m = len(source)
    if order not in (1, 3):
        raise ValueError(f"order is {order}, must be 1 or 3")
    if m == 1:
        return np.ones((len(target), 1))
    if order == 1:
        return np.stack([np.interp(target, source, row) for row in np.eye(m)], axis=1)
    return _cubic_spline(source, target)


def _cubic_spline(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, m) weights of the cubic spline through samples that are mirrored at both ends, where its slope is 0."""
    step, each, places = np.diff(source), np.eye(len(source)), source - source[0]
    rise, slopes, later = np.diff(each, axis=0) / step[:, None], np.zeros_like(each), np.zeros_like(source)
    for i in range(1, len(step)):  # the slope at a sample, by the next one, that leaves no jump of the curvature
        pivot = 2 * (step[i - 1] + step[i]) - step[i] * later[i - 1]
        later[i] = step[i - 1] / pivot
        slopes[i] = (3 * (step[i] * rise[i - 1] + step[i - 1] * rise[i]) - step[i] * slopes[i - 1]) / pivot
    for i in range(len(step) - 1, 0, -1):
        slopes[i] -= later[i] * slopes[i + 1]
    at = (target - source[0]) % (2 * places[-1])
    at = np.minimum(at, 2 * places[-1] - at)
    left = np.clip(np.searchsorted(places, at, side="right") - 1, 0, len(step) - 1)
    u, rise = ((at - places[left]) / step[left])[:, None], rise[left]
    bend = u * (1 - u) * step[left, None] * ((1 - u) * (slopes[left] - rise) - u * (slopes[left + 1] - rise))
    return (1 - u) * each[left] + u * each[left + 1] + bend


def consistent_spline_matrix(acquisition: Tensor, interpolation: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """``B = U (A U)⁻¹``: acquired slices to the spline whose slice averages are those slices.

    Args:
        acquisition: (m, n) the matrix A of :func:`profile_matrix`.
        interpolation: (n, m) the matrix U of :func:`interpolation_matrix`.
        ridge: see :data:`RIDGE`.

    Returns:
        (n, m) float64, rows sum to 1, ``A B`` is the identity to about the ridge.
    """
    return torch.from_numpy(_consistent_spline(as_array(acquisition), as_array(interpolation), ridge))


def _consistent_spline(acquisition: np.ndarray, interpolation: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    averages = acquisition @ interpolation
    spline = interpolation @ np.linalg.solve(averages.T @ averages + ridge * np.eye(averages.shape[1]), averages.T)
    return spline / spline.sum(axis=1, keepdims=True)


def apply_along(matrix: np.ndarray | Tensor, voxels: Voxels, axis: int = -1) -> Voxels:
    """Multiply ``matrix`` (p, q) into ``voxels`` along ``axis`` of length q, giving length p.

    The matrix follows the voxels: their library, dtype and device.
    """
    library = library_of(voxels)
    made = library.moveaxis(voxels, axis, -1) @ beside(matrix, voxels, dtype=voxels.dtype).T
    return cast(Voxels, library.moveaxis(made, -1, axis))


class Banded:
    """A matrix along the slices, applied without the weights that are zero to float rounding.

    A new slice depends on few others: profiles end, and the weights of a spline fall by a factor 0.27 per
    slice. So cost grows with the number of slices, not with its square.

    Args:
        matrix: (p, q).
    """

    def __init__(self, matrix: np.ndarray | Tensor) -> None:
        matrix = as_array(matrix)
        self._count = len(matrix)
        self._pieces: list[tuple[slice, slice, np.ndarray]] = []
        for start in range(0, len(matrix), BAND):
            rows = slice(start, start + BAND)
            used = np.flatnonzero((np.abs(matrix[rows]) > NEGLIGIBLE).any(axis=0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            self._pieces.append((rows, columns, matrix[rows, columns]))

    def __call__(self, voxels: Voxels) -> Voxels:
        """(..., q) to (..., p), new voxels; the matrix follows theirs as in :func:`apply_along`."""
        made = empty_like(voxels, (*voxels.shape[:-1], self._count))
        for rows, columns, weights in self._pieces:
            made[..., rows] = apply_along(weights, voxels[..., columns])
        return made


def enforce_consistency(sr: Tensor, lr: Tensor, acquisition: Tensor, spline: Tensor) -> Tensor:
    """``x + B (y - A x)``: the proposal ``sr`` corrected so that re-acquiring it gives ``lr``.

    Args:
        sr: (..., n) thin slices, through-plane axis last.
        lr: (..., m) the acquired slices.
        acquisition: (m, n) or batched (B, m, n), the matrix A.
        spline: (n, m) or batched (B, n, m), the matrix B.
    """
    acquisition, spline = acquisition.to(sr), spline.to(sr)
    if acquisition.ndim == 3:  # one pair of matrices per item of the batch (B, C, X, Y, Z)
        acquisition, spline = acquisition[:, None, None], spline[:, None, None]
    return sr + (lr - sr @ acquisition.mT) @ spline.mT


@dataclass(frozen=True, eq=False)
class SliceModel:
    """The relation between thick and thin slices: positions, A, U and B.

    Attributes:
        thick, thin: (m,) and (n,) increasing centers of the slices on one line, mm.
        weights: A as an array.
    """

    thick: np.ndarray
    thin: np.ndarray
    weights: np.ndarray

    @classmethod
    def between(
        cls,
        thick: np.ndarray | Tensor,
        thin: np.ndarray | Tensor,
        *,
        slice_thickness: float | np.ndarray | Tensor,
        profile: Profile = "gaussian",
    ) -> SliceModel:
        """The model for slice positions in mm; see :func:`profile_matrix`."""
        thick, thin = _positions(thick, "thick"), _positions(thin, "thin")
        return cls(thick, thin, profile_weights(thin, thick, slice_thickness=slice_thickness, profile=profile))

    @cached_property
    def interpolation_weights(self) -> np.ndarray:
        """U, (n, m) cubic spline, thick to thin."""
        return interpolation_weights(self.thick, self.thin)

    @cached_property
    def spline_weights(self) -> np.ndarray:
        """B, (n, m) consistent spline, thick to thin."""
        return _consistent_spline(self.weights, self.interpolation_weights)

    @property
    def acquisition(self) -> Tensor:
        """A as a tensor."""
        return torch.from_numpy(self.weights)

    @property
    def spline(self) -> Tensor:
        """B as a tensor."""
        return torch.from_numpy(self.spline_weights)

    @property
    def step(self) -> float:
        """Mean distance of the thick slices, mm; of a single one the distance that the thin ones span."""
        if len(self.thick) == 1:
            return float(self.thin[-1] - self.thin[0]) or 1.0
        return float(self.thick[-1] - self.thick[0]) / (len(self.thick) - 1)

    @property
    def thin_step(self) -> float:
        """Distance of the thin slices, mm."""
        return float(self.thin[1] - self.thin[0])

    @property
    def factor(self) -> float:
        """Thin slices for a typical (median) step of the thick ones."""
        return float(np.median(np.diff(self.thick))) / self.thin_step

    @cached_property
    def distances(self) -> np.ndarray:
        """(n, m) of each thin slice from each thick one, mm."""
        return np.abs(self.thin[:, None] - self.thick)

    @cached_property
    def nearest(self) -> np.ndarray:
        """(n,) index of the thick slice nearest to each thin one."""
        return self.distances.argmin(axis=1)

    def standard_slices(self) -> np.ndarray:
        """(m, m) matrix to evenly spaced slices with a Gaussian profile as wide as their spacing.

        It acquires the consistent spline again. It is the identity if the slices are such already. So a
        network that works on thick slices never gets gaps, overlaps, boxes or uneven positions.
        """
        even = self._even(len(self.thick), self.step)
        return profile_weights(self.thin, even, slice_thickness=self.step) @ self.spline_weights

    def from_even(self, count: int) -> np.ndarray | None:
        """(n, count): from ``count`` even slices over the same slab to the thin ones; None if they are those."""
        positions = self._even(count, self.step * len(self.thick) / count)
        if count == len(self.thin) and np.allclose(positions, self.thin, atol=1e-6 * self.step):
            return None
        return interpolation_weights(positions, self.thin)

    def _even(self, count: int, step: float) -> np.ndarray:
        return (self.thick[0] + self.thick[-1]) / 2 + (np.arange(count) - (count - 1) / 2) * step

    def enforce(self, sr: Voxels, lr: Voxels) -> Voxels:
        """See :func:`enforce_consistency`; slices along the last axis."""
        made = self.spread(lr - self.acquire(sr))
        made += sr
        return made

    @cached_property
    def acquire(self) -> Banded:
        """A, applied to slices along the last axis."""
        return Banded(self.weights)

    @cached_property
    def spread(self) -> Banded:
        """B, applied to slices along the last axis."""
        return Banded(self.spline_weights)

    @cached_property
    def project(self) -> Banded:
        """The pseudoinverse of A, applied along the last axis: the smallest thin slices whose averages are given."""
        identity = np.eye(len(self.weights))
        return Banded(np.linalg.solve(self.weights @ self.weights.T + RIDGE * identity, self.weights).T)


def levels_for(factor: float) -> int:
    """Number of doublings in a PyramidNet for a factor: up to the next power of two; above 4, to the previous one.

    From 4 to 5 slices there is little to gain. Two levels instead of three, at less than half the cost, change PSNR
    at factors 5 / 6 / 7 by -0.006 / -0.008 / -0.007 dB for MR and +0.07 / +0.06 / +0.06 dB for CT (worst: -0.07 dB,
    one CT at 5). One level instead of two loses 0.16 dB for MR at 2.5 and 3. Means over volumes, measured by
    ``python -m tests.benchmarks.pyramid_levels VOLUME…``.
    """
    exact = math.log2(max(factor, 2.0))
    return max(min(math.ceil(exact - 1e-6), 2), math.floor(exact + 1e-6))


def doubling_taps(taps: int = 17) -> np.ndarray:
    """(2, taps) float32 weights of the two halves of a slice, from the slices around it.

    They are rows of the consistent spline for factor 2. A slice of FWHM s becomes two of FWHM s/2. Variances of
    Gaussians add, so the profile to invert has the FWHM √(s² − (s/2)²). Seventeen taps reproduce ramps to 0.003 of a
    slice step; nine would leave steps of 0.05.
    """
    n = 4 * taps
    thick, thin = np.arange(n), np.arange(2 * n) / 2 - 0.25
    spline = SliceModel.between(thick, thin, slice_thickness=0.75**0.5).spline_weights
    middle, half = n // 2, taps // 2
    rows = spline[2 * middle : 2 * middle + 2, middle - half : middle + half + 1]
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def _positions(values: ArrayLike, name: str) -> np.ndarray:
    """Check a line of slice positions."""
    positions = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if positions.ndim != 1 or not np.isfinite(positions).all() or (np.diff(positions) <= 0).any():
        raise ValueError(f"{name} positions must be finite and increase, got {positions}")
    return positions
