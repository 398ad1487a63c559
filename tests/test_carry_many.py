"""``carry`` and ``run --mask`` with folders and BIDS datasets of masks: each goes with its volume, or says why not."""

from __future__ import annotations

import json

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from bids_datasets import put_json, validator, validator_errors
from catalogue import fault
from runs import lines_of, record_of

from monai_sr.acquired import Acquired
from monai_sr.cli.main import main
from monai_sr.errors import collect_notices
from monai_sr.grid import Grid, on_grid
from monai_sr.io.images import read_image, read_labels, write_image
from monai_sr.labels import average_labels
from monai_sr.transforms import simulate_thick_slices

GRID = phantoms.grid((14, 12, 16))
FACTOR = 4


def ball(grid: Grid = GRID, radius: float = 5.0):
    drawn = phantoms.sphere(grid, radius=radius, at=phantoms.center(GRID))
    return on_grid((drawn.as_tensor() > drawn.max() / 2).float(), grid, drawn)


def write_scan(thin, thick, *, grid: Grid = GRID) -> None:
    """A thin volume and its thick slices."""
    for path in (thin, thick):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(phantoms.known_value(grid), thin)
    write_image(simulate_thick_slices(phantoms.known_value(grid), FACTOR, axis=2), thick)


def write_mask(path, *, radius: float = 5.0, grid: Grid = GRID, value: float = 1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_image(ball(grid, radius) * value, path, dtype=np.uint8)


def carry(*words) -> int:
    return main(["carry", *map(str, words)])


def expected(mask, thick):
    with collect_notices():
        return average_labels(read_labels(mask), Acquired.of(read_image(thick)))[0].numpy()


@pytest.fixture
def scans(tmp_path):
    """Two scans in folders of thin and of thick volumes, and masks of the thin ones."""
    for name in ("a", "b/a"):
        write_scan(tmp_path / "thin" / f"{name}.nii.gz", tmp_path / "thick" / f"{name}.nii.gz")
    for name, radius in (("a", 4.0), ("a_organs", 5.0), ("b/a/liver", 6.0)):
        write_mask(tmp_path / "masks" / f"{name}.nii.gz", radius=radius)
    return tmp_path


def test_each_mask_of_a_folder_is_carried_with_its_own_volume(scans, capsys):
    words = (scans / "masks", scans / "out", "--from", scans / "thin", "--to", scans / "thick")
    assert carry(*words) == 0
    for name in ("a", "a_organs", "b/a/liver"):
        mask, carried = scans / "masks" / f"{name}.nii.gz", scans / "out" / f"{name}.nii.gz"
        assert np.array_equal(nib.load(carried).get_fdata(), expected(mask, scans / "thick" / "a.nii.gz"))
        assert nib.load(carried).get_data_dtype() == np.uint8
        record = record_of(carried.with_name(carried.name.replace(".nii.gz", ".json")))
        (label,) = record["carried"]["labels"]
        assert label["mm3_before"] == pytest.approx(float(read_labels(mask).sum()), rel=1e-6)
        assert label["mm3_after"] == pytest.approx(nib.load(carried).get_fdata().sum() * FACTOR, rel=1e-6)
    assert [line["status"] for line in lines_of(scans / "out", "monai-sr-carry.jsonl")] == ["done"] * 3
    before = {path: path.read_bytes() for path in (scans / "out").rglob("*.nii.gz")}
    write_mask(scans / "masks" / "a.nii.gz", radius=5.0)
    assert carry(*words) == 0  # only the changed one is made again
    assert [line["status"] for line in lines_of(scans / "out", "monai-sr-carry.jsonl")][3:] == [
        "done",
        "skipped",
        "skipped",
    ]
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ["a.nii.gz"]
    capsys.readouterr()
    assert carry(*words, "--include", "*organs*", "--overwrite") == 0
    assert "skipped" in capsys.readouterr().out


def test_masks_may_lie_beside_the_volumes_and_go_to_the_thin_ones(scans):
    write_mask(scans / "thick" / "a_seg.nii.gz", grid=thick_grid())
    assert carry(scans / "thick", scans / "out", "--from", scans / "thick", "--to", scans / "thin") == 0
    assert [path.name for path in (scans / "out").rglob("*.nii.gz")] == ["a_seg.nii.gz"]
    assert nib.load(scans / "out" / "a_seg.nii.gz").shape == GRID.shape


def thick_grid() -> Grid:
    return Acquired.of(simulate_thick_slices(phantoms.known_value(GRID), FACTOR, axis=2)).grid


@fault("R30", "E-MASK-IMAGE", "E-MASK-GRID", "E-OUT-EXISTS", "E-OUT-SAME", "E-OUT-CLASH", "E-IO-MISSING")
def test_a_mask_that_fits_no_volume_fails_alone(scans, capsys):
    write_mask(scans / "masks" / "other.nii.gz")
    write_mask(scans / "masks" / "a_part.nii.gz", grid=Grid((14, 12, 15), GRID.affine))
    (scans / "out").mkdir()
    (scans / "out" / "a.nii.gz").write_bytes((scans / "thin" / "a.nii.gz").read_bytes())
    assert carry(scans / "masks", scans / "out", "--from", scans / "thin", "--to", scans / "thick") == 4
    err = capsys.readouterr().err
    for name, code in (("other", "E-MASK-IMAGE"), ("a_part", "E-MASK-GRID"), ("a", "E-OUT-EXISTS")):
        assert f"{code}: {name}.nii.gz - " in err
    lines = lines_of(scans / "out", "monai-sr-carry.jsonl")
    assert sorted(line["code"] for line in lines) == ["", "", "E-MASK-GRID", "E-MASK-IMAGE", "E-OUT-EXISTS"]
    assert carry(scans / "masks", scans / "masks", "--from", scans / "thin", "--to", scans / "thick") == 2
    assert "E-OUT-SAME" in capsys.readouterr().err
    write_mask(scans / "masks" / "a_organs.nrrd")
    assert carry(scans / "masks", scans / "out", "--from", scans / "thin", "--to", scans / "thick") == 2
    assert "E-OUT-CLASH" in capsys.readouterr().err
    (scans / "empty").mkdir()
    assert carry(scans / "empty", scans / "out", "--from", scans / "thin", "--to", scans / "thick") == 3
    assert carry(scans / "masks", scans / "out", "--from", scans / "absent", "--to", scans / "thick") == 3
    assert capsys.readouterr().err.count("E-IO-MISSING") == 2


@pytest.fixture
def datasets(tmp_path):
    """A raw dataset of thick volumes, its derivative of thin ones, and a derivative of masks on the thin ones."""
    root = tmp_path / "raw"
    put_json(root / "dataset_description.json", Name="Phantoms", BIDSVersion="1.9.0")
    put_json(
        tmp_path / "masks" / "dataset_description.json",
        **{"Name": "Masks", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "other"}]},
    )
    put_json(
        tmp_path / "thin" / "dataset_description.json",
        **{"Name": "Thin", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "monai-sr"}]},
    )
    other = Grid((12, 14, 16), GRID.affine)
    for subject, grid in (("sub-01", GRID), ("sub-02", GRID)):
        for contrast, plane in (("T2w", grid), ("FLAIR", other)):
            write_scan(
                tmp_path / "thin" / subject / "anat" / f"{subject}_res-thin_desc-SR_{contrast}.nii.gz",
                root / subject / "anat" / f"{subject}_{contrast}.nii.gz",
                grid=plane,
            )
    write_mask(tmp_path / "masks" / "sub-01" / "anat" / "sub-01_res-thin_desc-organs_dseg.nii.gz")
    write_mask(tmp_path / "masks" / "sub-02" / "anat" / "sub-02_res-thin_label-lesion_mask.nii.gz", grid=other)
    return tmp_path


def test_masks_of_a_bids_dataset_keep_their_entities(datasets):
    words = (datasets / "masks", datasets / "out", "--from", datasets / "thin", "--to", datasets / "raw")
    assert carry(*words) == 0
    one, other = sorted((datasets / "out").rglob("*.nii.gz"))
    assert (one.name, other.name) == ("sub-01_desc-organs_dseg.nii.gz", "sub-02_label-lesion_mask.nii.gz")
    assert nib.load(one).shape == (14, 12, 4) and nib.load(other).shape == (12, 14, 4)  # by the grid of the mask
    beside = json.loads(one.with_name("sub-01_desc-organs_dseg.json").read_text())
    assert beside["SpatialReference"] == "bids:to:sub-01/anat/sub-01_T2w.nii.gz"
    assert beside["Sources"][0] == "bids:masks:sub-01/anat/sub-01_res-thin_desc-organs_dseg.nii.gz"
    description = json.loads((datasets / "out" / "dataset_description.json").read_text())
    assert description["Name"] == "Masks of Phantoms" and set(description["DatasetLinks"]) >= {"masks", "from", "to"}
    if validator():
        assert validator_errors(datasets / "out") == []
    back = (datasets / "out", datasets / "back", "--from", datasets / "raw", "--to", datasets / "thin")
    assert carry(*back) == 0
    assert sorted(path.name for path in (datasets / "back").rglob("*.nii.gz")) == [
        "sub-01_res-thin_desc-organs_dseg.nii.gz",
        "sub-02_res-thin_label-lesion_mask.nii.gz",
    ]


@fault("R30", "E-MASK-IMAGE")
def test_a_bids_mask_of_two_images_needs_a_reference(datasets, capsys):
    for path in (datasets / "raw").rglob("*FLAIR*"):
        path.unlink()
    for subject in ("sub-01", "sub-02"):
        write_scan(
            datasets / "thin" / subject / "anat" / f"{subject}_res-thin_desc-SR_PDw.nii.gz",
            datasets / "raw" / subject / "anat" / f"{subject}_PDw.nii.gz",
        )
    words = (datasets / "masks", datasets / "out", "--from", datasets / "thin", "--to", datasets / "raw")
    assert carry(*words, "--include", "sub-01*") == 5
    assert "E-MASK-IMAGE" in capsys.readouterr().err
    beside = datasets / "masks" / "sub-01" / "anat" / "sub-01_res-thin_desc-organs_dseg.json"
    beside.write_text(json.dumps({"SpatialReference": "bids:thin:sub-01/anat/sub-01_res-thin_desc-SR_PDw.nii.gz"}))
    assert carry(*words, "--include", "sub-01*") == 0


def test_a_run_takes_masks_from_a_folder_in_any_orientation(scans):
    turned = ball(thick_grid()).as_tensor().flip(1)
    affine = thick_grid().affine.copy()
    affine[:3, 3] += affine[:3, 0] * (turned.shape[1] - 1)
    affine[:3, 0] *= -1
    flipped = on_grid(turned, Grid(tuple(turned.shape[1:]), affine), torch.zeros(1))
    for name in ("plain", "turned"):
        (scans / name).mkdir()
    write_mask(scans / "plain" / "a.nii.gz", grid=thick_grid())
    write_image(flipped, scans / "turned" / "a.nii.gz", dtype=np.uint8)
    run = ["run", str(scans / "thick"), "--bundle", "none", "--device", "cpu", "--factor", "4"]
    for name in ("plain", "turned"):
        assert main([*run, f"{scans / name} out/", "--mask", str(scans / name), "--exclude", "b/*"]) == 0
    plain, other = (nib.load(scans / f"{name} out" / "a_mask.nii.gz") for name in ("plain", "turned"))
    assert plain.shape == GRID.shape and plain.get_fdata().any()
    assert np.array_equal(plain.get_fdata(), other.get_fdata())


def test_a_run_of_a_bids_dataset_takes_the_masks_of_a_derivative(datasets, capsys):
    masks = datasets / "segmentations"
    put_json(
        masks / "dataset_description.json",
        **{"Name": "Masks", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "other"}]},
    )
    write_mask(masks / "sub-01" / "anat" / "sub-01_desc-organs_dseg.nii.gz", grid=thick_grid())
    write_mask(masks / "sub-03" / "anat" / "sub-03_desc-organs_dseg.nii.gz", grid=thick_grid())
    words = ["bids", datasets / "raw", datasets / "sr", "participant", "--mask", masks, "--bundle", "none"]
    assert main([*map(str, words), "--device", "cpu", "--factor", "4", "--participant-label", "01"]) == 0
    assert "E-MASK-IMAGE" in capsys.readouterr().err
    assert [path.name for path in (datasets / "sr").rglob("*dseg.nii.gz")] == [
        "sub-01_res-thin_desc-organs_dseg.nii.gz"
    ]
    if validator():
        assert validator_errors(datasets / "sr") == []


def test_masks_go_to_a_dicom_series_by_the_name_of_its_result(tmp_path):
    dicom_phantoms.write(tmp_path / "export", dicom_phantoms.slices())
    run = ["run", str(tmp_path / "export"), f"{tmp_path / 'thin'}/", "--bundle", "none", "--device", "cpu"]
    assert main([*run, "--format", "nifti", "--factor", "4"]) == 0
    (thin,) = (tmp_path / "thin").glob("*.nii.gz")
    image = read_image(thin)
    mask = tmp_path / "masks" / thin.name
    mask.parent.mkdir()
    write_image(
        on_grid((image.as_tensor() > -200).float(), Grid(image.shape[1:], image.affine), image), mask, dtype="uint8"
    )
    assert carry(mask.parent, tmp_path / "out", "--from", tmp_path / "thin", "--to", tmp_path / "export") == 0
    assert nib.load(tmp_path / "out" / thin.name).shape == (26, 22, 8)
