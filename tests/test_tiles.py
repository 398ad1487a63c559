"""Tiles: nothing is left out, nothing is done twice, memory is bounded, and no seam can be found."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_sr.engine.tiles import apply_in_tiles, plan_tiles


def size(part: tuple[slice, ...]) -> int:
    return math.prod(s.stop - s.start for s in part)


def work(tiles) -> int:
    return sum(size(tile.padded) for tile in tiles)


PLANS = [
    # shape, halo, voxels, align
    ((40, 30, 20), (2, 2, 2), 3000, (1, 1, 1)),
    ((40, 30, 21), (4, 4, 10), 9000, (1, 1, 2)),
    ((7, 5, 3), (20, 20, 20), 10, (1, 1, 1)),
    ((61, 1, 97), (3, 0, 5), 500, (1, 1, 4)),
    ((16, 16, 16), (0, 0, 0), 512, (1, 1, 1)),
]


@pytest.mark.parametrize(("shape", "halo", "voxels", "align"), PLANS)
def test_tiles_cover_every_voxel_exactly_once(shape, halo, voxels, align):
    covered = np.zeros(shape, int)
    for tile in plan_tiles(shape, halo, voxels=voxels, align=align):
        covered[tile.core] += 1
    assert covered.min() == covered.max() == 1


@pytest.mark.parametrize(("shape", "halo", "voxels", "align"), PLANS)
def test_every_tile_has_its_whole_halo_or_reaches_the_border(shape, halo, voxels, align):
    for tile in plan_tiles(shape, halo, voxels=voxels, align=align):
        for core, padded, n, h in zip(tile.core, tile.padded, shape, halo, strict=True):
            assert padded.start <= max(0, core.start - h)
            assert padded.stop >= min(n, core.stop + h)
            assert 0 <= padded.start and padded.stop <= n
        inside = np.arange(math.prod(shape)).reshape(shape)
        assert np.array_equal(inside[tile.padded][tile.crop], inside[tile.core])


@pytest.mark.parametrize(("shape", "halo", "voxels", "align"), PLANS)
def test_tiles_start_at_multiples_of_the_alignment(shape, halo, voxels, align):
    for tile in plan_tiles(shape, halo, voxels=voxels, align=align):
        for core, padded, a in zip(tile.core, tile.padded, align, strict=True):
            assert core.start % a == 0
            assert padded.start % a == 0


@pytest.mark.parametrize("voxels", [6_000, 20_000, 100_000])
def test_no_tile_is_larger_than_asked(voxels):
    tiles = plan_tiles((60, 50, 40), (3, 3, 3), voxels=voxels, align=(1, 1, 1))
    assert max(size(tile.padded) for tile in tiles) <= voxels
    assert len(tiles) >= 60 * 50 * 40 / voxels


def test_a_bound_too_small_for_the_halo_gives_tiles_of_four_halos_a_side():
    tiles = plan_tiles((90, 90, 90), (5, 5, 5), voxels=1, align=(1, 1, 1))
    assert max(size(tile.padded) for tile in tiles) <= 21**3


@pytest.mark.parametrize("shape", [(4000, 3, 3), (5, 2000, 7), (3, 3, 3001)])
def test_a_tiny_bound_is_answered_however_long_an_axis_is(shape):
    tiles = plan_tiles(shape, (3, 3, 3), voxels=1, align=(1, 1, 2))
    assert max(size(tile.padded) for tile in tiles) <= math.prod(min(n, 18) for n in shape)
    assert sum(size(tile.core) for tile in tiles) == math.prod(shape)


def test_a_volume_that_fits_is_one_tile_without_halo():
    (tile,) = plan_tiles((30, 20, 10), (6, 6, 6), voxels=6000, align=(1, 1, 1))
    assert tile.core == tile.padded == (slice(0, 30), slice(0, 20), slice(0, 10))


def test_the_cut_is_the_cheapest_of_all_even_ones():
    shape, halo, voxels = (24, 20, 16), (3, 2, 1), 2500
    tiles = plan_tiles(shape, halo, voxels=voxels, align=(1, 1, 1))
    cheapest = min(
        math.prod(math.ceil(n / s) * min(n, s + 2 * h) for n, s, h in zip(shape, steps, halo, strict=True))
        for steps in itertools.product(*(range(1, n + 1) for n in shape))
        if math.prod(min(n, s + 2 * h) for n, s, h in zip(shape, steps, halo, strict=True)) <= voxels
    )
    assert work(tiles) <= cheapest


def test_axes_with_a_small_halo_are_cut_first():
    tiles = plan_tiles((64, 64, 64), (12, 1, 12), voxels=64**3 // 4, align=(1, 1, 1))
    assert all(tile.core[0] == tile.core[2] == slice(0, 64) for tile in tiles)
    assert len(tiles) >= 4


# ------------------------------------------------------------- applied


def blur(part: torch.Tensor) -> torch.Tensor:
    """Sees two voxels to each side, three through plane."""
    weights = torch.arange(1.0, 176.0).reshape(1, 1, 5, 5, 7) / 15400
    return F.conv3d(part, weights, padding=(2, 2, 3))


@pytest.mark.parametrize("shape", [(20, 17, 30), (5, 40, 31), (37, 3, 41)])
def test_tiled_equals_untiled(shape):
    voxels, fractions = torch.randn(shape), []
    tiled = apply_in_tiles(blur, voxels, halo=(2, 2, 3), tile_voxels=1000, progress=fractions.append)
    assert len(fractions) > 3
    torch.testing.assert_close(tiled, blur(voxels[None, None])[0, 0], rtol=0, atol=1e-5)


def test_a_halo_too_narrow_would_show():
    # the test above would not see much if the seams were small
    voxels = torch.randn(20, 17, 30)
    tiled = apply_in_tiles(blur, voxels, halo=(1, 1, 1), tile_voxels=1000)
    assert (tiled - blur(voxels[None, None])[0, 0]).abs().max() > 0.1


def test_the_output_may_have_more_slices_than_the_input():
    voxels = torch.randn(14, 12, 20)
    tiled = apply_in_tiles(
        lambda part: blur(part).repeat_interleave(4, dim=-1), voxels, halo=(2, 2, 3), scale=4, tile_voxels=4000
    )
    assert tiled.shape == (14, 12, 80)
    torch.testing.assert_close(tiled, blur(voxels[None, None])[0, 0].repeat_interleave(4, dim=-1), rtol=0, atol=1e-5)


def test_the_bound_counts_voxels_of_the_output():
    seen = []

    def spy(part):
        seen.append(part.numel())
        return part.repeat_interleave(8, dim=-1)

    apply_in_tiles(spy, torch.zeros(40, 40, 40), halo=(1, 1, 1), scale=8, tile_voxels=40_000)
    assert max(seen) * 8 <= 40_000


def test_a_matrix_along_the_slices_is_applied_to_one_tile_at_a_time():
    voxels, matrix, seen = torch.randn(20, 17, 12), torch.randn(30, 12), []

    def spy(part):
        seen.append(part.shape[-1])
        return blur(part)

    tiled = apply_in_tiles(spy, voxels, along=matrix, halo=(2, 2, 3), tile_voxels=1000)
    assert len(seen) > 3 and max(seen) < 30
    torch.testing.assert_close(tiled, blur((voxels @ matrix.T)[None, None])[0, 0], rtol=0, atol=1e-4)


def test_progress_grows_to_one():
    fractions = []
    apply_in_tiles(
        lambda part: part, torch.zeros(20, 20, 20), halo=(1, 1, 1), tile_voxels=800, progress=fractions.append
    )
    assert fractions == sorted(set(fractions))
    assert fractions[0] > 0 and fractions[-1] == 1
