"""One DICOM file: whether it is an image of ours, and the frames it holds.

Nothing of the header's text enters a message: names, dates and descriptions may be a patient's.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword

from ..errors import ImageError, SuperResolutionError, SuperResolutionWarning
from .series import Frame

MODALITY_OF = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # enhanced
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",  # legacy converted enhanced
}
"""SOP classes of CT and MR images (PS3.4, table B.5-1)."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DICOMDIR = "1.2.840.10008.1.3.10"

KINDS = {
    "SR": "structured report",
    "PR": "presentation state",
    "KO": "key object note",
    "SEG": "segmentation",
    "REG": "registration",
    "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "radiotherapy plan",
    "RTDOSE": "radiotherapy dose",
}
"""Modality of files that are no images, in words."""

PIXEL_DATA = 0x7FE00010
DEFERRED = 4096
"""Values of more bytes stay in the file until they are asked for: the pixels, not the header."""

_WHOLE = (
    *("NumberOfFrames", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_DECIMAL = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept"),
)
_TAGS = {name: tag_for_keyword(name) for name in (*_WHOLE, *_DECIMAL)}
_SYNTAX_OF = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
"""Transfer syntax by implicit VR and little endian, for files that do not say it."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NO_PREAMBLE = SuperResolutionWarning("W-DCM-PREAMBLE", "files without the DICOM preamble were read all the same")


class NotAnImageError(Exception):
    """A file that is no CT or MR slice, and why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class BrokenFileError(Exception):
    """A slice that cannot be used; the whole series of ``uid`` cannot."""

    def __init__(self, uid: str, error: SuperResolutionError) -> None:
        super().__init__(str(error))
        self.uid, self.error = uid, error


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


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_frames(file: Path, *, own_results: bool = False) -> tuple[Any, list[Frame]]:
    """The pydicom Dataset of a file whose pixels stay unread, and the frames it holds.

    Args:
        file: which.
        own_results: take also what monai-sr made.

    Raises:
        NotAnImageError: the file is not DICOM, or of a kind that holds no CT or MR slice.
        BrokenFileError: it is DICOM and cannot be read or used.
    """
    marked = is_dicom(file)
    if not marked and not _looks_like_dicom(file):
        raise NotAnImageError("E-IO-TYPE", "not DICOM")
    uid = ""
    try:
        dataset = _read(file, force=not marked)
        uid = str(dataset.get("SeriesInstanceUID") or "")
        _check_kind(dataset, file, own_results=own_results)
        _check_whole(dataset)
        if PIXEL_DATA not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
            raise BrokenFileError(uid, _cut(file))
        _check_length(dataset, file, uid)
        return dataset, _frames_of(dataset, file, uid)
    except (NotAnImageError, BrokenFileError) as fault:
        if not marked:
            raise NotAnImageError("E-IO-TYPE", "not DICOM") from None
        if isinstance(fault, BrokenFileError):
            fault.uid = fault.uid or _uid_of(file)
        raise
    except Exception as error:  # pydicom raises many types on damaged headers, many of them late
        if not marked:
            raise NotAnImageError("E-IO-TYPE", "not DICOM") from error
        raise BrokenFileError(uid or _uid_of(file), _cut(file)) from error


def frames_of_header(dataset: Any) -> list[Frame]:
    """The frames that a header tells of whose file is elsewhere, such as an archive's metadata.

    Raises:
        NotAnImageError, BrokenFileError: as :func:`read_frames`.
    """
    from pydicom.dataset import FileMetaDataset

    uid = str(dataset.get("SeriesInstanceUID") or "")
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    _check_kind(dataset, Path("header"), own_results=False)
    return _frames_of(dataset, Path("header"), uid)


def _read(file: Path, *, force: bool) -> Any:
    """All attributes up to the pixels, and where those are."""
    from pydicom.filereader import read_partial
    from pydicom.uid import UID

    def beyond() -> Callable[[int, str | None, int], bool]:
        tags = [0]  # what follows the pixels may be padding that reads as thousands of elements

        def stop(tag: int, vr: str | None, length: int) -> bool:
            tags.append(tag)
            return tags[-2] == PIXEL_DATA

        return stop

    with open(file, "rb") as stream:
        dataset = read_partial(stream, stop_when=beyond(), defer_size=DEFERRED, force=force)
        if str(dataset.file_meta.get("TransferSyntaxUID", "")) == _DEFLATED:
            stream.seek(0)  # pixels cannot be found by offset
            dataset = read_partial(stream, stop_when=beyond(), force=force)
    if "TransferSyntaxUID" not in dataset.file_meta:
        told = getattr(dataset, "original_encoding", None)  # pydicom 2, which MONAI Label asks for, has no such name
        implicit, little = told or (dataset.is_implicit_VR, dataset.is_little_endian)
        dataset.file_meta.TransferSyntaxUID = UID(_SYNTAX_OF[bool(implicit), bool(little)])
    return dataset


def _uid_of(file: Path) -> str:
    """The SeriesInstanceUID of a file whose pixels cannot be read; empty if there is none."""
    import pydicom

    try:
        return str(pydicom.dcmread(file, stop_before_pixels=True, force=True).get("SeriesInstanceUID") or "")
    except Exception:  # as in read_frames; the file is known to be broken already
        return ""


def _looks_like_dicom(file: Path) -> bool:
    """Whether a file without preamble starts as a data set does: group 0002 or 0008, little endian."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(8)
    except OSError:
        return False
    return len(start) == 8 and start[0] in (2, 8) and start[1] == 0 and start[3] == 0


def _check_kind(dataset: Any, file: Path, *, own_results: bool) -> None:
    """That a file holds CT or MR slices as they were acquired."""
    sop_class, modality = str(dataset.get("SOPClassUID") or ""), str(dataset.get("Modality") or "")
    media = str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if media == DICOMDIR or sop_class == DICOMDIR:
        raise NotAnImageError("E-DCM-KIND", "DICOMDIR")
    if sop_class.startswith(SECONDARY_CAPTURE):
        raise NotAnImageError("E-DCM-SC", "secondary capture")
    known = MODALITY_OF.get(sop_class)
    if not known and "Rows" not in dataset and (media in MODALITY_OF or not (sop_class or modality)):
        raise BrokenFileError(str(dataset.get("SeriesInstanceUID") or ""), _cut(file))
    if not known and (modality in KINDS or (sop_class and "Rows" not in dataset and modality not in ("CT", "MR"))):
        raise NotAnImageError("E-DCM-KIND", KINDS.get(modality, "no image"))
    if not known and (sop_class or modality not in ("CT", "MR")):
        raise NotAnImageError("E-DCM-MODALITY", "images of another modality than CT or MR")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise NotAnImageError("E-DCM-SC", "color pixels, as of a secondary capture")
    kinds = {str(kind).upper() for kind in _values(dataset.get("ImageType"))}
    if "LOCALIZER" in kinds:
        raise NotAnImageError("E-DCM-LOCALIZER", "localizer")
    if "MOSAIC" in kinds:
        raise NotAnImageError("E-DCM-MOSAIC", "mosaic of many slices in one; dcm2niix converts it")
    equipment = dataset.get("ContributingEquipmentSequence") or []
    if not own_results and any(str(item.get("Manufacturer", "")) == "monai-sr" for item in equipment):
        raise NotAnImageError("E-DCM-OWN", "made by monai-sr")


def _check_whole(dataset: Any) -> None:
    """Meet a value that is no number here, and not where it is used."""
    for name in _WHOLE:
        element = dataset._dict.get(_TAGS[name])
        if element is None or (element.VR in ("US", "SS") and isinstance(element.value, bytes) and element.length == 2):
            continue
        value = dataset.get(name)
        if value not in (None, "") and not isinstance(value, bytes):
            int(value)


def _frames_of(dataset: Any, file: Path, uid: str) -> list[Frame]:
    """The frames of an image file, or an error where it does not say where its slices lie."""
    frames = []
    for number in range(int(dataset.get("NumberOfFrames") or 1)):
        groups = _groups(dataset, number)
        try:
            position, orientation, spacing, thickness, slope, intercept = (
                _numbers(_in_group(groups, sequence, name)) if groups else _numbers_of(dataset, name)
                for sequence, name in (
                    ("PlanePositionSequence", "ImagePositionPatient"),
                    ("PlaneOrientationSequence", "ImageOrientationPatient"),
                    ("PixelMeasuresSequence", "PixelSpacing"),
                    ("PixelMeasuresSequence", "SliceThickness"),
                    ("PixelValueTransformationSequence", "RescaleSlope"),
                    ("PixelValueTransformationSequence", "RescaleIntercept"),
                )
            )
        except (TypeError, ValueError, IndexError) as error:
            fault = ImageError("E-DCM-HEADER", f"{file.name} holds geometry that is no number", fix="export it again")
            raise BrokenFileError(uid, fault) from error
        missing = [
            name
            for name, value, count in (
                ("ImagePositionPatient", position, 3),
                ("ImageOrientationPatient", orientation, 6),
                ("PixelSpacing", spacing, 2),
            )
            if len(value) != count or not all(map(isfinite, value)) or (count != 3 and not any(value))
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
    return frames


def _area(a: float, b: float, c: float, d: float, e: float, f: float) -> float:
    """Of what two directions span: 1 for unit vectors at right angles."""
    return hypot(b * f - c * e, c * d - a * f, a * e - b * d)


def pixel_element(dataset: Any) -> Any:
    """The pixels' element as it lies in the file, unread.

    ``get_item`` would read them in pydicom 2, and in 3 without ``keep_deferred``.
    """
    return dataset._dict.get(PIXEL_DATA)


def stack_of_frame(frame: Frame) -> str:
    """Which stack of a multi-frame file a frame belongs to; empty in a classic file."""
    for group in _groups(frame.header, frame.number):
        if group.get("FrameContentSequence"):
            return str(group.FrameContentSequence[0].get("StackID") or "")
    return ""


def warnings_of(dataset: Any) -> set[SuperResolutionWarning]:
    """What was mended in reading this file."""
    return {_NO_PREAMBLE} if dataset.preamble is None else set()


def modality_of(dataset: Any) -> str:
    """ "CT" or "MR"."""
    return MODALITY_OF.get(str(dataset.get("SOPClassUID") or "")) or str(dataset.Modality)


def value_of(frame: Frame, name: str) -> Any:
    """An attribute of a frame, from wherever a classic or an enhanced file keeps it; None if nowhere."""
    head = frame.header
    if name in head:
        return head.get(name)
    for groups in _groups(head, frame.number):
        for group in groups:
            value = group[0].get(_ENHANCED.get(name, name)) if group.VR == "SQ" and group.value else None
            if value is not None:
                return value
    return None


_ENHANCED = {"EchoTime": "EffectiveEchoTime", "ImageType": "FrameType"}
"""What enhanced files call it."""


def _groups(dataset: Any, number: int) -> list[Any]:
    """The functional groups of a frame, its own before the shared ones; none in a classic file."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    return ([own[number]] if own and number < len(own) else []) + ([shared[0]] if shared else [])


def _in_group(groups: list[Any], sequence: str, name: str) -> Any:
    """An attribute of a named functional group."""
    for group in groups:
        if group.get(sequence):
            value = group[sequence][0].get(name)
            if value is not None:
                return value
    return None


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in _values(value)]


def _numbers_of(dataset: Any, name: str) -> list[float]:
    """The numbers of a decimal string, from its bytes: pydicom takes ten times as long to make its own."""
    element = dataset._dict.get(_TAGS[name])
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or element.VR not in (None, "DS"):
        return _numbers(dataset.get(name))
    value = value.strip(b" \0")
    return [float(part) for part in value.split(b"\\")] if value else []


def _check_length(dataset: Any, file: Path, uid: str) -> None:
    """That the file is as long as its pixels need."""
    element = pixel_element(dataset)
    length = getattr(element, "length", None)
    start = getattr(element, "value_tell", None)
    if length is None or start is None or str(dataset.file_meta.get("TransferSyntaxUID", "")) == _DEFLATED:
        return
    if length == _UNDEFINED_LENGTH:
        return  # compressed: found when it is decoded
    have = os.path.getsize(file)
    bits = int(dataset.get("BitsAllocated") or 16)
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    need = start + max(int(length), pixels * bits // 8)
    if have < need:
        fault = ImageError(
            "E-DCM-TRUNC", f"{file.name} is cut off ({have} bytes found, {need} needed)", fix="copy it again"
        )
        raise BrokenFileError(uid, fault)


def _cut(file: Path) -> SuperResolutionError:
    return ImageError("E-DCM-HEADER", f"{file.name} ends within its header or is damaged", fix="copy it again")
