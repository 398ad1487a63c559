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
import torch
import torch.nn.functional as F
from torch import Tensor

from ..acquired import Acquired
from ..errors import UsageError
from ..grid import Grid, Image, grid_of, on_grid
from ..intensities import data_range
from ..slices import apply_along, profile_matrix

_BLOCK = 4_000_000
"""Voxels processed at once, to save memory."""


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
    deviations = []
    for channel, (lr, sr) in enumerate(zip(acquired.voxels, result.as_tensor(), strict=True)):
        floor, slope = constants_for(constants, modality, spacing / grid.spacing[axis])
        sigma = torch.sqrt(
            (floor * unit_of(lr, modality)) ** 2 + (slope * through_plane_detail(sr, grid, axis, spacing)) ** 2
        )
        outside = acquired.outside(sr, channel)
        deviations.append(sigma if outside is None else torch.where(outside, 0.0, sigma))
    return on_grid(torch.stack(deviations), grid, result)


def unit_of(lr: Tensor, modality: str) -> float:
    """Unit of the constant ``a``: HU, or the spread of an MR volume (99.9th minus 0.1st percentile)."""
    return 1.0 if modality == "CT" else data_range(lr.cpu().numpy())


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


def through_plane_detail(sr: Tensor, grid: Grid, axis: int, slice_spacing: float) -> Tensor:
    """(X, Y, Z) difference from the average over ``slice_spacing``, root mean square over 3 x 3 x 3 voxels.

    Args:
        sr: (X, Y, Z) in any units.
        grid: its grid.
        axis: through-plane axis.
        slice_spacing: spacing of the acquired slices, mm.
    """
    at = grid.positions(axis)
    smooth = profile_matrix(at, at, slice_thickness=slice_spacing, profile="box")
    lines = torch.movedim(sr.float(), axis, -1)
    detail = torch.empty_like(lines)
    rows = max(1, _BLOCK // (lines.shape[1] * lines.shape[2]))
    for start in range(0, len(lines), rows):
        first, last = max(0, start - 1), min(len(lines), start + rows + 1)
        part = lines[first:last]
        squared = (part - apply_along(smooth, part)) ** 2
        padded = F.pad(squared[None, None], (1, 1, 1, 1, 1, 1), mode="replicate")
        mean = F.avg_pool3d(padded, 3, stride=1)[0, 0]
        detail[start : start + rows] = mean[start - first :][:rows].sqrt()
    return torch.movedim(detail, -1, axis)
