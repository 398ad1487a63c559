"""Where voxels lie in the world: shape and affine, and how one axis is re-spaced."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from .errors import ImageError, UsageError

SAME_SPACING = 0.01
"""Relative difference below which two spacings count as equal (headers round to about this)."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in RAS+ millimetres.

    Args:
        shape: voxels along each of the three axes.
        affine: (4, 4) float64, voxel index to RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", np.array(self.affine, dtype=np.float64))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, not {self.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ImageError(
                "E-HDR-AFFINE",
                "the affine holds NaN or infinite values",
                fix="repair the header's sform/qform, for example from the original DICOM",
            )
        if min(self.spacing) <= 0:
            raise ImageError(
                "E-HDR-SPACING",
                f"voxel spacing {tuple(map(float, self.spacing))} mm, each must be above 0",
                fix="restore the spacing in the header (pixdim and affine)",
            )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighboring voxel centers along each axis, mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    def in_words(self) -> str:
        """Shape and spacing."""
        return f"{'x'.join(map(str, self.shape))} at {' x '.join(f'{s:.3g}' for s in self.spacing)} mm"

    @property
    def is_isotropic(self) -> bool:
        """All spacings equal, as far as headers tell."""
        return max(self.spacing) <= min(self.spacing) * (1 + SAME_SPACING)

    @property
    def through_plane_axis(self) -> int:
        """The axis of the largest spacing.

        Raises:
            UsageError: the two largest spacings are equal, so there is no telling.
        """
        order = np.argsort(self.spacing)
        largest, second = self.spacing[order[2]], self.spacing[order[1]]
        if largest <= second * (1 + SAME_SPACING):
            raise UsageError(
                "E-HDR-AXIS",
                f"spacing {' x '.join(f'{s:.4g}' for s in self.spacing)} mm does not tell "
                "which axis the slices are stacked along",
                fix="name it: --axis 0, 1 or 2",
            )
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
            raise UsageError("E-USE", f"a spacing of {spacing} mm was asked for", fix="give a spacing above 0 mm")
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
        """How to store this grid's voxels so that every storage order of one anatomy looks the same.

        Returns:
            ``(axes, flips)``: transpose the spatial axes to ``axes`` (in-plane axes in RAS order,
            through-plane last), then flip the axes of the transposed array listed in ``flips``
            (those that point away from R, A or S).
        """
        orientation = nib.io_orientation(self.affine)
        in_plane = sorted((a for a in range(3) if a != through_plane), key=lambda a: orientation[a, 0])
        axes = [*in_plane, through_plane]
        return axes, [i for i, a in enumerate(axes) if orientation[a, 1] < 0]
