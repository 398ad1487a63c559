"""Slices that lie on one another, divided into volumes by the attribute that distinguishes them.

Settings (echo, b-value, ...) are equal in all slices of a volume. Clocks and counters (trigger time,
acquisition time, InstanceNumber) grow from slice to slice, too: there the order at each position counts.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..acquired import MIN_SLICES
from ..errors import ImageError, SuperResolutionWarning
from .attributes import attribute_of, fields_of, get, grouped_values
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
"""Attributes whose values are not used as labels; these volumes are numbered."""

_BY_NUMBER = SuperResolutionWarning("W-DCM-ORDER", "InstanceNumber alone distinguishes repeats of the slices")


Label = tuple[tuple[str, str], ...]
"""Names and values that distinguish a volume from the others of its series."""


@dataclass(frozen=True)
class Part:
    """Frames that may be one volume, what distinguishes them from others, and warnings."""

    frames: list[Frame]
    label: Label = ()
    notes: frozenset[SuperResolutionWarning] = frozenset()

    def split(self, name: str, groups: list[list[Frame]], notes: Iterable[SuperResolutionWarning] = ()) -> list[Part]:
        """The groups as parts, those that make a volume first."""
        groups = sorted(groups, key=lambda group: len(group) < 2)
        notes = self.notes | frozenset(notes)
        return [Part(group, (*self.label, (name, str(n))), notes) for n, group in enumerate(groups, start=1)]


def divide(places: Sequence[list[Frame]]) -> list[Part]:
    """Volumes in which every position occurs once, and none between the slices of another acquisition.

    Args:
        places: the frames at each position, in the order of the positions.

    Raises:
        ImageError: nothing distinguishes the repeats (E-DCM-AMBIG, E-DCM-DUP, E-DCM-NOGEOM).
    """
    if len(places) == 1 and len({str(get(frame.header, "SliceLocation")) for frame in places[0]}) > 2:
        raise _unplaced(places[0])
    single = [_without_copies(place) if len(place) > 1 else place for place in places]
    count = sum(map(len, places)) - sum(map(len, single))
    notes = {_doubled(count)} if count else set()
    return [replace(part, notes=part.notes | notes) for part in _Stack(single).divided()]


class _Stack:
    """Frames in the order of their positions. Methods take and give numbers of frames.

    Attributes:
        frames: all of them.
        place: (frames,) number of the position of each.
        offsets: (positions,) mm along the normal.
        has_choice: whether the frames may be of several volumes.
    """

    def __init__(self, places: Sequence[list[Frame]]) -> None:
        self.frames = [frame for place in places for frame in place]
        self.place = np.repeat(np.arange(len(places)), [len(place) for place in places])
        normal = self.frames[0].normal
        self.offsets = np.array([place[0].position @ normal for place in places])
        self.has_choice = len(self.frames) > len(places) or not _is_even(self.offsets) or self.is_covered_twice()
        self.grouped = [grouped_values(frame) for frame in self.frames] if self.has_choice else []
        self.columns: dict[str, list[float | str]] = {}

    def is_covered_twice(self) -> bool:
        """Whether slices overlap so far that every other one may be a volume; packages of one acquisition do not."""
        thickness = [frame.slice_thickness or 0.0 for frame in self.frames]
        return len(self.offsets) > 1 and float(np.median(thickness)) >= 1.5 * float(np.median(np.diff(self.offsets)))

    def divided(self) -> list[Part]:
        every = np.arange(len(self.frames))
        if len(self.frames) > len(self.offsets):
            return self.divide(every)
        for name, attributes in SETTINGS[:-3] if self.has_choice else ():  # an uneven grid alone distinguishes nothing
            groups = self.by_values(every, attributes)
            if 1 < len(groups) and all(len(g) >= MIN_SLICES and _is_even(self.offsets[g]) for g in groups):
                ends = sorted((self.offsets[group[0]], self.offsets[group[-1]]) for group in groups)
                if any(after[0] < before[1] for before, after in pairwise(ends)):
                    return self.named(groups, self.labels(name, attributes, groups))
        return [Part(self.frames)]

    def divide(self, chosen: np.ndarray) -> list[Part]:
        """Split frames until no position occurs twice."""
        most = self.most(chosen)
        if most == 1:
            return self.named([chosen], [()])
        fault: ImageError | None = None
        for name, attributes in SETTINGS:
            for names in dict.fromkeys([attributes, *((one,) for one in attributes)]):
                groups = self.by_values(chosen, names)
                once = all(self.most(group) == 1 for group in groups)
                if len(groups) == 1 or (len(groups) > most and not (once and all(map(self.is_run, groups)))):
                    continue
                labels = self.labels(name, names, groups)
                if once:
                    return self.named(groups, labels)
                if all(self.covered(group) > MOSTLY * self.covered(chosen) for group in groups):
                    try:
                        return [
                            Part(part.frames, label + part.label, part.notes)
                            for group, label in zip(groups, labels, strict=True)
                            for part in self.divide(group)
                        ]
                    except ImageError as error:
                        fault = error
        at = self.place[chosen]
        places = [[self.frames[n] for n in chosen[at == place]] for place in np.unique(at)]
        if all(_are_equal(first, other) for first, *others in places for other in others):
            return [Part([place[0] for place in places], (), frozenset({_doubled(len(chosen) - len(places))}))]
        if len(places) == 1 and places[0][0].file == places[0][-1].file:
            raise _unplaced(places[0])
        name, notes = "phase", frozenset[SuperResolutionWarning]()
        groups = next(filter(None, (self.by_order(chosen, order) for order in ORDERS)), [])
        if not groups:
            name, groups = "repeat", self.by_any_setting(chosen)
        if not groups:
            groups, notes = self.by_order(chosen, "InstanceNumber"), frozenset({_BY_NUMBER})
        if not groups:
            raise fault or _ambiguous(places)
        return self.named(groups, [((name, str(n + 1)),) for n in range(len(groups))], notes)

    def named(
        self, groups: list[np.ndarray], labels: Iterable[Label], notes: frozenset[SuperResolutionWarning] = frozenset()
    ) -> list[Part]:
        """Groups of frames with their labels."""
        return [
            Part([self.frames[n] for n in np.sort(group)], label, notes)
            for group, label in zip(groups, labels, strict=True)
        ]

    def most(self, chosen: np.ndarray) -> int:
        """How many frames lie at one position, at most."""
        return int(np.bincount(self.place[chosen]).max())

    def covered(self, chosen: np.ndarray) -> int:
        """At how many positions frames lie."""
        return len(np.unique(self.place[chosen]))

    def is_run(self, chosen: np.ndarray) -> bool:
        """Whether frames lie at neighboring positions, enough for a volume."""
        return len(chosen) >= MIN_SLICES and np.ptp(self.place[chosen]) == self.covered(chosen) - 1

    def by_values(self, chosen: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """Frames grouped by equal values of all attributes, in the order of the values."""
        columns = [_ranks([self.values(name)[n] for n in chosen], TOLERANCES.get(name, 0.0)) for name in names]
        keys, inverse = np.unique(np.array(columns), axis=1, return_inverse=True)
        return [chosen[inverse.ravel() == number] for number in range(keys.shape[1])]

    def by_order(self, chosen: np.ndarray, name: str) -> list[np.ndarray]:
        """Volumes by a value that grows with time; empty if it does not distinguish them.

        Either one volume is acquired after the other, so that values of volumes do not overlap; or all
        repeats of a position before those of the next. A trigger time starts anew at each position.
        """
        given = [self.values(name)[n] for n in chosen]
        if not all(isinstance(value, float) for value in given):
            return []
        values, place = np.array(given, float), self.place[chosen]
        order, counts, most = np.lexsort((values, place)), np.bincount(place), self.most(chosen)
        if (np.diff(values[order])[np.diff(place[order]) == 0] == 0).any():
            return []
        if (counts[counts > 0] == most).all():
            table = values[order].reshape(-1, most)
            rows = table[np.argsort(table[:, 0])]
            volumes_apart = (table.max(axis=0)[:-1] < table.min(axis=0)[1:]).all()
            places_apart = len(rows) > 1 and (rows[:-1, -1] < rows[1:, 0]).all()
            if volumes_apart or places_apart or "Trigger" in name:
                return list(chosen[order.reshape(-1, most).T])
        # slices are missing: a volume ends at a large step, or after as many numbers as there are positions
        steps = np.diff(np.sort(values))
        cuts = np.sort(values)[np.sort(np.argsort(-steps, kind="stable")[: most - 1])]
        numbers = (values - values.min()) // self.covered(chosen)
        for keys in (np.searchsorted(cuts, values), numbers if name == "InstanceNumber" else np.zeros_like(values)):
            groups = [chosen[keys == key] for key in np.unique(keys)]
            whole = all(self.covered(g) > MOSTLY * self.covered(chosen) for g in groups[:-1])  # the last may be aborted
            enough = len(groups) > 2 or len(groups[-1]) >= MIN_SLICES  # a slice beside one volume may be a stray
            if whole and len(groups) > 1 and enough and all(self.most(g) == 1 for g in groups):
                return groups
        return []

    def by_any_setting(self, chosen: np.ndarray) -> list[np.ndarray]:
        """Volumes by any other attribute, private ones included, that has one value in each; empty if there is none."""
        most, fields = self.most(chosen), [fields_of(self.frames[n], self.grouped[n]) for n in chosen]
        for key in fields[0]:
            values = np.array([row.get(key, "") for row in fields])
            texts = sorted(set(values), key=_naturally)
            groups = [chosen[values == text] for text in texts] if len(texts) == most else []
            if groups and all(self.most(g) == 1 and len(g) * most == len(chosen) for g in groups):
                return groups
        return []

    def labels(self, name: str, attributes: tuple[str, ...], groups: list[np.ndarray]) -> list[Label]:
        """Labels of the groups: their values, or numbers where a value is not a short word."""
        texts = [str(number) for number in range(1, len(groups) + 1)]
        for attribute in attributes:
            given = [_short(self.values(attribute)[group[0]]) for group in groups]
            if attribute == "b-value":
                texts = [text or "0" for text in given]
                break
            if attribute == "ImageType":
                common = set.intersection(*(set(text.split("\\")) for text in given))
                given = ["-".join(word for word in text.split("\\") if word not in common) for text in given]
            short = all(re.fullmatch(r"[\w.+-]{1,16}", text, re.ASCII) for text in given)
            if short and len(set(given)) == len(given) and attribute not in _NUMBERED:
                texts = given
                break
        numbers = [texts[:n].count(text) + 1 for n, text in enumerate(texts)]
        directions = [
            (("direction", str(n)),) * (texts.count(text) > 1) for n, text in zip(numbers, texts, strict=True)
        ]
        return [((name, text), *direction) for text, direction in zip(texts, directions, strict=True)]

    def values(self, name: str) -> list[float | str]:
        """For each frame a number if the attribute is numeric, else text; empty if absent."""
        if name not in self.columns:
            self.columns[name] = [attribute_of(*row, name) for row in zip(self.frames, self.grouped, strict=True)]
        return self.columns[name]


def _is_even(offsets: np.ndarray) -> bool:
    """Whether steps between slices are equal to 1 %, or a hundredth of a millimeter."""
    steps = np.diff(offsets)
    return len(steps) == 0 or bool(np.ptp(steps) <= max(0.01, 0.02 * np.median(steps)))


def _ambiguous(places: list[list[Frame]]) -> ImageError:
    """Error: repeats differ, and no attribute distinguishes them."""
    first, other, *_ = next(place for place in places if len(place) > 1)
    crowded = sum(len(place) > 1 for place in places)
    problem = f"{first.name} and {other.name} lie at the same position and differ"
    if crowded > 1 and crowded * 2 >= len(places):
        fix = "export the repeats as series of their own, or convert them by dcm2niix and choose a --volume"
        return ImageError("E-DCM-AMBIG", f"{problem}, as at {crowded - 1} other positions", fix=fix)
    return ImageError("E-DCM-DUP", problem)


def _unplaced(frames: list[Frame]) -> ImageError:
    problem = f"{frames[0].file.name} and {len(frames) - 1} more frames have one ImagePositionPatient"
    return ImageError("E-DCM-NOGEOM", problem)


def _without_copies(place: list[Frame]) -> list[Frame]:
    """The frames of a position without copies of one instance."""
    kept: dict[Hashable, Frame] = {}
    for frame in place:
        uid = str(get(frame.header, "SOPInstanceUID") or "")
        first = kept.setdefault((uid, frame.number) if uid else id(frame), frame)
        if first is not frame and not _are_equal(first, frame):
            kept[id(frame)] = frame
    return list(kept.values())


def _doubled(count: int) -> SuperResolutionWarning:
    text = "{slices} slices are there twice, with equal pixels; one of each is used"
    return SuperResolutionWarning("W-DCM-DUP", text, facts={"slices": count})


def _are_equal(one: Frame, other: Frame) -> bool:
    return np.array_equal(read_frame(one), read_frame(other))


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


def _naturally(text: str) -> list[tuple[bool, float | str]]:
    """A key by which texts are sorted, numbers in them by their value."""
    return [(part.isdigit(), float(part) if part.isdigit() else part) for part in re.split(r"(\d+)", text)]


def _short(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else value.replace(" ", "_")
