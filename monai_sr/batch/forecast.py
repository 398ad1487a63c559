"""What a run would make of each volume, what it would take, and what it would say: ``check`` and ``--dry-run``.

A volume is read as a run reads it, so that what a run refuses is refused, and what it warns of before
the work is shown. What only a result can show (consistency, clipped values) comes with the run.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundles import Model
from ..engine import Engine
from ..engine.memory import choose_tile, free_vram, memory_budget, volume_bytes
from ..errors import SuperResolutionError, printable
from ..io.images import write_image
from ..options import Acquisition, Reading, RunOptions
from ..trust.resolution import SAMPLES, measure_resolution
from .case import process
from .cases import Case
from .companions import map_path
from .examine import Forecast as Forecast
from .examine import examine_case
from .pages import report_path
from .reading import decided_acquisition, input_sha256, maps_wanted
from .record import is_done, made_by, resolve_options, sidecar_path

_FIRST = 48
"""Rows and columns of the first of two volumes by which time is measured; each has 12 slices, made 48."""

_ENOUGH = 1.5
"""Seconds that the second one is to take at most, by the speed of the first one."""

_GROWTH = {"openvino": 0.9}
"""The power of the voxels with which the time of an engine grows, if not 1: the longer a row, the less its ends count.
Measured with the pyramid in int8 from 0.7 to 25 million voxels."""

_BASE, _BLOCKS, _OF_TILE = 400 * 2**20, 200 * 2**20, 0.45
"""Peak memory of a run, as measured: bytes without a volume, the most that blocks of matrices take, and the fraction of
what is planned for tiles. A run is planned by the larger :mod:`monai_sr.engine.memory`, so that it is not killed."""


def forecast_cases(
    cases: Sequence[Case], options: RunOptions, model: Model, *, memory: int | None = None
) -> Iterator[Forecast]:
    """What would become of every case, with what it takes.

    Args:
        cases, options: as of :func:`monai_sr.batch.run_cases`.
        model: of these options.
        memory: bytes that this process may take; None to find out.
    """
    memory = memory_budget() if memory is None else memory
    seconds_of = None
    options = resolve_options(options, model)
    for case in cases:
        forecast = examine_case(case, options, model)
        if forecast.error is None:
            seconds_of = seconds_of or measure_speed(model, options)
            forecast = replace(forecast, seconds=seconds_of(*forecast.voxels))
            forecast = _with_costs(forecast, options, model, memory)
        yield forecast


def _with_costs(forecast: Forecast, options: RunOptions, model: Model, memory: int) -> Forecast:
    case, size = forecast.case, dict(zip(("voxels_in", "voxels_out"), forecast.voxels, strict=True))
    try:
        texture = volume_bytes(0, size["voxels_out"]) if options.wanted.texture else 0
        tile = choose_tile(model.engine, **size, memory=memory - texture, vram=free_vram(model.device))
        made = made_by(replace(options, acquisition=decided_acquisition(case, options)), model)
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
    taken = texture + peak_bytes(model.engine, tile, **size)
    return replace(forecast, is_done=done, outputs=tuple(outputs), memory=taken)


def peak_bytes(engine: Engine, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
    """Memory that a process takes at its peak for a volume of this size in these tiles, bytes."""
    volume = volume_bytes(voxels_in, voxels_out)
    on_tile = engine.tile_bytes(tile_voxels, voxels_in=voxels_in, voxels_out=voxels_out)
    return _BASE + volume + min(2 * volume, _BLOCKS) + round(_OF_TILE * on_tile)


def forecast_table(forecasts: Sequence[Forecast]) -> str:
    """What would become of the volumes, as a table for people."""
    rows = [("case", "acquired", "result", "MiB", "seconds", "output", "verdict")]
    for one in forecasts:
        costs = (f"{one.memory / 2**20:.0f}", f"{max(1, one.seconds):.0f}") if one.memory else ("", "")
        name, output, verdict = map(printable, (one.case.name, str(one.case.target), one.verdict))
        rows.append((name, one.before, one.after, *costs, output, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    good = [one for one in forecasts if one.error is None and not one.is_done]
    total = sum(one.seconds for one in good)
    end = f"{len(good)} of {len(forecasts)} volumes will be processed: about {total:.0f} s one by one"
    return "\n".join((*(line.rstrip() for line in lines), end))


def measure_speed(model: Model, options: RunOptions) -> Callable[[int, int], float]:
    """Seconds that a volume takes on this machine from reading to writing, by its voxels and those of its result.

    By two small volumes of noise, once all is loaded and memory is there, and by the estimate of resolution alone,
    which looks at :data:`SAMPLES` voxels at most. Volumes with much empty background take less.
    """
    _seconds_of(model, options, _FIRST)
    few, short = min(_seconds_of(model, options, _FIRST) for _ in range(2))
    # far enough apart that a moment in which the machine was busy does not decide the slope
    side = round(_FIRST * min(max((_ENOUGH / max(short, 1e-3)) ** 0.5, 2.5), 5.0))
    many, long = min(_seconds_of(model, options, side) for _ in range(2))  # the first time memory is new
    per_sample = min(_seconds_per_sample() for _ in range(2))

    def of_resolution(voxels_in: int, voxels_out: int) -> float:
        # acquired slices are compared at twice the distance of the thin ones: half as many samples
        return per_sample * (min(voxels_in, SAMPLES) / 2 + min(voxels_out, SAMPLES))

    short, long = short - of_resolution(few // 4, few), long - of_resolution(many // 4, many)
    growth = _GROWTH.get(model.engine.name, 1.0)
    slope = max(long - short, 0.0) / (many**growth - few**growth) or max(long, 0.0) / many**growth
    start = max(short - slope * few**growth, 0.0)
    return lambda voxels_in, voxels_out: start + slope * voxels_out**growth + of_resolution(voxels_in, voxels_out)


def _seconds_per_sample() -> float:
    """Seconds that the estimate of resolution takes for each voxel of a result of noise."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(500, 90, (1, 64, 64, 64)).astype(np.float32))
    start = time.perf_counter()
    measure_resolution(MetaTensor(noise, affine=torch.eye(4)), 2, lag=2.0)
    return (time.perf_counter() - start) / noise.numel()


def _seconds_of(model: Model, options: RunOptions, side: int) -> tuple[int, float]:
    """Voxels of a result of so many rows and columns, and the seconds that it took."""
    shape = (side, side, 12)
    voxels = torch.from_numpy(np.random.default_rng(0).normal(500, 90, (1, *shape)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "probe.nii.gz"), Path(folder, "thin.nii.gz")
        write_image(MetaTensor(voxels, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0]))), source, dtype=np.int16)
        plain = replace(
            options,
            wanted=replace(options.wanted, factor=4.0, spacing=None, strict=False, format=None),
            acquisition=Acquisition(),
            reading=Reading(),
            outputs=replace(options.outputs, mask=()) if options.outputs.mask else options.outputs,
        )
        outcome = process(Case("probe", source, target, is_named=True), plain, model)
        return 4 * math.prod(shape), outcome.seconds
