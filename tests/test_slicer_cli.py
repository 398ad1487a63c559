"""The command line module of 3D Slicer: what it describes, what it takes, what it says on the way."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk

from monai_sr.bundles import NAMES, SPLINE
from monai_sr.cli.config import run_options
from monai_sr.cli.main import main
from monai_sr.cli.parser import make_parser
from monai_sr.clients.slicer.description import OVERLAYS, describe, describe_fusion, given
from monai_sr.clients.slicer.tags import told_to_slicer
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.options import parameters
from monai_sr.transforms import simulate_thick_slices

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "monai_sr" / "clients" / "slicer" / "extension" / "MonaiSRCLI" / "MonaiSRCLI.py"


@pytest.fixture
def module(tmp_path):
    """The description as ctk-cli, a reader of Slicer's execution model, understands it."""
    ctk_cli = pytest.importorskip("ctk_cli")
    (tmp_path / "MonaiSRCLI.xml").write_text(describe(), encoding="utf-8")
    return ctk_cli.CLIModule(str(tmp_path / "MonaiSRCLI.xml"))


@pytest.fixture
def thick(tmp_path) -> Path:
    """As Slicer hands a volume over: NRRD, counted in LPS, an oblique one."""
    image = phantoms.known_value(phantoms.grid((12, 11, 6), (1.0, 1.0, 4.0), orientation="oblique LPS")).round()
    image.meta["stored_dtype"] = "int16"
    return write_image(image, tmp_path / "thick.nrrd")


def namespace(*words: str, command: str = "run") -> dict:
    return run_options(make_parser().parse_args([command, *words])).to_dict()


def as_words(module) -> list[str]:
    """What Slicer runs after Apply when nothing in the form was touched."""
    arguments, options, outputs = module.classifyParameters()
    assert not outputs
    words = []
    for option in options:
        if option.typ == "image":
            continue
        if option.typ == "boolean":
            words += [option.longflag] if option.default else []
        elif option.typ != "string" or option.default:
            words += [option.longflag, str(option.default)]
    return [*words, *(f"/tmp/{argument.name}.nrrd" for argument in arguments)]


# ------------------------------------------------------------- the description


def test_ctk_cli_understands_the_description_without_a_warning(module, caplog):
    arguments, options, _ = module.classifyParameters()
    assert [(one.name, one.channel, one.typ) for one in arguments] == [
        ("input", "input", "image"),
        ("output", "output", "image"),
    ]
    assert arguments[0].fileExtensions[:2] == [".nrrd", ".nii.gz"]
    names = {option.name for option in options}
    assert {"bundle", "factor", "spacing", "slice_thickness", "modality", "device", "consistency"} <= names
    assert not caplog.records


def test_an_untouched_form_is_an_untouched_command_line(module):
    sent = as_words(module)
    assert "--slice_thickness" in sent  # Slicer sends what was not touched, too
    by_hand = namespace("/tmp/input.nrrd", "/tmp/output.nrrd")
    assert (
        namespace(*given(sent), command="slicer")
        == by_hand
        == {"input": "/tmp/input.nrrd", "output": "/tmp/output.nrrd"}
    )


def test_every_option_of_the_command_is_in_the_form_or_left_out_for_a_reason(module):
    described = {one.name for one in module.parameters()}
    assert described ^ {one.name for one in (*parameters("slicer"), *OVERLAYS)} == {"trust_bundle"}
    assert set(parameters("slicer")) < set(parameters("run"))


def test_no_choice_is_offered_twice(module):
    for one in module.parameters():
        if one.elements:
            assert len(set(one.elements)) == len(one.elements) > 1, one.name
            assert one.default in one.elements


def test_the_form_offers_the_bundles_that_ship(module):
    (bundle,) = (one for one in module.parameters() if one.name == "bundle")
    assert bundle.elements == [*NAMES, SPLINE]


def test_the_elements_are_in_the_order_of_the_schema():
    """``ctkCmdLineModule.xsd`` fixes the order, and forbids hyphens in names and long flags."""
    order = ["name", "longflag", "index", "description", "label", "default", "channel", "element", "constraints"]
    for group in ElementTree.fromstring(describe().encode()).findall("parameters"):
        for one in list(group)[2:]:
            places = [order.index(part.tag) for part in one]
            assert places == sorted(places)
            for flag in one.iterfind("longflag"):
                assert re.fullmatch(r"[_a-zA-Z][_a-zA-Z0-9]*", flag.text)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (["--factor", "0", "--spacing", "1.5", "a", "b"], ["--spacing", "1.5", "a", "b"]),
        (["--slice_thickness", "5", "a", "b"], ["--slice-thickness", "5", "a", "b"]),
        (["--slice-thickness", "0.000", "a", "b"], ["a", "b"]),
        (["--modality", "auto", "--axis", "0", "a", "b"], ["--axis", "0", "a", "b"]),
        (["--device", "auto", "a", "b"], ["--device", "auto", "a", "b"]),
        (["--strict", "a", "b"], ["--strict", "a", "b"]),
        (["--factor", "two", "a", "b"], ["--factor", "two", "a", "b"]),
        (["--unknown", "0"], ["--unknown", "0"]),
    ],
)
def test_what_was_left_alone_in_the_form_is_not_given(sent, meant):
    assert given(sent) == meant


def test_the_module_s_folder_holds_the_description_of_this_version():
    kept = MODULE.with_suffix(".xml").read_text(encoding="utf-8")
    assert kept == describe() + "\n", f"make it anew: monai-sr slicer --xml > {MODULE.with_suffix('.xml')}"


def test_the_module_that_fuses_is_described_too(tmp_path, caplog):
    ctk_cli = pytest.importorskip("ctk_cli")
    kept = MODULE.with_name("MonaiSRFuseCLI.xml").read_text(encoding="utf-8")
    assert kept == describe_fusion() + "\n", "make it anew: monai-sr slicer --fuse --xml > MonaiSRFuseCLI.xml"
    module = ctk_cli.CLIModule(str(MODULE.with_name("MonaiSRFuseCLI.xml")))
    arguments, options, _ = module.classifyParameters()
    assert [(one.name, one.channel, one.typ) for one in arguments] == [
        ("input", "input", "image"),
        ("output", "output", "image"),
    ]
    images = {one.name for one in options if one.typ == "image"}
    assert images == {"second", "third"} and {"field", "no_register", "spacing", "bundle"} <= {o.name for o in options}
    sent = given(["--fuse", *as_words(module)])
    options = run_options(make_parser().parse_args(["slicer", *sent]))
    assert options.to_dict() == {"input": "/tmp/input.nrrd", "output": "/tmp/output.nrrd"}
    assert not caplog.records


def test_the_module_fuses_as_the_command_does(call, tmp_path):
    hr = phantoms.known_value(phantoms.grid((24, 24, 24), (1.0, 1.0, 1.0)))
    for name, axis in (("ax", 2), ("cor", 1), ("sag", 0)):
        thick = simulate_thick_slices(hr, 3.0, axis=axis)
        thick.meta["stored_dtype"] = "int16"
        write_image(thick, tmp_path / f"{name}.nrrd")
    stacks = [tmp_path / f"{name}.nrrd" for name in ("ax", "cor", "sag")]
    words = ["--bundle", "none", "--no_register", "--modality", "MR"]
    more = ["--spacing", "0", "--field", "first", "--second", stacks[1], "--third", stacks[2]]
    code, out, err = call("slicer", "--fuse", *words, *more, stacks[0], tmp_path / "out.nrrd")
    assert code == 0, err
    words[2] = "--no-register"
    assert call("fuse", *stacks, tmp_path / "fused.nrrd", *words, "--field", "first")[0] == 0
    assert (tmp_path / "out.nrrd").read_bytes() == (tmp_path / "fused.nrrd").read_bytes()
    assert "fusing 3 stacks" in out and "<filter-progress>1.000" in out
    assert call("slicer", "--fuse", stacks[0], tmp_path / "one.nrrd")[0] == 2


def test_slicer_takes_the_script_for_a_module():
    assert MODULE.read_text().startswith("#!")
    assert os.access(MODULE, os.X_OK)


def test_the_description_comes_without_torch():
    """Slicer waits five seconds for it."""
    code = "import sys; from monai_sr.cli.main import main; main(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "slicer", "--xml"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("<?xml")


# ------------------------------------------------------------- the run


def test_the_module_does_what_the_command_line_does_and_reports_its_progress(call, thick, tmp_path):
    words = ["--bundle", "pyramid", "--factor", "3", "--spacing", "0", "--modality", "auto", "--device", "cpu"]
    code, out, err = call("slicer", *words, thick, tmp_path / "out.nrrd")
    assert code == 0, err
    assert call("run", thick, tmp_path / "run.nrrd", *words[:4], *words[-2:])[0] == 0
    assert (tmp_path / "out.nrrd").read_bytes() == (tmp_path / "run.nrrd").read_bytes()
    steps = [float(text) for text in re.findall(r"<filter-progress>([\d.]+)</filter-progress>", out)]
    assert out.startswith("<filter-start><filter-name>monai-sr</filter-name>")
    assert steps == sorted(steps) and steps[-1] == 1
    assert re.search(r"<filter-end><filter-name>monai-sr</filter-name><filter-time>[\d.]+</filter-time>", out)


def test_the_script_hands_over_to_the_python_of_the_variable_without_slicer_s_environment(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "[$PYTHONHOME$PYTHONPATH$LD_LIBRARY_PATH]" "$@"\nexit 9\n')
    python.chmod(0o755)
    environment = {"MONAI_SR_PYTHON": str(python), "PYTHONPATH": "/slicer/lib", "LD_LIBRARY_PATH": "/slicer"}
    command = [sys.executable, "-S", str(MODULE), "--factor", "3", "a b.nrrd", "out.nrrd"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (9, "[] -m monai_sr slicer --factor 3 a b.nrrd out.nrrd\n")


def test_the_script_runs_the_monai_sr_of_its_own_python(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "MONAI_SR_PYTHON"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(MODULE), "--xml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, describe() + "\n")
    done = subprocess.run([*command[:-1], "--nothing"], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2


def test_the_script_that_fuses_describes_the_fusion():
    script = MODULE.with_name("MonaiSRFuseCLI.py")
    done = subprocess.run([sys.executable, str(script), "--xml"], capture_output=True, text=True, check=True)
    assert done.stdout == describe_fusion() + "\n" and os.access(script, os.X_OK)


def test_the_script_says_what_to_do_where_monai_sr_is_not_installed(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MONAI_SR_PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(MODULE), "--xml"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 10
    assert "Fix: open the MonaiSR module" in done.stderr
    assert "MONAI_SR_PYTHON" in done.stderr


def test_a_failed_run_gives_the_reason_and_never_reports_the_end(tmp_path, capsys):
    image = phantoms.constant(phantoms.grid((9, 9, 5), (1.0, 1.0, 4.0)))
    write_image(image, tmp_path / "flat.nrrd")
    assert main(["slicer", str(tmp_path / "flat.nrrd"), str(tmp_path / "out.nrrd")]) == 5
    said = capsys.readouterr()
    assert "<filter-start>" in said.out
    assert "<filter-end>" not in said.out
    assert "E-IMG-CONST" in said.err
    assert not (tmp_path / "out.nrrd").exists()


def test_without_volumes_it_says_what_it_needs(capsys):
    assert main(["slicer"]) == 2
    assert "E-USE" in capsys.readouterr().err


def test_progress_is_reported_in_visible_steps():
    said = []
    with told_to_slicer("a & b", "<c>", say=said.append) as report:
        for step in range(10_001):
            report(step / 10_000)
    assert said[0] == (
        "<filter-start><filter-name>a &amp; b</filter-name><filter-comment>&lt;c&gt;</filter-comment></filter-start>"
    )
    assert 100 <= len(said) - 2 <= 102
    assert "<filter-progress>1.000" in said[-2]
    for text in said:
        ElementTree.fromstring(text)


# ------------------------------------------------------------- overlays


def test_the_difference_is_what_the_network_adds_to_the_spline(thick, tmp_path):
    out, difference = tmp_path / "out.nrrd", tmp_path / "difference.nrrd"
    words = ["--factor", "2", "--device", "cpu", "--difference", str(difference), str(thick), str(out)]
    assert main(["slicer", *words]) == 0
    made = read_image(difference)
    spline = super_resolve(read_image(thick), None, factor=2)
    np.testing.assert_allclose(made[0], read_image(out)[0] - spline[0], atol=0.51)  # the result is rounded
    assert sitk.ReadImage(str(difference)).GetPixelID() == sitk.sitkFloat32
    assert np.allclose(made.affine, read_image(out).affine)
    assert made.abs().max() > 1


def test_the_consistency_map_lies_on_the_acquired_grid(tmp_path):
    hr = phantoms.known_value(phantoms.grid((8, 8, 40), (1.0, 1.0, 1.0)))
    lr = simulate_thick_slices(hr, 4.0, slice_thickness=5.0, axis=2)
    write_image(lr, tmp_path / "thick.nii.gz", dtype="float32")
    words = [str(tmp_path / "thick.nii.gz"), str(tmp_path / "out.nii.gz"), "--slice_thickness", "5", "--axis", "2"]
    assert main(["slicer", *words, "--device", "cpu", "--consistency", str(tmp_path / "map.nii.gz")]) == 0
    made = nib.load(tmp_path / "map.nii.gz")
    assert made.shape == (8, 8, 10)
    np.testing.assert_allclose(made.affine, lr.affine, atol=1e-4)
    assert np.abs(made.get_fdata()).max() < 0.05 * float(lr.std())


def test_a_volume_that_is_passed_through_differs_in_nothing(tmp_path, capsys):
    image = phantoms.known_value(phantoms.grid((9, 9, 9)))
    write_image(image, tmp_path / "fine.nii.gz")
    overlays = ["--difference", str(tmp_path / "d.nii.gz"), "--consistency", str(tmp_path / "c.nii.gz")]
    assert main(["slicer", *overlays, str(tmp_path / "fine.nii.gz"), str(tmp_path / "out.nii.gz")]) == 0
    assert "W-SR-NOGAIN" in capsys.readouterr().err
    for name in ("d", "c"):
        assert not nib.load(tmp_path / f"{name}.nii.gz").get_fdata().any()


def test_a_label_map_that_is_called_an_image_has_its_difference_too(tmp_path):
    labels = (phantoms.sphere(phantoms.grid((9, 9, 6), (1.0, 1.0, 4.0)), radius=5.0) * 3).round()
    write_image(labels, tmp_path / "labels.nii.gz", dtype="uint8")
    words = ["--bundle", "none", "--modality", "MR", "--difference", str(tmp_path / "d.nii.gz")]
    assert main(["slicer", *words, str(tmp_path / "labels.nii.gz"), str(tmp_path / "out.nii.gz")]) == 0
    assert not nib.load(tmp_path / "d.nii.gz").get_fdata().any()


def test_two_outputs_may_not_have_one_name(thick, tmp_path, capsys):
    out = str(tmp_path / "out.nrrd")
    assert main(["slicer", "--difference", out, str(thick), out]) == 2
    assert "E-OUT-CLASH" in capsys.readouterr().err
