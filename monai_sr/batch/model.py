"""The model of a run: loaded by the options, and run in tiles and processes that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..acquired import Acquired
from ..bundles import Model, load_bundle
from ..engine import Progress, part_of
from ..engine.memory import MemoryShortError, choose_tile, free_vram, is_out_of_memory, memory_budget, volume_bytes
from ..engine.selection import describe_engine
from ..engine.sizes import TRAINING_BYTES
from ..errors import Later, collect_notices, warn
from ..grid import Image
from ..options import RunOptions, Wanted
from ..report import niivue_script
from .plan import Plan
from .planned import refuse_uncertainty

if TYPE_CHECKING:
    import torch

    from ..training import adaptation
else:
    adaptation, torch = Later("monai_sr.training.adaptation"), Later("torch")


def load_model(options: RunOptions, *, device: str | None = None) -> Model:
    """The bundle of the options, on its device or another one.

    Raises:
        SuperResolutionError: bundle or device cannot be used.
    """
    if options.outputs.viewer:
        niivue_script()  # so that it is missed before the work
    compute = options.compute
    model = load_bundle(
        options.wanted.bundle,
        device=device or compute.device,
        engine=compute.engine,
        precision=compute.precision,
        quality=compute.quality,
        trust_bundle=compute.trust_bundle,
    )
    refuse_uncertainty(options, model)
    return model


def super_resolve_within(
    model: Model, acquired: Acquired, wanted: Wanted, *, memory: int | None = None, progress: Progress | None = None
) -> tuple[Image, dict[str, Any]]:
    """``model.super_resolve(acquired)`` in tiles that fit. If memory runs out, with smaller tiles, then on the CPU.

    The voxels are the same in any case, to float rounding.

    Args:
        model: what is to run.
        acquired: the volume.
        wanted: spacing or factor, and whether to be strict.
        memory: bytes that this process may take. Default: the free memory.
        progress: called with the fraction that is done.

    Returns:
        The result, and how it was made for its record: ``engine`` and its version, ``device``,
        ``tile_voxels``, ``ran_out_of_memory``.

    Raises:
        MemoryShortError: no tile fits, or memory runs out on the last step too.
    """
    grid, shape = acquired.wanted_grid(spacing=wanted.spacing, factor=wanted.factor), acquired.source.shape
    size = {"voxels_in": math.prod(shape), "voxels_out": shape[0] * math.prod(grid.shape)}
    memory = memory_budget() if memory is None else memory
    memory -= volume_bytes(0, size["voxels_out"]) if wanted.texture else 0
    tile_voxels = choose_tile(model.engine, **size, memory=memory, vram=free_vram(model.engine.device))
    ran_out: list[str] = []
    device = model.engine.device
    tiles = [tile for tile in model.engine.tile_sizes(**size) if tile <= tile_voxels]
    steps = [(device, tile) for tile in tiles]
    if device != "cpu":
        steps += [("cpu", tiles[-1])]
    for where, tile in steps:
        running = model.on(where)
        try:
            sr = running.super_resolve(acquired, wanted, tile_voxels=tile, progress=progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ran_out.append(f"{where}, tiles of {tile} voxels")
        else:
            made: dict[str, Any] = {
                "engine": describe_engine(running.engine),
                "device": where,
                "tile_voxels": tile,
            }
            if ran_out:
                made["ran_out_of_memory"] = ran_out
                text = f"memory ran out on {'; '.join(ran_out)}; made on {{device}}, tiles of {{tile_voxels}} voxels"
                warn("W-MEM-LADDER", text, facts={"device": where, "tile_voxels": tile, "steps": len(ran_out)})
            return sr, made
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    raise MemoryShortError("E-MEM", f"memory ran out: {'; '.join(ran_out)}")


def super_resolve_adapted(
    model: Model,
    acquired: Acquired,
    wanted: Wanted,
    *,
    minutes: float,
    memory: int | None = None,
    progress: Progress | None = None,
) -> tuple[Image, dict[str, Any]]:
    """:func:`super_resolve_within` by the network adapted to the volume.

    Args:
        minutes: of training, at most; see :func:`monai_sr.training.adaptation.adapt`.

    Returns:
        The result, and how it was made, with the ``adaptation``.

    Raises:
        MemoryShortError: as of :func:`super_resolve_within`, or there is no memory for training.
    """
    free = memory_budget() if memory is None else memory
    if free < TRAINING_BYTES:
        problem = f"{free / 2**20:.0f} MiB are free, training on a volume needs {TRAINING_BYTES / 2**20:.0f} MiB"
        raise MemoryShortError("E-MEM", problem)

    with collect_notices():  # they are given by the second run
        first, _ = super_resolve_within(
            model, acquired, replace(wanted, texture=False), memory=memory, progress=part_of(progress, 0, 0.2)
        )
    adapted, gained = adaptation.adapt(model, acquired, first, minutes=minutes, progress=part_of(progress, 0.2, 0.6))
    sr, made = super_resolve_within(adapted, acquired, wanted, memory=memory, progress=part_of(progress, 0.8, 0.2))
    return sr, made | {"adaptation": gained.record()}


def fitting_jobs(plans: Sequence[Plan], model: Model, *, jobs: int, memory: int) -> int:
    """As many processes as fit into ``memory`` bytes, with a warning where they are fewer than ``jobs``."""
    largest = max(plan.least_memory(model.engine) for plan in plans)
    fitting = max(1, min(jobs, memory // largest))
    if fitting < jobs:
        text = "the largest volume takes {largest_mib:.0f} MiB, so {fitting} of {jobs} jobs are run"
        warn("W-MEM-JOBS", text, facts={"largest_mib": largest / 2**20, "fitting": fitting, "jobs": jobs}, stacklevel=4)
    return fitting
