"""Volumes to lay over a result: what the network added, and what contradicts the acquired slices."""

from __future__ import annotations

from monai.data import MetaTensor
from torch import Tensor

from ..inference import super_resolve
from ..slices import Profile, apply_along, profile_matrix
from ..transforms import grid_of, on_grid


def difference_map(
    image: MetaTensor,
    sr: MetaTensor,
    *,
    spacing: float | None = None,
    factor: float | None = None,
    slice_thickness: float | None = None,
    axis: int | None = None,
) -> MetaTensor:
    """What a result has beyond the consistent spline: all that came from the network.

    Args:
        image: (1, X, Y, Z) the acquired volume.
        sr: (1, X', Y', Z') the result.
        spacing, factor, slice_thickness, axis: what it was asked for by.

    Returns:
        float32 on the grid of ``sr``, in the file's units.
    """
    spline = super_resolve(image, None, spacing=spacing, factor=factor, slice_thickness=slice_thickness, axis=axis)
    return _overlay(sr.as_tensor() - spline.as_tensor(), sr)


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
    axis = grid.through_plane_axis if axis is None else axis
    thickness = slice_thickness or image.meta.get("slice_thickness") or grid.spacing[axis]
    thin, thick = grid_of(sr).positions(axis), grid.positions(axis)
    acquisition = profile_matrix(thin, thick, slice_thickness=thickness, profile=profile)
    return _overlay(image.as_tensor().float() - apply_along(acquisition, sr.as_tensor(), axis + 1), image)


def _overlay(voxels: Tensor, like: MetaTensor) -> MetaTensor:
    made = on_grid(voxels, grid_of(like), like)
    made.meta["stored_dtype"] = "float32"
    return made
