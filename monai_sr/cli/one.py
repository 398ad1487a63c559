"""One volume to one file, with what was asked for beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SuperResolutionWarning, collect_notices, warn_left_out
from .places import check_target, naming
from .terminal import complain, progress_bar, say

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from ..acquired import Acquired
    from ..batch import Case, CasePage, Made, Settings
    from ..bundles import Model
    from ..dicom import MadeBy
    from ..options import RunOptions


def super_resolve_file(
    source: Path, target: Path, options: RunOptions, *, progress: Callable[[float], None] | None = None
) -> tuple[Acquired, MetaTensor]:
    """One image file to one; the volume as acquired and the one that was written."""
    check_target(source, target)
    from ..batch import Case, Settings

    settings, case = Settings.of(options), Case(source.name, source, target)
    with _told_on_page(case, settings) as told:
        return _super_resolve(case, settings, settings.load(), told, masks=options.outputs.mask, progress=progress)


def super_resolve_series(source: Path, target: Path, options: RunOptions) -> None:
    """One DICOM series to one file, with a JSON beside it."""
    check_target(source, target)
    from ..batch import Case, Settings
    from ..dicom import find_series, short_name
    from ..io.images import refuse_file_options

    refuse_file_options(volume=options.reading.volume, geometry=options.reading.geometry)
    found = find_series(source, merge_by_geometry=options.reading.merge_by_geometry)
    with naming(source):
        series = found.only(options.reading.series)
    for left in found.left_out:
        warn_left_out(left.files, left.reason, left.code)
    settings, case = Settings.of(options), Case(short_name(series), source, target, series=series)
    model = settings.load()
    with _told_on_page(case, settings) as told:
        _super_resolve(case, settings, model, told, masks=options.outputs.mask)


@dataclass
class _Told:
    """What a page is to tell about one volume.

    Attributes:
        page: the page.
        warnings: that came.
        started: when the work began, as of :func:`time.monotonic`.
    """

    page: CasePage
    warnings: list[SuperResolutionWarning] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


@contextmanager
def _told_on_page(case: Case, settings: Settings) -> Iterator[_Told]:
    """The report of one volume: if it fails, its page says why; what was warned of stands on the page too."""
    from ..batch import CasePage, failure

    told = _Told(CasePage(case, wanted=settings.report, viewer=settings.viewer, overwrite=True))
    with collect_notices(show=complain) as told.warnings:
        try:
            yield told
        except Exception as error:
            why = failure(error)
            told.page.show_failure(why["code"], why["reason"], told.warnings)
            raise


def _super_resolve(
    case: Case,
    settings: Settings,
    model: Model,
    told: _Told,
    *,
    masks: Sequence[str],
    progress: Callable[[float], None] | None = None,
) -> tuple[Acquired, MetaTensor]:
    """Make one volume and all that belongs beside it; the volume as acquired and what was written."""
    from ..batch import describe, make, map_path, read_case, write_map, write_masks, write_sidecar
    from ..io.images import write_image

    reading = None if case.series is None else progress_bar(f"read {case.name}")
    told.page.image = image = read_case(case, settings, progress=reading)
    labels = _labels(case, masks)
    with naming(case.source):
        made = make(
            settings.acquired(image), model, settings, labels=labels, progress=progress or progress_bar(case.name)
        )
    write_image(made.sr, case.target)
    say(f"{case.target}: {made.change}")
    write_masks(made.masks, overwrite=True)
    for path in made.masks:
        say(path)
    for kind, found in made.maps.items():
        say(write_map(found, map_path(case.target, kind), overwrite=True))
    made_by = settings.made_by(model)
    if case.series is not None:
        content = describe(made.sr, made.acquired, made_by, case)
        content["monai_sr"] |= made.trust
        write_sidecar(case.target, content)
    _show(case, made, made_by, told)
    return made.acquired, made.sr


def _labels(case: Case, masks: Sequence[str]) -> dict[Path, MetaTensor]:
    """The masks of one volume, by where they belong; read before any work is done."""
    from ..batch import mask_path, masks_beside
    from ..io.images import read_labels

    named = [Path(text) for text in masks if "*" not in text]
    beside = masks_beside(case.source, [text for text in masks if "*" in text])
    return {mask_path(case.target, case.source, path): read_labels(path) for path in (*named, *beside)}


def _show(case: Case, made: Made, made_by: MadeBy, told: _Told) -> None:
    """Write the report of one volume that is done."""
    page = told.page
    if not (page.wanted or page.viewer):
        return
    from ..batch.records import made_by_block, sha256_of, sha256_of_result

    record = made_by_block(made_by) | made.how | made.trust
    record |= {
        "input_sha256": sha256_of(case.files),
        "output_sha256": sha256_of_result(case.target),
        "warnings": [notice.to_record() for notice in told.warnings],
        "seconds": round(time.monotonic() - told.started, 3),
    }
    page.show_result(made.acquired, made.sr, record)
    for path in filter(None, (page.written, page.viewer)):
        say(path)
