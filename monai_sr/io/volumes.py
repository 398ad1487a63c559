"""Which volumes there are: below a folder, or in a datalist to train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.data import load_decathlon_datalist

from ..dicom import is_dicom
from ..errors import InputMissingError
from .images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix


def find_volumes(source: str | Path) -> list[Path]:
    """Image files and DICOM folders below a folder, sorted; a file is itself.

    Raises:
        InputMissingError: there is none.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    found: list[Path] = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = sorted(name for name in names if not name.startswith("."))
        images = [Path(folder, name) for name in visible if _looks_like_image(Path(name))]
        found += images
        if not images and visible and is_dicom(Path(folder, visible[0])):
            found.append(Path(folder))
    if not found:
        raise InputMissingError(
            "E-IO-MISSING",
            "no NIfTI, NRRD, MetaImage file or DICOM folder was found there",
            fix="check the path",
            path=source,
        )
    return sorted(found)


def datalist(source: str | Path, section: str, *, validation_every: int = 5) -> list[dict[str, Any]]:
    """What to train or validate on: MONAI's ``[{"image": path}, …]``.

    Args:
        source: a datalist JSON with "training" and "validation" (as ``data_scripts/prepare_datalist.py``
            writes it; relative paths count from its folder), or a folder of images and DICOM series,
            of which every fifth volume is for validation.
        section: "training" or "validation".

    Raises:
        InputMissingError: there is nothing there.
    """
    source = Path(source)
    if source.suffix == ".json" and source.is_file():
        return load_decathlon_datalist(str(source), False, section, base_dir=str(source.resolve().parent))
    if not source.exists():
        raise InputMissingError("E-IO-MISSING", "no such folder or datalist", fix="give --dataset", path=source)
    chosen = [
        path
        for index, path in enumerate(find_volumes(source))
        if (index % validation_every == validation_every - 1) == (section == "validation")
    ]
    return [{"image": str(path)} for path in chosen]


def _looks_like_image(path: Path) -> bool:
    return image_suffix(path) in (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".nhdr", ".mhd")
