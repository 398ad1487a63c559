"""What the networks are trained to make small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..slices import apply_along, profile_matrix


class CharbonnierLoss(nn.Module):
    """Mean of ``√(d² + ε²) − ε``: an absolute error that is smooth at zero.

    Args:
        epsilon: below this difference (of normalized intensity) it acts like a square.

    Source: Charbonnier 1994; Lai 2017 (LapSRN), equation 3, with ε = 1e-3.
    """

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Args: ``sr``, ``hr`` of one shape. Returns: a scalar, 0 where they are equal."""
        if sr.shape != hr.shape:
            raise ValueError(f"sr has shape {tuple(sr.shape)}, hr {tuple(hr.shape)}; they must be equal")
        return torch.sqrt((sr - hr) ** 2 + self.epsilon**2).mean() - self.epsilon


class PyramidLoss(nn.Module):
    """Deep supervision: every level against the truth as a scanner of that level would see it.

    A level with slices f times as thick as the finest is compared with the truth averaged by a
    Gaussian slice profile of that thickness, not with every f-th slice of it.

    Args:
        loss: compares one level, default :class:`CharbonnierLoss`.

    Source: Lai 2017, equation 2 (sum over levels).
    """

    def __init__(self, loss: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss or CharbonnierLoss()

    def forward(self, levels: Sequence[Tensor] | Tensor, hr: Tensor) -> Tensor:
        """Args: ``levels`` lowest first, the last on the grid of ``hr``; one tensor counts as the last."""
        outputs = [levels] if isinstance(levels, Tensor) else list(levels)
        return torch.stack([self.loss(sr, level_target(hr, sr.shape[-1])) for sr in outputs]).sum()


def level_target(hr: Tensor, slices: int) -> Tensor:
    """``hr`` (..., n) averaged to ``slices`` slices that are as thick as they are apart."""
    n = hr.shape[-1]
    if n == slices:
        return hr
    if n % slices:
        raise ValueError(f"{n} thin slices do not divide into {slices}")
    factor = n // slices
    thick = torch.arange(slices, dtype=torch.float64) * factor + (factor - 1) / 2
    return apply_along(profile_matrix(torch.arange(n), thick, slice_thickness=factor), hr)
