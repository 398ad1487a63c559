"""Progress as Slicer reads it from a module's standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from xml.sax.saxutils import escape

STEP = 0.01
"""Smaller steps are not shown."""


@contextmanager
def told_to_slicer(name: str, comment: str, *, say: Callable[[str], None]) -> Iterator[Callable[[float], None]]:
    """Tell that a filter starts and, unless it fails, that it ends; gives a callback for its progress, 0..1."""
    start, shown = time.monotonic(), -1.0

    def report(done: float) -> None:
        nonlocal shown
        if done - shown >= STEP or (done >= 1 > shown):
            shown = done
            say(f"<filter-progress>{done:.3f}</filter-progress>")

    say(
        f"<filter-start><filter-name>{escape(name)}</filter-name>"
        f"<filter-comment>{escape(comment)}</filter-comment></filter-start>"
    )
    yield report
    seconds = time.monotonic() - start
    say(f"<filter-end><filter-name>{escape(name)}</filter-name><filter-time>{seconds:.3f}</filter-time></filter-end>")
