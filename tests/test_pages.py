"""What the pages show can be typed: every command parses, every name of the Python API is there."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest

from monai_sr.arguments import make_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "monai_sr").rglob("README.md"))]
WITH_COMMANDS = [page for page in PAGES if "\nmonai-sr " in page.read_text(encoding="utf-8")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every call of monai-sr in a shell script, the words after its name."""
    lines = text.replace("\\\n", " ").splitlines()
    calls = [re.search(r"(?:^|\s)monai-sr (.+)", line) for line in lines if not line.startswith("#")]
    return [shlex.split(call[1].split(" 2>")[0], comments=True) for call in calls if call]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_a_page_parses(page):
    parser = make_parser(defaultdict(lambda: lambda _: 0))
    found = [words for block in blocks(page, "bash") for words in commands(block)]
    assert found
    for words in found:
        numbers = [re.sub(r"\$\w+", "1", word) for word in words]
        assert parser.parse_args(numbers).command


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_name_that_a_page_imports_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_sr"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_workflows_call_what_there_is():
    parser = make_parser(defaultdict(lambda: lambda _: 0))
    for name in ("Snakefile", "main.nf"):
        (words,) = commands((ROOT / "monai_sr" / "workflows" / name).read_text().replace('"\n', "\n"))
        assert parser.parse_args(words).bundle
