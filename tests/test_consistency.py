"""What remains of the acquired slices once a result is acquired again, on phantoms whose answer is known."""

from __future__ import annotations

import json

import dicom_phantoms
import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_sr.bundles import load_bundle, read_calibration
from monai_sr.cli.main import main
from monai_sr.errors import ImageError
from monai_sr.evaluation.calibration import consistency_limit, spline_scores
from monai_sr.grid import Grid, grid_of, on_grid
from monai_sr.intensities import data_range
from monai_sr.io.images import read_image, write_image
from monai_sr.slices import SliceModel
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.consistency import measure_consistency

SPLINE = load_bundle("none")


def pair(*, factor: float = 4, spacing=(1.0, 1.0, 1.0)):
    """Thick slices of a textured ball, and what the consistent spline makes of them."""
    thick = simulate_thick_slices(phantoms.body(spacing=spacing), factor * spacing[2], axis=2)
    return thick, SPLINE(thick, factor=factor, axis=2)


def moved(image: MetaTensor, voxels: int) -> MetaTensor:
    """The voxels shifted along the slices, the affine not."""
    return on_grid(image.as_tensor().roll(voxels, dims=-1), grid_of(image), image)


def with_values(image: MetaTensor, voxels: torch.Tensor) -> MetaTensor:
    return on_grid(voxels, grid_of(image), image)


def test_the_consistent_spline_is_consistent():
    thick, thin = pair()
    consistency = measure_consistency(thick, thin)
    assert consistency.score < 1e-4
    assert consistency.residual.shape == thick.shape
    assert np.allclose(consistency.residual.affine, thick.affine)
    assert len(consistency.slice_nrmse) == thick.shape[-1]
    assert consistency.unit == "signal"


def test_a_result_that_is_off_by_7_units_has_a_residual_of_7_units_everywhere():
    thick, thin = pair()
    consistency = measure_consistency(thick, with_values(thin, thin.as_tensor() - 7))
    assert np.allclose(consistency.residual.numpy(), 7, atol=0.05)
    assert consistency.p95 == pytest.approx(7, abs=0.05)
    assert consistency.maximum == pytest.approx(7, abs=0.05)
    spread = data_range(thick[0].numpy())
    assert consistency.value_range == pytest.approx(spread)
    assert consistency.nrmse == pytest.approx(7 / spread, rel=0.01)
    assert consistency.score == pytest.approx(7 / spread, rel=0.01)


def test_one_wrong_slice_is_located_and_decides_the_score():
    thick, thin = pair()
    voxels = thin.as_tensor().clone()
    voxels[..., 20:24] += 50  # the four thin slices of thick slice 5
    consistency = measure_consistency(thick, with_values(thin, voxels))
    assert consistency.worst_slice == 5
    assert consistency.score > 5 * np.median(consistency.slice_nrmse)
    assert not consistency.within(0.01)


@pytest.mark.parametrize("axes", ["LPS", "SRA", "PIR", "AIL"])
def test_a_result_stored_with_other_axes_is_the_same_result(axes):
    thick, thin = pair()
    plain, turned = (measure_consistency(thick, x) for x in (thin, Orientation(axcodes=axes)(thin)))
    assert torch.allclose(turned.residual.as_tensor(), plain.residual.as_tensor(), atol=1e-3)
    assert turned.notes == ()


@pytest.mark.parametrize("name", phantoms.grids(voxels=(6, 7, 9)))
def test_every_orientation_is_measured_along_its_slices(name):
    grid, axis = phantoms.grids(voxels=(6, 7, 9))[name]
    thick = phantoms.known_value(grid)
    consistency = measure_consistency(thick, SPLINE(thick, factor=4))
    assert consistency.axis == axis
    assert consistency.score < 2e-4


def test_a_shift_by_one_thin_slice_shows():
    thick, thin = pair()
    shifted = measure_consistency(thick, moved(thin, 1))
    assert shifted.score > 0.02 > measure_consistency(thick, thin).score * 100


def test_the_wrong_profile_shows_and_the_right_one_does_not():
    hr = phantoms.body()
    thick = simulate_thick_slices(hr, 4.0, slice_thickness=6.0, axis=2)
    right, wrong = (measure_consistency(thick, hr, slice_thickness=mm, axis=2).nrmse for mm in (6.0, 2.0))
    assert right < 1e-3 < wrong / 5


def test_a_finer_in_plane_grid_is_averaged_with_a_note():
    fine = phantoms.body(shape=(48, 44, 48), spacing=(0.5, 0.5, 1.0))
    halves = fine.as_tensor().reshape(1, 24, 2, 22, 2, 48).mean(dim=(2, 4))
    affine = grid_of(fine).affine @ np.diag([2, 2, 1, 1.0])
    affine[:2, 3] += 0.25
    hr = on_grid(halves, Grid((24, 22, 48), affine), fine)
    thick = simulate_thick_slices(hr, 4.0, axis=2)
    consistency = measure_consistency(thick, fine)
    assert consistency.score < 1e-4
    assert consistency.notes == ("axis 0 averaged from 0.5 to 1 mm", "axis 1 averaged from 0.5 to 1 mm")


def test_a_larger_in_plane_grid_is_cropped_and_a_coarser_one_interpolated():
    thick, thin = pair()
    grid = grid_of(thin)
    padded = torch.nn.functional.pad(thin.as_tensor(), (0, 0, 2, 1, 3, 5))
    affine = grid.affine.copy()
    affine[:3, 3] -= [3, 2, 0]
    larger = on_grid(padded, Grid((32, 25, 48), affine), thin)
    assert measure_consistency(thick, larger).score == pytest.approx(measure_consistency(thick, thin).score)
    affine = grid.affine @ np.diag([2, 1, 1, 1.0])
    coarser = on_grid(thin.as_tensor()[:, ::2], Grid((12, 22, 48), affine), thin)
    consistency = measure_consistency(thick, coarser)
    assert consistency.notes == ("axis 0 interpolated from 2 to 1 mm",)
    assert 1e-3 < consistency.score < 0.2


def test_slices_beyond_a_shorter_result_are_not_compared():
    thick, thin = pair()
    grid = grid_of(thin)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * 8
    shorter = on_grid(thin.as_tensor()[..., 8:], Grid((24, 22, 40), affine), thin)
    consistency = measure_consistency(thick, shorter)
    assert np.isnan(consistency.slice_nrmse[:2]).all()
    assert np.isfinite(consistency.slice_nrmse[2:]).all()
    assert consistency.residual[..., :2].isnan().all()
    assert consistency.record()["slices_compared"] == thick.shape[-1] - 2
    assert consistency.notes == ("2 of 12 acquired slices are outside the result",)


def test_volumes_that_do_not_lie_along_one_another_are_refused():
    thick, thin = pair()
    grid = grid_of(thin)
    oblique = on_grid(thin.as_tensor(), phantoms.grid(grid.shape, grid.spacing, orientation="oblique"), thin)
    with pytest.raises(ImageError, match="not parallel"):
        measure_consistency(thick, oblique)
    away = grid.affine.copy()
    away[0, 3] += 500
    with pytest.raises(ImageError, match="E-CON-GRID"):
        measure_consistency(thick, on_grid(thin.as_tensor(), Grid(grid.shape, away), thin))


def test_padding_takes_no_part():
    thick, thin = pair()
    y, x = thick.as_tensor() - 900, thin.as_tensor() - 900
    y[:, :3], x[:, :3] = -3024, -3024
    y[..., 0], x[..., :4] = -3024, -3024  # an edge that averaging would smear over two slices
    consistency = measure_consistency(with_values(thick, y), with_values(thin, x))
    assert consistency.unit == "HU"
    assert consistency.maximum < 0.2
    assert consistency.residual[:, :3].isnan().all()


def test_rounding_to_integers_is_consistent_to_half_a_unit():
    thick, thin = pair()
    consistency = measure_consistency(thick, thin, stored_dtype=np.int16)
    assert 0.01 < consistency.maximum <= 0.55
    assert consistency.rounding == 0.5
    few = measure_consistency(*(with_values(v, v.as_tensor() / 100) for v in (thick, thin)), stored_dtype=np.uint8)
    assert not few.score < 0.01
    assert few.within(0.001)


def test_blocks_change_nothing(monkeypatch):
    thick, thin = pair()
    whole = measure_consistency(thick, thin).residual.as_tensor()
    monkeypatch.setattr("monai_sr.grid.BLOCK_VOXELS", 2000)
    assert torch.equal(measure_consistency(thick, thin).residual.as_tensor(), whole)


@pytest.fixture
def files(tmp_path):
    thick, thin = pair()
    return write_image(thick, tmp_path / "thick.nii.gz"), write_image(thin, tmp_path / "thin.nii.gz"), thin


def test_verify_says_whether_a_result_agrees(files, tmp_path, capsys):
    thick, thin, image = files
    document = tmp_path / "document.json"
    assert main(["verify", str(thick), str(thin), "--map", str(tmp_path / "map.nii.gz"), "--json", str(document)]) == 0
    out = capsys.readouterr().out
    assert "consistent" in out
    assert "worst slice" in out
    assert json.loads(document.read_text())["consistency"]["score"] < 1e-4
    residual = read_image(tmp_path / "map.nii.gz")
    assert residual.shape == (1, 24, 22, 12)
    assert residual.abs().max() < 0.1
    write_image(moved(image, 1), thin)
    assert main(["verify", str(thick), str(thin)]) == 9
    captured = capsys.readouterr()
    assert "E-CON-LIMIT" in captured.err
    assert main(["verify", str(thick), str(thin), "--limit", "0.5"]) == 0


def test_verify_names_thickness_and_profile_and_their_sources(files, tmp_path, capsys):
    thick, thin, _ = files
    document = tmp_path / "document.json"
    words = ["verify", str(thick), str(thin), "--slice-thickness", "3", "--limit", "1", "--json", str(document)]
    assert main(words) == 0
    rows = dict(line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines() if "slice " in line[:6])
    assert rows["thickness"] == "3 mm (option)" and rows["profile"].startswith("gaussian (")
    acquired = json.loads(document.read_text())["acquired"]
    assert acquired["slice_thickness"] == {"value": 3.0, "source": "option"}
    assert acquired["axis"] == {"value": 2, "source": "estimated"}
    assert acquired["slice_profile"]["source"] in ("estimated", "assumed")


def test_verify_takes_the_options_of_the_run_from_the_record(files, tmp_path, capsys):
    thick, _, _ = files
    words = [str(thick), str(tmp_path / "sr.nii.gz")]
    options = ["--slice-thickness", "2.5", "--profile", "box", "--consistency", "exact", "--axis", "2"]
    assert main(["run", *words, "--bundle", "none", "--factor", "4", *options]) == 0
    capsys.readouterr()
    verify = ["verify", *words, "--limit", "0.001"]
    assert main(verify) == 0
    out = capsys.readouterr().out
    assert all(f"{said} (option)" in out for said in ("2.5 mm", "box", "axis 2"))
    assert main([*verify, "--slice-thickness", "5"]) == 9
    (tmp_path / "sr.json").unlink()
    assert main(verify) == 9


def test_verify_takes_dicom_on_either_side(tmp_path, capsys):
    dicom_phantoms.write(tmp_path / "series", dicom_phantoms.slices())
    assert main(["run", str(tmp_path / "series"), str(tmp_path / "out"), "--bundle", "none", "--factor", "3"]) == 0
    (derived,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "series"), str(derived), "--limit", "0.001"]) == 0
    assert " HU" in capsys.readouterr().out


def test_verify_refuses_a_result_that_is_the_coarser_volume(files, capsys):
    """As where the two are swapped; a volume that was passed through is no coarser."""
    thick, thin, _ = files
    assert main(["verify", str(thin), str(thick)]) == 5
    assert "E-CON-GRID" in capsys.readouterr().err
    main(["verify", str(thick), str(thick)])
    assert "E-CON-GRID" not in capsys.readouterr().err


def test_verify_needs_two_volumes_of_one_scan(files, tmp_path, capsys):
    thick, _, _ = files
    other = write_image(phantoms.known_value(phantoms.grid(orientation="oblique")), tmp_path / "other.nii.gz")
    assert main(["verify", str(thick), str(other)]) == 5
    assert "E-CON-GRID" in capsys.readouterr().err


@pytest.fixture
def scans(tmp_path):
    """A folder of one thick volume."""
    (tmp_path / "in").mkdir()
    thick, _ = pair()
    write_image(thick, tmp_path / "in" / "a.nii.gz", dtype=np.int16)
    return tmp_path


def record_of(path):
    return json.loads(path.read_text())["monai_sr"]


def test_every_record_of_a_batch_has_the_consistency(scans):
    assert main(["run", str(scans / "in"), str(scans / "out"), "--bundle", "none", "--factor", "4", "--axis", "2"]) == 0
    recorded = record_of(scans / "out" / "a.json")["consistency"]
    again = measure_consistency(*(read_image(scans / folder / "a.nii.gz") for folder in ("in", "out")))
    assert recorded == again.summary() | {name: recorded[name] for name in ("limit", "within_limit")}
    assert 0 < recorded["max"] <= 0.55


def test_the_map_is_written_beside_the_result_and_goes_with_it(scans):
    run = ["run", str(scans / "in"), str(scans / "out"), "--bundle", "none", "--axis", "2", "--factor"]
    assert main([*run, "4"]) == 0
    assert not (scans / "out" / "a_consistency.nii.gz").exists()
    assert main([*run, "4", "--consistency-map"]) == 0  # the result is there, the map is not
    residual = read_image(scans / "out" / "a_consistency.nii.gz")
    assert residual.shape == (1, 24, 22, 12)
    assert main([*run, "3"]) == 0
    assert not (scans / "out" / "a_consistency.nii.gz").exists()  # it would be of another result
    assert main(["run", str(scans / "out"), str(scans / "more"), "--bundle", "none"]) == 3  # none is an input


def test_a_map_never_replaces_what_is_not_ours(scans, capsys):
    (scans / "out").mkdir()
    other = write_image(pair()[0], scans / "out" / "a_consistency.nii.gz")
    before = other.read_bytes()
    run = ["run", str(scans / "in"), str(scans / "out"), "--bundle", "none", "--axis", "2", "--factor", "4"]
    assert main([*run, "--consistency-map"]) == 6
    assert "E-OUT-EXISTS" in capsys.readouterr().err
    assert other.read_bytes() == before


@pytest.fixture
def bias(monkeypatch):
    """Let super-resolution be wrong by a tenth of the range."""
    true = SliceModel.enforce
    monkeypatch.setattr(SliceModel, "enforce", lambda self, sr, lr: true(self, sr, lr) + 0.1)


def test_a_result_beyond_the_limit_gives_a_warning_and_is_refused_under_strict(scans, bias, capsys):
    one = ["run", str(scans / "in" / "a.nii.gz"), str(scans / "a.nii.gz"), "--bundle", "none", "--factor", "4"]
    assert main([*one, "--axis", "2", "--strict"]) == 9
    assert "E-CON-LIMIT" in capsys.readouterr().err
    assert not (scans / "a.nii.gz").exists()
    assert main([*one, "--axis", "2", "--consistency-map"]) == 0
    assert "W-CON-LIMIT" in capsys.readouterr().err
    assert (scans / "a_consistency.nii.gz").exists()
    many = ["run", str(scans / "in"), str(scans / "out"), "--bundle", "none", "--factor", "4", "--axis", "2"]
    assert main([*many, "--strict"]) == 9
    assert not (scans / "out" / "a.nii.gz").exists()


@pytest.mark.parametrize("bundle", ["residual", "pyramid"])
def test_the_limit_of_a_bundle_separates_a_shift_by_one_slice_from_rounding(bundle):
    limit = read_calibration(bundle)["consistency"]["limit"]
    thick, thin = pair()
    dark = with_values(thick, thick.as_tensor().round())
    assert measure_consistency(dark, thin, stored_dtype=np.uint16).within(limit)
    assert not measure_consistency(thick, moved(thin, 1)).within(limit)


def test_the_limit_is_twice_the_worst_of_validation():
    assert consistency_limit([0.001, 0.0123, 0.002]) == {"limit": 0.025, "worst": 0.0123, "cases": 3}
    scores = spline_scores(phantoms.body(), (4,))
    assert len(scores) == 3  # thinner and thicker slices too
    assert max(scores) < 1e-3
