"""Uncertainty of a result: the predicted standard deviation of the error of each voxel, in HU or signal units.

A network makes errors where it adds detail across the slices. So the error is predicted from the through-plane
detail ``h`` of the result: the difference from its average over one slice spacing, as root mean square over
3 x 3 x 3 voxels. ``σ² = a² + (c h)²``; ``a`` and ``c`` are fitted on the training volumes for each modality and
factor, and scaled together on the validation volumes (:mod:`monai_sr.evaluation.calibration`).

An ensemble of eight flips predicts no better, at eight times the work (``python -m tests.benchmarks.uncertainty``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..acquired import Acquired
from ..errors import UsageError
from ..grid import Grid, Image, blocks, grid_of, on_grid
from ..intensities import as_array, data_range
from ..slices import Banded, profile_weights
from .artifacts import moving_mean


def uncertainty_map(
    acquired: Image | Acquired, result: Image, constants: Mapping[str, Any], *, axis: int | None = None
) -> Image:
    """The predicted standard deviation of the error of each voxel of a result.

    Args:
        acquired: (C, X, Y, Z) thick slices, or their Acquired record.
        result: (C, X', Y', Z') result of a bundle.
        constants: those of the bundle, ``model.calibration["uncertainty"]``.
        axis: through-plane axis of ``acquired`` as a MetaTensor. Default: that of the metadata, otherwise the axis
            along which the result is finer.

    Returns:
        (C, X', Y', Z') float32 on the grid of the result, in its units; 0 in padding.

    Raises:
        UsageError: the bundle was not calibrated, or not for this modality.
    """
    grid = grid_of(result)
    if not isinstance(acquired, Acquired):
        acquired = Acquired.of(acquired, axis=axis, refined=grid)
    axis, spacing, modality = acquired.axis, acquired.slice_spacing, acquired.modality
    deviations = np.empty(result.shape, np.float32)
    for channel, (lr, sr, sigma) in enumerate(zip(acquired.array, as_array(result), deviations, strict=True)):
        floor, slope = constants_for(constants, modality, spacing / grid.spacing[axis])
        detail = through_plane_detail(sr, grid, axis, spacing)
        detail *= slope
        np.square(detail, out=detail)
        detail += (floor * unit_of(lr, modality)) ** 2
        np.sqrt(detail, out=sigma)
        outside = acquired.outside(sr, channel)
        if outside is not None:
            sigma[outside] = 0
    return on_grid(deviations, grid, result)


def unit_of(lr: np.ndarray, modality: str) -> float:
    """Unit of the constant ``a``: HU, or the spread of an MR volume (99.9th minus 0.1st percentile)."""
    return 1.0 if modality == "CT" else data_range(lr)


def constants_for(constants: Mapping[str, Any], modality: str, factor: float) -> tuple[float, float]:
    """``a`` and ``c`` at a factor, interpolated between the measured factors.

    Raises:
        UsageError: the bundle has none for this modality.
    """
    fitted = constants.get(modality)
    if not fitted:
        problem = f"this bundle was not calibrated for {modality}, so the uncertainty cannot be predicted"
        raise UsageError("E-USE", problem, fix="calibrate it with monai-sr calibrate, or omit --uncertainty")
    floor, slope = (float(np.interp(factor, fitted["factor"], fitted[name])) for name in ("floor", "slope"))
    return floor, slope


def through_plane_detail(sr: np.ndarray, grid: Grid, axis: int, slice_spacing: float) -> np.ndarray:
    """(X, Y, Z) difference from the average over ``slice_spacing``, root mean square over 3 x 3 x 3 voxels.

    Args:
        sr: (X, Y, Z) in any units.
        grid: its grid.
        axis: through-plane axis.
        slice_spacing: spacing of the acquired slices, mm.
    """
    at = grid.positions(axis)
    smooth = Banded(profile_weights(at, at, slice_thickness=slice_spacing, profile="box"))
    lines = np.moveaxis(sr, axis, -1)
    detail = np.empty(lines.shape, np.float32)
    for rows in blocks(len(lines), lines[0].size):
        first = max(0, rows.start - 1)
        part = lines[first : rows.stop + 1].astype(np.float32)
        mean = np.square(part - smooth(part))
        for a in range(3):
            mean = moving_mean(mean, 3, axis=a)
        np.sqrt(mean[rows.start - first :][: rows.stop - rows.start], out=detail[rows])
    return np.moveaxis(detail, -1, axis)
