"""Random texture for a result: what a regression leaves out, so that thin slices look and count as noisy as they are.

A network gives the mean of what the thin slices may be, which is smoother than any of them. The noise of the acquired
slices has a spectrum in plane; thin slices have more of it, as each is the mean of less. Random noise of that spectrum
and strength is added to the proposal of the network. The consistency step then removes from it what the acquired slices
decide, so that the result agrees with them as before. No structure of the texture is real.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import Later
from ..intensities import Voxels, as_array, beside
from ..slices import SliceModel

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")

PATCH = 32
"""Voxels along each side of the patches in which noise is measured."""

SMALLEST = 8
"""Voxels along X and Y at least; smaller slices get no texture."""

FLATTEST = 0.02
"""Fraction of the patches, those with the least coarse structure, whose noise is measured."""

AVERAGED = 2 / 3
"""Thin slices have more noise than thick ones: the variance divided by the sum of the squared weights
of the profile to this power. With 1, for independent noise, thin slices would have 2.45 times the noise at factor 4;
1.5 to 2.4 times, typically 1.8, were measured on nine volumes."""

LOWEST = 0.1
"""Cycles per voxel below which anatomy and noise look alike: there, noise has at most the power that it has above."""

_COARSE = 4
"""Voxels along each side of the blocks by whose means structure is distinguished from noise."""


def noise_spectrum(slices: np.ndarray | Tensor) -> np.ndarray:
    """Power spectrum in plane of the noise in slices.

    Args:
        slices: (X, Y, m), at least :data:`SMALLEST` voxels along X and Y.

    Returns:
        (p, p) power of each frequency in the order of ``numpy.fft.fft2``; its mean is the variance. Patches above the
        median of the volume are used, which are not background; all 0 if none has noise.
    """
    voxels = as_array(slices)
    size = min(PATCH, *voxels.shape[:2]) // _COARSE * _COARSE
    cut = voxels[: len(voxels) // size * size, : voxels.shape[1] // size * size]
    patches = cut.reshape(len(cut) // size, size, cut.shape[1] // size, size, -1).transpose(0, 2, 4, 1, 3)
    patches = patches.reshape(-1, size, size).astype(np.float64)
    patches = patches[patches.mean((1, 2)) >= np.median(voxels)]
    patches = patches[patches.std((1, 2)) > 0]
    if not len(patches):
        return np.zeros((size, size))
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    smooth = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2]).reshape(6, -1)
    flat = patches.reshape(len(patches), -1)
    rest = (flat - flat @ np.linalg.pinv(smooth) @ smooth).reshape(patches.shape)
    means = rest.reshape(len(rest), size // _COARSE, _COARSE, size // _COARSE, _COARSE).mean((2, 4))
    order = means.std((1, 2)).argsort()
    chosen = rest[order[: max(4, round(FLATTEST * len(order)))]]
    window = np.outer(*[np.hanning(size + 2)[1:-1]] * 2)
    each = np.abs(np.fft.fft2(chosen * window)) ** 2 / (window**2).sum()
    power = np.median(each, axis=0) / np.log(2.0)  # the mean of noise; some vessels change it little
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size)] * 2))
    low, next_ = radius < LOWEST, (radius >= LOWEST) & (radius < 2 * LOWEST)
    power[low] = np.minimum(power[low], power[next_].mean())
    power[0, 0] = 0.0
    return power


def random_texture(slices: Voxels, model: SliceModel, *, seed: int = 0) -> Voxels:
    """Noise of the thin slices, by the noise of the acquired ones.

    Args:
        slices: (X, Y, m) acquired slices.
        model: the matrices between acquired and thin slices.
        seed: another one gives another texture.

    Returns:
        (X, Y, n) float32 in the units of the slices, independent from one thin slice to the next. Where an acquired
        slice is constant, as a background of 0 is, there is none.
    """
    if min(slices.shape[:2]) < SMALLEST:
        return beside(np.zeros((*slices.shape[:2], len(model.thin)), np.float32), slices)
    power = noise_spectrum(slices)
    covariance = np.fft.ifft2(power).real
    whole = np.zeros(tuple(slices.shape[:2]))
    whole[: len(power), : len(power)] = np.fft.fftshift(covariance)
    whole = np.roll(whole, (-(len(power) // 2),) * 2, axis=(0, 1))
    spectrum = np.clip(np.fft.rfft2(whole).real, 0.0, None)
    left = float(np.quantile((model.weights**2).sum(axis=1), 0.5, method="lower")) ** AVERAGED
    given: Tensor = torch.as_tensor(slices)
    filter_ = torch.from_numpy(np.sqrt(spectrum / left).astype(np.float32)).to(given.device)
    generator = torch.Generator().manual_seed(seed)
    made = torch.empty((*given.shape[:2], len(model.thin)), device=given.device)
    for index in range(made.shape[2]):
        white = torch.randn(tuple(given.shape[:2]), generator=generator).to(given.device)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * filter_, s=white.shape)
        made[..., index] = torch.where(_is_constant(given[..., model.nearest[index]]), 0.0, field)
    return beside(made, slices)


def _is_constant(plane: Tensor) -> Tensor:
    """Whether a voxel of a slice (X, Y) equals all its neighbors."""
    values = plane.cpu().numpy()
    return torch.from_numpy(ndimage.maximum_filter(values, 3) == ndimage.minimum_filter(values, 3)).to(plane.device)
