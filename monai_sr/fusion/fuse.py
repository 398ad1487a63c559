"""Several stacks of one patient into one volume: register, scale, combine, and agree with every stack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..acquired import Acquired
from ..batch.model import super_resolve_within
from ..bundles import Model, load_bundle
from ..engine import Progress, part_of
from ..engine.memory import PROCESS, MemoryShortError, memory_budget
from ..errors import ImageError, UsageError, collect_notices, give, naming, warn
from ..grid import Grid, grid_of, on_grid
from ..intensities import CT_LEAST
from ..io.adapters import IN_MEMORY, as_volume
from ..options import Wanted
from ..trust.resolution import Resolution, measure_resolution
from ..trust.uncertainty import constants_for, through_plane_detail
from .operators import is_known, resample
from .options import Field
from .prior import combine
from .registration import SMALL_MOTION, Motion, align, coarse
from .scaling import Scaling, fit_scaling, mean_over_cubes
from .solver import Term, solve
from .stacks import Stack, are_parallel, common_grid
from .trust import Agreement, error_of_several, measure_agreement, warn_of_disagreement
from .weights import weigh

PER_VOXEL, PER_STACK = 64, 8
"""Bytes per voxel of the common grid, and more of them for each stack: peak resident memory of two oblique stacks fused
to 320³ voxels, rounded up."""

FINEST = 4.0
"""The factor at most that a stack is super-resolved by: another stack measures finer detail across its slices, and at
×6 the result is the same to 0.02 dB."""

AFTER_RESULTS, AFTER_MOTION, AFTER_PRIOR, AFTER_WEIGHTS = 0.5, 0.65, 0.7, 0.8
"""Fractions of the work that are done after super-resolution, registration, combination and weighing."""


@dataclass(frozen=True, eq=False)
class FusedStack:
    """What was made of one stack.

    Attributes:
        name: of its file, or its number.
        acquired: as acquired.
        motion: its registration to the first stack.
        scaling: of its intensities.
        noise: standard deviation of its noise, in the units of the first stack.
        weight: median of its voxels beside 1 of the prior.
        agreement: of the fused volume with its slices.
    """

    name: str
    acquired: Acquired
    motion: Motion
    scaling: Scaling
    noise: float
    weight: float
    agreement: Agreement

    def record(self) -> dict[str, Any]:
        """For JSON: what was done to it, and the agreement with it."""
        motion, scaling = self.motion, self.scaling
        return {
            "acquired": self.acquired.record(),
            "motion": {
                "used": motion.is_used,
                "mm": round(motion.mm, 3),
                "degrees": round(motion.degrees, 3),
                "matrix": np.round(motion.used, 6).tolist(),
                "correlation_before": _digits(motion.before),
                "correlation_after": _digits(motion.after),
            },
            "scaling": {"gain": _digits(scaling.gain), "offset": _digits(scaling.offset)}
            | ({"smooth": [_digits(c) for c in scaling.smooth]} if scaling.smooth else {}),
            "noise": _digits(self.noise),
            "weight": _digits(self.weight),
            "consistency": self.agreement.record(),
        }


def _digits(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Fused:
    """A fused volume.

    Attributes:
        image: (1, X, Y, Z) on the common grid, in the units of the first stack.
        stacks: what was made of each.
        count: (X, Y, Z) how many stacks measured a voxel.
        nearest: (X, Y, Z) which stack measured closest to a voxel, from 1; 0 for none.
        spread: (X, Y, Z) mean squared difference of the super-resolved stacks around a voxel, less that of noise.
        constants: of the bundle for the uncertainty of its results; empty for one that was not calibrated.
    """

    image: MetaTensor
    stacks: tuple[FusedStack, ...]
    count: Tensor
    nearest: Tensor
    spread: Tensor
    constants: Mapping[str, Any]

    def uncertainty(self) -> MetaTensor:
        """The predicted standard deviation of the error of each voxel.

        Where one stack alone measured, it is predicted as that of a run, see :mod:`monai_sr.trust.uncertainty`;
        elsewhere by :func:`monai_sr.fusion.trust.error_of_several`.

        Returns:
            (1, X, Y, Z) in the units of the image; 0 where no stack measured.

        Raises:
            UsageError: one stack alone measured some voxels, and the bundle was not calibrated for its modality.
        """
        sigma = error_of_several(self.spread, self.count, [stack.noise for stack in self.stacks])
        grid = grid_of(self.image)
        for number, stack in enumerate(self.stacks, 1):
            alone = (self.count == 1) & (self.nearest == number)
            if not bool(alone.any()):
                continue
            acquired = stack.acquired
            axis = int(np.abs(grid.affine[:3, :3].T @ acquired.grid.affine[:3, acquired.axis]).argmax())
            factor = acquired.slice_spacing / grid.spacing[axis]
            floor, slope = constants_for(self.constants, acquired.modality, factor)
            unit = 1.0 if acquired.modality == "CT" else stack.agreement.value_range
            detail = through_plane_detail(self.image[0].numpy(), grid, axis, acquired.slice_spacing)
            sigma[alone] = torch.from_numpy(detail)[alone].mul_(slope).square_().add_((floor * unit) ** 2).sqrt_()
        return on_grid(torch.where(self.count > 0, sigma, 0.0)[None], grid, self.image)

    def resolution(self, axis: int) -> Resolution:
        """Along an axis of the result: the effective slice thickness, see :mod:`monai_sr.trust.resolution`."""
        grid = grid_of(self.image)
        along = grid.affine[:3, axis] / grid.spacing[axis]
        # the slices that lie across this axis best give the scale
        acquired = [stack.acquired for stack in self.stacks]
        best = max(acquired, key=lambda a: abs(float(along @ a.grid.affine[:3, a.axis])) / a.grid.spacing[a.axis])
        found, spacing = measure_resolution(self.image, axis, lag=best.slice_spacing / 2), grid.spacing[axis]
        return replace(found, mm=spacing, bounded="at most") if found.mm < spacing else found


def fuse(
    stacks: Sequence[Any],
    model: Model | None = None,
    *,
    spacing: float | None = None,
    field: Field = "union",
    register: bool = True,
    names: Sequence[str] = (),
    strict: bool = False,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Fused:
    """One isotropic volume from stacks of one patient and one contrast, in any planes.

    Each stack is super-resolved, registered to the first by a rigid motion and brought to its intensities. The
    results are averaged by confidence, and the mean is corrected until it agrees with every stack as acquired,
    as far as noise allows. CT is not scaled. Motion between the slices of one stack is not corrected.

    Args:
        stacks: at least two volumes as of :func:`monai_sr.super_resolve`, or their
            :class:`monai_sr.acquired.Acquired`. The first gives axes, position and intensities.
        model: a loaded bundle. Default: pyramid.
        spacing: of the result, mm. Default: the finest in-plane spacing.
        field: what the result covers: the "union" of the stacks, their "intersection", or the "first".
        register: find rigid motions between the stacks; otherwise the positions in their headers are used.
        names: of the stacks, for messages. Default: their files.
        strict: raise an error instead of a warning that a result may not be better than interpolation.
        memory: bytes that may be used. Default: the free memory.
        progress: called with the fraction that is done.

    Raises:
        UsageError: fewer than two stacks (E-FUSE-FEW), or an invalid spacing or field.
        ImageError: the stacks differ in modality or contrast (E-FUSE-UNLIKE) or have nothing in common
            (E-FUSE-OVERLAP), or one of them cannot be processed.
        MemoryShortError: the common grid does not fit into memory.
    """
    if len(stacks) < 2:
        raise UsageError("E-FUSE-FEW", f"{len(stacks)} stack(s) (minimum 2)", fix="use monai-sr run for one stack")
    report = progress or (lambda done: None)
    placed = _as_stacks(stacks, names)
    if are_parallel([stack.normal for stack in placed]):
        warn("W-FUSE-PLANE", "all stacks have their slices in one plane; they are averaged and little detail is gained")
    memory = memory_budget() if memory is None else memory
    wanted = spacing or min(stack.in_plane_spacing for stack in placed)
    _check_memory(common_grid(placed, spacing=wanted, field="first" if register else field), len(placed), memory)
    model = model or load_bundle("pyramid")
    results = []
    for number, stack in enumerate(placed):
        done = part_of(report, AFTER_RESULTS * number / len(placed), AFTER_RESULTS / len(placed))
        thin = Wanted(spacing=_slice_spacing(stack, wanted, model), strict=strict)
        results.append(_super_resolve(model, stack, thin, memory, done))
        report(AFTER_RESULTS * (number + 1) / len(placed))
    images = [_coarse(stack, sr) for stack, sr in zip(placed, results, strict=True)]
    motions = align(images, [stack.name for stack in placed], shortest=SMALL_MOTION * wanted, register=register)
    placed = [stack.by(motion.used) for stack, motion in zip(placed, motions, strict=True)]
    report(AFTER_MOTION)
    placed, results, scalings = _scaled(placed, results)
    grid = common_grid(placed, spacing=wanted, field=field)
    _check_memory(grid, len(placed), memory)
    prior = combine(placed, results, grid)
    del results
    report(AFTER_PRIOR)
    terms, residuals = weigh(placed, grid, prior, progress=part_of(report, AFTER_PRIOR, AFTER_WEIGHTS - AFTER_PRIOR))
    done = part_of(report, AFTER_WEIGHTS, 0.97 - AFTER_WEIGHTS)
    sr = solve(prior.mean, terms, residuals, variance=prior.relative, progress=done)
    sr = _possible(sr, placed)
    agreements = [measure_agreement(stack, term, sr) for stack, term in zip(placed, terms, strict=True)]
    warn_of_disagreement(placed, agreements)
    image = on_grid(sr[None], grid, placed[0].acquired.image)
    image.meta["super_resolved"] = True
    for acquired in ("filled_slices", "padding_value", "padding_share"):  # of the first stack
        image.meta.pop(acquired, None)
    report(1.0)
    made = [
        FusedStack(stack.name, stack.acquired, motion, scaling, stack.noise, _mean_weight(term), agreement)
        for stack, motion, scaling, term, agreement in zip(placed, motions, scalings, terms, agreements, strict=True)
    ]
    constants = model.calibration.get("uncertainty", {})
    return Fused(image, tuple(made), prior.count, prior.nearest, prior.spread, constants)


def _as_stacks(stacks: Sequence[Any], names: Sequence[str]) -> list[Stack]:
    """The stacks where their headers put them, of one modality."""
    placed = []
    for number, stack in enumerate(stacks):
        volume = stack if isinstance(stack, Tensor | Acquired) else as_volume(stack)[0]
        acquired = volume if isinstance(volume, Acquired) else Acquired.of(volume)
        path = "" if acquired.path == IN_MEMORY else acquired.path
        name = names[number] if number < len(names) else path or f"stack {number + 1}"
        with naming(name):
            placed.append(Stack.of(acquired, name))
    modalities = {stack.acquired.modality for stack in placed}
    if len(modalities) > 1:
        listing = ", ".join(f"{stack.name}: {stack.acquired.modality}" for stack in placed)
        problem = f"the stacks differ in modality ({listing})"
        raise ImageError("E-FUSE-UNLIKE", problem, fix="fuse those of one modality")
    return placed


def _check_memory(grid: Grid, stacks: int, memory: int) -> None:
    """Refuse a common grid that surely does not fit.

    Raises:
        MemoryShortError: E-MEM.
    """
    needed = PROCESS + (PER_VOXEL + PER_STACK * stacks) * math.prod(grid.shape)
    if needed > memory:
        raise MemoryShortError(
            "E-MEM",
            f"the common grid of {grid.in_words()} takes about {needed / 2**20:.0f} MiB, "
            f"{memory / 2**20:.0f} MiB may be used",
            fix="ask for a coarser --spacing, or for --field intersection",
        )


def _slice_spacing(stack: Stack, wanted: float, model: Model) -> float:
    """For the thin slices of a stack, mm: no finer than its pixels, and by no larger factor than :data:`FINEST`."""
    most = min(FINEST, (model.defaults.factor_range or (1.0, math.inf))[1])
    return max(wanted, stack.in_plane_spacing, stack.acquired.slice_spacing / most)


def _super_resolve(model: Model, stack: Stack, wanted: Wanted, memory: int, progress: Progress | None) -> MetaTensor:
    """The thin slices of a stack; the stack itself if it is as fine already."""
    grid = stack.acquired.wanted_grid(spacing=wanted.spacing)
    if stack.acquired.lies_on(grid):
        return on_grid(stack.voxels[None], grid, stack.acquired.image)
    with collect_notices() as notices:
        sr = super_resolve_within(model, stack.acquired, wanted, memory=memory, progress=progress)[0]
    for notice in notices:
        give(notice.at(stack.name))  # type: ignore[arg-type]
    assert isinstance(sr, MetaTensor)  # as its stack
    outside = stack.acquired.padding[0]
    if outside is None:
        return sr
    return on_grid(torch.where(sr.as_tensor() == outside, stack.acquired.air(0), sr.as_tensor()), grid, sr)


def _scaled(
    placed: Sequence[Stack], results: Sequence[MetaTensor]
) -> tuple[list[Stack], list[MetaTensor], list[Scaling]]:
    """MR stacks and their results in the intensities of the first; CT as it is."""
    scalings = [Scaling()]
    stacks, made = [placed[0]], [results[0]]
    first = _coarse(placed[0], results[0])
    for stack, sr in zip(placed[1:], results[1:], strict=True):
        scaling, grid = Scaling(), stack.moved(grid_of(sr))
        if stack.acquired.modality == "MR":
            values, known, there = _coarse(stack, sr)
            reference, inside = resample(first[0], first[2], there)
            mask = known & inside & is_known(first[1], first[2], there)
            # their different blur does not matter for means over cubes as large as a slice is thick
            cube = max(s.acquired.slice_spacing for s in (placed[0], stack))
            (reference, values), mask, there = mean_over_cubes((reference, values), mask, there, cube)
            scaling = fit_scaling(reference, values, mask, there)
        scalings.append(scaling)
        stacks.append(replace(stack, voxels=scaling.apply(stack.voxels, stack.grid)))
        made.append(on_grid(scaling.apply(sr.as_tensor()[0], grid)[None], grid_of(sr), sr))
    return stacks, made, scalings


def _coarse(stack: Stack, sr: MetaTensor) -> tuple[Tensor, Tensor, Grid]:
    """A result, its measured voxels and its grid as moved, at the working spacing of registration."""
    grid = stack.moved(grid_of(sr))
    return coarse(sr.as_tensor()[0].cpu(), is_known(stack.known, stack.grid, grid), grid)


def _mean_weight(term: Term) -> float:
    seen = term.weight[term.operator.seen]
    return float(seen.median()) if len(seen) else 0.0


def _possible(sr: Tensor, placed: Sequence[Stack]) -> Tensor:
    """Values that can be: no CT below what scanners store, no signal below 0 where the stacks have none."""
    lowest = min(float(stack.voxels[stack.known].min()) for stack in placed)
    if placed[0].acquired.modality == "CT":
        lowest = min(lowest, CT_LEAST)
    return sr.clamp_(min=lowest) if lowest == 0 or placed[0].acquired.modality == "CT" else sr
