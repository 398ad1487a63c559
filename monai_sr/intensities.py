"""Modality, normalization and padding. Intensities are near 0..1 for the network, else in the units of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from .errors import ImageError, Later

if TYPE_CHECKING:
    import torch
    from scipy import ndimage
    from torch import Tensor
else:
    ndimage, torch = Later("scipy.ndimage"), Later("torch")

Voxels = TypeVar("Voxels", "np.ndarray", "Tensor")

Modality = Literal["CT", "MR"]

CT_WINDOW = (-1000.0, 1000.0)
"""HU that become 0 and 1: air and dense bone. Values outside are not clipped."""

MR_PERCENTILES = (0.5, 99.5)
"""Percentiles of an MR volume that become 0 and 1."""

CT_BELOW = -200.0
"""A volume with values below this is a CT with air: no MR scanner stores such values."""


CT_AIR = -1000.0
"""HU for voxels that were not scanned."""

HU_FAT = -50.0
"""Every part of a body has voxels below this, by fat or by the noise of soft tissue."""

HU_MOST = 2.0**15
"""Every HU is below this, also with an extended scale; above are negative values that were stored without a sign."""

HU_SPAN = 50.0
"""Minimum range of the values of a CT in HU."""

LABEL_COUNT = 256
"""Maximum number of different labels."""

LABEL_EQUAL = 0.7
"""Minimum fraction of equal neighbors in labels, outside the background."""

CT_LEAST = -1024.0
"""Minimum HU that scanners store; air is -1000."""

PADDING_BELOW = -1500.0
"""Tissue, air and metal artifacts of a CT are above this; a minimum below it is its padding value."""

NO_CT_BELOW = -4096.0
"""Scanners pad CT with values above this; -32768 also pads MR."""

NOISE_GAINS = 0.8908, 0.2007
"""Standard deviation in the two finest scales of :func:`remove_noise` of white noise of standard deviation 1."""

SHARED = 0.25
"""Correlation of the noise of neighboring slices that average thin slices by a Gaussian as wide as their spacing."""

NOISE_WINDOW = 5
"""Voxels a side in which the energy of a scale is measured."""

_SPLINE = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16

_MAD_OF_A_GAUSSIAN = 0.6745
"""Median absolute value of a Gaussian variable with standard deviation 1."""


@dataclass(frozen=True)
class Normalization:
    """How volumes are normalized for a network: a fixed window for CT, percentiles for MR.

    Attributes:
        ct_window: HU that become 0 and 1.
        mr_percentiles: percentiles of an MR volume that become 0 and 1.
    """

    ct_window: tuple[float, float] = CT_WINDOW
    mr_percentiles: tuple[float, float] = MR_PERCENTILES


USUAL = Normalization()
"""That of both bundles."""


@dataclass(frozen=True)
class IntensityRange:
    """Linear map from file units to network units: ``low`` becomes 0 and ``high`` 1."""

    low: float
    high: float

    def normalize(self, voxels: Voxels) -> Voxels:
        """File units to network units, without clipping."""
        return (voxels - self.low) / (self.high - self.low)


def guess_modality(voxels: Tensor | np.ndarray) -> Modality:
    """CT if there are values far below zero, as air in HU; MR otherwise. A value of no CT is padding."""
    lowest = float(voxels.min())
    if lowest < NO_CT_BELOW:
        lowest = _above(voxels, NO_CT_BELOW, lowest)
    return "CT" if lowest < CT_BELOW else "MR"


def _above(voxels: Tensor | np.ndarray, limit: float, default: float) -> float:
    """The minimum of the values above a limit."""
    above = voxels[voxels > limit]
    return float(above.min()) if len(above) else default


def count_labels(voxels: np.ndarray) -> int:
    """Number of labels in a segmentation or mask; 0 for an image.

    Labels are few whole numbers in patches: most neighbors are equal. In an image noise prevents that, even
    with few gray levels.

    Args:
        voxels: (X, Y, Z), slices along the last axis; at most 16 of them are used.
    """
    count = voxels.shape[-1]
    some = voxels[..., np.linspace(0, count - 1, min(count, 16)).round().astype(int)]
    if (some != some.round()).any():
        return 0
    values, occurrences = np.unique(some, return_counts=True)
    if len(values) > LABEL_COUNT:
        return 0
    background = values[occurrences.argmax()]
    pairs = equal = 0
    for axis in (0, 1):
        one, next_ = (np.delete(some, end, axis) for end in (-1, 0))
        inside = (one != background) | (next_ != background)
        pairs += int(inside.sum())
        equal += int((inside & (one == next_)).sum())
    return len(values) if pairs and equal >= LABEL_EQUAL * pairs else 0


def check_hounsfield(voxels: np.ndarray) -> str:
    """Why the values of a CT may not be HU, in words; empty if they are plausible.

    Args:
        voxels: without padding, any shape.

    Raises:
        ImageError: they are not HU, for example scaled to 0..1.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    problem = f"values are between {lowest:g} and {highest:g}, where HU reach from -1000 (air) to some hundred"
    if highest - lowest < HU_SPAN:
        raise ImageError("E-CT-HU", problem)
    return problem if lowest >= HU_FAT or highest >= HU_MOST else ""


def padding_of(voxels: np.ndarray, modality: Modality, padding_value: float | None = None) -> float | None:
    """The value of voxels that were not scanned; None if all were.

    Args:
        voxels: in HU or signal, any shape.
        modality: see :func:`guess_modality`.
        padding_value: from the header. Default: the lowest value, if it is below :data:`PADDING_BELOW` and, in MR,
            farther below the others than they are apart.
    """
    lowest = float(voxels.min())
    if padding_value is not None or lowest >= PADDING_BELOW:
        return padding_value
    if modality == "MR":
        second = _above(voxels, lowest, lowest)
        if second - lowest <= float(voxels.max()) - second:
            return None
    return lowest


def intensity_range(
    voxels: Tensor | np.ndarray, modality: Modality | None = None, normalization: Normalization | IntensityRange = USUAL
) -> IntensityRange:
    """The range of a volume that becomes 0 to 1.

    Args:
        voxels: the whole volume in file units, any shape, finite.
        modality: None to guess, see :func:`guess_modality`.
        normalization: by it, or by a range that is known already.

    Raises:
        ImageError: all voxels are equal, or some are not finite.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest == highest:
        raise ImageError("E-IMG-CONST", f"every voxel is {lowest:g}")
    if not np.isfinite([lowest, highest]).all():
        raise ImageError("E-IMG-NAN", "voxels are NaN or infinite")
    if isinstance(normalization, IntensityRange):
        return normalization
    if (modality or guess_modality(voxels)) == "CT":
        return IntensityRange(*normalization.ct_window)
    low, high = (float(v) for v in np.percentile(as_array(voxels), normalization.mr_percentiles))
    # a nearly empty volume (a mask, say) may have both percentiles in the background
    return IntensityRange(low, high) if high > low else IntensityRange(lowest, highest)


@dataclass(frozen=True)
class NormalizedSlices:
    """One channel, normalized for a network, and the way back.

    Attributes:
        slices: (X, Y, m) canonical, normalized; an array, or a tensor by :meth:`beside`.
        intensities: their normalization.
        outside: (X, Y, m) True where nothing was scanned; None if all was.
        padding: value of these voxels.
    """

    slices: Any
    intensities: IntensityRange
    outside: Any
    padding: float

    def beside(self, voxels: Voxels) -> NormalizedSlices:
        """The same in the library of ``voxels`` and on their device."""
        outside = None if self.outside is None else beside(self.outside, voxels)
        return replace(self, slices=beside(self.slices, voxels), outside=outside)

    @property
    def padding_fraction(self) -> float:
        """Fraction of the channel that was not scanned, 0..1."""
        return 0.0 if self.outside is None else float(as_array(self.outside).mean())

    def in_file_units(self, sr: Voxels, place: tuple[slice, slice], nearest: np.ndarray) -> Voxels:
        """Rows and columns of the result; a new slice has the padding of its ``nearest`` acquired slice.

        ``sr`` is changed in place.
        """
        sr *= self.intensities.high - self.intensities.low
        sr += self.intensities.low
        if self.outside is not None:
            sr[self.outside[place][..., nearest]] = self.padding
        return sr


class Noise(NamedTuple):
    """White noise of slices, in their units.

    Attributes:
        sigma: its standard deviation.
        own: the part that neighboring slices do not share. What they share lies in the thin slices too.
    """

    sigma: float
    own: float


def estimate_noise(lr: Tensor | np.ndarray) -> Noise:
    """Standard deviation of the white noise in slices.

    In-plane second differences remove almost all anatomy and keep the noise; the median of their absolute values is
    robust against the remaining edges. Voxels above the median of the volume are used, which are not background.

    Slices with a Gaussian profile as wide as their spacing share a quarter of the noise of thin slices: its
    correlation from slice to slice is 1/4. So four times what slices share is no noise of their own.

    Args:
        lr: (X, Y, m) slices, at least three voxels a side.

    Source: Immerkær 1996, "Fast noise variance estimation"; the median as in Donoho 1994, "Ideal spatial adaptation by
    wavelet shrinkage".
    """
    voxels, single, pairs = as_array(lr), [], []
    limit, before, above_before = np.median(voxels), None, None
    for index in range(voxels.shape[2]):
        finest = np.diff(np.diff(voxels[..., index].astype(np.float32), n=2, axis=0), n=2, axis=1)
        above = voxels[1:-1, 1:-1, index] > limit
        single.append(np.abs(finest)[above])
        if before is not None:
            pairs.append(np.abs(finest - before)[above & above_before])
        before, above_before = finest, above
    sigma, differing = _deviation(single), _deviation(pairs) / math.sqrt(2.0)
    shared = max(sigma**2 - differing**2, 0.0)
    return Noise(sigma, math.sqrt(max(sigma**2 - shared / SHARED, 0.0)))


def _deviation(sizes: Sequence[np.ndarray]) -> float:
    """Standard deviation of the noise whose second differences in both directions have these sizes."""
    chosen = np.concatenate(sizes) if sizes else np.empty(0)
    return float(np.median(chosen) / (_MAD_OF_A_GAUSSIAN * 6.0)) if len(chosen) else 0.0


def remove_noise(lr: Voxels, sigma: float) -> Voxels:
    """Slices without white noise of a known standard deviation, each by itself and in plane only.

    The two finest scales of an undecimated spline wavelet transform are multiplied by the fraction of their local
    energy that is not noise; so edges stay, and flat regions become smooth.

    Args:
        lr: (X, Y, m) slices.
        sigma: standard deviation of the noise, in the units of the slices; 0 changes nothing but the last bit.

    Source: Starck 1998, "Image processing and data analysis: the multiscale approach", section 1.4 (a trous, B3
    spline); the factor is that of Wiener for the energy in :data:`NOISE_WINDOW` voxels a side.
    """
    noisy = as_array(lr)
    clean = np.empty(noisy.shape, dtype=np.float32)
    for index in range(noisy.shape[2]):
        coarse, details = noisy[..., index].astype(np.float32), np.zeros(noisy.shape[:2], np.float32)
        for level, gain in enumerate(NOISE_GAINS):
            kernel = np.zeros(4 * 2**level + 1)
            kernel[:: 2**level] = _SPLINE
            smooth = coarse
            for axis in (0, 1):
                smooth = ndimage.correlate1d(smooth, kernel, axis=axis, mode="mirror")
            detail, noise = coarse - smooth, (sigma * gain) ** 2
            energy = ndimage.uniform_filter(detail**2, NOISE_WINDOW)
            details += detail * np.maximum(energy - noise, 0) / np.maximum(energy, max(noise, 1e-30))
            coarse = smooth
        clean[..., index] = coarse + details
    return clean if isinstance(lr, np.ndarray) else torch.from_numpy(clean).to(lr)


def library_of(voxels: Any) -> Any:
    """NumPy, or torch for a tensor. Functions for both use what both have by the same name."""
    return np if isinstance(voxels, np.ndarray) else torch


def beside(array: Any, voxels: Voxels, *, dtype: Any = None) -> Voxels:
    """An array or tensor in the library of ``voxels`` and on their device."""
    if isinstance(voxels, np.ndarray):
        return np.asarray(array, dtype)
    return torch.as_tensor(array).to(device=voxels.device, dtype=dtype)


def empty_like(voxels: Voxels, shape: Sequence[int]) -> Voxels:
    """New voxels of another shape, without values: of the library, dtype and device of these."""
    return np.empty(shape, voxels.dtype) if isinstance(voxels, np.ndarray) else voxels.new_empty(*shape)


def as_array(tensor: Any) -> np.ndarray:
    """A tensor on any device, or what numpy takes as an array, as an array; not copied if it need not be."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def data_range(hr: np.ndarray) -> float:
    """99.9th minus 0.1st percentile of a reference, in its units."""
    low, high = np.percentile(hr, (0.1, 99.9))
    return float(high - low) or float(hr.max() - hr.min())
