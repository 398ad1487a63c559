"""Volumes of one series that are kept together: time points, cardiac phases, echoes, b-values, tube voltages.

They share one grid and are super-resolved with one slice profile and one intensity range. The result is one
series, or one 4-D file, in which each volume says which it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..acquired import MIN_SLICES
from ..errors import ImageError, SuperResolutionWarning
from .attributes import attribute_of, get, grouped_values, value_of
from .kept import WINDOW, attributes_of, copy_element
from .late import pydicom
from .repeats import Label
from .series import Frame, Series

TOGETHER = ("all", "complete")
"""Values of ``--volume`` that keep the volumes of a series together; "complete" leaves out those that lack slices."""

TEMPORAL = {"time", "trigger", "cardiac", "acquisition", "phase", "repeat"}
"""Names in :data:`monai_sr.dicom.repeats.SETTINGS` of volumes that follow one another in time."""

PHASES = TEMPORAL | {"echo", "kvp", "b", "direction", "inversion", "flip"}
"""Names that distinguish volumes of one contrast; another type, kernel or grid is another series."""

SAME_POSITION = 0.05
"""Slices of two volumes whose first voxels are closer than this, mm, lie at one place."""

EVEN_STEPS = 0.05
"""Fraction by which time steps may differ and be given as one."""

OF_SLICES = ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "TriggerTime")
"""What may differ from slice to slice; a new slice has it of the nearest acquired one."""

OF_VOLUMES = {*OF_SLICES, "AcquisitionNumber", "TemporalPositionIdentifier", "ImageType", *WINDOW}
"""What volumes of one series may differ in, besides the group 0018 (acquisition)."""

OF_SERIES = ("BodyPartExamined", "PatientPosition", "ProtocolName", "DeviceSerialNumber", "SoftwareVersions")
"""What of that group belongs to the whole series (PS3.3, C.7.3.1, C.7.5.1)."""


def keep_together(volumes: Sequence[Series], *, only_complete: bool = False) -> list[Series]:
    """Join the volumes of one SeriesInstanceUID that lie on one grid and differ in time, echo and the like.

    Args:
        volumes: from :func:`monai_sr.dicom.parts.volumes_of`, also those of few slices.
        only_complete: leave out volumes that lack slices, with a warning (W-DCM-INCOMPLETE).

    Returns:
        One series for each contrast and grid; its ``phases`` are in the order of time, echo time, b-value and so on.

    Raises:
        ImageError: a volume lacks slices of the others (E-DCM-INCOMPLETE), unless ``only_complete``.
    """
    together: list[Series] = []
    for contrast in _by_contrast(volumes):
        left = list(contrast)
        while left:
            # the most frequent slices are those of a whole volume; of equally frequent ones the most slices
            whole = max(left, key=lambda one: (sum(_is_on(other, one) for other in left), len(one.frames)))
            mates = [volume for volume in left if _is_on(volume, whole)]
            parts = [volume for volume in left if volume not in mates and _overlaps(volume, whole)]
            if len(whole.frames) < MIN_SLICES:
                mates, parts = left, []
                together += left
            else:
                together.append(_joined(contrast, mates, parts, only_complete=only_complete))
            left = [volume for volume in left if volume not in mates + parts]
    return together


def is_phase(series: Series) -> bool:
    """Whether a volume alone is one of those that :func:`keep_together` may join."""
    return not series.phases and any(name in PHASES for name, _ in series.part)


def _joined(contrast: list[Series], mates: list[Series], parts: list[Series], *, only_complete: bool) -> Series:
    """Volumes of one grid as one series; ``parts`` of it lack slices, or have more than the others."""
    notes = {note for volume in mates for note in volume.warnings}
    if parts:
        count = len(mates) + len(parts)
        names = [
            f"volume {contrast.index(volume) + 1} of {len(contrast)} ({len(volume.frames)} slices)" for volume in parts
        ]
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        problem = (
            f"{len(parts)} of {count} volumes do not have the {len(mates[0].frames)} slices of the others: {listed}"
        )
        if not only_complete:
            fix = "restore their slices, or leave them out by --volume complete"
            raise ImageError("E-DCM-INCOMPLETE", problem, fix=fix)
        facts = {"left_out": len(parts), "volumes": count, "slices": len(mates[0].frames), "which": listed}
        text = "{left_out} of {volumes} volumes do not have the {slices} slices of the others and are left out: {which}"
        notes.add(SuperResolutionWarning("W-DCM-INCOMPLETE", text, facts=facts))
    common = tuple(pair for pair in mates[0].part if all(pair in other.part for other in mates))
    phases = tuple(mates) if len(mates) > 1 else ()
    return replace(mates[0], part=common, phases=phases, warnings=tuple(sorted(notes, key=str)))


def _by_contrast(volumes: Sequence[Series]) -> list[list[Series]]:
    """Volumes that differ in time, echo and the like only.

    Images of another type are another contrast; but where no two types have a b-value in common, as the unweighted
    and the weighted images of one scan, they are one.
    """
    groups: dict[Label, dict[Label, list[Series]]] = defaultdict(lambda: defaultdict(list))
    for volume in volumes:
        fixed = tuple(pair for pair in volume.part if pair[0] not in PHASES and pair[0] != "type")
        groups[fixed][tuple(pair for pair in volume.part if pair[0] == "type")].append(volume)
    contrasts: list[list[Series]] = []
    for types in groups.values():
        b_values = [{_number(volume.frames[0], "b-value") for volume in group} for group in types.values()]
        of_all = set[float | None]().union(*b_values)
        if len(types) > 1 and None not in of_all and len(of_all) == sum(map(len, b_values)):
            one = [volume for group in types.values() for volume in group]
            contrasts.append(sorted(one, key=lambda volume: _number(volume.frames[0], "b-value") or 0.0))
        else:
            contrasts += types.values()
    return contrasts


def _corners(volume: Series) -> np.ndarray:
    return np.array([frame.position for frame in volume.frames])


def _is_on(one: Series, other: Series) -> bool:
    """Whether two volumes have the same slices."""
    alike = len(one.frames) == len(other.frames) and _has_grid_of(one, other)
    return alike and bool((np.abs(_corners(one) - _corners(other)) <= SAME_POSITION).all())


def _overlaps(one: Series, other: Series) -> bool:
    """Whether all slices of one of two volumes lie at slices of the other."""
    if not _has_grid_of(one, other):
        return False
    near = (np.abs(_corners(one)[:, None] - _corners(other)) <= SAME_POSITION).all(axis=2)
    return bool(near.any(axis=1).all() or near.any(axis=0).all())


def _has_grid_of(one: Series, other: Series) -> bool:
    """Whether two volumes have the same matrix, pixel spacing and direction."""
    first, second = one.frames[0], other.frames[0]
    sizes = [(int(frame.header.Rows), int(frame.header.Columns)) for frame in (first, second)]
    same = sizes[0] == sizes[1] and np.allclose(first.pixel_spacing, second.pixel_spacing, rtol=1e-3)
    return same and np.allclose(first.orientation, second.orientation, atol=1e-3)


# ---------------------------------------------------------------- when, and by what settings


def seconds_of(series: Series) -> list[float] | None:
    """When each volume was acquired, in seconds after the first; None if they do not follow one another in time."""
    names = {name for volume in series.volumes for name, _ in volume.part} - {name for name, _ in series.part}
    if not series.phases or not names <= TEMPORAL:
        return None
    for name in ("TriggerTime", "NominalCardiacTriggerDelayTime", "clock"):
        given = [[_number(frame, name) for frame in volume.frames] for volume in series.volumes]
        known = [[value for value in values if value is not None] for values in given]
        if all(known):
            factor = 1.0 if name == "clock" else 1e-3
            starts = [factor * (min(values) if name == "clock" else float(np.mean(values))) for values in known]
            if all(after > before for before, after in pairwise(starts)):
                return [round(start - starts[0], 4) for start in starts]
    return None


def time_step(series: Series) -> float | None:
    """Seconds from volume to volume; None if they are not evenly spaced in time."""
    seconds = seconds_of(series)
    steps = np.diff(seconds) if seconds is not None else np.array([])
    even = len(steps) > 0 and float(np.ptp(steps)) <= EVEN_STEPS * float(np.median(steps))
    return float(np.mean(steps)) if even else None


def describe_volumes(series: Series) -> list[dict[str, Any]]:
    """For JSON: of each volume its label, and what distinguishes it from others, by the names and units of BIDS."""
    seconds, described = seconds_of(series), []
    for number, volume in enumerate(series.phases):
        first, entry = volume.frames[0], dict[str, Any](dict(volume.part))
        if seconds is not None:
            entry["VolumeTiming"] = seconds[number]
        for name, title, factor in (
            ("EchoTime", "EchoTime", 1e-3),
            ("InversionTime", "InversionTime", 1e-3),
            ("FlipAngle", "FlipAngle", 1.0),
            ("KVP", "XRayTubeVoltage", 1.0),
            ("b-value", "DiffusionBValue", 1.0),
        ):
            value = _number(first, name)
            if value is not None:
                entry[title] = round(value * factor, 9)
        direction = _gradient(first)
        if direction is not None:
            entry["DiffusionGradientOrientation"] = direction
        described.append(entry)
    alike = {name for name in described[0] if len({str(entry.get(name)) for entry in described}) == 1}
    return [{name: value for name, value in entry.items() if name not in alike} for entry in described]


def _number(frame: Frame, name: str) -> float | None:
    value = attribute_of(frame, grouped_values(frame), name)
    return value if isinstance(value, float) else None


def _gradient(frame: Frame) -> list[float] | None:
    """(3,) direction of the diffusion gradient, LPS; None if unknown. GE gives it in the axes of its scanner."""
    text = attribute_of(frame, grouped_values(frame), "b-direction")
    is_of_ge = str(get(frame.header, "Manufacturer") or "").upper().startswith("GE")
    if is_of_ge and value_of(frame, "DiffusionGradientOrientation") is None:
        return None
    direction = [float(part) for part in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", str(text))]
    is_unit = len(direction) == 3 and abs(float(np.linalg.norm(direction)) - 1) < 0.01
    return [round(part, 6) for part in direction] if is_unit else None


# ---------------------------------------------------------------- headers of a written series


def header_of_volume(series: Series, number: int) -> pydicom.Dataset:
    """What the slices of one volume have in common and those of the others do not.

    Args:
        series: volumes that are kept together.
        number: of the volume, from 0.
    """
    volume, header = series.phases[number], pydicom.Dataset()
    for element in attributes_of(volume):
        of_acquisition = element.tag.group == 0x0018 and element.keyword not in OF_SERIES
        if of_acquisition or element.keyword in OF_VOLUMES:
            header.add(element)
    frame = volume.frames[0]
    if series.modality == "MR" and (b_value := _number(frame, "b-value")) is not None:
        direction = _gradient(frame)
        header.DiffusionBValue = b_value
        if direction is not None:
            header.DiffusionDirectionality, header.DiffusionGradientOrientation = "DIRECTIONAL", direction
        elif b_value == 0:
            header.DiffusionDirectionality = "NONE"
    times = [tuple(pair for pair in one.part if pair[0] in TEMPORAL) for one in series.phases]
    order = list(dict.fromkeys(times))
    if len(order) > 1:
        header.TemporalPositionIdentifier = order.index(times[number]) + 1
        header.NumberOfTemporalPositions = len(order)
    return header


def header_of_slice(header: pydicom.Dataset, frame: Frame) -> pydicom.Dataset:
    """What a new slice has of the nearest acquired one, where the slices of its volume differ: times.

    Args:
        header: of its volume.
        frame: the acquired slice.
    """
    given, own = pydicom.Dataset(), pydicom.Dataset()
    moment = str(value_of(frame, "FrameAcquisitionDateTime") or "")
    values = {name: value_of(frame, name) for name in OF_SLICES}
    values["TriggerTime"] = values["TriggerTime"] or value_of(frame, "NominalCardiacTriggerDelayTime")
    if len(moment) >= 14:
        values |= {"AcquisitionDate": moment[:8], "AcquisitionTime": moment[8:].split("+")[0].split("-")[0]}
    for name, value in values.items():
        if not header.get(name) and value not in (None, ""):
            given.add_new(pydicom.tag.Tag(name), pydicom.datadict.dictionary_VR(name), value)
            copy_element(pydicom.tag.Tag(name), given, own)
    return own
