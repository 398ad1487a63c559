"""The scripted module of 3D Slicer: everything but what Slicer draws.

``MonaiSRLib`` is tested as it is. The panel runs on a stand-in for Slicer's modules
(``slicer_stand_in.py``) and starts the real ``monai-sr slicer`` in a process.
"""

import ast
import importlib
import itertools
import json
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from slicer_stand_in import Slicer, Volume, endless, really

from monai_sr import __version__
from monai_sr.clients.slicer.description import given
from monai_sr.errors import UsageError
from monai_sr.grid import Grid, target_grid
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.options import parameters

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = ROOT / "monai_sr" / "clients" / "slicer" / "extension"
FOLDER = EXTENSION / "MonaiSR"
SCRIPT, UI = FOLDER / "MonaiSR.py", FOLDER / "Resources" / "UI" / "MonaiSR.ui"


@pytest.fixture
def lib(monkeypatch):
    """A module of MonaiSRLib by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: importlib.import_module(f"MonaiSRLib.{name}")


@pytest.fixture
def slicer(tmp_path, monkeypatch) -> Slicer:
    return Slicer(SCRIPT, tmp_path, monkeypatch, root=ROOT)


@pytest.fixture
def panel(slicer):
    """The panel, opened."""
    made = slicer.module.MonaiSRWidget()
    made.setup()
    made.ui.deviceBox.choose("cpu")
    made.ui.bundleBox.choose("none")
    return made


@pytest.fixture
def thick(tmp_path) -> Volume:
    """An oblique CT of thick slices in the scene."""
    image = phantoms.known_value(phantoms.grid((12, 11, 6), (1.0, 1.0, 4.0), orientation="oblique LPS")).round()
    image.meta["stored_dtype"] = "int16"
    write_image(image, tmp_path / "scene.nrrd")
    volume = Volume("CT", sitk.ReadImage(str(tmp_path / "scene.nrrd")))
    volume.CreateDefaultDisplayNodes()
    volume.display.window, volume.transform = 321.0, "vtkMRMLTransformNode7"
    return volume


def wait(panel, seconds: float = 120) -> None:
    """Let the panel's timer go off until the work is done."""
    end = time.monotonic() + seconds
    while panel.job is not None and time.monotonic() < end:
        panel.on_time()
        time.sleep(0.02)
    assert panel.job is None, "it did not end"


def process(code: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-S", "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# ------------------------------------------------------------- without Slicer


def test_what_needs_no_slicer_imports_none():
    allowed = sys.stdlib_module_names | {"__future__"}
    for path in (FOLDER / "MonaiSRLib").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] in allowed for alias in node.names), path
            elif isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in allowed, path


def test_the_proposal_is_what_is_made(lib):
    propose = lib("proposal").propose
    spacings = [(1, 1, 4), (0.7, 0.9, 2.5), (5, 1, 1.2), (1, 6, 6.005), (1, 1, 1), (1.0, 1.0, 1.005), (3, 3, 1)]
    asked = [
        {},
        {"factor": 4},
        {"factor": 2.5},
        {"spacing": 0.8},
        {"spacing": 10.0},
        {"axis": 1},
        {"axis": 0, "factor": 2},
    ]
    refused = 0
    for (spacing, options), shape in itertools.product(itertools.product(spacings, asked), [(9, 8, 7), (31, 20, 24)]):
        grid = Grid(shape, np.diag([*map(float, spacing), 1.0]))
        try:
            wanted, axis = target_grid(grid, **options)
        except UsageError:
            refused += 1
            with pytest.raises(ValueError, match="axis"):
                propose(shape, spacing, **options)
            continue
        plan = propose(shape, spacing, **options)
        assert plan.axis == axis
        assert (plan.slices, plan.new_slices) == (shape[axis], wanted.shape[axis])
        assert plan.new_spacing == pytest.approx(wanted.spacing[axis])
    assert refused
    with pytest.raises(ValueError, match="not both"):
        propose((9, 8, 7), (1, 1, 4), factor=2, spacing=1)


def test_the_command_says_what_was_chosen_and_no_more(lib):
    settings = {"bundle": "pyramid", "factor": 0.0, "spacing": 1.5, "slice_thickness": 5.0, "modality": "auto"}
    words = lib("worker").command("python", "in.nrrd", "out.nrrd", settings, difference="d.nrrd", consistency=None)
    assert words[:4] == ["python", "-m", "monai_sr", "slicer"]
    expected = "--bundle pyramid --spacing 1.5 --slice-thickness 5.0 --difference d.nrrd in.nrrd out.nrrd"
    assert given(words[4:]) == expected.split()


def test_a_worker_separates_lines_and_progress(lib):
    worker = lib("worker").Worker(
        process(
            "print('<filter-start><filter-name>x</filter-name></filter-start>')\n"
            "print('W-CODE: a warning')\nprint('<filter-progress>0.250</filter-progress>')\n"
            "import sys; print('E-CODE: why', file=sys.stderr); sys.exit(5)"
        )
    )
    end = time.monotonic() + 30
    while not worker.has_ended and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.lines() == ["W-CODE: a warning", "E-CODE: why"]
    assert worker.progress == 0.25
    assert worker.exit_code == 5
    assert worker.lines() == []


def test_a_worker_that_does_not_end_when_asked_is_killed(lib, monkeypatch):
    module = lib("worker")
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    ignoring = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    worker, said, end = module.Worker(process(ignoring)), [], time.monotonic() + 30
    while not said and time.monotonic() < end:
        said = worker.lines()
    worker.cancel()
    while not worker.has_ended and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.exit_code == -9
    assert worker.cancelled


def test_what_a_cancelled_launcher_leaves_running_ends_when_its_pipe_closes(lib, tmp_path):
    """PythonSlicer is such a launcher; the child here does what ``monai-sr slicer`` does with a closed pipe."""
    child = f"""
import pathlib, time
try:
    while True:
        print('<filter-progress>0.5</filter-progress>', flush=True)
        time.sleep(0.05)
except BrokenPipeError:
    pathlib.Path({str(tmp_path / "ended")!r}).touch()
"""
    (tmp_path / "child.py").write_text(child)
    launcher = f"'{sys.executable}' -S '{tmp_path / 'child.py'}' & wait"
    command = ["/bin/sh", "-c", launcher]
    worker = lib("worker").Worker(
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )
    end = time.monotonic() + 30
    while worker.progress == 0 and time.monotonic() < end:
        worker.lines()
    worker.cancel()
    while not (worker.has_ended and (tmp_path / "ended").exists()) and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.has_ended
    assert (tmp_path / "ended").exists()


def test_slicer_s_own_packages_are_left_as_they_are(lib):
    install = lib("install")
    declared = re.search(r"\ndependencies = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), flags=re.DOTALL)[1]
    by_name = {re.match(r"[\w.-]+", line)[0].lower(): line for line in re.findall(r'"(.+)"', declared)}
    extras = ["openvino>=2025.0; extra == 'cpu'", 'dask[distributed]>=2024.8; extra == "cluster"']
    wanted = install.dependencies([*by_name.values(), *extras])
    kept = [line for name, line in by_name.items() if name not in ("torch", "simpleitk")]
    assert wanted == [*kept, "openvino>=2025.0"]
    project = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={".".join(map(str, install.PYTHON))}"' in project
    assert all(f"\n{extra} = [" in project for extra in install.EXTRAS)
    assert by_name["torch"] == f"torch{install.TORCH}"
    assert install.VERSION == __version__
    assert install.is_new_enough("2.13.0+cpu") and install.is_new_enough("2.6.0")
    assert not install.is_new_enough("2.5.1+cu121")


def test_pip_is_given_the_checkout_or_the_release(lib, tmp_path):
    assert lib("install").requirement(FOLDER) == str(ROOT)
    assert lib("install").requirement(tmp_path / "a" / "b") == "monai-sr==0.1.0"


# ------------------------------------------------------------- the panel


def test_the_panel_uses_every_widget_that_it_shows_and_no_other():
    shown = {w.get("name") for w in ElementTree.parse(UI).iter("widget")}
    used = set(re.findall(r"ui\.(\w+)", SCRIPT.read_text(encoding="utf-8"))) - {"setMRMLScene"}
    assert used <= shown
    working = {name for name in shown if re.search(r"(Box|Selector|Bar|applyButton|cancelButton)$", name)}
    assert working <= used | {"noticeLabel"}


def test_the_panel_offers_what_the_command_line_has(slicer, panel):
    known = {one.name: one for one in parameters("slicer")}
    for name in panel.settings():
        assert name in known
        if known[name].kind == "choice":
            offered = ["auto", *(str(choice) for choice in known[name].choices if choice != "auto")]
            assert getattr(panel.ui, f"{name}Box").items == offered
    fresh = slicer.module.MonaiSRWidget()
    fresh.setup()
    words = slicer.module.command("python", "a", "b", fresh.settings())[4:]
    assert words == ["--bundle", known["bundle"].default, "a", "b"]


def test_the_panel_shows_what_would_be_made(panel, thick):
    ui = panel.ui
    assert (ui.proposalLabel.text, ui.applyButton.enabled) == ("Choose a volume.", False)
    ui.inputSelector.setCurrentNode(thick)
    assert ui.proposalLabel.text == "6 slices, one each 4 mm → 24 slices, one each 1 mm"
    assert ui.applyButton.enabled
    ui.factorBox.set(2.5)
    assert ui.proposalLabel.text.endswith("15 slices, one each 1.6 mm")
    ui.spacingBox.set(2.0)
    assert ui.proposalLabel.text == "Give a factor or a spacing, not both."
    assert not ui.applyButton.enabled
    ui.factorBox.set(0.0)
    ui.spacingBox.set(4.0)
    assert ui.proposalLabel.text.endswith("fine enough, nothing to do")
    assert not ui.applyButton.enabled
    ui.axisBox.choose("0")
    ui.spacingBox.set(0.5)
    assert ui.proposalLabel.text.startswith("12 slices, one each 1 mm → 24")
    ui.inputSelector.setCurrentNode(Volume("empty"))
    assert ui.proposalLabel.text == "The volume is empty."


def test_apply_makes_a_volume_in_the_same_place_with_both_overlays(slicer, panel, thick, tmp_path):
    ui, slicer.launch = panel.ui, really
    ui.bundleBox.choose("residual")
    ui.inputSelector.setCurrentNode(thick)
    ui.factorBox.set(2.0)
    ui.differenceBox.checked = ui.consistencyBox.checked = True
    ui.applyButton.click()
    assert not ui.applyButton.enabled
    assert ui.cancelButton.enabled and ui.progressBar.visible
    wait(panel)
    assert slicer.said == []
    result, difference, consistency = slicer.scene.nodes
    from monai_sr.bundles import load_bundle

    expected = load_bundle("residual", device="cpu")(thick.image, factor=2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image), sitk.GetArrayFromImage(expected))
    wanted = Grid((12, 11, 6), read_image(tmp_path / "scene.nrrd").affine).respaced(2, 2.0)
    np.testing.assert_allclose(result.affine, wanted.affine, atol=1e-4)
    assert (result.name, difference.name, consistency.name) == ("CT thin slices", "CT difference", "CT consistency")
    assert result.transform == consistency.transform == "vtkMRMLTransformNode7"
    assert result.display.window == 321.0
    assert ui.outputSelector.currentNode() is result
    assert slicer.views["background"] is result
    assert slicer.views["foreground"] is consistency
    assert difference.image.GetSize() == result.image.GetSize()
    assert consistency.image.GetSize() == thick.image.GetSize()
    assert difference.display.color == "vtkMRMLColorTableNodeFileDivergingBlueRed.txt"
    assert difference.display.level == 0
    assert ui.progressBar.value == 100
    assert "12x11x12 at 1 x 1 x 2 mm" in ui.logBox.plainText and "Research only" in ui.logBox.plainText
    assert "<filter" not in ui.logBox.plainText
    assert list(slicer.temporary.iterdir()) == []
    assert ui.applyButton.enabled and not ui.cancelButton.enabled


def test_a_result_may_go_into_a_volume_that_is_there(slicer, panel, thick):
    target = Volume("mine")
    panel.ui.outputSelector.setCurrentNode(target)
    panel.ui.inputSelector.setCurrentNode(thick)
    panel.ui.applyButton.click()
    wait(panel)
    assert target.image.GetSize() == (12, 11, 24)
    assert slicer.scene.nodes == []


def test_a_failure_is_shown_and_another_try_possible(slicer, panel, thick):
    thick.image = thick.image * 0
    panel.ui.inputSelector.setCurrentNode(thick)
    panel.ui.applyButton.click()
    wait(panel)
    assert slicer.said == ["The volume could not be super-resolved. monai-sr ended with exit code 5; see the log."]
    assert "E-IMG-CONST" in panel.ui.logBox.plainText
    assert slicer.scene.nodes == []
    assert panel.ui.applyButton.enabled
    assert list(slicer.temporary.iterdir()) == []


@pytest.mark.parametrize("way", ["cancel", "scene", "close"])
def test_cancel_ends_the_process_and_leaves_nothing(slicer, panel, thick, way):
    slicer.launch = endless
    panel.ui.inputSelector.setCurrentNode(thick)
    panel.ui.applyButton.click()
    worker = panel.job.worker
    if way == "cancel":
        panel.ui.cancelButton.click()
    elif way == "scene":
        dict(panel.observed)[slicer.scene.StartCloseEvent]()
    else:
        panel.cleanup()
        panel.job = None
    wait(panel)
    end = time.monotonic() + 30
    while not worker.has_ended and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.exit_code not in (0, None)
    assert slicer.scene.nodes == []
    assert list(slicer.temporary.iterdir()) == []
    if way != "close":
        assert "Cancelled" in panel.ui.logBox.plainText


# ------------------------------------------------------------- installing


@pytest.fixture
def bare(slicer, panel, thick, monkeypatch):
    """A Slicer that has no monai-sr yet."""
    monkeypatch.setattr(slicer.module.install, "is_installed", lambda: False)
    panel.ui.inputSelector.setCurrentNode(thick)
    return slicer


class PyTorch:
    """Slicer's PyTorch extension."""

    def __init__(self, installed=True, version="2.13.0+cpu"):
        self._installed, self.asked = installed, []
        self.torch = type("torch", (), {"__version__": version})

    def PyTorchUtilsLogic(self):
        return self

    def torchInstalled(self):
        return self._installed

    def installTorch(self, **options):
        self.asked.append(options)
        return self.torch


def test_nothing_is_installed_without_consent(bare, panel):
    bare.agrees = False
    panel.ui.applyButton.click()
    assert "several GB" in bare.said[0]
    assert bare.installed == []
    assert panel.job is None
    assert "nothing was done" in panel.ui.logBox.plainText


def test_with_consent_torch_comes_first_and_only_what_is_missing(bare, panel, monkeypatch):
    torch = PyTorch(installed=False)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", torch)
    bare.launch = endless
    panel.ui.applyButton.click()
    assert torch.asked == [{"torchVersionRequirement": ">=2.6"}]
    assert bare.installed[0] == ["--no-deps", str(ROOT)]
    assert any(line.startswith("monai") for line in bare.installed[1])
    assert not any(line.lower().startswith(("torch", "simpleitk")) for line in bare.installed[1])
    panel.cleanup()


@pytest.mark.parametrize(
    ("torch", "complaint"),
    [(None, "The PyTorch extension is missing"), (PyTorch(version="2.4.1"), "PyTorch is too old, >=2.6 is needed")],
)
def test_a_torch_that_cannot_be_used_is_named(bare, panel, monkeypatch, torch, complaint):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", torch)
    panel.ui.applyButton.click()
    assert complaint in bare.said[1]
    assert bare.installed == []
    assert panel.job is None


def test_another_python_is_taken_as_it_is(slicer, panel, thick, monkeypatch):
    monkeypatch.setenv("MONAI_SR_PYTHON", "/envs/gpu/bin/python")
    monkeypatch.setattr(slicer.module.install.importlib.util, "find_spec", lambda name: None)
    started = []
    slicer.launch = lambda words: started.append(words) or endless(words)
    panel.ui.inputSelector.setCurrentNode(thick)
    panel.ui.applyButton.click()
    assert started[0][:4] == ["/envs/gpu/bin/python", "-m", "monai_sr", "slicer"]
    assert slicer.said == slicer.installed == []
    panel.cleanup()


def test_a_slicer_that_is_too_old_is_named(bare, panel, monkeypatch):
    monkeypatch.setattr(bare.module.install, "PYTHON", (3, 99))
    panel.ui.applyButton.click()
    assert "monai-sr needs Python 3.99" in bare.said[0]
    assert bare.installed == []


# ------------------------------------------------------------- as an extension


def test_the_module_s_own_test_passes(slicer):
    result = unittest.TestResult()
    slicer.module.MonaiSRTest("runTest").run(result)
    assert result.wasSuccessful(), result.errors + result.failures
    assert slicer.said == ["Test passed"]


def test_the_example_is_offered_as_sample_data(slicer):
    module = slicer.module.MonaiSR(type("parent", (), {})())
    for slot in slicer.startup:
        slot()
    (sample,) = slicer.samples
    assert Path(sample["thumbnailFileName"]).is_file()
    path = Path(sample["uris"].removeprefix("file://"))
    assert read_image(path).shape[0] == 1
    assert sample["checksums"].startswith("SHA256:")
    assert "not for diagnosis" in module.parent.helpText.replace("<b>", "").replace("</b>", "")


def test_cmake_takes_along_every_file_of_the_module():
    text = (FOLDER / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "MonaiSR")
    for path in (*FOLDER.rglob("*.py"), *FOLDER.rglob("*.ui"), *FOLDER.rglob("*.png")):
        assert str(path.relative_to(FOLDER)) in text, path
    top = (EXTENSION / "CMakeLists.txt").read_text()
    assert re.findall(r"add_subdirectory\((\w+)\)", top) == ["MonaiSR", "MonaiSRCLI"]


def test_the_extensions_index_finds_what_it_asks_for():
    top, page = (EXTENSION / "CMakeLists.txt").read_text(), (EXTENSION / "README.md").read_text()
    fields = dict(re.findall(r'^set\(EXTENSION_(\w+) "(.*)"\)$', top, flags=re.MULTILINE))
    assert "Research only" in fields["DESCRIPTION"] and "WO 2024/006944" in fields["DESCRIPTION"]
    assert (EXTENSION / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    folder = re.search(r'MonaiSR_FOLDER "(.*)"', top)[1]
    for name in ("ICONURL", "SCREENSHOTURLS"):
        path = fields[name].replace("${MonaiSR_RAW}/", "").replace("${MonaiSR_FOLDER}", folder)
        assert (ROOT / path).is_file(), path
    assert (ROOT / folder / "README.md").samefile(EXTENSION / "README.md")
    entry = json.loads(re.search(r"```json\n(.*?)```", page, flags=re.DOTALL)[1])
    assert entry["build_dependencies"] == fields["DEPENDS"].split() and entry["category"] == fields["CATEGORY"]
    assert entry["tier"] == 1


def test_scripts_can_use_the_logic_without_the_panel(slicer, thick):
    said = []
    result = slicer.module.MonaiSRLogic().process(thick, bundle="none", spacing=2.0, log=said.append)
    expected = super_resolve(thick.image, None, spacing=2.0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image), sitk.GetArrayFromImage(expected))
    assert any("12x11x6" in line for line in said), said
