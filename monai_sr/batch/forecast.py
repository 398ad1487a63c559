"""Predict the result, cost and warnings of each volume, for ``check`` and ``--dry-run``.

A volume is read as a run reads it. So the errors are those of a run, and the warnings those before its work.
Warnings about a result (consistency, clipped values) come with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..dicom import check_size
from ..engine.memory import choose_tile, free_vram, memory_budget, volume_bytes
from ..engine.sizes import TRAINING_BYTES
from ..errors import Later, SuperResolutionError, printable
from ..options import RunOptions
from .chosen import Case
from .companions import map_path
from .examine import Forecast as Forecast
from .examine import examine_case
from .planned import Planned, estimate_speed
from .reading import decide_options, input_sha256, maps_wanted
from .record import is_done, made_by, report_path, resolve_options, sidecar_path

if TYPE_CHECKING:
    from ..bundles import Model
    from ..engine import Sizes
    from . import speed
else:
    speed = Later("monai_sr.batch.speed")

_BASE, _BLOCKS, _OF_TILE = 400 * 2**20, 200 * 2**20, 0.45
"""Peak memory of a run, as measured: bytes without a volume, the most that blocks of matrices take, and the fraction of
what is planned for tiles. A run is planned by the larger :mod:`monai_sr.engine.memory`, so that it is not killed."""


def forecast_cases(
    cases: Sequence[Case], options: RunOptions, model: Model | Planned, *, memory: int | None = None
) -> Iterator[Forecast]:
    """Predict every case, with its cost.

    Args:
        cases, options: as of :func:`monai_sr.batch.run_cases`.
        model: of these options.
        memory: bytes that this process may take. Default: the free memory.
    """
    memory = memory_budget() if memory is None else memory
    seconds_of = None
    options = resolve_options(options, model)
    for case in cases:
        forecast = examine_case(case, options, model)
        if forecast.error is None:
            seconds_of = seconds_of or speed_of(model, options)
            computing, training = seconds_of(*forecast.voxels), 60 * (options.compute.adapt or 0)
            forecast = replace(forecast, seconds=training + computing * (2 if training else 1))
            forecast = _with_costs(forecast, options, model, memory)
        yield forecast


def speed_of(model: Model | Planned, options: RunOptions) -> Callable[[int, int], float]:
    """Seconds that a volume takes, by its voxels and those of its result: measured, or estimated of a planned model."""
    return estimate_speed(model) if isinstance(model, Planned) else speed.measure_speed(model, options)


def _with_costs(forecast: Forecast, options: RunOptions, model: Model | Planned, memory: int) -> Forecast:
    case, size = forecast.case, dict(zip(("voxels_in", "voxels_out"), forecast.voxels, strict=True))
    try:
        texture = volume_bytes(0, size["voxels_out"]) if options.wanted.texture else 0
        tile = choose_tile(model.engine, **size, memory=memory - texture, vram=free_vram(model.device))
        decided = decide_options(case, options)
        if decided.wanted.format == "enhanced":
            check_size(size["voxels_out"])
        made = made_by(decided, model)
        done = is_done(
            case.target,
            made,
            input_sha256=input_sha256(case),
            unfinished=False,
            overwrite=options.outputs.overwrite,
            again=case.is_named,
        )
    except SuperResolutionError as error:
        return replace(forecast, error=error)
    outputs = [case.target, sidecar_path(case.target), *case.mask_targets]
    if forecast.factor:
        outputs += [map_path(case.target, kind) for kind in maps_wanted(options)]
    outputs += [report_path(case.target)] if options.outputs.report else []
    outputs += [report_path(case.target).with_suffix(".viewer.html")] if options.outputs.viewer else []
    outputs += [report_path(case.target).with_suffix(".png")] if options.outputs.preview else []
    training = 0 if options.compute.adapt is None else TRAINING_BYTES
    taken = texture + peak_bytes(model.engine, tile, **size) + training
    return replace(forecast, is_done=done, outputs=tuple(outputs), memory=taken)


def peak_bytes(engine: Sizes, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
    """Memory that a process takes at its peak for a volume of this size in these tiles, bytes."""
    volume = volume_bytes(voxels_in, voxels_out)
    on_tile = engine.tile_bytes(tile_voxels, voxels_in=voxels_in, voxels_out=voxels_out)
    return _BASE + volume + min(2 * volume, _BLOCKS) + round(_OF_TILE * on_tile)


def forecast_table(forecasts: Sequence[Forecast]) -> str:
    """The predictions as a table for people."""
    rows = [("case", "acquired", "result", "MiB", "seconds", "output", "verdict")]
    for forecast in forecasts:
        costs = (f"{forecast.memory / 2**20:.0f}", f"{max(1, forecast.seconds):.0f}") if forecast.memory else ("", "")
        name, output, verdict = map(printable, (forecast.case.name, str(forecast.case.target), forecast.verdict))
        rows.append((name, forecast.before, forecast.after, *costs, output, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    good = [forecast for forecast in forecasts if forecast.error is None and not forecast.is_done]
    total = sum(forecast.seconds for forecast in good)
    end = f"{len(good)} of {len(forecasts)} volumes will be processed: about {total:.0f} s one by one"
    return "\n".join((*(line.rstrip() for line in lines), end))
