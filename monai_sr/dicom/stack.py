"""Frames of a series as one volume.

Positions come from ImagePositionPatient and ImageOrientationPatient alone. Uneven spacing is kept,
since the acquisition matrix takes any positions; a sheared stack (gantry tilt) is made upright slice
by slice; a gap is filled on request only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..acquired import MIN_SLICES, acquisition_meta
from ..engine import one_of
from ..errors import ImageError, Later, SuperResolutionWarning, give, warn
from ..grid import slice_spacing
from ..intensities import CT_AIR, Modality
from .attributes import display_scale_of, get
from .phases import time_step
from .pixels import padding_of, read_values
from .series import LPS_TO_RAS, Frame, Series, breaks_in
from .sidecar import protocol_of

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")

SLICE_AXIS = 2
"""Of a stack, along which its slices lie."""

SPACING_TOLERANCE = 0.01
"""Steps between slices may differ by this fraction, or by as many mm, before they count as uneven."""

MULTIPLE_TOLERANCE = 0.05
"""Slices are missing where each step is a multiple of the median to this fraction; else they are uneven."""

DRIFT_TOLERANCE = 0.1
"""Slices may lie so many pixels beside one another before they count as sheared."""

AIR_TOLERANCE = 150.0
"""How far from -1000 the darkest percent of a CT without rescale may be to count as HU."""

SAME_SCALE = 1e-3
"""Display scales of Philips that differ by less are equal."""

SECONDS = 8
"""Code of the unit in ``xyzt_units`` of NIfTI."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Where the slices of a series lie.

    Attributes:
        affine: (4, 4) (column, row, slice) to RAS+ mm, of the upright and even stack.
        positions: (m,) of the slices along their normal, mm, 0 in the middle between first and
            last; None where they are even.
        shifts: (m, 2) pixels that each slice lies to the right and down of the first column and
            row of ``affine``; None where they lie on one another.
        slice_spacing: see :func:`monai_sr.grid.slice_spacing`, mm.
        warnings: of what is uneven, sheared or missing.
    """

    affine: np.ndarray
    positions: np.ndarray | None
    shifts: np.ndarray | None
    slice_spacing: float
    warnings: tuple[SuperResolutionWarning, ...]


def stack_of(series: Series, *, fill_gaps: bool = False) -> Stack:
    """Where the slices of a series lie, from headers alone.

    Raises:
        ImageError: there are fewer than three slices, or some are missing and ``fill_gaps`` is not set.
    """
    if len(series.frames) < MIN_SLICES:
        count = len(series.frames)
        raise ImageError("E-IMG-FEW", f"{count} slices, at least {MIN_SLICES} are needed")
    notes = list(series.warnings)
    along = series.offsets
    steps = np.diff(along)
    step = float(np.median(steps))
    uneven = np.abs(steps - step) > max(SPACING_TOLERANCE, SPACING_TOLERANCE * step)
    if uneven.any():
        notes.append(_unevenness(series, steps, step, uneven, fill_gaps=fill_gaps))
    swapped = _swapped(series)
    if len(swapped):
        names = ", ".join(series.frames[index].name for index in swapped[:4])
        text = f"{{slices}} slices have the SliceLocation of one another ({names}); ImagePositionPatient is used"
        notes.append(SuperResolutionWarning("W-DCM-LOCATION", text, facts={"slices": len(swapped)}))
    thickness = series.slice_thickness
    if isinstance(thickness, np.ndarray):
        text = "slices are {minimum:.4g} to {maximum:.4g} mm thick; each is taken as it is"
        notes.append(SuperResolutionWarning("W-DCM-THICKNESS", text, facts=_ends(thickness)))
    first = series.frames[0]
    row, column = first.orientation[:3], first.orientation[3:]
    between_rows, between_columns = first.pixel_spacing
    corners = np.array([frame.position for frame in series.frames])
    beside = np.stack([corners @ row / between_columns, corners @ column / between_rows], axis=1)
    beside -= beside[0]
    origin, shifts = first.position, None
    if np.abs(beside).max() > DRIFT_TOLERANCE:
        least = beside.min(axis=0)
        shifts = beside - least
        origin = origin + least[0] * between_columns * row + least[1] * between_rows * column
        across = (beside[-1] - beside[0]) * (between_columns, between_rows)
        angle = np.degrees(np.arctan2(np.linalg.norm(across), along[-1] - along[0]))
        line = np.outer((along - along[0]) / (along[-1] - along[0]), beside[-1])
        off = np.abs((beside - line) * (between_columns, between_rows)).max()
        text = "slices are sheared by {degrees:.1f} degrees (gantry tilt); the volume is made upright"
        if off > DRIFT_TOLERANCE * max(first.pixel_spacing):
            text = "slices lie up to {off:.2g} mm beside a straight line, and are moved in their planes"
        notes.append(SuperResolutionWarning("W-DCM-TILT", text, facts={"degrees": float(angle), "off": float(off)}))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2], affine[:3, 3] = first.normal * float(along[-1] - along[0]) / len(steps), origin
    positions = along - (along[0] + along[-1]) / 2 if uneven.any() else None
    spacing = slice_spacing(float(along[-1] - along[0]) / len(steps), positions)
    return Stack(LPS_TO_RAS @ affine, positions, shifts, spacing, tuple(notes))


def _swapped(series: Series) -> np.ndarray:
    """Numbers of the slices, at most half, whose SliceLocation is the place of another of them, not their own."""
    try:
        said = np.array([float(get(frame.header, "SliceLocation")) for frame in series.frames])
    except (TypeError, ValueError):
        said = np.array([np.nan])
    if not np.isfinite(said).all():
        return np.array([], dtype=int)
    along = series.offsets
    scale = np.median(np.diff(said) / np.diff(along))  # -1, or not quite 1 along a tilted gantry
    places = scale * along + np.median(said - scale * along)
    step = abs(scale) * float(np.median(np.diff(along)))
    wrong = np.flatnonzero(np.abs(said - places) > step / 2)
    permuted = np.abs(np.sort(said[wrong]) - np.sort(places[wrong])) < step / 4
    return wrong if permuted.all() and 2 * len(wrong) < len(said) and abs(scale) > MULTIPLE_TOLERANCE else wrong[:0]


def _ends(values: np.ndarray) -> dict[str, float]:
    return {"minimum": float(values.min()), "maximum": float(values.max())}


def _unevenness(
    series: Series, steps: np.ndarray, step: float, uneven: np.ndarray, *, fill_gaps: bool
) -> SuperResolutionWarning:
    """A warning, or an error, about steps that differ from the typical one."""
    thickness = np.broadcast_to(0.0 if series.slice_thickness is None else series.slice_thickness, len(steps) + 1)
    breaks = breaks_in(series.offsets, thickness)
    at = int(breaks[0]) if len(breaks) else int(np.argmax(np.abs(steps - step)))
    names = f"{series.frames[at].name} and {series.frames[at + 1].name}"
    where = f"at {series.offsets[at]:.2f} and {series.offsets[at + 1]:.2f} mm along the normal"
    whole = np.rint(steps / step)
    if len(breaks):
        raise ImageError(
            "E-DCM-GAP",
            f"{names} ({where}) are {steps[at]:.4g} mm apart, the others {step:.4g} mm: two acquisitions, "
            "or too many slices are missing to fill them in",
            fix="restore the slices, or give each part in a folder of its own",
        )
    thicker = np.maximum(thickness[1:], thickness[:-1]) > 1.5 * np.median(thickness)
    missing = int((whole - 1)[~thicker].sum())
    if missing < 1 or (np.abs(steps / step - whole) > MULTIPLE_TOLERANCE * np.maximum(whole, 1)).any():
        text = "slices are {minimum:.4g} to {maximum:.4g} mm apart; each is used where it lies"
        return SuperResolutionWarning("W-DCM-UNEVEN", text, facts=_ends(steps))
    if fill_gaps:
        text = f"{{missing}} slice(s) are missing, as between {names}; they are filled from their neighbors"
        return SuperResolutionWarning("W-DCM-GAP", text, facts={"missing": missing})
    raise ImageError(
        "E-DCM-GAP",
        f"{names} ({where}) are {steps[at]:.4g} mm apart, the others {step:.4g} mm; "
        f"{missing} slice(s) seem to be missing",
    )


def read_series(
    series: Series, *, fill_gaps: bool = False, progress: Callable[[float], None] | None = None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The volume of a series.

    Args:
        series: from :func:`monai_sr.dicom.find_series`.
        fill_gaps: also read a series with missing slices, which are interpolated later.
        progress: called with the fraction of slices read, 0 to 1.

    Returns:
        (columns, rows, slices) float32 in HU or signal, the RAS+ affine, and metadata:
        ``modality``, ``stored_dtype``, ``series_uid``, ``slice_axis``; ``slice_thickness`` in mm
        if given, (m,) where slices differ; ``protocol``; ``slice_positions`` (m,) in mm around the
        middle, where the slices are uneven (the affine has their mean spacing then);
        ``padding_value`` where there are pixels outside what was scanned. Of volumes that are kept together
        (columns, rows, slices, volumes), and ``time_step`` where they are evenly spaced in time.

    Raises:
        ImageError: a gap, pixels that cannot be decoded, or CT values that are no HU.
    """
    stack, volumes, facts = stack_of(series, fill_gaps=fill_gaps), [], list[dict[str, Any]]()
    series = _on_one_scale(series)
    for note in stack.warnings:
        give(note)
    for number, volume in enumerate(series.volumes):
        part = None if progress is None else one_of(progress, number, len(series.volumes))
        voxels, said = _read_volume(volume, stack, part)
        volumes.append(voxels)
        facts.append(said)
    meta = facts[0] | {"series_uid": series.uid}
    if not series.phases:
        return volumes[0], stack.affine, meta
    types = [one["stored_dtype"] for one in facts]
    meta |= acquisition_meta(stored_dtype=max(types, key=("int16", "int32", "float32").index), has_one_range=True)
    paddings = [one.get("padding_value") for one in facts]
    known = next((value for value in paddings if value is not None), None)
    for voxels, value in zip(volumes, paddings, strict=True):
        if value not in (None, known):
            voxels[voxels == value] = known
    meta |= acquisition_meta(padding_value=known)
    step = time_step(series)
    if step is not None:
        meta["time_step"] = step, SECONDS
    return np.moveaxis(np.stack(volumes), 0, -1), stack.affine, meta


def _on_one_scale(series: Series) -> Series:
    """The slices of a Philips MR on the display scale of the first, where each has its own; others as they are."""
    scales = [display_scale_of(frame) for frame in series.all_frames if series.modality == "MR"]
    known = [scale for scale in scales if scale is not None]
    if not known or len(known) < len(scales) or max(known) <= min(known) * (1 + SAME_SCALE):
        return series
    warn("W-DCM-SCALE", "the slices are scaled differently for display; all have the scale of the first", stacklevel=3)

    def scaled(frame: Frame) -> Frame:
        factor = known[0] / cast(float, display_scale_of(frame))
        slope, intercept = 1.0 if frame.slope is None else frame.slope, frame.intercept or 0.0
        return replace(frame, slope=slope * factor, intercept=intercept * factor)

    def all_scaled(volume: Series) -> Series:
        return replace(volume, frames=tuple(map(scaled, volume.frames)))

    return replace(all_scaled(series), phases=tuple(map(all_scaled, series.phases)))


def _read_volume(
    series: Series, stack: Stack, progress: Callable[[float], None] | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """(columns, rows, slices) of one volume, and what is said of its acquisition."""
    head = series.frames[0].header
    voxels = np.empty((len(series.frames), int(head.Rows), int(head.Columns)), dtype=np.float32)
    by_file: dict[Path, list[int]] = {}
    for index, frame in enumerate(series.frames):
        by_file.setdefault(frame.file, []).append(index)
    _check_rescale(series)
    least, greatest = np.inf, -np.inf
    for done, indices in enumerate(by_file.values(), start=1):
        ends = read_values([series.frames[i] for i in indices], [voxels[i] for i in indices])
        least, greatest = min(least, ends[0]), max(greatest, ends[1])
        if progress is not None:
            progress(done / len(by_file))
    outside = _padding(voxels, series)
    padding = None if outside is None else float(voxels[outside][0])
    if series.modality == "CT" and any(frame.slope is None or frame.intercept is None for frame in series.frames):
        _check_hounsfield(voxels, outside)
    if stack.shifts is not None:
        air = (
            CT_AIR
            if series.modality == "CT"
            else float(voxels.min(where=outside is None or ~outside, initial=voxels.max()))
        )
        voxels = _upright(voxels, stack.shifts, outside, air=air)
    whole = all(float(f.slope or 1).is_integer() and float(f.intercept or 0).is_integer() for f in series.frames)
    fits = -(2**15) <= least and greatest < 2**15
    facts = acquisition_meta(
        stored_dtype=("int16" if fits else "int32") if whole else "float32",
        modality=cast(Modality, series.modality),
        slice_axis=SLICE_AXIS,
        slice_thickness=series.slice_thickness,
        slice_positions=stack.positions,
        padding_value=padding,
        protocol=protocol_of(series),
    )
    return voxels.transpose(2, 1, 0), facts


def _padding(voxels: np.ndarray, series: Series) -> np.ndarray | None:
    """Mask of voxels outside the scanned field; all get one padding value."""
    padding = [padding_of(frame, series.modality) for frame in series.frames]
    if not any(padding):
        return None
    mask = np.zeros(voxels.shape, dtype=bool)
    for index, ends in enumerate(padding):
        if ends is not None:
            mask[index] = (voxels[index] >= ends[0]) & (voxels[index] <= ends[1])
    if not mask.any():
        return None
    voxels[mask] = next(ends for ends in padding if ends is not None)[0]
    return mask


def _check_rescale(series: Series) -> None:
    """Refuse a rescale that only some slices have: the others would be of another brightness; and a table of values."""
    tables = [frame.name for frame in series.frames if frame.header.get("ModalityLUTSequence")]
    if tables:
        raise ImageError("E-DCM-RESCALE", f"{tables[0]} has a table of values (ModalityLUTSequence) and no rescale")
    lacking = [frame.name for frame in series.frames if frame.slope is None or frame.intercept is None]
    given = {(frame.slope, frame.intercept) for frame in series.frames} - {(1.0, 0.0)}
    if lacking and any(None not in factors for factors in given):
        text = f"{len(lacking)} of {len(series.frames)} slices have no rescale, the first is {lacking[0]}"
        raise ImageError("E-DCM-RESCALE", text)


def _check_hounsfield(voxels: np.ndarray, outside: np.ndarray | None) -> None:
    """Check that the values of a CT without rescale are HU."""
    darkest = float(np.percentile(voxels if outside is None else voxels[~outside], 1))
    if abs(darkest - CT_AIR) > AIR_TOLERANCE:
        problem = f"the header has no rescale and the darkest percent lies at {darkest:.0f}, where air is -1000 HU"
        raise ImageError("E-CT-HU", problem)
    warn("W-CT-NORESCALE", "the header has no rescale; the values look like HU and are used as HU", stacklevel=3)


def _upright(voxels: np.ndarray, shifts: np.ndarray, outside: np.ndarray | None, *, air: float) -> np.ndarray:
    """Shift slices in their planes so that they lie on one another, in a matrix that holds them all.

    Padding is excluded from the interpolation. Voxels outside all slices are padding, or ``air`` if there is none.
    """
    fill = air if outside is None else float(voxels[outside][0])
    grow = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    count, rows, columns = voxels.shape
    upright = np.full((count, rows + grow[1], columns + grow[0]), fill, dtype=np.float32)
    y, x = np.indices(upright.shape[1:])
    for index, (right, down) in enumerate(shifts):
        slice_, nothing = voxels[index], np.ones(upright.shape[1:], dtype=np.float32)
        if outside is not None:
            slice_ = np.where(outside[index], np.float32(air), slice_)
            nothing[:rows, :columns] = outside[index]
        # a jump to the background at the border would ring into the slice
        extended = np.pad(slice_, ((0, grow[1]), (0, grow[0])), mode="edge")
        moved = ndimage.shift(extended, (down, right), order=3, mode="nearest")
        moved[(y < down - 0.5) | (y > rows - 0.5 + down) | (x < right - 0.5) | (x > columns - 0.5 + right)] = air
        if outside is not None:
            moved[ndimage.shift(nothing, (down, right), order=1, mode="constant", cval=1.0) > 0.5] = fill
        upright[index] = moved
    return upright
