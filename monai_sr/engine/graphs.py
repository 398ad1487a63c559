"""The graphs of our networks in OpenVINO's operations, for a block of rows.

They are built here, not converted. There are few layers, tensors keep the layout of convolutions from one call
to the next, transposed convolutions become convolutions with the same weights, and we decide where to quantize
to 8 bits. OpenVINO's converter also reports its use to its makers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UsageError
from .imports import without
from .layers import RowLayers, Rows, doubling_matrix
from .weights import Weights

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


def build_graph(
    network: Weights, levels: int, shape: tuple[int, ...], ranges: Ranges | None, *, lag: int | None
) -> Any:
    """The model of a network for OpenVINO.

    Its inputs are the block (1, x, Y, Z/fold, fold), the rows that layers kept and, at the edge, which rows are inside
    the volume. Its outputs are the rows to keep and the result (1, x, Y, Z/fold·2^levels, fold).

    Args:
        network: its weights.
        levels: how often the network doubles the slices.
        shape: rows, columns and slices (folded ones) of the block.
        ranges: see :class:`monai_sr.engine.openvino.OpenVinoEngine`.
        lag: see :class:`monai_sr.engine.layers.RowLayers`.
    """
    graph = _Graph(shape[0], lag, ranges)
    block = graph.op.parameter([1, *shape, network.fold], np.float32)
    result = graph.compute(network, graph.op.transpose(block, [0, 4, 1, 2, 3]), levels)
    last = graph.op.transpose(result, [0, 2, 3, 4, 1])
    within = [] if graph.within is None else [graph.within]
    # in this order kept rows are computed as soon as possible, and their sources are freed
    return openvino().Model([*graph.kept, last], [block, *graph.given, *within], "monai-sr")


class _Graph(RowLayers):
    """Operations become nodes of a graph.

    Args:
        rows, lag: see :class:`monai_sr.engine.layers.RowLayers`.
        ranges: see :func:`build_graph`.
    """

    def __init__(self, rows: int, lag: int | None, ranges: Ranges | None) -> None:
        super().__init__(rows, lag)
        self.ranges, self.op = ranges, openvino().opset13
        self.given: list[Any] = []
        self.kept: list[Any] = []
        self.within = None if lag is None else self.op.parameter([1, 1, lag + rows, 1, 1], np.float32)

    def convolve(self, x: Rows, weight: np.ndarray, bias: np.ndarray, padding: Sequence[int], *, relu: bool) -> Any:
        op, padding = self.op, list(padding)
        y = op.convolution(self._even(x), self._weights(weight, x), [1] * 3, padding, padding, [1] * 3)
        y = op.add(y, op.constant(bias.reshape(1, -1, 1, 1, 1)))
        return op.relu(y) if relu else y

    def extend(self, value: Any, count: int) -> Any:
        """See :meth:`RowLayers.extend`.

        Kept rows are gathered and not sliced, because a slice is a view: OpenVINO would keep the whole tensor until
        the end of the call.
        """
        op = self.op
        _, channels, rows, columns, slices = _shape(value)
        before = op.parameter([1, count, columns, slices, channels], value.get_output_element_type(0))
        self.given.append(before)
        value = op.concat([op.transpose(before, [0, 4, 1, 2, 3]), value], 2)
        last = op.transpose(value, [0, 2, 3, 4, 1])
        self.kept.append(op.gather(last, np.arange(rows, rows + count), np.int64(1)))
        return value

    def add(self, late: Rows, value: Any) -> Any:
        first = self.op.slice(late.value, [0], [self.rows], [1], [2])
        if late.step is not None:
            first = self.op.multiply(self.op.convert(first, np.float32), late.step.reshape(1, -1, 1, 1, 1))
        return self.op.add(first, value)

    def mask(self, value: Any, start: int) -> Any:
        return self.op.multiply(value, self.op.slice(self.within, [start], [start + self.rows], [1], [2]))

    def double(self, image: Any) -> Any:
        return self.op.matmul(image, self.op.constant(doubling_matrix(_shape(image)[4])), False, False)

    def interleave(self, halves: Rows) -> Rows:
        """See :meth:`RowLayers.interleave`; best done in 8 bits, because it moves them all."""
        op = self.op
        _, channels, rows, columns, slices = _shape(halves.value)
        last = op.transpose(halves.value, [0, 2, 3, 4, 1])
        last = op.reshape(last, [1, rows, columns, 2 * slices, channels // 2], False)
        step = None if halves.step is None else halves.step[: channels // 2]
        return Rows(op.transpose(last, [0, 4, 1, 2, 3]), halves.lag, step)

    # ---------------------------------------------------------------- 8 bits

    def quantize(self, x: Rows, name: str, *, signed: bool) -> Rows:
        """``x`` in whole numbers of 8 bits; as it is where everything is float32."""
        if self.ranges is None:
            return x
        op, most = self.op, 127 if signed else 255
        while name not in self.ranges:  # a level deeper than there are ranges for
            level, _, rest = name.partition(".")
            name = f"{int(level) - 1}.{rest}"
        step = np.asarray(self.ranges[name], np.float32) / most
        step = np.tile(step, _shape(x.value)[1] // len(step))  # halves are of the same channels
        least = -most if signed else 0
        ends = [(step * end).reshape(1, -1, 1, 1, 1) for end in (least, most)]
        whole = op.fake_quantize(x.value, *ends, np.float32(least), np.float32(most), most - least + 1)
        return Rows(op.convert(whole, np.int8 if signed else np.uint8), x.lag, step)

    def _even(self, x: Rows) -> Any:
        """``x`` with one step for all channels, which is what a convolution in 8 bits takes; see :meth:`_weights`."""
        if x.step is None:
            return x.value
        return self.op.multiply(self.op.convert(x.value, np.float32), x.step.max())

    def _weights(self, weight: np.ndarray, x: Rows) -> Any:
        """Weights for ``x`` by :meth:`_even`: if that is in 8 bits they are too, with a step for each output channel.

        That the channels of ``x`` differ in their steps is made up for by the weights they meet.
        """
        op, real = self.op, np.ascontiguousarray(weight)
        if x.step is None:
            return op.constant(real)
        real = real * (x.step / x.step.max()).reshape(1, -1, 1, 1, 1)
        step = np.maximum(np.abs(real).max(axis=(1, 2, 3, 4), keepdims=True), np.finfo(np.float32).tiny) / 127
        whole = op.convert(op.constant(np.round(real / step).astype(np.int8)), np.float32)
        return op.multiply(whole, op.constant(step.astype(np.float32)))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in value.get_output_shape(0))
