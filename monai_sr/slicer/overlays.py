"""A volume to lay over a result: what the network added."""

from __future__ import annotations

from monai.data import MetaTensor
from torch import Tensor

from ..inference import super_resolve
from ..slices import Profile
from ..transforms import grid_of, on_grid


def difference_map(
    image: MetaTensor,
    sr: MetaTensor,
    *,
    spacing: float | None = None,
    factor: float | None = None,
    slice_thickness: float | None = None,
    profile: Profile | None = None,
    axis: int | None = None,
) -> MetaTensor:
    """What a result has beyond the consistent spline: all that came from the network.

    Args:
        image: (1, X, Y, Z) the acquired volume.
        sr: (1, X', Y', Z') the result.
        spacing, factor, slice_thickness, profile, axis: what it was asked for by.

    Returns:
        float32 on the grid of ``sr``, in the file's units.
    """
    told = {"slice_thickness": slice_thickness, "profile": profile or sr.meta.get("slice_profile"), "axis": axis}
    spline = super_resolve(image, None, spacing=spacing, factor=factor, **told)
    return _overlay(sr.as_tensor() - spline.as_tensor(), sr)


def _overlay(voxels: Tensor, like: MetaTensor) -> MetaTensor:
    made = on_grid(voxels, grid_of(like), like)
    made.meta["stored_dtype"] = "float32"
    return made
