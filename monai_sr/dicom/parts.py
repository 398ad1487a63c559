"""The frames of one SeriesInstanceUID as volumes: one patient, one grid, every position once.

Numbers are compared with tolerances: one header writes a number with more digits than the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..acquired import MIN_SLICES
from ..errors import ImageError, SuperResolutionWarning
from .attributes import get, stack_of_frame, value_of
from .kinds import modality_of
from .repeats import Part, divide
from .series import Frame, Series, breaks_in

SAME_PLACE = 0.01
"""Slices whose centers are closer than this along their normal, mm, lie at the same position."""

SAME_GRID = 0.1
"""Pixels by which two grids may differ at their far edge and count as of one pixel spacing."""

PARALLEL = 1e-3
"""Direction cosines of parallel slices differ by at most this (0.06 degrees)."""

LINKED = 5e-3
"""Slices whose direction cosines differ by at most this (0.3 degrees) are neighbors in one stack."""

TURNING = 0.2
"""Slices that each differ by at most this from another (12 degrees) turn about an axis."""

MOST_TURNED = 1e-2
"""Direction cosines of the slices of one volume differ by at most this (0.6 degrees) from their mean."""

ACQUISITIONS = ("AcquisitionNumber", "SeriesDescription", "ProtocolName", "AcquisitionTime", "SeriesTime", "EchoTime")
"""Attributes that distinguish two acquisitions far apart."""

_PATIENT = 0x00100020, 0x00100010, 0x00100030  # PatientID, PatientName, PatientBirthDate
_STUDY, _REFERENCE = 0x0020000D, 0x00200052  # StudyInstanceUID, FrameOfReferenceUID
_OWNERS = SuperResolutionWarning(
    "W-DCM-PATIENT", "one SeriesInstanceUID holds several patients or studies; it is split"
)
_MIXED = SuperResolutionWarning(
    "W-DCM-MIXED", "matrix, spacing or frame of reference differ within a series; it is split"
)
_APART = SuperResolutionWarning("W-DCM-MIXED", "acquisitions far apart are in one series; it is split")


def volumes_of(uid: str, frames: list[Frame], notes: Iterable[SuperResolutionWarning]) -> list[Series]:
    """The volumes, and single slices, that the frames of one SeriesInstanceUID make.

    Raises:
        ImageError: slices lie on one another, and nothing distinguishes them; or they turn too far.
    """
    parts = [Part(frames, (), frozenset(notes))]
    for step in (_by_owner, _by_plane, _by_distance, _by_repeats):
        parts = [finer for part in parts for finer in step(part)]
    least = min(MIN_SLICES, max(2, *(len(part.frames) for part in parts)))
    labels = [dict(part.label) for part in parts if len(part.frames) >= least]
    telling = {name for label in labels for name in label if len({other.get(name) for other in labels}) > 1}
    result = []
    for part in map(_straightened, parts):
        head = part.frames[0].header
        number = str(get(head, "SeriesNumber"))
        result.append(
            Series(
                uid,
                modality_of(head),
                tuple(part.frames),
                int(number) if re.fullmatch(r"-?\d+", number) else None,
                tuple(sorted(part.notes, key=str)),
                tuple((name, value) for name, value in part.label if name in telling),
            )
        )
    return result


def stacks_of(frames: list[Frame]) -> list[Part]:
    """Frames of several series by patient, study and plane, each sorted by position."""
    return [stack for part in _by_owner(Part(frames)) for stack in _by_plane(part)] if frames else []


def _by_owner(part: Part) -> list[Part]:
    """Split by patient and study."""
    notes: set[SuperResolutionWarning] = set()
    groups = [part.frames]
    patients = _patients(part.frames)
    owners = (("StudyInstanceUID", lambda frame: _raw(frame, _STUDY)), ("PatientID", lambda f: patients[id(f)]))
    for name, key in owners:
        groups = [finer for group in groups for finer in by_text(group, key, name, notes)]
    if len(groups) > 1:
        notes.add(_OWNERS)
    return part.split("patient", groups, notes)


def _by_plane(part: Part) -> list[Part]:
    """Split by stack, matrix, pixel spacing, frame of reference and direction; sort along the normal."""
    notes: set[SuperResolutionWarning] = set()
    planes: list[list[Frame]] = []
    stacks: list[list[Frame]] = []
    for frames in by_text(part.frames, lambda frame: _raw(frame, _REFERENCE), "FrameOfReferenceUID", notes):
        grids: dict[Hashable, list[Frame]] = defaultdict(list)
        for frame in frames:
            grids[int(frame.header.Rows), int(frame.header.Columns)].append(frame)
        planes += [plane for grid in grids.values() for plane in _of_one_spacing(grid)]
    if len(planes) > 1:
        notes.add(_MIXED)
    for plane in planes:
        for stack in by_text(plane, lambda frame: stack_of_frame(frame).encode()):
            parallel = _parallel(stack)
            turning = len(parallel) == len(stack) >= MIN_SLICES and len(_parallel(stack, TURNING)) == 1
            stacks += [stack] if turning else parallel  # refused later, by its angle
    for stack in stacks:
        normal = stack[0].normal
        stack.sort(key=lambda frame: float(frame.position @ normal))
    return part.split("stack", stacks, notes)


def _by_distance(part: Part) -> list[Part]:
    """Split at steps too large to be a gap, if an attribute changes there."""
    places = places_of(part.frames)
    normal = part.frames[0].normal
    offsets = np.array([place[0].position @ normal for place in places])
    thickness = np.array([place[0].slice_thickness or 0.0 for place in places])
    blocks: list[list[Frame]] = []
    cuts = [0, *(breaks_in(offsets, thickness) + 1), len(places)]
    for start, stop in pairwise(cuts):
        block = [frame for place in places[start:stop] for frame in place]
        rest = [frame for place in places[start:] for frame in place]
        if blocks and not _are_two_acquisitions(blocks[-1], rest):
            blocks[-1] += block
        else:
            blocks.append(block)
    return part.split("block", blocks, [_APART] if len(blocks) > 1 else [])


def _by_repeats(part: Part) -> list[Part]:
    """Split so that every position occurs once.

    Raises:
        ImageError: as :func:`monai_sr.dicom.repeats.divide`, or every position is the origin.
    """
    if len(part.frames) > 1 and not any(frame.position.any() for frame in part.frames):
        problem = f"{part.frames[0].file.name} and the others have no usable ImagePositionPatient"
        raise ImageError("E-DCM-NOGEOM", problem)
    divided = divide(places_of(part.frames))
    return [replace(more, label=part.label + more.label, notes=part.notes | more.notes) for more in divided]


def places_of(frames: list[Frame]) -> list[list[Frame]]:
    """Sorted frames grouped by position."""
    normal = frames[0].normal
    along = [float(frame.position @ normal) for frame in frames]
    places, first = [[frames[0]]], 0
    for index in range(1, len(frames)):
        if along[index] - along[first] < SAME_PLACE:
            places[-1].append(frames[index])
        else:
            places.append([frames[index]])
            first = index
    return places


def by_text(
    frames: list[Frame], key: Callable[[Frame], bytes], name: str = "", notes: set[SuperResolutionWarning] | None = None
) -> list[list[Frame]]:
    """Frames grouped by a text, unless no group is a volume; those without a text belong to the only group."""
    groups: dict[bytes, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    given = [group for text, group in groups.items() if text]
    if len(given) > 1 and max(map(len, given)) < MIN_SLICES <= len(frames):
        if notes is not None:
            text = "every slice has a {name} of its own, as some anonymizers give; it does not split the series"
            notes.add(SuperResolutionWarning("W-DCM-UID", text, facts={"name": name}))
        return [frames]
    return list(groups.values()) if len(given) > 1 else [frames]


def _raw(frame: Frame, tag: int | None) -> bytes:
    """The bytes of a text, which pydicom takes long to read."""
    value = getattr(frame.header._dict.get(tag), "value", None)
    return value.strip(b" \0") if isinstance(value, bytes) else str(value or "").encode()


def _patients(frames: list[Frame]) -> dict[int, bytes]:
    """PatientID by the id of each frame; where it is empty, that of the only patient of this name, or the name."""
    texts = {id(frame): [_raw(frame, tag) for tag in _PATIENT] for frame in frames}
    known: dict[bytes, set[bytes]] = defaultdict(set)
    for identifier, name, birth in texts.values():
        known[name + birth] |= {identifier} - {b""}
    return {
        frame: identifier or (min(known[name + birth]) if len(known[name + birth]) == 1 else name + birth)
        for frame, (identifier, name, birth) in texts.items()
    }


def _of_one_spacing(frames: list[Frame]) -> list[list[Frame]]:
    """Frames of one matrix grouped by pixel spacing; one of more digits is the same."""
    size = max(int(frames[0].header.Rows), int(frames[0].header.Columns))
    groups: dict[tuple[float, float], list[Frame]] = {}
    for frame in frames:
        near = frame.pixel_spacing if frame.pixel_spacing in groups else None
        for spacing in groups if near is None else ():
            drift = (abs(a - b) / min(a, b) * size for a, b in zip(spacing, frame.pixel_spacing, strict=True))
            near = spacing if max(drift) <= SAME_GRID else near
        groups.setdefault(near or frame.pixel_spacing, []).append(frame)
    return list(groups.values())


def _parallel(frames: list[Frame], linked: float = LINKED) -> list[list[Frame]]:
    """Frames grouped by direction; a direction that drifts from slice to slice is one."""
    exact: dict[bytes, list[Frame]] = defaultdict(list)
    for frame in frames:
        exact[frame.orientation.tobytes()].append(frame)
    members = list(exact.values())
    directions = np.array([group[0].orientation for group in members])
    groups, left = [], np.ones(len(members), dtype=bool)
    while left.any():
        reached = [int(np.flatnonzero(left)[0])]
        left[reached] = False
        for number in reached:
            near = np.flatnonzero(left & (np.abs(directions - directions[number]).max(axis=1) <= linked))
            left[near] = False
            reached += near.tolist()
        groups.append([frame for number in sorted(reached) for frame in members[number]])
    return groups


def _are_two_acquisitions(before: list[Frame], after: list[Frame]) -> bool:
    """Whether an attribute has one set of values before a gap and another after it."""
    for name in ACQUISITIONS:
        sides = [[str(value_of(frame, name)) for frame in frames] for frames in (before, after)]
        constant = all(len(set(side)) < max(len(side), 2) for side in sides)
        if constant and not set(sides[0]) & set(sides[1]):
            return True
    numbers = [{str(get(frame.header, "InstanceNumber")) for frame in frames} for frames in (before, after)]
    return bool(numbers[0] & numbers[1]) and min(len(before), len(after)) >= MIN_SLICES


def _straightened(part: Part) -> Part:
    """Slices whose directions differ a little, turned about their centers to the mean direction.

    Raises:
        ImageError: they differ by more than :data:`MOST_TURNED`.
    """
    directions = np.array([frame.orientation for frame in part.frames])
    mean = directions.mean(axis=0)
    row, column = mean[:3] / np.linalg.norm(mean[:3]), mean[3:]
    column = column - (column @ row) * row
    mean = np.concatenate([row, column / np.linalg.norm(column)])
    turned = float(np.abs(directions - mean).max())
    if np.abs(directions - directions[0]).max() <= PARALLEL:
        return part
    degrees = float(np.degrees(turned))
    if turned > MOST_TURNED:
        raise ImageError(
            "E-DCM-ORIENT",
            f"the slices from {part.frames[0].name} on turn by {degrees:.2f} degrees from their mean direction, "
            f"at most {np.degrees(MOST_TURNED):.1f} make a volume",
        )
    frames = []
    for frame in part.frames:
        down, right = np.array([int(frame.header.Rows) - 1, int(frame.header.Columns) - 1]) / 2 * frame.pixel_spacing
        change = frame.orientation - mean
        frames.append(
            replace(frame, orientation=mean, position=frame.position + right * change[:3] + down * change[3:])
        )
    normal = frames[0].normal
    frames.sort(key=lambda frame: float(frame.position @ normal))
    text = "directions of the slices differ by {degrees:.2f} degrees from their mean; they are taken as parallel"
    note = SuperResolutionWarning("W-DCM-ORIENT", text, facts={"degrees": degrees})
    return replace(part, frames=frames, notes=part.notes | {note})
