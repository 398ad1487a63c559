"""Batches made on the device: crops of the volumes, thick slices by the drawn acquisitions, and steps from them."""

from __future__ import annotations

import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_sr.networks import PyramidNet
from monai_sr.training import BatchesOnDevice, LogErrorLoss, Muon, RandSimulateThickSlicesd
from monai_sr.training.muon import orthogonalize

EXACT = {"mistaken": 0, "noisy": 0, "profile_given": 1.0}


def volume(shape=(20, 22, 24), spacing=(1.0, 1.0, 1.0), weight=1.0):
    """A volume whose values give their place: x + 100 y + 10000 z, in steps of 0.01."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    voxels = torch.from_numpy((x + 32 * y + 1024 * z) * 0.001).float()
    return {"image": MetaTensor(voxels[None], affine=torch.diag(torch.tensor([*spacing, 1.0]))), "weight": weight}


def loader(volumes, *, factors=(2, 4), works_on="thick", **options):
    simulate = RandSimulateThickSlicesd("image", factors=factors, works_on=works_on, **EXACT)
    chosen = {"crop": (8, 8, 16), "batch_size": 12, "batches": 3, "draws": 5, "resolution": 0.001} | options
    return BatchesOnDevice(volumes, simulate, **chosen)


def test_crops_are_parts_of_the_volumes_in_any_direction():
    seen = set()
    for _ in range(3):
        for crop in loader([volume()], coarse=0.0, seed=_).crops():
            numbers = (crop / 0.001).round().long()
            places = torch.stack([numbers % 32, numbers // 32 % 32, numbers // 1024], dim=-1)
            steps = [(places.narrow(a, 1, 1) - places.narrow(a, 0, 1)).flatten(0, 2)[0] for a in range(3)]
            for axis, step in enumerate(steps):
                every = places.diff(dim=axis)
                assert (every == step).all() and step.abs().sum() == 1
            seen.add(tuple(int(s.abs().argmax()) * int(s.sum()) for s in steps))
            assert len({int(s.abs().argmax()) for s in steps}) == 3
    assert len(seen) > 8  # turned and flipped


def test_the_slice_axis_is_one_of_the_fine_ones():
    for crop in loader([volume(spacing=(1.0, 1.0, 4.0))], coarse=0.0).crops():
        step = ((crop[0, 0, 1] - crop[0, 0, 0]) / 0.001).round().abs()
        assert step in (1, 32)  # never z


def test_a_coarse_crop_is_of_means_over_larger_voxels():
    crops = loader([volume((32, 32, 32))], coarse=1.0, crop=(8, 8, 16)).crops()
    step = (crops[:, 0, 0, 9] - crops[:, 0, 0, 8]).abs() / 0.001
    nearest = torch.stack([(step / unit) for unit in (1, 32, 1024)], dim=1)
    growth = nearest[(nearest > 1.1) & (nearest < 2.05)]
    assert len(growth) == len(crops)


@pytest.mark.parametrize("works_on", ["thick", "thin"])
def test_thick_slices_are_those_of_the_given_acquisition(works_on):
    factors = (2, 4) if works_on == "thick" else (2.5, 4)
    for batch in loader([volume()], factors=factors, works_on=works_on):
        expected = torch.einsum("bcxyn,bmn->bcxym", batch["label"], batch["acquisition"])
        torch.testing.assert_close(batch["acquired"], expected, atol=2e-3, rtol=1e-3)
        kept = batch["label"] if works_on == "thin" else batch["acquired"]
        assert batch["image"].shape == kept.shape == (12, 1, *kept.shape[2:])


def test_the_same_seed_gives_the_same_batches_and_volumes_are_drawn_by_weight():
    first, second, other = (next(iter(loader([volume()], seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(first["label"], second["label"])
    assert not torch.equal(first["label"], other["label"])
    far = volume()
    far["image"] = far["image"] * 0 - 7
    drawn = loader([volume(weight=1), far | {"weight": 3}], batch_size=200, coarse=0.0).crops()
    assert 0.6 < float((drawn < -6).flatten(1).all(dim=1).float().mean()) < 0.9


def test_no_volumes_are_refused():
    with pytest.raises(ValueError, match="no volumes"):
        loader([])


def test_the_rate_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        assert len(list(loader([volume()]))) == len(loader([volume()])) == 3
    assert "crops/s" in caplog.text


def test_the_loss_is_the_logarithm_of_each_crop_s_error_inside():
    hr = torch.rand(2, 1, 12, 12, 8)
    sr = hr + torch.tensor([0.1, 0.001]).reshape(2, 1, 1, 1, 1)
    sr[:, :, 0] += 5  # at the border, which does not count
    loss = LogErrorLoss(floor=0.0)
    assert float(loss([sr], hr)) == pytest.approx(np.log([1e-2, 1e-6]).mean(), rel=1e-3)
    coarse = torch.zeros(2, 1, 12, 12, 4)
    assert float(loss([coarse, sr], hr)) != pytest.approx(float(loss([sr], hr)), rel=1e-3)


def test_kernels_step_in_all_directions_alike():
    values = torch.linalg.svdvals(orthogonalize(torch.randn(2, 20, 60))[0])
    assert values.min() > 0.5 and values.max() < 1.3


def test_training_lowers_the_error_and_resumes_from_a_state():
    torch.manual_seed(0)
    network = PyramidNet(16, 2).train()
    batches = loader([volume()], factors=(2,), seed=3)
    optimizer, loss = Muon(network.parameters(), lr=2e-3), nn.MSELoss()
    state = [p.clone() for p in network.parameters()]
    errors = []
    for _ in range(8):
        batch = batches.pairs(2)
        errors.append(loss(network(batch["image"], 1)[-1], batch["label"]))
        optimizer.zero_grad()
        errors[-1].backward()
        optimizer.step()
    assert sum(errors[-3:]) < sum(errors[:3])
    # ×2 has a last level only
    moved = [not torch.equal(old, new) for old, new in zip(state, network.parameters(), strict=True)]
    names = [name for name, _ in network.named_parameters()]
    assert all(m != name.startswith("earlier") for m, name in zip(moved, names, strict=True))
    other = PyramidNet(16, 2)
    resumed = Muon(other.parameters(), lr=2e-3)
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for net, opt in ((network, optimizer), (other, resumed)):
        opt.zero_grad()
        loss(net.train()(batch["image"], 1)[-1], batch["label"]).backward()
        opt.step()
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
