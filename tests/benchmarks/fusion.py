"""Fit the predicted error of a fused volume, and compare corrections of a field between the stacks.

    python -m tests.benchmarks.fusion uncertainty VOLUMES --bundle pyramid --output FOLDER
    python -m tests.benchmarks.fusion fields VOLUMES [--crop 120] [--bundle none]

Axial, coronal and sagittal stacks are simulated from the middle of each volume, as by `monai-sr evaluate --fuse`.

uncertainty: fits the constants of :func:`monai_sr.fusion.trust.error_of_several` by maximum likelihood of a Laplace
distribution, on voxels of the body in nine settings. Coverage is the fraction of errors within one and two deviations,
with the constants of the volumes of other persons. FOLDER keeps the voxels, so that a run that was stopped continues.

fields: multiplies each stack by a smooth field of its own, and gives the PSNR of the fused volume (dB; the reference
has the field of the first stack) with the linear scaling alone, as fused, and with N4 (SimpleITK) before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage, optimize

from monai_sr.bundles import Model, load_bundle
from monai_sr.errors import collect_notices
from monai_sr.evaluation.metrics import foreground, psnr
from monai_sr.fusion import scaling
from monai_sr.fusion.fuse import fuse
from monai_sr.fusion.gains import CROP, SETTINGS, Setting, isotropic, simulate_stacks
from monai_sr.fusion.operators import resample
from monai_sr.fusion.trust import FARTHER
from monai_sr.grid import Grid, grid_of, on_grid
from monai_sr.intensities import data_range
from monai_sr.io.itk import simple_itk, to_itk

FITTED = (
    *SETTINGS,
    Setting("three, ×4, 1 % noise", noise=0.01),
    Setting("two, ×6", factor=6, stacks=2),
    Setting("two, ×4, 2 % noise", stacks=2, noise=0.02),
    Setting("three, ×2", factor=2),
)
VOXELS = 8000  # of each volume and setting, at most
ONE_PERSON = ("t1w_chris", "flair_pysynthsr")  # beginnings of the names of volumes that show one volunteer
FIELDS = ("none", "quadratic", "coil", "waves")


@dataclass(frozen=True, eq=False)
class Sample:
    """Voxels of one volume and setting, in units of the range of the first stack."""

    volume: str
    stacks: int  # how many
    noise: float  # mean variance of the stacks
    error: np.ndarray  # (n,) absolute
    spread: np.ndarray  # (n,) of the stacks around each voxel
    farther: np.ndarray  # (n,) its mean farther around

    @property
    def person(self) -> str:
        """Volumes of one person are fitted and left out together."""
        return ONE_PERSON[0] if self.volume.startswith(ONE_PERSON) else self.volume

    def sigma(self, constants: Sequence[float]) -> np.ndarray:
        """(n,) predicted; the constants are of the noise, of the wider neighborhood, of two stacks and of more."""
        noise, farther, two, more = constants
        slope = two if self.stacks == 2 else more
        return np.sqrt(noise**2 * self.noise + slope**2 * (self.spread + farther * self.farther))

    def within(self, constants: Sequence[float]) -> list[float]:
        """Fraction of the errors within one and two deviations."""
        ratio = self.error / self.sigma(constants)
        return [float((ratio <= deviations).mean()) for deviations in (1, 2)]


def measure_sample(hr: MetaTensor, name: str, setting: Setting, model: Model) -> Sample:
    """Fuse the stacks of one setting, and compare with the reference."""
    with collect_notices():
        fused = fuse(simulate_stacks(hr, setting), model, field="first")
    edge = round(2 * setting.factor) + round(setting.mm)
    inner = (slice(edge, -edge),) * 3
    reference, unit = hr[0].numpy(), fused.stacks[0].agreement.value_range
    body = foreground(reference, hr.meta["modality"])[inner]
    spread = fused.spread.numpy()
    farther = ndimage.uniform_filter(spread, FARTHER, mode="nearest")
    error = np.abs(fused.image[0].numpy() - reference)
    count = int(body.sum())
    chosen = np.random.default_rng(0).choice(count, min(VOXELS, count), replace=False)
    error, spread, farther = (values[inner][body][chosen] for values in (error, spread, farther))
    noise = float(np.mean([stack.noise**2 for stack in fused.stacks])) / unit**2
    return Sample(name, setting.stacks, noise, error / unit, spread / unit**2, farther / unit**2)


def samples_of(volumes: Sequence[str], model: Model, folder: Path) -> Iterator[Sample]:
    """The samples of all volumes and settings; those in the folder are not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, volumes):
        hr, name = None, path.name.split(".")[0]
        for number, setting in enumerate(FITTED):
            file = folder / f"{model.name}_{name}_{number}.npz"
            if not file.exists():
                hr = isotropic(path, CROP) if hr is None else hr
                unfinished = file.with_suffix(".part.npz")
                np.savez(unfinished, **vars(measure_sample(hr, name, setting, model)))
                unfinished.replace(file)
            with np.load(file) as kept:
                yield Sample(**{key: kept[key] if kept[key].ndim else kept[key].item() for key in kept.files})


def fit(samples: Sequence[Sample]) -> np.ndarray:
    """The constants of :meth:`Sample.sigma` that make the errors most likely."""

    def unlikely(logarithms: np.ndarray) -> float:
        sigmas = [sample.sigma(np.exp(logarithms)) for sample in samples]
        both = zip(sigmas, samples, strict=True)
        return float(np.mean([np.mean(np.log(sigma) + np.sqrt(2) * s.error / sigma) for sigma, s in both]))

    return np.exp(optimize.minimize(unlikely, [0.2, -1.2, 0.2, -0.3], method="L-BFGS-B").x)


def uncertainty(samples: Sequence[Sample]) -> Iterator[str]:
    """The constants of all volumes, and the coverage of each volume with those of other persons, if there are any."""
    yield "| noise | wider neighborhood | two stacks | more |\n|---|---|---|---|"
    yield "| " + " | ".join(f"{constant:.3g}" for constant in fit(samples)) + " |\n"
    yield "| volume | within 1 | minimum, maximum | within 2 | minimum, maximum |\n|---|---|---|---|---|"
    covered: dict[str, list[list[float]]] = {}
    for person in dict.fromkeys(sample.person for sample in samples):
        constants = fit([sample for sample in samples if sample.person != person] or samples)
        for sample in samples:
            if sample.person == person:
                covered.setdefault(sample.volume, []).append(sample.within(constants))
    for name, rows in [*covered.items(), ("all", [row for each in covered.values() for row in each])]:
        one, two = (f"{c.mean():.3f} | {c.min():.2f}, {c.max():.2f}" for c in np.array(rows).T)
        yield f"| {name} | {one} | {two} |"


def field_of(name: str, number: int, hr: Grid, grid: Grid) -> torch.Tensor:
    """(1, X, Y, Z) factors of stack ``number`` on a grid; the unit of length is half a side of the reference."""
    center, reach = (hr.affine @ [*(np.array(hr.shape) - 1) / 2, 1])[:3], max(hr.shape) * hr.spacing[0] / 2

    def places(grid: Grid) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        return (index @ grid.affine[:3, :3].T + grid.affine[:3, 3] - center) / reach

    random, at = np.random.default_rng(10 + number), places(grid)
    factors = np.ones(len(at))
    if name == "quadratic":
        coefficients = random.uniform(-1, 1, 9)
        factors += 0.2 * scaling._terms(at) @ coefficients / np.abs(scaling._terms(places(hr)) @ coefficients).max()
    elif name == "coil":
        factors = np.exp(0.5 * at[:, number])
    elif name == "waves":
        phase, waves = random.uniform(0, 6, 3), random.uniform(2, 4, 3)
        factors += 0.2 * np.cos(at * waves + phase).mean(axis=-1)
    return torch.from_numpy(factors.reshape(1, *grid.shape)).float()


def with_n4(stacks: Sequence[MetaTensor]) -> list[MetaTensor]:
    """Every stack with the field that N4 finds in the first in place of its own."""
    sitk, fields = simple_itk(), []
    for stack in stacks:
        image = to_itk(np.ascontiguousarray(stack[0].numpy()), grid_of(stack))
        steps = [max(1, round(4 / spacing)) for spacing in image.GetSpacing()]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations([50, 50, 30])
        n4.Execute(sitk.Shrink(image, steps), sitk.Shrink(sitk.OtsuThreshold(image, 0, 1, 200), steps))
        fields.append(torch.from_numpy(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T.copy()))
    corrected = [stacks[0]]
    for stack, own in zip(stacks[1:], fields[1:], strict=True):
        first = resample(fields[0], grid_of(stacks[0]), grid_of(stack), degree=1)[0]
        corrected.append(on_grid(stack.as_tensor() * (first - own).clamp(-1.2, 1.2).exp(), grid_of(stack), stack))
    return corrected


def fields(volumes: Sequence[str], model: Model, crop: int) -> Iterator[str]:
    """A row for each volume and field."""
    yield "| volume | field | line alone | with the polynomial | N4 before |\n|---|---|---|---|---|"
    for path in map(Path, volumes):
        hr = isotropic(path, crop)
        thick, grid = simulate_stacks(hr, SETTINGS[0]), grid_of(hr)
        for name in FIELDS:
            pairs = enumerate(thick)
            stacks = [on_grid(s.as_tensor() * field_of(name, n, grid, grid_of(s)), grid_of(s), s) for n, s in pairs]
            reference = hr.as_tensor() * field_of(name, 0, grid, grid)
            with mock.patch.object(scaling, "PAYS", 1.1):  # the polynomial never pays
                line = psnr_of(stacks, reference, model)
            scores = line, psnr_of(stacks, reference, model), psnr_of(with_n4(stacks), reference, model)
            yield f"| {path.name.split('.')[0]} | {name} | " + " | ".join(f"{score:.1f}" for score in scores) + " |"


def psnr_of(stacks: Sequence[MetaTensor], reference: torch.Tensor, model: Model) -> float:
    """Of the fused volume, dB, without 8 voxels at each side."""
    with collect_notices():
        fused = fuse(stacks, model, field="first", register=False)
    sr, hr = fused.image[0].numpy(), reference[0].numpy()
    inner = (slice(8, -8),) * 3
    return psnr(sr[inner], hr[inner], value_range=data_range(hr))


def main(words: list[str] | None = None) -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("uncertainty", "fields"))
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--bundle", help="default: pyramid; none for fields")
    parser.add_argument("--output", type=Path, help="folder for the voxels of uncertainty")
    parser.add_argument("--crop", type=int, default=120, help="voxels a side, for fields")
    options = parser.parse_args(words)
    if options.what == "fields":
        lines = fields(options.volumes, load_bundle(options.bundle or "none"), options.crop)
    elif options.output is None:
        parser.error("uncertainty needs --output FOLDER")
    else:
        lines = uncertainty([*samples_of(options.volumes, load_bundle(options.bundle or "pyramid"), options.output)])
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
