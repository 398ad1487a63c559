"""``carry``: masks of thin slices on thick ones and back: labels stay labels, and keep their volume."""

from __future__ import annotations

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from monai.transforms import Orientation
from scipy import ndimage

from monai_sr.acquired import Acquired
from monai_sr.cli.main import main
from monai_sr.dicom import find_series, read_series
from monai_sr.errors import collect_notices
from monai_sr.grid import Grid, on_grid
from monai_sr.io.images import read_image, read_labels, write_image
from monai_sr.labels import average_labels, carry_labels
from monai_sr.transforms import simulate_thick_slices

GRID = phantoms.grid((44, 40, 48))
FACTOR = 4


def thick_slices(*, profile: str = "gaussian", factor: float = FACTOR, axis: int = 2) -> Acquired:
    thick = simulate_thick_slices(phantoms.known_value(GRID), factor, profile=profile, axis=axis)
    return Acquired.of(thick, axis=axis, profile=profile)


def balls(grid: Grid = GRID, *, radius: float = 10.0, shift: float = 0.0) -> MetaTensor:
    """Label 1 is a ball, 2 the other half of it, 5 a plate of one slice far from both."""

    def value(points):
        x, y, z = points - phantoms.center(grid)[:, None, None, None]
        inside = np.sqrt(x**2 + y**2 + (z - shift) ** 2) < radius
        return np.where(inside, np.where(x + 0.4 * z > 0, 2, 1), np.where(np.abs(z + 18.5) < 0.4, 5, 0))

    return phantoms.draw(grid, value)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize("slices", [2.1, 3.0, 4.0])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1.6, 2.5])
def test_a_ball_of_more_than_two_slices_keeps_its_volume(profile, slices, shift):
    ball = phantoms.sphere(GRID, radius=slices * FACTOR / 2, at=phantoms.center(GRID) + np.array([0.3, 0.2, shift]))
    mask = on_grid((ball.as_tensor() > ball.max() / 2).float(), GRID, ball)
    carried = average_labels(mask, thick_slices(profile=profile))
    volume, one_voxel = float(mask.sum()), FACTOR
    assert float(carried.sum()) * FACTOR == pytest.approx(volume, abs=max(0.01 * volume, 1.5 * one_voxel))


def test_a_label_that_is_lost_changes_no_other():
    alone, thick = balls(), thick_slices(profile="box")
    alone[alone == 5] = 0
    with collect_notices():
        assert torch.equal(average_labels(alone, thick).as_tensor(), average_labels(balls(), thick).as_tensor())


@pytest.mark.parametrize("factor", [4, 2.5])
def test_a_label_has_the_voxels_it_fills_most(factor):
    labels, thick = balls(), thick_slices(profile="box", factor=factor)
    with collect_notices():
        carried = average_labels(labels, thick)
    assert set(carried.unique().tolist()) <= {0.0, 1.0, 2.0, 5.0}
    for value in (0, 1, 2):
        there = simulate_thick_slices(on_grid((labels == value).float(), GRID, labels), factor, profile="box", axis=2)
        assert (carried[there > 0.7] == value).all() and (carried[there < 0.3] != value).all()


@pytest.mark.parametrize("axes", ["LPS", "SRA", "PIR"])
def test_the_same_anatomy_stored_otherwise_has_the_same_labels(tmp_path, axes):
    turn = Orientation(axcodes=axes)
    write_image(balls(), tmp_path / "mask.nii.gz", dtype=np.uint8)
    write_image(turn(balls()), tmp_path / "turned mask.nii.gz", dtype=np.uint8)
    write_image(phantoms.known_value(GRID), tmp_path / "thin.nii.gz")
    write_image(thick_slices().image, tmp_path / "thick.nii.gz")
    write_image(turn(thick_slices().image), tmp_path / "turned thick.nii.gz")
    call(tmp_path, "mask.nii.gz", "thin.nii.gz", "thick.nii.gz", "plain.nii.gz")
    call(tmp_path, "turned mask.nii.gz", "thin.nii.gz", "turned thick.nii.gz", "turned.nii.gz")
    call(tmp_path, "plain.nii.gz", "thick.nii.gz", "thin.nii.gz", "back.nii.gz")
    call(tmp_path, "turned.nii.gz", "turned thick.nii.gz", "thin.nii.gz", "turned back.nii.gz")
    plain, turned, back, turned_back = (
        read_labels(tmp_path / f"{name}.nii.gz") for name in ("plain", "turned", "back", "turned back")
    )
    assert np.allclose(turned.affine, read_image(tmp_path / "turned thick.nii.gz").affine)
    assert torch.equal(turn(plain).as_tensor(), turned.as_tensor())
    assert (back != turned_back).float().mean() < 2e-3 and np.allclose(back.affine, turned_back.affine)


def call(folder, mask, first, second, output, *options) -> None:
    words = ["carry", mask, "--from", first, "--to", second, output]
    code = main(
        [word if word.startswith("--") or word == "carry" else str(folder / word) for word in words] + [*options]
    )
    assert code == 0


def near_a_contour(labels: MetaTensor, reach: tuple[int, int, int]) -> np.ndarray:
    """Voxels from which another label is at most so many voxels away."""
    size = [2 * n + 1 for n in reach]
    voxels = labels[0].numpy()
    return ndimage.maximum_filter(voxels, size) != ndimage.minimum_filter(voxels, size)


def test_thin_to_thick_to_thin_moves_no_contour_by_more_than_a_thick_voxel():
    labels, thick = balls(), thick_slices()
    with collect_notices():
        there = average_labels(labels, thick)
    back = carry_labels(there, thick, labels)
    changed = (back != labels)[0].numpy()
    assert changed.any() and near_a_contour(labels, (1, 1, FACTOR))[changed].all()


def test_thick_to_thin_to_thick_moves_no_contour_by_more_than_a_voxel():
    labels, thick = balls(thick_slices().grid), thick_slices()
    with collect_notices():
        back = average_labels(carry_labels(labels, thick, phantoms.known_value(GRID)), thick)
    changed = (back != labels)[0].numpy()
    assert near_a_contour(labels, (1, 1, 1))[changed].all()
    assert changed.mean() < 0.02


def test_probabilities_are_averaged_by_the_profile_and_interpolated_back():
    thick = thick_slices()
    maps = on_grid((phantoms.ramp(GRID).as_tensor() / 400 + 0.5).clamp(0, 1), GRID, phantoms.ramp(GRID))
    there = average_labels(maps, thick)
    expected = simulate_thick_slices(maps, FACTOR, axis=2)
    assert np.allclose(there, expected, atol=1e-6)
    back = carry_labels(there, thick, maps)
    assert 0 <= float(back.min()) and float(back.max()) <= 1
    assert np.abs(phantoms.away_from_ends(back[0].numpy() - maps[0].numpy(), 2, 3 * FACTOR)).max() < 1e-3


@fault("I33", "W-MASK-LOST", "W-MASK-PART")
def test_what_is_lost_or_not_covered_is_warned_of(tmp_path):
    with collect_notices() as caught:
        carried = average_labels(balls(), thick_slices())
    assert [(notice.code, notice.facts) for notice in caught] == [("W-MASK-LOST", {"labels": [5]})]
    assert 5 not in carried
    part = balls()[..., 12:]
    affine = GRID.affine.copy()
    affine[:3, 3] += 12 * affine[:3, 2]
    part = on_grid(part.as_tensor(), Grid((44, 40, 36), affine), part)
    with collect_notices() as caught:
        again = average_labels(part, thick_slices())
    assert ("W-MASK-PART", {"outside": 3, "slices": 12}) in [(notice.code, notice.facts) for notice in caught]
    assert not again[..., :3].any() and (again[..., 4:] != carried[..., 4:]).float().mean() < 2e-3


@fault("I33", "E-MASK-GRID", "E-MASK-VALUES", "E-CON-GRID", "E-OUT-EXISTS", "W-MASK-EMPTY")
def test_masks_and_volumes_that_do_not_belong_together_are_refused(tmp_path, capsys):
    thin, thick = phantoms.known_value(GRID), thick_slices().image
    turned = GRID.affine.copy()
    turned[:3, :2] = turned[:3, :2] @ np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    far = GRID.affine.copy()
    far[2, 3] += 500
    volumes = {
        "thin": thin, "thick": thick, "mask": balls(), "part": balls()[:, 1:],
        "values": on_grid(balls().as_tensor() / 3, GRID, thin),
        "large": on_grid(balls().as_tensor() * 2**24, GRID, thin),
        "nothing": on_grid(torch.zeros(1, *GRID.shape), GRID, thin),
        "turned": on_grid(thin.as_tensor(), Grid(GRID.shape, turned), thin),
        "far": on_grid(thin.as_tensor(), Grid(GRID.shape, far), thin),
        "far mask": on_grid(balls().as_tensor(), Grid(GRID.shape, far), thin),
        "crop": thick[:, 2:],
    }  # fmt: skip
    for name, volume in volumes.items():
        write_image(volume, tmp_path / f"{name}.nii.gz", dtype=np.float32)
    (tmp_path / "there.nii.gz").write_bytes((tmp_path / "thin.nii.gz").read_bytes())
    for mask, first, second, out, code in (
        ("part", "thin", "thick", "out", "E-MASK-GRID"),
        ("values", "thin", "thick", "out", "E-MASK-VALUES"),
        ("large", "thin", "thick", "out", "E-MASK-VALUES"),
        ("mask", "thin", "thin", "out", "E-CON-GRID"),
        ("mask", "thin", "turned", "out", "E-CON-GRID"),
        ("mask", "thin", "crop", "out", "E-CON-GRID"),
        ("far mask", "far", "thick", "out", "E-CON-GRID"),
        ("mask", "thin", "thick", "there", "E-OUT-EXISTS"),
        ("mask", "thin", "thick", "mask", "E-OUT-SAME"),
        ("mask", "thin", "absent", "out", "E-IO-MISSING"),
        ("absent", "thin", "thick", "out", "E-IO-MISSING"),
    ):
        files = [str(tmp_path / f"{name}.nii.gz") for name in (mask, out, first, second)]
        assert main(["carry", *files[:2], "--from", files[2], "--to", files[3]]) != 0
        assert code in capsys.readouterr().err, (mask, first, second)
        assert not (tmp_path / "out.nii.gz").exists()
    call(tmp_path, "nothing.nii.gz", "thin.nii.gz", "thick.nii.gz", "out.nii.gz")
    assert "W-MASK-EMPTY" in capsys.readouterr().err
    assert not np.any(nib.load(tmp_path / "out.nii.gz").dataobj)


def test_a_result_is_replaced_and_keeps_the_type_of_the_mask(tmp_path):
    write_image(balls(), tmp_path / "mask.nii.gz", dtype=np.uint8)
    write_image(phantoms.known_value(GRID), tmp_path / "thin.nii.gz")
    write_image(thick_slices().image, tmp_path / "thick.nii.gz")
    for _ in range(2):
        call(tmp_path, "mask.nii.gz", "thin.nii.gz", "thick.nii.gz", "out.nii.gz", "--profile", "gaussian")
    carried = nib.load(tmp_path / "out.nii.gz")
    assert carried.get_data_dtype() == np.uint8
    with collect_notices():
        assert np.array_equal(carried.get_fdata(), average_labels(balls(), thick_slices())[0])


def test_a_mask_goes_to_the_uneven_slices_of_a_dicom_series(tmp_path):
    offsets = (-14.0, -10.0, -6.0, -1.0, 3.0, 7.0, 12.0)
    dicom_phantoms.write(tmp_path / "thick", dicom_phantoms.slices(dicom_phantoms.Stack(offsets)))
    with collect_notices():
        _, affine, meta = read_series(find_series(tmp_path / "thick").series[0])
    step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    thin = affine.copy()
    thin[:3, 2] = step
    thin[:3, 3] -= 2 * step
    grid = Grid((26, 22, 31), thin)
    at = meta["slice_positions"] - meta["slice_positions"][0]
    above = torch.from_numpy(grid.positions(2) + 13 > 9.5).float()
    labels = on_grid(above.expand(1, *grid.shape).contiguous(), grid, torch.zeros(1))
    write_image(labels, tmp_path / "mask.nii.gz", dtype=np.uint8)
    write_image(on_grid(torch.rand(1, *grid.shape), grid, torch.zeros(1)), tmp_path / "thin.nii.gz")
    call(tmp_path, "mask.nii.gz", "thin.nii.gz", "thick", "out.nii.gz", "--profile", "box", "--slice-thickness", "3")
    carried = nib.load(tmp_path / "out.nii.gz").get_fdata()
    assert carried[5, 5].tolist() == [float(position > 9.5) for position in at]
