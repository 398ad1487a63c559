"""Loss functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..slices import apply_along, profile_matrix


class CharbonnierLoss(nn.Module):
    """Mean of ``√(d² + ε²) − ε``: an absolute error that is smooth at zero.

    Args:
        epsilon: for smaller differences (of normalized intensity) the loss is quadratic.

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
    """Deep supervision: compares every level with the reference as a scanner would acquire it at that level.

    A level with slices f times as thick as the finest is compared with the reference averaged by a Gaussian
    slice profile of that thickness, not with every f-th slice of it.

    Args:
        loss: loss of one level, default :class:`CharbonnierLoss`.

    Source: Lai 2017, equation 2 (sum over levels).
    """

    def __init__(self, loss: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss or CharbonnierLoss()

    def forward(self, levels: Sequence[Tensor] | Tensor, hr: Tensor) -> Tensor:
        """Args: ``levels`` from coarse to fine, the last on the grid of ``hr``; a single tensor is the last level."""
        outputs = [levels] if isinstance(levels, Tensor) else list(levels)
        return torch.stack([self.loss(sr, level_target(hr, sr.shape[-1])) for sr in outputs]).sum()


class LogErrorLoss(nn.Module):
    """Logarithm of each crop's mean squared error: the gain in dB, whatever the contrast of the crop.

    Args:
        before: weight of the levels before the last one.
        floor: added to the error, so that a crop without content counts little.
        margin: voxels at the in-plane borders that do not count, because the network lacks what is beyond.
    """

    def __init__(self, before: float = 0.3, floor: float = 2e-6, margin: int = 4) -> None:
        super().__init__()
        self.before, self.floor, self.margin = before, floor, margin

    def forward(self, levels: Sequence[Tensor] | Tensor, hr: Tensor) -> Tensor:
        """Args: ``levels`` from coarse to fine, the last on the grid of ``hr`` (B, 1, X, Y, n), or that one alone."""
        outputs = [levels] if isinstance(levels, Tensor) else list(levels)
        inside = slice(self.margin, -self.margin or None)
        errors = [
            (sr - level_target(hr, sr.shape[-1]))[:, :, inside, inside].square().flatten(1).mean(1) for sr in outputs
        ]
        losses = [torch.log(error + self.floor).mean() for error in errors]
        return losses[-1] + self.before * sum(losses[:-1], start=torch.zeros_like(losses[-1]))


def level_target(hr: Tensor, slices: int) -> Tensor:
    """``hr`` (..., n) averaged to ``slices`` slices with a thickness equal to their spacing."""
    n = hr.shape[-1]
    if n == slices:
        return hr
    if n % slices:
        raise ValueError(f"{n} thin slices are not a multiple of {slices}")
    factor = n // slices
    thick = torch.arange(slices, dtype=torch.float64) * factor + (factor - 1) / 2
    return apply_along(profile_matrix(torch.arange(n), thick, slice_thickness=factor), hr)
