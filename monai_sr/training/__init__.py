"""What MONAI's SupervisedTrainer needs to train the networks; the names that bundle configs use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Imported on first use: clipping needs ignite, which takes a second to load and only training needs.
_HOME = {
    "BatchesOnDevice": "monai_sr.training.on_device",
    "CharbonnierLoss": "monai_sr.training.losses",
    "ConsistentInferer": "monai_sr.training.inferer",
    "ForegroundPSNR": "monai_sr.evaluation.metrics",
    "ForegroundSSIM": "monai_sr.evaluation.metrics",
    "GradientClipping": "monai_sr.training.clipping",
    "LogErrorLoss": "monai_sr.training.losses",
    "Muon": "monai_sr.training.muon",
    "NormalizeIntensitiesd": "monai_sr.transforms",
    "PyramidLoss": "monai_sr.training.losses",
    "RandCoarseCropd": "monai_sr.training.augmentation",
    "RandSimulateThickSlicesd": "monai_sr.training.augmentation",
    "latest_checkpoint": "monai_sr.training.clipping",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
