"""NIfTI files: everything in a header that can be wrong is found before a voxel is used."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from .errors import ImageError, ImageWarning
from .grid import Grid

COMPRESSION = 3
"""gzip level of results: speed counts for more than the last bytes."""


def gunzip(path: Path) -> bytes:
    """The whole content, with its checksum verified (nibabel stops reading before it)."""
    try:
        with gzip.open(path) as file:
            return file.read()
    except EOFError as error:
        raise ImageError(
            "E-IO-TRUNC",
            f"the gzip stream ends early ({path.stat().st_size} bytes found, more needed)",
            fix="copy or download the file again",
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(
            "E-IO-CRC", f"the compressed data are damaged ({error})", fix="copy or download the file again"
        ) from error


def is_nifti(start: bytes) -> bool:
    """Whether a file starts with the header size of NIfTI-1 or NIfTI-2, either byte order."""
    size = start[:4]
    return size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def read_nifti(content: bytes) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, affine in mm and metadata from the content of a NIfTI file.

    Raises:
        ImageError: truncated, a damaged header, colors or complex numbers, no usable geometry.
    """
    if not is_nifti(content[:4]):
        raise ImageError("E-IO-TYPE", "the content is no NIfTI image", fix="give a NIfTI file")
    image_class = nib.Nifti1Image if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else nib.Nifti2Image
    try:
        header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    except (HeaderDataError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ImageError("E-HDR-DIM", f"the header is damaged ({error})", fix="restore the file") from error
    if not shape or min(shape) < 1 or np.prod([float(n) for n in shape]) * dtype.itemsize > 2**44:
        raise ImageError("E-HDR-DIM", f"the header claims {shape} voxels", fix="repair the header's dim field")
    check_dtype(dtype)
    needed = int(header["vox_offset"]) + int(np.prod([int(n) for n in shape])) * dtype.itemsize
    if len(content) < needed:
        raise ImageError(
            "E-IO-TRUNC",
            f"the voxels end early ({len(content)} bytes found, {needed} needed)",
            fix="copy or download the file again",
        )
    affine = _nifti_affine(header)
    try:
        image = image_class.from_bytes(content)
    except (HeaderDataError, ValueError) as error:
        raise ImageError("E-HDR-DIM", f"the header is damaged ({error})", fix="restore the file") from error
    slope, intercept = (header[name].item() for name in ("scl_slope", "scl_inter"))
    scaled = (np.isfinite(slope) and slope not in (0, 1)) or (np.isfinite(intercept) and intercept != 0)
    stored = "float32" if scaled or dtype.itemsize > 4 else dtype.newbyteorder("=").name
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    return voxels, affine, {"stored_dtype": stored}


def _nifti_affine(header: Any) -> np.ndarray:
    """The sform if its code is above 0, else the qform, in mm; both are checked."""
    spacing = header["pixdim"][1:4].astype(float)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ImageError(
            "E-HDR-SPACING",
            f"pixdim is {tuple(map(float, spacing))} mm, each must be above 0",
            fix="restore the voxel spacing in the header",
        )
    scale = {1: 1000.0, 3: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    sform = header.get_sform() if sform_code > 0 else None
    try:
        qform = header.get_qform() if qform_code > 0 else None
    except (HeaderDataError, ValueError):
        qform = None
    if qform is not None and not np.isfinite(qform).all():
        qform = None
    if sform is not None and not np.isfinite(sform).all():
        if qform is None:
            raise ImageError(
                "E-HDR-AFFINE",
                "the sform holds NaN or infinite values and there is no valid qform",
                fix="repair the header's sform, for example from the original DICOM",
            )
        warn("W-HDR-AFFINE: the sform holds NaN or infinite values; the qform is used")
        sform = None
    elif sform is None and qform is None and qform_code > 0:
        raise ImageError("E-HDR-AFFINE", "the qform holds NaN or infinite values", fix="repair the header's qform")
    if sform is not None and qform is not None:
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float).T
        corners[:3] *= np.array(header.get_data_shape()[:3])[:, None] if len(header.get_data_shape()) >= 3 else 1
        distance = float(np.abs(((sform - qform) @ corners)[:3]).max())
        if distance > 0.1 * spacing.min():
            warn(f"W-HDR-FORMS: sform and qform differ by up to {distance * scale:.3g} mm; the sform is used")
    if sform is None and qform is None:
        warn("W-HDR-NOFORM: the header tells no orientation; the spacing alone is used")
        return np.diag([*(spacing * scale), 1.0])
    affine = np.array(sform if sform is not None else qform, dtype=np.float64)
    affine[:3] *= scale
    return affine


def nifti_image(voxels: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    """An image in memory, ready to be streamed; both forms tell the same geometry."""
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    big = max(voxels.shape) > 32767
    image = (nib.Nifti2Image if big else nib.Nifti1Image)(voxels, grid.affine, dtype=voxels.dtype)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"monai-sr: research only, not for diagnosis"
    return image


def stream_nifti(image: nib.Nifti1Image, file: BinaryIO, *, compressed: bool) -> None:
    """Write an image to an open file; equal images give equal bytes."""
    if not compressed:
        image.to_stream(cast(io.IOBase, file))
        return
    # no name and no time in the gzip header: equal results are equal files
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=COMPRESSION, mtime=0) as stream:
        image.to_stream(stream)


def check_dtype(dtype: np.dtype) -> None:
    """Refuse colors and complex numbers.

    Raises:
        ImageError: voxels are not single real numbers.
    """
    if dtype.fields or dtype.kind not in "iufb":
        raise ImageError(
            "E-IMG-DTYPE",
            f"voxels are {'colors' if dtype.fields else dtype.name}, real numbers are needed",
            fix="convert the image to one gray value per voxel",
        )


def warn(message: str) -> None:
    """Tell the user; the command line prints it as one line."""
    warnings.warn(ImageWarning(message), stacklevel=3)
