"""Scores as tables: for the terminal, for a model card, and as files.

A volume counts once: means are taken first over its axes, then over volumes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..files import write_text
from .conditions import Condition
from .methods import SPLINE
from .scores import Score

RESAMPLES = 10_000
FEW = 5
"""With fewer volumes than this, an interval is only an indication."""

FIGURES_EXPLAINED = (
    "PSNR and SSIM inside the foreground (CT: above -500 HU; MR: Otsu; largest component, holes filled), without one "
    "thick slice at each end; data range = 99.9th minus 0.1st percentile of the reference, nothing clipped; gain = "
    "PSNR minus that of the consistent spline on the same volume, in brackets its 95 % bootstrap interval over "
    "volumes; sharpness = slice-to-slice difference divided by that of the reference; consistency = PSNR of the "
    "re-acquired result, compared with the thick slices; resolution (in the files) = half the wavelength across the "
    "slices at which result and reference correlate by 1/2; ceiling = gain at which only the white noise of the "
    "reference remains as error."
)

ROBUSTNESS_EXPLAINED = (
    "PSNR inside the foreground, dB: mean gain over the consistent spline / mean gain over cubic / smallest gain "
    "over cubic of any volume; * if that volume is worse than cubic."
)

_Key = TypeVar("_Key", bound=Hashable)
_Rows = list[list[str]]


def table(scores: Sequence[Score]) -> str:
    """Means over volumes, one line for each modality, factor and method; then the ceiling of each volume."""
    blocks = []
    names = list(dict.fromkeys(s.condition.name for s in scores))
    for name in names:
        rows = [
            ["", "", "method", "n", "PSNR dB", "gain dB", "95 %", "SSIM", "sharpness", "consistency dB", "ceiling dB"]
        ]
        chosen = [s for s in scores if s.condition.name == name]
        for (modality, condition, method), group in _groups(
            chosen, lambda s: (s.modality, s.condition, s.method)
        ).items():
            figures = {key: float(np.mean(list(_by_volume(group, key).values()))) for key in _FIGURES}
            gains = list(_by_volume(group, "gain_db").values())
            rows.append(
                [
                    *(modality, f"x{condition.factor:g}", method, str(len(gains)), f"{figures['psnr_db']:.2f}"),
                    *(_db(figures["gain_db"]), _interval_text(gains) or "-", f"{figures['ssim']:.4f}"),
                    *(f"{figures['sharpness']:.3f}", f"{figures['consistency_db']:.1f}"),
                    f"{figures['ceiling_db']:.1f}",
                ]
            )
        blocks.append(("" if names == ["plain"] else f"{name}\n") + aligned(rows, left=3))
    return "\n\n".join([*blocks, aligned(_ceilings(scores), left=2), *_cautions(scores)])


def markdown(scores: Sequence[Score], *, command: str) -> str:
    """The same for a model card: one table for each condition and modality, factors side by side.

    Args:
        command: the command that made it, printed below.
    """
    parts = []
    for (name, modality), group in _groups(scores, lambda s: (s.condition.name, s.modality)).items():
        conditions = sorted({s.condition for s in group}, key=lambda c: c.factor)
        title = f"{modality}, {_counted(group)}" + ("" if name == "plain" else f", {name}")
        rows = [[title, *(f"×{c.factor:g}" for c in conditions)]]
        for method, chosen in _groups(group, lambda s: s.method).items():
            rows.append([method, *(_card_cell([s for s in chosen if s.condition == c]) for c in conditions)])
        splines = [[s for s in group if s.method == SPLINE and s.condition == c] for c in conditions]
        rooms = [list(_by_volume(cell, "ceiling_db").values()) for cell in splines]
        rows.append(["*ceiling*", *(f"*{np.mean(r):+.1f}* ({min(r):+.1f} to {max(r):+.1f})" for r in rooms)])
        parts.append(piped(rows))
    explained = (
        f"Gain over the consistent spline in dB, [95 % bootstrap interval], SSIM, sharpness. {FIGURES_EXPLAINED}"
    )
    return (
        "\n\n".join([*parts, piped(_ceilings(scores)), explained, *_cautions(scores), f"Made by `{command}`."]) + "\n"
    )


def robustness_table(scores: Sequence[Score]) -> str:
    """One line for each condition: gain over the consistent spline, over cubic, and of the worst volume."""
    blocks = [aligned(rows, left=2) for rows in _robustness(scores)]
    return "\n\n".join([*blocks, ROBUSTNESS_EXPLAINED, *_falls(scores)])


def robustness_markdown(scores: Sequence[Score], *, command: str) -> str:
    """The same for a model card; ``command`` is the command that made it."""
    blocks = [piped(rows) for rows in _robustness(scores)]
    return "\n\n".join([*blocks, ROBUSTNESS_EXPLAINED, *_falls(scores), f"Made by `{command}`."]) + "\n"


def gain_interval(gains: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean over volumes, by percentiles; None for fewer than two volumes.

    Source: Efron 1993, "An introduction to the bootstrap", chapter 13.
    """
    if len(gains) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(gains), (RESAMPLES, len(gains)))
    low, high = np.percentile(np.asarray(gains)[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def means_by_volume(scores: Iterable[Score], figure: str) -> dict[str, float]:
    """A figure of each volume: mean over its axes without NaN; a volume with only NaN is absent."""
    means = {}
    for volume, group in _groups(scores, lambda s: s.volume).items():
        values = [value for s in group if np.isfinite(value := getattr(s, figure))]
        if values:
            means[volume] = float(np.mean(values))
    return means


def gains_over_cubic(scores: Sequence[Score], method: str) -> list[float]:
    """Gain over cubic of each volume, for scores under one condition; empty if cubic was not measured."""
    if not any(s.method == "cubic" for s in scores):
        return []
    return [float(np.mean(list(axes.values()))) for axes in _over_cubic(scores, method).values()]


def write_scores(scores: Sequence[Score], folder: str | Path, **settings: Any) -> list[Path]:
    """Write ``scores.csv`` and ``scores.json`` (with the settings and the definitions of the figures)."""
    rows = [score_row(score) for score in scores]
    document = {"settings": settings, "figures": FIGURES_EXPLAINED, "scores": rows}
    return write_rows(folder, "scores", rows, document)


def write_rows(
    folder: str | Path, name: str, rows: Sequence[Mapping[str, Any]], document: Mapping[str, Any]
) -> list[Path]:
    """Write rows as ``<name>.csv`` and a document as ``<name>.json`` into a folder, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    made = [folder / f"{name}.csv", folder / f"{name}.json"]
    write_text(text.getvalue(), made[0])
    write_text(json.dumps(document, indent=2) + "\n", made[1])
    return made


# ------------------------------------------------------------- cells


_FIGURES = ("psnr_db", "ssim", "gain_db", "sharpness", "consistency_db", "ceiling_db")


def score_row(score: Score) -> dict[str, Any]:
    """A score as one row; the fields of its condition are columns of the row."""
    row: dict[str, Any] = {}
    for field in fields(score):
        value = getattr(score, field.name)
        if isinstance(value, float) and not np.isfinite(value):
            value = None  # JSON has no NaN
        row |= asdict(value) if isinstance(value, Condition) else {field.name: value}
    return row


def _groups(scores: Iterable[Score], key: Callable[[Score], _Key]) -> dict[_Key, list[Score]]:
    groups: dict[_Key, list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups


def _by_volume(scores: Iterable[Score], figure: str) -> dict[str, float]:
    """A figure of each volume: mean over its axes."""
    return {
        volume: float(np.mean([getattr(s, figure) for s in group]))
        for volume, group in _groups(scores, lambda s: s.volume).items()
    }


def _interval_text(gains: Sequence[float]) -> str:
    interval = gain_interval(gains)
    return "" if interval is None else f"[{_db(interval[0])},{_db(interval[1])}]"


def _db(value: float) -> str:
    """With a sign, but never −0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def _card_cell(scores: Sequence[Score]) -> str:
    if not scores:
        return "–"
    gains, similarity, sharp = (list(_by_volume(scores, f).values()) for f in ("gain_db", "ssim", "sharpness"))
    interval = _interval_text(gains).replace(",", ", ")
    return f"**{_db(float(np.mean(gains)))}** {interval}<br>{np.mean(similarity):.3f}, {np.mean(sharp):.2f}"


def _ceilings(scores: Sequence[Score]) -> _Rows:
    """Ceiling of each volume under the first condition; the files have all conditions."""
    first = scores[0].condition.name
    splines = [s for s in scores if s.method == SPLINE and s.condition.name == first]
    factors = sorted({s.condition.factor for s in splines})
    rows = [["ceiling dB", "" if first == "plain" else first, *(f"×{factor:g}" for factor in factors)]]
    for (modality, volume), group in _groups(splines, lambda s: (s.modality, s.volume)).items():
        cells = [[s.ceiling_db for s in group if s.condition.factor == factor] for factor in factors]
        rows.append([modality, volume, *(f"{np.mean(cell):+.1f}" if cell else "-" for cell in cells)])
    return rows


def _robustness(scores: Sequence[Score]) -> list[_Rows]:
    """For each modality, one row per condition and one column per method other than plain interpolation."""
    blocks = []
    for modality, group in _groups(scores, lambda s: s.modality).items():
        methods = [m for m in dict.fromkeys(s.method for s in group) if m not in ("linear", "cubic", "sinc")]
        rows = [[f"{modality}, {_counted(group)}", "", *methods]]
        for condition, same in _groups(group, lambda s: s.condition).items():
            cells = [_robustness_cell(same, method) for method in methods]
            rows.append([f"×{condition.factor:g}", condition.name, *cells])
        blocks.append(rows)
    return blocks


def _robustness_cell(scores: Sequence[Score], method: str) -> str:
    chosen = [s for s in scores if s.method == method]
    if not chosen:
        return "–"
    over_cubic = _over_cubic(scores, method)
    means = _by_volume(chosen, "gain_db"), {v: float(np.mean(list(g.values()))) for v, g in over_cubic.items()}
    worst = min(gain for gains in over_cubic.values() for gain in gains.values())
    over_spline, cubic = (float(np.mean(list(m.values()))) for m in means)
    return f"{_db(over_spline)} / {_db(cubic)} / {_db(worst)}{'*' if worst < 0 else ''}"


def _over_cubic(scores: Sequence[Score], method: str) -> dict[str, dict[int, float]]:
    """Gain over cubic by volume and axis, for scores under one condition."""
    cubic = {(s.volume, s.axis): s.psnr_db for s in scores if s.method == "cubic"}
    gains: dict[str, dict[int, float]] = {}
    for s in scores:
        if s.method == method:
            gains.setdefault(s.volume, {})[s.axis] = s.psnr_db - cubic[s.volume, s.axis]
    return gains


def _falls(scores: Sequence[Score]) -> list[str]:
    """The volumes on which a method is worse than cubic."""
    lines = []
    for (condition, method), chosen in _groups(scores, lambda s: (s.condition, s.method)).items():
        if method in ("linear", "cubic", "sinc"):
            continue
        same = [s for s in scores if s.condition == condition]
        volumes = [
            f"{volume} axis {axis} ({_db(gain)} dB)"
            for volume, gains in _over_cubic(same, method).items()
            for axis, gain in gains.items()
            if gain < 0
        ]
        if chosen and volumes:
            lines.append(f"- ×{condition.factor:g}, {condition.name}: {method} on {', '.join(volumes)}")
    return ["Worse than cubic:\n\n" + "\n".join(lines)] if lines else ["No method is worse than cubic."]


def _counted(scores: Sequence[Score]) -> str:
    volumes, axes = len({s.volume for s in scores}), len({(s.volume, s.axis) for s in scores})
    text = f"{volumes} volume{'s' if volumes > 1 else ''}"
    return text if axes == volumes else f"{text} ({axes} axes)"


def _cautions(scores: Sequence[Score]) -> list[str]:
    """A warning if a modality has so few volumes that its intervals are too narrow."""
    few = [
        f"{modality} {len({s.volume for s in group})}"
        for modality, group in _groups(scores, lambda s: s.modality).items()
        if len({s.volume for s in group}) < FEW
    ]
    if not few:
        return []
    return [f"Few volumes ({', '.join(few)}): the intervals are too narrow; they only indicate the spread."]


def aligned(rows: _Rows, *, left: int) -> str:
    """Columns for a terminal; the first ``left`` of them are flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def piped(rows: _Rows) -> str:
    """Columns for Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
