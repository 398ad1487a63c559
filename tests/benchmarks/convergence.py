"""What the papers claim about training, put to the test: validation PSNR against training work.

    python -m tests.benchmarks.convergence DATALIST --output FOLDER [--budget 1500]

SRCNN trains slowly at its small learning rate; VDSR predicts the residual and trains at a high rate that
clipped gradients make safe; LapSRN supervises every level. Each run of RUNS trains one network by one recipe
with MONAI's SupervisedTrainer, from the same seed, on the same crops in the same order, until the convolutions
of its forward passes have cost the same number of multiply-adds. Now and then it is measured on one crop from
the middle of every validation volume at factors 2 and 4: PSNR less that of the consistent spline.

FOLDER gets a CSV file per run (a run whose file is there is not repeated), and of all runs convergence.csv,
convergence.md and convergence.png. Gaussian profile as thick as the slices are apart, no noise.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import PrepareBatchExtraInput, SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.inferers import Inferer
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    CropForegroundd,
    LoadImaged,
    RandFlipd,
    RandSpatialCropd,
    SpatialPadd,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from monai_sr.evaluation import data_range, psnr
from monai_sr.handlers import GradientClipping
from monai_sr.images import VolumeReader, write_atomically
from monai_sr.inference import ConsistentInferer
from monai_sr.losses import CharbonnierLoss, PyramidLoss
from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.slices import apply_along
from monai_sr.transforms import NormalizeIntensitiesd, RandSimulateThickSlicesd
from monai_sr.volumes import datalist

FACTORS = (2, 4)
"""Of the batches, in turn, and of validation: what residual and pyramid networks both do."""

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


def adam(rate: float) -> Callable[[nn.Module], Optimizer]:
    """Adam as in the bundles."""
    return lambda network: Adam(network.parameters(), rate)


@dataclass(frozen=True)
class Run:
    """One network and how it is trained. ``short`` is what the plot calls it."""

    name: str
    short: str
    says: str
    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], Optimizer]
    loss: Callable[[], nn.Module] = SummedSquares
    clipping: Callable[[], GradientClipping] | None = None
    consistent: bool = False


def adjustable() -> GradientClipping:
    """VDSR's clipping; θ from its authors' code, https://github.com/kjw0612/rcn (gradRange)."""
    return GradientClipping(1e-4, "adjustable")


def norm() -> GradientClipping:
    """The bundles' clipping."""
    return GradientClipping(0.1, "norm")


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


# ------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder share. ``budget`` in 10⁹ multiply-adds."""

    budget: float
    seed: int
    batch: int
    crop: int
    validation_crop: int
    points: int


def load(entries: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Volumes, normalized and cropped to the body, at least ``size`` voxels a side."""
    read = Compose(
        [
            LoadImaged("image", reader=VolumeReader, ensure_channel_first=True),
            NormalizeIntensitiesd("image"),
            CropForegroundd("image", "image", select_fn=lambda x: x > 0.1, margin=4, allow_smaller=False),
            SpatialPadd("image", [size] * 3, mode="edge"),
        ]
    )
    return [read(dict(entry)) for entry in entries]


def simulation(factor: float, works_on: str) -> RandSimulateThickSlicesd:
    """Thick slices without noise or mistakes; the slice axis is drawn."""
    return RandSimulateThickSlicesd("image", factors=[factor], works_on=works_on, usual=1, box=0, mistaken=0, noisy=0)


class Crops(Dataset):
    """Training pairs: number ``index`` is the same whoever asks, a batch has one factor."""

    def __init__(self, volumes: Sequence[dict[str, Any]], settings: Settings, works_on: str, batches: int) -> None:
        self.volumes, self.settings, self.batches = volumes, settings, batches
        weights = np.array([float(volume.get("weight", 1)) for volume in volumes])
        self.shares = weights / weights.sum()
        self.draw = [
            Compose(
                [
                    RandSpatialCropd("image", [settings.crop] * 3, random_size=False),
                    *(RandFlipd("image", prob=0.5, spatial_axis=axis) for axis in range(3)),
                    simulation(factor, works_on),
                ]
            )
            for factor in FACTORS
        ]

    def __len__(self) -> int:
        return self.batches * self.settings.batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.RandomState([self.settings.seed, index])
        volume = self.volumes[random.choice(len(self.volumes), p=self.shares)]
        draw = self.draw[index // self.settings.batch % len(FACTORS)]
        pair = draw.set_random_state(seed=int(random.randint(2**31)))({"image": volume["image"]})
        return {key: pair[key] for key in ("image", "label", *PAIR)}


PAIR = ("acquired", "acquisition", "spline")


class Validation:
    """The gain in PSNR over the consistent spline, on crops that no run trains on."""

    def __init__(self, volumes: Sequence[dict[str, Any]], settings: Settings, works_on: str) -> None:
        crop = CenterSpatialCropd("image", [settings.validation_crop] * 3)
        self.pairs = []
        for factor in FACTORS:
            for number, volume in enumerate(volumes):
                draw = Compose([crop, simulation(factor, works_on)]).set_random_state(seed=settings.seed + number)
                self.pairs.append((factor, draw({"image": volume["image"]})))

    def gains(self, network: nn.Module, inferer: Inferer) -> dict[int, float]:
        """Mean gain in dB by factor; one thick slice at each end does not count."""
        network.eval()
        found: dict[int, list[float]] = {factor: [] for factor in FACTORS}
        for factor, pair in self.pairs:
            with torch.no_grad():
                sr = inferer(pair["image"][None], network, **{key: pair[key][None] for key in PAIR})[0]
            spline = apply_along(pair["spline"], pair["acquired"])
            truth = pair["label"].numpy()
            scale = data_range(truth)
            ours, base = (
                psnr(x[..., factor:-factor].numpy(), truth[..., factor:-factor], value_range=scale)
                for x in (sr, spline)
            )
            found[factor].append(ours - base)
        network.train()
        return {factor: float(np.mean(values)) for factor, values in found.items()}


# ---------------------------------------------------------------------------- training


class Work:
    """Counts the multiply-adds that the convolutions of a network spend on forward passes in training."""

    def __init__(self, network: nn.Module) -> None:
        self.done = 0
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if module.training:
            # each output entry of a convolution, each input entry of a transposed one, meets one such slice
            entries = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
            self.done += entries.numel() * module.weight[0].numel()


@dataclass(frozen=True)
class Row:
    """One measurement. ``work`` in 10⁹ multiply-adds, ``clipped`` the share of gradient entries since the last."""

    run: str
    step: int
    work: float
    gain_x2: float
    gain_x4: float
    loss: float
    clipped: float
    seconds: float

    @property
    def gain(self) -> float:
        """Mean over both factors, dB; not a number once the network is not finite."""
        return (self.gain_x2 + self.gain_x4) / 2


class Watch:
    """Handler that measures the network at even distances, and ends a training that is lost."""

    def __init__(self, name: str, steps: int, points: int, work: Work, measure: Callable[[], dict[int, float]]) -> None:
        self.name, self.work, self.measure = name, work, measure
        self.at = {round(steps * point / points) for point in range(1, points + 1)}
        self.rows: list[Row] = []
        self.losses: list[float] = []
        self.clipped: list[float] = []
        self.started = time.process_time()

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.STARTED, self.look)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        self.losses.append(engine.state.output["loss"].item())
        self.clipped.append(getattr(engine.state, "gradient_clipped", 0.0))
        lost = not math.isfinite(self.losses[-1])
        if lost:
            engine.terminate()
        if lost or engine.state.iteration in self.at:
            self.look(engine)

    def look(self, engine: SupervisedTrainer) -> None:
        gains = self.measure()
        mean = [float(np.mean(values)) if values else 0.0 for values in (self.losses, self.clipped)]
        self.losses, self.clipped = [], []
        seconds = time.process_time() - self.started
        row = Row(self.name, engine.state.iteration, self.work.done / 1e9, gains[2], gains[4], *mean, seconds)
        self.rows.append(row)
        print(
            f"{row.run:28}{row.work:8.0f}{row.gain:+8.2f} dB  loss {row.loss:.4g}  clipped {row.clipped:.3f}"
            f"  {row.seconds:.0f} s",
            flush=True,
        )


def train(
    run: Run, settings: Settings, training: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]
) -> list[Row]:
    """Train one network by its recipe, and how it fared."""
    torch.manual_seed(settings.seed)
    network = run.network().to(memory_format=torch.channels_last_3d)
    works_on = getattr(network, "works_on", "thin")
    kind = ConsistentInferer if run.consistent else PlainInferer
    work = Work(network)
    for batch in _loader(Crops(training, settings, works_on, len(FACTORS)), settings):
        with torch.no_grad():
            kind()(batch["image"], network, **{key: batch[key] for key in PAIR})
    steps = max(settings.points, round(settings.budget * 1e9 * len(FACTORS) / work.done))
    work.done = 0
    validate = Validation(validation, settings, works_on)
    optimizer = run.optimizer(network)
    cosine = LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    watch = Watch(run.name, steps, settings.points, work, lambda: validate.gains(network, kind()))
    SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=_loader(Crops(training, settings, works_on, steps), settings),
        network=network,
        optimizer=optimizer,
        loss_function=run.loss(),
        prepare_batch=PrepareBatchExtraInput(extra_keys={key: key for key in PAIR}),
        inferer=kind(bfloat16=True),
        train_handlers=[
            *([run.clipping()] if run.clipping else []),
            LrScheduleHandler(cosine, print_lr=False, epoch_level=False),
            watch,
        ],
        decollate=False,
    ).run()
    return watch.rows


def _loader(crops: Crops, settings: Settings) -> DataLoader:
    return DataLoader(crops, batch_size=settings.batch)


# -------------------------------------------------------------------- tables and the plot


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The measurements as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    _write(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """What :func:`write_rows` wrote."""
    with path.open(newline="") as file:
        return [
            Row(line["run"], int(line["step"]), *(float(line[field.name]) for field in fields(Row)[2:]))
            for line in csv.DictReader(file)
        ]


def table(found: dict[str, list[Row]], target: float) -> str:
    """A Markdown line for every run."""
    lines = [
        f"| | steps | gain ×2 | gain ×4 | mean gain | best | clipped | work to {target:+g} dB | core minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for consistent, title in ((False, "as in the papers"), (True, "with the consistency step")):
        runs = [run for run in RUNS if run.name in found and run.consistent == consistent]
        if runs:
            lines.append(f"| **{title}** | | | | | | | | |")
        lines += [_line(run, found[run.name], target) for run in runs]
    return "\n".join(lines) + "\n"


def _line(run: Run, rows: Sequence[Row], target: float) -> str:
    last, trained = rows[-1], rows[1:]
    best = max(row.gain for row in rows if math.isfinite(row.gain))
    reached = next((f"{row.work:.0f}" for row in trained if row.gain >= target), "–")
    steps = [row.step - before.step for before, row in zip(rows, trained, strict=False)]
    clipped = np.average([row.clipped for row in trained], weights=steps)
    share = f"{100 * clipped:.0f} %" if run.clipping else "–"
    if math.isfinite(last.gain):
        gains = f"{last.gain_x2:+.2f} | {last.gain_x4:+.2f} | **{last.gain:+.2f}**"
    else:
        gains = "– | – | **diverged**"
    return f"| {run.says} | {last.step} | {gains} | {best:+.2f} | {share} | {reached} | {last.seconds / 60:.1f} |"


COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by color-blind eyes; without yellow. Source: Okabe and Ito 2008."""

LOST = "0.5"
"""The gray of what diverged."""


def plot(found: dict[str, list[Row]], path: Path) -> None:
    """Gain against work, the papers' recipes to the left, those with the consistency step to the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    titles = "As in the papers", "With the consistency step"
    for panel, consistent, title in zip(panels, (False, True), titles, strict=True):
        runs = [run for run in RUNS if run.name in found and run.consistent == consistent]
        panel.axhline(0, color="0.7", linewidth=1)
        if not consistent:
            panel.set_yscale("symlog", linthresh=1, linscale=1.2)
            panel.set_ylim(-30, 1)
            panel.set_yticks([-30, -10, -3, -1, -0.5, 0, 0.5, 1], ["−30", "−10", "−3", "−1", "−0.5", "0", "+0.5", "+1"])
        ends, colors = [], iter(COLORS)
        for run in runs:
            rows = [row for row in found[run.name] if math.isfinite(row.gain)]
            work, gain = [row.work / 1000 for row in rows], [row.gain for row in rows]
            if len(rows) == len(found[run.name]):
                color, name = next(colors), run.short
                panel.plot(work, gain, color=color, linewidth=1.8, marker="o", markersize=4)
            else:
                color, name = LOST, f"{run.short}: diverged"
                panel.plot(work, gain, color=color, marker="X", markersize=9)
            ends.append((work[-1], gain[-1], name, color))
        if ends:
            _name_ends(panel, ends)
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("forward multiply-adds, 10¹²")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("PSNR over the consistent spline, dB")
    content = io.BytesIO()
    figure.savefig(content, dpi=80)
    plt.close(figure)
    write_atomically(path, lambda file: file.write(content.getvalue()))


def _name_ends(panel: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each line's name to the right of the panel, moved apart where they would overlap."""
    most = max(work for work, *_ in ends)
    panel.set_xlim(-0.02 * most, 1.02 * most)
    height = panel.transData.transform([(0, gain) for _, gain, *_ in ends])[:, 1]
    places = panel.transAxes.inverted().transform([(0, y) for y in height])[:, 1]
    order = np.argsort(places)
    placed = spread(places[order], 0.055)
    for index, y in zip(order, placed, strict=True):
        work, gain, name, color = ends[index]
        panel.annotate(
            name,
            (work, gain),
            (1.03, y),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6},
            annotation_clip=False,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Increasing places at least ``gap`` apart, in 0..1 as far as they fit, near the given ones."""
    moved = list(places)
    for _ in range(100):
        for i in range(len(moved) - 1):
            lack = gap - (moved[i + 1] - moved[i])
            if lack > 0:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
        shift = max(0.0, -moved[0]) or min(0.0, 1 - moved[-1])
        moved = [place + shift for place in moved]
    return moved


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def settle(folder: Path, settings: Settings) -> None:
    """Write down what the folder's runs share.

    Raises:
        SystemExit: it holds runs of other settings, which cannot be compared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text()) != asdict(settings):
        raise SystemExit(f"{folder} holds runs with {file.read_text().strip()}: name another folder")
    _write(file, json.dumps(asdict(settings)) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing, then write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", help="datalist or folder of volumes with thin slices")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--budget", type=float, default=1500, help="of each run, 10^9 forward multiply-adds")
    parser.add_argument("--target", type=float, default=0.5, help="gain in dB whose price is told")
    parser.add_argument("--runs", nargs="+", choices=[run.name for run in RUNS], default=[run.name for run in RUNS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=24, help="voxels a side, divisible by 4")
    parser.add_argument("--validation-crop", type=int, default=40, help="voxels a side, divisible by 4")
    parser.add_argument("--points", type=int, default=8, help="measurements of each run, besides the one at the start")
    options = parser.parse_args(words)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    settle(options.output, settings)
    files = {run.name: options.output / f"{run.name}.csv" for run in RUNS if run.name in options.runs}
    missing = [run for run in RUNS if run.name in files and not files[run.name].exists()]
    if missing:
        torch.set_num_threads(1)
        training = load(datalist(options.datalist, "training"), settings.crop)
        validation = load(datalist(options.datalist, "validation"), settings.validation_crop)
        for run in missing:
            write_rows(files[run.name], train(run, settings, training, validation))
    found = {name: read_rows(file) for name, file in files.items()}
    write_rows(options.output / "convergence.csv", [row for rows in found.values() for row in rows])
    text = table(found, options.target)
    _write(options.output / "convergence.md", text)
    plot(found, options.output / "convergence.png")
    print(text)


if __name__ == "__main__":
    main()
