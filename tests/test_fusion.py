"""Several stacks into one volume: operators, registration, scaling, the joint solution, files and faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from nifti_tools import save_nifti
from scipy import ndimage
from scipy.spatial.transform import Rotation
from test_story import check_record

from monai_sr import fuse, load_bundle, simulate_thick_slices
from monai_sr.acquired import Acquired
from monai_sr.cli.main import main
from monai_sr.errors import ImageError, UsageError, collect_notices
from monai_sr.evaluation.metrics import psnr
from monai_sr.fusion import gains, registration
from monai_sr.fusion.files import fuse_files
from monai_sr.fusion.operators import ObliqueOperator, ParallelOperator, operator_of, resample
from monai_sr.fusion.options import FusionOptions
from monai_sr.fusion.registration import angle_of, find_motion
from monai_sr.fusion.scaling import fit_scaling
from monai_sr.fusion.solver import Term, solve
from monai_sr.fusion.sources import choose_series
from monai_sr.fusion.stacks import Stack, common_grid
from monai_sr.grid import Grid, grid_of
from monai_sr.options import RunOptions
from monai_sr.slices import profile_matrix
from monai_sr.trust.uncertainty import uncertainty_map

SIDE = 40
SPLINE = RunOptions.from_dict({"bundle": "none", "profile": "gaussian"})


@pytest.fixture
def all_samples(monkeypatch):
    """The samples of the product, where the accuracy of a registration matters."""
    monkeypatch.setattr(registration, "SAMPLES", 100_000)


@pytest.fixture(scope="module")
def spline():
    return load_bundle("none")


def volume(voxels: torch.Tensor, affine: np.ndarray | None = None, modality: str = "MR") -> MetaTensor:
    affine = np.eye(4) if affine is None else affine
    return MetaTensor(voxels[None], affine=torch.from_numpy(affine), meta={"modality": modality})


def head(side: int) -> MetaTensor:
    """A head-like volume: random detail inside a ball, nothing outside."""
    points = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"))
    ball = 1 / (1 + np.exp((np.linalg.norm(points, axis=0) - side / 2.4) / 0.7))
    return volume((phantoms.anatomy(3, (side,) * 3) * 700 + 200) * torch.from_numpy(ball).float())


@pytest.fixture(scope="module")
def hr() -> MetaTensor:
    return head(SIDE)


def stacks_of(hr: MetaTensor, factor: float = 4, axes=(2, 1, 0)) -> list[MetaTensor]:
    return [simulate_thick_slices(hr, factor, axis=axis, profile="gaussian") for axis in axes]


def placed(image: MetaTensor, motion: np.ndarray | None = None, **facts) -> Stack:
    stack = Stack.of(Acquired.of(image, profile="gaussian", **facts), "stack")
    return stack if motion is None else stack.by(motion)


def rigid(degrees=(4.0, -3.0, 5.0), mm=(2.0, -1.5, 1.0), center=(SIDE - 1) / 2) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    middle = np.full(3, center)
    motion[:3, 3] = middle - motion[:3, :3] @ middle + mm
    return motion


def decibels(sr: torch.Tensor, hr: MetaTensor) -> float:
    inner = (slice(6, -6),) * 3
    return psnr(sr.numpy()[inner], hr[0].numpy()[inner], value_range=900)


# ---------------------------------------------------------------- operators


def oblique_stack() -> tuple[Stack, Grid]:
    grid = phantoms.grid((12, 13, 6), (1.1, 0.9, 3.0), orientation="oblique", origin=(0, 0, 0))
    return placed(phantoms.draw(grid, phantoms.known_value_at)), phantoms.grid((20, 19, 22), origin=(-2, -1, -3))


def flipped_stack() -> tuple[Stack, Grid]:
    grid = phantoms.grid((12, 6, 13), (1.0, 3.0, 1.3), orientation="LPS", origin=(14, 9, 2))
    return placed(phantoms.draw(grid, phantoms.known_value_at)), phantoms.grid((20, 19, 22), origin=(0, -4, 0))


@pytest.mark.parametrize("make", [oblique_stack, flipped_stack])
def test_the_adjoint_is_the_transpose(make):
    stack, grid = make()
    operator = operator_of(stack, grid)
    assert isinstance(operator, ObliqueOperator if make is oblique_stack else ParallelOperator)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(grid.shape, generator=generator)
    y = torch.randn(stack.voxels.shape, generator=generator) * operator.seen
    there = float((operator.forward(x) * operator.seen * y).double().sum())
    back = float((x * operator.adjoint(y)).double().sum())
    assert 0 < int(operator.seen.sum()) < operator.seen.numel() or make is flipped_stack
    assert there == pytest.approx(back, rel=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS"])
def test_a_parallel_stack_is_acquired_by_the_profile_matrix(axis, orientation, hr):
    thick = stacks_of(hr, axes=(axis,))[0]
    if orientation != "RAS":  # the same slices, stored from the other end
        flips = [a for a, name in enumerate(orientation) if name in "LP"]
        affine = np.asarray(thick.affine).copy()
        for a in flips:
            affine[:3, 3] += affine[:3, a] * (thick.shape[a + 1] - 1)
            affine[:3, a] *= -1
        thick = volume(thick.as_tensor()[0].flip(flips), affine)
    stack = placed(thick)
    operator = operator_of(stack, grid_of(hr))
    assert isinstance(operator, ParallelOperator) and bool(operator.seen.all())
    assert torch.allclose(operator.forward(hr[0].as_tensor()), stack.voxels, atol=1e-2)


def test_an_oblique_operator_gives_what_a_parallel_one_gives(hr):
    stack = placed(stacks_of(hr)[0])
    parallel, oblique = operator_of(stack, grid_of(hr)), ObliqueOperator(stack, grid_of(hr))
    smooth = torch.from_numpy(ndimage.gaussian_filter(hr[0].numpy(), 1.5))
    assert torch.equal(parallel.seen, oblique.seen)
    difference = (parallel.forward(smooth) - oblique.forward(smooth)).abs().max()
    assert difference < 0.01 * float(smooth.max())


def test_voxels_outside_the_grid_are_not_seen():
    stack, grid = oblique_stack()
    index = np.stack(np.meshgrid(*map(np.arange, stack.grid.shape), indexing="ij"), axis=-1)
    world = index @ stack.grid.affine[:3, :3].T + stack.grid.affine[:3, 3]
    place = (world - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    inside = ((place >= -0.5) & (place <= np.array(grid.shape) - 0.5)).all(axis=-1)
    assert np.array_equal(operator_of(stack, grid).seen.numpy(), inside) and 0 < inside.mean() < 1


def test_resampling_to_the_same_place_changes_nothing(hr):
    moved = np.asarray(hr.affine) @ np.array([[0, -1, 0, SIDE - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned, inside = resample(hr[0].as_tensor(), grid_of(hr), Grid(hr.shape[1:], moved))
    back, _ = resample(turned, Grid(hr.shape[1:], moved), grid_of(hr))
    assert bool(inside.all()) and torch.equal(back, hr[0].as_tensor()) and not torch.equal(turned, back)


def test_the_solution_is_that_of_the_normal_equations():
    generator = torch.Generator().manual_seed(1)
    prior, grid = torch.randn(6, 5, 8, generator=generator), Grid((6, 5, 8), np.eye(4))
    thick = placed(simulate_thick_slices(volume(torch.randn(6, 5, 8, generator=generator)), 2.0, axis=2))
    x = solve(prior, [Term(operator_of(thick, grid), thick.voxels, torch.full_like(thick.voxels, 3.0))], iterations=60)
    a = profile_matrix(np.arange(8), thick.acquired.positions_from_first + 0.5, slice_thickness=2.0)
    right = prior.double() + 3 * thick.voxels.double() @ a
    expected = torch.linalg.solve(torch.eye(8) + 3 * a.T @ a, right.reshape(-1, 8).T).T.reshape(prior.shape)
    assert torch.allclose(x.double(), expected, atol=1e-3)


def test_few_steps_are_enough_where_the_weights_differ(hr):
    grid, generator = grid_of(hr), torch.Generator().manual_seed(2)
    stacks = [placed(stack) for stack in stacks_of(hr)]
    noise = [10 ** (2 * torch.rand(stack.voxels.shape, generator=generator)) for stack in stacks]
    terms = [Term(operator_of(s, grid), s.voxels, w) for s, w in zip(stacks, noise, strict=True)]
    prior, variance = torch.full(grid.shape, 200.0), hr[0].as_tensor() / 200 + 0.05
    exact = solve(prior, terms, variance=variance, iterations=100)
    error = (solve(prior, terms, variance=variance) - exact).square().mean().sqrt()
    assert error < 0.1 * (prior - exact).square().mean().sqrt()


# ---------------------------------------------------------------- grid


def test_the_common_grid_is_isotropic_and_keeps_the_voxels_of_the_first_stack(hr):
    stacks = [placed(image) for image in stacks_of(hr)]
    grid = common_grid(stacks)
    assert grid.shape == hr.shape[1:] and np.allclose(grid.affine, np.eye(4))
    assert common_grid(stacks, spacing=2.0).shape == (SIDE // 2,) * 3


def test_a_field_is_the_union_the_intersection_or_the_first(hr):
    whole = placed(stacks_of(hr)[0])
    affine = np.eye(4)
    affine[:3, 3] = (8, 0, 0)
    part = volume(hr[0].as_tensor()[8:30, : SIDE - 8].clone(), affine)
    beside = placed(stacks_of(part)[1], np.array([[1, 0, 0, -12], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert common_grid([whole, beside], field="union").shape == (SIDE + 4, SIDE, SIDE)
    assert common_grid([whole, beside], field="intersection").shape == (18, SIDE - 8, SIDE)
    assert common_grid([beside, whole], field="first").shape == (22, SIDE - 8, SIDE)
    with pytest.raises(UsageError):
        common_grid([whole, beside], field="all")


# ---------------------------------------------------------------- registration and intensities


def test_a_motion_is_estimated(hr, all_samples):
    motion = rigid()
    grid = grid_of(hr)
    moved, _ = resample(hr[0].as_tensor(), Grid(grid.shape, motion @ grid.affine), grid)
    known = torch.ones(grid.shape, dtype=torch.bool)
    estimated = find_motion((moved, known, grid), (hr[0].as_tensor(), known, grid))
    error = np.linalg.inv(motion) @ estimated.matrix
    corners = np.array([[x, y, z, 1] for x in (8, 40) for y in (8, 40) for z in (8, 40)], dtype=float)
    assert np.linalg.norm(corners @ error.T - corners, axis=1).mean() < 0.3
    assert angle_of(error) < 0.5
    assert estimated.is_plausible and estimated.after > 0.98 > estimated.before


def test_intensities_are_brought_to_those_of_the_first():
    grid = Grid((30, 30, 30), np.eye(4))
    y = phantoms.anatomy(5, grid.shape) * 800
    mask = torch.ones(grid.shape, dtype=torch.bool)
    values = (y - 30) / 1.7
    values[:2] = 5000  # outliers
    scaling = fit_scaling(y, values, mask, grid)
    assert scaling.gain == pytest.approx(1.7, rel=1e-3) and scaling.offset == pytest.approx(30, abs=0.5)
    assert not scaling.smooth
    field = torch.linspace(0.7, 1.3, 30)[:, None, None]
    corrected = fit_scaling(y, y / field, mask, grid)
    assert corrected.smooth
    assert (corrected.apply(y / field, grid) - y).abs().mean() < 0.02 * 800


def test_a_strong_field_does_not_change_the_gain():
    """With 2.7 times the signal at one side a line fits badly, and says nothing of the gain."""
    grid = Grid((30, 30, 30), np.eye(4))
    y = phantoms.anatomy(5, grid.shape) * 800
    across, along = torch.linspace(-0.5, 0.5, 30)[:, None, None], torch.linspace(-0.5, 0.5, 30)[:, None]
    field = torch.exp(across - along)
    scaling = fit_scaling(y, y / field, torch.ones(grid.shape, dtype=torch.bool), grid)
    assert scaling.gain == pytest.approx(1, abs=0.03) and scaling.offset == pytest.approx(0, abs=8)
    assert (scaling.apply(y / field, grid) - y).abs().mean() < 0.02 * 800


def test_the_noise_of_a_stack_is_measured(hr):
    flat = ndimage.gaussian_filter(hr[0].numpy(), 3)
    noisy = torch.from_numpy(flat + np.random.default_rng(0).normal(0, 20, flat.shape)).float()
    affine = np.diag([1.0, 1, 4, 1])
    assert placed(volume(noisy, affine)).noise == pytest.approx(20, rel=0.1)


# ---------------------------------------------------------------- the whole


def best_single(stacks, spline, hr) -> float:
    return max(decibels(spline(stack, spacing=1.0, profile="gaussian")[0].as_tensor(), hr) for stack in stacks)


def test_three_stacks_gain_two_decibels_and_two_one(hr, spline, monkeypatch):
    monkeypatch.setattr(registration, "SAMPLES", 16_000)
    stacks = stacks_of(hr)
    acquired = [Acquired.of(stack, profile="gaussian") for stack in stacks]
    single = best_single(stacks, spline, hr)
    three = fuse(acquired, spline)
    assert grid_of(three.image).shape == (SIDE,) * 3
    assert decibels(three.image[0].as_tensor(), hr) > single + 2
    two = fuse(acquired[:2], spline)
    assert decibels(two.image[0].as_tensor(), hr) > single + 1
    assert not any(stack.motion.is_used for stack in three.stacks)
    assert all(stack.agreement.nrmse < 0.01 for stack in three.stacks)
    assert all(stack.scaling.gain == pytest.approx(1, abs=0.01) for stack in three.stacks)
    assert int(three.count.min()) == 3 and set(three.nearest.unique().tolist()) == {1, 2, 3}


@pytest.mark.slow
def test_errors_are_as_large_as_predicted(hr, spline, all_samples):
    noisy = [
        stack + 10 * torch.randn(stack.shape, generator=torch.Generator().manual_seed(n))
        for n, stack in enumerate(stacks_of(hr))
    ]
    for count in (2, 3):
        fused = fuse([Acquired.of(stack, profile="gaussian") for stack in noisy[:count]], spline)
        inner = (slice(6, -6),) * 3
        sigma = fused.uncertainty()[0].as_tensor()[inner]
        error = (fused.image[0].as_tensor() - hr[0].as_tensor())[inner].abs()
        ball = hr[0].as_tensor()[inner] > 150
        within = [float((error[ball] <= k * sigma[ball]).float().mean()) for k in (1, 2)]
        assert 0.6 < within[0] < 0.97 and within[1] > 0.87
        low, high = torch.quantile(sigma, torch.tensor([0.25, 0.75]))
        assert error[sigma > high].mean() > 1.5 * error[sigma < low].mean()


def test_where_one_stack_measured_the_uncertainty_is_that_of_a_run(hr, spline):
    axial = Acquired.of(stacks_of(hr)[0], profile="gaussian")
    affine = np.eye(4)
    affine[0, 3] = SIDE // 2
    part = volume(hr[0].as_tensor()[SIDE // 2 :].clone(), affine)
    fused = fuse([axial, Acquired.of(stacks_of(part)[1], profile="gaussian")], spline, register=False)
    alone = (fused.count == 1) & (fused.nearest == 1)
    assert 0.4 < float(alone.float().mean()) < 0.6
    with pytest.raises(UsageError):  # the spline was not calibrated
        fused.uncertainty()
    constants = {"MR": {"factor": [2.0, 4.0], "floor": [0.02, 0.03], "slope": [1.0, 1.5]}}
    predicted = replace(fused, constants=constants).uncertainty()[0]
    expected = uncertainty_map(axial, fused.image, constants)[0]
    assert torch.allclose(predicted[alone], expected[alone], rtol=1e-3)
    assert not torch.allclose(predicted[~alone], expected[~alone], rtol=0.1)


def test_where_stacks_differ_by_noise_alone_their_mean_is_kept(hr, spline, monkeypatch):
    smooth = volume(torch.from_numpy(ndimage.gaussian_filter(hr[0].numpy(), 4)), modality="CT")
    generator = torch.Generator().manual_seed(0)
    stacks = [stack + 40 * torch.randn(stack.shape, generator=generator) for stack in stacks_of(smooth)]
    results = [spline(stack, spacing=1.0, profile="gaussian", consistency="exact")[0].as_tensor() for stack in stacks]
    mean = decibels(torch.stack(results).mean(dim=0), smooth)
    acquired = [Acquired.of(stack, profile="gaussian") for stack in stacks]
    assert decibels(fuse(acquired, spline, register=False).image[0].as_tensor(), smooth) > mean - 0.15
    monkeypatch.setattr("monai_sr.fusion.prior.NOISE_IN_SPREAD", 0.0)
    assert decibels(fuse(acquired, spline, register=False).image[0].as_tensor(), smooth) < mean - 1


def test_misaligned_stacks_are_registered_and_gain(hr, spline, all_samples):
    grid, motion = grid_of(hr), rigid((2.0, -3.0, 3.5), (1.5, -2.0, 1.0))
    turned, _ = resample(hr[0].as_tensor(), Grid(grid.shape, motion @ grid.affine), grid)
    stacks = [stacks_of(hr)[0], stacks_of(volume(turned), axes=(1,))[0]]
    acquired = [Acquired.of(stack, profile="gaussian") for stack in stacks]
    fused = fuse(acquired, spline, field="first")
    assert fused.stacks[1].motion.is_used
    assert angle_of(motion @ fused.stacks[1].motion.matrix) < 0.7
    assert decibels(fused.image[0].as_tensor(), hr) > best_single(stacks[:1], spline, hr) + 1
    with collect_notices():
        believed = fuse(acquired, spline, field="first", register=False)
    assert decibels(believed.image[0].as_tensor(), hr) < decibels(fused.image[0].as_tensor(), hr) - 3


def test_a_gain_of_another_stack_does_not_matter(hr, spline):
    axial, coronal, _ = stacks_of(hr)
    scaled = volume(coronal[0].as_tensor() * 0.5 + 100, np.asarray(coronal.affine))
    fused = fuse([Acquired.of(s, profile="gaussian") for s in (axial, scaled)], spline)
    assert decibels(fused.image[0].as_tensor(), hr) > best_single([axial], spline, hr) + 1
    assert fused.stacks[1].scaling.gain == pytest.approx(2, rel=0.02)


def test_ct_is_not_scaled_and_padding_is_no_value(spline):
    hr = volume(phantoms.anatomy(7, (32,) * 3) * 400 - 150, modality="CT")
    hr[0, :6] = -1000
    axial, coronal = (stack.clone() for stack in stacks_of(hr, axes=(2, 1)))
    axial[0, :3], axial.meta["padding_value"] = -3000, -3000
    fused = fuse([Acquired.of(s, profile="gaussian") for s in (axial, coronal)], spline)
    assert float(fused.image.min()) > -1100
    assert fused.stacks[1].scaling.gain == 1 and fused.stacks[0].agreement.unit == "HU"
    assert int(fused.count[:2].max()) == 1 and int(fused.count[6:].min()) == 2


def test_how_a_stack_is_stored_does_not_matter(hr, spline):
    axial, coronal, _ = stacks_of(hr)
    affine = np.asarray(coronal.affine)
    other = affine[:, [1, 2, 0, 3]].copy()
    other[:3, 3] += other[:3, 0] * (coronal.shape[2] - 1)
    other[:3, 0] *= -1
    stored = volume(coronal[0].as_tensor().permute(1, 2, 0).flip(0), other)
    one, two = (
        fuse([Acquired.of(s, profile="gaussian") for s in (axial, second)], spline).image
        for second in (coronal, stored)
    )
    assert torch.allclose(one.as_tensor(), two.as_tensor(), atol=0.5)


def test_progress_rises_to_one(hr, spline):
    seen: list[float] = []
    fuse([Acquired.of(s, profile="gaussian") for s in stacks_of(hr, axes=(2, 1))], spline, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) > 8


# ---------------------------------------------------------------- faults


@fault("F01", "E-FUSE-FEW")
def test_one_stack_is_refused(hr, spline):
    with pytest.raises(UsageError) as caught:
        fuse(stacks_of(hr)[:1], spline)
    assert caught.value.code == "E-FUSE-FEW"


@fault("F02", "E-FUSE-UNLIKE")
def test_another_modality_is_refused(hr, spline):
    axial, coronal, _ = stacks_of(hr)
    ct = volume(coronal[0].as_tensor() - 500, np.asarray(coronal.affine), "CT")
    with pytest.raises(ImageError) as caught:
        fuse([axial, ct], spline)
    assert caught.value.code == "E-FUSE-UNLIKE"


@fault("F02", "E-FUSE-UNLIKE", "W-FUSE-UNLIKE")
def test_another_contrast_is_noticed(hr, spline):
    axial = stacks_of(hr)[0]
    other = stacks_of(volume(phantoms.anatomy(11, (SIDE,) * 3) * 900))[1]
    with collect_notices(), pytest.raises(ImageError) as caught:
        fuse([Acquired.of(s, profile="gaussian") for s in (axial, other)], spline, register=False)
    assert caught.value.code == "E-FUSE-UNLIKE" and -1 <= caught.value.facts["correlation"] < 0.3
    mixed = stacks_of(volume(hr[0].as_tensor() * 0.2 + phantoms.anatomy(11, (SIDE,) * 3) * 700))[1]
    with collect_notices() as notices:
        fuse([Acquired.of(s, profile="gaussian") for s in (axial, mixed)], spline, register=False)
    assert "W-FUSE-UNLIKE" in {notice.code for notice in notices}


@fault("F03", "E-FUSE-OVERLAP")
@pytest.mark.parametrize("field", ["union", "intersection", "first"])
def test_stacks_without_a_common_region_are_refused(field, hr, spline):
    axial, coronal, _ = stacks_of(hr)
    coronal.affine[:3, 3] += 200
    with pytest.raises(ImageError) as caught:
        fuse([axial, coronal], spline, field=field)
    assert caught.value.code == "E-FUSE-OVERLAP"


def test_images_in_memory_are_named_by_their_number(hr, spline):
    axial, _, sagittal = (
        nib.Nifti1Image(stack[0].numpy().astype(np.float32), np.asarray(stack.affine)) for stack in stacks_of(hr)
    )
    fused = fuse([axial, sagittal], spline, spacing=2.0, register=False)
    assert [stack.name for stack in fused.stacks] == ["stack 1", "stack 2"]


@fault("F04", "W-FUSE-PLANE")
def test_the_same_plane_twice_is_averaged_with_a_warning(hr, spline):
    axial = stacks_of(hr)[0]
    with collect_notices() as notices:
        fused = fuse([Acquired.of(s, profile="gaussian") for s in (axial, axial.clone())], spline)
    assert [notice.code for notice in notices] == ["W-FUSE-PLANE"]
    assert decibels(fused.image[0].as_tensor(), hr) > best_single([axial], spline, hr) - 0.1


@fault("F05", "W-FUSE-REGISTER")
def test_a_registration_that_goes_astray_is_not_used(hr, spline, monkeypatch):
    from monai_sr.fusion import registration

    monkeypatch.setattr(registration, "MAX_MM", 0.5)
    grid = grid_of(hr)
    turned, _ = resample(hr[0].as_tensor(), Grid(grid.shape, rigid((0, 0, 0), (2, 0, 0)) @ grid.affine), grid)
    stacks = [stacks_of(hr)[0], stacks_of(volume(turned))[1]]
    with collect_notices() as notices:
        fused = fuse([Acquired.of(s, profile="gaussian") for s in stacks], spline)
    assert "W-FUSE-REGISTER" in {notice.code for notice in notices}
    assert not fused.stacks[1].motion.is_used and np.array_equal(fused.stacks[1].motion.used, np.eye(4))


@fault("F06", "W-FUSE-STACK")
def test_a_stack_that_disagrees_is_named(hr, spline):
    stacks = stacks_of(hr)
    generator = np.random.default_rng(0)
    moved = stacks[2][0].numpy().copy()
    for index in range(0, moved.shape[0], 2):  # every other slice of the sagittal stack moved during the scan
        moved[index] = ndimage.shift(moved[index], generator.uniform(-5, 5, 2), order=1)
    stacks[2] = volume(torch.from_numpy(moved), np.asarray(stacks[2].affine))
    with collect_notices() as notices:
        acquired = [Acquired.of(s, profile="gaussian") for s in stacks]
        fuse(acquired, spline, names=("ax", "cor", "sag"), register=False)
    (notice,) = [notice for notice in notices if notice.code == "W-FUSE-STACK"]
    assert notice.path == "sag" and notice.facts["nrmse"] > 1.7 * notice.facts["others"]


@fault("F07", "E-MEM")
def test_a_grid_that_does_not_fit_is_refused_before_the_work(hr, spline):
    with pytest.raises(Exception) as caught:
        fuse(stacks_of(hr), spline, spacing=0.05)
    assert caught.value.code == "E-MEM"
    with pytest.raises(Exception) as caught:
        fuse(stacks_of(hr), spline, memory=2**20)
    assert caught.value.code == "E-MEM"


@fault("F08", "E-IMG-4D", "E-IMG-FEW")
def test_several_volumes_and_few_slices_are_refused(hr, spline):
    axial, coronal, _ = stacks_of(hr)
    both = MetaTensor(torch.cat([coronal, coronal]), affine=coronal.affine, meta={"modality": "MR"})
    with pytest.raises(UsageError) as caught:
        fuse([axial, both], spline)
    assert caught.value.code == "E-IMG-4D"
    with pytest.raises(ImageError) as caught:
        fuse([axial, coronal[:, :, :2]], spline)
    assert caught.value.code == "E-IMG-FEW"


# ---------------------------------------------------------------- files


@pytest.fixture
def files(tmp_path, hr) -> list[str]:
    paths = []
    for name, stack in zip(("ax", "cor", "sag"), stacks_of(hr), strict=True):
        voxels = np.rint(stack[0].numpy()).astype(np.int16)
        paths.append(str(save_nifti(tmp_path / f"{name}.nii.gz", voxels, np.asarray(stack.affine))))
    return paths


def test_the_command_line_fuses_files_and_writes_the_record(files, tmp_path, capsys, hr):
    target = tmp_path / "fused.nii.gz"
    words = ["fuse", *files, str(target), "--bundle", "none", "--modality", "MR", "--profile", "gaussian", "--maps"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"{target}: 3 stacks" in out and str(tmp_path / "fused_stacks.nii.gz") in out
    image = nib.load(target)
    assert image.shape == (SIDE,) * 3 and image.get_data_dtype() == np.int16
    assert decibels(torch.from_numpy(image.get_fdata()), hr) > 30
    record = check_record(tmp_path / "fused.json")
    stacks = record["fusion"]["stacks"]
    assert len(stacks) == 3 and len({stack["input_sha256"] for stack in stacks}) == 3
    assert [stack["acquired"]["axis"]["value"] for stack in stacks] == [2, 1, 0]
    assert all(stack["consistency"]["nrmse"] < 0.02 for stack in stacks)
    assert len(record["fusion"]["resolution"]["axes"]) == 3 and record["bundle"] == "none"
    assert str(tmp_path) not in json.dumps(record)


def test_a_result_may_be_made_again_to_the_byte(files, tmp_path):
    target = tmp_path / "fused.nii.gz"
    words = ["fuse", *files[:2], str(target), "--bundle", "none", "--modality", "MR"]
    assert main(words) == 0
    before = target.read_bytes()
    assert main(words) == 0 and target.read_bytes() == before


@fault("F09", "E-OUT-EXISTS", "E-OUT-SAME", "E-OUT-FORMAT", "E-IO-MISSING", "E-USE")
@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (["ax.nii.gz", "cor.nii.gz", "ax.nii.gz"], "E-OUT-SAME", 2),
        (["ax.nii.gz", "cor.nii.gz", "fused.png"], "E-OUT-FORMAT", 2),
        (["ax.nii.gz", "cor.nii.gz", "sag.nii.gz"], "E-OUT-EXISTS", 6),
        (["ax.nii.gz", "none.nii.gz", "fused.nii.gz"], "E-IO-MISSING", 3),
        (["ax.nii.gz", "fused.nii.gz"], "E-FUSE-FEW", 2),
        (["ax.nii.gz", "cor.nii.gz", "fused.nii.gz", "--spacing", "0"], "E-USE", 2),
    ],
)
def test_the_command_line_refuses(words, code, status, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["fuse", *words, "--bundle", "none"]) == status
    assert code in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def dicom_stack(folder: Path, plane: str, series: int, **header) -> Path:
    stack = dicom_phantoms.Stack(
        dicom_phantoms.even(8, 4.0), orientation=plane, rows=30, columns=30, pixel_spacing=(1.1, 1.1)
    )
    datasets = dicom_phantoms.slices(stack, series=series, SliceThickness=4.0, **header)
    dicom_phantoms.write(folder, datasets)
    return folder


def fuse_dicom(tmp_path: Path, **header) -> tuple[object, list[str]]:
    first = dicom_stack(tmp_path / "ax", "axial ++", 1)
    second = dicom_stack(tmp_path / "cor", "coronal ++", 2, **header)
    with collect_notices() as notices:
        fused, _ = fuse_files([first, second], tmp_path / "fused.nrrd", SPLINE)
    return fused, [notice.code for notice in notices]


def test_dicom_series_are_fused(tmp_path):
    fused, codes = fuse_dicom(tmp_path)
    assert not {code for code in codes if "FUSE" in code}
    assert (tmp_path / "fused.nrrd").is_file() and fused.stacks[0].agreement.unit == "HU"
    assert dicom_phantoms.CANARY not in (tmp_path / "fused.json").read_text()
    seen = phantoms.world(grid_of(fused.image))
    reference = dicom_phantoms.anatomy_at(seen.reshape(3, -1)).reshape(seen.shape[1:])
    inner = (fused.count == 2).numpy()
    error = np.abs(fused.image[0].numpy() - reference)[inner].mean()
    assert error < 40


@fault("F02", "E-FUSE-UNLIKE", "W-FUSE-UNLIKE")
def test_headers_of_another_patient_or_contrast_are_noticed(tmp_path):
    with pytest.raises(ImageError) as caught:
        fuse_dicom(tmp_path / "patient", PatientID="another")
    assert caught.value.code == "E-FUSE-UNLIKE" and "another" not in caught.value.problem.replace("another patient", "")


@fault("F10", "W-FUSE-FRAME")
def test_another_frame_of_reference_gives_a_warning(tmp_path):
    _, codes = fuse_dicom(tmp_path, FrameOfReferenceUID=dicom_phantoms.uid_of("another"))
    assert "W-FUSE-FRAME" in codes


@fault("F11", "W-DCM-TILT", "W-DCM-UNEVEN")
@pytest.mark.parametrize(
    ("offsets", "tilt", "codes"),
    [
        ((-15.0, -11.0, -7.0, -3.0, 1.0, 6.0, 10.0, 15.0), 0.0, {"W-DCM-UNEVEN"}),
        (tuple(dicom_phantoms.even(8, 4.0)), 15.0, {"W-DCM-TILT"}),
        ((-15.0, -11.0, -7.0, -3.0, 1.0, 6.0, 10.0, 15.0), 15.0, {"W-DCM-TILT", "W-DCM-UNEVEN"}),
    ],
)
def test_tilted_and_uneven_slices_are_fused_at_their_positions(offsets, tilt, codes, tmp_path):
    stack = dicom_phantoms.Stack(offsets, rows=30, columns=30, pixel_spacing=(1.1, 1.1), tilt=tilt)
    dicom_phantoms.write(tmp_path / "ax", dicom_phantoms.slices(stack, series=1, SliceThickness=4.0))
    with collect_notices() as notices:
        fused, _ = fuse_files(
            [tmp_path / "ax", dicom_stack(tmp_path / "cor", "coronal ++", 2)],
            tmp_path / "f.nii",
            SPLINE,
            fusion=FusionOptions(register=False),
        )
    given = {notice.code for notice in notices}
    assert given & {"W-DCM-UNEVEN", "W-DCM-TILT"} == codes and not {code for code in given if "FUSE" in code}
    assert fused.stacks[0].acquired.is_even == ("W-DCM-UNEVEN" not in codes)
    assert all(stack.agreement.nrmse < 0.03 for stack in fused.stacks)
    seen = phantoms.world(grid_of(fused.image))
    reference = dicom_phantoms.anatomy_at(seen.reshape(3, -1)).reshape(seen.shape[1:])
    assert np.abs(fused.image[0].numpy() - reference)[(fused.count == 2).numpy()].mean() < 40


@fault("F11", "E-HDR-SHEAR")
def test_an_image_whose_axes_are_sheared_is_refused(files, tmp_path, capsys):
    image = nib.load(files[0])
    affine = image.affine @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "sheared.nii.gz")
    assert main(["fuse", str(tmp_path / "sheared.nii.gz"), files[1], str(tmp_path / "f.nii"), "--bundle", "none"]) != 0
    assert "E-HDR-SHEAR" in capsys.readouterr().err and not (tmp_path / "f.nii").exists()


def test_an_organ_that_moved_between_stacks_leaves_fewer_artifacts(hr, spline, monkeypatch):
    moved = hr[0].as_tensor().clone()
    organ = (slice(14, 34),) * 3
    moved[organ] = moved[organ].roll(7, dims=0).flip(2)
    stacks = stacks_of(hr)
    stacks[1] = stacks_of(volume(moved))[1]
    acquired = [Acquired.of(stack, profile="gaussian") for stack in stacks]

    def errors() -> tuple[float, float]:
        with collect_notices():
            squared = (fuse(acquired, spline, register=False).image[0].as_tensor() - hr[0].as_tensor()).square()
        inside = torch.zeros(squared.shape, dtype=torch.bool)
        inside[organ] = True
        inside &= moved != hr[0].as_tensor()
        return float(squared[inside].mean()), float(squared[~inside].mean())

    there, elsewhere = errors()
    monkeypatch.setattr("monai_sr.fusion.weights.CONTRADICTION", 0.0)
    followed, _ = errors()
    assert there < 0.9 * followed
    assert elsewhere < 0.2 * there


def study(folder: Path, **third) -> Path:
    """An axial and a coronal series of one contrast, and a third series."""
    dicom_stack(folder, "axial ++", 1, modality="MR", EchoTime=100)
    dicom_stack(folder, "coronal ++", 2, modality="MR", EchoTime=104)
    return dicom_stack(folder, "sagittal ++", 3, **({"modality": "MR", "EchoTime": 100} | third))


@pytest.mark.parametrize(
    ("third", "differs"),
    [
        ({"EchoTime": 20}, "EchoTime"),
        ({"FrameOfReferenceUID": dicom_phantoms.uid_of("another")}, "FrameOfReferenceUID"),
        ({"ContrastBolusAgent": "Gadolinium"}, "ContrastBolusAgent"),
        ({}, None),
    ],
)
def test_the_series_of_one_contrast_are_chosen_from_a_study(third, differs, tmp_path):
    with collect_notices() as notices:
        chosen = choose_series(study(tmp_path / "study", **third), SPLINE)
    assert [source.series.number for source in chosen] == ([1, 2] if differs else [1, 2, 3])
    left = [notice for notice in notices if notice.code == "W-LEFT-OUT"]
    assert [notice.facts["code"] for notice in left] == (["E-FUSE-UNLIKE"] if differs else [])
    assert not differs or differs in left[0].problem


def test_a_study_is_fused(tmp_path, capsys):
    target = tmp_path / "fused.nii.gz"
    words = ["fuse", str(study(tmp_path / "study", EchoTime=20)), str(target), "--bundle", "none"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert f"{target}: 2 stacks" in captured.out and "series 3 differs in EchoTime" in captured.err
    assert len(check_record(tmp_path / "fused.json")["fusion"]["stacks"]) == 2


@fault("F01", "E-FUSE-FEW")
def test_a_study_without_two_series_alike_is_refused(tmp_path):
    dicom_stack(tmp_path / "study", "axial ++", 1, modality="MR", EchoTime=100)
    dicom_stack(tmp_path / "study", "coronal ++", 2, modality="MR", EchoTime=20)
    with pytest.raises(UsageError) as caught:
        choose_series(tmp_path / "study", SPLINE)
    assert caught.value.code == "E-FUSE-FEW"


# ---------------------------------------------------------------- what it gains


@pytest.mark.slow
def test_evaluate_fuse_measures_what_fusing_gains(tmp_path, capsys, monkeypatch):
    hr = head(48)  # the minimum
    chosen = gains.SETTINGS[1:2] + gains.SETTINGS[3:4]
    monkeypatch.setattr(gains, "SETTINGS", chosen)
    path = save_nifti(tmp_path / "head.nii.gz", np.rint(hr[0].numpy()).astype(np.int16), np.asarray(hr.affine))
    words = ["--bundle", "none", "--crop", "48", "--output", str(tmp_path / "o"), "--markdown", str(tmp_path / "t.md")]
    assert main(["evaluate", "--fuse", str(path), *words]) == 0
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "o" / "fusion.json").read_text())["scores"]
    assert [row["stacks"] for row in rows[::4]] == [setting.name for setting in chosen]
    assert all(setting.name in out and setting.name in (tmp_path / "t.md").read_text() for setting in chosen)
    assert "Made by `monai-sr evaluate VOLUMES --bundle none --crop 48 --fuse`." in (tmp_path / "t.md").read_text()
    values = {(row["stacks"], row["method"]): row["psnr_db"] for row in rows}
    two, misaligned = (values[s.name, "fused"] - values[s.name, "single"] for s in chosen)
    assert two > 1 and misaligned > 0
    assert values[chosen[1].name, "cubic mean"] < values[chosen[0].name, "cubic mean"] - 2  # even with three stacks
    assert len((tmp_path / "o" / "fusion.csv").read_text().splitlines()) == len(rows) + 1


@pytest.mark.parametrize("words", [["--factor", "2"], ["--peer", "a=b {lr} {out}"], ["--noise", "0"], ["--robustness"]])
def test_evaluate_fuse_has_its_own_conditions(words, tmp_path, capsys):
    assert main(["evaluate", "--fuse", str(tmp_path), "--bundle", "none", *words]) == 2
    assert f"{words[0]} was given" in capsys.readouterr().err


def test_evaluate_fuse_says_that_a_volume_is_too_small(tmp_path, hr, capsys):
    path = save_nifti(tmp_path / "head.nii.gz", np.rint(hr[0].numpy()).astype(np.int16)[:30], np.asarray(hr.affine))
    assert main(["evaluate", "--fuse", str(path), "--bundle", "none"]) == 5
    assert "minimum 48" in capsys.readouterr().err
