"""The inferers that MONAI's trainer and evaluator call."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Unpack

import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer
from torch import Tensor, nn

from ..engine import Engine
from ..engine.selection import as_engine, make_engine
from ..inference import super_resolve_acquired
from ..slices import enforce_consistency
from ..trust.preparation import NetworkOptions, Settings, acquire


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


FACTS = ("super_resolved", "slice_profile", "filled_slices", "padding_share", "outside_training")
"""Metadata that :func:`monai_sr.inference.super_resolve` adds to a result."""


class SuperResolutionInferer(Inferer):
    """:func:`monai_sr.inference.super_resolve` for MONAI's evaluator: a batch of thick volumes to thin ones.

    An evaluator keeps the input's affine, so ``SuperResolvedGridd`` must follow, with the same spacing, factor
    and axis.

    Args:
        engine, precision, quality, int8: see :func:`monai_sr.engine.selection.make_engine`; the network must not be
            trained further.
        options: see :class:`NetworkOptions`.

    Attributes:
        defaults: the settings.
        facts: of each result of the last call, the metadata of :data:`FACTS`.
    """

    def __init__(
        self,
        *,
        engine: str = "torch",
        precision: str = "auto",
        quality: str = "usual",
        int8: str | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None:
        super().__init__()
        self.engine: dict[str, Any] = {"engine": engine, "precision": precision, "quality": quality, "int8": int8}
        self.defaults = Settings.of(**options)
        self._computed: Engine | None = None
        self.facts: list[dict[str, Any]] = []

    def __call__(self, inputs: Tensor, network: nn.Module | None, *args: Any, **kwargs: Any) -> Tensor:
        """(B, 1, X, Y, Z) MetaTensor in the file's units to (B, 1, X', Y', Z')."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        if not isinstance(inputs, MetaTensor):
            images = list(inputs)
        elif inputs.is_batch:
            images = decollate_batch(inputs)
        else:  # image[None], as in MONAI Label, with the metadata of one image
            images = [MetaTensor(voxels, meta=inputs.meta) for voxels in inputs.as_tensor()]
        computed = self.engine_for(network)
        acquired = (acquire(image, self.defaults.acquisition, self.defaults.wanted) for image in images)
        results = [super_resolve_acquired(volume, computed, self.defaults) for volume in acquired]
        self.facts = [{name: result.meta[name] for name in FACTS if name in result.meta} for result in results]
        return torch.stack([result.as_tensor() for result in results])

    def engine_for(self, network: nn.Module | None) -> Engine:
        """The engine of the network, kept between calls; an evaluator loads weights before the first."""
        if self._computed is None or self._computed.network is not network:
            self._computed = as_engine(None) if network is None else make_engine(network, **self.engine)
        return self._computed
