"""What a header says of a frame: in a classic file at its top, in an enhanced one in functional groups."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.sequence import Sequence

from .series import Frame

ENHANCED = {"EchoTime": "EffectiveEchoTime", "ImageType": "FrameType"}
"""What enhanced files call it."""


def value_of(frame: Frame, name: str) -> Any:
    """An attribute of a frame; None if it has none, or none that can be read."""
    grouped = grouped_values(frame)
    return grouped[name] if name in grouped else get(frame.header, name)


def get(dataset: Any, name: str | int) -> Any:
    """The value of a keyword or tag; None if there is none, or none that can be read."""
    try:
        return dataset[name].value if name in dataset else None
    except Exception:  # pydicom reads values when they are asked for, and raises many types
        return None


def grouped_values(frame: Frame) -> dict[str, Any]:
    """What the functional groups say of a frame, by keyword, its own before the shared ones; empty if classic."""
    found: dict[str, Any] = {}

    def add(dataset: Any, depth: int) -> None:
        for tag in list(dataset.keys()):
            value = get(dataset, tag)
            if not isinstance(value, Sequence):
                found.setdefault(keyword_for_tag(tag) or str(tag), value)
            elif depth and value:
                add(value[0], depth - 1)

    for group in groups_of(frame.header, frame.number):
        add(group, 2)
    return found | {name: found[enhanced] for name, enhanced in ENHANCED.items() if enhanced in found}


def groups_of(dataset: Any, number: int) -> list[Any]:
    """The functional groups of a frame, its own before the shared ones; none in a classic file."""
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
    """Which stack of a multi-frame file a frame belongs to; empty in a classic file."""
    contents = [get(group, "FrameContentSequence") for group in groups_of(frame.header, frame.number)]
    return next((str(get(content[0], "StackID") or "") for content in contents if content), "")
