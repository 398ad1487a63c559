"""What has to be put into Slicer's Python, and what must be left as Slicer has it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

VERSION = "0.1.0"
"""Of monai-sr that this extension belongs to."""

PYTHON = (3, 11)
"""The oldest version that monai-sr supports."""

EXTRAS = ("cpu",)
"""Of monai-sr, installed as well: the engine that is fastest without a GPU."""

TORCH = ">=2.6"
"""What monai-sr requires of it."""

LEFT_AS_IT_IS = ("torch", "simpleitk")
"""torch comes by Slicer's PyTorch extension, in the build that fits the GPU; SimpleITK is Slicer's own build."""


def python() -> str | None:
    """What runs monai-sr: the Python that ``MONAI_SR_PYTHON`` names, else Slicer's own; None if there is none."""
    return os.environ.get("MONAI_SR_PYTHON") or shutil.which("PythonSlicer")


def is_installed() -> bool:
    """Whether monai-sr can be imported, without importing it; another Python is left to whoever named it."""
    return bool(os.environ.get("MONAI_SR_PYTHON")) or importlib.util.find_spec("monai_sr") is not None


def is_new_enough(torch: str) -> bool:
    """Whether a version of torch such as "2.13.0+cpu" meets :data:`TORCH`."""
    return _release(torch) >= _release(TORCH)


def _release(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def requirement(module: Path) -> str:
    """What pip has to install: the checkout that the extension lies in, else the release.

    Args:
        module: the folder of this module.
    """
    for folder in module.resolve().parents:
        if (folder / "pyproject.toml").is_file() and (folder / "monai_sr").is_dir():
            return str(folder)
    return f"monai-sr=={VERSION}"


def dependencies(requires: Iterable[str]) -> list[str]:
    """The dependencies to install, of those that the package's metadata name."""
    wanted = []
    for line in requires:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if name and name[0].lower() not in LEFT_AS_IT_IS and (extra is None or extra[1] in EXTRAS):
            wanted.append(requirement.strip() if extra else line)
    return wanted


def example(module: Path) -> Path | None:
    """The volume of thick slices that comes with monai-sr, where there is one.

    Args:
        module: the folder of this module.
    """
    found = importlib.util.find_spec("monai_sr")
    package = Path(found.origin).parent if found and found.origin else module.resolve().parents[2]
    for bundles in (package / "_bundles", package.parent / "bundles"):
        path = bundles / "residual_super_resolution" / "docs" / "example" / "thick.nii.gz"
        if path.is_file():
            return path
    return None
