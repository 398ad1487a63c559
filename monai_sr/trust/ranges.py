"""What a bundle was trained on, and whether an image is like it: geometry, modality and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from torch import Tensor

from ..errors import ImageError, warn
from ..grid import SAME_SPACING, grid_of, wanted_grid
from ..intensities import CT_WINDOW, MR_PERCENTILES, Modality, guess_modality, intensity_range, padding_mask

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
        kind = hr.meta.get("modality") or guess_modality(hr)
        near = [s for s in grid.spacing if s <= min(grid.spacing) * isotropy]
        low, high = _extremes(hr.as_tensor()[0], kind, hr.meta, ct_window, mr_percentiles)
        seen: dict[str, tuple[float, float]] = {
            "in_plane_spacing": (min(near), max(near) * coarsest),
            "slice_spacing": (min(near) * factors[0], max(near) * coarsest * factors[1]),
            "field_of_view": (0.0, max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))),
            "values": (low, high),
        }
        seen["thickness_ratio"] = thickness_ratios
        one = {name: [float(f"{end:.4g}") for end in ends] for name, ends in seen.items()}
        found = joined([found, {kind: one}])
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
    image: Tensor,
    trained: Mapping[str, Any],
    *,
    spacing: float | None = None,
    factor: float | None = None,
    slice_thickness: float | np.ndarray | None = None,
    axis: int | None = None,
    modality: Modality | None = None,
    ct_window: tuple[float, float] = CT_WINDOW,
    mr_percentiles: tuple[float, float] = MR_PERCENTILES,
    strict: bool = False,
    **_: Any,
) -> dict[str, str]:
    """Warn of everything in which an image is unlike what a bundle was trained on.

    The factor is not among it, :func:`monai_sr.inference.super_resolve` knows its range.

    Args:
        image: (C, X, Y, Z) in the file's units.
        trained: what :func:`trained_ranges` found; nothing is said where it is empty.
        spacing, factor, slice_thickness, axis, modality, ct_window, mr_percentiles: as of
            :func:`monai_sr.inference.super_resolve`.
        strict: raise an error instead.

    Returns:
        By cause (of :data:`CAUSES`) what was found, in words; empty where nothing is to be super-resolved.

    Raises:
        ImageError: under ``strict``.
    """
    grid = grid_of(image)
    wanted, axis = wanted_grid(image, spacing=spacing, factor=factor, axis=axis)
    if not trained or np.array_equal(wanted.affine, grid.affine):
        return {}
    meta: Mapping[str, Any] = image.meta if isinstance(image, MetaTensor) else {}
    kind = modality or meta.get("modality") or guess_modality(image)
    if kind not in trained:
        finding = f"{kind}, the network was trained on {' and '.join(sorted(trained))}"
        _tell("modality", finding, {"found": kind, "trained": sorted(trained)}, strict=strict, image=image)
        return {"modality": finding}
    if slice_thickness is None and axis == meta.get("slice_axis", axis):
        slice_thickness = meta.get("slice_thickness")
    thickness = np.asarray(grid.spacing[axis] if slice_thickness is None else slice_thickness, dtype=np.float64)
    in_plane = [s for a, s in enumerate(grid.spacing) if a != axis]
    extent = max(s * n for s, n in zip(grid.spacing, grid.shape, strict=True))
    extremes = [_extremes(one, kind, meta, ct_window, mr_percentiles) for one in _plain(image)]
    ratios = thickness / grid.spacing[axis]
    measured = {
        "in_plane_spacing": (min(in_plane), max(in_plane), "an in-plane spacing of {} mm"),
        "slice_spacing": (grid.spacing[axis], grid.spacing[axis], "a slice each {} mm"),
        "thickness_ratio": (float(ratios.min()), float(ratios.max()), "slices {} times as thick as they are apart"),
        "field_of_view": (extent, extent, "a field of view of {} mm"),
        "values": (min(e[0] for e in extremes), max(e[1] for e in extremes), "normalized values that reach {}"),
    }
    found = {}
    for name, (low, high, words) in measured.items():
        least, most = _allowed(name, trained[kind][name])
        beyond = low if low < least else high if high > most else None
        if beyond is not None:
            range_ = "{:.4g} to {:.4g}".format(*trained[kind][name])
            found[name] = f"{words.format(f'{beyond:.4g}')}, the network was trained on {range_} in {kind}"
            facts = {"found": float(beyond), "trained": trained[kind][name], "modality": kind}
            _tell(name, found[name], facts, strict=strict, image=image)
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
    voxels: Tensor,
    kind: Modality,
    meta: Mapping[str, Any],
    ct_window: tuple[float, float],
    mr_percentiles: tuple[float, float],
) -> tuple[float, float]:
    """Normalized least and largest value of a volume, padding left out."""
    outside = padding_mask(voxels, kind, meta.get("padding_value"))
    meant = voxels if outside is None or bool(outside.all()) else voxels[~outside]
    if float(meant.min()) == float(meant.max()):
        return 0.0, 1.0  # super_resolve tells what is wrong
    scale = intensity_range(meant, kind, ct_window=ct_window, mr_percentiles=mr_percentiles)
    values = meant.flatten()
    values = values[:: max(1, len(values) // _SAMPLES)]
    low, high = np.percentile(scale.normalize(values).cpu().numpy(), EXTREMES)
    return float(low), float(high)


def _plain(image: Tensor) -> Tensor:
    return (image.as_tensor() if isinstance(image, MetaTensor) else image).float()


def _tell(name: str, finding: str, facts: Mapping[str, Any], *, strict: bool, image: Tensor) -> None:
    warning, error = CAUSES[name]
    path = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    if strict:
        raise ImageError(error, finding, fix="take --bundle none, or leave --strict out", path=path, facts=facts)
    text = f"{finding}; the result may be no better than interpolation"
    warn(warning, text, path=path, facts=facts, stacklevel=4)
