"""The house has floors: imports go down, or sideways without a cycle."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import monai_sr

PACKAGE = Path(monai_sr.__file__).parent

FLOORS = {
    0: {"codes", "errors", "files", "intensities", "networks", "options", "profiles", "slices"},
    1: {"acquired", "grid", "transforms"},
    2: {"bundles", "dicom", "engine", "inference", "io", "labels", "trust"},
    3: {"evaluation", "report", "training"},
    4: {"batch", "fusion"},
    5: {"__main__", "cli", "clients"},
}
FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}
GROUND_LIBRARIES = {"numpy", "scipy", "torch", "nibabel", "psutil", "yaml"}
DOORS = 5


def module_of(path: Path) -> str:
    """The module, or the sub-package, that a file of the package belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path, source: str) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports, wherever it stands."""
    package = ["monai_sr", *path.relative_to(PACKAGE).parent.parts]
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            imports += [(node.lineno, ".".join([*parts, alias.name])) for alias in node.names]
    return imports


def own_module(name: str) -> str | None:
    """The module of ours that an absolute name lies in; "__init__" for the public names."""
    parts = name.split(".")
    if parts[0] != "monai_sr":
        return None
    known = len(parts) > 1 and (parts[1] in FLOOR_OF or (PACKAGE / f"{parts[1]}.py").exists())
    return parts[1] if known else "__init__"


def faults_of(path: Path, source: str) -> list[str]:
    """The lines of a file that climb a floor, in words."""
    module = module_of(path)
    floor = FLOOR_OF.get(module, DOORS)  # a module without a floor is named by its own test
    faults = []
    for line, name in imports_of(path, source):
        target = own_module(name)
        place = f"{path.relative_to(PACKAGE.parent)}:{line} (floor {floor})"
        if target == "__init__" and floor < DOORS:
            faults.append(f"{place} imports {name} from the front of the house; import it from its module")
        elif target not in (None, "__init__") and FLOOR_OF.get(target, floor + 1) > floor:
            faults.append(f"{place} climbs to {target} (floor {FLOOR_OF.get(target, 'unknown')})")
        library = name.split(".")[0]
        if target is None and floor == 0 and library not in GROUND_LIBRARIES | sys.stdlib_module_names:
            faults.append(f"{place} imports {library}; floor 0 knows only {', '.join(sorted(GROUND_LIBRARIES))}")
    return faults


def sources() -> list[Path]:
    """Every file of the package that lies on a floor."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def test_no_line_climbs_a_floor():
    faults = [fault for path in sources() for fault in faults_of(path, path.read_text(encoding="utf-8"))]
    assert not faults, "\n".join(faults)


def test_every_module_has_its_floor():
    homeless = {module_of(p) for p in sources()} - set(FLOOR_OF)
    assert not homeless, f"say in ARCHITECTURE.md and in FLOORS on which floor these live: {sorted(homeless)}"


def test_imports_make_no_cycle():
    below: dict[str, set[str]] = {}
    for path in sources():
        targets = {own_module(name) for _, name in imports_of(path, path.read_text(encoding="utf-8"))}
        below.setdefault(module_of(path), set()).update(targets - {None, "__init__", module_of(path)})
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' -> '.join(error.args[1])}")


def test_there_is_no_utils():
    assert not [p for p in PACKAGE.rglob("util*") if p.suffix == ".py" or p.is_dir()]


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("slices.py", "from .grid import grid_of", "climbs to grid (floor 1)"),
        ("grid.py", "from . import inference", "climbs to inference (floor 2)"),
        ("slices.py", "import monai_sr.cli.main", "climbs to cli (floor 5)"),
        ("transforms.py", "def f():\n    from monai_sr.batch import run_cases", "climbs to batch (floor 4)"),
        ("transforms.py", "from . import Grid", "from the front of the house"),
        ("slices.py", "import monai", "imports monai"),
        ("slices.py", "from monai.data import MetaTensor", "imports monai"),
        ("networks.py", "import einops", "imports einops"),
    ],
)
def test_a_line_that_climbs_is_named(file, line, complaint):
    (fault,) = faults_of(PACKAGE / file, f"import torch\n{line}\n")
    assert complaint in fault
    assert f"monai_sr/{file}:{3 if 'def' in line else 2} " in fault


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("transforms.py", "from .slices import profile_matrix"),
        ("profiles.py", "from .slices import profile_matrix"),
        ("cli/main.py", "from .. import __version__"),
        ("inference.py", "import monai, nibabel"),
        ("clients/module.py", "from ..io.images import read_image"),
        ("clients/module.py", "from .other import name"),
    ],
)
def test_going_down_or_sideways_is_allowed(file, line):
    assert not faults_of(PACKAGE / file, line)
