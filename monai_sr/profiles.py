"""Which slice profile was at work, estimated from the slices themselves.

A header tells how thick slices are, never how they weigh what lies within: a selective pulse or a mean
of thin CT slices is nearly a box, which blurs as little as a Gaussian of 0.68 of its width. Taken for a
Gaussian of the full width, such slices are sharpened too much. Anatomy looks much the same in plane and
through plane, so slices blurred in plane by the right profile should vary over one slice step as they
vary from slice to slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .slices import Profile, apply_along, profile_matrix

FEWEST_SLICES = 12
"""Below this the differences between slices tell too little."""

THICKNESS_RANGE = (0.7, 1.3)
"""Slice thickness in slice spacings: beyond, the two profiles were not tried, and a Gaussian is taken."""

THRESHOLDS = 0.03, 0.065
"""Scores above which slices are taken for a box: where they are less than :data:`FAR` in-plane voxels apart,
and beyond. There the score scatters more and a box that is missed costs less, so more proof is asked for."""

FAR = 2.65

_LONGER_STEP = 0.75
_LINES = 2_000_000
_INTENSITIES = -0.2, 1.2


def estimate_profile(
    lr: Tensor, *, in_plane: Sequence[float], positions: np.ndarray, slice_thickness: float | np.ndarray
) -> Profile | None:
    """ "box" where slices are sharper than a Gaussian profile of their thickness could leave them.

    Let E(k) be the mean squared difference of voxels k slice steps apart. The score is what
    ``log E(1)/E(2) − ¾ log E(2)/E(3)`` is through plane, less what it is in plane after a blur by the
    profile; the mean for both profiles and both in-plane axes. The second ratio hardly depends on the
    profile and takes the anatomy's own anisotropy away.

    Args:
        lr: (X, Y, m) acquired slices, normalized.
        in_plane: spacing of X and Y, mm.
        positions: (m,) increasing centers of the slices, mm.
        slice_thickness: FWHM of the profile, mm; (m,) where slices differ.

    Returns:
        None where there is too little to go by: few or unevenly spaced slices, slices of different
        thickness, large gaps or overlaps, a field of view of a few slice steps.

    Source: measured by ``python -m tests.benchmarks.profiles``, which tells how often it is wrong.
    """
    score = profile_score(lr, in_plane=in_plane, positions=positions, slice_thickness=slice_thickness)
    if score is None:
        return None
    return "box" if score > threshold(in_plane, positions) else "gaussian"


def threshold(in_plane: Sequence[float], positions: np.ndarray) -> float:
    """The one of :data:`THRESHOLDS` that holds for such slices."""
    near, far = THRESHOLDS
    return near if np.diff(positions).mean() < FAR * min(in_plane) else far


def profile_score(
    lr: Tensor, *, in_plane: Sequence[float], positions: np.ndarray, slice_thickness: float | np.ndarray
) -> float | None:
    """The score of :func:`estimate_profile`; None where there is too little to go by."""
    steps, thickness = np.diff(positions), np.unique(slice_thickness)
    if len(positions) < FEWEST_SLICES or np.ptp(steps) > 0.01 * steps.mean() or len(thickness) > 1:
        return None
    step, width = float(steps.mean()), float(thickness[0])
    least, most = THICKNESS_RANGE
    if not least <= width / step <= most:
        return None
    lr = lr.float().clamp(*_INTENSITIES)
    scores = [
        _sharpness(lines, 2, lag=1) - _sharpness(_blurred(lines, spacing, step, width, profile), 0, lag=2)
        for lines, spacing in _lines_along(lr, in_plane)
        for profile in ("gaussian", "box")
        if lines.shape[0] * spacing > 6 * step + 2 * width
    ]
    score = float(np.mean(scores)) if scores else float("nan")
    return score if np.isfinite(score) else None


def _lines_along(lr: Tensor, in_plane: Sequence[float]) -> list[tuple[Tensor, float]]:
    """The volume with each in-plane axis first, and fewer lines along it where there are many."""
    turned = [(lr, in_plane[0]), (lr.transpose(0, 1), in_plane[1])]
    return [(lines[:, :: max(1, lines.numel() // _LINES)], spacing) for lines, spacing in turned]


def _blurred(lines: Tensor, spacing: float, step: float, width: float, profile: Profile) -> Tensor:
    """Lines along the first axis as a profile would have seen them, every half slice step."""
    places = np.arange(lines.shape[0]) * spacing
    margin = 0.8 * max(step, width)
    centers = np.arange(margin, places[-1] - margin, step / 2)
    return apply_along(profile_matrix(places, centers, slice_thickness=width, profile=profile), lines, 0)


def _sharpness(voxels: Tensor, axis: int, *, lag: int) -> float:
    """``log E(1)/E(2) − ¾ log E(2)/E(3)``, a slice step being ``lag`` voxels; NaN where nothing varies."""
    n = voxels.shape[axis]
    squares = [(voxels.narrow(axis, k, n - k) - voxels.narrow(axis, 0, n - k)) ** 2 for k in (lag, 2 * lag, 3 * lag)]
    means = [float(square.mean()) for square in squares]
    if not min(means) > 0:
        return math.nan
    one, two, three = map(math.log, means)
    return (one - two) - _LONGER_STEP * (two - three)
