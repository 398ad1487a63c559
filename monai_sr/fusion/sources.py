"""Stacks from files: one from each, or those of one contrast from a DICOM study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..acquired import Acquired
from ..dicom import Series, find_series, is_dicom_source
from ..errors import ImageError, InputMissingError, UsageError, naming, warn, warn_left_out
from ..inference import acquire
from ..io.images import files_of, read_dicom, read_image, refuse_file_options
from ..options import RunOptions

SAME_TIMING = 1.5
"""Echo times and the like that differ by this factor give another contrast."""

_PATIENT, _FRAME = ("PatientID", "PatientName"), "FrameOfReferenceUID"
_TIMES = ("EchoTime", "RepetitionTime", "InversionTime")
_SEQUENCE = ("Modality", "ScanningSequence", "ContrastBolusAgent")


@dataclass(frozen=True, eq=False)
class Source:
    """A stack as it was read.

    Attributes:
        path: the file or folder.
        acquired: the volume.
        files: what it was read from.
        series: of DICOM.
    """

    path: Path
    acquired: Acquired
    files: tuple[Path, ...]
    series: Series | None = None

    @property
    def name(self) -> str:
        """In messages: the path, and the number of a series where several come from one folder."""
        return str(self.path) if self.series is None else f"{self.path} (series {self.series.label})"


def read_sources(paths: Sequence[Path], options: RunOptions) -> list[Source]:
    """The stacks of files and folders, compared by their headers; of a single folder or zip those of its study.

    Raises:
        SuperResolutionError: one cannot be read, there is only one (E-FUSE-FEW), or one is of another patient
            (E-FUSE-UNLIKE).
    """
    for path in paths:
        if not path.exists():
            raise InputMissingError("E-IO-MISSING", "no such file or folder", fix="check the path", path=path)
    if len(paths) == 1 and (paths[0].is_dir() or is_dicom_source(paths[0])):
        stacks = [_read(paths[0], options, series) for series in choose_series(paths[0], options)]
    else:
        stacks = [_read(path, options) for path in paths] if len(paths) > 1 else []
    if len(stacks) < 2:
        raise UsageError("E-FUSE-FEW", "one stack (minimum 2)", fix="use monai-sr run for one stack")
    _check_headers(stacks)
    return stacks


def choose_series(study: Path, options: RunOptions) -> list[Series]:
    """The series of a study that show the same: patient, frame of reference, sequence and times alike.

    Of several such groups the one of most series; the others are left out with a warning.

    Raises:
        UsageError: no two series show the same, or two groups are equally large (E-FUSE-FEW).
    """
    found = find_series(study, merge_by_geometry=options.reading.merge_by_geometry)
    groups: list[list[Series]] = []
    for series in found.series:
        group = next((group for group in groups if not _differences(group[0], series)), None)
        if group is None:
            groups.append([series])
        else:
            group.append(series)
    groups.sort(key=len, reverse=True)
    labels = "; ".join(", ".join(series.label for series in group) for group in groups)
    if not groups or len(groups[0]) < 2 or (len(groups) > 1 and len(groups[1]) == len(groups[0])):
        problem = f"no one group of series shows the same (series by contrast: {labels or 'no series'})"
        raise UsageError("E-FUSE-FEW", problem, fix="name the stacks, each in a folder of its own", path=study)
    for group in groups[1:]:
        for series in group:
            differing = ", ".join(sorted(_differences(groups[0][0], series)))
            warn_left_out(len(series.frames), f"series {series.label} differs in {differing}", "E-FUSE-UNLIKE")
    return groups[0]


def _read(path: Path, options: RunOptions, series: Series | None = None) -> Source:
    """A stack from a file, a folder or zip of one DICOM series, or a series that was found there."""
    reading = options.reading
    if series is None and not (path.is_dir() or is_dicom_source(path)):
        image = read_image(path, volume=reading.volume, nan=reading.nan, geometry=reading.geometry)
        with naming(path):
            return Source(path, acquire(image, options.acquisition), tuple(files_of(path)))
    refuse_file_options(volume=reading.volume, geometry=reading.geometry)
    with naming(path):
        series = series or find_series(path, merge_by_geometry=reading.merge_by_geometry).only(None)
        image = read_dicom(series, path=path, fill_gaps=reading.fill_gaps)
        files = tuple(dict.fromkeys(frame.file for frame in series.frames))
        return Source(path, acquire(image, options.acquisition), files, series)


def _check_headers(stacks: Sequence[Source]) -> None:
    """Compare what DICOM headers say of patient, frame of reference and contrast with those of the first stack.

    Raises:
        ImageError: another patient (E-FUSE-UNLIKE).
    """
    first = stacks[0].series
    for stack in stacks[1:]:
        differing = _differences(first, stack.series) if first and stack.series else set()
        if differing & set(_PATIENT):
            problem = "its header gives another patient than that of the first stack"
            raise ImageError("E-FUSE-UNLIKE", problem, fix="fuse stacks of one patient", path=stack.name)
        if _FRAME in differing:
            problem = "it has another frame of reference than the first stack, so its position may be far off"
            warn("W-FUSE-FRAME", problem, path=stack.name)
        if others := sorted(differing & {*_TIMES, *_SEQUENCE}):
            problem = f"its header gives another contrast than that of the first stack ({', '.join(others)})"
            warn("W-FUSE-UNLIKE", problem, path=stack.name)


def _differences(a: Series, b: Series) -> set[str]:
    """Attributes that both headers give, and not alike; a contrast agent that one of them gives."""
    differing = set()
    for name in (*_PATIENT, _FRAME, *_TIMES, *_SEQUENCE):
        one, other = (str(series.frames[0].header.get(name) or "") for series in (a, b))
        if name == "ContrastBolusAgent":
            different = bool(one) != bool(other)
        elif not one or not other:
            continue
        else:
            different = _times_differ(one, other) if name in _TIMES else one != other
        differing |= {name} if different else set()
    return differing


def _times_differ(a: str, b: str) -> bool:
    try:
        low, high = sorted((float(a), float(b)))
    except ValueError:
        return a != b
    return high > SAME_TIMING * low
