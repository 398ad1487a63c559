"""The three matrices along the through-plane axis: acquisition A, interpolation U, consistent spline B."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, interpolate, ndimage, stats

from monai_sr.grid import BLOCK_VOXELS, blocks
from monai_sr.slices import (
    PROFILES,
    RIDGE,
    Banded,
    SliceModel,
    apply_along,
    consistent_spline_matrix,
    enforce_consistency,
    interpolation_matrix,
    profile_matrix,
)
from monai_sr.trust.bounds import Bounds, hold


def centered(slices: int, step: float = 1.0) -> np.ndarray:
    """Evenly spaced positions around 0, mm."""
    return (np.arange(slices) - (slices - 1) / 2) * step


def factor_of(factor: float, *, slices: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Thick and thin positions of one slab; thin ones 1 mm apart."""
    return centered(slices, factor), centered(round(slices * factor))


THICK_UNEVEN = np.array([-17.3, -13.1, -8.6, -5.2, 0.3, 4.4, 7.1, 12.2, 16.9])

# name: thick positions, thin positions, thickness, profile, how far A B may be from the identity.
# The ridge costs accuracy where slices overlap: there A hardly sees the finest detail.
CASES = {
    "x2": (*factor_of(2), 2.0, "gaussian", 1e-4),
    "x4": (*factor_of(4), 4.0, "gaussian", 1e-4),
    "x3 box": (*factor_of(3), 3.0, "box", 1e-4),
    "x2.7": (*factor_of(2.7), 2.7, "gaussian", 1e-4),
    "x3.4 box": (*factor_of(3.4), 3.4, "box", 1e-4),
    "gaps": (*factor_of(4), 1.5, "gaussian", 1e-5),
    "gaps box": (*factor_of(5), 2.5, "box", 1e-5),
    "overlap": (*factor_of(3), 4.0, "gaussian", 5e-4),
    "overlap box": (*factor_of(3), 4.2, "box", 5e-4),
    "x3 triangle": (*factor_of(3), 3.0, "triangle", 1e-4),
    "x4.4 triangle": (*factor_of(4.4), 4.0, "triangle", 1e-4),
    "gaps triangle": (*factor_of(5), 2.5, "triangle", 1e-5),
    "uneven": (THICK_UNEVEN, centered(40), 4.0, "gaussian", 5e-4),
    "thickness differs": (*factor_of(4), np.where(np.arange(12) < 5, 2.5, 5.0), "gaussian", 1e-4),
    "thickness differs box": (*factor_of(4), np.where(np.arange(12) < 5, 2.5, 4.5), "box", 1e-4),
    "uneven thin": (centered(6, 4), np.cumsum([0.9, 1.1, 0.8, 1.3] * 6) - 12.3, 4.0, "gaussian", 1e-4),
    "x1": (*factor_of(1), 1.0, "box", 1e-4),
    "one slice": (np.array([0.0]), centered(4), 4.0, "gaussian", 1e-4),
}
each_case = pytest.mark.parametrize(
    ("thick", "thin", "thickness", "profile", "tolerance"), CASES.values(), ids=CASES.keys()
)


def model_of(thick, thin, thickness, profile) -> SliceModel:
    return SliceModel.between(thick, thin, slice_thickness=thickness, profile=profile)


@each_case
def test_rows_of_every_matrix_sum_to_one_so_constants_stay(thick, thin, thickness, profile, tolerance):
    model = model_of(thick, thin, thickness, profile)
    shapes = {"weights": (len(thick), len(thin)), "interpolation_weights": (len(thin), len(thick))}
    shapes["spline_weights"] = shapes["interpolation_weights"]
    for name, shape in shapes.items():
        matrix = getattr(model, name)
        assert matrix.shape == shape
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12, err_msg=name)
    assert (model.acquisition >= 0).all()


@each_case
def test_after_the_consistency_step_acquiring_again_gives_the_acquired_slices(
    thick, thin, thickness, profile, tolerance
):
    model = model_of(thick, thin, thickness, profile)
    acquired = torch.randn(2, 3, len(thick), dtype=torch.float64)  # noise holds the finest detail: the worst case
    proposal = torch.randn(2, 3, len(thin), dtype=torch.float64)
    sr = model.enforce(proposal, acquired)
    residual = apply_along(model.acquisition, sr) - acquired
    before = apply_along(model.acquisition, proposal) - acquired
    assert residual.norm() <= tolerance * before.norm()
    spline_itself = apply_along(model.acquisition, apply_along(model.spline, acquired))
    assert (spline_itself - acquired).norm() <= tolerance * acquired.norm()


@each_case
def test_the_consistency_step_leaves_what_agrees_already(thick, thin, thickness, profile, tolerance):
    model = model_of(thick, thin, thickness, profile)
    reference = torch.randn(4, len(thin), dtype=torch.float64)
    torch.testing.assert_close(model.enforce(reference, apply_along(model.acquisition, reference)), reference)


@pytest.mark.parametrize("ratio", [2.8, 3.2, 4.0])
def test_the_ridge_bounds_how_much_noise_strongly_overlapping_slices_amplify(ratio):
    model = model_of(*factor_of(3, slices=20), 3 * ratio, "gaussian")
    largest, interpolation = torch.linalg.matrix_norm, torch.from_numpy(model.interpolation_weights)
    bound = float(largest(interpolation, 2)) / (2 * RIDGE**0.5)  # s / (s² + ridge) is never above 1 / (2 √ridge)
    without = consistent_spline_matrix(model.acquisition, interpolation, ridge=0.0)
    assert largest(model.spline, 2) <= 1.01 * bound < largest(without, 2)


@pytest.mark.parametrize(
    ("thickness", "profile", "factor", "tolerance"),
    [(4.0, "gaussian", 4, 1e-5), (2.7, "gaussian", 2.7, 1e-5), (4.2, "gaussian", 3, 1e-5), (2.0, "gaussian", 4.3, 1e-4),
     (4.0, "box", 4, 1e-9), (3.0, "box", 3, 1e-9), (6.0, "box", 4, 1e-9)],
)  # fmt: skip
def test_a_ramp_stays_a_ramp_away_from_the_ends(thickness, profile, factor, tolerance):
    thick, thin = factor_of(factor, slices=40)
    model = model_of(thick, thin, thickness, profile)
    inside = slice(14, -14), slice(round(14 * factor), -round(14 * factor))
    np.testing.assert_allclose((model.acquisition.numpy() @ thin)[inside[0]], thick[inside[0]], atol=tolerance)
    np.testing.assert_allclose((model.interpolation_weights @ thick)[inside[1]], thin[inside[1]], atol=1e-6)
    np.testing.assert_allclose((model.spline.numpy() @ thick)[inside[1]], thin[inside[1]], atol=5e-4)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("thickness", [0.4, 2.0, 3.7])
def test_a_row_is_the_profile_integrated_over_each_thin_slice(profile, thickness):
    thin, thick = centered(30), np.array([-4.3, 0.0, 5.25])
    sigma = thickness / 2.3548200450309493
    shapes = {
        "gaussian": stats.norm(scale=sigma),
        "box": stats.uniform(-thickness / 2, thickness),
        "triangle": stats.triang(0.5, -thickness, 2 * thickness),
    }
    shape = shapes[profile]
    weights = profile_matrix(thin, thick, slice_thickness=thickness, profile=profile)
    for j, k in [(0, 10), (1, 14), (1, 15), (2, 20), (2, 19)]:
        low, high = thin[k] - 0.5 - thick[j], thin[k] + 0.5 - thick[j]
        corners = [c for c in (-thickness, -thickness / 2, 0, thickness / 2, thickness) if low < c < high]
        expected, _ = integrate.quad(shape.pdf, low, high, points=corners or None)
        assert float(weights[j, k]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_slice_may_have_a_thickness_of_its_own(profile):
    thick, thin = factor_of(4)
    thickness = np.where(np.arange(12) < 5, 2.5, 5.0)
    mixed = profile_matrix(thin, thick, slice_thickness=thickness, profile=profile)
    for row, own in enumerate(thickness):
        alone = profile_matrix(thin, thick, slice_thickness=float(own), profile=profile)
        torch.testing.assert_close(mixed[row], alone[row], rtol=0, atol=0)


def test_a_wave_seen_by_slices_of_two_thicknesses_is_recovered():
    thick, thin = factor_of(4, slices=24)
    thickness = np.where(np.arange(24) < 11, 2.5, 5.0)
    wave = 2 * np.pi / 20  # a Gaussian profile only lowers it: exp(-(k sigma)^2 / 2)
    seen = np.exp(-((wave * thickness / 2.3548200450309493) ** 2) / 2) * np.sin(wave * thick)
    model = SliceModel.between(thick, thin, slice_thickness=thickness)
    inside = slice(20, -20)  # the ends are mirrored
    np.testing.assert_allclose((model.acquisition.numpy() @ np.sin(wave * thin))[2:-2], seen[2:-2], atol=0.01)
    error = np.abs(model.spline.numpy() @ seen - np.sin(wave * thin))[inside].max()
    as_the_first = SliceModel.between(thick, thin, slice_thickness=2.5).spline.numpy()
    assert error < 0.02
    assert np.abs(as_the_first @ seen - np.sin(wave * thin))[inside].max() > 5 * error


@pytest.mark.parametrize("thickness", [2.0, 3.5, 6.0])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_the_asked_width_at_half_its_height(profile, thickness):
    thin = centered(401, 0.05)
    (row,) = profile_matrix(thin, [0.0], slice_thickness=thickness, profile=profile).numpy()
    half = thin[row >= row.max() / 2]
    assert half[-1] - half[0] + 0.05 == pytest.approx(thickness, abs=0.1)  # one thin slice at each flank
    np.testing.assert_allclose(row, row[::-1], atol=1e-12)


def test_what_lies_beyond_the_ends_looks_like_the_end_slices():
    thin = centered(8)
    weights = profile_matrix(thin, thin[[0, -1]], slice_thickness=3.0)
    longer = profile_matrix(centered(28), thin[[0, -1]], slice_thickness=3.0)
    assert float(weights[0, 0]) == pytest.approx(float(longer[0, :11].sum()), abs=1e-9)
    assert float(weights[1, -1]) == pytest.approx(float(longer[1, -11:].sum()), abs=1e-9)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("positions", [centered(9, 3.0), THICK_UNEVEN], ids=["even", "uneven"])
def test_interpolating_to_the_same_slices_changes_nothing(order, positions):
    identity = np.eye(len(positions))
    np.testing.assert_allclose(interpolation_matrix(positions, positions, order=order), identity, atol=1e-9)


@pytest.mark.parametrize("profile", PROFILES)
def test_at_factor_one_acquiring_the_consistent_spline_changes_nothing(profile):
    positions = centered(15, 2.5)
    model = model_of(positions, positions, 2.5, profile)
    np.testing.assert_allclose(model.acquisition @ model.spline, np.eye(15), atol=1e-4)
    if profile == "box":  # such a slice is what its voxel shows
        np.testing.assert_allclose(model.acquisition, np.eye(15), atol=1e-12)
        np.testing.assert_allclose(model.spline, np.eye(15), atol=2 * RIDGE)


@pytest.mark.parametrize(("order", "mode"), [(1, "nearest"), (3, "mirror")])
@pytest.mark.parametrize("factor", [1, 2, 2.7, 5])
def test_interpolation_along_one_axis_is_that_of_scipy(order, mode, factor):
    slices = 17
    thick, thin = factor_of(factor, slices=slices)
    lines = np.random.default_rng(3).normal(size=(4, slices))
    ours = lines @ interpolation_matrix(thick, thin, order=order).numpy().T
    index = (thin - thick[0]) / factor
    theirs = [ndimage.map_coordinates(line, [index], order=order, mode=mode) for line in lines]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 9, 60])
def test_a_cubic_spline_through_uneven_slices_is_that_of_scipy(count):
    thick = np.cumsum(np.random.default_rng(count).uniform(1.0, 6.0, count))
    thin = np.linspace(2 * thick[0] - thick[-1], 2 * thick[-1] - thick[0], 301)  # both mirror images too
    mirrored = np.concatenate([2 * thick[0] - thick[:0:-1], thick, 2 * thick[-1] - thick[-2::-1]])
    lines = np.random.default_rng(3).normal(size=(4, count))
    values = np.concatenate([lines[:, :0:-1], lines, lines[:, -2::-1]], axis=1)
    theirs = interpolate.CubicSpline(mirrored, values.T, bc_type="clamped")(thin)
    np.testing.assert_allclose(lines @ interpolation_matrix(thick, thin).numpy().T, theirs.T, atol=1e-12)


@pytest.mark.parametrize("width", [0.01, 1.0, 300.0])
def test_a_gaussian_profile_is_integrated_as_scipy_does(width):
    thin, thick = centered(400), centered(50, 8.0)
    borders = stats.norm.cdf((centered(399) - thick[:, None]) * 2 * np.sqrt(2 * np.log(2)) / width)
    below = np.concatenate([np.zeros((50, 1)), borders, np.ones((50, 1))], axis=1)
    ours = profile_matrix(thin, thick, slice_thickness=width)
    np.testing.assert_allclose(ours, np.diff(below, axis=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("positions", [centered(60, 3.0), np.cumsum([2.4, 3.3, 2.9, 3.6] * 15)], ids=["even", "uneven"])
@pytest.mark.parametrize("power", [2, 3])
def test_the_cubic_spline_is_exact_on_polynomials_away_from_the_ends(positions, power):
    positions = positions - positions.mean()
    target = np.linspace(-15, 15, 83)
    curve = np.polynomial.Polynomial([3.0, -1.0, 0.25, 0.01 if power == 3 else 0.0])
    interpolated = interpolation_matrix(positions, target).numpy() @ curve(positions)
    np.testing.assert_allclose(interpolated, curve(target), atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_nothing_is_extrapolated_beyond_the_ends(order):
    thick, thin = factor_of(4, slices=10)
    values = interpolation_matrix(thick, thin, order=order).numpy() @ thick
    assert thick[0] - 0.5 < values.min()
    assert values.max() < thick[-1] + 0.5
    assert interpolation_matrix([5.0], thin, order=order).numpy() == pytest.approx(1.0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_a_matrix_is_applied_along_the_axis_that_is_named(axis):
    voxels = torch.randn(4, 5, 6)
    matrix = torch.randn(3, voxels.shape[axis], dtype=torch.float64)
    result = apply_along(matrix, voxels, axis)
    expected = np.moveaxis(np.tensordot(matrix.numpy(), voxels.numpy(), axes=(1, axis)), 0, axis)
    assert result.dtype == torch.float32  # the voxels', not the matrix's
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_every_item_of_a_batch_is_corrected_by_its_own_matrices():
    models = [model_of(*factor_of(2, slices=6), thickness, "gaussian") for thickness in (1.0, 2.0, 2.6)]
    sr, lr = torch.randn(3, 1, 2, 4, 12), torch.randn(3, 1, 2, 4, 6)
    batch = [torch.stack([getattr(m, name) for m in models]).float() for name in ("acquisition", "spline")]
    together = enforce_consistency(sr, lr, *batch)
    alone = torch.stack([m.enforce(x, y) for m, x, y in zip(models, sr, lr, strict=True)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], models[1].enforce(sr[0], lr[0]), atol=1e-2)


def test_gradients_pass_through_the_consistency_step():
    model = model_of(*factor_of(2, slices=5), 2.0, "gaussian")
    sr = torch.randn(10, dtype=torch.float64, requires_grad=True)
    lr = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: model.enforce(x, lr), sr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slice_thickness": 0.0}, "slice_thickness is 0.0"),
        ({"slice_thickness": -2.0}, "slice_thickness is -2.0"),
        ({"slice_thickness": float("nan")}, "slice_thickness is nan"),
        ({"slice_thickness": np.array([2.0, 0.0, 2.0])}, "must be above 0"),
        ({"slice_thickness": np.array([2.0, 2.0])}, r"shape \(2,\), must be one number or 3"),
        ({"profile": "sine"}, "'sine'"),
        ({"thick": [0.0, 9.0]}, "outside the thin ones"),
        ({"thick": [-9.0, 0.0]}, "outside the thin ones"),
        ({"thick": [1.0, 0.0]}, "thick positions must be finite and increase"),
        ({"thin": [0.0, 1.0, 1.0]}, "thin positions must be finite and increase"),
        ({"thin": [0.0, np.nan]}, "thin positions must be finite and increase"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(change, message):
    arguments = {"thin": centered(10), "thick": centered(3, 2), "slice_thickness": 2.0} | change
    thin, thick = arguments.pop("thin"), arguments.pop("thick")
    with pytest.raises(ValueError, match=message):
        profile_matrix(thin, thick, **arguments)


def test_an_order_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="order is 2"):
        interpolation_matrix(centered(5), centered(10, 0.5), order=2)


@pytest.mark.parametrize(("rows", "voxels"), [(1, 10), (7, BLOCK_VOXELS // 3), (5, BLOCK_VOXELS * 2), (512, 9)])
def test_blocks_are_bounded_and_together_every_row_once(rows, voxels):
    parts = list(blocks(rows, voxels))
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert all(1 <= part.stop - part.start <= max(1, BLOCK_VOXELS // voxels) for part in parts)


@pytest.mark.parametrize("count", [3, 40, 300])
@pytest.mark.parametrize("profile", PROFILES)
def test_leaving_out_what_is_zero_changes_nothing(count, profile):
    thin = np.arange(4 * count) / 4 - 0.375
    model = SliceModel.between(np.arange(count), thin, slice_thickness=1.2, profile=profile)
    for matrix in (model.acquisition, model.spline):
        voxels = torch.randn(3, 2, matrix.shape[1], dtype=torch.float64)
        banded = Banded(matrix)
        torch.testing.assert_close(banded(voxels), apply_along(matrix, voxels), atol=1e-7, rtol=0)
        if count == 300:
            assert sum(weights.size for *_, weights in banded._pieces) < 0.3 * matrix.numel()


# ------------------------------------------------------------- possible values


def walls(thin: np.ndarray, *, seed: int = 0, count: int = 40) -> torch.Tensor:
    """(count, n) lines that are 0 or far above it, in thick pieces: thin anatomy that no value below 0 explains."""
    generator = np.random.default_rng(seed)
    pieces = generator.integers(0, 2, (count, len(thin) // 4 + 1)) * generator.uniform(20, 100, (count, 1))
    return torch.from_numpy(np.repeat(pieces, 4, axis=1)[:, : len(thin)])


ABOVE_ZERO = Bounds(low=0.0, high=200.0, overshoot=200.0, tolerance=0.01)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("factor", [2, 4, 5.5])
def test_lines_below_zero_are_raised_and_come_closer_to_the_reference(profile, factor):
    thick, thin = factor_of(factor, slices=24)
    model = SliceModel.between(thick, thin, slice_thickness=factor, profile=profile)
    hr = walls(thin)
    lr = apply_along(model.acquisition, hr)
    sr = apply_along(model.spline, lr)
    held = hold(model, sr.clone(), lr, ABOVE_ZERO)
    assert sr.min() < -1 and held.min() == 0
    changed = (held != sr).any(dim=-1)
    assert bool(changed.any())

    def miss(x: torch.Tensor) -> torch.Tensor:
        return (lr - apply_along(model.acquisition, x))[changed].square().mean()

    def error(x: torch.Tensor) -> torch.Tensor:
        return (x - hr)[changed].square().sum(dim=-1)

    cut = sr.clamp(min=0)
    assert miss(held) < 0.05 * miss(cut)  # clamping alone gives up the averages
    assert bool((error(held) <= error(sr) * (1 + 1e-6)).all())
    assert error(held).sum() < error(cut).sum()


def test_lines_within_the_bounds_are_not_touched():
    thick, thin = factor_of(4)
    model = SliceModel.between(thick, thin, slice_thickness=4.0)
    sr = torch.rand(5, 6, len(thin)) * 50 + 10
    lr = apply_along(model.acquisition, sr)
    assert torch.equal(hold(model, sr.clone(), lr, ABOVE_ZERO), sr)
    sr[2, 3, 7] = -1.0
    held = hold(model, sr.clone(), lr, ABOVE_ZERO)
    assert (held != sr).any(dim=-1).nonzero().tolist() == [[2, 3]]


def test_where_slices_contradict_their_profile_the_bounds_win():
    """A single bright slice between dark ones, said to overlap by half: nothing above 0 averages to that."""
    thick, thin = centered(12, 5.0), centered(60)
    model = SliceModel.between(thick, thin, slice_thickness=8.0)
    lr = torch.zeros(12, dtype=torch.float64)
    lr[5] = 100.0
    sr = apply_along(model.spline, lr)
    held = hold(model, sr[None].clone(), lr[None], Bounds(low=0.0, high=150.0, overshoot=25.0, tolerance=0.5))[0]
    assert sr.min() < -50 and sr.max() > 150
    assert held.min() == 0 and held.max() <= 150
    assert held[:15].abs().max() <= 25  # and far from the bright slice less is allowed than beside it


@pytest.mark.parametrize("factor", [2, 5.5])
def test_arrays_and_tensors_are_treated_alike(factor):
    thick, thin = factor_of(factor, slices=24)
    model = SliceModel.between(thick, thin, slice_thickness=factor)
    lr = apply_along(model.acquisition, walls(thin))
    for_arrays, for_tensors = (
        hold(model, model.enforce(proposal, slices), slices, ABOVE_ZERO)
        for slices in (lr.numpy(), lr)
        for proposal in [apply_along(model.spline, slices)]
    )
    assert isinstance(for_arrays, np.ndarray) and for_arrays.min() == 0
    torch.testing.assert_close(torch.from_numpy(for_arrays), for_tensors)
