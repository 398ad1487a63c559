"""Scores rank methods, agree with other implementations, and have a ceiling by the noise of the reference."""

import importlib.util
import sys

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor

from monai_sr.errors import SuperResolutionError
from monai_sr.evaluation.conditions import Condition, acquire
from monai_sr.evaluation.methods import BASELINES, ExternalMethod
from monai_sr.evaluation.metrics import ForegroundPSNR, ForegroundSSIM, foreground, psnr, ssim
from monai_sr.evaluation.scores import Score, evaluate
from monai_sr.inference import super_resolve
from monai_sr.intensities import data_range
from monai_sr.io.images import write_image
from monai_sr.slices import apply_along
from monai_sr.transforms import interpolate_slices

RNG = np.random.default_rng(0)


def by_method(scores, **wanted) -> dict[str, Score]:
    chosen = [s for s in scores if all(getattr(s, key) == value for key, value in wanted.items())]
    assert len({s.method for s in chosen}) == len(chosen)
    return {s.method: s for s in chosen}


@pytest.mark.parametrize("factor", [2, 3, 4, 2.5])
def test_linear_is_worse_than_cubic_and_cubic_worse_than_the_consistent_spline(factor):
    scores = by_method(evaluate([phantoms.body()], {}, conditions=[Condition(factor)]))
    assert list(scores) == list(BASELINES)
    assert scores["linear"].psnr_db < scores["cubic"].psnr_db - 0.2
    assert scores["cubic"].psnr_db < scores["consistent"].psnr_db - 0.2
    assert scores["linear"].ssim < scores["consistent"].ssim <= 1
    assert scores["linear"].sharpness < scores["cubic"].sharpness < scores["consistent"].sharpness < 1.05
    assert scores["consistent"].gain_db == 0
    assert scores["linear"].gain_db == pytest.approx(scores["linear"].psnr_db - scores["consistent"].psnr_db)


@pytest.mark.parametrize("factor", [2, 3.3])
def test_the_consistent_spline_agrees_with_what_was_acquired_and_others_do_not(factor):
    scores = by_method(evaluate([phantoms.body()], {}, conditions=[Condition(factor)]))
    assert scores["consistent"].consistency_db > 70
    assert scores["linear"].consistency_db < scores["cubic"].consistency_db < 60


def test_a_model_is_given_what_it_needs_and_measured_like_the_baselines():
    calls = []

    def model(image, *, factor, slice_thickness, axis):
        calls.append((tuple(image.shape), factor, slice_thickness, axis))
        return super_resolve(image, None, factor=factor, slice_thickness=slice_thickness, axis=axis)

    scores = by_method(
        evaluate([phantoms.body()], {"mine": model}, conditions=[Condition(3, thickness_ratio=0.8)], axes=[1])
    )
    assert calls == [((1, 24, 7, 48), 3, pytest.approx(2.4), 1)]
    assert scores["mine"].psnr_db == pytest.approx(scores["consistent"].psnr_db, abs=0.01)
    assert scores["mine"].gain_db == pytest.approx(0, abs=0.01)
    assert scores["mine"].axis == 1


def test_a_model_that_knows_the_reference_is_far_above_every_baseline():
    hr = phantoms.body()
    scores = by_method(evaluate([hr], {"oracle": lambda image, **_: hr.clone()}, conditions=[Condition(4)]))
    assert scores["oracle"].gain_db > 40
    assert scores["oracle"].ssim == pytest.approx(1, abs=1e-6)


def test_a_model_half_a_slice_off_is_far_below_every_baseline():
    def shifted(image, *, factor, slice_thickness, axis):
        sr = super_resolve(image, None, factor=factor, slice_thickness=slice_thickness, axis=axis)
        return torch.roll(sr, 2, dims=-1)

    scores = by_method(evaluate([phantoms.body()], {"shifted": shifted}, conditions=[Condition(4)]))
    assert scores["shifted"].psnr_db < scores["linear"].psnr_db - 3


def test_the_ends_are_left_out_where_every_method_extrapolates():
    hr = phantoms.body()

    def wrong_at_the_ends(image, **options):
        sr = super_resolve(image, None, **options)
        sr[..., :4] = sr[..., -4:] = 1e4
        return sr

    scores = by_method(evaluate([hr], {"wrong": wrong_at_the_ends}, conditions=[Condition(4)]))
    assert scores["wrong"].psnr_db == pytest.approx(scores["consistent"].psnr_db, abs=0.01)


def test_every_volume_and_factor_is_scored_and_reported_at_once(tmp_path):
    path = write_image(phantoms.body(air=-1000.0, shape=(20, 18, 30)), tmp_path / "ct.nii.gz")
    reported: list[Score] = []
    scores = evaluate(
        [path, phantoms.body((18, 20, 24), (1.0, 1.0, 1.5))],
        {},
        conditions=[Condition(2), Condition(3)],
        report=reported.append,
    )
    assert reported == scores
    assert [(s.volume, s.modality, s.condition.factor) for s in scores[:: len(BASELINES)]] == [
        ("ct.nii.gz", "CT", 2),
        ("ct.nii.gz", "CT", 3),
        ("volume", "MR", 2),
        ("volume", "MR", 3),
    ]


def test_a_box_profile_is_simulated_and_not_given_to_methods():
    gaussian, box = (
        by_method(evaluate([phantoms.body()], {}, conditions=[Condition(4, p)])) for p in ("gaussian", "box")
    )
    assert box["consistent"].consistency_db < gaussian["consistent"].consistency_db - 20
    assert box["consistent"].psnr_db != gaussian["consistent"].psnr_db


def test_a_method_is_given_the_thickness_of_the_condition():
    thicknesses = []

    def model(image, *, factor, slice_thickness, axis):
        thicknesses.append(slice_thickness)
        return interpolate_slices(image, 1.0, axis=axis)

    conditions = [
        Condition(4),
        Condition(4, given_thickness=0.75),
        Condition(4, "box", 1.4, given_thickness=1.25),
        Condition(4, "point"),
    ]
    evaluate([phantoms.body()], {"m": model}, conditions=conditions)
    assert thicknesses == pytest.approx([4.0, 3.0, 7.0, 1.0])


def test_a_wrong_given_thickness_worsens_the_consistent_spline_and_not_cubic():
    right, wrong = (
        by_method(evaluate([phantoms.body()], {}, conditions=[Condition(4, given_thickness=t)])) for t in (1, 1.4)
    )
    assert wrong["consistent"].psnr_db < right["consistent"].psnr_db - 0.5
    assert wrong["cubic"].psnr_db == right["cubic"].psnr_db


def test_a_volume_stored_turned_is_measured_alike():
    scores = [by_method(evaluate([phantoms.body()], {}, conditions=[Condition(4, permuted=t)])) for t in (False, True)]
    for method in BASELINES:
        assert scores[0][method].axis == scores[1][method].axis == 2
        for figure in ("psnr_db", "ssim", "sharpness", "consistency_db", "ceiling_db"):
            expected = getattr(scores[0][method], figure)
            assert getattr(scores[1][method], figure) == pytest.approx(expected, rel=1e-3), figure


def test_every_axis_near_the_finest_spacing_is_measured_by_itself():
    volume = phantoms.body((24, 22, 20), (1.0, 1.25, 1.4))
    for axes, expected in (("near", [0, 1]), ([2, 0], [2, 0]), (None, [2])):
        scores = evaluate([volume], {}, conditions=[Condition(2)], axes=axes, baselines=())
        assert [s.axis for s in scores] == expected


def test_volumes_of_one_name_are_distinguished_by_their_folders(tmp_path):
    paths = []
    for subject in ("sub-1", "sub-2"):
        (tmp_path / subject).mkdir()
        paths.append(write_image(phantoms.body(), tmp_path / subject / "T1w.nii.gz"))
    scores = evaluate(paths, {}, conditions=[Condition(4)], baselines=())
    assert [s.volume for s in scores] == ["sub-1/T1w.nii.gz", "sub-2/T1w.nii.gz"]


def test_a_peer_that_fails_costs_its_own_rows_and_is_named():
    broken = ExternalMethod("broken", f"{sys.executable} -c 'raise SystemExit(\"no weights\")' {{lr}} {{out}}")
    failures: list[tuple[str, SuperResolutionError]] = []
    conditions = [Condition(2), Condition(4)]
    scores = evaluate(
        [phantoms.body()], {"broken": broken}, conditions=conditions, failed=lambda *args: failures.append(args)
    )
    assert [(s.condition, s.method) for s in scores] == [(c, m) for c in conditions for m in BASELINES]
    assert [(name, error.code) for name, error in failures] == [("volume", "E-PEER")] * 2
    assert "broken: exit code 1" in str(failures[0][1]) and "no weights" in str(failures[0][1])
    with pytest.raises(SuperResolutionError, match="E-PEER"):
        evaluate([phantoms.body()], {"broken": broken}, conditions=conditions)


def test_a_volume_that_fails_is_named_and_the_others_go_on(tmp_path):
    good, bad = write_image(phantoms.body(), tmp_path / "good.nii.gz"), tmp_path / "bad.nii.gz"
    bad.write_bytes(b"nothing")
    failures: list[tuple[str, SuperResolutionError]] = []
    done: list[float] = []
    scores = evaluate(
        [bad, good], {}, conditions=[Condition(4)], failed=lambda *args: failures.append(args), progress=done.append
    )
    assert {s.volume for s in scores} == {"good.nii.gz"}
    ((name, error),) = failures
    assert (name, error.path) == ("bad.nii.gz", bad)
    assert done == [1.0]


# ------------------------------------------------------------- the ceiling


@pytest.mark.parametrize("condition", [Condition(3), Condition(4), Condition(4, noise=0.02)], ids=lambda c: c.name)
def test_a_method_that_knows_all_but_the_noise_reaches_the_ceiling_and_no_more(condition):
    clean = phantoms.body((30, 28, 48))
    noise = 4.0
    hr = clean.clone() + torch.from_numpy(RNG.normal(0, noise, clean.shape).astype(np.float32))
    made = acquire(hr, condition, 2)
    seen = made.matrix @ made.matrix.T + (made.noise / noise) ** 2 * torch.eye(len(made.matrix))
    guess = made.matrix.T @ torch.linalg.inv(seen)  # the mean of the noise, given what the slices show of it

    def oracle(image, **_):
        surprise = image.as_tensor() - apply_along(made.matrix, clean.as_tensor(), 3)
        return clean.clone() + apply_along(guess, surprise, 3)

    oracle_score = by_method(evaluate([hr], {"oracle": oracle}, conditions=[condition], axes=[2]))["oracle"]
    assert oracle_score.ceiling_db > 1
    assert oracle_score.gain_db == pytest.approx(oracle_score.ceiling_db, abs=0.3)


def test_without_noise_the_ceiling_is_out_of_sight():
    scores = by_method(evaluate([phantoms.body()], {}, conditions=[Condition(4)]))
    assert scores["cubic"].ceiling_db == scores["consistent"].ceiling_db > 40


# ------------------------------------------------------------- beside the harness that others are measured by


@pytest.mark.data
@pytest.mark.parametrize(
    ("factor", "profile", "theirs"), [(4, "gaussian", "gauss"), (3, "box", "box"), (4, "point", "point")]
)
@pytest.mark.parametrize("air", [0.0, -1000.0])
def test_figures_agree_with_those_of_the_shared_harness(shared_data, factor, profile, theirs, air):
    spec = importlib.util.spec_from_file_location("compare", shared_data.parent / "peers" / "compare.py")
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    volume = phantoms.body((24, 22, 50), air=air)  # 50 is no multiple of the factor
    ours = by_method(evaluate([volume], {}, conditions=[Condition(factor, profile)], axes=[2]))
    hr, affine = volume[0].numpy(), np.asarray(volume.affine)
    weights, offset = compare.profile_matrix(50, factor, theirs, "center")
    lr, lr_affine = compare.degrade(hr, 2, weights), compare.lr_affine(affine, 2, factor, offset)
    inner = (slice(None), slice(None), slice(factor, 50 - factor))
    modality = "ct" if air else "mr"
    value_range = float(np.subtract(*np.percentile(hr, (99.9, 0.1))))
    image = MetaTensor(torch.from_numpy(lr)[None], affine=torch.from_numpy(lr_affine))
    expected = {}
    for name in ("linear", "cubic", "consistent"):
        given = 1.0 if profile == "point" else float(factor)
        sr = BASELINES[name](image, factor=factor, slice_thickness=given, axis=2)
        voxels, _ = compare.to_grid(nib.Nifti1Image(sr[0].numpy(), np.asarray(sr.affine)), hr.shape, affine)
        foreground_there = compare.foreground(hr, modality)
        expected[name] = compare.measure(voxels, hr, lr, weights, 2, foreground_there, value_range, inner)
        assert ours[name].psnr_db == pytest.approx(expected[name]["psnr_fg"], abs=0.005)
        assert ours[name].ssim == pytest.approx(expected[name]["ssim_fg"], abs=5e-4)
    gain = expected["linear"]["psnr_fg"] - expected["consistent"]["psnr_fg"]
    assert ours["linear"].gain_db == pytest.approx(gain, abs=0.005)


# ------------------------------------------------------------- MONAI's metrics


@pytest.mark.parametrize(("metric", "figure"), [(ForegroundPSNR, psnr), (ForegroundSSIM, ssim)])
def test_a_monai_metric_is_the_mean_over_items_with_their_own_range_and_foreground(metric, figure):
    truths = [phantoms.body(), phantoms.body(air=-1000.0)]
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
