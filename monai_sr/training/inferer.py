"""The inferer that training calls: the network's proposal, made consistent with the slices."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ..slices import enforce_consistency


class ConsistentInferer(Inferer):
    """The training path of both networks on crops: the network, then consistency with the crop.

    Args:
        bfloat16: let the network's convolutions work in bfloat16, at less than half the cost on a
            processor that has such instructions (avx512_bf16, amx). Weights, the image that is passed
            along, consistency and loss keep full precision.

    Args of the call:
        inputs: what the network sees, from ``RandSimulateThickSlicesd``.
        network: ResidualNet, SRCNN or PyramidNet, bare or in DistributedDataParallel.
        acquired, acquisition, spline: y, A and B of the crops, batched.

    Returns:
        The consistent volume; from a PyramidNet in training the list of its levels, the last one
        consistent.
    """

    def __init__(self, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        spline = kwargs["spline"]
        is_pyramid = getattr(bare, "works_on", "thin") == "thick"
        levels = [round(math.log2(spline.shape[-2] / spline.shape[-1]))] if is_pyramid else []
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            outputs = network(inputs, *levels)
        # consistency is exact only in full precision, also under automatic mixed precision
        with torch.autocast(inputs.device.type, enabled=False):
            last = outputs[-1] if isinstance(outputs, list) else outputs
            last = enforce_consistency(last.float(), kwargs["acquired"], kwargs["acquisition"], spline)
        return [*outputs[:-1], last] if isinstance(outputs, list) else last
