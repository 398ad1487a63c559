"""What quality costs: validation PSNR against multiply-adds per output voxel, for variants of both networks.

    python -m tests.benchmarks.pareto DATALIST --output FOLDER [--crops 900]

Every variant of VARIANTS is trained by the recipe of the bundles with MONAI's SupervisedTrainer, on the same
number of crops, the same ones in the same order. Then it is measured on one crop from the middle of every
validation volume at factors 2 and 4: PSNR less that of the consistent spline. The shipped networks are trained
from several initializations, which shows how much of a difference is chance.

What a variant costs is counted from its weights: the multiply-adds of its convolutions. All variants keep what
makes a network what it is: twenty layers and a residual; levels, sums and supervision of every level.

FOLDER gets a CSV file per training (one whose file is there is not repeated), and after every training
pareto.md and pareto.png of all that are there. ``--plot PAGE`` trains nothing and draws the table that a page
holds: ``--plot bundles/studies.md --output bundles/pictures``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_sr.io.volumes import datalist
from monai_sr.networks import LinkedPair, PyramidNet, ResidualNet, _prepare
from monai_sr.training.clipping import GradientClipping
from monai_sr.training.losses import CharbonnierLoss, PyramidLoss

from .training import (
    COLORS,
    FACTORS,
    CommonSettings,
    Recipe,
    Row,
    adam,
    add_arguments,
    fit,
    load,
    norm,
    read_rows,
    settings_of,
    settle,
    works_on,
    write_plot,
    write_rows,
    write_text,
)

LAYERS = 20
"""Of every residual network."""

Kernel = tuple[int, int, int]

WHOLE: Kernel = (3, 3, 3)
THROUGH_PLANE: Kernel = (1, 1, 3)
CUBES = WHOLE, WHOLE
FACTORIZED = (3, 3, 1), THROUGH_PLANE
EVERY_SECOND = WHOLE, (1, 1, 1)
"""Kernels of the two layers of a linked pair."""


# ------------------------------------------------------------- networks that are not shipped


def convolution(inputs: int, outputs: int, kernel: Kernel = WHOLE) -> nn.Conv3d:
    """One that keeps the size."""
    return nn.Conv3d(inputs, outputs, kernel, padding=tuple(size // 2 for size in kernel))


def residual(features: int, fold: int = 2, kernels: tuple[Kernel, Kernel] = CUBES) -> nn.Module:
    """The residual network, with other kernels in the layers between the first and the last, in turn."""
    network = ResidualNet(LAYERS, features, fold)
    _change_kernels(network.body, kernels)
    _prepare(network, last=network.tail)
    return network


def pyramid(features: int, depth: int = 8, kernels: tuple[Kernel, Kernel] = CUBES) -> nn.Module:
    """The pyramid network, with other kernels in the layers before the doubling, in turn."""
    network = PyramidNet(features, depth)
    for branch in (network.earlier, network.last):
        _change_kernels(branch.body, kernels)
        _prepare(branch, last=branch.residual)
    return network


def shuffled_pyramid(features: int) -> nn.Module:
    """The pyramid network with a convolution and a shuffle of slices for the transposed convolution."""
    network = PyramidNet(features)
    for branch in (network.earlier, network.last):
        branch.double_features = ShuffledDoubling(features)
        _prepare(branch, last=branch.residual)
    return network


def _change_kernels(body: nn.Sequential, kernels: tuple[Kernel, Kernel]) -> None:
    for pair in body:
        features = pair.first.in_channels
        pair.first, pair.second = (convolution(features, features, kernel) for kernel in kernels)


class FoldedInPlane(nn.Module):
    """The residual network on cells of 2 × 2 × ``fold`` voxels as channels (pixel-unshuffle of all axes)."""

    works_on = "thin"

    def __init__(self, features: int, fold: int = 2) -> None:
        super().__init__()
        self.cell = (2, 2, fold)
        channels = math.prod(self.cell)
        self.head = convolution(channels, features)
        self.body = nn.Sequential(*[LinkedPair(features) for _ in range((LAYERS - 2) // 2)])
        self.tail = convolution(features, channels)
        _prepare(self, last=self.tail)

    def forward(self, x: Tensor) -> Tensor:
        missing = [-size % cell for size, cell in zip(x.shape[2:], self.cell, strict=True)]
        padded = F.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]], mode="replicate")
        b, (i, j, k) = len(x), self.cell
        h, w, d = (size // cell for size, cell in zip(padded.shape[2:], self.cell, strict=True))
        cells = padded.reshape(b, h, i, w, j, d, k).permute(0, 2, 4, 6, 1, 3, 5).reshape(b, i * j * k, h, w, d)
        cells = self.tail(self.body(torch.relu(self.head(cells))))
        residual = cells.reshape(b, i, j, k, h, w, d).permute(0, 4, 1, 5, 2, 6, 3).reshape(padded.shape)
        return x + residual[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


class ShuffledDoubling(nn.Module):
    """Twice the slices: a convolution gives both halves of a slice as channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.halves = convolution(features, 2 * features, THROUGH_PLANE)

    def forward(self, x: Tensor) -> Tensor:
        b, f, h, w, m = x.shape
        return self.halves(x).reshape(b, 2, f, h, w, m).permute(0, 2, 3, 4, 5, 1).reshape(b, f, h, w, 2 * m)


class TrunkPyramid(PyramidNet):
    """A pyramid with more layers on the thick slices: a ``trunk`` before the first level, fewer in every level."""

    def __init__(self, features: int, trunk: int, depth: int) -> None:
        super().__init__(features, depth)
        del self.earlier
        self.trunk = nn.Sequential(*[LinkedPair(features) for _ in range(trunk // 2)])
        _prepare(self, last=self.last.residual)

    def every_level(self, x: Tensor, levels: int) -> list[Tensor]:
        image, outputs = x, []
        for level in range(levels):
            features = torch.relu(self.last.embed(image))
            features = self.last.body(features if level else self.trunk(features))
            features = torch.relu(self.last.double_features(features))
            image = self.double_image(image) + self.last.residual(features)
            outputs.append(image)
        return outputs


# ------------------------------------------------------------------------------ what it costs


def multiply_adds(network: nn.Module, factor: int) -> float:
    """Of the convolutions of a variant, per output voxel; ``factor`` a power of two where it is a pyramid.

    Every weight meets every place of the grid that its layer works on once. The pyramid's doubling of the image
    is no layer and not counted, 17 multiply-adds.
    """

    def count(part: nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters() if parameter.ndim == 5)

    if works_on(network) == "thin":
        return count(network) / network.head.in_channels  # voxels that are one place of the folded grid
    # a level reads its residual on the slices that it makes, everything else works on half of them
    level = count(network.last.residual) + (count(network.last) - count(network.last.residual)) / 2
    trunk = count(network.trunk) if hasattr(network, "trunk") else 0
    return level * sum(0.5**above for above in range(round(math.log2(factor)))) + trunk / factor


# ------------------------------------------------------------------------------ the variants


BUNDLE_ADAM = adam(1e-3)
"""At the learning rate that both bundles begin with."""


@dataclass(frozen=True)
class Variant(Recipe):
    """A network trained by the recipe of the bundles; ``initializations`` are the seeds of its first weights."""

    optimizer: Callable[[nn.Module], Optimizer] = BUNDLE_ADAM
    loss: Callable[[], nn.Module] = CharbonnierLoss
    clipping: Callable[[], GradientClipping] | None = norm
    shipped: bool = False
    initializations: tuple[int, ...] = (0,)

    @property
    def family(self) -> str:
        """Which of the two networks it is a variant of."""
        return self.name.split("-")[0]

    def cost(self, factor: int) -> float:
        """Multiply-adds per output voxel, in thousands."""
        return _cost(self, factor)


@functools.cache
def _cost(variant: Variant, factor: int) -> float:
    return multiply_adds(variant.network(), factor) / 1000


def _residual(name: str, short: str, says: str, network: Callable[[], nn.Module], **more: Any) -> Variant:
    return Variant(f"residual-{name}", short, says, network, **more)


def _pyramid(name: str, short: str, says: str, network: Callable[[], nn.Module], **more: Any) -> Variant:
    return Variant(f"pyramid-{name}", short, says, network, loss=PyramidLoss, **more)


TWICE: dict[str, Any] = {"initializations": (0, 1)}
"""From two first weights, which shows how much of a difference is chance."""

VARIANTS = (
    _residual("32", "32", "**shipped**: 32 features, 2 slices folded", lambda: residual(32), shipped=True, **TWICE),
    _pyramid("32", "32", "**shipped**: 32 features, 8 layers a level", lambda: pyramid(32), shipped=True, **TWICE),
    _pyramid("16", "16", "16 features", lambda: pyramid(16)),
    _residual("32-in-plane", "32, 2×2×2", "2×2×2 voxels folded", lambda: FoldedInPlane(32)),
    _pyramid("32-factorized", "32, factorized", "3×3×1 and 1×1×3 in turn", lambda: pyramid(32, 8, FACTORIZED)),
    _pyramid("32-depth-4", "32, 4 layers", "4 layers a level", lambda: pyramid(32, 4)),
    _residual("64-factorized", "64, factorized", "64 features, factorized", lambda: residual(64, 2, FACTORIZED)),
    _residual("48-factorized", "48, factorized", "48 features, factorized", lambda: residual(48, 2, FACTORIZED)),
    _pyramid("64-factorized", "64, factorized", "64 features, factorized", lambda: pyramid(64, 8, FACTORIZED)),
    _residual("16", "16", "16 features", lambda: residual(16), **TWICE),
    _residual(
        "32-factorized", "32, factorized", "3×3×1 and 1×1×3 in turn", lambda: residual(32, 2, FACTORIZED), **TWICE
    ),
    _pyramid("24", "24", "24 features", lambda: pyramid(24)),
    _residual("32-fold-4", "32, fold 4", "4 slices folded", lambda: residual(32, 4)),
    _residual("24", "24", "24 features", lambda: residual(24)),
    _pyramid(
        "32-trunk", "32, 4 + 4", "4 layers on the thick slices, 4 a level", lambda: TrunkPyramid(32, 4, 4), **TWICE
    ),
    _residual("8", "8", "8 features", lambda: residual(8)),
    _pyramid("32-shuffle", "32, shuffled", "convolution and shuffle of slices", lambda: shuffled_pyramid(32)),
    _residual("32-every-second", "32, half 1×1×1", "every other layer 1×1×1", lambda: residual(32, 2, EVERY_SECOND)),
    _residual("64-in-plane", "64, 2×2×2", "64 features, 2×2×2 voxels folded", lambda: FoldedInPlane(64)),
    _residual("16-fold-1", "16, no fold", "16 features, nothing folded", lambda: residual(16, 1)),
    _residual("48-fold-4", "48, fold 4", "48 features, 4 slices folded", lambda: residual(48, 4)),
    _pyramid("32-depth-12", "32, 12 layers", "12 layers a level", lambda: pyramid(32, 12)),
    _pyramid("48", "48", "48 features", lambda: pyramid(48)),
)
"""In the order of training: what an interruption should not cost comes first."""


# -------------------------------------------------------------------- the front, table and plot


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points (cost, gain) no other beats in one without being worse in the other; cheapest first."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    best, kept = -math.inf, []
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def gain(rows: Sequence[Row], factor: int) -> float:
    """Mean over the initializations of one variant, dB."""
    return float(np.mean([{2: row.gain_x2, 4: row.gain_x4}[factor] for row in rows]))


def fronts(results: dict[str, list[Row]], factor: int) -> dict[str, list[Variant]]:
    """Of each network the variants on its front, cheapest first."""
    kept = {}
    for family in FAMILIES:
        variants = [variant for variant in VARIANTS if variant.name in results and variant.family == family]
        points = [(variant.cost(factor), gain(results[variant.name], factor)) for variant in variants]
        kept[family] = [variants[index] for index in front(points)]
    return kept


def chance(results: dict[str, list[Row]]) -> float:
    """Standard deviation of the mean gain over initializations, pooled over the variants that have several, dB."""
    repeated = [[row.gain for row in rows] for rows in results.values() if len(rows) > 1]
    degrees = sum(len(gains) - 1 for gains in repeated)
    return math.sqrt(sum(np.var(gains) * len(gains) for gains in repeated) / degrees) if degrees else math.nan


def table(results: dict[str, list[Row]]) -> str:
    """A Markdown line for every variant, the cheapest first."""
    lines = [
        "| | 10³ multiply-adds ×2 | ×4 | 10³ weights | gain ×2 | ×4 | mean gain | front | core minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    kept = {factor: fronts(results, factor) for factor in FACTORS}
    for family in FAMILIES:
        variants = [variant for variant in VARIANTS if variant.name in results and variant.family == family]
        if variants:
            lines.append(f"| **{family}** | | | | | | | | |")
        for variant in sorted(variants, key=lambda variant: variant.cost(max(FACTORS))):
            on = ", ".join(f"×{factor}" for factor in FACTORS if variant in kept[factor][family])
            lines.append(_line(variant, results[variant.name], on))
    return "\n".join(lines) + f"\n\nStandard deviation over initializations: {chance(results):.2f} dB.\n"


def _line(variant: Variant, rows: Sequence[Row], on: str) -> str:
    costs = " | ".join(f"{variant.cost(factor):.0f}" for factor in FACTORS)
    weights = sum(parameter.numel() for parameter in variant.network().parameters()) / 1000
    gains = " | ".join(f"{gain(rows, factor):+.2f}" for factor in FACTORS)
    each = f" ({', '.join(f'{row.gain:+.2f}' for row in rows)})" if len(rows) > 1 else ""
    mean = np.mean([row.gain for row in rows])
    minutes = sum(row.seconds for row in rows) / 60
    return (
        f"| {variant.says} | {costs} | {weights:.0f} | {gains} | **{mean:+.2f}**{each} | {on or '–'} | {minutes:.1f} |"
    )


def read_table(text: str) -> dict[str, list[Row]]:
    """The gains that a table of :func:`table` holds, one row for each variant: the mean of its trainings."""
    names = {(variant.family, variant.says): variant.name for variant in VARIANTS}
    family, results = "", {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].strip("*") in FAMILIES:
            family = cells[0].strip("*")
        elif name := names.get((family, cells[0])):
            results[name] = [Row(name, 0, 0.0, float(cells[4]), float(cells[5]), math.nan, math.nan, math.nan)]
    return results


FAMILIES = {"residual": COLORS[0], "pyramid": COLORS[1]}
"""The two networks and their colors."""


TICKS = (20, 50, 100, 200, 400)


def plot(results: dict[str, list[Row]], path: Path) -> None:
    """Gain against cost, a panel for each factor; the fronts as lines, the shipped networks as stars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(10.5, 12), layout="constrained", sharex=True)
    for panel, factor in zip(panels, FACTORS, strict=True):
        panel.set_xscale("log")
        panel.set_title(f"factor {factor}", fontsize=14, fontweight="bold", loc="left")
        panel.set_ylabel("gain in PSNR over the consistent spline, dB", fontsize=13)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.margins(0.1, 0.07)
        named = []
        for variant in (variant for variant in VARIANTS if variant.name in results):
            rows, color = results[variant.name], FAMILIES[variant.family]
            x, y = variant.cost(factor), gain(rows, factor)
            each = [gain([row], factor) for row in rows]
            panel.plot([x, x], [min(each), max(each)], color=color, linewidth=1.2)
            panel.plot(x, y, "*" if variant.shipped else "o", color=color, markersize=17 if variant.shipped else 7)
            named.append((x, y, variant.short, color))
        for family, kept in fronts(results, factor).items():
            costs = [variant.cost(factor) for variant in kept]
            gains = [gain(results[variant.name], factor) for variant in kept]
            panel.plot(costs, gains, color=FAMILIES[family], linewidth=1.4, alpha=0.45)
            panel.plot([], [], "o-", color=FAMILIES[family], label=f"{family}: variants, and the best at each cost")
        panel.plot([], [], "*", color="0.3", markersize=14, label="shipped")
        if any(len(rows) > 1 for rows in results.values()):
            panel.plot([], [], "|", color="0.3", markersize=12, label="range of two trainings")
        panel.set_xticks(TICKS, [f"{tick}" for tick in TICKS])
        panel.set_xticks([], minor=True)
        panel.tick_params(labelsize=12, labelbottom=True)
        _name_points(figure, panel, named)
    panels[1].set_xlabel(
        "multiply-adds per output voxel, thousands (logarithmic). Labels: features, then what differs", fontsize=13
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=12, loc="outside upper center", ncols=2)
    write_plot(path, figure)
    plt.close(figure)


DISTANCES = (10, 18, 28, 40)
"""From a point to its name, in typographic points; the nearest free place is taken."""


def _name_points(figure: Any, panel: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Each point's name at the nearest free place, with a line to the point unless it is right beside it."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    marks = panel.transData.transform([point[:2] for point in points])
    pixels = figure.dpi / 72
    boxes: list[Any] = []
    for x, y, name, color in points:
        text = panel.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=11,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.7, "shrinkA": 0, "shrinkB": 3},
        )
        for distance, step in itertools.product(DISTANCES, range(12)):
            angle = math.pi * (step // 2) / 6 * (-1) ** step
            across, up = distance * math.cos(angle), distance * math.sin(angle)
            text.set(
                position=(across, up),
                horizontalalignment="left" if across > 1 else "right" if across < -1 else "center",
            )
            text.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(text).padded(1.5 * pixels)  # without the line to the point
            if not any(box.overlaps(other) for other in boxes) and not any(
                box.padded(3 * pixels).contains(*mark) for mark in marks
            ):
                break
        text.arrow_patch.set_visible((distance, step) != (DISTANCES[0], 0))
        boxes.append(box)


@dataclass(frozen=True)
class Settings(CommonSettings):
    """What all trainings of a folder share."""

    crops: int


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing; the table and the plot grow with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, batch=2, crop=32, validation_crop=64)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--crops", type=int, default=900, help="that each variant is trained on")
    parser.add_argument("--plot", type=Path, metavar="PAGE", help="draw the table of this Markdown page, train nothing")
    options = parser.parse_args(words)
    if options.plot:
        plot(read_table(options.plot.read_text(encoding="utf-8")), options.output / "pareto.png")
        return
    settings = settings_of(Settings, options)
    settle(options.output, settings)
    chosen = [variant for variant in VARIANTS if variant.name in options.variants]
    files = {
        (variant, seed): options.output / f"{variant.name}.{seed}.csv"
        for variant in chosen
        for seed in variant.initializations
    }
    missing = {key: file for key, file in files.items() if not file.exists()}
    if missing:
        torch.set_num_threads(1)
        training = load(datalist(options.datalist, "training"), settings.crop)
        validation = load(datalist(options.datalist, "validation"), settings.validation_crop)
    steps = settings.crops // settings.batch
    for (variant, seed), file in missing.items():
        rows = fit(variant, settings, training, validation, steps=steps, at={steps}, initialization=seed)
        write_rows(file, rows)
        report(options.output, files)
    print(report(options.output, files))


def report(folder: Path, files: dict[tuple[Variant, int], Path]) -> str:
    """Table and plot of the trainings that are done."""
    results: dict[str, list[Row]] = {}
    for (variant, _), file in files.items():
        if file.exists():
            results.setdefault(variant.name, []).append(read_rows(file)[-1])
    text = table(results)
    write_text(folder / "pareto.md", text)
    plot(results, folder / "pareto.png")
    return text


if __name__ == "__main__":
    main()
