"""How much better: PSNR and SSIM of bundles against interpolation, on volumes whose truth is known.

Thick slices are simulated from thin ones, super-resolved, and compared with the thin ones inside the
foreground; the data range is the spread of the truth (99.9th less 0.1st percentile), nothing is clipped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics.metric import CumulativeIterationMetric
from monai.transforms import CenterSpatialCrop
from scipy import ndimage
from torch import Tensor

from .images import read_image, write_atomically
from .intensities import guess_modality
from .slices import Profile, apply_along, profile_matrix
from .transforms import grid_of, interpolate_slices, simulate_thick_slices, truth_for

BASELINES = ("linear", "cubic", "consistent")
"""Interpolation without a network; "consistent" is the consistent spline, the one to beat."""

TRIM = 1
"""Thick slices left out at each end, where every method extrapolates."""


@dataclass(frozen=True)
class Score:
    """One method on one volume. ``gain_db`` is over the consistent spline on the same volume."""

    volume: str
    modality: str
    axis: int
    factor: float
    method: str
    psnr_db: float
    ssim: float
    gain_db: float
    consistency_db: float


def data_range(hr: np.ndarray) -> float:
    """99.9th less 0.1st percentile of the whole truth, in its units."""
    low, high = np.percentile(hr, (0.1, 99.9))
    return float(high - low) or float(hr.max() - hr.min())


def foreground(hr: np.ndarray) -> np.ndarray:
    """(X, Y, Z) bool: the body. CT above −500 HU, MR above Otsu's threshold; the largest part, filled."""
    if guess_modality(torch.from_numpy(hr)) == "CT":
        mask = hr > -500
    else:
        smooth = ndimage.gaussian_filter(hr, 1.0)
        mask = smooth > _otsu(smooth)
    mask = ndimage.binary_opening(mask)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    mask = ndimage.binary_closing(mask, iterations=2)
    for axis in range(3):
        for index in range(mask.shape[axis]):
            plane = tuple(index if a == axis else slice(None) for a in range(3))
            mask[plane] = ndimage.binary_fill_holes(mask[plane])
    return mask if mask.any() else np.ones_like(mask)


def psnr(sr: np.ndarray, hr: np.ndarray, *, value_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(range² / mean squared error)`` inside ``mask``."""
    squared = (sr.astype(np.float64) - hr) ** 2
    error = float(squared[mask].mean() if mask is not None else squared.mean())
    return float(10 * np.log10(value_range**2 / max(error, 1e-20)))


def ssim(sr: np.ndarray, hr: np.ndarray, *, value_range: float, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity, 3-D Gaussian window of σ = 1.5 voxels, K₁ = 0.01, K₂ = 0.03.

    Intensities count from the truth's lowest value or 0, whichever is lower.

    Source: Wang 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    lowest = min(float(hr.min()), 0.0)
    x, y = (v.astype(np.float64) - lowest for v in (sr, hr))

    def smooth(v: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(v, 1.5, truncate=3.5)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(similarity[mask].mean() if mask is not None else similarity.mean())


def evaluate(
    volumes: Sequence[str | Path | MetaTensor],
    models: dict[str, Callable[..., Tensor]],
    *,
    factors: Sequence[float] = (2, 3, 4),
    axis: int | None = None,
    crop: int | None = None,
    thickness_ratio: float = 1.0,
    profile: Profile = "gaussian",
    report: Callable[[Score], None] | None = None,
) -> list[Score]:
    """Measure models and the baselines on volumes of thin slices.

    Args:
        volumes: files, DICOM folders, or volumes (1, X, Y, Z) with affine.
        models: by name, called ``model(image, factor=, slice_thickness=, axis=)``.
        factors: thin slices per thick one.
        axis: the slice axis, default the one of the largest spacing (2 where there is none).
        crop: take at most this many voxels a side, from the middle, to save time.
        thickness_ratio: slice thickness in slice spacings; every method is told.
        profile: the slice profile of the simulation; methods assume a Gaussian.
        report: told every score as it is found.

    Returns:
        A score for every volume, factor and method, baselines first.
    """
    scores: list[Score] = []
    for volume in volumes:
        hr = volume if isinstance(volume, MetaTensor) else read_image(volume)
        name = Path(str(hr.meta.get("filename_or_obj", "volume"))).name
        if crop:
            hr = cast(MetaTensor, CenterSpatialCrop((crop, crop, crop))(hr))
        grid = grid_of(hr)
        along = axis if axis is not None else int(np.argmax(grid.spacing)) if not grid.is_isotropic else 2
        for factor in factors:
            for score in _scores(hr, name, along, factor, thickness_ratio, profile, models):
                scores.append(score)
                if report:
                    report(score)
    return scores


def _scores(
    hr: MetaTensor,
    name: str,
    axis: int,
    factor: float,
    thickness_ratio: float,
    profile: Profile,
    models: dict[str, Callable[..., Tensor]],
) -> list[Score]:
    """All methods on one simulated acquisition."""
    thin = grid_of(hr).spacing[axis]
    spacing = factor * thin
    thickness = spacing * thickness_ratio
    lr = simulate_thick_slices(hr, spacing, slice_thickness=thickness, profile=profile, axis=axis)
    truth_image = truth_for(lr, hr, axis=axis)
    truth = truth_image[0].numpy()
    value_range, mask = data_range(hr[0].numpy()), foreground(truth)
    trim = round(TRIM * factor)
    inner = tuple(
        slice(trim, n - trim) if a == axis and n > 3 * trim else slice(None) for a, n in enumerate(truth.shape)
    )
    if not mask[inner].any():
        mask = np.ones_like(mask)
    modality = guess_modality(hr)
    results: dict[str, Tensor] = {
        method: interpolate_slices(lr, thin, method=method, slice_thickness=thickness, axis=axis)  # type: ignore[arg-type]
        for method in BASELINES
    }
    for method, model in models.items():
        results[method] = model(lr, factor=factor, slice_thickness=thickness, axis=axis)
    # the slices of lr, not those that would fit in the result: one fewer may, at a factor that is no integer
    thin_positions, thick_positions = (grid_of(image).positions(axis) for image in (truth_image, lr))
    acquisition = profile_matrix(thin_positions, thick_positions, slice_thickness=thickness, profile=profile)
    measured = {}
    for method, sr in results.items():
        voxels = sr[0].cpu().numpy()
        again = apply_along(acquisition, torch.from_numpy(voxels), axis)
        measured[method] = (
            psnr(voxels[inner], truth[inner], value_range=value_range, mask=mask[inner]),
            ssim(voxels, truth, value_range=value_range, mask=_within(mask, inner)),
            psnr(again.numpy(), lr[0].numpy(), value_range=value_range),
        )
    reference = measured["consistent"][0]
    return [
        Score(name, modality, axis, factor, method, p, s, p - reference, c) for method, (p, s, c) in measured.items()
    ]


def _within(mask: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
    kept = np.zeros_like(mask)
    kept[part] = mask[part]
    return kept


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold between the 0.5th and 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    counts, edges = np.histogram(np.clip(values, low, high), 256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean_below = np.cumsum(counts * centers) / np.maximum(below, 1)
    mean_above = ((counts * centers).sum() - np.cumsum(counts * centers)) / np.maximum(above, 1)
    return float(centers[np.argmax(below * above * (mean_below - mean_above) ** 2)])


def table(scores: Sequence[Score]) -> str:
    """Means over volumes, a line for every modality, factor and method."""
    lines = [
        f"{'':8}{'factor':>8}  {'method':28}{'n':>4}{'PSNR dB':>10}{'gain dB':>10}{'SSIM':>9}{'consistency dB':>16}"
    ]
    for modality, factor, method in dict.fromkeys((s.modality, s.factor, s.method) for s in scores):
        group = [s for s in scores if (s.modality, s.factor, s.method) == (modality, factor, method)]
        mean = {key: float(np.mean([getattr(s, key) for s in group])) for key in _FIGURES}
        lines.append(
            f"{modality:8}{f'x{factor:g}':>8}  {method:28}{len(group):4d}{mean['psnr_db']:10.2f}"
            f"{mean['gain_db']:+10.2f}{mean['ssim']:9.4f}{mean['consistency_db']:16.1f}"
        )
    return "\n".join(lines)


def write_scores(scores: Sequence[Score], folder: str | Path, **settings: Any) -> list[Path]:
    """``scores.csv`` and ``scores.json`` (with the settings and what the figures mean) in ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(score) for score in scores]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(Score.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    document = {"settings": settings, "figures": FIGURES_EXPLAINED, "scores": rows}
    for name, content in (("scores.csv", text.getvalue()), ("scores.json", json.dumps(document, indent=2) + "\n")):
        data = content.encode()
        write_atomically(folder / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
    return [folder / "scores.csv", folder / "scores.json"]


_FIGURES = ("psnr_db", "ssim", "gain_db", "consistency_db")

FIGURES_EXPLAINED = (
    "PSNR and SSIM inside the foreground (CT: above -500 HU; MR: Otsu; largest part, filled), one thick slice "
    "left out at each end; data range = 99.9th less 0.1st percentile of the truth, nothing clipped; gain = PSNR "
    "over the consistent spline on the same volume; consistency = PSNR of the re-acquired result against the "
    "thick slices."
)


class ForegroundPSNR(CumulativeIterationMetric):
    """:func:`psnr` as a MONAI metric for bundles: each item's own data range and foreground."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        assert y is not None
        return torch.tensor([[self._one(sr, hr)] for sr, hr in zip(y_pred, y, strict=True)])

    def _one(self, sr: Tensor, hr: Tensor) -> float:
        truth = hr[0].detach().cpu().numpy()
        return psnr(sr[0].detach().cpu().numpy(), truth, value_range=data_range(truth), mask=foreground(truth))

    def aggregate(self) -> Tensor:  # type: ignore[override]
        """The mean over all items."""
        data = self.get_buffer()
        return data[torch.isfinite(data)].mean()


class ForegroundSSIM(ForegroundPSNR):
    """:func:`ssim` as a MONAI metric for bundles."""

    def _one(self, sr: Tensor, hr: Tensor) -> float:
        truth = hr[0].detach().cpu().numpy()
        return ssim(sr[0].detach().cpu().numpy(), truth, value_range=data_range(truth), mask=foreground(truth))
