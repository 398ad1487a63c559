"""The JSON that dcm2niix writes beside a NIfTI file: how the slices were acquired.

A header of NIfTI has no slice thickness, modality or manufacturer; the DICOM files had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..acquired import acquisition_meta
from ..dicom.kinds import quantity_of, values_of
from ..dicom.sidecar import protocol_from
from ..errors import warn
from ..intensities import Modality
from ..profiles import plausible

LONGEST = 2**24
"""Bytes; dcm2niix writes some kilobytes."""

SAME = 0.02
"""Two spacings are the same if they differ by at most this fraction."""


def path_beside(path: Path) -> Path | None:
    """The JSON beside ``a.nii`` or ``a.nii.gz``: ``a.json``; None if there is none."""
    name = path.name.lower()
    suffix = next((suffix for suffix in (".nii.gz", ".nii") if name.endswith(suffix)), "")
    beside = path.with_name(f"{path.name[: len(path.name) - len(suffix)]}.json")
    return beside if suffix and beside.is_file() else None


def read_sidecar(path: Path, spacing: Sequence[float]) -> dict[str, Any]:
    """The metadata of an image by the JSON beside it: slice thickness, modality and protocol.

    A JSON that contradicts the header is not used, since the image was resampled after it was written. The
    record of a result of monai-sr is not read.

    Args:
        path: the JSON.
        spacing: of the image by its header, mm.

    Returns:
        Of :func:`monai_sr.acquired.acquisition_meta`; empty if nothing is known.
    """
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
        if not isinstance(content, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError):
        warn("W-JSON-READ", "the JSON beside the image cannot be read; it is not used", path=path)
        return {}
    if "monai_sr" in content:
        return {}
    against = objections(content, spacing)
    for code, (text, facts) in against.items():
        warn(code, text, path=path, facts=facts)
    if "W-JSON-SPACING" in against:
        return {}
    modality = content.get("Modality")
    modality = modality if modality in ("CT", "MR") else None
    protocol = protocol_in_json(content, modality) if modality else None
    thickness = _length(content.get("SliceThickness"))
    return acquisition_meta(slice_thickness=thickness, modality=modality, protocol=protocol, source="sidecar")


def objections(content: Mapping[str, Any], spacing: Sequence[float]) -> dict[str, tuple[str, dict[str, Any]]]:
    """What a JSON says against its image: text and facts of a warning by its code.

    Args:
        content: of the JSON.
        spacing: of the image by its header, mm.
    """
    against: dict[str, tuple[str, dict[str, Any]]] = {}
    unit = content.get("Units") if isinstance(content.get("Units"), str) else ""
    words = tuple(str(word) for word in values_of(_flat(content.get("ImageType"))))
    quantity = quantity_of(words, units=(unit,) if unit else ())
    if quantity is not None or content.get("Modality") not in ("CT", "MR", None):
        reason = quantity[1] if quantity else "an image of another modality than CT or MR"
        against["W-JSON-QUANTITY"] = f"its JSON says that this is {reason}", {}
    thickness, step = (_length(content.get(name)) for name in ("SliceThickness", "SpacingBetweenSlices"))
    # some scanners give the gap between slices
    steps = [] if step is None else [step, step + (thickness or 0)]
    if steps and not any(abs(one - given) <= SAME * given for one in steps for given in spacing):
        facts = {"sidecar": step, "header": [round(float(given), 4) for given in spacing]}
        text = "the JSON of the image gives a slice spacing of {sidecar:.4g} mm, the header {header} mm; it is ignored"
        against["W-JSON-SPACING"] = text, facts
    return against


def protocol_in_json(content: Mapping[str, Any], modality: Modality) -> dict[str, str]:
    """The protocol of an image by its JSON, as of :func:`monai_sr.profiles.protocol_from`."""
    return protocol_from(lambda name: _lookup(content, name), modality)


def _lookup(content: Mapping[str, Any], name: str) -> Any:
    """A value by its DICOM keyword; dcm2niix joins several values of these by underscores."""
    value = _flat(content.get(name))
    joined = isinstance(value, str) and name in ("ScanningSequence", "SequenceVariant", "ScanOptions")
    return value.split("_") if joined else value


def _flat(value: Any) -> Any:
    """A text, number or list of them; None for anything else."""
    if isinstance(value, list):
        return [one for one in value if isinstance(one, str | int | float)]
    return value if isinstance(value, str | int | float) else None


def _length(value: Any) -> float | None:
    """A plausible length in mm; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and plausible(value) else None
