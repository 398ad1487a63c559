"""Find volumes: in a folder, or in a datalist for training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from ..dicom import is_dicom
from ..errors import ImageError, InputMissingError
from .images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix

Section = Literal["training", "validation", "evaluation"]


def find_volumes(source: str | Path) -> list[Path]:
    """Image files and DICOM folders in a folder, sorted; for a file, the file.

    Raises:
        InputMissingError: there are none.
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
        problem = "no NIfTI, NRRD, MetaImage file or DICOM folder was found there"
        raise InputMissingError("E-IO-MISSING", problem, fix="check the path", path=source)
    return sorted(found)


def datalist(source: str | Path, section: Section, *, validation_every: int = 5) -> list[dict[str, Any]]:
    """Volumes for training, validation or evaluation as ``[{"image": path}, …]``, never empty.

    Args:
        source: a datalist JSON with "training" and "validation" (as ``data_scripts/prepare_datalist.py``
            writes it; paths are relative to its folder), or a folder of images and DICOM series.
        section: "training", "validation", or "evaluation": all volumes of a folder, or the validation of a datalist.
        validation_every: one of this many volumes of a folder is for validation; of fewer, the last one.

    Raises:
        InputMissingError: there is no such source (E-IO-MISSING), or no volume for the section (E-DATALIST).
        ImageError: the datalist cannot be read (E-DATALIST).
    """
    source = Path(source)
    if not source.exists():
        problem = "no such folder or datalist"
        raise InputMissingError("E-IO-MISSING", problem, fix="give a folder of volumes, or a datalist", path=source)
    if source.suffix == ".json" and source.is_file():
        chosen = _listed(source, "validation" if section == "evaluation" else section)
    else:
        volumes = find_volumes(source)
        held = set(volumes[validation_every - 1 :: validation_every] or volumes[1:][-1:])
        wanted = {"training": [v for v in volumes if v not in held], "validation": sorted(held), "evaluation": volumes}
        chosen = [{"image": str(path)} for path in wanted[section]]
    if not chosen:
        raise InputMissingError("E-DATALIST", f"no volume for {section}", path=source)
    return chosen


def _listed(path: Path, section: str) -> list[dict[str, Any]]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).get(section, [])
        folder = path.resolve().parent
        return [item | {"image": str(folder / item["image"])} for item in listed]
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ImageError("E-DATALIST", f"the datalist cannot be read ({error})", path=path) from error


def _looks_like_image(path: Path) -> bool:
    return image_suffix(path) in (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".nhdr", ".mhd")
