"""What is known before joint consistency: the super-resolved stacks, combined by how close each measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from ..acquired import Acquired
from ..grid import Grid, grid_of
from .operators import EDGE, is_known, resample
from .stacks import Stack

FAINT = 1e-3
"""Confidence at the edge of a stack, where another one takes over."""

NOISE_IN_SPREAD = 1.5
"""Noise variances that are taken off the spread of the stacks: where they differ by noise alone, their mean is best."""

ERROR_OF_SPREAD = 3.0
"""Variance of the mean, divided by the spread of the stacks about it: they err alike."""

AROUND = 5
"""Voxels a side, over which the local spread is averaged. All of these are fitted on simulated stacks."""


@dataclass(frozen=True, eq=False)
class Prior:
    """The combined stacks on the common grid.

    Attributes:
        mean: (X, Y, Z) weighted mean; the lowest value where no stack measured.
        variance: mean squared difference of the stacks from it where several measured; NaN where none did.
        everywhere: of ``variance``, the fraction that noise does not explain.
        relative: (X, Y, Z) variance of the error of the mean around a voxel, divided by ``variance``; positive.
        count: (X, Y, Z) uint8, how many stacks measured a voxel.
        nearest: (X, Y, Z) uint8, the stack of the largest confidence, from 1; 0 where none measured.
    """

    mean: Tensor
    variance: float
    everywhere: float
    relative: Tensor
    count: Tensor
    nearest: Tensor

    @property
    def spread(self) -> Tensor:
        """(X, Y, Z) mean squared difference of the stacks around a voxel that noise does not explain."""
        if not self.variance > 0:
            return torch.zeros_like(self.relative)
        return (self.relative * (2 / ERROR_OF_SPREAD)).sub_(self.everywhere).clamp_(min=0).mul_(self.variance)


def combine(stacks: Sequence[Stack], results: Sequence[MetaTensor], grid: Grid) -> Prior:
    """Combine super-resolved stacks.

    Args:
        stacks: where they were moved to.
        results: of each, (1, X, Y, Z) on its own grid, in the intensities of the first stack.
        grid: the common one.
    """
    total, weights, squares = (torch.zeros(grid.shape) for _ in range(3))
    best = torch.zeros(grid.shape)
    count, nearest = (torch.zeros(grid.shape, dtype=torch.uint8) for _ in range(2))
    for number, (stack, sr) in enumerate(zip(stacks, results, strict=True), 1):
        values, inside = resample(sr.as_tensor()[0].cpu(), stack.moved(grid_of(sr)), grid)
        known = inside & is_known(stack.known, stack.grid, grid)
        weight = torch.where(known, confidence(stack, grid), 0.0)
        count += known
        nearest = torch.where(weight > best, number, nearest)
        best = torch.maximum(best, weight)
        total += weight * values
        squares += weight * values.square_()
        weights += weight
    lowest = min(float(stack.voxels[stack.known].min()) for stack in stacks)
    mean = torch.where(weights > 0, total / weights.clamp(min=1e-12), lowest)
    spread = torch.where(count > 1, squares.div_(weights.clamp_(min=1e-12)).sub_(mean.square()).clamp_(min=0), 0.0)
    several = int((count > 1).sum())
    variance = float(spread.double().sum()) / several if several else float("nan")
    everywhere, relative = _relative(spread, variance, [stack.noise for stack in stacks])
    return Prior(mean, variance, everywhere, relative, count, nearest)


def _relative(spread: Tensor, variance: float, noise: Sequence[float]) -> tuple[float, Tensor]:
    """The variance of the error of the mean: half of it is that around a voxel, half of it that of all."""
    if not variance > 0:
        return 1.0, torch.ones_like(spread)
    low, by_noise = 1e-3, NOISE_IN_SPREAD * float(np.mean(np.square(noise))) / variance
    around = torch.from_numpy(ndimage.uniform_filter(spread.numpy(), AROUND, mode="nearest")).div_(variance)
    everywhere = max(low, 1 - by_noise)
    return everywhere, around.sub_(by_noise).clamp_(min=low).add_(everywhere).mul_(ERROR_OF_SPREAD / 2)


def confidence(stack: Stack, grid: Grid) -> Tensor:
    """How well a stack knows each voxel, 0 to 1.

    1 at the center of a slice; less between slices, the farther from the nearest one, in units of its thickness;
    and fading to the edge of the field of view within one slice spacing, so that no seam is left there.
    """
    acquired, index = stack.acquired, np.linalg.inv(stack.grid.affine) @ grid.affine
    made = torch.ones(grid.shape)
    for axis, size in enumerate(stack.grid.shape):
        lines = [index[axis, k] * torch.arange(n, dtype=torch.float32) for k, n in enumerate(grid.shape)]
        # where the stack is parallel to the grid, one line holds all places along an axis
        flat = [np.abs(index[axis, k]) * n < EDGE for k, n in enumerate(grid.shape)]
        lines = [torch.zeros(1) if still else line for still, line in zip(flat, lines, strict=True)]
        place = float(index[axis, 3]) + lines[0][:, None, None] + lines[1][:, None] + lines[2]
        spacing = stack.grid.spacing[axis]
        edge = torch.minimum(place + 0.5, size - 0.5 - place) * (spacing / acquired.slice_spacing)
        made *= edge.clamp_(FAINT, 1)
        if axis == acquired.axis:
            thickness = float(np.mean(acquired.slice_thickness))
            made /= 1 + (_distance_to_slice(acquired, place.mul_(spacing)) / thickness).square_()
    return made


def _distance_to_slice(acquired: Acquired, at: Tensor) -> Tensor:
    """mm from positions across the slices to the nearest slice; ``at`` counts from the first slice."""
    centers = torch.from_numpy(acquired.positions_from_first).float()
    if acquired.is_even:
        step = float(centers[1] - centers[0])
        return (at - (at / step).round_().clamp_(0, len(centers) - 1).mul_(step)).abs_()
    after = torch.bucketize(at.contiguous(), centers).clamp_(1, len(centers) - 1)
    return torch.minimum((at - centers[after - 1]).abs(), (at - centers[after]).abs())
