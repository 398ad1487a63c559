"""What a NIfTI file made from DICOM tells in the JSON beside it: how it was acquired and made.

Names and units are those of BIDS. Of the header only numbers and known codes are taken over: a text that
somebody typed may point to a patient, a place or a date, whatever the attribute is meant for.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import numpy as np

from .attributes import value_of
from .kinds import values_of
from .series import Series

SECONDS = ("EchoTime", "RepetitionTime", "InversionTime")
"""Milliseconds in DICOM, seconds in BIDS."""

NUMBERS = ("MagneticFieldStrength", "FlipAngle", "EchoTrainLength", "KVP", "ReconstructionDiameter")

CODES = {
    "Manufacturer": r"(siemens|ge|philips|toshiba|canon|hitachi|fuji\w*|uih|united|bruker|neusoft|esaote|hyperfine)"
    r"([ _-](healthineers|healthcare|imaging|medical|med|mec|systems|corporation|ct|mr|health|nmi))*",
    "MRAcquisitionType": "[123]D",
    "ScanningSequence": "SE|IR|GR|EP|RM",
    "SequenceVariant": "SK|MTC|SS|TRSS|SP|MP|OSP|NONE",
    "ConvolutionKernel": r"[A-Z]{1,2}[a-z]?\d{0,3}[a-z]?([-_]?\w)?|\d|"
    "SOFT|STANDARD|DETAIL|BONE|BONEPLUS|LUNG|EDGE|CHST|ULTRA|SHARP|SMOOTH",
    "BodyPartExamined": "ABDOMEN|ABDOMENPELVIS|ANKLE|ARM|AORTA|BLADDER|BRAIN|BREAST|[CTLS]SPINE|(CT|TL|LS|WHOLE)?SPINE"
    "|CHEST|CHESTABDOMEN|CHESTABDPELVIS|ELBOW|EXTREMITY|EYE|FACE|FEMUR|FOOT|FOREARM|HAND|HEAD|HEADNECK|HEART|HIP"
    "|HUMERUS|IAC|JAW|KIDNEY|KNEE|LEG|LIVER|NECK|ORBIT|PANCREAS|PELVIS|PROSTATE|RIB|SHOULDER|SINUS|SKULL|STERNUM"
    "|THIGH|TOE|UTERUS|WHOLEBODY|WRIST",
}
"""Attributes, and the values that they may have in the JSON; others are left out."""

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
        if isfinite(value):
            found[_RENAMED.get(name, name)] = value / 1000 if name in SECONDS else value
    for name, codes in CODES.items():
        values = [str(value).strip() for value in values_of(value_of(first, name))]
        if values and all(re.fullmatch(codes, value, re.IGNORECASE * (name == "Manufacturer")) for value in values):
            found[name] = values[0] if len(values) == 1 else values
    if series.part:
        found["SeriesPart"] = dict(series.part)
    thickness = series.slice_thickness
    if thickness is not None:
        found["AcquiredSliceThickness"] = np.round(thickness, 6).tolist()
    return found
