"""``verify``: whether a result agrees with the acquired volume."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, cast

from monai.data import MetaTensor

from ..batch.record import record_beside
from ..bundles import read_calibration
from ..dicom import TOGETHER, is_dicom_source
from ..errors import naming
from ..files import write_json
from ..inference import acquire
from ..io.images import check_writable, read_image, write_image
from ..options import Acquisition
from ..trust.artifacts import check_artifacts, measure_artifacts
from ..trust.consistency import measure_consistency
from .terminal import answer, say


def _volume(source: Path, volume: Any) -> Any:
    """Which volume of a source is read; a number is that of an image file."""
    return volume if volume in TOGETHER or not is_dicom_source(source) else None


def verify(options: argparse.Namespace) -> int:
    """``monai-sr verify THICK THIN``"""
    sources = Path(options.thick), Path(options.thin)
    if options.map:
        check_writable(Path(options.map))
    limit = options.limit or read_calibration("residual")["consistency"]["limit"]
    acquired, result = (
        read_image(source, volume=_volume(source, options.volume), own_results=True) for source in sources
    )
    facts = (record_beside(sources[1]) or {}).get("acquired", {})
    given = {fact: entry["value"] for fact, entry in facts.items() if entry["source"] in ("option", "protocol")}
    slice_thickness = options.slice_thickness or given.get("slice_thickness")
    profile = options.profile or given.get("slice_profile")
    recorded: Literal["exact", "noise"] = "noise" if "noise" in facts else "exact"
    agrees_with = options.consistency or recorded
    if agrees_with != "exact":
        acquisition = Acquisition(consistency=agrees_with, axis=options.axis)
        acquired = cast(MetaTensor, acquire(acquired, acquisition).image)
    with naming(sources[1]):
        consistency = measure_consistency(
            acquired, result, slice_thickness=slice_thickness, profile=profile, axis=options.axis
        )
    say(f"{consistency.text()}\n{'limit':17} {limit:.3g} for each slice, plus the rounding to integers")
    if options.map:
        say(write_image(consistency.residual, options.map, dtype="float32"))
    artifacts = measure_artifacts(consistency.acquired, cast(MetaTensor, result))
    check_artifacts(artifacts, path=sources[1])
    record = {
        "consistency": consistency.record() | {"limit": limit},
        "artifacts": artifacts.record(),
        "acquired": consistency.acquired.record(),
    }
    answer(**record, consistent=consistency.within(limit))
    if options.json:
        say(write_json(record, Path(options.json)))
    consistency.check(limit, path=sources[1])
    say(f"consistent, but for {consistency.missed_text}" if consistency.misses_voxels else "consistent")
    return 0
