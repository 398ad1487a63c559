"""The example application runs on the real MONAI Deploy App SDK, and writes what the command line writes.

MONAI_SR_DEPLOY_PYTHON names the Python of an environment with the SDK and monai-sr, made as
monai_sr/clients/deploy/README.md describes; without it these tests skip.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jsonschema
import pytest
from dicom_phantoms import Stack, even, slices, tells_nothing, write

from monai_sr.cli.main import main
from monai_sr.dicom import find_series
from monai_sr.options import RunOptions

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "monai_sr" / "clients" / "deploy" / "example"
SCHEMA = ROOT / "monai_sr" / "batch" / "record.schema.json"
DEPLOY = os.environ.get("MONAI_SR_DEPLOY_PYTHON", "")


def on_the_sdk(test):
    """The marks of a test that needs the SDK."""
    no_sdk = "MONAI_SR_DEPLOY_PYTHON names no Python with the MONAI Deploy App SDK"
    return pytest.mark.deploy(pytest.mark.slow(pytest.mark.skipif(not DEPLOY, reason=no_sdk)(test)))


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


@on_the_sdk
def test_a_folder_of_dicom_becomes_derived_series_equal_to_those_of_the_command_line(tmp_path):
    write(tmp_path / "in" / "ct", slices(Stack(orientation="oblique")))
    write(tmp_path / "in" / "mr", slices(series=2, modality="MR"))
    ran = run_app(tmp_path / "in", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "by hand"), "--device", "cpu", "--engine", "torch"]) == 0
    assert len(files_below(tmp_path / "out")) == 52
    assert files_below(tmp_path / "out") == files_below(tmp_path / "by hand")
    assert tells_nothing(ran.stdout, ran.stderr)


@on_the_sdk
def test_the_options_are_those_of_the_configuration_and_other_series_are_not_taken(tmp_path):
    write(tmp_path / "in" / "ct", slices())
    write(tmp_path / "in" / "derived", slices(series=2, ImageType=["DERIVED", "SECONDARY", "MPR"]))
    config = "super_resolution:\n  bundle: none\n  factor: 2\n"
    ran = run_app(tmp_path / "in", tmp_path / "out", config=config)
    assert ran.returncode == 0, ran.stderr
    assert len(files_below(tmp_path / "out")) == 16
    assert {left.code for left in find_series(tmp_path / "out").left_out} == {"E-DCM-OWN", "E-IO-TYPE"}  # records


@on_the_sdk
def test_a_series_that_cannot_be_used_stops_no_other_and_alone_ends_the_application(tmp_path):
    gap = Stack(offsets=tuple(o for i, o in enumerate(even(9, 4.0)) if i != 4))
    write(tmp_path / "in" / "gap", slices(gap, series=2))
    alone = run_app(tmp_path / "in", tmp_path / "alone", config="super_resolution:\n  bundle: none\n")
    assert alone.returncode != 0 and "E-DCM-GAP" in alone.stderr and not files_below(tmp_path / "alone")
    write(tmp_path / "in" / "good", slices())
    ran = run_app(tmp_path / "in", tmp_path / "out")
    assert ran.returncode == 0 and "E-DCM-GAP" in ran.stderr
    assert len(files_below(tmp_path / "out")) == 26


# ---------------------------------------------------------------- without the SDK


class Pipeline:
    """The ports between two operators."""

    def __init__(self, received=None):
        self.value = received

    def receive(self, port):
        return self.value

    def emit(self, value, port):
        self.value = value


@pytest.fixture
def operators(monkeypatch):
    """The operators, on a stand-in for the SDK that has the names they use."""
    core = types.ModuleType("monai.deploy.core")
    core.ConditionType = types.SimpleNamespace(NONE=None)
    core.Fragment = core.OperatorSpec = object
    core.Operator = type("Operator", (), {"__init__": lambda self, *args, **kwargs: None})
    monkeypatch.setitem(sys.modules, "monai.deploy", types.ModuleType("monai.deploy"))
    monkeypatch.setitem(sys.modules, "monai.deploy.core", core)
    yield importlib.import_module("monai_sr.clients.deploy.operators")
    for name in [name for name in sys.modules if name.startswith("monai_sr.clients.deploy")]:
        del sys.modules[name]


def test_the_writer_leaves_the_record_of_the_command_line_beside_each_series(operators, tmp_path):
    write(tmp_path / "in", slices())
    images = [
        types.SimpleNamespace(get_native_sop_instance=lambda file=file: types.SimpleNamespace(filename=file))
        for file in sorted((tmp_path / "in").iterdir())
    ]
    series = types.SimpleNamespace(SeriesInstanceUID="1.2.3", get_sop_instances=lambda: images)
    study = types.SimpleNamespace(selected_series=[types.SimpleNamespace(series=series)])
    ports = Pipeline([study])
    options = RunOptions.from_dict({"bundle": "none", "slice_thickness": 9.0, "device": "cpu"})
    operators.SuperResolutionOperator(None, options=options).compute(ports, ports, None)
    operators.DerivedSeriesWriterOperator(None, output_folder=tmp_path / "out").compute(ports, None, None)
    words = ["--bundle", "none", "--slice-thickness", "9", "--device", "cpu"]
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "by hand"), *words]) == 0
    assert files_below(tmp_path / "out") == files_below(tmp_path / "by hand")
    (made,) = (tmp_path / "out").glob("*.json")
    (expected,) = (tmp_path / "by hand").glob("series-*.json")
    assert made.name == expected.name
    records = [json.loads(path.read_text()) for path in (made, expected)]
    for record in records:
        jsonschema.validate(record, json.loads(SCHEMA.read_text()))
        for varying in ("seconds", "peak_memory_mib"):
            del record["monai_sr"][varying]
    assert records[0] == records[1]
