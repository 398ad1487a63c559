"""Intensities of MR stacks brought to those of the first: a robust linear fit, and a smooth gain where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..grid import Grid

PAYS = 0.1
"""The smooth gain is used if it lowers the residual of the linear fit by this fraction."""

FIT_VOXELS = 20_000
"""Of the overlap, at most."""

ROUNDS = 6
"""Of reweighting, which settles within these."""

MIN_FIT_VOXELS = 100


@dataclass(frozen=True)
class Scaling:
    """``reference ≈ gain(p) · value + offset``, with p in mm.

    Attributes:
        gain: in the middle of the overlap.
        offset: in the units of the reference.
        center, reach: of the overlap, mm: where the polynomial has its origin, and its unit.
        smooth: (9,) coefficients of x, y, z, x², y², z², xy, xz, yz relative to the gain; empty for a constant gain.
    """

    gain: float = 1.0
    offset: float = 0.0
    center: tuple[float, ...] = (0.0, 0.0, 0.0)
    reach: float = 1.0
    smooth: tuple[float, ...] = ()

    def apply(self, voxels: Tensor, grid: Grid) -> Tensor:
        """The volume in the units of the reference."""
        if not self.smooth:
            return voxels * self.gain + self.offset
        made = torch.empty_like(voxels)
        for x in range(grid.shape[0]):  # a plane at a time: the terms need nine times its memory
            index = np.stack(np.meshgrid([x], *(np.arange(n) for n in grid.shape[1:]), indexing="ij"), axis=-1)
            points = index.reshape(-1, 3) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
            gain = self.gain * (1 + _terms((points - self.center) / self.reach) @ np.array(self.smooth))
            made[x] = voxels[x] * torch.from_numpy(np.clip(gain, self.gain / 3, self.gain * 3)).float().reshape(
                grid.shape[1:]
            )
        return made + self.offset


def mean_over_cubes(
    volumes: Sequence[Tensor], mask: Tensor, grid: Grid, size: float
) -> tuple[list[Tensor], Tensor, Grid]:
    """Volumes as means over cubes of about ``size`` mm, the mask of cubes that are known, and their grid."""
    steps = [min(n, max(1, round(size / s))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    pooled = [functional.avg_pool3d(v.float()[None, None], steps)[0, 0] for v in (*volumes, mask)]
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)
    affine[:3, :3] *= steps
    x, y, z = pooled[0].shape
    return pooled[:-1], pooled[-1] > 0.99, Grid((x, y, z), affine)


def fit_scaling(reference: Tensor, values: Tensor, mask: Tensor, grid: Grid) -> Scaling:
    """Fit one stack to a reference on the same grid.

    Args:
        reference, values: (X, Y, Z).
        mask: where both are known.
        grid: of all of them, in the frame of the stack that is scaled.

    Returns:
        The identity where too few voxels overlap or the stack has no contrast.
    """
    places = torch.nonzero(mask).numpy()
    if len(places) < MIN_FIT_VOXELS:
        return Scaling()
    places = places[:: max(1, len(places) // FIT_VOXELS)]
    chosen = torch.from_numpy(places).T.unbind()
    y, v = (t[chosen].double().numpy() for t in (reference, values))
    points = places @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    center = points.mean(axis=0)
    reach = float(np.abs(points - center).max()) or 1.0
    if v.std() < 1e-6 * max(1.0, np.abs(v).max()):
        return Scaling()
    # outliers of either image would turn a line that is fitted to all voxels, so it starts between the quantiles
    (low_y, middle_y, high_y), (low_v, middle_v, high_v) = (np.percentile(u, (10, 50, 90)) for u in (y, v))
    rough = (high_y - low_y) / max(high_v - low_v, 1e-12)
    off = y - middle_y - rough * (v - middle_v)
    line, error = _fit_line(y, v, off)
    terms = _terms((points - center) / reach)
    both, smaller = _robust(np.concatenate([v[:, None], np.ones((len(v), 1)), v[:, None] * terms], axis=1), y, off)
    if line is None or smaller > (1 - PAYS) * error or both[0] <= 0:
        return Scaling(*line) if line else Scaling()
    smooth = both[2:] / both[0]
    even = v * (1 + terms @ smooth)  # only now has a line the right slope
    line, _ = _fit_line(y, even, y - both[1] - both[0] * even)
    return Scaling(*line, tuple(map(float, center)), reach, tuple(map(float, smooth))) if line else Scaling()


def _fit_line(y: np.ndarray, v: np.ndarray, residual: np.ndarray) -> tuple[tuple[float, float] | None, float]:
    """Gain and offset of ``y ≈ gain · v + offset``, None if they do not rise together; the median absolute residual.

    Both have errors, so the fit of one to the other is too flat, and that of the other to the one as much too steep.
    """
    ones = np.ones_like(v)
    forth, error = _robust(np.stack([v, ones], axis=1), y, residual)
    back, _ = _robust(np.stack([y, ones], axis=1), v, residual)
    if forth[0] <= 0 or back[0] <= 0:
        return None, error
    gain = float(np.sqrt(forth[0] / back[0]))
    return (gain, float(np.median(y - gain * v))), error


def _terms(p: np.ndarray) -> np.ndarray:
    """(n, 9) monomials of first and second order."""
    x, y, z = p.T
    return np.stack([x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)


def _robust(design: np.ndarray, y: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, float]:
    """Least squares with Tukey's biweight; the coefficients, and the median absolute residual.

    Args:
        design: (n, k).
        y: (n,).
        residual: (n,) of a first guess, in any unit.
    """
    for _ in range(ROUNDS):
        sizes = np.abs(residual)
        scale = 1.4826 * float(np.median(sizes)) or 1e-12
        root = np.clip(1 - (sizes / (4.685 * scale)) ** 2, 0, None)
        coefficients = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        residual = y - design @ coefficients
    return coefficients, float(np.median(np.abs(residual)))
