"""One story: however a result was asked for, it has the same record beside it, and no foreign file is lost."""

import json
import re
import shutil
from pathlib import Path

import dicom_phantoms
import jsonschema
import nibabel as nib
import numpy as np
import phantoms
import pytest
from catalogue import fault
from nifti_tools import save_nifti

import monai_sr
from monai_sr.batch.record import record_beside, sha256_of_result
from monai_sr.cli.config import read_config
from monai_sr.cli.main import main
from monai_sr.dicom import sidecar
from monai_sr.io.images import write_image
from monai_sr.options import GROUPS, PARAMETERS, RunOptions

TIMES = {"seconds", "peak_memory_mib"}


@pytest.fixture
def thick(tmp_path) -> Path:
    image = phantoms.known_value(phantoms.grid((10, 9, 6), (1.0, 1.0, 4.0)))
    return write_image(image, tmp_path / "thick.nii.gz", dtype=np.int16)


@pytest.fixture
def series(tmp_path) -> Path:
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices())
    return tmp_path / "series"


def run(*words) -> int:
    return main(["run", *map(str, words), "--bundle", "none", "--device", "cpu", "--factor", "2"])


def record_of(target: Path) -> dict:
    """What a record says but for times."""
    return {name: value for name, value in record_beside(target).items() if name not in TIMES}


def test_a_named_file_has_the_record_that_it_has_in_a_folder(thick, tmp_path):
    assert run(thick, tmp_path / "named.nii.gz") == 0
    assert run(thick, f"{tmp_path}/new/folder/") == 0
    named, in_folder = tmp_path / "named.nii.gz", tmp_path / "new" / "folder" / "thick.nii.gz"
    assert named.read_bytes() == in_folder.read_bytes()
    assert record_of(named) == record_of(in_folder)
    assert not (tmp_path / "monai-sr-run.tsv").exists() and (in_folder.parent / "monai-sr-run.tsv").exists()


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_every_format_has_its_record(thick, tmp_path, suffix):
    assert run(thick, tmp_path / f"thin{suffix}") == 0
    record = record_of(tmp_path / f"thin{suffix}")
    assert record["output_sha256"] == sha256_of_result(tmp_path / f"thin{suffix}")
    assert record["options"] == {"wanted": {"bundle": "none", "factor": 2.0}, "compute": {"device": "cpu"}}
    assert record["consistency"]["score"] < 0.01


def test_a_series_has_the_same_record_as_a_file_and_as_a_derived_series(series, tmp_path):
    assert run(series, tmp_path / "named.nii.gz") == 0
    assert run(series, tmp_path / "derived") == 0
    (derived,) = (p for p in (tmp_path / "derived").iterdir() if p.is_dir())
    named, other = record_of(tmp_path / "named.nii.gz"), record_of(derived)
    assert named.pop("output_sha256") != other.pop("output_sha256")
    assert named == other
    beside = [json.loads(path.read_text()) for path in (tmp_path / "named.json", derived.with_suffix(".json"))]
    assert beside[0].keys() == beside[1].keys() and beside[0]["FilledSlices"] == []


def test_slicer_and_python_leave_the_same_record(thick, tmp_path):
    assert run(thick, tmp_path / "named.nii.gz") == 0
    words = ["slicer", "--bundle", "none", "--device", "cpu", "--factor", "2", str(thick), str(tmp_path / "s.nii.gz")]
    assert main(words) == 0
    places = {"input": str(thick), "output": str(tmp_path / "p.nii.gz")}
    (outcome,) = monai_sr.run(RunOptions.from_dict(places | {"bundle": "none", "device": "cpu", "factor": 2}))
    assert outcome.status == "done" and outcome.output == places["output"]
    for name in ("s.nii.gz", "p.nii.gz"):
        assert record_of(tmp_path / name) == record_of(tmp_path / "named.nii.gz")


def test_a_volume_that_fails_is_an_outcome_in_python(tmp_path):
    path = save_nifti(tmp_path / "flat.nii", np.full((5, 5, 5), 7, np.int16), np.eye(4))
    (outcome,) = monai_sr.run(RunOptions.from_dict({"input": str(path), "output": str(tmp_path / "out.nii")}))
    assert (outcome.status, outcome.code, outcome.exit_code) == ("failed", "E-IMG-CONST", 5)
    assert outcome.error.path == path


# ------------------------------------------------------------- a record as a file of options


def test_a_record_as_config_names_its_bundle_whatever_is_the_default_now(tmp_path):
    record = {"bundle": "residual_super_resolution", "options": {"wanted": {"factor": 2.0}}}
    path = tmp_path / "thin.json"
    path.write_text(json.dumps({"monai_sr": record}))
    assert read_config(path) == {"bundle": "residual", "factor": 2.0}
    path.write_text(json.dumps({"monai_sr": record | {"options": {"wanted": {"bundle": "folder"}}}}))
    assert read_config(path) == {"bundle": "folder"}


@pytest.mark.parametrize("target", ["first.nii.gz", "first.nrrd"])
def test_a_record_as_config_gives_the_same_bytes(thick, tmp_path, target):
    chosen = ["--factor", "2.5", "--slice-thickness", "3", "--profile", "box", "--modality", "MR", "--bundle", "none"]
    assert main(["run", str(thick), str(tmp_path / target), *chosen]) == 0
    record = (tmp_path / target).with_name("first.json")
    again = tmp_path / target.replace("first", "second")
    assert main(["run", str(thick), str(again), "--config", str(record)]) == 0
    assert again.read_bytes() == (tmp_path / target).read_bytes()
    assert record_of(again) == record_of(tmp_path / target)
    assert nib.load(thick).shape[2] * 2.5 == record_beside(again)["options"]["wanted"]["factor"] * 6


def test_a_record_of_a_network_and_of_a_derived_series_gives_the_same_bytes(series, tmp_path):
    chosen = ["--bundle", "pyramid", "--factor", "2", "--format", "dicom"]
    assert main(["run", str(series), str(tmp_path / "first"), *chosen]) == 0
    (record,) = (tmp_path / "first").glob("series-*.json")
    assert main(["run", str(series), str(tmp_path / "second"), "--config", str(record)]) == 0
    files = [sorted((tmp_path / name).glob("series-*/*.dcm")) for name in ("first", "second")]
    assert files[0] and [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


# ------------------------------------------------------------- foreign files


@fault("R13")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_named_file_never_replaces_a_scan_of_others_unasked(call, thick, tmp_path, suffix):
    target = write_image(phantoms.known_value(phantoms.grid((4, 4, 4))), tmp_path / f"precious{suffix}")
    before = target.read_bytes()
    words = ("run", thick, target, "--bundle", "none")
    code, out, err = call(*words)
    assert (code, out) == (6, "") and err.startswith(f"monai-sr: E-OUT-EXISTS: {target} - ") and err.count("\n") == 1
    assert target.read_bytes() == before and not (tmp_path / "precious.json").exists()
    assert call(*words, "--overwrite")[0] == 0
    assert target.read_bytes() != before and record_of(target)


def test_a_named_file_replaces_its_own_earlier_result(call, thick, tmp_path):
    target = tmp_path / "thin.nii.gz"
    assert call("run", thick, target, "--bundle", "none", "--factor", "2")[0] == 0
    first = target.read_bytes()
    for words in (["--factor", "3"], ["--factor", "2"], ["--factor", "2"]):
        code, out, _ = call("run", thick, target, "--bundle", "none", *words)
        assert code == 0 and "->" in out
    assert target.read_bytes() == first
    (tmp_path / "thin.json").unlink()  # its header says still that it is ours
    assert call("run", thick, target, "--bundle", "none", "--factor", "2")[0] == 0
    (tmp_path / "thin.json").write_text('{"EchoTime": 1}')
    assert call("run", thick, target, "--bundle", "none", "--factor", "2")[0] == 6
    assert json.loads((tmp_path / "thin.json").read_text()) == {"EchoTime": 1}


def test_the_json_beside_the_source_is_never_replaced(call, thick, tmp_path):
    (tmp_path / "thick.json").write_text('{"SliceThickness": 3}')
    assert call("run", thick, tmp_path / "thick.nrrd", "--bundle", "none")[0] == 6
    assert json.loads((tmp_path / "thick.json").read_text()) == {"SliceThickness": 3}


def test_a_missing_mask_is_refused_before_any_work(call, thick, tmp_path):
    code, _, err = call("run", thick, tmp_path / "o.nii", "--bundle", "nobody", "--mask", tmp_path / "none.nii")
    assert code == 3 and "E-IO-MISSING" in err and "none.nii" in err


# ------------------------------------------------------------- the record and its page

ROOM = Path(monai_sr.__file__).parent / "batch"
SCHEMA = json.loads((ROOM / "record.schema.json").read_text())


def check_record(path: Path) -> dict:
    """The content of a record, once it fits the schema."""
    content = json.loads(path.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    return content["monai_sr"]


def test_the_schema_is_valid_and_refuses_other_documents(thick, tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert run(thick, tmp_path / "thin.nii.gz") == 0
    content = json.loads((tmp_path / "thin.json").read_text())
    for spoil in ({"record": 1}, {"unknown": 1}, {"options": {"factor": 2}}, {"warnings": ["W-SR-RANGE: text"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | {"monai_sr": content["monai_sr"] | spoil}, SCHEMA)


@pytest.mark.parametrize("kind", ["file", "NRRD", "passed through", "series", "derived", "BIDS", "maps", "uneven"])
def test_the_record_of_every_result_fits_the_schema(thick, series, tmp_path, kind):
    words, source, target = [], thick, tmp_path / "out" / "thin.nii.gz"
    target.parent.mkdir()
    if kind == "NRRD":
        target = tmp_path / "out" / "thin.nrrd"
    elif kind == "passed through":
        words = ["--spacing", "4"]
    elif kind in ("series", "derived"):
        source, target = series, target if kind == "series" else target.parent
    elif kind == "BIDS":
        source, target = tmp_path / "raw", target.parent
        (source / "sub-01" / "anat").mkdir(parents=True)
        (source / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
        (source / "sub-01" / "anat" / "sub-01_T1w.json").write_text('{"SliceThickness": 3}')
        shutil.copy(thick, source / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    elif kind == "maps":
        words = ["--consistency-map", "--uncertainty", "--bundle", "residual", "--report", "--nan", "refuse"]
    elif kind == "uneven":
        stack = dicom_phantoms.Stack((0.0, 4.0, 8.0, 13.0, 18.0))
        dicom_phantoms.write(tmp_path / "uneven", dicom_phantoms.slices(stack))
        source = tmp_path / "uneven"
    words = words if "--bundle" in words else [*words, "--bundle", "none"]
    assert main(["run", str(source), str(target), *words]) == 0
    (path,) = (p for p in (tmp_path / "out").rglob("*.json") if "monai_sr" in json.loads(p.read_text()))
    record = check_record(path)
    assert ("consistency" in record) == (kind != "passed through")
    assert ("uncertainty" in record) == (kind == "maps")
    assert RunOptions.from_dict(record["options"]).to_dict() == record["options"]


def test_the_options_of_the_schema_are_the_options():
    groups = SCHEMA["properties"]["monai_sr"]["properties"]["options"]["properties"]
    left_out = {
        "series",
        "protocols",
        "mask",
        "overwrite",
        "trust_bundle",
    }  # paths, text of a header, and what concerns a run
    assert {name: set(group["properties"]) for name, group in groups.items()} == {
        name: {p.name for p in PARAMETERS.values() if p.group == name} - left_out for name in groups
    }
    assert set(GROUPS) - set(groups) == {"selection"}
    for name, group in groups.items():
        for key, rule in group["properties"].items():
            parameter = PARAMETERS[key]
            assert parameter.group == name
            if parameter.kind == "choice":
                assert rule == {"enum": list(parameter.choices)}
            value = {"flag": True, "number": 2.5, "index": 1, "text": "x"}.get(parameter.kind, parameter.choices[:1])
            jsonschema.validate(value[0] if isinstance(value, tuple) else value, rule)


def test_the_page_describes_every_field_of_the_schema_and_no_other():
    page = (ROOM / "record.md").read_text()
    top, block = page.split("## The block")
    rows = [line.split("|")[1] for line in block.splitlines() if line.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert described == set(SCHEMA["properties"]["monai_sr"]["properties"])
    fields = {name for line in top.splitlines() if line.startswith("| `") for name in re.findall(r"^\| `(\w+)`", line)}
    assert fields == set(SCHEMA["properties"]) - {"monai_sr"}


def test_the_page_names_what_is_copied_from_a_header_and_nothing_else_is(tmp_path):
    page = (ROOM / "record.md").read_text()
    named = set(re.findall(r"`(\w+)`", page.split("by their BIDS names:")[1].split("No other text")[0]))
    renamed = {"KVP": "XRayTubeVoltage"}
    copied = {renamed.get(name, name) for name in (*sidecar.SECONDS, *sidecar.NUMBERS, *sidecar.CODES)}
    assert named == copied | {"Modality", "AcquiredSliceThickness", "SeriesPart"}
    slices = dicom_phantoms.slices(Manufacturer="Acme", BodyPartExamined="HEAD", SeriesDescription="Miller")
    dicom_phantoms.write(tmp_path / "in", slices)
    assert run(tmp_path / "in", tmp_path / "thin.nii.gz") == 0
    text = (tmp_path / "thin.json").read_text()
    assert "HEAD" in text and "Acme" not in text and "Miller" not in text  # codes that are known, no typed text
    assert dicom_phantoms.tells_nothing(text, "")
