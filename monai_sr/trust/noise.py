"""Noise of the acquired slices: how strong it is, and slices without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..acquired import Acquired
from ..errors import warn
from ..grid import with_voxels
from ..intensities import CT_AIR, as_array, data_range, estimate_noise, remove_noise
from .resolution import middle_of

NOISY = 0.008, 0.1
"""Noise of the slices' own, divided by the data range, where a result is better if it agrees with the slices without
noise. How often that is so is in the README of the package. More was not measured, and may be texture."""

MILD = 0.02
"""With less noise the profile stays that of the slices with it. What is left of mild noise is not sharpened then, as a
Gaussian would be."""

OWN = 1 / 3
"""And divided by all noise. Noise that slices share is in the thin slices too."""


def is_noisy(acquired: Acquired) -> bool:
    """Whether the noise of the slices of the first channel is strong and mostly their own; measured in their middle."""
    if acquired.said_profile in (("box", "header"), ("box", "sidecar")):
        return False  # means of thin slices have no noise but theirs
    voxels = as_array(acquired.source)[0]
    middle = acquired.oriented(voxels[middle_of(voxels.shape, acquired.axis)].astype(np.float32))
    known, _ = _known(acquired, middle, 0)
    noise = estimate_noise(known)
    low, high = (limit * data_range(known) for limit in NOISY)
    return noise.own > OWN * noise.sigma and low <= noise.own <= high


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
    measured, removed, profile = [], [], acquired.said_profile
    for channel in range(len(voxels)):
        slices = acquired.oriented(voxels[channel])
        known, outside = _known(acquired, slices, channel)
        sigma, own = estimate_noise(known)
        if profile is None and channel == 0 and own < MILD * data_range(known):
            profile = acquired.slice_profile, acquired.source_of("slice_profile")
        clean = np.clip(remove_noise(known, sigma), known.min(), known.max()) if sigma else known
        measured.append(sigma)
        removed.append(float(np.sqrt(np.square(clean - known).mean())))
        order, flips = acquired.grid.canonical_order(acquired.axis)
        turned = np.flip(voxels[channel].transpose(order), tuple(flips))
        turned[...] = clean if outside is None else np.where(outside, slices, clean)
    facts = {"measured": max(measured), "removed": max(removed), "unit": unit}
    text = "noise of {measured:.3g} {unit} was measured in the slices and {removed:.3g} {unit} (RMS) removed from them"
    warn("W-CON-NOISE", f"{text}; the result agrees with what is left", path=acquired.path or None, facts=facts)
    source = with_voxels(acquired.source, voxels)
    return replace(acquired, source=source, noise=max(measured), said_profile=profile)
