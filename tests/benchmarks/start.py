"""How soon a command answers: help, refusals, and the shortest runs, each in a process of its own.

``python -m tests.benchmarks.start`` prints a Markdown table: processor and wall seconds, the smallest of ``--repeats``.
On a busy machine, use the processor seconds. The last row is what a run of the example takes beyond the
super-resolution itself, which is measured in a process that has done it once, right after the run; the median of
``--repeats``. ``--parts`` prints instead where a run
of the example spends its time, each part also as a fraction of the super-resolution itself; with OMP_NUM_THREADS=1,
because threads that wait count.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from monai_sr.io.shelf import bundle_path

EXAMPLE = str(bundle_path("residual") / "docs" / "example" / "thick.nii.gz")


def commands(folder: Path) -> dict[str, list[str]]:
    """Words of each command by what it shows; inputs are written to ``folder``."""
    (folder / "texts").mkdir()
    (folder / "texts" / "notes.txt").write_text("no image")
    (folder / "cut.nii.gz").write_bytes(gzip.compress(b"\x5c\x01\x00\x00" + bytes(200)))
    (folder / "text.nii").write_text("no image")
    new = str(folder / "new.nii.gz")
    return {
        "help": ["run", "--help"],
        "versions and bundles": ["info"],
        "wrong option": ["run", "--fator", "4"],
        "input is missing": ["run", str(folder / "absent.nii.gz"), new],
        "output folder is missing": ["run", EXAMPLE, str(folder / "absent" / "new.nii.gz")],
        "no image": ["run", str(folder / "text.nii"), new],
        "header cut": ["run", str(folder / "cut.nii.gz"), new],
        "check of a cut header": ["check", str(folder / "cut.nii.gz")],
        "folder without images": ["run", str(folder / "texts"), str(folder / "out/")],
        "no BIDS dataset": ["bids", str(folder / "texts"), str(folder / "out"), "participant"],
        "check of the example": ["check", EXAMPLE],
        "dry run of the example": ["run", EXAMPLE, new, "--dry-run"],
        "dry run of the example by torch, best quality": [
            *("run", EXAMPLE, new, "--dry-run", "--engine", "torch", "--quality", "best")
        ],
        "dry run of the example without a network": ["run", EXAMPLE, new, "--dry-run", "--bundle", "none"],
        "the example without a network": ["run", EXAMPLE, new, "--bundle", "none"],
    }


def seconds_of(words: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of one command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-m", "monai_sr", *words]
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def rows(folder: Path, repeats: int, only: str) -> Iterator[str]:
    """The rows of the table."""
    yield "| | processor, s | wall, s |"
    yield "|---|---|---|"
    for name, words in commands(folder).items():
        if only in name:
            spent, wall = map(min, zip(*(seconds_of(words) for _ in range(repeats)), strict=True))
            yield f"| {name} | {spent:.2f} | {wall:.2f} |"
    if only in BEYOND:
        words = ["run", EXAMPLE, str(folder / "new.nii.gz"), "--overwrite"]
        taken = zip(*(_seconds_beyond(words, folder) for _ in range(repeats)), strict=True)
        spent, wall = map(median, taken)
        yield f"| {BEYOND} | {spent:.2f} | {wall:.2f} |"


BEYOND = "run of the example, beyond the super-resolution"


def _seconds_beyond(words: list[str], folder: Path) -> tuple[float, float]:
    """Processor and wall seconds of a run minus those of a second super-resolution in one process."""
    spent, wall = seconds_of(words)
    alone = seconds_of_parts(EXAMPLE, str(folder / "new.nii.gz"))["super-resolution again"]
    return spent - alone[0], wall - alone[1]


PARTS = {
    "imports: NumPy, nibabel, ours": """
from monai_sr.engine.imports import without
with without("pydicom"):
    import monai_sr.cli.main, monai_sr.cli.run
""",
    "imports: OpenVINO, ours": "import monai_sr.batch.case, openvino",
    "load the network": """
from monai_sr import batch
from monai_sr.inference import acquire
from monai_sr.io.images import write_image
from monai_sr.options import RunOptions
options = RunOptions.from_dict({"input": source, "output": target, "device": "cpu"})
model = batch.load_model(options)
""",
    "read": """
(case,) = batch.find_cases(options)
acquired = acquire(batch.case.read_case(case, options), options.acquisition)
""",
    "super-resolution, first": "sr, _ = batch.case.super_resolve_within(model, acquired, options.wanted)",
    "super-resolution again": "sr, _ = batch.case.super_resolve_within(model, acquired, options.wanted)",
    "check of the result": "batch.case.assess(acquired, sr, model, options)",
    "write": "write_image(sr, target)",
}
"""What a run does in order, as Python; the first super-resolution also compiles the graphs of the network."""


def program(source: str, target: str) -> str:
    """Python that does the parts and prints the processor and wall seconds of each as JSON."""
    timed = (
        f"start = time.process_time(), time.perf_counter()\n{code}\n"
        "spent.append((time.process_time() - start[0], time.perf_counter() - start[1]))\n"
        for code in PARTS.values()
    )
    names = f"import json, time\nsource, target, spent = {source!r}, {target!r}, []\n"
    return f"{names}{''.join(timed)}print(json.dumps(spent))"


def seconds_of_parts(source: str, target: str) -> dict[str, tuple[float, float]]:
    """Processor and wall seconds of each part, in a process of its own."""
    without_collector = "import gc; gc.disable()\n"  # as a run imports, see imports_that_stay
    words = [sys.executable, "-c", without_collector + program(source, target)]
    environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment)
    return dict(zip(PARTS, map(tuple, json.loads(done.stdout)), strict=True))


def parts(folder: Path, repeats: int) -> Iterator[str]:
    """The rows of the table of parts, each the smallest of some processes."""
    taken = [seconds_of_parts(EXAMPLE, str(folder / f"new{index}.nii.gz")) for index in range(repeats)]
    minimum = {name: min(one[name][0] for one in taken) for name in PARTS}
    yield "| | processor, s | of the super-resolution |"
    yield "|---|---|---|"
    for name, spent in minimum.items():
        yield f"| {name} | {spent:.2f} | {spent / minimum['super-resolution again']:.2f} |"


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="commands with this in their name")
    parser.add_argument("--parts", action="store_true", help="where a run of the example spends its time")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        lines = (
            parts(Path(folder), options.repeats) if options.parts else rows(Path(folder), options.repeats, options.only)
        )
        for row in lines:
            print(row, flush=True)


if __name__ == "__main__":
    main()
