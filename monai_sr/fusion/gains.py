"""What fusing orthogonal thick stacks gains, measured on volumes of thin slices.

Axial, coronal and sagittal stacks are simulated from the middle of each volume and fused. The result is compared with
the reference, and so are the best single super-resolved stack, the mean of the stacks after cubic interpolation and
the mean of the super-resolved ones. Of misaligned stacks only the first lies where the reference does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..acquired import Acquired
from ..bundles import Model
from ..engine import Progress
from ..errors import SuperResolutionError, UsageError, collect_notices
from ..evaluation.conditions import Condition, acquire, middle
from ..evaluation.metrics import foreground, psnr, sharpness, ssim
from ..grid import Grid, Image, grid_of, on_grid
from ..intensities import data_range
from ..io.images import read_image
from ..transforms import interpolate_slices
from .fuse import fuse
from .operators import resample

AXES = (2, 1, 0)
"""Axial, coronal, sagittal of a volume stored in any order: each axis has its stack."""

METHODS = ("single", "cubic mean", "super-resolved mean", "fused")

SIDES = 24
"""The side of a volume is a multiple of it, so that thick slices of factors 4 and 6 fill it."""

CROP = 72
"""Voxels a side that are measured by default."""

FEWEST = 48
"""Voxels a side; the outer 12 are not measured."""

GAINS_EXPLAINED = (
    "PSNR dB, SSIM and sharpness (1 equals the reference) on the middle of each volume, along the axes of its file, in "
    "cubes of its largest spacing. single: the best of the super-resolved stacks; gain: PSNR of the fused volume minus "
    "that of single, mean (minimum to maximum) over volumes; within: fraction of the voxels of the body whose error "
    "is at most one and two predicted standard deviations. Misaligned stacks are turned and shifted against the first; "
    "the methods without registration average what does not lie together."
)


@dataclass(frozen=True)
class Setting:
    """Stacks that are simulated; ``degrees`` and ``mm`` are the motion of all but the first."""

    name: str
    factor: float = 4
    stacks: int = 3
    degrees: float = 0
    mm: float = 0
    noise: float = 0


SETTINGS = (
    Setting("three, ×4"),
    Setting("two, ×4", stacks=2),
    Setting("three, ×6", factor=6),
    Setting("three, ×4, 5°, 3 mm", degrees=5, mm=3),
    Setting("three, ×4, 2 % noise", noise=0.02),
)


@dataclass(frozen=True)
class Gain:
    """One method on the stacks of one volume.

    Attributes:
        stacks: the name of the setting.
        method: of :data:`METHODS`.
        within_1, within_2: fraction of the voxels of the body whose error is at most one and two predicted standard
            deviations; of the fused volume, if the bundle was calibrated.
    """

    volume: str
    modality: str
    bundle: str
    stacks: str
    method: str
    psnr_db: float
    ssim: float
    sharpness: float
    within_1: float | None = None
    within_2: float | None = None


def measure_gains(
    volumes: Sequence[str | Path],
    models: Mapping[str, Model],
    *,
    crop: int | None = None,
    failed: Callable[[str, SuperResolutionError], None] | None = None,
    progress: Progress | None = None,
) -> list[Gain]:
    """Simulate stacks of each volume, fuse them, and compare with the volume.

    Args:
        volumes: files or DICOM folders.
        models: bundles by name.
        crop: voxels a side, from the middle. Default: :data:`CROP`.
        failed: called with the name of a volume and its error; the others continue. Default: raise.
        progress: called with the fraction that is done.
    """
    made: list[Gain] = []
    jobs, done = len(volumes) * len(models) * len(SETTINGS), 0
    for path in map(Path, volumes):
        try:
            hr = isotropic(path, crop or CROP)
            for name, model in models.items():
                remembering = _Remembering(model)
                for setting in SETTINGS:
                    about = path.name, Acquired.of(hr).modality, name, setting.name
                    made += [Gain(*about, *figures) for figures in _scores(hr, setting, remembering)]
                    done += 1
                    if progress is not None:
                        progress(done / jobs)
        except SuperResolutionError as error:
            if failed is None:
                raise error.at(path) from error.__cause__
            failed(path.name, error.at(path))
    return made


def isotropic(path: Path, crop: int) -> MetaTensor:
    """The middle of a volume, cubic voxels of its largest spacing, along the axes of the world.

    Raises:
        UsageError: it is too small.
    """
    volume = read_image(path)
    grid = grid_of(volume)
    step = max(grid.spacing)
    plain = Grid(grid.shape, np.diag([*grid.spacing, 1]))
    cubes = plain
    for axis in range(3):
        cubes = cubes if plain.spacing[axis] > 0.99 * step else cubes.respaced(axis, step)
    voxels = resample(volume.as_tensor()[0], plain, cubes)[0]
    side = min(crop, *cubes.shape) // SIDES * SIDES
    if side < FEWEST:
        problem = f"{side} voxels a side can be measured (minimum {FEWEST}) of {cubes.in_words()}"
        raise UsageError("E-USE", problem, fix="give a larger volume, or a larger --crop")
    meta = {"modality": Acquired.of(volume).modality}
    affine = torch.diag(torch.tensor([step, step, step, 1.0], dtype=torch.float64))
    return MetaTensor(middle(cast(MetaTensor, voxels[None]), side).clone(), affine=affine, meta=meta)


def simulate_stacks(hr: MetaTensor, setting: Setting) -> list[MetaTensor]:
    """The thick stacks, one along each axis."""
    condition = Condition(setting.factor, noise=setting.noise)
    return [
        acquire(_moved(hr, setting, sign) if sign else hr, condition, axis).lr
        for sign, axis in zip((0, 1, -1), AXES[: setting.stacks], strict=False)
    ]


def gain_table(gains: Sequence[Gain]) -> list[list[str]]:
    """Means over volumes: a row for each bundle and setting."""
    rows = [["bundle", "stacks", *METHODS, "gain over single", "within"]]
    for bundle, stacks in dict.fromkeys((gain.bundle, gain.stacks) for gain in gains):
        here = [gain for gain in gains if (gain.bundle, gain.stacks) == (bundle, stacks)]
        figures = {
            method: np.array([(gain.psnr_db, gain.ssim, gain.sharpness) for gain in here if gain.method == method])
            for method in METHODS
        }
        cells = [f"{p:.1f} dB, {s:.3f}, {h:.2f}" for p, s, h in (figures[method].mean(axis=0) for method in METHODS)]
        over = figures["fused"][:, 0] - figures["single"][:, 0]
        within = np.array([(gain.within_1, gain.within_2) for gain in here if gain.within_1 is not None])
        gained = f"{over.mean():+.1f} dB ({over.min():+.1f} to {over.max():+.1f})"
        covered = ", ".join(f"{fraction:.2f}" for fraction in within.mean(axis=0)) if len(within) else "–"
        rows.append([bundle, stacks, *cells, gained, covered])
    return rows


class _Remembering(Model):
    """A bundle that super-resolves a stack of the same voxels once."""

    def __init__(self, model: Model) -> None:
        self.__dict__ |= copy.copy(model).__dict__
        self._made: dict[bytes, Image] = {}

    def super_resolve(self, acquired: Acquired, *wanted: Any, **how: Any) -> Image:
        key = acquired.voxels.numpy().tobytes() + acquired.grid.affine.tobytes()
        if key not in self._made:
            self._made[key] = super().super_resolve(acquired, *wanted, **how)
        return self._made[key]

    def on(self, device: Any) -> Model:
        return self


def _moved(hr: MetaTensor, setting: Setting, sign: int) -> MetaTensor:
    """The anatomy turned and shifted on the same grid."""
    if not setting.degrees and not setting.mm:
        return hr
    axis = np.array([1.0, sign, 0.5])
    turn = Rotation.from_rotvec(np.radians(setting.degrees) * axis / np.linalg.norm(axis)).as_matrix()
    shift = setting.mm / grid_of(hr).spacing[0] * np.array([sign, 1.0, -1.0]) / np.sqrt(3)
    center = (np.array(hr.shape[1:]) - 1) / 2
    voxels = ndimage.affine_transform(hr[0].numpy(), turn, center - turn @ center + shift, order=3, mode="nearest")
    return on_grid(torch.from_numpy(voxels)[None], grid_of(hr), hr)


def _scores(hr: MetaTensor, setting: Setting, model: Model) -> Iterator[tuple[Any, ...]]:
    """Method, PSNR, SSIM and sharpness; of the fused volume also how often errors are as small as predicted."""
    grid, stacks, reference = grid_of(hr), simulate_stacks(hr, setting), hr[0].numpy()
    edge = round(2 * setting.factor) + round(setting.mm)  # where the fields end, or methods extrapolate
    inner = (slice(edge, -edge),) * 3
    span = data_range(reference)

    def score(method: str, voxels: Tensor) -> tuple[str, float, float, float]:
        sr, truth = voxels.numpy()[inner], reference[inner]
        sharp = float(np.mean([sharpness(sr, truth, axis=a) for a in range(3)]))
        return method, psnr(sr, truth, value_range=span), ssim(sr, truth, value_range=span), sharp

    def on_reference(sr: Tensor) -> Tensor:
        return resample(torch.as_tensor(sr)[0].float(), grid_of(sr), grid)[0]

    with collect_notices():
        results = [on_reference(model(stack, spacing=grid.spacing[0])) for stack in stacks]
        fused = fuse(stacks, model, field="first")
    cubic = [
        on_reference(interpolate_slices(stack, grid.spacing[0], method="cubic", axis=axis))
        for stack, axis in zip(stacks, AXES, strict=False)
    ]
    yield max((score("single", sr) for sr in results), key=lambda row: row[1])
    yield score("cubic mean", torch.stack(cubic).mean(dim=0))
    yield score("super-resolved mean", torch.stack(results).mean(dim=0))
    image = on_reference(fused.image)
    if not fused.constants:
        yield score("fused", image)
        return
    sigma = on_reference(fused.uncertainty())
    error = np.abs(image.numpy()[inner] - reference[inner])
    ratio = (error / sigma.numpy()[inner].clip(min=1e-6))[foreground(reference, Acquired.of(hr).modality)[inner]]
    yield *score("fused", image), float((ratio <= 1).mean()), float((ratio <= 2).mean())
