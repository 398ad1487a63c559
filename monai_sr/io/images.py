"""Volumes from files and back; DICOM by :mod:`monai_sr.dicom`.

A file is read to its end and checked before its voxels are used. A result is written under a temporary name
and renamed, so an existing file is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import dicom
from ..acquired import stored_dtype_of
from ..errors import (
    ImageError,
    InputMissingError,
    OutputError,
    SuperResolutionError,
    UsageError,
    collect_notices,
    naming,
    warn,
    write_error,
)
from ..files import write_atomically
from ..grid import ArrayImage, Grid, blocks
from ..intensities import as_array
from ..options import Reading
from .checks import make_volume
from .fields import LPS_TO_RAS
from .forms import Form
from .itk import write_itk
from .meta_image import read_meta_image
from .nifti import is_nifti, is_pair, nifti_fields, nifti_image, read_nifti, stream_nifti
from .nrrd import read_nrrd
from .older import is_gipl, is_mgh, read_gipl, read_mgh
from .sidecar import path_beside, read_sidecar
from .stored import Header, start_of

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torch import Tensor

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha")
"""Written by SimpleITK, each in a single file."""

READ_SUFFIXES = (
    *(*NIFTI_SUFFIXES, ".hdr", ".img", ".hdr.gz", ".img.gz"),
    *(*ITK_SUFFIXES, ".nhdr", ".mhd", ".mgh", ".mgz", ".mgh.gz", ".gipl", ".gipl.gz", ".mnc"),
)

_DOUBLE = tuple(suffix for suffix in READ_SUFFIXES if suffix.endswith(".gz"))


def read_image(
    path: str | Path,
    *,
    volume: int | Literal["all", "complete"] | None = None,
    nan: Literal["fill", "refuse"] = "fill",
    geometry: Form | None = None,
    series: str | None = None,
    fill_gaps: bool = False,
    merge_by_geometry: bool = False,
    own_results: bool = False,
) -> MetaTensor:
    """Read one volume: NIfTI, Analyze, NRRD, MetaImage, MGH or GIPL, or a DICOM series.

    Args:
        path: an image file; or a folder, zip or multi-frame file of DICOM.
        volume: of a file that holds several (time points, echoes): which one, from 0; or "all", as
            channels. Default: such a file is refused. Of a DICOM series that does: "all" or "complete", see
            :func:`monai_sr.dicom.phases.keep_together`.
        nan: "fill" replaces NaN and infinite voxels by the minimum, with a warning, and
            records them as ``nan_voxels``, so that they take no part in statistics; "refuse" is an error.
        geometry: the NIfTI form to use. Default: the sform if its code is above 0, else the qform.
        series: which DICOM series, by SeriesInstanceUID or SeriesNumber, if there are several.
        fill_gaps, merge_by_geometry, own_results: see :func:`monai_sr.dicom.read_series` and
            :func:`monai_sr.dicom.find_series`.

    Returns:
        (1, X, Y, Z) float32 in the file's units with its RAS+ affine, (C, X, Y, Z) for all of C
        volumes. The metadata contain ``stored_dtype`` and, if the file has them,
        ``slice_thickness`` in mm and ``modality``; for DICOM see also :func:`monai_sr.dicom.read_series`.

    Raises:
        InputMissingError: there is no such file or folder.
        ImageError: it cannot be read, is damaged, or is not a three-dimensional scalar volume.
        UsageError: an option that does not apply to such a file.
    """
    reading = Reading(series, volume, nan, geometry, fill_gaps, merge_by_geometry)
    return read_array(path, reading, own_results=own_results).to_tensor()


def read_array(path: str | Path, reading: Reading, *, own_results: bool = False) -> ArrayImage:
    """:func:`read_image` without torch and MONAI, to examine a volume."""
    path = Path(path)
    if not path.exists():
        raise InputMissingError("E-IO-MISSING", "no such file or folder", fix="check the path", path=path)
    with naming(path):
        try:
            if path.is_dir() or dicom.is_dicom_source(path):
                volume = reading.volume
                refuse_file_options(volume=None if volume in dicom.TOGETHER else volume, geometry=reading.geometry)
                found = dicom.find_series(
                    path, merge_by_geometry=reading.merge_by_geometry, own_results=own_results, volume=volume
                )
                return read_dicom(found.only(reading.series), path=path, fill_gaps=reading.fill_gaps)
            if not path.is_file():
                raise ImageError("E-IO-TYPE", "not a regular file")
            return make_volume(*_read_file(path, reading.geometry), path=path, volume=reading.volume, nan=reading.nan)
        except PermissionError as error:
            raise ImageError("E-IO-PERM", "the file may not be read") from error


def read_labels(path: str | Path, *, image: Tensor | ArrayImage | None = None) -> MetaTensor:
    """Read a mask or segmentation from an image file, or from a DICOM SEG or RTSTRUCT.

    A mask may be constant; NaN and fill values are background.

    Args:
        path: the file.
        image: the image of the mask; a DICOM object needs it.

    Returns, raises: as :func:`read_image`, :func:`monai_sr.dicom.read_mask_labels`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputMissingError("E-IO-MISSING", "the mask does not exist", fix="check the path", path=path)
    with naming(path):
        mask = dicom.read_mask_object(path)
        if mask is None:
            return make_volume(*_read_file(path, None), path=path, is_mask=True).to_tensor()
        if image is None:
            raise UsageError("E-USE", "a DICOM mask needs the image that it is about", fix="give its image, too")
        return dicom.read_mask_labels(mask, image)


def refuse_file_options(*, volume: int | str | None = None, geometry: str | None = None) -> None:
    """Refuse options that do not apply to an input.

    Raises:
        UsageError: one was given.
    """
    for name, value in (("volume", volume), ("geometry", geometry)):
        if value is not None:
            raise UsageError("E-USE", f"--{name} {value} does not apply to such an input", fix="leave it out")


def read_dicom(
    series: dicom.Series, *, path: Path, fill_gaps: bool = False, progress: Callable[[float], None] | None = None
) -> ArrayImage:
    """The volume of a DICOM series that :func:`monai_sr.dicom.find_series` found under ``path``.

    Returns, raises: as :func:`read_array`.
    """
    with naming(path):
        read = dicom.read_series(series, fill_gaps=fill_gaps, progress=progress)
        return make_volume(*read, path=path, volume="all" if series.phases else None)


def write_image(image: Tensor | ArrayImage, path: str | Path, *, dtype: Any = None) -> Path:
    """Write a volume as NIfTI (``.nii``, ``.nii.gz``), NRRD or MetaImage (``.nrrd``, ``.mha``).

    Integer results are rounded and clipped to the range of the type. A warning gives the number of clipped
    voxels, without undershoot of an unsigned type, which is not signal. The file is complete or absent, and
    its bytes depend only on the voxels, the grid and the type.

    Args:
        image: (1, X, Y, Z) MetaTensor; (C, X, Y, Z) for several volumes in one NIfTI file.
        path: file to write; its folder must exist.
        dtype: voxel type on disk. Default: the ``stored_dtype`` the image was read with, else float32.

    Raises:
        UsageError: the format cannot be written, or not with several volumes.
        OutputError: the folder is missing or full, or may not be written to.
    """
    path = Path(path)
    suffix = check_writable(path)
    affine = np.asarray(image.affine)  # type: ignore[union-attr]
    if getattr(image, "meta", {}).get("space") == "LPS":  # as MONAI's ITKReader gives on request
        affine = LPS_TO_RAS @ affine
    grid = Grid((image.shape[1], image.shape[2], image.shape[3]), affine)
    voxels = stored_voxels(image, dtype=dtype, path=path)
    if suffix in NIFTI_SUFFIXES:
        nifti = nifti_image(voxels, grid, **nifti_fields(image))
        write_atomically(path, lambda file: stream_nifti(nifti, file, compressed=suffix == ".nii.gz"))
    elif voxels.ndim > 3:
        problem = f"{len(image)} volumes do not fit into one {suffix}"
        raise UsageError("E-OUT-FORMAT", problem, fix="name it .nii.gz", path=path)
    else:
        write_itk(voxels, grid, path)
    return path


def stored_voxels(image: Tensor | ArrayImage, *, path: str | Path, dtype: Any = None) -> np.ndarray:
    """(X, Y, Z), or (X, Y, Z, C) of C volumes, as :func:`write_image` stores them at ``path``."""
    wanted = np.dtype(dtype or stored_dtype_of(image))
    voxels = np.moveaxis(as_array(image), 0, -1)
    beyond = beyond_type(voxels, wanted)
    if beyond:
        facts = {"voxels": int(beyond), "dtype": str(wanted)}
        text = "{voxels} voxels are outside the range of {dtype} and are clipped"
        warn("W-OUT-CLIP", text, path=path, facts=facts)
    voxels = as_stored(voxels, wanted)
    return voxels[..., 0] if len(image) == 1 else voxels


def check_writable(path: Path) -> str:
    """The suffix of an output path, after checking that a file can be written there.

    Raises:
        UsageError: the format cannot be written.
        OutputError: the folder is missing or may not be written to.
    """
    suffix = image_suffix(path)
    if suffix not in (*NIFTI_SUFFIXES, *ITK_SUFFIXES):
        raise UsageError("E-OUT-FORMAT", f"no image format has the suffix {path.suffix or '(none)'!r}", path=path)
    folder = path.parent
    if not folder.is_dir():
        raise OutputError("E-OUT-FOLDER", f"the folder {folder} does not exist", path=path)
    if path.is_dir():
        raise OutputError("E-OUT-FOLDER", "a folder of that name exists", path=path)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_error(path, error) from error
    return suffix


def image_suffix(path: Path) -> str:
    """The suffix in lower case; ``.nii.gz`` and the like are one suffix."""
    name = path.name.lower()
    return next((suffix for suffix in _DOUBLE if name.endswith(suffix)), path.suffix.lower())


def as_stored(voxels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Voxels in the type of the file (integers rounded and clipped) and its order: first axis fastest."""
    stored = np.empty(voxels.shape, dtype, order="F")
    for rows in blocks(len(voxels), voxels[0].size):
        stored[rows] = rounded(voxels[rows], dtype).astype(dtype, copy=False)
    return stored


def rounded(voxels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Voxels as the type of the file holds them, in floating point and in their own order."""
    if not np.issubdtype(dtype, np.integer):
        return voxels.astype(dtype)
    # float32 does not represent the limits of 32-bit types exactly, so these are clipped in float64
    exact, limits = np.float64 if dtype.itemsize > 2 else np.float32, np.iinfo(dtype)
    whole = np.rint(voxels, dtype=np.result_type(voxels, exact))
    return np.clip(whole, limits.min, limits.max, out=whole)


def beyond_type(voxels: np.ndarray, dtype: np.dtype) -> int:
    """Number of voxels outside the range of an integer type.

    Values below 0 are not counted for an unsigned type: interpolation undershoots beside every edge of a
    background of 0, which is not signal.
    """
    if not np.issubdtype(dtype, np.integer):
        return 0
    limits, count = np.iinfo(dtype), 0
    for rows in blocks(len(voxels), voxels[0].size):
        part = voxels[rows]
        count += int(np.count_nonzero(part > limits.max + 0.5))
        count += int(np.count_nonzero(part < limits.min - 0.5)) if limits.min else 0
    return count


def __getattr__(name: str) -> Any:
    """The reader and writer for MONAI, which configs of bundles import from here."""
    if name in ("VolumeReader", "VolumeWriter"):
        return getattr(import_module(".readers", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---------------------------------------------------------------- reading


def _read_file(path: Path, geometry: Form | None) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, affine and metadata of a file."""
    header = read_header(path, geometry=geometry)
    return header.read_voxels(), header.affine, header.meta


def files_of(path: Path) -> list[Path]:
    """The files of an image; only the given one if its header cannot be read."""
    try:
        with collect_notices():
            return read_header(path).files
    except (SuperResolutionError, OSError):
        return [path]


def read_header(path: Path, *, geometry: Form | None = None) -> Header:
    """The header of an image file; the format is recognized by the content, not by the name.

    Raises:
        ImageError, UsageError: as :func:`read_image`, for what the header shows.
    """
    start, packed = start_of(path, 512)
    suffix = image_suffix(path)
    content = _format_of(start, path, suffix)
    if packed != (suffix.endswith(".gz") or suffix == ".mgz"):
        _warn_name(path, packed=packed)
    if content == "NIfTI":
        header, beside = read_nifti(path, geometry=geometry), path_beside(path)
        if beside is None:
            return header
        facts = read_sidecar(beside, np.linalg.norm(header.affine[:3, :3], axis=0).tolist())
        return replace(header, beside=beside, meta=header.meta | facts)
    refuse_file_options(geometry=geometry)
    if content in ("MetaImage", "NRRD") and packed:
        raise ImageError("E-IO-TYPE", f"a {content} inside a gzip", fix="unpack it (gunzip) and give the result")
    if content == "MetaImage":
        return read_meta_image(path)
    if content == "NRRD":
        return read_nrrd(path)
    read = read_mgh if content == "MGH" else read_gipl
    return read(path, start, packing="gzip" if packed else "raw")


def _format_of(start: bytes, path: Path, suffix: str) -> str:
    """The format of a file, by the first bytes of its unpacked content.

    Raises:
        ImageError: the format is not supported.
    """
    if is_nifti(start) or is_pair(path, start):
        return "NIfTI"
    if start[:4] == b"NRRD":
        return "NRRD"
    if start[:10].lower() == b"objecttype" or (suffix in (".mha", ".mhd") and b"=" in start):
        return "MetaImage"
    if is_gipl(start):
        return "GIPL"
    if is_mgh(start) and suffix in (".mgh", ".mgz", ".mgh.gz"):
        return "MGH"
    if start[:4] in (b"CDF\1", b"CDF\2", b"\x89HDF"):
        problem, fix = "a MINC or HDF5 file, whose voxels have no checksum", "convert it: mnc2nii in.mnc out.nii"
        raise ImageError("E-IO-READ", problem, fix=fix)
    kind = _kind_of(start)
    if not kind and suffix in READ_SUFFIXES:
        raise ImageError("E-IO-READ", "the content is not a supported image format")
    raise ImageError("E-IO-TYPE", f"not an image: the content is {kind or 'of an unknown format'}")


def _kind_of(start: bytes) -> str:
    """The content of a file that is not an image; empty if unknown."""
    if not start:
        return "nothing (0 bytes)"
    if start.lstrip()[:1] == b"<":
        return "a web page (HTML)" if b"<html" in start.lower() or b"<!doctype" in start.lower() else "XML text"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "text"
    return ""


def _warn_name(path: Path, *, packed: bool) -> None:
    fact = "is gzip-compressed" if packed else "is not compressed"
    better = f"{path.name}.gz"
    if not packed:
        better = f"{path.name[:-1]}h" if image_suffix(path) == ".mgz" else path.name[:-3]
    facts = {"is": fact, "name": better}
    warn("W-IO-NAME", "the file {is}, unlike its name; better named {name}", path=path, facts=facts)
