"""Artifacts of a result, measured without a reference: stripes, false texture, streaks and combs.

All of them are ratios: 1 is a volume without the artifact. They compare a result with itself, or with the acquired
slices, so units and contrast cancel. ``python -m tests.benchmarks.gallery`` measures them on real thick series.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import Acquired
from ..errors import warn
from ..grid import Image, grid_of
from ..intensities import CT_LEAST, as_array
from .resolution import middle_of

LIMITS = {"noise": 2.0, "steps": 4.0, "combs": 4.0, "bands": 1.4, "texture": 2.0}
"""A larger ratio gives a warning. How often that is wrong is in the README of this folder."""

PERIODS = 10
"""Fewest slice spacings in a volume for a periodic measure."""

CHANCE = 3.0
"""Smaller amplitudes than this many standard errors count as none."""

LARGEST = 99.0
"""Larger ratios are reported as this one."""

FLAT = 0.3
"""Fraction of the body that counts as flat."""

SEEN = 0.002
"""Texture of less than this fraction of the data range counts as none."""

_AT_ONCE = 4
"""Slices that are filtered at once: so few stay in the cache of a processor."""


@dataclass(frozen=True)
class Artifacts:
    """Of one result.

    Attributes:
        noise: highest divided by lowest in-plane noise of its slices, as far as it repeats with the slice spacing.
        steps: the same of the differences of neighboring slices.
        combs: the same of the curvature across the slices along strong edges.
        bands: brightness of whole slices that repeats, see :func:`bands`.
        texture: in-plane standard deviation of flat regions, divided by that of the acquired slices there.
    """

    noise: float
    steps: float
    combs: float
    bands: float
    texture: float

    def record(self) -> dict[str, Any]:
        """For JSON; None where it cannot be measured."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: None if np.isnan(value) else float(f"{value:.3g}") for name, value in values.items()}


def check_artifacts(artifacts: Artifacts, *, path: str | Path | None = None) -> None:
    """Warn of stripes (W-SR-STRIPES) and of false texture (W-SR-TEXTURE) above :data:`LIMITS`."""
    facts = artifacts.record() | {f"{name}_limit": limit for name, limit in LIMITS.items()}
    names = [name for name in LIMITS if name != "texture"]
    if any(getattr(artifacts, name) > LIMITS[name] for name in names):
        figures = ", ".join(f"{name} x{{{name}}} (limit {{{name}_limit:g}})" for name in names)
        warn("W-SR-STRIPES", f"the spacing of the slices shows in the result: {figures}", path=path, facts=facts)
    if artifacts.texture > LIMITS["texture"]:
        text = "flat regions have {texture} times the texture of the acquired slices (limit {texture_limit:g})"
        warn("W-SR-TEXTURE", text, path=path, facts=facts)


def measure_artifacts(acquired: Acquired, result: Image) -> Artifacts:
    """Stripes and false texture of a result (C, X', Y', Z') on the in-plane grid of its acquired volume.

    NaN where there are too few slices or no flat region, or the result has another in-plane grid. Only the first
    channel is measured, of a large volume the middle of its slices.
    """
    axis, grid = acquired.axis, grid_of(result)
    places = np.linalg.inv(acquired.grid.affine) @ grid.affine
    scale = np.array([places[axis, axis] if a == axis else 1.0 for a in range(3)])
    same = np.allclose(places[:3, :3], np.diag(scale), atol=1e-2)
    if not same or any(acquired.grid.shape[a] != grid.shape[a] for a in range(3) if a != axis):
        return Artifacts(*[float("nan")] * len(LIMITS))
    keep = middle_of(grid.shape, axis)
    thick, thin = (voxels[0][keep] for voxels in (acquired.array, as_array(result)))
    if acquired.modality == "CT":
        thick, thin = (np.maximum(voxels, CT_LEAST) for voxels in (thick, thin))  # no padding
    period = acquired.slice_spacing / grid.spacing[axis]
    at = places[axis, axis] * np.arange(grid.shape[axis]) + places[axis, 3]
    before, after = slices_of(thick, axis), slices_of(thin, axis)
    body = body_of(after)
    return Artifacts(
        *stripes(after, body, period),
        combs=combs(after, body, period),
        bands=bands(after, body, period),
        texture=false_texture(before, after, at),
    )


def slices_of(voxels: np.ndarray, axis: int) -> np.ndarray:
    """(n, X, Y) float32 slices of voxels with this through-plane axis."""
    return np.ascontiguousarray(np.moveaxis(voxels, axis, 0), np.float32)


def stripes(slices: np.ndarray, body: np.ndarray, period: float) -> tuple[float, float]:
    """How much in-plane noise and slice-to-slice differences repeat with the slice spacing.

    Args:
        slices, body: (n, X, Y) result, see :func:`slices_of`, and its :func:`body_of`.
        period: slice spacing in slices of the result; need not be whole.

    Returns:
        The highest divided by the lowest value of the periodic part; 1 without stripes, NaN for fewer than
        :data:`PERIODS` periods. The rest of a series may change slowly from slice to slice.
    """
    # differences along both axes at once: no anatomy but corners, and all of the noise
    fine = np.abs(np.diff(np.diff(slices, axis=1), axis=2))
    inside = body[:, 1:, 1:]
    noise = np.array([_middle_mean(f[m]) for f, m in zip(fine, inside, strict=True)])
    steps = np.array([_mean(np.abs(b - a)[m]) for a, b, m in zip(slices, slices[1:], body, strict=False)])
    return _periodic(noise, period), _periodic(steps, period)


def bands(slices: np.ndarray, body: np.ndarray, period: float) -> float:
    """How much the brightness of whole slices repeats with the slice spacing.

    Args:
        slices, body, period: as of :func:`stripes`.

    Returns:
        1 plus the amplitude of the periodic part of the mean curvature across the slices, divided by the mean of its
        size; 1 without bands, 2 if all of the curvature is bands; NaN for fewer than :data:`PERIODS` periods.
    """
    bend, body = slices[2:] - 2 * slices[1:-1] + slices[:-2], body[1:-1]
    if len(bend) < PERIODS * period or period < 2:
        return float("nan")
    size = _mean(np.abs(bend[body]))
    return 1 + _amplitude(np.array([_mean(b[m]) for b, m in zip(bend, body, strict=True)]), period) / max(size, 1e-10)


def false_texture(before: np.ndarray, after: np.ndarray, at: np.ndarray) -> float:
    """Texture of flat regions of a result, divided by that of the acquired slices.

    A region is flat where an acquired slice and its neighbors have little contrast in plane; across the slices the
    contrast may be large, as at a plate.

    Args:
        before, after: (m, X, Y) acquired slices and (n, X, Y) result, on one in-plane grid, see :func:`slices_of`.
        at: (n,) position of each slice of the result, in acquired slices.

    Returns:
        The ratio of root mean square deviations in windows of 5 x 5 voxels; NaN where nothing is flat.
    """
    spread = _local_deviation(before)
    around = np.pad(spread, ((1, 1), (0, 0), (0, 0)), mode="edge")
    wide = np.maximum(spread, np.maximum(around[:-2], around[2:]))
    body = body_of(before)
    flat = body & (wide <= _quantile(wide[body], FLAT))
    nearest = np.clip(np.round(at).astype(int), 0, len(before) - 1)
    inside = flat[nearest]
    if not inside.any():
        return float("nan")
    seen = (SEEN * float(np.subtract(*np.percentile(before, (99.9, 0.1))))) ** 2
    made, there = ((deviation[inside] ** 2).mean() + seen for deviation in (_local_deviation(after), spread[nearest]))
    return min(float(np.sqrt(made / there)), LARGEST) if there else 1.0


def combs(slices: np.ndarray, body: np.ndarray, period: float) -> float:
    """How much the curvature across the slices repeats with the slice spacing along strong edges.

    The teeth of a comb, and the steps of a contour, bend a result at every acquired slice and not between.

    Args:
        slices, body, period: as of :func:`stripes`.

    Returns:
        The highest divided by the lowest mean curvature of the periodic part; 1 without combs, NaN for fewer than
        :data:`PERIODS` periods.
    """
    if len(slices) < PERIODS * period:
        return float("nan")
    slope = sum(np.square(each) for each in np.gradient(moving_mean(slices, max(round(period), 1)), axis=(1, 2)))
    edge = slope >= _quantile(slope[body], 0.95, math.ceil)
    bend = np.abs(slices[2:] - 2 * slices[1:-1] + slices[:-2])
    return _periodic(np.array([_mean(b[e]) for b, e in zip(bend, edge[1:-1], strict=True)]), period)


def _periodic(series: np.ndarray, period: float) -> float:
    """Highest divided by lowest value of the part of a positive series that has a period, in samples."""
    n = len(series)
    if n < PERIODS * period or period < 2 or not np.isfinite(series).any():
        return float("nan")
    floor = 1e-3 * series[np.isfinite(series)].mean() + 1e-12
    return min(float(np.exp(2 * _amplitude(np.log(np.maximum(series, floor)), period))), LARGEST)


def _amplitude(series: np.ndarray, period: float) -> float:
    """Amplitude of the part of a series that has a period, in samples, beside what changes more slowly."""
    n, at, known = len(series), np.arange(len(series)), np.isfinite(series)
    if not known.any():
        return 0.0
    series = np.where(known, series, np.median(series[known]))
    slow = [np.cos(np.pi * k * (at + 0.5) / n) for k in range(max(int(n / period), 2))]  # up to half the frequency
    waves = [np.cos(2 * np.pi * at / period), np.sin(2 * np.pi * at / period)][: 1 if period == 2 else 2]
    design = np.stack([*slow, *waves], axis=1)
    fitted = np.linalg.lstsq(design, series, rcond=None)[0]
    free = max(n - design.shape[1], 1)
    chance = float(np.sqrt(2 / n * ((series - design @ fitted) ** 2).sum() / free))
    height = float(np.linalg.norm(fitted[len(slow) :]))
    return height if height > CHANCE * chance else 0.0


def _local_deviation(slices: np.ndarray) -> np.ndarray:
    """Standard deviation in windows of 5 x 5 voxels of each slice (n, X, Y)."""
    deviation = np.empty_like(slices)
    for start in range(0, len(slices), _AT_ONCE):
        part = slices[start : start + _AT_ONCE]
        mean, of_squares = (moving_mean(moving_mean(values, 5, axis=1), 5, axis=2) for values in (part, part**2))
        np.sqrt(np.maximum(of_squares - mean**2, 0), out=deviation[start : start + _AT_ONCE])
    return deviation


def moving_mean(values: np.ndarray, size: int, *, axis: int = 0) -> np.ndarray:
    """Means of neighbors along an axis, which is mirrored at its ends; importing SciPy for them takes longer."""
    ends = [(size // 2, (size - 1) // 2) if a == axis else (0, 0) for a in range(values.ndim)]
    lines, count = np.moveaxis(np.pad(values, ends, mode="symmetric"), axis, 0), values.shape[axis]
    total = lines[:count].copy()
    for first in range(1, size):
        total += lines[first : first + count]
    total /= size
    return np.moveaxis(total, 0, axis)


def body_of(voxels: np.ndarray) -> np.ndarray:
    """Voxels above the middle between the 1st percentile and the mean of what is above it: no air, no padding."""
    low = float(np.percentile(voxels, 1))
    high = voxels[voxels > low]
    return voxels > (low + float(high.mean())) / 2 if high.size else np.ones(voxels.shape, bool)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _middle_mean(values: np.ndarray) -> float:
    """Mean of the lower three quarters: edges do not count."""
    return _mean(values[values <= _quantile(values, 0.75)]) if values.size else float("nan")


def _quantile(values: np.ndarray, fraction: float, to_rank: Callable[[float], int] = math.floor) -> np.floating:
    """The value at or next to a quantile; NumPy, which interpolates, takes twice as long."""
    rank = to_rank(fraction * (values.size - 1))
    return np.partition(values, rank)[rank]
