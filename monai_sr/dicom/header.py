"""One DICOM file: its frames, their geometry and rescale.

No text of the header enters a message: it may identify a patient.
"""

from __future__ import annotations

import os
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, SuperResolutionWarning
from ..profiles import plausible
from .archive import MOST_RATIO, SMALL
from .attributes import groups_of, in_group
from .dataset import DEFLATED, PIXEL_DATA, UNDEFINED_LENGTH, Stream, bomb, pixel_element, read_dataset, uid_of
from .kinds import (
    MODALITY_OF,
    BrokenFileError,
    NotAnImageError,
    check_kind,
    damaged,
    is_projection,
    quantity_of,
    says_phase_by_ge,
    values_of,
)
from .late import pydicom
from .series import Frame

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
MOST_RESCALED = 1e20
"""RescaleSlope and RescaleIntercept are smaller, or values would leave the range of float32."""

ROUNDED = 1e-4
"""Lengths of directions differ from 1 by less, unless they have fewer than four digits."""

_ITEM = 8
"""Bytes of an empty compressed frame."""
_NO_PREAMBLE = SuperResolutionWarning("W-DCM-PREAMBLE", "files without the DICOM preamble were read")
_MORE = SuperResolutionWarning("W-IO-MORE", "files hold more pixels than their header says; these are not read")
_NO_CLASS = SuperResolutionWarning("W-DCM-CLASS", "the SOP class is unknown; the files are read by their Modality")
_PROJECTION = SuperResolutionWarning(
    "W-DCM-PROJECTION",
    "maximum or minimum projections (MIP), which are not means of thinner slices: the result agrees with them, but "
    "what it shows in a new slice may lie in its neighbors",
)
_GROUPS = SuperResolutionWarning(
    "W-DCM-GROUPS",
    "shared and per-frame functional groups give different geometry or rescale; that of the frame is used",
)
_TWO_MODALITIES = SuperResolutionWarning(
    "W-DCM-CLASS", "SOP class and Modality name different modalities; the SOP class is used"
)


def read_frames(file: Path, *, own_results: bool = False) -> tuple[Any, list[Frame], set[tuple[str, str]]]:
    """The pydicom Dataset of a file whose pixels stay unread, and the frames it holds.

    Args:
        file: its path.
        own_results: also read results of monai-sr.

    Returns:
        The Dataset, its frames, and code and reason of frames that are left out, such as phase images.

    Raises:
        NotAnImageError: the file is not DICOM, or of a kind that holds no CT or MR slice.
        BrokenFileError: it is DICOM and cannot be read or used.
    """
    uid, sop_class, marked = "", "", False
    try:
        with Stream(file) as stream:
            marked = stream.is_marked
            if not stream.may_be_dicom:
                raise NotAnImageError("E-IO-TYPE", "not DICOM")
            dataset = read_dataset(stream)
        uid, sop_class = str(dataset.get("SeriesInstanceUID") or ""), str(dataset.get("SOPClassUID") or "")
        check_kind(dataset, file.name, own_results=own_results)
        _check_whole(dataset)
        if PIXEL_DATA not in dataset and ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
            problem, fix = "holds floating-point pixels, which no CT or MR image has", "export integers with a rescale"
            raise BrokenFileError(uid, ImageError("E-DCM-PIXELS", f"{file.name} {problem}", fix=fix))
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
            fault.uid = fault.uid or uid_of(file)
        raise
    except Exception as error:  # pydicom raises many types on damaged headers, many of them late
        if not marked:
            raise NotAnImageError("E-IO-TYPE", "not DICOM") from error
        raise BrokenFileError(uid or uid_of(file), damaged(file.name)) from error


def frames_of_header(dataset: Any) -> list[Frame]:
    """The first frame of a header whose file is elsewhere, such as the metadata of an archive.

    Raises:
        NotAnImageError, BrokenFileError: as :func:`read_frames`.
    """
    uid = str(dataset.get("SeriesInstanceUID") or "")
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    check_kind(dataset, "header", own_results=False)
    return _frames_of(dataset, Path("header"), uid)[0]


def _check_whole(dataset: Any) -> None:
    """Raise here if a value is not an integer, and not where it is used."""
    for name in _WHOLE:
        element = dataset._dict.get(pydicom.datadict.tag_for_keyword(name))
        if element is None or (element.VR in ("US", "SS") and isinstance(element.value, bytes) and element.length == 2):
            continue
        value = dataset.get(name)
        if value not in (None, "") and not isinstance(value, bytes):
            int(value)


def _frames_of(dataset: Any, file: Path, uid: str) -> tuple[list[Frame], set[tuple[str, str]]]:
    """The frames of an image file, and code and reason of those left out; an error if geometry is missing."""
    count = int(dataset.get("NumberOfFrames") or 1)
    placed = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if count != 1 and not 0 < count <= placed:
        problem = f"{file.name} has {count} frames, {placed} of them with a position"
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
        given: dict[str, list[float]] = {}
        for sequence, name in _GEOMETRY:
            try:
                own = in_group(groups, sequence, name) if groups else None
                given[name] = _numbers(own) or _numbers_of(dataset, name)
            except (TypeError, ValueError, IndexError) as error:
                fault = ImageError("E-DCM-HEADER", f"the {name} of {file.name} is not numeric")
                raise BrokenFileError(uid, fault) from error
        position, orientation, spacing, thickness, slope, intercept = given.values()
        missing = _unusable(position, orientation, spacing)
        if not missing:
            orientation = _unit(orientation[:3]) + _unit(orientation[3:])
        factors = [*dict.fromkeys(slope), *dict.fromkeys(intercept)]
        are_two = len(set(slope)) > 1 or len(set(intercept)) > 1
        if are_two or not all(abs(value) < MOST_RESCALED for value in factors) or slope[:1] == [0]:
            text = f"{file.name} has a RescaleSlope or RescaleIntercept of {factors}"
            raise BrokenFileError(uid, ImageError("E-DCM-HEADER", text))
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
                plausible(thickness[0]) if thickness else None,
                slope[0] if slope else None,
                intercept[0] if intercept else None,
            )
        )
    if not frames:
        raise NotAnImageError(*min(others))
    return frames, others


def _unusable(position: list[float], orientation: list[float], spacing: list[float]) -> list[str]:
    """The attributes of the geometry that are missing or cannot be."""
    geometry = (
        ("ImagePositionPatient", position, 3),
        ("ImageOrientationPatient", orientation, 6),
        ("PixelSpacing", spacing, 2),
    )
    missing = [
        name
        for name, value, needed in geometry
        if len(value) != needed or not all(map(isfinite, value)) or (needed != 3 and not any(value))
    ]
    if not missing and abs(_area(*orientation) - 1) > 0.1:
        return ["ImageOrientationPatient"]
    return missing or (["PixelSpacing"] if min(spacing) <= 0 else [])


def _quantity_of(dataset: Any, groups: list[Any]) -> tuple[str, str] | None:
    """Code and reason of a frame that is a phase image or a map; None for images."""
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


def _unit(direction: list[float]) -> list[float]:
    """A direction of length 1, where it was rounded to a few digits."""
    length = hypot(*direction)
    return direction if abs(length - 1) < ROUNDED else [value / length for value in direction]


def _area(a: float, b: float, c: float, d: float, e: float, f: float) -> float:
    """Area that two directions span: 1 for unit vectors at right angles."""
    return hypot(b * f - c * e, c * d - a * f, a * e - b * d)


def _groups_differ(dataset: Any) -> bool:
    """Whether a frame has its own geometry or rescale beside a shared one that differs."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    for sequence, name in _GEOMETRY if shared is not None else ():
        try:
            of_all = _numbers(in_group([shared], sequence, name))
            own = (dataset.get("PerFrameFunctionalGroupsSequence") or ()) if of_all else ()
            given = [_numbers(in_group([group], sequence, name)) or of_all for group in own]
        except Exception:  # pydicom parses a value at its first use, and raises many types
            return True
        if any(not np.allclose(one, of_all, rtol=1e-4) for one in given if len(one) == len(of_all)):
            return True
    return False


def warnings_of(dataset: Any) -> set[SuperResolutionWarning]:
    """Warnings about this file."""
    sop_class, length = str(dataset.get("SOPClassUID") or ""), getattr(pixel_element(dataset), "length", None)
    has_more = length not in (None, UNDEFINED_LENGTH) and length > _size_of(dataset) + 1  # of even length
    found = (
        (_NO_PREAMBLE, dataset.preamble is None),
        (_NO_CLASS, sop_class and sop_class not in MODALITY_OF),
        (_TWO_MODALITIES, {MODALITY_OF.get(sop_class), str(dataset.get("Modality"))} == {"CT", "MR"}),
        (_MORE, has_more),
        (_GROUPS, _groups_differ(dataset)),
        (_PROJECTION, is_projection(dataset)),
    )
    return {warning for warning, applies in found if applies}


def _size_of(dataset: Any) -> int:
    """Bytes of the pixels by the header."""
    bits, count = int(dataset.get("BitsAllocated") or 16), int(dataset.get("NumberOfFrames") or 1)
    return int(dataset.Rows) * int(dataset.Columns) * max(count, 1) * bits // 8


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in values_of(value)]


def _numbers_of(dataset: Any, name: str) -> list[float]:
    """The numbers of a decimal string, from its bytes, which is ten times as fast as pydicom."""
    element = dataset._dict.get(pydicom.datadict.tag_for_keyword(name))
    value = getattr(element, "value", None)
    if not isinstance(value, bytes) or element.VR not in (None, "DS"):
        return _numbers(dataset.get(name))
    value = value.strip(b" \0")
    return [float(part) for part in value.split(b"\\")] if value else []


def _check_length(dataset: Any, file: Path, uid: str) -> None:
    """Check that the file is large enough for the pixels of its header, before any is decoded."""
    element = pixel_element(dataset)
    length, start = getattr(element, "length", None), getattr(element, "value_tell", None)
    if length is None or start is None:
        return
    size, count = _size_of(dataset), int(dataset.get("NumberOfFrames") or 1)
    have = os.path.getsize(file)
    if str(dataset.file_meta.get("TransferSyntaxUID", "")) == DEFLATED:
        have, need = len(element.value or b""), size
    elif length == UNDEFINED_LENGTH:  # compressed: completeness is known after decoding
        need = start + count * _ITEM
        if have >= need and size > max(SMALL, MOST_RATIO * (have - start)):
            raise BrokenFileError(uid, bomb(file, size, have))
    else:
        need = start + max(int(length), size)
    if have < need:
        fault = ImageError("E-DCM-TRUNC", f"{file.name} is cut off ({have} bytes found, {need} needed)")
        raise BrokenFileError(uid, fault)
