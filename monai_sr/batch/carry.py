"""Carry masks between the thick and the thin volume of a scan: one mask, or those of a folder or BIDS dataset."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ..acquired import Acquired, acquisition_meta, uneven_positions_of
from ..dicom import MadeBy, is_dicom, is_dicom_source
from ..dicom.structures import Structures
from ..errors import (
    InputMissingError,
    SuperResolutionError,
    SuperResolutionWarning,
    UsageError,
    collect_notices,
    give,
    naming,
    warn,
)
from ..files import check_exists, make_folder, remove_leftovers
from ..grid import SAME_SPACING, grid_of, on_grid
from ..io.images import read_dicom, read_image
from ..labels import average_labels, carry_labels, check_mask
from ..options import NOTICE, Acquisition, RunOptions
from ..trust.alignment import not_aligned, turned_to
from .bids import write_dataset_description
from .cases import check_target
from .chosen import is_chosen
from .claims import ClaimedError, hold_claim
from .companions import carry_mask, read_mask, write_masks
from .log import ALREADY_DONE, CLAIMED, Outcome, RunLog
from .masks import Volume, carried_name, is_bids_dataset, masks_below, volume_of, volumes_below
from .record import head_of_record, is_done, sha256_of, write_record

LOG = "monai-sr-carry"

MOST_LABELS = 256
"""A record lists the volumes of so many labels."""


@dataclass(frozen=True)
class MaskCase:
    """A mask and its target.

    Attributes:
        name: its name in logs, the path below the folder.
        mask: the file.
        first, second: the volume of the mask, and the one with the wanted slices; None with a fault.
        target: the file to write.
        datasets: of the mask and the two volumes, by their names in URIs; empty outside BIDS.
        fault: why it cannot be carried.
    """

    name: str
    mask: Path
    first: Volume | None
    second: Volume | None
    target: Path
    datasets: Mapping[str, Path] = field(default_factory=dict)
    fault: SuperResolutionError | None = None


def carry_file(
    mask: Path, target: Path, first: Path, second: Path, options: RunOptions
) -> tuple[MaskCase, dict[str, Any]]:
    """Carry one mask from a volume to the other of its scan, and write the record beside it.

    Returns:
        The case and its record.

    Raises:
        SuperResolutionError: as of :func:`carrier`; an input cannot be read or the output written.
    """
    for source in (mask, first, second):
        check_target(source, target, dicom=True)
    if not mask.is_file():
        raise InputMissingError("E-IO-MISSING", "the mask does not exist", fix="check the path", path=mask)
    volumes = []
    for source in (first, second):
        check_exists(source)
        # a folder or zip holds one series, which is read by its path
        volumes.append(_one_series(source) if is_dicom_source(source) else Volume(source, frozenset([source.name])))
    case = MaskCase(mask.name, mask, volumes[0], volumes[1], target)
    notices: list[SuperResolutionWarning] = []
    try:
        with collect_notices() as notices:
            record = _carry(case, options, notices)
    finally:
        for notice in notices:
            give(notice.at(mask))
    return case, record


def find_mask_cases(
    masks: Path, target: Path, first: Path, second: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[MaskCase]:
    """Every mask of a folder, with the volumes that it is carried between and the name of its result.

    Args:
        masks: folder or BIDS dataset; see :func:`monai_sr.batch.masks.volume_of`.
        target: folder of the results; names are kept, in BIDS with the ``res-`` of the image.
        first, second: volumes that the masks lie on, and those with the wanted slices: folders in which the two
            volumes of a scan have one name, BIDS datasets, DICOM, or one file each.
        include, exclude: patterns of names.

    Raises:
        InputMissingError: there is no mask.
        UsageError: two results would have one name, or one would replace an input.
    """
    pairs = _pairs(volumes_below(first), volumes_below(second))
    besides = [volume.path for pair in pairs for volume in pair]
    of_bids = is_bids_dataset(second) and is_bids_dataset(first)
    datasets = {"masks": masks, "from": first, "to": second} if of_bids else {}
    cases: dict[Path, MaskCase] = {}
    inputs = {path.resolve() for path in besides}
    for mask in masks_below(masks, besides):
        name = mask.relative_to(masks).as_posix()
        if not is_chosen(name, include, exclude):
            continue
        inputs.add(mask.resolve())
        try:
            of = pairs[0][0] if len(pairs) == 1 and not of_bids else volume_of(mask, masks, [pair[0] for pair in pairs])
        except SuperResolutionError as fault:
            cases[mask] = MaskCase(name, mask, None, None, target / carried_name(mask, masks), fault=fault)
            continue
        pair = next(pair for pair in pairs if pair[0] is of)
        place = target / carried_name(mask, masks, pair[1].path if of_bids else None)
        if pair[1].series is not None and is_dicom(mask):
            place = target / mask.relative_to(masks).with_suffix(".dcm")
        cases[mask] = MaskCase(name, mask, *pair, place, datasets)
    if not cases:
        raise InputMissingError("E-IO-MISSING", "no mask is there", fix="check the path and the patterns", path=masks)
    taken: dict[Path, MaskCase] = {}
    for case in cases.values():
        if case.target.resolve() in inputs:
            raise UsageError("E-OUT-SAME", f"the result of {case.name} would replace an input", path=case.target)
        other = taken.setdefault(case.target.resolve(), case)
        if other is not case:
            problem = f"{other.name} and {case.name} would both be written there"
            raise UsageError("E-OUT-CLASH", problem, path=case.target)
    # masks of one volume after one another, so that it is read once
    order = {id(pair[0]): number for number, pair in enumerate(pairs)}
    return sorted(cases.values(), key=lambda case: order.get(id(case.first), -1))


def carry_folder(
    cases: Sequence[MaskCase], target: Path, options: RunOptions, *, report: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Carry every mask that is not done yet, with a record each, a log and a table.

    Args:
        cases: of :func:`find_mask_cases`.
        target: folder of the results.
        options: ``acquisition``, ``reading.volume`` and ``outputs.overwrite`` of these.
        report: called with each outcome as it comes.

    Raises:
        OutputError: the folder or the log cannot be written.
    """
    log = RunLog(make_folder(target), name=LOG)
    datasets = next((case.datasets for case in cases if case.datasets), None)
    if datasets:
        write_dataset_description(target, raw_root=datasets["to"], content="Masks", links=datasets)
    outcomes = []
    for folder in {case.target.parent for case in cases}:
        remove_leftovers(folder)
    for _, group in groupby(cases, key=lambda case: id(case.first)):
        read = lru_cache(maxsize=2)(_read)
        for case in group:
            outcome = _outcome(case, options, read)
            outcomes.append(outcome)
            log.add(outcome)
            if report is not None:
                report(outcome)
    log.close(outcomes)
    return outcomes


def carrier(first: MetaTensor, second: MetaTensor, said: Acquisition) -> Callable[[MetaTensor], MetaTensor]:
    """A function that carries labels from one volume of a scan to the other: averages them, or interpolates.

    Its labels are (1, X, Y, Z) on the grid of ``first``, with axes in any order and direction.

    Args:
        first, second: volumes with parallel axes, one in-plane grid and other slices.
        said: how the thick volume was acquired, if its metadata do not say it.

    Raises:
        ImageError: the axes are not parallel, the slices are equally far apart or the grids do not fit (E-CON-GRID);
            when it is called also that a mask is not on its grid (E-MASK-GRID), or is no mask (E-MASK-VALUES).
    """
    given: dict[str, Any] = {"slice_thickness": said.slice_thickness, "profile": said.profile, "axis": said.axis}
    wanted, thin = grid_of(second), turned_to(grid_of(first), second)
    finer = grid_of(turned_to(wanted, first))
    growth = np.array(wanted.spacing) / finer.spacing
    axis = int(np.abs(np.log(growth)).argmax())
    if abs(growth[axis] - 1) <= SAME_SPACING:
        raise not_aligned("both volumes have the same spacing", "give the thick slices and the thin ones of one scan")
    is_thicker = growth[axis] > 1
    thick = (
        Acquired.of(second, refined=finer, **given)
        if is_thicker
        else Acquired.of(first, refined=grid_of(thin), **given)
    )

    def carry(labels: MetaTensor) -> MetaTensor:
        labels = turned_to(grid_of(first), labels)
        check_mask(labels, grid_of(first))
        if not bool(labels.any()):
            warn("W-MASK-EMPTY", "the mask holds no label")
        if is_thicker:
            return average_labels(turned_to(wanted, labels), thick)
        return on_grid(turned_to(wanted, carry_labels(labels, thick, thin)).as_tensor(), wanted, labels)

    return carry


def _pairs(firsts: Sequence[Volume], seconds: Sequence[Volume]) -> list[tuple[Volume, Volume]]:
    """The two volumes of each scan: those of one name; of one volume each these two."""
    if len(firsts) == len(seconds) == 1:
        return [(firsts[0], seconds[0])]
    pairs = []
    for one in firsts:
        others = [other for other in seconds if one.names & other.names]
        if len(others) == 1:
            pairs.append((one, others[0]))
    return pairs


def _one_series(source: Path) -> Volume:
    volumes = [volume for volume in volumes_below(source) if volume.series is not None]
    return volumes[0] if len(volumes) == 1 else Volume(source, frozenset([source.name]))


def _read(volume: Volume, number: int | str | None) -> MetaTensor:
    """A volume; of several in one file one."""
    if volume.series is not None:
        return read_dicom(volume.series, path=volume.path).to_tensor()
    is_dicom = is_dicom_source(volume.path)
    return read_image(volume.path, volume=None if is_dicom else number, own_results=True)  # type: ignore[arg-type]


def _outcome(case: MaskCase, options: RunOptions, read: Callable[..., MetaTensor]) -> Outcome:
    """The outcome of a case. Raises nothing but an interruption."""
    started = time.monotonic()
    record: dict[str, Any] | None = None
    with collect_notices() as notices, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        try:
            if case.fault is not None:
                raise case.fault
            record = _carry(case, options, notices, read=read, again=False)
            outcome = Outcome(case.name, "done", change=record["monai_sr"]["carried"]["change"]) if record else None
            outcome = outcome or Outcome(case.name, "skipped", skipped=ALREADY_DONE)
        except ClaimedError:
            outcome = Outcome(case.name, "skipped", skipped=CLAIMED)
        except Exception as error:
            outcome = Outcome.failed(case.name, error)
    for notice in notices:
        notice.path = case.name
    output = str(case.target) if outcome.error is None and case.target.exists() else ""
    seconds = round(time.monotonic() - started, 3)
    return replace(outcome, output=output, warnings=tuple(notices), seconds=seconds)


def _carry(
    case: MaskCase,
    options: RunOptions,
    notices: Iterable[SuperResolutionWarning],
    *,
    read: Callable[..., MetaTensor] = _read,
    again: bool = True,
) -> dict[str, Any]:
    """Carry a mask and write it and its record; the record, empty if that was done before."""
    started, first, second = time.monotonic(), case.first, case.second
    assert first is not None and second is not None
    decided = RunOptions(acquisition=options.acquisition, reading=options.reading).deciding()
    made = MadeBy("carry", version("monai-sr"), options=decided)
    make_folder(case.target.parent)
    with hold_claim(case.target) as claim:
        volumes = read(first, options.reading.volume), read(second, options.reading.volume)
        labels = read_mask(case.mask, volumes[0], case.target)
        digest = sha256_of(file for path in ([case.mask], first.files, second.files) for file in path if file.is_file())
        overwrite = options.outputs.overwrite
        if is_done(
            case.target, made, input_sha256=digest, unfinished=claim.unfinished, overwrite=overwrite, again=again
        ):
            return {}
        with naming(case.mask):
            carried = carry_mask(labels, carrier(*volumes, options.acquisition))
        claim.begin_writing(case.target)
        if isinstance(carried, MetaTensor) and uneven_positions_of(volumes[1]) is not None:
            carried.meta |= acquisition_meta(slice_positions=uneven_positions_of(volumes[1]))
        write_masks({case.target: carried}, made_by=made, series=second.series, overwrite=overwrite)
        content = _described(case) | _record(labels, carried, made)
        seconds = time.monotonic() - started
        write_record(case.target, content, input_sha256=digest, notices=notices, seconds=seconds)
    return content


def _record(labels: MetaTensor | Structures, carried: MetaTensor | Structures, made: MadeBy) -> dict[str, Any]:
    """The JSON beside a carried mask: its grids, and the volume of each label before and after."""
    before, after = (mask.grid if isinstance(mask, Structures) else grid_of(mask) for mask in (labels, carried))
    counts, counts_after = (_counts(mask) for mask in (labels, carried))
    listed = counts if len(counts) <= MOST_LABELS else {}
    sizes = [abs(float(np.linalg.det(grid.affine[:3, :3]))) for grid in (before, after)]
    return {
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr"), "Description": "carry"}],
        "monai_sr": head_of_record(made)
        | {
            "options": made.options.to_dict(),
            "carried": {
                "change": f"{before.in_words()} -> {after.in_words()}",
                "labels": [
                    {
                        "label": value,
                        "mm3_before": round(count * sizes[0], 3),
                        "mm3_after": round(counts_after.get(value, 0) * sizes[1], 3),
                    }
                    for value, count in listed.items()
                ],
            },
        },
    }


def _counts(labels: MetaTensor | Structures) -> dict[int, int]:
    """Number of voxels of each label; empty for probabilities."""
    if isinstance(labels, Structures):
        return labels.voxels
    values, counts = np.unique(labels.as_tensor().cpu().numpy(), return_counts=True)
    is_labels = (values == np.rint(values)).all()
    return {int(v): int(n) for v, n in zip(values, counts, strict=True) if v} if is_labels else {}


def _described(case: MaskCase) -> dict[str, Any]:
    """The fields of a BIDS derivative for a carried mask; empty outside BIDS."""
    if not case.datasets or case.first is None or case.second is None:
        return {}
    paths = zip(case.datasets.items(), (case.mask, case.first.path, case.second.path), strict=True)
    uris = [f"bids:{name}:{path.relative_to(root).as_posix()}" for (name, root), path in paths]
    content = {
        "Description": f"Labels carried to other slices of the same scan. {NOTICE}",
        "Sources": uris[:2],
        "SpatialReference": uris[2],
    }
    return content | ({"Resolution": "the slices of SpatialReference"} if "_res-" in case.target.name else {})
