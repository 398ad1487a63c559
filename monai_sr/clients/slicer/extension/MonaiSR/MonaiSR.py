"""Thin slices from a thick-slice volume of the scene: the panel. Research only, not for diagnosis.

All that needs no Slicer lies in ``MonaiSRLib``; the work is done by ``monai-sr slicer`` in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from MonaiSRLib import install
from MonaiSRLib.proposal import Proposal, propose
from MonaiSRLib.worker import Worker, command
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

FOLDER = Path(__file__).parent
OVERLAY_COLORS = "vtkMRMLColorTableNodeFileDivergingBlueRed.txt"
POLL = 200
"""Milliseconds between looks at the process."""


class MonaiSR(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "MonaiSR"
        parent.categories = ["Super-Resolution"]
        parent.contributors = ["The monai-sr authors"]
        parent.helpText = (
            "Makes thin slices of a thick-slice CT or MR volume, with two trained networks or without any. Averaged "
            "by the slice profile, the thin slices give the acquired ones back. Choose a volume, look at the proposal, "
            "press Apply. The slice thickness matters: give it if you know it.<br><b>Research only, not for "
            "diagnosis.</b> What a network adds between the acquired slices may be wrong; voxel size is not resolution."
        )
        parent.acknowledgementText = "VDSR (Kim et al. 2016) and LapSRN (Lai et al. 2017), built on MONAI."
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data() -> None:
    """Offer the volume that comes with monai-sr in the Sample Data module, once monai-sr is there."""
    path = install.example(FOLDER)
    if path is None:
        return
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MonaiSR",
        sampleName="ThickHead",
        thumbnailFileName=str(FOLDER / "Resources" / "Icons" / "MonaiSR.png"),
        uris=path.as_uri(),
        fileNames="ThickHead.nii.gz",
        nodeNames="ThickHead",
        checksums=f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        loadFileType="VolumeFile",
    )


class MonaiSRWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.job: Job | None = None

    def setup(self) -> None:
        """Called when the panel is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/MonaiSR.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = MonaiSRLogic()
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL)
        self.timer.connect("timeout()", self.on_time)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        for box in (self.ui.factorBox, self.ui.spacingBox):
            box.connect("valueChanged(double)", self.update)
        self.ui.axisBox.connect("currentIndexChanged(int)", self.update)
        self.ui.applyButton.connect("clicked(bool)", self.on_apply)
        self.ui.cancelButton.connect("clicked(bool)", self.on_cancel)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.on_cancel)
        self.update()

    def cleanup(self) -> None:
        """Called when the panel is destroyed."""
        self.timer.stop()
        if self.job is not None:
            self.job.worker.cancel()
            self.logic.finish(self.job)
        self.removeObservers()

    def settings(self) -> dict[str, Any]:
        """What was chosen, by the names of the command line."""
        ui = self.ui
        return {
            "bundle": ui.bundleBox.currentText,
            "factor": ui.factorBox.value,
            "spacing": ui.spacingBox.value,
            "slice_thickness": ui.thicknessBox.value,
            "profile": ui.profileBox.currentText,
            "axis": ui.axisBox.currentText,
            "modality": ui.modalityBox.currentText,
            "device": ui.deviceBox.currentText,
            "engine": ui.engineBox.currentText,
            "precision": ui.precisionBox.currentText,
        }

    def update(self, *_: Any) -> None:
        """Tell what would be made, and let Apply be pressed where it can."""
        volume, working = self.ui.inputSelector.currentNode(), self.job is not None
        text, possible = "Choose a volume.", False
        if volume is not None:
            try:
                chosen = self.settings()
                plan = self.logic.proposal(volume, **{name: chosen[name] for name in ("factor", "spacing", "axis")})
                text, possible = plan.text, plan.new_slices > plan.slices
            except ValueError as error:
                text = str(error)
        self.ui.proposalLabel.text = text
        self.ui.applyButton.enabled = possible and not working
        self.ui.cancelButton.enabled = working
        self.ui.progressBar.visible = working

    def log(self, text: str) -> None:
        """Add a line to the log box."""
        self.ui.logBox.appendPlainText(text)
        slicer.app.processEvents()

    def on_apply(self, *_: Any) -> None:
        """Install what is missing, if the user agrees, and start."""
        self.ui.logBox.plainText = ""
        boxes = {"difference": self.ui.differenceBox, "consistency": self.ui.consistencyBox}
        with slicer.util.tryWithErrorDisplay("monai-sr could not be started.", waitCursor=True):
            if not self.logic.make_ready(self.log):
                self.log("Not installed; nothing was done.")
                return
            self.job = self.logic.start(
                self.ui.inputSelector.currentNode(),
                self.ui.outputSelector.currentNode(),
                self.settings(),
                overlays=[name for name, box in boxes.items() if box.checked],
            )
            self.timer.start()
        self.update()

    def on_time(self) -> None:
        """Look at the process; show the result once it is there."""
        job = self.job
        if job is None:
            return
        ended = job.worker.has_ended
        for line in job.worker.lines():
            self.log(line)
        self.ui.progressBar.value = round(100 * job.worker.progress)
        if not ended:
            return
        self.timer.stop()
        self.job = None
        with slicer.util.tryWithErrorDisplay("The volume could not be super-resolved.", waitCursor=True):
            result = self.logic.finish(job)
            if result is None:
                self.log("Cancelled; nothing was changed.")
            else:
                self.ui.outputSelector.setCurrentNode(result)
                self.log(f"{result.GetName()} is made. Research only, not for diagnosis.")
        self.update()

    def on_cancel(self, *_: Any) -> None:
        """End the process, also where the scene closes; :meth:`on_time` tidies up."""
        if self.job is not None:
            self.job.worker.cancel()


class Job:
    """One run: its process, the folder of its files, and what becomes of them.

    Attributes:
        worker: the process.
        folder: temporary, holds ``thin.nrrd`` and the overlays in the end.
        source, target: volume nodes; ``target`` is None if a new one is wanted.
        overlays: names of the overlays that were asked for.
    """

    def __init__(self, worker: Worker, folder: Path, source: Any, target: Any, overlays: Sequence[str]) -> None:
        self.worker, self.folder, self.source, self.target, self.overlays = worker, folder, source, target, overlays


class MonaiSRLogic(ScriptedLoadableModuleLogic):
    """What the panel does, also for scripts: ``MonaiSRLogic().process(volume, factor=4)``."""

    def proposal(self, volume: Any, *, factor: float = 0, spacing: float = 0, axis: str = "auto") -> Proposal:
        """What a volume node would become.

        Raises:
            ValueError: contradicting options, or an axis that has to be chosen.
        """
        image = volume.GetImageData()
        if image is None:
            raise ValueError("The volume is empty.")
        through = None if axis == "auto" else int(axis)
        return propose(image.GetDimensions(), volume.GetSpacing(), factor=factor, spacing=spacing, axis=through)

    def make_ready(self, log: Callable[[str], None] = print) -> bool:
        """Install monai-sr into Slicer's Python if it is not there; False if the user does not agree.

        Raises:
            RuntimeError: Slicer is too old, its PyTorch extension is missing, or installing fails.
        """
        if install.is_installed():
            return True
        if sys.version_info < install.PYTHON:
            needed, found = (".".join(map(str, version[:2])) for version in (install.PYTHON, sys.version_info))
            raise RuntimeError(f"monai-sr needs Python {needed}, this Slicer has {found}. Take a newer Slicer.")
        if not slicer.util.confirmOkCancelDisplay(
            "This module needs the Python packages monai-sr, PyTorch and MONAI. Shall they be downloaded and installed "
            "into Slicer's Python? This may take several minutes and several GB.",
            "Install monai-sr?",
        ):
            return False
        try:
            import PyTorchUtils
        except ImportError as error:
            raise RuntimeError(
                "The PyTorch extension is missing. Install it by the Extensions Manager and restart Slicer."
            ) from error
        torch = PyTorchUtils.PyTorchUtilsLogic()
        if not torch.torchInstalled():
            log("Installing PyTorch ...")
            if torch.installTorch(torchVersionRequirement=install.TORCH) is None:
                raise RuntimeError("PyTorch could not be installed. Try it in the PyTorch Utils module.")
        elif not install.is_new_enough(torch.torch.__version__):
            raise RuntimeError(f"PyTorch is too old, {install.TORCH} is needed. Update it in the PyTorch Utils module.")
        wanted = install.requirement(FOLDER)
        log(f"Installing {wanted} ...")
        slicer.util.pip_install(["--no-deps", wanted])
        slicer.util.pip_install(install.dependencies(importlib.metadata.requires("monai-sr") or []))
        return True

    def start(
        self,
        volume: Any,
        target: Any = None,
        settings: Mapping[str, Any] | None = None,
        *,
        overlays: Sequence[str] = (),
    ) -> Job:
        """Write the volume to a file and start the process; ``overlays``: "difference", "consistency" or both.

        Raises:
            RuntimeError: the file could not be written, or Slicer's Python is not found.
        """
        python = install.python()
        if python is None:
            raise RuntimeError("PythonSlicer, the Python of Slicer, is not found.")
        folder = Path(tempfile.mkdtemp(prefix="monai-sr-", dir=slicer.app.temporaryPath))
        _write(volume, folder / "thick.nrrd")
        words = command(
            python,
            str(folder / "thick.nrrd"),
            str(folder / "thin.nrrd"),
            settings or {},
            **{name: str(folder / f"{name}.nrrd") for name in overlays},
        )
        return Job(Worker(slicer.util.launchConsoleProcess(words)), folder, volume, target, overlays)

    def finish(self, job: Job) -> Any:
        """Put the result into the scene, and the overlays over it.

        Returns:
            The node of the result; None if the job was cancelled.

        Raises:
            RuntimeError: the process failed; see the log.
        """
        try:
            if job.worker.cancelled:
                return None
            if job.worker.exit_code:
                raise RuntimeError(f"monai-sr ended with exit code {job.worker.exit_code}; see the log.")
            name = job.source.GetName()
            result = _read(job.folder / "thin.nrrd", job.target, f"{name} thin slices", like=job.source)
            slicer.util.setSliceViewerLayers(background=result, fit=False)
            for overlay in job.overlays:
                node = _read(job.folder / f"{overlay}.nrrd", None, f"{name} {overlay}", like=job.source)
                _show_as_overlay(node)
            return result
        finally:
            shutil.rmtree(job.folder, ignore_errors=True)

    def process(self, volume: Any, target: Any = None, log: Callable[[str], None] = print, **settings: Any) -> Any:
        """Super-resolve a volume node and wait for it, for scripts.

        Args:
            volume: scalar volume node.
            target: node to fill; default a new one.
            settings: options of ``monai-sr run`` such as ``factor=4``, ``bundle="pyramid"``.

        Raises:
            RuntimeError: as :meth:`make_ready`, :meth:`start` and :meth:`finish`.
        """
        if not self.make_ready(log):
            raise RuntimeError("monai-sr is not installed.")
        job = self.start(volume, target, settings)
        while not job.worker.has_ended:
            time.sleep(POLL / 1000)
            slicer.app.processEvents()
        for line in job.worker.lines():
            log(line)
        return self.finish(job)


def _write(volume: Any, path: Path) -> None:
    """Write a volume node without touching where the user saves it."""
    storage = slicer.mrmlScene.CreateNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.UnRegister(None)
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(volume):
        raise RuntimeError(f"The volume could not be written to {path}.")


def _read(path: Path, node: Any, name: str, *, like: Any) -> Any:
    """A file into a volume node, a new one unless one is given, moved and shown as another one is."""
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    storage = slicer.mrmlScene.CreateNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.UnRegister(None)
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise RuntimeError(f"The result could not be read from {path}.")
    node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    shown, wanted = node.GetDisplayNode(), like.GetDisplayNode()
    if wanted is not None:
        shown.SetAutoWindowLevel(0)
        shown.SetWindowLevel(wanted.GetWindow(), wanted.GetLevel())
    return node


def _show_as_overlay(node: Any) -> None:
    """Blue below 0, red above, half seen through."""
    shown = node.GetDisplayNode()
    shown.SetAndObserveColorNodeID(OVERLAY_COLORS)
    limit = max(map(abs, node.GetImageData().GetScalarRange())) or 1.0
    shown.SetAutoWindowLevel(0)
    shown.SetWindowLevelMinMax(-limit, limit)
    slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=0.5)


class MonaiSRTest(ScriptedLoadableModuleTest):
    """Run by Reload and Test in the panel, and by ctest."""

    def setUp(self) -> None:
        """Every test starts from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All of them."""
        self.setUp()
        self.test_a_volume_gets_thin_slices_in_the_same_place()

    def test_a_volume_gets_thin_slices_in_the_same_place(self) -> None:
        """With the spline alone: six slices 4 mm apart become twelve 2 mm apart over the same extent."""
        import numpy as np

        z, y, x = np.indices((6, 20, 16))
        voxels = (100 * np.sin(x / 5) + 50 * np.cos(y / 4) + 40 * np.sin(z)).astype(np.int16)
        to_ras = vtk.vtkMatrix4x4()
        for row, values in enumerate(((-1, 0, 0, 30), (0, -1, 0, 20), (0, 0, 4, -50))):
            for column, value in enumerate(values):
                to_ras.SetElement(row, column, value)
        volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=to_ras, name="thick")
        result = MonaiSRLogic().process(volume, bundle="none", factor=2)
        made = vtk.vtkMatrix4x4()
        result.GetIJKToRASMatrix(made)
        self.assertEqual(tuple(result.GetImageData().GetDimensions()), (16, 20, 12))
        self.assertAlmostEqual(made.GetElement(2, 2), 2.0, places=4)
        self.assertAlmostEqual(made.GetElement(2, 3), -51.0, places=4)
        self.assertAlmostEqual(made.GetElement(0, 3), 30.0, places=4)
        self.delayDisplay("Test passed")
