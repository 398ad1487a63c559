"""``check`` and ``verify``: whether an input can be processed, and whether a result agrees with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import SuperResolutionError
from .parser import run_options
from .places import naming
from .terminal import say


def check(given: argparse.Namespace) -> int:
    """``monai-sr check SOURCE``"""
    source, options = Path(given.source), run_options(given).reading
    from ..dicom import find_series, is_dicom_source, stack_of

    if not (source.is_dir() or is_dicom_source(source)):
        from ..grid import grid_of
        from ..io.images import read_image

        image = read_image(source, volume=options.volume, nan=options.nan, geometry=options.geometry)
        say(f"{source}: {grid_of(image).in_words()}")
        return 0
    from ..io.images import refuse_file_options

    refuse_file_options(volume=options.volume, geometry=options.geometry)
    found = find_series(source, merge_by_geometry=options.merge_by_geometry)
    good, bad = 0, len(found.broken)
    for series in found.series:
        say(f"series {series.label}: {series.modality}, {len(series.frames)} slices, UID {series.uid}")
        try:
            stack = stack_of(series, fill_gaps=options.fill_gaps)
        except SuperResolutionError as error:
            bad += 1
            say(f"  {error}")
            continue
        good += 1
        thick = series.slice_thickness
        thickness = "unknown" if thick is None else f"{thick:.4g} mm" if isinstance(thick, float) else "differs"
        say(f"  one each {stack.step:.4g} mm, slice thickness {thickness}")
        for note in stack.warnings:
            say(f"  {note}")
    for uid, fault in found.broken:
        say(f"series of UID {uid or 'unknown'}\n  {fault}")
    for left in found.left_out:
        say(f"left out: {left.files} file(s), {left.reason} ({left.code})")
    if not good and not bad:
        with naming(source):
            found.only()
    return 0 if not bad else 4 if good else 5


def verify(options: argparse.Namespace) -> int:
    """``monai-sr verify THICK THIN``"""
    sources = Path(options.thick), Path(options.thin)
    from ..bundles import read_calibration
    from ..dicom import is_dicom_source
    from ..files import write_json
    from ..io.images import check_writable, read_image, write_image
    from ..trust.consistency import measure_consistency

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
