"""The slice profile of a real pair, fitted to its thick and thin voxels.

Every thick voxel is compared with the thin voxels on the line through it, across the thick slice. The weights that
give the thick voxel are the slice profile, as seen from the thin series: the profile of the thin slices adds to it,
about in quadrature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize, nnls

from ..errors import ImageError, warn
from ..grid import grid_of
from ..profiles import ProtocolWidth
from ..slices import PROFILES, Profile, profile_matrix
from .metrics import foreground
from .pairs import Pair, normal_of

VOXELS = 12_000
"""Thick voxels to which a profile is fitted, and as many of their neighbors in plane."""

REACH = 1.3
"""Thin voxels on a line reach so many slice thicknesses to each side."""

SMOOTH = 2.0
"""Standard deviation of the smoothing in plane before a profile is fitted, mm. On the pair in the README, whose kernels
differ, the widths that are fitted come from 4.9 mm to 4.6 mm; with equal kernels it is 4.45 mm."""

SAME_KERNEL = 1.15
"""In-plane differences of the thick slices and of averaged thin slices have at most this ratio, or its inverse, if both
were reconstructed alike. The pair in the README (kernels UB and YA) has a ratio of 0.7."""

SAME_PLACE = 0.4
"""A pair whose slices lie farther from the thin ones, in thin slices, is shifted by half of one at least."""

EXPLAINED = 0.9
"""Minimum fraction of the variance of the thick voxels that the thin ones explain in a pair that fits."""


@dataclass(frozen=True)
class Fit:
    """The best profile of one form.

    Attributes:
        profile: its form.
        width: FWHM, mm.
        shift: of its center from the center of the slice, mm.
        residual: RMS of the thick voxels minus the weighted thin ones, HU or signal.
        by_header: the same for the thickness in the header.
    """

    profile: Profile
    width: float
    shift: float
    residual: float
    by_header: float


@dataclass(frozen=True, eq=False)
class PairFit:
    """The slice profile of a pair.

    Attributes:
        offsets: (k,) of the thin voxels on a line, mm.
        weights: (k,) of the best non-negative weights.
        free_residual: RMS residual of these.
        fits: the best of each form, by increasing residual after smoothing in plane.
        explained: fraction of the variance of the thick voxels that the best of them explains.
        gain: values of the thick voxels divided by those of the weighted thin ones; 1 for CT.
        in_plane: RMS in-plane difference of the thick slices divided by that of the weighted thin ones.
    """

    offsets: np.ndarray
    weights: np.ndarray
    free_residual: float
    fits: tuple[Fit, ...]
    explained: float
    gain: float
    in_plane: float

    @property
    def best(self) -> Fit:
        """The one that fits best."""
        return self.fits[0]

    @property
    def free_width(self) -> float:
        """FWHM of the free weights, interpolated, mm."""
        at = np.linspace(self.offsets[0], self.offsets[-1], 4001)
        curve = np.interp(at, self.offsets, self.weights)
        return float((curve > curve.max() / 2).mean() * (at[-1] - at[0]))


def fit_profile(pair: Pair) -> PairFit:
    """Fit the slice profile of a pair, and warn where it is a doubtful one (W-PAIR-KERNEL, W-PAIR-FIT).

    Widths and forms are fitted to slices that were smoothed in plane, with a free gain and offset, because kernels
    differ less there; all residuals are of the slices as they are.

    Raises:
        ImageError: too few thick voxels have thin ones around them (E-PAIR-OVERLAP).
    """
    nominal = float(np.median(pair.acquired.slice_thickness))
    half = int(np.ceil(REACH * max(nominal, pair.acquired.slice_spacing) / pair.step))
    offsets = np.arange(-half, half + 1) * pair.step
    here, beside = _places(pair, offsets)
    count = len(here)
    if count < 2 * len(offsets):
        problem = f"{count} thick voxels of the body lie inside the thin series with room around them"
        raise ImageError("E-PAIR-OVERLAP", problem, path=pair.name)
    at = np.concatenate([here, beside])
    images = pair.thick[0].numpy(), pair.thin[0].numpy()
    lines, thick = _lines(pair, *images, at, offsets)
    smooth_lines, smooth_thick = _lines(pair, *_smooth_in_plane(pair, *images), at, offsets)
    ones = np.ones((len(thick), 1))
    free, residual = nnls(np.hstack([lines, ones, -ones]), thick)

    def weigh(lines: np.ndarray, profile: Profile, width: float, shift: float) -> np.ndarray:
        center = np.clip([shift], offsets[0], offsets[-1])
        return lines @ profile_matrix(offsets, center, slice_thickness=width, profile=profile)[0].numpy()

    def smooth_rms(x: np.ndarray, profile: Profile) -> float:
        seen = weigh(smooth_lines, profile, float(np.exp(x[0])), float(x[1]))
        return _rms(smooth_thick - np.polyval(np.polyfit(seen, smooth_thick, 1), seen))

    def rms(profile: Profile, width: float, shift: float) -> float:
        seen = weigh(lines, profile, width, shift)
        if pair.acquired.modality != "CT":
            seen = np.polyval(np.polyfit(seen, thick, 1), seen)
        return _rms(thick - seen)

    def fit(profile: Profile) -> tuple[float, Fit]:
        start, how = (np.log(nominal), 0.0), {"xatol": 1e-3, "fatol": 1e-4}
        optimum = minimize(smooth_rms, start, (profile,), method="Nelder-Mead", options=how)
        width, shift = float(np.exp(optimum.x[0])), float(optimum.x[1])
        return float(optimum.fun), Fit(profile, width, shift, rms(profile, width, shift), rms(profile, nominal, shift))

    fits = tuple(one for _, one in sorted(map(fit, PROFILES), key=lambda found: found[0]))
    seen = weigh(lines, fits[0].profile, fits[0].width, fits[0].shift)
    gain = 1.0 if pair.acquired.modality == "CT" else float(np.polyfit(seen, thick, 1)[0])
    steps = [_rms(values[count:] - values[:count]) for values in (thick, gain * seen)]
    made = PairFit(
        offsets=offsets,
        weights=free[: len(offsets)],
        free_residual=float(residual / np.sqrt(len(thick))),
        fits=fits,
        explained=1 - fits[0].residual ** 2 / float(np.var(thick)),
        gain=gain,
        in_plane=steps[0] / max(steps[1], 1e-10),
    )
    _warn_of(made, pair)
    return made


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _smooth_in_plane(pair: Pair, thick: np.ndarray, thin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both volumes (X, Y, Z) smoothed in the plane of the thick slices; as they are if their axes are not parallel."""
    normal, smooth = normal_of(pair.acquired), []
    for voxels, grid in ((thick, pair.acquired.grid), (thin, grid_of(pair.thin))):
        across = np.abs(normal @ grid.affine[:3, :3]) / grid.spacing
        if sorted(across.round(2)) != [0, 0, 1]:
            return thick, thin
        sigma = [0.0 if c > 0.5 else SMOOTH / s for c, s in zip(across, grid.spacing, strict=True)]
        smooth.append(ndimage.gaussian_filter(voxels, sigma))
    return smooth[0], smooth[1]


def _places(pair: Pair, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) indices of thick voxels of the body with thin voxels all along their lines, and of a neighbor in plane."""
    voxels, along = pair.thick[0].numpy(), 0 if pair.acquired.axis else 1
    body = foreground(voxels, pair.acquired.modality)
    body = body & np.roll(body, -1, along)
    body[tuple(-1 if a == along else slice(None) for a in range(3))] = False
    here = np.random.default_rng(0).permutation(np.argwhere(body))[: 8 * VOXELS]
    beside = here + np.eye(3, dtype=int)[along]
    last = np.array(pair.thin.shape[1:]) - 1
    ends = [_in_thin(pair, at, offset) for at in (here, beside) for offset in (offsets[0], offsets[-1])]
    inside = np.all([((end > -1e-3) & (end < last + 1e-3)).all(axis=1) for end in ends], axis=0)
    return here[inside][:VOXELS], beside[inside][:VOXELS]


def _in_thin(pair: Pair, at: np.ndarray, offset: float) -> np.ndarray:
    """(n, 3) indices in the thin series of thick voxels, moved across their slices by an offset in mm."""
    affine, inverse = pair.acquired.grid.affine, np.linalg.inv(grid_of(pair.thin).affine)
    world = at @ affine[:3, :3].T + affine[:3, 3] + offset * normal_of(pair.acquired)
    return world @ inverse[:3, :3].T + inverse[:3, 3]


def _lines(
    pair: Pair, thick: np.ndarray, thin: np.ndarray, at: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) thin values on the lines through thick voxels, and (n,) those voxels."""
    spline = ndimage.spline_filter(thin, 3, output=np.float32, mode="mirror")
    lines = [
        ndimage.map_coordinates(spline, _in_thin(pair, at, offset).T, order=3, mode="mirror", prefilter=False)
        for offset in offsets
    ]
    return np.stack(lines, axis=1).astype(np.float64), thick[tuple(at.T)].astype(np.float64)


def _warn_of(fit: PairFit, pair: Pair) -> None:
    """Warn of different kernels and of a pair that does not fit."""
    known, fitting = all(pair.kernels), fit.explained >= EXPLAINED
    unlike = fitting and not 1 / SAME_KERNEL <= fit.in_plane <= SAME_KERNEL
    if pair.kernels[0] != pair.kernels[1] if known else unlike:
        warn(
            "W-PAIR-KERNEL",
            "kernels or in-plane resolutions differ ({said}in-plane differences of the thick slices are {ratio:.2f} of "
            "those of averaged thin slices); gains and widths say little",
            path=pair.name,
            facts={"said": f"{pair.kernels[0]} and {pair.kernels[1]}; " if known else "", "ratio": fit.in_plane},
        )
    if not fitting:
        text = (
            "the thin series explains {fraction:.0%} of the variance of the thick one (of a pair at least "
            f"{EXPLAINED:.0%}); they may be shifted, or of different phases"
        )
        warn("W-PAIR-FIT", text, path=pair.name, facts={"fraction": fit.explained})
    elif abs(fit.best.shift) > SAME_PLACE * pair.step:
        text = (
            "the thin series lies {shift:.2g} mm beside the thick one, across its slices; gains say little "
            "(--register aligns them)"
        )
        warn("W-PAIR-FIT", text, path=pair.name, facts={"shift": fit.best.shift})


def fit_record(pair: Pair, fit: PairFit) -> dict[str, Any]:
    """A fit as JSON holds it; lengths in mm, residuals in HU or signal."""
    return {
        "pair": pair.name,
        "modality": pair.acquired.modality,
        "protocol": asdict(pair.protocol),
        "kernels": list(pair.kernels),
        "slice_spacing": round(pair.acquired.slice_spacing, 4),
        "thin_spacing": round(pair.step, 4),
        "registered": None if pair.moved is None else {"mm": pair.moved[0], "degrees": pair.moved[1]},
        "free": {
            "offsets": np.round(fit.offsets, 4).tolist(),
            "weights": np.round(fit.weights, 4).tolist(),
            "width": round(fit.free_width, 3),
            "residual": round(fit.free_residual, 3),
        },
        "fits": {
            one.profile: {
                "width": round(one.width, 3),
                "shift": round(one.shift, 3),
                "residual": round(one.residual, 3),
                "residual_by_header": round(one.by_header, 3),
            }
            for one in fit.fits
        },
        "explained": round(fit.explained, 4),
        "in_plane": round(fit.in_plane, 3),
    }


def protocol_width(pair: Pair, fit: PairFit) -> ProtocolWidth:
    """A row of a table of protocols, of one pair.

    Raises:
        ImageError: the thick series has no header that names its protocol and thickness (E-PAIR-PROTOCOL), or the thin
            one does not explain it (E-PAIR-FIT).
    """
    protocol = pair.protocol
    if not (protocol.manufacturer and protocol.scan and pair.nominal):
        problem = "the header, or the JSON beside it, does not give manufacturer, kind of scan and slice thickness"
        raise ImageError("E-PAIR-PROTOCOL", problem)
    if fit.explained < EXPLAINED:
        problem = (
            f"the thin series explains {fit.explained:.0%} of the variance of the thick one, {EXPLAINED:.0%} needed"
        )
        raise ImageError("E-PAIR-FIT", problem)
    return ProtocolWidth(protocol, pair.nominal, fit.best.width, fit.best.profile, 1, fit.best.residual)


def join_widths(known: Sequence[ProtocolWidth], fitted: Sequence[ProtocolWidth]) -> list[ProtocolWidth]:
    """The rows of a table, those of the fitted protocols replaced by the medians over their pairs.

    The profile is the most frequent one; widths of other profiles are left out.
    """
    rows = [row for row in known if not any(row.is_of(new.protocol, new.thickness) for new in fitted)]
    left = list(fitted)
    while left:
        same = [row for row in left if left[0].is_of(row.protocol, row.thickness)]
        left = [row for row in left if row not in same]
        profile = Counter(row.profile for row in same).most_common(1)[0][0]
        chosen = [row for row in same if row.profile == profile]
        width, residual = (float(np.median([getattr(row, name) for row in chosen])) for name in ("width", "residual"))
        rows.append(ProtocolWidth(same[0].protocol, same[0].thickness, width, profile, len(chosen), residual))
    return rows
