"""Through-plane resolution, estimated from the volume itself: voxel size is not resolution.

Tissue looks similar in all directions, except for the blur of the slices. So the volume is blurred by wider and
wider slice profiles along an in-plane axis, until it changes from sample to sample along that axis as it does
through plane. That width (FWHM of a Gaussian) is the effective slice thickness. The compared measure is the mean
squared difference of samples one lag apart, divided by that of samples two lags apart; contrast and units cancel.

Limits: the method assumes that in-plane axes are sharp and that tissue looks alike in all directions
(``python -m tests.benchmarks.resolution`` measures its error and its interval on volumes with known blur). Noise that
the slice profile did not blur, as in most scanners, makes the estimate too fine; where it hides the tissue there is no
estimate. A box profile is reported as the Gaussian of equal smoothness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquired import Acquired
from ..errors import warn
from ..grid import ArrayImage, Grid, Image, grid_of
from ..intensities import as_array
from ..slices import profile_weights

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "in-plane axes seen through slice profiles, ratio of squared differences at one and two lags"

WIDTHS = np.geomspace(0.25, 4.0, 17)
"""Widths of the tried profiles, in lags."""

WIDER = 1.7
"""The estimate divided by the lower end of its interval."""

DEVIATION = 0.1
"""At the upper end of the interval, in-plane and through-plane measures differ by this, times the root of the lag in
in-plane voxels: 2.5 standard deviations of the difference at the true width, over seven training volumes."""

FINEST = 0.75
"""Lags; a finer estimate has no lower end."""

ALIKE = 0.95
"""Maximum ratio of the through-plane differences at one lag and at two. Above it neighboring slices have as little in
common as others, as in noise; anatomy has 0.3 to 0.7."""

UNLIKE = 8.0
"""Maximum ratio of through-plane and in-plane differences. Above it there is too little in plane to compare with;
anatomy has 0.5 to 2."""

EQUIVALENT = {"gaussian": 1.0, "box": 0.68, "triangle": 0.96}
"""Width of the Gaussian that blurs as a profile does, divided by its width."""

UNKNOWN = "cannot tell"

FEWEST = 4
"""Minimum number of lags along an axis."""

SAMPLES = 1_000_000
"""Maximum number of voxels, from the middle of a larger volume."""


@dataclass(frozen=True)
class Resolution:
    """Resolution of a volume along one axis.

    Attributes:
        mm: effective slice thickness, FWHM of the equivalent Gaussian; NaN if it cannot be estimated.
        lag: distance of the compared samples, mm.
        axis: the axis.
        bounded: "at most" or "at least" if the volume is sharper or smoother than the method can measure; "cannot tell"
            if it holds nothing to measure, as noise does.
        interval: the widths that are possible, mm; 0 or infinite where there is no end.
    """

    mm: float
    lag: float
    axis: int
    bounded: str = ""
    interval: tuple[float, float] = (0.0, math.inf)

    def record(self) -> dict[str, Any]:
        """For JSON; ends of the interval that are not known are null."""
        if np.isnan(self.mm):
            return {"mm": None, "bounded": UNKNOWN}
        low, high = self.interval
        ends = [float(f"{low:.3g}") if low else None, float(f"{high:.3g}") if math.isfinite(high) else None]
        record = {"mm": float(f"{self.mm:.3g}"), "interval": ends}
        return record | ({"bounded": self.bounded} if self.bounded else {})

    def text(self) -> str:
        """In words."""
        return UNKNOWN if np.isnan(self.mm) else f"{self.bounded} {self.mm:.2g} mm".strip()


def length_text(measured: Mapping[str, Any]) -> str:
    """What :meth:`Resolution.record` holds in short: ``1.7 mm``, ``≥ 8 mm`` or ``unknown``."""
    if not isinstance(measured.get("mm"), int | float):
        return "unknown"
    sign = {"at least": "≥ ", "at most": "≤ "}.get(str(measured.get("bounded", "")), "")
    return f"{sign}{float(measured['mm']):.3g} mm"


def measure_resolution(image: Image, axis: int, *, lag: float | None = None) -> Resolution:
    """The effective slice thickness of a volume.

    Args:
        image: (C, X, Y, Z) with affine; only the first channel is used.
        axis: through-plane axis.
        lag: mm between compared samples, about half of the expected resolution. Default: the slice spacing.

    Returns:
        NaN for a constant volume, if fewer than :data:`FEWEST` lags fit along an axis, if slices have as little in
        common as in noise, or if there is hardly any detail in plane.
    """
    return _measure(Acquired.of(image), image, axis, lag)


def effective_resolution(acquired: Acquired, result: Image) -> tuple[Resolution, Resolution]:
    """Through-plane resolution of an acquired volume and of its result (C, X', Y', Z'), at least the slice spacing."""
    before = _measure(acquired, acquired.source, acquired.axis, None)
    after = _measure(acquired, result, acquired.axis, acquired.slice_spacing / 2)
    if before.bounded == UNKNOWN:  # a result of noise is as smooth as its spline
        after = Resolution(math.nan, after.lag, after.axis, UNKNOWN)
    return _sampled(before, acquired.grid), _sampled(after, grid_of(result))


def check_width(acquired: Acquired, before: Resolution) -> None:
    """Warn where the thickness that is used is outside the interval that is estimated from the slices (W-SR-WIDTH).

    The estimate is too uncertain to be used itself. Slices whose profile is not known may be a box, which blurs less
    than a Gaussian. Slices smoother than the method can measure, as of a drawn phantom, give no warning.

    Args:
        acquired: the volume.
        before: its resolution, see :func:`effective_resolution`.
    """
    low, high = before.interval
    thickness = float(np.median(acquired.slice_thickness))
    known = acquired.source_of("slice_profile") not in ("estimated", "assumed")
    narrow = EQUIVALENT[acquired.slice_profile] if known else EQUIVALENT["box"]
    wide = EQUIVALENT[acquired.slice_profile] if known else 1.0
    if before.bounded == "at least" or (low <= wide * thickness and narrow * thickness <= high):
        return
    source = acquired.source_of("slice_thickness")
    facts = {"estimated": before.mm, "low": low, "high": high, "thickness": thickness, "source": source}
    effect = "the result stays blurred" if thickness < low else "the result is sharpened too much"
    text = (
        "the slices look {estimated:.3g} mm thick ({low:.3g} to {high:.3g} mm); {thickness:.3g} mm ({source}) is used"
    )
    warn("W-SR-WIDTH", f"{text}, so {effect}", path=acquired.path or None, facts=facts)


def _sampled(resolution: Resolution, grid: Grid) -> Resolution:
    """A resolution that is no finer than the slice spacing: thin slices with gaps resolve no more than that."""
    spacing = grid.spacing[resolution.axis]
    resolution = replace(resolution, interval=(resolution.interval[0], max(resolution.interval[1], spacing)))
    return replace(resolution, mm=spacing, bounded="at most") if resolution.mm < spacing else resolution


def _measure(acquired: Acquired, image: Tensor | ArrayImage, axis: int, lag: float | None) -> Resolution:
    """:func:`measure_resolution` of an image on any grid that has the padding of an acquired volume."""
    grid = grid_of(image)
    voxels = as_array(image)[0]
    voxels = voxels[middle_of(voxels.shape, axis)].astype(np.float32)
    outside = acquired.outside(voxels, 0)
    if outside is not None and not outside.all():
        voxels[outside] = voxels[~outside].min()
    steps = max(1, round((lag or grid.spacing[axis]) / grid.spacing[axis]))
    lag = steps * grid.spacing[axis]
    finest = min(s for a, s in enumerate(grid.spacing) if a != axis)
    level, middle = DEVIATION * math.sqrt(max(lag / finest, 1.0)), len(WIDTHS) // 2
    every = [_Lines.of(voxels, grid, a, axis, steps) for a in range(3) if a != axis]
    logs: list[np.ndarray] = []
    excess: list[float] = []
    for width in WIDTHS:
        seen = [lines.energies(width * lag) for lines in every if lines is not None]
        known = [energies for energies in seen if energies is not None]
        if not known:
            return Resolution(math.nan, lag, axis)
        logs.append(np.mean(np.log(known), axis=0))
        (near, far), (near_through, far_through) = logs[-1]
        # a wider profile makes the in-plane axis smoother, except for noise
        excess.append(min(near - far - near_through + far_through, *excess[-1:], math.inf))
        if excess[-1] < -level and len(excess) > middle:
            break  # what wider ones give does not count
    near_through, far_through = logs[0][1]
    has_nothing_in_common = near_through - far_through > math.log(ALIKE)
    if has_nothing_in_common or logs[middle][1, 1] - logs[middle][0, 1] > math.log(UNLIKE):
        return Resolution(math.nan, lag, axis, UNKNOWN)
    width, high = _width_at(excess, 0.0), _width_at(excess, -level)
    bounded = "at most" if width == 0 else "at least" if width == math.inf else ""
    width = float(np.clip(width, WIDTHS[0], WIDTHS[-1]))
    return Resolution(width * lag, lag, axis, bounded, (width / WIDER * lag if width >= FINEST else 0.0, high * lag))


def _width_at(excess: Sequence[float], level: float) -> float:
    """The width, in lags, at which the excess falls to a level; 0 or infinite beyond :data:`WIDTHS`."""
    if excess[-1] >= level:
        return math.inf
    falling = -np.array(excess)
    return 0.0 if excess[0] <= level else float(np.exp(np.interp(-level, falling, np.log(WIDTHS[: len(falling)]))))


@dataclass(frozen=True, eq=False)
class _Lines:
    """Mean squared differences of a volume after any blur along an in-plane axis, in plane and through plane.

    A blur along an axis is a product with a matrix, so these means follow from products of the voxels along that
    axis, which are summed once for all widths.

    Attributes:
        at: (n,) the voxels along the in-plane axis, mm.
        places: samples of the blurred volume there, half a lag apart, so that both lags are whole steps and more of
            the volume counts.
        along: mean products of the differences of neighboring voxels along the axis.
        through: mean products of the differences through plane, at one lag and at two.
    """

    at: np.ndarray
    places: np.ndarray
    along: np.ndarray
    through: list[np.ndarray]

    @classmethod
    def of(cls, voxels: np.ndarray, grid: Grid, in_plane: int, axis: int, steps: int) -> _Lines | None:
        """Of voxels (X, Y, Z), with ``steps`` slices in a lag; None if too few lags fit."""
        lag = steps * grid.spacing[axis]
        at = np.arange(voxels.shape[in_plane]) * grid.spacing[in_plane]
        count = int(at[-1] // lag)
        if count < FEWEST or voxels.shape[axis] <= 2 * steps:
            return None
        places = (at[-1] - count * lag) / 2 + np.arange(2 * count + 1) * lag / 2
        lines = np.moveaxis(voxels, (in_plane, axis), (0, 1))
        through = [_mean_products(lines[:, d:] - lines[:, :-d]) for d in (steps, 2 * steps)]
        return cls(at, places, _mean_products(lines[1:] - lines[:-1]), through)

    def energies(self, width: float) -> tuple[list[float], list[float]] | None:
        """In plane and through plane, at one lag and at two, after a blur by this width (mm) along the in-plane axis.

        The blur removes detail from both directions, as the slices did. None if the volume is constant.
        """
        blur = profile_weights(self.at, self.places, slice_thickness=width)
        # a difference of blurred samples, as a sum of differences of neighboring voxels
        along = [np.cumsum(blur[:-lag] - blur[lag:], axis=1)[:, :-1] for lag in (2, 4)]
        energies = [_mean_square(m, self.along)[0] for m in along], _mean_square(blur, *self.through)
        return energies if np.min(energies) > 0 else None


def _mean_products(lines: np.ndarray) -> np.ndarray:
    """(n, n) float64 mean products of the lines (n, ...)."""
    flat, products = lines.reshape(len(lines), -1), np.zeros((len(lines), len(lines)))
    for start in range(0, flat.shape[1], 2**13):
        part = flat[:, start : start + 2**13]
        products += part @ part.T
    return products / flat.shape[1]


def _mean_square(matrix: np.ndarray, *products: np.ndarray) -> list[float]:
    """Mean square of ``matrix @ rows``, by the mean products of the rows, for several such rows."""
    weights = matrix.T @ matrix / len(matrix)
    return [float(np.vdot(weights, each)) for each in products]


def middle_of(shape: Sequence[int], axis: int) -> tuple[slice, ...]:
    """The middle of a large volume (X, Y, Z), at most :data:`SAMPLES` voxels: all slices, fewer rows and columns."""
    fraction = min(1.0, float(np.sqrt(SAMPLES / np.prod(shape))))
    kept = [n if a == axis else max(1, round(n * fraction)) for a, n in enumerate(shape)]
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, kept, strict=True))
