"""PSNR and SSIM inside the body, as metrics of MONAI's evaluator."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics.metric import CumulativeIterationMetric
from torch import Tensor

from ..evaluation.metrics import foreground, psnr, ssim
from ..intensities import data_range


class ForegroundPSNR(CumulativeIterationMetric):
    """:func:`monai_sr.evaluation.metrics.psnr` as a MONAI metric: own data range and foreground of each item."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        assert y is not None
        return torch.tensor([[self._one(sr, hr)] for sr, hr in zip(y_pred, y, strict=True)])

    def _one(self, sr: Tensor, hr: Tensor) -> float:
        truth = hr[0].detach().cpu().numpy()
        return psnr(sr[0].detach().cpu().numpy(), truth, value_range=data_range(truth), mask=foreground(truth))

    def aggregate(self) -> Tensor:  # type: ignore[override]
        """The mean over all items."""
        data = self.get_buffer()
        return data[torch.isfinite(data)].mean()


class ForegroundSSIM(ForegroundPSNR):
    """:func:`monai_sr.evaluation.metrics.ssim` as a MONAI metric for bundles."""

    def _one(self, sr: Tensor, hr: Tensor) -> float:
        truth = hr[0].detach().cpu().numpy()
        return ssim(sr[0].detach().cpu().numpy(), truth, value_range=data_range(truth), mask=foreground(truth))
