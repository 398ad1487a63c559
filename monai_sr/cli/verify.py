"""``verify``: whether a result agrees with the acquired volume."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
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


def _consistency_in(record: Mapping[str, Any]) -> Literal["exact", "noise", "auto"]:
    """The option of a run by its record, which leaves out defaults."""
    return record["options"].get("acquisition", {}).get("consistency", Acquisition.consistency)


def verify(options: argparse.Namespace) -> int:
    """``monai-sr verify THICK THIN``"""
    sources = Path(options.thick), Path(options.thin)
    if options.map:
        check_writable(Path(options.map))
    limit = options.limit or read_calibration("residual")["consistency"]["limit"]
    acquired, result = (
        read_image(source, volume=_volume(source, options.volume), own_results=True) for source in sources
    )
    made = record_beside(sources[1]) or {}
    facts = made.get("acquired", {})
    given = {fact: entry["value"] for fact, entry in facts.items() if entry["source"] in ("option", "protocol")}
    said = Acquisition(
        consistency=options.consistency or (_consistency_in(made) if "noise" in facts else "exact"),
        slice_thickness=options.slice_thickness or given.get("slice_thickness"),
        profile=options.profile or given.get("slice_profile"),
        axis=given.get("axis") if options.axis is None else options.axis,
    )
    if said.consistency != "exact":
        acquired = cast(MetaTensor, acquire(acquired, said).image)
    with naming(sources[1]):
        consistency = measure_consistency(
            acquired, result, slice_thickness=said.slice_thickness, profile=said.profile, axis=said.axis
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
