"""A model as its bundle's JSON files describe it, for a dry run: names, versions and options; nothing is loaded."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..engine import Sizes
from ..engine.devices import is_installed, may_use_gpu
from ..engine.sizes import MIRRORS, AveragedSizes, SplineSizes, StreamedSizes, TorchRowsSizes
from ..errors import UsageError
from ..io.shelf import SPLINE, bundle_path, check_weights, plain_config, read_calibration, ships
from ..options import BUNDLES, Compute, RunOptions
from ..trust.preparation import NetworkOptions, Settings, Trained, read_trained
from ..trust.resolution import SAMPLES

WORK = {
    ("pyramid", "openvino", "int8"): 280.0,
    ("pyramid", "openvino", "float32"): 950.0,
    ("pyramid", "torch", "float32"): 1120.0,
    ("residual", "openvino", "int8"): 380.0,
    ("residual", "openvino", "float32"): 1150.0,
    ("residual", "torch", "float32"): 1430.0,
}
"""Work of a network for a million voxels, as 10^9 operations of a matrix product in float32 that take as long; it grows
with the power :data:`GROWTH` of the voxels. Measured on one machine (AVX-512 with VNNI) by batch/speed.py, torch by
tests/benchmarks/engines."""

GROWTH = 0.9

START, PER_SAMPLE, PER_VOXEL, DEFLATED = 0.02, 7e-8, 6.4e-8, 2.25e-3
"""Seconds of all else: for a volume, for a voxel by which resolution is measured, and for a voxel of the result; where
128 KiB of noise are compressed in the last of these times."""

LONG = 600.0
"""Seconds of a run from which its time is measured, which takes some seconds, instead of estimated."""

_TRIES = 12


@dataclass(eq=False)
class Planned(Trained):
    """A model that is not loaded.

    Attributes:
        engine: name, precision and tiles of what will compute it.
        device: None, for the CPU.
    """

    engine: Sizes = field(default_factory=SplineSizes)
    device: None = None


def plan_model(options: RunOptions) -> Planned | None:
    """The model that a run with these options will load; None where only loading it tells what will compute.

    That is: a bundle that does not ship, a GPU, 16 bits; also for a page to browse volumes.

    Raises:
        BundleError: files of the bundle are missing or damaged.
        UsageError: see :func:`refuse_uncertainty`.
    """
    compute, name = options.compute, options.wanted.bundle
    on_cpu = compute.device == "cpu" or (compute.device == "auto" and not may_use_gpu())
    if not on_cpu or options.outputs.viewer:
        return None
    planned = None
    if name == SPLINE:
        planned = Planned(SPLINE, calibration=read_calibration(SPLINE))
    elif name in BUNDLES:
        planned = _of_bundle(name, compute)
    if planned is not None:
        refuse_uncertainty(options, planned)
    return planned


def refuse_uncertainty(options: RunOptions, model: Trained) -> None:
    """Raise UsageError where a map of uncertainty is asked for and the bundle has no constants for it."""
    if options.outputs.uncertainty and not model.calibration.get("uncertainty"):
        problem = f"{options.wanted.bundle} does not know how uncertain its results are"
        raise UsageError("E-USE", problem, fix="choose another bundle, or run monai-sr calibrate")


def _of_bundle(name: str, compute: Compute) -> Planned | None:
    folder = bundle_path(name)
    config = plain_config(folder)
    if config is None:
        return None
    try:
        chosen = config["inferer"]
        engine, precision = (getattr(compute, key) or chosen[key] for key in ("engine", "precision"))
        if engine == "auto":
            engine = "openvino" if precision == "int8" or is_installed("openvino") else "torch"
        if precision == "auto":
            precision = "int8" if engine == "openvino" else "float32"
        if precision == "int8":
            json.loads(Path(chosen["int8"]).read_text(encoding="utf-8"))["ranges"]
        defaults = Settings.of(**{key: chosen[key] for key in chosen.keys() & NetworkOptions.__optional_keys__})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever loads it says what is wrong
    if (name, engine, precision) not in WORK or not is_installed(engine) or not ships(folder):
        return None
    sizes: Sizes = StreamedSizes(precision) if engine == "openvino" else TorchRowsSizes(precision)
    if (compute.quality or chosen["quality"]) == "best":
        sizes = AveragedSizes(sizes)
    trained = read_trained(folder, check_weights(str(config["checkpoint"])), defaults)
    return Planned(**vars(trained), engine=sizes)


def estimate_speed(model: Planned) -> Callable[[int, int], float]:
    """Seconds that a volume takes on this machine, by its voxels and those of its result.

    By constants, and by the speeds of a matrix product and of a compression, which are measured in 0.1 s.
    """
    side, random = 384, np.random.default_rng(0)
    matrix = random.random((side, side), np.float32)
    noise = random.normal(500, 90, 2**16).astype(np.int16).tobytes()
    rate = 2e-9 * side**3 / _shortest(lambda: matrix @ matrix)
    slowness = _shortest(lambda: zlib.compress(noise, 1)) / DEFLATED
    engine = model.engine
    work = WORK.get((model.name.partition("_")[0], engine.name, engine.precision), 0.0)
    work *= len(MIRRORS) if isinstance(engine, AveragedSizes) else 1

    def seconds(voxels_in: int, voxels_out: int) -> float:
        samples = min(voxels_in, SAMPLES) / 2 + min(voxels_out, SAMPLES)
        rest = START + PER_SAMPLE * samples + PER_VOXEL * voxels_out
        return slowness * rest + work / rate * (voxels_out / 1e6) ** GROWTH

    return seconds


def _shortest(work: Callable[[], object]) -> float:
    """Seconds of work, the shortest of some tries: at other times something else was computed, too."""
    times = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
