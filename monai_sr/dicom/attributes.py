"""Attributes of a frame: at the top of a classic header, in the functional groups of an enhanced one."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from .kinds import values_of
from .late import pydicom
from .series import Frame

ENHANCED = {"EchoTime": "EffectiveEchoTime", "ImageType": "FrameType"}
"""Classic keyword, and the enhanced one with the same meaning."""


_B_VALUES = (0x0019100C, 0x00431039, 0x20011003, 0x00651009)
_DIRECTIONS = ((0x0019100E,), (0x001910BB, 0x001910BC, 0x001910BD), (0x200510B0, 0x200510B1, 0x200510B2), (0x00651037,))
"""Private attributes of Siemens, GE, Philips and UIH."""

_SCALE_SLOPE = 0x2005100E
"""MR Scale Slope of Philips."""

_NO_SETTING = {
    *("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData", "ContentTime"),
    *("InstanceCreationTime", "InStackPositionNumber", "InstanceCreationDate", "FrameAcquisitionNumber"),
}


def value_of(frame: Frame, name: str) -> Any:
    """An attribute of a frame; None if it is absent or unreadable."""
    grouped = grouped_values(frame)
    return grouped[name] if name in grouped else get(frame.header, name)


def get(dataset: Any, name: str | int) -> Any:
    """The value of a keyword or tag; None if it is absent or unreadable."""
    try:
        return dataset[name].value if name in dataset else None
    except Exception:  # pydicom parses a value at its first use, and raises many types
        return None


def grouped_values(frame: Frame) -> dict[str, Any]:
    """Values in the functional groups of a frame by keyword, per-frame before shared; empty for classic files."""
    values: dict[str, Any] = {}

    def add(dataset: Any, depth: int) -> None:
        for tag in list(dataset.keys()):
            value = get(dataset, tag)
            if not isinstance(value, pydicom.sequence.Sequence):
                values.setdefault(pydicom.datadict.keyword_for_tag(tag) or str(tag), value)
            elif depth and value:
                add(value[0], depth - 1)

    for group in groups_of(frame.header, frame.number):
        add(group, 2)
    return values | {name: values[enhanced] for name, enhanced in ENHANCED.items() if enhanced in values}


def groups_of(dataset: Any, number: int) -> list[Any]:
    """The functional groups of a frame, per-frame before shared; none in a classic file."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    return ([own[number]] if own and number < len(own) else []) + ([shared[0]] if shared else [])


def in_group(groups: list[Any], sequence: str, name: str) -> Any:
    """An attribute of a named functional group."""
    for group in groups:
        if group.get(sequence):
            value = group[sequence][0].get(name)
            if value is not None:
                return value
    return None


def stack_of_frame(frame: Frame) -> str:
    """StackID of a frame; empty in a classic file."""
    contents = [get(group, "FrameContentSequence") for group in groups_of(frame.header, frame.number)]
    return next((str(get(content[0], "StackID") or "") for content in contents if content), "")


def attribute_of(frame: Frame, grouped: dict[str, Any], name: str) -> float | str:
    """The value of an attribute: a number if it is numeric, else text; empty if absent.

    Args:
        frame: the frame.
        grouped: its :func:`grouped_values`.
        name: a keyword, or a value that several attributes may hold: b-value, b-direction, clock (seconds),
            across and down (in-plane position of the first pixel, mm), cosine 0 to 5.
    """

    def lookup(keyword: str) -> Any:
        return grouped[keyword] if keyword in grouped else get(frame.header, keyword)

    if name == "clock":
        return _seconds(lookup)
    value: Any
    if name == "b-value":
        given = [v for v in (lookup("DiffusionBValue"), *_private(frame, _B_VALUES)) if v is not None]
        value = next(iter(values_of(given[0])), "") if given else ""
    elif name == "b-direction":
        values = lookup("DiffusionGradientOrientation"), *(_private(frame, tags) for tags in _DIRECTIONS)
        value = next(filter(None, values), "")
    elif name in ("across", "down"):
        value = frame.position @ frame.orientation[slice(3) if name == "across" else slice(3, 6)]
    elif name.startswith("cosine"):
        value = frame.orientation[int(name[-1])]
    else:
        value = lookup(name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "" if value is None else "\\".join(map(str, values_of(value)))
    if name == "b-value":
        number %= 1e6  # GE adds 1e9
    return number if np.isfinite(number) else ""


def _seconds(lookup: Callable[[str], Any]) -> float | str:
    """Acquisition time in seconds; empty if absent."""
    moment = lookup("FrameAcquisitionDateTime")
    if not moment and lookup("AcquisitionTime"):
        moment = f"{lookup('AcquisitionDate') or '0' * 8}{lookup('AcquisitionTime')}"
    moment = str(moment or lookup("AcquisitionDateTime") or "").replace(":", "")
    digits = re.match(r"\d{6}(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d+)?)", moment)
    if digits is None:
        return ""
    day, hour, minute, second = map(float, digits.groups())
    return ((day * 24 + hour) * 60 + minute) * 60 + second


def display_scale_of(frame: Frame) -> float | None:
    """Displayed value divided by signal of a Philips MR slice: RescaleSlope times MR Scale Slope; None of others.

    The signal is ``(stored * RescaleSlope + RescaleIntercept) / (RescaleSlope * MR Scale Slope)``, see Chenevert et
    al., Translational Oncology 7(1), 2014.
    """
    if not str(get(frame.header, "Manufacturer") or "").casefold().startswith("philips"):
        return None
    values = [*_private(frame, [_SCALE_SLOPE]), grouped_values(frame).get(str(pydicom.tag.Tag(_SCALE_SLOPE)))]
    try:
        scale = float(values_of(values[0])[0]) * (1.0 if frame.slope is None else frame.slope)
    except (TypeError, ValueError, IndexError):
        return None
    return scale if scale > 0 and np.isfinite(scale) else None


def _private(frame: Frame, tags: Iterable[int]) -> list[Any]:
    """Values of private attributes that are present. Files without VRs hold bytes."""
    values = []
    for tag in tags:
        value: Any = get(frame.header, tag)
        if isinstance(value, bytes):
            try:
                value = [float(part) for part in value.strip(b" \0").split(b"\\")]
            except ValueError:
                size, code = (4, "f") if len(value) == 4 else (8, "d")
                value = list(struct.unpack(f"<{len(value) // size}{code}", value[: len(value) // size * size]))
        if value is not None and value != "" and value != []:
            values.append(value)
    return values


def fields_of(frame: Frame, grouped: dict[str, Any]) -> dict[Hashable, str]:
    """All attributes of a frame as text: of a classic file every element, private ones included."""
    if not grouped:
        return {
            tag: str(element.value)[:1024]
            for tag, element in frame.header._dict.items()
            if element.VR != "SQ" and pydicom.datadict.keyword_for_tag(tag) not in _NO_SETTING
        }
    return {
        (name, number): str(value)[:1024]
        for name, values in grouped.items()
        if name not in _NO_SETTING
        for number, value in enumerate(values_of(values) if name == "DimensionIndexValues" else [values])
    }
