"""What is written beside a result on request, and what it is called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monai.data import MetaTensor

from ..errors import OutputError
from ..images import image_suffix, write_image
from ..nifti import is_super_resolved

MAPS = ("consistency", "uncertainty")
"""Maps that a run may write beside each result, NIfTI of float32 in the file's units."""

_OF_BIDS = "_res-thin_desc-SR_"


def map_path(target: Path, kind: str) -> Path:
    """Where a map of a result belongs: ``thin_consistency.nii.gz`` beside ``thin.nii.gz``.

    In a BIDS dataset ``desc-`` tells what it is, and the consistency map is not on the thin grid.

    Args:
        target: the result, a file or the folder of a DICOM series.
        kind: one of :data:`MAPS`.
    """
    if _OF_BIDS in target.name:
        grid = "" if kind == "consistency" else "_res-thin"
        return target.with_name(target.name.replace(_OF_BIDS, f"{grid}_desc-SR{kind}_"))
    return target.with_name(f"{stem_of(target)}_{kind}.nii.gz")


def stem_of(path: Path) -> str:
    """The name of an image file without its suffix; of a folder its name."""
    suffix = image_suffix(path)
    return path.name[: len(path.name) - len(suffix)] if suffix in (".nii", ".nii.gz", ".nrrd", ".mha") else path.name


def write_map(image: MetaTensor, path: Path, *, overwrite: bool = False) -> Path:
    """Write a map; it is marked as ours, so that it is never taken as an input.

    Raises:
        OutputError: what stands there is not ours, or it cannot be written.
    """
    if path.exists() and not overwrite and not is_super_resolved(path):
        raise OutputError(
            "E-OUT-EXISTS",
            "it exists already, and it is not a map of ours",
            fix="move it away, or give --overwrite",
            path=path,
        )
    image.meta["super_resolved"] = True
    return write_image(image, path, dtype="float32")


def remove_maps(target: Path, kinds: Iterable[str]) -> None:
    """Remove maps of ours of an earlier result, which would say nothing about a new one."""
    for path in (map_path(target, kind) for kind in kinds):
        if path.exists() and is_super_resolved(path):
            path.unlink()
