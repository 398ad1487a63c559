"""Align one volume to another rigidly, by SimpleITK."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor

from ..grid import grid_of
from ..io.fields import LPS_TO_RAS
from ..io.itk import angle_of, rigid_matrix, simple_itk, to_itk

SAMPLED = 0.2
"""Fraction of the voxels by which the volumes are compared."""


def register_rigidly(fixed: MetaTensor, moving: MetaTensor) -> tuple[MetaTensor, tuple[float, float]]:
    """``moving`` with an affine that aligns it to ``fixed``; nothing is resampled.

    Mattes mutual information, from the given positions, or from the centers of the volumes where these lie outside
    each other.

    Args:
        fixed, moving: (1, X, Y, Z) with affine.

    Returns:
        The moved volume; how far its center moves, mm, and the angle, degrees.
    """
    sitk = simple_itk()
    images = [to_itk(volume[0].numpy().astype(np.float32), grid_of(volume)) for volume in (fixed, moving)]
    transform = sitk.Euler3DTransform()
    centers = [np.array(i.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in i.GetSize()])) for i in images]
    transform.SetCenter(centers[0].tolist())
    reach = 0.5 * min(max(n * s for n, s in zip(i.GetSize(), i.GetSpacing(), strict=True)) for i in images)
    if np.linalg.norm(centers[1] - centers[0]) > reach:
        transform.SetTranslation((centers[1] - centers[0]).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*images)
    to_moving = rigid_matrix(transform)
    affine = LPS_TO_RAS @ np.linalg.inv(to_moving) @ LPS_TO_RAS @ grid_of(moving).affine
    moved = float(np.linalg.norm(transform.GetTranslation())), angle_of(to_moving)
    return MetaTensor(moving.as_tensor(), affine=affine, meta=moving.meta), moved
