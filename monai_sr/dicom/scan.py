"""What is in a tree or zip of DICOM files: series that make volumes, what was left out, what is broken.

Headers are read and pixels only measured. Nothing is guessed: a series whose files contradict each
other is broken and says why; files of other kinds are left out and counted.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ImageError, InputMissingError, SuperResolutionError, SuperResolutionWarning, UsageError
from . import header
from .archive import unpack
from .pixels import read_frame
from .series import Frame, Series

SAME_PLACE = 1e-3
"""Slices whose centers are closer than this, mm, lie at the same position."""

PARALLEL = 1e-3
"""Direction cosines of parallel slices differ by at most this."""

REPEATS = (
    "EchoNumbers",
    "EchoTime",
    "ImageType",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "ConvolutionKernel",
    "AcquisitionNumber",
)
"""What tells apart slices at one position, tried in this order."""


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that are no volume of ours."""

    code: str
    reason: str
    files: int


@dataclass(frozen=True)
class Found:
    """What :func:`find_series` found.

    Attributes:
        series: every series that may be read.
        left_out: what else is there, by kind.
        broken: SeriesInstanceUID (empty if unreadable) and what is wrong, of image series that
            cannot be used.
    """

    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]
    broken: tuple[tuple[str, SuperResolutionError], ...]

    def choose(self, wanted: str) -> tuple[Series, ...]:
        """The series of a SeriesInstanceUID or a SeriesNumber.

        Raises:
            ImageError: that series is broken; the error says why.
            UsageError: there is none of that name.
        """
        chosen = tuple(s for s in self.series if wanted in (s.uid, str(s.number)))
        for uid, error in self.broken:
            if not chosen and uid == wanted:
                raise error
        if not chosen:
            raise UsageError("E-DCM-SERIES", "there is no series of that UID or number", fix=self.choices())
        return chosen

    def only(self, wanted: str | None = None) -> Series:
        """The one series there is, or the one of a SeriesInstanceUID or SeriesNumber.

        Raises:
            ImageError: there are several, or it is broken.
            InputMissingError: there is none.
        """
        candidates = self.series if wanted is None else self.choose(wanted)
        faults = self.broken if wanted is None else ()
        if not candidates and not faults:
            kinds = "; ".join(f"{left.files} left out: {left.reason}" for left in self.left_out)
            raise InputMissingError(
                "E-DCM-NONE",
                f"no CT or MR series here ({kinds or 'no file at all'})",
                fix="give the folder or zip of a CT or MR series",
            )
        if len(candidates) + len(faults) > 1:
            count = len(candidates) + len(faults)
            raise ImageError("E-DCM-SERIES", f"{count} series are here", fix=self.choices())
        if faults:
            raise faults[0][1]
        return candidates[0]

    def choices(self) -> str:
        """How to name one of the series."""
        names = [f"{'?' if s.number is None else s.number} ({len(s.frames)} slices, UID {s.uid})" for s in self.series]
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"choose one by its number or UID: {listed or 'none can be used'}"


def find_series(source: str | Path, *, merge_by_geometry: bool = False, own_results: bool = False) -> Found:
    """Every CT and MR series in a folder tree, a zip, or one file.

    A series is what shares SeriesInstanceUID, matrix, pixel spacing, frame of reference and
    orientation; where slices lie on one another it is split by echo, phase and the like.

    Args:
        source: a folder, searched to any depth; a ``.zip``; or a (multi-frame) DICOM file.
        merge_by_geometry: join slices that each have a series of their own but fit together.
        own_results: take also series that monai-sr made, as one does to look at them.

    Raises:
        InputMissingError: nothing is there.
        ImageError: an archive that is damaged or not safe to unpack.
    """
    source = Path(source)
    unpacked: tempfile.TemporaryDirectory[str] | None = None
    if source.is_file() and _is_zip(source):
        unpacked = unpack(source)
        files: Iterable[Path] = _regular_files(Path(unpacked.name))
    elif source.is_dir():
        files = _regular_files(source)
    elif source.is_file():
        files = [source]
    else:
        raise InputMissingError("E-IO-MISSING", "no such file or folder", fix="check the path", path=source)
    left: Counter[tuple[str, str]] = Counter()
    broken: dict[str, SuperResolutionError] = {}
    frames: dict[str, list[Frame]] = defaultdict(list)
    warnings: dict[str, set[SuperResolutionWarning]] = defaultdict(set)
    with header.pydicom_silent():
        for file in files:
            try:
                dataset, new = header.read_frames(file, own_results=own_results)
            except header.NotAnImageError as other:
                left[other.code, other.reason] += 1
            except header.BrokenFileError as fault:
                broken.setdefault(fault.uid, fault.error)
            else:
                uid = str(dataset.get("SeriesInstanceUID") or "")
                frames[uid] += new
                warnings[uid] |= header.warnings_of(dataset)
        groups: list[Series] = []
        for uid, members in frames.items():
            if uid in broken:
                continue
            try:
                groups += _split(uid, members, warnings[uid])
            except ImageError as error:
                broken[uid] = error
    joined, singles = _join_singles(groups, merge=merge_by_geometry)
    series = [replace(one, unpacked=unpacked) for one in joined]
    left.update(singles)
    return Found(
        tuple(sorted(series, key=lambda s: (s.number is None, s.number, s.uid, s.frames[0].file))),
        tuple(LeftOut(code, reason, count) for (code, reason), count in sorted(left.items())),
        tuple(sorted(broken.items(), key=lambda item: item[0])),
    )


def _is_zip(file: Path) -> bool:
    """By its start: a zip that was cut off has lost its end."""
    with open(file, "rb") as stream:
        return stream.read(4) == b"PK\3\4"


def _regular_files(folder: Path) -> Iterator[Path]:
    """Regular files below a folder, in a stable order; links to files count, links to folders do not."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    yield path
            except OSError:  # a dangling link
                continue


def _split(uid: str, frames: list[Frame], warnings: set[SuperResolutionWarning]) -> list[Series]:
    """The frames of one SeriesInstanceUID as stacks of parallel slices of one kind."""
    stacks: dict[Hashable, list[Frame]] = defaultdict(list)
    orientations: list[np.ndarray] = []
    for frame in frames:
        near = [i for i, o in enumerate(orientations) if np.abs(o - frame.orientation).max() <= PARALLEL]
        if not near:
            orientations.append(frame.orientation)
        direction = near[0] if near else len(orientations) - 1
        stacks[(*_plane(frame), direction)].append(frame)
    if len({_plane(members[0])[:-1] for members in stacks.values()}) > 1:
        text = "matrix, spacing or frame of reference differ within a series; it is split"
        warnings = warnings | {SuperResolutionWarning("W-DCM-MIXED", text)}
    result = []
    for members in stacks.values():
        normal = members[0].normal
        members.sort(key=lambda frame: float(frame.position @ normal))
        for part, more in _split_repeats(members):
            head = part[0].header
            number = str(head.get("SeriesNumber", ""))
            result.append(
                Series(
                    uid,
                    header.modality_of(head),
                    tuple(part),
                    int(number) if re.fullmatch(r"-?\d+", number) else None,
                    tuple(sorted(warnings | more, key=str)),
                )
            )
    return result


def _plane(frame: Frame) -> tuple[Hashable, ...]:
    """What slices of one stack share besides their direction; the stack of a multi-frame file comes last."""
    head = frame.header
    spacing = tuple(round(s, 4) for s in frame.pixel_spacing)
    return (
        int(head.Rows),
        int(head.Columns),
        spacing,
        str(head.get("FrameOfReferenceUID", "")),
        header.stack_of_frame(frame),
    )


def _split_repeats(frames: list[Frame]) -> list[tuple[list[Frame], set[SuperResolutionWarning]]]:
    """Sorted frames as parts in which every position occurs once, with what was mended.

    Raises:
        ImageError: repeats that nothing in the header tells apart, or positions that are none.
    """
    if len(frames) > 1 and not any(frame.position.any() for frame in frames):
        raise ImageError(
            "E-DCM-NOGEOM",
            f"{frames[0].file.name} and the others have no usable ImagePositionPatient",
            fix="export the series again, with its geometry",
        )
    most = max(map(len, _places(frames)))
    if most == 1:
        return [(frames, set())]
    values = {name: [str(header.value_of(frame, name)) for frame in frames] for name in REPEATS}
    telling = [name for name in REPEATS if 1 < len(set(values[name])) <= most]
    for names in [*((name,) for name in telling), tuple(telling)]:
        parts: dict[Hashable, list[Frame]] = defaultdict(list)
        for count, frame in enumerate(frames):
            parts[tuple(values[name][count] for name in names)].append(frame)
        if len(parts) > 1 and all(max(map(len, _places(part))) == 1 for part in parts.values()):
            return [(part, set()) for part in parts.values()]
    kept = []
    for place in _places(frames):
        first = place[0]
        for other in place[1:]:
            if not np.array_equal(read_frame(first), read_frame(other)):
                crowded = sum(len(p) > 1 for p in _places(frames))
                several = crowded > 1 and crowded * 2 >= len(_places(frames))
                raise ImageError(
                    "E-DCM-AMBIG" if several else "E-DCM-DUP",
                    f"{first.file.name} and {other.file.name} lie at the same position and differ"
                    + (f", as at {crowded - 1} other positions" if several else ""),
                    fix="separate the repeats into series of their own" if several else "remove one of them",
                )
        kept.append(first)
    count = len(frames) - len(kept)
    text = "{slices} slices are there twice, with equal pixels; one of each is used"
    return [(kept, {SuperResolutionWarning("W-DCM-DUP", text, facts={"slices": count})})]


def _places(frames: list[Frame]) -> list[list[Frame]]:
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


def _join_singles(groups: list[Series], *, merge: bool) -> tuple[list[Series], Counter[tuple[str, str]]]:
    """Set single slices aside, or join those of many series that lie on one another (old Canon CT)."""
    series = [group for group in groups if len(group.frames) > 1]
    left: Counter[tuple[str, str]] = Counter()
    planes: dict[Hashable, list[Series]] = defaultdict(list)
    for group in groups:
        if len(group.frames) == 1:
            frame = group.frames[0]
            study = str(frame.header.get("StudyInstanceUID", ""))
            planes[(study, *_plane(frame), tuple(np.round(frame.orientation, 2)))].append(group)
    for members in planes.values():
        normal = members[0].frames[0].normal
        members.sort(key=lambda group: float(group.frames[0].position @ normal))
        frames = [group.frames[0] for group in members]
        scattered = len({group.uid for group in members}) >= 3 and len(_places(frames)) == len(frames)
        if scattered and merge:
            text = "{series} series of one slice each are taken as one"
            note = SuperResolutionWarning("W-DCM-MERGED", text, facts={"series": len(members)})
            series.append(replace(members[0], frames=tuple(frames), warnings=(*members[0].warnings, note)))
        elif scattered:
            left["E-DCM-SPLIT", "slices that each have a series of their own; --merge-by-geometry joins them"] += len(
                members
            )
        else:
            left["E-IMG-2D", "a single slice"] += len(members)
    return series, left


def is_dicom_source(path: Path) -> bool:
    """Whether a file or folder is to be read as DICOM: a zip, a DICOM file, or a folder that holds one."""
    if path.is_file():
        return _is_zip(path) or header.is_dicom(path)
    return path.is_dir() and any(header.is_dicom(file) for file in _regular_files(path))


def short_name(series: Series) -> str:
    """A name for files and folders of a series, without any text from its header."""
    import hashlib

    first = series.frames[0]
    parts = [series.uid, *(str(header.value_of(first, name)) for name in REPEATS), str(first.orientation.round(3))]
    parts.append(re.sub(r"\s", "", str(_plane(first))))
    return "series-" + hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]
