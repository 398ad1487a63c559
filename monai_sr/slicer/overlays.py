"""Volumes to lay over a result: what the network added, and what contradicts the acquired slices."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from ..inference import super_resolve
from ..slices import Profile, apply_along, profile_matrix
from ..transforms import grid_of, on_grid


def difference_map(image: MetaTensor, sr: MetaTensor, **asked: Any) -> MetaTensor:
    """What a result has beyond the consistent spline: all that came from the network.

    Args:
        image: (1, X, Y, Z) the acquired volume.
        sr: (1, X', Y', Z') the result.
        asked: the options of :func:`monai_sr.inference.super_resolve` that it was made by.

    Returns:
        float32 on the grid of ``sr``, in the file's units.
    """
    return _overlay(sr.as_tensor() - super_resolve(image, None, **asked).as_tensor(), sr)


def consistency_map(
    image: MetaTensor,
    sr: MetaTensor,
    *,
    slice_thickness: float | None = None,
    axis: int | None = None,
    profile: Profile = "gaussian",
) -> MetaTensor:
    """``y - A x``: what the acquired slices hold beyond the result averaged by the slice profile.

    Args:
        image: (1, X, Y, Z) the acquired volume, of even slices.
        sr: (1, X', Y', Z') the result.
        slice_thickness: FWHM of the profile, mm. Default: what the image's metadata tell, else the slice spacing.
        axis: the through-plane axis, default the one of the largest spacing.
        profile: "gaussian" or "box".

    Returns:
        float32 on the grid of ``image``, in the file's units.
    """
    grid = grid_of(image)
    if grid_of(sr).shape == grid.shape:  # passed through: the result is what was acquired
        return _overlay(image.as_tensor().float() - sr.as_tensor(), image)
    axis = grid.through_plane_axis if axis is None else axis
    thickness = slice_thickness or image.meta.get("slice_thickness") or grid.spacing[axis]
    thin, thick = grid_of(sr).positions(axis), grid.positions(axis)
    acquisition = profile_matrix(thin, thick, slice_thickness=thickness, profile=profile)
    return _overlay(image.as_tensor().float() - apply_along(acquisition, sr.as_tensor(), axis + 1), image)


def _overlay(voxels: Tensor, like: MetaTensor) -> MetaTensor:
    made = on_grid(voxels, grid_of(like), like)
    made.meta["stored_dtype"] = "float32"
    return made
