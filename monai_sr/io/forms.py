"""The affine of a NIfTI file: sform, qform or the spacing alone, and which is used if they disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from ..errors import ImageError, warn
from ..grid import SAME_SPACING

Form = Literal["sform", "qform"]
"""The two places of the affine in a NIfTI header."""

_UNITS = {1: ("meters", 1000.0), 3: ("micrometers", 1e-3)}
"""Units of length other than mm and their factor to mm, by their code in ``xyzt_units``."""

_NOT_FINITE, _NO_LENGTH = "has NaN or infinite values", "gives an axis no length"


def nifti_affine(header: Any, path: str | Path, geometry: Form | None) -> tuple[np.ndarray, bool]:
    """RAS+ affine in mm of a NIfTI or Analyze header, and whether it has an orientation.

    A valid sform is used, else a valid qform, else the spacing (``pixdim``) alone. There is a warning
    unless a valid form agrees with the spacing.

    Args:
        header: of nibabel; a NIfTI header is changed where nibabel would refuse it.
        path: for warnings.
        geometry: use this form.

    Raises:
        ImageError: no valid form or spacing, or the requested form is invalid.
    """
    pixdim = header["pixdim"][1:4].astype(float)
    pixdim[len(header.get_data_shape()) :] = 1.0  # a picture has fewer axes
    unit, scale = "mm", 1.0
    names: tuple[Form, ...] = ("sform", "qform")
    forms: dict[Form, np.ndarray | str] = {}
    if isinstance(header, nib.Nifti1Header):
        unit, scale = _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
        forms = {name: _form(header, name) for name in names if int(header[f"{name}_code"]) > 0}
    sound = {name: form for name, form in forms.items() if not isinstance(form, str)}
    broken = {name: form for name, form in forms.items() if isinstance(form, str)}
    if not np.isfinite(pixdim).all() or (pixdim == 0).any() or ((pixdim < 0).any() and not sound):
        raise ImageError("E-HDR-SPACING", f"pixdim is {tuple(map(float, pixdim))} mm, each must be above 0")
    if scale != 1:
        warn("W-HDR-UNITS", "the unit of the header is {unit}; converted to mm", path=path, facts={"unit": unit})
    if geometry is not None and geometry not in sound:
        why = broken.get(geometry, f"is absent ({geometry}_code is 0)")
        raise ImageError("E-HDR-AFFINE", f"the {geometry} {why}", fix="omit --geometry")
    if broken and not sound:
        name, why = next(iter(broken.items()))
        problem = f"the {name} {why} and there is no valid {'qform' if name == 'sform' else 'sform'}"
        fix = "repair the header's affine, for example from the original DICOM"
        raise ImageError("E-HDR-AFFINE" if why == _NOT_FINITE else "E-HDR-SPACING", problem, fix=fix)
    spacing = np.abs(pixdim)
    if not sound:
        warn("W-HDR-NOFORM", "the header has no orientation; only the spacing is used", path=path)
        return np.diag([*(spacing * scale), 1.0]), False
    used: Form = next(iter(sound)) if geometry is None else geometry
    affine = np.array(sound[used], dtype=np.float64)
    if geometry is None:
        affine = _agreed(affine, sound, spacing, header.get_data_shape(), path, scale)
        if "sform" in broken:
            warn("W-HDR-AFFINE", "the sform {why}; the qform is used", path=path, facts={"why": broken["sform"]})
        if (pixdim < 0).any():
            facts = {"pixdim": pixdim.tolist(), "form": used}
            warn("W-HDR-SPACING", "pixdim is {pixdim} mm; the {form} is used", path=path, facts=facts)
    affine[:3] *= scale
    return affine, True


def _agreed(
    affine: np.ndarray,
    sound: dict[Form, np.ndarray],
    spacing: np.ndarray,
    shape: tuple[int, ...],
    path: str | Path,
    scale: float,
) -> np.ndarray:
    """The affine of the used form, after comparing it with the spacing and with the other form."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)]
    known = spacing[: len(lengths)]
    if not np.allclose(lengths, known, rtol=SAME_SPACING, atol=0):
        facts = {"sform": _words(lengths), "pixdim": _words(known)}
        what = "the sform spaces voxels by {sform} mm, pixdim by {pixdim} mm"
        if np.allclose(lengths, 1, rtol=SAME_SPACING, atol=0):
            affine[:3, : len(lengths)] *= known
            problem = f"{what}; it has only directions, so pixdim gives the spacing"
            warn("W-HDR-SPACING", problem, path=path, facts=facts)
        elif "qform" not in sound:
            warn("W-HDR-SPACING", f"{what}; the sform is used", path=path, facts=facts)
    if len(sound) == 2:
        distance = _farthest(affine - sound["qform"], shape)
        if distance > 0.1 * spacing.min():
            text = (
                "sform and qform differ by up to {distance:.3g} mm; "
                "the sform is used (--geometry qform takes the other)"
            )
            warn("W-HDR-FORMS", text, path=path, facts={"distance": float(distance * scale)})
    return affine


def _words(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def _form(header: Any, name: Form) -> np.ndarray | str:
    """The affine of one form in the header's units, or what is wrong with it."""
    if header["pixdim"][0] not in (-1, 1):  # nibabel refuses other values; in NIfTI 0 means 1
        header["pixdim"][0] = 1
    try:
        affine = header.get_sform() if name == "sform" else header.get_qform()
    except (HeaderDataError, ValueError):  # an invalid quaternion
        return _NOT_FINITE
    if not np.isfinite(affine).all():
        return _NOT_FINITE
    return affine if affine[:3, :3].any(axis=0).all() else _NO_LENGTH


def _farthest(difference: np.ndarray, shape: tuple[int, ...]) -> float:
    """Maximum distance between the corners of the volume by two affines, from their difference."""
    size = np.array([*shape, 1, 1, 1][:3])
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (size - 1)
    moved = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved, axis=1).max())
