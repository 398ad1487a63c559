"""Pictures and artifacts of results on real thick series, for which there is no reference.

    python -m tests.benchmarks.gallery SERIES... --output FOLDER [--crop 192] [--plates] [--spoil] [--markdown FILE]

SERIES are image files or DICOM folders. For each, FOLDER gets NAME.png: the thick slices (repeated), cubic
interpolation, the consistent spline, and both bundles; two planes across the slices through the middle of the volume
with one window, and below each its middle, magnified. The table holds, for every method (see
monai_sr/trust/artifacts.py; 1 is a volume without the artifact):

noise    in-plane noise that repeats with the slice spacing (highest by lowest)
steps    differences of neighboring slices that repeat so
combs    curvature along strong edges that repeats so
bands    brightness of whole slices that repeats so
texture  deviation in flat regions, by that of the acquired slices
streaks  correlation length of the texture of flat regions, across the slices by in plane

With --plates a phantom of flat plates is added, in a CT of 1 mm slices averaged to 4 mm, without noise and with 10 and
25 HU. With --spoil a second table says how often quarters of the results would give a warning (W-SR-STRIPES,
W-SR-TEXTURE), as they are and, for the last bundle, with artifacts put in.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_sr.acquired import Acquired
from monai_sr.bundles import load_bundle
from monai_sr.evaluation.conditions import middle
from monai_sr.evaluation.methods import resample_to
from monai_sr.evaluation.tables import aligned, piped
from monai_sr.files import make_folder, write_text
from monai_sr.grid import Grid
from monai_sr.intensities import CT_LEAST, data_range
from monai_sr.io.images import read_image
from monai_sr.transforms import interpolate_slices, simulate_thick_slices
from monai_sr.trust.artifacts import FLAT, LIMITS, bands, body_of, combs, false_texture, slices_of, stripes

BUNDLES = ("none", "residual", "pyramid")
FIGURES = (*LIMITS, "streaks")
MAGNIFIED = 3

PLATES = (0, 10, 25)
"""Noise of the phantoms of plates, HU."""


@dataclass(frozen=True)
class Series:
    """A thick series and what was made of it.

    Attributes:
        thick: (X, Y, Z) acquired voxels; results: (X', Y', Z') by method.
        at: (n,) position of each slice of the results, in acquired slices.
        spacing: of the results, mm.
    """

    name: str
    modality: str
    axis: int
    slice_spacing: float
    spacing: tuple[float, float, float]
    at: np.ndarray
    thick: np.ndarray
    results: dict[str, np.ndarray]

    @property
    def period(self) -> float:
        """Slice spacing in slices of the results."""
        return self.slice_spacing / self.spacing[self.axis]

    def quarters(self) -> Iterator[Series]:
        """All slices of each quarter of the plane."""
        halves = [
            [slice(None)] if a == self.axis else [slice(0, n // 2), slice(n // 2, None)] for a, n in self._plane()
        ]
        for where in ((x, y, z) for x in halves[0] for y in halves[1] for z in halves[2]):
            results = {name: voxels[where] for name, voxels in self.results.items()}
            yield replace(self, thick=self.thick[where], results=results)

    def measure(self, voxels: np.ndarray, *, with_streaks: bool = True) -> dict[str, float]:
        """The figures of one result."""
        thick, axis = self.thick, self.axis
        if self.modality == "CT":
            thick, voxels = np.maximum(thick, CT_LEAST), np.maximum(voxels, CT_LEAST)
        before, after = slices_of(thick, axis), slices_of(voxels, axis)
        body = body_of(after)
        noise, steps = stripes(after, body, self.period)
        figures = {
            "noise": noise,
            "steps": steps,
            "combs": combs(after, body, self.period),
            "bands": bands(after, body, self.period),
            "texture": false_texture(before, after, self.at),
        }
        return figures | ({"streaks": streaks(voxels, axis, self.spacing, self.slice_spacing)} if with_streaks else {})

    def _plane(self) -> list[tuple[int, int]]:
        return list(enumerate(self.thick.shape))


def streaks(voxels: np.ndarray, axis: int, spacing: tuple[float, float, float], slice_spacing: float) -> float:
    """Correlation length of the texture of flat regions along the slice axis, divided by that in plane.

    Args:
        voxels: (X, Y, Z).
        axis: through-plane axis.
        spacing: of the voxels, mm.
        slice_spacing: of the acquired slices, mm: what is smoother than this is anatomy.
    """
    smooth = ndimage.gaussian_filter(voxels.astype(np.float32), [slice_spacing / s for s in spacing])
    slope = np.sqrt(sum(np.gradient(smooth, s, axis=a) ** 2 for a, s in enumerate(spacing)))
    body = body_of(voxels)
    flat = body & (slope <= np.quantile(slope[body], FLAT))
    texture = np.where(flat, voxels - smooth, 0.0)
    lengths = [_correlation_length(texture, flat, a, s, slice_spacing) for a, s in enumerate(spacing)]
    return lengths[axis] / max(float(np.mean([lengths[a] for a in range(3) if a != axis])), 1e-6)


def _correlation_length(texture: np.ndarray, flat: np.ndarray, axis: int, step: float, reach: float) -> float:
    """Distance at which the correlation of a texture falls to 1/2, mm; at most twice the reach."""
    before, lag = 1.0, 0
    lines, inside = np.moveaxis(texture, axis, 0), np.moveaxis(flat, axis, 0)
    while lag * step < 2 * reach and lag + 1 < len(lines):
        lag += 1
        both = inside[lag:] & inside[:-lag]
        a, b = lines[lag:][both], lines[:-lag][both]
        now = float((a * b).sum() / max(np.sqrt(float((a * a).sum()) * float((b * b).sum())), 1e-12))
        if now < 0.5:
            return step * (lag - 1 + (before - 0.5) / (before - now))
        before = now
    return lag * step


def plates(noise: float) -> MetaTensor:
    """Thick slices of a cylinder with flat plates of 1 to 8 mm across its axis, HU; noise of the thin slices."""
    x, y, z = np.indices((80, 80, 120))
    body = (x - 39.5) ** 2 + (y - 39.5) ** 2 < 34**2
    voxels = np.where(body, 20.0, -1000.0)
    for first, last, value in ((10, 14, 120), (24, 26, 300), (38, 46, -60), (56, 57, 500), (70, 71, 200), (82, 90, 90)):
        voxels[body & (z >= first) & (z < last)] = value
    pattern = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=voxels.shape), (0.7, 0.7, 0))
    voxels = ndimage.gaussian_filter(voxels, 0.7) + noise * pattern / pattern.std()
    thin = MetaTensor(torch.from_numpy(voxels[None].astype(np.float32)), affine=np.eye(4))
    return simulate_thick_slices(thin, 4.0, slice_thickness=4.0, axis=2)


def super_resolve_series(name: str, image: MetaTensor, models: dict[str, Any], *, crop: int) -> Series:
    """A series, the middle of its slices, and the results of all methods."""
    axis = Acquired.of(image).axis
    image = middle(image, [-1 if a == axis else crop for a in range(3)])
    acquired = Acquired.of(image, axis=axis)
    wanted: Grid = acquired.wanted_grid()
    results = {"thick": resample_to(image, wanted, order=0), "cubic": interpolate_slices(image, axis=axis)[0].numpy()}
    for method, model in models.items():
        results[method] = model(image, axis=axis, modality=acquired.modality)[0].numpy()
    places = np.linalg.inv(acquired.grid.affine) @ wanted.affine
    at = places[axis, axis] * np.arange(wanted.shape[axis]) + places[axis, 3]
    labels = name, acquired.modality, axis, acquired.slice_spacing
    return Series(*labels, wanted.spacing, at, image[0].numpy(), results)


# ------------------------------------------------------------- artifacts that are put in


def _near(series: Series) -> np.ndarray:
    """The slices of a result that are nearest to an acquired one, as weights of its axis."""
    apart = np.abs(series.at - np.round(series.at))
    return np.reshape(apart <= 0.5 / series.period, [-1 if a == series.axis else 1 for a in range(3)])


def alternate(series: Series, sr: np.ndarray) -> np.ndarray:
    """Slices between acquired ones are smooth in plane."""
    smooth = ndimage.gaussian_filter(sr, [0 if a == series.axis else 1.0 for a in range(3)])
    return np.where(_near(series), sr, smooth)


def repeat(series: Series, _sr: np.ndarray) -> np.ndarray:
    """Every acquired slice repeated."""
    return series.results["thick"]


def accentuate(series: Series, sr: np.ndarray) -> np.ndarray:
    """Acquired slices are brighter by 5 % of the data range."""
    return sr + 0.05 * data_range(series.thick) * _near(series)


def add_texture(series: Series, sr: np.ndarray) -> np.ndarray:
    """A pattern of 5 % of the data range between the acquired slices."""
    pattern = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=sr.shape), 1.0)
    return sr + ~_near(series) * pattern / pattern.std() * 0.05 * data_range(series.thick)


SPOILED: dict[str, Callable[[Series, np.ndarray], np.ndarray]] = {
    "as they are": lambda _, sr: sr,
    "smooth between the slices": alternate,
    "slices repeated": repeat,
    "slices 5 % brighter": accentuate,
    "texture of 5 %": add_texture,
}


def warning_rates(gallery: list[Series]) -> list[list[str]]:
    """How many quarters of results are above the limits, as they are and spoiled."""
    rows = [["results", "n", "W-SR-STRIPES", "W-SR-TEXTURE", *(f"{name} (largest)" for name in LIMITS)]]
    for title, spoil in SPOILED.items():
        striped, textured, largest = [], [], defaultdict(list)
        for series in (quarter for whole in gallery for quarter in whole.quarters()):
            methods = [method for method in series.results if method not in ("thick", "cubic")]
            for method in methods if title == "as they are" else methods[-1:]:
                figures = series.measure(spoil(series, series.results[method]), with_streaks=False)
                above = {name for name, limit in LIMITS.items() if figures[name] > limit}
                striped.append(bool(above - {"texture"}))
                textured.append("texture" in above)
                for name in LIMITS:
                    largest[name].append(figures[name])
        counts = [f"{sum(hits)} ({np.mean(hits):.0%})" for hits in (striped, textured)]
        rows.append([title, str(len(striped)), *counts, *(f"{np.nanmax(largest[name]):.2f}" for name in LIMITS)])
    return rows


def draw(series: Series, path: Path) -> Path:
    """Both planes across the slices, whole and magnified, a column for each method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axis, spacing, results = series.axis, series.spacing, series.results
    planes = [a for a in range(3) if a != axis]
    shown = np.concatenate([results["cubic"].take(results["cubic"].shape[a] // 2, axis=a).ravel() for a in planes])
    low, high = np.percentile(shown, (2, 99.5))
    shape = results["cubic"].shape
    heights = [4 * shape[axis] * spacing[axis] / (shape[a] * spacing[a]) for a in reversed(planes) for _ in range(2)]
    figure, places = plt.subplots(
        4,
        len(results),
        figsize=(4 * len(results), sum(heights) + 1.2),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for column, (name, voxels) in enumerate(results.items()):
        for row, across in enumerate(planes):
            plane = voxels.take(voxels.shape[across] // 2, axis=across)
            along = planes[1 - row]
            picture = plane.T if axis > along else plane  # slices from bottom to top
            part = tuple(slice(n // 2 - n // (2 * MAGNIFIED), n // 2 + n // (2 * MAGNIFIED)) for n in picture.shape)
            for place, view in zip(places[2 * row : 2 * row + 2, column], (picture, picture[part]), strict=True):
                aspect = spacing[axis] / spacing[along]
                place.imshow(
                    view, cmap="gray", vmin=low, vmax=high, aspect=aspect, origin="lower", interpolation="none"
                )
                place.axis("off")
        places[0, column].set_title(name)
    figure.suptitle(
        f"{series.name}: {series.modality}, slices {series.slice_spacing:.3g} mm apart, x{series.period:.3g}"
    )
    figure.savefig(path, dpi=50)
    plt.close(figure)
    return path


def table(gallery: list[Series]) -> list[list[str]]:
    """The figures of every series and method."""
    rows = [["series", "factor", "method", *FIGURES]]
    for series in gallery:
        for method, voxels in series.results.items():
            figures = series.measure(voxels)
            rows.append([series.name, f"{series.period:.3g}", method, *(f"{figures[name]:.2f}" for name in FIGURES)])
    return rows


def main() -> None:
    """Draw and measure every series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--crop", type=int, default=192, help="rows and columns, from the middle")
    parser.add_argument("--bundle", nargs="+", default=list(BUNDLES))
    parser.add_argument("--plates", action="store_true", help="add phantoms of flat plates")
    parser.add_argument("--spoil", action="store_true", help="say how often good and bad results give a warning")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    make_folder(options.output)
    models = {name: load_bundle(name) for name in options.bundle}
    gallery = []
    named = [(path.name.split(".")[0], lambda path=path: read_image(path)) for path in options.series]
    named += [(f"plates_{n}HU", lambda n=n: plates(n)) for n in PLATES if options.plates]
    for name, read in named:
        gallery.append(super_resolve_series(name, read(), models, crop=options.crop))
        print(draw(gallery[-1], options.output / f"{gallery[-1].name}.png"), flush=True)
    tables = [table(gallery), *([warning_rates(gallery)] if options.spoil else [])]
    print("\n\n".join(aligned(rows, left=3 if rows is tables[0] else 1) for rows in tables))
    if options.markdown:
        write_text("\n\n".join(map(piped, tables)) + "\n", options.markdown)


if __name__ == "__main__":
    main()
