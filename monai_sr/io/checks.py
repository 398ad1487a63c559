"""Checks of every volume from any source: three axes, finite voxels, contrast, a valid grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import acquisition_meta
from ..dicom import TOGETHER
from ..errors import ImageError, UsageError, warn
from ..grid import ArrayImage, Grid
from ..profiles import plausible

SHEAR = 1e-3
"""Maximum cosine between two axes; a larger one is not a rounding error."""

FILL = 1e30
"""No scanner stores values this far from 0; writers fill empty voxels with the limits of float32, 3.4e38."""

ROUNDED = 1e-6
"""Fraction by which a label may differ from a whole number: 166 times a float32 scale of 1/166 is not 1."""

STEPS = 256
"""Minimum number of float32 values in the range of a volume, as many as 8 bits have; a large offset leaves fewer."""


def make_volume(
    voxels: np.ndarray,
    affine: np.ndarray,
    meta: dict[str, Any],
    *,
    path: str | Path,
    volume: int | str | None = None,
    nan: str = "fill",
    is_mask: bool = False,
) -> ArrayImage:
    """Three-dimensional volumes of finite voxels on a sound grid, or an error; ``path`` is what it is called.

    A mask may be constant. Its missing voxels are background, and a scale in its header rounds labels.
    """
    voxels = voxels.reshape(*voxels.shape[:3], *(n for n in voxels.shape[3:] if n > 1))  # AFNI leaves the fourth at 1
    size = " x ".join(map(str, voxels.shape))
    if voxels.ndim < 3 or min(voxels.shape[:3]) == 1:
        raise ImageError("E-IMG-2D", f"{size} voxels: a single slice")
    volumes = _chosen(voxels, volume)
    if volume not in TOGETHER:
        meta.pop("time_step", None)
    missing = ~((volumes > -FILL) & (volumes < FILL))  # NaN as well
    if missing.all(axis=(1, 2, 3)).any():
        raise ImageError("E-IMG-NAN", "no voxel is finite", fix="check how the file was made")
    count = f"{missing.sum()} of {missing.size} voxels are NaN, infinite or fill values (beyond {FILL:g})"
    if missing.any() and nan == "refuse":
        raise ImageError("E-IMG-NAN", count)
    for one, without in zip(volumes, missing, strict=True):
        known = one[~without] if without.any() else one
        low, high = float(known.min()), float(known.max())
        if low == high and not is_mask:
            raise ImageError("E-IMG-CONST", f"every voxel is {low:g}")
        if (steps := (high - low) / np.spacing(np.float32(max(-low, high)))) < STEPS and not is_mask:
            problem = f"values of {low:.9g} to {high:.9g}, of which float32 holds {steps:.0f} (minimum {STEPS})"
            raise ImageError("E-IMG-CONST", problem, fix="subtract the offset of the values")
    if missing.any():
        lowest = 0.0 if is_mask else volumes[~missing].min()
        facts = {"missing": int(missing.sum()), "voxels": missing.size, "value": float(lowest)}
        text = "{missing} of {voxels} voxels are NaN, infinite or fill values (beyond 1e30); {value:g} replaces them"
        warn("W-IMG-NAN", text, path=path, facts=facts)
        volumes = np.where(missing, lowest, volumes)
        meta |= acquisition_meta(nan_voxels=missing)
    if is_mask and (np.abs(volumes - np.rint(volumes)) <= ROUNDED * np.abs(volumes)).all():
        volumes = np.rint(volumes)
    grid = Grid((volumes.shape[1], volumes.shape[2], volumes.shape[3]), _unsheared(affine))
    if plausible(min(grid.spacing)) is None or plausible(max(grid.spacing)) is None:
        raise ImageError(
            "E-HDR-UNITS",
            f"spacing {' x '.join(f'{s:.4g}' for s in grid.spacing)} mm is implausible for CT or MR "
            "(expected 0.05 to 50 mm)",
        )
    meta = {"filename_or_obj": str(path), "space": "RAS"} | meta | {"spatial_shape": np.array(grid.shape)}
    return ArrayImage(np.ascontiguousarray(volumes), grid.affine, meta)


def _chosen(voxels: np.ndarray, volume: int | str | None) -> np.ndarray:
    """(C, X, Y, Z): the one volume there is, the one that was chosen, or all."""
    size = " x ".join(map(str, voxels.shape))
    if voxels.ndim > 4:
        problem = f"{size} voxels: {voxels.ndim} axes, at most 4 are read"
        raise ImageError("E-IMG-4D", problem, fix="split it into files of one volume")
    volumes = np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
    if volume in TOGETHER:
        return volumes
    if volume is None and len(volumes) > 1:
        problem = f"{size} voxels: {len(volumes)} volumes in one file, one is needed"
        fix = f"choose one by --volume 0 to {len(volumes) - 1}, or take each by --volume all"
        raise ImageError("E-IMG-4D", problem, fix=fix)
    index = int(volume or 0)
    if not 0 <= index < len(volumes):
        problem = f"volume {index} was requested, the file has {len(volumes)}"
        raise UsageError("E-USE", problem, fix=f"give 0 to {len(volumes) - 1} or all")
    return volumes[index : index + 1]


def _unsheared(affine: np.ndarray) -> np.ndarray:
    """The affine with axes at right angles, if it is nearly so already (polar decomposition)."""
    affine = np.array(affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise ImageError("E-HDR-AFFINE", "the affine has NaN or infinite values")
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if (spacing <= 0).any():
        raise ImageError("E-HDR-SPACING", f"spacing {tuple(map(float, spacing))} mm, each must be above 0")
    directions = affine[:3, :3] / spacing
    shear = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if shear > SHEAR:
        problem = f"the axes are not at right angles (cosine {shear:.3g}, at most {SHEAR} allowed)"
        raise ImageError("E-HDR-SHEAR", problem)
    if shear > 1e-6:
        left, _, right = np.linalg.svd(directions)
        affine[:3, :3] = (left @ right) * spacing
    return affine
