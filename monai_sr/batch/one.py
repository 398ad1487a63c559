"""One case from its files to its result and record; whatever goes wrong becomes an outcome."""

from __future__ import annotations

import math
import os
import time
import warnings
from copy import copy
from dataclasses import replace
from typing import Any

from ..bids import derivative_sidecar
from ..bundles import Model
from ..engine.memory import peak_mib, reset_peak
from ..errors import ImageError, SuperResolutionWarning, collect_notices, write_error
from ..grid import grid_of
from ..inference import Progress
from ..io.images import read_image, read_labels
from .cases import Case
from .companions import MAPS, describe_companions, map_path, remove_maps, write_map, write_masks
from .files import check_space, input_sha256, read_case, write_result
from .making import make
from .outcomes import ALREADY_DONE, CLAIMED, Outcome, failure
from .pages import CasePage
from .records import (
    RECORD_VERSION,
    ClaimedError,
    claimed,
    is_done,
    record_beside,
    sha256_of_result,
    stamps,
    write_sidecar,
)
from .settings import Settings
from .sidecar import describe


def process(case: Case, settings: Settings, model: Model, *, progress: Progress | None = None) -> Outcome:
    """Super-resolve one case, unless that is done; never raises but for an interruption."""
    started = time.monotonic()
    reset_peak()
    result: dict[str, Any]
    page = CasePage(case, wanted=settings.report, viewer=settings.viewer, overwrite=settings.overwrite)
    with collect_notices() as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        try:
            try:
                result = _process(case, settings, model, caught, page, progress)
            except ImageError as error:
                if error.code != "E-IO-CHANGED":
                    raise
                result = _process(case, settings, model, caught, page, progress)
        except ClaimedError:
            result = {"status": "skipped", "reason": CLAIMED}
        except Exception as error:
            result = failure(error)
        if result["status"] == "failed":
            page.show_failure(result["code"], result["reason"], _of_case(caught, case))
    return Outcome(
        case.name,
        **result,
        output=str(case.target) if case.target.exists() and result["status"] != "failed" else "",
        warnings=_of_case(caught, case),
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mib=round(peak_mib(), 1),
        report=page.written,
    )


def failed(case: Case, settings: Settings, outcome: Outcome) -> Outcome:
    """An outcome of a case that no process ended, with its page."""
    page = CasePage(case, wanted=settings.report, overwrite=settings.overwrite)
    page.show_failure(outcome.code, outcome.reason)
    return replace(outcome, report=page.written)


def _process(
    case: Case,
    settings: Settings,
    model: Model,
    caught: list[SuperResolutionWarning],
    page: CasePage,
    progress: Progress | None,
) -> dict[str, Any]:
    """Fields of the outcome of a case that is done or skipped; raises for one that fails."""
    if case.fault is not None:
        raise case.fault
    started = time.monotonic()
    made_by = settings.made_by(model, slice_thickness=case.bids.slice_thickness if case.bids else None)
    before = stamps(case.files)
    try:
        case.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(case.target.parent, error) from error
    with claimed(case.target) as claim:
        digest = input_sha256(case)
        done = is_done(
            case.target,
            made_by,
            input_sha256=digest,
            unfinished=claim.unfinished,
            overwrite=settings.overwrite,
        )
        beside = [map_path(case.target, kind) for kind in settings.maps] + list(case.mask_targets)
        if done and all(map(os.path.exists, beside)):
            if page.is_current:
                return {"status": "skipped", "reason": ALREADY_DONE}
            if not case.is_derived_dicom:  # such a series is made again: what we made is never read
                _show_done(case, settings, page)
                return {"status": "skipped", "reason": ALREADY_DONE}
        image = page.image = read_case(case, settings)
        labels = {path: read_labels(mask) for path, mask in zip(case.mask_targets, case.masks, strict=True)}
        if stamps(case.files) != before:
            raise ImageError("E-IO-CHANGED", "it changed while it was read", fix="run again when copying is done")
        acquired = settings.acquired(image)
        check_space(case, image, len(image) * math.prod(settings.wanted_grid(acquired).shape))
        made = make(acquired, model, settings, labels=labels, progress=progress)
        claim.begin_writing()
        write_result(made.sr, case, made_by)
        write_masks(made.masks, overwrite=settings.overwrite)
        remove_maps(case.target, set(MAPS) - set(settings.maps))
        for kind, found in made.maps.items():
            write_map(found, map_path(case.target, kind), overwrite=settings.overwrite)
        content = describe(made.sr, acquired, made_by, case)
        if case.bids is not None:
            derived = derivative_sidecar(case.bids, acquired, grid_of(made.sr))
            content |= derived
            describe_companions(case.target, derived, maps=made.maps, masks=made.masks)
        content["monai_sr"] |= (
            made.how
            | made.trust
            | {
                "record": RECORD_VERSION,
                "input_sha256": digest,
                "output_sha256": sha256_of_result(case.target),
                "warnings": [notice.to_record() for notice in caught],
                "seconds": round(time.monotonic() - started, 3),
                "peak_memory_mib": round(peak_mib(), 1),
            }
        )
        write_sidecar(case.target, content)
        page.show_result(acquired, made.sr, content["monai_sr"])
    return {"status": "done", "change": made.change}


def _show_done(case: Case, settings: Settings, page: CasePage) -> None:
    """The page of a case that was done without one, from its files."""
    image, record = read_case(case, settings), record_beside(case.target) or {}
    sr = read_image(case.target, volume="all" if len(image) > 1 else None)
    page.show_result(settings.acquired(image), sr, record)


def _of_case(notices: list[SuperResolutionWarning], case: Case) -> tuple[SuperResolutionWarning, ...]:
    """The warnings, which name the case and not its path."""
    named = []
    for notice in map(copy, notices):
        notice.path = str(notice.path or case.name).replace(str(case.source), case.name)
        named.append(notice)
    return tuple(named)
