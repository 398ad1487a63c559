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

# Public names and where they live; imported on first use, because torch takes seconds to load.
_HOME = {
    "Case": "batch",
    "CharbonnierLoss": "training.losses",
    "Condition": "evaluation.conditions",
    "Consistency": "trust.consistency",
    "ConsistentInferer": "training.inferer",
    "GradientClipping": "training.clipping",
    "Grid": "grid",
    "ImageError": "errors",
    "InterpolateSlices": "transforms",
    "InterpolateSlicesd": "transforms",
    "Model": "bundles",
    "Outcome": "batch",
    "PyramidLoss": "training.losses",
    "PyramidNet": "networks",
    "RandCoarseCropd": "training.augmentation",
    "RandSimulateThickSlicesd": "training.augmentation",
    "RecordHandler": "batch.workflow",
    "ResidualNet": "networks",
    "RunOptions": "options",
    "SRCNN": "networks",
    "SimulateThickSlices": "transforms",
    "SimulateThickSlicesd": "transforms",
    "SliceModel": "slices",
    "SuperResolutionError": "errors",
    "SuperResolutionInferer": "inference",
    "SuperResolutionWarning": "errors",
    "SuperResolvedGridd": "transforms",
    "carry_labels": "labels",
    "collect_notices": "errors",
    "evaluate": "evaluation.scores",
    "find_cases": "batch",
    "interpolate_slices": "transforms",
    "interpolation_matrix": "slices",
    "load_bundle": "bundles",
    "measure_consistency": "trust.consistency",
    "measure_resolution": "trust.resolution",
    "profile_matrix": "slices",
    "read_image": "io.images",
    "read_labels": "io.images",
    "run": "batch.run",
    "run_cases": "batch",
    "simulate_thick_slices": "transforms",
    "super_resolve": "inference",
    "uncertainty_map": "trust.uncertainty",
    "write_image": "io.images",
    "write_index": "batch",
    "write_report": "report",
    "write_viewer": "report",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from .batch import Case as Case
    from .batch import Outcome as Outcome
    from .batch import find_cases as find_cases
    from .batch import run_cases as run_cases
    from .batch import write_index as write_index
    from .batch.run import run as run
    from .batch.workflow import RecordHandler as RecordHandler
    from .bundles import Model as Model
    from .bundles import load_bundle as load_bundle
    from .errors import ImageError as ImageError
    from .errors import SuperResolutionError as SuperResolutionError
    from .errors import SuperResolutionWarning as SuperResolutionWarning
    from .errors import collect_notices as collect_notices
    from .evaluation.conditions import Condition as Condition
    from .evaluation.scores import evaluate as evaluate
    from .grid import Grid as Grid
    from .inference import SuperResolutionInferer as SuperResolutionInferer
    from .inference import super_resolve as super_resolve
    from .io.images import read_image as read_image
    from .io.images import read_labels as read_labels
    from .io.images import write_image as write_image
    from .labels import carry_labels as carry_labels
    from .networks import SRCNN as SRCNN
    from .networks import PyramidNet as PyramidNet
    from .networks import ResidualNet as ResidualNet
    from .options import RunOptions as RunOptions
    from .report import write_report as write_report
    from .report import write_viewer as write_viewer
    from .slices import SliceModel as SliceModel
    from .slices import interpolation_matrix as interpolation_matrix
    from .slices import profile_matrix as profile_matrix
    from .training.augmentation import RandCoarseCropd as RandCoarseCropd
    from .training.augmentation import RandSimulateThickSlicesd as RandSimulateThickSlicesd
    from .training.clipping import GradientClipping as GradientClipping
    from .training.inferer import ConsistentInferer as ConsistentInferer
    from .training.losses import CharbonnierLoss as CharbonnierLoss
    from .training.losses import PyramidLoss as PyramidLoss
    from .transforms import InterpolateSlices as InterpolateSlices
    from .transforms import InterpolateSlicesd as InterpolateSlicesd
    from .transforms import SimulateThickSlices as SimulateThickSlices
    from .transforms import SimulateThickSlicesd as SimulateThickSlicesd
    from .transforms import SuperResolvedGridd as SuperResolvedGridd
    from .transforms import interpolate_slices as interpolate_slices
    from .transforms import simulate_thick_slices as simulate_thick_slices
    from .trust.consistency import Consistency as Consistency
    from .trust.consistency import measure_consistency as measure_consistency
    from .trust.resolution import measure_resolution as measure_resolution
    from .trust.uncertainty import uncertainty_map as uncertainty_map


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
