"""The 8-bit form of a bundle: the ranges of the values between its layers, for one set of weights.

The 8-bit weights are computed from the float32 weights when a network is loaded. The image, the layers that
read it, and its sums stay in float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundleError, Later
from .graphs import Ranges
from .weights import PyramidWeights, Weights, weights_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..networks import PyramidNet, ResidualNet
else:
    torch = Later("torch")

LEVELS = 3
"""Levels of a pyramid with own ranges, counted from the last one: up to a factor of 8."""

VERSION = 2
"""Version of the file; it changes when the same ranges would give another network."""


def weights_fingerprint(network: nn.Module | Weights) -> str:
    """SHA-256 of the weights of a network, independent of their file."""
    digest = hashlib.sha256()
    for name, value in sorted(weights_of(network).state.items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


def quantized_tensors(network: nn.Module | Weights) -> list[str]:
    """The names of the quantized tensors of a network, as in :mod:`monai_sr.engine.graphs`.

    Levels of a PyramidNet are counted from the last one, 0. Levels beyond those of training use the ranges of the
    one with the highest number.
    """
    weights = weights_of(network)
    pairs = weights.last.body if isinstance(weights, PyramidWeights) else weights.body
    body = [f"body.{index}{part}" for index in range(len(pairs)) for part in (".inner", "")]
    del body[-1]  # the last sum stays in float32, see _Graph._pairs
    if not isinstance(weights, PyramidWeights):
        return ["head", *body]
    levels = [[f"{level}.{name}" for name in ("embed", *body, "detail")] for level in range(LEVELS)]
    return [name for level in levels for name in level]


def read_ranges(path: str | Path | None, network: nn.Module | Weights) -> Ranges:
    """The largest magnitudes of the quantized tensors of ``network``.

    Raises:
        BundleError: E-W-INT8, the file is missing, damaged, or was made from other weights.
    """
    if path is None or not Path(path).is_file():
        raise _unusable("this bundle has no 8-bit form", path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        made_from, form = content["weights_fingerprint"], content["version"]
        ranges = {str(name): [float(value) for value in values] for name, values in content["ranges"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable("the 8-bit form of this bundle is damaged", path) from error
    if form != VERSION:
        raise _unusable(f"its 8-bit form is of version {form!r}, {VERSION} is known", path)
    channels = weights_of(network).features
    tensors = [ranges.get(name, []) for name in quantized_tensors(network)]
    if not all(len(values) == channels and all(0 < v < math.inf for v in values) for values in tensors):
        raise _unusable("the 8-bit form of this bundle is damaged", path)
    if made_from != weights_fingerprint(network):
        raise _unusable("its 8-bit form was made from other weights", path)
    return ranges


def write_ranges(path: Path, network: nn.Module, ranges: Ranges, *, made_by: str) -> None:
    """Write what :func:`read_ranges` reads."""
    content = {
        "version": VERSION,
        "made_by": made_by,
        "weights_fingerprint": weights_fingerprint(network),
        "ranges": {name: [float(f"{value:.4g}") for value in values] for name, values in ranges.items()},
    }
    text = json.dumps(content, indent=1)
    path.write_text(re.sub(r"(?<=[\[,])\s+(?=[\d.])", " ", text) + "\n", encoding="utf-8")  # a tensor on a line


def find_ranges(network: ResidualNet | PyramidNet, inputs: Iterable[tuple[Tensor, int]]) -> Ranges:
    """The range of each channel of each quantized tensor.

    For each channel it is the range with the smallest squared error. It may be below the largest value,
    because few values are near that. Channels of small values get finer steps, by the square root of
    their ratio to the widest: the weights must compensate, and are in 8 bits themselves
    (as in Xiao 2023, "SmoothQuant", section 4).

    Args:
        network: in eval mode, on the CPU.
        inputs: inputs of the network, (1, 1, X, Y, Z) normalized, and the number of levels (for a PyramidNet).
    """
    seen: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)

    def note(name: str, values: Tensor) -> None:
        values = values[0].flatten(1)
        some = values[:, torch.randint(values.shape[1], (SAMPLES,), generator=generator)]
        ends = torch.stack([values.amin(1), values.amax(1)], dim=1)
        seen.setdefault(name, []).append(torch.cat([some, ends], dim=1))

    with torch.no_grad(), _watched(network, note):
        for image, levels in inputs:
            network(image, levels) if network.works_on == "thick" else network(image)
    return {name: _best_ranges(torch.cat(seen[name], dim=1)) for name in quantized_tensors(network)}


SAMPLES = 4_000
"""Values of a channel that are used of each input."""


def _best_ranges(values: Tensor) -> list[float]:
    """For each channel of (C, n) values."""
    signed = bool(values.min() < 0)
    least, most = (-127, 127) if signed else (0, 255)
    largest = values.abs().amax(dim=1, keepdim=True)
    largest[largest == 0] = float(largest.max()) or 1.0
    errors, fractions = [], torch.linspace(0.2, 1.0, 33)
    for fraction in fractions:
        step = largest * fraction / most
        whole = (values / step).round().clamp(least, most)
        errors.append((whole * step - values).square().sum(dim=1))
    best = largest[:, 0] * fractions[torch.stack(errors).argmin(dim=0)]
    widest = best.max()
    return (widest * (best / widest).clamp_min(1e-4).sqrt()).tolist()


@contextmanager
def _watched(network: ResidualNet | PyramidNet, note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``note`` with every tensor that :class:`monai_sr.engine.graphs._Graph` quantizes, by its name there."""
    level, is_pyramid = 0, network.works_on == "thick"

    def plain(name: str, values: Tensor) -> None:
        note(f"{level}.{name}" if is_pyramid else name, values)

    def positive(name: str, values: Tensor) -> None:
        plain(name, torch.relu(values))

    def on(module: nn.Module, report: Callable[[Tensor], None]) -> Any:
        return module.register_forward_hook(lambda _module, _inputs, output: report(output))

    def start(_: nn.Module, inputs: tuple[Tensor, int]) -> None:
        nonlocal level
        level = inputs[1]

    def next_level(*_: Any) -> None:
        nonlocal level
        level -= 1  # the levels that follow

    handles: list[Any] = []
    branches: list[Any] = [network.earlier, network.last] if is_pyramid else [network]  # type: ignore[union-attr]
    for branch in branches:
        for index, pair in enumerate(branch.body):
            handles.append(on(pair.first, partial(positive, f"body.{index}.inner")))
            handles.append(on(pair, partial(plain, f"body.{index}")))
        if not is_pyramid:
            handles.append(on(branch.head, partial(positive, "head")))
        else:
            handles.append(branch.register_forward_pre_hook(next_level))
            handles.append(on(branch.embed, partial(positive, "embed")))
            handles.append(on(branch.double_features, partial(positive, "detail")))
    if is_pyramid:
        handles.append(network.register_forward_pre_hook(start))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unusable(problem: str, path: str | Path | None) -> BundleError:
    return BundleError("E-W-INT8", problem, path=path)
