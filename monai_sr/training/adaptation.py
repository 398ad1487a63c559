"""Adapt a network to one volume, by the detail that the volume itself has in plane."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..acquired import Acquired
from ..bundles import Model
from ..engine import Progress
from ..engine.torch_rows import has_bfloat16
from ..grid import Image, grid_of
from ..intensities import CT_AIR
from ..slices import apply_along, levels_for, profile_matrix
from .augmentation import RandSimulateThickSlicesd
from .inferer import ConsistentInferer

STEPS = 150
"""Maximum number: four minutes on one core with bfloat16 instructions."""

TIMED = 8
"""Steps whose time says how many fit into the minutes given."""

CROP, BATCH = 48, 2
"""Voxels along each side of a crop, and crops in a step."""

MIDDLE = 256
"""Voxels along each axis of the part of a volume that is trained on, which bounds the memory."""

RATE, AVERAGING = 3e-4, 0.02
"""Of Adam, before it falls along a cosine; and of the running mean of the weights that is kept."""

CLIPPING = 1.0
"""Maximum norm of the gradient."""

HELD_BACK = 0.2
"""Part of the output slices that is not trained on; it decides whether the adapted network is used."""

SMALLEST_GAIN = 0.1
"""Of the adapted network on the held back slices, dB; with less, one of the volumes measured became worse."""


@dataclass(frozen=True)
class Adaptation:
    """What came of it, for the record.

    Attributes:
        steps: of training.
        gain: on the part that was held back, dB of PSNR.
        is_used: whether the adapted network is used.
    """

    steps: int
    gain: float
    is_used: bool

    def record(self) -> dict[str, object]:
        """As the record beside a result holds it."""
        return {"steps": self.steps, "gain_db": round(self.gain, 3), "used": self.is_used}


def adapt(
    model: Model, acquired: Acquired, sr: Image, *, minutes: float, seed: int = 0, progress: Progress | None = None
) -> tuple[Model, Adaptation]:
    """Train the network of a model further, on one super-resolved volume.

    The in-plane axes of a volume show its contrast, noise and anatomy with fine detail. They become slice axes in
    turn: slices are simulated along them with the volume's own ratio of spacings, thickness and profile, and the
    network learns to give back the volume (its middle, if it is large). In-plane voxels finer than the wanted slice
    spacing are averaged to it first. The last fifth of the slices is held back; if the network gains too little there,
    it is not used. A volume with too few voxels in plane for three simulated slices is not trained on.

    Args:
        model: on the CPU or a GPU.
        acquired: the volume; of several channels the first is used.
        sr: the result of ``model`` for it.
        minutes: of training, at most; the number of steps follows from the time of the first ones.
        seed: of the crops.
        progress: called with the fraction of the training that is done.

    Returns:
        The model with the adapted network, computed by the same engine, or ``model`` itself; and what came of it.
    """
    network = model.network
    if network is None or not sr.meta.get("super_resolved"):
        return model, Adaptation(0, 0.0, is_used=False)
    volumes, simulate = _volumes(acquired, sr, model)
    if min(_crop_size(volume.shape, simulate)[2] for volume in volumes) < 3 * simulate.factors[0]:
        return model, Adaptation(0, 0.0, is_used=False)
    held = max(round(HELD_BACK * volumes[0].shape[1]), 1)
    parts = [(volume[:, :-held], volume[:, -held:]) for volume in volumes]
    adapted = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - AVERAGING))
    inferer = ConsistentInferer(bfloat16=model.device.type == "cuda" or has_bfloat16())
    pairs = _pairs([train for train, _ in parts], simulate, device=model.device, seed=seed)
    steps = _train(copy.deepcopy(network).train(), adapted, pairs, inferer, seconds=60 * minutes, progress=progress)
    before, after = (
        np.mean([_psnr(net, test, simulate, inferer) for _, test in parts]) for net in (network, adapted.module.eval())
    )
    gain = float(after - before)
    if not gain >= SMALLEST_GAIN:
        return model, Adaptation(steps, gain, is_used=False)
    return model.computed_by(model.engine.with_network(adapted.module)), Adaptation(steps, gain, is_used=True)


def _volumes(acquired: Acquired, sr: Image, model: Model) -> tuple[list[Tensor], RandSimulateThickSlicesd]:
    """The normalized result (X, Z, n) with each in-plane axis last, and what simulates slices along it.

    The last axis has the spacing of what the network makes: for a pyramid the power of two of its levels.
    """
    scan = acquired.normalized(0, acquired.normalization(model.defaults.normalization))
    middle = tuple(slice((n - min(n, MIDDLE)) // 2, (n + min(n, MIDDLE)) // 2) for n in sr.shape[1:])
    part = sr.as_tensor()[0][middle].float()
    outside = acquired.outside(part, 0)
    if acquired.modality == "CT":
        part = part.clamp_min(CT_AIR)
    elif outside is not None:
        part = torch.where(outside, acquired.air(0), part)
    voxels = scan.intensities.normalize(acquired.oriented(part))
    order, _ = grid_of(sr).canonical_order(acquired.axis)
    spacing = [grid_of(sr).spacing[axis] for axis in order]
    factor = acquired.slice_spacing / spacing[2]
    works_on = model.engine.works_on
    factor = 2.0 ** levels_for(factor) if works_on == "thick" else factor
    wanted = acquired.slice_spacing / factor
    volumes = []
    for axis in (0, 1):
        volume = torch.movedim(voxels, axis, -1)
        if spacing[axis] < wanted:
            n = volume.shape[-1]
            fine = (np.arange(n) - (n - 1) / 2) * spacing[axis]
            count = max(int(n * spacing[axis] / wanted), 1)
            coarse = (np.arange(count) - (count - 1) / 2) * wanted
            volume = apply_along(profile_matrix(fine, coarse, slice_thickness=wanted).float(), volume)
        volumes.append(volume.contiguous())
    ratio = float(np.median(acquired.slice_thickness)) / acquired.slice_spacing
    simulate = RandSimulateThickSlicesd(
        "image",
        factors=(factor,),
        works_on="thick" if works_on == "thick" else "thin",
        thickness_ratios=(ratio, ratio),
        usual=0,
        gaps=0,
        mistaken=0,
        noisy=0,
        profile_given=1,
        box=float(acquired.slice_profile == "box"),
        triangle=float(acquired.slice_profile == "triangle"),
    )
    return volumes, simulate


def _train(
    network: nn.Module,
    averaged: AveragedModel,
    pairs: Iterator[dict[str, Tensor]],
    inferer: ConsistentInferer,
    *,
    seconds: float,
    progress: Progress | None,
) -> int:
    """Train a network, and keep the running mean of its weights in ``averaged``; returns the number of steps."""
    optimizer, steps, started = Adam(network.parameters(), lr=RATE), STEPS, time.monotonic()
    for step, pair in enumerate(pairs):
        if step == 1:  # the first one also prepares
            started = time.monotonic()
        if step == TIMED:
            steps = min(STEPS, max(TIMED, int(seconds * (TIMED - 1) / (time.monotonic() - started))))
        if step >= steps:
            break
        rising, falling = min(1.0, (step + 1) / (2 * TIMED)), (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = RATE * rising * falling
        hr = pair.pop("label")
        error = _last_level_error(inferer(pair.pop("image"), network, **pair), hr)
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIPPING)
        optimizer.step()
        averaged.update_parameters(network)
        if progress:
            progress(min((step + 1) / steps, 1.0))
    return steps


def _pairs(
    volumes: Sequence[Tensor], simulate: RandSimulateThickSlicesd, *, device: torch.device, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Batches of random crops and the slices simulated from them, each along one in-plane axis."""
    random = np.random.default_rng(seed)

    def crop(volume: Tensor, size: Sequence[int]) -> Tensor:
        first = [int(random.integers(n - s + 1)) for n, s in zip(volume.shape, size, strict=True)]
        part = volume[tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))]
        return part.flip([axis for axis in range(3) if random.random() < 0.5])

    for _ in range(STEPS + 1):
        volume = volumes[int(random.integers(len(volumes)))]
        size = _crop_size(volume.shape, simulate)
        yield _pair(torch.stack([crop(volume, size) for _ in range(BATCH)])[:, None].to(device), simulate)


def _crop_size(shape: Sequence[int], simulate: RandSimulateThickSlicesd) -> tuple[int, int, int]:
    """Voxels of a crop; slices as many as the factor divides, at least three thick ones."""
    factor = simulate.factors[0]
    slices = min(max(CROP, math.ceil(3 * factor)), shape[2])
    if simulate.works_on == "thick":
        slices -= slices % int(factor)
    return min(CROP, shape[0]), min(CROP, shape[1]), slices


def _pair(hr: Tensor, simulate: RandSimulateThickSlicesd) -> dict[str, Tensor]:
    """A batch of crops (B, 1, X, Y, n) with their simulated slices, as a trainer takes it."""
    simulate.randomize((1.0, 1.0, 1.0))
    true, to_input, acquisition, spline = (matrix.float().to(hr) for matrix in simulate.matrices(hr.shape[-1]))
    lr = apply_along(true, hr)
    return {
        "image": apply_along(to_input, lr),
        "label": hr,
        "acquired": lr,
        "acquisition": acquisition.expand(len(hr), -1, -1),
        "spline": spline.expand(len(hr), -1, -1),
    }


def _last_level_error(levels: Sequence[Tensor] | Tensor, hr: Tensor) -> Tensor:
    """Squared error of the last level, in hundredths of the intensity range; the ends of a crop lack neighbors."""
    sr = levels if isinstance(levels, Tensor) else levels[-1]
    ends = min(4, hr.shape[-1] // 8)
    return 100 * ((sr - hr)[..., ends : hr.shape[-1] - ends] ** 2).mean()


@torch.no_grad()
def _psnr(network: nn.Module, volume: Tensor, simulate: RandSimulateThickSlicesd, inferer: ConsistentInferer) -> float:
    """PSNR of the middle of a volume (X, Z, n), dB of the range of intensities 0 to 1."""
    device = next(network.parameters()).device
    rows, columns = ((n - min(n, 2 * CROP)) // 2 for n in volume.shape[::2])
    part = volume[rows : rows + 2 * CROP, :, columns : columns + 2 * CROP]
    slices = part.shape[2] - (part.shape[2] % int(simulate.factors[0]) if simulate.works_on == "thick" else 0)
    pair = _pair(part[None, None, ..., :slices].to(device), simulate)
    hr = pair.pop("label")
    return -10 * math.log10(float(_last_level_error(inferer(pair.pop("image"), network, **pair), hr)) / 100)
