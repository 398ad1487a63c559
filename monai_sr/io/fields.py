"""Numbers in the text of image headers, and the affine that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ImageError, warn

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK and DICOM coordinates increase to the left and posterior, those of NIfTI to the right and anterior."""

UNITS = {
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", ""), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
}
"""Units of length in mm, by their names."""


def numbers(name: str, text: str) -> list[float]:
    """The finite numbers of a field.

    Raises:
        ImageError: one is not a finite number.
    """
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise wrong_field(name, text, "numbers")
    return values


def integers(name: str, text: str) -> list[int]:
    """The whole numbers of a field.

    Raises:
        ImageError: one is not a whole number.
    """
    try:
        return [int(word) for word in text.split()]
    except ValueError as error:
        raise wrong_field(name, text, "whole numbers") from error


def wrong_field(name: str, text: str, needed: str) -> ImageError:
    """The error of a field that cannot be read."""
    return ImageError("E-HDR-FIELD", f"the header's {name!r} is {text[:80]!r}, {needed} are needed")


def no_spacing(name: str) -> ImageError:
    """The error of a header without a spacing."""
    problem = f"the header gives no spacing ({name} is absent)"
    return ImageError("E-HDR-SPACING", problem, fix=f"add {name} to the header")


def unit_scale(units: Sequence[str], path: Path) -> np.ndarray:
    """The factor to mm along each axis; warns if it is not 1.

    Raises:
        ImageError: it is not a unit of length.
    """
    for unit in units:
        if unit.lower() not in UNITS:
            raise ImageError("E-HDR-UNITS", f"the header has the unit {unit[:20]!r}, which is not a length")
    scale = np.array([UNITS[unit.lower()] for unit in units])
    if (scale != 1).any():
        facts = {"unit": " ".join(dict.fromkeys(units))}
        warn("W-HDR-UNITS", "the unit of the header is {unit}; converted to mm", path=path, facts=facts)
    return scale
