"""``--name``: names of results by a template of our own words."""

from __future__ import annotations

import dicom_phantoms
import numpy as np
import pytest
from runs import scan

from monai_sr.batch import find_cases
from monai_sr.errors import UsageError
from monai_sr.options import RunOptions


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    scan(tmp_path / "in" / "b.nii.gz")
    scan(tmp_path / "in" / "deep" / "a.b.nii")
    dicom_phantoms.write(tmp_path / "in" / "series", dicom_phantoms.slices(dicom_phantoms.Stack(np.arange(8) * 4.0)))
    return tmp_path / "in"


def targets(source, name, output="out/", **options) -> list[str]:
    given = {"input": str(source), "output": f"{source.parent / output}{'/' if output.endswith('/') else ''}"}
    cases = find_cases(RunOptions.from_dict(given | {"name": name, "bundle": "none", **options}))
    return [case.target.relative_to(source.parent / "out").as_posix() for case in cases]


def test_a_template_names_results_in_their_folders_and_formats(scans):
    plain = targets(scans, None)
    assert targets(scans, "{name}") == plain and plain[:2] == ["b.nii.gz", "deep/a.b.nii"]
    series = plain[2]
    assert targets(scans, "{name}_{bundle}-{number:03}") == [
        *("b_none-001.nii.gz", "deep/a.b_none-002.nii", f"{series}_none-003")
    ]
    assert targets(scans, "x{number}", format="nifti")[2] == "x3.nii.gz"
    assert targets(scans, "x{number}", exclude=["b*"]) == ["deep/x2.nii", "x3"]  # a number is that of the volume


@pytest.mark.parametrize(
    "template", ["", "a/b", "..", "{name.__class__}", "{0}", "{}", "{name:>9999999999}", "{patient}", "é", "{number:0}"]
)
def test_other_templates_are_refused(scans, template):
    with pytest.raises(UsageError, match="--name") as caught:
        targets(scans, template)
    assert caught.value.code == "E-USE"


def test_results_of_one_name_are_refused_before_the_work(fails, scans):
    scan(scans / "c.nii.gz")
    message = fails("run", scans, f"{scans.parent / 'out'}/", "--name", "thin", exit_code=2, code="E-OUT-CLASH")
    assert "c.nii.gz" in message and not (scans.parent / "out").exists()


def test_names_that_are_given_otherwise_are_refused(fails, scans, tmp_path):
    out = f"{tmp_path / 'out'}/"
    fails("run", scans / "b.nii.gz", tmp_path / "c.nii.gz", "--name", "{name}", exit_code=2, code="E-USE")
    (tmp_path / "list.csv").write_text("input,output\nin/b.nii.gz,c.nii.gz\n")
    fails("run", tmp_path / "list.csv", out, "--name", "{name}", exit_code=2, code="E-LIST")
    (scans / "dataset_description.json").write_text('{"Name": "one", "BIDSVersion": "1.9.0"}')
    (scans / "sub-01" / "anat").mkdir(parents=True)
    scan(scans / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    fails("run", scans, out, "--name", "{name}", exit_code=2, code="E-USE")


def test_a_run_with_a_template_goes_on_where_it_stopped(call, scans, tmp_path):
    words = ("run", scans / "b.nii.gz", f"{tmp_path / 'out'}/", "--bundle", "none", "--name", "{name}_thin")
    assert call(*words)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("b*")) == ["b_thin.json", "b_thin.nii.gz"]
    assert "already done" in call(*words)[1]
