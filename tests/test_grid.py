"""Where voxels lie: spacing, the through-plane axis, re-spacing, and storage order."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import phantoms
import pytest

from monai_sr.errors import ImageError, UsageError
from monai_sr.grid import Grid

GRIDS = phantoms.grids()
any_grid = pytest.mark.parametrize(("grid", "axis"), GRIDS.values(), ids=GRIDS.keys())


def world_of(grid: Grid, index) -> np.ndarray:
    """World mm of one voxel index, which may be fractional."""
    return grid.affine[:3, :3] @ np.asarray(index, dtype=float) + grid.affine[:3, 3]


def along(grid: Grid, axis: int, index: float) -> np.ndarray:
    """World mm of the point with that index along ``axis`` and 0 along the others."""
    position = [0.0, 0.0, 0.0]
    position[axis] = index
    return world_of(grid, position)


def stored_as(voxels: np.ndarray, affine: np.ndarray, order, flipped) -> tuple[np.ndarray, np.ndarray]:
    """The same anatomy with its axes permuted, then some of them reversed."""
    voxels, affine = voxels.transpose(order), affine[:, [*order, 3]].copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)
    return voxels, affine


@any_grid
def test_spacing_and_through_plane_axis_are_read_from_any_affine(grid, axis):
    expected = [1.0, 1.2]
    expected.insert(axis, 4.0)
    assert grid.spacing == pytest.approx(expected, rel=1e-12)
    assert grid.spacing == pytest.approx(nib.affines.voxel_sizes(grid.affine), rel=1e-12)
    assert grid.through_plane_axis == axis


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 1, 3), (1, 2.0, 2.01)])
def test_a_grid_without_a_clear_slice_axis_asks_for_it(spacing):
    with pytest.raises(UsageError, match="--axis"):
        _ = phantoms.grid(spacing=spacing).through_plane_axis


def test_spacings_that_differ_by_more_than_rounding_decide_the_axis():
    assert phantoms.grid(spacing=(1.0, 1.03, 1.0)).through_plane_axis == 1


@any_grid
@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_a_slab_keeps_its_center_and_extent_and_its_first_slice_moves_by_the_formula(grid, axis, factor):
    fine = grid.respaced(axis, grid.spacing[axis] / factor)
    assert fine.shape[axis] == grid.shape[axis] * factor
    np.testing.assert_allclose(phantoms.center(fine), phantoms.center(grid), atol=1e-9)
    step = grid.affine[:3, axis]
    np.testing.assert_allclose(fine.affine[:3, 3] - grid.affine[:3, 3], step * (1 / factor - 1) / 2, atol=1e-9)
    for end in (-0.5, grid.shape[axis] - 0.5):  # the outer faces
        np.testing.assert_allclose(along(fine, axis, (end + 0.5) * factor - 0.5), along(grid, axis, end), atol=1e-9)


@any_grid
@pytest.mark.parametrize("spacing", [0.7, 1.3, 2.9, 4.0, 7.3])
def test_a_spacing_that_does_not_divide_keeps_the_center_and_the_extent_to_half_a_voxel(grid, axis, spacing):
    fine = grid.respaced(axis, spacing)
    np.testing.assert_allclose(phantoms.center(fine), phantoms.center(grid), atol=1e-9)
    assert fine.spacing[axis] == pytest.approx(spacing, rel=1e-12)
    extents = [g.shape[axis] * g.spacing[axis] for g in (fine, grid)]
    assert abs(extents[0] - extents[1]) <= spacing / 2 + 1e-9
    others = [a for a in range(3) if a != axis]
    assert [fine.shape[a] for a in others] == [grid.shape[a] for a in others]
    np.testing.assert_array_equal(fine.affine[:3, others], grid.affine[:3, others])


@any_grid
def test_there_and_back_is_the_same_grid(grid, axis):
    back = grid.respaced(axis, 1.0).respaced(axis, 4.0)
    assert back.shape == grid.shape
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-9)


def test_at_least_one_slice_is_left():
    grid = phantoms.grid((4, 4, 3))
    assert grid.respaced(2, 50.0).shape == (4, 4, 1)


@any_grid
@pytest.mark.parametrize("spacing", [0.8, 1.0, 2.6])
def test_positions_of_a_respaced_grid_are_where_its_slices_lie_in_the_world(grid, axis, spacing):
    fine = grid.respaced(axis, spacing)
    direction = grid.affine[:3, axis] / grid.spacing[axis]
    middle = direction @ phantoms.center(grid)
    for g in (grid, fine):
        in_world = [direction @ (along(g, axis, k) - along(g, axis, (g.shape[axis] - 1) / 2)) for k in (0, 1, 3)]
        np.testing.assert_allclose(g.positions(axis)[[0, 1, 3]], in_world, atol=1e-9)
        np.testing.assert_allclose(direction @ phantoms.center(g), middle, atol=1e-9)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf])
def test_an_invalid_spacing_is_refused(spacing):
    with pytest.raises(UsageError, match="above 0"):
        phantoms.grid().respaced(2, spacing)


@pytest.mark.parametrize("orientation", phantoms.ORIENTATIONS)
@pytest.mark.parametrize("through_plane", [0, 1, 2])
def test_however_the_anatomy_is_stored_its_canonical_order_is_the_same(orientation, through_plane):
    grid = phantoms.grid((3, 4, 5), (1.0, 1.5, 2.0), orientation=orientation)
    voxels = phantoms.known_value(grid).numpy()[0]
    reference = None
    for order, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        flipped = [a for a in range(3) if flips[a]]
        stored, affine = stored_as(voxels, grid.affine, order, flipped)
        axes, turned = Grid(stored.shape, affine).canonical_order(order.index(through_plane))
        canonical, canonical_affine = stored_as(stored, affine, axes, turned)
        if reference is None:
            reference = canonical, canonical_affine
        np.testing.assert_array_equal(canonical, reference[0])
        np.testing.assert_allclose(canonical_affine, reference[1], atol=1e-9)
        assert axes[2] == order.index(through_plane)
        assert canonical.shape[2] == voxels.shape[through_plane]


def test_canonical_order_of_axial_slices_is_that_of_nibabel():
    grid = phantoms.grid((3, 4, 5), (1, 1, 3), orientation="LPS")
    voxels = phantoms.known_value(grid).numpy()[0]
    axes, flips = grid.canonical_order(2)
    ours, affine = stored_as(voxels, grid.affine, axes, flips)
    theirs = nib.as_closest_canonical(nib.Nifti1Image(voxels, grid.affine))
    np.testing.assert_array_equal(ours, theirs.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(affine, theirs.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("affine", "code"),
    [(np.diag([1, np.nan, 1, 1]), "E-HDR-AFFINE"), (np.diag([1, np.inf, 1, 1]), "E-HDR-AFFINE"),
     (np.diag([1, 0, 1, 1]), "E-HDR-SPACING")],
)  # fmt: skip
def test_an_affine_that_cannot_be_is_an_image_error(affine, code):
    with pytest.raises(ImageError, match=code):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (2, 0, 2), (2, 2, 2, 2)])
def test_a_grid_has_three_axes_of_voxels(shape):
    with pytest.raises(ValueError, match="three axes"):
        Grid(shape, np.eye(4))


def test_a_grid_does_not_change_when_the_affine_it_was_made_from_does():
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    grid = Grid((2, 2, 2), affine)
    affine[2, 2] = 9
    assert grid.spacing == (1, 1, 3)
