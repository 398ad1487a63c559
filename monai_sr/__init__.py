"""Super-resolution of thick-slice CT and MR volumes. Research only, not for diagnosis.

>>> import torch
>>> from monai.data import MetaTensor
>>> from monai_sr import interpolate_slices, load_bundle, measure_consistency, simulate_thick_slices
>>> hr = MetaTensor(100 * torch.rand(1, 20, 20, 32, generator=torch.manual_seed(0)), affine=torch.eye(4))
>>> lr = simulate_thick_slices(hr, 4.0, axis=2)
>>> lr.shape, lr.affine[2, 2].item()
(torch.Size([1, 20, 20, 8]), 4.0)
>>> sr = load_bundle("none")(lr, factor=4, profile="gaussian")  # "residual" and "pyramid" have weights
>>> sr.shape
torch.Size([1, 20, 20, 32])
>>> measure_consistency(lr, sr).score < 1e-4  # the result, acquired again, gives the acquired slices
True
>>> measure_consistency(lr, interpolate_slices(lr, 1.0, method="cubic")).score > 0.01
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The modules and their public names. Imported on first use, because torch takes seconds to load.
# Everything else is imported from its module, such as monai_sr.transforms or monai_sr.training.
_MODULES = {
    "batch.cases": "find_cases",
    "batch.run": "run run_cases",
    "bundles": "load_bundle",
    "errors": "ImageError SuperResolutionError SuperResolutionWarning collect_notices",
    "evaluation.scores": "evaluate",
    "fusion.fuse": "fuse",
    "inference": "super_resolve",
    "io.images": "read_image write_image",
    "labels": "carry_labels",
    "networks": "PyramidNet ResidualNet",
    "options": "RunOptions",
    "training.inferer": "SuperResolutionInferer",
    "transforms": "interpolate_slices simulate_thick_slices",
    "trust.consistency": "measure_consistency",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from .batch.cases import find_cases as find_cases
    from .batch.run import run as run
    from .batch.run import run_cases as run_cases
    from .bundles import load_bundle as load_bundle
    from .errors import ImageError as ImageError
    from .errors import SuperResolutionError as SuperResolutionError
    from .errors import SuperResolutionWarning as SuperResolutionWarning
    from .errors import collect_notices as collect_notices
    from .evaluation.scores import evaluate as evaluate
    from .fusion.fuse import fuse as fuse
    from .inference import super_resolve as super_resolve
    from .io.images import read_image as read_image
    from .io.images import write_image as write_image
    from .labels import carry_labels as carry_labels
    from .networks import PyramidNet as PyramidNet
    from .networks import ResidualNet as ResidualNet
    from .options import RunOptions as RunOptions
    from .training.inferer import SuperResolutionInferer as SuperResolutionInferer
    from .transforms import interpolate_slices as interpolate_slices
    from .transforms import simulate_thick_slices as simulate_thick_slices
    from .trust.consistency import measure_consistency as measure_consistency


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
