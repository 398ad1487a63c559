"""Planes of a DICOM object among the voxels of an image, and which series such an object is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from ..grid import ArrayImage, grid_of
from .dataset import Stream, is_dicom, pydicom_silent, read_dataset
from .kinds import BrokenFileError
from .series import LPS_TO_RAS

if TYPE_CHECKING:
    from torch import Tensor

SAME_PLACE = 0.05
"""Maximum distance of a plane from its slice, and of its corners from those of the slice, in voxels."""

MASKS = ("SEG", "RTSTRUCT")
"""Modalities of objects that hold masks."""


@dataclass(frozen=True)
class MaskObject:
    """A segmentation or structure set.

    Attributes:
        path: the file.
        dataset: its header, the pixels unread.
        series: SeriesInstanceUIDs that it is about.
        instances: SOPInstanceUIDs that it is about.
    """

    path: Path
    dataset: Any
    series: frozenset[str]
    instances: frozenset[str]

    @property
    def modality(self) -> str:
        """ "SEG" or "RTSTRUCT"."""
        return str(self.dataset.Modality)

    def check_series(self, image: Tensor | ArrayImage) -> None:
        """Check that an image is of the series that this is about, where both say so.

        Raises:
            ImageError: it is not (E-SEG-SERIES).
        """
        uid = getattr(image, "meta", {}).get("series_uid")
        if uid and self.series and uid not in self.series:
            raise ImageError("E-SEG-SERIES", "it is about another series than the image", path=self.path)


def read_mask_object(path: Path) -> MaskObject | None:
    """The header of a segmentation or structure set; None for any other file.

    Raises:
        ImageError: the header is damaged.
    """
    if not is_dicom(path):
        return None
    try:
        with pydicom_silent(), Stream(path) as stream:
            dataset = read_dataset(stream)
            if str(dataset.get("Modality")) not in MASKS:
                return None
            series, instances = frozenset(_references(dataset, "Series")), frozenset(_references(dataset, "SOP"))
    except BrokenFileError as fault:
        raise fault.error.at(path) from fault
    except Exception as error:  # pydicom raises many types on damaged headers
        raise ImageError("E-DCM-HEADER", "its header is cut off or damaged", path=path) from error
    return MaskObject(path, dataset, series, instances)


def is_own_object(path: Path) -> bool:
    """Whether a file is a DICOM object by monai-sr."""
    if not is_dicom(path):
        return False
    try:
        with pydicom_silent(), Stream(path) as stream:
            equipment = read_dataset(stream).get("ContributingEquipmentSequence") or ()
            return any(str(item.get("Manufacturer", "")) == "monai-sr" for item in equipment)
    except Exception:  # as in read_mask_object
        return False


def _references(dataset: Any, kind: str, depth: int = 4) -> Iterator[str]:
    """UIDs of the series that an object is about, or of its instances."""
    for name in ("ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence"):
        yield from _inside(dataset, name, kind, depth)
    for name in ("RTReferencedSeriesSequence", "ReferencedInstanceSequence", "ContourImageSequence"):
        yield from _inside(dataset, name, kind, depth)


def _inside(dataset: Any, name: str, kind: str, depth: int) -> Iterator[str]:
    for item in (dataset.get(name) or ()) if depth else ():
        uid = item.get("SeriesInstanceUID" if kind == "Series" else "ReferencedSOPInstanceUID")
        if uid and (kind == "Series" or name in ("ReferencedInstanceSequence", "ContourImageSequence")):
            yield str(uid)
        yield from _references(item, kind, depth - 1)


class Planes:
    """The slices of an image, to which planes of a DICOM object are assigned.

    Args:
        image: (C, X, Y, Z) with its affine; ``slice_positions`` in its metadata where slices are uneven.
    """

    def __init__(self, image: Tensor | ArrayImage) -> None:
        self.grid = grid_of(image)
        self.from_lps = np.linalg.inv(LPS_TO_RAS @ self.grid.affine)
        from ..acquired import uneven_positions_of  # here, because that imports torch

        uneven = uneven_positions_of(image)
        self.uneven: np.ndarray | None = None
        if uneven is not None:  # along the last axis, around the middle
            middle = (self.grid.shape[2] - 1) / 2
            self.uneven = np.asarray(uneven, dtype=np.float64) / self.grid.spacing[2] + middle

    def voxels_of(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) LPS mm as voxel indices; along uneven slices as the number of a slice, with a fraction beside it."""
        indices = points @ self.from_lps[:3, :3].T + self.from_lps[:3, 3]
        if self.uneven is not None:
            nearest = np.abs(self.uneven - indices[:, 2:]).argmin(axis=1)
            indices[:, 2] += nearest - self.uneven[nearest]
        return indices

    def put(
        self, plane: np.ndarray, into: np.ndarray, *, position: np.ndarray, steps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The part of ``into`` that a plane covers, as a view, and the plane in its order of axes.

        Args:
            plane: (rows, columns).
            into: (X, Y, Z) on the grid of the image.
            position: (3,) center of the first pixel, LPS mm.
            steps: (2, 3) from a pixel to the next in its row, and in its column, LPS mm.

        Raises:
            ImageError: the plane lies on no slice (E-MASK-GRID).
        """
        corner = self.voxels_of(position[None])[0]
        moves = steps @ self.from_lps[:3, :3].T
        axes = np.abs(moves).argmax(axis=1)
        extent = np.array(plane.shape[::-1])[:, None]
        whole = np.rint(moves)
        if axes[0] == axes[1] or (np.abs(moves - whole) * extent > SAME_PLACE).any():
            raise self._beside("its pixels have another spacing or direction than those of its image")
        (across,) = {0, 1, 2} - set(axes.tolist())
        sizes = [self.grid.shape[axis] for axis in axes]
        flips = [whole[n, axis] < 0 for n, axis in enumerate(axes)]
        start = [(size - 1) if flip else 0 for size, flip in zip(sizes, flips, strict=True)]
        if tuple(sizes) != plane.shape[::-1]:
            found = f"{plane.shape[1]} x {plane.shape[0]}"
            raise self._beside(f"its frames have {found} pixels, the slices of its image {sizes[0]} x {sizes[1]}")
        number = int(np.rint(corner[across]))
        off = max(abs(corner[across] - number), *(abs(corner[a] - s) for a, s in zip(axes, start, strict=True)))
        if off > SAME_PLACE or not 0 <= number < self.grid.shape[across]:
            raise self._beside(f"a frame lies {off:.2g} voxels beside the slices of its image")
        view = np.moveaxis(into, across, 0)[number]  # of the two other axes, in their order
        turned = plane.T[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
        return view, turned if axes[0] < axes[1] else turned.T

    @staticmethod
    def _beside(problem: str) -> ImageError:
        return ImageError("E-MASK-GRID", problem)
