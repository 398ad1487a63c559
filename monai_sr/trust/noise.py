"""Noise of the acquired slices: how strong it is, and slices without it."""

from __future__ import annotations

from dataclasses import replace

import torch
from monai.data import MetaTensor
from torch import Tensor

from ..acquired import Acquired
from ..errors import warn
from ..intensities import CT_AIR, data_range, estimate_noise, remove_noise

NOISY = 0.01
"""Noise divided by the data range from which a result is better if it agrees with the slices without noise. How often
that is so is in the README of the package."""

_SAMPLES = 2**21
"""Voxels that are enough to measure noise."""


def noise_fraction(acquired: Acquired) -> float:
    """White noise measured in the slices, divided by their data range; of the first channel, some slices of many."""
    slices = acquired.oriented(acquired.voxels[0].float())
    known, _ = _known(acquired, slices[..., :: max(1, slices.numel() // _SAMPLES)], 0)
    span = data_range(known.cpu().numpy())
    return estimate_noise(known) / span if span else 0.0


def _known(acquired: Acquired, slices: Tensor, channel: int) -> tuple[Tensor, Tensor | None]:
    """Slices with air where a CT did not scan, and where that is."""
    outside = acquired.outside(slices, channel)
    return slices if outside is None else torch.where(outside, CT_AIR, slices), outside


def without_noise(acquired: Acquired) -> Acquired:
    """A volume without the noise that is measured in its slices, with a notice of how much (W-CON-NOISE).

    Each slice is denoised in its plane. A result that agrees with these slices does not carry the noise of the acquired
    ones on to the new slices.
    """
    voxels, unit = acquired.voxels.float().clone(), "HU" if acquired.modality == "CT" else "signal"
    measured, removed = [], []
    for channel in range(len(voxels)):
        slices = acquired.oriented(voxels[channel])
        known, outside = _known(acquired, slices, channel)
        sigma = estimate_noise(known)
        clean = remove_noise(known, sigma).clamp_(float(known.min()), float(known.max())) if sigma else known
        measured.append(sigma)
        removed.append(float((clean - known).square().mean().sqrt()))
        acquired.put(
            clean if outside is None else torch.where(outside, slices, clean),
            voxels[channel],
            (slice(None), slice(None)),
        )
    facts = {"measured": max(measured), "removed": max(removed), "unit": unit}
    text = "noise of {measured:.3g} {unit} was measured in the slices and {removed:.3g} {unit} (RMS) removed from them"
    warn("W-CON-NOISE", f"{text}; the result agrees with what is left", path=acquired.path or None, facts=facts)
    image = acquired.image
    clean_image = MetaTensor(voxels, affine=image.affine, meta=image.meta) if isinstance(image, MetaTensor) else voxels
    return replace(acquired, image=clean_image, noise=max(measured))
