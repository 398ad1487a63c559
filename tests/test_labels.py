"""Masks on the grid of a result: labels stay labels, and contours move steadily between slices."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_sr.bundles import load_bundle
from monai_sr.cli.main import main
from monai_sr.errors import ImageError, collect_notices
from monai_sr.grid import Grid, grid_of, on_grid
from monai_sr.io.images import read_image, read_labels, write_image
from monai_sr.labels import carry_labels
from monai_sr.transforms import simulate_thick_slices

SPLINE = load_bundle("none")


def labelled(grid: Grid) -> MetaTensor:
    """Two slanted tubes, 3 and 7, that touch, and a ball of 250 that ends within the volume."""

    def value(points):
        x, y, z = points - phantoms.center(grid)[:, None, None, None]
        labels = np.zeros(x.shape)
        labels[np.hypot(x - 0.7 * z, y + 4) < 4.5] = 3
        labels[np.hypot(x - 0.7 * z, y - 5) < 4.5] = 7
        labels[np.sqrt((x + 8) ** 2 + y**2 + (z - 2) ** 2) < 5] = 250
        return labels

    return phantoms.draw(grid, value)


def case(factor: int = 4):
    """A thick volume, its result, its labels as seen by most of a thick slice, and the true thin ones."""
    grid = phantoms.grid((40, 30, 32))
    thick = simulate_thick_slices(phantoms.known_value(grid), factor, axis=2)
    reference = labelled(grid)
    fractions = {v: (reference == v).float() for v in (0, 3, 7, 250)}
    means = torch.stack(
        [simulate_thick_slices(s, factor, profile="box", axis=2).as_tensor() for s in fractions.values()]
    )
    values = torch.tensor(list(fractions), dtype=torch.float32)
    labels = on_grid(values[means.argmax(dim=0)], grid_of(thick), thick)
    return thick, SPLINE(thick, factor=factor, axis=2), labels, reference


def dice(a, b, value: float) -> float:
    one, other = (np.asarray(v) == value for v in (a, b))
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_no_label_appears_that_was_not_there():
    image, thin, labels, _ = case()
    carried = carry_labels(labels, image, thin)
    assert carried.shape == thin.shape
    assert np.allclose(carried.affine, thin.affine)
    assert set(carried.unique().tolist()) == {0, 3, 7, 250}


def test_contours_are_nearer_to_the_reference_than_by_nearest_neighbor():
    image, thin, labels, reference = case()
    carried = carry_labels(labels, image, thin)
    nearest = labels.as_tensor().repeat_interleave(4, dim=-1)
    for value, limit in ((3, 0.75), (7, 0.75), (250, 0.95)):  # a ball of little more than two slices
        assert 1 - dice(carried, reference, value) < limit * (1 - dice(nearest, reference, value))


def test_labels_between_equal_slices_do_not_change():
    image, thin, labels, _ = case()
    same = on_grid(labels.as_tensor()[..., 3:4].expand_as(labels).contiguous(), grid_of(labels), labels)
    carried = carry_labels(same, image, thin)
    assert torch.equal(carried.as_tensor(), same.as_tensor()[..., :1].expand_as(carried))


def test_an_acquired_slice_keeps_its_labels():
    grid = phantoms.grid((40, 30, 9), (1, 1, 4.0))
    image = phantoms.known_value(grid)
    labels = labelled(grid)
    carried = carry_labels(labels, image, SPLINE(image, factor=3))  # every third thin slice lies on a thick one
    assert torch.equal(carried.as_tensor()[..., 1::3], labels.as_tensor())


def test_a_label_of_one_slice_is_about_as_thick_as_the_slice():
    grid = phantoms.grid((20, 20, 7), (1, 1, 4.0))
    image = phantoms.known_value(grid)
    voxels = torch.zeros(1, 20, 20, 7)
    voxels[:, 4:16, 4:16, 3] = 1
    carried = carry_labels(on_grid(voxels, grid, image), image, SPLINE(image, factor=4))
    assert carried[0, 10, 10].tolist() == [0] * 12 + [1] * 4 + [0] * 12
    assert 0.5 * 16 * 36 < carried.sum() < 4 * 144


@pytest.mark.parametrize("axes", ["LPS", "SRA", "PIR"])
def test_the_same_anatomy_stored_otherwise_has_the_same_labels(axes):
    image, thin, labels, _ = case()
    turn = Orientation(axcodes=axes)
    plain, turned = carry_labels(labels, image, thin), carry_labels(turn(labels), turn(image), turn(thin))
    # where two labels are equally deep either may win
    assert (turn(plain).as_tensor() != turned.as_tensor()).float().mean() < 2e-3


def test_a_mask_of_another_grid_or_without_labels_is_refused():
    image, thin, labels, _ = case()
    with pytest.raises(ImageError, match=r"E-MASK-GRID.*voxels"):
        carry_labels(labels[:, 1:], image, thin)
    shifted = grid_of(labels).affine.copy()
    shifted[0, 3] += 0.3
    with pytest.raises(ImageError, match=r"E-MASK-GRID.* 0.3 "):
        carry_labels(on_grid(labels.as_tensor(), Grid(grid_of(labels).shape, shifted), labels), image, thin)
    with pytest.raises(ImageError, match="E-MASK-VALUES"):
        carry_labels(on_grid(labels.as_tensor() + 0.5, grid_of(labels), labels), image, thin)


@pytest.fixture
def files(tmp_path):
    image, _, labels, _ = case()
    (tmp_path / "in").mkdir()
    write_image(image, tmp_path / "in" / "a.nii.gz")
    write_image(labels, tmp_path / "in" / "a_seg.nii.gz", dtype=np.uint8)
    return tmp_path


def test_a_mask_is_carried_along_with_one_volume(files):
    source, mask = files / "in" / "a.nii.gz", files / "in" / "a_seg.nii.gz"
    empty = nib.load(mask)
    nib.save(nib.Nifti1Image(np.zeros(empty.shape, np.int16), empty.affine), files / "nothing.nii.gz")
    run = ["run", str(source), str(files / "thin.nii.gz"), "--bundle", "none", "--factor", "4", "--axis", "2"]
    assert main([*run, "--mask", str(mask), "--mask", str(files / "nothing.nii.gz")]) == 0
    carried = nib.load(files / "thin_seg.nii.gz")
    assert carried.get_data_dtype() == np.uint8
    assert carried.shape == nib.load(files / "thin.nii.gz").shape
    expected = carry_labels(read_labels(mask), read_image(source), read_image(files / "thin.nii.gz"))
    assert np.array_equal(carried.get_fdata(), expected[0])
    assert not np.any(nib.load(files / "thin_nothing.nii.gz").dataobj)  # an empty mask stays empty
    assert nib.load(files / "thin_nothing.nii.gz").get_data_dtype() == np.int16


@fault("I33", "W-IMG-NAN")
def test_a_mask_without_numbers_outside_has_background_there(files):
    mask = nib.load(files / "in" / "a_seg.nii.gz")
    labels = mask.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(np.where(labels, labels, np.nan), mask.affine), files / "nan.nii.gz")
    with collect_notices() as caught:
        read = read_labels(files / "nan.nii.gz")
    assert [notice.code for notice in caught] == ["W-IMG-NAN"]
    assert np.array_equal(read[0], labels)


@pytest.mark.parametrize("most", [47, 55, 166, 255])
def test_a_scale_in_the_header_does_not_make_probabilities_of_labels(files, most):
    """166 times a float32 of 1/166 is 1.0000001."""
    mask = nib.load(files / "in" / "a_seg.nii.gz")
    labels = (mask.get_fdata() > 0).astype(np.uint8)
    image = nib.Nifti1Image(labels * most, mask.affine)
    image.header.set_slope_inter(1 / most, 0)
    nib.save(image, files / "scaled.nii.gz")
    assert np.array_equal(read_labels(files / "scaled.nii.gz")[0], labels)


def test_masks_beside_the_images_of_a_folder_are_carried_and_are_no_images(files, capsys):
    run = ["run", str(files / "in"), str(files / "out"), "--bundle", "none", "--factor", "4", "--axis", "2"]
    assert main([*run, "--mask", "*_seg.nii.gz"]) == 0
    assert sorted(p.name for p in (files / "out").glob("*.nii.gz")) == ["a.nii.gz", "a_seg.nii.gz"]
    assert set(np.unique(nib.load(files / "out" / "a_seg.nii.gz").dataobj)) == {0, 3, 7, 250}
    before = (files / "out" / "a_seg.nii.gz").read_bytes()
    assert main([*run, "--mask", "*_seg.nii.gz"]) == 0
    mask = nib.load(files / "in" / "a_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.flip(np.asarray(mask.dataobj), 0), mask.affine), files / "in" / "a_seg.nii.gz")
    assert main([*run, "--mask", "*_seg.nii.gz"]) == 0  # another mask, so it is made anew
    assert (files / "out" / "a_seg.nii.gz").read_bytes() != before
    capsys.readouterr()
    assert main([*run, "--mask", "seg.nii.gz"]) == 2
    assert "*" in capsys.readouterr().err


def test_a_mask_that_does_not_fit_fails_its_volume(files, capsys):
    write_image(phantoms.known_value(phantoms.grid()).round(), files / "other.nii.gz", dtype=np.int16)
    run = ["run", str(files / "in" / "a.nii.gz"), str(files / "thin.nii.gz"), "--bundle", "none", "--factor", "4"]
    assert main([*run, "--axis", "2", "--mask", str(files / "other.nii.gz")]) == 5
    assert "E-MASK-GRID" in capsys.readouterr().err
    assert not (files / "thin.nii.gz").exists()
    assert main([*run, "--axis", "2", "--mask", str(files / "absent.nii.gz")]) == 3
