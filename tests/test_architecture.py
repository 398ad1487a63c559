"""The architecture page is true: its tree is the package, its floors are those of the import test, its files exist."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import numpy as np
import phantoms

import monai_sr
from monai_sr.cli.main import main
from monai_sr.io.images import write_image
from tests.test_floors import FLOORS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "monai_sr"
PAGE = (PACKAGE / "ARCHITECTURE.md").read_text(encoding="utf-8")


def tree() -> dict[str, str]:
    """Name and description of every module and room in the page's tree; a room's name ends with /."""
    block = re.search(r"```\nmonai_sr/\n(.*?)```", PAGE, flags=re.DOTALL)[1]
    return dict(line.split(maxsplit=1) for line in block.splitlines())


def test_the_tree_names_every_module_and_room_with_one_line():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(tree()) == modules | rooms
    assert all(tree().values())


def test_the_tree_is_in_order():
    modules = [name for name in tree() if not name.endswith("/")]
    rooms = [name for name in tree() if name.endswith("/")]
    assert list(tree()) == [*sorted(modules), *sorted(rooms)]


def test_the_floors_of_the_page_are_those_of_the_imports():
    rows = re.findall(r"^\| (\d) [^|]*\| ([^|]*) \|", PAGE, flags=re.MULTILINE)
    assert {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows} == FLOORS


def inner_imports(path: Path) -> list[str]:
    """The imports inside functions of a file."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {node for function in functions for node in ast.walk(function)}
    return [f"{path.name}:{node.lineno}" for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_package_is_as_small_as_planned():
    assert len(list(PACKAGE.glob("*.py"))) <= 16
    assert len([name for name in tree() if name.endswith("/")]) <= 11
    assert all(len(path.read_bytes().splitlines()) <= 400 for path in PACKAGE.rglob("*.py"))
    assert len([line for path in PACKAGE.rglob("*.py") for line in inner_imports(path)]) <= 25


def test_the_public_names_are_these():
    assert set(monai_sr.__all__) == {
        *("read_image", "write_image", "run", "run_cases", "find_cases", "RunOptions"),
        *("load_bundle", "super_resolve", "fuse", "SuperResolutionInferer", "ResidualNet", "PyramidNet"),
        *("simulate_thick_slices", "interpolate_slices", "carry_labels", "measure_consistency", "evaluate"),
        *("ImageError", "SuperResolutionError", "SuperResolutionWarning", "collect_notices", "__version__"),
    }
    assert all(getattr(monai_sr, name) for name in monai_sr.__all__)


def test_every_file_that_the_page_names_exists():
    names = re.findall(r"`((?:\w+/)*\w+\.(?:py|tsv))`", PAGE)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).is_file() and not (PACKAGE / name).is_file()] == []


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_the_slice_thickness_passes_few_hands_from_the_command_line_to_the_matrix(tmp_path):
    write_image(phantoms.body((20, 18, 8), (1.0, 1.0, 4.0)), tmp_path / "thick.nii.gz", dtype=np.int16)
    hands = []

    def note(frame, event, _):
        code = frame.f_code
        if (
            event == "call"
            and str(PACKAGE) in code.co_filename
            and "slice_thickness" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        ):
            value = frame.f_locals["slice_thickness"]
            if np.ndim(value) <= 1 and np.all(value == np.float64(3.375)):
                hands.append(code.co_qualname)

    words = ["run", tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz", "--bundle", "none", "--slice-thickness", 3.375]
    sys.setprofile(note)
    try:
        assert main([str(word) for word in words]) == 0
    finally:
        sys.setprofile(None)
    # run_options and acquire hold it in a record; the estimate of the profile tries widths, and the check comes later
    others = {"estimate_profile", "_scores", "profile_matrix"}
    assert [hand for hand in dict.fromkeys(hands) if hand not in others] == [
        *("Acquired.of", "SliceModel.between", "profile_weights")
    ]
