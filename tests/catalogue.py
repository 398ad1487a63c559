"""The fault catalogue: its rows, the mark of a test that proves one, and the tables of faulty inputs.

The rows are in ``README.md``. A faulty input is one :func:`entry` of a table, whatever the outcome:
an error, a warning, a file left out, or a right result. Its test id is the title of the row and its own name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ENTERING = ("fault", "entry", "left_out", "mended")
"""What names a row, in a test or beside one."""

CODE = re.compile(r"[EWQ]-[A-Z0-9]+(?:-[A-Z0-9]+)*")


@dataclass(frozen=True)
class Row:
    """A row of the catalogue: its title, and every code that one of its faults is answered with."""

    title: str
    codes: frozenset[str]


def _rows() -> dict[str, Row]:
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d\d) \| (.+?) \|(.*?)\|$", text, re.MULTILINE)
    return {row: Row(title, frozenset(CODE.findall(codes))) for row, title, codes in rows}


ROWS = _rows()


def fault(row: str, *codes: str) -> pytest.MarkDecorator:
    """Mark a test as proof of a row, which is to give these codes: ``pytest -m fault`` runs them all."""
    return pytest.mark.fault(row, *codes)


@dataclass(frozen=True)
class Entry:
    """A faulty input.

    Attributes:
        codes: what it is answered with, in order.
        build: writes it into a folder; returns its path, or what a message must name.
        options: of the command line.
        expected: what else is known of the answer.
    """

    codes: tuple[str, ...]
    build: Callable[[Path], Any]
    options: tuple[str, ...] = ()
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The one code."""
        (code,) = self.codes
        return code


def entry(row: str, codes: str, name: str, build: Callable[[Path], Any], *options: str, **expected: Any) -> Any:
    """A faulty input under a row, as a parameter of a test; ``codes`` with blanks between them."""
    faults = tuple(codes.split())
    made = Entry(faults, build, options, expected)
    return pytest.param(made, id=f"{row} {ROWS[row].title}: {name}", marks=fault(row, *faults))


@cache
def proofs() -> dict[str, dict[str, set[str]]]:
    """By row the tests and entries that prove it, as ``file:line``, each with its codes.

    Read from the source, so it counts whichever tests run.
    """
    by_row: dict[str, dict[str, set[str]]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) in ENTERING and isinstance(node.args[0], ast.Constant):
                row, *others = [str(a.value) for a in node.args if isinstance(a, ast.Constant)]
                codes = {word for text in others for word in text.split() if CODE.fullmatch(word)}
                by_row.setdefault(row, {})[f"{path.name}:{node.lineno}"] = codes
    return by_row


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def codes_in(folder: Path) -> dict[str, str]:
    """Every code that a text in the source is or starts with, and where."""
    codes = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                match = re.match(rf"(?:monai-sr: )?({CODE.pattern})(?=:|$)", node.value)
                if match:
                    codes[match[1]] = f"{path.name}:{node.lineno}"
    return codes
