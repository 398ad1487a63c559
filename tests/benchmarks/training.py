"""Short trainings that can be compared: one seed, the same crops in the same order, one measure.

Thick slices of a Gaussian profile as thick as the slices are apart, no noise. The measure is PSNR less that of
the consistent spline, on one crop from the middle of every validation volume.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

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
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from monai_sr.evaluation.scores import data_range, psnr
from monai_sr.files import write_atomically
from monai_sr.io.images import VolumeReader
from monai_sr.slices import apply_along
from monai_sr.training.augmentation import RandSimulateThickSlicesd
from monai_sr.training.clipping import GradientClipping
from monai_sr.training.inferer import ConsistentInferer
from monai_sr.transforms import NormalizeIntensitiesd

FACTORS = (2, 4)
"""Of the batches, in turn, and of validation: what residual and pyramid networks both do."""

PAIR = ("acquired", "acquisition", "spline")


# ------------------------------------------------------------------------- the recipe


def adam(rate: float) -> Callable[[nn.Module], Optimizer]:
    """Adam as in the bundles."""
    return lambda network: Adam(network.parameters(), rate)


def norm() -> GradientClipping:
    """The bundles' clipping."""
    return GradientClipping(0.1, "norm")


@dataclass(frozen=True)
class Recipe:
    """One network and how it is trained. ``short`` is what the plot calls it, ``says`` what the table does."""

    name: str
    short: str
    says: str
    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], Optimizer]
    loss: Callable[[], nn.Module]
    clipping: Callable[[], GradientClipping] | None = None

    @property
    def inferer(self) -> type[Inferer]:
        """What stands around the network."""
        return ConsistentInferer


@dataclass(frozen=True)
class CommonSettings:
    """What all runs of a folder share."""

    seed: int
    batch: int
    crop: int
    validation_crop: int


def add_arguments(parser: argparse.ArgumentParser, *, batch: int, crop: int, validation_crop: int) -> None:
    """The options of every command that trains."""
    parser.add_argument("datalist", nargs="?", help="datalist or folder of volumes with thin slices")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--crop", type=int, default=crop, help="voxels a side, divisible by 4")
    parser.add_argument("--validation-crop", type=int, default=validation_crop, help="voxels a side, divisible by 4")


SomeSettings = TypeVar("SomeSettings", bound=CommonSettings)


def settings_of(kind: type[SomeSettings], options: argparse.Namespace) -> SomeSettings:
    """The settings among a command's options."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


# ------------------------------------------------------------------------------- data


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

    def __init__(
        self, volumes: Sequence[dict[str, Any]], settings: CommonSettings, works_on: str, batches: int
    ) -> None:
        self.volumes, self.settings, self.batches = volumes, settings, batches
        weights = np.array([float(volume.get("weight", 1)) for volume in volumes])
        self.fractions = weights / weights.sum()
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
        volume = self.volumes[random.choice(len(self.volumes), p=self.fractions)]
        draw = self.draw[index // self.settings.batch % len(FACTORS)]
        pair = draw.set_random_state(seed=int(random.randint(2**31)))({"image": volume["image"]})
        return {key: pair[key] for key in ("image", "label", *PAIR)}


class Validation:
    """The gain in PSNR over the consistent spline, on crops that no run trains on."""

    def __init__(self, volumes: Sequence[dict[str, Any]], settings: CommonSettings, works_on: str) -> None:
        crop = CenterSpatialCropd("image", [settings.validation_crop] * 3)
        self.pairs = []
        for factor in FACTORS:
            for number, volume in enumerate(volumes):
                draw = Compose([crop, simulation(factor, works_on)]).set_random_state(seed=settings.seed + number)
                self.pairs.append((factor, draw({"image": volume["image"]})))

    def gains(self, network: nn.Module, inferer: Inferer) -> dict[int, float]:
        """Mean gain in dB by factor; one thick slice at each end does not count."""
        network.eval()
        by_factor: dict[int, list[float]] = {factor: [] for factor in FACTORS}
        for factor, pair in self.pairs:
            with torch.no_grad():
                sr = inferer(pair["image"][None], network, **{key: pair[key][None] for key in PAIR})[0]
            spline = apply_along(pair["spline"], pair["acquired"])
            reference = pair["label"].numpy()
            scale = data_range(reference)
            ours, base = (
                psnr(x[..., factor:-factor].numpy(), reference[..., factor:-factor], value_range=scale)
                for x in (sr, spline)
            )
            by_factor[factor].append(ours - base)
        network.train()
        return {factor: float(np.mean(values)) for factor, values in by_factor.items()}


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
    """One measurement. ``work`` in 10⁹ multiply-adds, ``clipped`` the fraction of gradient entries since the last."""

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
    """Handler that measures the network after some steps, and ends a training that is lost."""

    def __init__(self, name: str, at: Collection[int], work: Work, measure: Callable[[], dict[int, float]]) -> None:
        self.name, self.at, self.work, self.measure = name, at, work, measure
        self.rows: list[Row] = []
        self.losses: list[float] = []
        self.clipped: list[float] = []
        self.started = time.process_time()

    def attach(self, engine: SupervisedTrainer) -> None:
        if 0 in self.at:
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


def loader(crops: Crops) -> DataLoader:
    """The crops in batches, each of one factor."""
    return DataLoader(crops, batch_size=crops.settings.batch)


def works_on(network: nn.Module) -> str:
    """The grid of the network's input."""
    return getattr(network, "works_on", "thin")


def fit(
    run: Recipe,
    settings: CommonSettings,
    training: Sequence[dict[str, Any]],
    validation: Sequence[dict[str, Any]],
    *,
    steps: int,
    at: Collection[int],
    initialization: int | None = None,
) -> list[Row]:
    """Train one network by its recipe, the rate falling along a cosine, and measure it after ``at`` steps.

    ``initialization`` is the seed of the first weights, where it is not that of the crops.
    """
    torch.manual_seed(settings.seed if initialization is None else initialization)
    network = run.network().to(memory_format=torch.channels_last_3d)
    validate = Validation(validation, settings, works_on(network))
    optimizer = run.optimizer(network)
    cosine = LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)
    watch = Watch(run.name, at, Work(network), lambda: validate.gains(network, run.inferer()))
    SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=loader(Crops(training, settings, works_on(network), steps)),
        network=network,
        optimizer=optimizer,
        loss_function=run.loss(),
        prepare_batch=PrepareBatchExtraInput(extra_keys={key: key for key in PAIR}),
        inferer=run.inferer(bfloat16=True),
        train_handlers=[
            *([run.clipping()] if run.clipping else []),
            LrScheduleHandler(cosine, print_lr=False, epoch_level=False),
            watch,
        ],
        decollate=False,
    ).run()
    return watch.rows


# -------------------------------------------------------------------- files and plots


def write_text(path: Path, text: str) -> None:
    """The whole file or none."""
    write_atomically(path, lambda file: file.write(text.encode()))


def settle(folder: Path, settings: CommonSettings) -> None:
    """Write down what the folder's runs share.

    Raises:
        SystemExit: it holds runs of other settings, which cannot be compared.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text()) != asdict(settings):
        raise SystemExit(f"{folder} holds runs with {file.read_text().strip()}: name another folder")
    write_text(file, json.dumps(asdict(settings)) + "\n")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The measurements as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """What :func:`write_rows` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(line["run"], int(line["step"]), *(float(line[field.name]) for field in fields(Row)[2:]))
            for line in csv.DictReader(file)
        ]


def write_plot(path: Path, figure: Any) -> None:
    """A matplotlib figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80)
    write_atomically(path, lambda file: file.write(content.getvalue()))


COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by color-blind eyes; without yellow. Source: Okabe and Ito 2008."""


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
