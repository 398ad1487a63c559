"""From an acquired volume to all that is made of it: the result, how far to trust it, its masks and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from ..acquired import Acquired
from ..bundles import Model
from ..engine.memory import MemoryShortError, choose_tile, free_vram, is_out_of_memory, memory_budget
from ..engine.selection import describe_engine
from ..errors import warn
from ..grid import grid_of
from ..inference import Progress
from ..labels import carry_labels
from ..trust.consistency import check_result
from ..trust.resolution import METHOD, effective_resolution
from ..trust.uncertainty import uncertainty_map
from .settings import Settings


@dataclass(frozen=True)
class Made:
    """What was made of an acquired volume.

    Attributes:
        sr: the result.
        acquired: what it was made of.
        how: it was made, for its record, see :func:`super_resolve_within`.
        trust: how far it may be trusted, for its record, see :func:`trust_in`.
        maps: those asked for, by their kind.
        masks: carried to its grid, by where they belong.
    """

    sr: MetaTensor
    acquired: Acquired
    how: dict[str, Any]
    trust: dict[str, Any]
    maps: dict[str, MetaTensor]
    masks: dict[Path, MetaTensor]

    @property
    def change(self) -> str:
        """The grids of the acquired volume and of the result, in words."""
        return f"{self.acquired.grid.in_words()} -> {grid_of(self.sr).in_words()}"


def make(
    acquired: Acquired,
    model: Model,
    settings: Settings,
    *,
    labels: Mapping[Path, MetaTensor],
    progress: Progress | None = None,
) -> Made:
    """Super-resolve a volume, carry its masks along, and find out how far to trust the result.

    Args:
        acquired: the volume.
        model: of ``settings``.
        settings: how.
        labels: masks of the volume, by where they belong when they are carried.
        progress: told the share that is done.

    Raises:
        ImageError: a mask is not of this volume.
        SuperResolutionError: as of :func:`super_resolve_within` and :func:`trust_in`.
    """
    memory = settings.memory or memory_budget()
    wanted = {name: settings.options.get(name) for name in ("spacing", "factor")}
    sr, how = super_resolve_within(model, acquired, memory=memory, progress=progress, strict=settings.strict, **wanted)
    masks = {path: carry_labels(mask, acquired, sr) for path, mask in labels.items()}
    trust, maps = trust_in(acquired, sr, model, settings)
    return Made(sr, acquired, how, trust, maps, masks)


def super_resolve_within(
    model: Model,
    acquired: Acquired,
    *,
    memory: int,
    spacing: float | None = None,
    factor: float | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> tuple[MetaTensor, dict[str, Any]]:
    """``model.super_resolve(acquired)`` in tiles that fit; if memory runs out by smaller ones, and then on the CPU.

    The voxels are the same in any case, to float rounding.

    Args:
        model: what is to run.
        acquired: the volume.
        memory: bytes that this process may take.
        spacing, factor, strict, progress: as of :func:`monai_sr.inference.super_resolve`.

    Returns:
        The result, and what a record tells of how it was made: ``engine`` and its version, ``device``,
        ``tile_voxels``, ``ran_out_of_memory``.

    Raises:
        MemoryShortError: no tile fits, or memory runs out on the last step too.
    """
    wanted, image = acquired.wanted_grid(spacing=spacing, factor=factor), acquired.image
    size = {"voxels_in": image.numel(), "voxels_out": len(image) * math.prod(wanted.shape)}
    tile_voxels = choose_tile(model.engine, **size, memory=memory, vram=free_vram(model.device))
    ran_out: list[str] = []
    device = model.device
    tiles = [tile for tile in model.engine.tile_sizes(**size) if tile <= tile_voxels]
    steps = [(device, tile) for tile in tiles]
    if device.type != "cpu":
        steps += [(torch.device("cpu"), tiles[-1])]
    for where, tile in steps:
        running = model.on(where)
        try:
            sr = running.super_resolve(
                acquired, spacing=spacing, factor=factor, strict=strict, tile_voxels=tile, progress=progress
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ran_out.append(f"{where}, tiles of {tile} voxels")
        else:
            how: dict[str, Any] = {
                "engine": describe_engine(running.engine),
                "device": str(where),
                "tile_voxels": tile,
            }
            if ran_out:
                how["ran_out_of_memory"] = ran_out
                warn(
                    "W-MEM-LADDER",
                    f"memory ran out on {'; '.join(ran_out)}; made on {{device}}, tiles of {{tile_voxels}} voxels",
                    facts={"device": str(where), "tile_voxels": tile, "steps": len(ran_out)},
                )
            return sr, how
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise MemoryShortError(
        "E-MEM", f"memory ran out: {'; '.join(ran_out)}", fix="run on a machine with more memory, or with fewer --jobs"
    )


def trust_in(
    acquired: Acquired, sr: MetaTensor, model: Model, settings: Settings
) -> tuple[dict[str, Any], dict[str, MetaTensor]]:
    """How far a result may be trusted: what its record tells, and the maps asked for.

    Both are empty for an image that was passed through.

    Raises:
        QualityError: it contradicts the acquired slices by more than the bundle's limit, under ``strict``.
        UsageError: how uncertain it is was asked for, and the bundle does not know.
    """
    if not sr.meta.get("super_resolved"):
        return {}, {}
    limit = model.calibration.get("consistency", {}).get("limit")
    consistency = check_result(acquired, sr, limit=limit, strict=settings.strict)
    before, after = effective_resolution(acquired, sr)
    trust: dict[str, Any] = {
        "consistency": consistency.summary(),
        "resolution": {"method": METHOD, "before": before.record(), "after": after.record()},
    }
    maps = {"consistency": consistency.residual} if "consistency" in settings.maps else {}
    if "uncertainty" in settings.maps:
        maps["uncertainty"] = uncertainty_map(acquired, sr, model.calibration.get("uncertainty", {}))
        median = float(maps["uncertainty"].median())
        trust["uncertainty"] = {"median": float(f"{median:.4g}"), "unit": consistency.unit}
    return trust, maps
