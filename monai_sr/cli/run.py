"""``run``, ``bids`` and ``slicer``: from what a user names to one volume or many."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from .many import super_resolve_many
from .one import super_resolve_file, super_resolve_series
from .options import MODEL_OPTIONS
from .parser import MANY
from .places import check_target


def run(options: argparse.Namespace) -> int:
    """``monai-sr run INPUT OUTPUT``"""
    source, target = Path(options.input), Path(options.output)
    from ..batch.cases import LIST_SUFFIXES
    from ..dicom import is_dicom_source
    from ..io.images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix

    one_file = image_suffix(target) in (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
    if source.suffix.lower() in LIST_SUFFIXES:
        return super_resolve_many(source, target, options)
    if source.is_dir() or is_dicom_source(source):
        if not one_file:
            return super_resolve_many(source, target, options)
        if options.format == "dicom":
            raise UsageError("E-OUT-FORMAT", "a DICOM series needs a folder", fix="name a folder", path=target)
        _check_alone(options)
        super_resolve_series(source, target, options)
        return 0
    if options.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    if target.is_dir() and not one_file:
        return super_resolve_many(source, target, options)
    _check_alone(options)
    super_resolve_file(source, target, options)
    return 0


def bids(options: argparse.Namespace) -> int:
    """``monai-sr bids BIDS_DIR OUTPUT_DIR participant``"""
    options.participant_label = options.participant_label or []
    return super_resolve_many(Path(options.input), Path(options.output), options)


def slicer(options: argparse.Namespace) -> int:
    """``monai-sr slicer INPUT OUTPUT``"""
    if options.xml:
        from ..clients.slicer.description import describe

        print(describe())
        return 0
    if not options.output:
        raise UsageError("E-USE", "an input and an output are needed", fix="give both, or --xml for the description")
    source, target = Path(options.input), Path(options.output)
    overlays = {name: Path(getattr(options, name)) for name in ("difference", "consistency") if getattr(options, name)}
    for path in overlays.values():
        check_target(source, path)
    if len({path.absolute() for path in (target, *overlays.values())}) <= len(overlays):
        raise UsageError("E-OUT-CLASH", "two outputs have the same name", fix="name each", path=target)
    from ..clients.slicer.overlays import difference_map
    from ..clients.slicer.tags import told_to_slicer
    from ..io.images import write_image
    from ..trust.consistency import measure_consistency

    with told_to_slicer("monai-sr", f"super-resolving by {options.bundle}") as progress:
        image, sr = super_resolve_file(source, target, options, progress=progress)
        if "difference" in overlays:
            asked = {name: getattr(options, name) for name in MODEL_OPTIONS}
            write_image(difference_map(image, sr, **asked), overlays["difference"])
        if "consistency" in overlays:
            told = {name: getattr(options, name) for name in ("slice_thickness", "profile", "axis")}
            passed_through = not sr.meta.get("super_resolved")
            residual = image - sr if passed_through else measure_consistency(image, sr, **told).residual
            write_image(residual.nan_to_num(), overlays["consistency"], dtype="float32")
    return 0


def _check_alone(options: argparse.Namespace) -> None:
    """Options for many volumes say nothing about one, so they were meant otherwise."""
    for name, default in MANY.items():
        if getattr(options, name) != default:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError("E-USE", f"{flag} is for many volumes, the output is a file", fix="name a folder")
