"""Line and bar plots as inline SVG: sharp at any size, colored by the page's style sheet, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

WIDTH, HEIGHT = 660, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 14, 14, 46


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        label: for the legend.
        kind: class of the style sheet, such as "sr".
        x, y: values; NaN interrupts the line.
        drawn: "line", "steps" that change halfway between points, "bars" from 0, or "points and line".
        low, high: an interval for each point, drawn as a whisker.
    """

    label: str
    kind: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    drawn: Literal["line", "steps", "bars", "points and line"] = "line"
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical (``x``) or horizontal (``y``) line with a label."""

    label: str
    x: float | None = None
    y: float | None = None


def plot(
    curves: Sequence[Curve],
    *,
    title: str,
    x: str,
    y: str,
    marks: Sequence[Mark] = (),
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> str:
    """An ``<svg>`` element with axes, legend and curves.

    Args:
        curves: at least one, drawn in this order.
        title: description for readers who cannot see the plot.
        x, y: names of the axes, with units.
        marks: see :class:`Mark`.
        y_range: ends of the vertical axis; default: those of the values.
        x_ticks: positions and labels on the horizontal axis; default: round numbers.
    """
    xs = np.concatenate([np.asarray(c.x, dtype=float) for c in curves])
    ys = np.concatenate([np.asarray(v, dtype=float) for c in curves for v in (c.y, c.low, c.high) if v is not None])
    ys = np.concatenate([ys, [m.y for m in marks if m.y is not None]])
    if any(c.drawn == "bars" for c in curves):
        ys = np.append(ys, 0.0)
        half = float(np.diff(xs).min()) / 2 if len(xs) > 1 else 0.5
        xs = np.concatenate([xs - half, xs + half])
    left, right = float(np.nanmin(xs)), float(np.nanmax(xs))
    bottom, top = y_range or _padded(ys[np.isfinite(ys)])
    if right <= left:
        left, right = left - 0.5, right + 0.5

    def across(value: float) -> float:
        return _LEFT + (value - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        fraction = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return HEIGHT - _BOTTOM - fraction * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for value in _ticks(bottom, top):
        parts.append(f'<path class="grid" d="M{_LEFT} {up(value):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{_g(value)}</text>')
    for value, word in x_ticks or [(value, _g(value)) for value in _ticks(left, right)]:
        parts.append(f'<path class="stub" d="M{across(value):.1f} {HEIGHT - _BOTTOM}v5"/>')
        parts.append(
            f'<text class="tick" x="{across(value):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(word)}</text>"
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>')
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(f'<text class="name" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x)}</text>')
    parts.append(f'<text class="name" transform="translate(14 {middle}) rotate(-90)">{escape(y)}</text>')
    for mark in marks:
        if mark.x is not None and left <= mark.x <= right:
            at = across(mark.x)
            side, anchor = (-5, "end") if at > WIDTH * 0.6 else (5, "start")
            parts.append(f'<path class="mark" d="M{at:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
            parts.append(
                f'<text class="tick" x="{at + side:.1f}" y="{_TOP + 10}" text-anchor="{anchor}">'
                f"{escape(mark.label)}</text>"
            )
        if mark.y is not None and bottom <= mark.y <= top:
            parts.append(f'<path class="mark" d="M{_LEFT} {up(mark.y):.1f}H{WIDTH - _RIGHT}"/>')
            parts.append(
                f'<text class="tick" x="{WIDTH - _RIGHT}" y="{up(mark.y) - 5:.1f}" text-anchor="end">'
                f"{escape(mark.label)}</text>"
            )
    for curve in curves:
        parts.append(_drawn(curve, across, up))
    parts.append("</svg>")
    return "".join(parts) + legend(curves)


def document(curves: Sequence[Curve], **options: Any) -> str:
    """:func:`plot` as a file, with legend and colors; ``options`` as there."""
    drawn = plot(curves, **options).partition("</svg>")[0]
    rows = -(-len(curves) // _LEGEND_COLUMNS)
    height = HEIGHT + 12 + 20 * rows
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" class="plot"'
    drawn = drawn.replace('<svg class="plot"', head, 1).replace(
        f'viewBox="0 0 {WIDTH} {HEIGHT}"', f'viewBox="0 0 {WIDTH} {height}"', 1
    )
    paper = f'<style>{_STYLE}</style><rect class="paper" width="{WIDTH}" height="{height}"/>'
    drawn = drawn.replace("</title>", f"</title>{paper}", 1)
    parts = []
    for number, curve in enumerate(curves):
        x = _LEFT + (number % _LEGEND_COLUMNS) * (WIDTH - _LEFT - _RIGHT) / _LEGEND_COLUMNS
        y = HEIGHT + 14 + 20 * (number // _LEGEND_COLUMNS)
        parts.append(f'<path class="curve {escape(curve.kind)}" d="M{x:.1f} {y - 4}h18"/>')
        parts.append(f'<text x="{x + 24:.1f}" y="{y}">{escape(curve.label)}</text>')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawn}{"".join(parts)}</svg>\n'


_LEGEND_COLUMNS = 4

METHOD_COLORS = ("#777777", "#3b6fb6", "#8a6d1f", "#2f7d5b", "#b3392f", "#8e4fa8", "#0b8a99", "#c26a00")
"""Colors of the kinds "m0", "m1", … in :func:`document`, distinguishable by most color-blind readers."""

_STYLE = (
    "text{font:13px 'Source Sans 3','Segoe UI',system-ui,sans-serif;fill:#444}.name{text-anchor:middle;fill:#000}"
    ".paper{fill:#fff}.grid{stroke:#ddd;stroke-width:.7;fill:none}.axis,.stub{stroke:#666;fill:none}"
    ".mark{stroke:#666;stroke-dasharray:4 4;fill:none}.curve{fill:none;stroke-width:2.1;stroke-linejoin:round}"
    ".whisker{stroke-width:1.5;fill:none}"
    + "".join(f".m{i}{{stroke:{color}}}.dot.m{i}{{fill:{color};stroke:none}}" for i, color in enumerate(METHOD_COLORS))
)


def legend(curves: Sequence[Curve]) -> str:
    """The legend of a plot, as a list below it."""
    if len(curves) < 2:
        return ""
    items = "".join(f'<li class="{escape(c.kind)} {c.drawn}">{escape(c.label)}</li>' for c in curves)
    return f'<ul class="legend">{items}</ul>'


def _drawn(curve: Curve, across, up) -> str:  # type: ignore[no-untyped-def]
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    parts = []
    if curve.low is not None and curve.high is not None:
        for at, low, high in zip(x, curve.low, curve.high, strict=True):
            if math.isfinite(low) and math.isfinite(high):
                parts.append(f'<path class="whisker {curve.kind}" d="M{across(at):.1f} {up(low):.1f}V{up(high):.1f}"/>')
    if curve.drawn == "bars":
        half = abs(across(1) - across(0)) * (float(np.diff(x).min()) if len(x) > 1 else 1.0) / 2
        for at, value in zip(x, y, strict=True):
            if math.isfinite(value):
                tall = up(0) - up(value)
                parts.append(
                    f'<rect class="bar {curve.kind}" x="{across(at) - half * 0.85:.1f}" y="{up(value):.1f}" '
                    f'width="{half * 1.7:.1f}" height="{max(tall, 0.5):.1f}"/>'
                )
        return "".join(parts)
    if curve.drawn == "points and line":
        parts += [
            f'<circle class="dot {curve.kind}" cx="{across(at):.1f}" cy="{up(value):.1f}" r="3.6"/>'
            for at, value in zip(x, y, strict=True)
            if math.isfinite(value)
        ]
    if curve.drawn == "steps" and len(x) > 1:
        borders = np.concatenate([[x[0] - (x[1] - x[0]) / 2], (x[1:] + x[:-1]) / 2, [x[-1] + (x[-1] - x[-2]) / 2]])
        borders = np.clip(borders, x[0], x[-1])
        x, y = np.repeat(borders, 2)[1:-1], np.repeat(y, 2)
    path, pen = [], "M"
    for at, value in zip(x, y, strict=True):
        if math.isfinite(value):
            path.append(f"{pen}{across(at):.1f} {up(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts) + f'<path class="curve {curve.kind}" d="{"".join(path)}"/>'


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high <= low:
        return low - 0.5, high + 0.5
    pad = (high - low) * 0.05
    return (0.0 if low == 0 else low - pad), high + pad


def _ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _g(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
