"""The JSON of dcm2niix beside a NIfTI file: used like the DICOM header, unless it contradicts the image."""

from __future__ import annotations

import json
import re

import numpy as np
import phantoms
import pytest
from catalogue import fault
from dicom_phantoms import Stack, even, slices, write

from monai_sr.acquired import Acquired
from monai_sr.cli.main import main
from monai_sr.errors import collect_notices
from monai_sr.io.images import files_of, read_image, write_image

STACK = Stack(even(8, 4.0))


def beside(folder, content, *, grid=None, name="a.nii.gz"):
    """A NIfTI file of 4 mm slices with a JSON; what is read of it, and the codes of warnings."""
    image = phantoms.known_value(grid or phantoms.grid((20, 18, 10), (1, 1, 4.0)))
    write_image(image, folder / name)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (folder / f"{name.split('.')[0]}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with collect_notices() as caught:
        return read_image(folder / name), [notice.code for notice in caught]


@pytest.mark.parametrize(
    ("modality", "header"),
    [
        ("CT", {"Manufacturer": "Philips", "ConvolutionKernel": "B", "ScanOptions": "HELIX"}),
        ("MR", {"Manufacturer": "SIEMENS", "ScanningSequence": ["SE", "IR"], "MRAcquisitionType": "2D"}),
        ("MR", {"Manufacturer": "GE MEDICAL SYSTEMS", "ScanningSequence": "GR", "MRAcquisitionType": "3D"}),
        ("MR", {"Manufacturer": "CANARY of Jane", "ScanningSequence": ["EP", "SE"], "MRAcquisitionType": "2D"}),
    ],
)
def test_it_says_what_the_dicom_series_says(tmp_path, modality, header):
    write(tmp_path / "dicom", slices(STACK, modality=modality, SliceThickness=3.25, **header))
    with collect_notices():
        series = read_image(tmp_path / "dicom")
    write_image(series, tmp_path / "a.nii.gz")
    joined = {name: "_".join(value) if isinstance(value, list) else value for name, value in header.items()}
    content = {"Modality": modality, "SliceThickness": 3.25, "SpacingBetweenSlices": 4, "ImageType": ["ORIGINAL"]}
    (tmp_path / "a.json").write_text(json.dumps(content | joined))
    with collect_notices() as caught:
        image = read_image(tmp_path / "a.nii.gz")
    assert [notice.code for notice in caught] == []
    by_dicom, by_json = Acquired.of(series), Acquired.of(image)
    assert by_json.modality == by_dicom.modality == modality
    assert np.allclose(by_json.slice_thickness, by_dicom.slice_thickness)
    assert by_json.said_profile == by_dicom.said_profile or by_json.said_profile[0] == by_dicom.said_profile[0]
    assert image.meta["protocol"] == series.meta["protocol"]
    assert by_json.source_of("modality") == "sidecar"
    assert by_json.source_of("slice_thickness") in ("sidecar", "corrected")


def test_options_overrule_it_and_it_belongs_to_the_files_of_the_image(tmp_path):
    image, _ = beside(tmp_path, {"SliceThickness": 3.0, "Modality": "MR"})
    acquired = Acquired.of(image, slice_thickness=5.0)
    assert acquired.slice_thickness == 5 and acquired.source_of("slice_thickness") == "option"
    assert files_of(tmp_path / "a.nii.gz") == [tmp_path / "a.nii.gz", tmp_path / "a.json"]
    (tmp_path / "a.json").unlink()
    assert files_of(tmp_path / "a.nii.gz") == [tmp_path / "a.nii.gz"]


@pytest.mark.parametrize("step", [4.0, 4.05, 1.0])
def test_a_spacing_or_gap_that_agrees_is_no_contradiction(tmp_path, step):
    """Some scanners give the gap: slices of 3 mm and a gap of 1 mm are 4 mm apart."""
    image, codes = beside(tmp_path, {"SliceThickness": 3.0, "SpacingBetweenSlices": step})
    assert Acquired.of(image).slice_thickness == 3 and codes == []


@fault("I34", "W-JSON-QUANTITY", "W-JSON-READ", "W-JSON-SPACING")
@pytest.mark.parametrize(
    ("content", "code", "thickness"),
    [
        ({"SliceThickness": 6.0, "SpacingBetweenSlices": 6.6}, "W-JSON-SPACING", 4.0),
        ("{", "W-JSON-READ", 4.0),
        ("[1]", "W-JSON-READ", 4.0),
        (b"\xff\xfe\x00", "W-JSON-READ", 4.0),
        ('{"a":' * 5000, "W-JSON-READ", 4.0),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "SliceThickness": 3.0}, "W-JSON-QUANTITY", 3.0),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "W-JSON-QUANTITY", 4.0),
        ({"Modality": "PT", "SliceThickness": 3.0}, "W-JSON-QUANTITY", 3.0),
        ({"Modality": ["MR"]}, "W-JSON-QUANTITY", 4.0),
        ({"SliceThickness": "3.0"}, None, 4.0),
        ({"SliceThickness": 3000}, None, 4.0),
        ({"SliceThickness": True, "SpacingBetweenSlices": None, "ImageType": {"a": 1}}, None, 4.0),
        ('{"SliceThickness": NaN, "SpacingBetweenSlices": Infinity}', None, 4.0),
        ({"Modality": "MR", "ScanningSequence": 7, "ImageType": [[1], None, 3], "Manufacturer": {}}, None, 4.0),
        ({"SliceThickness": 3.0, "monai_sr": {"version": 2}}, None, 4.0),
    ],
)
def test_what_is_damaged_or_contradicts_the_image_is_not_used(tmp_path, content, code, thickness):
    image, codes = beside(tmp_path, content)
    assert codes == [code] * (code is not None)
    assert Acquired.of(image).slice_thickness == thickness


def test_a_run_uses_it_and_its_record_says_so(tmp_path):
    beside(tmp_path, {"SliceThickness": 3.0, "Modality": "MR"})
    run = ["run", str(tmp_path / "a.nii.gz"), str(tmp_path / "thin.nii.gz"), "--bundle", "none", "--factor", "4"]
    assert main(run) == 0
    acquired = json.loads((tmp_path / "thin.json").read_text())["monai_sr"]["acquired"]
    assert acquired["slice_thickness"] == {"value": 3.0, "source": "sidecar"}
    assert acquired["modality"] == {"value": "MR", "source": "sidecar"}


def test_in_a_bids_dataset_it_gives_the_protocol_too(tmp_path):
    (tmp_path / "raw" / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "raw" / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
    header = {"Modality": "MR", "SliceThickness": 3.0, "MRAcquisitionType": "2D", "ScanningSequence": "SE"}
    beside(tmp_path / "raw" / "sub-1" / "anat", header, name="sub-1_T2w.nii.gz")
    run = ["run", str(tmp_path / "raw"), str(tmp_path / "out"), "--bundle", "none", "--factor", "4"]
    assert main(run) == 0
    (record,) = (tmp_path / "out").rglob("*desc-SR_T2w.json")
    acquired = json.loads(record.read_text())["monai_sr"]["acquired"]
    assert acquired["slice_thickness"] == {"value": 3.0, "source": "sidecar"}
    assert acquired["slice_profile"] == {"value": "gaussian", "source": "sidecar"}


@fault("I34", "W-JSON-QUANTITY", "W-JSON-SPACING")
@pytest.mark.parametrize("place", ["sub-1/anat/sub-1_T2w.json", "sub-1/sub-1_T2w.json", "T2w.json"])
@pytest.mark.parametrize(
    ("content", "code", "thickness"),
    [
        ({"SliceThickness": 6.0, "SpacingBetweenSlices": 6.6}, "W-JSON-SPACING", {"value": 4.0, "source": "assumed"}),
        ({"SliceThickness": 3.0, "Modality": "PT"}, "W-JSON-QUANTITY", {"value": 3.0, "source": "sidecar"}),
    ],
)
def test_in_a_bids_dataset_it_counts_from_whatever_folder(tmp_path, capsys, place, content, code, thickness):
    root = tmp_path / "raw"
    (root / "sub-1" / "anat").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
    beside(root / "sub-1" / "anat", {}, name="sub-1_T2w.nii.gz")
    (root / place).write_text(json.dumps(content))
    assert main(["run", str(root), str(tmp_path / "out"), "--bundle", "none", "--factor", "4"]) == 0
    assert re.findall("W-[A-Z]+-[A-Z]+", capsys.readouterr().err) == [code]
    (record,) = (tmp_path / "out").rglob("*desc-SR_T2w.json")
    assert json.loads(record.read_text())["monai_sr"]["acquired"]["slice_thickness"] == thickness
