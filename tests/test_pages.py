"""What the pages show is true: commands parse, names of the Python API and linked files are there."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from monai_sr.cli.parser import make_parser

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("bundles", "data_scripts", "monai_sr", "tests")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
]
WITH_COMMANDS = [page for page in PAGES if "\nmonai-sr " in page.read_text(encoding="utf-8")]
CODE = re.compile(r"```.*?```|`[^`\n]+`", flags=re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every call of monai-sr in a shell script, the words after its name."""
    lines = text.replace("\\\n", " ").splitlines()
    calls = [re.search(r"(?:^|\s)monai-sr (.+)", line) for line in lines if not line.startswith("#")]
    return [shlex.split(call[1].split(" 2>")[0], comments=True) for call in calls if call]


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, those to the web left out."""
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in targets if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_parses(page):
    parser = make_parser()
    calls = [words for block in blocks(page, "bash") for words in commands(block)]
    assert calls
    for words in calls:
        numbers = [re.sub(r"\$\w+", "1", word) for word in words]
        assert parser.parse_args(numbers).command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_that_a_page_imports_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monai_sr"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists() and target.resolve().is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_script_and_module_that_a_page_runs_is_there(page):
    for block in blocks(page, "bash"):
        for script in re.findall(r"python (\S+\.py)", block):
            assert (ROOT / script).is_file(), script
        for module in re.findall(r"python -m ((?:tests|monai_sr)[\w.]*)", block):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_no_picture_is_large():
    pictures = [path for folder in ("bundles", "monai_sr") for path in (ROOT / folder).rglob("*.png")]
    assert pictures
    assert [path for path in pictures if path.stat().st_size > 300_000] == []


def test_every_page_is_reached_from_the_first():
    reached, to_read = set(), [ROOT / "README.md"]
    while to_read:
        page = to_read.pop()
        reached.add(page.resolve())
        pages = (page.parent / link.partition("#")[0] for link in links(page))
        to_read += [page for page in pages if page.suffix == ".md" and page.resolve() not in reached]
    assert {name_of(page) for page in PAGES} <= {name_of(page) for page in reached}


def test_the_workflows_call_what_there_is():
    parser = make_parser()
    for name in ("Snakefile", "main.nf"):
        (words,) = commands((ROOT / "monai_sr" / "clients" / "workflows" / name).read_text().replace('"\n', "\n"))
        assert parser.parse_args(words).bundle
