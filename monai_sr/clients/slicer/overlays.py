"""A volume to lay over a result: what the network added."""

from __future__ import annotations

from monai.data import MetaTensor

from ...acquired import Acquired, acquisition_meta
from ...grid import grid_of, on_grid
from ...inference import super_resolve_acquired


def difference_map(
    acquired: Acquired, sr: MetaTensor, *, spacing: float | None = None, factor: float | None = None
) -> MetaTensor:
    """What a result has beyond the consistent spline: all that came from the network.

    Args:
        acquired: the volume that it was made of.
        sr: (1, X', Y', Z') the result.
        spacing, factor: as they were wanted.

    Returns:
        float32 on the grid of ``sr``, in the file's units.
    """
    spline = super_resolve_acquired(acquired, None, spacing=spacing, factor=factor)
    difference = on_grid(sr.as_tensor() - spline.as_tensor(), grid_of(sr), sr)
    difference.meta |= acquisition_meta(stored_dtype="float32")
    return difference
