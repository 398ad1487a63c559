"""Intensities: a straight line in and out of the network, nothing clipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_sr.errors import ImageError
from monai_sr.intensities import (
    CT_WINDOW,
    IntensityRange,
    Normalization,
    NormalizedSlices,
    guess_modality,
    intensity_range,
    padding_of,
)

CT = torch.linspace(-1024, 3071, 60).reshape(1, 3, 4, 5)
MR = torch.rand(1, 12, 12, 12) * 800 + 20


@pytest.mark.parametrize("voxels", [CT, MR], ids=["CT", "MR"])
def test_restoring_gives_back_the_units_of_the_file(voxels):
    scale, voxels = intensity_range(voxels), voxels[0]
    outside, expected = np.zeros(voxels.shape, bool), voxels.clone()
    outside[0, 1, 2], expected[0, 1, 2] = True, -3000.0
    for given in (voxels, voxels.numpy()):
        scan = NormalizedSlices(scale.normalize(given), scale, outside, -3000.0).beside(given)
        made = scan.in_file_units(scan.slices, (slice(None), slice(None)), np.arange(voxels.shape[2]))
        assert type(made) is type(given)
        torch.testing.assert_close(torch.as_tensor(made), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("voxels", [CT, MR], ids=["CT", "MR"])
def test_the_range_becomes_zero_to_one_and_what_lies_beyond_keeps_its_place(voxels):
    scale = intensity_range(voxels)
    ends = torch.tensor([scale.low, scale.high])
    torch.testing.assert_close(scale.normalize(ends), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(scale.normalize(2 * ends[1:] - ends[:1]), torch.tensor([2.0]))
    normalized = scale.normalize(voxels)
    assert normalized.max() > 1
    assert normalized.min() < 0
    assert normalized.unique().numel() == voxels.unique().numel()


def test_ct_has_one_window_for_every_volume():
    assert intensity_range(CT) == intensity_range(CT / 2, "CT") == IntensityRange(*CT_WINDOW)
    assert intensity_range(CT, None, Normalization(ct_window=(-500, 500))) == IntensityRange(-500, 500)


def test_mr_is_ranged_by_its_percentiles():
    low, high = np.percentile(MR.numpy(), [0.5, 99.5])
    scale = intensity_range(MR)
    assert (scale.low, scale.high) == pytest.approx((low, high))
    assert intensity_range(MR, None, Normalization(mr_percentiles=(10, 90))).high == pytest.approx(
        np.percentile(MR.numpy(), 90)
    )


def test_one_bright_voxel_does_not_change_the_range_of_an_mr_volume():
    spoiled = MR.clone()
    spoiled[0, 5, 5, 5] = 1e6
    assert intensity_range(spoiled).high == pytest.approx(intensity_range(MR).high, rel=0.01)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.01, 5.0)])
def test_an_mr_volume_looks_the_same_in_any_units(scale, shift):
    other = MR * scale + shift
    same = intensity_range(other, "MR").normalize(other)
    torch.testing.assert_close(same, intensity_range(MR).normalize(MR), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "modality"),
    [
        ([-1024, 400], "CT"),
        ([-3024, 400], "CT"),
        ([-201, 400], "CT"),
        ([-32768, -1024, 400], "CT"),
        ([-150, 400], "MR"),
        ([0, 400], "MR"),
        ([50, 400], "MR"),
        ([-32768, 0, 400], "MR"),
    ],
)
def test_a_volume_with_air_far_below_zero_is_ct(values, modality):
    assert guess_modality(torch.tensor(values)) == modality


@pytest.mark.parametrize(
    ("values", "modality", "padding"),
    [
        ([-1024, 40], "CT", None),
        ([-2000, -1024, 40], "CT", -2000),
        ([-32768, 0, 400], "MR", -32768),
        ([-1600, -1500, 400], "MR", None),  # signed signal
        ([-5000, -5000], "MR", None),
        ([0, 400], "MR", None),
    ],
)
def test_padding_is_below_all_signal(values, modality, padding):
    assert padding_of(np.float32(values), modality) == padding


def test_a_named_modality_is_not_guessed():
    assert intensity_range(CT, "MR").low > -1024
    assert intensity_range(MR, "CT") == IntensityRange(*CT_WINDOW)


def test_a_nearly_empty_volume_still_has_a_range():
    mask = torch.zeros(1, 10, 10, 10)
    mask[0, 4, 4, 4] = 1
    assert intensity_range(mask) == IntensityRange(0, 1)


@pytest.mark.parametrize("modality", [None, "CT", "MR"])
def test_a_volume_without_contrast_is_an_image_error(modality):
    with pytest.raises(ImageError, match=r"E-IMG-CONST: .*-1000"):
        intensity_range(torch.full((1, 4, 4, 4), -1000.0), modality)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float64])
def test_any_voxel_type_can_be_normalized(dtype):
    voxels = torch.arange(60).reshape(1, 3, 4, 5).to(dtype)
    normalized = intensity_range(voxels).normalize(voxels)
    assert normalized.is_floating_point()
    assert float(normalized.max()) == pytest.approx(1, abs=0.01)
