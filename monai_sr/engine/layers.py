"""Our networks for a block of rows: the same layers for every engine, each continuing from the rows that it kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..slices import doubling_taps
from .weights import Layer, Pairs, PyramidWeights, ResidualWeights, Weights


@dataclass(frozen=True, eq=False)
class Rows:
    """A tensor (1, C, x, Y, Z) between two layers.

    Attributes:
        value: in the engine's type; integers of 8 bits where ``step`` is given.
        lag: number of rows that it is behind the input of the network.
        step: (C,) unit of the integers of each channel; None otherwise.
        extended: by number of rows, this tensor behind as many rows before it.
    """

    value: Any
    lag: int
    step: np.ndarray | None = None
    extended: dict[int, Rows] = field(default_factory=dict)


class RowLayers(ABC):
    """The layers of a network for one block of rows, in the operations of an engine.

    Every layer continues from the rows that it kept. At the edge of a volume, rows of a layer outside the
    volume are set to 0, as the padding is.

    Args:
        rows: number of rows of a block.
        lag: at the edge, number of rows that the result is behind the block; None elsewhere.
    """

    def __init__(self, rows: int, lag: int | None) -> None:
        self.rows, self.lag = rows, lag

    def compute(self, network: Weights, image: Any, levels: int) -> Any:
        """The output of a network for the next block of its input.

        Args:
            network: its weights.
            image: (1, fold, x, Y, Z/fold).
            levels: how often the network doubles the slices.

        Returns:
            (1, fold, x, Y, Z/fold·2^levels), ``lag`` rows behind the input.
        """
        rows = Rows(image, 0)
        if isinstance(network, PyramidWeights):
            return self._pyramid(network, rows, levels).value
        return self._residual(network, rows).value

    def _residual(self, network: ResidualWeights, image: Rows) -> Rows:
        x = self._convolved(image, network.head, relu=True)
        x = self._pairs(x, network.body, "head", "body", links=network.links, exact=True)
        return self._added(image, self._convolved(x, network.tail))

    def _pyramid(self, network: PyramidWeights, image: Rows, levels: int) -> Rows:
        for after in reversed(range(levels)):
            level = network.earlier if after else network.last
            x = self._convolved(image, level.embed, relu=True)
            x = self._pairs(x, level.body, f"{after}.embed", f"{after}.body")
            seen = self.quantize(self._halves(x, level.double_features), f"{after}.detail", signed=False)
            detail = self._convolved(self.interleave(seen), level.residual)
            image = self._added(Rows(self.double(image.value), image.lag), detail)
        return image

    # ---------------------------------------------------------------- layers

    def _pairs(self, x: Rows, body: Pairs, first: str, name: str, *, links: bool = True, exact: bool = False) -> Rows:
        """The pairs of convolutions, with identity links unless they have none; ``first`` names their input.

        In 8 bits, a convolution sees 8 bits. The sum along the links is of these 8 bits too, or, if ``exact``, of
        float32. That takes a quarter more time, but in the nine links of a residual network the rounding adds up: it
        cost 0.07 dB of CT (now 0.01), against 0.01 dB in the four of a pyramid level. The last sum always stays in
        float32, because a cheap layer takes it: in 8 bits it alone cost 0.12 dB of a chest CT.
        """
        seen = self.quantize(x, first, signed=False)
        for index, (one, two) in enumerate(body):
            inner = self._convolved(seen, one, relu=True)
            inner = self.quantize(inner, f"{name}.{index}.inner", signed=False)
            outer = self._convolved(inner, two, relu=not links)
            x = self._added(x if exact else seen, outer) if links else outer
            if index < len(body) - 1:
                seen = self.quantize(x, f"{name}.{index}", signed=links)
        return x

    def _convolved(self, x: Rows, layer: Layer, *, relu: bool = False) -> Rows:
        """A convolution of 3×3×3, padded by zeros, and what is kept for the next rows."""
        seen = self._with_history(x, 2)
        return self._within(self.convolve(seen, layer.weight, layer.bias, [0, 1, 1], relu=relu), x.lag + 1)

    def _halves(self, x: Rows, layer: Layer) -> Rows:
        """The transposed convolution and its ReLU: the two halves of each slice, all channels of one first.

        Output slice 2i takes taps 1 and 3 of slices i and i − 1, output slice 2i + 1 taps 2 and 0 of i and
        i + 1.
        """
        taps = layer.weight[:, :, 0, 0, :]
        zero = np.zeros_like(taps[..., 0])
        even = np.stack([taps[..., 3], taps[..., 1], zero], axis=-1)
        odd = np.stack([zero, taps[..., 2], taps[..., 0]], axis=-1)
        weights = np.concatenate([even, odd], axis=1).swapaxes(0, 1)[:, :, None, None, :]
        return self._within(self.convolve(x, weights, np.tile(layer.bias, 2), [0, 0, 1], relu=True), x.lag)

    def _added(self, x: Rows, y: Rows) -> Rows:
        """``x``, kept back until it is as late as ``y``, plus ``y``."""
        late = self._with_history(x, y.lag - x.lag)
        return Rows(self.add(late, y.value), y.lag)

    def _with_history(self, x: Rows, count: int) -> Rows:
        """``x`` behind the last ``count`` rows before it; as many are kept."""
        if count not in x.extended:
            x.extended[count] = Rows(self.extend(x.value, count), x.lag, x.step)
        return x.extended[count]

    def _within(self, value: Any, lag: int) -> Rows:
        """What a layer makes; at the edge of the volume with zeros where its rows are outside the volume."""
        return Rows(value if self.lag is None else self.mask(value, self.lag - lag), lag)

    # ------------------------------------------------------------ operations

    @abstractmethod
    def convolve(self, x: Rows, weight: np.ndarray, bias: np.ndarray, padding: Sequence[int], *, relu: bool) -> Any:
        """A convolution of stride 1."""

    @abstractmethod
    def extend(self, value: Any, count: int) -> Any:
        """``value`` behind the rows that were kept; its own last ``count`` rows are kept."""

    @abstractmethod
    def add(self, late: Rows, value: Any) -> Any:
        """``value`` plus the first rows of ``late``; ``value`` is not used again."""

    @abstractmethod
    def mask(self, value: Any, start: int) -> Any:
        """``value`` with zeros outside the volume; its first row is number ``start`` of those that may be."""

    @abstractmethod
    def double(self, image: Any) -> Any:
        """Twice the slices of an image, by :func:`doubling_matrix`."""

    @abstractmethod
    def interleave(self, halves: Rows) -> Rows:
        """(1, 2C, x, Y, Z) of halves to (1, C, x, Y, 2Z)."""

    def quantize(self, x: Rows, name: str, *, signed: bool) -> Rows:
        """``x`` in whole numbers of 8 bits, if the engine computes in these."""
        return x


def doubling_matrix(slices: int) -> np.ndarray:
    """(m, 2m) matrix of :meth:`monai_sr.networks.PyramidNet.double_image`, applied from the right."""
    taps = doubling_taps()
    made, slice_, half = np.zeros((slices, slices, 2), np.float32), np.arange(slices), taps.shape[1] // 2
    for tap, weights in enumerate(taps.T):
        np.add.at(made, (np.clip(slice_ + tap - half, 0, slices - 1), slice_), weights)
    return made.reshape(slices, 2 * slices)
