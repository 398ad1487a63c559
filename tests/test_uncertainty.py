"""The map of expected errors: larger where detail was added, in the units of the file, calibrated."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import torch

from monai_sr.bundles import load_bundle, read_calibration
from monai_sr.cli.main import main
from monai_sr.errors import UsageError
from monai_sr.evaluation.calibration import Sample, coverage, coverage_left_out, fit_uncertainty, rescale
from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import read_image, write_image
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.uncertainty import constants_for, through_plane_detail, uncertainty_map

SPLINE = load_bundle("none")
CONSTANTS = {
    "MR": {"factor": [2, 4], "floor": [0.01, 0.02], "slope": [0.5, 1.5]},
    "CT": {"factor": [2, 4], "floor": [5.0, 9.0], "slope": [1.0, 2.0]},
}


def pair(scale: float = 1.0, shift: float = 0.0):
    thick = simulate_thick_slices(phantoms.body(), 4.0, axis=2)
    thick = on_grid(thick.as_tensor() * scale + shift, grid_of(thick), thick)
    return thick, SPLINE(thick, factor=4, axis=2)


def test_the_map_scales_with_the_intensities_and_not_with_their_offset():
    one = uncertainty_map(*pair(), CONSTANTS)
    assert torch.allclose(uncertainty_map(*pair(scale=3), CONSTANTS), 3 * one, rtol=1e-3)
    assert torch.allclose(uncertainty_map(*pair(shift=100), CONSTANTS), one, rtol=1e-3, atol=1e-2)
    assert one.shape == pair()[1].shape
    assert one.dtype == torch.float32


def test_detail_is_what_averaging_over_a_slice_takes_away():
    grid = phantoms.grid((5, 6, 40), (1, 1, 0.5))
    wave = phantoms.draw(grid, lambda p: 10 * np.sin(2 * np.pi * p[2] / 4))[0].numpy()
    kept = (1 + 2 * np.cos(np.pi / 4) + np.cos(np.pi / 2)) / 4  # by three voxels and half of two more
    inner = through_plane_detail(wave, grid, 2, 2.0)[2, 3, 10:30]
    assert np.sqrt((inner**2).mean()) == pytest.approx((1 - kept) * 10 / np.sqrt(2), rel=0.03)
    flat = phantoms.draw(grid, lambda p: 10 * np.sin(p[0]) + p[1])[0].numpy()
    assert through_plane_detail(flat, grid, 2, 2.0).max() < 1e-4  # in-plane detail is no through-plane one


def test_detail_is_the_same_along_any_axis_and_in_any_blocks(monkeypatch):
    grid = phantoms.grid((9, 10, 24))
    voxels = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    plain = through_plane_detail(voxels, grid, 2, 4.0)
    turned = through_plane_detail(voxels.transpose(2, 0, 1), phantoms.grid((24, 9, 10)), 0, 4.0)
    np.testing.assert_allclose(turned.transpose(1, 2, 0), plain, rtol=1e-5)
    monkeypatch.setattr("monai_sr.grid.BLOCK_VOXELS", 500)
    np.testing.assert_array_equal(through_plane_detail(voxels, grid, 2, 4.0), plain)


def test_constants_lie_between_those_of_the_measured_factors():
    assert constants_for(CONSTANTS, "MR", 3) == pytest.approx((0.015, 1.0))
    assert constants_for(CONSTANTS, "CT", 8) == (9.0, 2.0)
    with pytest.raises(UsageError, match="not calibrated for MR"):
        constants_for({"CT": CONSTANTS["CT"]}, "MR", 2)


def test_padding_is_not_uncertain():
    thick, thin = pair(shift=-900)
    y, x = thick.as_tensor().clone(), thin.as_tensor().clone()
    y[:, :3], x[:, :3] = -3024, -3024
    made = uncertainty_map(on_grid(y, grid_of(thick), thick), on_grid(x, grid_of(thin), thin), CONSTANTS)
    assert (made[:, :3] == 0).all()
    assert made[:, 3:].min() >= 9  # HU


def drawn(modality: str, factor: float, *, floor: float, slope: float, seed: int = 0) -> Sample:
    """Errors that are just as uncertain as the constants say."""
    rng = np.random.default_rng(seed)
    detail = rng.gamma(2, 0.02, 20000)
    sigma = np.sqrt(floor**2 + (slope * detail) ** 2)
    return Sample(modality, factor, rng.laplace(0, sigma / np.sqrt(2)), detail)


def test_the_fit_finds_the_constants_that_errors_were_drawn_with():
    samples = [drawn("MR", f, floor=0.01 * f, slope=0.5 * f, seed=s) for f in (2, 4) for s in (0, 1)]
    estimate = fit_uncertainty(samples)
    assert estimate["MR"]["factor"] == [2, 4]
    assert estimate["MR"]["floor"] == pytest.approx([0.02, 0.04], rel=0.1)
    assert estimate["MR"]["slope"] == pytest.approx([1.0, 2.0], rel=0.05)


def test_constants_are_scaled_to_volumes_not_used_for_training():
    rng = np.random.default_rng(0)

    def volume(width):
        detail = rng.uniform(0, 0.1, 20_000)
        return Sample("CT", 4, rng.laplace(0, width * np.hypot(0.01, 0.5 * detail) / np.sqrt(2)), detail)

    constants = {
        "CT": {"factor": [4], "floor": [0.01], "slope": [0.5]},
        "MR": {"factor": [4], "floor": [1], "slope": [1]},
    }
    wider = rescale(constants, [volume(1.5), volume(1.3)])
    assert wider["CT"]["slope"][0] == pytest.approx(0.7, rel=0.03)
    assert wider["CT"]["floor"][0] == pytest.approx(0.014, rel=0.03)
    assert wider["MR"] == constants["MR"]  # nothing to go by


def test_no_volume_is_measured_with_its_own_scale():
    rng = np.random.default_rng(0)
    constants = {"CT": {"factor": [4], "floor": [1.0], "slope": [0.0]}}
    narrow, wide = ([Sample("CT", 4, rng.laplace(0, w / np.sqrt(2), 50_000), np.zeros(50_000))] for w in (1.0, 2.0))
    (row,) = coverage_left_out([narrow, wide], constants)
    # the narrow one by deviations of 2, the wide one by deviations of 1
    expected = np.mean([1 - np.exp(-np.sqrt(2) * ratio) for ratio in (2.0, 0.5)])
    assert row["within_1"] == pytest.approx(expected, abs=0.01)
    (alone,) = coverage_left_out([narrow], constants)
    assert alone["within_1"] == pytest.approx(1 - np.exp(-np.sqrt(2)), abs=0.01)


def test_coverage_counts_the_voxels_within_one_and_two_deviations():
    samples = [drawn("CT", 4, floor=0.03, slope=1.0, seed=5)]
    (row,) = coverage(samples, {"CT": {"factor": [4], "floor": [0.03], "slope": [1.0]}})
    assert row["within_1"] == pytest.approx(1 - np.exp(-np.sqrt(2)), abs=0.01)  # of a Laplace distribution
    assert row["within_2"] == pytest.approx(1 - np.exp(-2 * np.sqrt(2)), abs=0.01)
    (half,) = coverage(samples, {"CT": {"factor": [4], "floor": [0.015], "slope": [0.5]}})
    assert half["within_1"] < row["within_1"] - 0.2


@pytest.mark.parametrize("bundle", ["residual", "pyramid"])
def test_shipped_bundles_are_calibrated_for_both_modalities(bundle):
    uncertainty = read_calibration(bundle)["uncertainty"]
    for kind in ("MR", "CT"):
        assert uncertainty[kind]["factor"] == [2, 3, 4, 5]
        assert min(uncertainty[kind]["slope"]) > 0
    for row in uncertainty["coverage"]:
        assert 0.5 < row["within_1"] < row["within_2"] <= 1


def test_the_map_is_written_beside_the_result(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_image(pair()[0], tmp_path / "in" / "a.nii.gz", dtype=np.int16)
    chosen = ["--bundle", "pyramid", "--factor", "2", "--axis", "2", "--device", "cpu"]
    assert main(["run", str(tmp_path / "in" / "a.nii.gz"), str(tmp_path / "b.nii.gz"), *chosen, "--uncertainty"]) == 0
    made, result = read_image(tmp_path / "b_uncertainty.nii.gz"), read_image(tmp_path / "b.nii.gz")
    assert np.dtype(made.meta["stored_dtype"]) == np.float32
    assert np.allclose(made.affine, result.affine)
    expected = uncertainty_map(
        read_image(tmp_path / "in" / "a.nii.gz"), result, read_calibration("pyramid")["uncertainty"]
    )
    assert torch.allclose(made, expected, rtol=0.05, atol=1.0)  # the written result is rounded
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), *chosen, "--uncertainty"]) == 0
    assert (tmp_path / "out" / "a_uncertainty.nii.gz").read_bytes() == (tmp_path / "b_uncertainty.nii.gz").read_bytes()
    record = json.loads((tmp_path / "out" / "a.json").read_text())["monai_sr"]["uncertainty"]
    assert record["unit"] == "signal"
    assert record["median"] == pytest.approx(float(np.median(made)), rel=1e-3)
    none = ["run", str(tmp_path / "in"), str(tmp_path / "no"), "--bundle", "none", "--uncertainty", "--axis", "2"]
    capsys.readouterr()
    assert main(none) == 2
    assert "calibrate" in capsys.readouterr().err
