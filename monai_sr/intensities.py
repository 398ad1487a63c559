"""Intensities outside the network keep the file's units; inside they lie near 0..1, never clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .errors import ImageError
from .slices import Bounds

Modality = Literal["CT", "MR"]

CT_WINDOW = (-1000.0, 1000.0)
"""HU that become 0 and 1: air and dense bone. Everything beyond keeps its place on the line."""

MR_PERCENTILES = (0.5, 99.5)
"""Percentiles of an MR volume that become 0 and 1."""

CT_BELOW = -200.0
"""A volume that reaches below this holds air in HU: no MR scanner stores that."""


CT_AIR = -1000.0
"""HU where nothing was scanned."""

HU_FAT = -50.0
"""Whatever is cropped from a body, fat or the noise of soft tissue is darker in HU."""

HU_SPAN = 50.0
"""A CT whose values span less than this, from its darkest to its brightest, is not in HU."""

LABEL_COUNT = 256
"""More different values than this are no labels."""

LABEL_EQUAL = 0.7
"""Labels are equal to their neighbors, outside the background, at least as often."""

CT_LEAST = -1024.0
"""HU below which scanners store nothing; air is -1000."""

OVERSHOOT, FLAT_OVERSHOOT = 0.5, 0.25
"""A result may be beyond the acquired values by so much of their range, and by so much beyond slices around it that are
alike. No network or spline came that far on the volumes of validation, but where slices contradict their profile."""

CT_PADDING_BELOW = -1500.0
"""No tissue, air or metal artifact is as dark: a CT that reaches below is padded with that value."""


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
    """The line from file units to network units: ``low`` becomes 0 and ``high`` 1."""

    low: float
    high: float

    def normalize(self, voxels: Tensor) -> Tensor:
        """File units to network units, nothing clipped."""
        return (voxels - self.low) / (self.high - self.low)

    def restore(self, voxels: Tensor) -> Tensor:
        """Network units back to file units."""
        return voxels * (self.high - self.low) + self.low


def possible_values(
    slices: Tensor,
    intensities: IntensityRange,
    modality: Modality,
    stored_dtype: np.dtype,
    *,
    is_estimated: bool,
) -> Bounds | None:
    """The values that a result may have, in network units; None for any.

    Not below what scanners store, of a CT, nor below 0, of unsigned integers. Signed and floating-point
    signal can hold whatever averages to the acquired slices.

    Args:
        slices: the acquired ones, in network units.
        intensities: how they were normalized.
        stored_dtype: of the file.
        is_estimated: the modality is known from the values alone, by which fractions may be anything.
    """
    is_ct = modality == "CT" and (not is_estimated or stored_dtype.kind in "iu")
    if not is_ct and stored_dtype.kind != "u":
        return None
    least, most = float(slices.min()), float(slices.max())
    lowest = float(intensities.normalize(torch.tensor(CT_LEAST if is_ct else 0.0)))
    return Bounds(
        low=min(least, lowest),
        high=most + OVERSHOOT * (most - least),
        overshoot=FLAT_OVERSHOOT * (most - least),
        tolerance=0.5 / (intensities.high - intensities.low),
    )


def guess_modality(voxels: Tensor) -> Modality:
    """CT where the values reach far below zero, as air does in HU; MR otherwise."""
    return "CT" if float(voxels.min()) < CT_BELOW else "MR"


def count_labels(voxels: Tensor) -> int:
    """How many labels a segmentation or mask holds; 0 for an image.

    Labels are few whole numbers that lie in patches: next to a voxel is mostly its equal. Noise
    prevents that in an image, however few its gray levels.

    Args:
        voxels: (X, Y, Z), slices along the last axis. At most 16 of them are looked at.
    """
    count = voxels.shape[-1]
    some = voxels[..., torch.linspace(0, count - 1, min(count, 16)).round().long()]
    if bool((some != some.round()).any()):
        return 0
    values, occurrences = torch.unique(some, return_counts=True)
    if len(values) > LABEL_COUNT:
        return 0
    background = values[occurrences.argmax()]
    pairs = equal = 0
    for axis in (0, 1):
        one, next_ = some.narrow(axis, 0, some.shape[axis] - 1), some.narrow(axis, 1, some.shape[axis] - 1)
        inside = (one != background) | (next_ != background)
        pairs += int(inside.sum())
        equal += int((inside & (one == next_)).sum())
    return len(values) if pairs and equal >= LABEL_EQUAL * pairs else 0


def check_hounsfield(voxels: Tensor) -> str:
    """What speaks against the values of a CT being HU; empty if nothing does.

    Args:
        voxels: what was scanned, any shape.

    Raises:
        ImageError: they cannot be, as after scaling to 0..1.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    found = f"values are between {lowest:g} and {highest:g}, where HU reach from -1000 (air) to some hundred"
    if highest - lowest < HU_SPAN:
        raise ImageError("E-CT-HU", found)
    return found if lowest >= HU_FAT else ""


def padding_of(voxels: Tensor, modality: Modality, padding_value: float | None = None) -> float | None:
    """The value of voxels outside what a CT scanned; None if all were scanned, and for MR.

    Args:
        voxels: in HU, any shape.
        modality: see :func:`guess_modality`.
        padding_value: what the header says. Default: the lowest value, if it is below :data:`CT_PADDING_BELOW`.
    """
    if modality != "CT":
        return None
    if padding_value is None:
        lowest = float(voxels.min())
        padding_value = lowest if lowest < CT_PADDING_BELOW else None
    return padding_value


def intensity_range(
    voxels: Tensor, modality: Modality | None = None, normalization: Normalization = USUAL
) -> IntensityRange:
    """The range of a volume that becomes 0 to 1.

    Args:
        voxels: the whole volume in file units, any shape, finite.
        modality: None to guess, see :func:`guess_modality`.

    Raises:
        ImageError: all voxels are equal, so there is nothing to see.
    """
    lowest, highest = float(voxels.min()), float(voxels.max())
    if lowest == highest:
        raise ImageError("E-IMG-CONST", f"every voxel is {lowest:g}")
    if (modality or guess_modality(voxels)) == "CT":
        return IntensityRange(*normalization.ct_window)
    values = torch.as_tensor(voxels).detach().cpu().numpy()
    low, high = (float(v) for v in np.percentile(values, normalization.mr_percentiles))
    # a nearly empty volume (a mask, say) may have both percentiles in the background
    return IntensityRange(low, high) if high > low else IntensityRange(lowest, highest)


@dataclass(frozen=True)
class NormalizedSlices:
    """One channel as a network wants it, and the way back.

    Attributes:
        slices: (X, Y, m) canonical, normalized.
        intensities: what they were normalized by.
        outside: (X, Y, m) what a CT did not scan; None where it scanned all.
        padding: the value that is put there.
    """

    slices: Tensor
    intensities: IntensityRange
    outside: Tensor | None
    padding: float

    @property
    def padding_fraction(self) -> float:
        """How much of the channel was not scanned, 0..1."""
        return 0.0 if self.outside is None else float(self.outside.float().mean())

    def in_file_units(self, sr: Tensor, place: tuple[slice, slice], nearest: np.ndarray) -> Tensor:
        """Rows and columns of the result; ``nearest`` is the acquired slice whose padding each new one takes."""
        sr = self.intensities.restore(sr)
        return sr if self.outside is None else torch.where(self.outside[place][..., nearest], self.padding, sr)


def chosen_voxels(voxels: Tensor, mask: Tensor) -> Tensor:
    """The voxels of a mask; by numpy, because torch takes 32 bytes for each of them meanwhile."""
    return torch.from_numpy(voxels.cpu().numpy()[mask.cpu().numpy()])


def data_range(hr: np.ndarray) -> float:
    """99.9th minus 0.1st percentile of a reference, in its units."""
    low, high = np.percentile(hr, (0.1, 99.9))
    return float(high - low) or float(hr.max() - hr.min())
