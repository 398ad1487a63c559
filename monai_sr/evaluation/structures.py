"""Measurements of one volume by threshold: volumes, surfaces, emphysema, width of the histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import ndimage

from ..intensities import Modality
from .metrics import foreground, otsu

Structure = Literal["bone", "airways and lungs", "muscle", "fat", "bright tissue"]

THRESHOLDS: dict[Structure, tuple[float, float]] = {
    "bone": (200.0, np.inf),
    "airways and lungs": (-np.inf, -500.0),
    "muscle": (-29.0, 150.0),
    "fat": (-190.0, -30.0),
}
"""HU of CT. Muscle and fat: Mitsiopoulos 1998, "Cadaver validation of skeletal muscle measurement", as usual since."""

SURFACES: tuple[Structure, ...] = ("bone", "airways and lungs", "bright tissue")
"""Structures of which surfaces are compared."""

EMPHYSEMA = -950.0
"""HU; lung below it counts as emphysema. Source: Gevenois 1996, "Pulmonary emphysema"."""

LUNG_VOLUME = 20.0
"""ml; smaller air spaces are not lung, such as the sinuses of a head."""

OPEN_AIR = -970.0
"""HU; an air space of a lower median is outside the body, or holds no lung tissue."""

SKIN = 3.0
"""mm below the surface of the body that air is not looked for in."""

SMALLEST = 0.5
"""ml; a structure that is smaller in the reference is not measured."""


@dataclass(frozen=True, eq=False)
class Region:
    """Where a reference is measured; results are measured there too.

    Attributes:
        reference: (X, Y, Z) thin slices.
        spacing: of them, mm.
        counted: (X, Y, Z) bool, voxels between the first and the last thick slice.
        modality: "CT" or "MR".
        slice_spacing: of the thick slices, mm.
    """

    reference: np.ndarray
    spacing: tuple[float, float, float]
    counted: np.ndarray
    modality: Modality
    slice_spacing: float

    @cached_property
    def lung(self) -> np.ndarray:
        """(X, Y, Z) bool, lung of a CT: air spaces that hold tissue, counted voxels only."""
        lung = np.zeros_like(self.counted)
        if self.modality == "CT":
            labels, _ = ndimage.label(self.reference < -500)
            for label in 1 + np.flatnonzero(np.bincount(labels.ravel())[1:] * self._ml > LUNG_VOLUME):
                inside = labels == label
                lung |= inside if np.median(self.reference[inside]) > OPEN_AIR else False
        return lung & self.counted

    @cached_property
    def body(self) -> np.ndarray:
        """(X, Y, Z) bool, the body with its lungs, counted voxels only."""
        body = (foreground(self.reference, self.modality) | self.lung) & self.counted
        return body if body.any() else self.counted

    @cached_property
    def interior(self) -> np.ndarray:
        """(X, Y, Z) bool, the body without its skin."""
        padded = np.pad(self.body, 1, mode="edge")
        depth = ndimage.distance_transform_edt(padded, sampling=self.spacing)[1:-1, 1:-1, 1:-1]
        return (depth > SKIN) & self.counted

    @cached_property
    def tissue(self) -> np.ndarray:
        """(X, Y, Z) bool, soft tissue of a CT (smoothed reference from -190 to 150 HU); the body of an MR."""
        if self.modality != "CT":
            return self.body
        smooth = ndimage.gaussian_filter(self.reference, 1.0)
        return self.body & (smooth > THRESHOLDS["fat"][0]) & (smooth < THRESHOLDS["muscle"][1])

    @cached_property
    def thresholds(self) -> dict[Structure, tuple[float, float]]:
        """Of each structure, in the units of the file; MR has bright tissue, above Otsu's threshold of the body."""
        return THRESHOLDS if self.modality == "CT" else {"bright tissue": (otsu(self.reference[self.body]), np.inf)}

    def mask(self, voxels: np.ndarray, structure: Structure) -> np.ndarray:
        """(X, Y, Z) bool, a structure of the reference or of a result."""
        low, high = self.thresholds[structure]
        inside = self.interior if structure == "airways and lungs" else self.body
        return (voxels >= low) & (voxels <= high) & inside

    @property
    def _ml(self) -> float:
        """Of a voxel."""
        return float(np.prod(self.spacing)) / 1000


def measure_structures(region: Region, voxels: np.ndarray) -> dict[str, float]:
    """Volumes, surfaces, emphysema and histogram of a result, beside those of the reference.

    Args:
        region: of the reference.
        voxels: (X, Y, Z) result on the grid of the reference.

    Returns:
        By "structure · measure". Histogram: mean distance of equal quantiles (HU or signal), and the standard
        deviation of soft tissue divided by that of the reference. Lung: emphysema index (% below -950 HU) and 15th
        percentile (HU). Structures: ml, and for those of :data:`SURFACES` Dice, mean and 95th percentile of the
        distance between the surfaces (mm), and roughness (degrees).
    """
    body, lung = region.body, region.lung
    quantiles = np.sort(voxels[body]), np.sort(region.reference[body])
    figures = {"histogram · distance": float(np.abs(quantiles[0] - quantiles[1]).mean(dtype=np.float64))}
    if region.tissue.any():
        deviations = [float(volume[region.tissue].std(dtype=np.float64)) for volume in (voxels, region.reference)]
        figures["histogram · width"] = deviations[0] / max(deviations[1], 1e-10)
    if lung.any():
        figures |= {f"lung · {name}": value for name, value in measure_lung(voxels[lung]).items()}
    for structure in region.thresholds:
        ours, true = region.mask(voxels, structure), region.mask(region.reference, structure)
        if true.sum() * region._ml < SMALLEST:
            continue
        figures[f"{structure} · ml"] = float(ours.sum() * region._ml)
        if structure in SURFACES:
            surfaces = compare_surfaces(ours, true, region)
            figures |= {f"{structure} · {name}": value for name, value in surfaces.items()}
    return figures


def measure_lung(values: np.ndarray) -> dict[str, float]:
    """Emphysema index, %, and the 15th percentile, HU, of the voxels of a lung."""
    return {
        "emphysema index": 100 * float((values < EMPHYSEMA).mean()),
        "15th percentile": float(np.percentile(values, 15)),
    }


def compare_surfaces(ours: np.ndarray, true: np.ndarray, region: Region) -> dict[str, float]:
    """Dice, distances of the surfaces and roughness; surfaces that the region cuts are left out."""
    dice = 2 * float((ours & true).sum()) / max(float(ours.sum() + true.sum()), 1.0)
    edges = [_surface(mask, region.counted) for mask in (ours, true)]
    if not (edges[0].any() and edges[1].any()):
        return {"Dice": dice}
    to = [ndimage.distance_transform_edt(~edge, sampling=region.spacing) for edge in edges]
    apart = np.concatenate([to[1][edges[0]], to[0][edges[1]]])
    return {
        "Dice": dice,
        "distance": float(apart.mean()),
        "95th percentile": float(np.percentile(apart, 95)),
        "roughness": roughness(ours, region),
    }


def roughness(mask: np.ndarray, region: Region) -> float:
    """Stair-steps of a surface: root mean square angle between its normals and their local mean, degrees.

    The surface is that of the mask after smoothing by one voxel (the largest side), so that noise of single voxels
    does not count. A normal is the gradient there; the local mean is weighted by a Gaussian of the width (FWHM) of
    two thick slices. A plane has 0, however it is turned, apart from voxels.

    Args:
        mask: (X, Y, Z) bool, a structure.
        region: gives the spacings, and leaves out surfaces that it cuts.

    Returns:
        NaN if there is no surface.
    """
    fine = [max(region.spacing) / s for s in region.spacing]
    wide = [2 * region.slice_spacing / 2.355 / s for s in region.spacing]
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), fine)
    edge = _surface(smooth > 0.5, region.counted)
    if not edge.any():
        return float("nan")
    gradient = np.stack([np.gradient(smooth, s, axis=axis) for axis, s in enumerate(region.spacing)])
    normals = gradient / np.maximum(np.linalg.norm(gradient, axis=0), 1e-10) * edge
    mean = np.stack([ndimage.gaussian_filter(normal, wide)[edge] for normal in normals])
    mean /= np.maximum(np.linalg.norm(mean, axis=0), 1e-10)
    cosines = np.clip((normals[:, edge] * mean).sum(axis=0), -1, 1)
    return float(np.degrees(np.sqrt((np.arccos(cosines) ** 2).mean())))


def _surface(mask: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Voxels of a structure with a neighbor that is counted and outside it."""
    return mask & ndimage.binary_dilation(counted & ~mask)
