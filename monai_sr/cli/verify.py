"""``verify``: whether a result agrees with the acquired volume."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bundles import read_calibration
from ..dicom import is_dicom_source
from ..errors import naming
from ..files import write_json
from ..io.images import check_writable, read_image, write_image
from ..trust.consistency import measure_consistency
from .terminal import say


def verify(options: argparse.Namespace) -> int:
    """``monai-sr verify THICK THIN``"""
    sources = Path(options.thick), Path(options.thin)
    if options.map:
        check_writable(Path(options.map))
    limit = options.limit or read_calibration("residual")["consistency"]["limit"]
    acquired, result = (
        read_image(source, volume=None if is_dicom_source(source) else options.volume, own_results=True)
        for source in sources
    )
    told = {name: getattr(options, name) for name in ("slice_thickness", "profile", "axis")}
    with naming(sources[1]):
        found = measure_consistency(acquired, result, **told)
    say(f"{found.text()}\n{'limit':17} {limit:.3g} for each slice, and what rounding to integers costs")
    if options.map:
        say(write_image(found.residual, options.map, dtype="float32"))
    if options.json:
        say(write_json({"consistency": found.record() | {"limit": limit}}, Path(options.json)))
    found.check(limit, path=sources[1])
    say("consistent")
    return 0
