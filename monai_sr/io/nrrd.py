"""NRRD: ``.nrrd``, and ``.nhdr`` with its voxels in other files.

Source: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import acquisition_meta
from ..errors import ImageError, warn
from ..profiles import plausible
from .fields import LPS_TO_RAS, integers, no_spacing, numbers, unit_scale, wrong_field
from .meta_image import numbered_files
from .stored import Header, Packing, Stored, data_file, listed_files

LONGEST_HEADER = 2**22
"""A header of many gradients may be long."""

PACKINGS: dict[str, Packing] = {
    **dict.fromkeys(("gz", "gzip"), "gzip"),
    **dict.fromkeys(("txt", "text", "ascii"), "text"),
    **{"raw": "raw", "hex": "hex"},
}

TYPES = {
    **dict.fromkeys(("signedchar", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsignedchar", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "shortint", "signedshort", "signedshortint", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsignedshort", "unsignedshortint", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signedint", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsignedint", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "longlongint", "signedlonglong", "signedlonglongint", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsignedlonglong", "unsignedlonglongint", "uint64", "uint64_t"), "u8"),
    **{"float": "f4", "double": "f8"},
}
"""Names of types without their blanks."""

SPACES = {
    **dict.fromkeys(("rightanteriorsuperior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("leftanteriorsuperior", "las"), (-1.0, 1.0, 1.0)),
    **dict.fromkeys(("leftposteriorsuperior", "lps"), (-1.0, -1.0, 1.0)),
}
"""Signs of the axes of a space relative to RAS+."""

ALONG = ("domain", "space", "???", "")
"""Kinds of an axis in space."""

VOLUMES = ("list", "time", "none", *ALONG)
"""Kinds of an axis of whole volumes, if it is not in space."""


def read_nrrd(path: Path) -> Header:
    """The header of a NRRD file.

    Raises:
        ImageError: no spacing, an invalid field, or several numbers per voxel.
    """
    fields, end = _fields_of(path)
    shape = integers("sizes", fields.get("sizes", ""))
    if integers("dimension", fields.get("dimension", "")) != [len(shape)]:
        problem = f"sizes {shape} of {fields.get('dimension')!r} dimensions"
        raise ImageError("E-HDR-DIM", problem)
    kinds = fields.get("kinds", "").lower().split()
    kinds += [""] * (len(shape) - len(kinds))
    in_space = "spacedirections" in fields
    scale = _scale(fields.get("spaceunits" if in_space else "units"), 3 if in_space else len(shape), path)
    columns = _directions(fields, kinds, scale) if in_space else _spacings(fields, kinds, scale)
    axes = list(columns)[:3]
    volumes = [axis for axis, length in enumerate(shape) if axis not in axes and length != 1]
    if any(kinds[axis] not in VOLUMES for axis in volumes):
        raise ImageError("E-IMG-DTYPE", "voxels are colors or vectors")
    stored = _stored(fields, shape, path, end)
    affine = np.eye(4)
    meta: dict[str, Any] = {}
    if len(axes) < 3 <= len(shape):
        problem = f"the header gives the spacing of {len(axes)} of {len(shape)} axes"
        raise ImageError("E-HDR-SPACING", problem)
    if len(axes) == 3:  # fewer are refused for their dimensions
        affine, meta = _affine_of(fields, [columns[axis] for axis in axes], scale[:3] if in_space else np.ones(3), path)
        meta |= acquisition_meta(slice_thickness=_thickness(fields, columns, scale[:1] if in_space else scale))
    return Header(path, stored, affine, meta, order=(*axes, *volumes))


def _fields_of(path: Path) -> tuple[dict[str, str], int]:
    """The fields of a header by their names in lower case without blanks, and its length in bytes."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while file.tell() < LONGEST_HEADER and (line := file.readline(LONGEST_HEADER)):
            text = line.decode("utf-8", "surrogateescape").strip()
            if not text:
                return fields, file.tell()
            name, colon, value = text.partition(": ")
            if colon and not text.startswith("#"):
                fields["".join(name.lower().split())] = value.strip()
                if fields.get("datafile", "").startswith("LIST"):  # whose lines follow
                    return fields, file.tell()
        if "datafile" in fields and file.tell() < LONGEST_HEADER:
            return fields, file.tell()
    raise ImageError("E-IO-TRUNC", "the header ends early")


def _directions(fields: dict[str, str], kinds: list[str], scale: np.ndarray) -> dict[int, np.ndarray]:
    """The step along each axis in space, in mm, by the number of the axis."""
    text = fields["spacedirections"]
    words = re.findall(r"\(([^()]*)\)|none", text)
    if len(words) != len(kinds):
        raise wrong_field("space directions", text, f"{len(kinds)} vectors")
    columns = {}
    for axis, word in enumerate(words):
        step = np.array(numbers("space directions", word.replace(",", " ")))
        if len(step) not in (0, 3, 4):  # the fourth is time
            raise wrong_field("space directions", text, "vectors of three numbers")
        if len(step) == 3 or step[:3].any():
            columns[axis] = step[:3] * scale
    return columns


def _spacings(fields: dict[str, str], kinds: list[str], scale: np.ndarray) -> dict[int, np.ndarray]:
    """As :func:`_directions`, for a header that has only lengths."""
    columns: dict[int, np.ndarray] = {}
    for axis, word in enumerate(fields.get("spacings", "").lower().split()[: len(kinds)]):
        if word != "nan" and kinds[axis] in ALONG:
            columns[axis] = np.eye(3)[min(len(columns), 2)] * numbers("spacings", word) * scale[axis]
    if not columns and len(kinds) > 2:
        raise no_spacing("space directions")
    return columns


def _thickness(fields: dict[str, str], columns: dict[int, np.ndarray], scale: np.ndarray) -> float | None:
    """The slice thickness in mm: that of the axis of the largest step, if the header has it."""
    through = max(list(columns)[:3], key=lambda axis: float(np.linalg.norm(columns[axis])))
    words = fields.get("thicknesses", "").lower().split()[through : through + 1]
    values = numbers("thicknesses", words[0]) if words and words[0] != "nan" else []
    return plausible(values[0] * float(scale[min(through, len(scale) - 1)])) if values else None


def _scale(units: str | None, count: int, path: Path) -> np.ndarray:
    """The factor to mm along each of ``count`` axes."""
    names = re.findall(r'"([^"]*)"', units or "")
    return unit_scale([*names, *["mm"] * count][:count], path)


def _affine_of(
    fields: dict[str, str], columns: list[np.ndarray], scale: np.ndarray, path: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """RAS+ affine in mm, and whether the header has an orientation."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1)
    origin = fields.get("spaceorigin", "(0,0,0)")
    values = numbers("space origin", origin.strip("()").replace(",", " "))
    if len(values) not in (3, 4):
        raise wrong_field("space origin", origin, "three numbers")
    affine[:3, 3] = np.array(values[:3]) * scale
    space = "".join(fields.get("space", "").lower().replace("-", " ").split()).removesuffix("time")
    turn = SPACES.get(space) or SPACES.get(space.removesuffix("t"))
    if turn is not None:
        return np.diag([*turn, 1.0]) @ affine, {}
    warn("W-HDR-NOFORM", "the header has no orientation; only the spacing is used", path=path)
    return LPS_TO_RAS @ affine, acquisition_meta(has_orientation=False)


def _stored(fields: dict[str, str], shape: list[int], path: Path, end: int) -> Stored:
    """How the voxels are stored."""
    kind, encoding = "".join(fields.get("type", "").lower().split()), fields.get("encoding", "").lower()
    if kind == "block":
        raise ImageError("E-IMG-DTYPE", "voxels are blocks, real numbers are needed")
    if kind not in TYPES:
        raise wrong_field("type", fields.get("type", ""), "short, float or other numbers")
    if encoding not in PACKINGS:
        raise wrong_field("encoding", encoding, "raw, gzip, text or hex")
    dtype, packing = np.dtype(TYPES[kind]), PACKINGS[encoding]
    if dtype.itemsize > 1 and packing != "text":
        endian = fields.get("endian", "").lower()
        if endian not in ("little", "big"):
            raise wrong_field("endian", endian, "little or big")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    files, start = _files_of(fields, path, end)
    (lines,), (skip,) = (integers(name, fields.get(name, "0") or "x") for name in ("lineskip", "byteskip"))
    if lines < 0 or skip < -1:
        raise wrong_field("line skip or byte skip", f"{lines} {skip}", "0 or more")
    for _ in range(lines):  # the same number in every file; of different lengths they are found too short
        start = _next_line(files[0], start)
    # lines are skipped before it is unpacked, bytes after that
    return Stored(tuple(shape), dtype, files, packing, start=start, offset=None if skip == -1 else skip)


def _files_of(fields: dict[str, str], path: Path, end: int) -> tuple[list[Path], int]:
    """The voxel files, and the position of the first voxel in each."""
    name = fields.get("datafile")
    if name is None:
        return [path], end
    words = name.split()
    if name.startswith("LIST"):
        return listed_files(path, end), 0
    if "%" in name and len(words) > 3:
        return numbered_files(path, words[0], *integers("data file", " ".join(words[1:4]))), 0
    return [data_file(path, name)], 0


def _next_line(path: Path, start: int) -> int:
    """The position of the next line."""
    with open(path, "rb") as file:
        file.seek(start)
        if not file.readline():
            raise ImageError("E-IO-TRUNC", "lines to be skipped are missing")
        return file.tell()
