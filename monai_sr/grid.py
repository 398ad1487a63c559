"""The geometry of a volume: shape and affine, and another spacing along one axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import nibabel as nib
import numpy as np

from .errors import ImageError, Later, UsageError
from .intensities import Voxels, as_array, beside, library_of

if TYPE_CHECKING:
    import torch
    from monai import data
    from monai.data import MetaTensor
    from torch import Tensor
else:
    data, torch = Later("monai.data"), Later("torch")

SAME_SPACING = 0.01
"""Relative difference below which two spacings count as equal (headers round to about this)."""

BLOCK_VOXELS = 2**20
"""Voxels computed at once: enough for all processors, few compared with a volume."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in RAS+ millimetres.

    Args:
        shape: voxels along each of the three axes.
        affine: (4, 4) float64, voxel index to RAS+ mm.

    >>> grid = Grid((256, 256, 30), np.diag([0.9, 0.9, 5.0, 1.0]))
    >>> grid.spacing, grid.through_plane_axis
    ((0.9, 0.9, 5.0), 2)
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", np.array(self.affine, dtype=np.float64))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, not {self.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ImageError("E-HDR-AFFINE", "the affine has NaN or infinite values")
        if (self.affine[3] != (0, 0, 0, 1)).any():
            problem = f"the last row of the affine is {self.affine[3].tolist()}, it must be 0 0 0 1"
            raise ImageError("E-HDR-AFFINE", problem, fix="transpose the affine, if its last column should be its row")
        if min(self.spacing) <= 0:
            problem = f"voxel spacing {tuple(map(float, self.spacing))} mm, each must be above 0"
            raise ImageError("E-HDR-SPACING", problem)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighboring voxel centers along each axis, mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    def in_words(self, axis: int = 2, slice_spacing: float | None = None) -> str:
        """Shape and spacing; along ``axis`` the ``slice_spacing``, if it is given."""
        steps = list(self.spacing)
        steps[axis] = slice_spacing or steps[axis]
        return f"{'x'.join(map(str, self.shape))} at {' x '.join(f'{s:.3g}' for s in steps)} mm"

    @property
    def is_isotropic(self) -> bool:
        """Whether all spacings are equal, within the rounding of headers."""
        return max(self.spacing) <= min(self.spacing) * (1 + SAME_SPACING)

    @property
    def through_plane_axis(self) -> int:
        """The axis of the largest spacing.

        Raises:
            UsageError: the two largest spacings are equal, so the axis is unclear.
        """
        order = np.argsort(self.spacing)
        largest, second = self.spacing[order[2]], self.spacing[order[1]]
        if largest <= second * (1 + SAME_SPACING):
            problem = f"spacing {' x '.join(f'{s:.4g}' for s in self.spacing)} mm does not show the through-plane axis"
            raise UsageError("E-HDR-AXIS", problem)
        return int(order[2])

    def positions(self, axis: int) -> np.ndarray:
        """(n,) voxel centers along ``axis``, mm, with 0 at the middle of the grid.

        Grids made by :meth:`respaced` share that middle, so their positions can be compared.
        """
        n = self.shape[axis]
        return (np.arange(n) - (n - 1) / 2) * self.spacing[axis]

    def respaced(self, axis: int, spacing: float) -> Grid:
        """The same slab with another spacing along ``axis``: same center, same extent to half a voxel.

        For n slices and an integer factor f this gives n·f slices, the first
        center moved by (1/f - 1)/2 of a slice step.
        """
        if not (np.isfinite(spacing) and spacing > 0):
            raise UsageError("E-USE", f"a spacing of {spacing} mm was requested", fix="give a spacing above 0 mm")
        old = self.spacing[axis]
        n_old = self.shape[axis]
        n_new = max(1, int(np.floor(n_old * old / spacing + 0.5)))
        direction = self.affine[:3, axis] / old
        affine = self.affine.copy()
        affine[:3, axis] = direction * spacing
        affine[:3, 3] += direction * ((n_old - 1) * old - (n_new - 1) * spacing) / 2
        shape = list(self.shape)
        shape[axis] = n_new
        return Grid((shape[0], shape[1], shape[2]), affine)

    def canonical_order(self, through_plane: int) -> tuple[list[int], list[int]]:
        """The order of axes that makes voxels independent of how they are stored.

        Returns:
            ``(axes, flips)``: transpose the spatial axes to ``axes`` (in-plane axes in RAS order,
            through-plane last), then flip the axes of the transposed array listed in ``flips``
            (those that point away from R, A or S).
        """
        orientation = nib.io_orientation(self.affine)
        in_plane = sorted((a for a in range(3) if a != through_plane), key=lambda a: orientation[a, 0])
        axes = [*in_plane, through_plane]
        return axes, [i for i, a in enumerate(axes) if orientation[a, 1] < 0]

    def put(self, block: Voxels, target: Voxels, place: tuple[slice, slice], *, through_plane: int) -> None:
        """Write canonical rows and columns (x, y, Z) to where they belong in (X, Y, Z), see :meth:`canonical_order`."""
        axes, flips = self.canonical_order(through_plane)
        library = library_of(target)
        target, turned = library.moveaxis(target, axes, (0, 1, 2)), list(place)
        for axis in {0, 1} & set(flips):
            start, stop, _ = place[axis].indices(target.shape[axis])
            turned[axis] = slice(target.shape[axis] - stop, target.shape[axis] - start)
        target[tuple(turned)] = library.flip(block, tuple(flips)) if flips else block


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """What a MetaTensor holds, without torch and MONAI: an image of a file, or a result of one.

    Attributes:
        voxels: (C, X, Y, Z) float32 in the file's units.
        affine: (4, 4) float64, voxel index to RAS+ mm.
        meta: as of :func:`monai_sr.acquired.acquisition_meta`, and ``filename_or_obj``.
    """

    voxels: np.ndarray
    affine: np.ndarray
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.voxels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.voxels, dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z)."""
        return self.voxels.shape

    @property
    def ndim(self) -> int:
        """Four."""
        return self.voxels.ndim

    def as_tensor(self) -> Tensor:
        """The same voxels, not copied, as torch computes with them."""
        return torch.from_numpy(self.voxels)

    def to_tensor(self) -> MetaTensor:
        """The same voxels, not copied, as MONAI computes with them."""
        meta = self.meta | {"original_affine": torch.from_numpy(self.affine.copy())}
        return data.MetaTensor(self.as_tensor(), torch.from_numpy(self.affine), meta)


Image: TypeAlias = "MetaTensor | ArrayImage"
"""A volume (C, X, Y, Z) with its affine and metadata: of MONAI, or of a run, which needs no MONAI."""


def grid_of(image: Tensor | ArrayImage) -> Grid:
    """The grid of a ``(C, X, Y, Z)`` image.

    Raises:
        ImageError: it has no three spatial axes.
    """
    if image.ndim != 4:
        problem = f"a volume (channel, X, Y, Z) is needed, this has shape {tuple(image.shape)}"
        raise ImageError("E-IMG-2D" if image.ndim < 4 else "E-IMG-4D", problem, fix="give a three-dimensional volume")
    affine = getattr(image, "affine", None)  # of a tensor without metadata none
    x, y, z = (int(n) for n in image.shape[1:])
    return Grid((x, y, z), np.eye(4) if affine is None else as_array(affine))


def with_voxels(image: Tensor | ArrayImage, voxels: np.ndarray) -> Tensor | ArrayImage:
    """An image of the same kind, device and metadata with other voxels of the same shape."""
    if isinstance(image, ArrayImage):
        return replace(image, voxels=voxels)
    there = torch.from_numpy(voxels).to(image.device)
    return data.MetaTensor(there, meta=image.meta) if isinstance(image, data.MetaTensor) else there


def voxels_of(image: Tensor | ArrayImage) -> Tensor:
    """Voxels without metadata."""
    return image.as_tensor() if hasattr(image, "as_tensor") else image


def as_floating(image: Tensor) -> Tensor:
    """Voxels without metadata, as floating point."""
    voxels = voxels_of(image)
    return voxels if voxels.is_floating_point() else voxels.float()


@overload
def on_grid(voxels: np.ndarray | Tensor, grid: Grid, like: ArrayImage) -> ArrayImage: ...
@overload
def on_grid(voxels: np.ndarray | Tensor, grid: Grid, like: Tensor) -> MetaTensor: ...
def on_grid(voxels: np.ndarray | Tensor, grid: Grid, like: Tensor | ArrayImage) -> Image:
    """``voxels`` on ``grid`` as an ArrayImage or a MetaTensor, as ``like`` is one, with its other metadata.

    An array becomes a MetaTensor on the device of ``like``; a tensor stays where it is.
    """
    meta = dict(getattr(like, "meta", {}))
    # a new grid is even, has other slices, and every voxel is a number
    for acquired in ("affine", "slice_positions", "slice_thickness", "protocol", "nan_voxels"):
        meta.pop(acquired, None)
    meta["spatial_shape"] = np.array(grid.shape)
    if isinstance(like, ArrayImage):
        return ArrayImage(as_array(voxels), grid.affine.copy(), meta)
    affine = torch.from_numpy(grid.affine.copy())
    tensor = beside(voxels, like) if isinstance(voxels, np.ndarray) else voxels_of(voxels)
    return data.MetaTensor(tensor, affine=affine, meta=meta | {"original_affine": affine.clone()})


def slice_spacing(spacing: float, uneven: np.ndarray | None = None) -> float:
    """Distance between neighboring slice centers, mm: that of the grid, or the typical one of uneven slices.

    Args:
        spacing: of the grid along the through-plane axis, mm; of uneven slices the mean.
        uneven: (m,) slice centers, mm. The median of their distances is typical: gaps do not count.
    """
    return spacing if uneven is None else float(np.median(np.diff(uneven)))


def target_grid(
    grid: Grid,
    *,
    spacing: float | None = None,
    factor: float | None = None,
    axis: int | None = None,
    uneven: np.ndarray | None = None,
) -> tuple[Grid, int]:
    """The grid of a super-resolved volume, and its through-plane axis.

    The number of slices is never reduced: if no finer spacing is wanted, it is the acquired grid, as for
    an isotropic volume without spacing and factor. Uneven slices always get an even grid, with at most
    their median step.

    Args:
        grid: the acquired grid.
        spacing: wanted slice spacing, mm. Default: the finer in-plane spacing.
        factor: output slices per acquired slice instead.
        axis: the through-plane axis, default the one of the largest spacing.
        uneven: (m,) slice centers along the last axis, mm around the middle, where they are unevenly spaced.

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
        step = slice_spacing(grid.spacing[2], uneven)
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


def decide_axis(
    grid: Grid, *, given: int | None, header: int | None, uneven: bool, refined: Grid | None
) -> tuple[int, Literal["option", "header", "estimated", "assumed"]]:
    """The through-plane axis: given, from the header, of the finer result, or of the largest spacing; and who says so.

    If the two largest spacings are equal, the axis is assumed.

    Args:
        grid: the acquired grid.
        given, header: what the user and the header say.
        uneven: the slices are unevenly spaced along the last axis.
        refined: grid of a result.

    Raises:
        UsageError: the given axis cannot be.
    """
    if given is not None:
        if given not in (0, 1, 2):
            raise UsageError("E-USE", f"axis {given} was given", fix="give 0, 1 or 2")
        if uneven and given != 2:
            problem = f"axis {given} was given, the slices are stacked along axis 2"
            raise UsageError("E-USE", problem, fix="leave it out")
        return given, "option"
    if header is not None:
        return int(header), "header"
    if refined is not None:
        finer = [old / new for old, new in zip(grid.spacing, refined.spacing, strict=True)]
        if max(finer) > 1 + SAME_SPACING:
            return int(np.argmax(finer)), "estimated"
    if grid.is_isotropic:
        return 2, "assumed"
    second, largest = sorted(grid.spacing)[1:]
    return int(np.argmax(grid.spacing)), "estimated" if largest > second * (1 + SAME_SPACING) else "assumed"


def thick_grid(grid: Grid, axis: int, slice_spacing: float) -> Grid:
    """The thick slices that fit in ``grid``, counted from its first voxel's edge."""
    thin_spacing, n = grid.spacing[axis], grid.shape[axis]
    m = int(np.floor(n * thin_spacing / slice_spacing + 1e-6))
    if m < 1:
        problem = f"slices {slice_spacing:.4g} mm apart do not fit in {n * thin_spacing:.4g} mm"
        raise UsageError("E-USE", problem, fix="choose a smaller slice spacing")
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


def blocks(rows: int, voxels_in_row: int) -> Iterator[slice]:
    """``rows`` of a volume in blocks of about :data:`BLOCK_VOXELS`, so that no step needs a second volume."""
    step = max(1, BLOCK_VOXELS // voxels_in_row)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
