"""Results that agree with the slices without their noise."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise

import jsonschema
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from test_story import SCHEMA

from monai_sr.acquired import Acquired
from monai_sr.errors import SuperResolutionWarning, collect_notices
from monai_sr.inference import super_resolve
from monai_sr.intensities import data_range, estimate_noise, remove_noise
from monai_sr.io.images import write_image
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.consistency import measure_consistency
from monai_sr.trust.noise import MILD, NOISY, is_noisy, without_noise

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
    measured = estimate_noise(slices + noise(slices.shape, sigma))
    assert measured == (pytest.approx(sigma, rel=0.15), pytest.approx(sigma, rel=0.25))
    assert estimate_noise(torch.full((9, 8, 5), 7.0)) == (0, 0)


@pytest.mark.parametrize("factor", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("profile", ["gaussian", "triangle"])
def test_noise_of_the_thin_slices_is_not_the_slices_own(factor, profile):
    hr = thin_volume((48, 44, 48))
    hr = MetaTensor(hr.as_tensor() + noise(hr.shape, 40.0), affine=hr.affine)
    lr = simulate_thick_slices(hr, factor, axis=2, profile=profile)[0].as_tensor()
    shared = estimate_noise(lr)
    assert shared.sigma > 15 and shared.own < shared.sigma / 3
    both = estimate_noise(lr + noise(lr.shape, 40.0))
    assert both.own == pytest.approx(40, rel=0.2) and both.sigma > both.own


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


def test_noise_beside_padding_of_mr_is_removed_as_beside_air():
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=2)
    voxels = lr.as_tensor() + noise(lr.shape, 20.0) + 300
    outside = torch.zeros(voxels.shape, dtype=torch.bool)
    outside[:, :9] = True
    padded, unpadded = (
        Acquired.of(MetaTensor(torch.where(outside, value, voxels), affine=lr.affine), modality="MR")
        for value in (-32768.0, float(voxels[~outside].min()))
    )
    assert is_noisy(padded) == is_noisy(unpadded)
    clean, expected = without_noise(padded), without_noise(unpadded)
    assert torch.equal(clean.voxels[~outside], expected.voxels[~outside]) and clean.noise == expected.noise


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
    assert call(*verify, "--consistency", "exact")[0] == 9 and call(*verify, "--consistency", "noise")[0] == 0


def test_by_default_slices_without_noise_stay_as_they_are():
    lr = simulate_thick_slices(phantoms.body(), 4.0, axis=2)
    with collect_notices() as notices:
        plain, exact = (super_resolve(lr, None, factor=4, **given) for given in ({}, {"consistency": "exact"}))
    assert torch.equal(plain, exact) and "W-CON-NOISE" not in [notice.code for notice in notices]
    assert "noise" not in Acquired.of(lr).record()


def noisy_slices(level: float) -> MetaTensor:
    """Thick slices with white noise of a fraction of their data range, across axis 1."""
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=1)
    return MetaTensor(lr.as_tensor() + noise(lr.shape, level * data_range(lr[0].numpy())), affine=lr.affine)


def test_noise_of_the_middle_decides(monkeypatch):
    lr = noisy_slices(0.0)
    middle = [slice(None)] * 4
    for axis in (0, 2):  # slices lie across axis 1
        middle[axis + 1] = slice(12, -12)
    lr[tuple(middle)] += noise(lr[tuple(middle)].shape, 0.05 * data_range(lr[0].numpy()))
    monkeypatch.setattr("monai_sr.trust.resolution.SAMPLES", lr[tuple(middle)].numel() // 2)
    assert is_noisy(Acquired.of(lr))
    assert not is_noisy(Acquired.of(MetaTensor(torch.full((1, 9, 8, 5), 7.0), affine=torch.eye(4))))


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("relative", [0.5, 2, 300])
def test_by_default_noise_is_removed_where_it_is_strong(modality, relative):
    lr, is_between = noisy_slices(relative * NOISY[modality][0]), relative == 2
    given = {"factor": 4, "modality": modality}
    with collect_notices() as notices:
        default = super_resolve(lr, None, **given)
    assert ("W-CON-NOISE" in [notice.code for notice in notices]) is is_between
    same = super_resolve(lr, None, **given, consistency="noise" if is_between else "exact")
    assert torch.equal(default, same)
    assert torch.equal(default, super_resolve(lr, None, **given, consistency="auto"))


@pytest.mark.parametrize("level", [0.5 * MILD, 2 * MILD])
def test_by_default_boxes_keep_a_part_of_their_noise(level):
    hr = thin_volume()
    hr = MetaTensor(hr.as_tensor() + noise(hr.shape, level * data_range(hr[0].numpy())), affine=hr.affine)
    lr = simulate_thick_slices(hr, 4.0, axis=2)
    noisy = Acquired.of(MetaTensor(lr.as_tensor() + 2 * noise(lr.shape, level * 400), affine=lr.affine), profile="box")
    sigma, own = estimate_noise(noisy.oriented(noisy.array[0]))
    assert 0.5 < own / sigma < 0.99
    removed, partly = (noisy.voxels - without_noise(noisy, boxes_keep=keep).voxels for keep in (False, True))
    torch.testing.assert_close(partly, removed * (own / sigma), rtol=0, atol=1e-3)
    gaussian = Acquired.of(noisy.image, profile="gaussian")
    assert torch.equal(without_noise(gaussian, boxes_keep=True).voxels, without_noise(gaussian).voxels)
    options = {"factor": 4, "profile": "box"}
    default, everything = (super_resolve(noisy.image, None, **options, consistency=one) for one in ("auto", "noise"))
    assert measure_consistency(without_noise(noisy), everything).score < 1e-3
    assert measure_consistency(without_noise(noisy, boxes_keep=True), default).score < 1e-3


def test_means_of_thin_slices_have_no_noise_of_their_own():
    lr = noisy_slices(0.03)
    assert is_noisy(Acquired.of(lr)) and is_noisy(Acquired.of(lr, profile="box"))
    lr.meta["protocol"] = {"scan": "reformatted"}
    assert not is_noisy(Acquired.of(lr))


def test_a_volume_that_is_passed_through_keeps_its_noise():
    lr = noisy_slices(0.03)
    assert torch.equal(super_resolve(lr, None, factor=1, axis=1), lr)
    assert not torch.equal(super_resolve(lr, None, factor=1, axis=1, consistency="noise"), lr)


@pytest.mark.parametrize(("level", "profile"), [(0.5 * MILD, "box"), (2 * MILD, "gaussian")])
def test_the_profile_is_that_of_the_noisy_slices_where_noise_is_mild(level, profile, monkeypatch):
    estimates = iter(("box", "gaussian"))
    monkeypatch.setattr("monai_sr.acquired.estimate_profile", lambda *_, **__: next(estimates))
    noisy = Acquired.of(noisy_slices(level))
    assert noisy.slice_profile == "box"
    clean = without_noise(noisy)
    assert (clean.slice_profile, clean.source_of("slice_profile")) == (profile, "estimated")


def test_by_default_noise_that_slices_share_stays():
    hr = thin_volume()
    hr = MetaTensor(hr.as_tensor() + noise(hr.shape, 0.05 * data_range(hr[0].numpy())), affine=hr.affine)
    lr = simulate_thick_slices(hr, 2.0, axis=2)
    assert torch.equal(super_resolve(lr, None, factor=2), super_resolve(lr, None, factor=2, consistency="exact"))


def test_python_gets_no_warning_of_monai_about_the_affine():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        super_resolve(noisy_slices(0.05), None, factor=2)
    assert [type(one.message) for one in caught] == [SuperResolutionWarning]


def test_verify_decides_as_the_run_did(call, tmp_path):
    path = write_image(noisy_slices(0.05), tmp_path / "thick.nii.gz")
    words = [path, tmp_path / "thin.nii.gz", "--factor", "4", "--bundle", "none"]
    assert call("run", *words)[0] == 0
    verify = ["verify", path, tmp_path / "thin.nii.gz"]
    assert call(*verify)[0] == 0 and call(*verify, "--consistency", "auto")[0] == 0
    assert call(*verify, "--consistency", "exact")[0] == 9
    (tmp_path / "thin.json").unlink()
    assert call(*verify)[0] == 9
    assert call("run", *words, "--consistency", "exact", "--overwrite")[0] == 0
    assert call(*verify)[0] == 0 and call(*verify, "--consistency", "noise")[0] == 9


@pytest.mark.parametrize(("consistency", "other"), [("auto", "noise"), ("noise", "auto")])
def test_verify_removes_from_boxes_what_the_run_removed(call, tmp_path, consistency, other):
    """Neighboring slices share a part of their noise, and only boxes keep it with "auto"."""
    lr = simulate_thick_slices(thin_volume(), 4.0, axis=1)
    white = noise((1, lr.shape[1], lr.shape[2] + 1, lr.shape[3]), 0.05 * data_range(lr[0].numpy()))
    noisy = MetaTensor(lr.as_tensor() + white[:, :, 1:] + 0.1 * white[:, :, :-1], affine=lr.affine)
    files = [write_image(noisy, tmp_path / "thick.nii.gz"), tmp_path / "thin.nii.gz"]
    words = ["--factor", "4", "--bundle", "none", "--profile", "box", "--consistency", consistency]
    code, _, err = call("run", *files, *words)
    assert code == 0 and "W-CON-NOISE" in err
    assert call("verify", *files, "--limit", "1e-4")[0] == 0
    assert call("verify", *files, "--limit", "1e-4", "--consistency", other)[0] == 9


def test_another_consistency_remakes_a_result(call, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(noisy_slices(0.05), tmp_path / "in" / "thick.nii.gz")
    words, made = [tmp_path / "in", tmp_path / "out"], []
    for one in ("auto", "auto", "exact", "noise", "noise", "auto"):
        assert call("run", *words, "--factor", "4", "--bundle", "none", "--consistency", one)[0] == 0
        made.append((tmp_path / "out" / "thick.json").read_text())
    is_kept = [after == before for before, after in pairwise(made)]
    assert is_kept == [True, False, False, True, False]
    assert ["noise" in json.loads(text)["monai_sr"]["acquired"] for text in made] == [True, True, False] + 3 * [True]
