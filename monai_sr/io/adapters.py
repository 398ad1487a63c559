"""Images of other libraries as volumes, and results as images of the same kind.

nibabel images, SimpleITK images and arrays with an affine pass the same checks as a file. A result has the
voxel type of its image, rounded and clipped, as in a file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ..acquired import acquisition_meta
from ..errors import ImageError, Later, UsageError
from ..grid import Image, grid_of
from .checks import make_volume
from .images import stored_voxels
from .itk import from_itk, to_itk
from .nifti import check_dtype, from_nibabel, nifti_fields, nifti_image

if TYPE_CHECKING:
    import torch
    from monai.data import MetaTensor
else:
    torch = Later("torch")

GiveBack = Callable[[Image], Any]

IN_MEMORY = "the image"
"""Name of an image without a file, in messages."""


def takes_any_image(function: Callable[..., Image]) -> Callable[..., Any]:
    """Let a function of a volume take any image that :func:`as_volume` knows, and return the same kind."""

    @functools.wraps(function)
    def call(image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, torch.Tensor):
            return function(image, *args, **kwargs)
        volume, give_back = as_volume(image)
        return give_back(function(volume, *args, **kwargs))

    return call


def as_volume(image: Any) -> tuple[MetaTensor, GiveBack]:
    """An image as a volume, and a function that converts a result to the same kind.

    Args:
        image: a nibabel image or ``(array, affine)``, (X, Y, Z) or (X, Y, Z, C) for C volumes, the affine
            voxel index to RAS+ mm; or a SimpleITK image of three dimensions, with LPS+ coordinates.

    Returns:
        (C, X, Y, Z) MetaTensor as of :func:`monai_sr.io.images.read_image`, and a function of such.

    Raises:
        ImageError: what is wrong with it as it would be with a file.
        UsageError: it is of another type.
    """
    if isinstance(image, nib.spatialimages.SpatialImage):
        path = image.get_filename() or IN_MEMORY
        volume = make_volume(*from_nibabel(image, path=path), path=path, volume="all").to_tensor()
        return volume, functools.partial(_as_nibabel, image_type=type(image))
    if type(image).__module__.partition(".")[0] == "SimpleITK":
        if image.GetDimension() != 3:
            problem = f"an image of {image.GetDimension()} dimensions, 3 are needed"
            fix = "take one volume out of it, such as image[:, :, :, 0]"
            raise ImageError("E-IMG-4D" if image.GetDimension() > 3 else "E-IMG-2D", problem, fix=fix)
        return make_volume(*from_itk(image), path=IN_MEMORY).to_tensor(), _as_itk
    if isinstance(image, tuple | list) and len(image) == 2 and np.shape(image[1]) == (4, 4):
        array = np.asarray(image[0])
        check_dtype(array.dtype)
        stored = array.dtype.name if array.dtype.itemsize <= 4 else "float32"
        affine = np.asarray(image[1], dtype=np.float64)
        meta = acquisition_meta(stored_dtype=stored)
        volume = make_volume(array.astype(np.float32), affine, meta, path=IN_MEMORY, volume="all").to_tensor()
        return volume, _as_array
    problem = f"a {type(image).__name__} was given as an image"
    fix = "give a nibabel or SimpleITK image, a MetaTensor or (array, affine); of a file, what read_image reads"
    raise UsageError("E-USE", problem, fix=fix)


def _as_nibabel(volume: Image, *, image_type: type[nib.spatialimages.SpatialImage]) -> Any:
    voxels = stored_voxels(volume, path=IN_MEMORY)
    if not issubclass(image_type, nib.Nifti1Pair):
        return image_type(voxels, grid_of(volume).affine)
    return nifti_image(voxels, grid_of(volume), **nifti_fields(volume))


def _as_itk(volume: Image) -> Any:
    return to_itk(stored_voxels(volume, path=IN_MEMORY), grid_of(volume))


def _as_array(volume: Image) -> tuple[np.ndarray, np.ndarray]:
    return stored_voxels(volume, path=IN_MEMORY), grid_of(volume).affine
