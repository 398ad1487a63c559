"""One DICOM file as a pydicom Dataset whose pixels stay unread, within the size of the file."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ImageError
from .archive import SMALL
from .kinds import BrokenFileError
from .late import pydicom

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
DEFERRED = 4096
"""Values of more bytes stay in the file until they are asked for: the pixels, not the header."""

DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_INFLATED = 20
"""Inflated to deflated size of a whole file, above :data:`SMALL`: images shrink by 2 to 4, blank slices by more."""

_SYNTAX_OF = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
"""Transfer syntax by implicit VR and little endian, for files without it."""


class Stream(io.BufferedReader):
    """A file that never reads more than its size: Python would allocate whatever a damaged length says.

    Attributes:
        size: bytes of the file.
        is_marked: whether it has the DICOM preamble.
        may_be_dicom: whether it has the preamble, or starts with group 0002 or 0008, little endian.
        is_deflated: whether its transfer syntax is deflated.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(io.FileIO(os.fspath(file)))  # whose name pydicom wants as text
        self.size = os.fstat(self.fileno()).st_size
        start = self.read(4096)
        if b"\2\0\x10\0" not in start:
            start += self.read(2**16)
        self.seek(0)
        self.is_marked, self.is_deflated = start[128:132] == b"DICM", DEFLATED.encode() in start
        self.may_be_dicom = self.is_marked or (start[:1] in (b"\2", b"\x08") and start[1:4:2] == b"\0\0")

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        if size is not None and size > self.size:
            size = self.size
        return super().read(size)


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def pydicom_silent() -> Iterator[None]:
    """Silence the warnings and logs of pydicom: they quote the header."""
    log = logging.getLogger("pydicom")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


def read_dataset(stream: Stream) -> Any:
    """Read all attributes up to the pixels, and the position of these.

    Raises:
        BrokenFileError: a deflated file grows beyond the limit.
        Exception: whatever pydicom raises on damaged headers.
    """

    def beyond() -> Callable[[int, str | None, int], bool]:
        tags = [0]  # what follows the pixels may be padding that reads as thousands of elements

        def stop(tag: int, vr: str | None, length: int) -> bool:
            tags.append(tag)
            return tags[-2] == PIXEL_DATA

        return stop

    if stream.is_deflated:
        meta, inflated = _inflate(stream)
        dataset = pydicom.filereader.read_partial(io.BytesIO(inflated), stop_when=beyond(), force=True)
        dataset.file_meta, dataset.preamble = meta, b""
        dataset.timestamp = os.fstat(stream.fileno()).st_mtime
    else:
        dataset = pydicom.filereader.read_partial(
            stream, stop_when=beyond(), defer_size=DEFERRED, force=not stream.is_marked
        )
        for tag, raw in dataset._dict.items():
            unread = isinstance(raw, pydicom.dataelem.RawDataElement) and raw.value is None and tag != PIXEL_DATA
            if unread and UNDEFINED_LENGTH != raw.length > stream.size - raw.value_tell:  # type: ignore[union-attr]
                raise EOFError
    if "TransferSyntaxUID" not in dataset.file_meta:
        encoding = getattr(dataset, "original_encoding", None)  # not in pydicom 2 (MONAI Label)
        implicit, little = encoding or (dataset.is_implicit_VR, dataset.is_little_endian)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(_SYNTAX_OF[bool(implicit), bool(little)])
    return dataset


def _inflate(stream: Stream) -> tuple[Any, bytes]:
    """File meta information and inflated data set of a deflated file; pydicom has no size limit."""
    pydicom.filereader.read_preamble(stream, not stream.is_marked)
    meta = pydicom.filereader._read_file_meta_info(stream)
    packed = stream.read()
    most = max(SMALL, MOST_INFLATED * len(packed))
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most + 1)
    if len(content) > most:
        raise BrokenFileError("", bomb(Path(stream.name), most, len(packed)))
    return meta, content


def bomb(file: Path, size: int, packed: int) -> ImageError:
    """Error: the file would become too large."""
    problem = f"{file.name} of {packed / 2**20:.3g} MiB would become more than {size / 2**20:.0f} MiB of pixels"
    fix = "decompress it by another tool, such as dcmconv, if it is to be trusted"
    return ImageError("E-SEC-BOMB", problem, fix=fix)


def uid_of(file: Path) -> str:
    """SeriesInstanceUID of a file whose pixels cannot be read; empty if absent."""
    try:
        with Stream(file) as stream:
            if stream.is_deflated:
                return ""
            header = pydicom.dcmread(stream, DEFERRED, True, True, ["SeriesInstanceUID"])
        if any(getattr(element, "value", None) is None for element in header._dict.values()):
            return ""  # longer than any UID, by a length that may be gigabytes, and unread so far
        return str(header.get("SeriesInstanceUID") or "")
    except Exception:  # as in read_dataset; the file is known to be broken already
        return ""


def pixel_element(dataset: Any) -> Any:
    """The element of the pixels, unread.

    ``get_item`` would read them in pydicom 2, and in 3 without ``keep_deferred``.
    """
    return dataset._dict.get(PIXEL_DATA)
