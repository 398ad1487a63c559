"""The example application runs on the real MONAI Deploy App SDK, and writes what the command line writes.

MONAI_SR_DEPLOY_PYTHON names the Python of an environment with the SDK and monai-sr, made as
monai_sr/clients/deploy/README.md tells; without it these tests skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dicom_phantoms import Stack, even, slices, tells_nothing, write

from monai_sr.cli.main import main
from monai_sr.dicom import find_series

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "monai_sr" / "clients" / "deploy" / "example"
DEPLOY = os.environ.get("MONAI_SR_DEPLOY_PYTHON", "")

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.slow,
    pytest.mark.skipif(not DEPLOY, reason="MONAI_SR_DEPLOY_PYTHON names no Python with the MONAI Deploy App SDK"),
]


def run_app(source: Path, target: Path, *, config: str | None = None) -> subprocess.CompletedProcess:
    """The example application as a user runs it, or a copy with another ``app.yaml``."""
    folder = EXAMPLE
    if config is not None:
        folder = Path(shutil.copytree(EXAMPLE, target.with_name("app")))
        (folder / "app.yaml").write_text(config)
    return subprocess.run(
        [DEPLOY, str(folder / "app.py"), "-i", str(source), "-o", str(target)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=target.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.dcm")}


def test_a_folder_of_dicom_becomes_derived_series_equal_to_those_of_the_command_line(tmp_path):
    write(tmp_path / "in" / "ct", slices(Stack(orientation="oblique")))
    write(tmp_path / "in" / "mr", slices(series=2, modality="MR"))
    ran = run_app(tmp_path / "in", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "by hand"), "--device", "cpu", "--engine", "torch"]) == 0
    assert len(files_below(tmp_path / "out")) == 52
    assert files_below(tmp_path / "out") == files_below(tmp_path / "by hand")
    assert tells_nothing(ran.stdout, ran.stderr)


def test_the_options_are_those_of_the_configuration_and_other_series_are_not_taken(tmp_path):
    write(tmp_path / "in" / "ct", slices())
    write(tmp_path / "in" / "derived", slices(series=2, ImageType=["DERIVED", "SECONDARY", "MPR"]))
    config = "super_resolution:\n  bundle: none\n  factor: 2\n"
    ran = run_app(tmp_path / "in", tmp_path / "out", config=config)
    assert ran.returncode == 0, ran.stderr
    assert len(files_below(tmp_path / "out")) == 16
    assert {left.code for left in find_series(tmp_path / "out").left_out} == {"E-DCM-OWN"}


def test_a_series_that_cannot_be_used_stops_no_other_and_alone_ends_the_application(tmp_path):
    gap = Stack(offsets=tuple(o for i, o in enumerate(even(9, 4.0)) if i != 4))
    write(tmp_path / "in" / "gap", slices(gap, series=2))
    alone = run_app(tmp_path / "in", tmp_path / "alone", config="super_resolution:\n  bundle: none\n")
    assert alone.returncode != 0 and "E-DCM-GAP" in alone.stderr and not files_below(tmp_path / "alone")
    write(tmp_path / "in" / "good", slices())
    ran = run_app(tmp_path / "in", tmp_path / "out")
    assert ran.returncode == 0 and "E-DCM-GAP" in ran.stderr
    assert len(files_below(tmp_path / "out")) == 26
