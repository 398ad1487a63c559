"""What the pictures show, as curves: along one line across the slices, and as power over frequency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Later
from .views import Scene

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")

COLUMNS = 4096
"""Lines across the slices that a spectrum is the mean of, at most."""

REACH = 5.0
"""Acquired slices shown on either side of the edge."""


@dataclass(frozen=True)
class Profile:
    """Values along the line across the slices where neighboring acquired slices differ most.

    Attributes:
        thick_at, thin_at: mm from the edge.
        thick, cubic, sr: values there, in the file's units.
        place: RAS mm of the edge.
    """

    thick_at: np.ndarray
    thin_at: np.ndarray
    thick: np.ndarray
    cubic: np.ndarray
    sr: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Spectrum:
    """Mean power of lines through the body.

    Attributes:
        frequency: cycles per mm, above 0.
        power: per frequency, in squared units of the file times mm.
    """

    frequency: np.ndarray
    power: np.ndarray


def steepest_profile(scene: Scene) -> Profile | None:
    """The profile of a scene; None if fewer than four slices were acquired.

    The edge is looked for among acquired slices, so that no method is favored, in means of 3 x 3
    voxels, so that it is no noise, and not at the ends.
    """
    m = len(scene.thick_at)
    if m < 4:
        return None
    steepest, place = -1.0, (0, 0, 0)
    inner = tuple(slice(n // 10, max(n // 10 + 1, n - n // 10)) for n in scene.thick.shape[:2])
    before = None
    for j in range(1, m - 1):
        after = ndimage.uniform_filter(_tissue(scene, scene.thick[..., j]), 3)
        if before is not None:
            steps = np.abs(after - before)[inner]
            edge = np.unravel_index(int(steps.argmax()), steps.shape)
            if steps[edge] > steepest:
                steepest = float(steps[edge])
                place = (int(edge[0]) + inner[0].start, int(edge[1]) + inner[1].start, j)
        before = after
    i, k, j = place
    middle = float(scene.thick_at[j - 1] + scene.thick_at[j]) / 2
    reach = REACH * float(np.median(np.diff(scene.thick_at)))
    thick_in, thin_in = (np.abs(at - middle) <= reach for at in (scene.thick_at, scene.thin_at))
    column = _tissue(scene, scene.thick[i, k])
    return Profile(
        scene.thick_at[thick_in] - middle,
        scene.thin_at[thin_in] - middle,
        column[thick_in],
        (scene.cubic @ column)[thin_in],
        scene.plane("sr", 0, i)[k][thin_in],
        scene.world((i, k, j - 0.5)),
    )


def spectra(scene: Scene) -> dict[str, Spectrum]:
    """Of the acquired slices, cubic and the result across the slices; of the acquired ones in-plane.

    Empty where there are too few slices, or they are uneven.
    """
    steps = np.diff(scene.thick_at)
    if len(scene.thick_at) < 8 or steps.max() > 1.02 * steps.min():
        return {}
    a, b, m = scene.thick.shape
    rows = [np.unique(np.linspace(n // 6, n - 1 - n // 6, min(n, 64)).round().astype(int)) for n in (a, b)]
    columns = _tissue(scene, scene.thick[np.ix_(*rows, np.arange(m))]).reshape(-1, m)
    level = np.percentile(columns.mean(axis=1), 40)
    inside = columns.mean(axis=1) >= level
    thick = columns[inside][:COLUMNS]
    sr = np.stack([scene.plane("sr", 0, int(i))[rows[1]] for i in rows[0]]).reshape(-1, scene.thin.shape[2])
    sr = _tissue(scene, sr)[inside][:COLUMNS]
    step = scene.spacings[2]
    powers = {
        "thick": _spectrum(thick, float(steps.mean())),
        "cubic": _spectrum(thick @ scene.cubic.T, step),
        "sr": _spectrum(sr, step),
    }
    some = np.unique(np.linspace(m // 4, m - 1 - m // 4, min(m, 8)).round().astype(int))
    slices = _tissue(scene, scene.thick[..., some])
    along = [
        _spectrum(np.moveaxis(slices, axis, -1)[rows[1 - axis]].reshape(-1, n), scene.spacing[axis])
        for axis, n in enumerate((a, b))
    ]
    finer = along[int(np.argmin(scene.spacing))]
    other = along[int(np.argmax(scene.spacing))]
    mean = (finer.power + np.interp(finer.frequency, other.frequency, other.power)) / 2
    return powers | {"in-plane": Spectrum(finer.frequency, mean)}


def _tissue(scene: Scene, values: np.ndarray) -> np.ndarray:
    """Padding taken as air."""
    return np.maximum(values, -1024.0) if scene.modality == "CT" else np.asarray(values, dtype=np.float32)


def _spectrum(lines: np.ndarray, step: float) -> Spectrum:
    """Power spectral density of lines (k, n) that are ``step`` mm from value to value, Hann window."""
    n = lines.shape[1]
    window = np.hanning(n + 2)[1:-1]
    lines = (lines - lines.mean(axis=1, keepdims=True)) * window
    power = (np.abs(np.fft.rfft(lines, axis=1)) ** 2).mean(axis=0) * step / (window**2).sum()
    return Spectrum(np.fft.rfftfreq(n, step)[1:], power[1:])
