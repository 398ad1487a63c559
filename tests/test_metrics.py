"""The figures equal their definitions, and noise in a reference is distinguished from its anatomy."""

import numpy as np
import phantoms
import pytest
import torch
from scipy import ndimage

from monai_sr.evaluation.metrics import (
    ceiling,
    foreground,
    noise_deviation,
    psnr,
    resolved_spacing,
    sharpness,
    ssim,
    unseen_noise,
)
from monai_sr.intensities import data_range
from monai_sr.slices import profile_matrix

RNG = np.random.default_rng(0)


def pair(shape=(14, 13, 12), *, error: float = 10.0):
    hr = ndimage.gaussian_filter(RNG.normal(size=shape), 1.5).astype(np.float32) * 1000
    return (hr + RNG.normal(0, error, shape)).astype(np.float32), hr


def test_psnr_is_the_range_over_the_root_mean_square_error_in_decibels():
    sr, hr = pair()
    assert psnr(hr + 5, hr, value_range=500) == pytest.approx(40, abs=1e-4)  # 100 times the error
    rms = np.sqrt(np.mean((sr.astype(float) - hr) ** 2))
    assert psnr(sr, hr, value_range=300) == pytest.approx(20 * np.log10(300 / rms))


def test_psnr_counts_only_the_mask():
    sr, hr = pair()
    mask = np.zeros(hr.shape, bool)
    mask[:5] = True
    spoiled = np.where(mask, sr, sr + 1e4)
    assert psnr(spoiled, hr, value_range=300, mask=mask) == psnr(sr, hr, value_range=300, mask=mask)
    assert psnr(spoiled, hr, value_range=300) < 0


def test_psnr_of_equal_volumes_is_a_large_number_and_not_infinite():
    _, hr = pair()
    assert 100 < psnr(hr, hr, value_range=300) < np.inf


def test_psnr_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    sr, hr = pair()
    theirs = metrics.peak_signal_noise_ratio(hr.astype(float), sr.astype(float), data_range=321)
    assert psnr(sr, hr, value_range=321) == pytest.approx(theirs, abs=1e-6)


def test_ssim_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    sr, hr = pair((20, 20, 20), error=40)
    low = float(hr.min())
    _, theirs = metrics.structural_similarity(
        hr.astype(float) - low,
        sr.astype(float) - low,
        data_range=321,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    mask = np.zeros(hr.shape, bool)
    mask[6:-6, 6:-6, 6:-6] = True
    assert ssim(sr, hr, value_range=321, mask=mask) == pytest.approx(theirs[mask].mean(), abs=1e-6)
    assert ssim(sr, hr, value_range=321) == pytest.approx(theirs.mean(), abs=1e-6)


def test_ssim_of_a_shifted_constant_is_its_formula():
    # no structure: only the means and the first constant are left
    hr, sr = np.full((12, 12, 12), 100.0, np.float32), np.full((12, 12, 12), 150.0, np.float32)
    c1 = (0.01 * 400) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(sr, hr, value_range=400) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_one_for_equal_volumes_and_falls_with_noise():
    sr, hr = pair()
    noisier = hr + 3 * (sr - hr)
    values = [ssim(v, hr, value_range=300) for v in (hr, sr, noisier)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("offset", [-700.0, 300.0])
def test_ssim_does_not_depend_on_where_ct_counts_from_below_zero(offset):
    sr, hr = pair()
    reference = ssim(sr - hr.min() - 1100, hr - hr.min() - 1100, value_range=300)
    moved = ssim(sr - hr.min() - 1100 + offset, hr - hr.min() - 1100 + offset, value_range=300)
    assert moved == pytest.approx(reference, abs=1e-4)


def test_the_data_range_leaves_outliers_out():
    hr = np.linspace(0, 1000, 100_000, dtype=np.float32).reshape(100, 100, 10)
    assert data_range(hr) == pytest.approx(998, abs=0.1)
    hr[0, 0, 0] = 1e6
    assert data_range(hr) == pytest.approx(998, abs=0.1)


def test_a_data_range_of_nothing_falls_back_to_the_extremes():
    hr = np.zeros((30, 30, 30), np.float32)
    hr[3, 3, 3] = 7
    assert data_range(hr) == 7


@pytest.mark.parametrize("air", [0.0, -1000.0])
def test_the_foreground_is_the_largest_body_without_holes(air):
    inside = 100 if air else 400
    hr = np.full((30, 30, 30), air, np.float32) + RNG.normal(0, 5, (30, 30, 30)).astype(np.float32)
    hr[6:24, 6:24, 6:24] = inside
    hr[12:18, 12:18, 12:18] = air  # an air-filled cavity
    hr[1:4, 1:4, 1:4] = inside  # something beside the body
    mask = foreground(hr)
    assert mask[12:18, 12:18, 12:18].all()
    assert mask[7:23, 7:23, 7:23].all()
    assert not mask[1:4, 1:4, 1:4].any()
    assert mask.sum() == pytest.approx(18**3, rel=0.1)


def test_a_volume_without_a_body_is_all_foreground():
    assert foreground(np.full((8, 8, 8), -1000.0, np.float32)).all()


def test_the_foreground_does_not_change_the_volume():
    hr = phantoms.body()[0].numpy()
    before = hr.copy()
    foreground(hr)
    assert np.array_equal(hr, before)


# ------------------------------------------------------------- through-plane sharpness


def wave(amplitude: float, axis: int = 2) -> np.ndarray:
    return np.moveaxis(np.broadcast_to(amplitude * np.sin(np.arange(40) / 2), (6, 7, 40)), 2, axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_sharpness_of_a_wave_is_its_amplitude_over_the_true_one(axis):
    assert sharpness(wave(30, axis), wave(100, axis), axis=axis) == pytest.approx(0.3)
    assert sharpness(wave(30, axis) + 500, wave(100, axis), axis=axis) == pytest.approx(0.3)


def test_the_reference_has_sharpness_one_and_blur_reduces_it():
    hr = phantoms.body()[0].numpy()
    blurred = [sharpness(ndimage.gaussian_filter1d(hr, s, axis=2), hr, axis=2) for s in (0.01, 0.5, 1, 2)]
    assert blurred[0] == pytest.approx(1)
    assert blurred[0] > blurred[1] > blurred[2] > blurred[3]


def test_blur_within_the_slices_is_no_matter_of_through_plane_sharpness():
    hr = wave(100)
    assert sharpness(ndimage.gaussian_filter1d(hr, 2, axis=0), hr, axis=2) == pytest.approx(1)


def test_sharpness_counts_only_steps_inside_the_mask():
    hr, sr = wave(100), wave(50).copy()
    mask = np.zeros(hr.shape, bool)
    mask[:, :, 10:30] = True
    spoiled = np.where(mask, sr, 1e4)
    inner = (slice(None), slice(None), slice(10, 30))
    expected = sharpness(sr[inner], hr[inner], axis=2)
    assert sharpness(spoiled, hr, axis=2, mask=mask) == pytest.approx(expected)


# ------------------------------------------------------------- noise and what it leaves to be gained


@pytest.mark.parametrize("deviation", [2.0, 20.0])
def test_the_noise_of_a_volume_is_estimated_whatever_its_anatomy(deviation):
    hr = phantoms.body((40, 40, 48))[0].numpy()
    noisy = hr + RNG.normal(0, deviation, hr.shape)
    assert noise_deviation(noisy, foreground(hr)) == pytest.approx(deviation, rel=0.1)


def test_hardly_any_noise_is_estimated_without_noise():
    hr = phantoms.body((40, 40, 48))[0].numpy()
    assert noise_deviation(hr, foreground(hr)) < 0.1  # of about 400


def test_noise_is_looked_for_in_the_mask_alone():
    hr = RNG.normal(0, np.where(np.arange(40) < 20, 5.0, 50.0), (40, 40, 40))
    mask = np.zeros(hr.shape, bool)
    mask[:, :, :20] = True
    assert noise_deviation(hr, mask) == pytest.approx(5, rel=0.1)
    assert noise_deviation(hr, ~mask) == pytest.approx(50, rel=0.1)


def slices_matrix(factor: int = 4, m: int = 6) -> torch.Tensor:
    thick = (np.arange(m) + 0.5) * factor - 0.5
    return profile_matrix(np.arange(m * factor), thick, slice_thickness=factor)


def test_what_thick_slices_cannot_see_of_white_noise_is_the_null_space_of_their_acquisition():
    unseen = unseen_noise(slices_matrix(4, 6), reference_noise=3.0)
    assert unseen.shape == (24,)
    assert unseen.sum() == pytest.approx(9 * (24 - 6))  # σ² (n - m)
    assert (unseen > 0).all()


def test_nothing_is_unseen_where_nothing_was_lost_or_there_is_no_noise():
    assert unseen_noise(torch.eye(5), reference_noise=3.0) == pytest.approx(np.zeros(5))
    assert unseen_noise(slices_matrix(), reference_noise=0.0) == pytest.approx(np.zeros(24))


def test_noise_of_the_slices_hides_more_and_in_the_end_everything():
    hidden = [unseen_noise(slices_matrix(), reference_noise=3.0, slice_noise=t).sum() for t in (0.0, 1.0, 1e6)]
    assert hidden[0] < hidden[1] < hidden[2] == pytest.approx(9 * 24)


def test_the_ceiling_is_the_error_over_what_is_left_in_decibels():
    assert ceiling(200.0, 2.0) == pytest.approx(20)
    assert 100 < ceiling(200.0, 0.0) < np.inf


# ------------------------------------------------------------- through-plane resolution


def waves(*, seed: int, shape=(24, 22, 64)) -> np.ndarray:
    """White noise: every frequency alike."""
    return np.random.default_rng(seed).normal(0, 100, shape)


@pytest.mark.parametrize(("axis", "spacing"), [(0, 0.5), (2, 1.0), (2, 2.0)])
def test_a_perfect_result_resolves_its_own_voxels_and_a_foreign_one_nothing(axis, spacing):
    reference = waves(seed=0)
    assert resolved_spacing(reference * 2 + 5, reference, axis=axis, spacing=spacing) == spacing
    assert np.isnan(resolved_spacing(waves(seed=1), reference, axis=axis, spacing=spacing))


@pytest.mark.parametrize("finest", [2.5, 4.0, 7.0])
def test_detail_that_is_right_up_to_a_frequency_and_wrong_beyond_is_resolved_up_to_there(finest):
    spacing, n = 1.0, 96
    reference, wrong = waves(seed=0, shape=(20, 20, n)), waves(seed=1, shape=(20, 20, n))
    beyond = np.fft.rfftfreq(n, spacing) > 1 / (2 * finest)
    mixed = np.where(beyond, np.fft.rfft(wrong), np.fft.rfft(reference))
    resolved = resolved_spacing(np.fft.irfft(mixed, n), reference, axis=2, spacing=spacing)
    assert resolved == pytest.approx(finest, rel=0.08)


def test_resolution_is_looked_for_inside_the_mask():
    reference, sr = waves(seed=0), waves(seed=0)
    sr[:8] = waves(seed=1)[:8]
    mask = np.zeros(reference.shape, bool)
    mask[8:, :, 10:50] = True
    assert resolved_spacing(sr, reference, axis=2, spacing=1.0, mask=mask) == 1.0
    assert resolved_spacing(sr, reference, axis=2, spacing=1.0, mask=~mask) != 1.0


def test_blur_alone_is_no_loss_of_resolution_but_noise_that_drowns_detail_is():
    rng = np.random.default_rng(3)
    reference = waves(seed=0)
    blurred = ndimage.gaussian_filter1d(reference, 1.5, axis=2)
    assert resolved_spacing(blurred, reference, axis=2, spacing=1.0) == 1.0
    noisy = blurred + rng.normal(0, 15, reference.shape)
    assert 1.3 < resolved_spacing(noisy, reference, axis=2, spacing=1.0) < 6
