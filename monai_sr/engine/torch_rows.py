"""Networks computed by torch on the CPU, a few rows at a time, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import RowLayers, Rows, doubling_matrix
from .sizes import TorchRowsSizes
from .streaming import Block, StreamedEngine
from .weights import Weights


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (AVX512_BF16, with or without AMX); without, it is slower."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


class TorchRowsEngine(TorchRowsSizes, StreamedEngine):
    """A ResidualNet or PyramidNet computed by torch on the CPU.

    Args:
        network: in eval mode on the CPU, in float32, or its weights.
        precision: "float32", or "bfloat16" for the convolutions; the image and its sums stay in float32.
    """

    def with_network(self, network: nn.Module) -> TorchRowsEngine:
        """See :meth:`Engine.with_network`."""
        return TorchRowsEngine(network, self.precision)

    def block(self, shape: tuple[int, ...], levels: int, *, lag: int, edge: bool) -> Block:
        return _Eager(self.weights, shape[0], levels, lag if edge else None, getattr(torch, self.precision))


class _Eager(RowLayers):
    """Operations run at once; see :class:`monai_sr.engine.streaming.Block`.

    In memory, channels are last, as the convolutions of oneDNN want them.
    """

    def __init__(self, network: Weights, rows: int, levels: int, lag: int | None, dtype: torch.dtype) -> None:
        super().__init__(rows, lag)
        self.network, self.levels, self.dtype = network, levels, dtype

    def __call__(self, part: np.ndarray, kept: list[Tensor], within: np.ndarray) -> np.ndarray:
        self.kept, self.next, self.within = kept, 0, torch.from_numpy(within)
        image = torch.from_numpy(part).permute(0, 4, 1, 2, 3)
        return self.compute(self.network, image, self.levels).permute(0, 2, 3, 4, 1).numpy()

    def nothing(self) -> list[Tensor]:
        """Layers add what they keep in the first call."""
        return []

    def release(self) -> None:
        """Nothing is held between calls."""

    def convolve(self, x: Rows, weight: np.ndarray, bias: np.ndarray, padding: Sequence[int], *, relu: bool) -> Tensor:
        """See :meth:`RowLayers.convolve`; by oneDNN, which torch by itself does not use for a few narrow rows."""
        seen, kernel, offset = (torch.as_tensor(values).to(self.dtype) for values in (x.value, weight, bias))
        seen, kernel = (values.contiguous(memory_format=torch.channels_last_3d) for values in (seen, kernel))
        if torch.backends.mkldnn.is_available():
            y = torch.mkldnn_convolution(seen, kernel, offset, list(padding), [1] * 3, [1] * 3, 1)
        else:
            y = F.conv3d(seen, kernel, offset, padding=tuple(padding))
        return y.relu_() if relu else y

    def extend(self, value: Tensor, count: int) -> Tensor:
        if self.next == len(self.kept):
            shape = (*value.shape[:2], count, *value.shape[3:])
            self.kept.append(value.new_zeros(shape).contiguous(memory_format=torch.channels_last_3d))
        before = self.kept[self.next]
        self.next += 1
        value = torch.cat([before, value], dim=2)
        before.copy_(value[:, :, -count:])
        return value

    def add(self, late: Rows, value: Tensor) -> Tensor:
        return value.to(late.value.dtype).add_(late.value[:, :, : self.rows])

    def mask(self, value: Tensor, start: int) -> Tensor:
        return value.mul_(self.within[:, :, start : start + self.rows].to(value.dtype))

    def double(self, image: Tensor) -> Tensor:
        return image @ torch.from_numpy(doubling_matrix(image.shape[4]))

    def interleave(self, halves: Rows) -> Rows:
        """See :meth:`RowLayers.interleave`; in memory they lie side by side already."""
        last = halves.value.permute(0, 2, 3, 4, 1)
        _, rows, columns, slices, channels = last.shape
        last = last.reshape(1, rows, columns, 2 * slices, channels // 2)
        return Rows(last.permute(0, 4, 1, 2, 3), halves.lag)
