"""What a DICOM series is to us: frames that lie on one another, and where their pixels are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SuperResolutionWarning

SAME_THICKNESS = 0.01
"""Slices of one series whose thickness differs by at most this share count as equally thick."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One acquired slice: a classic file, or one frame of a multi-frame file.

    Attributes:
        file: where its pixels are.
        number: which frame of that file, from 0.
        header: the pydicom Dataset of the file, its pixels unread; frames of one file share it.
        position: (3,) center of the first voxel, LPS mm (ImagePositionPatient).
        orientation: (6,) directions of a row and of a column, LPS (ImageOrientationPatient).
        pixel_spacing: mm between rows, and between columns (PixelSpacing).
        slice_thickness: mm, None where the header does not tell.
        slope, intercept: stored values to HU or signal; None where the header does not tell.
    """

    file: Path
    number: int
    header: Any = field(repr=False)  # tells the patient
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: tuple[float, float]
    slice_thickness: float | None = None
    slope: float | None = None
    intercept: float | None = None

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector across the slice, LPS."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True, eq=False)
class Series:
    """Frames of one acquisition that make one volume, in order along their normal.

    Attributes:
        uid: SeriesInstanceUID.
        modality: "CT" or "MR".
        frames: at least one, sorted by position along the normal of the first.
        number: SeriesNumber, as the console shows it; None where the header does not tell.
        warnings: what was noticed and mended on the way here, as warnings.
    """

    uid: str
    modality: str
    frames: tuple[Frame, ...]
    number: int | None = None
    warnings: tuple[SuperResolutionWarning, ...] = ()
    # an unpacked archive lives as long as what was found in it
    unpacked: Any = field(default=None, repr=False)

    @property
    def offsets(self) -> np.ndarray:
        """(m,) positions along the normal of the first frame, LPS mm, increasing."""
        return np.array([frame.position for frame in self.frames]) @ self.frames[0].normal

    @property
    def slice_thickness(self) -> float | np.ndarray | None:
        """mm; (m,) where slices differ, with the median for those that do not tell; None where none tells."""
        told = [frame.slice_thickness for frame in self.frames if frame.slice_thickness]
        if not told:
            return None
        typical = float(np.median(told))
        if max(told) - min(told) <= SAME_THICKNESS * typical:
            return typical
        return np.array([frame.slice_thickness or typical for frame in self.frames])
