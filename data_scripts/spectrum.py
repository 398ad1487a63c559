"""Is a volume as sharp as its spacing says? See its spectrum along each axis.

A volume interpolated from thick slices has a fine spacing in its header and nothing fine in its voxels:
smooth interpolation leaves the upper frequencies empty, piecewise interpolation (linear, nearest) leaves
differences between neighbors that come and go with the period of the thick slices. Training on such a
volume would teach a network that thin slices look like interpolated ones.

The thresholds are measured; README.md has the table and ``tests/test_data_scripts.py`` repeats it.
What cannot be seen: interpolation followed by added noise or by a sharpening that fills the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

LEAST_VOXELS = 32
"""Below this many voxels along an axis its spectrum says nothing certain."""

RELATIVE_SHARE = 0.3
"""Minimum fraction of power above half Nyquist, relative to the sharper of the two other axes.

Measured: acquired volumes 0.49 and up; thickened ones that ripple does not betray 0.29 and down."""

ROLL_OFF = 0.065
"""Minimum power of an octave over the octave below it: finds volumes that are soft along all axes alike.

Measured: acquired volumes 0.092 and up; thickened ones with cubic interpolation 0.046 and down."""

RIPPLE = 0.6
"""Largest periodic change of the log energy of differences between neighbors.

Measured: acquired volumes 0.18 and down; linear and nearest interpolation 1.2 and up, except for x2 with
slice centers half way between voxels, which RELATIVE_SHARE finds."""

_PART = 128  # voxels along each axis, from the middle: enough for the figures, and quick
_LONGEST_PERIOD = 8.5  # voxels; more would take the anatomy itself for ripple


@dataclass(frozen=True)
class Sharpness:
    """What the spectrum along one axis says.

    Args:
        share: power above half the Nyquist frequency over all power but the lowest frequencies.
        relative: that fraction over the larger one of the two other axes.
        roll_off: power of an octave over that of the octave below it, the lower of the two upper ones.
        ripple: amplitude of the strongest period of the log energy of differences between neighbors.
    """

    share: float
    relative: float
    roll_off: float
    ripple: float

    @property
    def fault(self) -> str | None:
        """Why this axis is softer than its spacing, or None."""
        if self.ripple > RIPPLE:
            return f"differences between neighbors come and go periodically (ripple {self.ripple:.2f} > {RIPPLE})"
        if self.relative < RELATIVE_SHARE:
            return (
                f"power above half Nyquist is {self.relative:.2f} of the sharpest other axis's, needed {RELATIVE_SHARE}"
            )
        if self.roll_off < ROLL_OFF:
            return f"power falls to {self.roll_off:.3f} within an octave, needed {ROLL_OFF}"
        return None


def measure(voxels: np.ndarray) -> tuple[Sharpness, Sharpness, Sharpness]:
    """Sharpness along the three axes of a volume (X, Y, Z), on the half of its lines with most contrast.

    Raises:
        ValueError: an axis is too short, or there is no contrast along it.
    """
    if voxels.ndim != 3 or min(voxels.shape) < LEAST_VOXELS:
        raise ValueError(f"{' x '.join(map(str, voxels.shape))} voxels, at least {LEAST_VOXELS} per axis are needed")
    part = voxels[tuple(_middle(n) for n in voxels.shape)].astype(np.float32)
    differences = [_differences(part, axis) for axis in range(3)]
    spectra = [_spectrum(d) for d in differences]
    shares = [_power(s, 0.5, 1) / _power(s, 0.02, 1) for s in spectra]
    first, second, third = (
        Sharpness(
            share=shares[a],
            relative=shares[a] / max(*(s for b, s in enumerate(shares) if b != a), np.finfo(float).tiny),
            roll_off=min(
                _power(spectra[a], 0.5, 1) / _power(spectra[a], 0.25, 0.5),
                _power(spectra[a], 0.25, 0.5) / _power(spectra[a], 0.125, 0.25),
            ),
            ripple=max(_ripple(differences[a]), _ripple(np.diff(differences[a], axis=1))),
        )
        for a in range(3)
    )
    return first, second, third


def _middle(n: int) -> slice:
    """The middle part of an axis."""
    start = max(0, (n - _PART) // 2)
    return slice(start, start + _PART)


def _differences(part: np.ndarray, axis: int) -> np.ndarray:
    """(lines, n - 1) differences between neighbors, of the lines with more contrast than the median line."""
    lines = np.diff(np.moveaxis(part, axis, -1).reshape(-1, part.shape[axis]), axis=1)
    energy = (lines**2).mean(axis=1)
    if not energy.any():
        raise ValueError(f"no contrast along axis {axis} in the middle of the volume")
    return lines[(energy >= np.median(energy)) & (energy > 0)]


def _spectrum(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in units of Nyquist, and mean power of the lines there.

    Of the differences, with their response divided out: anatomy falls off so steeply that a window
    alone would let its low frequencies leak over the high ones.
    """
    n = differences.shape[1]
    power = (np.abs(np.fft.rfft(differences * np.hanning(n), axis=1)) ** 2).mean(axis=0)[1:]
    frequency = np.fft.rfftfreq(n)[1:] * 2
    return frequency, power / (2 * np.sin(np.pi * frequency / 2)) ** 2


def _power(spectrum: tuple[np.ndarray, np.ndarray], above: float, to: float) -> float:
    """Power between two frequencies, never quite zero."""
    frequency, power = spectrum
    return float(power[(frequency > above) & (frequency <= to)].sum() + 1e-12 * power.sum())


def _ripple(differences: np.ndarray) -> float:
    """Amplitude of the strongest period in the log energy along the lines."""
    energy = (differences.astype(np.float64) ** 2).mean(axis=0)
    # without the empty slices at the ends, whose beginning would ring through all periods
    (full,) = np.nonzero(energy > 0.05 * energy.mean())
    energy = energy[full[0] : full[-1] + 1]
    level = np.log(energy + 1e-6 * energy.mean())
    level -= uniform_filter1d(level, 9, mode="nearest")
    n = len(level)
    amplitude = np.abs(np.fft.rfft(level * np.hanning(n))) * 4 / n
    return float(amplitude[np.fft.rfftfreq(n) >= 1 / _LONGEST_PERIOD].max())
