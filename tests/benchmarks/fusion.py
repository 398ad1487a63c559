"""What fusing orthogonal thick stacks gains, on volumes of thin slices.

    python -m tests.benchmarks.fusion VOLUME... [--crop 96] [--bundle residual] [--condition NAME...] [--markdown FILE]

Axial, coronal and sagittal stacks are simulated from the middle of each volume and fused. The result is compared with
the reference, and so are the best single super-resolved stack, the mean of the stacks after cubic interpolation and
the mean of the super-resolved ones. Of the misaligned stacks only the first lies where the reference does.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop
from scipy import ndimage
from scipy.spatial.transform import Rotation

from monai_sr.bundles import Model, load_bundle
from monai_sr.evaluation.conditions import Condition, acquire
from monai_sr.evaluation.metrics import psnr, sharpness, ssim
from monai_sr.fusion import fuse as fusion
from monai_sr.fusion.operators import resample
from monai_sr.grid import Grid, grid_of, on_grid
from monai_sr.intensities import data_range
from monai_sr.io.images import read_image
from monai_sr.transforms import interpolate_slices

AXES = (2, 1, 0)
"""Axial, coronal, sagittal of a volume stored in any order: each axis has its stack."""

METHODS = ("single", "cubic mean", "super-resolved mean", "fused")


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


class Remembering(Model):
    """A bundle that super-resolves a stack of the same voxels once."""

    def __init__(self, model: Model) -> None:
        self.__dict__ |= copy.copy(model).__dict__
        self.known: dict[bytes, MetaTensor] = {}

    def super_resolve(self, acquired, wanted, **how):
        key = acquired.voxels.numpy().tobytes() + acquired.grid.affine.tobytes()
        if key not in self.known:
            self.known[key] = super().super_resolve(acquired, wanted, **how)
        return self.known[key]

    def on(self, device):
        return self


def isotropic(path: Path, crop: int) -> MetaTensor:
    """The middle of a volume, cubic voxels of its largest spacing, along the axes of the world."""
    volume = read_image(path)
    grid = grid_of(volume)
    step = max(grid.spacing)
    plain = Grid(grid.shape, np.diag([*grid.spacing, 1]))
    cubes = plain
    for axis in range(3):
        cubes = cubes if plain.spacing[axis] > 0.99 * step else cubes.respaced(axis, step)
    voxels = resample(volume.as_tensor()[0], plain, cubes)[0]
    side = min(crop, *(n // 24 * 24 for n in cubes.shape))  # so that factors 4 and 6 fill it
    middle = CenterSpatialCrop((side,) * 3)(voxels[None])
    meta = {"modality": "CT" if float(volume.min()) < -200 else "MR"}
    affine = torch.diag(torch.tensor([step, step, step, 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(middle), affine=affine, meta=meta)


def moved(hr: MetaTensor, setting: Setting, sign: int) -> MetaTensor:
    """The anatomy turned and shifted on the same grid."""
    if not setting.degrees and not setting.mm:
        return hr
    axis = np.array([1.0, sign, 0.5])
    turn = Rotation.from_rotvec(np.radians(setting.degrees) * axis / np.linalg.norm(axis)).as_matrix()
    shift = setting.mm / grid_of(hr).spacing[0] * np.array([sign, 1.0, -1.0]) / np.sqrt(3)
    center = (np.array(hr.shape[1:]) - 1) / 2
    voxels = ndimage.affine_transform(hr[0].numpy(), turn, center - turn @ center + shift, order=3, mode="nearest")
    return on_grid(torch.from_numpy(voxels)[None], grid_of(hr), hr)


def simulate(hr: MetaTensor, setting: Setting) -> list[MetaTensor]:
    """The thick stacks, one along each axis."""
    condition = Condition(setting.factor, noise=setting.noise)
    return [
        acquire(moved(hr, setting, sign) if sign else hr, condition, axis).lr
        for sign, axis in zip((0, 1, -1), AXES[: setting.stacks], strict=False)
    ]


def scores(hr: MetaTensor, setting: Setting, model: Model) -> tuple[dict[str, np.ndarray], str]:
    """PSNR, SSIM and sharpness of each method; and a line about the fusion."""
    grid, stacks, reference = grid_of(hr), simulate(hr, setting), hr[0].numpy()
    edge = round(2 * setting.factor) + round(setting.mm)
    inner = (slice(edge, -edge),) * 3
    span = data_range(reference)

    def score(volume: torch.Tensor, there: Grid) -> np.ndarray:
        voxels = resample(torch.as_tensor(volume).float(), there, grid)[0].numpy()[inner]
        truth = reference[inner]
        sharp = np.mean([sharpness(voxels, truth, axis=a) for a in range(3)])
        return np.array([psnr(voxels, truth, value_range=span), ssim(voxels, truth, value_range=span), sharp])

    step = grid.spacing[0]
    results = [model(stack, spacing=step) for stack in stacks]
    aligned = [resample(sr[0].as_tensor(), grid_of(sr), grid)[0] for sr in results]
    cubic = [interpolate_slices(stack, step, method="cubic", axis=a) for stack, a in zip(stacks, AXES, strict=False)]
    cubic = [resample(image.as_tensor()[0], grid_of(image), grid)[0] for image in cubic]
    singles = [score(sr[0].as_tensor(), grid_of(sr)) for sr in results]
    started = time.monotonic()
    fused = fusion.fuse(stacks, model, field="first")
    took = time.monotonic() - started
    found = {
        "single": max(singles, key=lambda row: row[0]),
        "cubic mean": score(torch.stack(cubic).mean(dim=0), grid),
        "super-resolved mean": score(torch.stack(aligned).mean(dim=0), grid),
        "fused": score(fused.image[0].as_tensor(), grid_of(fused.image)),
    }
    motions = ", ".join(f"{s.motion.mm:.2f} mm {s.motion.degrees:.2f}°" for s in fused.stacks[1:])
    weights = ", ".join(f"{s.weight:.0f}" for s in fused.stacks)
    gains = ", ".join(f"{s.scaling.gain:.3f}" for s in fused.stacks)
    return found, f"{took:.0f} s; motion {motions}; weights {weights}; gains {gains}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--bundle", default="residual")
    parser.add_argument("--condition", nargs="+", choices=[s.name for s in SETTINGS])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    table: dict[str, list[dict[str, np.ndarray]]] = {}
    for path in options.volumes:
        model, hr = Remembering(bundle), isotropic(path, options.crop)
        print(f"{path.name}: {grid_of(hr).in_words()}", flush=True)
        for setting in SETTINGS:
            if options.condition and setting.name not in options.condition:
                continue
            found, line = scores(hr, setting, model)
            table.setdefault(setting.name, []).append(found)
            values = "  ".join(f"{name} {row[0]:.2f}/{row[1]:.3f}/{row[2]:.2f}" for name, row in found.items())
            print(f"  {setting.name:22} {values}  ({line})", flush=True)
    lines = [f"| stacks | {' | '.join(METHODS)} | gain over single |", "|---" * (len(METHODS) + 2) + "|"]
    for name, rows in table.items():
        means = {method: np.mean([row[method] for row in rows], axis=0) for method in METHODS}
        cells = " | ".join(f"{m[0]:.1f} dB, {m[1]:.3f}, {m[2]:.2f}" for m in means.values())
        gains = [row["fused"][0] - row["single"][0] for row in rows]
        lines.append(f"| {name} | {cells} | {np.mean(gains):+.1f} dB ({min(gains):+.1f} to {max(gains):+.1f}) |")
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
