"""Stacks from files: which belong together, by their headers, and the volumes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..acquired import Acquired, acquisition_meta
from ..batch.bids import BidsImage
from ..batch.bids.raw import read_json
from ..batch.record import sidecar_path
from ..dicom import Series, find_series, is_dicom_source
from ..errors import ImageError, SuperResolutionError, UsageError, naming, warn, warn_left_out
from ..files import check_exists
from ..inference import acquire
from ..io.images import files_of, read_dicom, read_header, read_image, refuse_file_options
from ..options import RunOptions

SAME_TIMING = 1.5
"""Echo times and the like that differ by this factor give another contrast."""

_PATIENT, _FRAME = ("PatientID", "PatientName"), "FrameOfReferenceUID"
_TIMES = ("EchoTime", "RepetitionTime", "InversionTime")
_AGENTS = ("ContrastBolusAgent", "ContrastBolusIngredient")  # of DICOM and of BIDS
_SEQUENCE = ("Modality", "ScanningSequence", *_AGENTS)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a stack is.

    Attributes:
        path: the file or folder.
        series: of DICOM.
        bids: the image of a BIDS dataset.
    """

    path: Path
    series: Series | None = None
    bids: BidsImage | None = None
    is_one_of_many: bool = False

    @property
    def name(self) -> str:
        """In messages: the path, and the number of a series where several come from one folder."""
        if self.series is None or not self.is_one_of_many:
            return str(self.path)
        return f"{self.path} (series {self.series.label})"

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """What it is read from."""
        return tuple(files_of(self.path) if self.series is None else self.series.files)

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What the header, or the JSON of an image, says of patient, position and contrast."""
        header: Mapping[str, object] = {}
        if self.series is not None:
            header = self.series.frames[0].header
        elif self.bids is not None:
            header = self.bids.metadata
        elif sidecar_path(self.path).is_file():
            try:
                header = read_json(sidecar_path(self.path))
            except ImageError:  # it may be anything
                header = {}
        return {name: str(header.get(name) or "") for name in (*_PATIENT, _FRAME, *_TIMES, *_SEQUENCE)}

    @cached_property
    def normal(self) -> np.ndarray | None:
        """(3,) unit vector across the slices, of an image across its largest spacing; None if it cannot be read."""
        if self.series is not None:
            return self.series.frames[0].normal
        try:
            affine = read_header(self.path).affine[:3, :3]
        except SuperResolutionError:
            return None
        spacing = np.linalg.norm(affine, axis=0)
        return affine[:, spacing.argmax()] / spacing.max()

    def read(self, options: RunOptions) -> Acquired:
        """The volume.

        Raises:
            SuperResolutionError: it cannot be read.
        """
        reading = options.reading
        with naming(self.path):
            if self.series is not None:
                refuse_file_options(volume=reading.volume, geometry=reading.geometry)
                image = read_dicom(self.series, path=self.path, fill_gaps=reading.fill_gaps).to_tensor()
            else:
                image = read_image(self.path, volume=reading.volume, nan=reading.nan, geometry=reading.geometry)
            if self.bids is not None:
                thickness = self.bids.slice_thickness
                said = acquisition_meta(modality=self.bids.modality, slice_thickness=thickness, source="sidecar")
                image.meta |= said
            # The stacks are weighted by their noise, and their mean has less of it.
            return acquire(image, replace(options.acquisition, consistency="exact"))


def find_sources(paths: Sequence[Path], options: RunOptions) -> list[Source]:
    """The stacks of files and folders; of a single folder or zip those of its study.

    Raises:
        SuperResolutionError: one is not there, or there is only one (E-FUSE-FEW).
    """
    for path in paths:
        check_exists(path)
    if len(paths) == 1 and (paths[0].is_dir() or is_dicom_source(paths[0])):
        return choose_series(paths[0], options)
    if len(paths) < 2:
        raise UsageError("E-FUSE-FEW", f"{len(paths)} stack(s) (minimum 2)", fix="use monai-sr run for one stack")
    return [_source_at(path, options) for path in paths]


def read_stacks(sources: Sequence[Source], options: RunOptions) -> list[Acquired]:
    """The volumes of stacks, compared by what their headers say.

    Raises:
        SuperResolutionError: one cannot be read, or is of another patient (E-FUSE-UNLIKE).
    """
    stacks = [source.read(options) for source in sources]
    _check_headers(sources)
    return stacks


def choose_series(study: Path, options: RunOptions) -> list[Source]:
    """The series of a study that show the same: patient, frame of reference, sequence and times alike.

    Of several such groups the one of most series; the others are left out with a warning.

    Raises:
        UsageError: no two series show the same, or two groups are equally large (E-FUSE-FEW).
    """
    stacks = find_series(study, merge_by_geometry=options.reading.merge_by_geometry)
    groups = group_alike([Source(study, series, is_one_of_many=True) for series in stacks.series])
    groups.sort(key=len, reverse=True)
    labels = "; ".join(", ".join(source.series.label for source in group if source.series) for group in groups)
    if not groups or len(groups[0]) < 2 or (len(groups) > 1 and len(groups[1]) == len(groups[0])):
        problem = f"no one group of series shows the same (series by contrast: {labels or 'no series'})"
        raise UsageError("E-FUSE-FEW", problem, fix="name the stacks, each in a folder of its own", path=study)
    for source in (source for group in groups[1:] for source in group if source.series):
        assert source.series is not None
        differing = ", ".join(sorted(_differences(groups[0][0], source)))
        reason = f"series {source.series.label} differs in {differing}"
        warn_left_out(len(source.series.frames), reason, "E-FUSE-UNLIKE")
    return groups[0]


def group_alike(sources: Sequence[Source]) -> list[list[Source]]:
    """Stacks by patient, frame of reference and contrast, as their headers give them; in their order."""
    groups: list[list[Source]] = []
    for source in sources:
        group = next((group for group in groups if not _differences(group[0], source)), None)
        if group is None:
            groups.append([source])
        else:
            group.append(source)
    return groups


def _source_at(path: Path, options: RunOptions) -> Source:
    """The stack in a file, or a folder or zip of one DICOM series."""
    if not (path.is_dir() or is_dicom_source(path)):
        return Source(path)
    with naming(path):
        return Source(path, find_series(path, merge_by_geometry=options.reading.merge_by_geometry).only(None))


def _check_headers(stacks: Sequence[Source]) -> None:
    """Compare what headers say of patient, frame of reference and contrast with those of the first stack.

    Raises:
        ImageError: another patient (E-FUSE-UNLIKE).
    """
    for stack in stacks[1:]:
        differing = _differences(stacks[0], stack)
        if differing & set(_PATIENT):
            problem = "its header gives another patient than that of the first stack"
            raise ImageError("E-FUSE-UNLIKE", problem, fix="fuse stacks of one patient", path=stack.name)
        if _FRAME in differing:
            problem = "it has another frame of reference than the first stack, so its position may be far off"
            warn("W-FUSE-FRAME", problem, path=stack.name)
        if others := sorted(differing & {*_TIMES, *_SEQUENCE}):
            problem = f"its header gives another contrast than that of the first stack ({', '.join(others)})"
            warn("W-FUSE-UNLIKE", problem, path=stack.name)


def _differences(a: Source, b: Source) -> set[str]:
    """Attributes that both headers give, and not alike; a contrast agent that one of them gives."""
    differing = set()
    for name, one in a.facts.items():
        other = b.facts[name]
        if name in _AGENTS:
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
