"""Stacks of many patients into a volume each: grouping, names, BIDS derivatives, and going on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import bids_datasets
import dicom_phantoms
import dicom_tools
import nibabel as nib
import numpy as np
import phantoms
import pydicom
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from nifti_tools import save_nifti
from test_report import Page
from test_story import check_record

from monai_sr import bundles, simulate_thick_slices
from monai_sr.cli.main import main
from monai_sr.errors import InputMissingError, collect_notices
from monai_sr.fusion import files as fusion_files
from monai_sr.fusion.cases import find_fusions
from monai_sr.options import RunOptions
from monai_sr.report import summary_of

SIDE = 36
WORDS = ["--bundle", "none", "--modality", "MR", "--profile", "gaussian", "--no-register"]


def put_stacks(names: dict[int, Path], seed: int = 3, factor: float = 3) -> None:
    """Write the thick stacks of one anatomy, by their axis."""
    voxels = phantoms.anatomy(seed, (SIDE,) * 3)[None] * 700 + 100
    hr = MetaTensor(torch.as_tensor(voxels), affine=torch.eye(4, dtype=torch.float64), meta={"modality": "MR"})
    for axis, path in names.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        stack = simulate_thick_slices(hr, factor, axis=axis, profile="gaussian")
        save_nifti(path, np.rint(stack[0].numpy()).astype(np.int16), np.asarray(stack.affine))


@pytest.fixture
def patients(tmp_path) -> Path:
    """Two patients of two stacks each, and one of a single stack."""
    folder = tmp_path / "scans"
    put_stacks({2: folder / "p1" / "ax.nii.gz", 1: folder / "p1" / "cor.nii.gz"})
    put_stacks({2: folder / "p2" / "ax.nii.gz", 0: folder / "p2" / "sag.nii.gz"}, seed=5)
    put_stacks({2: folder / "p3" / "ax.nii.gz"}, seed=6)
    return folder


def options_of(source: Path, target: Path, **more) -> RunOptions:
    return RunOptions.from_dict({"input": str(source), "output": str(target), "bundle": "none"} | more)


def run(source: Path, target: Path, *words: str) -> int:
    return main(["fuse", "--from", str(source), str(target), *WORDS, *words])


@pytest.fixture
def calibrated(monkeypatch):
    """A spline that says how uncertain its results are."""
    constants = {"factor": [2.0, 4.0], "floor": [0.02, 0.03], "slope": [1.0, 1.5]}
    known = bundles.read_calibration("none") | {"uncertainty": {"MR": constants, "CT": constants}}
    monkeypatch.setattr(bundles, "read_calibration", lambda _: known)


# ---------------------------------------------------------------- grouping


def test_a_folder_of_images_is_one_patient(patients, tmp_path):
    with collect_notices() as notices:
        cases = find_fusions(options_of(patients, tmp_path / "fused"))
    assert [case.name for case in cases] == ["p1.nii.gz", "p2.nii.gz"]
    assert [[stack.path.name for stack in case.stacks] for case in cases] == [
        ["ax.nii.gz", "cor.nii.gz"],
        ["ax.nii.gz", "sag.nii.gz"],
    ]
    assert [(notice.code, notice.facts["code"]) for notice in notices] == [("W-LEFT-OUT", "E-FUSE-FEW")]


def test_images_whose_json_gives_another_contrast_are_left_out(patients, tmp_path):
    put_stacks({0: patients / "p1" / "sag.nii.gz"})
    for name, echo in (("ax", 0.1), ("cor", 0.104), ("sag", 0.02)):
        bids_datasets.put_json(patients / "p1" / f"{name}.json", EchoTime=echo)
    with collect_notices():
        case = find_fusions(options_of(patients, tmp_path / "fused", include=("p1*",)))[0]
    assert [stack.path.name for stack in case.stacks] == ["ax.nii.gz", "cor.nii.gz"]


def test_stacks_in_one_plane_are_left_out(patients, tmp_path):
    put_stacks({2: patients / "p3" / "again.nii.gz"}, seed=6)
    with collect_notices() as notices:
        cases = find_fusions(options_of(patients, tmp_path / "fused"))
    assert [case.name for case in cases] == ["p1.nii.gz", "p2.nii.gz"]
    assert [notice.facts["code"] for notice in notices] == ["W-FUSE-PLANE"]


@fault("F01", "E-FUSE-FEW")
def test_a_folder_without_stacks_to_fuse_is_refused(patients, tmp_path, capsys):
    with collect_notices(), pytest.raises(InputMissingError) as caught:
        find_fusions(options_of(patients / "p3", tmp_path / "fused"))
    assert caught.value.code == "E-FUSE-FEW"
    assert run(patients / "p3", tmp_path / "fused") == 3


def dicom_study(folder: Path, study: str, number: int, **header) -> None:
    """An axial and a coronal series, of a study of their own."""
    for series, plane in enumerate(("axial ++", "coronal ++"), number):
        stack = dicom_phantoms.Stack(
            dicom_phantoms.even(8, 4.0), orientation=plane, rows=30, columns=30, pixel_spacing=(1.1, 1.1)
        )
        uid = dicom_phantoms.uid_of(study)
        more = {"StudyInstanceUID": uid, "SliceThickness": 4.0, "modality": "MR"} | header
        dicom_phantoms.write(folder / str(series), dicom_phantoms.slices(stack, series=series, **more))


def test_the_series_of_each_study_and_contrast_are_fused(tmp_path, capsys):
    dicom_study(tmp_path / "in" / "a", "first", 1, EchoTime=100)
    dicom_study(tmp_path / "in" / "a", "first", 3, EchoTime=20)
    dicom_study(tmp_path / "in" / "b", "second", 5, EchoTime=100)
    cases = find_fusions(options_of(tmp_path / "in", tmp_path / "out"))
    assert [[stack.series.number for stack in case.stacks] for case in cases] == [[1, 2], [3, 4], [5, 6]]
    assert all(case.name.startswith("fused-") for case in cases) and len({case.name for case in cases}) == 3
    assert run(tmp_path / "in", tmp_path / "out", "--format", "nifti", "--num-parts", "3", "--part-id", "1") == 0
    assert check_record(tmp_path / "out" / f"{cases[1].name}.json")["fusion"]["stacks"]
    assert (tmp_path / "out" / f"{cases[1].name}.nii.gz").is_file()
    assert not (tmp_path / "out" / f"{cases[0].name}.nii.gz").exists()
    assert dicom_phantoms.CANARY not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.[jt]s*"))


# ---------------------------------------------------------------- DICOM out


@pytest.fixture
def derived(tmp_path, capsys) -> list[pydicom.Dataset]:
    """The files of a volume fused of a study, 100 and 104 ms; read in order."""
    dicom_study(tmp_path / "in", "first", 4, EchoTime=100, RepetitionTime=4000)
    for path in (tmp_path / "in" / "5").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.EchoTime = 104
        dataset.save_as(path)
    assert run(tmp_path / "in", tmp_path / "out", "--maps") == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert check_record(folder.with_suffix(".json"))["fusion"]["stacks"]
    assert folder.with_name(f"{folder.name}_stacks.nii.gz").is_file()
    return dicom_tools.read(folder)


def test_dicom_stacks_become_a_derived_series_with_references_to_all(derived, tmp_path):
    axial, coronal = (dicom_tools.read(tmp_path / "in" / name) for name in ("4", "5"))
    for instance in derived:
        assert instance.SeriesNumber == 9504 and "fused" in instance.SeriesDescription
        assert instance.StudyInstanceUID == axial[0].StudyInstanceUID
        assert instance.FrameOfReferenceUID == axial[0].FrameOfReferenceUID
        assert instance.PatientID == axial[0].PatientID and "8 + 8 slices" in instance.DerivationDescription
        assert not instance.EchoTime and instance.RepetitionTime == 4000  # what both agree on
        referenced = {item.ReferencedSOPInstanceUID for item in instance.SourceImageSequence}
        assert {one.SOPInstanceUID for one in coronal} <= referenced  # each of them crosses the slice
        assert 1 <= len(referenced & {one.SOPInstanceUID for one in axial}) <= 2
    if shutil.which("dciodvfy"):
        files = (path for path in (tmp_path / "out").glob("fused-*/*") if path.name in ("0001.dcm", "0020.dcm"))
        assert not [line for f in files for line in dicom_tools.complaints("dciodvfy", f) if "Error" in line]


def test_a_derived_series_lies_where_the_stacks_do(derived, tmp_path):
    assert run(tmp_path / "in", tmp_path / "nifti", "--format", "nifti") == 0
    (path,) = (tmp_path / "nifti").glob("*.nii.gz")
    image = nib.load(path)
    assert np.allclose(dicom_tools.affine(derived), image.affine, atol=1e-3)
    stored = dicom_tools.values(derived)
    assert np.abs(stored - image.get_fdata()).max() <= 1


def test_the_uncertainty_of_a_derived_series_is_a_parametric_map_too(calibrated, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    dicom_study(tmp_path / "in", "first", 4)
    assert run(tmp_path / "in", tmp_path / "out", "--uncertainty") == 0
    (folder,) = (tmp_path / "out").glob("fused-*/")
    series = dicom_tools.read(folder)
    dicom = pydicom.dcmread(folder.with_name(f"{folder.name}_uncertainty.dcm"))
    assert dicom.FrameOfReferenceUID == series[0].FrameOfReferenceUID and dicom.NumberOfFrames == len(series)
    sigma = nib.load(folder.with_name(f"{folder.name}_uncertainty.nii.gz"))
    assert sorted(sigma.shape) == sorted((len(series), series[0].Rows, series[0].Columns))


def test_a_derived_series_is_skipped_and_never_fused_again(derived, tmp_path, capsys):
    before = sorted(path.read_bytes() for path in (tmp_path / "out").glob("fused-*/*"))
    assert run(tmp_path / "in", tmp_path / "out", "--maps") == 0
    assert "skipped      1" in capsys.readouterr().out
    assert run(tmp_path / "in", tmp_path / "again", "--field", "first") == 0
    other = dicom_tools.read(next((tmp_path / "again").glob("fused-*/")))
    assert other[0].SeriesInstanceUID != derived[0].SeriesInstanceUID
    assert sorted(path.read_bytes() for path in (tmp_path / "out").glob("fused-*/*")) == before
    assert run(tmp_path / "out", tmp_path / "third") == 3


def test_named_series_go_into_a_folder_too(tmp_path, capsys):
    dicom_study(tmp_path / "in", "first", 4)
    words = [str(tmp_path / "in" / "5"), str(tmp_path / "in" / "4"), f"{tmp_path / 'out'}/", *WORDS]
    assert main(["fuse", *words]) == 0
    (folder,) = (tmp_path / "out").glob("fused-*/")
    assert dicom_tools.read(folder)[0].SeriesNumber == 9505  # the first that is named gives the axes


@fault("F09", "E-OUT-FORMAT")
def test_images_become_no_dicom(patients, tmp_path, capsys):
    assert run(patients, tmp_path / "out", "--format", "dicom") == 2
    images = [str(patients / "p1" / name) for name in ("ax.nii.gz", "cor.nii.gz")]
    assert main(["fuse", *images, f"{tmp_path / 'out'}/"]) == 2
    assert capsys.readouterr().err.count("E-OUT-FORMAT") == 2


# ---------------------------------------------------------------- the run


def test_a_run_fuses_every_patient_and_skips_what_is_done(patients, tmp_path, capsys):
    target = tmp_path / "fused"
    assert run(patients, target, "--maps") == 0
    out = capsys.readouterr().out
    assert "p1.nii.gz: 2 stacks -> 36x36x36 at 1 x 1 x 1 mm" in out and "done         2" in out
    for name in ("p1", "p2"):
        record = check_record(target / f"{name}.json")
        assert len(record["fusion"]["stacks"]) == 2 and record["fusion"]["register"] is False
        assert nib.load(target / f"{name}_stacks.nii.gz").get_data_dtype() == np.uint8
    rows = [json.loads(line) for line in (target / "monai-sr-run.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done", "done"] and all(row["score"] < 0.05 for row in rows)
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("p*")}
    assert run(patients, target, "--maps") == 0
    assert "skipped      2" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in target.glob("p*")} == before


def test_a_report_shows_stacks_agreement_resolution_and_the_nearest_stack(patients, tmp_path, capsys):
    target = tmp_path / "fused"
    assert run(patients, target, "--report") == 0
    page, record = Page(target / "p1.html"), check_record(target / "p1.json")
    assert summary_of(target / "p1.html")["output_sha256"] == record["output_sha256"]
    for entry, name in zip(record["fusion"]["stacks"], ("1 ax.nii.gz", "2 cor.nii.gz"), strict=True):
        assert name in page.text and f"{100 * entry['consistency']['nrmse']:.2g} %" in page.text
    assert [a["data-value"] for a in page.all("button") if a.get("data-do") == "overlay"] == ["stacks"]
    assert len(page.all("img", **{"class": "overlay stacks"})) >= 9 and "R-L" in page.text and "S-I" in page.text
    assert len(page.all("svg", **{"class": "plot"})) == 2  # one for each stack
    assert len([a for t, a in page.elements if t == "a"]) >= 2  # to the index and the next patient
    assert all(name in (target / "index.html").read_text() for name in ("p1.html", "p2.html"))
    (target / "p1.html").unlink()
    capsys.readouterr()
    assert run(patients, target, "--report") == 0
    assert "skipped      1" in capsys.readouterr().out and (target / "p1.html").exists()


def test_the_uncertainty_is_written_recorded_and_shown(calibrated, patients, tmp_path, capsys):
    target, words = tmp_path / "fused", ("--include", "p1*", "--uncertainty", "--report")
    assert run(patients, target, *words) == 0
    image, sigma = (nib.load(target / f"p1{name}.nii.gz") for name in ("", "_uncertainty"))
    assert sigma.get_data_dtype() == np.float32 and np.array_equal(sigma.affine, image.affine)
    assert sigma.shape == image.shape and 0 < sigma.get_fdata().min() < sigma.get_fdata().max() < 400
    record, page = check_record(target / "p1.json"), Page(target / "p1.html")
    median = float(np.median(sigma.get_fdata()))
    assert record["uncertainty"] == {"median": pytest.approx(median, rel=0.01), "unit": "signal"}
    shown = [a["data-value"] for a in page.all("button") if a.get("data-do") == "overlay"]
    assert shown == ["stacks", "uncertainty"] and "Predicted error: standard deviation at most" in page.text
    capsys.readouterr()
    assert run(patients, target, *words) == 0 and "skipped      1" in capsys.readouterr().out
    (target / "p1_uncertainty.nii.gz").unlink()
    assert run(patients, target, *words) == 0 and "done         1" in capsys.readouterr().out
    assert (target / "p1_uncertainty.nii.gz").exists()
    assert run(patients, target, "--include", "p1*", "--field", "first") == 0
    assert not (target / "p1_uncertainty.nii.gz").exists()  # it said nothing of this result


def test_a_bundle_that_was_not_calibrated_gives_no_uncertainty(patients, tmp_path, capsys):
    assert run(patients, tmp_path / "fused", "--uncertainty") == 2
    assert "does not know how uncertain its results are" in capsys.readouterr().err


def test_the_page_of_a_patient_that_failed_says_why(patients, tmp_path, capsys):
    (patients / "p1" / "cor.nii.gz").write_bytes(b"")
    assert run(patients, tmp_path / "fused", "--report", "--include", "p1*") != 0
    assert "E-IO-" in Page(tmp_path / "fused" / "p1.html").text


@pytest.mark.parametrize("change", ["input", "field", "spacing", "map"])
def test_what_was_made_otherwise_is_made_again(change, patients, tmp_path, capsys):
    target = tmp_path / "fused"
    words = ["--include", "p1*", "--maps"]
    assert run(patients, target, *words) == 0
    more = {"field": ["--field", "first"], "spacing": ["--spacing", "2"]}.get(change, [])
    if change == "input":
        put_stacks({1: patients / "p1" / "cor.nii.gz"}, seed=9)
    if change == "map":
        (target / "p1_stacks.nii.gz").unlink()
    capsys.readouterr()
    run(patients, target, *words, *more)
    assert "skipped" not in capsys.readouterr().out


def test_a_bad_stack_fails_its_patient_alone(patients, tmp_path, capsys):
    path = patients / "p1" / "cor.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    assert run(patients, tmp_path / "fused") == 4
    captured = capsys.readouterr()
    assert "p1.nii.gz - " in captured.err and (tmp_path / "fused" / "p2.nii.gz").exists()
    assert not (tmp_path / "fused" / "p1.nii.gz").exists()


def test_a_killed_run_is_finished_by_the_same_command(patients, tmp_path, monkeypatch, capsys):
    target, words = tmp_path / "fused", ["--include", "p1*"]
    assert run(patients, tmp_path / "other", *words) == 0

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:  # the result is there, its record not yet
        monkeypatch.setattr(fusion_files, "write_record", die)
        run(patients, target, *words)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert (target / "p1.nii.gz").exists() and not (target / "p1.json").exists()
    capsys.readouterr()
    assert run(patients, target, *words) == 0
    assert "done         1" in capsys.readouterr().out
    assert (target / "p1.nii.gz").read_bytes() == (tmp_path / "other" / "p1.nii.gz").read_bytes()
    assert [path.name for path in target.iterdir() if path.name.startswith(".")] == []


def test_files_of_others_are_not_replaced(patients, tmp_path, capsys):
    target = tmp_path / "fused"
    target.mkdir()
    (target / "p1.nii.gz").write_bytes(b"mine")
    assert run(patients, target, "--include", "p1*") == 6
    assert "E-OUT-EXISTS" in capsys.readouterr().err and (target / "p1.nii.gz").read_bytes() == b"mine"


def test_a_dry_run_names_stacks_and_results(patients, tmp_path, capsys):
    assert run(patients, tmp_path / "fused", "--dry-run") == 0
    captured = capsys.readouterr()
    assert f"{tmp_path / 'fused' / 'p1.nii.gz'}: 2 stacks (ax.nii.gz, cor.nii.gz)" in captured.out
    assert "E-FUSE-FEW" in captured.err and not (tmp_path / "fused").exists()


@fault("F09", "E-USE")
@pytest.mark.parametrize(
    "words", [["--from", "scans", "ax.nii.gz", "out"], ["ax.nii.gz", "b.nii.gz", "o.nii", "--dry-run"]]
)
def test_contradicting_words_are_refused(words, capsys):
    assert main(["fuse", *words]) == 2
    assert "E-USE" in capsys.readouterr().err


# ---------------------------------------------------------------- BIDS


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A participant of three planes and a contrast agent in one more, and one of two sessions."""
    root = bids_datasets.dataset(tmp_path / "raw")
    anat = root / "sub-01" / "anat"
    put_stacks({a: anat / f"sub-01_acq-{n}_T2w.nii.gz" for n, a in (("axial", 2), ("coronal", 1), ("sagittal", 0))})
    put_stacks({2: anat / "sub-01_acq-axial_ce-gad_T2w.nii.gz"})
    put_stacks({a: root / f"sub-02/ses-1/anat/sub-02_ses-1_run-{n}_T1w.nii.gz" for n, a in ((1, 2), (2, 1))}, seed=4)
    for path in anat.glob("*.nii.gz"):
        bids_datasets.put_json(Path(str(path).replace(".nii.gz", ".json")), SliceThickness=3.0, EchoTime=0.1)
    return root


def test_the_stacks_of_a_bids_dataset_become_a_derivative(calibrated, dataset, tmp_path, capsys):
    target = dataset / "derivatives" / "fused"
    assert run(dataset, target, "--maps", "--uncertainty") == 0
    assert "1 file(s) left out" in capsys.readouterr().err  # the one with a contrast agent
    fused = target / "sub-01" / "anat" / "sub-01_desc-fused_T2w.nii.gz"
    content = json.loads(Path(str(fused).replace(".nii.gz", ".json")).read_text())
    planes = ("axial", "coronal", "sagittal")
    assert content["Sources"] == [f"bids:raw:sub-01/anat/sub-01_acq-{plane}_T2w.nii.gz" for plane in planes]
    assert content["EchoTime"] == 0.1 and content["SliceThickness"] == 1
    sources = [stack["acquired"]["slice_thickness"] for stack in content["monai_sr"]["fusion"]["stacks"]]
    assert sources == [{"value": 3.0, "source": "sidecar"}] * 3
    assert (target / "sub-02/ses-1/anat/sub-02_ses-1_desc-fused_T1w.nii.gz").exists()
    assert (target / "sub-01/anat/sub-01_desc-fusedT2wstacks_dseg.json").exists()
    assert (target / "sub-01/anat/sub-01_desc-fuseduncertainty_T2w.json").exists()
    if bids_datasets.validator():
        assert bids_datasets.validator_errors(target) == []


def test_a_thickness_that_is_corrected_in_the_json_is_used(dataset, capsys):
    target = dataset / "derivatives" / "fused"
    words = ["--participant-label", "01"]
    assert run(dataset, target, *words) == 0
    bids_datasets.put_json(dataset / "sub-01/anat/sub-01_acq-axial_T2w.json", SliceThickness=3.5, EchoTime=0.1)
    capsys.readouterr()
    assert run(dataset, target, *words) == 0
    assert "done         1" in capsys.readouterr().out
    assert run(dataset, target, *words) == 0
    assert "skipped      1" in capsys.readouterr().out
