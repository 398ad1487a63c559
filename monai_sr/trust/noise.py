"""Noise of the acquired slices: how strong it is, and slices without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..acquired import Acquired
from ..errors import warn
from ..grid import with_voxels
from ..intensities import CT_AIR, data_range, estimate_noise, remove_noise

NOISY = 0.01
"""Noise divided by the data range from which a result is better if it agrees with the slices without noise. How often
that is so is in the README of the package."""

_SAMPLES = 2**21
"""Voxels that are enough to measure noise."""


def noise_fraction(acquired: Acquired) -> float:
    """White noise measured in the slices, divided by their data range; of the first channel, some slices of many."""
    slices = acquired.oriented(acquired.array[0])
    known, _ = _known(acquired, slices[..., :: max(1, slices.size // _SAMPLES)], 0)
    span = data_range(known)
    return estimate_noise(known) / span if span else 0.0


def _known(acquired: Acquired, slices: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Slices with air where a CT did not scan, and where that is."""
    outside = acquired.outside(slices, channel)
    return slices if outside is None else np.where(outside, np.float32(CT_AIR), slices), outside


def without_noise(acquired: Acquired) -> Acquired:
    """A volume without the noise that is measured in its slices, with a notice of how much (W-CON-NOISE).

    Each slice is denoised in its plane. A result that agrees with these slices does not carry the noise of the acquired
    ones on to the new slices.
    """
    voxels, unit = acquired.array.copy(), "HU" if acquired.modality == "CT" else "signal"
    measured, removed = [], []
    for channel in range(len(voxels)):
        slices = acquired.oriented(voxels[channel])
        known, outside = _known(acquired, slices, channel)
        sigma = estimate_noise(known)
        clean = np.clip(remove_noise(known, sigma), known.min(), known.max()) if sigma else known
        measured.append(sigma)
        removed.append(float(np.sqrt(np.square(clean - known).mean())))
        order, flips = acquired.grid.canonical_order(acquired.axis)
        turned = np.flip(voxels[channel].transpose(order), tuple(flips))
        turned[...] = clean if outside is None else np.where(outside, slices, clean)
    facts = {"measured": max(measured), "removed": max(removed), "unit": unit}
    text = "noise of {measured:.3g} {unit} was measured in the slices and {removed:.3g} {unit} (RMS) removed from them"
    warn("W-CON-NOISE", f"{text}; the result agrees with what is left", path=acquired.path or None, facts=facts)
    return replace(acquired, source=with_voxels(acquired.source, voxels), noise=max(measured))
