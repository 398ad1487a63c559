"""Analytic phantoms: volumes whose values are a formula of world coordinates, drawn in mm on any grid.

Points are ``(3, X, Y, Z)`` arrays of RAS+ mm; volumes are ``(1, X, Y, Z)`` MetaTensors with affine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from monai_sr.grid import Grid

FWHM = 2 * np.sqrt(2 * np.log(2))

ORIENTATIONS = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "oblique": Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix(),
    "oblique LPS": Rotation.from_euler("xyz", [-12, 25, 10], degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0]),
}
"""Unit directions of the three voxel axes, as columns."""

ORIGIN = (-31.0, 17.5, 8.25)


def grid(
    shape: tuple[int, int, int] = (10, 12, 14),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    orientation: str = "RAS",
    origin: tuple[float, float, float] = ORIGIN,
) -> Grid:
    """A grid by name of its orientation, see :data:`ORIENTATIONS`."""
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * np.asarray(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


def grids(
    *, spacing: tuple[float, float] = (1.0, 1.2), slice_spacing: float = 4.0, voxels: tuple[int, int, int] = (7, 8, 24)
) -> dict[str, tuple[Grid, int]]:
    """Every orientation with every through-plane axis, by name: the grid and that axis.

    Args:
        spacing: of the two in-plane axes, mm.
        slice_spacing: along the through-plane axis, mm.
        voxels: along the two in-plane axes and the through-plane axis.
    """
    positions = {}
    for name in ORIENTATIONS:
        for axis in range(3):
            shape, steps = list(voxels[:2]), list(spacing)
            shape.insert(axis, voxels[2])
            steps.insert(axis, slice_spacing)
            positions[f"{name}, slices along axis {axis}"] = grid(tuple(shape), tuple(steps), orientation=name), axis
    return positions


def world(grid: Grid) -> np.ndarray:
    """(3, X, Y, Z) RAS+ mm of every voxel center."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"))
    return np.einsum("ij,jxyz->ixyz", grid.affine[:3, :3], index) + grid.affine[:3, 3, None, None, None]


def center(grid: Grid) -> np.ndarray:
    """(3,) RAS+ mm of the middle of the grid."""
    return grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]


def draw(grid: Grid, value: Callable[[np.ndarray], np.ndarray], *, dtype: torch.dtype = torch.float32) -> MetaTensor:
    """``value`` of the world points of ``grid``, as a volume."""
    voxels = torch.from_numpy(np.broadcast_to(value(world(grid)), grid.shape).copy()).to(dtype)
    return MetaTensor(voxels[None], affine=torch.from_numpy(grid.affine.copy()))


def constant(grid: Grid, value: float = 7.0) -> MetaTensor:
    """The same value everywhere."""
    return draw(grid, lambda p: np.full(p.shape[1:], value))


def ramp_at(points: np.ndarray, slope: tuple[float, float, float] = (0.7, -1.1, 1.9)) -> np.ndarray:
    """Value of :func:`ramp` at world points, in units per mm along R, A and S."""
    return np.tensordot(slope, points, axes=1)


def ramp(grid: Grid, slope: tuple[float, float, float] = (0.7, -1.1, 1.9)) -> MetaTensor:
    """Grows linearly in space; a linear operation on slices keeps it, except near the ends."""
    return draw(grid, lambda p: ramp_at(p, slope))


def known_value_at(points: np.ndarray) -> np.ndarray:
    """Value of :func:`known_value` at world points; changes by up to about 20 per mm."""
    x, y, z = points
    waves = np.sin((0.8 * x + 0.5 * y + 0.3 * z) / 11), np.cos((-0.3 * x + 0.9 * y) / 13), np.sin((x - y + 2 * z) / 27)
    return 100 * sum(waves)


def known_value(grid: Grid) -> MetaTensor:
    """A smooth function of the world, different at every point nearby: a shifted affine shows."""
    return draw(grid, known_value_at)


def gaussian_blob(grid: Grid, *, fwhm: float, at: np.ndarray | None = None) -> MetaTensor:
    """A round Gaussian of that full width at half maximum in mm, height 1, in the middle by default."""
    middle = (center(grid) if at is None else np.asarray(at))[:, None, None, None]
    sigma = fwhm / FWHM
    return draw(grid, lambda p: np.exp(-((p - middle) ** 2).sum(axis=0) / (2 * sigma**2)))


def point(grid: Grid) -> MetaTensor:
    """One voxel of value 1 in the middle of nothing."""
    image = constant(grid, 0.0)
    image[(0, *(n // 2 for n in grid.shape))] = 1.0
    return image


def step_edge(grid: Grid, axis: int, *, width: float = 0.0) -> MetaTensor:
    """0 on one side of the middle, 1 on the other, along a voxel axis.

    Args:
        width: FWHM in mm of a Gaussian that the edge is blurred by; 0 for a sharp one.
    """
    direction = grid.affine[:3, axis] / grid.spacing[axis]
    middle = direction @ center(grid)

    def value(points: np.ndarray) -> np.ndarray:
        distance = np.tensordot(direction, points, axes=1) - middle
        return ndtr(distance * FWHM / width) if width else (distance >= 0).astype(float)

    return draw(grid, value)


def sphere(grid: Grid, *, radius: float, at: np.ndarray | None = None) -> MetaTensor:
    """1 inside a ball, 0 outside, in the middle by default; mm."""
    middle = (center(grid) if at is None else np.asarray(at))[:, None, None, None]
    return draw(grid, lambda p: (((p - middle) ** 2).sum(axis=0) <= radius**2).astype(float))


def body(shape=(24, 22, 48), spacing=(1.0, 1.0, 1.0), *, air: float = 0.0) -> MetaTensor:
    """A smooth ball in air, textured by waves of 9 to 20 mm."""
    where = grid(shape, spacing)

    def value(points):
        x, y, z = points - center(where)[:, None, None, None]
        radius = np.sqrt((x / 9) ** 2 + (y / 8.5) ** 2 + (z / 20) ** 2)
        texture = 1 + 0.25 * np.sin(z / 1.7 + x / 3) + 0.15 * np.cos(y / 2 - z / 3)
        return air + 400 * texture / (1 + np.exp(6 * (radius - 1)))

    return draw(where, value)


def fwhm(image: MetaTensor, axis: int) -> float:
    """Full width at half maximum, mm, of the line through the brightest voxel along a spatial axis."""
    voxels = image.as_tensor()[0].double().numpy()
    peak = np.unravel_index(voxels.argmax(), voxels.shape)
    line = voxels[tuple(slice(None) if a == axis else peak[a] for a in range(3))]
    half, top = line.max() / 2, int(line.argmax())
    left = max(i for i in range(top) if line[i] < half)
    right = min(i for i in range(top + 1, len(line)) if line[i] < half)
    first = left + (half - line[left]) / (line[left + 1] - line[left])
    last = right - (half - line[right]) / (line[right - 1] - line[right])
    return float((last - first) * np.linalg.norm(image.affine[:3, axis].numpy()))


def away_from_ends(volume: torch.Tensor | np.ndarray, axis: int, voxels: int):
    """A ``(…, X, Y, Z)`` volume without the first and last slices along a spatial axis (0, 1 or 2)."""
    index = [slice(None)] * 3
    index[axis] = slice(voxels, -voxels)
    return volume[(..., *index)]


def anatomy(seed: int, shape: tuple[int, int, int] = (64, 64, 96)) -> torch.Tensor:
    """(X, Y, Z) random field, 0..1, alike along every axis; amplitudes fall with the frequency as in images."""
    spectrum = np.fft.rfftn(np.random.default_rng(seed).normal(size=shape))
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    field = np.fft.irfftn(spectrum / (0.02 + frequency[..., : shape[2] // 2 + 1]) ** 2, shape)
    return torch.from_numpy((field - field.min()) / np.ptp(field)).float()
