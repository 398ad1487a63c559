"""Find the volumes to super-resolve and the path of each result, before any work."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..dicom import Found, find_series, is_dicom, is_dicom_source, short_name
from ..dicom.deidentify import Pseudonyms
from ..errors import InputMissingError, OutputError, SuperResolutionError, UsageError, naming, warn_left_out
from ..files import check_exists
from ..io.images import check_writable, image_suffix
from ..options import RunOptions
from .bids import BidsImage, find_bids_images, is_bids
from .chosen import WRITTEN, Case, choose
from .companions import masks_beside
from .lists import LIST_SUFFIXES, read_list
from .masks import Volume, assign_masks, visible_files
from .record import is_own_result, stem_of

TEMPLATE = re.compile(r"([A-Za-z0-9_+-]|\{name\}|\{number(:0[1-9])?\}|\{bundle\})+")
"""Of the names of results; the first is what a result would be called without it."""

READ = (*WRITTEN, ".nhdr", ".mhd", ".mgh", ".mgz", ".mgh.gz", ".gipl", ".gipl.gz")
"""Names that are taken as images below a folder; so is the header of a pair beside its voxels."""


def find_cases(options: RunOptions) -> list[Case]:
    """Every volume of the input, with the names of all results resolved.

    A single image file or DICOM series whose output is named as a file is one case. Else results keep the
    names of their inputs: ``a/b.nii`` below the input becomes ``a/b.nii`` below the output, in the same
    format where we write it, else as ``.nii.gz``. A DICOM series becomes ``series-<hash>``, an image of a
    BIDS dataset the name of a BIDS derivative. Results of monai-sr are never inputs.

    Args:
        options: of these ``input``: an image file; a list of files (``.txt`` with a path per line, ``.csv``
            with the columns ``input`` and, if wished, ``output``; relative paths count from the list's
            folder, outputs from ``output``); a BIDS dataset; or a folder of any depth, a zip or a file of
            DICOM. ``output``, ``reading``, ``selection``, the format and the masks.

    Raises:
        InputMissingError: there is nothing there.
        UsageError: two results would have one name (E-OUT-CLASH), a result would replace an input or lie
            in the input folder (E-OUT-SAME), a list that cannot be read (E-LIST), a format that cannot hold
            the result (E-OUT-FORMAT).
        OutputError: the output cannot be written, or is a file for many volumes.
    """
    source, target = Path(options.input), Path(options.output)
    selection, masks = options.selection, options.outputs.mask
    if selection.scheduler:  # workers have a current folder of their own
        source, target = source.absolute(), target.absolute()
    if names_one_file(options):
        if options.wanted.deidentify:
            raise UsageError("E-DEID-FORMAT", "an image file is to be written", fix="name a folder", path=target)
        if selection.name is not None:
            raise UsageError("E-USE", "--name was given, and the output names a file", fix="give one of them")
        cases = [_named_case(source, target, options)]
    else:
        check_folder(source, target, options)
        cases = _with_masks(list_cases(source, target, options), masks, target)
        if options.wanted.deidentify:
            cases = _deidentified(cases)
        cases = _named_by_template(cases, options)
    return choose(cases, options)


def _deidentified(cases: Sequence[Case]) -> list[Case]:
    """The cases with names that only the secret gives.

    Raises:
        UsageError: one does not become a DICOM series (E-DEID-FORMAT); or as of :meth:`Pseudonyms.load`.
    """
    pseudonyms = Pseudonyms.load()
    for case in cases:
        if not (case.is_derived_dicom or case.fault):
            raise UsageError("E-DEID-FORMAT", "it does not become a derived DICOM series", path=case.source)
    names = [pseudonyms.name(case.name) for case in cases]
    return [
        replace(case, name=name, target=case.target.with_name(name), is_deidentified=True)
        for case, name in zip(cases, names, strict=True)
    ]


def _named_by_template(cases: Sequence[Case], options: RunOptions) -> list[Case]:
    """The cases with the names of results that ``--name`` gives: of our own words only, never of a header.

    Raises:
        UsageError: it holds something else, or names are given otherwise.
    """
    template = options.selection.name
    if template is None:
        return list(cases)
    if any(case.bids is not None for case in cases):
        raise UsageError("E-USE", "--name was given, and BIDS names its derivatives", fix="omit --name")
    if not TEMPLATE.fullmatch(template):
        known = "letters, digits, _ + - and {name}, {number}, {number:03}, {bundle}"
        raise UsageError("E-USE", f"--name {template!r} holds more than {known}", fix="correct --name")
    bundle, named = Path(options.wanted.bundle).name, []
    for number, case in enumerate(cases, start=1):
        stem = template.format(name=stem_of(case.target), number=number, bundle=bundle)
        named.append(replace(case, target=case.target.with_name(stem + case.target.name[len(stem_of(case.target)) :])))
    return named


def names_one_file(options: RunOptions) -> bool:
    """Whether the output is a file for one volume, and not a folder."""
    source, target = Path(options.input), Path(options.output)
    if source.suffix.lower() in LIST_SUFFIXES or options.selection.participant_label is not None:
        return False
    if image_suffix(target) in WRITTEN and not options.output.endswith(("/", os.sep)):
        return True
    is_folder = target.is_dir() or options.output.endswith(("/", os.sep))
    return not (source.is_dir() or is_folder or is_dicom_source(source))


def _named_case(source: Path, target: Path, options: RunOptions) -> Case:
    """The one volume that becomes a file of that name."""
    check_target(source, target)
    check_exists(source)
    masks = options.outputs.mask
    folders = [Path(text) for text in masks if Path(text).is_dir()]
    named = [Path(text) for text in masks if "*" not in text and Path(text) not in folders]
    for mask in named:
        if not mask.is_file():
            raise InputMissingError("E-IO-MISSING", "the mask does not exist", fix="check the path", path=mask)
    beside = masks_beside(source, [text for text in masks if "*" in text])
    case = Case(source.name, source, target, masks=(*named, *beside), is_named=True)
    if not (source.is_dir() or is_dicom_source(source)):
        return _with_mask_folders([case], folders, target.parent)[0]
    if options.wanted.format not in (None, "nifti"):
        raise UsageError("E-OUT-FORMAT", "a DICOM series needs a folder", fix="name a folder", path=target)
    found = _find_series(source, options)
    if source.is_dir() and not (found.series or found.broken) and next(images_below(source), None):
        problem = "the input is a folder of images, and the output names one file"
        raise UsageError("E-USE", problem, fix="name a folder for the results, such as thin/", path=target)
    with naming(source):
        series = found.only(options.reading.series)
    for left in found.left_out:
        warn_left_out(left.files, left.reason, left.code)
    case = replace(case, name=short_name(series), series=series)
    return _with_mask_folders([case], folders, target.parent)[0]


def check_target(source: Path, target: Path, *, dicom: bool = False) -> None:
    """Check before any work whether a file could be written; with ``dicom`` also one with the suffix ``.dcm``.

    Raises:
        UsageError: it is the input or lies inside it (E-OUT-SAME), or no format has its suffix.
        OutputError: its folder is not there, or a folder has its name.
    """
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError("E-OUT-SAME", "input and output are the same file", path=target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UsageError("E-OUT-SAME", "the output is inside the input folder", path=target)
    check_writable(target.with_suffix(".nii") if dicom and target.suffix.lower() == ".dcm" else target)


def check_folder(source: Path, target: Path, options: RunOptions) -> None:
    """Check before any work whether results may be written into a folder.

    Raises:
        OutputError: a file has its name.
        UsageError: it is inside the input folder, but not where BIDS wants derivatives (E-OUT-SAME).
    """
    if target.exists() and not target.is_dir():
        raise OutputError("E-OUT-FOLDER", "a file of that name exists", fix="name a folder", path=target)
    inside = source.is_dir() and target.resolve().is_relative_to(source.resolve())
    # where BIDS wants derivatives; they are never among its images
    derivatives = (source / "derivatives").resolve()
    if inside and not (is_of_bids(source, options) and derivatives in target.resolve().parents):
        raise UsageError("E-OUT-SAME", "the output is inside the input folder", path=target)


def list_cases(source: Path, target: Path, options: RunOptions) -> list[Case]:
    """Every volume of the input, each with a name below the output folder; as of :func:`find_cases`."""
    check_exists(source)
    if is_of_bids(source, options):
        return [
            Case(image.path.relative_to(source).as_posix(), image.path, target / image.target, bids=image)
            for image in bids_images(source, options)
        ]
    if source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        return list(_listed(source, target, options))
    return _found(source, target, options)


def _with_masks(cases: Sequence[Case], given: Sequence[str], target: Path) -> list[Case]:
    """The cases with the masks beside them or in a folder of masks, and without those that are such masks.

    Raises:
        UsageError: a pattern that would name one file for all.
    """
    folders = [Path(text) for text in given if Path(text).is_dir() or is_dicom(Path(text))]
    patterns = [text for text in given if Path(text) not in folders]
    for pattern in patterns:
        if "*" not in pattern:
            problem = f"--mask {pattern} names one file for many volumes"
            fix = "use * for the name of each image, such as '*_seg.nii.gz', or give a folder of masks"
            raise UsageError("E-USE", problem, fix=fix)
    found = [case if case.series else replace(case, masks=masks_beside(case.source, patterns)) for case in cases]
    found = _with_mask_folders(found, folders, target)
    taken = {mask for case in found for mask in case.masks}
    return [case for case in found if case.series is not None or case.source not in taken]


def _with_mask_folders(cases: Sequence[Case], folders: Sequence[Path], target: Path) -> list[Case]:
    """The cases with the masks that folders hold for them, by their series or the names of their results."""
    found = assign_masks([_volume_of_case(case, target) for case in cases], folders) if folders else [[] for _ in cases]
    return [replace(case, masks=(*case.masks, *masks)) for case, masks in zip(cases, found, strict=True)]


def _volume_of_case(case: Case, target: Path) -> Volume:
    """The name that masks of a case start with: the path of its result, or in BIDS its entities."""
    if case.bids is not None:
        return Volume(case.source, frozenset([case.name]), entities=frozenset(case.bids.entities.items()))
    names = {(case.target.relative_to(target).parent / stem_of(case.target)).as_posix()}
    if case.is_named:
        names = {stem_of(case.source)}
    return Volume(case.source, frozenset(names), case.series)


def _listed(path: Path, target: Path, options: RunOptions) -> Iterator[Case]:
    """The cases of a list of files. An error in one entry is the fault of that case only."""
    for entry, output in read_list(path):
        source = path.parent / entry
        if not source.exists():
            fault: SuperResolutionError | None = InputMissingError(
                "E-IO-MISSING", "no such file", fix="correct the list", path=source
            )
        else:
            fault = None
            try:
                cases = _found(source, target, options)
            except SuperResolutionError as error:
                fault = error.at(source)
        if fault is not None:
            cases = [Case(entry, source, target / _result_name(Path(source.name or "volume")), fault=fault)]
        elif source.is_file():
            cases = [replace(case, name=entry) if case.series is None else case for case in cases]
        if output and options.selection.name is not None:
            raise UsageError("E-LIST", f"{entry} has a name in the list, and --name was given", path=path)
        if output and len(cases) != 1:
            problem = f"{entry} holds {len(cases)} volumes, one output is named"
            raise UsageError("E-LIST", problem, fix="leave it out", path=path)
        yield from (replace(case, target=target / output) for case in cases) if output else cases


def _find_series(source: Path, options: RunOptions) -> Found:
    reading = options.reading
    return find_series(source, merge_by_geometry=reading.merge_by_geometry, volume=reading.volume)


def _found(source: Path, target: Path, options: RunOptions) -> list[Case]:
    """The cases of a file, folder or archive."""
    if not (source.is_dir() or is_dicom_source(source)):
        return [Case(source.name, source, target / _result_name(Path(source.name)))]
    images = list(images_below(source)) if source.is_dir() else []
    cases = [Case(p.as_posix(), source / p, target / _result_name(p)) for p in images]
    if cases and not is_dicom_source(source):
        return cases
    return cases + _series_cases(source, target, options, besides=len(cases))


def images_below(folder: Path) -> Iterator[Path]:
    """Image files below a folder, relative to it, without hidden ones and our own results."""
    own = 0
    for path in visible_files(folder):
        if not (image_suffix(path) in READ or _is_header(path)) or not path.is_file():
            continue
        if is_own_result(path):
            own += 1
        else:
            yield path.relative_to(folder)
    if own:
        warn_left_out(own, "made by monai-sr", "E-IMG-OWN")


def _is_header(path: Path) -> bool:
    """Whether it is the header of a NIfTI or Analyze pair; ``.hdr`` alone is also the name of other files."""
    suffix = image_suffix(path)
    stem = path.name[: len(path.name) - len(suffix)]
    return suffix in (".hdr", ".hdr.gz") and any(path.with_name(f"{stem}.img{end}").is_file() for end in ("", ".gz"))


def is_of_bids(source: Path, options: RunOptions) -> bool:
    """Whether the input is taken as a BIDS dataset."""
    return options.selection.participant_label is not None or (source.is_dir() and is_bids(source))


def bids_images(source: Path, options: RunOptions) -> tuple[BidsImage, ...]:
    """The images of a BIDS dataset that the options select. Warns of those that are left out."""
    found = find_bids_images(source, participant_labels=options.selection.participant_label or ())
    for (code, reason), files in Counter((left.code, left.reason) for left in found.left_out).items():
        warn_left_out(files, reason, code)
    return found.images


def _series_cases(source: Path, target: Path, options: RunOptions, *, besides: int) -> list[Case]:
    """One case for every DICOM series, including those that cannot be used."""
    series, as_nifti = options.reading.series, options.wanted.format == "nifti"
    found = _find_series(source, options)
    with naming(source):
        chosen, broken = (found.series, found.broken) if series is None else (found.choose(series), ())
        if not chosen and not broken and not besides:
            found.only()
    for left in found.left_out:
        if not besides or left.code != "E-IO-TYPE":  # the images beside the DICOM files
            warn_left_out(left.files, left.reason, left.code)
    cases = []
    for one in chosen:
        name = short_name(one)
        cases.append(Case(name, source, target / (f"{name}.nii.gz" if as_nifti else name), series=one))
    for uid, fault in broken:
        name = f"series-{hashlib.sha256(uid.encode()).hexdigest()[:12] if uid else 'unreadable'}"
        cases.append(Case(name, source, target / name, fault=fault.at(source)))
    return cases


def _result_name(path: Path) -> Path:
    suffix = image_suffix(path)
    if suffix in WRITTEN:
        return path
    return path.with_name(f"{path.name[: len(path.name) - len(suffix)]}.nii.gz")
