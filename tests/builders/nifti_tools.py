"""NIfTI files as another program would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def save_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray, **header: Any) -> Path:
    """Write voxels with an affine, and with fields of the header changed before that."""
    image = nib.Nifti1Image(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path
