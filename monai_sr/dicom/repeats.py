"""Slices that lie on one another, divided into volumes by the attribute that distinguishes them.

Settings (echo, b-value, ...) are equal in all slices of a volume. Clocks and counters (trigger time,
acquisition time, InstanceNumber) grow from slice to slice, too: there the order at each position counts.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydicom.datadict import keyword_for_tag

from ..errors import ImageError, SuperResolutionWarning
from .attributes import get, grouped_values
from .kinds import values_of
from .pixels import read_frame
from .series import Frame

SETTINGS = (
    ("type", ("ImageType", "ComplexImageComponent")),
    ("echo", ("EchoNumbers", "EchoTime")),
    ("kvp", ("KVP",)),
    ("b", ("b-value", "b-direction")),
    ("time", ("TemporalPositionIdentifier", "TemporalPositionIndex")),
    ("trigger", ("TriggerTime", "NominalCardiacTriggerDelayTime")),
    ("cardiac", ("NominalPercentageOfCardiacPhase",)),
    ("inversion", ("InversionTime",)),
    ("flip", ("FlipAngle",)),
    ("kernel", ("ConvolutionKernel",)),
    ("acquisition", ("AcquisitionNumber",)),
    ("phase", ("clock",)),
    ("thickness", ("SliceThickness",)),
    ("place", ("across", "down")),
    ("angle", tuple(f"cosine {n}" for n in range(6))),
)
"""Names in ``--series``, and the attributes behind them, tried in this order."""

ORDERS = (
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "TemporalPositionIdentifier", "AcquisitionNumber"),
    *("clock", "ContentTime"),
)

TOLERANCES = {
    **dict.fromkeys(("EchoTime", "InversionTime", "FlipAngle", "KVP", "b-value"), 1e-3),
    "SliceThickness": 0.01,
    **dict.fromkeys(("across", "down"), 2e-3),
    **dict.fromkeys((f"cosine {n}" for n in range(6)), 1e-3),
}
"""By which fraction equal numbers may differ, of numbers below 1 by which amount; counters and clocks by nothing."""

MOSTLY = 0.5
"""A setting belongs to a volume if it occurs at more than this fraction of the positions."""

_NUMBERED = {"EchoTime", "clock", "across", "down", *(name for name in TOLERANCES if name.startswith("cosine"))}
"""Attributes that people do not name a volume by; those are counted."""

_B_VALUES = (0x0019100C, 0x00431039, 0x20011003, 0x00651009)
_DIRECTIONS = (
    (0x0019100E,),
    (0x001910BB, 0x001910BC, 0x001910BD),
    (0x200510B0, 0x200510B1, 0x200510B2),
    (0x00651037,),
)
"""Private attributes of Siemens, GE, Philips and UIH."""

_NO_SETTING = {
    *("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData", "ContentTime"),
    *("InstanceCreationTime", "InStackPositionNumber", "InstanceCreationDate", "FrameAcquisitionNumber"),
}
_BY_NUMBER = SuperResolutionWarning("W-DCM-ORDER", "InstanceNumber alone distinguishes repeats of the slices")


class Divided(NamedTuple):
    """Frames of one volume, what distinguishes them from the others, and what was mended."""

    frames: list[Frame]
    label: tuple[tuple[str, str], ...] = ()
    notes: frozenset[SuperResolutionWarning] = frozenset()


def divide(places: Sequence[list[Frame]]) -> list[Divided]:
    """Volumes in which every position occurs once.

    Args:
        places: the frames at each position, in the order of the positions.

    Raises:
        ImageError: nothing distinguishes the repeats (E-DCM-AMBIG, E-DCM-DUP, E-DCM-NOGEOM).
    """
    frames = [frame for place in places for frame in place]
    if max(map(len, places)) == 1:
        return [Divided(frames)]
    if len(places) == 1 and len({str(get(frame.header, "SliceLocation")) for frame in frames}) > 2:
        raise _unplaced(frames)
    single = [_without_copies(place) for place in places]
    count = len(frames) - sum(map(len, single))
    notes = {_doubled(count)} if count else set()
    divided = _Repeats(single).divide([frame for place in single for frame in place])
    return [part._replace(notes=part.notes | notes) for part in divided]


class _Repeats:
    """The frames of a stack, with the number of the position of each, and what headers say of them."""

    def __init__(self, places: Sequence[list[Frame]]) -> None:
        self.place = {id(frame): number for number, place in enumerate(places) for frame in place}
        self.frames = [frame for place in places for frame in place]
        self.grouped = {id(frame): grouped_values(frame) for frame in self.frames}
        self.columns: dict[str, dict[int, float | str]] = {}

    def divide(self, frames: list[Frame]) -> list[Divided]:
        most = self.most(frames)
        if most == 1:
            return [Divided(frames)]
        fault: ImageError | None = None
        for name, attributes in SETTINGS:
            for chosen in dict.fromkeys([attributes, *((one,) for one in attributes)]):
                groups = self.by_values(frames, chosen)
                if not 1 < len(groups) <= most:
                    continue
                parts = zip(groups, self.labels(name, chosen, groups), strict=True)
                if all(self.most(group) == 1 for group in groups):
                    return [Divided(group, label) for group, label in parts]
                if all(self.covered(group) > MOSTLY * self.covered(frames) for group in groups):
                    try:
                        return [
                            Divided(part.frames, label + part.label, part.notes)
                            for group, label in parts
                            for part in self.divide(group)
                        ]
                    except ImageError as error:
                        fault = error
        same = _equal_copies(self.by_place(frames))
        if same is not None:
            return [same]
        if self.covered(frames) == 1 and frames[0].file == frames[-1].file:
            raise _unplaced(frames)
        name, notes = "phase", frozenset[SuperResolutionWarning]()
        groups = next(filter(None, (self.by_order(frames, order) for order in ORDERS)), [])
        if not groups:
            name, groups = "repeat", self.by_any_setting(frames)
        if not groups:
            groups, notes = self.by_order(frames, "InstanceNumber"), frozenset({_BY_NUMBER})
        if not groups:
            raise fault or self.ambiguous(frames)
        return [Divided(group, ((name, str(n)),), notes) for n, group in enumerate(groups, start=1)]

    def most(self, frames: list[Frame]) -> int:
        """How many frames lie at one position, at most."""
        return max(Counter(self.place[id(frame)] for frame in frames).values())

    def covered(self, frames: list[Frame]) -> int:
        """At how many positions frames lie."""
        return len({self.place[id(frame)] for frame in frames})

    def by_place(self, frames: list[Frame]) -> list[list[Frame]]:
        """The frames at each position."""
        places: dict[int, list[Frame]] = defaultdict(list)
        for frame in frames:
            places[self.place[id(frame)]].append(frame)
        return [places[number] for number in sorted(places)]

    def by_values(self, frames: list[Frame], names: tuple[str, ...]) -> list[list[Frame]]:
        """Frames grouped by equal values of all attributes, in the order of the values."""
        columns = [_ranks([self.value(frame, name) for frame in frames], TOLERANCES.get(name, 0.0)) for name in names]
        groups: dict[tuple[int, ...], list[Frame]] = defaultdict(list)
        for frame, key in zip(frames, zip(*columns, strict=True), strict=True):
            groups[key].append(frame)
        return [groups[key] for key in sorted(groups)]

    def by_order(self, frames: list[Frame], name: str) -> list[list[Frame]]:
        """Volumes by a value that grows with time; empty if it does not distinguish them.

        Either one volume is acquired after the other (so values of volumes do not overlap), or all
        repeats of a position before those of the next. A trigger time starts anew at each position.
        """
        values = {id(frame): self.value(frame, name) for frame in frames}
        if not all(isinstance(value, float) and np.isfinite(value) for value in values.values()):
            return []
        places = [sorted(place, key=lambda frame: values[id(frame)]) for place in self.by_place(frames)]
        rows = [[float(values[id(frame)]) for frame in place] for place in places]
        if any(len(set(row)) < len(row) for row in rows):
            return []
        most = max(map(len, rows))
        if min(map(len, rows)) == most:
            table = np.array(sorted(rows))
            volumes_apart = bool((table.max(axis=0)[:-1] < table.min(axis=0)[1:]).all())
            places_apart = len(rows) > 1 and bool((table[:-1, -1] < table[1:, 0]).all())
            if volumes_apart or places_apart or "Trigger" in name:
                return [[place[n] for place in places] for n in range(most)]
        frames = sorted(frames, key=lambda frame: values[id(frame)])
        steps = np.diff([float(values[id(frame)]) for frame in frames])
        cuts = np.sort(np.argsort(-steps, kind="stable")[: most - 1]) + 1
        groups = [frames[a:b] for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
        whole = all(self.covered(group) > MOSTLY * len(places) for group in groups[:-1])  # the last may be aborted
        if not whole or self.covered(groups[-1]) < min(3, len(places)) or any(self.most(group) > 1 for group in groups):
            return []
        return [sorted(group, key=lambda frame: self.place[id(frame)]) for group in groups]

    def by_any_setting(self, frames: list[Frame]) -> list[list[Frame]]:
        """Volumes by any other attribute, private ones too, that has one value in each; empty if none has."""
        most, fields = self.most(frames), [_fields(frame, self.grouped[id(frame)]) for frame in frames]
        for key in fields[0]:
            groups: dict[str | None, list[Frame]] = defaultdict(list)
            for frame, values in zip(frames, fields, strict=True):
                groups[values.get(key)].append(frame)
                if len(groups) > most:
                    break
            sizes = {(len(group), self.most(group), self.covered(group)) for group in groups.values()}
            if len(groups) == most and sizes == {(len(frames) // most, 1, self.covered(frames))}:
                return [groups[value] for value in sorted(groups, key=_naturally)]
        return []

    def ambiguous(self, frames: list[Frame]) -> ImageError:
        """The error of repeats that differ, and nothing says in what."""
        places = self.by_place(frames)
        first, other, *_ = next(place for place in places if len(place) > 1)
        crowded = sum(len(place) > 1 for place in places)
        problem = f"{first.file.name} and {other.file.name} lie at the same position and differ"
        if crowded > 1 and crowded * 2 >= len(places):
            fix = "export the repeats as series of their own, or convert them by dcm2niix and choose a --volume"
            return ImageError("E-DCM-AMBIG", f"{problem}, as at {crowded - 1} other positions", fix=fix)
        return ImageError("E-DCM-DUP", problem, fix="remove one of them")

    def labels(
        self, name: str, attributes: tuple[str, ...], groups: list[list[Frame]]
    ) -> Iterator[tuple[tuple[str, str], ...]]:
        """What to call each group: by its value, or by its number where the value is no short word."""
        if attributes[0] == "b-value":
            values = [_short(self.value(group[0], "b-value")) or "0" for group in groups]
            for n, value in enumerate(values):
                direction = (("direction", str(values[:n].count(value) + 1)),) if values.count(value) > 1 else ()
                yield (("b", value), *direction)
            return
        for attribute in attributes:
            texts = [_short(self.value(group[0], attribute)) for group in groups]
            if attribute == "ImageType":
                common = set.intersection(*(set(text.split("\\")) for text in texts))
                texts = ["-".join(word for word in text.split("\\") if word not in common) for text in texts]
            if attribute in _NUMBERED or len(set(texts)) < len(texts):
                continue
            if all(re.fullmatch(r"[\w.+-]{1,16}", text, re.ASCII) for text in texts):
                break
        else:
            texts = [str(number) for number in range(1, len(groups) + 1)]
        yield from (((name, text),) for text in texts)

    def value(self, frame: Frame, name: str) -> float | str:
        """A number where the attribute is one, else text; empty if the header does not tell."""
        if name not in self.columns:
            self.columns[name] = {id(one): _value(one, name, self.grouped[id(one)]) for one in self.frames}
        return self.columns[name][id(frame)]


def _unplaced(frames: list[Frame]) -> ImageError:
    return ImageError(
        "E-DCM-NOGEOM",
        f"{frames[0].file.name} and {len(frames) - 1} more frames have one ImagePositionPatient",
        fix="export the series again, with the position of each slice",
    )


def _without_copies(place: list[Frame]) -> list[Frame]:
    """The frames of a position without copies of one instance."""
    kept: dict[Hashable, Frame] = {}
    for frame in place:
        uid = str(get(frame.header, "SOPInstanceUID") or "")
        first = kept.setdefault((uid, frame.number) if uid else id(frame), frame)
        if first is not frame and not _are_equal(first, frame):
            kept[id(frame)] = frame
    return list(kept.values())


def _equal_copies(places: list[list[Frame]]) -> Divided | None:
    """One frame of each position, if all that lie there have equal pixels."""
    if not all(_are_equal(first, other) for first, *others in places for other in others):
        return None
    count = sum(map(len, places)) - len(places)
    return Divided([place[0] for place in places], (), frozenset({_doubled(count)}))


def _doubled(count: int) -> SuperResolutionWarning:
    text = "{slices} slices are there twice, with equal pixels; one of each is used"
    return SuperResolutionWarning("W-DCM-DUP", text, facts={"slices": count})


def _are_equal(one: Frame, other: Frame) -> bool:
    return np.array_equal(read_frame(one), read_frame(other))


# ---------------------------------------------------------------- values


def _ranks(values: Sequence[float | str], tolerance: float) -> list[int]:
    """The number of each value in their order, with numbers that are nearly equal as one."""
    ranks: dict[float | str, int] = {}
    rank, last = -1, -np.inf
    for value in sorted({v for v in values if isinstance(v, float)}):
        rank += value - last > tolerance * max(abs(value), 1.0)
        ranks[value], last = rank, value
    for text in sorted({v for v in values if isinstance(v, str)}):
        ranks[text] = rank = rank + 1
    return [ranks[value] for value in values]


def _value(frame: Frame, name: str, grouped: dict[str, Any]) -> float | str:
    """An attribute of :data:`SETTINGS`; ``grouped`` as of :func:`monai_sr.dicom.attributes.grouped_values`."""

    def said(keyword: str) -> Any:
        return grouped[keyword] if keyword in grouped else get(frame.header, keyword)

    if name == "clock":
        return _seconds(said)
    value: Any
    if name == "b-value":
        value = [v for v in (said("DiffusionBValue"), *_private(frame, _B_VALUES)) if v is not None]
        numbers = values_of(value[0]) if value else []
        value = float(numbers[0]) % 1e6 if numbers else ""  # GE adds 1e9
    elif name == "b-direction":
        values = said("DiffusionGradientOrientation"), *(_private(frame, tags) for tags in _DIRECTIONS)
        value = next(filter(None, values), "")
    elif name in ("across", "down"):
        value = frame.position @ frame.orientation[slice(3) if name == "across" else slice(3, 6)]
    elif name.startswith("cosine"):
        value = frame.orientation[int(name[-1])]
    else:
        value = said(name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "" if value is None else "\\".join(map(str, values_of(value)))
    return number if np.isfinite(number) else ""


def _seconds(said: Callable[[str], Any]) -> float | str:
    """When a frame was acquired, in seconds; empty if the header does not tell."""
    moment = said("FrameAcquisitionDateTime")
    if not moment and said("AcquisitionTime"):
        moment = f"{said('AcquisitionDate') or '0' * 8}{said('AcquisitionTime')}"
    moment = str(moment or said("AcquisitionDateTime") or "").replace(":", "")
    digits = re.match(r"\d{6}(\d\d)(\d\d)(\d\d)(\d\d(?:\.\d+)?)", moment)
    if digits is None:
        return ""
    day, hour, minute, second = map(float, digits.groups())
    return ((day * 24 + hour) * 60 + minute) * 60 + second


def _private(frame: Frame, tags: Sequence[int]) -> list[Any]:
    """Values of private attributes, whose VR a file may not give; those that are absent are left out."""
    found = []
    for tag in tags:
        value: Any = get(frame.header, tag)
        if isinstance(value, bytes):
            try:
                value = [float(part) for part in value.strip(b" \0").split(b"\\")]
            except ValueError:
                size, kind = (4, "f") if len(value) == 4 else (8, "d")
                value = list(struct.unpack(f"<{len(value) // size}{kind}", value[: len(value) // size * size]))
        if value is not None and value != "" and value != []:
            found.append(value)
    return found


def _fields(frame: Frame, grouped: dict[str, Any]) -> dict[Hashable, str]:
    """All that a header says of a frame, as text: of a classic file every element, private ones too."""
    if not grouped:
        return {
            tag: str(element.value)[:1024]
            for tag, element in frame.header._dict.items()
            if element.VR != "SQ" and keyword_for_tag(tag) not in _NO_SETTING
        }
    return {
        (name, number): str(value)[:1024]
        for name, values in grouped.items()
        if name not in _NO_SETTING
        for number, value in enumerate(values_of(values) if name == "DimensionIndexValues" else [values])
    }


def _naturally(text: str | None) -> list[tuple[bool, float | str]]:
    """A key by which texts are sorted, numbers in them by their value."""
    return [(part.isdigit(), float(part) if part.isdigit() else part) for part in re.split(r"(\d+)", text or "")]


def _short(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else value.replace(" ", "_")
