"""``check``: whether an input can be processed."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..acquired import Acquired
from ..dicom import find_series, is_dicom_source, stack_of
from ..errors import SuperResolutionError, naming
from ..grid import grid_of
from ..io.images import read_image, refuse_file_options
from .config import run_options
from .terminal import say


def check(given: argparse.Namespace) -> int:
    """``monai-sr check SOURCE``"""
    source, options = Path(given.source), run_options(given).reading
    if not (source.is_dir() or is_dicom_source(source)):
        image = read_image(source, volume=options.volume, nan=options.nan, geometry=options.geometry)
        with naming(source):
            Acquired.of(image).check_slices()
        say(f"{source}: {grid_of(image).in_words()}")
        return 0
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
        say(f"  one each {stack.slice_spacing:.4g} mm, slice thickness {thickness}")
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
