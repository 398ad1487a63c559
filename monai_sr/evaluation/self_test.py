"""Whether this machine computes what the weights of the shipped bundles must give.

Each bundle has ``models/self_test.json``: the SHA-256 of its weights, and some voxels of a volume that is drawn by a
formula, super-resolved by torch in float32. ``python -m monai_sr.evaluation.self_test`` writes both files anew after
the weights were changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundles import NAMES, Model, bundle_path, load_bundle
from ..engine.memory import choose_tile, free_vram, memory_budget
from ..engine.selection import is_installed
from ..engine.torch_rows import has_bfloat16
from ..errors import BundleError, QualityError, collect_notices
from ..files import write_text

SHAPE, FACTOR, RANGE = (48, 40, 12), 4.0, 1000.0
"""Acquired voxels, output slices for each, and the range of their values."""

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.02, "int8": 0.03}
"""Largest difference from the expected voxels, as a fraction of the range."""


@dataclass(frozen=True)
class SelfTest:
    """What one engine made of the volume.

    Attributes:
        bundle, engine, precision, device: what computed it.
        seconds: from the volume to the result.
        difference: largest one from the expected voxels, as a fraction of the range of the volume.
        tolerance: what it may be.
    """

    bundle: str
    engine: str
    precision: str
    device: str
    seconds: float
    difference: float
    tolerance: float

    def check(self) -> None:
        """Raise QualityError (E-SELF-TEST) if it differs by more than the tolerance."""
        if not self.difference <= self.tolerance:
            raise QualityError(
                "E-SELF-TEST",
                f"{self.bundle} by {self.engine} in {self.precision} on {self.device} differs by {{difference:.2g}} of "
                "the range from the expected voxels (at most {tolerance:g})",
                facts={"difference": self.difference, "tolerance": self.tolerance},
            )


def engines() -> Iterator[tuple[str, str, str]]:
    """Engine, precision and device of every way to compute on this machine."""
    if is_installed("openvino"):
        yield from (("openvino", precision, "cpu") for precision in ("int8", "float32"))
    yield "torch", "float32", "cpu"
    if has_bfloat16():
        yield "torch", "bfloat16", "cpu"
    if torch.cuda.is_available():
        yield "torch", "float32", "cuda"


def run_self_test(bundle: str, engine: str, precision: str, device: str) -> SelfTest:
    """Super-resolve the volume with a shipped bundle.

    Raises:
        BundleError: weights or expected voxels are missing, damaged, or do not belong together.
        SuperResolutionError: the engine or the device cannot be used, or memory is short.
    """
    model = load_bundle(bundle, device=device, engine=engine, precision=precision)
    expected = _read_expected(bundle, model)
    started = time.perf_counter()
    difference = np.abs(made_by(model) - expected).max() / RANGE
    return SelfTest(
        bundle, engine, precision, device, time.perf_counter() - started, float(difference), TOLERANCES[precision]
    )


def made_by(model: Model) -> np.ndarray:
    """Some voxels of the result, from its middle and from its edges.

    Raises:
        MemoryShortError: not even the smallest tile fits.
    """
    image = _volume()
    size = {"voxels_in": image.numel(), "voxels_out": int(FACTOR) * image.numel()}
    tile = choose_tile(model.engine, **size, memory=memory_budget(), vram=free_vram(model.device))
    with collect_notices():  # of a field of view that no patient has
        sr = model(image, factor=FACTOR, slice_thickness=4.0, profile="gaussian", modality="MR", tile_voxels=tile)
    return sr[0, ::5, ::5, ::5].numpy().ravel()


def _volume() -> MetaTensor:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = np.clip(8 * (1 - (x / 0.8) ** 2 - (y / 0.7) ** 2), 0, 1)
    voxels = body * (0.5 + 0.25 * np.sin(9 * x + 5 * z) * np.cos(7 * y - 8 * z) + 0.25 * (x * y * z > 0))
    affine = torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(RANGE * voxels).float()[None], affine=affine)


def _read_expected(bundle: str, model: Model) -> np.ndarray:
    path = _file_of(bundle)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        weights, voxels = content["weights_sha256"], np.asarray(content["voxels"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("E-W-MISSING", "its expected voxels cannot be read", path=path) from error
    if weights != model.weights_sha256:
        raise BundleError("E-W-HASH", "the weights are not those that were released", path=path.with_name("model.pt"))
    return voxels


def _file_of(bundle: str) -> Path:
    return bundle_path(bundle) / "models" / "self_test.json"


def write_expected(bundle: str) -> Path:
    """Write what the weights of a bundle give by torch in float32.

    Raises:
        OutputError: it cannot be written.
    """
    model = load_bundle(bundle, device="cpu", engine="torch", precision="float32")
    voxels = [round(float(value), 2) for value in made_by(model)]
    content = {"weights_sha256": model.weights_sha256, "voxels": voxels}
    return write_text(f"{json.dumps(content)}\n", _file_of(bundle))


if __name__ == "__main__":
    for name in NAMES:
        write_expected(name)
