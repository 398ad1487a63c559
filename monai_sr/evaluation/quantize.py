"""``monai-sr quantize BUNDLE --dataset DATALIST``: make the 8-bit form of a bundle.

The ranges of the activations are measured on the training volumes, with thick slices of several factors. Then
OpenVINO's float32 and int8 are measured on the validation volumes. ``models/int8.json`` is written only if both
are accurate enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.transforms import RandSpatialCrop
from torch import Tensor

from ..bundles import Model, bundle_path, load_bundle
from ..engine.int8 import find_ranges, write_ranges
from ..engine.openvino import OpenVinoEngine
from ..errors import BundleError
from ..io.images import read_image
from ..io.volumes import datalist
from ..networks import PyramidNet, ResidualNet
from ..training.augmentation import RandSimulateThickSlicesd
from ..transforms import NormalizeIntensitiesd
from .conditions import Condition, middle
from .scores import evaluate

FACTORS = (2, 3, 4, 5)
PATCHES = 4
"""Number of patches per training volume."""
PATCH = 56
"""Thin voxels along each side of a patch."""
LOSS_DB = 0.05
"""Maximum loss of int8 compared with float32, dB, averaged over volumes at each factor."""
EQUAL = 1e-4
"""Maximum difference between OpenVINO's float32 and torch, as a fraction of the range of the result."""


def build(
    bundle: str, dataset: str | Path, *, crop: int = 96, report: Callable[[str], None] = lambda line: None
) -> Path:
    """Measure ranges, verify them and write them into the bundle.

    Args:
        bundle: name or folder; one that does not ship is trusted.
        dataset: datalist or folder, as for training.
        crop: measure on the middle, so many voxels a side.
        report: called with each line of the measurements.

    Raises:
        BundleError: OpenVINO's float32 differs from torch, or int8 loses too much (E-W-INT8).
    """
    model = load_bundle(bundle, device="cpu", engine="torch", precision="float32", trust_bundle=True)
    network = model.network
    assert isinstance(network, ResidualNet | PyramidNet)
    patches = _patches(network, [Path(item["image"]) for item in datalist(dataset, "training")])
    ranges = find_ranges(network, patches)
    validation = [Path(item["image"]) for item in datalist(dataset, "validation")]
    models = {
        "float32": model.computed_by(OpenVinoEngine(network)),
        "int8": model.computed_by(OpenVinoEngine(network, ranges=ranges)),
    }
    _check_equal(model, models["float32"], validation, report)
    _check_loss(models, validation, crop, report)
    path = bundle_path(bundle) / "models" / "int8.json"
    write_ranges(path, network, ranges, made_by=f"monai-sr quantize {model.name}")
    return path


def _patches(network: ResidualNet | PyramidNet, volumes: Sequence[Path]) -> Iterator[tuple[Tensor, int]]:
    """Network inputs from parts of the volumes, with factors in turn, and the number of levels for each."""
    thick = network.works_on == "thick"
    works_on: Literal["thin", "thick"] = "thick" if thick else "thin"
    factors = [2, 4, 8] if thick else [*FACTORS]
    drawn = np.random.RandomState(0)
    for number, path in enumerate(volumes):
        hr = NormalizeIntensitiesd("image")({"image": read_image(path)})["image"]
        crop = RandSpatialCrop([min(PATCH, n) // 8 * 8 or n for n in hr.shape[1:]], random_size=False)  # up to ×8
        crop.set_random_state(state=drawn)
        for index in range(PATCHES):
            part = max((crop(hr) for _ in range(8)), key=lambda part: float((part > 0.1).float().mean()))
            factor = factors[(number + index) % len(factors)]
            simulate = RandSimulateThickSlicesd("image", factors=[factor], works_on=works_on, isotropy=1.6)
            simulate.set_random_state(state=drawn)
            seen = simulate({"image": part})["image"]
            yield torch.as_tensor(seen).as_subclass(Tensor)[None], round(math.log2(factor)) if thick else 0


def _check_equal(model: Model, streamed: Model, volumes: Sequence[Path], report: Callable[[str], None]) -> None:
    """Compare OpenVINO's float32 with torch on a part of every volume."""
    for path in volumes:
        image = middle(read_image(path), (72, 48, 24))
        by_torch, by_openvino = model(image, factor=3.0, axis=2), streamed(image, factor=3.0, axis=2)
        off = float((by_openvino - by_torch).abs().max() / np.ptp(by_torch.numpy()))
        report(f"{path.name}: OpenVINO float32 differs from torch by at most {off:.1e} of the range")
        if not off < EQUAL:
            problem = f"OpenVINO differs from torch by {off:.1e} of the range (maximum {EQUAL:.0e})"
            raise BundleError("E-W-INT8", problem, fix="report it")


def _check_loss(models: dict[str, Model], volumes: Sequence[Path], crop: int, report: Callable[[str], None]) -> None:
    """Compare the PSNR of int8 and float32, measured as by ``monai-sr evaluate``."""
    conditions = [Condition(factor) for factor in FACTORS]
    scores = evaluate(volumes, models, conditions=conditions, crop=crop, baselines=())
    report(f"{'':10}{'volumes':>8}{'spline dB':>12}{'float32 dB':>12}{'int8 dB':>10}{'loss dB':>9}")
    worst = -math.inf
    for modality in sorted({score.modality for score in scores}):
        for factor in FACTORS:
            chosen = [s for s in scores if s.modality == modality and s.condition.factor == factor]
            by = {m: [s.psnr_db for s in chosen if s.method == m] for m in ("consistent", *models)}
            means = {method: float(np.mean(values)) for method, values in by.items()}
            loss = means["float32"] - means["int8"]
            worst = max(worst, loss)
            report(
                f"{f'{modality} x{factor}':10}{len(by['int8']):8}{means['consistent']:12.3f}"
                f"{means['float32']:12.3f}{means['int8']:10.3f}{loss:9.3f}"
            )
    if not worst <= LOSS_DB:
        problem = f"int8 loses {worst:.3f} dB (maximum {LOSS_DB})"
        raise BundleError("E-W-INT8", problem, fix="train further, or ship float32 only")
