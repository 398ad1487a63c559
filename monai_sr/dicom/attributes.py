"""What a header says of a frame: in a classic file at its top, in an enhanced one in functional groups."""

from __future__ import annotations

from typing import Any

from .series import Frame

ENHANCED = {"EchoTime": "EffectiveEchoTime", "ImageType": "FrameType"}
"""What enhanced files call it."""


def value_of(frame: Frame, name: str) -> Any:
    """An attribute of a frame; None if it has none."""
    grouped = grouped_values(frame)
    return grouped[name] if name in grouped else frame.header.get(name)


def grouped_values(frame: Frame) -> dict[str, Any]:
    """What the functional groups say of a frame, by keyword, its own before the shared ones; empty if classic."""
    found: dict[str, Any] = {}

    def add(dataset: Any, depth: int) -> None:
        for element in dataset:
            if element.VR != "SQ":
                found.setdefault(element.keyword or str(element.tag), element.value)
            elif depth and element.value:
                add(element.value[0], depth - 1)

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
    return str(in_group(groups_of(frame.header, frame.number), "FrameContentSequence", "StackID") or "")
