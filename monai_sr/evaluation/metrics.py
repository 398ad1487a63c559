"""Compare a result with the reference, and bound what any result could reach.

Volumes are (X, Y, Z) arrays in the units of the file, not clipped. Masks have the same shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.metrics.metric import CumulativeIterationMetric
from scipy import ndimage
from torch import Tensor

from ..intensities import Modality, data_range, guess_modality

_MAD_OF_A_GAUSSIAN = 0.6745
"""Median absolute value of a Gaussian variable with standard deviation 1."""


def foreground(hr: np.ndarray, modality: Modality | None = None) -> np.ndarray:
    """(X, Y, Z) bool: the body. CT above −500 HU, MR above Otsu's threshold; largest component, holes filled.

    The modality is guessed from the values if it is not given.
    """
    if (modality or guess_modality(torch.from_numpy(hr))) == "CT":
        mask = hr > -500
    else:
        smooth = ndimage.gaussian_filter(hr, 1.0)
        mask = smooth > otsu(smooth)
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


def squared_error(sr: np.ndarray, hr: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean squared error inside ``mask``, in squared units of the file."""
    squared = (sr.astype(np.float64) - hr) ** 2
    return float(squared[mask].mean() if mask is not None else squared.mean())


def psnr(sr: np.ndarray, hr: np.ndarray, *, value_range: float, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(range² / mean squared error)`` inside ``mask``."""
    return _decibels(value_range**2, squared_error(sr, hr, mask))


def ssim(sr: np.ndarray, hr: np.ndarray, *, value_range: float, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity, 3-D Gaussian window of σ = 1.5 voxels, K₁ = 0.01, K₂ = 0.03.

    Intensities are measured from the minimum of the reference or 0, whichever is lower.

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


def sharpness(sr: np.ndarray, hr: np.ndarray, *, axis: int, mask: np.ndarray | None = None) -> float:
    """Through-plane sharpness: 1 equals the reference, below 1 is blurred, above 1 is noise or ringing.

    Root mean square difference of neighboring slices of the result, divided by that of the reference, where
    both slices are inside ``mask``. For a wave along the axis this is the ratio of the amplitudes.

    Source: gradient energy as in Subbarao 1993, "Focusing techniques", in one direction.
    """
    steps = [np.diff(volume.astype(np.float64), axis=axis) for volume in (sr, hr)]
    if mask is not None:
        slices = np.moveaxis(mask, axis, 0)
        inside = np.moveaxis(slices[1:] & slices[:-1], 0, axis)
        steps = [step[inside] for step in steps] if inside.any() else steps
    ours, true = (float(np.sqrt((step**2).mean())) for step in steps)
    return ours / max(true, 1e-10)


def resolved_spacing(
    sr: np.ndarray, hr: np.ndarray, *, axis: int, spacing: float, mask: np.ndarray | None = None
) -> float:
    """Through-plane resolution compared with the reference, mm: voxels of this size hold all correct detail.

    Result and reference are correlated frequency by frequency, over all lines along the axis that are mostly
    inside ``mask``. Where the correlation falls to 1/2, half the wavelength is the resolution. It equals the
    slice spacing if the result is correct to the finest detail, and is NaN if the two do not correlate.

    Args:
        sr, hr: (X, Y, Z) result and reference.
        axis: through-plane axis.
        spacing: slice spacing, mm.
        mask: region to compare.

    Source: Saxton 1982, "The correlation averaging of a regularly arranged bacterial cell envelope
    protein" (Fourier ring correlation), on lines instead of rings, with the usual threshold of 1/2.
    """
    lines = [np.moveaxis(volume, axis, -1).astype(np.float64) for volume in (sr, hr)]
    if mask is not None:
        inside = np.moveaxis(mask, axis, -1)
        filled = np.flatnonzero(inside.any(axis=(0, 1)))
        some = slice(filled[0], filled[-1] + 1) if len(filled) else slice(None)
        chosen = inside[..., some].mean(axis=-1) > 0.5
        lines = [volume[..., some][chosen if chosen.any() else ...] for volume in lines]
    lines = [volume.reshape(-1, volume.shape[-1]) for volume in lines]
    n = lines[0].shape[1]
    if n < 4:
        return float("nan")
    waves = [np.fft.rfft((rows - rows.mean(axis=1, keepdims=True)) * np.hanning(n + 2)[1:-1], axis=1) for rows in lines]
    together = (waves[0] * waves[1].conj()).real.sum(axis=0)
    alone = np.sqrt(np.prod([(np.abs(wave) ** 2).sum(axis=0) for wave in waves], axis=0))
    correlation = (together / np.maximum(alone, 1e-30))[1:]
    frequency = np.fft.rfftfreq(n, spacing)[1:]
    below = np.flatnonzero(correlation < 0.5)
    if not len(below):
        return spacing
    if below[0] == 0:
        return float("nan")
    fine, coarse = correlation[below[0]], correlation[below[0] - 1]
    fraction = (coarse - 0.5) / (coarse - fine)
    at = frequency[below[0] - 1] + fraction * (frequency[below[0]] - frequency[below[0] - 1])
    return float(1 / (2 * at))


def noise_deviation(hr: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Standard deviation of the white noise in a volume, in its units.

    Second differences along all three axes remove almost all anatomy and keep the noise. The median of their
    absolute values is robust against the remaining edges. Noise that was smoothed by reconstruction or
    resampling is underestimated.

    Args:
        hr: (X, Y, Z).
        mask: region to measure, such as the body; its outermost two voxels are left out.

    Source: Immerkær 1996, "Fast noise variance estimation", extended to three dimensions;
    the median as in Donoho 1994, "Ideal spatial adaptation by wavelet shrinkage".
    """
    finest = hr.astype(np.float64)
    for axis in range(3):
        finest = ndimage.correlate1d(finest, [1.0, -2.0, 1.0], axis=axis)
    if mask is not None:
        inside = ndimage.binary_erosion(mask, iterations=2)
        finest = finest[inside if inside.any() else mask]
    return float(np.median(np.abs(finest)) / (_MAD_OF_A_GAUSSIAN * np.sqrt(6.0) ** 3))


def unseen_noise(acquisition: Tensor, *, reference_noise: float, slice_noise: float = 0.0) -> np.ndarray:
    """Variance of the reference's noise that no method can predict from the thick slices.

    White noise e of the reference appears in the thick slices as ``A e``. Given the thick slices, its
    covariance is ``σ² (I - Aᵀ (A Aᵀ + (τ/σ)² I)⁻¹ A)``. If the thick slices have no noise τ of their own, this
    is σ² times the projection on the null space of A, whose trace is n - m. So the mean squared error of
    any result from m thick slices is at least ``σ² (1 - m/n)``, even if the anatomy is known.

    Args:
        acquisition: (m, n) the matrix A.
        reference_noise: σ, in the units of the file.
        slice_noise: τ, standard deviation of the noise added to the thick slices.

    Returns:
        (n,) variance in each thin slice.

    Source: conditional covariance of a Gaussian, as in Bishop 2006, "Pattern recognition and machine
    learning", section 2.3.1.
    """
    a = acquisition.double().cpu().numpy()
    if reference_noise <= 0:
        return np.zeros(a.shape[1])
    gram = a @ a.T + (slice_noise / reference_noise) ** 2 * np.eye(len(a))
    seen = np.einsum("mn,mn->n", a, np.linalg.solve(gram, a))
    return reference_noise**2 * (1 - seen)


def ceiling(error: float, unseen: float) -> float:
    """The maximum gain in dB over a result with this mean squared error, see :func:`unseen_noise`."""
    return _decibels(error, unseen)


def _decibels(above: float, below: float) -> float:
    return float(10 * np.log10(max(above, 1e-20) / max(below, 1e-20)))


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold between the 0.5th and 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    counts, edges = np.histogram(np.clip(values, low, high), 256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean_below = np.cumsum(counts * centers) / np.maximum(below, 1)
    mean_above = ((counts * centers).sum() - np.cumsum(counts * centers)) / np.maximum(above, 1)
    return float(centers[np.argmax(below * above * (mean_below - mean_above) ** 2)])


class ForegroundPSNR(CumulativeIterationMetric):
    """:func:`psnr` as a MONAI metric; each item has its own data range and foreground."""

    _figure = staticmethod(psnr)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        assert y is not None
        return torch.tensor([[self._measure(sr, hr)] for sr, hr in zip(y_pred, y, strict=True)])

    def _measure(self, sr: Tensor, hr: Tensor) -> float:
        reference = hr[0].detach().cpu().numpy()
        mask = foreground(reference)
        return self._figure(sr[0].detach().cpu().numpy(), reference, value_range=data_range(reference), mask=mask)

    def aggregate(self) -> Tensor:  # type: ignore[override]
        """The mean over all items."""
        data = self.get_buffer()
        return data[torch.isfinite(data)].mean()


class ForegroundSSIM(ForegroundPSNR):
    """:func:`ssim` as a MONAI metric for bundles."""

    _figure = staticmethod(ssim)
