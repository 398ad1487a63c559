"""``--json``: one document for programs, which fits its schema whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dicom_phantoms
import jsonschema
import numpy as np
import pytest
from catalogue import fault
from runs import scan

import monai_sr.cli
from monai_sr import batch
from monai_sr.batch import find_cases, forecast, speed
from monai_sr.bundles import load_bundle
from monai_sr.cli.main import main
from monai_sr.options import RunOptions

SCHEMA = json.loads((Path(monai_sr.cli.__file__).parent / "answer.schema.json").read_text())


@pytest.fixture
def document(call):
    """The document that a command prints, once it fits the schema."""

    def run(*words) -> dict:
        code, out, err = call(*words, "--json")
        report = json.loads(out)
        jsonschema.Draft202012Validator(SCHEMA).validate(report)
        assert (report["exit_code"], report["command"], err) == (code, words[0], "")
        return report

    return run


@pytest.fixture
def thick(tmp_path) -> Path:
    return scan(tmp_path / "in" / "a.nii.gz", shape=(24, 20, 12))


def codes(notices: list[dict]) -> list[str]:
    return [notice["code"] for notice in notices]


def test_the_schema_is_one_and_refuses_other_documents(document):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    report = document("info")
    for spoil in ({"exit_code": "0"}, {"errors": [{"code": "E-USE"}]}, {"volumes": [{}]}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(report | spoil, SCHEMA)


def test_run_and_verify_say_in_json_what_they_say_in_text(document, thick, tmp_path):
    (volume,) = document("run", thick, tmp_path / "thin.nii.gz", "--bundle", "none", "--factor", "4")["volumes"]
    assert (volume["status"], volume["factor"]) == ("done", 4.0) and volume["score"] < 0.01
    report = document("verify", thick, tmp_path / "thin.nii.gz")
    assert report["consistent"] and report["consistency"]["score"] == pytest.approx(volume["score"], abs=1e-3)


@pytest.mark.parametrize("words", [["run", "absent.nii", "out.nii"], ["run", "--fator", "4"], ["verify"], ["check"]])
def test_an_error_is_in_the_document_too(document, words):
    report = document(*words)
    assert report["exit_code"] in (2, 3) and codes(report["errors"])[0][:2] == "E-"


def test_a_bad_volume_of_a_folder_is_listed_among_the_others(document, thick, tmp_path):
    (thick.parent / "bad.nii.gz").write_bytes(b"")
    for words in (["run", thick.parent, tmp_path / "out", "--bundle", "none"], ["check", thick.parent]):
        report = document(*words)
        assert report["exit_code"] == 4
        assert [volume["error"] and volume["error"]["code"] for volume in report["volumes"]] == [None, "E-IO-TYPE"]


def test_check_says_what_would_be_made_and_the_source_of_each_fact(document, thick, tmp_path):
    (volume,) = document("check", thick, "--slice-thickness", "3")["volumes"]
    assert volume["factor"] == 4 and "24x20x48" in volume["after"]
    assert volume["acquired"]["slice_thickness"] == {"value": 3.0, "source": "option"}
    assert volume["acquired"]["slice_profile"]["value"] in ("gaussian", "box")
    dicom_phantoms.write(tmp_path / "dicom", dicom_phantoms.slices())
    (series,) = document("check", tmp_path / "dicom")["volumes"]
    assert series["modality"] == "CT" and series["name"].startswith("series-") and series["factor"] > 1
    assert series["acquired"]["slice_thickness"]["source"] == "header"


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_check_gives_its_verdict_for_every_format(call, thick, tmp_path, suffix):
    converted = scan(tmp_path / f"b{suffix}", shape=(24, 20, 12))
    code, out, _ = call("check", converted)
    assert code == 0 and out.splitlines()[-1] == "  can be processed" and "factor 4" in out and "assumed" in out


@fault("R13", "W-OUT-CHANGED")
def test_check_verifies_the_hash_of_a_result(document, thick, tmp_path):
    target = tmp_path / "thin.nii"
    assert main(["run", str(thick), str(target), "--bundle", "none"]) == 0
    assert document("check", target)["made_by_monai_sr"]["is_as_recorded"] is True
    target.write_bytes(target.read_bytes()[:-1] + b"\x01")
    report = document("check", target)
    assert report["made_by_monai_sr"]["is_as_recorded"] is False and "W-OUT-CHANGED" in codes(report["warnings"])
    assert document("check", thick)["made_by_monai_sr"] is None


def test_a_dry_run_names_what_it_would_write_and_warns_as_the_run_does(document, thick, tmp_path):
    words = ["run", thick, tmp_path / "thin.nii.gz", "--bundle", "residual", "--spacing", "0.5", "--report"]
    planned = document(*words, "--consistency-map", "--dry-run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    done = document(*words, "--consistency-map")
    (plan,), (volume,) = planned["volumes"], done["volumes"]
    assert "W-SR-RANGE" in codes(planned["warnings"]) and set(codes(planned["warnings"])) <= set(
        codes(done["warnings"])
    )
    written = [path for path in tmp_path.iterdir() if path.name != "in"]
    assert sorted(plan["outputs"]) == sorted(map(str, written)) and volume["status"] == "done"
    assert plan["memory_mib"] > 0 and plan["seconds"] > 0


def test_a_dry_run_refuses_what_the_run_refuses(document, thick, tmp_path):
    taken = scan(tmp_path / "taken.nii.gz", seed=2)
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(thick.read_bytes()[:-9])
    for source, target, code in ((thick, taken, "E-OUT-EXISTS"), (damaged, tmp_path / "b.nii", "E-IO-TRUNC")):
        planned = document("run", source, target, "--bundle", "none", "--dry-run")
        assert planned["volumes"][0]["error"]["code"] == code
        assert planned["exit_code"] == {"E-OUT-EXISTS": 6, "E-IO-TRUNC": 5}[code]
        assert codes(document("run", source, target, "--bundle", "none")["errors"]) == [code]


def test_time_is_foreseen_by_an_offset_and_a_slope(thick, tmp_path, monkeypatch):
    voxels = 24 * 20 * 48

    def timed(case, options, model, **_):
        size = np.prod(batch.read_case(case, options).shape) * 4
        return type("outcome", (), {"seconds": 0.5 + 2e-6 * size})

    monkeypatch.setattr(speed, "process", timed)
    monkeypatch.setattr(speed, "_seconds_per_sample", lambda: 1e-7)  # whatever else this machine does
    options = RunOptions.from_dict({"input": str(thick), "output": str(tmp_path / "b.nii"), "bundle": "none"})
    (one,) = forecast.forecast_cases(find_cases(options), options, load_bundle("none"))
    assert one.seconds == pytest.approx(0.5 + 2e-6 * voxels, rel=1e-6)


def test_verify_still_writes_its_figures_to_a_file(call, thick, tmp_path):
    assert call("run", thick, tmp_path / "thin.nii.gz", "--bundle", "none")[0] == 0
    code, out, _ = call("verify", thick, tmp_path / "thin.nii.gz", "--json", tmp_path / "figures.json")
    assert code == 0 and out.endswith("consistent\n")
    assert json.loads((tmp_path / "figures.json").read_text())["consistency"]["score"] < 0.01


def test_a_full_device_ends_json_with_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "monai_sr", "info", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6 and done.stderr.startswith("monai-sr: E-OUT-SPACE: ") and done.stderr.count("\n") == 1
