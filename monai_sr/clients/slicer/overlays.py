"""A volume to lay over a result: what the network added."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor

from ...grid import grid_of, on_grid
from ...inference import super_resolve


def difference_map(image: MetaTensor, sr: MetaTensor, **asked: Any) -> MetaTensor:
    """What a result has beyond the consistent spline: all that came from the network.

    Args:
        image: (1, X, Y, Z) the acquired volume.
        sr: (1, X', Y', Z') the result.
        asked: the options of :func:`monai_sr.inference.super_resolve` that it was made by.

    Returns:
        float32 on the grid of ``sr``, in the file's units.
    """
    made = on_grid(sr.as_tensor() - super_resolve(image, None, **asked).as_tensor(), grid_of(sr), sr)
    made.meta["stored_dtype"] = "float32"
    return made
