"""Through-plane resolution, estimated from the volume itself: voxel size is not resolution.

Tissue looks similar in all directions, except for the blur of the slices. So the volume is blurred by wider and
wider slice profiles along an in-plane axis, until it changes from sample to sample along that axis as it does
through plane. That width (FWHM of a Gaussian) is the effective slice thickness. The compared measure is the mean
squared difference of samples one lag apart, divided by that of samples two lags apart; contrast and units cancel.

Limits: the method assumes that in-plane axes are sharp and that tissue looks alike in all directions
(``python -m tests.benchmarks.resolution`` measures its error on volumes with known blur). Noise that the slice
profile did not blur, as in most scanners, makes the estimate too fine. A box profile is reported as the Gaussian of
equal smoothness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..acquired import Acquired
from ..errors import Later, warn
from ..grid import Grid, grid_of, voxels_of
from ..slices import apply_along, profile_matrix

if TYPE_CHECKING:
    import torch
    from monai.data import MetaTensor
    from torch import Tensor
else:
    torch = Later("torch")

METHOD = "in-plane axes seen through slice profiles, ratio of squared differences at one and two lags"

WIDTHS = np.geomspace(0.25, 4.0, 17)
"""Widths of the tried profiles, in lags."""

WIDER = 1.7
"""Estimated divided by used thickness above which slices give a warning; see ``tests/benchmarks/resolution`` for how
often that is wrong."""

FEWEST = 4
"""Minimum number of lags along an axis."""

SAMPLES = 1_000_000
"""Maximum number of voxels, from the middle of a larger volume."""


@dataclass(frozen=True)
class Resolution:
    """Resolution of a volume along one axis.

    Attributes:
        mm: effective slice thickness, FWHM of the equivalent Gaussian; NaN if it cannot be estimated.
        lag: distance of the compared samples, mm.
        axis: the axis.
        bounded: "at most" or "at least" if the volume is sharper or smoother than the method can measure.
    """

    mm: float
    lag: float
    axis: int
    bounded: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        mm = None if np.isnan(self.mm) else float(f"{self.mm:.3g}")
        return {"mm": mm} | ({"bounded": self.bounded} if self.bounded else {})

    def text(self) -> str:
        """In words."""
        return "unknown" if np.isnan(self.mm) else f"{self.bounded} {self.mm:.2g} mm".strip()


def length_text(measured: Mapping[str, Any]) -> str:
    """What :meth:`Resolution.record` holds in short: ``1.7 mm``, ``≥ 8 mm`` or ``unknown``."""
    if not isinstance(measured.get("mm"), int | float):
        return "unknown"
    sign = {"at least": "≥ ", "at most": "≤ "}.get(str(measured.get("bounded", "")), "")
    return f"{sign}{float(measured['mm']):.3g} mm"


def measure_resolution(image: MetaTensor, axis: int, *, lag: float | None = None) -> Resolution:
    """The effective slice thickness of a volume.

    Args:
        image: (C, X, Y, Z) with affine; only the first channel is used.
        axis: through-plane axis.
        lag: mm between compared samples, about half of the expected resolution. Default: the slice spacing.

    Returns:
        NaN for a constant volume, or if fewer than :data:`FEWEST` lags fit along an axis.
    """
    return _measure(Acquired.of(image), image, axis, lag)


def effective_resolution(acquired: Acquired, result: MetaTensor) -> tuple[Resolution, Resolution]:
    """Through-plane resolution of an acquired volume and of its result (C, X', Y', Z'), at least the slice spacing."""
    before = _measure(acquired, acquired.image, acquired.axis, None)
    after = _measure(acquired, result, acquired.axis, acquired.slice_spacing / 2)
    return _sampled(before, acquired.grid), _sampled(after, grid_of(result))


def check_width(acquired: Acquired, before: Resolution) -> None:
    """Warn where slices are much wider than the thickness that was used (W-SR-WIDTH).

    The estimate is too uncertain to be used itself, and noise makes slices look thinner than they are; so only slices
    that are estimated at more than :data:`WIDER` times their thickness give a warning.

    Args:
        acquired: the volume.
        before: its resolution, see :func:`effective_resolution`.
    """
    thickness = float(np.median(acquired.slice_thickness))
    if before.bounded or not before.mm > WIDER * thickness:
        return
    facts = {"estimated": before.mm, "thickness": thickness, "source": acquired.source_of("slice_thickness")}
    text = (
        "the slices look {estimated:.3g} mm thick; {thickness:.3g} mm ({source}) is used, so the result stays blurred"
    )
    warn("W-SR-WIDTH", text, path=acquired.path or None, facts=facts)


def _sampled(resolution: Resolution, grid: Grid) -> Resolution:
    """A resolution that is no finer than the slice spacing: thin slices with gaps resolve no more than that."""
    spacing = grid.spacing[resolution.axis]
    return replace(resolution, mm=spacing, bounded="at most") if resolution.mm < spacing else resolution


def _measure(acquired: Acquired, image: Tensor, axis: int, lag: float | None) -> Resolution:
    """:func:`measure_resolution` of an image on any grid that has the padding of an acquired volume."""
    grid = grid_of(image)
    voxels = voxels_of(image)[0]
    voxels = voxels[middle_of(voxels.shape, axis)].float()
    outside = acquired.outside(voxels, 0)
    if outside is not None:
        voxels = torch.where(outside, voxels[~outside].min() if not bool(outside.all()) else voxels, voxels)
    steps = max(1, round((lag or grid.spacing[axis]) / grid.spacing[axis]))
    lag = steps * grid.spacing[axis]
    excess: list[float] = []
    for width in WIDTHS:
        sharper = [_sharper(voxels, grid, a, axis, steps, width * lag) for a in range(3) if a != axis]
        known = [ratio for ratio in sharper if ratio is not None]
        if not known:
            return Resolution(float("nan"), lag, axis)
        # a wider profile makes the in-plane axis smoother, except for noise
        excess.append(float(np.minimum(np.mean(known), excess[-1] if excess else np.inf)))
        if excess[-1] < 0:
            break  # what wider ones give does not count
    if excess[-1] >= 0:
        return Resolution(float(WIDTHS[-1] * lag), lag, axis, "at least")
    if excess[0] <= 0:
        return Resolution(float(WIDTHS[0] * lag), lag, axis, "at most")
    width = lag * float(np.exp(np.interp(0.0, -np.array(excess), np.log(WIDTHS[: len(excess)]))))
    return Resolution(width, lag, axis)


def _sharper(voxels: Tensor, grid: Grid, in_plane: int, axis: int, steps: int, width: float) -> float | None:
    """The ratio along an in-plane axis, seen through a profile of this width (mm), minus the through-plane ratio.

    Both ratios are of the same volume after the blur, which removes detail from both directions, as the slices
    did. None if too few lags fit, or the volume is constant.
    """
    lag = steps * grid.spacing[axis]
    at = np.arange(voxels.shape[in_plane]) * grid.spacing[in_plane]
    count = int(at[-1] // lag)
    if count < FEWEST:
        return None
    # samples half a lag apart, so that both lags are whole steps and more of the volume counts
    places = (at[-1] - count * lag) / 2 + np.arange(2 * count + 1) * lag / 2
    seen = apply_along(profile_matrix(at, places, slice_thickness=width), voxels, in_plane)
    ratios = _ratio(seen, in_plane, 2), _ratio(seen, axis, steps)
    return None if ratios[0] is None or ratios[1] is None else ratios[0] - ratios[1]


def _ratio(voxels: Tensor, axis: int, steps: int) -> float | None:
    """Mean squared difference at one lag, divided by that at two lags."""
    n = voxels.shape[axis]
    if n <= 2 * steps:
        return None
    energies = []
    for lag in (steps, 2 * steps):
        change = voxels.narrow(axis, lag, n - lag) - voxels.narrow(axis, 0, n - lag)
        energies.append(float((change**2).mean(dim=axis).double().mean()))
    return energies[0] / energies[1] if energies[1] > 0 else None


def middle_of(shape: Sequence[int], axis: int) -> tuple[slice, ...]:
    """The middle of a large volume (X, Y, Z), at most :data:`SAMPLES` voxels: all slices, fewer rows and columns."""
    fraction = min(1.0, float(np.sqrt(SAMPLES / np.prod(shape))))
    kept = [n if a == axis else max(1, round(n * fraction)) for a, n in enumerate(shape)]
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, kept, strict=True))
