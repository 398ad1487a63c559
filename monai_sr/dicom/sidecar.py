"""What a NIfTI file made from DICOM tells in the JSON beside it: how it was acquired and made.

Names and units are those of BIDS. Only acquisition settings are taken over, never what may point to
a patient, a place or a date.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .attributes import value_of
from .series import Series

SECONDS = ("EchoTime", "RepetitionTime", "InversionTime")
"""Milliseconds in DICOM, seconds in BIDS."""

NUMBERS = ("MagneticFieldStrength", "FlipAngle", "EchoTrainLength", "KVP", "ReconstructionDiameter")

WORDS = (
    "Manufacturer",
    "MRAcquisitionType",
    "ScanningSequence",
    "SequenceVariant",
    "ConvolutionKernel",
    "BodyPartExamined",
)

_RENAMED = {"KVP": "XRayTubeVoltage"}


def series_description(series: Series | None) -> str:
    """SeriesDescription, which people know a series by; for pages that they look at, not for logs or names."""
    told = value_of(series.frames[0], "SeriesDescription") if series is not None else None
    return " ".join("".join(c if c.isprintable() else " " for c in str(told or "")).split())[:64]


def acquisition(series: Series) -> dict[str, Any]:
    """How the slices were acquired, as BIDS names it; what the header lacks is absent."""
    first = series.frames[0]
    found: dict[str, Any] = {"Modality": series.modality}
    for name in (*SECONDS, *NUMBERS):
        try:
            value = float(value_of(first, name))
        except (TypeError, ValueError):
            continue
        found[_RENAMED.get(name, name)] = value / 1000 if name in SECONDS else value
    for name in WORDS:
        value = value_of(first, name)
        if value not in (None, ""):
            found[name] = value if isinstance(value, str) else [str(v) for v in value]
    thickness = series.slice_thickness
    if thickness is not None:
        found["AcquiredSliceThickness"] = np.round(thickness, 6).tolist()
    return found
