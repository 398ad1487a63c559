"""Compare measurements of a result with those of the thin reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..intensities import Modality, data_range
from .features import FEATURES, measure_features
from .structures import Region, measure_lung, measure_structures

THICK, REFERENCE = "thick", "reference"
"""Methods of :class:`Measurement`: each acquired slice repeated, and the thin slices themselves."""

BLOCK = 20.0
"""Side of the regions of which features are compared, mm."""

BIN_WIDTH = 25.0
"""HU; gray levels of CT. Those of MR are 1/32 of the data range of the reference."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of one method on one volume, or one block of it.

    Attributes:
        group: condition and factor, such as "x4"; a pair has "pair".
        block: number of the block; None for the whole volume.
    """

    volume: str
    modality: Modality
    group: str
    method: str
    block: int | None
    name: str
    value: float


@dataclass
class Study:
    """Collects measurements of volumes and methods."""

    measurements: list[Measurement] = field(default_factory=list)

    def begin(self, volume: str, group: str, region: Region, thick: np.ndarray) -> Subject:
        """Measure the reference of a volume, and its thick slices.

        Args:
            volume, group: see :class:`Measurement`.
            region: of the reference.
            thick: (X, Y, Z), each thick slice repeated on the grid of the reference.
        """
        subject = Subject(self, volume, group, region, list(_blocks(region)))
        subject.add(REFERENCE, region.reference)
        subject.add(THICK, thick)
        return subject

    def pairs(self, modality: str, group: str, name: str, method: str, *, blocks: bool) -> tuple[np.ndarray, ...]:
        """(n,) values of a method and (n,) of the reference, of all volumes or of all their blocks."""
        of = modality, group, name, blocks
        chosen = [m for m in self.measurements if (m.modality, m.group, m.name, m.block is not None) == of]
        values, true = ({(m.volume, m.block): m.value for m in chosen if m.method == w} for w in (method, REFERENCE))
        both = [(value, true.get(key, np.nan)) for key, value in values.items()]
        known = np.array([pair for pair in both if np.isfinite(pair).all()]).reshape(-1, 2)
        return known[:, 0], known[:, 1]


@dataclass(frozen=True)
class Subject:
    """One volume under measurement."""

    study: Study
    volume: str
    group: str
    region: Region
    blocks: list[tuple[slice, ...]]

    def add(self, method: str, voxels: np.ndarray) -> None:
        """Measure the (X, Y, Z) result of a method, on the grid of the reference."""
        rows: list[tuple[int | None, dict[str, float]]] = [(None, measure_structures(self.region, voxels))]
        rows += [(number, self._block(voxels, where)) for number, where in enumerate(self.blocks)]
        labels = self.volume, self.region.modality, self.group, method
        self.study.measurements += [
            Measurement(*labels, number, name, value) for number, row in rows for name, value in row.items()
        ]

    def _block(self, voxels: np.ndarray, where: tuple[slice, ...]) -> dict[str, float]:
        region, part = self.region, voxels[where]
        body, lung = region.body[where], region.lung[where]
        is_ct = region.modality == "CT"
        width = BIN_WIDTH if is_ct else data_range(region.reference) / 32
        figures = measure_features(part, body, bin_width=width)
        if is_ct:
            for structure, (low, high) in region.thresholds.items():
                if structure != "airways and lungs":
                    figures[f"{structure} %"] = 100 * float(((part >= low) & (part <= high))[body].mean())
        if 2 * lung.sum() > lung.size:
            figures |= measure_lung(part[lung])
        return figures


def _blocks(region: Region) -> Iterator[tuple[slice, ...]]:
    """Cubes of :data:`BLOCK`, more than half of them body."""
    counted = [np.flatnonzero(region.counted.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    sides = [max(round(BLOCK / s), 2) for s in region.spacing]
    starts = [range(at[0], at[-1] + 2 - side, side) for at, side in zip(counted, sides, strict=True)]
    for corner in ((x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]):
        where = tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))
        if region.body[where].mean() > 0.5:
            yield where


@dataclass(frozen=True)
class Agreement:
    """How a measurement of results agrees with that of the reference.

    Attributes:
        n: number of pairs.
        ccc: Lin's concordance correlation coefficient; 1 is equality.
        bias: mean of result minus reference.
        low, high: limits of agreement, bias ± 1.96 standard deviations of the differences.
    """

    n: int
    ccc: float
    bias: float
    low: float
    high: float


def agreement(ours: np.ndarray, true: np.ndarray) -> Agreement:
    """Concordance, bias and limits of agreement of (n,) values; NaN for fewer than three.

    Source: Lin 1989, "A concordance correlation coefficient to evaluate reproducibility"; Bland and Altman 1986,
    "Statistical methods for assessing agreement between two methods of clinical measurement".
    """
    if len(ours) < 3:
        return Agreement(len(ours), *[float("nan")] * 4)
    apart = ours - true
    together = 2 * np.cov(ours, true, bias=True)[0, 1]
    spread = ours.var() + true.var() + apart.mean() ** 2
    bias, reach = float(apart.mean()), 1.96 * float(apart.std(ddof=1))
    return Agreement(len(ours), float(together / spread) if spread else 1.0, bias, bias - reach, bias + reach)


BLOCK_MEASUREMENTS = (*FEATURES, "bone %", "muscle %", "fat %", "emphysema index", "15th percentile")
"""Measurements of blocks, in the order of the tables; not all of them exist in all blocks."""
