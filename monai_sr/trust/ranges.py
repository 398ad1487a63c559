"""What a bundle was trained on, and whether an image is like it: geometry, modality and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ..acquired import Acquired
from ..errors import ImageError, warn
from ..grid import SAME_SPACING, Grid, grid_of
from ..intensities import CT_WINDOW, MR_PERCENTILES, intensity_range

BELOW, ABOVE = 0.5, 1.25
"""Lengths may be so many times the least and the largest of training: half the voxel size is the same anatomy
with more voxels to see it by, a larger one is not."""

FIELD = 1.5
"""A field of view may be so many times the largest."""

VALUES = 0.5
"""Normalized values may lie beyond those of training by such a share of their range."""

EXTREMES = (0.05, 99.95)
"""Percentiles that count as a volume's least and largest value."""

_SAMPLES = 1_000_000

CAUSES = {
    "modality": ("W-RANGE-MODALITY", "E-RANGE-MODALITY"),
    "in_plane_spacing": ("W-RANGE-INPLANE", "E-RANGE-INPLANE"),
    "slice_spacing": ("W-RANGE-SLICES", "E-RANGE-SLICES"),
    "thickness_ratio": ("W-RANGE-THICKNESS", "E-RANGE-THICKNESS"),
    "field_of_view": ("W-RANGE-FIELD", "E-RANGE-FIELD"),
    "values": ("W-RANGE-VALUES", "E-RANGE-VALUES"),
}
"""Each way to be unlike the training data, with the codes of its warning and, under ``strict``, its error."""


def trained_ranges(
    volumes: Sequence[MetaTensor],
    *,
    factors: tuple[float, float],
    thickness_ratios: tuple[float, float],
    isotropy: float = 1.6,
    coarsest: float = 1.0,
    ct_window: tuple[float, float] = CT_WINDOW,
    mr_percentiles: tuple[float, float] = MR_PERCENTILES,
) -> dict[str, Any]:
    """The ranges that training on these volumes covers, by modality, as a bundle's metadata hold them.

    Args:
        volumes: (1, X, Y, Z) of thin slices.
        factors, thickness_ratios, isotropy: least and largest that thick slices are simulated with, see
            :class:`monai_sr.training.augmentation.RandSimulateThickSlicesd`.
        coarsest: see :class:`monai_sr.training.augmentation.RandCoarseCropd`.
        ct_window, mr_percentiles: see :func:`monai_sr.intensities.intensity_range`.
    """
    found: dict[str, Any] = {}
    for hr in volumes:
        grid = grid_of(hr)
        acquired = Acquired.of(hr)
        near = [s for s in grid.spacing if s <= min(grid.spacing) * isotropy]
        low, high = _extremes(acquired, 0, ct_window, mr_percentiles)
        seen: dict[str, tuple[float, float]] = {
            "in_plane_spacing": (min(near), max(near) * coarsest),
            "slice_spacing": (min(near) * factors[0], max(near) * coarsest * factors[1]),
            "field_of_view": (0.0, max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))),
            "values": (low, high),
        }
        seen["thickness_ratio"] = thickness_ratios
        one = {name: [float(f"{end:.4g}") for end in ends] for name, ends in seen.items()}
        found = joined([found, {acquired.modality: one}])
    return found


def joined(ranges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ranges that hold several, by modality."""
    found: dict[str, dict[str, Any]] = {}
    for one in ranges:
        for kind, ends in one.items():
            known = found.setdefault(kind, dict(ends))
            for name, (least, most) in ends.items():
                known[name] = [min(known[name][0], least), max(known[name][1], most)]
    return found


def check_ranges(
    acquired: Acquired,
    wanted: Grid,
    trained: Mapping[str, Any],
    *,
    ct_window: tuple[float, float] = CT_WINDOW,
    mr_percentiles: tuple[float, float] = MR_PERCENTILES,
    strict: bool = False,
) -> dict[str, str]:
    """Warn of everything in which a volume is unlike what a bundle was trained on.

    The factor is not among it, :func:`monai_sr.inference.super_resolve` knows its range.

    Args:
        acquired, wanted: a volume, and the grid of its result.
        trained: what :func:`trained_ranges` found; nothing is said where it is empty.
        ct_window, mr_percentiles: as of :func:`monai_sr.inference.super_resolve`.
        strict: raise an error instead.

    Returns:
        By cause (of :data:`CAUSES`) what was found, in words; empty where nothing is to be super-resolved.

    Raises:
        ImageError: under ``strict``.
    """
    if not trained or acquired.lies_on(wanted):
        return {}
    grid, spacing, modality = acquired.grid, acquired.slice_spacing, acquired.modality
    if modality not in trained:
        finding = f"{modality}, the network was trained on {' and '.join(sorted(trained))}"
        facts: dict[str, Any] = {"found": modality, "trained": sorted(trained)}
        _warn("modality", finding, facts, strict=strict, path=acquired.path)
        return {"modality": finding}
    in_plane = [s for a, s in enumerate(grid.spacing) if a != acquired.axis]
    extent = max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))
    extremes = [_extremes(acquired, index, ct_window, mr_percentiles) for index in range(len(acquired.voxels))]
    ratios = acquired.slice_thickness / spacing
    measured = {
        "in_plane_spacing": (min(in_plane), max(in_plane), "an in-plane spacing of {} mm"),
        "slice_spacing": (spacing, spacing, "a slice each {} mm"),
        "thickness_ratio": (float(ratios.min()), float(ratios.max()), "slices {} times as thick as they are apart"),
        "field_of_view": (extent, extent, "a field of view of {} mm"),
        "values": (min(e[0] for e in extremes), max(e[1] for e in extremes), "normalized values that reach {}"),
    }
    found = {}
    for name, (low, high, words) in measured.items():
        least, most = _allowed(name, trained[modality][name])
        beyond = low if low < least else high if high > most else None
        if beyond is not None:
            range_ = "{:.4g} to {:.4g}".format(*trained[modality][name])
            found[name] = f"{words.format(f'{beyond:.4g}')}, the network was trained on {range_} in {modality}"
            facts = {"found": float(beyond), "trained": trained[modality][name], "modality": modality}
            _warn(name, found[name], facts, strict=strict, path=acquired.path)
    return found


def _allowed(name: str, ends: Sequence[float]) -> tuple[float, float]:
    """The ends of a trained range with what may be beyond them."""
    low, high = ends
    if name == "values":
        return low - VALUES * (high - low), high + VALUES * (high - low)
    if name == "field_of_view":
        return 0.0, FIELD * high
    if name == "thickness_ratio":
        return low * (1 - SAME_SPACING), high * (1 + SAME_SPACING)
    return BELOW * low, ABOVE * high


def _extremes(
    acquired: Acquired, channel: int, ct_window: tuple[float, float], mr_percentiles: tuple[float, float]
) -> tuple[float, float]:
    """Normalized least and largest value of a channel, padding left out."""
    voxels = acquired.voxels[channel].float()
    outside = acquired.outside(voxels, channel)
    known = voxels if outside is None or bool(outside.all()) else voxels[~outside]
    if float(known.min()) == float(known.max()):
        return 0.0, 1.0  # super_resolve says what is wrong
    scale = intensity_range(known, acquired.modality, ct_window=ct_window, mr_percentiles=mr_percentiles)
    values = known.flatten()
    values = values[:: max(1, len(values) // _SAMPLES)]
    low, high = np.percentile(scale.normalize(values).cpu().numpy(), EXTREMES)
    return float(low), float(high)


def _warn(name: str, finding: str, facts: Mapping[str, Any], *, strict: bool, path: str) -> None:
    warning, error = CAUSES[name]
    if strict:
        raise ImageError(
            error, finding, fix="take --bundle none, or leave --strict out", path=path or None, facts=facts
        )
    text = f"{finding}; the result may be no better than interpolation"
    warn(warning, text, path=path or None, facts=facts, stacklevel=4)
