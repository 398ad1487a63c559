"""Imports without what is not needed, which leave no trace."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dicom_phantoms
import numpy as np
import phantoms
import pytest

from monai_sr.engine.imports import without
from monai_sr.errors import Later
from monai_sr.io.images import write_image


def test_what_is_hidden_cannot_be_imported_until_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_what_is_imported_already_stays():
    with without("numpy"):
        assert importlib.import_module("numpy") is np
    assert sys.modules["numpy"] is np


def test_it_can_be_imported_after_an_error_too(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ZeroDivisionError), without("colorsys"):
        raise ZeroDivisionError
    assert importlib.import_module("colorsys").rgb_to_hsv


@pytest.mark.parametrize(("words", "kept"), [("", True), ("sys.argv[1:]", False)], ids=["a process", "a program"])
def test_what_a_command_imports_stays_and_the_collector_works_afterwards(tmp_path, words, kept):
    """Unless another program calls it, whose objects are its own."""
    thick = tmp_path / "thick.nii.gz"
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), thick, dtype=np.int16)
    code = (
        f"import gc, os, sys; from monai_sr.cli.main import main; code = main({words});"
        "print([code, gc.isenabled(), 'torch' in sys.modules, gc.get_freeze_count() > 50_000,"
        " os.environ.get('OPENBLAS_NUM_THREADS') == '1'])"
    )
    command = ["run", str(thick), str(tmp_path / "thin.nii.gz"), "--bundle", "none"]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    words = [sys.executable, "-c", code, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == str([0, True, False, kept, kept])


def test_a_process_ends_at_once_but_for_what_is_to_be_done_at_its_end():
    code = (
        "import atexit, sys; from monai_sr.__main__ import program; sys.argv[1:] = ['run', 'absent.nii', 'new.nii'];"
        "atexit.register(print, 'at exit', flush=True);"
        "kept = type('Kept', (), {'__del__': lambda self: print('freed', flush=True)})(); program()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "at exit\n")
    assert done.stderr.startswith("monai-sr: E-IO-MISSING")


# ------------------------------------------------------------- what needs no torch


def test_a_later_package_is_imported_when_it_is_used_and_then_is_the_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    colors = Later("colorsys")
    assert "colorsys" not in sys.modules
    assert colors.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    assert vars(colors)["hls_to_rgb"] is sys.modules["colorsys"].hls_to_rgb  # not looked for again
    with pytest.raises(AttributeError):
        _ = colors.absent


ANSWERS = (
    "import json, sys; from monai_sr.cli.main import main; sys.argv[1:1] = []\n"
    "for words in json.loads(sys.argv[1]):\n"
    "    sys.argv[1:] = words\n"
    "    try: code = main()\n"
    "    except SystemExit as end: code = end.code\n"
    "    print(json.dumps([code, sorted({'torch', 'monai', 'SimpleITK'} & set(sys.modules))]))"
)


def test_refusals_come_without_torch_and_monai(tmp_path):
    thick, new = tmp_path / "thick.nii.gz", str(tmp_path / "new.nii.gz")
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), thick, dtype=np.int16)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no image")
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(gzip.decompress(thick.read_bytes())[:200]))
    (tmp_path / "list.csv").write_text("input,outptu\n")
    absent, cut, text, texts = (str(tmp_path / name) for name in ("absent", "cut.nii.gz", "text.nii", "texts"))
    out = str(tmp_path / "out")
    expected = {
        2: [
            ["run", "--fator", "4"],
            ["run", str(thick), new, "--factor", "4", "--spacing", "1"],
            ["run", str(thick), str(thick)],
            ["run", str(thick), str(tmp_path / "new.xyz")],
            ["run", str(tmp_path / "list.csv"), f"{out}/"],
            ["run", text, new, "--protocols", absent],
            ["bids", texts, out, "participant"],
        ],
        3: [["run", absent, new], ["check", absent], ["run", texts, f"{out}/"], ["check", texts]],
        5: [["run", cut, new], ["run", text, new], ["check", cut], ["check", text]],
        6: [["run", str(thick), str(tmp_path / "absent" / "new.nii.gz")]],
    }
    words = [one for group in expected.values() for one in group]
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, json.dumps(words)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert dict(zip(map(tuple, words), answers_in(done.stdout), strict=True)) == {
        tuple(one): [code, []] for code, group in expected.items() for one in group
    }
    assert not Path(new).exists()


def test_good_volumes_are_checked_without_torch_and_monai(tmp_path):
    """Also with the profile estimated, the noise removed and the values compared with HU."""
    image = phantoms.body((48, 40, 14), (1.0, 1.0, 3.0))
    for name in ("thick.nii.gz", "thick.nrrd", "thick.mha"):
        write_image(image, tmp_path / name, dtype=np.int16)
    (tmp_path / "thick.json").write_text('{"Modality": "CT"}')
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices(dicom_phantoms.Stack(np.arange(8) * 4.0)))
    words = [["check", str(tmp_path / name)] for name in ("thick.nii.gz", "thick.nrrd", "thick.mha", "series")]
    words += [[*words[1], "--consistency", "noise"], ["check", str(tmp_path), "--json"]]
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, json.dumps(words)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.count("slice profile   gaussian, estimated") == 4 and "CT, sidecar" in done.stdout
    assert "noise           0.2471, estimated" in done.stdout
    assert answers_in(done.stdout) == [[0, []]] * len(words)


def answers_in(text: str) -> list:
    """What :data:`ANSWERS` says of each command."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("[") and line != "["]


def test_good_volumes_are_planned_without_torch_and_monai(tmp_path):
    for name in ("sub-01", "sub-02"):
        (tmp_path / "bids" / name / "anat").mkdir(parents=True)
        image = phantoms.body((24, 24, 8), (1.0, 1.0, 3.0))
        write_image(image, tmp_path / "bids" / name / "anat" / f"{name}_T2w.nii.gz", dtype=np.int16)
    (tmp_path / "bids" / "dataset_description.json").write_text('{"Name": "two", "BIDSVersion": "1.9.0"}')
    thick = str(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices(dicom_phantoms.Stack(np.arange(8) * 4.0)))
    out = str(tmp_path / "out")
    bundles = ["none", *(["pyramid", "residual"] if find_spec("openvino") else [])]
    words = [["run", thick, f"{out}.nii.gz", "--bundle", bundle, "--report"] for bundle in bundles]
    words += [["bids", str(tmp_path / "bids"), out, "participant", "--bundle", bundle] for bundle in bundles]
    words += [["run", str(tmp_path / "series"), f"{out}/", "--bundle", "none", "--json"]]
    words += [["run", thick, f"{out}.nii.gz", "--engine", "torch", *more] for more in ([], ["--quality", "best"])]
    words = [[*one, "--device", "cpu", "--dry-run"] for one in words]
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, json.dumps(words)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answers_in(done.stdout) == [[0, []]] * len(words)
    assert done.stdout.count("2 of 2 volumes will be processed") == len(bundles)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bids", "series"]


def test_volumes_are_super_resolved_without_torch_and_monai(tmp_path):
    """With all pages and maps; and a DICOM series, whose result is one. Only its engine needs torch, as the last."""
    thick = tmp_path / "thick.nii.gz"
    write_image(phantoms.body((24, 24, 10), (1.0, 1.0, 3.0)), thick, dtype=np.int16)
    (tmp_path / "thick.json").write_text('{"Modality": "MR"}')
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices(dicom_phantoms.Stack(np.arange(8) * 4.0)))
    pages = ["--report", "--preview", "--consistency-map"]
    words = [["run", str(thick), str(tmp_path / "spline.nii.gz"), "--bundle", "none", *pages]]
    words += [["run", str(tmp_path / "series"), str(tmp_path / "thin"), "--bundle", "none", *pages]]
    if find_spec("openvino"):
        words += [["run", str(thick), str(tmp_path / "int8.nii.gz"), "--uncertainty", *pages]]
        best = ["--precision", "float32", "--quality", "best", "--bundle", "residual"]
        words += [["run", str(thick), str(tmp_path / "best.nii.gz"), *best, *pages]]
    words += [["run", str(thick), str(tmp_path / "net.nii.gz"), "--engine", "torch", *pages]]
    words = [[*one, "--device", "cpu"] for one in words]
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, json.dumps(words)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answers_in(done.stdout) == [*[[0, []]] * (len(words) - 1), [0, ["torch"]]], done.stderr
    assert len(list(tmp_path.rglob("*_consistency.nii.gz"))) == len(words)


def test_an_image_is_checked_and_super_resolved_without_pydicom_and_scipy(tmp_path):
    """Of SciPy, nibabel imports the package alone."""
    write_image(phantoms.body((24, 24, 10), (1.0, 1.0, 3.0)), tmp_path / "thick.nii.gz", dtype=np.int16)
    bundles = [["none"], ["residual", "--engine", "torch"], *([["pyramid"]] if find_spec("openvino") else [])]
    words = [["check", "thick.nii.gz"], ["run", "thick.nii.gz", "plan.nii.gz", "--dry-run", "--bundle", "none"]]
    words += [["run", "thick.nii.gz", f"{one[0]}.nii.gz", "--device", "cpu", "--bundle", *one] for one in bundles]
    needless = {"pydicom", "scipy.ndimage", "scipy.interpolate", "scipy.special"}
    code = ANSWERS.replace("{'torch', 'monai', 'SimpleITK'}", str(needless))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answers_in(done.stdout) == [[0, []]] * len(words), done.stderr


def test_a_refusal_by_the_header_reads_as_that_of_a_run(tmp_path, call):
    """The same line whether the header or the run refuses it (with --report the run does, which writes a page)."""
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), tmp_path / "thick.nii", dtype=np.int16)
    cut = tmp_path / "cut.nii"
    cut.write_bytes((tmp_path / "thick.nii").read_bytes()[:200])
    early = call("run", cut, tmp_path / "new.nii")
    late = call("run", cut, tmp_path / "new.nii", "--report")
    assert early[0] == late[0] == 5
    assert early[2] == late[2] and early[2].startswith("monai-sr: E-")
