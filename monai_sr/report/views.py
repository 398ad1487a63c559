"""The planes of a report through the acquired and the new slices, in radiological orientation.

Coronal and axial pictures have the patient's right on the viewer's left, sagittal ones anterior on the
left. Superior is at the top, in axial pictures anterior. Only the thick slices are resampled, across
their own axis. Pictures are drawn by their size in mm, so their voxels need not be square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ..acquired import Acquired
from ..grid import ArrayImage, Grid, Image, grid_of
from ..intensities import CT_AIR, Modality, as_array, padding_of
from ..io.images import as_stored
from ..slices import interpolation_weights
from .windows import Windows, windows_for

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("sagittal", "coronal", "axial")
"""Planes by the direction they lack: left-right, front-back, head-feet."""

LETTERS = ("RL", "AP", "SI")
"""Of each direction, what stands at the left or top of a picture and what opposite."""

LABELS = {
    "thick": ("Thick", "thick, as acquired"),
    "cubic": ("Cubic", "cubic interpolation"),
    "sr": ("SR", "super-resolved"),
}
"""Button and name of each layer."""

LARGEST_SIDE = 768
"""Pixels; a larger picture is averaged down."""

LEAST_BODY = 0.1
"""Planes that hold less of the body than this fraction of the fullest one are not shown."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One volume before and after, with its axes as RAS in-plane and the through-plane axis last.

    Attributes:
        thick: (a, b, m) acquired, in the file's units.
        thin: (a, b, n) the result; the acquired slices if there is no result.
        thick_at, thin_at: slice positions, mm on one line.
        spacing: of the two in-plane axes, mm.
        directions: for each axis 0 for left-right, 1 for front-back, 2 for head-feet.
        modality: "CT" or "MR".
        has_orientation: whether the file gives the orientation of the patient.
        stored: the type in which the result is written.
        affine: of the acquired grid.
        axes, flips: how the axes of the file were turned, see :meth:`monai_sr.grid.Grid.canonical_order`.
    """

    thick: np.ndarray
    thin: np.ndarray
    thick_at: np.ndarray
    thin_at: np.ndarray
    spacing: tuple[float, float]
    directions: tuple[int, int, int]
    modality: Modality
    has_orientation: bool
    stored: np.dtype
    affine: np.ndarray
    axes: tuple[int, ...]
    flips: tuple[int, ...]

    @classmethod
    def of(cls, acquired: Acquired, sr: Image | None = None) -> Scene:
        """The first volume as acquired and of its result."""
        grid, axis = acquired.grid, acquired.axis
        order, flips = grid.canonical_order(axis)
        thick_at, thick = acquired.canonical_positions, turned(acquired.source, order, flips)
        return cls(
            thick=thick,
            thin=thick if sr is None else turned(sr, order, flips),
            thick_at=thick_at,
            thin_at=thick_at if sr is None else grid_of(sr).positions(axis),
            modality=acquired.modality,
            has_orientation=acquired.has_orientation,
            stored=acquired.stored_dtype,
            **axes_of(grid, axis),
        )

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Button and name of each layer."""
        return LABELS

    @cached_property
    def nearest(self) -> np.ndarray:
        """(n,) the acquired slice nearest to each thin one."""
        return np.abs(self.thin_at[:, None] - self.thick_at).argmin(axis=1)

    @cached_property
    def cubic(self) -> np.ndarray:
        """(n, m) cubic interpolation of the acquired slices."""
        return interpolation_weights(self.thick_at, self.thin_at).astype(np.float32)

    @cached_property
    def air(self) -> np.float32:
        """The minimum of what was scanned; values below are padding, which would ring."""
        if self.modality == "CT":
            return np.float32(CT_AIR)
        padding = padding_of(self.thick, "MR")
        return np.float32(-np.inf) if padding is None else self.thick[self.thick > padding].min()

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """At most about 40,000 acquired voxels spread over the volume, (a', b', m'), and which lie in the body."""
        steps = [max(1, n // 34) for n in self.thick.shape]
        some = self.thick[tuple(slice(s // 2, None, s) for s in steps)]
        if self.modality == "CT":
            some = np.maximum(some, CT_AIR)
            return some, some > -500
        some = np.maximum(some, self.air)
        low, high = np.percentile(some, (0.5, 99.5))
        return some, some > low + 0.12 * (high - low)

    @cached_property
    def windows(self) -> Windows:
        """The gray windows, by what was acquired."""
        voxels, body = self.sample
        return windows_for(voxels, self.modality, body)

    @property
    def spacings(self) -> tuple[float, float, float]:
        """Spacing of the result in this order, mm."""
        step = float(self.thin_at[-1] - self.thin_at[0]) / max(1, len(self.thin_at) - 1)
        return (*self.spacing, step)

    def plane(self, layer: str, lacking: int, index: int) -> np.ndarray:
        """Voxels of one plane in the file's units, its two axes in the order of this scene.

        Args:
            layer: "thick" (as acquired, each thin slice showing the nearest), "cubic" or "sr".
            lacking: the axis across the plane.
            index: voxel along it, of the result.
        """
        if layer == "sr":
            return as_stored(np.take(self.thin, index, axis=lacking), self.stored).astype(np.float32)
        if layer == "thick":
            return nearest_plane(self.thick, self.nearest, lacking, index)
        air = self.air
        if lacking < 2:
            return np.maximum(np.take(self.thick, index, axis=lacking), air) @ self.cubic.T
        weights = self.cubic[index]
        used = np.flatnonzero(np.abs(weights) > 1e-6)
        return np.maximum(self.thick[..., used], air) @ weights[used]

    def picture(self, plane: np.ndarray, lacking: int) -> np.ndarray:
        """(height, width) of a plane as it is shown, averaged down if it is large."""
        first, second = (self.directions[a] for a in range(3) if a != lacking)
        if first > second:
            plane = plane.T
        return _smaller(_smaller(plane[::-1, ::-1].T, 0), 1)

    def size(self, lacking: int) -> tuple[float, float]:
        """Width and height of a picture in mm."""
        extents = {
            self.directions[a]: n * s for a, (n, s) in enumerate(zip(self.thin.shape, self.spacings, strict=True))
        }
        del extents[self.directions[lacking]]
        across, up = sorted(extents)
        return extents[across], extents[up]

    def letters(self, lacking: int) -> dict[str, str]:
        """Labels at the left, right, top and bottom of a picture; empty if the file gives no orientation."""
        if not self.has_orientation:
            return {}
        across, up = sorted(self.directions[a] for a in range(3) if a != lacking)
        return dict(zip(("left", "right", "top", "bottom"), (*LETTERS[across], *LETTERS[up]), strict=True))

    def name(self, lacking: int) -> str:
        """Name of the plane."""
        return NAMES[self.directions[lacking]]

    def showing_order(self) -> list[int]:
        """Axes across the planes: first those that show the slices from the side, coronal before sagittal."""
        return sorted(range(3), key=lambda a: (a == 2, -self.directions[a]))

    def chosen(self, lacking: int, count: int) -> list[int]:
        """Indices of the shown planes, evenly through the body; thin slices halfway between acquired ones."""
        _, body = self.sample
        fraction = body.mean(axis=tuple(a for a in range(3) if a != lacking))
        full = np.flatnonzero(fraction >= LEAST_BODY * fraction.max()) if fraction.max() else np.arange(len(fraction))
        n = self.thin.shape[lacking]
        first, last = (int(full[0]) / len(fraction), (int(full[-1]) + 1) / len(fraction))
        places = first + (last - first) * (np.arange(count) + 0.5) / count
        indices = np.clip((places * n).astype(int), 0, n - 1)
        if lacking == 2 and len(self.thick_at) < n:
            distance = np.abs(self.thin_at[:, None] - self.thick_at).min(axis=1)
            reach = max(1, round(n / len(self.thick_at)))
            near = [np.arange(max(0, i - reach // 2), min(n, i + reach - reach // 2)) for i in indices]
            indices = np.array([one[np.argmax(distance[one])] for one in near])
        return sorted(set(indices.tolist()))

    def world(self, place: tuple[float, float, float]) -> np.ndarray:
        """(3,) RAS mm of a point, counted in acquired voxels of this scene's axes."""
        index = np.zeros(3)
        for position, (axis, value) in enumerate(zip(self.axes, place, strict=True)):
            index[axis] = self.thick.shape[position] - 1 - value if position in self.flips else value
        return self.affine[:3, :3] @ index + self.affine[:3, 3]


def axes_of(grid: Grid, axis: int) -> dict[str, Any]:
    """The fields of a :class:`Scene` that say how a grid lies, with ``axis`` through-plane."""
    order, flips = grid.canonical_order(axis)
    orientation = nib.io_orientation(grid.affine)
    return {
        "spacing": (grid.spacing[order[0]], grid.spacing[order[1]]),
        "directions": tuple(int(orientation[a, 0]) for a in order),
        "affine": grid.affine,
        "axes": tuple(order),
        "flips": tuple(flips),
    }


def turned(volume: Tensor | ArrayImage, order: Sequence[int], flips: Sequence[int]) -> np.ndarray:
    """The first channel with its axes in that order and direction; a view, not a copy."""
    voxels = as_array(volume)[0].astype(np.float32, copy=False)
    return np.flip(voxels.transpose(tuple(order)), tuple(flips))


def nearest_plane(thick: np.ndarray, nearest: np.ndarray, lacking: int, index: int) -> np.ndarray:
    """A plane of a volume (a, b, m) on the acquired grid, each thin slice showing the nearest acquired one."""
    if lacking == 2:
        return thick[..., nearest[index]]
    return np.take(thick, index, axis=lacking)[:, nearest]


def tilt(grid: Grid, axis: int) -> float:
    """Degrees between the slices and the nearest of the patient's planes."""
    normal = grid.affine[:3, axis] / grid.spacing[axis]
    return float(np.degrees(np.arccos(np.clip(np.abs(normal).max(), 0, 1))))


def _smaller(picture: np.ndarray, axis: int) -> np.ndarray:
    """Average neighbors along an axis that is longer than :data:`LARGEST_SIDE`."""
    n = picture.shape[axis]
    step = -(-n // LARGEST_SIDE)
    if step == 1:
        return picture
    starts = np.arange(0, n, step)
    counts = np.diff([*starts, n]).reshape([-1 if a == axis else 1 for a in range(2)])
    return np.add.reduceat(picture, starts, axis=axis) / counts
