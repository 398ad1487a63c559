"""A case: one volume and the path of its result. And the cases of a run, each with a unique name."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from ..dicom import Series
from ..errors import InputMissingError, SuperResolutionError, SuperResolutionWarning, UsageError, printable
from ..io.images import ITK_SUFFIXES, NIFTI_SUFFIXES, files_of, image_suffix
from ..options import RunOptions
from .bids import BidsImage
from .companions import mask_path
from .record import sidecar_path

WRITTEN = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)


@dataclass(frozen=True)
class Case:
    """One volume and the path of its result.

    Attributes:
        name: its name in logs: the path of an image file as in the list or folder, or a hash for DICOM,
            so that no text of a header appears.
        source: an image file; for DICOM the folder, zip or file that the series is in.
        target: the file to be written, or the folder of a derived DICOM series.
        series: the DICOM series.
        bids: the image of a BIDS dataset.
        masks: files of labels on its grid, which are carried to the result.
        fault: why it cannot be processed, if that is known already.
        is_named: its output was given as a file, so it is made again even if it exists.
        is_deidentified: its result is, so the names of its files may not show those of the input.
        neighbors: targets of the case before and after it in a run; None at the ends.
    """

    name: str
    source: Path
    target: Path
    series: Series | None = None
    bids: BidsImage | None = None
    masks: tuple[Path, ...] = ()
    fault: SuperResolutionError | None = None
    is_named: bool = False
    is_deidentified: bool = False
    neighbors: tuple[Path | None, Path | None] = (None, None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))  # it may hold bytes that are no UTF-8

    @property
    def files(self) -> list[Path]:
        """The files of its voxels, each once, in the order of the slices, and its masks."""
        voxels = files_of(self.source) if self.series is None else self.series.files
        return [*voxels, *self.masks]

    @property
    def mask_targets(self) -> tuple[Path, ...]:
        """Where the carried masks belong."""
        paths = [mask_path(self.target, self.source, mask) for mask in self.masks]
        if self.is_deidentified:
            named = (f"{self.target.name}_mask-{n}{image_suffix(path)}" for n, path in enumerate(paths, start=1))
            paths = [path.with_name(name) for path, name in zip(paths, named, strict=True)]
        return tuple(paths)

    def without_archive(self) -> Case:
        """A copy that can be sent to another process; this process keeps the folder that a zip was unpacked to."""
        return self if self.series is None else replace(self, series=replace(self.series, unpacked=None))

    def name_in(self, notices: Sequence[SuperResolutionWarning]) -> tuple[SuperResolutionWarning, ...]:
        """The warnings, in a folder with the name of the case instead of its path."""
        if self.is_named:
            return tuple(notices)
        named = []
        for notice in map(copy, notices):
            notice.path = str(notice.path or self.name).replace(str(self.source), self.name)
            named.append(notice)
        return tuple(named)

    @property
    def is_derived_dicom(self) -> bool:
        """Whether the result is a DICOM series."""
        return self.series is not None and image_suffix(self.target) not in WRITTEN


C = TypeVar("C", bound=Case)


def choose(cases: Sequence[C], options: RunOptions) -> list[C]:
    """The cases that the options select, each with its neighbors.

    Raises:
        InputMissingError: there are none.
        UsageError: as of :func:`check_names`, or a format that cannot hold a result (E-OUT-FORMAT).
    """
    selection = options.selection
    chosen = [case for case in cases if is_chosen(case.name, selection.include, selection.exclude)]
    if not chosen:
        problem, fix = "no volume is there", "check the path; of a BIDS dataset, images in anat and ct are taken"
        if cases:
            problem, fix = f"no volume of {len(cases)} matches --include and --exclude", "check the patterns"
        raise InputMissingError("E-IO-MISSING", problem, fix=fix, path=Path(options.input))
    check_names(chosen)
    wants_dicom = options.wanted.format not in (None, "nifti")
    if wants_dicom and not all(case.is_derived_dicom or case.fault for case in chosen):
        problem = "only DICOM can become DICOM"
        raise UsageError("E-OUT-FORMAT", problem, fix="omit --format", path=Path(options.input))
    if selection.part_id is not None and selection.num_parts is not None:  # for array jobs
        chosen = chosen[selection.part_id :: selection.num_parts]
    targets = [None, *(case.target for case in chosen), None]
    return [replace(case, neighbors=(targets[n], targets[n + 2])) for n, case in enumerate(chosen)]


def check_names(cases: Iterable[Case]) -> None:
    """Check that every result has a unique name that can be written, and that no result would replace an input.

    Raises:
        UsageError: E-OUT-CLASH, E-OUT-SAME, E-OUT-FORMAT.
    """
    cases = list(cases)
    inputs = {_identity(path): case for case in cases for path in (case.source, *case.masks) if case.series is None}
    taken: dict[str, Case] = {}
    for case in cases:
        if case.series is None and case.fault is None and image_suffix(case.target) not in WRITTEN:
            problem = "no image format has that suffix"
            raise UsageError("E-OUT-FORMAT", problem, fix=f"use {', '.join(WRITTEN)}", path=case.target)
        for path in (case.target, sidecar_path(case.target), *case.mask_targets):
            if _identity(path) in inputs:
                raise UsageError("E-OUT-SAME", f"the result of {case.name} would replace an input", path=path)
            other = taken.setdefault(_name_on_disk(path), case)
            if other is not case:
                raise UsageError("E-OUT-CLASH", f"{other.name} and {case.name} would both be written there", path=path)


def _name_on_disk(path: Path) -> str:
    """The same for names that the system takes for one: on Windows and, as disks of macOS usually are, without case."""
    name = os.path.normcase(path.absolute())
    return unicodedata.normalize("NFC", name).casefold() if sys.platform == "darwin" else name


def _identity(path: Path) -> tuple[int, int] | str:
    """The same for every name of one file."""
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except OSError:
        return os.path.normcase(path.resolve())


def is_chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether patterns choose a path, by itself or its last part."""
    names = (path, path.rsplit("/", 1)[-1])

    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    return (not include or fits(include)) and not fits(exclude)
