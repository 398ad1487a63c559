"""Effect of super-resolution on measurements: volumes and values of regions, and small simulated lesions.

    python -m tests.benchmarks.safety DATALIST [--crop 96] [--factor 4] [--axes 1] [--markdown FILE]

Measured on the validation volumes of a datalist; the reference is the thin slices.

**Regions** are segmented by thresholds in the reference: in CT air (below -500 HU), fat (-150 to -30), soft tissue
(-30 to 150) and bone (above 200); in MR the darkest, middle and brightest third of the body. The table gives the
error of the volume that the same thresholds give in a result, and of the mean value in the region of the
reference.

**Lesions** are ellipsoids (axes within 15 % of the diameter) with partial-volume edges, added to the thin volume
at random places inside the body, without contact. Thick slices of the volume with and without them are simulated
and super-resolved; the difference shows the lesions. The table gives the recovery coefficient (mean difference
divided by the true one, in voxels of which the lesion fills more than half), the error of the volume in which the
difference is above half of the contrast, and the frequency of false lesions: places without a lesion where the mean
error, over the same voxels, is above half of the contrast.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop
from scipy import ndimage

from monai_sr.bundles import load_bundle
from monai_sr.evaluation.conditions import Condition, acquire
from monai_sr.evaluation.methods import BASELINES
from monai_sr.evaluation.metrics import foreground
from monai_sr.evaluation.tables import gain_interval, write_text
from monai_sr.grid import grid_of, on_grid
from monai_sr.intensities import data_range, guess_modality
from monai_sr.io.images import read_image
from monai_sr.io.volumes import datalist

torch.set_num_threads(1)
DIAMETERS = (2.0, 3.0, 5.0, 8.0, 12.0)
CONTRASTS = {"CT": (30.0, 100.0, 300.0), "MR": (0.05, 0.1, 0.3)}
"""HU, and fractions of the data range; of either sign."""
CT_REGIONS = {"air": (-np.inf, -500.0), "fat": (-150.0, -30.0), "soft": (-30.0, 150.0), "bone": (200.0, np.inf)}
FEWEST_VOXELS = 200
"""A region of fewer is not measured."""


@dataclass(frozen=True)
class Lesion:
    """One lesion: where it is how much, in voxels of the thin volume.

    Attributes:
        place: slices of the box that holds it and as much around.
        fraction: of each voxel of the box that is lesion, 0..1.
        diameter: mm, of the ball of equal volume.
        contrast: what a voxel that is all lesion is changed by.
        size: contrast without its sign, as :data:`CONTRASTS` has it.
    """

    place: tuple[slice, ...]
    fraction: np.ndarray
    diameter: float
    contrast: float
    size: float


def ellipsoid(shape: Sequence[int], spacing: Sequence[float], center: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(X, Y, Z) fraction of each voxel inside an ellipsoid, by 4 x 4 x 4 points in each.

    Args:
        shape, spacing: of the voxels; the first one's center is at 0.
        center: mm.
        axes: mm, the three diameters.
    """
    fine = 4
    lines = [((np.arange(n * fine) + 0.5) / fine - 0.5) * s - c for n, s, c in zip(shape, spacing, center, strict=True)]
    x, y, z = (line / (axis / 2) for line, axis in zip(lines, axes, strict=True))
    inside = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) <= 1
    a, b, c = shape
    return inside.reshape(a, fine, b, fine, c, fine).mean(axis=(1, 3, 5))


def places(body: np.ndarray, spacing: Sequence[float], apart: float, rng: np.random.Generator) -> np.ndarray:
    """(k, 3) voxels at random inside a mask, each at least ``apart`` mm from the others and the edge of the box."""
    margin = [int(np.ceil(apart / 2 / s)) for s in spacing]
    inner = np.zeros_like(body)
    box = tuple(slice(m, n - m) for m, n in zip(margin, body.shape, strict=True))
    inner[box] = body[box]
    candidates = rng.permutation(np.argwhere(inner))
    chosen: list[np.ndarray] = []
    for voxel in candidates[:20000]:
        if all(np.linalg.norm((voxel - other) * spacing) >= apart for other in chosen):
            chosen.append(voxel)
    return np.array(chosen).reshape(-1, 3)


def with_lesions(hr, kind: str, apart: float, rng: np.random.Generator):
    """A volume with lesions of every diameter and contrast in turn, and the lesions."""
    reference, spacing = hr[0].numpy(), grid_of(hr).spacing
    scale = 1.0 if kind == "CT" else data_range(reference)
    kinds = [
        (diameter, sign * contrast)
        for diameter, contrast, sign in itertools.product(DIAMETERS, CONTRASTS[kind], (1, -1))
    ]
    kinds = [kinds[i] for i in rng.permutation(len(kinds))]
    body = ndimage.binary_erosion(foreground(reference), iterations=2)
    changed, lesions = reference.copy(), []
    half = [int(np.ceil(apart / 2 / s)) for s in spacing]
    for index, voxel in enumerate(places(body, spacing, apart, rng)):
        diameter, contrast = kinds[index % len(kinds)]
        axes = rng.uniform(0.85, 1.15, 3)
        axes *= diameter / np.prod(axes) ** (1 / 3)
        place = tuple(slice(v - h, v + h + 1) for v, h in zip(voxel, half, strict=True))
        shape = [s.stop - s.start for s in place]
        center = (np.array(half) + rng.uniform(-0.5, 0.5, 3)) * spacing
        fraction = ellipsoid(shape, spacing, center, axes)
        changed[place] += contrast * scale * fraction
        lesions.append(Lesion(place, fraction, diameter, contrast * scale, abs(contrast)))
    return on_grid(torch.from_numpy(changed.astype(np.float32))[None], grid_of(hr), hr), lesions


def measured(lesion: Lesion, difference: np.ndarray, error: np.ndarray) -> tuple[float, float, bool]:
    """Recovery coefficient, relative error of the volume at half of the contrast, and whether it is there without.

    Args:
        lesion: which.
        difference: (X, Y, Z) result with lesions less result without.
        error: (X, Y, Z) result minus reference, both without lesions.
    """
    change, fraction = difference[lesion.place] / lesion.contrast, lesion.fraction
    core = fraction > 0.5 * fraction.max()
    recovery = float(change[core].mean() / fraction[core].mean())
    volume = float((change > 0.5).sum() / max(1, (fraction > 0.5).sum()) - 1)
    false = abs(float(error[lesion.place][core].mean())) > abs(lesion.contrast) / 2
    return recovery, volume, bool(false)


def thirds(reference: np.ndarray, body: np.ndarray) -> dict[str, tuple[float, float]]:
    """The darkest, middle and brightest third of a body, as ranges of values."""
    low, high = np.percentile(reference[body], (100 / 3, 200 / 3))
    return {"dark": (-np.inf, low), "middle": (low, high), "bright": (high, np.inf)}


def region_errors(
    reference: np.ndarray, result: np.ndarray, where: np.ndarray, kind: str
) -> dict[str, tuple[float, float]]:
    """By region the relative error of its volume, and of its mean value (HU, or fraction of the data range)."""
    regions = CT_REGIONS if kind == "CT" else thirds(reference, where)
    scale = 1.0 if kind == "CT" else data_range(reference)
    errors = {}
    for name, (low, high) in regions.items():
        true, ours = ((low <= v) & (v < high) & where for v in (reference, result))
        if true.sum() >= FEWEST_VOXELS:
            errors[name] = float(ours.sum() / true.sum() - 1), float((result[true] - reference[true]).mean() / scale)
    return errors


def study(paths: Sequence[str], methods, factors: Sequence[float], axes: int, crop: int, report=print):
    """Every figure: lesions and regions by (modality, factor, method, what), each a list of (case, values)."""
    lesions_found, regions_found = defaultdict(list), defaultdict(list)
    for number, path in enumerate(paths):
        hr = CenterSpatialCrop((crop,) * 3)(read_image(path))
        kind = guess_modality(hr)
        grid = grid_of(hr)
        near = [a for a in (2, 1, 0) if grid.spacing[a] <= 1.3 * min(grid.spacing)][:axes]
        for factor, axis in itertools.product(factors, near):
            rng = np.random.default_rng(1000 * number + axis)
            apart = DIAMETERS[-1] * 1.15 + 1.5 * factor * grid.spacing[axis]
            changed, lesions = with_lesions(hr, kind, apart, rng)
            cases = [acquire(volume, Condition(factor), axis) for volume in (hr, changed)]
            bare = cases[0]
            reference = bare.reference[0].numpy()
            counted = np.zeros_like(reference, dtype=bool)
            np.moveaxis(counted, axis, -1)[..., bare.measured] = True
            body = foreground(reference) & counted
            settings = {"factor": factor, "axis": axis, "slice_thickness": bare.slice_thickness}
            for name, method in methods.items():
                without, within = (np.asarray(method(case.lr, **settings)[0]) for case in cases)
                where = counted if kind == "CT" else body
                for region, values in region_errors(reference, without, where, kind).items():
                    regions_found[kind, factor, name, region].append((number, values))
                for lesion in lesions:
                    if lesion.place[axis].stop <= reference.shape[axis] and counted[lesion.place].all():
                        values = measured(lesion, within - without, without - reference)
                        key = kind, factor, name, (lesion.diameter, lesion.size)
                        lesions_found[key].append((number, values))
            report(f"{Path(path).name}: ×{factor:g} along axis {axis}, {len(lesions)} lesions")
    return lesions_found, regions_found


def _mean(values: Sequence[float], form: str) -> str:
    interval = gain_interval(values)
    text = form.format(float(np.mean(values)))
    return text + ("" if interval is None else f" [{', '.join(form.format(v) for v in interval)}]")


def tables(lesions_found, regions_found, names: Sequence[str]) -> str:
    """Both tables; intervals are 95 % bootstrap ones over lesions, and over volumes for regions."""
    lines = []
    for kind, factor in sorted({key[:2] for key in lesions_found}):
        unit = "HU" if kind == "CT" else "% of range"
        lines += ["", f"**Lesions, {kind} ×{factor:g}**: recovery | volume error | false", ""]
        lines += [f"| diameter | contrast | n | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
        for what in sorted({key[3] for key in lesions_found if key[:2] == (kind, factor)}):
            cells = []
            for name in names:
                values = np.array([v for _, v in lesions_found[kind, factor, name, what]], dtype=float)
                recovery, volume = _mean(values[:, 0], "{:.2f}"), f"{100 * values[:, 1].mean():+.0f} %"
                cells.append(f"{recovery} \\| {volume} \\| {100 * values[:, 2].mean():.0f} %")
            contrast = what[1] if kind == "CT" else 100 * what[1]
            lines.append(f"| {what[0]:g} mm | ±{contrast:g} {unit} | {len(values)} | {' | '.join(cells)} |")
    for kind, factor in sorted({key[:2] for key in regions_found}):
        lines += ["", f"**Regions, {kind} ×{factor:g}**: volume error \\| mean value", ""]
        lines += [f"| region | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        for region in dict.fromkeys(key[3] for key in regions_found if key[:2] == (kind, factor)):
            cells = []
            for name in names:
                errors = regions_found[kind, factor, name, region]
                cases = sorted({case for case, _ in errors})
                each = np.array([np.mean([v for c, v in errors if c == case], axis=0) for case in cases])
                size = _mean(100 * each[:, 0], "{:+.1f}") + " %"
                value = _mean(each[:, 1] * (1 if kind == "CT" else 100), "{:+.2f}") + (" HU" if kind == "CT" else " %")
                cells.append(f"{size} \\| {value}")
            lines.append(f"| {region} | {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist")
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--factor", type=float, nargs="+", default=[4.0])
    parser.add_argument("--axes", type=int, default=1, help="slice axes of near-finest spacing, the last ones first")
    parser.add_argument("--bundle", nargs="*", default=["residual", "pyramid"])
    parser.add_argument("--markdown")
    options = parser.parse_args(words)
    bundles = {name: load_bundle(name) for name in options.bundle}
    methods = {"cubic": BASELINES["cubic"], "spline": BASELINES["consistent"]} | bundles
    paths = [item["image"] for item in datalist(options.datalist, "validation")]
    results = study(paths, methods, options.factor, options.axes, options.crop)
    text = tables(*results, list(methods))
    print(text)
    if options.markdown:
        factors = " ".join(f"{factor:g}" for factor in options.factor)
        command = (
            f"python -m tests.benchmarks.safety DATALIST --crop {options.crop} --factor {factors} --axes {options.axes}"
        )
        write_text(f"{text}\nMade by `{command}`.\n", Path(options.markdown))


if __name__ == "__main__":
    main()
