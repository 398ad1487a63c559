"""How long volumes take on this machine, by two small ones that are super-resolved."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..bundles import Model
from ..grid import ArrayImage
from ..io.images import write_image
from ..options import Acquisition, Reading, RunOptions
from ..trust.resolution import SAMPLES, measure_resolution
from .case import process
from .chosen import Case

_FIRST = 48
"""Rows and columns of the first of two volumes by which time is measured; each has 12 slices, made 48."""

_ENOUGH = 1.5
"""Seconds that the second one is to take at most, by the speed of the first one."""

_GROWTH = {"openvino": 0.9}
"""The power of the voxels with which the time of an engine grows, if not 1: the longer a row, the less its ends count.
Measured with the pyramid in int8 from 0.7 to 25 million voxels."""


def measure_speed(model: Model, options: RunOptions) -> Callable[[int, int], float]:
    """A function that predicts the seconds of a volume on this machine, from its voxels and those of its result.

    Measured with two small volumes of noise, after everything is loaded, and with the estimate of resolution alone,
    which uses at most :data:`SAMPLES` voxels. Volumes with much empty background take less.
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
    """Seconds of the estimate of resolution for each voxel of a result of noise."""
    noise = np.random.default_rng(0).normal(500, 90, (1, 64, 64, 64)).astype(np.float32)
    start = time.perf_counter()
    measure_resolution(ArrayImage(noise, np.eye(4), {}), 2, lag=2.0)
    return (time.perf_counter() - start) / noise.size


def _seconds_of(model: Model, options: RunOptions, side: int) -> tuple[int, float]:
    """Voxels of a result with so many rows and columns, and its seconds."""
    shape = (side, side, 12)
    voxels = np.random.default_rng(0).normal(500, 90, (1, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "probe.nii.gz"), Path(folder, "thin.nii.gz")
        write_image(ArrayImage(voxels, np.diag([1.0, 1.0, 4.0, 1.0]), {}), source, dtype=np.int16)
        plain = replace(
            options,
            wanted=replace(options.wanted, factor=4.0, spacing=None, strict=False, format=None),
            acquisition=Acquisition(),
            compute=replace(options.compute, adapt=None),
            reading=Reading(),
            outputs=replace(options.outputs, mask=()) if options.outputs.mask else options.outputs,
        )
        outcome = process(Case("probe", source, target, is_named=True), plain, model)
        return 4 * math.prod(shape), outcome.seconds
