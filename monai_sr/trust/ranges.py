"""Training ranges of a bundle, and whether an image is inside them: geometry, modality and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquired import Acquired
from ..errors import doubt
from ..grid import SAME_SPACING, Grid, grid_of
from ..intensities import USUAL, IntensityRange, Normalization, intensity_range

if TYPE_CHECKING:
    from monai.data import MetaTensor

BELOW, ABOVE = 0.5, 1.25
"""Tolerance of lengths, as multiples of the minimum and maximum of training. Half the voxel size shows the same
anatomy with more voxels; larger voxels do not."""

FIELD = 1.5
"""Tolerance of the field of view, as a multiple of the maximum of training."""

VALUES = 0.5
"""Tolerance of normalized values, as a fraction of their range in training."""

EXTREMES = (0.05, 99.95)
"""Percentiles that are used as minimum and maximum of a volume."""

_SAMPLES = 1_000_000

CAUSES = {
    "modality": ("W-RANGE-MODALITY", "E-RANGE-MODALITY"),
    "in_plane_spacing": ("W-RANGE-INPLANE", "E-RANGE-INPLANE"),
    "slice_spacing": ("W-RANGE-SLICES", "E-RANGE-SLICES"),
    "thickness_ratio": ("W-RANGE-THICKNESS", "E-RANGE-THICKNESS"),
    "field_of_view": ("W-RANGE-FIELD", "E-RANGE-FIELD"),
    "values": ("W-RANGE-VALUES", "E-RANGE-VALUES"),
}
"""Each kind of departure from the training data, with the codes of its warning and, with ``strict``, its error."""


def trained_ranges(
    volumes: Sequence[MetaTensor],
    *,
    factors: tuple[float, float],
    thickness_ratios: tuple[float, float],
    isotropy: float = 1.6,
    coarsest: float = 1.0,
    normalization: Normalization = USUAL,
) -> dict[str, Any]:
    """The ranges that training on these volumes covers, by modality, as in the calibration of a bundle.

    Args:
        volumes: (1, X, Y, Z) of thin slices.
        factors, thickness_ratios, isotropy: minimum and maximum in the simulation of thick slices, see
            :class:`monai_sr.training.augmentation.RandSimulateThickSlicesd`.
        coarsest: see :class:`monai_sr.training.augmentation.RandCoarseCropd`.
        normalization: of the network.
    """
    ranges: dict[str, Any] = {}
    for hr in volumes:
        grid = grid_of(hr)
        acquired = Acquired.of(hr)
        near = [s for s in grid.spacing if s <= min(grid.spacing) * isotropy]
        low, high = _extremes(acquired, 0, normalization)
        covered: dict[str, tuple[float, float]] = {
            "in_plane_spacing": (min(near), max(near) * coarsest),
            "slice_spacing": (min(near) * factors[0], max(near) * coarsest * factors[1]),
            "field_of_view": (0.0, max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))),
            "values": (low, high),
        }
        covered["thickness_ratio"] = thickness_ratios
        rounded = {name: [float(f"{end:.4g}") for end in ends] for name, ends in covered.items()}
        ranges = join_ranges([ranges, {acquired.modality: rounded}])
    return ranges


def join_ranges(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ranges that contain all given ranges, by modality."""
    joined: dict[str, dict[str, Any]] = {}
    for ranges in several:
        for modality, ends in ranges.items():
            known = joined.setdefault(modality, dict(ends))
            for name, (low, high) in ends.items():
                known[name] = [min(known[name][0], low), max(known[name][1], high)]
    return joined


def check_ranges(
    acquired: Acquired,
    wanted: Grid,
    trained: Mapping[str, Any],
    *,
    normalization: Normalization = USUAL,
    strict: bool = False,
) -> dict[str, str]:
    """Warn of every property of a volume outside the training ranges of a bundle.

    The factor is checked by :func:`monai_sr.inference.super_resolve`.

    Args:
        acquired, wanted: a volume, and the grid of its result.
        trained: from :func:`trained_ranges`; if empty, nothing is checked.
        normalization: of the network.
        strict: raise an error instead.

    Returns:
        The finding for each cause of :data:`CAUSES`, in words; empty if nothing is to be super-resolved.

    Raises:
        ImageError: a property is outside, with ``strict``.
    """
    if not trained or acquired.lies_on(wanted):
        return {}
    grid, spacing, modality = acquired.grid, acquired.slice_spacing, acquired.modality
    if modality not in trained:
        finding = f"the modality is {modality}, the network was trained on {' and '.join(sorted(trained))}"
        facts: dict[str, Any] = {"found": modality, "trained": sorted(trained)}
        doubt(*CAUSES["modality"], finding, strict=strict, path=acquired.path, facts=facts)
        return {"modality": finding}
    in_plane = [s for a, s in enumerate(grid.spacing) if a != acquired.axis]
    extent = max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))
    by = acquired.normalization(normalization)
    extremes = [_extremes(acquired, index, by) for index in range(len(acquired.array))]
    ratios = acquired.slice_thickness / spacing
    measured = {
        "in_plane_spacing": (min(in_plane), max(in_plane), "the in-plane spacing is {} mm"),
        "slice_spacing": (spacing, spacing, "the slice spacing is {} mm"),
        "thickness_ratio": (float(ratios.min()), float(ratios.max()), "slice thickness divided by slice spacing is {}"),
        "field_of_view": (extent, extent, "the field of view is {} mm"),
        "values": (min(e[0] for e in extremes), max(e[1] for e in extremes), "normalized values reach {}"),
    }
    departures = {}
    for name, (low, high, words) in measured.items():
        lowest, highest = _allowed(name, trained[modality][name])
        outside = low if low < lowest else high if high > highest else None
        if outside is not None:
            range_ = "{:.4g} to {:.4g}".format(*trained[modality][name])
            departures[name] = f"{words.format(f'{outside:.4g}')}, the network was trained on {range_} for {modality}"
            facts = {"found": float(outside), "trained": trained[modality][name], "modality": modality}
            doubt(*CAUSES[name], departures[name], strict=strict, path=acquired.path, facts=facts)
    return departures


def _allowed(name: str, ends: Sequence[float]) -> tuple[float, float]:
    """A training range extended by its tolerance."""
    low, high = ends
    if name == "values":
        return low - VALUES * (high - low), high + VALUES * (high - low)
    if name == "field_of_view":
        return 0.0, FIELD * high
    if name == "thickness_ratio":
        return low * (1 - SAME_SPACING), high * (1 + SAME_SPACING)
    return BELOW * low, ABOVE * high


def _extremes(acquired: Acquired, channel: int, by: Normalization | IntensityRange) -> tuple[float, float]:
    """Normalized minimum and maximum of a channel, without padding."""
    voxels = acquired.array[channel]
    outside = acquired.outside(voxels, channel)
    known = voxels if outside is None or bool(outside.all()) else voxels[~outside]
    if float(known.min()) == float(known.max()):
        return 0.0, 1.0  # super_resolve raises the error
    scale = intensity_range(known, acquired.modality, by)
    values = known.ravel()
    values = values[:: max(1, len(values) // _SAMPLES)]
    low, high = np.percentile(scale.normalize(values), EXTREMES)
    return float(low), float(high)
