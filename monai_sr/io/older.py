"""Two old formats with one header and plain voxels: MGH and MGZ of FreeSurfer, and GIPL."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..acquired import acquisition_meta
from ..errors import ImageError, warn
from .fields import LPS_TO_RAS
from .stored import Header, Packing, Stored, warn_of_more

_MGH = np.dtype(
    [
        *(("version", ">i4"), ("shape", ">i4", 4), ("type", ">i4"), ("dof", ">i4"), ("has_geometry", ">i2")),
        *(("spacing", ">f4", 3), ("directions", ">f4", (3, 3)), ("center", ">f4", 3)),
    ]
)
_MGH_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_MGH_VOXELS, _MGH_FOOTER = 284, 20
_MOST_TAG = 100
"""Notes behind the footer start with a number below it."""

_GIPL = np.dtype(
    [
        *(("shape", ">u2", 4), ("type", ">u2"), ("spacing", ">f4", 4), ("text", "S80"), ("matrix", ">f4", 20)),
        *(("flags", "u1", 2), ("range", ">f8", 2), ("origin", ">f8", 4), ("rest", ">f4", 4), ("magic", ">u4")),
    ]
)
_GIPL_TYPES = {7: "i1", 8: "u1", 15: ">i2", 16: ">u2", 31: ">u4", 32: ">i4", 64: ">f4", 65: ">f8"}
_GIPL_MAGIC = (719555000, 4026526128)


def is_mgh(start: bytes) -> bool:
    """Whether unpacked content may start an MGH file: its version is 1, big-endian."""
    return start[:4] == b"\0\0\0\1"


def is_gipl(start: bytes) -> bool:
    """Whether unpacked content starts a GIPL file."""
    return len(start) >= _GIPL.itemsize and int(np.frombuffer(start, _GIPL, 1)["magic"][0]) in _GIPL_MAGIC


def read_mgh(path: Path, start: bytes, *, packing: Packing) -> Header:
    """The header of FreeSurfer's MGH or MGZ.

    Args:
        path: the file.
        start: its first bytes, unpacked.
        packing: "gzip" of MGZ, else "raw".

    Raises:
        ImageError: truncated, not real numbers, or no geometry.

    Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
    """
    if len(start) < _MGH_VOXELS:
        raise ImageError("E-IO-TRUNC", "the header ends early")
    header = np.frombuffer(start, _MGH, 1)[0]
    dtype = _type_of(int(header["type"]), _MGH_TYPES)
    shape = _shape_of(header["shape"])
    # scan parameters and notes may follow the voxels
    stored = Stored(shape, dtype, [path], packing, offset=_MGH_VOXELS, footer=_MGH_FOOTER)
    if packing == "raw":
        _check_notes(path, _MGH_VOXELS + math.prod(shape) * dtype.itemsize + _MGH_FOOTER)
    if header["has_geometry"] <= 0:
        raise ImageError("E-HDR-SPACING", "the header gives no spacing (goodRASFlag is 0)")
    affine = np.eye(4)
    affine[:3, :3] = header["directions"].T.astype(float) * header["spacing"].astype(float)
    affine[:3, 3] = header["center"] - affine[:3, :3] @ (np.array(shape[:3]) / 2)
    return Header(path, stored, affine)


def read_gipl(path: Path, start: bytes, *, packing: Packing) -> Header:
    """The header of a GIPL file, which has only spacing and origin.

    Args, raises: as :func:`read_mgh`.
    """
    header = np.frombuffer(start, _GIPL, 1)[0]
    dtype = _type_of(int(header["type"]), _GIPL_TYPES)
    stored = Stored(_shape_of(header["shape"]), dtype, [path], packing, offset=_GIPL.itemsize)
    affine = np.diag([*header["spacing"][:3].astype(float), 1.0])
    affine[:3, 3] = header["origin"][:3]
    warn("W-HDR-NOFORM", "the header has no orientation; only the spacing is used", path=path)
    return Header(path, stored, LPS_TO_RAS @ affine, acquisition_meta(has_orientation=False))


def _check_notes(path: Path, end: int) -> None:
    """Warn of what follows the footer of an MGH file, at that byte, and is no note of FreeSurfer."""
    with open(path, "rb") as file:
        file.seek(end)
        tag = file.read(4)
    if tag and not (len(tag) == 4 and 0 < int.from_bytes(tag, "big") < _MOST_TAG):
        warn_of_more(path, path.stat().st_size - end)


def _shape_of(lengths: np.ndarray) -> tuple[int, ...]:
    """Three axes, and a fourth if it is longer than 1."""
    return tuple(int(n) for n in (lengths if lengths[3] > 1 else lengths[:3]))


def _type_of(number: int, types: dict[int, str]) -> np.dtype:
    if number not in types:
        raise ImageError("E-IMG-DTYPE", f"voxels are of the type {number}, real numbers are needed")
    return np.dtype(types[number])
