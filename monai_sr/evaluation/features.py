"""First-order and texture features of a region, by the definitions of the IBSI.

Source: Zwanenburg 2020, "The image biomarker standardization initiative". The tests compare with its digital phantom.
"""

from __future__ import annotations

from itertools import product

import numpy as np

FIRST_ORDER = ("mean", "variance", "skewness", "kurtosis", "P10", "P90", "quartile range", "entropy")
TEXTURE = ("contrast", "correlation", "joint entropy", "inverse difference", "angular second moment")
FEATURES = (*FIRST_ORDER, *TEXTURE)

_HALF = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
"""The 13 directions to a neighbor; the opposite ones are counted by symmetry."""


def measure_features(voxels: np.ndarray, mask: np.ndarray, *, bin_width: float) -> dict[str, float]:
    """The features of :data:`FEATURES`.

    Args:
        voxels: (X, Y, Z), in the units of the file.
        mask: (X, Y, Z) bool, at least one voxel.
        bin_width: of the gray levels of entropy and texture, in the units of the file; a level begins at each
            multiple of it.

    Returns:
        By name. Kurtosis is 0 for a Gaussian, entropies are in bits. Texture is that of the gray level
        co-occurrence matrix of the 13 directions together, at a distance of one voxel.
    """
    levels = np.floor(voxels / bin_width).astype(np.int64)
    levels -= levels[mask].min()
    return _first_order(voxels[mask].astype(np.float64), levels[mask]) | _texture(levels, mask)


def _first_order(values: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    p10, p25, p75, p90 = np.percentile(values, (10, 25, 75, 90))
    apart = values - values.mean()
    variance = float((apart**2).mean())
    flat = max(variance, 1e-12)
    figures = (
        float(values.mean()),
        variance,
        float((apart**3).mean() / flat**1.5),
        float((apart**4).mean() / flat**2 - 3) if variance else 0.0,
        *(float(p10), float(p90), float(p75 - p25), _entropy(np.bincount(levels) / levels.size)),
    )
    return dict(zip(FIRST_ORDER, figures, strict=True))


def _texture(levels: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    matrix = co_occurrences(levels, mask)
    if not matrix.any():
        return dict.fromkeys(TEXTURE, float("nan"))
    i, j = np.indices(matrix.shape)
    mean = float((i * matrix).sum())
    variance = float(((i - mean) ** 2 * matrix).sum())
    figures = (
        float(((i - j) ** 2 * matrix).sum()),
        float(((i - mean) * (j - mean) * matrix).sum() / variance) if variance else 1.0,
        _entropy(matrix),
        float((matrix / (1 + np.abs(i - j))).sum()),
        float((matrix**2).sum()),
    )
    return dict(zip(TEXTURE, figures, strict=True))


def co_occurrences(levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, n) symmetric probabilities that two neighboring voxels of a region have the levels i and j.

    Args:
        levels: (X, Y, Z) whole numbers, from 0 inside the mask.
        mask: (X, Y, Z) bool.
    """
    count = int(levels[mask].max()) + 1
    pairs = np.zeros(count * count)
    for step in _HALF:
        here, there = (
            tuple(slice(max(sign * s, 0), n + min(sign * s, 0)) for s, n in zip(step, mask.shape, strict=True))
            for sign in (-1, 1)
        )
        both = mask[here] & mask[there]
        pairs += np.bincount(levels[here][both] * count + levels[there][both], minlength=count * count)
    matrix = pairs.reshape(count, count) + pairs.reshape(count, count).T
    return matrix / max(matrix.sum(), 1)


def _entropy(probabilities: np.ndarray) -> float:
    """In bits."""
    some = probabilities[probabilities > 0]
    return float(-(some * np.log2(some)).sum())
