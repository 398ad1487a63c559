"""MetaImage: ``.mha``, and ``.mhd`` with its voxels in another file.

The reader of ITK returns uninitialized memory if the size of compressed voxels is missing or wrong, and reads
flipped bits in a ``.zraw`` (SimpleITK 2.5.7).

Source: https://itk.org/Wiki/MetaIO/Documentation
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ImageError
from .fields import LPS_TO_RAS, integers, no_spacing, numbers, unit_scale, wrong_field
from .stored import Header, Packing, Stored, data_file, listed_files

LONGEST_HEADER = 2**20

TYPES = {
    **{"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"},
    **{"LONG": "i4", "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"},
}
"""Names of types behind ``MET_``."""

_SAME = {
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
"""Second names of fields."""


def read_meta_image(path: Path) -> Header:
    """The header of a MetaImage.

    Raises:
        ImageError: no spacing, an invalid field, or several numbers per voxel.
    """
    fields, end = _fields_of(path)
    axes = _integer(fields, "NDims", 0)
    shape = integers("DimSize", fields.get("DimSize", ""))
    if axes != len(shape):
        raise ImageError("E-HDR-DIM", f"DimSize {shape} of {axes} axes")
    channels = _integer(fields, "ElementNumberOfChannels", 1)
    kind = fields.get("ElementType", "").removeprefix("MET_")
    if channels != 1 or kind.endswith("_ARRAY"):
        raise ImageError("E-IMG-DTYPE", f"{channels} numbers for each voxel")
    if kind not in TYPES:
        raise wrong_field("ElementType", fields.get("ElementType", ""), "MET_SHORT, MET_FLOAT or other numbers")
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if _is_true(fields, "BinaryDataByteOrderMSB") else "<")
    files, start = _files_of(fields, path, end)
    packing: Packing = "zlib" if _is_true(fields, "CompressedData") else "raw"
    if not _is_true(fields, "BinaryData", default=True):
        packing = "text"
    skip, size = _integer(fields, "HeaderSize", 0), _integer(fields, "CompressedDataSize", -1)
    stored = Stored(
        tuple(shape),
        dtype,
        files,
        packing,
        start=skip if skip > 0 else start,
        size=size if size >= 0 and len(files) == 1 else None,
        offset=None if skip == -1 else 0,
    )
    return Header(path, stored, _affine_of(fields, axes, path))


def _fields_of(path: Path) -> tuple[dict[str, str], int]:
    """The fields of a header, the last of which says where the voxels are, and its length in bytes."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while file.tell() < LONGEST_HEADER and (line := file.readline(LONGEST_HEADER)):
            name, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
            if equals:
                fields[_SAME.get(name.strip(), name.strip())] = value.strip()
            if "ElementDataFile" in fields:
                return fields, file.tell()
    raise ImageError("E-IO-TRUNC", "the header ends early (no ElementDataFile)")


def _files_of(fields: dict[str, str], path: Path, end: int) -> tuple[list[Path], int]:
    """The voxel files, and the position of the first voxel in each."""
    name = fields["ElementDataFile"]
    words = name.split()
    if name.upper() == "LOCAL":
        return [path], end
    if words and words[0] == "LIST":
        return listed_files(path, end), 0
    if "%" in name:
        first, last, step = integers("ElementDataFile", " ".join([*words[1:4], *("0", "0", "1")[len(words) - 1 :]]))
        return numbered_files(path, words[0], first, last, step), 0
    return [data_file(path, name)], 0


def numbered_files(path: Path, pattern: str, first: int, last: int, step: int) -> list[Path]:
    """The files beside a header that a pattern such as ``slice%03d.raw`` names.

    Raises:
        ImageError: the pattern is invalid, or a file is missing.
    """
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    if not 0 < len(numbers) <= 2**16:
        raise wrong_field("file pattern", f"{pattern} {first} {last} {step}", "1 to 65536 files")
    try:
        return [data_file(path, pattern % number) for number in numbers]
    except (TypeError, ValueError) as error:
        raise wrong_field("file pattern", pattern, "names with one number, such as slice%03d.raw,") from error


def _affine_of(fields: dict[str, str], axes: int, path: Path) -> np.ndarray:
    """RAS+ affine in mm; of more than three axes, the first three."""
    if axes < 3:
        return np.eye(4)  # refused for its dimensions
    name = next((name for name in ("ElementSpacing", "ElementSize") if name in fields), None)
    if name is None:
        raise no_spacing("ElementSpacing")
    spacing, origin = _geometry(fields, name, axes), _geometry(fields, "Offset", axes, default=[0.0] * axes)
    matrix = _geometry(fields, "TransformMatrix", axes * axes, default=np.eye(axes).ravel().tolist())
    scale = unit_scale([fields.get("DistanceUnits", "mm")], path)[0]
    affine = np.eye(4)
    # each row of the matrix is the direction of an axis
    affine[:3, :3] = np.reshape(matrix, (axes, axes))[:3, :3].T * np.array(spacing[:3]) * scale
    affine[:3, 3] = np.array(origin[:3]) * scale
    return LPS_TO_RAS @ affine


def _geometry(fields: dict[str, str], name: str, count: int, *, default: list[float] | None = None) -> list[float]:
    if default is not None and name not in fields:
        return default
    try:
        values = numbers(name, fields[name])
    except ImageError as error:
        raise ImageError("E-HDR-AFFINE", error.problem, fix=error.fix) from error
    if len(values) != count:
        raise ImageError("E-HDR-AFFINE", f"{name} holds {len(values)} numbers, {count} are needed")
    return values


def _integer(fields: dict[str, str], name: str, default: int) -> int:
    values = integers(name, fields.get(name, str(default)))
    if len(values) != 1:
        raise wrong_field(name, fields[name], "one number")
    return values[0]


def _is_true(fields: dict[str, str], name: str, *, default: bool = False) -> bool:
    return fields.get(name, str(default)).lower() in ("true", "t", "1", "yes", "y")
