"""From an acquired volume to all that is made of it: the result, how far to trust it, its masks and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from ..bundles import Model
from ..engine.memory import MemoryShortError, choose_tile, free_vram, is_out_of_memory, memory_budget
from ..engine.selection import describe_engine
from ..errors import warn
from ..grid import grid_of, wanted_grid
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
        axis: its through-plane axis.
        how: it was made, for its record, see :func:`super_resolve_within`.
        trust: how far it may be trusted, for its record, see :func:`trust_in`.
        maps: those asked for, by their kind.
        masks: carried to its grid, by where they belong.
    """

    sr: MetaTensor
    axis: int
    how: dict[str, Any]
    trust: dict[str, Any]
    maps: dict[str, MetaTensor]
    masks: dict[Path, MetaTensor]

    def change_of(self, image: MetaTensor) -> str:
        """The grids of the acquired volume and of the result, in words."""
        return f"{grid_of(image).in_words()} -> {grid_of(self.sr).in_words()}"


def make(
    image: MetaTensor,
    model: Model,
    settings: Settings,
    *,
    labels: Mapping[Path, MetaTensor],
    progress: Progress | None = None,
) -> Made:
    """Super-resolve a volume, carry its masks along, and find out how far to trust the result.

    Args:
        image: the acquired volume.
        model: of ``settings``.
        settings: how.
        labels: masks of the volume, by where they belong when they are carried.
        progress: told the share that is done.

    Raises:
        ImageError: a mask is not of this volume.
        SuperResolutionError: as of :func:`super_resolve_within` and :func:`trust_in`.
    """
    memory = settings.memory or memory_budget()
    options = {**settings.options, "strict": settings.strict}
    axis = settings.grid_for(image)[1]
    sr, how = super_resolve_within(model, image, memory=memory, progress=progress, **options)
    masks = {path: carry_labels(mask, image, sr, axis=axis) for path, mask in labels.items()}
    trust, maps = trust_in(image, sr, model, settings)
    return Made(sr, axis, how, trust, maps, masks)


def super_resolve_within(
    model: Model, image: MetaTensor, *, memory: int, progress: Progress | None = None, **options: Any
) -> tuple[MetaTensor, dict[str, Any]]:
    """``model(image)`` in tiles that fit; if memory runs out by smaller ones, and then on the CPU.

    The voxels are the same in any case, to float rounding.

    Args:
        model: what is to run.
        image: the acquired volume.
        memory: bytes that this process may take.
        progress: told the share that is done.
        options: as of :func:`monai_sr.inference.super_resolve`.

    Returns:
        The result, and what a record tells of how it was made: ``engine`` and its version, ``device``,
        ``tile_voxels``, ``ran_out_of_memory``.

    Raises:
        MemoryShortError: no tile fits, or memory runs out on the last step too.
    """
    wanted, _ = wanted_grid(image, **{name: options.get(name) for name in ("spacing", "factor", "axis")})
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
            sr = running(image, tile_voxels=tile, progress=progress, **options)
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
    image: MetaTensor, sr: MetaTensor, model: Model, settings: Settings
) -> tuple[dict[str, Any], dict[str, MetaTensor]]:
    """How far a result may be trusted: what its record tells, and the maps asked for.

    Both are empty for an image that was passed through.

    Raises:
        QualityError: it contradicts the acquired slices by more than the bundle's limit, under ``strict``.
        UsageError: how uncertain it is was asked for, and the bundle does not know.
    """
    if not sr.meta.get("super_resolved"):
        return {}, {}
    axis = settings.options.get("axis")
    found = check_result(
        image,
        sr,
        limit=model.trust.get("consistency", {}).get("limit"),
        strict=settings.strict,
        slice_thickness=settings.options.get("slice_thickness"),
        axis=axis,
    )
    before, after = effective_resolution(image, sr, axis=found.axis)
    told: dict[str, Any] = {
        "consistency": found.summary(),
        "resolution": {"method": METHOD, "before": before.record(), "after": after.record()},
    }
    maps = {"consistency": found.residual} if "consistency" in settings.maps else {}
    if "uncertainty" in settings.maps:
        maps["uncertainty"] = made = uncertainty_map(image, sr, model.trust.get("uncertainty", {}), axis=axis)
        told["uncertainty"] = {"median": float(f"{float(made.median()):.4g}"), "unit": found.unit}
    return told, maps
