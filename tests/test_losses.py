"""Losses: zero at equality, equal to their formula, and a reference averaged as by a scanner."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from monai_sr.training.losses import CharbonnierLoss, PyramidLoss, level_target

FWHM = 2.3548200450309493


def averaged(hr: torch.Tensor, factor: int) -> torch.Tensor:
    """Thin slices averaged by a Gaussian of FWHM ``factor`` slices, by the formula; ends held."""
    n = hr.shape[-1]
    middles = np.arange(n // factor) * factor + (factor - 1) / 2
    borders = np.concatenate([[-np.inf], np.arange(1, n) - 0.5, [np.inf]])
    weights = np.diff(stats.norm.cdf(borders[None] - middles[:, None], scale=factor / FWHM), axis=1)
    return hr @ torch.from_numpy(weights).to(hr).T


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_charbonnier_is_its_formula(epsilon):
    sr, hr = torch.randn(2, 1, 3, 4, 5), torch.randn(2, 1, 3, 4, 5)
    difference = (sr - hr).double().numpy()
    expected = np.mean(np.sqrt(difference**2 + epsilon**2)) - epsilon
    assert float(CharbonnierLoss(epsilon)(sr, hr)) == pytest.approx(expected, rel=1e-5)


def test_charbonnier_is_zero_and_smooth_where_both_are_equal():
    hr = torch.randn(1, 1, 3, 4, 5, dtype=torch.float64)
    sr = hr.clone().requires_grad_()
    loss = CharbonnierLoss()(sr, hr)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert float(sr.grad.abs().max()) == 0


def test_charbonnier_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 4, 5\).*\(1, 1, 3, 4, 10\)"):
        CharbonnierLoss()(torch.zeros(1, 1, 3, 4, 5), torch.zeros(1, 1, 3, 4, 10))


@pytest.mark.parametrize("factors", [(2, 1), (4, 2, 1), (8, 4, 2, 1)])
def test_a_pyramid_that_shows_the_averaged_reference_has_no_loss(factors):
    hr = torch.randn(2, 1, 3, 4, 16)
    levels = [averaged(hr, f) if f > 1 else hr for f in factors]
    assert float(PyramidLoss()(levels, hr)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_level_of_every_other_slice_is_not_the_reference(factor):
    hr = torch.randn(2, 1, 3, 4, 16)
    assert float(PyramidLoss()([hr[..., ::factor], hr], hr)) > 0.1
    torch.testing.assert_close(level_target(hr, 16 // factor), averaged(hr, factor))


def test_every_level_counts_in_the_sum():
    hr = torch.randn(1, 1, 3, 4, 8)
    levels = [torch.randn(1, 1, 3, 4, n) for n in (2, 4, 8)]
    charbonnier = CharbonnierLoss()
    expected = sum(charbonnier(sr, averaged(hr, f) if f > 1 else hr) for sr, f in zip(levels, (4, 2, 1), strict=True))
    torch.testing.assert_close(PyramidLoss()(levels, hr), expected)


def test_the_loss_of_each_level_may_be_another():
    hr, levels = torch.randn(1, 1, 3, 4, 8), [torch.randn(1, 1, 3, 4, n) for n in (4, 8)]
    expected = ((levels[0] - averaged(hr, 2)) ** 2).mean() + ((levels[1] - hr) ** 2).mean()
    torch.testing.assert_close(PyramidLoss(torch.nn.MSELoss())(levels, hr), expected)


def test_one_tensor_counts_as_the_last_level():
    sr, hr = torch.randn(1, 1, 3, 4, 8), torch.randn(1, 1, 3, 4, 8)
    torch.testing.assert_close(PyramidLoss()(sr, hr), CharbonnierLoss()(sr, hr))


def test_levels_that_do_not_divide_the_reference_are_refused():
    with pytest.raises(ValueError, match="9 thin slices are not a multiple of 4"):
        PyramidLoss()([torch.zeros(1, 1, 2, 2, 4)], torch.zeros(1, 1, 2, 2, 9))
