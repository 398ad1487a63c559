"""The record of a result that MONAI's workflow writes: ``python -m monai.bundle run`` with an ``inference.json``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys
from monai.utils import MetaKeys

from ..acquired import path_of
from ..bundles import Model, bundle_model
from ..dicom import find_series, is_dicom_source
from ..engine.selection import describe_engine
from ..errors import SuperResolutionWarning, collect_notices, give
from ..inference import acquire
from ..options import RunOptions
from ..training.inferer import SuperResolutionInferer
from .case import assess
from .chosen import Case
from .record import describe_result, made_by, resolve_options, sha256_of, write_record


class RecordHandler:
    """Writes the record beside each result that SaveImaged wrote, as ``monai-sr run`` does.

    Args:
        metadata: the bundle's ``configs/metadata.json``.
        checkpoint: its weights.
        inferer: that made the results.
        reading: ``series``, ``volume`` and others that the volumes were read with, see
            :class:`monai_sr.options.Reading`.
    """

    def __init__(self, metadata: str, checkpoint: str, inferer: SuperResolutionInferer, **reading: object) -> None:
        self._folder, self._weights = Path(metadata).resolve().parents[1], Path(checkpoint)
        self._inferer = inferer
        self._options = RunOptions.from_dict({"reading": reading, "trust_bundle": True})
        self._collecting, self._started = ExitStack(), 0.0
        self._notices: list[SuperResolutionWarning] = []

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's workflow."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _begin(self, engine: Engine) -> None:
        self._collecting.close()
        self._notices, self._started = self._collecting.enter_context(collect_notices()), time.monotonic()

    def _fail(self, engine: Engine, error: Exception) -> None:
        self._give()
        raise error

    def _give(self) -> None:
        """Pass the collected warnings on."""
        self._collecting.close()
        for notice in self._notices:
            give(notice)

    def _end(self, engine: Engine) -> None:
        computed = self._inferer.engine_for(engine.network)  # type: ignore[attr-defined]
        model = bundle_model(self._folder, self._weights, computed, self._inferer.defaults)
        outputs: Any = engine.state.output
        for item, facts in zip(outputs if isinstance(outputs, list) else [outputs], self._inferer.facts, strict=True):
            image, sr = item[Keys.IMAGE], item[Keys.PRED]
            if MetaKeys.SAVED_TO not in sr.meta:  # nothing was written
                continue
            sr.meta.pop("super_resolved", None)
            sr.meta |= facts
            self._write(image, sr, model)
        self._give()

    def _write(self, image: Any, sr: Any, model: Model) -> None:
        source, target = Path(path_of(image)), Path(sr.meta[MetaKeys.SAVED_TO])
        options = resolve_options(self._options, model)
        case = Case(source.name, source, target, series=self._series(source))
        acquired, made = acquire(image, options.acquisition, options.wanted), made_by(options, model)
        grid = acquired.wanted_grid(spacing=options.wanted.spacing, factor=options.wanted.factor)
        sr.meta["outside_ranges"] = model.check_ranges(acquired, grid, strict=options.wanted.strict)
        trust, _ = assess(acquired, sr, model, options)
        content = describe_result(sr, acquired, made, options, series=case.series)
        content["monai_sr"] |= trust | {
            "engine": describe_engine(model.engine),
            "device": str(model.engine.device),
            "tile_voxels": model.defaults.tile_voxels,
        }
        write_record(
            target,
            content,
            input_sha256=sha256_of(case.files),
            notices=[notice for notice in self._notices if self._is_of(notice, source)],
            seconds=time.monotonic() - self._started,
        )

    def _series(self, source: Path) -> Any:
        if not (source.is_dir() or is_dicom_source(source)):
            return None
        reading = self._options.reading
        return find_series(source, merge_by_geometry=reading.merge_by_geometry).only(reading.series)

    @staticmethod
    def _is_of(notice: SuperResolutionWarning, source: Path) -> bool:
        return notice.path is None or Path(notice.path) == source
