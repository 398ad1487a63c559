"""The sections of a report: tiles, curves, agreement, warnings, tables, the Methods paragraph, and help."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import numpy as np

from ..errors import SuperResolutionWarning, printable
from ..trust.consistency import Consistency
from .curves import spectra, steepest_profile
from .svg import Curve, Mark, plot
from .views import Scene
from .words import Rows

KEYS = (
    ("1 2 3", "thick, cubic, super-resolved"),
    ("space", "the next image, in place"),
    ("4", "side by side, and back"),
    ("← →", "previous and next slice of the plane under the pointer"),
    ("+ − 0", "zoom in, zoom out, reset; drag to move, double click to zoom in"),
    ("c", "map of the difference from the acquired slices"),
    ("u", "map of uncertainty"),
    ("n", "map of the nearest stack, of a fused volume"),
    ("w", "next window"),
    ("v", "voxels as squares, or smooth"),
    ("?", "this help"),
)


Answer = tuple[str, str, str, str]
"""A tile: title, state ("good", "bad", "warn", "plain" or "unknown"), answer, detail."""

_NO_WARNINGS: Answer = ("Warnings", "good", "none", "")


def curves(scene: Scene) -> str:
    """The profile along the steepest edge and the spectrum, each with a caption."""
    unit = "HU" if scene.modality == "CT" else "signal"
    parts = []
    profile = steepest_profile(scene)
    if profile is not None:
        x, y, z = (f"{v:.1f}" for v in profile.place)
        drawn = plot(
            [
                Curve("thick, as acquired", "thick", profile.thick_at, profile.thick, "steps"),
                Curve("cubic", "cubic", profile.thin_at, profile.cubic),
                Curve("super-resolved", "sr", profile.thin_at, profile.sr),
            ],
            title=f"{unit} along a line across the slices, thick, cubic and super-resolved",
            x="mm across the slices, from the edge",
            y=unit,
        )
        parts.append(
            f'<figure class="graph"><h3>Across the sharpest edge</h3>{drawn}<figcaption>Along the line '
            f"across the slices where neighboring acquired slices differ most, at R {x}, A {y}, S {z} mm."
            "</figcaption></figure>"
        )
    lines = spectra(scene)
    if lines:
        reference = max(float(s.power.max()) for s in lines.values())
        nyquist = float(lines["thick"].frequency[-1])
        finest = float(lines["sr"].frequency[-1])
        names = {"thick": "thick", "cubic": "cubic", "sr": "super-resolved", "in-plane": "in-plane, as acquired"}
        curves = []
        for key, spectrum in lines.items():
            shown = spectrum.frequency <= finest * 1.0001
            level = 10 * np.log10(np.maximum(spectrum.power[shown], reference * 1e-9) / reference)
            curves.append(Curve(names[key], key.replace("-", ""), spectrum.frequency[shown], level))
        bottom = min(float(np.min(c.y)) for c in curves if c.kind in ("sr", "inplane"))
        drawn = plot(
            curves,
            title="Power over spatial frequency across the slices, thick, cubic and super-resolved, and in-plane",
            x="cycles per mm",
            y="power, dB",
            marks=[Mark("limit of the acquired slices", x=nyquist)],
            y_range=(max(-90.0, 10 * np.floor(bottom / 10) - 5), 3.0),
        )
        parts.append(
            f'<figure class="graph"><h3>Spatial frequencies</h3>{drawn}<figcaption>Power of lines across the slices, '
            "and of in-plane lines for comparison. The acquired slices do not resolve frequencies right of the mark; "
            "what a result has there is estimated.</figcaption></figure>"
        )
    return "".join(parts) or "<p>Too few slices for curves.</p>"


def navigation(links: Mapping[str, str]) -> str:
    """Links to other pages of a run, by their names; empty if there are none."""
    if not links:
        return ""
    items = " ".join(f'<a href="{escape(quote(os.fsencode(path)))}">{escape(name)}</a>' for name, path in links.items())
    return f'<nav aria-label="Volumes of this run">{items}</nav>'


def tiles(consistency: Consistency, limit: float | None, resolution: str, codes: Sequence[str]) -> str:
    """The three tiles under the title: agreement with the scan, resolution, warnings."""
    score = f"{100 * consistency.score:.2g} % of the range in the worst slice"
    if limit is None:
        agrees = ("unknown", "not calibrated", score)
    elif consistency.within(limit):
        agrees = ("good", "yes", f"{score}; limit {100 * limit:.2g} % plus rounding")
    else:
        agrees = ("bad", "no", f"{score}; limit {100 * limit:.2g} % plus rounding")
    resolves = ("Resolves across the slices", "plain", resolution, "before → after; voxel size is not resolution")
    return answers([("Agrees with the scan", *agrees), resolves, warnings_tile(codes)])


def warnings_tile(codes: Sequence[str]) -> Answer:
    """The tile of the warnings with these codes."""
    return ("Warnings", "warn", str(len(codes)), ", ".join(dict.fromkeys(codes))) if codes else _NO_WARNINGS


def answers(rows: Sequence[Answer]) -> str:
    """Tiles under the title."""
    return "".join(
        f'<div class="tile {state}"><h2>{escape(title)}</h2><p class="answer">{escape(answer)}</p>'
        f"<p>{escape(detail)}</p></div>"
        for title, state, answer, detail in rows
    )


def deviation_text(uncertainty: np.ndarray, unit: str) -> str:
    """How large standard deviations are, in words; 0 is padding."""
    some = uncertainty[tuple(slice(None, None, max(1, n // 64)) for n in uncertainty.shape)]
    middle, high = np.percentile(some[some > 0], (50, 95)) if (some > 0).any() else (0.0, 0.0)
    return f"standard deviation at most {middle:.3g} {unit} in half of the voxels, {high:.3g} in 95 %"


def trust(consistency: Consistency, limit: float | None, uncertainty: np.ndarray | None = None) -> str:
    """Difference between result and acquired slices, as a table and slice by slice."""
    unit = "HU" if consistency.unit == "HU" else "signal units"
    rows: Rows = [
        (
            "root mean square",
            f"{consistency.nrmse * consistency.value_range:.3g} {unit}, {100 * consistency.nrmse:.3g} % of the range",
        ),
        ("95th percentile", f"{consistency.p95:.3g} {unit}"),
        ("maximum", f"{consistency.maximum:.3g} {unit}"),
        (
            "worst slice",
            f"number {consistency.worst_slice + 1} of {len(consistency.slice_nrmse)}, "
            f"{100 * consistency.score:.3g} % of the range",
        ),
    ]
    if consistency.rounding:
        rows.append(
            ("of this, rounding", f"up to {consistency.rounding:g} {unit}: the result is stored as whole numbers")
        )
    if limit is not None:
        verdict = "within" if consistency.within(limit) else "exceeded"
        rows.append(("limit of the bundle", f"{100 * limit:.3g} % of the range in any slice, plus rounding: {verdict}"))
    if uncertainty is not None:
        rows.append(("error, predicted", deviation_text(uncertainty, unit)))
    rows += [("note", note) for note in consistency.notes]
    numbers = np.arange(1, len(consistency.slice_nrmse) + 1)
    drawn = plot(
        [Curve("root mean square", "sr", numbers, consistency.slice_nrmse * consistency.value_range, "bars")],
        title=f"Root mean square difference of each acquired slice and the re-acquired result, {unit}",
        x="acquired slice, in the order of the file",
        y=f"root mean square, {unit}",
        marks=[]
        if limit is None
        else [Mark(f"limit {limit * consistency.value_range:.3g}", y=limit * consistency.value_range)],
    )
    return (
        '<div class="pair"><div><p>The result, averaged by the slice profile at the positions of the acquired slices, '
        "minus these slices. It shows every contradiction. It cannot show what is invented between slices.</p>"
        f'{_table(rows, "")}</div><figure class="graph"><h3>Each acquired slice</h3>{drawn}</figure></div>'
    )


def notes(warnings: Sequence[SuperResolutionWarning]) -> str:
    """All warnings with their codes and remedies; empty if there are none."""
    if not warnings:
        return ""
    items = []
    for notice in warnings:
        items.append(f"<dt>{escape(notice.code or 'Warning')}</dt><dd>{escape(printable(notice.problem))}</dd>")
        if notice.remedy:
            items.append(f'<dd class="remedy">{escape(notice.remedy)}</dd>')
    count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return (
        '<section class="notes" aria-labelledby="notes-heading">'
        f'<h2 id="notes-heading">{count}</h2><dl>{"".join(items)}</dl></section>'
    )


def _table(rows: Rows, caption: str) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td{_hash(key)}>{escape(value)}</td></tr>' for key, value in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="facts">{title}<tbody>{lines}</tbody></table>'


def _hash(key: str) -> str:
    return ' class="hash"' if key.startswith("SHA-256") else ""


def tables(facts: Mapping[str, Rows]) -> str:
    """Tables side by side, each by its caption."""
    return f'<div class="tables">{"".join(_table(rows, caption) for caption, rows in facts.items() if rows)}</div>'


def for_methods(paragraph: str, bibtex: str) -> str:
    """The paragraph and its references, with buttons to copy them."""

    def copier(of: str, what: str) -> str:
        return f'<button type="button" class="copy" data-of="{of}" hidden>Copy {what}</button>'

    return (
        f'<div class="methods"><blockquote id="paragraph">{escape(paragraph)}</blockquote>{copier("paragraph", "text")}'
        f'<h3>BibTeX</h3><pre id="bibtex" tabindex="0">{escape(bibtex)}</pre>{copier("bibtex", "BibTeX")}</div>'
    )


def help_dialog() -> str:
    """All keys."""
    rows = "".join(
        f"<tr><td>{' '.join(f'<kbd>{escape(k)}</kbd>' for k in keys.split())}</td><td>{escape(what)}</td></tr>"
        for keys, what in KEYS
    )
    return (
        f'<dialog aria-labelledby="keys-heading"><h2 id="keys-heading">Keys</h2><table>{rows}</table>'
        '<button type="button">Close</button></dialog>'
    )
