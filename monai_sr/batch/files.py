"""The files of a case: what it is read from, and where its result is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from monai.data import MetaTensor

from ..acquired import acquisition_meta, stored_dtype_of
from ..dicom import MadeBy, write_derived_series
from ..errors import ImageError, OutputError, write_error
from ..files import temporary_beside
from ..io.images import image_suffix, read_dicom, read_image, refuse_file_options, write_image
from .cases import Case
from .records import sha256_of
from .settings import Settings

LEAST_COMPRESSED = 4
"""Compressed results are hardly ever smaller than this part of their voxels; less free space is surely too little."""


def input_sha256(case: Case) -> str:
    """Of what a case is made from.

    Raises:
        ImageError: a file cannot be read.
    """
    try:
        return sha256_of(case.files)
    except OSError as error:
        code = "E-IO-PERM" if isinstance(error, PermissionError) else "E-IO-READ"
        raise ImageError(
            code, f"cannot be read ({error.strerror})", fix="check the file and its permissions"
        ) from error


def read_case(case: Case, settings: Settings, *, progress: Callable[[float], None] | None = None) -> MetaTensor:
    """The volume of a case; ``progress`` is told the share of a DICOM series that is read.

    Raises:
        ImageError: it cannot be read, or is no volume that can be processed.
        UsageError: options for image files were given for a DICOM series.
    """
    if case.series is None:
        image = read_image(case.source, **settings.reading)
        if case.bids is not None:
            thickness = case.bids.slice_thickness
            image.meta |= acquisition_meta(modality=case.bids.modality, slice_thickness=thickness, source="sidecar")
        return image
    refuse_file_options(**{name: settings.reading.get(name) for name in ("volume", "geometry")})
    return read_dicom(case.series, path=case.source, fill_gaps=settings.fill_gaps, progress=progress)


def write_result(sr: MetaTensor, case: Case, made_by: MadeBy) -> None:
    """Write a result in the place of whatever of ours stands there.

    Raises:
        OutputError: it cannot be written.
    """
    if not case.is_derived_dicom:
        write_image(sr, case.target)
        return
    assert case.series is not None
    old = temporary_beside(case.target.with_name(f"{case.target.name}-old"))
    try:
        if case.target.exists():
            os.rename(case.target, old)
        write_derived_series(sr, case.series, case.target, made_by=made_by)
    except OSError as error:
        raise write_error(case.target, error) from error
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_space(case: Case, image: MetaTensor, voxels_out: int) -> None:
    """Refuse what surely does not fit on the disk, before the work.

    Raises:
        OutputError: E-OUT-SPACE.
    """
    size = voxels_out * stored_dtype_of(image).itemsize
    packed = image_suffix(case.target) not in (".nii",) and not case.is_derived_dicom
    needed = size // LEAST_COMPRESSED if packed else size
    free = shutil.disk_usage(case.target.parent).free
    if free < needed:
        raise OutputError(
            "E-OUT-SPACE",
            f"{free / 2**20:.0f} MiB are free on the disk, {needed / 2**20:.0f} MiB are needed",
            fix="free some space and run again",
            path=case.target,
        )
