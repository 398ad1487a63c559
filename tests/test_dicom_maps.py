"""Maps beside a derived DICOM series as parametric maps of it, with their voxels and units."""

from __future__ import annotations

import shutil
import subprocess

import dicom_phantoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from catalogue import fault
from dicom_phantoms import Stack

from monai_sr.cli.main import main
from monai_sr.dicom import find_series
from monai_sr.errors import collect_notices

pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")


def run(folder, *more: str) -> int:
    words = [
        str(folder / "export"),
        f"{folder / 'derived'}/",
        "--device",
        "cpu",
        "--factor",
        "4",
        "--bundle",
        "pyramid",
    ]
    return main(["run", *words, "--consistency-map", "--uncertainty", *more])


def in_order(made: pydicom.Dataset, series) -> np.ndarray:
    """(X, Y, Z) of a parametric map, by the positions of its frames."""
    groups = made.PerFrameFunctionalGroupsSequence
    frames = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
    order = [int(np.linalg.norm(frames - frame.position, axis=1).argmin()) for frame in series.frames]
    return made.pixel_array[order].transpose(2, 1, 0)


@pytest.mark.parametrize("offsets", [Stack().offsets, (-14.0, -10.0, -6.0, -1.0, 3.0, 7.0, 12.0)])
def test_maps_are_parametric_maps_of_the_series_whose_slices_they_have(tmp_path, offsets):
    slices = dicom_phantoms.slices(Stack(orientation="oblique", offsets=offsets))
    dicom_phantoms.write(tmp_path / "export", slices)
    assert run(tmp_path) == 0
    with collect_notices():
        source = find_series(tmp_path / "export").only()
        result = find_series(tmp_path / "derived", own_results=True).only()
    for kind, series in (("consistency", source), ("uncertainty", result)):
        (path,) = (tmp_path / "derived").glob(f"*_{kind}.dcm")
        made = pydicom.dcmread(path)
        expected = nib.load(path.with_name(path.name.replace(".dcm", ".nii.gz")))
        assert np.array_equal(in_order(made, series), expected.get_fdata().astype(np.float32))
        assert made.StudyInstanceUID == slices[0].StudyInstanceUID
        assert made.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
        assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == series.uid
        groups = (*made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence[0])
        (mapping,) = next(g for g in groups if "RealWorldValueMappingSequence" in g).RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"
        if shutil.which("dciodvfy"):
            judged = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
            assert not [line for line in judged.stderr.splitlines() if line.startswith("Error")], judged.stderr
    content = {path.name: path.read_bytes() for path in (tmp_path / "derived").glob("*.dcm")}
    assert len(content) == 2 and run(tmp_path, "--overwrite") == 0
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "derived").glob("*.dcm")}
    again = ["run", str(tmp_path / "export"), f"{tmp_path / 'derived'}/", "--device", "cpu", "--factor", "3"]
    assert main([*again, "--bundle", "none"]) == 0  # another result, of which these maps say nothing
    assert not list((tmp_path / "derived").glob("*.dcm"))


@fault("D47", "W-MAP-TILT")
def test_a_map_of_a_tilted_gantry_is_written_for_the_result_only(tmp_path, capsys):
    dicom_phantoms.write(tmp_path / "export", dicom_phantoms.slices(Stack(tilt=15)))
    assert run(tmp_path) == 0
    assert "W-MAP-TILT" in capsys.readouterr().err
    assert [path.name.rpartition("_")[2] for path in (tmp_path / "derived").glob("*.dcm")] == ["uncertainty.dcm"]
