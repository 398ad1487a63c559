"""Bring a result of any program to the acquired grid: order and direction of axes, and in-plane voxels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from ..grid import SAME_SPACING, Grid, Image, grid_of, on_grid, positions_on
from ..intensities import as_array
from ..slices import interpolation_weights

if TYPE_CHECKING:
    from monai.data import MetaTensor

SAME_PLACE = 0.02
"""Voxels; in-plane grids that differ by less are equal."""

PARALLEL = 0.1
"""Maximum distance of the far end of an axis from the parallel line, in in-plane voxels of the acquired grid."""


def turn_grid(there: Grid, like: Grid, *, tolerance: float) -> tuple[Grid, list[int], list[int]] | None:
    """A grid with its axes in the order and direction of ``like``; None if they lie more than ``tolerance`` mm off.

    Returns:
        The turned grid, and how to turn its voxels: permute the axes, then flip those listed.
    """
    cosines = _cosines(there, like)
    order = [int(np.abs(row).argmax()) for row in cosines]
    extent = np.array(there.spacing) * np.array(there.shape)
    off = [np.sqrt(max(0.0, 1 - cosines[a, o] ** 2)) * extent[o] for a, o in enumerate(order)]
    if sorted(order) != [0, 1, 2] or max(off) > tolerance:
        return None
    affine, shape = np.eye(4), [there.shape[o] for o in order]
    affine[:3, :3], affine[:3, 3] = there.affine[:3, order], there.affine[:3, 3]
    flips = [a for a, o in enumerate(order) if cosines[a, o] < 0]
    for a in flips:
        affine[:3, 3] += affine[:3, a] * (shape[a] - 1)
        affine[:3, a] *= -1
    return Grid((shape[0], shape[1], shape[2]), affine), order, flips


def _cosines(there: Grid, like: Grid) -> np.ndarray:
    """(3, 3) of the angles between the axes of ``like`` and those of ``there``."""
    ours, theirs = (g.affine[:3, :3] / np.array(g.spacing) for g in (like, there))
    return ours.T @ theirs


def turn_to(grid: Grid, result: Image) -> tuple[np.ndarray, Grid]:
    """A view of the voxels of the result with axes in the order and direction of ``grid``, and their grid."""
    turned = turn_grid(grid_of(result), grid, tolerance=PARALLEL * max(min(grid.spacing), 0.1))
    if turned is None:
        nearest = float(np.abs(_cosines(grid_of(result), grid)).max(axis=1).min())
        angle = math.degrees(math.acos(min(1.0, nearest)))
        problem = "resample the result to the axes of the acquired volume, without a rotation"
        raise not_aligned(f"the axes of the volumes are not parallel (angle {angle:.2g} degrees)", problem)
    there, order, flips = turned
    voxels = as_array(result).transpose(0, *(axis + 1 for axis in order))
    return np.flip(voxels, tuple(axis + 1 for axis in flips)), there


def turned_to(grid: Grid, result: MetaTensor) -> MetaTensor:
    """The result with axes in the order and direction of ``grid``, as :func:`turn_to`."""
    voxels, there = turn_to(grid, result)
    return on_grid(np.ascontiguousarray(voxels), there, result)


def in_plane_matrix(grid: Grid, there: Grid, axis: int) -> tuple[np.ndarray | None, str]:
    """Matrix from the result's voxels to the acquired voxels along an in-plane axis; None if they are equal."""
    ours, theirs = positions_on(grid, axis, grid), positions_on(there, axis, grid)
    step, new = grid.spacing[axis], there.spacing[axis]
    if len(ours) == len(theirs) and np.abs(ours - theirs).max() < SAME_PLACE * step:
        return None, ""
    at = np.clip(ours, theirs[0], theirs[-1])
    nearest = np.abs(theirs[:, None] - at).argmin(axis=0)
    if np.abs(theirs[nearest] - at).max() < SAME_PLACE * step:
        return np.eye(len(theirs))[nearest], ""
    if len(theirs) < 2:
        raise not_aligned(f"the result has only one voxel along axis {axis}", "give the whole volume")
    if new < step * (1 - SAME_SPACING):
        # each acquired voxel is the mean over its own width
        edges = np.append(theirs - new / 2, theirs[-1] + new / 2)
        overlaps = np.diff(np.clip(edges, (at - step / 2)[:, None], (at + step / 2)[:, None]), axis=1)
        matrix = overlaps / overlaps.sum(axis=1, keepdims=True)
        return matrix, f"axis {axis} averaged from {new:.4g} to {step:.4g} mm"
    places, index = np.unique(at, return_inverse=True)
    return interpolation_weights(theirs, places)[index], f"axis {axis} interpolated from {new:.4g} to {step:.4g} mm"


def covered_voxels(grid: Grid, there: Grid, axis: int, inside: np.ndarray) -> np.ndarray:
    """(X, Y, Z) True for acquired voxels inside the result."""
    covered = []
    for a in range(3):
        ours, theirs = positions_on(grid, a, grid), positions_on(there, a, grid)
        half = there.spacing[a] / 2 + SAME_PLACE * grid.spacing[a]
        covered.append(inside if a == axis else (ours >= theirs[0] - half) & (ours <= theirs[-1] + half))
    x, y, z = covered
    return x[:, None, None] & y[:, None] & z


def not_aligned(what: str, fix: str) -> ImageError:
    """E-CON-GRID: two volumes cannot be compared."""
    return ImageError("E-CON-GRID", what, fix=fix)
