"""NIfTI files; the whole header is checked before voxels are used."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader

from ..acquired import acquisition_meta, has_orientation
from ..errors import ImageError, InputMissingError, UsageError, warn
from ..grid import ArrayImage, Grid
from .forms import Form, nifti_affine
from .stored import MOST_BYTES, Header, Stored, start_of

if TYPE_CHECKING:
    from torch import Tensor

COMPRESSION = 3
"""gzip level of results by ISA-L, its highest: for a CT a seventh of the time of zlib's level 3, in 3 % more
space (measured by ``python -m tests.benchmarks.compression``)."""

SUPER_RESOLVED = b"monai-sr: super-resolved; research only, not for diagnosis"
"""The description in the header of a result, so that it is not used as an input of a batch."""

_TIME_UNITS = 0x38
"""The bits of ``xyzt_units`` for the unit of the fourth axis."""

_LONGEST = 540
"""Size of the longest header, bytes."""

_SEVERAL = {*range(1004, 1011), 2003, 2004}
"""Intent codes of matrices, displacements, vectors and colors, whose numbers lie along the fifth axis."""

_ENDINGS = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)
_ANALYZE_SIZE = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
_NIFTI2_SIZE = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_SINGLE, _PAIR = (b"n+1\0", b"n+2\0"), (b"ni1\0", b"ni2\0")


def is_nifti(start: bytes | bytearray) -> bool:
    """Whether a file starts with the header size of NIfTI-1 (or Analyze) or NIfTI-2, either byte order."""
    return start[:4] in (*_ANALYZE_SIZE, *_NIFTI2_SIZE)


def is_pair(path: Path, start: bytes) -> bool:
    """Whether a file is the header or the voxels of a pair of files, NIfTI or Analyze."""
    return _magic_of(start) in _PAIR or (
        _ENDINGS.search(path.name) is not None and not (is_nifti(start) and _magic_of(start) in _SINGLE)
    )


def _magic_of(start: bytes) -> bytes:
    return bytes(start[4:8] if start[:4] in _NIFTI2_SIZE else start[344:348])


def files_of_pair(path: Path) -> tuple[Path, Path]:
    """The header file and the voxel file of a pair, by the name of one; packed or not.

    Raises:
        InputMissingError: the other is missing.
    """
    ending = _ENDINGS.search(path.name)
    if ending is None:
        problem = "according to the header the voxels are in another file, but its name is unknown"
        raise ImageError("E-HDR-FIELD", problem, fix="name the two files .hdr and .img")
    stem, packed = path.name[: ending.start()], ending[2] or ""
    other = "img" if ending[1].lower() == "hdr" else "hdr"
    endings = [f".{word}{gz}" for gz in dict.fromkeys((packed, "", ".gz")) for word in (other, other.upper())]
    for name in (stem + ending for ending in endings):
        if (path.parent / name).is_file():
            pair = path, path.parent / name
            return pair if other == "img" else pair[::-1]
    raise InputMissingError("E-IO-MISSING", f"the other file of the pair, {stem}.{other}, is missing")


def read_nifti(path: Path, *, geometry: Form | None = None) -> Header:
    """The header of a NIfTI image in one or two files, packed or not, or of Analyze.

    Args:
        path: the file, or either of a pair.
        geometry: the form to use. Default: the sform if its code is above 0, else the qform.

    Returns:
        Its metadata hold ``time_step``, the step of the fourth axis and the code of its unit, and
        ``has_orientation`` False if there is no form.

    Raises:
        ImageError: truncated, an invalid header, colors or complex numbers, no usable geometry.
        UsageError: a form was requested of an Analyze image, which has no forms.
    """
    start, packed = start_of(path, _LONGEST)
    pair = is_pair(path, start)
    voxels_in = path
    if pair:
        path, voxels_in = files_of_pair(path)
        start, packed = start_of(path, _LONGEST)[0], start_of(voxels_in, 2)[1]
    header = _header_of(start, path, pair=pair)
    axes, offset = header["dim"][0].item(), header["vox_offset"].item()
    try:
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
        if not (1 <= axes <= 7 and 0 <= offset < MOST_BYTES):
            raise ValueError(f"{axes} axes, voxels from byte {offset}")
    except (HeaderDataError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ImageError("E-HDR-DIM", f"the header is damaged ({error})") from error
    check_dtype(dtype)
    _check_intent(header)
    offset, smallest = int(offset), 0 if pair else header.single_vox_offset
    stored = Stored(shape, dtype, [voxels_in], "gzip" if packed else "raw", offset=max(offset, smallest))
    if offset < smallest:
        facts = {"offset": offset, "used": smallest}
        problem = "voxels start at byte {offset}, inside the header; they are read from {used}"
        warn("W-HDR-OFFSET", problem, path=path, facts=facts)
    if not isinstance(header, nib.Nifti1Header) and geometry is not None:
        raise UsageError("E-USE", f"--geometry {geometry} does not apply to an Analyze image", fix="leave it out")
    affine, has_orientation = nifti_affine(header, path, geometry)
    try:
        slope, intercept = header.get_slope_inter()
        if "scl_slope" in header and np.isinf(header["scl_slope"]):  # NaN means none, as nibabel writes it
            raise HeaderDataError("infinite scl_slope")
    except HeaderDataError as error:
        raise ImageError("E-HDR-FIELD", f"the header is damaged ({error})") from error
    return Header(path, stored, affine, _meta_of(header, has_orientation), slope, intercept)


def _header_of(start: bytes, path: Path, *, pair: bool) -> Any:
    """The header of NIfTI or Analyze, as nibabel parses it."""
    if not is_nifti(start):
        raise ImageError("E-IO-TYPE", "the content is not a NIfTI image", path=path)
    header_class: Any = nib.Nifti1Header
    if start[:4] in _NIFTI2_SIZE:
        header_class = nib.Nifti2Header
    elif pair and _magic_of(start) not in _PAIR:
        header_class = Spm2AnalyzeHeader
    size = header_class.sizeof_hdr
    if len(start) < size:
        raise ImageError("E-IO-TRUNC", f"the header ends early ({len(start)} bytes found, {size} needed)", path=path)
    order = "<" if start[0] else ">"
    header = header_class(start[:size], endianness=order, check=False)
    if header_class is not Spm2AnalyzeHeader and _magic_of(start) not in (_PAIR if pair else _SINGLE):
        raise ImageError("E-HDR-FIELD", f"the header's magic is {_magic_of(start)!r}", path=path)
    return header


def _meta_of(header: Any, is_oriented: bool) -> dict[str, Any]:
    """The metadata of :func:`read_nifti`."""
    meta = acquisition_meta(has_orientation=is_oriented)
    if len(header.get_data_shape()) > 3 and isinstance(header, nib.Nifti1Header):
        meta["time_step"] = float(header["pixdim"][4]), int(header["xyzt_units"]) & _TIME_UNITS
    return meta


def from_nibabel(image: nib.spatialimages.SpatialImage, *, path: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels, affine and metadata of a nibabel image, as :func:`read_nifti` reads them from its file.

    Raises:
        ImageError: colors or complex numbers, no usable geometry.
    """
    source: Any = image.dataobj  # an array, or a proxy that reads it from the file
    scaled = getattr(source, "slope", 1) != 1 or getattr(source, "inter", 0) != 0
    dtype = np.dtype(source.dtype)
    check_dtype(dtype)
    stored = "float32" if scaled or dtype.itemsize > 4 else dtype.newbyteorder("=").name
    voxels = np.asarray(source, dtype=np.float32)
    if not isinstance(image, nib.Nifti1Pair):
        return voxels, np.asarray(image.affine, dtype=np.float64), acquisition_meta(stored_dtype=stored)
    # the affine of an image in memory may have been changed since its header was read; a new one agrees
    header = type(image)(source, image.affine, image.header).header
    _check_intent(header)
    affine, has_orientation = nifti_affine(header, path, None)
    return voxels, affine, acquisition_meta(stored_dtype=stored) | _meta_of(header, has_orientation)


def nifti_fields(image: Tensor | ArrayImage) -> dict[str, Any]:
    """The metadata of an image that :func:`nifti_image` keeps."""
    meta = getattr(image, "meta", {})
    kept = {key: meta[key] for key in ("time_step", "super_resolved") if key in meta}
    return kept | {"has_orientation": has_orientation(image)}


def nifti_image(
    voxels: np.ndarray,
    grid: Grid,
    *,
    has_orientation: bool = True,
    time_step: tuple[float, int] | None = None,
    super_resolved: bool = False,
) -> nib.Nifti1Image:
    """An image in memory, ready to be streamed; both forms have the same geometry.

    Args:
        voxels: (X, Y, Z) or (X, Y, Z, T) in the type to be stored.
        grid: their grid.
        has_orientation: whether the affine has an orientation; if not, both codes are 0.
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
    """Whether the header of a NIfTI file says that monai-sr made it."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
        if start[:2] == b"\x1f\x8b":
            start = zlib.decompressobj(wbits=31).decompress(start)
    except (OSError, zlib.error):  # the reader reports the error
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
        problem = f"voxels are {'colors' if dtype.fields else dtype.name}, real numbers are needed"
        raise ImageError("E-IMG-DTYPE", problem)


def _check_intent(header: Any) -> None:
    """Refuse several numbers for each voxel, such as a field of displacements.

    Raises:
        ImageError: the header says so.
    """
    count = int(np.prod(header.get_data_shape()[4:], dtype=int))
    if isinstance(header, nib.Nifti1Header) and int(header["intent_code"]) in _SEVERAL and count > 1:
        raise ImageError("E-IMG-DTYPE", f"{count} numbers for each voxel (intent code {int(header['intent_code'])})")
