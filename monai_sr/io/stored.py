"""The voxels of a file: read to the last byte, with every checksum, or refused.

The size that a header claims is compared with the size of the file before anything is allocated or unpacked.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, Literal

import numpy as np
from nibabel.volumeutils import apply_read_scaling

from ..acquired import acquisition_meta
from ..errors import ImageError, InputMissingError, warn

Packing = Literal["raw", "gzip", "zlib", "text", "hex"]

MOST_BYTES = 2**40
"""A header that claims more than this TiB is damaged."""

SPARE = 64 * 2**20
"""Maximum number of bytes after the last voxel of a compressed file."""

DEFLATE_RATIO = 1032
"""Maximum compression of Deflate (zlib's technical details)."""

BOMB_BYTES, BOMB_RATIO = 512 * 2**20, 200
"""Voxels of more bytes that unpack by a larger factor are not an acquired image."""

LONGEST_LIST = 2**22
"""Bytes of a list of files that are read."""

_BLOCK = 2**20
_GZIP = b"\x1f\x8b"
_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class Stored:
    """Where and how the voxels of an image are stored.

    Raises:
        ImageError: there are no voxels, or implausibly many.

    Attributes:
        shape: first axis fastest.
        dtype: with its byte order.
        files: each holds an equal part, in this order.
        packing: compression or encoding; ``text`` are decimal numbers.
        start: bytes of each file before the data, or before the compressed stream.
        size: bytes of the compressed stream; None for all that follows.
        offset: bytes before the first voxel after unpacking; None if the voxels are the last bytes.
        footer: bytes that may follow the voxels, and may be followed by more; None if nothing follows.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    files: Sequence[Path]
    packing: Packing = "raw"
    start: int = 0
    size: int | None = None
    offset: int | None = 0
    footer: int | None = None

    def __post_init__(self) -> None:
        count = math.prod(self.shape)
        if not self.shape or min(self.shape) < 1 or count * self.dtype.itemsize > MOST_BYTES:
            problem, fix = f"the header claims {self.shape} voxels", "repair the dimensions in the header"
            raise ImageError("E-HDR-DIM", problem, fix=fix)
        if not self.files or count % len(self.files):
            problem = f"the header claims {self.shape} voxels in {len(self.files)} files"
            raise ImageError("E-HDR-DIM", problem)

    def read(self) -> np.ndarray:
        """The voxels in :attr:`shape`, in the type of the file (float64 of text).

        Raises:
            ImageError: they are incomplete or damaged, or unpack to more than an image.
        """
        count = math.prod(self.shape) // len(self.files)
        parts = [self._part(file, count) for file in self.files]
        voxels = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return voxels.reshape(self.shape, order="F")

    def _part(self, path: Path, count: int) -> np.ndarray:
        length, needed = path.stat().st_size, count * self.dtype.itemsize
        with open(path, "rb") as file:
            if self.packing in ("gzip", "zlib"):
                return np.frombuffer(self._unpacked(file, path, length, needed), self.dtype)
            file.seek(self.start)
            if self.packing == "text":
                return self._parsed(file, path, length, count)
            if self.packing == "hex":
                return self._from_hex(file, path, length, needed)
            before = self.start + self.offset if self.offset is not None else max(self.start, length - needed)
            self._compare(length, before + needed, path)
            return np.fromfile(path, self.dtype, count, offset=before)

    def _unpacked(self, file: BinaryIO, path: Path, length: int, needed: int) -> bytearray:
        packed = length - self.start if self.size is None else self.size
        if packed > length - self.start:
            raise _too_short(path, f"{length} bytes found, {self.start + packed} needed")
        if self.offset is None:
            raise ImageError("E-HDR-FIELD", "a skip of -1 in compressed data")
        end = self.offset + needed
        if end > DEFLATE_RATIO * (packed + 1):
            raise _too_short(path, f"{packed} compressed bytes found, {end} bytes needed")
        if needed > BOMB_BYTES and needed > BOMB_RATIO * packed:
            raise ImageError("E-SEC-BOMB", f"{packed} bytes would unpack to {needed >> 20} MiB")
        file.seek(self.start)
        content, seen = bytearray(), 0
        try:
            for block in unpack(file, self.packing, packed):
                content += block[max(0, self.offset - seen) :][: needed - len(content)]
                seen += len(block)
                if seen > end + SPARE:
                    problem = f"it unpacks to more than {seen >> 20} MiB, its header declares {end >> 20} MiB"
                    raise ImageError("E-SEC-BOMB", problem)
        except EOFError as error:
            found = f"{seen} bytes unpacked, {end} needed" if seen < end else f"all {end} bytes, but no checksum"
            raise _too_short(path, found) from error
        self._compare(seen, end, path)
        if self.start + packed < length:
            warn_of_more(path, length - self.start - packed)
        return content

    def _parsed(self, file: BinaryIO, path: Path, length: int, count: int) -> np.ndarray:
        if length - self.start < 2 * count - 1:
            raise _too_short(path, f"{length - self.start} bytes found, {2 * count - 1} or more needed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of text that is not numbers
            try:
                voxels = np.fromstring(file.read().decode("ascii"), np.float64, sep=" ")
            except ValueError:
                voxels = np.empty(0)
        self._compare(len(voxels), count, path)
        stored = voxels.astype(self.dtype)
        if self.dtype.kind in "iu" and (stored != voxels).any():
            raise ImageError("E-IO-READ", f"voxels are not numbers of the type {self.dtype.name}")
        return stored[:count]

    def _from_hex(self, file: BinaryIO, path: Path, length: int, needed: int) -> np.ndarray:
        if length - self.start < 2 * needed:
            raise _too_short(path, f"{length - self.start} hexadecimal digits found, {2 * needed} needed")
        try:
            content = bytearray.fromhex(file.read().decode("ascii"))
        except ValueError as error:
            raise ImageError("E-IO-READ", "voxels are not hexadecimal digits") from error
        self._compare(len(content), needed, path)
        return np.frombuffer(content[:needed], self.dtype)

    def _compare(self, found: int, needed: int, path: Path) -> None:
        if found < needed or (self.footer and needed < found < needed + self.footer):
            raise _too_short(path, f"{found} bytes found, {needed + (self.footer or 0)} needed")
        if found > needed and self.footer is None:
            warn_of_more(path, found - needed)


@dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
        path: the file.
        stored: where its voxels are.
        affine: voxel index to RAS+ mm.
        meta: ``stored_dtype``, the type that a result is written in, and facts of the format.
        slope, intercept: voxels are multiplied by the first, then the second is added; None for 1 and 0.
        order: stored axes in the order of the voxels, without some of length 1; None for the stored order.
        beside: JSON file that was read with it.
    """

    path: Path
    stored: Stored
    affine: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)
    slope: float | None = None
    intercept: float | None = None
    order: tuple[int, ...] | None = None
    beside: Path | None = None

    def __post_init__(self) -> None:
        dtype = self.stored.dtype
        scaled = self.slope not in (None, 1) or self.intercept not in (None, 0)
        name = "float32" if scaled or dtype.itemsize > 4 else dtype.newbyteorder("=").name
        self.meta.update(acquisition_meta(stored_dtype=name))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis: X, Y, Z, and volumes if there are several."""
        return self.stored.shape if self.order is None else tuple(self.stored.shape[axis] for axis in self.order)

    @property
    def files(self) -> list[Path]:
        """All files of the image, each once."""
        return list(dict.fromkeys([self.path, *self.stored.files, *([self.beside] if self.beside else [])]))

    def read_voxels(self) -> np.ndarray:
        """Voxels float32 in their units.

        Raises:
            ImageError: as :meth:`Stored.read`.
        """
        voxels = self.stored.read()
        if self.order is not None:
            alone = [axis for axis in range(voxels.ndim) if axis not in self.order]
            voxels = voxels.transpose(*self.order, *alone).reshape(self.shape)
        return apply_read_scaling(voxels, self.slope, self.intercept).astype(np.float32, copy=False)


def start_of(path: Path, count: int) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked if it is a gzip, and whether it is a gzip.

    Raises:
        ImageError: the gzip ends or is damaged before them.
    """
    if not path.stat().st_size:  # files in /proc have no size, and reading may block
        return b"", False
    with open(path, "rb") as file:
        start = file.read(count)
        if start[:2] != _GZIP:
            return start, False
        file.seek(0)
        content = bytearray()
        try:
            for block in unpack(file, "gzip", path.stat().st_size):
                content += block
                if len(content) >= count:
                    break
        except EOFError as error:
            if len(content) < count:
                raise _too_short(path, f"{len(content)} bytes unpacked, {count} needed") from error
        return bytes(content[:count]), True


def unpack(file: BinaryIO, packing: str, size: int) -> Iterator[bytes]:
    """The content of a compressed stream in blocks of up to 1 MiB; its checksum is verified at the end.

    Args:
        file: at the first byte of the stream.
        packing: "gzip", of one or more members, or "zlib", which accepts a gzip too.
        size: bytes of the stream.

    Raises:
        ImageError: it is damaged.
        EOFError: it ends early.
    """
    wbits = 31 if packing == "gzip" else 47
    stream, data = zlib.decompressobj(wbits), b""
    try:
        while True:
            if not data:
                data = file.read(min(_BLOCK, size))
                size -= len(data)
                if not data:
                    break
            if stream.eof:
                data = data.lstrip(b"\0") if packing == "gzip" else data  # gzip may be padded by zeros
                if not data:
                    continue
                if packing != "gzip":
                    raise zlib.error("bytes follow its end")
                stream = zlib.decompressobj(wbits)
            yield stream.decompress(data, _BLOCK)
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
        while not stream.eof and (block := stream.decompress(b"", _BLOCK)):
            yield block
    except zlib.error as error:
        problem = f"the compressed data are damaged ({error})"
        raise ImageError("E-IO-CRC", problem, path=file.name) from error
    if not stream.eof:
        raise EOFError


def data_file(header: Path, name: str) -> Path:
    """The file beside a header that the header names.

    Raises:
        ImageError: the name is outside the folder, or not of a file.
        InputMissingError: the file is missing.
    """
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        if pure.anchor or ".." in pure.parts or "\0" in name:
            raise ImageError("E-SEC-PATH", f"the header names the voxel file {name!r}, outside its folder")
    path = header.parent / name
    try:
        if path.is_file():
            return path
        there = path.exists()
    except OSError:  # longer than file systems allow
        there = False
    if there:
        raise ImageError("E-IO-TYPE", f"the voxels are in {name!r}, which is not a regular file")
    raise InputMissingError("E-IO-MISSING", f"the file of its voxels, {name!r}, is missing")


def listed_files(header: Path, start: int) -> list[Path]:
    """The files beside a header whose names are its lines from a byte on; raises as :func:`data_file`."""
    with open(header, "rb") as file:
        file.seek(start)
        lines = file.read(LONGEST_LIST).decode("utf-8", "surrogateescape").splitlines()
    return [data_file(header, line.strip()) for line in lines if line.strip()]


def _too_short(path: Path, found: str) -> ImageError:
    return ImageError("E-IO-TRUNC", f"the file ends early ({found})", path=path)


def warn_of_more(path: Path, count: int) -> None:
    """Warn of bytes behind the last voxel: some were put in before it, or something else was appended."""
    warn("W-IO-MORE", "{bytes} bytes follow the last voxel; they are not read", path=path, facts={"bytes": count})
