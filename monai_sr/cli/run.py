"""``run`` and ``bids``: from what a user names to one volume or many."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..options import PARAMETERS, RunOptions
from .many import super_resolve_many
from .one import super_resolve_file, super_resolve_series
from .parser import run_options


def run(given: argparse.Namespace) -> int:
    """``monai-sr run INPUT OUTPUT``"""
    options = run_options(given)
    source, target = Path(options.input), Path(options.output)
    from ..batch.cases import LIST_SUFFIXES
    from ..dicom import is_dicom_source
    from ..io.images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix

    one_file = image_suffix(target) in (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
    if source.suffix.lower() in LIST_SUFFIXES:
        return super_resolve_many(source, target, options, debug=given.debug)
    if source.is_dir() or is_dicom_source(source):
        if not one_file:
            return super_resolve_many(source, target, options, debug=given.debug)
        if options.wanted.format == "dicom":
            raise UsageError("E-OUT-FORMAT", "a DICOM series needs a folder", fix="name a folder", path=target)
        _check_alone(options)
        super_resolve_series(source, target, options)
        return 0
    if options.wanted.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    if target.is_dir() and not one_file:
        return super_resolve_many(source, target, options, debug=given.debug)
    _check_alone(options)
    super_resolve_file(source, target, options)
    return 0


def bids(given: argparse.Namespace) -> int:
    """``monai-sr bids BIDS_DIR OUTPUT_DIR participant``"""
    options = run_options(given)
    labels = options.selection.participant_label or ()
    options = replace(options, selection=replace(options.selection, participant_label=labels))
    return super_resolve_many(Path(options.input), Path(options.output), options, debug=given.debug)


def _check_alone(options: RunOptions) -> None:
    """Options for many volumes say nothing about one, so they were meant otherwise."""
    for name, value in vars(options.selection).items():
        if value != PARAMETERS[name].default:
            flag = PARAMETERS[name].flag
            raise UsageError("E-USE", f"{flag} is for many volumes, the output is a file", fix="name a folder")
