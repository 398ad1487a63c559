"""The examples in docstrings run and give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import monai_sr

PACKAGE = Path(monai_sr.__file__).parent
WITH_EXAMPLES = [
    ".".join(("monai_sr", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted and not results.failed


def test_the_package_shows_an_example():
    assert {"monai_sr", "monai_sr.slices", "monai_sr.grid"} <= set(WITH_EXAMPLES)
