"""Maps over pictures: difference from the acquired slices, and uncertainty.

A map has a palette of few steps, transparent at zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from ..grid import Image
from ..intensities import Modality, as_array
from ..trust.consistency import Consistency
from .png import data_url

MIN_LIMIT = {"CT": 5.0, "MR": 0.01}
"""Minimum value of the strongest color of the consistency map: HU, or fraction of the range of an MR image. Smaller
differences are rounding."""

HALF_OPAQUE = 140
"""Opacity of the strongest color, of 255: the anatomy below stays visible."""

_STEPS = 24
"""Steps from zero to the limit: more would not be visible."""

_BELOW, _ABOVE = ((222, 240, 255), (58, 146, 255)), ((255, 236, 214), (255, 96, 43))
_LABELS = ((86, 180, 233), (230, 159, 0), (204, 121, 167), (0, 158, 115), (240, 228, 66))
"""Okabe and Ito's colors, distinguishable by color-blind readers."""

LABEL_OPAQUE = 80
"""Opacity of labels, of 255."""

_GROWING = ((60, 15, 110), (187, 55, 84), (249, 142, 8), (252, 255, 164))
"""Some colors of matplotlib's "inferno", distinguishable in gray-scale prints and by color-blind readers."""


@dataclass(frozen=True)
class Overlay:
    """How a map is drawn.

    Attributes:
        kind: "consistency", "uncertainty" or "stacks".
        title: meaning of the colors.
        limit: value of the strongest color, in the units of the file.
        signed: whether values are positive and negative.
        unit: unit of the values.
        names: of the values 1, 2, 3 ...; empty where they are no labels.
    """

    kind: str
    title: str
    limit: float
    signed: bool = False
    unit: str = ""
    names: tuple[str, ...] = ()

    @property
    def palette(self) -> np.ndarray:
        """(k, 4) uint8; the middle (signed) or first color is transparent."""
        if self.names:
            colors = [(*_LABELS[n % len(_LABELS)], LABEL_OPAQUE) for n in range(len(self.names))]
            return np.array([(0, 0, 0, 0), *colors], dtype=np.uint8)
        rising = np.linspace(0, 1, _STEPS + 1)
        alpha = np.minimum(HALF_OPAQUE, 300 * rising)
        if not self.signed:
            return np.column_stack([_ramp(rising, _GROWING), alpha]).round().astype(np.uint8)
        above = np.column_stack([_ramp(rising, _ABOVE), alpha])
        below = np.column_stack([_ramp(rising, _BELOW), alpha])
        return np.concatenate([below[:0:-1], above]).round().astype(np.uint8)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Index of each value in the palette; NaN is transparent."""
        if self.names:
            return np.asarray(values, dtype=np.uint8)
        steps = np.rint(np.clip(np.nan_to_num(values) / self.limit, -1 if self.signed else 0, 1) * _STEPS)
        return (steps + (_STEPS if self.signed else 0)).astype(np.uint8)

    def picture(self, values: np.ndarray) -> str:
        """The source of an ``<img>``; empty if all is transparent."""
        codes = self.codes(values)
        if (codes == (_STEPS if self.signed else 0)).all():
            return ""
        return data_url(codes, self.palette)

    def scale(self) -> str:
        """A color bar with its ends in words, as HTML."""
        if self.names:
            return self._legend()
        colors = [f"rgba({r},{g},{b},{a / 255:.2f}) {100 * i / (len(self.palette) - 1):.1f}%"
                  for i, (r, g, b, a) in enumerate(self.palette.tolist())]  # fmt: skip
        unit = f" {self.unit}" if self.unit == "HU" else ""
        low = f"−{self.limit:g}{unit}" if self.signed else "0"
        return (
            f'<div class="scale {self.kind}"><b>{escape(self.title)}</b><span>{low}</span>'
            f'<i style="background-image:linear-gradient(90deg,{",".join(colors)})"></i>'
            f"<span>{'+' if self.signed else '≥ '}{self.limit:g}{unit}</span></div>"
        )

    def _legend(self) -> str:
        """The colors of labels with their names, as HTML."""
        items = "".join(
            f'<i style="background:rgb({r},{g},{b})"></i><span>{escape(name)}</span>'
            for (r, g, b, _), name in zip(self.palette[1:].tolist(), self.names, strict=True)
        )
        return f'<div class="scale labels {self.kind}"><b>{escape(self.title)}</b>{items}</div>'


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(f"{power * f:.12g}" for f in (1, 2, 5, 10) if power * f >= value * (1 - 1e-9)))


def _ramp(fractions: np.ndarray, colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(k, 3) colors interpolated between the given colors."""
    knots = np.linspace(0, 1, len(colors))
    return np.column_stack([np.interp(fractions, knots, [c[channel] for c in colors]) for channel in range(3)])


def consistency_overlay(consistency: Consistency, modality: Modality) -> Overlay:
    """The map of the difference from the acquired slices, with a limit above rounding."""
    minimum = MIN_LIMIT[modality] * (1.0 if modality == "CT" else consistency.value_range)
    minimum = max(minimum, 4 * consistency.rounding)
    values = np.abs(as_array(consistency.residual)[0])
    strong = float(np.nanpercentile(values[..., :: max(1, values.shape[-1] // 64)], 99.5))
    limit = round_up(max(minimum, strong))
    return Overlay("consistency", f"Acquired minus re-acquired ({consistency.unit})", limit, True, consistency.unit)


def uncertainty_overlay(uncertainty: Image, modality: Modality) -> Overlay:
    """The map of standard deviations, the strongest color for the 99th percentile of them."""
    voxels = as_array(uncertainty)[0]
    strong = float(np.nanpercentile(voxels[..., :: max(1, voxels.shape[-1] // 64)], 99))
    unit = "HU" if modality == "CT" else "signal"
    return Overlay("uncertainty", f"Predicted standard deviation of the error ({unit})", round_up(strong), False, unit)
