"""Filling a template and writing it: style and script inside, and a policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..files import write_text

_OPENING = b'<script type="application/json" id="monai-sr">'

_HEAD = 2**17
"""Bytes of a page within which its summary stands."""


def write_page(
    path: Path, template: str, script: str, *, library: str = "", allowed: Mapping[str, str] | None = None, **parts: str
) -> Path:
    """Fill the head of all pages and a template of this package, and write them as one page, atomically.

    Args:
        path: where.
        template: the file of its body; ``$name`` stands for a part.
        script: the file of the script that may run.
        library: a script that may run before it.
        allowed: what the policy lets the page do besides, such as ``{"worker-src": "blob:"}``.
        parts: ``title`` and ``summary`` for the head and what the body holds, as HTML: whoever makes them has
            escaped what is not ours.

    Raises:
        OutputError: it cannot be written.
    """
    program = asset(script)
    scripts = " ".join(_digest(script) for script in (program, library) if script)
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": scripts,
        "base-uri": "'none'",
        "form-action": "'none'",
    } | dict(allowed or {})
    policy = "; ".join(f"{key} {value}" for key, value in rules.items())
    ours = {"policy": policy, "style": asset("report.css"), "script": program, "version": escape(version("monai-sr"))}
    filled = Template(asset("head.html") + asset(template)).substitute(parts, library=library, **ours)
    return write_text(filled, path)


def script_json(content: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(content).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def summary_element(content: Any) -> bytes:
    """What :func:`summary_of` gives for a file that is not a page."""
    return _OPENING + script_json(content).encode() + b"</script>"


def summary_of(path: Path) -> dict[str, Any]:
    """What a page of ours says of itself in its head; empty for any other file, or none."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        summary = json.loads(head.split(_OPENING, 1)[1].split(b"</script>", 1)[0])
    except (OSError, ValueError, IndexError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _digest(script: str) -> str:
    """How a policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def asset(name: str) -> str:
    """The text of a file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")
