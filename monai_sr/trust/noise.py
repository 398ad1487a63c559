"""Noise of the acquired slices: how strong it is, and slices without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..acquired import Acquired
from ..errors import warn
from ..grid import with_voxels
from ..intensities import Modality, as_array, data_range, estimate_noise, remove_noise
from .resolution import middle_of

NOISY: Mapping[Modality, tuple[float, float]] = {"CT": (0.0035, 0.1), "MR": (0.008, 0.1)}
"""Noise of the slices' own, divided by the data range, where a result is better if it agrees with the slices without
noise. How often that is so is in the README of the package. In a CT only the finest part of its noise is measured, so
less of it counts: slices of five training volumes without added noise have at most a third of it. More was not
measured, and may be texture."""

MILD = 0.02
"""With less noise the profile stays that of the slices with it. What is left of mild noise is not sharpened then, as a
Gaussian would be."""

OWN: Mapping[Modality, float] = {"CT": 1 / 5, "MR": 1 / 3}
"""And divided by all noise. Noise that slices share is in the thin slices too."""


def is_noisy(acquired: Acquired) -> bool:
    """Whether the noise of the slices of the first channel is strong and mostly their own; measured in their middle."""
    if acquired.said_profile in (("box", "header"), ("box", "sidecar")):
        return False  # means of thin slices have no noise but theirs
    voxels = as_array(acquired.source)[0]
    middle = acquired.oriented(voxels[middle_of(voxels.shape, acquired.axis)].astype(np.float32))
    known, _ = _known(acquired, middle, 0)
    noise = estimate_noise(known)
    low, high = (limit * data_range(known) for limit in NOISY[acquired.modality])
    return noise.own > OWN[acquired.modality] * noise.sigma and low <= noise.own <= high


def _known(acquired: Acquired, slices: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Slices with air in place of padding, and where that is."""
    outside = acquired.outside(slices, channel)
    return slices if outside is None else np.where(outside, np.float32(acquired.air(channel)), slices), outside


def without_noise(acquired: Acquired, *, boxes_keep: bool = False) -> Acquired:
    """A volume without the noise that is measured in its slices, with a notice of how much (W-CON-NOISE).

    Each slice is denoised in its plane. A result that agrees with these slices does not carry the noise of the acquired
    ones on to the new slices.

    Neighboring boxes do not overlap, so noise of the thin slices seems to be their own. With ``boxes_keep`` boxes keep
    a part of it: what is removed is multiplied by the fraction of the noise that seems to be their own.
    """
    noisy, noises, is_mild = acquired.array, [], False
    voxels = noisy.copy()
    for channel in range(len(voxels)):
        slices = acquired.oriented(noisy[channel])
        known, outside = _known(acquired, slices, channel)
        noise = estimate_noise(known)
        noises.append(noise)
        is_mild |= channel == 0 and noise.own < MILD * data_range(known)
        clean = np.clip(remove_noise(known, noise.sigma), known.min(), known.max()) if noise.sigma else known
        order, flips = acquired.grid.canonical_order(acquired.axis)
        turned = np.flip(voxels[channel].transpose(order), tuple(flips))
        turned[...] = clean if outside is None else np.where(outside, slices, clean)
    measured, profile = max(noise.sigma for noise in noises), acquired.said_profile
    denoised = replace(acquired, source=with_voxels(acquired.source, voxels), noise=measured)
    if boxes_keep and denoised.slice_profile == "box":
        for channel, (sigma, own) in enumerate(noises):
            fraction = np.float32(own / sigma if sigma else 0.0)
            voxels[channel] = noisy[channel] + fraction * (voxels[channel] - noisy[channel])
    if profile is None:
        decided_by = acquired if is_mild else denoised
        profile = decided_by.slice_profile, decided_by.source_of("slice_profile")
    removed = max(float(np.sqrt(np.square(after - before).mean())) for after, before in zip(voxels, noisy, strict=True))
    facts = {"measured": measured, "removed": removed, "unit": "HU" if acquired.modality == "CT" else "signal"}
    text = "noise of {measured:.3g} {unit} was measured in the slices; {removed:.3g} {unit} (RMS) of it is removed"
    warn("W-CON-NOISE", text, path=acquired.path or None, facts=facts)
    return replace(denoised, source=with_voxels(acquired.source, voxels), said_profile=profile)
