"""Training pairs made on the device, from volumes that lie in its memory: hundreds to thousands of crops per second."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..grid import grid_of
from .augmentation import RandSimulateThickSlicesd, _averages

_GROWTHS = np.linspace(1.15, 2, 9)
"""By how much the voxels of a coarse crop grow."""

_KNOTS = 6
"""Pieces of a random piecewise linear change of intensities."""


class BatchesOnDevice:
    """A data loader for SupervisedTrainer: batches of random crops and their thick slices, made on the device.

    A loader that makes one crop at a time on a processor gives a GPU a hundredth of what it can take. Here all volumes
    lie on the device, as whole numbers of 16 bits. Crops are gathered from them with turned and flipped axes, some at
    a coarser resolution. Their intensities are changed, and thick slices are simulated by matrices that are drawn
    beforehand. All crops of a batch have the same factor. The rate is logged after each epoch.

    Args:
        volumes: items with an ``image`` (1, X, Y, Z), normalized, with affine, and optionally a ``weight``.
        simulate: draws the acquisitions: factors, thickness, profile, noise, and which axes can be the slice axis.
        crop: voxels of a crop; the last axis becomes the slice axis.
        batch_size: crops in a batch.
        batches: batches in an epoch.
        device: where to make them.
        draws: acquisitions for each factor.
        coarse: probability of a crop with voxels up to twice as large, where the volume is large enough.
        resolution: smallest difference of normalized intensities that is kept.
        seed: of everything that is drawn.

    Yields:
        The keys of :class:`monai_sr.training.RandSimulateThickSlicesd`, batched: ``image``, ``label`` and
        ``acquired`` (B, 1, X, Y, n), ``acquisition`` and ``spline`` (B, m, n) and (B, n, m).

    Raises:
        ValueError: there are no volumes.
    """

    def __init__(
        self,
        volumes: Sequence[Mapping[str, Any]],
        simulate: RandSimulateThickSlicesd,
        *,
        crop: Sequence[int] = (64, 64, 48),
        batch_size: int = 16,
        batches: int = 100,
        device: torch.device | str = "cpu",
        draws: int = 300,
        coarse: float = 0.3,
        resolution: float = 0.002,
        seed: int = 0,
    ) -> None:
        if not len(volumes):
            raise ValueError("there are no volumes to train on")
        self.crop, self.batch_size, self.batches = tuple(crop), batch_size, batches
        self.device, self.coarse, self.resolution = torch.device(device), coarse, resolution
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        simulate.set_random_state(seed)
        self.noise = simulate.noise, simulate.noisy
        self._hold(volumes, simulate.isotropy)
        self.matrices = {factor: self._draw(simulate, factor, draws) for factor in set(simulate.factors)}
        self.factors = simulate.factors
        means = {
            size: [_padded(_averages(int(np.ceil(size * g)), size, g), 2 * size) for g in _GROWTHS] for size in crop
        }
        self.means = {size: torch.stack(rows).float().to(self.device) for size, rows in means.items()}

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        started = time.monotonic()
        for made in range(1, self.batches + 1):
            batch = self.pairs(float(self.random.choice(self.factors)))
            if made == self.batches:  # a trainer does not ask for more
                rate = made * self.batch_size / max(time.monotonic() - started, 1e-9)
                logging.getLogger(__name__).info("%.1f crops/s", rate)
            yield batch

    def pairs(self, factor: float) -> dict[str, Tensor]:
        """A batch of one factor."""
        hr = self.change_intensities(self.crops())
        bank = self.matrices[factor]
        drawn = torch.randint(len(bank[0]), (len(hr),), device=self.device, generator=self.generator)
        true, to_input, acquisition, spline = (matrices[drawn] for matrices in bank)
        lr = _along(true, hr)
        sigma, noisy = self.noise
        sigmas = torch.where(self._uniform() < noisy, sigma * self._uniform(), 0.0)
        lr = lr + _wide(sigmas) * torch.randn(lr.shape, device=self.device, generator=self.generator)
        images = {"image": _along(to_input, lr), "label": hr, "acquired": lr}
        return {name: image[:, None] for name, image in images.items()} | {"acquisition": acquisition, "spline": spline}

    # ---------------------------------------------------------------- volumes

    def _hold(self, volumes: Sequence[Mapping[str, Any]], isotropy: float) -> None:
        """Put the volumes on the device, one after another in one tensor."""
        parts: list[np.ndarray] = []
        shapes: list[tuple[int, ...]] = []
        weights: list[float] = []
        self.near: list[list[int]] = []
        for item in volumes:
            image = item["image"]
            spacing = grid_of(image).spacing
            voxels = (image.as_tensor() if isinstance(image, MetaTensor) else image)[0]
            missing = [max(0, max(self.crop) - n) for n in voxels.shape]
            padded = np.pad(voxels.numpy(), [(0, m) for m in missing], mode="edge")
            whole = np.round(padded / self.resolution).clip(-32768, 32767).astype(np.int16)
            parts.append(whole.ravel())
            shapes.append(whole.shape)
            weights.append(float(item.get("weight", 1)))
            self.near.append([axis for axis in range(3) if spacing[axis] <= isotropy * min(spacing)])
        self.voxels = torch.from_numpy(np.concatenate(parts)).to(self.device)
        self.shapes = np.array(shapes)
        self.first = np.cumsum([0, *(len(part) for part in parts[:-1])])
        self.weights = np.array(weights) / sum(weights)

    def crops(self) -> Tensor:
        """(B, X, Y, n) crops with random axes, directions and voxel sizes; the slice axis is last."""
        count, draw = self.batch_size, self.random
        chosen = draw.choice(len(self.weights), count, p=self.weights)
        flips = draw.random((count, 3)) < 0.5
        coarse = draw.random(count) < self.coarse
        axes, corner = np.zeros((count, 3), int), np.zeros((count, 3), int)
        for i, k in enumerate(chosen):
            through = draw.choice(self.near[k])
            axes[i] = [*draw.permutation([axis for axis in range(3) if axis != through]), through]
            shape = self.shapes[k][axes[i]]
            coarse[i] &= bool((shape >= 2 * np.array(self.crop)).all())
            size = np.array(self.crop) * (2 if coarse[i] else 1)
            corner[i, axes[i]] = [draw.integers(0, n - s + 1) for n, s in zip(shape, size, strict=True)]
        result = torch.empty(count, *self.crop, device=self.device)
        for double in (False, True):
            which = np.flatnonzero(coarse == double)
            if not len(which):
                continue
            lengths = [n * (1 + double) for n in self.crop]
            part = self._gather(chosen[which], axes[which], corner[which], lengths, flips[which])
            if double:
                growth = torch.from_numpy(draw.integers(0, len(_GROWTHS), len(which))).to(self.device)
                for axis, length in enumerate(self.crop, start=1):
                    part = torch.movedim(_along(self.means[length][growth], torch.movedim(part, axis, -1)), -1, axis)
            result[torch.from_numpy(which).to(self.device)] = part
        return result

    def _gather(
        self, chosen: np.ndarray, axes: np.ndarray, corner: np.ndarray, size: Sequence[int], flips: np.ndarray
    ) -> Tensor:
        """(B, x, y, z) of the voxels, by strides of any order and sign."""
        shapes = self.shapes[chosen]
        strides = np.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], np.ones(len(chosen), int)], axis=1)
        places = torch.from_numpy(self.first[chosen] + (corner * strides).sum(axis=1)).to(self.device)
        places = places[:, None, None, None]
        for axis, length in enumerate(size):
            stride = np.take_along_axis(strides, axes[:, axis : axis + 1], axis=1)
            forward = np.arange(length)[None].repeat(len(chosen), axis=0)
            steps = np.where(flips[:, axis : axis + 1], length - 1 - forward, forward) * stride
            view = [len(chosen), 1, 1, 1]
            view[axis + 1] = length
            places = places + torch.from_numpy(steps).to(self.device).reshape(view)
        return self.voxels[places].float() * self.resolution

    # ------------------------------------------------------------ intensities

    def change_intensities(self, crops: Tensor) -> Tensor:
        """Gamma with mean and spread kept, piecewise linear changes (some not monotonic), inversion, brightness."""
        over = (1, 2, 3)
        low, high = crops.amin(over, keepdim=True), crops.amax(over, keepdim=True)
        span = (high - low).clamp_min(1e-6)
        part = (crops - low) / span
        gamma = part.clamp_min(1e-7) ** _wide(0.7 + 0.7 * self._uniform())
        deviation = gamma.std(over, keepdim=True).clamp_min(1e-6)
        gamma = (gamma - gamma.mean(over, keepdim=True)) / deviation * crops.std(over, keepdim=True)
        crops = torch.where(_wide(self._uniform() < 0.3), gamma + crops.mean(over, keepdim=True), crops)
        slopes = torch.where(
            self._uniform()[:, None] < 0.3, 2 * self._uniform(_KNOTS) - 1, self._uniform(_KNOTS) + 0.15
        )
        slopes = slopes / slopes.abs().mean(dim=1, keepdim=True)
        pieces = (part[..., None] * _KNOTS - torch.arange(_KNOTS, device=self.device)).clamp(0, 1)
        bent = torch.einsum("bxyzk,bk->bxyz", pieces, slopes) / _KNOTS * span + low
        crops = torch.where(_wide(self._uniform() < 0.25), bent, crops)
        crops = torch.where(_wide(self._uniform() < 0.15), 1 - crops, crops)
        return crops * _wide(torch.where(self._uniform() < 0.5, 0.75 + 0.5 * self._uniform(), 1.0))

    def _uniform(self, columns: int = 0) -> Tensor:
        shape = (self.batch_size, columns) if columns else (self.batch_size,)
        return torch.rand(shape, device=self.device, generator=self.generator)

    # ------------------------------------------------------------ acquisition

    def _draw(self, simulate: RandSimulateThickSlicesd, factor: float, draws: int) -> list[Tensor]:
        """Of each drawn acquisition the four matrices of :meth:`RandSimulateThickSlicesd.matrices`."""
        rows = []
        for _ in range(draws):
            simulate.randomize((1.0, 1.0, 1.0), factor=factor)
            rows.append(simulate.matrices(self.crop[2]))
        return [torch.stack(matrices).float().to(self.device) for matrices in zip(*rows, strict=True)]


def _along(matrices: Tensor, voxels: Tensor) -> Tensor:
    """(B, p, q) into the last axis of (B, x, y, q)."""
    return (voxels.flatten(1, 2) @ matrices.mT).reshape(*voxels.shape[:3], -1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _padded(matrix: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(matrix, [0, columns - matrix.shape[1]])
