"""The page over many cases: a line for each, with its picture, and a link to its own page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import SuperResolutionWarning
from ..trust.resolution import length_text
from .page import write_page

_ORDER = {"failed": 0, "done": 1, "skipped": 2}
_IMAGE = "data:image/png;base64,"


def _resolution(facts: Mapping[str, Any]) -> str:
    return length_text({"mm": facts["resolution"], "bounded": facts.get("resolution_bounded")})


FIGURES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("factor", "factor", lambda facts: f"×{facts['factor']:.3g}"),
    ("resolution", "resolves", _resolution),
    ("score", "worst slice", lambda facts: f"{facts['score']:.2%}"),
    ("slice_profile", "profile", lambda facts: str(facts["slice_profile"])),
)
"""Columns of figures: the name in :attr:`IndexRow.facts`, the heading, how the facts read."""


@dataclass(frozen=True)
class IndexRow:
    """One case.

    Attributes:
        case: its name.
        status: done, failed or skipped.
        code, reason: why it is not done.
        change: grid before and after, in words.
        facts: factor, slice_spacing, score, resolution, resolution_bounded, slice_profile, as far as they are known.
        warnings: that came with it.
        seconds: it took.
        report: path of its page as seen from the index, if there is one.
        thumbnail: a picture as a data URL.
    """

    case: str
    status: str
    code: str = ""
    reason: str = ""
    change: str = ""
    warnings: tuple[SuperResolutionWarning, ...] = ()
    seconds: float = 0.0
    report: str = ""
    thumbnail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_index_page(path: str | Path, rows: Sequence[IndexRow], *, title: str = "Super-resolved volumes") -> Path:
    """Write the index; cases that failed come first, each group by name.

    Raises:
        OutputError: it cannot be written.
    """
    counts = Counter(row.status for row in rows)
    lead = ", ".join(f"{counts[status]} {status}" for status in ("done", "failed", "skipped") if counts[status])
    ordered = sorted(rows, key=lambda row: (_ORDER.get(row.status, 3), row.case))
    return write_page(
        Path(path),
        "index.html",
        "index.js",
        summary='{"kind":"index"}',
        title=escape(title),
        lead=escape(lead or "No volume."),
        rows="\n".join(map(_row, ordered)),
    )


def _row(row: IndexRow) -> str:
    name = escape(row.case)
    if row.report:
        name = f'<a href="{escape(quote(os.fsencode(Path(row.report).as_posix())))}">{name}</a>'
    # only a picture of ours: the page it comes from may have been changed
    picture = f'<img alt="" src="{escape(row.thumbnail)}">' if row.thumbnail.startswith(_IMAGE) else ""
    notes = [f"<code>{escape(row.code)}</code> {escape(row.reason)}"] if row.code else [escape(row.reason)]
    notes += [escape(str(notice)) for notice in row.warnings]
    status = row.status if row.status in _ORDER else "skipped"
    seconds = f"{row.seconds:.3g} s" if row.seconds else ""
    grids = escape(row.change).replace("-&gt;", "<br>→ ")
    cells = "".join(
        f'<td class="number" data-label="{escape(label)}">{escape(words(row.facts))}</td>'
        if isinstance(row.facts.get(name), int | float | str)
        else "<td></td>"
        for name, label, words in FIGURES
    )
    return (
        f'<tr><td class="picture">{picture}</td><th scope="row">{name}</th>'
        f'<td><span class="status {status}">{escape(row.status)}</span></td><td class="grid">{grids}</td>{cells}'
        f'<td class="notes-of">{"<br>".join(note for note in notes if note)}</td><td class="number">{seconds}</td></tr>'
    )
