"""Maps laid over pictures: what does not agree with the acquired slices, and what is uncertain.

Colors of a map are a palette of few steps, transparent where there is nothing to see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from monai.data import MetaTensor

from ..intensities import Modality
from ..trust.consistency import Consistency
from .png import data_url

LEAST_LIMIT = {"CT": 5.0, "MR": 0.01}
"""The strongest color of the consistency map stands for at least so many HU, or so much of the range of an MR
image: below, there is only rounding."""

HALF_OPAQUE = 140
"""Opacity of the strongest color, of 255: the anatomy below stays visible."""

_STEPS = 24
"""Steps from nothing to the limit: more would cost space and not be seen."""

_BELOW, _ABOVE = ((222, 240, 255), (58, 146, 255)), ((255, 236, 214), (255, 96, 43))
_GROWING = ((60, 15, 110), (187, 55, 84), (249, 142, 8), (252, 255, 164))
"""Few of the colors of matplotlib's "inferno", which gray-scale prints and color-blind readers keep apart."""


@dataclass(frozen=True)
class Overlay:
    """How a map is drawn.

    Attributes:
        kind: "consistency" or "uncertainty".
        title: what its colors mean.
        limit: value of the strongest color, in the file's units; beyond it the color stays.
        signed: whether values go both ways.
        unit: of the values.
    """

    kind: str
    title: str
    limit: float
    signed: bool
    unit: str

    @property
    def palette(self) -> np.ndarray:
        """(k, 4) uint8, in the middle (signed) or first of which is transparent."""
        rising = np.linspace(0, 1, _STEPS + 1)
        alpha = np.minimum(HALF_OPAQUE, 300 * rising)
        if not self.signed:
            return np.column_stack([_ramp(rising, _GROWING), alpha]).round().astype(np.uint8)
        above = np.column_stack([_ramp(rising, _ABOVE), alpha])
        below = np.column_stack([_ramp(rising, _BELOW), alpha])
        return np.concatenate([below[:0:-1], above]).round().astype(np.uint8)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Place of each value in the palette; NaN is nothing to see."""
        steps = np.rint(np.clip(np.nan_to_num(values) / self.limit, -1 if self.signed else 0, 1) * _STEPS)
        return (steps + (_STEPS if self.signed else 0)).astype(np.uint8)

    def picture(self, values: np.ndarray) -> str:
        """The source of an ``<img>``; empty if there is nothing to see."""
        codes = self.codes(values)
        if (codes == (_STEPS if self.signed else 0)).all():
            return ""
        return data_url(codes, self.palette)

    def scale(self) -> str:
        """A color bar with its ends in words, as HTML."""
        colors = [f"rgba({r},{g},{b},{a / 255:.2f}) {100 * i / (len(self.palette) - 1):.1f}%"
                  for i, (r, g, b, a) in enumerate(self.palette.tolist())]  # fmt: skip
        unit = f" {self.unit}" if self.unit == "HU" else ""
        low = f"−{self.limit:g}{unit}" if self.signed else "0"
        return (
            f'<div class="scale {self.kind}"><b>{escape(self.title)}</b><span>{low}</span>'
            f'<i style="background-image:linear-gradient(90deg,{",".join(colors)})"></i>'
            f"<span>{'+' if self.signed else '≥ '}{self.limit:g}{unit}</span></div>"
        )


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(f"{power * f:.12g}" for f in (1, 2, 5, 10) if power * f >= value * (1 - 1e-9)))


def _ramp(shares: np.ndarray, colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(k, 3) colors between the given ones."""
    knots = np.linspace(0, 1, len(colors))
    return np.column_stack([np.interp(shares, knots, [c[channel] for c in colors]) for channel in range(3)])


def consistency_overlay(found: Consistency, modality: Modality) -> Overlay:
    """The map of what a result does not give back, in colors that rounding alone does not reach."""
    least = LEAST_LIMIT[modality] * (1.0 if modality == "CT" else found.value_range)
    least = max(least, 4 * found.rounding)
    values = np.abs(found.residual.as_tensor()[0].numpy())
    strong = float(np.nanpercentile(values[..., :: max(1, values.shape[-1] // 64)], 99.5))
    limit = round_up(max(least, strong))
    return Overlay("consistency", f"Acquired less re-acquired ({found.unit})", limit, True, found.unit)


def uncertainty_overlay(uncertainty: MetaTensor, modality: Modality) -> Overlay:
    """The map of standard deviations, the strongest color for the 99th percentile of them."""
    voxels = uncertainty.as_tensor()[0].numpy()
    strong = float(np.nanpercentile(voxels[..., :: max(1, voxels.shape[-1] // 64)], 99))
    unit = "HU" if modality == "CT" else "signal"
    return Overlay("uncertainty", f"Predicted standard deviation of the error ({unit})", round_up(strong), False, unit)
