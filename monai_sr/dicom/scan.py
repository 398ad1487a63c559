"""What is in a tree or zip of DICOM files: series that make volumes, what was left out, what is broken.

Headers are read, pixels are not. A series whose files contradict each other is broken, with the reason;
files of other kinds are left out and counted.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..acquired import MIN_SLICES
from ..errors import ImageError, InputMissingError, SuperResolutionError, SuperResolutionWarning, UsageError, printable
from . import header
from .archive import unpack
from .attributes import get, stack_of_frame, value_of
from .dataset import is_dicom, pydicom_silent
from .kinds import BrokenFileError, NotAnImageError
from .parts import places_of, stacks_of, volumes_of
from .phases import TOGETHER, keep_together
from .series import Frame, Series

NAMED_BY = (
    *("EchoNumbers", "EchoTime", "ImageType", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime"),
    *("NominalCardiacTriggerDelayTime", "InversionTime", "FlipAngle", "DiffusionBValue", "ConvolutionKernel"),
    "AcquisitionNumber",
)
"""Attributes that names of results depend on; a change here changes the names of existing results."""

_IN_NAMES = {"type", "echo", "time", "trigger", "inversion", "flip", "kernel", "acquisition", "stack"}
"""Parts of a series that :data:`NAMED_BY` and the geometry distinguish."""

_TERM = "W|F|IP|OPP?|IN|OUT|PHASE|WATER|FAT|M|R|I|MAG|MAGNITUDE|REAL|IMAGINARY|FFE|SE|IR|B[01]"
_IS_HARMLESS = re.compile(rf"[+-]?[\d.]{{1,8}}|({_TERM})([_-]({_TERM}))*")
"""Values that may stand in the name of a file: numbers, and terms of ImageType; others may be typed by somebody."""


@dataclass(frozen=True)
class LeftOut:
    """Files left out for one reason."""

    code: str
    reason: str
    files: int


@dataclass(frozen=True)
class Found:
    """What :func:`find_series` found.

    Attributes:
        series: volumes that can be read.
        left_out: other files, by reason.
        broken: SeriesInstanceUID (empty if unreadable) and what is wrong, of image series that
            cannot be used.
    """

    series: tuple[Series, ...]
    left_out: tuple[LeftOut, ...]
    broken: tuple[tuple[str, SuperResolutionError], ...]

    def choose(self, wanted: str) -> tuple[Series, ...]:
        """The volumes of a SeriesInstanceUID or SeriesNumber, or one of them, such as ``4#echo=2``.

        Raises:
            ImageError: that series is broken; the error says why.
            UsageError: there is no such series.
        """
        chosen = tuple(one for series in self.series if (one := series.narrow(wanted)) is not None)
        for uid, error in self.broken:
            if not chosen and wanted.split("#")[0] in (uid, printable(uid)):
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
            kinds = "; ".join(f"{left.files} left out: {left.reason} ({left.code})" for left in self.left_out)
            raise InputMissingError("E-DCM-NONE", f"no CT or MR series here ({kinds or 'no file at all'})")
        if len(candidates) + len(faults) > 1:
            count = len(candidates) + len(faults)
            broken = f", of which cannot be read: {', '.join(error.code for _, error in faults)}" if faults else ""
            raise ImageError("E-DCM-SERIES", f"{count} series are here{broken}", fix=self.choices())
        if faults:
            raise faults[0][1]
        return candidates[0]

    def choices(self) -> str:
        """How to name one of the series."""
        same = Counter(s.label for s in self.series)  # series of one number are named by their UIDs
        names = [
            f"{s.label} ({s.size}, UID {printable(s.uid)})"
            if same[s.label] == 1
            else f"{printable(s.uid)}{s.label.removeprefix(str(s.number))} ({s.size})"
            for s in self.series
        ]
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"choose one by --series: {listed or 'none can be used'}"


def find_series(
    source: str | Path, *, merge_by_geometry: bool = False, own_results: bool = False, volume: int | str | None = None
) -> Found:
    """Every CT and MR series in a folder tree, a zip, or one file.

    A series is what shares SeriesInstanceUID, patient, study, matrix, pixel spacing, frame of reference
    and direction; where slices lie on one another it is split by echo, phase and the like.

    Args:
        source: a folder, searched to any depth; a ``.zip``; or a (multi-frame) DICOM file.
        merge_by_geometry: join slices that each have a series of their own but fit together.
        own_results: take also series that monai-sr made, as one does to look at them.
        volume: "all" or "complete" to keep the volumes of a series together, see :func:`.phases.keep_together`.

    Raises:
        InputMissingError: nothing is there.
        ImageError: an archive that is damaged or not safe to unpack.
    """
    source = Path(source)
    unpacked: tempfile.TemporaryDirectory[str] | None = None
    if source.is_file() and _is_zip(source):
        unpacked = unpack(source)
        files: Iterable[Path] = regular_files(Path(unpacked.name))
    elif source.is_dir():
        files = regular_files(source)
    elif source.is_file():
        files = [source]
    else:
        raise InputMissingError("E-IO-MISSING", "no such file or folder", fix="check the path", path=source)
    left: Counter[tuple[str, str]] = Counter()
    broken: dict[str, SuperResolutionError] = {}
    frames: dict[str, list[Frame]] = defaultdict(list)
    warnings: dict[str, set[SuperResolutionWarning]] = defaultdict(set)
    with pydicom_silent():
        for file in files:
            try:
                dataset, new, others = header.read_frames(file, own_results=own_results)
            except NotAnImageError as other:
                left[other.code, other.reason] += 1
            except BrokenFileError as fault:
                broken.setdefault(fault.uid, fault.error)
            else:
                uid = str(dataset.get("SeriesInstanceUID") or "")
                frames[uid] += new
                left.update(others)
                warnings[uid] |= header.warnings_of(dataset)
        groups: list[Series] = []
        for uid, members in frames.items():
            if uid in broken:
                continue
            try:
                volumes = volumes_of(uid, members, warnings[uid])
                together = volume in TOGETHER
                groups += keep_together(volumes, only_complete=volume == "complete") if together else volumes
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
    """By its first bytes, since a truncated zip has lost its end."""
    with open(file, "rb") as stream:
        return stream.read(4) == b"PK\3\4"


def regular_files(folder: Path) -> Iterator[Path]:
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


def _join_singles(groups: list[Series], *, merge: bool) -> tuple[list[Series], Counter[tuple[str, str]]]:
    """Set single slices aside, or join those of many series that lie on one another (old Canon CT)."""
    whole = {group.uid for group in groups if len(group.frames) >= MIN_SLICES}
    series, left = [], Counter[tuple[str, str]]()
    for group in groups:
        if len(group.frames) >= (MIN_SLICES if group.uid in whole else 2):
            series.append(group)
        elif len(group.frames) > 1:
            left["E-IMG-FEW", f"fewer than {MIN_SLICES} slices beside a volume of the same series"] += len(group.frames)
    singles = {group.frames[0]: group for group in groups if len(group.frames) == 1}
    for stack in stacks_of(list(singles)):
        members = [singles[frame] for frame in stack.frames]
        scattered = len({group.uid for group in members}) >= MIN_SLICES and len(places_of(stack.frames)) == len(members)
        if scattered and merge:
            text = "{series} series of one slice each are taken as one"
            note = SuperResolutionWarning("W-DCM-MERGED", text, facts={"series": len(members)})
            series.append(replace(members[0], frames=tuple(stack.frames), warnings=(*members[0].warnings, note)))
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
        return _is_zip(path) or is_dicom(path)
    return path.is_dir() and any(is_dicom(file) for file in regular_files(path))


def short_name(series: Series) -> str:
    """A name for files and folders: a hash, and what distinguishes the volume from others of its series.

    Of the header it holds numbers and known words only, such as ``series-0123456789ab-echo-2``.
    """
    first = series.frames[0]
    head = first.header
    parts = [series.uid, *(str(value_of(first, name)) for name in NAMED_BY), str(first.orientation.round(3))]
    spacing = tuple(round(s, 4) for s in first.pixel_spacing)
    plane = (
        int(head.Rows),
        int(head.Columns),
        spacing,
        str(get(head, "FrameOfReferenceUID")) if "FrameOfReferenceUID" in head else "",
        stack_of_frame(first),
    )
    parts.append(re.sub(r"\s", "", str(plane)))
    if not {name for name, _ in series.part} <= _IN_NAMES:
        parts.append(f"{get(head, 'SOPInstanceUID') or series.part} {first.number}")
    labels = (f"-{name}-{value}" for name, value in series.part if _IS_HARMLESS.fullmatch(value))
    return (
        "series-" + hashlib.sha256("|".join(parts).encode()).hexdigest()[:12] + re.sub(r"[^\w-]", "_", "".join(labels))
    )
