"""Which stacks of many patients are fused, and where each result goes, decided before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..batch.cases import bids_images, check_folder, images_below, is_of_bids
from ..batch.chosen import Case, choose
from ..dicom import find_series, is_dicom_source, short_name
from ..errors import InputMissingError, UsageError, warn_left_out
from ..files import check_exists
from ..options import RunOptions
from .sources import Source, find_sources, group_alike
from .stacks import are_parallel


@dataclass(frozen=True)
class FusionCase(Case):
    """Stacks of one patient and contrast, and the place of the volume that is made of them.

    Attributes:
        stacks: the first gives axes, position and intensities.
    """

    stacks: tuple[Source, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files of all stacks, each once."""
        return [*dict.fromkeys(file for stack in self.stacks for file in stack.files)]


def find_fusions(options: RunOptions) -> list[FusionCase]:
    """Every group of stacks of one patient and contrast in several planes, with the name of its result.

    A BIDS dataset: images of one participant, session and suffix whose other entities differ in ``acq-`` and ``run-``
    only. DICOM: the series of a study. Else the images of one folder. Of these, stacks belong together whose headers
    (JSON of an image) give one patient, frame of reference and contrast. The rest is left out with a warning.

    Args:
        options: of these ``input``, ``output``, ``reading`` and ``selection``.

    Raises:
        InputMissingError: there is no input, or there are no two stacks to fuse (E-FUSE-FEW).
        UsageError, OutputError: as of :func:`monai_sr.batch.find_cases`.
    """
    source, target = Path(options.input), Path(options.output)
    check_exists(source)
    check_folder(source, target, options)
    cases = list(_of_images(source, target, options))
    if not is_of_bids(source, options):
        cases += _of_studies(source, target, options)
    if not cases:
        problem = "no two stacks of one patient and contrast in different planes are there"
        raise InputMissingError(
            "E-FUSE-FEW", problem, fix="name the stacks: monai-sr fuse STACK STACK OUTPUT", path=source
        )
    return choose(cases, options)


def find_fusion(paths: Sequence[Path], options: RunOptions) -> FusionCase:
    """The case of stacks that are named, in a folder: each one DICOM series.

    Raises:
        SuperResolutionError: as of :func:`monai_sr.fusion.sources.find_sources`, or of :func:`find_fusions`.
        UsageError: a folder for images (E-OUT-FORMAT).
    """
    target = Path(options.output)
    for path in paths:
        check_folder(path, target, options)
    stacks = find_sources(paths, options)
    if not all(stack.series for stack in stacks):
        problem = "a folder is for stacks of DICOM only"
        raise UsageError("E-OUT-FORMAT", problem, fix="name a file such as fused.nii.gz", path=target)
    return choose([case_of_series(paths[0], target, stacks, options)], options)[0]


def _of_images(source: Path, target: Path, options: RunOptions) -> Iterator[FusionCase]:
    """Groups of images of one BIDS derivative, elsewhere of one folder."""
    groups: dict[Path, list[Source]] = defaultdict(list)
    if is_of_bids(source, options):
        for image in bids_images(source, options):
            groups[image.fused_target].append(Source(image.path, bids=image))
    else:
        for path in images_below(source) if source.is_dir() else ():
            folder = path.parent
            place = folder.with_name(f"{folder.name}.nii.gz") if folder.name else Path("fused.nii.gz")
            groups[place].append(Source(source / path))
    for place, sources in groups.items():
        for group in _fusible(sources, many=False):
            yield FusionCase(place.as_posix(), source, target / place, bids=group[0].bids, stacks=tuple(group))


def _of_studies(source: Path, target: Path, options: RunOptions) -> Iterator[FusionCase]:
    """Groups of DICOM series of one study."""
    if not (source.is_dir() or is_dicom_source(source)):
        return
    found = find_series(source, merge_by_geometry=options.reading.merge_by_geometry)
    for left in found.left_out:
        if left.code != "E-IO-TYPE":  # the images beside the DICOM files
            warn_left_out(left.files, left.reason, left.code)
    for _, fault in found.broken:
        warn_left_out(1, fault.problem, fault.code)
    studies: dict[str, list[Source]] = defaultdict(list)
    for series in sorted(found.series, key=lambda one: one.number or 0):
        uid = str(series.frames[0].header.get("StudyInstanceUID") or "")
        studies[uid].append(Source(source, series, is_one_of_many=True))
    for sources in studies.values():
        for group in _fusible(sources, many=True):
            yield case_of_series(source, target, group, options)


def case_of_series(source: Path, target: Path, stacks: Sequence[Source], options: RunOptions) -> FusionCase:
    """The case of DICOM series, in a folder; its name is a hash of the first series, as that alone would have."""
    first = stacks[0].series
    assert first is not None
    name = short_name(first).replace("series-", "fused-", 1)
    place = target / (f"{name}.nii.gz" if options.wanted.format == "nifti" else name)
    return FusionCase(name, source, place, series=first, stacks=tuple(stacks))


def _fusible(sources: Sequence[Source], *, many: bool) -> list[list[Source]]:
    """The groups of stacks of one contrast in several planes; of the images for one name only the largest.

    What cannot be fused is left out with a warning.
    """
    groups = []
    for group in group_alike(sources):
        normals = [source.normal for source in group if source.normal is not None]
        if len(group) < 2:
            warn_left_out(1, "the only stack of its patient and contrast", "E-FUSE-FEW")
        elif len(normals) == len(group) and are_parallel(normals):
            warn_left_out(len(group), "stacks of one patient and contrast in one plane", "W-FUSE-PLANE")
        else:
            groups.append(group)
    if many or len(groups) < 2:
        return groups
    largest = max(groups, key=len)
    for group in groups:
        if group is not largest:
            warn_left_out(len(group), "another contrast than the other stacks of this name", "E-FUSE-UNLIKE")
    return [largest]
