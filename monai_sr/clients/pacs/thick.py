"""Select series to super-resolve: acquired CT and MR with thick slices, by their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from ...acquired import MIN_SLICES
from ...dicom import Frame
from ...dicom.dataset import pydicom_silent
from ...dicom.header import frames_of_header
from ...dicom.kinds import BrokenFileError, NotAnImageError
from ...dicom.parts import places_of, stacks_of

THICK_RATIO = 2.0
"""Slices at least so many pixels apart are thick."""


HEADER = (
    *("SOPClassUID", "Modality", "SeriesInstanceUID", "ImageType", "SamplesPerPixel", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContributingEquipmentSequence"),
    *("ComplexImageComponent", "RescaleType", "RealWorldValueMappingSequence"),
)
"""What is to be known of an instance."""


class Verdict(NamedTuple):
    """Why a series is left out."""

    code: str
    reason: str


def why_not(headers: Sequence[Dataset], *, thick_ratio: float = THICK_RATIO) -> Verdict | None:
    """Why a series is left out; None if it is to be super-resolved.

    Args:
        headers: of every instance of the series, with the attributes of :data:`HEADER`.
        thick_ratio: see :func:`slices_in_pixels`.
    """
    frames: list[Frame] = []
    others: list[Verdict] = []
    with pydicom_silent():
        for header in headers:
            try:
                new = frames_of_header(header)
            except NotAnImageError as other:
                others.append(Verdict(other.code, other.reason))
            except BrokenFileError as fault:
                return Verdict(fault.error.code, "its headers do not tell where its slices lie")
            else:
                kind = header.get("ImageType") or [""]
                if str(kind if isinstance(kind, str) else kind[0]).upper() != "ORIGINAL":
                    return Verdict("E-PACS-DERIVED", "derived images, not acquired ones")
                frames += new
    if not frames:
        return others[0] if others else Verdict("E-DCM-NONE", "no instance is there")
    ratio = slices_in_pixels(frames)
    if ratio is None:
        return Verdict("E-IMG-FEW", f"fewer than {MIN_SLICES} parallel slices")
    if ratio < thick_ratio:
        return Verdict("E-PACS-THIN", f"slices are {ratio:.2g} pixels apart, {thick_ratio:g} make a thick series")
    return None


def slices_in_pixels(frames: Sequence[Frame]) -> float | None:
    """Slice spacing in pixels (of the coarser side); None if too few slices are parallel."""
    largest = max((stack.frames for stack in stacks_of(list(frames))), key=len)
    # echoes and phases lie at one place
    offsets = [place[0].position @ largest[0].normal for place in places_of(largest)]
    if len(offsets) < MIN_SLICES:
        return None
    return float(np.median(np.diff(offsets)) / max(largest[0].pixel_spacing))
