"""Many volumes in one run: every one has a result or a reason, and whatever is stopped can go on."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dicom_phantoms
import file_formats as formats
import nibabel as nib
import numpy as np
import pytest
import torch
import tqdm
from bids_datasets import validator, validator_errors
from catalogue import fault
from runs import SPLINE, EagerBar, cases_of, content, lines_of, record_of, run, scan, two_heads

from monai_sr import bundles
from monai_sr.batch import (
    Outcome,
    claims,
    exit_code,
    process,
)
from monai_sr.batch import (
    case as case_module,
)
from monai_sr.batch import reading as reading_module
from monai_sr.batch import run as run_module
from monai_sr.bundles import Model, load_bundle
from monai_sr.cli.main import main
from monai_sr.errors import (
    InputMissingError,
    OutputError,
    SuperResolutionError,
    SuperResolutionWarning,
    UsageError,
    collect_notices,
)
from monai_sr.files import own_mark, remove_leftovers
from monai_sr.io.images import read_array, read_image
from monai_sr.options import RunOptions

RNG = np.random.default_rng(0)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scans(tmp_path) -> Path:
    """Three good volumes at different depths and in different formats, and a truncated one."""
    folder = tmp_path / "in"
    for seed, name in enumerate(["a.nii.gz", "deep/er/b.nii", "deep/c.nrrd"]):
        scan(folder / name, seed=seed)
    bad = scan(folder / "deep" / "bad.nii.gz")
    bad.write_bytes(bad.read_bytes()[:200])
    return folder


# ------------------------------------------------------------- which cases


def test_results_keep_the_names_of_a_tree_of_any_depth(scans, tmp_path):
    scan(scans / "deep" / ".hidden.nii")
    scan(scans / ".trash" / "old.nii")
    (scans / "notes.txt").write_text("no image")
    scan(scans / "d.nii.gz").rename(scans / "d.hdr.NII.GZ")
    cases = {
        case.name: case.target.relative_to(tmp_path / "out").as_posix() for case in cases_of(scans, tmp_path / "out")
    }
    assert cases == {
        name: name for name in ("a.nii.gz", "deep/er/b.nii", "deep/c.nrrd", "deep/bad.nii.gz", "d.hdr.NII.GZ")
    }
    assert not (tmp_path / "out").exists()


def test_formats_that_are_only_read_become_nifti(tmp_path):
    for name in ("a.mhd", "b.nhdr"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert [case.target.name for case in cases_of(tmp_path / "in", tmp_path / "out")] == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_is_found_below_a_folder(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    formats.FORMATS[name](folder)
    (folder / "sky.hdr").touch()  # a high dynamic range photograph, without voxels beside it
    (case,) = cases_of(folder, tmp_path / "out")
    with collect_notices():
        assert read_image(case.source).shape == (1, *formats.SHAPE)


def test_a_text_list_counts_from_its_folder_and_may_hold_what_is_missing(scans, tmp_path):
    (tmp_path / "list.txt").write_text("# those of today\nin/a.nii.gz\n\nin/deep/er/b.nii\nin/gone.nii.gz\n")
    outcomes = run(tmp_path / "list.txt", tmp_path / "out")
    assert [o.status for o in outcomes.values()] == ["done", "done", "failed"]
    assert outcomes["in/gone.nii.gz"].code == "E-IO-MISSING"
    assert sorted(content(tmp_path / "out")) == ["a.nii.gz", "b.nii"]


def test_a_csv_list_may_name_the_outputs(scans, tmp_path):
    (tmp_path / "list.csv").write_text(
        "output,input\nsub/x.nii.gz,in/a.nii.gz\n,in/deep/er/b.nii\n", encoding="utf-8-sig"
    )
    outcomes = run(tmp_path / "list.csv", tmp_path / "out")
    assert {o.status for o in outcomes.values()} == {"done"}
    assert sorted(content(tmp_path / "out")) == ["b.nii", "sub/x.nii.gz"]


@fault("R21", "E-LIST")
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list.csv", "a,b\n1,2\n", "'a'"),
        ("list.csv", "input,output\nin,x.nii.gz\n", "4 volumes"),
        ("list.csv", "\xff", "cannot be read"),
        ("list.csv", "", "'input'"),
        ("list.csv", "input,output,slice_thickness\na.nii,b.nii,3\n", "'slice_thickness'"),
        ("list.csv", "input,ouput\nin/a.nii.gz,b.nii\n", "did you mean 'output'"),
        ("list.csv", "Input\nin/a.nii.gz\n", "did you mean 'input'"),
        ("list.csv", "input;output\nin/a.nii.gz;b.nii\n", "'input;output'"),
        ("list.csv", "input,input\nin/a.nii.gz,b\n", "is there twice"),
        ("list.csv", "input\nin/a.nii.gz,b.nii\n", "line 2"),
        ("list.csv", f"input\n{'x' * 200_000}\n", "line 2"),
        ("list.csv", 'input\n"in/a.nii.gz\n', "CSV"),
        ("list.csv", "input,output\nin/a.nii.gz,a\0b.nii\n", "line 2"),
        ("list.csv", "input,output\nin/a.nii.gz,../b.nii.gz\n", "outside"),
        ("list.csv", "input,output\nin/a.nii.gz,new/../../b.nii.gz\n", "outside"),
        ("list.csv", "input,output\nin/a.nii.gz,/tmp/b.nii.gz\n", "outside"),
        ("list.csv", "input,output\nin/a.nii.gz,..\\b.nii.gz\n", "outside"),
        ("list.csv", "input,output\nin/a.nii.gz,C:b.nii.gz\n", "outside"),
        ("list.txt", "in/a.nii.gz\nin/b\0.nii\n", "line 2"),
        ("list.txt", f"{'x' * 300}\n", "line 1"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(scans, tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="latin1")
    with pytest.raises(UsageError) as caught:
        cases_of(tmp_path / name, tmp_path / "out")
    assert caught.value.code == "E-LIST" and words in caught.value.problem
    assert caught.value.path == tmp_path / name


@fault("R21", "E-DCM-NONE", "E-IO-MISSING")
def test_what_is_wrong_with_one_entry_of_a_list_is_a_fault_of_that_one(scans, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "list.txt").write_text("in/a.nii.gz\nnothing\nin/a.nii.gz/b\n")
    outcomes = run(tmp_path / "list.txt", tmp_path / "out")
    assert [(o.status, o.code) for o in outcomes.values()] == [
        ("done", ""),
        ("failed", "E-DCM-NONE"),
        ("failed", "E-IO-MISSING"),
    ]


def test_only_line_feeds_end_a_line_of_a_list(scans, tmp_path):
    scan(tmp_path / "in" / "odd\x0b\u2028name.nii")
    for name, text in (("l.txt", "in/odd\x0b\u2028name.nii\r\n"), ("l.csv", "input\r\nin/odd\x0b\u2028name.nii\r\n")):
        (tmp_path / name).write_bytes(text.encode())
        (case,) = cases_of(tmp_path / name, tmp_path / "out")
        assert case.fault is None and case.source.exists()


@fault("R22")
def test_a_name_that_is_no_utf_8_is_a_case_like_any_other(tmp_path):
    """In processes too: see test_batch_processes.py."""
    scan(tmp_path / "in" / "a.nii")
    odd = os.fsdecode(b"m\xe9.nii")
    try:
        scan(tmp_path / "in" / odd)
    except OSError:
        pytest.skip("this file system has no such names")
    outcomes = run(tmp_path / "in", tmp_path / "out", SPLINE, report=True)
    assert {o.status for o in outcomes.values()} == {"done"}
    assert not [notice.code for o in outcomes.values() for notice in o.warnings]
    assert "m%E9.html" in (tmp_path / "out" / "a.html").read_text(encoding="utf-8")  # the link to the next page
    assert (tmp_path / "out" / odd).exists()
    table = (tmp_path / "out" / "monai-sr-run.tsv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 3 and "m\\udce9.nii" in table
    assert run(tmp_path / "in", tmp_path / "out")["m\\udce9.nii"].status == "skipped"


@fault("R28", "W-PROFILE-MIXED")
def test_different_profiles_of_one_geometry_are_warned_of(scans, tmp_path, monkeypatch):
    def estimate(slices, **_):
        return "box" if float(slices[0, 0, 0]) > float(slices[0, 0, 1]) else "gaussian"

    def mixed(target: str, **options) -> list:
        with collect_notices() as notices:
            outcomes = run(scans, tmp_path / target, SPLINE, **options)
        assert sum(outcome.status == "done" for outcome in outcomes.values()) == 3
        return [notice for notice in notices if notice.code == "W-PROFILE-MIXED"]

    monkeypatch.setattr("monai_sr.acquired.estimate_profile", estimate)
    (notice,) = mixed("one")
    assert notice.facts["box"] + notice.facts["gaussian"] == 3 and notice.facts["thickness"] == "4.0"
    assert not mixed("two", profile="box")
    monkeypatch.setattr("monai_sr.acquired.estimate_profile", lambda *_, **__: "box")
    assert not mixed("three")


@fault("R23")
def test_a_change_of_the_voxels_beside_a_header_is_noticed(tmp_path):
    header = formats.nrrd(tmp_path / "in.nhdr", data_file="in.raw")
    (tmp_path / "list.txt").write_text("in.nhdr\n")
    assert run(tmp_path / "list.txt", tmp_path / "out")["in.nhdr"].status == "done"
    before = content(tmp_path / "out")
    assert run(tmp_path / "list.txt", tmp_path / "out")["in.nhdr"].status == "skipped"
    header.with_name("in.raw").write_bytes(formats.stored(formats.voxels(seed=1)))
    assert run(tmp_path / "list.txt", tmp_path / "out")["in.nhdr"].status == "done"
    assert content(tmp_path / "out") != before


def test_patterns_choose_by_name_or_path(scans, tmp_path):
    def names(**patterns):
        return [case.name for case in cases_of(scans, tmp_path / "out", **patterns)]

    assert names(include=["deep/*"], exclude=["bad*"]) == ["deep/c.nrrd", "deep/er/b.nii"]
    assert names(include=["*.nii", "a*"]) == ["a.nii.gz", "deep/er/b.nii"]
    with pytest.raises(InputMissingError, match="of 4 match"):
        names(include=["sub-*"])


def test_the_parts_of_an_array_job_hold_every_case_once(scans, tmp_path):
    cases = cases_of(scans, tmp_path / "out")
    parts = [cases_of(scans, tmp_path / "out", num_parts=3, part_id=part) for part in range(3)]
    assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in cases)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for wrong in (-1, 3):
        with pytest.raises(UsageError, match="--part-id"):
            cases_of(scans, tmp_path / "out", num_parts=3, part_id=wrong)


@fault("R12")
def test_two_results_of_one_name_are_refused_before_anything_runs(tmp_path):
    scan(tmp_path / "in" / "x.nii"), scan(tmp_path / "in" / "x.nii.gz")  # their JSON would be the same
    with pytest.raises(UsageError, match="E-OUT-CLASH") as clash:
        cases_of(tmp_path / "in", tmp_path / "out")
    assert "x.nii and x.nii.gz" in str(clash.value)
    (tmp_path / "list.csv").write_text("input,output\nin/x.nii,y.nii\nin/x.nii.gz,./y.nii\n")
    assert main(["run", str(tmp_path / "list.csv"), str(tmp_path / "out"), "--bundle", "none"]) == 2
    assert not (tmp_path / "out").exists()


@fault("R11")
def test_a_result_may_replace_no_input_nor_lie_among_them(scans, tmp_path):
    (tmp_path / "list.csv").write_text("input,output\nin/a.nii.gz,in/a.nii.gz\n")
    with pytest.raises(UsageError, match="E-OUT-SAME"):
        cases_of(tmp_path / "list.csv", tmp_path)
    (tmp_path / "link").symlink_to(scans)
    for inside in (scans, scans / "out", tmp_path / "link" / "out"):
        with pytest.raises(UsageError, match="E-OUT-SAME"):
            cases_of(scans, inside)
    os.link(scans / "a.nii.gz", tmp_path / "hard.nii.gz")
    (tmp_path / "list.csv").write_text("input,output\nin/a.nii.gz,hard.nii.gz\n")
    with pytest.raises(UsageError, match="E-OUT-SAME"):
        cases_of(tmp_path / "list.csv", tmp_path)


@fault("R11")
def test_own_results_are_never_inputs(scans, tmp_path):
    run(scans, tmp_path / "out")
    scan(tmp_path / "out" / "new.nii.gz")
    with pytest.warns(SuperResolutionWarning, match=r"3 file\(s\) left out: made by monai-sr"):
        assert [case.name for case in cases_of(tmp_path / "out", tmp_path / "again")] == ["new.nii.gz"]


def test_a_file_where_the_folder_should_be_is_refused(scans, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="E-OUT-FOLDER"):
        cases_of(scans, tmp_path / "out")


def test_images_and_dicom_in_one_tree_are_all_cases(scans, tmp_path):
    dicom_phantoms.write(scans / "export", dicom_phantoms.slices())
    cases = cases_of(scans, tmp_path / "out")
    assert len(cases) == 5
    assert [case.is_derived_dicom for case in cases] == [False] * 4 + [True]


@fault("R14")
@pytest.mark.parametrize("name", ["thin.nii", "thin.nii.gz"])
def test_a_result_of_one_run_says_so_itself_and_thick_slices_that_were_simulated_do_not(scans, tmp_path, name):
    thin, thick = scans / name, scans / "simulated.nii.gz"
    assert main(["run", str(scans / "a.nii.gz"), str(thin), "--bundle", "none", "--factor", "2"]) == 0
    assert main(["simulate", str(thin), str(thick), "--factor", "2"]) == 0
    with pytest.warns(SuperResolutionWarning, match="made by monai-sr"):
        names = [case.name for case in cases_of(scans, tmp_path / "out")]
    assert name not in names
    assert {"a.nii.gz", "simulated.nii.gz"} <= set(names)


@pytest.mark.parametrize("name", ["x.xyz", "x", "x.gz"])
def test_a_result_of_no_known_format_is_refused_before_anything_runs(scans, tmp_path, name):
    (tmp_path / "list.csv").write_text(f"input,output\nin/a.nii.gz,{name}\n")
    with pytest.raises(UsageError, match="E-OUT-FORMAT"):
        cases_of(tmp_path / "list.csv", tmp_path / "out")


# ------------------------------------------------------------- a run


def test_a_bad_volume_stops_no_other_and_each_has_a_result_or_a_reason(scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", str(scans), str(out), "--bundle", "none"]) == 4
    shown = capsys.readouterr()
    assert shown.err.startswith("monai-sr: E-IO-TRUNC: deep/bad.nii.gz - ") and shown.err.count("\n") == 1
    assert f"{out / 'a.nii.gz'}: 8x7x6 at 1 x 1.2 x 4 mm -> 8x7x24 at 1 x 1.2 x 1 mm\n" in shown.out
    assert shown.out.endswith("done         3\nfailed       1  E-IO-TRUNC      deep/bad.nii.gz\n")
    assert sorted(content(out)) == ["a.nii.gz", "deep/c.nrrd", "deep/er/b.nii"]
    log = {line["case"]: line for line in lines_of(out)}
    assert {name: line["status"] for name, line in log.items()} == {
        "a.nii.gz": "done",
        "deep/er/b.nii": "done",
        "deep/c.nrrd": "done",
        "deep/bad.nii.gz": "failed",
    }
    assert log["deep/er/b.nii"]["output"] == "deep/er/b.nii"
    with open(out / "monai-sr-run.tsv") as file:
        rows = {row["case"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert rows.keys() == log.keys()
    assert rows["deep/bad.nii.gz"]["code"] == "E-IO-TRUNC" and rows["a.nii.gz"]["code"] == "n/a"
    assert not list(out.rglob(".*"))


def test_a_result_is_what_a_single_run_writes_and_its_json_says_how_it_was_made(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out)
    assert main(["run", str(scans / "a.nii.gz"), str(tmp_path / "one.nii.gz"), "--bundle", "none"]) == 0
    assert (out / "a.nii.gz").read_bytes() == (tmp_path / "one.nii.gz").read_bytes()
    sidecar = json.loads((out / "a.json").read_text())
    assert sidecar["SpacingBetweenSlices"] == 1 and sidecar["GeneratedBy"][0]["Name"] == "monai-sr"
    record = sidecar["monai_sr"]
    for key, path in (("input_sha256", scans / "a.nii.gz"), ("output_sha256", out / "a.nii.gz")):
        assert record[key] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["bundle"] == "none" and record["device"] == "cpu" and record["engine"].startswith("torch ")
    assert record["seconds"] > 0 and record["peak_memory_mib"] > 10
    assert record["intended_use"] == "research only, not for diagnosis"


def test_warnings_are_in_the_record_and_the_log(tmp_path):
    scan(tmp_path / "in" / "iso.nii.gz", spacing=(1.0, 1.0, 1.0))
    outcome = run(tmp_path / "in", tmp_path / "out")["iso.nii.gz"]
    (notice,) = outcome.warnings
    assert notice.code == "W-SR-NOGAIN"
    assert record_of(tmp_path / "out" / "iso.json")["warnings"] == [notice.to_record()]
    assert lines_of(tmp_path / "out")[0]["warnings"] == [notice.to_record()]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_only(scans, tmp_path, monkeypatch, capsys, terminal):
    (scans / "deep" / "bad.nii.gz").unlink()
    monkeypatch.setattr(tqdm, "tqdm", EagerBar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["run", str(scans), str(tmp_path / "out"), "--bundle", "none"]) == 0
    err = capsys.readouterr().err
    assert ("volumes:" in err and "3/3" in err) if terminal else err == ""


def test_an_image_that_goes_into_an_existing_folder_is_a_run_of_one(scans, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["run", str(scans / "a.nii.gz"), str(tmp_path / "out"), "--bundle", "none"]) == 0
    assert sorted(content(tmp_path / "out")) == ["a.nii.gz"] and len(lines_of(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([("done", 0), ("skipped", 0)], 0),
        ([("done", 0), ("failed", 5)], 4),
        ([("failed", 5), ("failed", 3)], 5),
        ([("failed", 5), ("failed", 5)], 5),
        ([("failed", 8), ("failed", 8)], 8),
        ([("failed", 6)], 6),
    ],
)
def test_the_exit_code_says_how_a_run_went(outcomes, code):
    def error(end: int) -> SuperResolutionError | None:
        made = SuperResolutionError("E-CODE", "wrong", fix="mend it")
        made.exit_code = end
        return made if end else None

    assert exit_code([Outcome("x", status, error=error(end)) for status, end in outcomes]) == code


def test_fail_fast_ends_with_the_first_failure(scans, tmp_path):
    outcomes = run(scans, tmp_path / "out", fail_fast=True)
    assert [(o.status, o.code or o.reason) for o in outcomes.values()] == [
        ("done", ""),
        ("failed", "E-IO-TRUNC"),
        ("skipped", "the run ended before"),
        ("skipped", "the run ended before"),
    ]
    assert len(lines_of(tmp_path / "out")) == 2


def test_a_fault_of_our_own_is_an_outcome_too_and_quotes_no_header(scans, tmp_path, monkeypatch):
    def broken(self, *_, **__):
        raise KeyError("CANARY")

    monkeypatch.setattr(Model, "super_resolve", broken)
    outcome = run(scans, tmp_path / "out")["a.nii.gz"]
    assert (outcome.status, outcome.code, outcome.exit_code) == ("failed", "E-BUG", 10)
    assert "KeyError" in outcome.reason and "CANARY" not in outcome.reason and "CANARY" in outcome.debug


@fault("D28")
def test_a_file_that_changes_while_it_is_read_is_read_once_more(scans, tmp_path, monkeypatch):
    times = []

    def read(path, reading):
        times.append(path)
        if len(times) == 1:
            os.utime(path, (1, 1))
        return read_array(path, reading)

    monkeypatch.setattr(reading_module, "read_array", read)
    (case,) = cases_of(scans / "a.nii.gz", tmp_path / "out")
    outcome = process(case, SPLINE, load_bundle("none"), memory=2**32)
    assert outcome.status == "done" and len(times) == 2


def test_a_file_that_cannot_be_read_is_not_reported_as_a_bug(scans, tmp_path, monkeypatch):
    def denied(paths):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading_module, "sha256_of", denied)
    assert run(scans, tmp_path / "out")["a.nii.gz"].code == "E-IO-PERM"


@fault("R02")
def test_a_gpu_that_does_not_work_is_left_alone_or_named(scans, tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("the GPU of this machine works")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bundles, "may_use_gpu", lambda: True)
    command = ["run", str(scans / "a.nii.gz"), str(tmp_path / "a.nii.gz"), "--bundle", "none"]
    assert main(command) == 0
    assert "W-DEV: the GPU cannot be used" in capsys.readouterr().err
    assert main([*command, "--device", "cuda"]) == 2
    assert f"E-DEV: device 'cuda' cannot be used here (torch {torch.__version__})" in capsys.readouterr().err


# ------------------------------------------------------------- resuming


def test_what_is_done_is_skipped_and_stays_untouched(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out)
    times = {
        p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.name not in ("monai-sr-run.jsonl", "monai-sr-run.tsv")
    }
    again = run(scans, out)
    assert {o.reason for o in again.values() if o.status == "skipped"} == {"already done"}
    assert [o.status for o in again.values()].count("skipped") == 3
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert len(lines_of(out)) == 8


@pytest.mark.parametrize("change", ["option", "input", "result is gone", "record is gone and result too"])
def test_what_is_not_really_done_is_done_again(scans, tmp_path, change):
    out = tmp_path / "out"
    run(scans, out)
    before, options = content(out), SPLINE
    if change == "option":
        options = RunOptions.from_dict({"bundle": "none", "device": "cpu", "factor": 2.0})
    elif change == "input":
        scan(scans / "a.nii.gz", seed=9)
    else:
        (out / "a.nii.gz").unlink()
        if "record" in change:
            (out / "a.json").unlink()
    outcomes = run(scans, out, options)
    assert outcomes["a.nii.gz"].status == "done"
    assert outcomes["deep/c.nrrd"].status == ("done" if change == "option" else "skipped")
    assert (content(out) == before) == ("gone" in change)
    assert record_of(out / "a.json")["output_sha256"] == content(out)["a.nii.gz"]


def test_other_weights_remake_results(scans, tmp_path, monkeypatch):
    bundles = {"sha": "one"}
    model = load_bundle("none")
    monkeypatch.setattr(
        "monai_sr.batch.model.load_bundle", lambda *_, **__: Model("x", "1", None, weights_sha256=bundles["sha"])
    )
    assert model.weights_sha256 == ""
    assert run(scans, tmp_path / "out")["a.nii.gz"].status == "done"
    assert run(scans, tmp_path / "out")["a.nii.gz"].status == "skipped"
    bundles["sha"] = "two"
    assert run(scans, tmp_path / "out")["a.nii.gz"].status == "done"


@fault("R13")
@pytest.mark.parametrize("kind", ["foreign", "changed", "foreign JSON"])
def test_files_not_written_by_monai_sr_are_replaced_on_demand_only(scans, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "changed":
        run(scans, out)
    place = out / ("a.json" if kind == "foreign JSON" else "a.nii.gz")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b'{"EchoTime": 1}')
    outcome = run(scans, out)["a.nii.gz"]
    assert (outcome.status, outcome.code, outcome.exit_code) == ("failed", "E-OUT-EXISTS", 6)
    assert place.read_bytes() == b'{"EchoTime": 1}'
    outcome = run(scans, out, overwrite=True)["a.nii.gz"]
    assert outcome.status == "done"
    assert record_of(out / "a.json")["output_sha256"] == content(out)["a.nii.gz"]


@fault("R20")
def test_a_record_of_a_later_version_is_left_alone_and_an_older_one_is_remade(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out)
    sidecar = json.loads((out / "a.json").read_text())
    sidecar["monai_sr"]["record"] = 99
    (out / "a.json").write_text(json.dumps(sidecar))
    assert run(scans, out)["a.nii.gz"].code == "E-VER"
    for key in ("record", "input_sha256", "output_sha256"):
        del sidecar["monai_sr"][key]
    (out / "a.json").write_text(json.dumps(sidecar))
    assert run(scans, out)["a.nii.gz"].status == "done"


@pytest.fixture
def dead() -> str:
    """The mark of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host, _, _ = own_mark().rsplit("-", 2)
    child.kill(), child.wait()
    return f"{host}-{child.pid}-{int(time.time())}"


@pytest.fixture
def alive():
    """The mark of another process that lives."""
    import psutil

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host, _, _ = own_mark().rsplit("-", 2)
    yield f"{host}-{child.pid}-{int(psutil.Process(child.pid).create_time())}"
    child.kill(), child.wait()


@fault("R07")
def test_a_run_that_died_between_result_and_record_is_finished(scans, tmp_path, dead):
    out = tmp_path / "out"
    run(scans, out)
    before = content(out)
    (out / "a.json").unlink()
    (out / ".a.nii.gz.claim").write_text(f"{dead} writing")
    assert run(scans, out)["a.nii.gz"].status == "done"
    assert content(out) == before and (out / "a.json").exists()


@pytest.mark.parametrize("claim", ["{} ", ""])
def test_a_claim_of_a_process_that_died_before_it_wrote_gives_no_right_to_replace(scans, tmp_path, dead, claim):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.nii.gz").write_bytes(b"precious")
    (out / ".a.nii.gz.claim").write_text(claim.format(dead).strip())
    assert run(scans, out)["a.nii.gz"].code == "E-OUT-EXISTS"
    assert (out / "a.nii.gz").read_bytes() == b"precious"
    assert not (out / ".a.nii.gz.claim").exists()


@fault("R08")
@pytest.mark.parametrize("moment", ["read_case", "write_masks", "write_record", "hold_claim"])
@pytest.mark.parametrize("precious", [False, True])
def test_an_interruption_at_any_moment_leaves_neither_claim_nor_result_without_record(
    scans, tmp_path, monkeypatch, moment, precious
):
    out = tmp_path / "out"
    out.mkdir()
    if precious:
        (out / "a.nii.gz").write_bytes(b"precious")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "hold_claim":  # between the file of the claim and its use
            patch.setattr(claims.threading, "Thread", interrupt)
        else:
            patch.setattr(case_module, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(scans, out, overwrite=True)
    assert not list(out.rglob(".*"))
    there = (out / "a.nii.gz").exists()
    assert there == (precious and moment in ("read_case", "hold_claim"))
    assert not there or (out / "a.nii.gz").read_bytes() == b"precious"
    assert {outcome.status for outcome in run(scans, out, overwrite=True).values()} <= {"done", "failed"}


@fault("R08")
def test_a_claim_of_a_worker_that_was_killed_is_dropped_at_the_end(scans, tmp_path, monkeypatch, dead):
    out = tmp_path / "out"
    out.mkdir()

    def killed(cases, *_, **__):
        (out / ".a.nii.gz.claim").write_text(f"{dead} writing")
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(run_module, "_outcomes", killed)
    with pytest.raises(KeyboardInterrupt):
        run(scans, out)
    assert not list(out.rglob(".*"))


def test_a_failure_to_write_the_record_is_mended_by_the_next_run(scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        refused = OutputError("E-OUT-PERM", "no", fix="x")
        patch.setattr(case_module, "write_record", lambda *_, **__: (_ for _ in ()).throw(refused))
        assert run(scans, out)["a.nii.gz"].code == "E-OUT-PERM"
    assert run(scans, out)["a.nii.gz"].status == "done"
    assert not list(out.rglob(".*"))


@fault("R10")
def test_what_another_run_works_on_is_left_to_it(scans, tmp_path, alive):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.nii.gz.claim").write_text(alive)
    outcomes = run(scans, out)
    assert (outcomes["a.nii.gz"].status, outcomes["a.nii.gz"].reason) == ("skipped", "another run works on it")
    assert not (out / "a.nii.gz").exists() and (out / ".a.nii.gz.claim").read_text() == alive
    assert outcomes["deep/c.nrrd"].status == "done"


@fault("R16")
def test_a_claim_of_another_host_counts_as_long_as_it_gives_signs_of_life(scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    claim = out / ".a.nii.gz.claim"
    claim.write_text("elsewhere-1-1 writing")
    assert run(scans, out)["a.nii.gz"].reason == "another run works on it"
    os.utime(claim, (time.time() - claims.SILENT - 1,) * 2)
    assert run(scans, out)["a.nii.gz"].status == "done" and not claim.exists()


@fault("R09")
def test_temporary_files_of_dead_processes_are_removed_and_no_others(scans, tmp_path, dead, alive):
    out = tmp_path / "out"
    names = [
        f".a.nii.gz.{dead}.tmp",
        f".x.y.{alive}.tmp",
        ".new.elsewhere-7-1.tmp",
        ".old.elsewhere-7-1.tmp",
        ".mine.tmp",
    ]
    out.mkdir()
    for name in names:
        (out / name).touch()
    (out / f".series.{dead}.tmp").mkdir()
    (out / f".series.{dead}.tmp" / "0001.dcm").touch()
    os.utime(out / names[3], (1, 1))
    run(scans, out)
    assert {p.name for p in out.glob(".*")} == {names[1], names[2], names[4]}
    assert remove_leftovers(tmp_path / "nowhere") == 0


@fault("R07")
def test_a_torn_last_line_of_the_log_costs_only_itself(scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "monai-sr-run.jsonl").write_text('{"case": "x"}\n{"case": "to')
    run(scans, out)
    lines = (out / "monai-sr-run.jsonl").read_text().splitlines()
    assert lines[1] == '{"case": "to' and len(lines) == 6
    assert all(json.loads(line)["status"] for line in lines[2:])


def test_derived_series_are_resumed_and_remade_like_files(tmp_path):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices())
    out = tmp_path / "out"
    (first,) = run(tmp_path / "in", out).values()
    assert first.status == "done" and len(list(Path(first.output).iterdir())) == 26
    (second,) = run(tmp_path / "in", out).values()
    assert second.reason == "already done"
    (third,) = run(tmp_path / "in", out, factor=2.0).values()
    assert third.status == "done" and len(list(Path(third.output).iterdir())) == 16
    assert not list(out.glob(".*"))
    (Path(third.output) / "0001.dcm").unlink()
    (fourth,) = run(tmp_path / "in", out, factor=2.0).values()
    assert fourth.code == "E-OUT-EXISTS"


# ------------------------------------------------------------- BIDS


@pytest.fixture
def dataset(tmp_path) -> Path:
    return two_heads(tmp_path / "bids")


def test_a_bids_dataset_becomes_a_derivative_one(dataset, tmp_path):
    out = dataset / "derivatives" / "monai-sr"  # where BIDS wants it
    assert main(["bids", str(dataset), str(out), "participant", "--bundle", "none"]) == 0
    results = sorted(content(out))
    assert [name for name in results if name.endswith(".nii.gz")] == [
        "sub-01/anat/" + cases_of(dataset, out)[0].target.name,
        "sub-02/anat/" + cases_of(dataset, out)[1].target.name,
    ]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "monai-sr"
    sidecars = [json.loads(path.read_text()) for path in sorted(out.rglob("sub-*.json"))]
    assert [t["AcquiredSliceThickness"] for t in sidecars] == [4.0, 2.0]
    assert sidecars[0]["Sources"] == ["bids:raw:sub-01/anat/sub-01_T2w.nii.gz"] and sidecars[1]["EchoTime"] == 0.1
    assert all(t["monai_sr"]["output_sha256"] for t in sidecars)
    expected = load_bundle("none")(read_image(dataset / "sub-02/anat/sub-02_T2w.nii.gz"), slice_thickness=2.0)
    voxels = nib.load(out / results[-1]).get_fdata()
    assert np.abs(voxels - expected[0].numpy()).max() <= 0.51
    if validator():
        assert validator_errors(out) == []
    lines = len(lines_of(out))
    assert main(["run", str(dataset), str(out), "--bundle", "none"]) == 0
    assert [line["reason"] for line in lines_of(out)[lines:]] == ["already done"] * 2


def test_another_slice_thickness_beside_a_bids_image_remakes_its_result(dataset, tmp_path):
    run(dataset, tmp_path / "out")
    (dataset / "sub-02" / "anat" / "sub-02_T2w.json").write_text(json.dumps({"SliceThickness": 3.0}))
    assert [o.status for o in run(dataset, tmp_path / "out").values()] == ["skipped", "done"]


def test_participants_are_chosen_by_label(dataset, tmp_path, capsys):
    for flag in ("--participant-label", "--participant_label"):
        assert main(["bids", str(dataset), str(tmp_path / flag), "participant", "--bundle", "none", flag, "02"]) == 0
        assert [line["case"] for line in lines_of(tmp_path / flag)] == ["sub-02/anat/sub-02_T2w.nii.gz"]
    scan(tmp_path / "plain" / "a.nii.gz")
    assert main(["bids", str(tmp_path / "plain"), str(tmp_path / "out"), "participant"]) == 2
    assert "E-BIDS-DATASET" in capsys.readouterr().err
    for inside in (dataset / "out", dataset / "derivatives", dataset / "sub-01"):
        assert main(["bids", str(dataset), str(inside), "participant"]) == 2
        assert "E-OUT-SAME" in capsys.readouterr().err
