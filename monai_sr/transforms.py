"""MONAI transforms for thick slices: simulate them, interpolate them, and put results on their grid.

Volumes are ``(C, X, Y, Z)`` MetaTensors with their RAS+ affine. A function that changes the grid also changes the
affine. Dictionary versions end in ``d``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from .acquired import Acquired
from .errors import UsageError
from .grid import as_floating, grid_of, on_grid, positions_on, target_grid, thick_grid
from .intensities import CT_WINDOW, MR_PERCENTILES, Modality, Normalization, intensity_range
from .slices import Profile, SliceModel, apply_along, interpolation_matrix, profile_matrix

Method = Literal["linear", "cubic", "consistent"]


def simulate_thick_slices(
    hr: Tensor,
    slice_spacing: float | None = None,
    *,
    factor: float | None = None,
    slice_thickness: float | None = None,
    profile: Profile = "gaussian",
    axis: int | None = None,
) -> MetaTensor:
    """Simulate the acquisition of ``hr`` with thick slices.

    Args:
        hr: (C, X, Y, Z) volume of thin slices, with affine.
        slice_spacing: mm between the centers of neighboring thick slices.
        factor: thin slices per thick slice instead; need not be an integer.
        slice_thickness: FWHM of the slice profile, mm. Default: the slice spacing.
        profile: "gaussian", "box" or "triangle".
        axis: the axis that becomes through-plane, default the axis of the largest spacing.

    Returns:
        (C, X', Y', Z') with fewer slices along ``axis`` and the affine of the thick grid.

    Raises:
        ValueError: spacing and factor are both given, or neither.
        UsageError: the slices are thinner than those of ``hr`` or do not fit into it, or the slices of ``hr``
            are unevenly spaced.
    """
    grid = grid_of(hr)
    check_even(hr)
    axis = grid.through_plane_axis if axis is None else axis
    if slice_spacing is None and factor is not None:
        slice_spacing = grid.spacing[axis] * factor
    elif slice_spacing is None or factor is not None:
        raise ValueError(f"give slice_spacing or factor, not {slice_spacing} and {factor}")
    if slice_spacing < grid.spacing[axis] * (1 - 1e-6):
        raise UsageError(
            "E-USE",
            f"the slice spacing {slice_spacing:.4g} mm is finer than that of the volume, {grid.spacing[axis]:.4g} mm",
            fix="choose a larger slice spacing",
        )
    thick = thick_grid(grid, axis, slice_spacing)
    matrix = profile_matrix(
        positions_on(grid, axis, grid),
        positions_on(thick, axis, grid),
        slice_thickness=slice_thickness or slice_spacing,
        profile=profile,
    )
    return on_grid(apply_along(matrix, as_floating(hr), axis + 1), thick, hr)


def check_even(hr: Tensor) -> None:
    """Refuse a volume of unevenly spaced slices: thick slices cannot be simulated from it.

    Raises:
        UsageError: the slices are unevenly spaced.
    """
    if not Acquired.of(hr).is_even:
        problem = "the slices of this volume are unevenly spaced"
        raise UsageError("E-USE", problem, fix="give a volume of evenly spaced thin slices")


def reference_for(lr: Tensor, hr: Tensor, *, axis: int) -> MetaTensor:
    """``hr`` on the grid of the super-resolved ``lr``, which was simulated from it.

    A crop if the factor is an integer; otherwise ``hr`` is interpolated (cubic) by less than half a voxel along
    ``axis``.
    """
    grid = grid_of(hr)
    wanted, _ = target_grid(grid_of(lr), spacing=grid.spacing[axis], axis=axis)
    matrix = interpolation_matrix(positions_on(grid, axis, grid), positions_on(wanted, axis, grid))
    matrix[matrix.abs() < 1e-12] = 0
    return on_grid(apply_along(matrix, as_floating(hr), axis + 1), wanted, hr)


def interpolate_slices(
    lr: Tensor,
    spacing: float | None = None,
    *,
    factor: float | None = None,
    method: Method = "cubic",
    slice_thickness: float | None = None,
    profile: Profile = "gaussian",
    axis: int | None = None,
) -> MetaTensor:
    """Interpolate slices without a network: linear, cubic spline, or consistent spline.

    Args:
        lr: (C, X, Y, Z) volume of thick slices, with affine.
        spacing: output slice spacing, mm. Default: the finer in-plane spacing.
        factor: output slices per acquired slice instead.
        method: "consistent" is the cubic spline whose slice averages equal ``lr``.
        slice_thickness: FWHM of the slice profile, mm, used by "consistent". Default: that of the metadata,
            otherwise the slice spacing.
        profile: "gaussian", "box" or "triangle", used by "consistent".
        axis: the through-plane axis, default the axis of the largest spacing.

    Returns:
        The volume on :func:`target_grid`.
    """
    acquired = Acquired.of(lr, slice_thickness=slice_thickness, profile=profile, axis=axis)
    wanted, axis = acquired.wanted_grid(spacing=spacing, factor=factor), acquired.axis
    thick, thin = acquired.positions, wanted.positions(axis)
    if method == "consistent":
        matrix = SliceModel.between(thick, thin, slice_thickness=acquired.slice_thickness, profile=profile).spline
    elif method in ("linear", "cubic"):
        matrix = interpolation_matrix(thick, thin, order=1 if method == "linear" else 3)
    else:
        raise ValueError(f"method is {method!r}, must be 'linear', 'cubic' or 'consistent'")
    return on_grid(apply_along(matrix, as_floating(lr), axis + 1), wanted, lr)


class SimulateThickSlicesd(MapTransform):
    """:func:`simulate_thick_slices` as a MONAI transform.

    Args:
        keys: volumes of thin slices.
        slice_spacing, factor, slice_thickness, profile, axis: see there.
        reference_key: also store the reference of the super-resolved slices under this key, see
            :func:`reference_for`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        slice_spacing: float | None = None,
        *,
        factor: float | None = None,
        slice_thickness: float | None = None,
        profile: Profile = "gaussian",
        axis: int | None = None,
        reference_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.axis, self.reference_key = axis, reference_key
        self.simulate = partial(
            simulate_thick_slices,
            slice_spacing=slice_spacing,
            factor=factor,
            slice_thickness=slice_thickness,
            profile=profile,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            hr = result[key]
            axis = grid_of(hr).through_plane_axis if self.axis is None else self.axis
            result[key] = self.simulate(hr, axis=axis)
            if self.reference_key is not None:
                result[self.reference_key] = reference_for(result[key], hr, axis=axis)
        return result


class InterpolateSlicesd(MapTransform):
    """:func:`interpolate_slices` as a MONAI transform, with its arguments."""

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float | None = None,
        *,
        factor: float | None = None,
        method: Method = "cubic",
        slice_thickness: float | None = None,
        profile: Profile = "gaussian",
        axis: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.interpolate = partial(
            interpolate_slices,
            spacing=spacing,
            factor=factor,
            method=method,
            slice_thickness=slice_thickness,
            profile=profile,
            axis=axis,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.interpolate(data[key]) for key in self.key_iterator(dict(data))}


class NormalizeIntensitiesd(MapTransform):
    """Normalize CT by a fixed window and MR by percentiles, without clipping; see :mod:`monai_sr.intensities`."""

    def __init__(
        self,
        keys: KeysCollection,
        modality: Modality | None = None,
        *,
        ct_window: tuple[float, float] = CT_WINDOW,
        mr_percentiles: tuple[float, float] = MR_PERCENTILES,
    ) -> None:
        super().__init__(keys)
        self.modality = modality
        self.normalization = Normalization(ct_window, mr_percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = intensity_range(result[key], self.modality, self.normalization).normalize(result[key])
        return result


class SuperResolvedGridd(MapTransform):
    """Put super-resolved voxels on their grid: affine with the half-slice shift, shape, original affine.

    MONAI's savers and MONAI Label resample by ``original_affine`` and ``spatial_shape`` of the result *and* of its
    image. Both get the new grid, so nothing is resampled back.

    Args:
        keys: the results, on the grid of :func:`target_grid` for these options.
        image_key: the acquired image; its voxels and affine do not change.
        spacing, factor, axis: the same as for super-resolution.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        *,
        spacing: float | None = None,
        factor: float | None = None,
        axis: int | None = None,
    ) -> None:
        super().__init__(keys)
        self.image_key, self.spacing, self.factor, self.axis = image_key, spacing, factor, axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = result[self.image_key]
        wanted = Acquired.of(image, axis=self.axis).wanted_grid(spacing=self.spacing, factor=self.factor)
        for key in self.key_iterator(result):
            if tuple(result[key].shape[1:]) != wanted.shape:
                raise ValueError(f"{key} has shape {tuple(result[key].shape[1:])}, its grid {wanted.shape}")
            result[key] = on_grid(result[key], wanted, image)
            result[key].meta["super_resolved"] = True
        image = image.clone()
        image.meta.update(original_affine=torch.from_numpy(wanted.affine.copy()), spatial_shape=np.array(wanted.shape))
        result[self.image_key] = image
        return result
