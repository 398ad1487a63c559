"""The pages of a run: one file each that needs nothing else, says what is true, and is never in the way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import dicom_phantoms
import numpy as np
import phantoms
import pytest
import torch
from bids_datasets import dataset, validator, validator_errors
from monai.data import MetaTensor
from runs import SPLINE, cases_of, record_of, run, scan

import monai_sr.batch.pages
import monai_sr.report
from monai_sr.acquired import Acquired
from monai_sr.batch import load_model, process, report_path
from monai_sr.batch.pages import CasePage, index_rows
from monai_sr.errors import SuperResolutionWarning
from monai_sr.grid import grid_of
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.options import Outputs, RunOptions
from monai_sr.report import IndexRow, summary_of, write_failure_report, write_index_page, write_report
from monai_sr.report.sections import tiles
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.consistency import measure_consistency

REPORTING = replace(SPLINE, outputs=Outputs(report=True))
RNG = np.random.default_rng(0)
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """A page taken apart: its elements, and what is in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture
def image() -> MetaTensor:
    volume = phantoms.body((24, 22, 12), (1.0, 1.0, 4.0))
    volume.meta["stored_dtype"] = "int16"
    return volume


@pytest.fixture
def made(tmp_path, image) -> Path:
    digest = "ab" * 32
    record = {
        "bundle": "residual_super_resolution",
        "bundle_version": "0.3.0",
        "weights_sha256": digest,
        "seconds": 1.5,
    }
    return write_report(
        tmp_path / "a.html",
        image,
        super_resolve(image, None, factor=4),
        name="a.nii.gz",
        record=record | {"weights_sha256": "ab" * 32},
        warnings=[SuperResolutionWarning("W-SR-RANGE", "a factor of 8")],
    )


# ------------------------------------------------------------- one page


def test_a_page_is_sound_needs_nothing_else_and_forbids_it(made):
    page = Page(made)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in re.search(r"script-src [^;]*", policy["content"]).group()
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), attributes
    assert not re.search(r"url\((?!#)|@import", made.read_text())
    assert made.stat().st_size < 2e6


def test_a_page_shows_three_layers_in_three_planes_and_describes_them_in_text(made):
    page = Page(made)
    grays = page.all("img", **{"class": "gray"})
    alts = {i["alt"].split(",")[0] + "|" + i["alt"].rsplit(", ", 1)[1] for i in grays}
    layers = ("as acquired", "cubic interpolation", "super-resolved")
    assert alts == {f"{plane}|{layer}" for plane in ("coronal", "sagittal", "axial") for layer in layers}
    assert [f["data-plane"] for f in page.all("figure", **{"class": "plane"})][:2] == ["coronal", "sagittal"]
    assert len([i for i in grays if "hidden" not in i]) == 9
    assert all(i.get("alt") for i in page.all("img"))
    assert len(page.all("svg", **{"class": "plot"})) == 3
    assert all(plot["aria-label"] for plot in page.all("svg", **{"class": "plot"}))


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("gaussian", "a Gaussian slice profile of 2 mm full width at half maximum (estimated from the image)"),
        ("box", "a box slice profile of 2 mm full width at half maximum (estimated from the image)"),
    ],
)
def test_the_methods_paragraph_names_the_profile_that_was_estimated(tmp_path, profile, words):
    hr = MetaTensor(phantoms.anatomy(0)[None] * 800, affine=torch.eye(4, dtype=torch.float64))
    lr = simulate_thick_slices(hr, 2.0, profile=profile, axis=2)
    sr = super_resolve(lr, None, consistency="exact")
    acquired = Acquired.of(lr, refined=grid_of(sr))
    assert words in Page(write_report(tmp_path / "a.html", acquired, sr)).text


def test_the_methods_paragraph_of_a_run_names_the_profile_and_thickness_that_were_given(tmp_path):
    options = RunOptions.from_dict({"bundle": "none", "report": True, "profile": "box", "slice_thickness": 3.0})
    run(scan(tmp_path / "in" / "a.nii.gz").parent, tmp_path / "out", options)
    text = Page(tmp_path / "out" / "a.html").text
    assert "Re-acquired with a box slice profile of 3 mm full width at half maximum (as given)" in text
    assert "slice thickness 3 mm, as given" in text and "Gaussian" not in text
    facts = record_of(tmp_path / "out" / "a.json")["acquired"]
    assert facts["slice_profile"] == {"value": "box", "source": "option"}
    assert facts["slice_thickness"] == {"value": 3.0, "source": "option"}


def test_a_page_shows_geometry_provenance_consistency_warnings_and_method(made):
    text = Page(made).text
    for words in (
        "24 × 22 × 12 voxels of 1 × 1 × 4 mm",
        "24 × 22 × 48 voxels of 1 × 1 × 1 mm",
        "4 mm, assumed equal to the slice spacing",
        "axial, stacked superior-inferior (axis 2 of the file)",
        "mm after, across the slices (in-plane axes seen through slice profiles",
        "residual_super_resolution 0.3.0",
        "ab" * 32,
        "1 warning W-SR-RANGE a factor of 8",
        "Research only, not for diagnosis.",
        "super-resolved across its slices by a factor of 4 to a slice spacing of 1 mm",
        "kim2016vdsr",
        "cardoso2022monai",
        "monaisr",
    ):
        assert words in text, words
    assert "lai2017lapsrn" not in text


def test_figures_of_agreement_are_those_of_the_stored_result(made, image):
    text = Page(made).text
    fraction = float(re.search(r"root mean square [\d.e-]+ signal units, ([\d.e-]+) % of the range", text).group(1))
    assert 0 < fraction < 0.2  # of rounding to int16, no more
    wrong = super_resolve(image, None, factor=4) + 30
    worse = Page(write_report(made.with_name("b.html"), image, wrong)).text
    rms = float(re.search(r"root mean square ([\d.e-]+) signal units", worse).group(1))
    assert rms == pytest.approx(30, rel=0.01)


def test_the_spline_cites_no_network_and_a_foreign_bundle_both(tmp_path, image):
    sr = super_resolve(image, None, factor=2)
    for bundle, cited in (("none", set()), ("mine", {"kim2016vdsr", "lai2017lapsrn"})):
        text = Page(write_report(tmp_path / f"{bundle}.html", image, sr, record={"bundle": bundle})).text
        assert {key for key in ("kim2016vdsr", "lai2017lapsrn") if key in text} == cited


@pytest.mark.parametrize("text", [HOSTILE, "${script} $policy $$", "ünï 中文 \u202e"])
def test_names_descriptions_and_warnings_are_text_whatever_they_say(tmp_path, image, text):
    sr = super_resolve(image, None, factor=2)
    facts = {"bundle": text, "version": text, "options": {text: text}, "engine": text, "output_sha256": text}
    path = write_report(
        tmp_path / "a.html",
        image,
        sr,
        name=text,
        description=text,
        record=facts,
        warnings=[SuperResolutionWarning(code, text) for code in (text, "W-SR-RANGE")],
    )
    failed = write_failure_report(
        tmp_path / "f.html",
        name=text,
        code=text,
        reason=text,
        image=image,
        description=text,
        warnings=[SuperResolutionWarning(text, text)],
    )
    index = write_index_page(
        tmp_path / "index.html",
        [IndexRow(text, text, text, text, text, (text,), 1.0, text, "javascript:alert(1)")],
        title=text,
    )
    for made in (path, failed, index):
        page = Page(made)
        assert " ".join(text.split()) in page.text
        assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
        assert len(page.all("script")) == 2 and not page.all("img", src="x")
        assert not [a for a in page.all("a") if a["href"].startswith("javascript:")]
    assert summary_of(path)["output_sha256"] == text


def test_equal_results_give_equal_bytes(tmp_path, image):
    sr = super_resolve(image, None, factor=2)
    pages = [write_report(tmp_path / name, image, sr, name="x", record={"seconds": 2}) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


@pytest.mark.parametrize(("grid", "axis"), list(phantoms.grids().values())[::4])
def test_any_orientation_and_slice_axis_has_a_page(tmp_path, grid, axis):
    image = phantoms.draw(grid, phantoms.known_value_at)
    sr = super_resolve(image, None, axis=axis, factor=2.5)
    path = write_report(tmp_path / "a.html", Acquired.of(image, axis=axis), sr)
    planes = [f["data-plane"] for f in Page(path).all("figure", **{"class": "plane"})]
    assert sorted(planes) == ["axial", "coronal", "sagittal"]


def test_an_image_that_was_passed_through_and_several_volumes_have_a_page_too(tmp_path):
    image = phantoms.body((12, 13, 14))
    with pytest.warns(SuperResolutionWarning, match="W-SR-NOGAIN"):
        same = super_resolve(image, None)
    assert "×1" in Page(write_report(tmp_path / "a.html", image, same)).text
    both = torch.cat([image, image + 5])
    image = MetaTensor(both, affine=image.affine)
    sr = super_resolve(image, None, factor=2, axis=2)
    assert "2 in the file; this page shows the first" in Page(write_report(tmp_path / "b.html", image, sr)).text


def test_uncertainty_is_a_map_with_a_scale_where_there_is_one(tmp_path, image):
    sr = super_resolve(image, None, factor=2)
    uncertainty = MetaTensor(sr.as_tensor().abs() / 50, affine=sr.affine)
    with_map = Page(write_report(tmp_path / "a.html", image, sr, uncertainty=uncertainty))
    assert with_map.all("button", **{"data-value": "uncertainty"}) and with_map.all(
        "img", **{"class": "overlay uncertainty"}
    )
    assert "Predicted standard deviation of the error (signal)" in with_map.text
    without = Page(write_report(tmp_path / "b.html", image, sr))
    assert not without.all("button", **{"data-value": "uncertainty"})


def test_the_predicted_error_of_a_calibrated_bundle_is_shown_by_default(made):
    page = Page(made)  # made by the residual bundle, says its record
    assert page.all("button", **{"data-value": "uncertainty"})
    assert re.search(r"error, predicted standard deviation at most [\d.e-]+ signal units in half", page.text)


def test_a_large_volume_makes_a_page_of_a_few_mb(tmp_path):
    image = MetaTensor(torch.from_numpy(RNG.normal(500, 200, (1, 320, 300, 24)).astype(np.float32)))
    image.affine = torch.diag(torch.tensor([0.7, 0.7, 5.0, 1.0], dtype=torch.float64))
    path = write_report(tmp_path / "a.html", image, super_resolve(image, None, factor=6))
    assert path.stat().st_size < 6e6  # of pure noise, which nothing compresses


# ------------------------------------------------------------- the pages of a run


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "in"
    scan(folder / "a.nii.gz")
    scan(folder / "deep" / "b.nii", seed=1)
    bad = scan(folder / "bad.nii.gz")
    bad.write_bytes(bad.read_bytes()[:200])
    scan(folder / "flat.nii.gz", spacing=(1.0, 1.0, 1.0))
    return folder


def test_every_case_of_a_run_has_a_page_and_the_index_knows_them_all(scans, tmp_path):
    out = tmp_path / "out"
    outcomes = run(scans, out, REPORTING)
    for name, outcome in outcomes.items():
        path = Path(outcome.report)
        assert path.name == f"{Path(name).name.split('.')[0]}.html", name
        assert summary_of(path)["kind"] == ("failure" if outcome.status == "failed" else "case")
    assert summary_of(out / "deep" / "b.html")["output_sha256"] == record_of(out / "deep" / "b.json")["output_sha256"]
    assert "E-IO-TRUNC" in Page(out / "bad.html").text
    index = Page(out / "index.html")
    assert {a["href"] for a in index.all("a")} == {"a.html", "bad.html", "deep/b.html", "flat.html"}
    assert "3 done, 1 failed" in index.text and "W-SR-NOGAIN" in index.text
    assert len(index.all("img")) == 3


def test_without_the_option_there_is_no_page(scans, tmp_path):
    run(scans, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.html"))


def test_a_case_that_was_done_without_a_page_gets_the_page_it_would_have_had_and_nothing_is_made_again(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out, REPORTING)
    before = {p: p.read_bytes() for p in out.rglob("*.html") if p.name in ("a.html", "b.html")}
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.nii*")}
    for path in before:
        path.unlink()
    outcomes = run(scans, out, REPORTING)
    assert outcomes["a.nii.gz"].status == "skipped" and outcomes["a.nii.gz"].report
    assert {p: p.read_bytes() for p in before} == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.nii*")} == times
    stamps = {p: p.stat().st_mtime_ns for p in before}
    run(scans, out, REPORTING)
    assert {p: p.stat().st_mtime_ns for p in before} == stamps
    assert "3 done, 1 failed" in Page(out / "index.html").text  # what was done before is done


def test_a_page_of_an_older_result_is_made_again_with_the_result(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out, REPORTING)
    before = summary_of(out / "a.html")["output_sha256"]
    run(scans, out, REPORTING, factor=3)
    assert summary_of(out / "a.html")["output_sha256"] == record_of(out / "a.json")["output_sha256"] != before


def test_a_page_that_fails_is_a_warning_and_the_case_is_done(scans, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("CANARY")

    for name in ("write_report", "write_failure_report", "write_index_page"):
        monkeypatch.setattr(monai_sr.batch.pages, name, broken)
    with pytest.warns(SuperResolutionWarning, match="W-REPORT"):  # of the index
        outcomes = run(scans, tmp_path / "out", REPORTING)
    assert {n: o.status for n, o in outcomes.items()}["a.nii.gz"] == "done"
    assert outcomes["bad.nii.gz"].code == "E-IO-TRUNC"
    for outcome in outcomes.values():
        (warning,) = [notice for notice in outcome.warnings if notice.code == "W-REPORT"]
        assert "KeyError" in str(warning) and "CANARY" not in str(warning.to_dict())
        assert not outcome.report
    assert record_of(tmp_path / "out" / "a.json")["warnings"] == []


def test_a_file_of_that_name_that_is_not_our_page_is_kept(scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.html", "index.html"):
        (out / name).write_text("mine")
    with pytest.warns(SuperResolutionWarning, match="W-REPORT.*index.html"):
        outcomes = run(scans, out, REPORTING)
    assert outcomes["a.nii.gz"].status == "done" and "a.html exists" in str(outcomes["a.nii.gz"].warnings[0])
    assert (out / "a.html").read_text() == (out / "index.html").read_text() == "mine"
    (case,) = cases_of(scans / "a.nii.gz", out)
    page = CasePage(case, Outputs(report=True, overwrite=True))
    page.show_failure("E-BUG", "x")
    assert page.written


def test_a_case_that_fails_after_it_was_read_shows_what_was_read(tmp_path):
    scan(tmp_path / "in" / "flat.nii.gz", spacing=(1.0, 1.0, 1.0))
    strict = replace(REPORTING, wanted=replace(REPORTING.wanted, strict=True))
    (outcome,) = run(tmp_path / "in", tmp_path / "out", strict).values()
    assert outcome.code == "E-SR-NOGAIN"
    page = Page(Path(outcome.report))
    assert {i["alt"].rsplit(", ", 1)[1] for i in page.all("img")} == {"as acquired"}
    assert "What was read" in page.text and "8 × 7 × 6 voxels" in page.text


def test_a_case_whose_fault_is_known_before_it_runs_has_a_page(tmp_path):
    (tmp_path / "list.txt").write_text("gone.nii.gz\n")
    (outcome,) = run(tmp_path / "list.txt", tmp_path / "out", REPORTING).values()
    assert "E-IO-MISSING" in Page(Path(outcome.report)).text


def test_the_index_is_the_last_word_of_all_logs(tmp_path):
    def line(**changes):
        return json.dumps({"case": "a", "status": "done", "change": "x", "seconds": 1} | changes) + "\n"

    (tmp_path / "monai-sr-run.part-0-of-2.jsonl").write_text(
        line() + line(status="failed", code="E-BUG") + line(case="b", status="failed", code="E-X") + '{"case": "torn'
    )
    (tmp_path / "monai-sr-run.part-1-of-2.jsonl").write_text(
        line(case="b")
        + line(case="b", status="skipped", change="", output="b.nii")
        + line(case="c", status="skipped")
        + line(case="d", warnings=["W-CT-HU: d - of version 1", {"code": "W-CT-HU", "message": "of version 2"}])
    )
    rows = {row.case: (row.status, row.code, row.change) for row in index_rows(tmp_path)}
    last = index_rows(tmp_path)[-1].warnings
    assert [(n.code, n.problem) for n in last] == [
        ("W-CT-HU", "d - of version 1"),
        ("W-CT-HU", "of version 2"),
    ]
    del rows["d"]
    assert rows == {"a": ("failed", "E-BUG", "x"), "b": ("done", "", "x"), "c": ("skipped", "", "x")}


@pytest.mark.slow
def test_processes_of_this_machine_write_pages_too(scans, tmp_path):
    outcomes = run(scans, tmp_path / "out", REPORTING, jobs=2).values()
    assert all(summary_of(Path(o.report)) for o in outcomes)


@pytest.mark.skipif(validator() is None, reason="bids-validator-deno is not installed")
def test_a_bids_derivative_with_pages_is_valid(tmp_path):
    dataset(tmp_path / "raw", Authors=["Ann"], License="CC0")
    scan(tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    (outcome,) = run(tmp_path / "raw", tmp_path / "out", REPORTING).values()
    assert Path(outcome.report).parent == tmp_path / "out" / "sub-01" / "anat"
    assert validator_errors(tmp_path / "out") == []


# ------------------------------------------------------------- DICOM and privacy


def test_a_page_shows_the_description_of_a_header_and_nothing_of_the_patient(tmp_path):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(series=1, SeriesDescription="T2 tra <5mm>\n"))
    gap = dicom_phantoms.Stack((0.0, 4.0, 8.0, 16.0, 20.0, 24.0))
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(gap, series=2, SeriesDescription="broken"))
    outcomes = run(tmp_path / "in", tmp_path / "out", REPORTING)
    assert sorted(o.status for o in outcomes.values()) == ["done", "failed"]
    for outcome in outcomes.values():
        text = Page(Path(outcome.report)).text
        assert dicom_phantoms.tells_nothing(Path(outcome.report).read_text(), "")
        assert ("T2 tra <5mm>" if outcome.status == "done" else "broken") in text
        assert outcome.case in text
    assert dicom_phantoms.tells_nothing((tmp_path / "out" / "index.html").read_text(), "")


def test_a_derived_series_that_lacks_its_page_is_made_again_with_equal_bytes(tmp_path):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices())
    (case,) = cases_of(tmp_path / "in", tmp_path / "out")
    model = load_model(REPORTING)
    first = process(case, REPORTING, model)
    slices = {p.name: p.read_bytes() for p in case.target.iterdir()}
    assert summary_of(report_path(case.target))["kind"] == "case" and first.status == "done"
    report_path(case.target).unlink()
    assert process(case, REPORTING, model).status == "done"
    assert {p.name: p.read_bytes() for p in case.target.iterdir()} == slices and report_path(case.target).exists()
    assert process(case, REPORTING, model).status == "skipped"


# ------------------------------------------------------------- one volume by the command line


def test_one_volume_has_its_page_beside_it(call, tmp_path):
    source = scan(tmp_path / "scan.nii.gz")
    code, out, err = call("run", source, tmp_path / "thin.nii.gz", "--bundle", "none", "--report", "--factor", "2")
    assert code == 0 and str(tmp_path / "thin.html") in out and not err
    page = Page(tmp_path / "thin.html")
    assert "consistent spline, no network" in page.text and "scan.nii.gz" in page.text
    assert "torch" in page.text and "factor 2.0" in page.text
    assert not (tmp_path / "index.html").exists()


def test_one_volume_that_fails_leaves_its_page_and_the_same_message(call, tmp_path):
    source = scan(tmp_path / "scan.nii.gz", spacing=(1.0, 1.0, 1.0))
    arguments = ("run", source, tmp_path / "thin.nii.gz", "--bundle", "none", "--strict")
    plain = call(*arguments)
    assert not (tmp_path / "thin.html").exists()
    assert call(*arguments, "--report") == plain and plain[0] == 5
    page = Page(tmp_path / "thin.html")
    assert "E-SR-NOGAIN" in page.text and page.all("img")


def test_a_warning_is_on_the_page_by_the_name_of_the_volume(call, tmp_path):
    source = scan(tmp_path / "scan.nii.gz", spacing=(1.0, 1.0, 1.0))
    code, _, err = call("run", source, tmp_path / "thin.nii.gz", "--bundle", "none", "--report")
    assert code == 0 and "W-SR-NOGAIN" in err
    text = Page(tmp_path / "thin.html").text
    assert "W-SR-NOGAIN" in text and str(tmp_path) not in (tmp_path / "thin.html").read_text()


def test_a_dicom_series_to_one_file_has_its_page(call, tmp_path):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(SeriesDescription="T2 tra"))
    assert call("run", tmp_path / "in", tmp_path / "thin.nii.gz", "--bundle", "none", "--report")[0] == 0
    text = Page(tmp_path / "thin.html").text
    assert "T2 tra" in text and "from the file header" in text


def test_from_python_a_result_of_any_program_can_be_shown(tmp_path):
    thick = read_image(scan(tmp_path / "thick.nii.gz"))
    theirs = write_image(super_resolve(thick, None, factor=2), tmp_path / "theirs.nii.gz")
    assert "24 mm" not in Page(write_report(tmp_path / "a.html", thick, read_image(theirs))).text


# ------------------------------------------------------------- for every eye


def luminance(color: str) -> float:
    """Relative luminance of ``#rgb`` or ``#rrggbb`` (WCAG 2.2)."""
    digits = color.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(theme):
    style = (Path(monai_sr.report.__file__).parent / "report.css").read_text()
    blocks = re.findall(r":root\{([^}]*)\}", style)
    colors = dict(re.findall(r"--([a-z]+):(#[0-9a-f]+)", blocks[0]))
    if theme == "dark":
        colors |= dict(re.findall(r"--([a-z]+):(#[0-9a-f]+)", blocks[1]))
    pairs = (
        "ink/paper soft/paper ink/card soft/card link/paper warn/warnpaper ink/warnpaper soft/warnpaper bad/badpaper"
    )
    pairs += " ink/badpaper soft/badpaper onpanel/panel faint/panel faint/dark plane/paper bad/paper"
    for pair in pairs.split():
        light, dark = sorted((luminance(colors[name]) for name in pair.split("/")), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


@pytest.mark.parametrize(
    ("limit", "codes", "states"),
    [
        (0.5, [], ["good", "plain", "good"]),
        (1e-9, ["W-SR-RANGE"], ["bad", "plain", "warn"]),
        (None, [], ["unknown", "plain", "good"]),
    ],
)
def test_three_tiles_answer_what_a_reader_asks_first(limit, codes, states, image):
    sr = super_resolve(image, None, factor=4)
    sr.meta["stored_dtype"] = "float32"
    shown = tiles(measure_consistency(image, sr), limit, "5 mm → 1 mm", codes)
    assert re.findall(r'class="tile (\w+)"', shown) == states
    assert ("yes" in shown) == (states[0] == "good")


def test_pages_of_a_run_lead_to_each_other_and_to_the_index(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out, report=True)
    pages = sorted(p for p in out.rglob("*.html") if p.name != "index.html")
    assert len(pages) == 4
    for page in pages:
        (nav,) = re.findall(r"<nav.*?</nav>", page.read_text(encoding="utf-8"))
        links = re.findall(r'href="([^"]*)">([^<]*)', nav)
        assert {"all volumes"} <= {name for _, name in links} <= {"previous", "all volumes", "next"}
        assert all((page.parent / link).exists() for link, _ in links)


def test_the_index_and_the_table_hold_the_figures_of_each_result(scans, tmp_path):
    out = tmp_path / "out"
    run(scans, out, report=True)
    rows = {row.case: row for row in index_rows(out)}
    facts = rows["a.nii.gz"].facts
    record = json.loads((out / "a.json").read_text())["monai_sr"]
    assert facts["score"] == record["consistency"]["score"] < record["consistency"]["limit"]
    assert record["consistency"]["within_limit"] is True
    assert facts["slice_profile"] == record["acquired"]["slice_profile"]["value"]
    head, *lines = [line.split("\t") for line in (out / "monai-sr-run.tsv").read_text().splitlines()]
    table = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert float(table["a.nii.gz"]["factor"]) == facts["factor"]
    assert table["bad.nii.gz"]["factor"] == "n/a"
