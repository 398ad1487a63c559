"""The graphs of our networks in OpenVINO's operations, for a block of rows.

They are built here, not converted. There are few layers, tensors keep the layout of convolutions from one call
to the next, transposed convolutions become convolutions with the same weights, and we decide where to quantize
to 8 bits. OpenVINO's converter also reports its use to its makers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..networks import LinkedPair, PlainPair, PyramidNet, ResidualNet
from .imports import without

Ranges = Mapping[str, Sequence[float]]
"""By name of a tensor, the largest magnitude of each of its channels."""


@cache
def openvino() -> ModuleType:
    """OpenVINO without its telemetry, which otherwise reports to its makers that it was imported.

    Raises:
        UsageError: it is not installed (E-EXTRA).
    """
    try:
        with without("openvino_telemetry"):  # openvino replaces it by a stub that sends nothing
            import openvino
    except ImportError as error:
        raise UsageError("E-EXTRA", "openvino is not installed", fix='pip install "monai-sr[cpu]"') from error
    return openvino


def can_stream(network: nn.Module) -> bool:
    """Whether there is a graph for a network."""
    return type(network) in (ResidualNet, PyramidNet)


def build_graph(
    network: ResidualNet | PyramidNet, levels: int, shape: tuple[int, ...], ranges: Ranges | None, *, lag: int | None
) -> Any:
    """The model of a network for OpenVINO; see :class:`_Graph`."""
    graph = _Graph(shape, ranges, lag=lag)
    return graph.pyramid(network, levels) if isinstance(network, PyramidNet) else graph.residual(network)


@dataclass(frozen=True, eq=False)
class _Rows:
    """A tensor (1, C, x, Y, Z) of a graph.

    Attributes:
        value: in float32, or integers of 8 bits.
        lag: number of rows that it is behind the input of the graph.
        step: (C,) unit of the integers of each channel; None in float32.
    """

    value: Any
    lag: int
    step: np.ndarray | None = None


class _Graph:
    """Builds the graph of a network for one block of rows.

    Every layer continues from the rows that it kept. At the edge of a volume, rows of a layer outside the
    volume are set to 0, as the padding is.

    Args:
        shape: rows, columns and slices (folded ones) of the block.
        ranges: see :class:`monai_sr.engine.openvino.OpenVinoEngine`.
        lag: at the edge, number of rows that the result is behind the block; None elsewhere.
    """

    def __init__(self, shape: tuple[int, ...], ranges: Ranges | None, *, lag: int | None) -> None:
        self.rows, self.columns, self.slices = shape
        self.ranges, self.lag = ranges, lag
        self.op = openvino().opset13
        self.given: list[Any] = []
        self.kept: list[Any] = []
        self.histories: dict[tuple[str, int], _Rows] = {}
        self.within = None if lag is None else self.op.parameter([1, 1, lag + self.rows, 1, 1], np.float32)

    def residual(self, network: ResidualNet) -> Any:
        """The graph of a ResidualNet; its input and output are (1, x, Y, Z/fold, fold)."""
        image = self._input(network.fold)
        x = self._pairs(self._convolved(image, network.head, relu=True), network.body, "head", "body", exact=True)
        return self._model(self._added(image, self._convolved(x, network.tail)))

    def pyramid(self, network: PyramidNet, levels: int) -> Any:
        """The graph of a PyramidNet; its input is (1, x, Y, m, 1), its output (1, x, Y, m·2^levels, 1)."""
        image = self._input(1)
        for after in reversed(range(levels)):
            level = network.earlier if after else network.last
            x = self._convolved(image, level.embed, relu=True)
            x = self._pairs(x, level.body, f"{after}.embed", f"{after}.body")
            seen = self._quantized(self._halves(x, level.double_features), f"{after}.detail", signed=False)
            seen = self._interleaved(seen)
            image = self._added(self._doubled_image(image, network), self._convolved(seen, level.residual))
        return self._model(image)

    # ---------------------------------------------------------------- layers

    def _pairs(self, x: _Rows, body: nn.Sequential, first: str, name: str, *, exact: bool = False) -> _Rows:
        """The pairs of convolutions with their identity links; ``first`` names their input.

        A convolution sees 8 bits. The sum along the links is of these 8 bits too, or, if ``exact``, of float32. That
        takes a quarter more time, but in the nine links of a residual network the rounding adds up: it cost 0.07 dB
        of CT (now 0.01), against 0.01 dB in the four of a pyramid level. The last sum always stays in float32, because
        a cheap layer takes it: in 8 bits it alone cost 0.12 dB of a chest CT.
        """
        seen = self._quantized(x, first, signed=False)
        for index, pair in enumerate(body):
            assert isinstance(pair, LinkedPair)
            plain = isinstance(pair, PlainPair)
            inner = self._convolved(seen, pair.first, relu=True)
            inner = self._quantized(inner, f"{name}.{index}.inner", signed=False)
            outer = self._convolved(inner, pair.second, relu=plain)
            x = outer if plain else self._added(x if exact else seen, outer)
            if index < len(body) - 1:
                seen = self._quantized(x, f"{name}.{index}", signed=not plain)
        return x

    def _convolved(self, x: _Rows, layer: nn.Conv3d, *, relu: bool = False) -> _Rows:
        """A convolution of 3×3×3, padded by zeros, and what is kept for the next rows."""
        op = self.op
        seen = self._with_history(x, 2)
        y = op.convolution(self._even(seen), self._weights(layer.weight, x), [1] * 3, [0, 1, 1], [0, 1, 1], [1] * 3)
        y = op.add(y, op.constant(_array(layer.bias).reshape(1, -1, 1, 1, 1)))
        return self._rows_within(op.relu(y) if relu else y, x.lag + 1)

    def _halves(self, x: _Rows, layer: nn.ConvTranspose3d) -> _Rows:
        """The transposed convolution and its ReLU: the two halves of each slice, all channels of one first.

        Output slice 2i takes taps 1 and 3 of slices i and i − 1, output slice 2i + 1 taps 2 and 0 of i and
        i + 1.
        """
        op, taps = self.op, layer.weight.detach()[:, :, 0, 0, :]
        zero = torch.zeros_like(taps[..., 0])
        even = torch.stack([taps[..., 3], taps[..., 1], zero], dim=-1)
        odd = torch.stack([zero, taps[..., 2], taps[..., 0]], dim=-1)
        weights = torch.cat([even, odd], dim=1).transpose(0, 1)[:, :, None, None, :]
        y = op.convolution(self._even(x), self._weights(weights, x), [1] * 3, [0, 0, 1], [0, 0, 1], [1] * 3)
        y = op.add(y, op.constant(np.tile(_array(layer.bias), 2).reshape(1, -1, 1, 1, 1)))
        return self._rows_within(op.relu(y), x.lag)

    def _doubled_image(self, image: _Rows, network: PyramidNet) -> _Rows:
        """Twice the slices of the image, by the matrix of :meth:`PyramidNet.double_image`."""
        slices = int(image.value.get_output_shape(0)[4])
        unit = torch.eye(slices)[:, None, None, None, :]
        matrix = network.double_image(unit)[:, 0, 0, 0, :]
        return _Rows(self.op.matmul(image.value, self.op.constant(_array(matrix)), False, False), image.lag)

    def _interleaved(self, halves: _Rows) -> _Rows:
        """(1, 2C, x, Y, Z) of halves to (1, C, x, Y, 2Z); best done in 8 bits, because it moves them all."""
        op = self.op
        _, channels, rows, columns, slices = (int(n) for n in halves.value.get_output_shape(0))
        last = op.transpose(halves.value, [0, 2, 3, 4, 1])
        last = op.reshape(last, [1, rows, columns, 2 * slices, channels // 2], False)
        step = None if halves.step is None else halves.step[: channels // 2]
        return _Rows(op.transpose(last, [0, 4, 1, 2, 3]), halves.lag, step)

    def _added(self, x: _Rows, y: _Rows) -> _Rows:
        """``x``, kept back until it is as late as ``y``, plus ``y``."""
        seen = self._with_history(x, y.lag - x.lag)
        late = _Rows(self.op.slice(seen.value, [0], [self.rows], [1], [2]), y.lag, x.step)
        return _Rows(self.op.add(self._real(late), y.value), y.lag)

    # ----------------------------------------------------- from block to block

    def _with_history(self, x: _Rows, count: int) -> _Rows:
        """``x`` behind the last ``count`` rows before it; as many are kept.

        They are gathered and not sliced, because a slice is a view: OpenVINO would keep the whole tensor until
        the end of the call.
        """
        key = (x.value.get_friendly_name(), count)
        if key in self.histories:
            return self.histories[key]
        op, kind = self.op, x.value.get_output_element_type(0)
        _, channels, rows, columns, slices = (int(n) for n in x.value.get_output_shape(0))
        before = op.parameter([1, count, columns, slices, channels], kind)
        self.given.append(before)
        value = op.concat([op.transpose(before, [0, 4, 1, 2, 3]), x.value], 2)
        last = op.transpose(value, [0, 2, 3, 4, 1])
        self.kept.append(op.gather(last, np.arange(rows, rows + count), np.int64(1)))
        self.histories[key] = _Rows(value, x.lag, x.step)
        return self.histories[key]

    def _rows_within(self, value: Any, lag: int) -> _Rows:
        """What a layer makes; at the edge of the volume with zeros where its rows are none of the volume."""
        if self.within is not None:
            assert self.lag is not None
            start = self.lag - lag
            value = self.op.multiply(value, self.op.slice(self.within, [start], [start + self.rows], [1], [2]))
        return _Rows(value, lag)

    def _input(self, channels: int) -> _Rows:
        block = self.op.parameter([1, self.rows, self.columns, self.slices, channels], np.float32)
        self.given.append(block)
        return _Rows(self.op.transpose(block, [0, 4, 1, 2, 3]), 0)

    def _model(self, result: _Rows) -> Any:
        last = self.op.transpose(result.value, [0, 2, 3, 4, 1])
        given = self.given if self.within is None else [*self.given, self.within]
        # in this order kept rows are computed as soon as possible, and their sources are freed
        return openvino().Model([*self.kept, last], given, "monai-sr")

    # ---------------------------------------------------------------- 8 bits

    def _quantized(self, x: _Rows, name: str, *, signed: bool) -> _Rows:
        """``x`` in whole numbers of 8 bits; as it is where everything is float32."""
        if self.ranges is None:
            return x
        op, most = self.op, 127 if signed else 255
        while name not in self.ranges:  # a level deeper than there are ranges for
            level, _, rest = name.partition(".")
            name = f"{int(level) - 1}.{rest}"
        step = np.asarray(self.ranges[name], np.float32) / most
        step = np.tile(step, int(x.value.get_output_shape(0)[1]) // len(step))  # halves are of the same channels
        least = -most if signed else 0
        ends = [(step * end).reshape(1, -1, 1, 1, 1) for end in (least, most)]
        whole = op.fake_quantize(x.value, *ends, np.float32(least), np.float32(most), most - least + 1)
        return _Rows(op.convert(whole, np.int8 if signed else np.uint8), x.lag, step)

    def _real(self, x: _Rows) -> Any:
        """``x`` in float32."""
        if x.step is None:
            return x.value
        return self.op.multiply(self.op.convert(x.value, np.float32), x.step.reshape(1, -1, 1, 1, 1))

    def _even(self, x: _Rows) -> Any:
        """``x`` with one step for all channels, which is what a convolution in 8 bits takes; see :meth:`_weights`."""
        if x.step is None:
            return x.value
        return self.op.multiply(self.op.convert(x.value, np.float32), x.step.max())

    def _weights(self, weight: Tensor, x: _Rows) -> Any:
        """Weights for ``x`` by :meth:`_even`: if that is in 8 bits they are too, with a step for each output channel.

        That the channels of ``x`` differ in their steps is made up for by the weights they meet.
        """
        op, real = self.op, _array(weight)
        if x.step is None:
            return op.constant(real)
        real = real * (x.step / x.step.max()).reshape(1, -1, 1, 1, 1)
        step = np.maximum(np.abs(real).max(axis=(1, 2, 3, 4), keepdims=True), np.finfo(np.float32).tiny) / 127
        whole = op.convert(op.constant(np.round(real / step).astype(np.int8)), np.float32)
        return op.multiply(whole, op.constant(step.astype(np.float32)))


def _array(values: Tensor | None) -> np.ndarray:
    assert values is not None
    return values.detach().float().contiguous().numpy()
