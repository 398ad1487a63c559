"""Results that agree with the slices without their noise."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from test_story import SCHEMA

from monai_sr.acquired import Acquired
from monai_sr.errors import collect_notices
from monai_sr.inference import super_resolve
from monai_sr.intensities import data_range, estimate_noise, remove_noise
from monai_sr.io.images import write_image
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.consistency import measure_consistency
from monai_sr.trust.noise import NOISY, noise_fraction, without_noise

pytestmark = pytest.mark.filterwarnings("ignore::monai_sr.errors.SuperResolutionWarning")
RNG = np.random.default_rng(0)


def noise(shape, sigma: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(0, sigma, shape).astype(np.float32))


def thin_volume(shape=(48, 44, 48)) -> MetaTensor:
    """Blocks of tissue with sharp edges, in HU."""
    voxels = torch.from_numpy(np.kron(RNG.integers(-200, 400, (3, 3, 6)), np.ones((16, 16, 8))).astype(np.float32))
    return MetaTensor(voxels[None, : shape[0], : shape[1], : shape[2]], affine=torch.eye(4, dtype=torch.float64))


def rms(values) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("sigma", [2.0, 10.0, 40.0])
def test_white_noise_is_measured_whatever_the_anatomy(sigma):
    slices = thin_volume()[0].as_tensor()
    assert estimate_noise(slices + noise(slices.shape, sigma)) == pytest.approx(sigma, rel=0.15)
    assert estimate_noise(torch.full((9, 8, 5), 7.0)) == 0


def test_noise_is_removed_and_edges_stay():
    slices, sigma = thin_volume()[0].as_tensor(), 20.0
    noisy = slices + noise(slices.shape, sigma)
    clean = remove_noise(noisy, sigma)
    assert rms(clean - slices) < 0.7 * rms(noisy - slices)
    step = (slices[1:] - slices[:-1]).abs() > 200
    edges = (clean[1:] - clean[:-1])[step] / (slices[1:] - slices[:-1])[step]
    assert float(edges.mean()) == pytest.approx(1, abs=0.1)


def test_each_slice_is_denoised_by_itself():
    noisy = thin_volume()[0].as_tensor() + noise((48, 44, 48), 20.0)
    alone = remove_noise(noisy[..., 7:8], 20.0)
    torch.testing.assert_close(remove_noise(noisy, 20.0)[..., 7:8], alone, rtol=0, atol=0)


def test_slices_without_noise_do_not_change():
    slices = thin_volume()[0].as_tensor()
    torch.testing.assert_close(remove_noise(slices, 0.0), slices, rtol=0, atol=1e-3)
    lr = simulate_thick_slices(phantoms.body(), 4.0, axis=2)
    exact = super_resolve(lr, None, factor=4)
    assert rms(super_resolve(lr, None, factor=4, consistency="noise") - exact) < 0.02 * float(exact.std())


@pytest.mark.parametrize("sigma", [10.0, 40.0])
def test_a_result_does_not_hand_the_noise_on(sigma):
    hr = thin_volume()
    lr = simulate_thick_slices(hr, 2.0, axis=2)
    noisy = MetaTensor(lr.as_tensor() + noise(lr.shape, sigma), affine=lr.affine)
    errors = {
        kind: rms((super_resolve(noisy, None, factor=2, consistency=kind) - hr).as_tensor()[..., 4:-4])
        for kind in ("exact", "noise")
    }
    clean = rms((super_resolve(lr, None, factor=2) - hr).as_tensor()[..., 4:-4])
    assert errors["noise"] ** 2 - clean**2 < 0.7 * (errors["exact"] ** 2 - clean**2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_result_agrees_with_what_is_left_of_the_slices(axis):
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=axis)
    lr = MetaTensor(lr.as_tensor() + noise(lr.shape, 20.0), affine=lr.affine)
    clean = without_noise(Acquired.of(lr))
    sr = super_resolve(lr, None, factor=4, consistency="noise")
    assert measure_consistency(clean, sr).score < 1e-3
    assert measure_consistency(lr, sr).score > 0.01
    assert clean.noise == pytest.approx(20, rel=0.15)
    assert torch.equal(clean.image.affine, lr.affine) and clean.axis == axis


def test_what_a_ct_did_not_scan_stays():
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=2)
    voxels = lr.as_tensor() + noise(lr.shape, 20.0)
    voxels[:, :9] = -2000
    clean = without_noise(Acquired.of(MetaTensor(voxels, affine=lr.affine)))
    assert torch.equal(clean.voxels[:, :9], voxels[:, :9]) and not torch.equal(clean.voxels, voxels)
    assert clean.voxels[:, 9:].min() > -1000


@fault("R29", "W-CON-NOISE")
def test_a_run_records_what_was_removed(call, tmp_path):
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=2)
    path = write_image(MetaTensor(lr.as_tensor() + noise(lr.shape, 20.0), affine=lr.affine), tmp_path / "thick.nii.gz")
    words = [path, tmp_path / "thin.nii.gz", "--factor", "4", "--bundle", "none"]
    assert call("run", *words, "--consistency", "noise")[0] == 0
    content = json.loads((tmp_path / "thin.json").read_text())
    jsonschema.validate(content, SCHEMA)
    record = content["monai_sr"]
    assert record["acquired"]["noise"] == {"value": pytest.approx(20, rel=0.15), "source": "estimated"}
    assert record["options"]["acquisition"] == {"consistency": "noise"}
    (notice,) = (one for one in record["warnings"] if one["code"] == "W-CON-NOISE")
    assert notice["severity"] == "info" and 5 < notice["facts"]["removed"] < 20
    verify = ["verify", path, tmp_path / "thin.nii.gz"]
    assert call(*verify)[0] == 9 and call(*verify, "--consistency", "noise")[0] == 0


def test_by_default_the_result_agrees_exactly_and_no_noise_is_measured():
    lr = simulate_thick_slices(phantoms.body(), 4.0, axis=2)
    with collect_notices() as notices:
        plain, exact = (super_resolve(lr, None, factor=4, **given) for given in ({}, {"consistency": "exact"}))
    assert torch.equal(plain, exact) and "W-CON-NOISE" not in [notice.code for notice in notices]
    assert "noise" not in Acquired.of(lr).record()


def noisy_slices(level: float) -> MetaTensor:
    """Thick slices with white noise of a fraction of their data range, across axis 1."""
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=1)
    return MetaTensor(lr.as_tensor() + noise(lr.shape, level * data_range(lr[0].numpy())), affine=lr.affine)


@pytest.mark.parametrize("level", [0.005, 0.01, 0.03])
def test_noise_is_measured_as_a_fraction_of_the_range(level):
    assert noise_fraction(Acquired.of(noisy_slices(level))) == pytest.approx(level, rel=0.15)
    assert noise_fraction(Acquired.of(MetaTensor(torch.full((1, 9, 8, 5), 7.0), affine=torch.eye(4)))) == 0


def test_some_slices_of_many_are_enough(monkeypatch):
    acquired = Acquired.of(noisy_slices(0.02))
    of_all = noise_fraction(acquired)
    monkeypatch.setattr("monai_sr.trust.noise._SAMPLES", acquired.voxels.numel() // 4)
    assert noise_fraction(acquired) == pytest.approx(of_all, rel=0.1) and noise_fraction(acquired) != of_all


@pytest.mark.parametrize("level", [0.5 * NOISY, 2 * NOISY])
def test_auto_removes_noise_where_it_is_strong(level):
    lr, is_noisy = noisy_slices(level), level > NOISY
    with collect_notices() as notices:
        auto = super_resolve(lr, None, factor=4, consistency="auto")
    assert ("W-CON-NOISE" in [notice.code for notice in notices]) is is_noisy
    assert torch.equal(auto, super_resolve(lr, None, factor=4, consistency="noise" if is_noisy else "exact"))


def test_verify_decides_as_the_run_did(call, tmp_path):
    path = write_image(noisy_slices(0.05), tmp_path / "thick.nii.gz")
    words = [path, tmp_path / "thin.nii.gz", "--factor", "4", "--bundle", "none", "--consistency", "auto"]
    assert call("run", *words)[0] == 0
    verify = ["verify", path, tmp_path / "thin.nii.gz"]
    assert call(*verify)[0] == 9 and call(*verify, "--consistency", "auto")[0] == 0
