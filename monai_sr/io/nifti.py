"""NIfTI files: everything in a header that can be wrong is found before a voxel is used."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.spatialimages import HeaderDataError

from ..errors import ImageError, warn
from ..grid import Grid

COMPRESSION = 3
"""ISA-L's gzip level of results, its highest: a CT takes a seventh of the time of zlib's level 3 and 3 % more
room (measured by ``python -m tests.benchmarks.compression``)."""

MOST_BYTES = 2**44
"""A header that claims more than these 16 TiB is damaged."""

SUPER_RESOLVED = b"monai-sr: super-resolved; research only, not for diagnosis"
"""The description in the header of a result, by which it is never taken as an input of many."""

SPARE = 64 * 2**20
"""So many bytes may follow the last voxel of a compressed file."""

Form = Literal["sform", "qform"]
"""The two places where NIfTI tells how voxels lie in the world."""

_TIME_UNITS = 0x38
"""The bits of ``xyzt_units`` that tell the unit of the fourth axis."""

_UNITS = {1: ("meters", 1000.0), 3: ("micrometers", 1e-3)}
"""Units of length besides mm by their code in ``xyzt_units``, and what makes them mm."""


def gunzip(path: Path) -> bytes:
    """The whole content of a NIfTI file, with its checksum verified (nibabel stops reading before it).

    Raises:
        ImageError: it ends early, is damaged, or unpacks to far more than its header tells of.
    """
    content, needed = bytearray(), None
    try:
        with gzip.open(path) as file:
            while block := file.read1(2**20):
                content += block
                needed = needed or _bytes_needed(content)
                told = needed or 0
                if told > MOST_BYTES:  # absurd; the header is looked at, and not the rest
                    break
                if len(content) > told + SPARE:
                    raise ImageError(
                        "E-SEC-BOMB",
                        f"it unpacks to more than {len(content) >> 20} MiB, its header tells of {told >> 20}",
                        fix="unpack it by hand if it is to be trusted",
                    )
    except EOFError as error:
        more = _bytes_needed(content) or f"more than {len(content)}"
        raise ImageError(
            "E-IO-TRUNC",
            f"the gzip stream ends early ({len(content)} bytes unpacked, {more} needed)",
            fix="copy or download the file again",
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(
            "E-IO-CRC", f"the compressed data are damaged ({error})", fix="copy or download the file again"
        ) from error
    return bytes(content)


def _bytes_needed(content: bytes | bytearray) -> int | None:
    """How long a NIfTI file has to be by what its header says; None if it does not tell."""
    if not is_nifti(content[:4]) or len(content) < _class_of(content).header_class.sizeof_hdr:
        return None
    try:
        header = _class_of(content).header_class.from_fileobj(io.BytesIO(content), check=False)
        return _end_of_voxels(header)
    except (HeaderDataError, ValueError, OverflowError, KeyError, TypeError):
        return None


def _class_of(content: bytes | bytearray) -> type[nib.Nifti1Image]:
    return nib.Nifti1Image if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else nib.Nifti2Image


def _end_of_voxels(header: Any) -> int:
    """Bytes from the start of the file to the end of the last voxel."""
    count = int(np.prod([int(n) for n in header.get_data_shape()], dtype=object))
    return int(header["vox_offset"]) + count * int(header.get_data_dtype().itemsize)


def is_nifti(start: bytes | bytearray) -> bool:
    """Whether a file starts with the header size of NIfTI-1 or NIfTI-2, either byte order."""
    size = start[:4]
    return size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def read_nifti(
    content: bytes, *, path: Path, geometry: Form | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, affine in mm and metadata from the content of a NIfTI file.

    Args:
        content: the whole file, uncompressed.
        path: what warnings call it.
        geometry: the form to go by. Default: the sform if its code is above 0, else the qform.

    Returns:
        Voxels (X, Y, Z, ...), affine and metadata: ``stored_dtype``; ``time_step``, the step of the
        fourth axis and the code of its unit; ``has_orientation`` False where no form tells one.

    Raises:
        ImageError: truncated, a damaged header, colors or complex numbers, no usable geometry.
    """
    if not is_nifti(content[:4]):
        raise ImageError("E-IO-TYPE", "the content is no NIfTI image", fix="give a NIfTI file")
    image_class = _class_of(content)
    size = image_class.header_class.sizeof_hdr
    if len(content) < size:
        raise ImageError(
            "E-IO-TRUNC",
            f"the header ends early ({len(content)} bytes found, {size} needed)",
            fix="copy or download the file again",
        )
    try:
        header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
        needed = _end_of_voxels(header)
    except (HeaderDataError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ImageError("E-HDR-DIM", f"the header is damaged ({error})", fix="restore the file") from error
    if not shape or min(shape) < 1 or np.prod([float(n) for n in shape]) * dtype.itemsize > MOST_BYTES:
        raise ImageError("E-HDR-DIM", f"the header claims {shape} voxels", fix="repair the header's dim field")
    check_dtype(dtype)
    if len(content) < needed:
        raise ImageError(
            "E-IO-TRUNC",
            f"the voxels end early ({len(content)} bytes found, {needed} needed)",
            fix="copy or download the file again",
        )
    affine, has_orientation = _nifti_affine(header, path, geometry)
    try:
        image = image_class.from_bytes(content)
    except (HeaderDataError, ValueError) as error:
        raise ImageError("E-HDR-DIM", f"the header is damaged ({error})", fix="restore the file") from error
    slope, intercept = (header[name].item() for name in ("scl_slope", "scl_inter"))
    scaled = (np.isfinite(slope) and slope not in (0, 1)) or (np.isfinite(intercept) and intercept != 0)
    stored = "float32" if scaled or dtype.itemsize > 4 else dtype.newbyteorder("=").name
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    return voxels, affine, _told(header, voxels, stored, has_orientation)


def _told(header: Any, voxels: np.ndarray, stored: str, has_orientation: bool) -> dict[str, Any]:
    """What :func:`read_nifti` returns as metadata."""
    meta: dict[str, Any] = {"stored_dtype": stored}
    if voxels.ndim > 3:
        meta["time_step"] = float(header["pixdim"][4]), int(header["xyzt_units"]) & _TIME_UNITS
    if not has_orientation:
        meta["has_orientation"] = False
    return meta


def from_nibabel(image: nib.spatialimages.SpatialImage, *, path: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """An image of nibabel in memory as :func:`read_nifti` would read it from its file.

    Raises:
        ImageError: colors or complex numbers, no usable geometry.
    """
    source: Any = image.dataobj  # an array, or what reads one from the file
    scaled = getattr(source, "slope", 1) != 1 or getattr(source, "inter", 0) != 0
    dtype = np.dtype(source.dtype)
    check_dtype(dtype)
    stored = "float32" if scaled or dtype.itemsize > 4 else dtype.newbyteorder("=").name
    voxels = np.asarray(source, dtype=np.float32)
    if not isinstance(image, nib.Nifti1Pair):
        return voxels, np.asarray(image.affine, dtype=np.float64), {"stored_dtype": stored}
    # the affine of an image in memory may have been changed since its header was read; a new one agrees
    header = type(image)(source, image.affine, image.header).header
    affine, has_orientation = _nifti_affine(header, path, None)
    return voxels, affine, _told(header, voxels, stored, has_orientation)


def _nifti_affine(header: Any, path: str | Path, geometry: Form | None) -> tuple[np.ndarray, bool]:
    """Where voxels lie, mm, and whether the header tells an orientation at all."""
    spacing = header["pixdim"][1:4].astype(float)
    spacing[len(header.get_data_shape()) :] = 1.0  # of an axis that a picture has not
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ImageError(
            "E-HDR-SPACING",
            f"pixdim is {tuple(map(float, spacing))} mm, each must be above 0",
            fix="restore the voxel spacing in the header",
        )
    unit, scale = _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    if scale != 1:
        warn("W-HDR-UNITS", "the header counts in {unit}; converted to mm", path=path, facts={"unit": unit})
    sform, qform = _form(header, "sform"), _form(header, "qform")
    broken = [name for name, form in (("sform", sform), ("qform", qform)) if form is not None and np.isnan(form).any()]
    sound = {
        name: form for name, form in (("sform", sform), ("qform", qform)) if form is not None and name not in broken
    }
    if geometry is not None and geometry not in sound:
        why = "holds NaN or infinite values" if geometry in broken else f"is absent ({geometry}_code is 0)"
        raise ImageError("E-HDR-AFFINE", f"the {geometry} {why}", fix="leave --geometry out")
    if broken and not sound:
        other = "sform" if sform is None else "qform"
        raise ImageError(
            "E-HDR-AFFINE",
            f"the {broken[0]} holds NaN or infinite values and there is no valid {other}",
            fix="repair the header's affine, for example from the original DICOM",
        )
    if not sound:
        warn("W-HDR-NOFORM", "the header tells no orientation; the spacing alone is used", path=path)
        return np.diag([*(spacing * scale), 1.0]), False
    used: str = geometry or next(iter(sound))
    if "sform" in broken and geometry is None:
        warn("W-HDR-AFFINE", "the sform holds NaN or infinite values; the qform is used", path=path)
    if len(sound) == 2 and geometry is None:
        distance = _farthest(sound["sform"] - sound["qform"], header.get_data_shape())
        if distance > 0.1 * spacing.min():
            warn(
                "W-HDR-FORMS",
                "sform and qform differ by up to {distance:.3g} mm; "
                "the sform is used (--geometry qform takes the other)",
                path=path,
                facts={"distance": float(distance * scale)},
            )
    affine = np.array(sound[used], dtype=np.float64)
    affine[:3] *= scale
    return affine, True


def _form(header: Any, name: Form) -> np.ndarray | None:
    """The affine of one form in the header's units, all NaN if it holds such; None if its code is 0."""
    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        affine = header.get_sform() if name == "sform" else header.get_qform()
    except (HeaderDataError, ValueError):  # a quaternion that is none
        return np.full((4, 4), np.nan)
    return affine if np.isfinite(affine).all() else np.full((4, 4), np.nan)


def _farthest(difference: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far apart two affines put a corner of the volume at most, in their units."""
    size = np.array([*shape, 1, 1, 1][:3])
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (size - 1)
    moved = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved, axis=1).max())


def nifti_image(
    voxels: np.ndarray,
    grid: Grid,
    *,
    has_orientation: bool = True,
    time_step: tuple[float, int] | None = None,
    super_resolved: bool = False,
) -> nib.Nifti1Image:
    """An image in memory, ready to be streamed; both forms tell the same geometry.

    Args:
        voxels: (X, Y, Z) or (X, Y, Z, T) in the type to be stored.
        grid: where they lie.
        has_orientation: whether the affine tells more than the spacing; if not, both codes are 0.
        time_step: see :func:`read_nifti`.
        super_resolved: whether the header says so, see :func:`is_super_resolved`.
    """
    if voxels.dtype == bool:
        voxels = voxels.astype(np.uint8)
    big = max(voxels.shape) > 32767
    image = (nib.Nifti2Image if big else nib.Nifti1Image)(voxels, grid.affine, dtype=voxels.dtype)
    code = 1 if has_orientation else 0
    image.set_sform(grid.affine, code=code)
    image.set_qform(grid.affine, code=code)
    image.header.set_xyzt_units("mm")
    if time_step is not None and voxels.ndim > 3:
        image.header["pixdim"][4] = time_step[0]
        image.header["xyzt_units"] = int(image.header["xyzt_units"]) | time_step[1]
    image.header["descrip"] = SUPER_RESOLVED if super_resolved else b"monai-sr: research only, not for diagnosis"
    return image


def is_super_resolved(path: Path) -> bool:
    """Whether a NIfTI file says that it is a result of ours."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(wbits=31).decompress(start)
    except (OSError, zlib.error):  # whoever reads it tells what is wrong
        return False
    return SUPER_RESOLVED in start[:540]


def stream_nifti(image: nib.Nifti1Image, file: BinaryIO, *, compressed: bool) -> None:
    """Write an image to an open file; equal images give equal bytes."""
    if not compressed:
        image.to_stream(cast(io.IOBase, file))
        return
    # no name and no time in the gzip header: equal results are equal files
    with igzip.IGzipFile(filename="", mode="wb", fileobj=file, compresslevel=COMPRESSION, mtime=0) as stream:
        image.to_stream(cast(io.IOBase, stream))


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
