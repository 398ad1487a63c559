"""How far a bundle may be trusted, measured on the volumes it was trained and validated with.

``monai-sr calibrate`` writes what is found here into the bundle's ``metadata.json``, where every run
finds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop

from .bundles import SPLINE, Model, load_bundle
from .conditions import Condition, acquire
from .consistency import measure_consistency
from .images import read_image, write_json
from .transforms import grid_of

FACTORS = (2, 3, 4, 5)

THICKNESS_RATIOS = (0.5, 1.0, 1.5)

MARGIN = 2.0
"""A result is refused when it is so many times worse than the worst of validation."""


def calibrate(
    model: Model,
    training: Sequence[str | Path],
    validation: Sequence[str | Path],
    *,
    crop: int = 96,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Everything a bundle's metadata tells of its trust.

    Args:
        model: of the bundle.
        training, validation: volumes of thin slices.
        crop: voxels a side, from the middle of each.
        progress: told the share that is done.
    """
    return {"consistency": consistency_limit(model, validation, crop=crop // 2, progress=progress)}


def consistency_limit(
    model: Model,
    volumes: Sequence[str | Path | MetaTensor],
    *,
    factors: Sequence[float] = FACTORS,
    crop: int = 48,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The limit on the NRMSE of a slice: :data:`MARGIN` times the worst that validation shows.

    Results are measured as they are written: rounded, and held at the ends of the volume's type. That,
    undershoot beside a background of 0 above all, is what most of the worst is made of. So it hardly depends
    on the network, whose results are measured on the middle of each volume; those of the consistent spline
    on all of it, and under thinner and thicker slices too.

    Args:
        model: of the bundle.
        volumes: of thin slices; files or (1, X, Y, Z) with affine.
        factors: thin slices per thick one.
        crop: voxels a side that the network is given, from the middle of each.
        progress: told the share that is done.

    Returns:
        ``limit``, the ``worst`` score and how many ``cases`` it is the worst of.
    """
    scores = []
    for index, volume in enumerate(volumes):
        hr = volume if isinstance(volume, MetaTensor) else read_image(volume)
        dtype = hr.meta.get("stored_dtype", np.float32)
        middle = cast(MetaTensor, CenterSpatialCrop((crop, crop, crop))(hr))
        for done, factor in enumerate(factors, 1):
            cases = [(middle, model, 1.0), *((hr, load_bundle(SPLINE), ratio) for ratio in THICKNESS_RATIOS)]
            for truth, method, ratio in cases:
                case = acquire(truth, Condition(factor, thickness_ratio=ratio), slice_axis(truth))
                told: dict[str, Any] = {"slice_thickness": case.slice_thickness, "axis": case.axis}
                sr = method(case.lr, factor=factor, **told)
                scores.append(measure_consistency(case.lr, sr, stored_dtype=dtype, **told).score)
            if progress:
                progress((index + done / len(factors)) / len(volumes))
    worst = max(scores)
    return {"limit": _rounded_up(MARGIN * worst), "worst": float(f"{worst:.3g}"), "cases": len(scores)}


def slice_axis(hr: MetaTensor) -> int:
    """The axis of the largest spacing, 2 where there is none."""
    grid = grid_of(hr)
    return 2 if grid.is_isotropic else int(np.argmax(grid.spacing))


def write_trust(bundle: Path, found: Mapping[str, Any]) -> Path:
    """Put what was found into the ``metadata.json`` of a bundle, beside what it tells already.

    Raises:
        OutputError: it cannot be written.
    """
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["trust"] = metadata.get("trust", {}) | dict(found)
    return write_json(metadata, path, indent=4)


def _rounded_up(value: float) -> float:
    """To two digits."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.2g}")
