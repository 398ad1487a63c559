"""``.bidsignore``: what a dataset holds besides BIDS. Its grammar is that of gitignore."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_TOKEN = re.compile(r"/\*\*$|\*\*/|\*+|\?|\[[^]/]+\]|\\?.")
_WORDS = {"/**": "/.+", "**/": "(?:.*/)?", "?": "[^/]"}


def ignored_by(file: Path) -> Callable[[str], bool]:
    """Whether a path, relative to the folder of ``file``, is ignored; never if there is no such file."""
    rules: list[tuple[re.Pattern[str], bool]] = []
    for line in file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else ():
        pattern = line.rstrip()
        if pattern and not pattern.startswith("#"):
            rules.append((_expression(pattern.removeprefix("!")), not pattern.startswith("!")))

    def ignored(path: str) -> bool:
        parts = path.split("/")
        # what lies in an ignored folder is ignored, whatever a later line says
        for depth in range(1, len(parts) + 1):
            part = "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
            verdicts = [verdict for expression, verdict in rules if expression.fullmatch(part)]
            if verdicts and verdicts[-1]:
                return True
        return False

    return ignored


def _expression(pattern: str) -> re.Pattern[str]:
    """A line as an expression for paths; those of folders end in a slash."""
    body = pattern.rstrip("/")
    expression = "" if "/" in body else "(?:.*/)?"
    for token in _TOKEN.findall(body.removeprefix("/")):
        if token in _WORDS:
            expression += _WORDS[token]
        elif token.startswith("*"):
            expression += "[^/]*"
        elif token.startswith("[") and len(token) > 1:
            expression += f"[^{token[2:]}" if token[1] in "!^" else token
        else:
            expression += re.escape(token[-1])
    return re.compile(expression + ("/" if pattern.endswith("/") else "/?"))
