"""``.bidsignore``: what a dataset holds besides BIDS. Its grammar is that of gitignore."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ...errors import ImageError

LONGEST = 1000
"""Characters of a pattern for one name; fnmatch takes time with their square."""


def ignored_by(file: Path) -> Callable[[str], bool]:
    """Whether a path, relative to the folder of ``file``, is ignored; never if there is no such file.

    Raises:
        ImageError: the file cannot be read as text.
    """
    rules: list[tuple[list[str], bool, bool]] = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError("E-BIDS-IGNORE", "cannot be read", path=file) from error
    for line in lines:
        pattern = line.rstrip()
        if pattern and not pattern.startswith("#"):
            names = pattern.removeprefix("!")
            rules.append((_segments(names), names.endswith("/"), not pattern.startswith("!")))

    def ignored(path: str) -> bool:
        parts = path.split("/")
        # what lies in an ignored folder is ignored, whatever a later line says
        for depth in range(1, len(parts) + 1):
            is_folder = depth < len(parts)
            verdicts = [v for names, folder, v in rules if is_folder >= folder and _fits(names, parts[:depth])]
            if verdicts and verdicts[-1]:
                return True
        return False

    return ignored


def _segments(pattern: str) -> list[str]:
    """A line as a pattern of :mod:`fnmatch` for each folder, ``**`` for any number of folders."""
    body = pattern.rstrip("/")
    names = body.removeprefix("/").split("/")
    names = [_for_fnmatch(name) for name in names] if "/" in body else ["**", _for_fnmatch(body)]
    return [name for index, name in enumerate(names) if name != "**" or names[index - 1 : index] != ["**"]]


def _for_fnmatch(name: str) -> str:
    r"""``[^a]`` and ``\a`` as fnmatch writes them; what no name of a file can fit as nothing."""
    name = re.sub(r"\\(.)", r"[\1]", name.replace("[^", "[!"))
    return name if name == "**" else re.sub(r"\*+", "*", name) if len(name) <= LONGEST else ""


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not names:
        return not parts
    if names[0] == "**":
        if len(names) == 1:
            return bool(parts)
        return any(_fits(names[1:], parts[start:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], names[0]) and _fits(names[1:], parts[1:])
