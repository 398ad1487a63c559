"""Test what the papers claim about training: validation PSNR against training work.

    python -m tests.benchmarks.convergence DATALIST --output FOLDER [--budget 1500]

SRCNN trains slowly at its small learning rate; VDSR predicts the residual and trains at a high rate that
clipped gradients make safe; LapSRN supervises every level. Each run of RUNS trains one network by one recipe
with MONAI's SupervisedTrainer, from the same seed, on the same crops in the same order, until the convolutions
of its forward passes have cost the same number of multiply-adds. At intervals it is measured on one crop from
the middle of every validation volume at factors 2 and 4: PSNR less that of the consistent spline.

FOLDER gets a CSV file per run (a run whose file is there is not repeated), and of all runs convergence.csv,
convergence.md and convergence.png. Gaussian profile as thick as the slices are apart, no noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from monai_sr.io.volumes import datalist
from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.training.clipping import GradientClipping
from monai_sr.training.inferer import ConsistentInferer
from monai_sr.training.losses import CharbonnierLoss, PyramidLoss

from .training import (
    COLORS,
    FACTORS,
    PAIR,
    CommonSettings,
    Crops,
    Recipe,
    Row,
    Work,
    adam,
    add_arguments,
    fit,
    load,
    loader,
    norm,
    read_rows,
    settings_of,
    settle,
    spread,
    works_on,
    write_plot,
    write_rows,
    write_text,
)

FEATURES = 16
"""Of the residual network and the pyramid, half of what is shipped."""

PAPER_PATCH = 41 * 41
"""Pixels of a training patch of VDSR."""


# ------------------------------------------------------------------------- the recipes


class SummedSquares(nn.Module):
    """Half the squared error summed over a patch of the paper, so that its learning rates mean what they say.

    VDSR's authors (https://github.com/kjw0612/rcn) sum over a patch and divide by the batch; with the
    mean over all voxels their rate would act hundreds of times smaller.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return ((sr - hr) ** 2).mean() * (PAPER_PATCH / 2)


class LastLevelLoss(nn.Module):
    """A pyramid's loss without supervision of the levels between."""

    def forward(self, levels: Sequence[Tensor], hr: Tensor) -> Tensor:
        return CharbonnierLoss()(levels[-1], hr)


class WithoutOutputConnection(nn.Module):
    """A residual network that must predict the image itself."""

    works_on = "thin"

    def __init__(self, network: ResidualNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) - x


class PlainInferer(Inferer):
    """The network alone, as in the papers: nothing makes its output consistent."""

    def __init__(self, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            return network(inputs).float()


def residual(*, links: bool = True, output: bool = True) -> nn.Module:
    """Twenty layers with or without identity links inside, and without the one to the output."""
    network = ResidualNet(20, FEATURES, links=links)
    return network if output else WithoutOutputConnection(network)


def pyramid() -> nn.Module:
    """The pyramid network."""
    return PyramidNet(FEATURES)


def sgd(rate: float) -> Callable[[nn.Module], Optimizer]:
    """SGD as in VDSR."""
    return lambda network: SGD(network.parameters(), rate, momentum=0.9, weight_decay=1e-4)


def srcnn_sgd(rate: float) -> Callable[[nn.Module], Optimizer]:
    """SGD as in SRCNN: the last layer ten times slower."""

    def build(network: nn.Module) -> Optimizer:
        layers = network.layers
        last = {"params": layers[-1].parameters(), "lr": rate / 10}
        return SGD([{"params": layers[:-1].parameters()}, last], rate, momentum=0.9)

    return build


@dataclass(frozen=True)
class Run(Recipe):
    """A network with or without the consistency step."""

    loss: Callable[[], nn.Module] = SummedSquares
    consistent: bool = False

    @property
    def inferer(self) -> type[Inferer]:
        return ConsistentInferer if self.consistent else PlainInferer


def adjustable() -> GradientClipping:
    """VDSR's clipping; θ from its authors' code, https://github.com/kjw0612/rcn (gradRange)."""
    return GradientClipping(1e-4, "adjustable")


HIGH = 0.1
"""VDSR's learning rate, in the paper and in its authors' code."""

RUNS = (
    Run("srcnn", "SRCNN, 1e-4", "SRCNN, its rate 1e-4", SRCNN, srcnn_sgd(1e-4)),
    Run("srcnn-high", "SRCNN, 1e-3", "SRCNN, rate 1e-3", SRCNN, srcnn_sgd(1e-3)),
    Run(
        "srcnn-clipped",
        "SRCNN, 0.1, clipped",
        "SRCNN, rate 0.1, adjustable clipping",
        SRCNN,
        srcnn_sgd(HIGH),
        clipping=adjustable,
    ),
    Run("unclipped", "residual, not clipped", "residual, rate 0.1, not clipped", residual, sgd(HIGH)),
    Run("unclipped-low", "residual, 1e-4, not clipped", "residual, rate 1e-4, not clipped", residual, sgd(1e-4)),
    Run(
        "clipped",
        "residual, clipped",
        "residual, rate 0.1, adjustable clipping",
        residual,
        sgd(HIGH),
        clipping=adjustable,
    ),
    Run(
        "no-output",
        "residual, clipped, predicts the image",
        "the same without the connection to the output",
        lambda: residual(output=False),
        sgd(HIGH),
        clipping=adjustable,
    ),
    Run(
        "no-links",
        "residual, clipped, no links",
        "the same without identity links inside",
        lambda: residual(links=False),
        sgd(HIGH),
        clipping=adjustable,
    ),
    Run(
        "no-links-unclipped",
        "residual, no links, not clipped",
        "without identity links, not clipped",
        lambda: residual(links=False),
        sgd(HIGH),
    ),
    Run(
        "step-unclipped",
        "residual, SGD, not clipped",
        "residual, rate 0.1, not clipped",
        residual,
        sgd(HIGH),
        consistent=True,
    ),
    Run(
        "step-clipped",
        "residual, SGD, clipped",
        "the same, adjustable clipping",
        residual,
        sgd(HIGH),
        clipping=adjustable,
        consistent=True,
    ),
    Run(
        "step-bundle-sgd",
        "residual, SGD, mean loss",
        "the same with a mean Charbonnier loss, θ = 1e-3",
        residual,
        sgd(HIGH),
        CharbonnierLoss,
        lambda: GradientClipping(1e-3, "adjustable"),
        consistent=True,
    ),
    Run(
        "step-adam",
        "residual, Adam",
        "residual, Adam 1e-3, norm clipped",
        residual,
        adam(1e-3),
        CharbonnierLoss,
        norm,
        consistent=True,
    ),
    Run(
        "step-adam-no-links",
        "residual, Adam, no links",
        "the same without identity links inside",
        lambda: residual(links=False),
        adam(1e-3),
        CharbonnierLoss,
        norm,
        consistent=True,
    ),
    Run(
        "pyramid",
        "pyramid, every level supervised",
        "pyramid, Adam 1e-3, every level supervised",
        pyramid,
        adam(1e-3),
        PyramidLoss,
        norm,
        consistent=True,
    ),
    Run(
        "pyramid-last",
        "pyramid, last level supervised",
        "the same, the last level alone supervised",
        pyramid,
        adam(1e-3),
        LastLevelLoss,
        norm,
        consistent=True,
    ),
)


# ---------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Settings(CommonSettings):
    """What all runs of a folder share. ``budget`` in 10⁹ multiply-adds."""

    budget: float
    points: int


def train(
    run: Run, settings: Settings, training: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]
) -> list[Row]:
    """Spend the budget on one network, and how it fared at even distances."""
    network = run.network()
    work = Work(network)
    for batch in loader(Crops(training, settings, works_on(network), len(FACTORS))):
        with torch.no_grad():
            run.inferer()(batch["image"], network, **{key: batch[key] for key in PAIR})
    steps = max(settings.points, round(settings.budget * 1e9 * len(FACTORS) / work.done))
    at = {round(steps * point / settings.points) for point in range(settings.points + 1)}
    return fit(run, settings, training, validation, steps=steps, at=at)


# -------------------------------------------------------------------- tables and the plot


def table(results: dict[str, list[Row]], target: float) -> str:
    """A Markdown line for every run."""
    lines = [
        f"| | steps | gain ×2 | gain ×4 | mean gain | best | clipped | work to {target:+g} dB | core minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for consistent, title in ((False, "as in the papers"), (True, "with the consistency step")):
        runs = [run for run in RUNS if run.name in results and run.consistent == consistent]
        if runs:
            lines.append(f"| **{title}** | | | | | | | | |")
        lines += [_line(run, results[run.name], target) for run in runs]
    return "\n".join(lines) + "\n"


def _line(run: Run, rows: Sequence[Row], target: float) -> str:
    last, trained = rows[-1], rows[1:]
    best = max(row.gain for row in rows if math.isfinite(row.gain))
    reached = next((f"{row.work:.0f}" for row in trained if row.gain >= target), "–")
    steps = [row.step - before.step for before, row in zip(rows, trained, strict=False)]
    clipped = np.average([row.clipped for row in trained], weights=steps)
    fraction = f"{100 * clipped:.0f} %" if run.clipping else "–"
    if math.isfinite(last.gain):
        gains = f"{last.gain_x2:+.2f} | {last.gain_x4:+.2f} | **{last.gain:+.2f}**"
    else:
        gains = "– | – | **diverged**"
    return f"| {run.says} | {last.step} | {gains} | {best:+.2f} | {fraction} | {reached} | {last.seconds / 60:.1f} |"


LOST = "0.5"
"""The gray of what diverged."""

LINEAR_ABOVE = -1.0
"""dB: below, the axis of the upper panel is logarithmic."""


def plot(results: dict[str, list[Row]], path: Path) -> None:
    """Gain against work, the recipes of the papers above, those with the consistency step below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(10.5, 11), layout="constrained")
    titles = "as in the papers", "with the consistency step"
    for panel, consistent, title in zip(panels, (False, True), titles, strict=True):
        runs = [run for run in RUNS if run.name in results and run.consistent == consistent]
        panel.axhline(0, color="0.4", linewidth=1)
        if not consistent:
            panel.set_yscale("symlog", linthresh=-LINEAR_ABOVE, linscale=1.2)
            panel.set_ylim(-30, 1)
            panel.set_yticks([-30, -10, -3, -1, -0.5, 0, 0.5, 1], ["−30", "−10", "−3", "−1", "−0.5", "0", "+0.5", "+1"])
            panel.axhspan(-30, LINEAR_ABOVE, color="0.95", zorder=0)
            panel.text(
                0.995, 0.02, "shaded: logarithmic", transform=panel.transAxes, ha="right", color="0.4", fontsize=11
            )
        ends, colors = [], iter(COLORS)
        for run in runs:
            rows = [row for row in results[run.name] if math.isfinite(row.gain)]
            work, gain = [row.work / 1000 for row in rows], [row.gain for row in rows]
            if len(rows) == len(results[run.name]):
                color, name = next(colors), run.short
                panel.plot(work, gain, color=color, linewidth=2, marker="o", markersize=5)
            else:
                color, name = LOST, f"{run.short}: diverged"
                panel.plot(work, gain, color=color, marker="X", markersize=10)
            ends.append((work[-1], gain[-1], name, color))
        if ends:
            _name_ends(panel, ends)
        panel.set_title(title, fontsize=14, fontweight="bold", loc="left")
        panel.set_ylabel("gain in PSNR over\nthe consistent spline, dB", fontsize=13)
        panel.tick_params(labelsize=12)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_xlabel("training work, 10¹² multiply-adds of forward passes", fontsize=13)
    write_plot(path, figure)
    plt.close(figure)


def _name_ends(panel: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each line's name to the right of the panel, moved apart where they would overlap."""
    largest = max(work for work, *_ in ends)
    panel.set_xlim(-0.02 * largest, 1.02 * largest)
    height = panel.transData.transform([(0, gain) for _, gain, *_ in ends])[:, 1]
    places = panel.transAxes.inverted().transform([(0, y) for y in height])[:, 1]
    order = np.argsort(places)
    placed = spread(places[order], 0.06)
    for index, y in zip(order, placed, strict=True):
        work, gain, name, color = ends[index]
        panel.annotate(
            name,
            (work, gain),
            (1.04, y),
            textcoords="axes fraction",
            color=color,
            fontsize=12,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.6},
            annotation_clip=False,
        )


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing, then write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, batch=4, crop=24, validation_crop=40)
    parser.add_argument("--budget", type=float, default=1500, help="of each run, 10^9 forward multiply-adds")
    parser.add_argument("--target", type=float, default=0.5, help="gain in dB whose price is told")
    parser.add_argument("--runs", nargs="+", choices=[run.name for run in RUNS], default=[run.name for run in RUNS])
    parser.add_argument("--points", type=int, default=8, help="measurements of each run, besides the one at the start")
    options = parser.parse_args(words)
    settings = settings_of(Settings, options)
    settle(options.output, settings)
    files = {run.name: options.output / f"{run.name}.csv" for run in RUNS if run.name in options.runs}
    missing = [run for run in RUNS if run.name in files and not files[run.name].exists()]
    if missing:
        torch.set_num_threads(1)
        training = load(datalist(options.datalist, "training"), settings.crop)
        validation = load(datalist(options.datalist, "validation"), settings.validation_crop)
        for run in missing:
            write_rows(files[run.name], train(run, settings, training, validation))
    results = {name: read_rows(file) for name, file in files.items()}
    write_rows(options.output / "convergence.csv", [row for rows in results.values() for row in rows])
    text = table(results, options.target)
    write_text(options.output / "convergence.md", text)
    plot(results, options.output / "convergence.png")
    print(text)


if __name__ == "__main__":
    main()
