#!/usr/bin/env python-real
"""What Slicer runs as the command line module: ``monai-sr slicer`` with the words it was given.

monai-sr is looked for in the Python that runs this file, which is Slicer's own. To use another one,
such as a virtual environment with a GPU build of torch, name its interpreter in ``MONAI_SR_PYTHON``.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence

OF_SLICER = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What Slicer sets for its own Python and libraries, and another Python must not see."""


def main(words: Sequence[str]) -> int:
    """Run monai-sr here or in the other Python; its exit code."""
    other = os.environ.get("MONAI_SR_PYTHON")
    if other:
        command = [other, "-m", "monai_sr", "slicer", *words]
        environment = {name: value for name, value in os.environ.items() if name not in OF_SLICER}
        if os.name == "posix":  # the same process, so that Slicer's Cancel ends it
            os.execve(other, command, environment)
        return subprocess.call(command, env=environment)
    if importlib.util.find_spec("monai_sr") is None:
        print(
            "MonaiSR: monai-sr is not installed here. Fix: open the MonaiSR module of Slicer, which installs it "
            "into Slicer's Python, or name a Python that has it in the environment variable MONAI_SR_PYTHON.",
            file=sys.stderr,
        )
        return 10
    sys.argv = ["monai-sr", "slicer", *words]
    runpy.run_module("monai_sr", run_name="__main__")  # ends the process with its exit code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
