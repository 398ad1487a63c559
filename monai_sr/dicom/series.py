"""A DICOM series: frames that make one volume, and where their pixels are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SuperResolutionWarning, printable

FAR = 6.5
"""A step so many times as large as its neighbors is no gap to be filled."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From LPS mm to RAS mm, and back."""

SAME_THICKNESS = 0.01
"""Slices of one series whose thickness differs by at most this fraction count as equally thick."""


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
        slice_thickness: mm, None if absent.
        slope, intercept: stored values to HU or signal; None if absent.
    """

    file: Path
    number: int
    header: Any = field(repr=False)  # names the patient
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: tuple[float, float]
    slice_thickness: float | None = None
    slope: float | None = None
    intercept: float | None = None

    @property
    def name(self) -> str:
        """Of its file, and which frame of it."""
        several = int(self.header.get("NumberOfFrames") or 1) > 1
        return f"{self.file.name} frame {self.number + 1}" if several else self.file.name

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
        number: SeriesNumber; None if absent.
        warnings: what was unusual or corrected.
        part: what distinguishes it from other volumes of the same SeriesInstanceUID, such as
            ``(("echo", "2"),)``; empty if it is the only one.
        phases: the volumes that are kept together, see :func:`monai_sr.dicom.phases.keep_together`; ``frames`` are
            those of the first. Empty of a single volume.
    """

    uid: str
    modality: str
    frames: tuple[Frame, ...]
    number: int | None = None
    warnings: tuple[SuperResolutionWarning, ...] = ()
    part: tuple[tuple[str, str], ...] = ()
    phases: tuple[Series, ...] = ()
    # an unpacked archive lives as long as what was found in it
    unpacked: Any = field(default=None, repr=False)

    @property
    def volumes(self) -> tuple[Series, ...]:
        """The phases, or the one volume."""
        return self.phases or (self,)

    @property
    def all_frames(self) -> tuple[Frame, ...]:
        """The frames of all volumes."""
        return tuple(frame for volume in self.volumes for frame in volume.frames)

    @property
    def files(self) -> list[Path]:
        """The files of all volumes, each once."""
        return list(dict.fromkeys(frame.file for frame in self.all_frames))

    @property
    def headers(self) -> list[Any]:
        """The pydicom Datasets of the files of the first volume, each once."""
        return list({id(frame.header): frame.header for frame in self.frames}.values())

    @property
    def size(self) -> str:
        """How many slices, in words."""
        slices = f"{len(self.frames)} slices"
        return f"{len(self.phases)} volumes of {slices}" if self.phases else slices

    @property
    def offsets(self) -> np.ndarray:
        """(m,) positions along the normal of the first frame, LPS mm, increasing."""
        return np.array([frame.position for frame in self.frames]) @ self.frames[0].normal

    @property
    def slice_thickness(self) -> float | np.ndarray | None:
        """mm; (m,) where slices differ, with the median where it is absent; None if absent everywhere."""
        given = [frame.slice_thickness for frame in self.frames if frame.slice_thickness]
        if not given:
            return None
        typical = float(np.median(given))
        if max(given) - min(given) <= SAME_THICKNESS * typical:
            return typical
        return np.array([frame.slice_thickness or typical for frame in self.frames])

    @property
    def label(self) -> str:
        """What ``--series`` takes for this volume, such as ``4`` or ``4#echo=2``."""
        name = (printable(self.uid) or "?") if self.number is None else str(self.number)
        return name + "#" * bool(self.part) + ",".join(self.part_texts)

    @property
    def part_texts(self) -> tuple[str, ...]:
        """``part`` in words, such as ``("echo=2",)``."""
        return tuple(f"{name}={value}" for name, value in self.part)

    def is_named(self, wanted: str) -> bool:
        """Whether ``wanted`` names this volume: SeriesInstanceUID or SeriesNumber, and any of ``part`` after a #."""
        names = {self.uid, printable(self.uid) or "?"} | ({str(self.number)} if self.number is not None else set())
        name, _, part = wanted.partition("#")
        given = {pair.strip().casefold() for pair in part.split(",") if pair.strip()}
        ours = {text.casefold() for text in self.part_texts}
        return wanted in names or (name in names and given <= ours)

    def narrow(self, wanted: str) -> Series | None:
        """The series, or those of its volumes that ``wanted`` names, such as all of one echo; None if it names none."""
        named = tuple(phase for phase in self.phases if phase.is_named(wanted))
        if self.is_named(wanted) or not named:
            return self if self.is_named(wanted) else None
        common = tuple(pair for pair in named[0].part if all(pair in phase.part for phase in named))
        phases = named if len(named) > 1 else ()
        return replace(named[0], part=common, phases=phases, warnings=self.warnings, unpacked=self.unpacked)


def breaks_in(offsets: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    """Numbers of the steps that part two acquisitions, or where too much is lost to be filled.

    Such a step is :data:`FAR` beyond the steps on one side, and not that of thick slices beside thin ones.

    Args:
        offsets: (m,) increasing positions, mm.
        thickness: (m,) of the slices, mm; 0 where it is unknown.
    """
    steps = np.diff(offsets)
    if len(steps) < 2:
        return np.array([], dtype=int)
    before, after = np.append(steps[1], steps[:-1]), np.append(steps[1:], steps[-2])
    thick = np.maximum(thickness[1:], thickness[:-1])
    around = np.where(thick > 0, np.minimum(before, after), np.maximum(before, after))
    return np.flatnonzero((steps > FAR * around) & (steps > 3 * thick))
