"""Charts of scores: gain over cubic and through-plane resolution of each method, by factor.

They are SVG, sharp in print and without a library. A volume counts once, as in the tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..files import write_text
from ..report.svg import METHOD_COLORS, Curve, Mark, document
from .scores import Score
from .tables import gain_interval, gains_over_cubic, means_by_volume

_APART = 0.02
"""Offset between methods, as a fraction of the range of factors, so that their intervals do not overlap."""


def write_charts(scores: Sequence[Score], folder: str | Path) -> list[Path]:
    """Write ``gain_*.svg`` and ``resolution_*.svg`` for every modality and condition.

    Points are means over volumes, whiskers their 95 % bootstrap intervals (two volumes or more).

    Args:
        scores: from :func:`monai_sr.evaluation.scores.evaluate`.
        folder: an existing folder.

    Returns:
        The paths of the files.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for modality, name in dict.fromkeys((s.modality, s.condition.name) for s in scores):
        chosen = [s for s in scores if (s.modality, s.condition.name) == (modality, name)]
        volumes = len({s.volume for s in chosen})
        subject = f"{modality}, {volumes} volume{'s' if volumes > 1 else ''}{'' if name == 'plain' else f', {name}'}"
        stem = "_".join(filter(None, [modality, "" if name == "plain" else re.sub(r"[^A-Za-z0-9.]+", "-", name)]))
        charts = {
            "gain": ("PSNR over cubic, dB", _gains, [Mark("cubic", y=0.0)]),
            "resolution": ("resolution across the slices, mm", _resolutions, []),
        }
        for name_of_chart, (y, values, marks) in charts.items():
            curves = _curves(chosen, values)
            if not curves:
                continue
            factors = sorted({s.condition.factor for s in chosen})
            chart = document(
                curves,
                title=f"{y}, by factor and method. {subject}",
                x=f"factor ({subject})",
                y=y,
                marks=marks,
                x_ticks=[(factor, f"×{factor:g}") for factor in factors],
            )
            written.append(write_text(chart, Path(folder) / f"{name_of_chart}_{stem}.svg"))
    return written


def _gains(scores: Sequence[Score], method: str) -> list[float]:
    return [] if method == "cubic" else gains_over_cubic(scores, method)


def _resolutions(scores: Sequence[Score], method: str) -> list[float]:
    return list(means_by_volume([s for s in scores if s.method == method], "resolution_mm").values())


def _curves(scores: Sequence[Score], values: Callable[[Sequence[Score], str], list[float]]) -> list[Curve]:
    """A curve for every method that has values, in the order of the scores."""
    factors = sorted({s.condition.factor for s in scores})
    methods = list(dict.fromkeys(s.method for s in scores))
    step = _APART * (factors[-1] - factors[0] or 1.0)
    curves = []
    for number, method in enumerate(methods):
        at, means, low, high = [], [], [], []
        for factor in factors:
            gains = values([s for s in scores if s.condition.factor == factor], method)
            if not gains:
                continue
            interval = gain_interval(gains) or (np.nan, np.nan)
            at.append(factor + (number - (len(methods) - 1) / 2) * step)
            means.append(float(np.mean(gains)))
            low.append(interval[0])
            high.append(interval[1])
        if at:
            color = f"m{number % len(METHOD_COLORS)}"
            curves.append(Curve(method, color, at, means, "points and line", low=low, high=high))
    return curves
