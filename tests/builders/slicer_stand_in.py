"""Stand-ins for what a module of 3D Slicer imports: just enough for the panel's logic, nothing drawn.

Widgets are those that the ``.ui`` file names, with the properties it sets. A volume node holds a SimpleITK
image, and the storage node writes and reads it, so that geometry goes through an NRRD file of ITK as in Slicer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import types
import unittest
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import SimpleITK as sitk

from monai_sr.cli.main import main

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Widget:
    """Something on a panel; signals are remembered and sent by :meth:`emit`."""

    def __init__(self, kind="QWidget", **properties):
        self.kind, self.slots, self.node = kind, {}, None
        self.enabled = self.visible = True
        self.text = self.plainText = ""
        self.checked, self.value, self.items = False, 0, []
        for name, value in properties.items():
            setattr(self, name, value)

    @property
    def currentText(self):
        return self.items[self.value]

    def choose(self, text):
        self.value = self.items.index(text)
        self.emit("currentIndexChanged(int)")

    def set(self, value):
        self.value = value
        self.emit("valueChanged(double)")

    def currentNode(self):
        return self.node

    def setCurrentNode(self, node):
        self.node = node
        self.emit("currentNodeChanged(vtkMRMLNode*)")

    def appendPlainText(self, text):
        self.plainText += text + "\n"

    def connect(self, signal, slot):
        self.slots[signal] = slot

    def emit(self, signal):
        if signal in self.slots:
            self.slots[signal]()

    def click(self):
        assert self.enabled, "a button that is disabled cannot be clicked"
        self.emit("clicked(bool)")

    def setMRMLScene(self, *_):
        pass

    addWidget = start = stop = setInterval = setMRMLScene


def widgets_of(ui: Path) -> dict[str, Widget]:
    """Every widget of a ``.ui`` file by its name."""
    values = {}
    for element in ElementTree.parse(ui).iter("widget"):
        properties = {}
        for one in element.findall("property"):
            value = one[0].text or ""
            kinds = {"bool": lambda text: text == "true", "number": int, "double": float}
            if one[0].tag != "stringlist":
                properties[one.get("name")] = kinds.get(one[0].tag, str)(value)
        items = [item.findtext("property/string") for item in element.findall("item")]
        values[element.get("name")] = Widget(element.get("class"), items=items, **properties)
    return values


class Matrix:
    """vtkMatrix4x4."""

    def __init__(self):
        self.values = np.eye(4)

    def SetElement(self, row, column, value):
        self.values[row, column] = value

    def GetElement(self, row, column):
        return float(self.values[row, column])


class Display:
    """A display node that remembers what it was given."""

    def __init__(self):
        self.window, self.level, self.color, self.automatic = 100.0, 50.0, None, True

    def GetWindow(self):
        return self.window

    def GetLevel(self):
        return self.level

    def SetAutoWindowLevel(self, on):
        self.automatic = bool(on)

    def SetWindowLevel(self, window, level):
        self.window, self.level = window, level

    def SetWindowLevelMinMax(self, minimum, maximum):
        self.window, self.level = maximum - minimum, (maximum + minimum) / 2

    def SetAndObserveColorNodeID(self, color):
        self.color = color


class Volume:
    """vtkMRMLScalarVolumeNode."""

    def __init__(self, name, image=None):
        self.name, self.image, self.transform, self.display = name, image, None, None

    def GetName(self):
        return self.name

    def GetSpacing(self):
        return self.image.GetSpacing()

    def GetImageData(self):
        if self.image is None:
            return None
        voxels = sitk.GetArrayViewFromImage(self.image)
        return types.SimpleNamespace(
            GetDimensions=self.image.GetSize, GetScalarRange=lambda: (float(voxels.min()), float(voxels.max()))
        )

    @property
    def affine(self):
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.image.GetDirection(), (3, 3)) * self.image.GetSpacing()
        affine[:3, 3] = self.image.GetOrigin()
        return LPS @ affine

    def GetIJKToRASMatrix(self, matrix):
        matrix.values = self.affine

    def GetTransformNodeID(self):
        return self.transform

    def SetAndObserveTransformNodeID(self, transform):
        self.transform = transform

    def CreateDefaultDisplayNodes(self):
        self.display = self.display or Display()

    def GetDisplayNode(self):
        return self.display


class Storage:
    """vtkMRMLVolumeArchetypeStorageNode."""

    def UnRegister(self, _):
        pass

    SetUseCompression = UnRegister

    def SetFileName(self, path):
        self.path = path

    def WriteData(self, node):
        sitk.WriteImage(node.image, self.path)
        return 1

    def ReadData(self, node):
        if not Path(self.path).is_file():
            return 0
        node.image = sitk.ReadImage(self.path)
        return 1


class Scene:
    """The MRML scene: names of nodes, and the nodes."""

    StartCloseEvent = 66000

    def __init__(self):
        self.nodes = []

    def Clear(self):
        self.nodes.clear()

    def CreateNodeByClass(self, name):
        assert name == "vtkMRMLVolumeArchetypeStorageNode"
        return Storage()

    def GenerateUniqueName(self, name):
        return name if name not in [node.name for node in self.nodes] else f"{name}_1"

    def AddNewNodeByClass(self, kind, name):
        assert kind == "vtkMRMLScalarVolumeNode"
        self.nodes.append(Volume(name))
        return self.nodes[-1]


def really(words):
    """Start a process, as Slicer does."""
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def here(words):
    """Run monai-sr in this process, which has torch already, and start one that only repeats what it said."""
    python, module, package, *rest = words
    assert (Path(python).name, module, package) == ("PythonSlicer", "-m", "monai_sr")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(rest)
    return really([sys.executable, "-S", "-c", f"print({said.getvalue()!r}); raise SystemExit({code})"])


def endless(words):
    """A process that does not end by itself."""
    return really([sys.executable, "-S", "-c", "import time; time.sleep(600)"])


class Slicer:
    """Slicer with one module loaded.

    ``module`` is its script, ``said`` what was shown to the user, ``launch`` how a process is started.
    """

    def __init__(self, script: Path, folder: Path, monkeypatch, *, root: Path) -> None:
        self.said: list[str] = []
        self.agrees, self.installed, self.views, self.startup, self.samples = True, [], {}, [], []
        self.scene, self.launch = Scene(), here
        binaries = folder / "bin"
        binaries.mkdir()
        (binaries / "PythonSlicer").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (binaries / "PythonSlicer").chmod(0o755)
        monkeypatch.setenv("PATH", str(binaries), prepend=os.pathsep)
        monkeypatch.setenv("PYTHONPATH", str(root))
        temporary = folder / "Slicer"
        temporary.mkdir()
        self.temporary = temporary
        self._modules(monkeypatch)
        monkeypatch.syspath_prepend(str(script.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == "MonaiSRLib"]:
            monkeypatch.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location(script.stem, script)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.script = script

    def _modules(self, monkeypatch):
        slicer, util, scripted = (
            types.ModuleType(n) for n in ("slicer", "slicer.util", "slicer.ScriptedLoadableModule")
        )
        qt, vtk, sample = (types.ModuleType(name) for name in ("qt", "vtk", "SampleData"))
        slicer.mrmlScene = self.scene
        slicer.app = types.SimpleNamespace(
            connect=lambda signal, slot: self.startup.append(slot),
            processEvents=lambda: None,
            temporaryPath=str(self.temporary),
        )
        stand_in = self

        class Loadable:
            def __init__(self, parent=None):
                self.parent = parent

        class Panel(Loadable):
            def __init__(self, parent=None):
                super().__init__(parent)
                self.layout = Widget()

            def setup(self):
                pass

            def resourcePath(self, name):
                return str(stand_in.script.parent / "Resources" / name)

        class Mixin:
            def __init__(self):
                self.observed = []

            def addObserver(self, scene, event, slot):
                self.observed.append((event, slot))

            def removeObservers(self):
                self.observed.clear()

        class Test(unittest.TestCase):
            def delayDisplay(self, text):
                stand_in.said.append(text)

        scripted.ScriptedLoadableModule = scripted.ScriptedLoadableModuleLogic = Loadable
        scripted.ScriptedLoadableModuleWidget, scripted.ScriptedLoadableModuleTest = Panel, Test
        Loadable.__init__.__defaults__ = (None,)

        @contextlib.contextmanager
        def with_error_display(message, waitCursor=False):
            try:
                yield
            except Exception as error:  # as slicer.util does
                self.said.append(f"{message} {error}")

        def agree(text, *_):
            self.said.append(text)
            return self.agrees

        def add_volume(voxels, ijkToRAS=None, name=None):
            image, affine = sitk.GetImageFromArray(voxels), LPS @ ijkToRAS.values
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            image.SetSpacing(spacing.tolist())
            image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
            image.SetOrigin(affine[:3, 3].tolist())
            self.scene.nodes.append(Volume(name, image))
            return self.scene.nodes[-1]

        util.VTKObservationMixin, util.tryWithErrorDisplay = Mixin, with_error_display
        util.confirmOkCancelDisplay = agree
        util.launchConsoleProcess = lambda words: self.launch(words)
        util.pip_install = self.installed.append
        util.setSliceViewerLayers = lambda **layers: self.views.update(layers)
        util.addVolumeFromArray = add_volume
        self.ui_file = None

        def load_ui(path):
            self.ui_file = Path(path)
            return Widget("qMRMLWidget")

        util.loadUI = load_ui
        util.childWidgetVariables = lambda panel: types.SimpleNamespace(**widgets_of(self.ui_file))
        slicer.util = util
        qt.QTimer = Widget
        vtk.vtkMatrix4x4 = Matrix
        sample.SampleDataLogic = types.SimpleNamespace(
            registerCustomSampleDataSource=lambda **source: self.samples.append(source)
        )
        for module in (slicer, util, scripted, qt, vtk, sample):
            monkeypatch.setitem(sys.modules, module.__name__, module)
