"""The values that a result may have, and the thin slices within them that agree best with the acquired ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from ..grid import blocks
from ..intensities import CT_LEAST, IntensityRange, Modality, Voxels, beside, empty_like, library_of
from ..slices import SliceModel

OVERSHOOT, FLAT_OVERSHOOT = 0.5, 0.25
"""Maximum overshoot of a result beyond the acquired values, and beyond neighboring slices that are alike, as a fraction
of their range. On the validation volumes it is exceeded only where slices contradict their profile."""

LOCAL_OVERSHOOT = 0.5
"""A voxel may exceed the range of the three slices around it by this fraction of their range."""

PROJECTIONS, RELAXATION = 30, 1.3
"""Maximum number of projections of a line with impossible values in :func:`hold`, and their step. On an unsigned FLAIR
0.03 % of the voxels are then still missed, all beside a background of 0; without momentum 0.14 %."""


@dataclass(frozen=True)
class Bounds:
    """The values that a result may have, in the units of its slices.

    Attributes:
        low, high: of any voxel.
        overshoot: how far a voxel may be beyond slices around it that are alike.
        tolerance: largest violation and disagreement that are ignored.
    """

    low: float
    high: float
    overshoot: float
    tolerance: float


def possible_values(
    slices: Voxels, intensities: IntensityRange, modality: Modality, stored_dtype: np.dtype, *, is_estimated: bool
) -> Bounds | None:
    """The range of values that a result may have, in network units; None if it is not limited.

    A CT is limited by the minimum of scanners, unsigned integers by 0. Signed and floating-point signal is not
    limited.

    Args:
        slices: the acquired ones, in network units.
        intensities: their normalization.
        modality: "CT" or "MR".
        stored_dtype: of the file.
        is_estimated: the modality is estimated from the values; floating-point values are then not limited.
    """
    is_ct = modality == "CT" and (not is_estimated or stored_dtype.kind in "iu")
    if not is_ct and stored_dtype.kind != "u":
        return None
    least, most = float(slices.min()), float(slices.max())
    lowest = float(intensities.normalize(np.array(CT_LEAST if is_ct else 0.0, np.float32)))
    return Bounds(
        low=min(least, lowest),
        high=most + OVERSHOOT * (most - least),
        overshoot=FLAT_OVERSHOOT * (most - least),
        tolerance=0.5 / (intensities.high - intensities.low),
    )


def hold(model: SliceModel, sr: Voxels, lr: Voxels, bounds: Bounds) -> Voxels:
    """``sr`` within bounds, and in agreement with ``lr`` as far as they allow.

    Lines with a value beyond the bounds are projected in turn onto the bounds and, orthogonally, onto
    what agrees, both of which are convex, with momentum. Where nothing satisfies both, because the slices
    contradict their profile, the bounds win.

    Args:
        model: the relation of the slices.
        sr: (..., n) thin slices that agree with ``lr``; changed in place.
        lr: (..., m) the acquired slices.
        bounds: in their units.

    Returns:
        ``sr``; lines within the bounds change by no more than the tolerance.

    Source: Gubin 1967, "The method of projections for finding the common point of convex sets"; Nesterov 1983,
    "A method of solving a convex programming problem with convergence rate O(1/k²)".
    """
    library = library_of(sr)
    beyond = library.any((sr < bounds.low - bounds.tolerance) | (sr > bounds.high + bounds.tolerance), axis=-1)
    if bool(beyond.any()):
        x, y = sr[beyond], lr[beyond]
        for part in blocks(len(x), x.shape[-1]):
            x[part] = _projected(model, x[part], y[part], bounds)
        sr[beyond] = x
    library.clip(sr, bounds.low, bounds.high, out=sr)  # other lines by less than the tolerance
    return sr


def _projected(model: SliceModel, x: Voxels, y: Voxels, bounds: Bounds) -> Voxels:
    """Lines (k, n) within their bounds whose averages are as near to ``y`` (k, m) as they allow."""
    library, before = library_of(x), x
    low, high = _around(model, y, bounds)
    held, left = empty_like(x, x.shape), beside(np.arange(len(x)), x)
    for step in range(PROJECTIONS + 1):
        inside = library.clip(x, low, high)
        held[left] = inside
        off = library.any(abs(y - model.acquire(inside)) > bounds.tolerance, axis=-1)
        if step == PROJECTIONS or not bool(off.any()):
            break
        left, y, low, high, before = left[off], y[off], low[off], high[off], before[off]
        x = x[off] + RELAXATION * (inside[off] - x[off])
        x += model.project(y - model.acquire(x))
        x, before = x + step / (step + 3) * (x - before), x
    return held


def _around(model: SliceModel, lr: Voxels, bounds: Bounds) -> tuple[Voxels, Voxels]:
    """The bounds of each thin slice (..., n), narrower where the thick slices around it are alike."""
    library, nearest = library_of(lr), beside(model.nearest, lr)
    ends = library.concatenate([lr[..., :1], lr, lr[..., -1:]], axis=-1)
    three = ends[..., :-2], ends[..., 1:-1], ends[..., 2:]
    least, most = (pick(pick(*three[:2]), three[2])[..., nearest] for pick in (library.minimum, library.maximum))
    room = LOCAL_OVERSHOOT * (most - least) + bounds.overshoot
    low, high = library.clip(least - room, bounds.low, None), library.clip(most + room, None, bounds.high)
    return cast(tuple[Voxels, Voxels], (low, high))
