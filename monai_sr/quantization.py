"""The 8-bit form of a bundle: how large the values between its layers get, bound to its weights.

That is all there is to it: the weights of 8 bits follow from those of 32, with a step for each output
channel, when a network is loaded. The image path, its head and the sums of images are in float32.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from torch import nn

from .errors import BundleError

REBUILD = "python -m monai_sr.quantize BUNDLE"

VERSION = 1
"""Of the file; it changes when the same ranges would mean another network."""


def weights_fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(np.ascontiguousarray(value.detach().float().cpu().numpy()).tobytes())
    return digest.hexdigest()


def read_ranges(path: str | Path | None, network: nn.Module) -> dict[str, float]:
    """The largest magnitudes of the quantized tensors of ``network``, by name.

    Raises:
        BundleError: E-W-INT8, the file is missing, damaged, or was made from other weights.
    """
    if path is None or not Path(path).is_file():
        raise _unusable("this bundle has no 8-bit form", path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        made_from, form = content["weights_fingerprint"], content["version"]
        ranges = {str(name): float(value) for name, value in content["ranges"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable("the 8-bit form of this bundle is damaged", path) from error
    if form != VERSION:
        raise _unusable(f"its 8-bit form is of version {form!r}, {VERSION} is known", path)
    if not all(0 < value < math.inf for value in ranges.values()):
        raise _unusable("the 8-bit form of this bundle is damaged", path)
    if made_from != weights_fingerprint(network):
        raise _unusable("its 8-bit form was made from other weights", path)
    return ranges


def _unusable(problem: str, path: str | Path | None) -> BundleError:
    return BundleError("E-W-INT8", problem, fix=f"give --precision float32, or make it by {REBUILD}", path=path)
