"""The slice profile: what the protocol of a scan says of it, or an estimate from the slices themselves.

A header gives the slice thickness, never the profile. The profile of a selective pulse, or of a mean of thin CT
slices, is nearly a box. A box blurs as little as a Gaussian of 0.68 times its width, so slices of a box that are
treated as Gaussian are sharpened too much. Anatomy looks similar in plane and through plane: blurred in plane by
the correct profile, slices should vary over one slice step as they vary from slice to slice. A triangle blurs as a
Gaussian of 0.96 times its width, so slices cannot tell these two apart; only a header or a thin series can.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from .errors import UsageError
from .intensities import as_array
from .slices import PROFILES, Profile, profile_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

PLAUSIBLE = (0.05, 50.0)
"""Spacings and slice thicknesses of CT and MR, mm."""

FEWEST_SLICES = 12
"""With fewer slices the differences between slices are not sufficient."""

THICKNESS_RANGE = (0.7, 1.3)
"""Slice thickness divided by slice spacing; outside, the profiles were not tested and a Gaussian is assumed."""

THRESHOLDS = 0.03, 0.065
"""Scores above which a box is assumed: for a slice spacing below :data:`FAR` in-plane voxels, and for a larger one.
For a larger spacing the score varies more and a missed box costs less, so the threshold is higher."""

FAR = 2.65

OVERLAP = 1.15
"""Slice thickness divided by slice spacing. Above it slices are also taken for a box if they are sharper than the
in-plane axes seen through a box: the wider the profile, the more a missed box costs, and the smaller its score is."""

HELICAL_WIDTHS = {"philips": 0.89}
"""Width (FWHM) of the triangle of a helical CT divided by the thickness in its header, by manufacturer; 1 where it was
not measured. Philips: 4.45 mm for 5 mm, one series (Ingenuity CT, pitch 0.391, 64 x 0.625 mm) with its 1 mm twin."""

SAME_THICKNESS = 0.02
"""A row of a table of protocols applies to a thickness that differs by at most this fraction."""

_LONGER_STEP = 0.75
_LINES = 2_000_000
_INTENSITIES = -0.2, 1.2
_COMPARED: tuple[Profile, ...] = ("gaussian", "box")


@dataclass(frozen=True)
class Protocol:
    """How slices were made, as far as a header says it; empty where it does not.

    Attributes:
        manufacturer: one word in lower case, such as "philips".
        kernel: ConvolutionKernel of a CT.
        scan: "helical", "sequential", "reformatted" (a mean of thin slices), "2D SE", "2D" or "3D".
    """

    manufacturer: str = ""
    kernel: str = ""
    scan: str = ""


class ProtocolWidth(NamedTuple):
    """A row of a table of protocols: the profile and width that pairs of thick and thin series of a protocol have.

    Attributes:
        protocol: whose slices; "*" in a field is any.
        thickness: in the header, mm.
        width: FWHM of the profile, mm.
        profile: its form.
        pairs: number of pairs that it was fitted to; the width is their median.
        residual: RMS residual of the fit, HU or signal; the median too.
    """

    protocol: Protocol
    thickness: float
    width: float
    profile: Profile
    pairs: int = 1
    residual: float = 0.0

    def is_of(self, protocol: Protocol, thickness: float) -> bool:
        """Whether the row is of slices of this protocol and thickness."""
        fields = zip(astuple(self.protocol), astuple(protocol), strict=True)
        same = all(ours in ("*", theirs) for ours, theirs in fields)
        return same and abs(thickness - self.thickness) <= SAME_THICKNESS * self.thickness


COLUMNS = ("manufacturer", "kernel", "scan", "thickness", "width", "profile", "pairs", "residual")
"""Of a table of protocols, separated by tabs."""


def read_protocols(path: str | Path) -> tuple[ProtocolWidth, ...]:
    """Read a table of protocols, as ``monai-sr calibrate --pairs`` writes it.

    Raises:
        UsageError: it cannot be read, or a line is not a row of such a table (E-PROTOCOLS).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError("E-PROTOCOLS", f"cannot be read ({error})", path=path) from error
    names = lines[0].split("\t") if lines else []
    if not set(COLUMNS[:6]) <= set(names):
        raise UsageError("E-PROTOCOLS", f"its columns are {', '.join(names) or '(none)'}", path=path)
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        row = dict(zip(names, next(csv.reader([line], delimiter="\t"), []), strict=False))
        try:
            thickness, width = float(row["thickness"]), float(row["width"])
            (profile,) = (known for known in PROFILES if known == row["profile"])
            if not (0 < thickness < math.inf and 0 < width < math.inf):
                raise ValueError(f"thickness {thickness} mm, width {width} mm")
            protocol = Protocol(row["manufacturer"], row["kernel"], row["scan"])
            numbers = int(row.get("pairs") or 1), float(row.get("residual") or 0)
            rows.append(ProtocolWidth(protocol, thickness, width, profile, *numbers))
        except (KeyError, ValueError) as error:
            raise UsageError("E-PROTOCOLS", f"line {number} is not such a row ({error})", path=path) from error
    return tuple(rows)


def protocols_text(rows: Sequence[ProtocolWidth]) -> str:
    """A table of protocols as a file holds it, sorted."""
    lines = ["\t".join(COLUMNS)]
    for row in sorted(rows, key=lambda row: (astuple(row.protocol), row.thickness)):
        figures = f"{row.thickness:g}", f"{row.width:.2f}", row.profile, str(row.pairs), f"{row.residual:.1f}"
        lines.append("\t".join([*astuple(row.protocol), *figures]))
    return "\n".join(lines) + "\n"


class Known(NamedTuple):
    """What is known of the slices of a protocol.

    Attributes:
        profile: their profile.
        ratio: its width divided by the thickness in the header.
        source: "protocol", a table of protocols; "header" or "sidecar", what is known of every scan of that kind.
    """

    profile: Profile
    ratio: float
    source: Literal["protocol", "header", "sidecar"]


def known_profile(
    protocol: Protocol, *, thickness: float | None = None, table: Sequence[ProtocolWidth] = ()
) -> Known | None:
    """The profile of a protocol and its width: of a table, else of what is known in general; None if nothing is.

    Args:
        protocol: how the slices were made.
        thickness: in the header, mm; None if it has none.
        table: of a site, see :func:`read_protocols`. Of several rows that apply, that of the fewest "*".

    Source: fits of real thick series to thin ones of the same scan: a helical CT is nearer a triangle than a Gaussian
    (RMS residual 7.8 and 10.3 HU), a reformatted series a box and a 2-D spin echo a Gaussian, both as wide as the
    header says.
    """
    if thickness is not None:
        rows = [row for row in table if row.is_of(protocol, thickness)]
        if rows:
            row = min(rows, key=lambda row: astuple(row.protocol).count("*"))
            return Known(row.profile, row.width / row.thickness, "protocol")
    if protocol.scan == "helical":
        return Known("triangle", HELICAL_WIDTHS.get(protocol.manufacturer, 1.0), "header")
    if protocol.scan == "reformatted":
        return Known("box", 1.0, "header")
    return Known("gaussian", 1.0, "header") if protocol.scan == "2D SE" else None


def plausible(length: float | None) -> float | None:
    """A length in mm that a scanner may have; None for any other, as where it is unknown."""
    return length if length is not None and PLAUSIBLE[0] <= length <= PLAUSIBLE[1] else None


def checked_thickness(thickness: ArrayLike) -> np.ndarray:
    """Slice thicknesses, mm, as float64: one, or one for each slice.

    Raises:
        UsageError: one is not of a CT or MR, for example of another unit.
    """
    checked = np.array(thickness, dtype=np.float64)
    if not ((checked >= PLAUSIBLE[0]) & (checked <= PLAUSIBLE[1])).all():
        problem = f"slice thickness must be {PLAUSIBLE[0]:g} to {PLAUSIBLE[1]:g} mm ({checked.tolist()} mm was given)"
        raise UsageError("E-USE", problem, fix="give it in mm")
    return checked


def estimate_profile(
    lr: Tensor | np.ndarray, *, in_plane: Sequence[float], positions: np.ndarray, slice_thickness: float | np.ndarray
) -> Profile | None:
    """ "box" if slices are sharper than a Gaussian profile of their thickness permits.

    Let E(k) be the mean squared difference of voxels k slice steps apart. The score is
    ``log E(1)/E(2) − ¾ log E(2)/E(3)`` through plane, minus the same in plane after a blur by the profile; the
    mean for both profiles and both in-plane axes. The second ratio hardly depends on the profile and removes the
    anisotropy of the anatomy. A box is assumed above :data:`THRESHOLDS`; see also :data:`OVERLAP`.

    Args:
        lr: (X, Y, m) acquired slices, normalized.
        in_plane: spacing of X and Y, mm.
        positions: (m,) increasing centers of the slices, mm.
        slice_thickness: FWHM of the profile, mm; (m,) if slices differ.

    Returns:
        None if the evidence is insufficient: few or unevenly spaced slices, slices of different thickness, large
        gaps or overlaps, a field of view of a few slice steps.

    Source: ``python -m tests.benchmarks.profiles`` measures how often the estimate is wrong.
    """
    scores = _scores(lr, in_plane=in_plane, positions=positions, slice_thickness=slice_thickness)
    if scores is None:
        return None
    if scores.mean() > threshold(in_plane, positions):
        return "box"
    overlap = float(np.max(slice_thickness)) > OVERLAP * np.diff(positions).mean()
    return "box" if overlap and scores[1] > 0 else "gaussian"


def threshold(in_plane: Sequence[float], positions: np.ndarray) -> float:
    """The threshold of :data:`THRESHOLDS` for these slices."""
    near, far = THRESHOLDS
    return near if np.diff(positions).mean() < FAR * min(in_plane) else far


def profile_score(
    lr: Tensor | np.ndarray, *, in_plane: Sequence[float], positions: np.ndarray, slice_thickness: float | np.ndarray
) -> float | None:
    """The score of :func:`estimate_profile`; None if the evidence is insufficient."""
    scores = _scores(lr, in_plane=in_plane, positions=positions, slice_thickness=slice_thickness)
    return None if scores is None else float(scores.mean())


def _scores(
    lr: Tensor | np.ndarray, *, in_plane: Sequence[float], positions: np.ndarray, slice_thickness: float | np.ndarray
) -> np.ndarray | None:
    """The scores after a blur by a Gaussian and by a box."""
    steps, thickness = np.diff(positions), np.unique(slice_thickness)
    if len(positions) < FEWEST_SLICES or np.ptp(steps) > 0.01 * steps.mean() or len(thickness) > 1:
        return None
    step, width = float(steps.mean()), float(thickness[0])
    thinnest, thickest = THICKNESS_RANGE
    if not thinnest <= width / step <= thickest:
        return None
    voxels = np.clip(as_array(lr).astype(np.float32, copy=False), *_INTENSITIES)
    scores = [
        _sharpness(lines, 2, lag=1)
        - np.array([_sharpness(_blurred(lines, spacing, step, width, seen), 0, lag=2) for seen in _COMPARED])
        for lines, spacing in _lines_along(voxels, in_plane)
        if lines.shape[0] * spacing > 6 * step + 2 * width
    ]
    means = np.mean(scores, axis=0) if scores else np.full(len(_COMPARED), np.nan)
    return means if np.isfinite(means).all() else None


def _lines_along(lr: np.ndarray, in_plane: Sequence[float]) -> list[tuple[np.ndarray, float]]:
    """The volume with each in-plane axis first; at most a certain number of lines along it."""
    turned = [(lr, in_plane[0]), (lr.swapaxes(0, 1), in_plane[1])]
    return [(lines[:, :: max(1, lines.size // _LINES)], spacing) for lines, spacing in turned]


def _blurred(lines: np.ndarray, spacing: float, step: float, width: float, profile: Profile) -> np.ndarray:
    """Lines along the first axis, blurred by a profile and sampled every half slice step."""
    places = np.arange(lines.shape[0]) * spacing
    margin = 0.8 * max(step, width)
    centers = np.arange(margin, places[-1] - margin, step / 2)
    weights = profile_weights(places, centers, slice_thickness=width, profile=profile)
    return np.tensordot(weights.astype(np.float32), lines, 1)


def _sharpness(voxels: np.ndarray, axis: int, *, lag: int) -> float:
    """``log E(1)/E(2) − ¾ log E(2)/E(3)``, with a slice step of ``lag`` voxels; NaN for a constant volume."""
    along = np.moveaxis(voxels, axis, 0)
    means = [float(np.mean((along[k:] - along[:-k]) ** 2, dtype=np.float64)) for k in (lag, 2 * lag, 3 * lag)]
    if not min(means) > 0:
        return math.nan
    one, two, three = map(math.log, means)
    return (one - two) - _LONGER_STEP * (two - three)
