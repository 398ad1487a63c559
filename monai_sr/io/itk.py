"""Images of SimpleITK in memory, and NRRD and MetaImage files written by it.

Files are not read by it, because it returns uninitialized memory for some damaged ones (SimpleITK 2.5.7).
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import acquisition_meta
from ..errors import ImageError, write_error
from ..files import move, temporary_beside
from ..grid import Grid
from .fields import LPS_TO_RAS
from .nifti import check_dtype


@cache
def simple_itk() -> Any:
    """The module SimpleITK; imported when it is needed, because that takes a third of a second."""
    import SimpleITK

    return SimpleITK


def from_itk(image: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, RAS+ affine and ``stored_dtype`` of a SimpleITK image.

    Raises:
        ImageError: voxels are not real numbers.
    """
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError("E-IMG-DTYPE", "voxels are colors or vectors")
    voxels = simple_itk().GetArrayFromImage(image).T
    check_dtype(voxels.dtype)
    axes = image.GetDimension()
    if axes < 3:
        return voxels, np.eye(4), {}  # refused for its dimensions
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    stored = voxels.dtype.name if voxels.dtype.itemsize <= 4 else "float32"
    return voxels.astype(np.float32), LPS_TO_RAS @ affine, acquisition_meta(stored_dtype=stored)


def to_itk(voxels: np.ndarray, grid: Grid) -> Any:
    """A volume (X, Y, Z) as a SimpleITK image."""
    image = simple_itk().GetImageFromArray(np.ascontiguousarray(voxels.T))
    affine = LPS_TO_RAS @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(grid.spacing)).ravel().tolist())
    return image


def rigid_matrix(transform: Any) -> np.ndarray:
    """(4, 4) of a rigid transform of SimpleITK, LPS mm."""
    matrix, center = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = np.array(transform.GetTranslation()) + center - matrix[:3, :3] @ center
    return matrix


def angle_of(matrix: np.ndarray) -> float:
    """Degrees of the rotation of a rigid (4, 4) matrix."""
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))


def write_itk(voxels: np.ndarray, grid: Grid, path: Path) -> None:
    """Write a volume (X, Y, Z) through a temporary file."""
    image = to_itk(voxels, grid)
    folder = temporary_beside(path)  # SimpleITK uses the suffix
    whole = folder / f"whole{path.suffix}"
    try:
        folder.mkdir()
        simple_itk().WriteImage(image, str(whole), useCompression=True)
        with open(whole, "rb+") as file:
            os.fsync(file.fileno())
        move(whole, path)
    except (RuntimeError, OSError) as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
