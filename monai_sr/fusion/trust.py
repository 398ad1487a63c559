"""How far a fused volume may be trusted: its agreement with every stack, and which stack disagrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import warn
from ..intensities import data_range
from .solver import Term
from .stacks import Stack

DISAGREES = 1.7
"""A stack disagrees if its residual is so many times the median of the others'."""

DISAGREES_NRMSE = 0.02
"""... and at least this fraction of its range; smaller residuals are noise and rounding."""

NOISE, SLOPES = 1.39, (1.16, 0.676)
"""Standard deviation of the error, as a multiple of that of the noise, and of the spread of two stacks and of more."""

FARTHER, OF_FARTHER = 15, 0.457
"""Voxels a side of a wider neighborhood, and how much its spread counts. All of these are fitted on simulated stacks:
maximum likelihood of a Laplace distribution, see README.md."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """The difference between a stack and the fused volume, acquired again.

    Attributes:
        residual: (X, Y, Z) of the stack, ``y - A T x`` in the units of the first stack; NaN where not compared.
        nrmse: its root mean square, divided by the range of the stack (99.9th minus 0.1st percentile).
        slice_nrmse: (m,) of each slice; NaN where not compared.
        unit: "HU", or "signal" for MR.
        value_range: of the stack.
    """

    residual: Tensor
    nrmse: float
    slice_nrmse: np.ndarray
    unit: str
    value_range: float

    @property
    def worst_slice(self) -> int:
        """Index of the slice with the largest NRMSE."""
        return int(np.nanargmax(self.slice_nrmse))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        compared = np.isfinite(self.slice_nrmse)
        return {
            "nrmse": float(f"{self.nrmse:.4g}"),
            "score": float(f"{np.nanmax(self.slice_nrmse):.4g}") if compared.any() else None,
            "worst_slice": self.worst_slice if compared.any() else None,
            "slices_compared": int(compared.sum()),
            "unit": self.unit,
            "range": float(f"{self.value_range:.4g}"),
        }


def measure_agreement(stack: Stack, term: Term, sr: Tensor) -> Agreement:
    """Acquire the fused volume again as a stack was acquired, and compare."""
    seen = term.operator.seen
    residual = torch.where(seen, term.residual(sr), torch.nan)
    span = data_range(stack.voxels[stack.known].numpy())
    lines = torch.movedim(residual, stack.acquired.axis, -1).double().square().flatten(0, -2)
    sums, counts = lines.nansum(dim=0), (~lines.isnan()).sum(dim=0)
    each = (sums / counts).sqrt().numpy() / span  # NaN where nothing is compared
    total = float((sums.sum() / counts.sum()).sqrt()) / span
    unit = "HU" if stack.acquired.modality == "CT" else "signal"
    return Agreement(residual, total, each, unit, span)


def warn_of_disagreement(stacks: Sequence[Stack], agreements: Sequence[Agreement]) -> None:
    """Name a stack whose residual is far above that of the others."""
    scores = np.array([agreement.nrmse for agreement in agreements])
    for number, (stack, score) in enumerate(zip(stacks, scores, strict=True)):
        others = float(np.median(np.delete(scores, number)))
        if score > max(DISAGREES * others, DISAGREES_NRMSE):
            text = "the result misses its slices by {nrmse:.3g} of the range, those of the other stacks by {others:.3g}"
            warn("W-FUSE-STACK", text, path=stack.name, facts={"nrmse": float(score), "others": others})


def error_of_several(spread: Tensor, count: Tensor, noise: Sequence[float]) -> Tensor:
    """The predicted standard deviation of the error where several stacks measured: ``σ² = (a n)² + c² (s + b s')``.

    Args:
        spread: (X, Y, Z) mean squared difference ``s`` of the super-resolved stacks around a voxel, less that of
            noise; ``s'`` is its mean farther around.
        count: (X, Y, Z) how many stacks measured a voxel.
        noise: ``n``, standard deviation of the noise of each stack; the mean of the squares counts.
    """
    farther = torch.from_numpy(ndimage.uniform_filter(spread.numpy(), FARTHER, mode="nearest"))
    squared = farther.mul_(OF_FARTHER).add_(spread)
    squared *= torch.where(count > 2, SLOPES[1] ** 2, SLOPES[0] ** 2)
    return squared.add_(NOISE**2 * float(np.mean(np.square(noise)))).sqrt_()
