"""The command line as a user meets it: results, one-line errors, exit codes, and nothing half-written."""

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
import tqdm
from catalogue import fault
from nifti_tools import save_nifti
from runs import BUNDLES, EagerBar, command, make_bundle

import monai_sr.bundles
import monai_sr.cli.main
from monai_sr.bundles import NAMES
from monai_sr.cli.main import main
from monai_sr.dicom import find_series
from monai_sr.engine import devices
from monai_sr.errors import warn
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image

RNG = np.random.default_rng(0)


@pytest.fixture
def nifti(tmp_path):
    """Write a NIfTI file as another program would."""

    def make(name="scan.nii.gz", data=None, spacing=(1.0, 1.2, 4.0), **header) -> Path:
        data = RNG.integers(0, 500, (8, 7, 6)).astype(np.int16) if data is None else data
        return save_nifti(tmp_path / name, data, np.diag([*spacing, 1.0]), **header)

    return make


@pytest.fixture
def thin(tmp_path) -> Path:
    """A volume of thin slices with a body in it."""
    grid = phantoms.grid((16, 15, 32), orientation="LPS")
    middle = phantoms.center(grid)[:, None, None, None]

    def value(points):
        x, y, z = points - middle
        body = 1 / (1 + np.exp(4 * (np.sqrt((x / 6) ** 2 + (y / 6) ** 2 + (z / 13) ** 2) - 1)))
        return 500 * body * (1 + 0.3 * np.sin(z / 1.6 + x / 2))

    return write_image(phantoms.draw(grid, value), tmp_path / "thin.nii.gz")


SMALLER = {"residual": {"features": 4, "layers": 4}, "pyramid": {"features": 4, "depth": 2}}


@pytest.fixture
def bundle(tmp_path_factory, monkeypatch):
    """A bundle of random weights by short name, outside the folder that is watched, in a trusted place."""
    homes = monai_sr.io.shelf.homes()
    monkeypatch.setattr(monai_sr.io.shelf, "homes", lambda: homes)

    def make(short, **changes):
        homes.append(tmp_path_factory.mktemp("bundles"))
        return make_bundle(homes[-1], short, changes=changes, **SMALLER[short])

    return make


@pytest.fixture
def shipped(tmp_path_factory, monkeypatch) -> Path:
    """Both bundles, small and random, where the shipped ones would lie."""
    home = tmp_path_factory.mktemp("home")
    for short in NAMES:
        make_bundle(home, short, **SMALLER[short])
    monkeypatch.setattr(monai_sr.io.shelf, "homes", lambda: [home])
    return home


# ------------------------------------------------------------- as a user does


def test_run_takes_its_places_by_name_too(call, nifti, tmp_path):
    source, target = nifti(), tmp_path / "thin.nii.gz"
    assert call("run", "-o", target, "--bundle", "none", "-i", source)[0] == 0
    named = target.read_bytes()
    assert call("run", source, target, "--bundle", "none", "--overwrite")[0] == 0
    assert target.read_bytes() == named
    code, _, err = call("run", "-i", source)
    assert code == 2 and err.startswith("monai-sr: E-USE: OUTPUT is missing"), err
    code, _, err = call("run", source, target, "-i", source, "-o", target)
    assert code == 2 and "unrecognized argument" in err, err


def test_run_makes_thin_slices_and_reports_them(call, nifti, tmp_path, monkeypatch):
    source = nifti()
    monkeypatch.chdir(tmp_path)
    code, out, err = call("run", source, "thin.nii.gz", "--bundle", "none")
    assert (code, err) == (0, "")
    made, verdict = out.splitlines()
    assert made == "thin.nii.gz: 8x7x6 at 1 x 1.2 x 4 mm -> 8x7x24 at 1 x 1.2 x 1 mm"
    assert verdict.startswith("  agrees with the scan: ") and "slice thickness 4 mm (assumed)" in verdict
    written = nib.load(tmp_path / "thin.nii.gz")
    assert written.shape == (8, 7, 24)
    assert written.header.get_zooms() == pytest.approx((1.0, 1.2, 1.0))
    assert written.affine[:3, 3] == pytest.approx([0, 0, -1.5])
    assert written.get_data_dtype() == np.int16
    expected = super_resolve(read_image(source), None)[0].numpy()
    assert np.abs(np.asarray(written.dataobj) - expected).max() <= 0.51


def test_help_needs_no_torch(tmp_path):
    code = "import sys, monai_sr.cli.main as c\ntry: c.main(['run', '--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("words", ["errors", "errors --help"])
def test_a_full_stdout_is_exit_code_6_and_no_bug(words):
    command = [sys.executable, "-m", "monai_sr", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=BUNDLES.parent, check=False)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("monai-sr: E-OUT-SPACE: stdout - ")


def test_a_stdout_that_is_closed_ends_nothing():
    command = f"{sys.executable} -m monai_sr errors >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=BUNDLES.parent, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_one_module_prints():
    """Which escapes what a terminal would obey."""
    folder = Path(monai_sr.cli.__file__).parent
    printing = {path.name for path in folder.glob("*.py") if re.search(r"(?<![\w.])print\(", path.read_text())}
    assert printing == {"terminal.py"}


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_what_a_terminal_would_obey_is_escaped(call, nifti, tmp_path):
    code, out, err = call("run", nifti("a\x1b[2J.nii"), tmp_path / "b\x1b[31m.nii", "--bundle", "none")
    assert (code, err) == (0, "") and "b\\x1b[31m.nii" in out and "\x1b" not in out
    code, out, err = call("check", tmp_path / "c\x1b]0;x\x07.nii")
    assert code == 3 and r"c\x1b]0;x\x07.nii" in err and not {"\x1b", "\x07"} & set(err)
    assert len(err.splitlines()) == 1
    lines = call("check", nifti("d\nfake: can be processed.nii"))[1].splitlines()
    assert lines[0] == r"d\nfake: can be processed.nii"
    datasets = dicom_phantoms.slices()
    for dataset in datasets:
        dataset.SeriesInstanceUID = "1.2.3\n\x1b[31mRED"
    dicom_phantoms.write(tmp_path / "dicom", datasets)
    assert r"UID 1.2.3\n\x1b[31mRED, named" in call("check", tmp_path / "dicom")[1]
    out = call("run", tmp_path / "dicom", f"{tmp_path}/e\nf/", "--bundle", "none", "--dry-run")[1]
    assert r"e\nf" in out and "e\nf" not in out


@pytest.mark.parametrize("command", ["run", "simulate", "evaluate", "demo", "info"])
def test_every_command_explains_itself(call, command):
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: monai-sr {command}")
    assert "not for diagnosis" in " ".join(out.split())
    assert command in call("--help")[1]


def test_the_version_is_printed(call):
    assert call("--version") == (0, f"monai-sr {monai_sr.__version__}\n", "")


# ------------------------------------------------------------- run


@pytest.mark.parametrize(
    ("options", "shape", "spacing"),
    [
        (["--factor", "2"], (8, 7, 12), (1, 1.2, 2)),
        (["--factor", "2.5"], (8, 7, 15), (1, 1.2, 1.6)),
        (["--spacing", "3"], (8, 7, 8), (1, 1.2, 3)),
        (["--axis", "1", "--factor", "3"], (8, 21, 6), (1, 0.4, 4)),
        (["--axis", "0", "--spacing", "0.5"], (16, 7, 6), (0.5, 1.2, 4)),
    ],
)
def test_factor_spacing_and_axis_decide_the_grid(call, nifti, tmp_path, options, shape, spacing):
    code, _, err = call("run", nifti(), tmp_path / "out.nii.gz", "--bundle", "none", *options)
    assert (code, err) == (0, "")
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.shape == shape
    assert written.header.get_zooms() == pytest.approx(spacing)


def test_the_slice_profile_is_used(call, nifti, tmp_path):
    source, target = nifti(), tmp_path / "thin.nii.gz"
    results = []
    for words in ([], ["--profile", "gaussian"], ["--profile", "box"]):
        assert call("run", source, target, "--bundle", "none", *words)[0] == 0
        results.append(read_image(target))
    torch.testing.assert_close(results[0], results[1])  # too few slices to estimate it
    assert (results[2] - results[1]).abs().max() > 1


def test_the_slice_thickness_is_used(call, nifti, tmp_path):
    source = nifti(data=RNG.normal(size=(8, 7, 6)).astype(np.float32))
    for thickness in (2.4, 4.0):
        assert call("run", source, tmp_path / "out.nii", "--bundle", "none", "--slice-thickness", thickness)[0] == 0
        expected = super_resolve(read_image(source), None, slice_thickness=thickness)
        np.testing.assert_allclose(nib.load(tmp_path / "out.nii").get_fdata(), expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("short", NAMES)
def test_run_with_a_bundle_writes_what_its_network_makes(call, nifti, tmp_path, bundle, short):
    source, folder = nifti(data=RNG.normal(size=(8, 7, 6)).astype(np.float32)), bundle(short)
    options = ["--factor", "3", "--device", "cpu"]
    code, out, err = call("run", source, tmp_path / "out.nii.gz", "--bundle", folder, *options)
    assert (code, err) == (0, "")
    assert "8x7x18" in out
    written = nib.load(tmp_path / "out.nii.gz").get_fdata()
    model = monai_sr.bundles.load_bundle(folder, device="cpu")
    np.testing.assert_allclose(written, model(read_image(source), factor=3)[0].numpy(), atol=1e-5)
    spline = super_resolve(read_image(source), None, factor=3)[0].numpy()
    assert np.abs(written - spline).max() > 1e-4


@pytest.mark.parametrize("short", NAMES)
def test_bundles_are_known_by_their_short_names(call, nifti, tmp_path, shipped, short):
    assert call("run", nifti(), tmp_path / "out.nii.gz", "--bundle", short, "--factor", "2")[0] == 0
    assert nib.load(tmp_path / "out.nii.gz").shape == (8, 7, 12)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_the_suffix_of_the_output_decides_the_format(call, nifti, tmp_path, suffix):
    assert call("run", nifti(), tmp_path / f"out{suffix}", "--bundle", "none", "--factor", "2")[0] == 0
    assert read_image(tmp_path / f"out{suffix}").shape == (1, 8, 7, 12)


def test_a_modality_may_be_given(call, nifti, tmp_path, bundle):
    source, folder = nifti(data=RNG.normal(500, 50, (8, 7, 6)).astype(np.float32)), bundle("pyramid")
    for name, modality in (("mr", "MR"), ("ct", "ct"), ("guess", None)):
        option = ["--modality", modality] if modality else []
        assert call("run", source, tmp_path / f"{name}.nii", "--bundle", folder, *option)[0] == 0
    ct, mr, guess = (nib.load(tmp_path / f"{name}.nii").get_fdata() for name in ("ct", "mr", "guess"))
    assert np.array_equal(mr, guess)  # nothing below zero: MR
    assert not np.array_equal(ct, mr)


def test_the_intensity_rule_that_the_bundle_writes_down_is_used(call, nifti, tmp_path, bundle):
    source = nifti(data=RNG.normal(-300, 100, (8, 7, 6)).astype(np.float32))
    folder = bundle("pyramid", ct_window=[-9, 5])
    options = ["--factor", "2", "--modality", "CT", "--device", "cpu"]
    assert call("run", source, tmp_path / "out.nii", "--bundle", folder, *options)[0] == 0
    engine = monai_sr.bundles.load_bundle(folder, device="cpu").engine
    expected, other = (
        super_resolve(read_image(source), engine, factor=2, modality="CT", ct_window=window)[0].numpy()
        for window in ((-9, 5), (-1000, 1000))
    )
    assert np.abs(expected - other).max() > 1e-3
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii").get_fdata(), expected, atol=1e-5)


def test_a_dicom_folder_is_read_with_the_thickness_of_its_header(call, tmp_path):
    folder = tmp_path / "series"
    where = dicom_phantoms.Stack(dicom_phantoms.even(6, 3.0), rows=10, columns=12, pixel_spacing=(0.75, 0.75))
    dicom_phantoms.write(folder, dicom_phantoms.slices(where, SliceThickness=1.5, rescale=(1, -1024)))
    code, out, err = call("run", folder, tmp_path / "out.nii.gz", "--bundle", "none")
    assert (code, err) == (0, "")
    assert "12x10x6 at 0.75 x 0.75 x 3 mm -> 12x10x24" in out
    expected = super_resolve(read_image(folder), None, slice_thickness=1.5)
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.abs(np.asarray(written.dataobj) - expected[0].numpy()).max() <= 0.51
    assert b"CANARY" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())


@pytest.fixture
def export(tmp_path) -> Path:
    """Two good series, one with a missing slice, and a report, as a scanner exports them."""
    folder = tmp_path / "export"
    dicom_phantoms.write(folder / "a", dicom_phantoms.slices(series=1))
    dicom_phantoms.write(folder / "b", dicom_phantoms.slices(series=2, modality="MR"))
    gap = dicom_phantoms.Stack(offsets=tuple(o for i, o in enumerate(dicom_phantoms.even(9, 4.0)) if i != 4))
    dicom_phantoms.write(folder / "c", dicom_phantoms.slices(gap, series=3))
    (folder / "a" / "report.txt").write_text("no image")
    return folder


def test_every_series_of_an_export_becomes_a_derived_series(call, export, tmp_path):
    code, out, err = call("run", export, tmp_path / "out", "--bundle", "none", "--factor", "2")
    assert code == 4
    assert out.count("26x22x8 at 1.25 x 1.5 x 4 mm -> 26x22x16 at 1.25 x 1.5 x 2 mm") == 2
    assert "1 file(s) left out: not DICOM" in err and err.count("E-DCM-GAP") == 1
    folders = sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert [len(list(f.iterdir())) for f in folders] == [16, 16]
    derived = find_series(tmp_path / "out")
    assert [left.code for left in derived.left_out] == ["E-DCM-OWN", "E-IO-TYPE"]  # results and records are no input
    assert dicom_phantoms.tells_nothing(out, err, *folders)
    code, out, _ = call("run", export, tmp_path / "out", "--bundle", "none", "--factor", "2")
    assert code == 4 and "skipped      2  already done" in out


def test_series_become_nifti_with_a_sidecar_on_demand(call, export, tmp_path):
    options = ["--bundle", "none", "--factor", "2", "--format", "nifti", "--fill-gaps"]
    code, _, err = call("run", export, tmp_path / "out", *options)
    assert code == 0 and "W-DCM-GAP" in err
    written = sorted(p.name for p in (tmp_path / "out").glob("series-*"))
    assert len(written) == 6 and all(name.startswith("series-") for name in written)
    sidecars = [json.loads(p.read_text()) for p in sorted((tmp_path / "out").glob("series-*.json"))]
    assert sorted(s["Modality"] for s in sidecars) == ["CT", "CT", "MR"]
    assert sorted(len(s["FilledSlices"]) for s in sidecars) == [0, 0, 2]
    assert all(s["SpacingBetweenSlices"] == 2 and s["monai_sr"]["options"]["wanted"]["factor"] == 2.0 for s in sidecars)
    assert dicom_phantoms.tells_nothing(*(p.read_bytes().decode("latin1") for p in (tmp_path / "out").glob("*.json")))


def test_one_series_is_chosen_by_its_number(call, export, tmp_path):
    target = tmp_path / "one.nii.gz"
    code, _, err = call("run", export, target, "--bundle", "none")
    assert code == 5 and "E-DCM-SERIES" in err and "1 (8 slices" in err
    assert not target.exists()
    assert call("run", export, target, "--bundle", "none", "--series", "2", "--factor", "2")[0] == 0
    assert nib.load(target).shape == (26, 22, 16)
    assert json.loads((tmp_path / "one.json").read_text())["Modality"] == "MR"
    code, _, err = call("run", export, tmp_path / "two.nii.gz", "--series", "7")
    assert code == 2 and "E-DCM-SERIES" in err


def test_series_of_one_number_are_chosen_by_the_uids_that_the_error_names(call, tmp_path):
    for uid in ("1.2.3", "1.2.4"):
        series = dicom_phantoms.slices(SeriesInstanceUID=uid)
        dicom_phantoms.write(tmp_path / "in" / uid, series)
    words = ["run", tmp_path / "in", tmp_path / "one.nii.gz", "--bundle", "none", "--factor", "2"]
    code, _, err = call(*words, "--series", "1")
    assert code == 5 and "by --series: 1.2.3 (8 slices), 1.2.4 (8 slices)" in err
    assert call(*words, "--series", "1.2.4")[0] == 0


def test_an_archive_and_a_multi_frame_file_are_run_like_a_folder(call, tmp_path):
    datasets = dicom_phantoms.slices()
    dicom_phantoms.write(tmp_path / "in", datasets)
    shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "in")
    (enhanced,) = dicom_phantoms.write(tmp_path / "multi", dicom_phantoms.enhanced(datasets))
    results = []
    for source in (tmp_path / "in", tmp_path / "scan.zip", enhanced):
        target = tmp_path / f"out{len(results)}.nii"
        assert call("run", source, target, "--bundle", "none", "--factor", "2")[0] == 0
        results.append(nib.load(target).get_fdata())
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_check_lists_what_an_export_holds(call, export, nifti):
    code, out, _ = call("check", export)
    assert code == 4
    assert "series 1: CT, 8 slices" in out and "series 2: MR, 8 slices" in out
    assert "E-DCM-GAP" in out and "left out: 1 file(s), not DICOM" in out
    assert call("check", export / "b")[0] == 0
    assert "at " in call("check", nifti())[1]
    assert dicom_phantoms.tells_nothing(out)


def test_check_and_a_dry_run_name_the_series_that_a_warning_is_about(call, tmp_path):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(dicom_phantoms.Stack(pixel_spacing=(4.0, 4.0))))
    code, out, err = call("run", tmp_path / "in", tmp_path / "out/", "--bundle", "none", "--dry-run")
    (warning,) = err.splitlines()
    name = re.search(r"^series-\w+", out, re.MULTILINE)[0]
    assert code == 0 and warning.startswith(f"monai-sr: W-SR-NOGAIN: {name} - ")
    lines = call("check", tmp_path / "in")[1].splitlines()
    assert name in lines[0] and any(line.startswith("  W-SR-NOGAIN: ") and name not in line for line in lines[1:])


def test_a_volume_without_headers_cannot_become_dicom(fails, nifti, tmp_path):
    fails("run", nifti(), tmp_path / "out", "--format", "dicom", exit_code=2, code="E-OUT-FORMAT")


# ------------------------------------------------------------- warnings, progress, debug


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_only(nifti, tmp_path, bundle, monkeypatch, capsys, terminal):
    monkeypatch.setattr(tqdm, "tqdm", EagerBar)
    source, folder = nifti(), bundle("pyramid")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert main(["run", str(source), str(tmp_path / "out.nii.gz"), "--bundle", str(folder)]) == 0
    err = capsys.readouterr().err
    assert ("scan.nii.gz" in err and "100%" in err) if terminal else err == ""


def test_debug_adds_the_traceback(call, nifti, tmp_path):
    source = nifti(data=np.full((5, 5, 5), 7, np.int16))
    code, _, plain = call("run", source, tmp_path / "out.nii.gz", "--bundle", "none")
    assert code == 5
    code, _, err = call("run", source, tmp_path / "out.nii.gz", "--bundle", "none", "--debug")
    assert code == 5
    assert err.startswith(plain)
    assert "Traceback (most recent call last)" in err
    assert "images.py" in err


def test_a_fault_of_our_own_asks_for_a_report_and_is_no_image_error(call, nifti, tmp_path, monkeypatch):
    monkeypatch.setattr(monai_sr.bundles.Model, "super_resolve", lambda *_, **__: {}["nothing"])
    code, _, err = call("run", nifti(), tmp_path / "out.nii.gz", "--bundle", "none")
    assert code == 10
    assert err.startswith("monai-sr: E-BUG: KeyError") and err.count("\n") == 1
    code, _, err = call("run", tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", "--bundle", "none", "--debug")
    assert code == 10
    assert "Traceback" in err


def test_an_interruption_ends_with_130_and_leaves_nothing(call, nifti, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(monai_sr.bundles.Model, "super_resolve", interrupted)
    code, _, err = call("run", nifti(), tmp_path / "out.nii.gz", "--bundle", "none")
    assert (code, err) == (130, "monai-sr: interrupted\n")
    assert not (tmp_path / "out.nii.gz").exists()


# ------------------------------------------------------------- bad input: exit codes 3 and 5


@pytest.mark.parametrize(("shape", "code"), [((8, 7, 6, 3), "E-IMG-4D"), ((8, 7, 1), "E-IMG-2D"), ((0,), "E-IO-TRUNC")])
def test_simulate_and_evaluate_refuse_bad_images_as_run_does(fails, nifti, tmp_path, shape, code):
    """What run refuses is in test_faults.py."""
    path = nifti(data=np.arange(np.prod(shape), dtype=np.int16).reshape(shape)) if all(shape) else nifti()
    if not all(shape):
        path.write_bytes(path.read_bytes()[:100])
    fails("simulate", path, tmp_path / "out.nii.gz", "--factor", "2", exit_code=5, code=code, names=path)
    fails("evaluate", path, "--bundle", "none", exit_code=5, code=code, names=path)


@pytest.mark.parametrize("command", [["run", "--bundle", "none"], ["simulate", "--factor", "2"]])
def test_a_missing_input_is_exit_code_3(fails, tmp_path, command):
    missing = tmp_path / "nowhere.nii.gz"
    target = tmp_path / "out.nii.gz"
    fails(command[0], missing, target, *command[1:], exit_code=3, code="E-IO-MISSING", names=missing)


def test_nothing_to_evaluate_is_exit_code_3(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "nowhere", tmp_path / "empty"):
        fails("evaluate", missing, "--bundle", "none", exit_code=3, code="E-IO-MISSING", names=missing)
    (tmp_path / "empty" / "notes.txt").touch()
    empty = tmp_path / "empty"
    fails("run", empty, tmp_path / "o.nii", "--bundle", "none", exit_code=3, code="E-DCM-NONE", names=empty)


def test_a_folder_of_images_needs_a_folder_for_its_results(fails, nifti, tmp_path):
    (tmp_path / "in").mkdir()
    target = tmp_path / "elsewhere.nii"
    fails("run", nifti("in/a.nii").parent, target, "--bundle", "none", exit_code=2, code="E-USE", names=target)


# ------------------------------------------------------------- bad options: exit code 2


def test_output_equal_to_input_is_refused_by_any_name(fails, nifti, tmp_path, monkeypatch):
    source = nifti()
    before = source.read_bytes()
    (tmp_path / "link.nii.gz").symlink_to(source)
    os.link(source, tmp_path / "hard.nii.gz")
    monkeypatch.chdir(tmp_path)
    for target in (source, "./scan.nii.gz", tmp_path / "link.nii.gz", tmp_path / "hard.nii.gz"):
        fails("run", source, target, "--bundle", "none", exit_code=2, code="E-OUT-SAME", names=Path(target))
        fails("simulate", source, target, "--factor", "2", exit_code=2, code="E-OUT-SAME")
    assert source.read_bytes() == before


def test_output_inside_the_input_folder_is_refused(fails, tmp_path):
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices())
    folder = tmp_path / "series"
    target = folder / "out.nii.gz"
    fails("run", folder, target, "--bundle", "none", exit_code=2, code="E-OUT-SAME", names=target)


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.dcm", "out.gz"])
def test_an_unknown_output_format_is_refused_before_any_work(fails, tmp_path, name):
    # the input is missing too, but the answer to that costs reading
    fails("run", tmp_path / "a.nii", tmp_path / name, exit_code=2, code="E-OUT-FORMAT", names=tmp_path / name)


@pytest.mark.parametrize(("spacing", "options"), [((1.0, 3.0, 3.0), []), ((1.0, 1.0, 1.0), ["--factor", "2"])])
def test_an_unclear_axis_is_asked_for(fails, nifti, tmp_path, spacing, options):
    path = nifti(spacing=spacing)
    target = tmp_path / "out.nii.gz"
    line = fails("run", path, target, "--bundle", "none", *options, exit_code=2, code="E-HDR-AXIS", names=path)
    assert "--axis" in line
    fails("simulate", path, target, "--factor", "2", exit_code=2, code="E-HDR-AXIS", names=path)


@fault("R19")
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "a", "b", "--factr", "2"], "did you mean --factor?"),
        (["run", "a", "b", "--slice-thicknss=2"], "did you mean --slice-thickness?"),
        (["evaluate", "a", "--devize", "cpu"], "did you mean --device?"),
        (["run", "a", "b", "--factor", "2", "--spacing", "1"], "not allowed with"),
        (["run", "a", "b", "--factor", "zero"], "'zero' is not a number above 0"),
        (["run", "a", "b", "--factor", "-1"], "'-1' is not a number above 0"),
        (["run", "a", "b", "--spacing", "nan"], "'nan' is not a number above 0"),
        (["run", "a", "b", "--slice-thickness", "inf"], "'inf' is not a number above 0"),
        (["run", "a", "b", "--axis", "3"], "--axis"),
        (["run", "a", "b", "--modality", "PET"], "--modality"),
        (["run", "a"], "OUTPUT"),
        (["simulate", "a", "b"], "--factor --spacing"),
        (["simulate", "a", "b", "--factor", "2", "--profile", "hexagon"], "hexagon"),
        (["evaluate"], "--pair"),
        (["walk"], "walk"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_right_one(fails, arguments, word):
    assert word in fails(*arguments, exit_code=2, code="E-USE")


def test_a_device_that_is_not_there_is_named(fails, nifti, tmp_path):
    for device in ("cuda:99", "toaster"):
        target = tmp_path / "out.nii.gz"
        line = fails("run", nifti(), target, "--bundle", "none", "--device", device, exit_code=2, code="E-DEV")
        assert device in line


@pytest.mark.parametrize(
    ("option", "word"), [(["--spacing", "2"], "2 mm is finer"), (["--factor", "30"], "do not fit")]
)
def test_thick_slices_that_cannot_be_simulated_are_refused(fails, nifti, tmp_path, option, word):
    path = nifti()
    assert word in fails("simulate", path, tmp_path / "o.nii", *option, exit_code=2, code="E-USE", names=path)


# ------------------------------------------------------------- output: exit code 6


def test_an_output_that_cannot_be_written_is_exit_code_6(fails, nifti, tmp_path):
    source = nifti()
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "none" / "o.nii.gz", tmp_path / "file" / "o.nii.gz", tmp_path / "folder.nii.gz"):
        fails("run", source, target, "--bundle", "none", exit_code=6, code="E-OUT-FOLDER", names=target)
        fails("simulate", source, target, "--factor", "2", exit_code=6, code="E-OUT-FOLDER", names=target)
    # found before the input is looked at
    fails("run", tmp_path / "nowhere.nii", tmp_path / "none" / "o.nii", exit_code=6, code="E-OUT-FOLDER")


@pytest.mark.parametrize("command", [["evaluate", "nowhere", "--bundle", "none"], ["demo"]])
def test_an_output_folder_that_cannot_be_made_is_exit_code_6(fails, tmp_path, command):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        fails(*command, "--output", target, exit_code=6, code="E-OUT-PERM", names=target)


def test_a_full_disk_leaves_nothing(fails, nifti, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    source = nifti()
    monkeypatch.setattr(os, "fsync", full)
    target = tmp_path / "out.nii.gz"
    fails("run", source, target, "--bundle", "none", exit_code=6, code="E-OUT-SPACE", names=target)


# ------------------------------------------------------------- bundles: exit code 7


def test_an_unknown_bundle_is_exit_code_7(fails, nifti, tmp_path):
    for name in ("nobody", tmp_path):
        line = fails("run", nifti(), tmp_path / "o.nii", "--bundle", name, exit_code=7, code="E-W-BUNDLE", names=name)
        assert "residual, pyramid, none" in line
    fails("evaluate", nifti(), "--bundle", "nobody", exit_code=7, code="E-W-BUNDLE", names="nobody")


@pytest.mark.parametrize("content", ["{", "{}", '{"network_def": {"_target_": "monai_sr.nothing"}}'])
def test_a_damaged_configuration_is_exit_code_7(fails, nifti, tmp_path, bundle, content):
    folder = bundle("residual")
    (folder / "configs" / "inference.json").write_text(content)
    fails("run", nifti(), tmp_path / "o.nii", "--bundle", folder, exit_code=7, code="E-W-CONFIG", names=folder)


# ------------------------------------------------------------- simulate


@pytest.mark.parametrize("factor", [2, 4])
def test_what_is_simulated_and_super_resolved_lies_on_the_first_grid_and_is_near_it(call, thin, tmp_path, factor):
    thick, again = tmp_path / "thick.nii.gz", tmp_path / "again.nii.gz"
    code, out, err = call("simulate", thin, thick, "--factor", factor, "--axis", "2")
    assert (code, err) == (0, "")
    assert f"16x15x32 at 1 x 1 x 1 mm -> 16x15x{32 // factor} at 1 x 1 x {factor} mm" in out
    assert call("run", thick, again, "--bundle", "none")[0] == 0
    reference, result = read_image(thin), read_image(again)
    assert result.shape == reference.shape
    np.testing.assert_allclose(result.affine, reference.affine, atol=1e-6)
    inner = (..., slice(factor, -factor))
    error = (result - reference)[inner].abs().mean()
    assert error < 0.3 * (reference[inner] - reference[inner].mean(dim=-1, keepdim=True)).abs().mean()
    assert call("simulate", again, tmp_path / "thick2.nii.gz", "--factor", factor, "--axis", "2")[0] == 0
    np.testing.assert_allclose(read_image(tmp_path / "thick2.nii.gz"), read_image(thick), atol=0.1)


def test_thickness_and_profile_of_a_simulation_are_used(call, thin, tmp_path):
    variants = {
        "plain": [],
        "thinner": ["--slice-thickness", "2"],
        "box": ["--profile", "box"],
        "same": ["--slice-thickness", "4", "--profile", "gaussian"],
    }
    made = {}
    for name, options in variants.items():
        assert call("simulate", thin, tmp_path / f"{name}.nii", "--spacing", "4", "--axis", "2", *options)[0] == 0
        made[name] = nib.load(tmp_path / f"{name}.nii").get_fdata()
    assert made["plain"].shape == (16, 15, 8)
    assert np.array_equal(made["plain"], made["same"])
    mean_of_four = nib.load(thin).get_fdata().reshape(16, 15, 8, 4).mean(axis=-1)
    np.testing.assert_allclose(made["box"], mean_of_four, atol=1e-3)
    assert np.abs(made["thinner"] - made["plain"]).max() > 1
    assert np.abs(made["box"] - made["plain"]).max() > 1


# ------------------------------------------------------------- evaluate, info, demo


def test_evaluate_prints_a_table_and_writes_its_figures(call, thin, tmp_path, shipped):
    folder, card = tmp_path / "figures", tmp_path / "cards" / "card.md"
    words = ["evaluate", thin, "--factor", "2", "2.5", "--axis", "2", "--output", folder, "--markdown", card]
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    methods = ["linear", "cubic", "sinc", "consistent", "residual", "pyramid"]
    rows = [line.split()[:3] for line in out.splitlines() if line.startswith("MR  x")]
    assert rows == [["MR", factor, method] for factor in ("x2", "x2.5") for method in methods]
    assert "foreground" in out and "data range" in out
    document = json.loads((folder / "scores.json").read_text())
    assert [(s["factor"], s["method"]) for s in document["scores"]] == [(f, m) for f in (2, 2.5) for m in methods]
    assert document["settings"]["command"] == [str(word) for word in words]
    assert set(document["settings"]["bundles"]) == set(NAMES)
    assert (folder / "scores.csv").read_text().count("\n") == 13
    assert {path.name for path in folder.glob("*.svg")} == {"gain_MR.svg", "resolution_MR.svg"}
    gains = {s["method"]: s["gain_db"] for s in document["scores"] if s["factor"] == 2}
    assert gains["consistent"] == 0
    assert gains["linear"] < 0
    text = card.read_text()
    assert text.startswith("| MR, 1 volume | ×2 | ×2.5 |\n")
    # made anywhere, read elsewhere: no path of this machine
    assert text.endswith("Made by `monai-sr evaluate VOLUMES --factor 2 2.5 --axis 2`.\n")
    assert str(tmp_path) not in text


def test_evaluate_measures_every_combination_of_conditions(call, thin, tmp_path):
    words = ["--factor", "2", "--profile", "gaussian", "box", "--given-thickness", "0.75", "1", "--noise", "0", "0.02"]
    words += ["--thickness-ratio", "0.6", "--axis", "near", "--limit", "1"]
    code, _, err = call("evaluate", thin, thin, "--bundle", "none", *words, "--output", tmp_path / "figures")
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "figures" / "scores.json").read_text())["scores"]
    conditions = {(s["axis"], s["profile"], s["thickness_ratio"], s["given_thickness"], s["noise"]) for s in rows}
    assert conditions == set(itertools.product((0, 1, 2), ("gaussian", "box"), (0.6,), (0.75, 1), (0, 0.02)))
    assert len(rows) == len(conditions) * 5  # one volume, four baselines and "none"


def test_evaluate_measures_bundles_that_agree_with_slices_without_their_noise(call, thin, tmp_path):
    words = ["evaluate", thin, "--bundle", "none", "--factor", "2", "--axis", "2", "--noise", "0.05", "--json"]
    card = tmp_path / "card.md"
    exact, noise = (
        {row["method"]: row["psnr_db"] for row in json.loads(call(*words, *more)[1])["scores"]}
        for more in (("--consistency", "exact"), ("--consistency", "noise", "--markdown", card))
    )
    assert {m for m in exact if exact[m] != noise[m]} == {"none"}
    assert noise["none"] > exact["none"] + 0.5
    assert card.read_text().endswith("--noise 0.05 --axis 2 --consistency noise`.\n")


def test_evaluate_measures_the_quality_that_was_asked_for(call, thin, shipped):
    words = ["evaluate", thin, "--bundle", "residual", "--factor", "2", "--axis", "2", "--json"]
    usual, best = (json.loads(call(*words, *more)[1])["scores"][-1] for more in ((), ("--quality", "best")))
    assert usual["method"] == best["method"] == "residual"
    assert usual["psnr_db"] != best["psnr_db"]


def test_evaluate_robustness_is_one_command(call, thin, tmp_path):
    card = tmp_path / "card.md"
    words = ["--bundle", "none", "--axis", "2", "--factor", "2", "--robustness", "--markdown", card]
    code, out, err = call("evaluate", thin, *words)
    assert (code, err) == (0, "")
    for name in (
        "plain",
        "box profile",
        "given × 0.75",
        "given × 1.25",
        "2 % noise",
        "2 % scanner noise",
        "subsampled",
        "permuted",
        "12 slices",
    ):
        assert name in out and name in card.read_text()
    assert [line.split()[0] for line in out.splitlines() if line.startswith("×")] == ["×2"] * 13 + [
        "×1.7",
        "×2.5",
        "×3.3",
    ]
    assert "smallest gain over cubic" in " ".join(out.split())
    assert "Made by `monai-sr evaluate VOLUMES --bundle none --factor 2 --axis 2 --robustness`." in card.read_text()


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--robustness", "--profile", "box"], "--profile was given"),
        (["--robustness", "--thickness-ratio", "0.6"], "--thickness-ratio was given"),
        (["--axis", "near", "1"], "give near, or some of 0, 1 and 2"),
        (["--noise", "-1"], "not a number above 0"),
        (["--limit", "0"], "not a whole number above 0"),
        (["--peer", "saint"], "'saint' was given as a peer"),
        (["--peer", "saint=run {lr} {out} {fwhm}"], "fwhm"),
    ],
)
def test_evaluate_refuses_contradicting_options_before_any_work(fails, thin, words, word):
    assert word in fails("evaluate", thin, "--bundle", "none", *words, exit_code=2, code="E-USE")


def test_evaluate_measures_another_program_and_goes_on_where_it_fails(call, thin, tmp_path):
    theirs = f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{lr}} {{out}}"
    words = ["--bundle", "none", "--axis", "2", "--peer", f"copy={theirs}", "--peer", "gone=no-such-program {lr} {out}"]
    code, out, err = call("evaluate", thin, "--factor", "2", *words, "--markdown", tmp_path / "card.md")
    assert code == 4
    assert err.startswith(f"monai-sr: E-PEER: {thin} - gone: cannot be started") and err.count("\n") == 1
    methods = [line.split()[2] for line in out.splitlines() if line.startswith("MR  x2")]
    assert methods == ["linear", "cubic", "sinc", "consistent", "none", "copy"]
    assert "--peer 'copy=…' --peer 'gone=…'`" in (tmp_path / "card.md").read_text()


def test_evaluate_goes_on_after_a_bad_volume_and_ends_with_exit_code_4(call, thin, nifti, tmp_path):
    bad = nifti(data=np.full((6, 6, 6), 3, np.int16))
    code, out, err = call("evaluate", tmp_path, "--bundle", "none", "--factor", "2")
    assert code == 4
    assert err.startswith(f"monai-sr: E-IMG-CONST: {bad} - ") and err.count("\n") == 1
    # "none" is the consistent spline under another name
    gain = [line.split()[5] for line in out.splitlines() if line.split()[:3] == ["MR", "x2", "none"]]
    assert gain == ["+0.00"]


def test_evaluate_without_any_sound_volume_writes_nothing_and_is_exit_code_5(call, nifti, tmp_path):
    nifti(data=np.full((6, 6, 6), 3, np.int16))
    code, out, err = call("evaluate", tmp_path, "--bundle", "none", "--output", tmp_path / "figures")
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert list((tmp_path / "figures").iterdir()) == []


def test_info_lists_versions_devices_and_bundles(call, shipped):
    code, out, err = call("info")
    assert (code, err) == (0, "")
    assert f"monai-sr {monai_sr.__version__}" in out and "not for diagnosis" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["torch", torch.__version__] in [line[:2] for line in lines]
    assert any(line[0] == "cpu" for line in lines)
    for short, name in NAMES.items():
        metadata = json.loads((shipped / name / "configs" / "metadata.json").read_text())
        assert [short, metadata["version"], str((shipped / name).resolve())] in lines
    assert any(line[0] == "none" for line in lines)


def test_info_prints_the_folder_of_one_bundle_alone(call, shipped):
    for short, name in NAMES.items():
        assert call("info", "--bundle-path", short) == (0, f"{(shipped / name).resolve()}\n", "")
    code, out, err = call("info", "--bundle-path", "piramid")
    assert (code, out) == (7, "") and "E-W-BUNDLE" in err


def test_info_comes_at_once_because_it_needs_neither_torch_nor_monai():
    code = "import sys, monai_sr.cli.main as c; c.main(['info']); print({'torch', 'monai', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLES.parent, capture_output=True, text=True, check=True)
    assert "residual" in done.stdout and done.stdout.endswith("set()\n")


@pytest.mark.parametrize(("torch_version", "note"), [("2.13.0", ""), ("2.13.0+cpu", "built for the CPU")])
def test_info_lists_the_gpus_of_the_driver_and_whether_torch_can_use_them(
    call, monkeypatch, tmp_path, torch_version, note
):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA Test 9000\necho NVIDIA Test 9001\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(devices, "version", lambda package: torch_version)
    out = call("info")[1]
    assert f"cuda:1       NVIDIA Test 9001{' (not used' if note else ''}" in out and note in out
    tool.write_text("#!/bin/sh\nexit 9\n")  # a driver that does not answer
    assert "cuda" not in call("info")[1]


def gains_of(table: str) -> dict[str, float]:
    """Gain in dB by the last word of each method's name, from what the demo prints."""
    rows = (line.split()[-4:] for line in table.splitlines())
    return {row[0]: float(row[2]) for row in rows if len(row) == 4 and row[2][0] in "+-"}


@pytest.mark.parametrize("plots", [True, False], ids=["with matplotlib", "without"])
def test_demo_makes_thin_slices_of_the_example_and_prints_a_table(call, shipped, thin, tmp_path, plots, monkeypatch):
    if plots:
        pytest.importorskip("matplotlib")
    else:
        monkeypatch.setattr("monai_sr.evaluation.demo.has_matplotlib", lambda: False)
    example = shipped / NAMES["residual"] / "docs" / "example"
    example.mkdir(parents=True)
    shutil.copy(thin, example / "truth.nii.gz")
    assert call("simulate", thin, example / "thick.nii.gz", "--factor", "4", "--axis", "2")[0] == 0
    (example / "example.json").write_text(json.dumps({"slice_thickness": 4.0}))
    output = tmp_path / "demo"
    code, out, err = call("demo", "--output", output)
    assert (code, err) == (0, "")
    gains = gains_of(out)
    assert list(gains) == ["linear", "cubic", "spline", "residual", "pyramid"]
    assert gains["linear"] < gains["cubic"] < gains["spline"] == 0
    assert "not for diagnosis" in out
    volumes = [nib.load(output / f"{name}.nii.gz").get_fdata() for name in ("residual", "pyramid", "cubic", "truth")]
    assert {volume.shape for volume in volumes} == {(16, 15, 32)}
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(volumes, 2))
    assert nib.load(output / "thick.nii.gz").shape == (16, 15, 8)
    assert (output / "comparison.png").is_file() == plots == ("monai-sr[plots]" not in out)
    assert ("and comparison.png are in" in out) == plots
    assert not plots or (output / "comparison.png").read_bytes()[1:4] == b"PNG"


def test_demo_without_its_example_or_weights_is_exit_code_7(fails, shipped, tmp_path):
    (tmp_path / "demo").mkdir()
    fails("demo", "--output", tmp_path / "demo", exit_code=7, code="E-W-MISSING", names="docs")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_demo_is_better_than_interpolation_with_both_bundles(tmp_path):
    for name in NAMES.values():
        if not (BUNDLES / name / "models" / "model.pt").is_file():
            pytest.skip(f"{name} has no weights")
    if not (BUNDLES / NAMES["residual"] / "docs" / "example" / "thick.nii.gz").is_file():
        pytest.skip("there is no example")
    process = command("demo", cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    gains = gains_of(out)
    assert gains["residual"] > 0 and gains["pyramid"] > 0
    assert (tmp_path / "demo_output" / "comparison.png").is_file()


def test_warnings_of_other_libraries_are_not_shown(call, nifti, tmp_path, monkeypatch):
    import warnings

    def noisy(acquired, *_, **__):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        warn("W-TEST", "ours")
        return acquired.image

    monkeypatch.setattr(monai_sr.bundles, "super_resolve_acquired", noisy)
    code, _, err = call("run", nifti(), tmp_path / "out.nii.gz", "--bundle", "none")
    assert (code, err) == (0, "monai-sr: W-TEST: ours\n")


def test_check_refuses_two_slices_as_run_does(call, nifti, tmp_path):
    source = nifti(data=RNG.normal(0, 100, (16, 16, 2)).astype(np.int16))
    assert call("check", source)[0] == 5
    assert call("run", source, tmp_path / "out.nii", "--bundle", "none")[0] == 5
