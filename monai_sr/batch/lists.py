"""Lists of volumes to be processed: text with a path a line, or CSV."""

from __future__ import annotations

import csv
import difflib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from ..errors import UsageError

LIST_SUFFIXES = (".txt", ".csv")

COLUMNS = ("input", "output")
"""Of a CSV list; the second may be left out."""


def read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Every entry of a list and its output (empty if the list names no output), without empty lines and comments.

    Args:
        path: ``.txt`` with a path per line, ``#`` before comments; or ``.csv`` with :data:`COLUMNS`.

    Raises:
        UsageError: it cannot be read, has unknown columns, an entry cannot be the name of a file, or an output
            would lie outside the output folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("E-LIST", "the list cannot be read", path=path) from error
    rows = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _lines(text)
    for number, *names in rows:
        entry, output = (name.strip() for name in names)
        for folder, name in ((path.parent, entry), (Path(), output)):
            _check_name(folder, name, number, path)
        if output and not _is_below(output):
            problem = f"line {number} names a result outside the output folder ({output[:80]!r})"
            raise UsageError("E-LIST", problem, fix="name it relative to the output folder, without '..'", path=path)
        if entry:
            yield entry, output


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, entry and empty output of every line that is not a comment."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("#"):
            yield number, line, ""


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, input and output of every row."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(rows, [])
        _check_columns(columns, path)
        for row in rows:
            if len(row) > len(columns):
                problem = f"line {rows.line_num} has {len(row)} fields, the first line names {len(columns)} columns"
                raise UsageError("E-LIST", problem, fix='put names with a comma between "', path=path)
            named = dict(zip(columns, row, strict=False))
            yield rows.line_num, named.get("input", ""), named.get("output", "")
    except csv.Error as error:
        problem = f"line {rows.line_num} is not valid CSV ({error})"
        raise UsageError("E-LIST", problem, path=path) from error


def _check_columns(columns: list[str], path: Path) -> None:
    """Refuse columns that would be ignored."""
    fix = (
        f"name the columns {' and '.join(COLUMNS)}, separated by commas, and remove others; options are for all volumes"
    )
    for column in columns:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column.strip().lower(), COLUMNS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError("E-LIST", f"the column {column[:80]!r} is unknown{meant}", fix=fix, path=path)
    if "input" not in columns or len(set(columns)) < len(columns):
        repeated = max(columns, key=columns.count, default="")
        problem = (
            "the column 'input' is missing" if "input" not in columns else f"the column {repeated!r} is there twice"
        )
        raise UsageError("E-LIST", problem, fix=fix, path=path)


def _is_below(output: str) -> bool:
    """Whether a result of this name lies in the output folder, on every system."""
    path = PureWindowsPath(output)  # it takes / as well as \\, and drive letters
    return not (path.drive or path.root or ".." in path.parts)


def _check_name(folder: Path, name: str, number: int, path: Path) -> None:
    """Refuse a text that cannot be the name of a file."""
    try:
        os.stat(folder / name)
        return
    except ValueError:
        problem = f"line {number} contains a NUL character"
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            return  # a fault of this volume only
        problem = f"line {number} is not a file name ({error.strerror})"
    raise UsageError("E-LIST", problem, fix="correct the line", path=path)
