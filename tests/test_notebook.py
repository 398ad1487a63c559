"""The notebook runs from its first cell to its last on a DICOM folder, and shows what it says."""

import json
from pathlib import Path

import nibabel as nib
import pytest
from dicom_phantoms import slices, tells_nothing, write
from PIL import Image

import monai_sr

NOTEBOOK = Path(monai_sr.__file__).parent / "clients" / "workflows" / "dicom_to_picture.ipynb"


@pytest.fixture
def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_committed_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_goes_from_a_dicom_folder_to_a_picture(cells, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "dicom_folder", slices(modality="MR", rescale=(1 / 8, -1024.0)))
    names: dict = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"{NOTEBOOK.name}, code cell {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "8 slices, one each 4.00 mm; in-plane 1.25 mm" in said
    assert "slice thickness 3.5 mm" in said
    assert "(1, 26, 22, 32)" in said
    assert float(said.split("at most ")[1].split()[0]) < 0.1
    assert said.splitlines()[-1] == "Nifti1Image (26, 22, 32) (26, 22, 32)"
    assert Image.open(tmp_path / "before_after.png").size[0] > 300
    assert nib.load(tmp_path / "thin.nii.gz").shape == (26, 22, 32)
    assert tells_nothing(said)
