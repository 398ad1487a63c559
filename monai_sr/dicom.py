"""One clean DICOM series from a folder: the gate before any voxel is used, then the volume.

pydicom reads the headers, highdicom assembles the volume. What the gate finds is an error that names
the position; nothing is guessed and nothing from the header but geometry and modality is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import ImageError, InputMissingError

SPACING_TOLERANCE = 0.01
"""Steps between slices may differ by this share, or by as many mm, before they count as uneven."""

_NEEDED = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns")


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read a folder that holds one series of parallel, evenly spaced slices.

    Returns:
        (X, Y, Z) float32 after rescale (HU for CT), the RAS+ affine, and metadata: ``modality``
        ("CT" or "MR"), ``slice_thickness`` in mm if the header has it, ``stored_dtype``.

    Raises:
        InputMissingError: there is no DICOM file.
        ImageError: several series, missing geometry, a missing or doubled slice, uneven spacing,
            gantry tilt, or pixels that cannot be decoded.
    """
    import highdicom
    import pydicom
    from pydicom.errors import InvalidDicomError

    files = sorted(f for f in folder.iterdir() if f.is_file() and is_dicom(f))
    if not files:
        raise InputMissingError("E-IO-MISSING", "no DICOM file in this folder", fix="give the folder of one series")
    slices = []
    for file in files:
        try:
            slices.append(pydicom.dcmread(file))
        except (InvalidDicomError, EOFError, OSError) as error:
            raise ImageError("E-DCM-HEADER", f"{file.name} cannot be read ({error})", fix="copy it again") from error
    _check_one_series(slices)
    for file, one in zip(files, slices, strict=True):
        missing = [name for name in _NEEDED if not one.get(name)]
        if missing:
            code = "E-DCM-SPACING" if missing == ["PixelSpacing"] else "E-DCM-NOGEOM"
            raise ImageError(code, f"{file.name} has no {', '.join(missing)}", fix="export the series again")
    _check_stack(files, slices)
    try:
        volume = highdicom.get_volume_from_series(slices, dtype=np.float32)
    except Exception as error:
        # decoders and highdicom raise many types; all mean that these pixels cannot be used
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ImageError(
            "E-DCM-PIXELS", f"the pixels cannot be read ({reason})", fix="export the series again"
        ) from error
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    meta: dict[str, Any] = {"stored_dtype": _stored_dtype(slices)}
    if slices[0].Modality in ("CT", "MR"):
        meta["modality"] = slices[0].Modality
    thickness = slices[0].get("SliceThickness")
    if thickness and float(thickness) > 0:
        meta["slice_thickness"] = float(thickness)
    # highdicom stacks (slice, row, column); we count column, row, slice
    voxels = np.transpose(volume.array, (2, 1, 0))
    affine = affine[:, [2, 1, 0, 3]]
    return voxels, affine, meta


def _check_one_series(slices: list[Any]) -> None:
    if any("NumberOfFrames" in s and int(s.NumberOfFrames) > 1 for s in slices):
        raise ImageError(
            "E-DCM-MULTIFRAME",
            "an enhanced multi-frame file",
            fix="convert it to NIfTI first, for example by dcm2niix",
        )
    series = {s.get("SeriesInstanceUID") for s in slices}
    if len(series) > 1:
        raise ImageError(
            "E-DCM-SERIES", f"{len(series)} series in one folder", fix="put each series in a folder of its own"
        )
    if any(int(s.get("SamplesPerPixel", 1)) != 1 for s in slices):
        raise ImageError("E-DCM-SC", "color pixels, as of a secondary capture", fix="give the acquired series")
    if len(slices) < 2:
        raise ImageError("E-IMG-2D", "a single slice", fix="give the folder that holds the whole series")


def _check_stack(files: list[Path], slices: list[Any]) -> None:
    """Parallel slices of one size, each position once, evenly spaced along their common normal."""
    for name in ("Rows", "Columns", "PixelSpacing"):
        if len({str(s[name].value) for s in slices}) > 1:
            raise ImageError("E-DCM-MIXED", f"the slices differ in {name}", fix="separate the series")
    orientations = np.array([[float(v) for v in s.ImageOrientationPatient] for s in slices])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise ImageError(
            "E-DCM-MIXED", "the slices are not parallel: a localizer among them?", fix="separate the series"
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    corners = np.array([[float(v) for v in s.ImagePositionPatient] for s in slices])
    order = np.argsort(corners @ normal)
    along = (corners @ normal)[order]
    steps = np.diff(along)
    typical = float(np.median(steps))
    if (steps < 1e-3).any():
        at = int(np.argmin(steps))
        names = f"{files[order[at]].name} and {files[order[at + 1]].name}"
        raise ImageError("E-DCM-DUP", f"{names} lie at the same position", fix="remove one, or separate the repeats")
    tolerance = max(SPACING_TOLERANCE, SPACING_TOLERANCE * typical)
    if (np.abs(steps - typical) > tolerance).any():
        at = int(np.argmax(np.abs(steps - typical)))
        names = f"{files[order[at]].name} and {files[order[at + 1]].name}"
        whole = steps[at] / typical
        missing = round(whole) > 1 and abs(whole - round(whole)) < 0.05
        raise ImageError(
            "E-DCM-GAP" if missing else "E-DCM-UNEVEN",
            f"{names} are {steps[at]:.4g} mm apart, the others {typical:.4g} mm"
            + (f"; {round(whole) - 1} slice(s) seem to be missing" if missing else ""),
            fix="restore them, or process the complete part alone" if missing else "resample to even spacing first",
        )
    in_plane = corners[order] - along[:, None] * normal
    drift = float(np.abs(in_plane - in_plane[0]).max())
    if drift > 0.01 * typical * len(slices):
        angle = np.degrees(np.arctan2(np.linalg.norm(in_plane[-1] - in_plane[0]), along[-1] - along[0]))
        raise ImageError(
            "E-DCM-TILT",
            f"the slices are sheared against their normal by {angle:.1f} degrees (gantry tilt)",
            fix="convert by dcm2niix, which corrects the tilt",
        )


def _stored_dtype(slices: list[Any]) -> str:
    """int16 where every rescaled value fits in whole numbers, else float32."""
    for one in slices:
        slope, intercept = float(one.get("RescaleSlope", 1)), float(one.get("RescaleIntercept", 0))
        if not (slope.is_integer() and intercept.is_integer()):
            return "float32"
        top = slope * 2 ** int(one.BitsStored) + intercept
        if top > 2**15 and int(one.BitsStored) > 15:
            return "int32"
    return "int16"
