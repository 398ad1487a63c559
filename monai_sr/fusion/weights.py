"""How much each voxel of a stack weighs beside the prior: noise, and contradictions between the stacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from scipy import ndimage
from torch import Tensor

from ..engine import Progress
from ..grid import Grid
from ..intensities import data_range
from .operators import operator_of
from .prior import Prior
from .solver import Term, remaining
from .stacks import Stack

NOISE_FLOOR = 0.004
"""Fraction of the range that a stack is never trusted below: rounding, interpolation between pixels."""

FIRST_WEIGHT, FIRST_ITERATIONS = 100.0, 3
"""Of the first solution, which shows how far the stacks can be brought together at all."""

LEFT = 0.2
"""Fraction of the residual of the prior that the first solution leaves of stacks that do not contradict each other."""

CONTRADICTION = 4.0
"""The error of a voxel, as a multiple of what the first solution leaves (mean squares): it goes to all stacks."""

WEIGHTS = (0.05, 400.0)
"""Minimum and maximum weight of a voxel of a stack beside that of the prior."""


def weigh(
    stacks: Sequence[Stack], grid: Grid, prior: Prior, *, progress: Progress | None = None
) -> tuple[list[Term], list[Tensor]]:
    """What each stack contributes to the joint solution, and the residuals of the prior.

    A voxel weighs as much as its error is smaller than that of the prior, which is the spread of the stacks about
    their mean. Its error is the noise, a fraction of the range, and the contradiction around it: a solution that
    follows the stacks alone cannot agree with stacks between which something moved, was distorted or looks different.
    """
    terms = [Term(op, s.voxels, FIRST_WEIGHT * op.seen) for s in stacks for op in [operator_of(s, grid)]]
    residuals = [term.residual(prior.mean) for term in terms]
    left = remaining(terms, residuals, iterations=FIRST_ITERATIONS, progress=progress)
    weighed = [_weighed(*each, prior) for each in zip(stacks, terms, residuals, left, strict=True)]
    return weighed, residuals


def _weighed(stack: Stack, term: Term, before: Tensor, left: Tensor, prior: Prior) -> Term:
    """A term with the weights of its errors, from the residuals of the prior and of the first solution."""
    span = data_range(stack.voxels[stack.known].numpy())
    noise = stack.noise**2
    least = noise + (NOISE_FLOOR * span) ** 2
    spread = prior.variance if math.isfinite(prior.variance) else least
    before, left = (_local_mean_square(stack, residual) for residual in (before, left))
    contradiction = (left - noise - LEFT**2 * before).clamp_(min=0)
    weight = (spread / (least + CONTRADICTION * contradiction)).clamp_(*WEIGHTS)
    return replace(term, weight=torch.where(term.operator.seen, weight, 0.0))


def _local_mean_square(stack: Stack, residual: Tensor) -> Tensor:
    """(X, Y, Z) over cubes of three slices."""
    acquired = stack.acquired
    size = [max(1, round(3 * acquired.slice_spacing / s)) for s in acquired.grid.spacing]
    return torch.from_numpy(ndimage.uniform_filter(residual.numpy() ** 2, size, mode="nearest"))
