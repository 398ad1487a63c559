"""Thick slices as MONAI transforms: what is made, where it lies in the world, and what is drawn."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImage

from monai_sr.errors import ImageError, UsageError
from monai_sr.grid import grid_of, on_grid, positions_on, target_grid, thick_grid
from monai_sr.intensities import Normalization, intensity_range
from monai_sr.slices import SliceModel, apply_along, profile_matrix
from monai_sr.training.augmentation import RandCoarseCropd, RandSimulateThickSlicesd
from monai_sr.transforms import (
    InterpolateSlicesd,
    NormalizeIntensitiesd,
    SimulateThickSlicesd,
    SuperResolvedGridd,
    interpolate_slices,
    simulate_thick_slices,
)

# the slices that become thick are the finest here, so that the axis must be named
THIN = phantoms.grids(slice_spacing=0.9, voxels=(5, 6, 64))
THICK = phantoms.grids(slice_spacing=4.0, voxels=(5, 6, 24))
on_any_thin_grid = pytest.mark.parametrize(("grid", "axis"), THIN.values(), ids=THIN.keys())
on_any_thick_grid = pytest.mark.parametrize(("grid", "axis"), THICK.values(), ids=THICK.keys())


def assert_shows(image: MetaTensor, value_at, axis: int, *, ends: int, atol: float) -> None:
    """Every voxel holds the value of its world point by its own affine, except near the ends."""
    expected = value_at(phantoms.world(grid_of(image)))
    inside = phantoms.away_from_ends(image.as_tensor()[0].numpy(), axis, ends)
    assert inside.shape[axis] >= 4  # something is left to compare
    np.testing.assert_allclose(inside, phantoms.away_from_ends(expected, axis, ends), rtol=0, atol=atol)


# -- simulating ------------------------------------------------------------------------------------


@on_any_thin_grid
@pytest.mark.parametrize("slice_spacing", [1.8, 2.7, 3.1])
def test_thick_slices_lie_where_their_affine_says(grid, axis, slice_spacing):
    lr = simulate_thick_slices(phantoms.ramp(grid), slice_spacing, axis=axis)
    assert grid_of(lr).spacing[axis] == pytest.approx(slice_spacing)
    assert lr.shape[1 + axis] == int(64 * 0.9 / slice_spacing)
    assert_shows(lr, phantoms.ramp_at, axis, ends=3, atol=1e-3)


@on_any_thick_grid
@pytest.mark.parametrize("method", ["linear", "cubic", "consistent"])
@pytest.mark.parametrize("spacing", [1.0, 2.0, 1.7])
def test_interpolated_slices_lie_where_their_affine_says(grid, axis, method, spacing):
    fine = interpolate_slices(phantoms.ramp(grid), spacing, method=method)
    assert grid_of(fine).spacing[axis] == pytest.approx(spacing)
    assert_shows(fine, phantoms.ramp_at, axis, ends=round(36 / spacing), atol=2e-3)


@on_any_thick_grid
def test_a_smooth_volume_is_interpolated_to_its_value_at_every_world_point(grid, axis):
    fine = interpolate_slices(phantoms.known_value(grid), 1.0)
    assert_shows(fine, phantoms.known_value_at, axis, ends=28, atol=0.5)  # 0.03 mm of it


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_interpolating_what_was_simulated_comes_back_to_the_same_grid(factor):
    hr = phantoms.known_value(phantoms.grid((5, 6, 48), (1.3, 1.1, 0.8), orientation="oblique"))
    fine = interpolate_slices(simulate_thick_slices(hr, 0.8 * factor, axis=2), 0.8, axis=2)
    assert fine.shape == hr.shape
    np.testing.assert_allclose(fine.affine, hr.affine, atol=1e-9)


@pytest.mark.parametrize("slice_thickness", [2.0, 3.5, 6.0])
@pytest.mark.parametrize("profile", ["gaussian", "box", "triangle"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_thick_slice_is_as_wide_as_asked(slice_thickness, profile, axis):
    shape, spacing = [3, 3, 3], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 121, 0.25
    point = phantoms.point(phantoms.grid(tuple(shape), tuple(spacing), orientation="oblique"))
    thick = simulate_thick_slices(point, 0.25, slice_thickness=slice_thickness, profile=profile, axis=axis)
    assert phantoms.fwhm(thick, axis) == pytest.approx(slice_thickness, abs=0.125)  # half a voxel


@pytest.mark.parametrize("slice_thickness", [2.0, 5.0])
@pytest.mark.parametrize("width", [1.5, 4.0])
def test_a_blob_seen_by_thick_slices_is_as_wide_as_both_together(slice_thickness, width):
    grid = phantoms.grid((9, 9, 161), (1.0, 1.0, 0.2), orientation="LPS")
    blob = phantoms.gaussian_blob(grid, fwhm=width)
    assert phantoms.fwhm(blob, 2) == pytest.approx(width, rel=0.01)
    thick = simulate_thick_slices(blob, 0.2, slice_thickness=slice_thickness, axis=2)
    assert phantoms.fwhm(thick, 2) == pytest.approx(np.hypot(width, slice_thickness), rel=0.01)
    assert float(thick.max()) == pytest.approx(width / np.hypot(width, slice_thickness), rel=0.01)


def test_a_sharp_edge_becomes_the_cumulative_profile():
    grid = phantoms.grid((3, 3, 160), (1.0, 1.0, 0.25), orientation="oblique")
    thick = simulate_thick_slices(phantoms.step_edge(grid, 2), 1.0, slice_thickness=4.0, axis=2)
    expected = phantoms.step_edge(grid_of(thick), 2, width=4.0)
    torch.testing.assert_close(thick.as_tensor(), expected.as_tensor(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("slice_thickness", [1.0, 3.0, 5.0])
def test_a_sphere_keeps_its_volume_in_thick_slices(slice_thickness):
    ball = phantoms.sphere(phantoms.grid((24, 24, 60), (1.0, 1.0, 0.5), orientation="oblique"), radius=8)
    thick = simulate_thick_slices(ball, 3.0, slice_thickness=slice_thickness, axis=2)
    volume = float(thick.sum()) * np.prod(grid_of(thick).spacing)
    # what the thin voxels hold, up to how slices with gaps happen to cut it
    assert volume == pytest.approx(float(ball.sum()) * 0.5, rel=1e-3 if slice_thickness >= 3 else 0.03)
    assert volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.04)


def test_simulation_is_linear():
    grid = phantoms.grid((4, 5, 20))
    one, other = phantoms.known_value(grid), phantoms.gaussian_blob(grid, fwhm=4)
    alone = [simulate_thick_slices(v, 3.0, axis=2).as_tensor() for v in (one, other)]
    together = simulate_thick_slices(2 * one - 30 * other, 3.0, axis=2).as_tensor()
    torch.testing.assert_close(together, 2 * alone[0] - 30 * alone[1], rtol=1e-4, atol=1e-3)


@on_any_thin_grid
def test_a_constant_stays_constant_to_the_very_ends(grid, axis):
    lr = simulate_thick_slices(phantoms.constant(grid), 3.1, axis=axis)
    torch.testing.assert_close(lr.as_tensor(), torch.full(lr.shape, 7.0))
    for method in ("linear", "cubic", "consistent"):
        fine = interpolate_slices(lr, 0.9, method=method, axis=axis)
        torch.testing.assert_close(fine.as_tensor(), torch.full(fine.shape, 7.0))


@on_any_thick_grid
@pytest.mark.parametrize("method", ["linear", "cubic", "consistent"])
def test_interpolating_to_the_same_spacing_changes_nothing(grid, axis, method):
    image = phantoms.known_value(grid)
    same = interpolate_slices(image, 4.0, method=method, profile="box")
    torch.testing.assert_close(same.as_tensor(), image.as_tensor(), rtol=0, atol=1e-2)
    np.testing.assert_allclose(same.affine, image.affine, atol=1e-9)


@pytest.mark.parametrize("slice_thickness", [None, 2.0, 4.5])
@pytest.mark.parametrize("profile", ["gaussian", "box", "triangle"])
def test_the_consistent_spline_acquired_again_is_the_acquired_volume(slice_thickness, profile):
    lr = phantoms.known_value(phantoms.grid((5, 6, 20), (1.0, 1.0, 3.6), orientation="oblique"))
    options = {"slice_thickness": slice_thickness, "profile": profile}
    fine = interpolate_slices(lr, 0.9, method="consistent", **options)
    again = simulate_thick_slices(fine, 3.6, axis=2, **options)
    np.testing.assert_allclose(again.affine, lr.affine, atol=1e-9)
    torch.testing.assert_close(again.as_tensor(), lr.as_tensor(), rtol=0, atol=0.1)
    cubic = simulate_thick_slices(interpolate_slices(lr, 0.9), 3.6, axis=2, **options)
    assert (cubic - lr).abs().max() > 3 * (again - lr).abs().max()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_same_anatomy_stored_otherwise_gives_the_same_slices(axis):
    shape, spacing = [4, 5], [1.0, 1.2]
    shape.insert(axis, 14)
    spacing.insert(axis, 4.0)
    grid = phantoms.grid(tuple(shape), tuple(spacing), orientation="oblique")
    image = phantoms.known_value(grid)
    flipped_affine = grid.affine.copy()
    flipped_affine[:3, 3] += flipped_affine[:3, axis] * (14 - 1)
    flipped_affine[:3, axis] *= -1
    flipped = MetaTensor(image.as_tensor().flip(axis + 1), affine=flipped_affine)
    turned = MetaTensor(image.as_tensor().permute(0, 3, 2, 1), affine=grid.affine[:, [2, 1, 0, 3]])
    fine = interpolate_slices(image, 1.3).as_tensor()
    torch.testing.assert_close(interpolate_slices(flipped, 1.3).as_tensor().flip(axis + 1), fine, rtol=0, atol=1e-3)
    torch.testing.assert_close(interpolate_slices(turned, 1.3).as_tensor().permute(0, 3, 2, 1), fine)


# -- geometry and metadata -------------------------------------------------------------------------


def test_other_metadata_stays_and_the_geometry_is_that_of_the_result():
    hr = phantoms.known_value(phantoms.grid((4, 5, 20)))
    hr.meta["filename_or_obj"] = "head.nii.gz"
    before = hr.as_tensor().clone(), hr.affine.clone()
    lr = simulate_thick_slices(hr, 3.0, axis=1)
    assert lr.meta["filename_or_obj"] == "head.nii.gz"
    assert tuple(lr.meta["spatial_shape"]) == tuple(lr.shape[1:]) == (4, 1, 20)
    np.testing.assert_array_equal(lr.meta["original_affine"], lr.affine)
    torch.testing.assert_close(hr.as_tensor(), before[0])
    torch.testing.assert_close(hr.affine, before[1])


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float32, torch.float64])
def test_whole_numbers_become_floating_point_and_floating_point_stays(dtype):
    hr = MetaTensor(torch.arange(60).reshape(1, 3, 2, 10).to(dtype), affine=torch.eye(4))
    lr = simulate_thick_slices(hr, 2.0, axis=2)
    assert lr.dtype == (dtype if dtype.is_floating_point else torch.float32)
    torch.testing.assert_close(lr.as_tensor(), simulate_thick_slices(hr.float(), 2.0, axis=2).as_tensor().to(lr.dtype))


def test_every_channel_is_treated_alike():
    one = phantoms.known_value(phantoms.grid((4, 5, 20)))
    two = MetaTensor(torch.cat([one.as_tensor(), 2 * one.as_tensor()]), affine=one.affine)
    lr = simulate_thick_slices(two, 2.5, axis=2)
    torch.testing.assert_close(lr[1].as_tensor(), 2 * lr[0].as_tensor())


@on_any_thin_grid
@pytest.mark.parametrize("slice_spacing", [1.8, 4.1])
def test_thick_slices_are_counted_from_the_edge_of_the_first_thin_one(grid, axis, slice_spacing):
    thick = thick_grid(grid, axis, slice_spacing)
    edge = [g.affine[:3, 3] - g.affine[:3, axis] / 2 for g in (grid, thick)]
    np.testing.assert_allclose(edge[0], edge[1], atol=1e-9)
    assert thick.shape[axis] * slice_spacing <= 64 * 0.9 < (thick.shape[axis] + 1) * slice_spacing


@on_any_thin_grid
def test_positions_count_mm_from_the_first_slice_of_the_reference(grid, axis):
    thick = thick_grid(grid, axis, 2.7)
    np.testing.assert_allclose(positions_on(grid, axis, grid), np.arange(64) * 0.9, atol=1e-9)
    np.testing.assert_allclose(positions_on(thick, axis, grid)[:3], 0.9 + np.arange(3) * 2.7, atol=1e-9)


@on_any_thick_grid
def test_the_wanted_grid_is_the_same_by_factor_and_by_spacing(grid, axis):
    by_factor, slice_axis = target_grid(grid, factor=4)
    by_spacing, _ = target_grid(grid, spacing=1.0)
    assert slice_axis == axis
    assert by_factor.shape == by_spacing.shape
    np.testing.assert_allclose(by_factor.affine, by_spacing.affine, atol=1e-9)
    unasked, _ = target_grid(grid)
    assert unasked.spacing[axis] == pytest.approx(1.0)  # the finer in-plane spacing


@pytest.mark.parametrize(
    ("options", "message"),
    [({"factor": 2, "spacing": 1.0}, "both"), ({"axis": 3}, "axis 3"), ({"factor": 0}, "factor of 0"),
     ({"factor": float("nan")}, "factor of nan"), ({"spacing": -1.0}, "-1.0 mm")],
)  # fmt: skip
def test_a_grid_that_cannot_be_wanted_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        target_grid(phantoms.grid(spacing=(1, 1, 4)), **options)


@pytest.mark.parametrize(("shape", "code"), [((4, 5, 6), "E-IMG-2D"), ((1, 4, 5, 6, 7), "E-IMG-4D")])
def test_only_volumes_have_a_grid(shape, code):
    with pytest.raises(ImageError, match=code):
        grid_of(torch.zeros(shape))


def test_slices_that_cannot_be_simulated_are_refused():
    hr = phantoms.constant(phantoms.grid((4, 5, 6), (1, 1, 2)))
    with pytest.raises(UsageError, match="finer than that of the volume, 2 mm"):
        simulate_thick_slices(hr, 1.0)
    with pytest.raises(UsageError, match="do not fit in 12 mm"):
        simulate_thick_slices(hr, 13.0)
    with pytest.raises(UsageError, match="--axis"):
        simulate_thick_slices(phantoms.constant(phantoms.grid()), 2.0)
    with pytest.raises(ValueError, match="'nearest'"):
        interpolate_slices(hr, 1.0, method="nearest")


# -- transforms over the functions -----------------------------------------------------------------


def test_the_transforms_are_the_functions():
    hr = phantoms.known_value(phantoms.grid((5, 6, 24), (1, 1, 1.5)))
    expected = simulate_thick_slices(hr, 4.5, slice_thickness=3.0, profile="box")
    options = {"slice_thickness": 3.0, "profile": "box"}
    for lr in (
        simulate_thick_slices(hr, factor=3, **options),
        SimulateThickSlicesd("ct", 4.5, **options)({"ct": hr})["ct"],
        SimulateThickSlicesd("ct", factor=3, **options)({"ct": hr, "kept": 1})["ct"],
    ):
        torch.testing.assert_close(lr.as_tensor(), expected.as_tensor())
        torch.testing.assert_close(lr.affine, expected.affine)
    fine = interpolate_slices(expected, 1.5, method="consistent", **options)
    for sr in (
        interpolate_slices(expected, factor=3, method="consistent", **options),
        InterpolateSlicesd("ct", 1.5, method="consistent", **options)({"ct": expected})["ct"],
        InterpolateSlicesd("ct", factor=3, method="consistent", **options)({"ct": expected})["ct"],
    ):
        torch.testing.assert_close(sr.as_tensor(), fine.as_tensor())
        torch.testing.assert_close(sr.affine, fine.affine)


def test_a_dictionary_keeps_what_is_not_named_and_may_miss_a_key():
    data = {"image": phantoms.constant(phantoms.grid((4, 4, 8), (1, 1, 2))), "name": "a"}
    kept = data["image"]
    for transform in (
        SimulateThickSlicesd(["image", "absent"], factor=2, allow_missing_keys=True),
        InterpolateSlicesd(["image", "absent"], factor=2, allow_missing_keys=True),
    ):
        assert transform(data).keys() == data.keys()
    assert data["image"] is kept
    with pytest.raises(KeyError):
        SimulateThickSlicesd("absent", factor=2)(data)


@pytest.mark.parametrize("make", [simulate_thick_slices, interpolate_slices])
def test_spacing_and_factor_contradict_each_other(make):
    image = phantoms.constant(phantoms.grid((4, 4, 8), (1, 1, 2)))
    with pytest.raises(ValueError, match="give"):
        make(image, 2.0, factor=2)
    with pytest.raises(ValueError, match="give slice_spacing or factor"):
        simulate_thick_slices(image)


@pytest.mark.parametrize("modality", ["CT", "MR", None])
def test_normalizing_is_the_rule_of_the_intensities_and_keeps_the_geometry(modality):
    image = phantoms.known_value(phantoms.grid(orientation="oblique")) * 9
    normalized = NormalizeIntensitiesd("image", modality, ct_window=(-1500, -900))({"image": image})["image"]
    expected = intensity_range(image, modality, Normalization(ct_window=(-1500, -900))).normalize(image)
    torch.testing.assert_close(normalized.as_tensor(), expected.as_tensor())
    assert normalized.min() < 0
    assert normalized.max() > 1
    torch.testing.assert_close(normalized.affine, image.affine)


# -- training pairs --------------------------------------------------------------------------------


def textured(shape=(8, 10, 12), spacing=(1.0, 1.0, 1.0)) -> MetaTensor:
    """Noise, so that any two different slices differ."""
    grid = phantoms.grid(shape, spacing)
    generator = torch.Generator().manual_seed(5)
    return MetaTensor(torch.rand((1, *shape), generator=generator), affine=torch.from_numpy(grid.affine.copy()))


def drawn(transform: RandSimulateThickSlicesd, volume: MetaTensor, *, seed: int = 0, times: int = 1) -> list[dict]:
    transform.set_random_state(seed)
    return [transform({"image": volume}) for _ in range(times)]


def assert_same(one: dict, other: dict) -> None:
    for key in ("image", "label", "acquired", "acquisition", "spline"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


@pytest.mark.parametrize("works_on", ["thin", "thick"])
def test_the_reference_through_the_acquisition_is_what_was_acquired(works_on):
    transform = RandSimulateThickSlicesd("image", factors=(2, 4), works_on=works_on, noisy=0, box=0, mistaken=0)
    for pair in drawn(transform, textured((8, 16, 24)), times=12):
        acquired = apply_along(pair["acquisition"], pair["label"])
        torch.testing.assert_close(acquired, pair["acquired"], rtol=0, atol=1e-5)
        n, m = pair["label"].shape[-1], pair["acquired"].shape[-1]
        assert pair["acquisition"].shape == (m, n)
        assert pair["spline"].shape == (n, m)
        assert pair["image"].shape == (pair["label"] if works_on == "thin" else pair["acquired"]).shape
        assert pair["label"].is_contiguous()


@pytest.mark.parametrize("factors", [(2,), (3,), (2.5,), (4,)])
def test_the_pair_is_the_slab_of_the_thin_slices(factors):
    transform = RandSimulateThickSlicesd("image", factors=factors, noisy=0, usual=1, box=0, mistaken=0)
    (pair,) = drawn(transform, textured((40, 3, 3), (1.0, 9.0, 9.0)))
    m = round(40 / factors[0])
    thick = (np.arange(m) - (m - 1) / 2) * factors[0]
    thin = np.arange(40) - 19.5
    model = SliceModel.between(thick, thin, slice_thickness=factors[0])
    torch.testing.assert_close(pair["acquisition"], model.acquisition.float())
    torch.testing.assert_close(pair["spline"], model.spline.float())
    torch.testing.assert_close(pair["image"], apply_along(model.spline, pair["acquired"]))


def test_the_slices_are_as_drawn_and_the_network_is_given_what_was_drawn_for_it():
    transform = RandSimulateThickSlicesd("image", factors=(2, 4), usual=0, noisy=0, box=0.4, triangle=0.3, mistaken=0.5)
    seen = set()
    for seed in range(120):
        (pair,) = drawn(transform, textured((16, 16, 16)), seed=seed)
        thin = np.arange(16)
        thick = (np.arange(16 / transform.factor) + 0.5) * transform.factor - 0.5
        assert transform.ratio != 1
        true = profile_matrix(
            thin, thick, slice_thickness=transform.ratio * transform.factor, profile=transform.profile
        )
        torch.testing.assert_close(pair["acquired"], apply_along(true, pair["label"]))
        expected = SliceModel.between(
            thick, thin, slice_thickness=transform.given_ratio * transform.factor, profile=transform.given_profile
        )
        torch.testing.assert_close(pair["acquisition"], expected.acquisition.float())
        torch.testing.assert_close(pair["spline"], expected.spline.float())
        assert abs(transform.given_ratio / transform.ratio - 1) <= 0.25
        assert transform.given_profile in ("gaussian", transform.profile)
        seen.add((transform.profile, transform.given_profile, transform.given_ratio == transform.ratio))
    # three profiles, given as such or two of them as a Gaussian; a right or a wrong thickness
    assert len(seen) == 10


def test_slices_with_gaps_are_as_thin_as_those_wanted():
    transform = RandSimulateThickSlicesd("image", factors=(4,), usual=0, gaps=1, noisy=0, box=0, mistaken=0)
    (pair,) = drawn(transform, textured((16, 16, 16)))
    assert transform.ratio * transform.factor == 1
    neighbors = pair["label"][..., 1::4] + pair["label"][..., 2::4]
    torch.testing.assert_close(pair["acquired"], neighbors / 2, rtol=0, atol=0.05)


def test_a_network_on_thick_slices_sees_them_as_a_standard_profile_would_have_shown_them():
    transform = RandSimulateThickSlicesd(
        "image", factors=(2,), works_on="thick", noisy=0, usual=0, thickness_ratios=(0.3, 0.7)
    )
    for pair in drawn(transform, textured((16, 16, 16)), times=4):
        standard = SliceModel.between(np.arange(8) * 2 + 0.5, np.arange(16.0), slice_thickness=2.0)
        expected = apply_along(standard.acquisition, apply_along(pair["spline"], pair["acquired"]))
        torch.testing.assert_close(pair["image"], expected, rtol=0, atol=1e-4)
        assert (pair["image"] - pair["acquired"]).abs().max() > 0.01
    usual = RandSimulateThickSlicesd("image", factors=(2,), works_on="thick", noisy=0, usual=1, box=0, mistaken=0)
    (pair,) = drawn(usual, textured((16, 16, 16)))
    torch.testing.assert_close(pair["image"], pair["acquired"], rtol=0, atol=1e-3)


def seed_globally(seed: int) -> None:
    """Set the random numbers that are nobody's own."""
    np.random.seed(seed)  # noqa: NPY002 - the global state is meant
    torch.manual_seed(seed)


def test_the_same_state_draws_the_same_pairs_whatever_the_global_seeds():
    transform, volume = RandSimulateThickSlicesd("image", noisy=0.5), textured()
    seed_globally(1)
    first = drawn(transform, volume, seed=7, times=6)
    seed_globally(2)
    for one, other in zip(first, drawn(transform, volume, seed=7, times=6), strict=True):
        assert_same(one, other)
    differ = [
        one["image"].shape != other["image"].shape or not torch.equal(one["image"], other["image"])
        for one, other in zip(first, drawn(transform, volume, seed=8, times=6), strict=True)
    ]
    assert any(differ)


def test_drawing_leaves_the_global_random_numbers_alone():
    seed_globally(3)
    expected = np.random.random(), torch.rand(1)  # noqa: NPY002 - the global state is meant
    seed_globally(3)
    drawn(RandSimulateThickSlicesd("image", noisy=1), textured(), times=3)
    assert (np.random.random(), torch.rand(1)) == expected  # noqa: NPY002 - the global state is meant


def test_a_chain_of_transforms_seeds_it_too():
    chain = Compose([RandSimulateThickSlicesd("image")])
    pairs = []
    for _ in range(2):
        chain.set_random_state(11)
        pairs.append(chain({"image": textured()}))
    assert_same(*pairs)


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [((1.0, 1.0, 1.0), {0, 1, 2}), ((1.0, 1.25, 3.0), {0, 1}), ((5.0, 0.8, 0.8), {1, 2}), ((0.7, 1.0, 1.0), {0})],
)
def test_only_axes_nearly_as_fine_as_the_finest_become_the_slice_axis(spacing, axes):
    shape = (8, 10, 12)
    pairs = drawn(RandSimulateThickSlicesd("image"), textured(shape, spacing), times=30)
    assert {shape.index(p["label"].shape[-1]) for p in pairs} == axes


def test_the_label_is_the_volume_with_the_slice_axis_last():
    volume = textured()
    for pair in drawn(RandSimulateThickSlicesd("image"), volume, times=8):
        axis = volume.shape[1:].index(pair["label"].shape[-1])
        torch.testing.assert_close(pair["label"], volume.as_tensor().movedim(axis + 1, -1))


def test_everything_offered_is_drawn_and_nothing_else():
    transform = RandSimulateThickSlicesd("image", factors=(2, 2.5, 3), thickness_ratios=(0.5, 1.5), gaps=0, noise=0.02)
    transform.set_random_state(0)
    draws = []
    for _ in range(400):
        transform.randomize((1.0, 1.0, 1.0))
        draws.append((transform.factor, transform.ratio, transform.given_ratio, transform.profile, transform.sigma))
    factors, ratios, given_ratios, profiles, sigmas = (list(column) for column in zip(*draws, strict=True))
    assert set(factors) == {2, 2.5, 3}
    assert set(profiles) == {"gaussian", "box"}
    others = [r for r in ratios if r != 1]
    assert 0.5 <= min(others) < 0.55
    assert 1.45 < max(others) <= 1.5
    # fractions of 400 draws: three standard deviations of a coin are 0.075
    assert len(others) / 400 == pytest.approx(0.5, abs=0.075)
    assert profiles.count("box") / 400 == pytest.approx(0.15, abs=0.055)
    wrong = [given / ratio - 1 for given, ratio in zip(given_ratios, ratios, strict=True) if given != ratio]
    assert len(wrong) / 400 == pytest.approx(0.15, abs=0.055)
    assert -0.25 <= min(wrong) < -0.15
    assert 0.15 < max(wrong) <= 0.25
    noisy = [s for s in sigmas if s > 0]
    assert len(noisy) / 400 == pytest.approx(0.25, abs=0.065)
    assert max(noisy) <= 0.02


def test_noise_is_on_the_thick_slices_as_strong_as_drawn_and_not_on_the_reference():
    transform = RandSimulateThickSlicesd("image", factors=(2,), noise=0.1, noisy=1, box=0, mistaken=0)
    volume = textured((16, 16, 16))
    for seed in range(5):
        (pair,) = drawn(transform, volume, seed=seed)
        noise = pair["acquired"] - apply_along(pair["acquisition"], pair["label"])
        assert float(noise.std()) == pytest.approx(transform.sigma, rel=0.1)  # of 2048 voxels
        assert float(pair["label"].sum()) == pytest.approx(float(volume.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"works_on": "both"}, "'both'"), ({"works_on": "thick", "factors": (2, 3)}, "powers of two")],
)
def test_a_training_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RandSimulateThickSlicesd("image", **options)


def test_a_pyramid_needs_slices_that_divide():
    transform = RandSimulateThickSlicesd("image", works_on="thick", factors=(4,))
    with pytest.raises(ValueError, match="10 thin slices are not a multiple of the factor 4"):
        drawn(transform, textured((10, 10, 10)))


# -- standard slices -------------------------------------------------------------------------------


def test_a_coarse_crop_lies_where_its_affine_says():
    # the value at a world point is a formula, linear so that an average of voxels is the value in their middle
    grid = phantoms.grid((40, 36, 44), (0.9, 1.1, 0.7))
    slope = np.array([1.0, -2.0, 3.0])
    world = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1) @ grid.affine[:3, :3].T
    values = torch.from_numpy((world + grid.affine[:3, 3]) @ slope).float()[None]
    volume = MetaTensor(values, affine=torch.from_numpy(grid.affine.copy()))
    transform = RandCoarseCropd("image", (16, 18, 20), coarse=0.5)
    transform.set_random_state(3)
    growths = []
    for _ in range(12):
        crop = transform({"image": volume})["image"]
        assert crop.shape == (1, 16, 18, 20)
        cropped = grid_of(crop)
        assert cropped.spacing == pytest.approx([s * transform.growth for s in grid.spacing])
        places = np.stack(np.meshgrid(*map(np.arange, cropped.shape), indexing="ij"), -1) @ cropped.affine[:3, :3].T
        expected = (places + cropped.affine[:3, 3]) @ slope
        inner = (slice(2, -2),) * 3  # beyond its ends a spline is mirrored
        # a fortieth of the 2 that a voxel's step adds; means of voxels as blocks would wobble by 0.2
        np.testing.assert_allclose(crop[0].numpy()[inner], expected[inner], rtol=0, atol=0.05)
        growths.append(transform.growth)
    assert 3 <= growths.count(1.0) <= 9
    assert max(growths) > 1.4


def test_a_coarse_crop_averages_and_an_ordinary_one_takes_voxels_as_they_are():
    volume = textured((32, 32, 32))
    plain = RandCoarseCropd("image", (16, 16, 16), coarse=0)
    plain.set_random_state(0)
    crop = plain({"image": volume})["image"]
    x, y, z = plain.first
    torch.testing.assert_close(crop.as_tensor(), volume.as_tensor()[:, x : x + 16, y : y + 16, z : z + 16])
    coarse = RandCoarseCropd("image", (16, 16, 16), coarse=1)
    coarse.randomize = lambda shape: None
    coarse.growth, coarse.lengths, coarse.first = 2.0, [32, 32, 32], [0, 0, 0]
    sharp = coarse({"image": volume})["image"].as_tensor()
    blocks = torch.nn.functional.avg_pool3d(volume.as_tensor()[None], 2)[0]
    # the mean of a spline over two voxels is nearly theirs
    assert torch.corrcoef(torch.stack([sharp.flatten(), blocks.flatten()]))[0, 1] > 0.97
    assert float(sharp.mean()) == pytest.approx(float(blocks.mean()), abs=0.002)


def test_a_crop_larger_than_the_volume_is_refused():
    with pytest.raises(ValueError, match="24"):
        RandCoarseCropd("image", (24, 8, 8))({"image": textured((16, 16, 16))})


@pytest.mark.parametrize("factor", [2, 4, 2.7])
def test_slices_that_are_standard_already_stay_as_they_are(factor):
    thick = (np.arange(12) - 5.5) * factor
    thin = np.arange(round(12 * factor)) - (round(12 * factor) - 1) / 2
    model = SliceModel.between(thick, thin, slice_thickness=factor)
    np.testing.assert_allclose(model.standard_slices(), np.eye(12), atol=1e-4)


@pytest.mark.parametrize(
    ("thick", "thickness", "profile"),
    [(np.arange(12) * 4.0, 2.0, "gaussian"), (np.arange(12) * 4.0, 4.0, "box"),
     (np.cumsum([3.6, 4.4, 4.1, 3.9] * 3) - 3.6, 4.0, "gaussian")],
    ids=["gaps", "box", "uneven"],
)  # fmt: skip
def test_other_slices_come_nearer_to_standard_ones(thick, thickness, profile):
    thin = np.arange(-1.5, 46.5)
    wave = np.sin(thin / 4)
    model = SliceModel.between(thick, thin, slice_thickness=thickness, profile=profile)
    even = (thick[0] + thick[-1]) / 2 + (np.arange(12) - 5.5) * (thick[-1] - thick[0]) / 11
    wanted = SliceModel.between(even, thin, slice_thickness=float(even[1] - even[0])).weights @ wave
    acquired = model.weights @ wave
    made = model.standard_slices() @ acquired
    assert np.linalg.norm((made - wanted)[1:-1]) < 0.3 * np.linalg.norm((acquired - wanted)[1:-1])


# -- results on their grid -------------------------------------------------------------------------


@on_any_thick_grid
def test_a_result_is_put_on_its_grid_and_the_image_knows_of_it(grid, axis):
    image = phantoms.known_value(grid)
    wanted, _ = target_grid(grid, factor=4)
    pred = torch.zeros((1, *wanted.shape))
    data = SuperResolvedGridd("pred", factor=4)({"image": image, "pred": pred})
    np.testing.assert_allclose(data["pred"].affine, wanted.affine, atol=1e-9)
    for key in ("pred", "image"):
        np.testing.assert_allclose(data[key].meta["original_affine"], wanted.affine, atol=1e-9)
        assert tuple(data[key].meta["spatial_shape"]) == wanted.shape
    np.testing.assert_allclose(data["image"].affine, grid.affine, atol=1e-9)
    torch.testing.assert_close(data["image"].as_tensor(), image.as_tensor())
    assert "spatial_shape" not in image.meta or tuple(image.meta["spatial_shape"]) == grid.shape  # the input's own


def test_a_stock_saver_that_resamples_writes_the_result_on_its_own_grid(tmp_path):
    grid = phantoms.grid((5, 6, 8), (1.0, 1.0, 4.0), orientation="oblique")
    image = phantoms.known_value(grid)
    image.meta.update(original_affine=image.affine.clone(), spatial_shape=np.array(grid.shape))
    wanted, _ = target_grid(grid, factor=4)
    voxels = phantoms.known_value(wanted).as_tensor()
    # what sliding windows return: more slices, and still the metadata of the image
    data = {"image": image, "pred": MetaTensor(voxels, meta=dict(image.meta), affine=image.affine)}
    saved = SuperResolvedGridd("pred", factor=4)(data)["pred"]
    SaveImage(tmp_path, "sr", ".nii.gz", resample=True, separate_folder=False, print_log=False)(saved)
    (file,) = tmp_path.glob("*.nii.gz")
    written = nib.load(file)
    assert written.shape == wanted.shape
    np.testing.assert_allclose(written.affine, wanted.affine, atol=1e-4)
    np.testing.assert_allclose(written.get_fdata(), voxels[0], atol=1e-3)


def test_a_result_of_another_size_is_refused():
    image = phantoms.constant(phantoms.grid((5, 6, 8), (1.0, 1.0, 4.0)))
    with pytest.raises(ValueError, match=r"pred has shape \(5, 6, 16\), its grid \(5, 6, 32\)"):
        SuperResolvedGridd("pred", factor=4)({"image": image, "pred": torch.zeros(1, 5, 6, 16)})


def test_on_grid_shares_nothing_with_the_grid_it_was_put_on():
    grid = phantoms.grid()
    image = on_grid(torch.zeros((1, *grid.shape)), grid, torch.zeros(1))
    image.affine[0, 3] += 5
    assert grid.affine[0, 3] == phantoms.ORIGIN[0]
    assert image.meta["original_affine"][0, 3] == phantoms.ORIGIN[0]
