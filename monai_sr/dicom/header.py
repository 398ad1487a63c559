"""One DICOM file: the frames it holds, and what its header says of each.

Nothing of the header's text enters a message: names, dates and descriptions may be a patient's.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from ..errors import ImageError, SuperResolutionWarning
from .archive import MOST_RATIO, SMALL
from .attributes import groups_of, in_group
from .kinds import (
    MODALITY_OF,
    BrokenFileError,
    NotAnImageError,
    check_kind,
    damaged,
    quantity_of,
    says_phase_by_ge,
    values_of,
)
from .series import Frame

PIXEL_DATA = 0x7FE00010
DEFERRED = 4096
"""Values of more bytes stay in the file until they are asked for: the pixels, not the header."""

MOST_INFLATED = 20
"""Inflated to deflated size of a whole file, above :data:`SMALL`: images shrink by 2 to 4, blank slices by more."""

_WHOLE = (
    *("NumberOfFrames", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_GEOMETRY = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness"),
    ("PixelValueTransformationSequence", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept"),
)
"""Functional group and attribute; classic files, and some enhanced ones, have the attribute at the top."""
_TAGS = {name: tag_for_keyword(name) for name in (*_WHOLE, *(name for _, name in _GEOMETRY))}
_SYNTAX_OF = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
"""Transfer syntax by implicit VR and little endian, for files that do not say it."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM = 8
"""Bytes that a compressed frame takes if it is empty."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NO_PREAMBLE = SuperResolutionWarning("W-DCM-PREAMBLE", "files without the DICOM preamble were read all the same")
_NO_CLASS = SuperResolutionWarning("W-DCM-CLASS", "the SOP class is unknown; the files are read by their Modality")


@contextmanager
def pydicom_silent() -> Iterator[None]:
    """No complaints of pydicom's, in warnings or logs: they quote the header."""
    from pydicom import config

    log = logging.getLogger("pydicom")
    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = was_disabled


class _Stream(io.BufferedReader):
    """A file of which no more is read than it has: a damaged length would have Python allot as much as it says."""

    def __init__(self, file: Path) -> None:
        super().__init__(io.FileIO(os.fspath(file)))  # whose name pydicom wants as text
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.size:
            size = self.size
        return super().read(size)

    def start(self) -> bytes:
        """The first bytes, with preamble and file meta information, where the transfer syntax is."""
        start = self.read(4096)
        if b"\2\0\x10\0" not in start:
            start += self.read(2**16)
        self.seek(0)
        return start


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_frames(file: Path, *, own_results: bool = False) -> tuple[Any, list[Frame], set[tuple[str, str]]]:
    """The pydicom Dataset of a file whose pixels stay unread, and the frames it holds.

    Args:
        file: which.
        own_results: take also what monai-sr made.

    Returns:
        The Dataset, its frames, and code and reason of frames that are left out, such as phase images.

    Raises:
        NotAnImageError: the file is not DICOM, or of a kind that holds no CT or MR slice.
        BrokenFileError: it is DICOM and cannot be read or used.
    """
    try:
        stream = _Stream(file)
        start = stream.start()
    except OSError:
        raise NotAnImageError("E-IO-TYPE", "not DICOM") from None
    marked, deflated = start[128:132] == b"DICM", _DEFLATED.encode() in start
    if not marked and not _looks_like_dicom(start):
        stream.close()
        raise NotAnImageError("E-IO-TYPE", "not DICOM")
    uid, sop_class = "", ""
    try:
        with stream:
            dataset = _read(stream, deflated=deflated, force=not marked)
        uid, sop_class = str(dataset.get("SeriesInstanceUID") or ""), str(dataset.get("SOPClassUID") or "")
        check_kind(dataset, file.name, own_results=own_results)
        _check_whole(dataset)
        if PIXEL_DATA not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
            raise BrokenFileError(uid, damaged(file.name))
        _check_length(dataset, file, uid)
        return dataset, *_frames_of(dataset, file, uid)
    except (NotAnImageError, BrokenFileError) as fault:
        if not marked:
            raise NotAnImageError("E-IO-TYPE", "not DICOM") from None
        if isinstance(fault, BrokenFileError):
            unplaced = fault.error.code in ("E-DCM-NOGEOM", "E-DCM-SPACING")
            if sop_class and sop_class not in MODALITY_OF and unplaced:
                raise NotAnImageError("E-DCM-MODALITY", "an unknown SOP class, and no sound CT or MR image") from fault
            fault.uid = fault.uid or ("" if deflated else _uid_of(file))
        raise
    except Exception as error:  # pydicom raises many types on damaged headers, many of them late
        if not marked:
            raise NotAnImageError("E-IO-TYPE", "not DICOM") from error
        raise BrokenFileError(uid or ("" if deflated else _uid_of(file)), damaged(file.name)) from error


def frames_of_header(dataset: Any) -> list[Frame]:
    """The frames that a header tells of whose file is elsewhere, such as an archive's metadata.

    Raises:
        NotAnImageError, BrokenFileError: as :func:`read_frames`.
    """
    from pydicom.dataset import FileMetaDataset

    uid = str(dataset.get("SeriesInstanceUID") or "")
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    check_kind(dataset, "header", own_results=False)
    return _frames_of(dataset, Path("header"), uid)[0]


def _read(stream: _Stream, *, deflated: bool, force: bool) -> Any:
    """All attributes up to the pixels, and where those are."""
    from pydicom.filereader import read_partial
    from pydicom.uid import UID

    def beyond() -> Callable[[int, str | None, int], bool]:
        tags = [0]  # what follows the pixels may be padding that reads as thousands of elements

        def stop(tag: int, vr: str | None, length: int) -> bool:
            tags.append(tag)
            return tags[-2] == PIXEL_DATA

        return stop

    if deflated:
        meta, inflated = _inflate(stream, force=force)
        dataset = read_partial(io.BytesIO(inflated), stop_when=beyond(), force=True)
        dataset.file_meta, dataset.preamble = meta, b""
        dataset.timestamp = os.fstat(stream.fileno()).st_mtime
    else:
        dataset = read_partial(stream, stop_when=beyond(), defer_size=DEFERRED, force=force)
        for tag, raw in dataset._dict.items():
            unread = isinstance(raw, RawDataElement) and raw.value is None and tag != PIXEL_DATA
            if unread and _UNDEFINED_LENGTH != raw.length > stream.size - raw.value_tell:  # type: ignore[union-attr]
                raise EOFError
    if "TransferSyntaxUID" not in dataset.file_meta:
        told = getattr(dataset, "original_encoding", None)  # pydicom 2, which MONAI Label asks for, has no such name
        implicit, little = told or (dataset.is_implicit_VR, dataset.is_little_endian)
        dataset.file_meta.TransferSyntaxUID = UID(_SYNTAX_OF[bool(implicit), bool(little)])
    return dataset


def _inflate(stream: Any, *, force: bool) -> tuple[Any, bytes]:
    """The file meta information and the data set of a deflated file, within the limit; pydicom has none.

    Raises:
        BrokenFileError: it grows beyond the limit.
    """
    from pydicom.filereader import _read_file_meta_info, read_preamble

    read_preamble(stream, force)
    meta = _read_file_meta_info(stream)
    packed = stream.read()
    most = max(SMALL, MOST_INFLATED * len(packed))
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most + 1)
    if len(content) > most:
        raise BrokenFileError("", _bomb(Path(stream.name), most, len(packed)))
    return meta, content


def _bomb(file: Path, size: int, packed: int) -> ImageError:
    return ImageError(
        "E-SEC-BOMB",
        f"{file.name} of {packed / 2**20:.3g} MiB would become more than {size / 2**20:.0f} MiB of pixels",
        fix="decompress it by another tool, such as dcmconv, if it is to be trusted",
    )


def _uid_of(file: Path) -> str:
    """The SeriesInstanceUID of a file whose pixels cannot be read; empty if there is none."""
    import pydicom

    try:
        with _Stream(file) as stream:
            header = pydicom.dcmread(stream, DEFERRED, True, True, ["SeriesInstanceUID"])
        return str(header.get("SeriesInstanceUID") or "")
    except Exception:  # as in read_frames; the file is known to be broken already
        return ""


def _looks_like_dicom(start: bytes) -> bool:
    """Whether a file without preamble starts as a data set does: group 0002 or 0008, little endian."""
    return len(start) >= 8 and start[0] in (2, 8) and start[1] == 0 and start[3] == 0


def _check_whole(dataset: Any) -> None:
    """Meet a value that is no number here, and not where it is used."""
    for name in _WHOLE:
        element = dataset._dict.get(_TAGS[name])
        if element is None or (element.VR in ("US", "SS") and isinstance(element.value, bytes) and element.length == 2):
            continue
        value = dataset.get(name)
        if value not in (None, "") and not isinstance(value, bytes):
            int(value)


def _frames_of(dataset: Any, file: Path, uid: str) -> tuple[list[Frame], set[tuple[str, str]]]:
    """The frames of an image file, or an error where it does not say where its slices lie; what is left out."""
    count = int(dataset.get("NumberOfFrames") or 1)
    placed = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if count != 1 and not 0 < count <= placed:
        problem = f"{file.name} has {count} frames and says for {placed} of them where they lie"
        fault = ImageError("E-DCM-NOGEOM", problem, fix="export the series again, a file for each slice")
        raise BrokenFileError(uid, fault)
    frames: list[Frame] = []
    others: set[tuple[str, str]] = set()
    for number in range(count):
        groups = groups_of(dataset, number)
        other = _quantity_of(dataset, groups)
        if other is not None:
            others.add(other)
            continue
        try:
            position, orientation, spacing, thickness, slope, intercept = (
                (_numbers(in_group(groups, sequence, name)) if groups else []) or _numbers_of(dataset, name)
                for sequence, name in _GEOMETRY
            )
        except (TypeError, ValueError, IndexError) as error:
            fault = ImageError("E-DCM-HEADER", f"{file.name} holds geometry that is no number", fix="export it again")
            raise BrokenFileError(uid, fault) from error
        missing = [
            name
            for name, value, needed in (
                ("ImagePositionPatient", position, 3),
                ("ImageOrientationPatient", orientation, 6),
                ("PixelSpacing", spacing, 2),
            )
            if len(value) != needed or not all(map(isfinite, value)) or (needed != 3 and not any(value))
        ]
        if not missing and _area(*orientation) < 0.9:
            missing = ["ImageOrientationPatient"]
        if not missing and min(spacing) <= 0:
            missing = ["PixelSpacing"]
        if missing:
            fault = ImageError(
                "E-DCM-SPACING" if missing == ["PixelSpacing"] else "E-DCM-NOGEOM",
                f"{file.name} has no usable {', '.join(missing)}",
                fix="export the series again, with its geometry",
            )
            raise BrokenFileError(uid, fault)
        frames.append(
            Frame(
                file,
                number,
                dataset,
                np.array(position),
                np.array(orientation),
                (spacing[0], spacing[1]),
                thickness[0] if thickness and 0 < thickness[0] < np.inf else None,
                slope[0] if slope else None,
                intercept[0] if intercept else None,
            )
        )
    if not frames:
        raise NotAnImageError(*min(others))
    return frames, others


def _quantity_of(dataset: Any, groups: list[Any]) -> tuple[str, str] | None:
    """Code and reason of a frame whose values slices do not average."""
    words = in_group(groups, "MRImageFrameTypeSequence", "FrameType")
    words = words or in_group(groups, "CTImageFrameTypeSequence", "FrameType") or dataset.get("ImageType")
    component = in_group(groups, "MRImageFrameTypeSequence", "ComplexImageComponent")
    component = component or dataset.get("ComplexImageComponent")
    units = [in_group(groups, "PixelValueTransformationSequence", "RescaleType") or dataset.get("RescaleType")]
    for place in (*groups, dataset):
        for item in place.get("RealWorldValueMappingSequence") or ():
            units += [unit.get("CodeValue") for unit in item.get("MeasurementUnitsCodeSequence") or ()]
    return quantity_of(
        tuple(map(str, values_of(words))),
        component=str(component or ""),
        units=tuple(str(unit) for unit in units if unit),
        is_phase=says_phase_by_ge(dataset),
    )


def _area(a: float, b: float, c: float, d: float, e: float, f: float) -> float:
    """Of what two directions span: 1 for unit vectors at right angles."""
    return hypot(b * f - c * e, c * d - a * f, a * e - b * d)


def pixel_element(dataset: Any) -> Any:
    """The pixels' element as it lies in the file, unread.

    ``get_item`` would read them in pydicom 2, and in 3 without ``keep_deferred``.
    """
    return dataset._dict.get(PIXEL_DATA)


def warnings_of(dataset: Any) -> set[SuperResolutionWarning]:
    """What was mended in reading this file."""
    sop_class = str(dataset.get("SOPClassUID") or "")
    found = (_NO_PREAMBLE, dataset.preamble is None), (_NO_CLASS, sop_class and sop_class not in MODALITY_OF)
    return {warning for warning, applies in found if applies}


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in values_of(value)]


def _numbers_of(dataset: Any, name: str) -> list[float]:
    """The numbers of a decimal string, from its bytes: pydicom takes ten times as long to make its own."""
    element = dataset._dict.get(_TAGS[name])
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or element.VR not in (None, "DS"):
        return _numbers(dataset.get(name))
    value = value.strip(b" \0")
    return [float(part) for part in value.split(b"\\")] if value else []


def _check_length(dataset: Any, file: Path, uid: str) -> None:
    """Check that the pixels in the file can be as many as the header says, before any is decoded."""
    element = pixel_element(dataset)
    length, start = getattr(element, "length", None), getattr(element, "value_tell", None)
    if length is None or start is None:
        return
    bits, count = int(dataset.get("BitsAllocated") or 16), int(dataset.get("NumberOfFrames") or 1)
    size = int(dataset.Rows) * int(dataset.Columns) * max(count, 1) * bits // 8
    have = os.path.getsize(file)
    if str(dataset.file_meta.get("TransferSyntaxUID", "")) == _DEFLATED:
        have, need = len(element.value or b""), size
    elif length == _UNDEFINED_LENGTH:  # compressed: whether all is there is found when it is decoded
        need = start + count * _ITEM
        if have >= need and size > max(SMALL, MOST_RATIO * (have - start)):
            raise BrokenFileError(uid, _bomb(file, size, have))
    else:
        need = start + max(int(length), size)
    if have < need:
        fault = ImageError(
            "E-DCM-TRUNC", f"{file.name} is cut off ({have} bytes found, {need} needed)", fix="copy it again"
        )
        raise BrokenFileError(uid, fault)
