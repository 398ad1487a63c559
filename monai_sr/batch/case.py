"""One case: from its files to its result, record and pages. An error becomes the outcome of the case."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquired import Acquired
from ..bundles import Model
from ..dicom import MadeBy, check_size, write_derived_series
from ..dicom.structures import Structures
from ..engine import Progress, part_of
from ..errors import OutputError, SuperResolutionWarning, write_error
from ..files import move, temporary_beside
from ..grid import Image, grid_of
from ..inference import acquire
from ..intensities import as_array
from ..io.images import image_suffix, read_image, write_image
from ..labels import carry_labels
from ..options import RunOptions
from ..trust.alignment import turned_to
from ..trust.artifacts import check_artifacts, measure_artifacts
from ..trust.consistency import Consistency, check_result
from ..trust.resolution import METHOD, check_width, effective_resolution
from ..trust.uncertainty import uncertainty_map
from .attempt import attempt, hold_case
from .bids import derivative_sidecar
from .chosen import Case
from .companions import MAPS, carry_mask, describe_companions, map_path, read_mask, remove_maps, write_maps, write_masks
from .log import ALREADY_DONE, Outcome
from .model import super_resolve_adapted, super_resolve_within
from .pages import CasePage
from .reading import decide_options, maps_wanted, read_case
from .record import describe_result, essentials, made_by, record_beside, resolve_options, write_record

if TYPE_CHECKING:
    from monai.data import MetaTensor

LEAST_COMPRESSED = 4
"""Compressed results are hardly ever smaller than this part of their voxels; less free space is surely too little."""

READING = 0.1
"""Fraction of the progress that reading a DICOM series takes."""


@dataclass(frozen=True)
class Result:
    """What was made of an acquired volume.

    Attributes:
        acquired: the volume.
        sr: the result.
        made: how it was made, for its record, see :func:`monai_sr.batch.model.super_resolve_within`.
        trust: how far it may be trusted, for its record.
        maps: those asked for, by their kind.
        masks: carried to its grid, by where they belong.
    """

    acquired: Acquired
    sr: Image
    made: dict[str, Any]
    trust: dict[str, Any]
    maps: dict[str, Image]
    masks: dict[Path, MetaTensor | Structures]

    @property
    def change(self) -> str:
        """The grids of the acquired volume and of the result, in words."""
        before = self.acquired.grid.in_words(self.acquired.axis, self.acquired.slice_spacing)
        return f"{before} -> {grid_of(self.sr).in_words()}"


def super_resolve_case(
    case: Case,
    acquired: Acquired,
    model: Model,
    options: RunOptions,
    *,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Super-resolve the volume of a case, carry its masks along, and find out how far to trust the result.

    Args:
        case: which.
        acquired: see :func:`acquire`.
        model: see :func:`monai_sr.batch.load_model`.
        options: what is wanted.
        memory: bytes that this process may take. Default: the free memory.
        progress: called with the fraction that is done.

    Raises:
        SuperResolutionError: a mask is not of this volume, there is no room for the result, or as of
            :func:`monai_sr.batch.model.super_resolve_within`; under ``strict`` also a result that
            contradicts the acquired slices.
    """
    masks = zip(case.mask_targets, case.masks, strict=True)
    labels = {path: read_mask(mask, acquired.source, path) for path, mask in masks}
    grid = acquired.wanted_grid(spacing=options.wanted.spacing, factor=options.wanted.factor)
    voxels = len(acquired.source) * math.prod(grid.shape)
    if decide_options(case, options).wanted.format == "enhanced":
        check_size(voxels)
    _check_space(case, acquired, voxels)
    how: dict[str, Any] = {"memory": memory, "progress": progress}
    if options.compute.adapt is None:
        sr, made = super_resolve_within(model, acquired, options.wanted, **how)
    else:
        sr, made = super_resolve_adapted(model, acquired, options.wanted, minutes=options.compute.adapt, **how)
    carried = {
        path: carry_mask(mask, lambda one: carry_labels(turned_to(acquired.grid, one), acquired, sr))
        for path, mask in labels.items()
    }
    trust, maps = assess(acquired, sr, model, options)
    return Result(acquired, sr, made, trust, maps, carried)


def assess(acquired: Acquired, sr: Image, model: Model, options: RunOptions) -> tuple[dict[str, Any], dict[str, Image]]:
    """Assess a result: the figures for its record, and the requested maps.

    Both are empty for an image that was passed through.

    Raises:
        QualityError: it contradicts the acquired slices by more than the bundle's limit, under ``strict``.
        UsageError: an uncertainty map is requested, but the bundle has no constants for it.
    """
    if not sr.meta.get("super_resolved"):
        return {}, {}
    limit = model.calibration.get("consistency", {}).get("limit")
    with ThreadPoolExecutor(1) as beside:
        measuring = beside.submit(measure_artifacts, acquired, sr)  # which warns of nothing
        consistency = check_result(acquired, sr, limit=limit, strict=options.wanted.strict)
        before, after = effective_resolution(acquired, sr)
    check_width(acquired, before)
    artifacts = measuring.result()
    check_artifacts(artifacts, path=acquired.path or None)
    trust: dict[str, Any] = {
        "consistency": consistency.summary() | _verdict(consistency, limit),
        "resolution": {"method": METHOD, "before": before.record(), "after": after.record()},
        "artifacts": artifacts.record(),
    }
    maps = {"consistency": consistency.residual} if options.outputs.consistency_map else {}
    if options.outputs.uncertainty:
        maps["uncertainty"] = uncertainty_map(acquired, sr, model.calibration.get("uncertainty", {}))
        median = float(np.median(as_array(maps["uncertainty"])))
        trust["uncertainty"] = {"median": float(f"{median:.4g}"), "unit": consistency.unit}
    return trust, maps


def _verdict(consistency: Consistency, limit: float | None) -> dict[str, Any]:
    """The bundle's limit and whether the result keeps it; empty for a bundle that was not calibrated."""
    return {} if limit is None else {"limit": limit, "within_limit": consistency.within(limit)}


def process(
    case: Case,
    options: RunOptions,
    model: Model,
    *,
    memory: int | None = None,
    progress: Progress | None = None,
    also: Callable[[Result], None] | None = None,
) -> Outcome:
    """Super-resolve one case, unless that is done; never raises but for an interruption.

    Args:
        case: which.
        options: how.
        model: see :func:`monai_sr.batch.load_model`.
        memory: bytes that this process may take. Default: the free memory.
        progress: called with the fraction that is done.
        also: called with the result before its record is written.
    """
    return attempt(
        case, options, lambda notices, page: _process(case, options, model, notices, page, memory, progress, also)
    )


def _process(
    case: Case,
    options: RunOptions,
    model: Model,
    notices: list[SuperResolutionWarning],
    page: CasePage,
    memory: int | None,
    progress: Progress | None,
    also: Callable[[Result], None] | None,
) -> Outcome:
    """The outcome of a case that is done or skipped; raises for one that fails."""
    if case.fault is not None:
        raise case.fault
    started = time.monotonic()
    options = resolve_options(options, model)
    decided = decide_options(case, options)
    made = made_by(decided, model)
    overwrite = options.outputs.overwrite
    with hold_case(case, made, overwrite=overwrite) as held:
        kinds = maps_wanted(options)
        beside = [*(map_path(case.target, kind) for kind in kinds), *case.mask_targets]
        if held.is_done and all(map(os.path.exists, beside)):
            if page.is_current:
                return Outcome(case.name, "skipped", skipped=ALREADY_DONE)
            if not case.is_derived_dicom:  # such a series is made again: what we made is never read
                _show_done(case, options, model, page)
                return Outcome(case.name, "skipped", skipped=ALREADY_DONE)
        page.image = image = read_case(case, options, progress=part_of(progress, 0, READING))
        held.check_unchanged()
        start = READING if case.series is not None else 0
        acquired, making = acquire(image, options.acquisition, options.wanted), part_of(progress, start, 1 - start)
        result = super_resolve_case(case, acquired, model, options, memory=memory, progress=making)
        held.claim.begin_writing(case.target)
        write_result(result.sr, case, made, decided)
        write_masks(result.masks, made_by=made, series=case.target, overwrite=overwrite)
        remove_maps(case.target, set(MAPS) - set(kinds))
        source = case.series if case.is_derived_dicom else None
        write_maps(result.maps, case.target, source, acquired=acquired, made_by=made, overwrite=overwrite)
        if also is not None:
            also(result)
        content = describe_result(result.sr, acquired, made, decided, series=case.series)
        if case.bids is not None:
            derived = derivative_sidecar(case.bids, acquired, grid_of(result.sr))
            content |= derived
            describe_companions(case.target, derived, maps=result.maps, masks=result.masks)
        content["monai_sr"] |= result.made | result.trust
        seconds = time.monotonic() - started
        write_record(case.target, content, input_sha256=held.input_sha256, notices=notices, seconds=seconds)
        page.show_result(acquired, result.sr, content["monai_sr"])
    maps = [map_path(case.target, kind) for kind in result.maps]
    there = [*result.masks, *maps, page.written, page.viewer, page.preview]
    facts = essentials(content)
    return Outcome(case.name, "done", change=result.change, facts=facts, beside=tuple(str(p) for p in there if p))


def write_result(sr: Image, case: Case, made: MadeBy, options: RunOptions, **fused: Any) -> None:
    """Write a result, an image file or a DICOM series; replaces a result of ours.

    Args:
        sr: the result.
        case: of it.
        made: what made it.
        options: as of :func:`decide_options`.
        fused: of a fused volume ``others`` and ``fusion``, see :func:`monai_sr.dicom.derive.write_derived_series`.

    Raises:
        OutputError: it cannot be written.
    """
    if not case.is_derived_dicom:
        write_image(sr, case.target)
        return
    series, how = case.series, {"made_by": made, "format": options.wanted.format, **fused}
    assert series is not None
    replace_folder(case.target, lambda folder: write_derived_series(sr, series, folder, **how))


def replace_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a folder, then rename it to ``target``; until then a folder of ours stays there.

    Raises:
        OutputError: it cannot be written.
    """
    new, old = (temporary_beside(target.with_name(f"{target.name}-{which}")) for which in ("new", "old"))
    try:
        write(new)
        if target.exists():
            move(target, old)
        move(new, target)
    except OSError as error:
        if old.exists():
            move(old, target)
        raise write_error(target, error) from error
    except OutputError as error:  # which names the temporary folder
        error.path = target
        raise
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _check_space(case: Case, acquired: Acquired, voxels_out: int) -> None:
    """Refuse what surely does not fit on the disk, before the work.

    Raises:
        OutputError: E-OUT-SPACE.
    """
    size = voxels_out * acquired.stored_dtype.itemsize
    packed = image_suffix(case.target) not in (".nii",) and not case.is_derived_dicom
    needed = size // LEAST_COMPRESSED if packed else size
    free = shutil.disk_usage(case.target.parent).free
    if free < needed:
        raise OutputError(
            "E-OUT-SPACE",
            f"{free / 2**20:.0f} MiB are free on the disk, {needed / 2**20:.0f} MiB are needed",
            path=case.target,
        )


def _show_done(case: Case, options: RunOptions, model: Model, page: CasePage) -> None:
    """The page of a case that was done without one, from its files."""
    image, record = read_case(case, options), record_beside(case.target) or {}
    sr = read_image(case.target, volume="all" if len(image) > 1 else None)
    page.show_result(acquire(image, options.acquisition, options.wanted), sr, record)
