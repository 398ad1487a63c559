"""The rows of the fault catalogue, and the mark by which a test says which of them it proves."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

GROUPS = {"I": 30, "R": 20, "W": 7, "Z": 6, "D": 28, "P": 1}
"""Rows of each group: I01 to I30 images, R runs, W weights and bundles, Z archives and paths, D DICOM, P privacy."""

ROWS = [f"{group}{number:02d}" for group, count in GROUPS.items() for number in range(1, count + 1)]

ENTERING = ("fault", "refused", "warned", "mended", "left_out")
"""What enters a test, or a builder of its input, under a row."""


def fault(row: str, *codes: str) -> pytest.MarkDecorator:
    """Mark a test as proof of a row, which is to give these codes: ``pytest -m fault`` runs them all."""
    return pytest.mark.fault(row, *codes)


@cache
def proofs() -> dict[str, set[str]]:
    """By row what proves it, as ``file::function``; read from the source, so it counts whichever tests run."""
    found: dict[str, set[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and _name(mark.func) in ENTERING:
                    row = ast.literal_eval(mark.args[0])
                    found.setdefault(row, set()).add(f"{path.name}::{node.name}")
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


CODE = re.compile(r"[EWQ]-[A-Z0-9]+(?:-[A-Z0-9]+)*")


def codes_in(folder: Path) -> dict[str, str]:
    """Every code that a text in the source is or starts with, and where."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        if path.name == "codes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                match = re.match(rf"(?:monai-sr: )?({CODE.pattern})(?=:|$)", node.value)
                if match:
                    found[match[1]] = f"{path.name}:{node.lineno}"
    return found
