"""What MONAI's SupervisedTrainer needs to train the networks; the names that bundle configs use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "evaluation.metrics": "ForegroundPSNR ForegroundSSIM",
    "training.augmentation": "RandCoarseCropd RandSimulateThickSlicesd",
    "training.clipping": "GradientClipping latest_checkpoint",
    "training.inferer": "ConsistentInferer",
    "training.losses": "CharbonnierLoss LogErrorLoss PyramidLoss",
    "training.muon": "Muon",
    "training.on_device": "BatchesOnDevice",
    "transforms": "NormalizeIntensitiesd",
}
"""Modules and their names here, imported on first use: clipping needs ignite, which takes a second to load."""

_HOME = {name: f"monai_sr.{module}" for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
