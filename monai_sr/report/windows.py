"""From HU or signal to the gray levels of a picture, so that a viewer can change the window without the voxels.

Pictures hold 8-bit *codes* over the whole range, finer where tissue is; a window is a table from code to
gray that the browser applies (an SVG filter).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..intensities import Modality

CT_CODES = ((-1024.0, 0), (-200.0, 50), (0.0, 95), (100.0, 170), (300.0, 215), (1500.0, 255))
"""HU and its code, linear between: 1.3 HU a step between water and soft tissue, 5 to 30 elsewhere."""

CT_PRESETS = {"soft tissue": (-160.0, 240.0), "lung": (-1350.0, 150.0), "bone": (-500.0, 1300.0), "brain": (0.0, 80.0)}
"""HU that become black and white."""

MR_FULL = (0.1, 99.9)
"""Percentiles that pictures of MR hold; what is beyond is clipped in them."""

MR_PRESETS = {"standard": (0.5, 99.5), "dim": (0.5, 75.0), "bright": (25.0, 99.9)}
"""Percentiles that become black and white."""

LUNG_SHARE = 0.25
"""A CT with more air-like tissue inside the body than this is shown in the lung window first."""


@dataclass(frozen=True)
class Windows:
    """How the gray of one case is coded, and the windows to look at it.

    Attributes:
        knots: (k,) increasing values, HU or signal.
        codes: (k,) code of each knot, 0..255.
        presets: name to the values that become black and white; the first is shown first.
        unit: "HU", or "" for MR.
    """

    knots: np.ndarray
    codes: np.ndarray
    presets: dict[str, tuple[float, float]]
    unit: str

    def encode(self, values: np.ndarray) -> np.ndarray:
        """uint8 codes of values in the file's units."""
        return np.rint(np.interp(values, self.knots, self.codes)).astype(np.uint8)

    def table(self, preset: str) -> np.ndarray:
        """(256,) gray 0..1 of each code under a preset."""
        low, high = self.presets[preset]
        values = np.interp(np.arange(256), self.codes, self.knots)
        return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def windows_for(voxels: np.ndarray, modality: Modality, body: np.ndarray) -> Windows:
    """The windows of a case, by what was acquired of it.

    Args:
        voxels: a sample of the acquired volume, in its units.
        modality: CT by fixed presets in HU, MR by percentiles.
        body: which of them lie inside the patient.
    """
    if modality == "CT":
        inside = voxels[body] if body.any() else voxels
        lung = float(np.mean((inside > -980) & (inside < -500)))
        first = "lung" if lung > LUNG_SHARE else "soft tissue"
        presets = {first: CT_PRESETS[first]} | CT_PRESETS
        hu, codes = np.array(CT_CODES, dtype=np.float64).T
        return Windows(hu, codes, presets, "HU")
    names = list(MR_PRESETS)
    levels = np.percentile(voxels, [*MR_FULL, *(p for name in names for p in MR_PRESETS[name])])
    low, high = float(levels[0]), float(levels[1])
    if high <= low:
        low, high = float(voxels.min()), float(voxels.max()) + 1e-6
    presets = {}
    for index, name in enumerate(names):
        bottom, top = (float(v) for v in levels[2 + 2 * index : 4 + 2 * index])
        presets[name] = (bottom, top) if top > bottom else (low, high)
    return Windows(np.array([low, high]), np.array([0.0, 255.0]), presets, "")
