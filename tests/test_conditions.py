"""Thick slices are made as the condition says, and where they lie is known."""

import numpy as np
import phantoms
import pytest
import torch

from monai_sr.errors import UsageError
from monai_sr.evaluation.conditions import Condition, acquire, every_condition, robustness_conditions
from monai_sr.grid import grid_of
from monai_sr.intensities import data_range
from monai_sr.transforms import simulate_thick_slices


def test_the_plain_condition_is_what_simulate_makes_but_for_the_ends():
    hr = phantoms.body()
    made = acquire(hr, Condition(4), 2)
    expected = simulate_thick_slices(hr, 4.0, axis=2)
    assert torch.allclose(made.lr[..., 2:-2].as_tensor(), expected[..., 2:-2].as_tensor(), atol=1e-3)
    assert torch.equal(made.lr.affine, expected.affine)
    assert torch.equal(made.reference.as_tensor(), hr.as_tensor())
    assert made.slice_thickness == 4
    assert made.measured.tolist() == [False] * 4 + [True] * 40 + [False] * 4


@pytest.mark.parametrize("profile", ["gaussian", "box", "triangle"])
def test_what_lies_beyond_the_ends_is_not_made_up(profile):
    matrix = acquire(phantoms.body(), Condition(4, profile, 1.4), 2).matrix.numpy()
    assert matrix.sum(axis=1) == pytest.approx(np.ones(12))
    inner = matrix[6, 20:34]  # centered on 25.5
    # the first slice, centered on 1.5: the same profile, cut off
    assert matrix[0, :10] == pytest.approx(inner[4:] / inner[4:].sum(), abs=1e-4)


@pytest.mark.parametrize("factor", [3, 5])
def test_subsampling_by_an_odd_factor_takes_thin_slices_as_they_are(factor):
    hr = phantoms.body()
    made = acquire(hr, Condition(factor, "point"), 2)
    assert torch.allclose(made.lr.as_tensor(), hr.as_tensor()[..., factor // 2 :: factor], atol=1e-3)
    assert made.slice_thickness == 1


@pytest.mark.parametrize("factor", [2, 4])
def test_subsampling_by_an_even_factor_takes_the_mean_of_the_two_in_the_middle(factor):
    hr = phantoms.body()
    made = acquire(hr, Condition(factor, "point"), 2)
    middle = factor // 2
    expected = (hr[..., middle - 1 :: factor] + hr[..., middle::factor]) / 2
    assert torch.allclose(made.lr.as_tensor(), expected.as_tensor(), atol=1e-3)
    assert made.slice_thickness == 1


def test_thick_slices_may_be_thinner_or_thicker_than_they_are_apart():
    hr = phantoms.body()
    for ratio in (0.6, 1.4):
        made = acquire(hr, Condition(4, "box", ratio), 2)
        expected = simulate_thick_slices(hr, 4.0, slice_thickness=4 * ratio, profile="box", axis=2)
        assert torch.allclose(made.lr[..., 1:-1].as_tensor(), expected[..., 1:-1].as_tensor(), atol=1e-3)
        assert made.slice_thickness == pytest.approx(4 * ratio)


def test_a_wrong_given_thickness_changes_nothing_else():
    hr = phantoms.body()
    right, wrong = (acquire(hr, Condition(4, given_thickness=ratio), 2) for ratio in (1, 0.75))
    assert (right.slice_thickness, wrong.slice_thickness) == (4, 3)
    assert torch.equal(right.lr.as_tensor(), wrong.lr.as_tensor())
    assert torch.equal(right.matrix, wrong.matrix)


def test_noise_is_a_fraction_of_the_data_range_and_repeatable():
    hr = phantoms.body()
    clean, noisy, again = (acquire(hr, Condition(4, noise=level), 2) for level in (0, 0.02, 0.02))
    difference = (noisy.lr - clean.lr).as_tensor()
    assert noisy.noise == pytest.approx(0.02 * data_range(hr[0].numpy()))
    assert float(difference.std()) == pytest.approx(noisy.noise, rel=0.05)
    assert torch.equal(noisy.lr.as_tensor(), again.lr.as_tensor())
    assert torch.equal(noisy.reference.as_tensor(), clean.reference.as_tensor())


@pytest.mark.parametrize("axis", [0, 2])
def test_the_noise_of_a_ct_is_correlated_in_plane_and_independent_from_slice_to_slice(axis):
    hr = phantoms.body((48, 44, 48), (0.5, 0.5, 0.5), air=-1000)
    clean, noisy = (acquire(hr, Condition(4, noise=level, noise_type="scanner"), axis) for level in (0, 0.02))
    noise = torch.movedim((noisy.lr - clean.lr).as_tensor()[0], axis, -1).numpy()
    assert noise.std() == pytest.approx(noisy.noise, rel=0.05)
    beside = [np.corrcoef(np.delete(noise, -1, a).ravel(), np.delete(noise, 0, a).ravel())[0, 1] for a in range(3)]
    assert min(beside[:2]) > 0.3 and abs(beside[2]) < 0.1
    power = np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 0.5) for n in noise.shape[:2]), indexing="ij"))
    of_ring = [power[abs(radius - f) < 0.05].mean() for f in (0.05, 0.3, 0.8)]  # cycles/mm
    assert of_ring[1] > 2 * of_ring[0] and of_ring[1] > 2 * of_ring[2]


def test_the_noise_of_mr_is_rician():
    hr = phantoms.body()
    hr[:, :10] = 0
    noisy = acquire(hr, Condition(4, noise=0.02, noise_type="scanner"), 2)
    air, tissue = noisy.lr[0, :8].numpy(), noisy.lr[0, 12:].numpy()
    assert air.min() > 0 and air.mean() == pytest.approx(noisy.noise * np.sqrt(np.pi / 2), rel=0.03)
    clean = acquire(hr, Condition(4), 2).lr[0, 12:].numpy()
    strong = clean > 10 * noisy.noise
    assert (tissue - clean)[strong].std() == pytest.approx(noisy.noise, rel=0.05)


@pytest.mark.parametrize(("n", "count"), [(48, 12), (50, 12), (51, 13), (52, 13)])
def test_a_last_slice_counts_if_its_center_lies_within_and_the_trimmed_ends_do_not(n, count):
    made = acquire(phantoms.known_value(phantoms.grid((6, 7, n))), Condition(4), 2)
    assert made.lr.shape[-1] == count  # centers at 1.5, 5.5, …; the thirteenth at 49.5
    assert np.flatnonzero(made.measured).tolist() == list(range(4, n - 4))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
def test_a_turned_volume_lies_where_it_was(orientation, axis):
    hr = phantoms.known_value(phantoms.grid((12, 16, 20), (1.0, 1.1, 0.9), orientation=orientation))
    made = acquire(hr, Condition(2, permuted=True), axis)
    assert made.axis == (axis + 1) % 3
    assert made.hr.shape != hr.shape
    assert torch.allclose(made.reference, phantoms.known_value(grid_of(made.reference)), atol=1e-2)
    turned, own = grid_of(made.hr), grid_of(hr)
    assert turned.spacing[made.axis] == pytest.approx(own.spacing[axis])
    cosines = [turned.affine[:3, (a + 1) % 3] @ own.affine[:3, a] / own.spacing[a] ** 2 for a in range(3)]
    assert sorted(np.round(cosines)) == [-1, -1, 1]


@pytest.mark.parametrize("factor", [2, 2.5])
def test_few_slices_come_from_the_middle(factor):
    hr = phantoms.known_value(phantoms.grid((8, 40, 9)))
    made = acquire(hr, Condition(factor, slices=6), 1)
    assert made.lr.shape[2] == 6
    # to half a voxel, which is what an odd number left over costs
    assert phantoms.center(grid_of(made.lr)) == pytest.approx(phantoms.center(grid_of(hr)), abs=0.51)
    assert torch.allclose(made.hr, phantoms.known_value(grid_of(made.hr)), atol=1e-2)


def test_a_volume_too_short_or_a_factor_below_one_is_refused():
    hr = phantoms.body((8, 8, 5))
    with pytest.raises(UsageError, match="do not fit"):
        acquire(hr, Condition(20), 2)
    with pytest.raises(UsageError, match=r"factor is 0\.5"):
        acquire(hr, Condition(0.5), 2)


def test_unevenly_spaced_slices_are_refused():
    hr = phantoms.body()
    hr.meta["slice_positions"] = np.cumsum(np.linspace(1, 2, 48))
    with pytest.raises(UsageError, match="unevenly spaced"):
        acquire(hr, Condition(4), 2)


def test_conditions_are_all_combinations_and_subsampling_knows_no_thickness():
    conditions = every_condition([2, 4], profiles=["gaussian", "point"], thickness_ratios=[0.6, 1.4], noise=[0, 0.02])
    assert len(conditions) == len(set(conditions)) == 2 * (2 + 1) * 2
    assert {c.thickness_ratio for c in conditions if c.profile == "point"} == {1.0}
    assert every_condition([3]) == [Condition(3)]
    types = [(c.noise, c.noise_type) for c in every_condition([3], noise=[0, 0.02], noise_types=["white", "scanner"])]
    assert types == [(0, "white"), (0.02, "white"), (0.02, "scanner")]


def test_the_robustness_list_departs_from_the_plain_condition_in_one_thing_at_a_time():
    conditions = robustness_conditions([4])
    assert conditions[0] == Condition(4)
    names = [c.name for c in conditions if c.factor == 4]
    assert len(set(names)) == len(names) == 13
    assert not [name for name in names if "," in name]
    assert [c.factor for c in conditions if c.factor != 4] == [1.7, 2.5, 3.3]
    assert robustness_conditions([4, 2.5]).count(Condition(2.5)) == 1
    assert {c.factor for c in robustness_conditions() if c.profile == "box"} == {2, 3, 4}


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (Condition(4), "plain"),
        (Condition(4, "box"), "box profile"),
        (Condition(2, "point", noise=0.02), "subsampled, 2 % noise"),
        (Condition(2, noise=0.02, noise_type="scanner"), "2 % scanner noise"),
        (Condition(2, thickness_ratio=0.6, given_thickness=1.25), "thickness 0.6 × spacing, thickness given × 1.25"),
        (Condition(2, permuted=True, slices=12), "axes permuted and flipped, 12 slices"),
    ],
)
def test_a_condition_is_called_by_what_is_particular_about_it(condition, name):
    assert condition.name == name
