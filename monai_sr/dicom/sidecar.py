"""The JSON beside a NIfTI file made from DICOM: how the slices were acquired.

Names and units are those of BIDS. Of the header only numbers and known codes are taken over: a text that
somebody typed may point to a patient, a place or a date, whatever the attribute is meant for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from .attributes import value_of
from .kinds import values_of
from .phases import describe_volumes
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
    """SeriesDescription in one line, for pages; not for logs or file names."""
    text = value_of(series.frames[0], "SeriesDescription") if series is not None else None
    return " ".join("".join(c if c.isprintable() else " " for c in str(text or "")).split())[:64]


def protocol_of(series: Series) -> dict[str, str]:
    """The fields of :class:`monai_sr.profiles.Protocol`, by the same known codes."""
    return protocol_from(partial(value_of, series.frames[0]), series.modality)


def protocol_from(lookup: Callable[[str], Any], modality: str) -> dict[str, str]:
    """A protocol by the values that ``lookup`` gives for keywords of DICOM, of a header or of a JSON file."""
    codes = _known_codes(lookup)
    kernel = "/".join(values_of(codes.get("ConvolutionKernel")))
    maker = re.findall("[a-z]+", codes.get("Manufacturer", "").lower())
    return {"manufacturer": maker[0] if maker else "", "kernel": kernel, "scan": _scan_of(lookup, modality, codes)}


def _scan_of(lookup: Callable[[str], Any], modality: str, codes: dict[str, Any]) -> str:
    """``scan`` of a protocol."""

    def words(*names: str) -> set[str]:
        text = " ".join(str(value) for name in names for value in values_of(lookup(name)))
        return set(re.findall("[A-Z]+", text.upper()))

    kind, mode = words("ImageType"), words("ScanOptions", "AcquisitionType")
    is_ct = modality == "CT"
    is_mean = "MPR" in kind or {"REFORMATTED", "AVERAGE"} <= kind or (is_ct and {"DERIVED", "AVERAGE"} <= kind)
    is_acquired = not is_ct and "DERIVED" not in kind  # GE writes MPR of an oblique MR
    if is_mean and not is_acquired and not kind & {"MIP", "MINIP", "MAXIMUM", "MINIMUM"}:
        return "reformatted"
    if is_ct:
        if mode & {"HELICAL", "HELIX", "SPIRAL"} or "SPI" in kind or lookup("SpiralPitchFactor"):
            return "helical"
        return "sequential" if mode & {"AXIAL", "SEQUENCED"} or "SEQ" in kind else ""
    sequence = values_of(codes.get("ScanningSequence"))
    spin_echo = "SE" in sequence and "EP" not in sequence
    dimensions = str(codes.get("MRAcquisitionType", ""))
    return "2D SE" if dimensions == "2D" and spin_echo else dimensions


def acquisition(series: Series) -> dict[str, Any]:
    """How the slices were acquired, by the names of BIDS."""
    first = series.frames[0]
    fields: dict[str, Any] = {"Modality": series.modality}
    for name in (*SECONDS, *NUMBERS):
        try:
            value = float(value_of(first, name))
        except (TypeError, ValueError):
            continue
        if isfinite(value):
            fields[_RENAMED.get(name, name)] = value / 1000 if name in SECONDS else value
    fields |= _known_codes(partial(value_of, first))
    if series.phases:
        volumes = describe_volumes(series)
        differing = {name for volume in volumes for name in volume}
        fields = {name: value for name, value in fields.items() if name not in differing} | {"Volumes": volumes}
    if series.part:
        fields["SeriesPart"] = dict(series.part)
    thickness = series.slice_thickness
    if thickness is not None:
        fields["AcquiredSliceThickness"] = np.round(thickness, 6).tolist()
    return fields


def _known_codes(lookup: Callable[[str], Any]) -> dict[str, Any]:
    """Attributes of :data:`CODES` with known values."""
    known: dict[str, Any] = {}
    for name, codes in CODES.items():
        values = [str(value).strip() for value in values_of(lookup(name))]
        if values and all(re.fullmatch(codes, value, re.IGNORECASE * (name == "Manufacturer")) for value in values):
            known[name] = values[0] if len(values) == 1 else values
    return known
