"""Joint consistency: the volume that agrees with every stack and is near a prior, by conjugate gradients.

The unknowns are a multiplier for each voxel of a stack, not the voxels of the volume: ``x = prior + D Σ Aᵢᵀ λᵢ``, where
``D`` is the variance of the prior and ``(W⁻¹ + A D Aᵀ) λ = y - A prior``. The diagonal of this system is known, and
dividing by it evens out what noise, contradictions and the variance differ by from place to place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine import Progress
from .operators import StackOperator

ITERATIONS = 5
"""Steps of conjugate gradients at most. More changed no result of ``monai-sr evaluate --fuse`` by 0.05 dB."""

ENOUGH = 1e-3
"""The residual has fallen to this fraction of its first size: nothing is left to do."""


@dataclass(frozen=True, eq=False)
class Term:
    """What one stack contributes: ``Σ weight · (A T x - y)²`` over its voxels.

    Attributes:
        operator: ``A T``.
        slices: ``y``, (X, Y, Z) of the stack, in the units of the first stack.
        weight: (X, Y, Z) of the stack, relative to the weight 1 of the prior; 0 where not seen.
    """

    operator: StackOperator
    slices: Tensor
    weight: Tensor

    def residual(self, x: Tensor) -> Tensor:
        """``y - A T x``; 0 where not seen."""
        return torch.where(self.operator.seen, self.slices - self.operator.forward(x), 0.0)


def solve(
    prior: Tensor,
    terms: Sequence[Term],
    residuals: Sequence[Tensor] | None = None,
    *,
    variance: Tensor | None = None,
    iterations: int = ITERATIONS,
    progress: Progress | None = None,
) -> Tensor:
    """The minimum of ``Σ weight_i (A_i T_i x - y_i)² + (x - prior)² / variance``.

    Args:
        prior: (X, Y, Z).
        terms: one for each stack.
        residuals: of the prior for each stack. Default: measured.
        variance: (X, Y, Z) of the prior, positive. Default: 1.
        iterations: at most.
        progress: called with the fraction that is done.

    Returns:
        (X, Y, Z), a new tensor.

    Source: Hestenes 1952, "Methods of conjugate gradients for solving linear systems".
    """
    residuals = [term.residual(prior) for term in terms] if residuals is None else residuals
    multipliers, _ = _multipliers(terms, residuals, variance, iterations, progress)
    return _spread(terms, multipliers, variance).add_(prior)


def remaining(
    terms: Sequence[Term], residuals: Sequence[Tensor], *, iterations: int, progress: Progress | None = None
) -> list[Tensor]:
    """``y - A T x`` of each stack for the solution ``x``, from the residuals of the prior, which has the variance 1."""
    multipliers, left = _multipliers(terms, residuals, None, iterations, progress)
    return [r + _inverse(term.weight) * m for term, r, m in zip(terms, left, multipliers, strict=True)]


def _multipliers(
    terms: Sequence[Term],
    residuals: Sequence[Tensor],
    variance: Tensor | None,
    iterations: int,
    progress: Progress | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """``λ`` of each stack, and what is left of the equations."""
    errors = [_inverse(term.weight) for term in terms]
    scales = []
    for term, error in zip(terms, errors, strict=True):
        around = torch.ones(()) if variance is None else term.operator.forward(variance)
        scales.append(torch.where(term.weight > 0, 1 / (error + term.operator.squares * around), 0.0))
    left = [torch.where(term.weight > 0, r, 0.0) for term, r in zip(terms, residuals, strict=True)]
    made = [torch.zeros_like(r) for r in left]
    direction = [scale * r for scale, r in zip(scales, left, strict=True)]
    size = first = _dot(left, direction)
    for step in range(iterations):
        if size <= ENOUGH**2 * first or size == 0:
            break
        change = _spread(terms, direction, variance)
        curved = [
            torch.where(term.weight > 0, term.operator.forward(change).add_(error * d), 0.0)
            for term, error, d in zip(terms, errors, direction, strict=True)
        ]
        length = size / _dot(direction, curved)
        for m, r, d, c in zip(made, left, direction, curved, strict=True):
            m += length * d
            r -= length * c
        scaled = [scale * r for scale, r in zip(scales, left, strict=True)]
        before, size = size, _dot(left, scaled)
        direction = [d.mul_(size / before).add_(z) for d, z in zip(direction, scaled, strict=True)]
        if progress is not None:
            progress((step + 1) / iterations)
    if progress is not None:
        progress(1.0)
    return made, left


def _spread(terms: Sequence[Term], multipliers: Sequence[Tensor], variance: Tensor | None) -> Tensor:
    """``D Σ Aᵢᵀ λᵢ``: (X, Y, Z) on the common grid."""
    first, *others = zip(terms, multipliers, strict=True)
    made = first[0].operator.adjoint(first[1]).contiguous()
    for term, values in others:
        made += term.operator.adjoint(values)
    return made if variance is None else made.mul_(variance)


def _inverse(weight: Tensor) -> Tensor:
    """The variance of a voxel of a stack; 0 where it is not seen."""
    return torch.where(weight > 0, 1 / weight, 0.0)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product, summed plane by plane: float32 alone would lose digits."""
    return sum(float(torch.einsum("xyz,xyz->x", p, q).double().sum()) for p, q in zip(a, b, strict=True))
