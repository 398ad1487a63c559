"""The figures are what they are called, and they tell better from worse."""

import csv
import json
from dataclasses import asdict

import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_sr.evaluation import (
    BASELINES,
    ForegroundPSNR,
    ForegroundSSIM,
    Score,
    data_range,
    evaluate,
    foreground,
    psnr,
    ssim,
    table,
    write_scores,
)
from monai_sr.images import write_image
from monai_sr.inference import super_resolve
from monai_sr.transforms import interpolate_slices

RNG = np.random.default_rng(0)


def pair(shape=(14, 13, 12), *, error: float = 10.0):
    hr = ndimage.gaussian_filter(RNG.normal(size=shape), 1.5).astype(np.float32) * 1000
    return (hr + RNG.normal(0, error, shape)).astype(np.float32), hr


def head(shape=(24, 22, 48), spacing=(1.0, 1.0, 1.0), *, air: float = 0.0) -> MetaTensor:
    """A smooth ball in air, textured by waves of 9 to 20 mm."""
    grid = phantoms.grid(shape, spacing)

    def value(points):
        x, y, z = points - phantoms.center(grid)[:, None, None, None]
        radius = np.sqrt((x / 9) ** 2 + (y / 8.5) ** 2 + (z / 20) ** 2)
        texture = 1 + 0.25 * np.sin(z / 1.7 + x / 3) + 0.15 * np.cos(y / 2 - z / 3)
        return air + 400 * texture / (1 + np.exp(6 * (radius - 1)))

    return phantoms.draw(grid, value)


# ------------------------------------------------------------- figures


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
    hr = head()[0].numpy()
    before = hr.copy()
    foreground(hr)
    assert np.array_equal(hr, before)


# ------------------------------------------------------------- evaluate


def by_method(scores, **wanted) -> dict[str, Score]:
    chosen = [s for s in scores if all(getattr(s, key) == value for key, value in wanted.items())]
    assert len({s.method for s in chosen}) == len(chosen)
    return {s.method: s for s in chosen}


@pytest.mark.parametrize("factor", [2, 3, 4, 2.5])
def test_linear_is_worse_than_cubic_and_cubic_worse_than_the_consistent_spline(factor):
    scores = by_method(evaluate([head()], {}, factors=[factor]))
    assert list(scores) == list(BASELINES)
    assert scores["linear"].psnr_db < scores["cubic"].psnr_db - 0.2
    assert scores["cubic"].psnr_db < scores["consistent"].psnr_db - 0.2
    assert scores["linear"].ssim < scores["consistent"].ssim <= 1
    assert scores["consistent"].gain_db == 0
    assert scores["linear"].gain_db == pytest.approx(scores["linear"].psnr_db - scores["consistent"].psnr_db)


@pytest.mark.parametrize("factor", [2, 3.3])
def test_the_consistent_spline_agrees_with_what_was_acquired_and_others_do_not(factor):
    scores = by_method(evaluate([head()], {}, factors=[factor]))
    assert scores["consistent"].consistency_db > 70
    assert scores["linear"].consistency_db < scores["cubic"].consistency_db < 60


def test_a_model_is_told_what_it_needs_and_measured_like_the_baselines():
    told = []

    def model(image, *, factor, slice_thickness, axis):
        told.append((tuple(image.shape), factor, slice_thickness, axis))
        return super_resolve(image, None, factor=factor, slice_thickness=slice_thickness, axis=axis)

    scores = by_method(evaluate([head()], {"mine": model}, factors=[3], axis=1, thickness_ratio=0.8))
    assert told == [((1, 24, 7, 48), 3, pytest.approx(2.4), 1)]
    assert scores["mine"].psnr_db == pytest.approx(scores["consistent"].psnr_db, abs=0.01)
    assert scores["mine"].gain_db == pytest.approx(0, abs=0.01)
    assert scores["mine"].axis == 1


def test_a_model_that_knows_the_truth_is_far_above_every_baseline():
    hr = head()
    scores = by_method(evaluate([hr], {"oracle": lambda image, **_: hr.clone()}, factors=[4]))
    assert scores["oracle"].gain_db > 40
    assert scores["oracle"].ssim == pytest.approx(1, abs=1e-6)


def test_a_model_half_a_slice_off_is_far_below_every_baseline():
    def shifted(image, *, factor, slice_thickness, axis):
        sr = super_resolve(image, None, factor=factor, slice_thickness=slice_thickness, axis=axis)
        return torch.roll(sr, 2, dims=-1)

    scores = by_method(evaluate([head()], {"shifted": shifted}, factors=[4]))
    assert scores["shifted"].psnr_db < scores["linear"].psnr_db - 3


def test_the_ends_are_left_out_where_every_method_extrapolates():
    hr = head()

    def wrong_at_the_ends(image, **options):
        sr = super_resolve(image, None, **options)
        sr[..., :4] = sr[..., -4:] = 1e4
        return sr

    scores = by_method(evaluate([hr], {"wrong": wrong_at_the_ends}, factors=[4]))
    assert scores["wrong"].psnr_db == pytest.approx(scores["consistent"].psnr_db, abs=0.01)


def test_every_volume_and_factor_is_scored_and_reported_as_it_is_found(tmp_path):
    path = write_image(head(air=-1000.0, shape=(20, 18, 30)), tmp_path / "ct.nii.gz")
    told: list[Score] = []
    scores = evaluate([path, head((18, 20, 24), (1.0, 1.0, 1.5))], {}, factors=[2, 3], report=told.append)
    assert told == scores
    assert [(s.volume, s.modality, s.factor) for s in scores[::3]] == [
        ("ct.nii.gz", "CT", 2),
        ("ct.nii.gz", "CT", 3),
        ("volume", "MR", 2),
        ("volume", "MR", 3),
    ]


def test_a_box_profile_is_simulated_and_methods_are_not_told():
    gaussian, box = (by_method(evaluate([head()], {}, factors=[4], profile=p)) for p in ("gaussian", "box"))
    assert box["consistent"].consistency_db < gaussian["consistent"].consistency_db - 20
    assert box["consistent"].psnr_db != gaussian["consistent"].psnr_db


# ------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def scores():
    return evaluate([head(), head(air=-1000.0)], {}, factors=[2, 2.5])


def test_scores_survive_the_round_trip(tmp_path, scores):
    paths = write_scores(scores, tmp_path / "new" / "folder", factors=[2, 2.5], profile="gaussian")
    assert [p.name for p in paths] == ["scores.csv", "scores.json"]
    document = json.loads(paths[1].read_text())
    assert [Score(**row) for row in document["scores"]] == scores
    assert document["settings"] == {"factors": [2, 2.5], "profile": "gaussian"}
    for word in ("foreground", "data range", "gain"):
        assert word in document["figures"].lower()
    with open(paths[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in asdict(s).items()} for s in scores] == rows
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["scores.csv", "scores.json"]


def test_the_table_gives_the_mean_of_every_modality_factor_and_method(scores):
    lines = table(scores).splitlines()
    assert len(lines) == 1 + 2 * 2 * len(BASELINES)
    for line in lines[1:]:
        modality, factor, method, count, decibels, gain, similarity, _ = line.split()
        (score,) = [s for s in scores if (s.modality, f"x{s.factor:g}", s.method) == (modality, factor, method)]
        assert int(count) == 1
        assert float(decibels) == pytest.approx(score.psnr_db, abs=0.006)
        assert float(gain) == pytest.approx(score.gain_db, abs=0.006)
        assert float(similarity) == pytest.approx(score.ssim, abs=6e-5)
    two = [Score("a", "MR", 2, 2, "cubic", 30, 0.9, -1, 50), Score("b", "MR", 2, 2, "cubic", 34, 0.7, -3, 70)]
    assert table(two).splitlines()[1].split() == ["MR", "x2", "cubic", "2", "32.00", "-2.00", "0.8000", "60.0"]


# ------------------------------------------------------------- MONAI's metrics


@pytest.mark.parametrize(("metric", "figure"), [(ForegroundPSNR, psnr), (ForegroundSSIM, ssim)])
def test_a_monai_metric_is_the_mean_over_items_with_their_own_range_and_foreground(metric, figure):
    truths = [head(), head(air=-1000.0)]
    results = [interpolate_slices(_thick(t), 1.0, method="cubic", axis=2) for t in truths]
    expected = []
    for sr, hr in zip(results, truths, strict=True):
        sr, hr = sr[0].numpy(), hr[0].numpy()
        expected.append(figure(sr, hr, value_range=data_range(hr), mask=foreground(hr)))
    measure = metric()
    measure(y_pred=torch.stack([r.as_tensor() for r in results]), y=torch.stack([t.as_tensor() for t in truths]))
    assert float(measure.aggregate()) == pytest.approx(np.mean(expected), rel=1e-6)
    measure.reset()
    # decollated, as an evaluator hands them over, and in two batches
    measure(y_pred=results[:1], y=truths[:1])
    measure(y_pred=results[1:], y=truths[1:])
    assert float(measure.aggregate()) == pytest.approx(np.mean(expected), rel=1e-6)


def _thick(hr: MetaTensor) -> MetaTensor:
    from monai_sr.transforms import simulate_thick_slices

    return simulate_thick_slices(hr, 3.0, axis=2)
