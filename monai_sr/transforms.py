"""Thick slices as MONAI transforms: make them, interpolate them, and put results on their grid.

Volumes are ``(C, X, Y, Z)`` MetaTensors with their RAS+ affine. Whoever changes the grid changes
the affine. Dictionary versions end in ``d``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from .errors import ImageError, UsageError
from .grid import SAME_SPACING, Grid
from .intensities import CT_WINDOW, MR_PERCENTILES, Modality, intensity_range
from .slices import Profile, SliceModel, apply_along, interpolation_matrix, profile_matrix

Method = Literal["linear", "cubic", "consistent"]


def grid_of(image: Tensor) -> Grid:
    """The grid of a ``(C, X, Y, Z)`` MetaTensor.

    Raises:
        ImageError: it has no three spatial axes.
    """
    if image.ndim != 4:
        raise ImageError(
            "E-IMG-2D" if image.ndim < 4 else "E-IMG-4D",
            f"a volume (channel, X, Y, Z) is needed, this has shape {tuple(image.shape)}",
            fix="give a three-dimensional volume",
        )
    affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4)
    x, y, z = (int(n) for n in image.shape[1:])
    return Grid((x, y, z), np.asarray(affine.cpu(), dtype=np.float64))


def on_grid(voxels: Tensor, grid: Grid, like: Tensor) -> MetaTensor:
    """``voxels`` as a MetaTensor on ``grid``, keeping the other metadata of ``like``."""
    meta = dict(like.meta) if isinstance(like, MetaTensor) else {}
    affine = torch.from_numpy(grid.affine.copy())
    meta.update(original_affine=affine.clone(), spatial_shape=np.array(grid.shape))
    meta.pop("affine", None)
    # a new grid is even, its slices are others, and it holds a number everywhere
    for acquired in ("slice_positions", "slice_thickness", "nan_voxels"):
        meta.pop(acquired, None)
    voxels = voxels.as_tensor() if isinstance(voxels, MetaTensor) else voxels
    return MetaTensor(voxels, affine=affine, meta=meta)


def uneven_positions(image: Tensor) -> np.ndarray | None:
    """Where the slices of an unevenly spaced DICOM series lie along the last axis, mm around the middle.

    None for an even volume. The affine of an uneven one has the mean spacing.
    """
    positions = image.meta.get("slice_positions") if isinstance(image, MetaTensor) else None
    if positions is None:
        return None
    positions = np.asarray(positions, dtype=np.float64)
    if len(positions) != image.shape[-1]:
        raise ValueError(f"{len(positions)} slice positions for {image.shape[-1]} slices along the last axis")
    return positions


def target_grid(
    grid: Grid,
    *,
    spacing: float | None = None,
    factor: float | None = None,
    axis: int | None = None,
    uneven: np.ndarray | None = None,
) -> tuple[Grid, int]:
    """Where a super-resolved volume lies, and along which axis it was re-spaced.

    Slices are never made fewer: where no finer spacing is wanted, it is the acquired grid. So it is
    for an isotropic volume of which nothing particular is asked. Uneven slices always get an even
    grid, at most as wide as their typical (median) step.

    Args:
        grid: the acquired grid.
        spacing: wanted slice spacing, mm. Default: the finer in-plane spacing.
        factor: output slices per acquired slice instead.
        axis: the through-plane axis, default the one of the largest spacing.
        uneven: see :func:`uneven_positions`.

    Raises:
        UsageError: spacing and factor are both given, one is not positive, or the axis is unclear.
    """
    if spacing is not None and factor is not None:
        raise UsageError("E-USE", "both a factor and a spacing were given", fix="give one of them")
    if axis is not None and axis not in (0, 1, 2):
        raise UsageError("E-USE", f"axis {axis} was given", fix="give 0, 1 or 2")
    if factor is not None and not (np.isfinite(factor) and factor > 0):
        raise UsageError("E-USE", f"a factor of {factor} was given", fix="give a factor above 1, such as 4")
    if uneven is not None:
        if axis not in (None, 2):
            raise UsageError("E-USE", f"axis {axis} was given, the slices are stacked along axis 2", fix="leave it out")
        step = float(np.median(np.diff(uneven)))
        wanted = step / factor if factor is not None else min(grid.spacing[:2]) if spacing is None else spacing
        return grid.respaced(2, min(wanted, step)), 2
    if axis is None and spacing is None and factor is None and grid.is_isotropic:
        return grid, 2
    axis = grid.through_plane_axis if axis is None else axis
    if factor is not None:
        spacing = grid.spacing[axis] / factor
    elif spacing is None:
        spacing = min(s for a, s in enumerate(grid.spacing) if a != axis)
    if spacing > 0 and spacing >= grid.spacing[axis] * (1 - SAME_SPACING):
        return grid, axis
    return grid.respaced(axis, spacing), axis


def wanted_grid(
    image: Tensor, *, spacing: float | None = None, factor: float | None = None, axis: int | None = None
) -> tuple[Grid, int]:
    """:func:`target_grid` of an image; its metadata may tell the slice axis and uneven positions.

    Raises:
        UsageError: as :func:`target_grid`.
    """
    told = image.meta.get("slice_axis") if isinstance(image, MetaTensor) else None
    axis = int(told) if axis is None and told is not None else axis
    return target_grid(grid_of(image), spacing=spacing, factor=factor, axis=axis, uneven=uneven_positions(image))


def thick_grid(grid: Grid, axis: int, slice_spacing: float) -> Grid:
    """The thick slices that fit in ``grid``, counted from its first voxel's edge."""
    thin_spacing, n = grid.spacing[axis], grid.shape[axis]
    m = int(np.floor(n * thin_spacing / slice_spacing + 1e-6))
    if m < 1:
        raise UsageError(
            "E-USE",
            f"slices {slice_spacing:.4g} mm apart do not fit in {n * thin_spacing:.4g} mm",
            fix="choose a smaller slice spacing",
        )
    direction = grid.affine[:3, axis] / thin_spacing
    affine = grid.affine.copy()
    affine[:3, axis] = direction * slice_spacing
    affine[:3, 3] += direction * (slice_spacing - thin_spacing) / 2
    shape = list(grid.shape)
    shape[axis] = m
    return Grid((shape[0], shape[1], shape[2]), affine)


def positions_on(grid: Grid, axis: int, reference: Grid) -> np.ndarray:
    """Slice positions of ``grid`` on the line through the slices of ``reference``, mm from its first."""
    direction = reference.affine[:3, axis] / reference.spacing[axis]
    first = float(direction @ (grid.affine[:3, 3] - reference.affine[:3, 3]))
    return first + np.arange(grid.shape[axis]) * grid.spacing[axis]


def simulate_thick_slices(
    hr: Tensor,
    slice_spacing: float,
    *,
    slice_thickness: float | None = None,
    profile: Profile = "gaussian",
    axis: int | None = None,
) -> MetaTensor:
    """What a scanner with thick slices would have seen of ``hr``.

    Args:
        hr: (C, X, Y, Z) volume of thin slices, with affine.
        slice_spacing: mm between the centers of neighboring thick slices.
        slice_thickness: FWHM of the slice profile, mm. Default: the slice spacing.
        profile: "gaussian" or "box".
        axis: which axis becomes through-plane, default the one of the largest spacing.

    Returns:
        (C, X', Y', Z') with fewer slices along ``axis`` and the affine of the thick grid.

    Raises:
        UsageError: the slices would be thinner than those of ``hr``, do not fit in it, or those of
            ``hr`` are unevenly spaced.
    """
    grid = grid_of(hr)
    if uneven_positions(hr) is not None:
        raise UsageError("E-USE", "the slices of this volume are unevenly spaced", fix="give one of even thin slices")
    axis = grid.through_plane_axis if axis is None else axis
    if slice_spacing < grid.spacing[axis] * (1 - 1e-6):
        raise UsageError(
            "E-USE",
            f"slices {slice_spacing:.4g} mm apart were asked of a volume that has one each {grid.spacing[axis]:.4g} mm",
            fix="choose a larger slice spacing",
        )
    thick = thick_grid(grid, axis, slice_spacing)
    matrix = profile_matrix(
        positions_on(grid, axis, grid),
        positions_on(thick, axis, grid),
        slice_thickness=slice_thickness or slice_spacing,
        profile=profile,
    )
    return on_grid(apply_along(matrix, _floating(hr), axis + 1), thick, hr)


def truth_for(lr: Tensor, hr: Tensor, *, axis: int) -> MetaTensor:
    """The part of ``hr`` on the grid that ``lr``, simulated from it, is super-resolved to.

    A plain crop where the factor is an integer; else ``hr`` is interpolated (cubic) by less than
    half a voxel along ``axis``.
    """
    grid = grid_of(hr)
    wanted, _ = target_grid(grid_of(lr), spacing=grid.spacing[axis], axis=axis)
    matrix = interpolation_matrix(positions_on(grid, axis, grid), positions_on(wanted, axis, grid))
    matrix[matrix.abs() < 1e-12] = 0
    return on_grid(apply_along(matrix, _floating(hr), axis + 1), wanted, hr)


def interpolate_slices(
    lr: Tensor,
    spacing: float,
    *,
    method: Method = "cubic",
    slice_thickness: float | None = None,
    profile: Profile = "gaussian",
    axis: int | None = None,
) -> MetaTensor:
    """More slices without a network: linear, cubic spline, or the consistent spline.

    Args:
        lr: (C, X, Y, Z) volume of thick slices, with affine.
        spacing: wanted slice spacing, mm.
        method: "consistent" is the cubic spline whose slice averages are exactly ``lr``.
        slice_thickness: FWHM of the slice profile, mm, used by "consistent". Default: the spacing
            of the slices.
        profile: "gaussian" or "box", used by "consistent".
        axis: the through-plane axis, default the one of the largest spacing.

    Returns:
        The volume on :func:`target_grid`.
    """
    grid, uneven = grid_of(lr), uneven_positions(lr)
    wanted, axis = wanted_grid(lr, spacing=spacing, axis=axis)
    thick, thin = grid.positions(axis) if uneven is None else uneven, wanted.positions(axis)
    if method == "consistent":
        matrix = SliceModel.between(
            thick, thin, slice_thickness=slice_thickness or grid.spacing[axis], profile=profile
        ).spline
    elif method in ("linear", "cubic"):
        matrix = interpolation_matrix(thick, thin, order=1 if method == "linear" else 3)
    else:
        raise ValueError(f"method is {method!r}, must be 'linear', 'cubic' or 'consistent'")
    return on_grid(apply_along(matrix, _floating(lr), axis + 1), wanted, lr)


class SimulateThickSlices(Transform):
    """Transform over :func:`simulate_thick_slices`; the spacing as such or as a ``factor`` of the volume's."""

    def __init__(
        self,
        slice_spacing: float | None = None,
        *,
        factor: float | None = None,
        slice_thickness: float | None = None,
        profile: Profile = "gaussian",
        axis: int | None = None,
    ) -> None:
        if (slice_spacing is None) == (factor is None):
            raise ValueError(f"give slice_spacing or factor, not {slice_spacing} and {factor}")
        self.slice_spacing, self.factor = slice_spacing, factor
        self.slice_thickness, self.profile, self.axis = slice_thickness, profile, axis

    def __call__(self, hr: Tensor) -> MetaTensor:
        grid = grid_of(hr)
        axis = grid.through_plane_axis if self.axis is None else self.axis
        slice_spacing = self.slice_spacing or grid.spacing[axis] * float(self.factor or 1)
        return simulate_thick_slices(
            hr, slice_spacing, slice_thickness=self.slice_thickness, profile=self.profile, axis=axis
        )


class InterpolateSlices(Transform):
    """Transform over :func:`interpolate_slices`; the spacing as such, or a ``factor`` more slices."""

    def __init__(
        self,
        spacing: float | None = None,
        *,
        factor: float | None = None,
        method: Method = "cubic",
        slice_thickness: float | None = None,
        profile: Profile = "gaussian",
        axis: int | None = None,
    ) -> None:
        if spacing is not None and factor is not None:
            raise ValueError(f"give spacing or factor, not both {spacing} and {factor}")
        self.spacing, self.factor, self.method = spacing, factor, method
        self.slice_thickness, self.profile, self.axis = slice_thickness, profile, axis

    def __call__(self, lr: Tensor) -> MetaTensor:
        wanted, axis = wanted_grid(lr, spacing=self.spacing, factor=self.factor, axis=self.axis)
        return interpolate_slices(
            lr,
            wanted.spacing[axis],
            method=self.method,
            slice_thickness=self.slice_thickness,
            profile=self.profile,
            axis=axis,
        )


class SimulateThickSlicesd(MapTransform):
    """Dictionary version of :class:`SimulateThickSlices`.

    Args:
        truth_key: also keep, under this key, what super-resolving the thick slices by the same
            factor should give: see :func:`truth_for`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *args: Any,
        truth_key: Hashable | None = None,
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform, self.truth_key = SimulateThickSlices(*args, **kwargs), truth_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            hr = result[key]
            result[key] = self.transform(hr)
            if self.truth_key is not None:
                axis = grid_of(hr).through_plane_axis if self.transform.axis is None else self.transform.axis
                result[self.truth_key] = truth_for(result[key], hr, axis=axis)
        return result


class InterpolateSlicesd(MapTransform):
    """Dictionary version of :class:`InterpolateSlices`."""

    def __init__(self, keys: KeysCollection, *args: Any, allow_missing_keys: bool = False, **kwargs: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = InterpolateSlices(*args, **kwargs)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.transform(data[key]) for key in self.key_iterator(dict(data))}


class NormalizeIntensitiesd(MapTransform):
    """CT by a fixed window, MR by percentiles, nothing clipped; see :mod:`monai_sr.intensities`."""

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
        self.rule: dict[str, Any] = {"ct_window": tuple(ct_window), "mr_percentiles": tuple(mr_percentiles)}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = intensity_range(result[key], self.modality, **self.rule).normalize(result[key])
        return result


class RandSimulateThickSlicesd(Randomizable, MapTransform):
    """A training pair from a volume of thin slices: thick ones are drawn, the thin ones are the truth.

    Draws the slice axis among those whose spacing is near the finest, the factor, the ratio of
    thickness to spacing, the profile, the noise, and what the network is told of all that, from
    ``self.R``. Now and then it is told a Gaussian for a box, or a wrong thickness, so that it learns
    not to trust either blindly. Of a key ``image`` it makes

    - ``image``: what the network sees, normalized like the input: the consistent spline on the thin
      grid (``works_on="thin"``), or the acquired slices as a standard profile would have given them
      (``works_on="thick"``), see :func:`standard_slices`;
    - ``label``: the truth, through-plane axis last;
    - ``acquired``, ``acquisition``, ``spline``: y, and A and B as told, for
      :func:`monai_sr.slices.enforce_consistency` around the network.

    Args:
        keys: the volumes of thin slices, (1, X, Y, Z).
        factors: thin slices per thick one; one is drawn.
        works_on: "thin" or "thick", as the network says.
        thickness_ratios: the range that thickness/spacing is drawn from.
        usual: how often thickness equals spacing instead.
        gaps: how often slices are as thin as those wanted instead: plain subsampling.
        box: how often the profile is in truth a box.
        recognized: how often the network is told so; else a Gaussian of that width.
        mistaken: how often the thickness told is not the true one.
        mistake: by what share of it at most.
        noise: the largest standard deviation of noise on the thick slices, in units of the input.
        noisy: how often there is noise.
        isotropy: an axis may be the slice axis if its spacing is at most this many times the finest.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        factors: Sequence[float] = (2, 3, 4),
        works_on: Literal["thin", "thick"] = "thin",
        thickness_ratios: tuple[float, float] = (0.25, 1.5),
        usual: float = 0.45,
        gaps: float = 0.15,
        box: float = 0.2,
        recognized: float = 0.7,
        mistaken: float = 0.15,
        mistake: float = 0.25,
        noise: float = 0.02,
        noisy: float = 0.25,
        isotropy: float = 1.3,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if works_on not in ("thin", "thick"):
            raise ValueError(f"works_on is {works_on!r}, must be 'thin' or 'thick'")
        if works_on == "thick" and any(np.log2(f) % 1 for f in factors):
            raise ValueError(f"a pyramid is trained at powers of two, not at factors {tuple(factors)}")
        self.factors, self.works_on = tuple(factors), works_on
        self.thickness_ratios, self.usual, self.gaps = thickness_ratios, usual, gaps
        self.box, self.recognized = box, recognized
        self.mistaken, self.mistake = mistaken, mistake
        self.noise, self.noisy, self.isotropy = noise, noisy, isotropy

    def randomize(self, spacing: Sequence[float]) -> None:  # type: ignore[override]
        """Draw everything; ``spacing`` of the volume decides which axes may be the slice axis."""
        near = [a for a in range(3) if spacing[a] <= self.isotropy * min(spacing)]
        self.axis = int(self.R.choice(near))
        self.factor = float(self.R.choice(self.factors))
        ratio, kind = float(self.R.uniform(*self.thickness_ratios)), self.R.random()
        self.ratio = 1.0 if kind < self.usual else 1 / self.factor if kind < self.usual + self.gaps else ratio
        self.profile: Profile = "box" if self.R.random() < self.box else "gaussian"
        self.told_profile: Profile = self.profile if self.R.random() < self.recognized else "gaussian"
        mistake = float(self.R.uniform(-self.mistake, self.mistake))
        self.told_ratio = self.ratio * (1 + mistake if self.R.random() < self.mistaken else 1.0)
        sigma = float(self.R.uniform(0, self.noise))
        self.sigma = sigma if self.R.random() < self.noisy else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result.update(self._pair(key, result[key]))
        return result

    def _pair(self, key: Hashable, volume: Tensor) -> dict[Hashable, Any]:
        self.randomize(grid_of(volume).spacing)
        voxels = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        hr = torch.movedim(voxels, self.axis + 1, -1).float().contiguous()
        n = hr.shape[-1]
        m = max(2, round(n / self.factor))
        if self.works_on == "thick" and m * self.factor != n:
            raise ValueError(f"{n} thin slices do not divide by the factor {self.factor:g}")
        thin, thick = np.arange(n) - (n - 1) / 2, (np.arange(m) - (m - 1) / 2) * self.factor
        true = profile_matrix(thin, thick, slice_thickness=self.ratio * self.factor, profile=self.profile)
        lr = apply_along(true, hr)
        if self.sigma:
            lr = lr + torch.from_numpy(self.R.normal(0, self.sigma, lr.shape)).to(lr)
        model = SliceModel.between(
            thick, thin, slice_thickness=self.told_ratio * self.factor, profile=self.told_profile
        )
        seen = model.spline if self.works_on == "thin" else standard_slices(model, thick, thin)
        return {
            key: apply_along(seen, lr),
            "label": hr,
            "acquired": lr,
            "acquisition": model.acquisition.float(),
            "spline": model.spline.float(),
        }


class RandCoarseCropd(Randomizable, MapTransform):
    """A random crop, now and then of a coarser copy of the volume.

    More voxel sizes than the training data have, and truths that are sharp and quiet for theirs:
    averaging neighbors takes noise and blur away.

    Args:
        keys: volumes (C, X, Y, Z) with affine, at least ``size`` along every axis.
        size: voxels of the crop.
        coarsest: the largest growth of the voxels, drawn from 1 to this or to what the volume allows.
        coarse: how often they grow at all.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        *,
        coarsest: float = 2.0,
        coarse: float = 0.3,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not coarsest >= 1:
            raise ValueError(f"coarsest is {coarsest}, must be at least 1")
        self.size, self.coarsest, self.coarse = tuple(size), coarsest, coarse

    def randomize(self, shape: Sequence[int]) -> None:  # type: ignore[override]
        """Draw the growth of the voxels and where the crop lies in a volume of that shape."""
        most = min(self.coarsest, *(n / size for n, size in zip(shape, self.size, strict=True)))
        if most < 1:
            raise ValueError(f"a crop of {self.size} voxels was asked of a volume of {tuple(shape)}")
        growth = float(self.R.uniform(1, most))
        self.growth = growth if self.R.random() < self.coarse else 1.0
        self.taken = [int(np.ceil(size * self.growth - 1e-9)) for size in self.size]
        self.first = [int(self.R.randint(0, n - taken + 1)) for n, taken in zip(shape, self.taken, strict=True)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            self.randomize(result[key].shape[1:])
            result[key] = self._crop(result[key])
        return result

    def _crop(self, volume: Tensor) -> MetaTensor:
        grid = grid_of(volume)
        voxels = _floating(volume)
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (np.array(self.first) + (self.growth - 1) / 2)
        affine[:3, :3] *= self.growth
        for axis, (first, taken, size) in enumerate(zip(self.first, self.taken, self.size, strict=True)):
            voxels = voxels.narrow(axis + 1, first, taken)
            if self.growth != 1:
                voxels = apply_along(_averages(taken, size, self.growth), voxels, axis + 1)
        shape = (self.size[0], self.size[1], self.size[2])
        return on_grid(voxels.contiguous(), Grid(shape, affine), volume)


def _averages(taken: int, size: int, growth: float) -> Tensor:
    """(size, taken): means over ``growth`` voxels each, of the cubic spline through the voxels.

    Of the voxels themselves, as blocks, the means would wobble by a tenth of a voxel around their places.
    """
    fine = (np.arange(taken * 8) - 3.5) / 8
    centers = np.arange(size) * growth + (growth - 1) / 2
    means = profile_matrix(fine, centers, slice_thickness=growth, profile="box")
    return means @ interpolation_matrix(np.arange(taken), fine)


def standard_slices(model: SliceModel, thick: np.ndarray, thin: np.ndarray) -> Tensor:
    """(p, m): acquired slices as even ones with a Gaussian profile as wide as their spacing.

    The consistent spline acquired again. The identity where the slices are of that kind already, so
    a network that works on thick slices is spared gaps, overlaps, boxes and uneven positions.
    """
    step = (thick[-1] - thick[0]) / (len(thick) - 1) if len(thick) > 1 else thin[-1] - thin[0] or 1.0
    middle, count = (thick[-1] + thick[0]) / 2, len(thick)
    even = middle + (np.arange(count) - (count - 1) / 2) * step
    return profile_matrix(thin, even, slice_thickness=step) @ model.spline


class SuperResolvedGridd(MapTransform):
    """Put super-resolved voxels on their grid: affine with the half-slice shift, shape, original affine.

    Stock savers and MONAI Label resample by ``original_affine`` and ``spatial_shape``, of the result
    *and* of the image it came from; both get the new grid, so nothing is resampled back.

    Args:
        keys: the results, on the grid of :func:`target_grid` for these options.
        image_key: the acquired image; its own voxels and affine stay.
        spacing, factor, axis: as they were asked for.
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
        self.image_key, self.wanted = image_key, {"spacing": spacing, "factor": factor, "axis": axis}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = result[self.image_key]
        wanted, _ = wanted_grid(image, **self.wanted)  # type: ignore[arg-type]
        for key in self.key_iterator(result):
            if tuple(result[key].shape[1:]) != wanted.shape:
                raise ValueError(f"{key} has shape {tuple(result[key].shape[1:])}, its grid {wanted.shape}")
            result[key] = on_grid(result[key], wanted, image)
            result[key].meta["super_resolved"] = True
        image = image.clone()
        image.meta.update(original_affine=torch.from_numpy(wanted.affine.copy()), spatial_shape=np.array(wanted.shape))
        result[self.image_key] = image
        return result


def _floating(voxels: Tensor) -> Tensor:
    """Voxels without metadata, as floating point."""
    voxels = voxels.as_tensor() if isinstance(voxels, MetaTensor) else voxels
    return voxels if voxels.is_floating_point() else voxels.float()
