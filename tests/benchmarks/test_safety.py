"""The lesion and region figures of the model cards, on lesions and regions whose figures are known."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import torch
from benchmarks import safety

from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import write_image


def ct(shape=(60, 60, 60)):
    """A body of about water in air, HU."""
    image = phantoms.body(shape)
    return on_grid(2.6 * image.as_tensor() - 1000, grid_of(image), image)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_an_ellipsoid_has_the_volume_it_should():
    fraction = safety.ellipsoid((30, 24, 20), (1.0, 1.0, 1.5), np.array([14.3, 12.0, 14.0]), np.array([10.0, 8.0, 9.0]))
    assert fraction.sum() * 1.5 == pytest.approx(np.pi / 6 * 720, rel=0.01)
    assert fraction.max() == 1
    assert ((fraction > 0) & (fraction < 1)).any()  # partial volume


def test_places_lie_inside_and_apart(rng):
    body = np.zeros((60, 60, 60), bool)
    body[10:50, 10:50, 10:50] = True
    centers = safety.places(body, (1.0, 1.0, 2.0), 16.0, rng)
    assert len(centers) > 5
    assert body[tuple(centers.T)].all()
    distance = np.linalg.norm((centers[:, None] - centers) * (1, 1, 2), axis=-1)
    assert distance[~np.eye(len(centers), dtype=bool)].min() >= 16


def lesion(diameter: float = 8.0, contrast: float = 100.0) -> safety.Lesion:
    fraction = safety.ellipsoid((21, 21, 21), (1, 1, 1), np.array([10.0] * 3), np.array([diameter] * 3))
    return safety.Lesion((slice(5, 26),) * 3, fraction, diameter, contrast, abs(contrast))


@pytest.mark.parametrize("contrast", [100.0, -30.0])
def test_a_lesion_that_is_kept_is_recovered_and_one_that_is_halved_half(contrast):
    one = lesion(contrast=contrast)
    kept, nothing = np.zeros((30, 30, 30)), np.zeros((30, 30, 30))
    kept[one.place] = one.fraction * contrast
    assert safety.measured(one, kept, nothing) == (pytest.approx(1), pytest.approx(0), False)
    recovery, volume, false = safety.measured(one, 0.4 * kept, nothing)
    assert recovery == pytest.approx(0.4)
    assert volume == -1  # nowhere half of the contrast
    assert not false


def test_an_error_as_large_as_half_a_lesion_passes_for_one():
    one, nothing = lesion(contrast=-60), np.zeros((30, 30, 30))
    assert not safety.measured(one, nothing, nothing + 29)[2]
    assert safety.measured(one, nothing, nothing + 31)[2]


def test_lesions_are_in_the_volume_where_they_are_said_to_be(rng):
    hr = ct()
    changed, lesions = safety.with_lesions(hr, "CT", 12.0, rng)
    difference = (changed - hr)[0].numpy()
    assert len(lesions) >= 3
    for one in lesions:
        assert np.allclose(
            difference[one.place][one.fraction > 0], (one.contrast * one.fraction)[one.fraction > 0], atol=1e-2
        )
    assert np.allclose(changed.affine, hr.affine)
    assert grid_of(changed).shape == grid_of(hr).shape


def test_regions_show_a_shift_of_values_and_a_loss_of_volume():
    reference = np.full((20, 20, 20), -1000.0)
    reference[5:15, 5:15, 5:15] = 50
    reference[7:13, 7:13, 2:14] = 400
    where = np.ones_like(reference, bool)
    errors = safety.region_errors(reference, reference + 7, where, "CT")
    assert errors["bone"] == (0, pytest.approx(7))
    assert "fat" not in errors  # there is none
    smaller = reference.copy()
    smaller[7:13, 7:13, 2:5] = 50
    volume, value = safety.region_errors(reference, smaller, where, "CT")["bone"]
    assert volume == pytest.approx(-3 / 12)
    assert value == pytest.approx(-350 * 3 / 12)


def test_mr_is_parted_into_thirds():
    reference = np.random.default_rng(0).uniform(0, 300, (20, 20, 20))
    body = np.ones_like(reference, bool)
    errors = safety.region_errors(reference, reference, body, "MR")
    assert errors == dict.fromkeys(("dark", "middle", "bright"), (0, 0))
    assert safety.thirds(reference, body)["middle"] == (pytest.approx(100, abs=5), pytest.approx(200, abs=5))


def test_the_tables_are_made_by_one_command(tmp_path, capsys):
    for number in range(2):
        image = ct() + 5 * torch.randn(1, 60, 60, 60)
        write_image(image, tmp_path / f"{number}.nii.gz", dtype=np.float32)
    entries = [{"image": f"{number}.nii.gz"} for number in range(2)]
    (tmp_path / "list.json").write_text(json.dumps({"training": [], "validation": entries}))
    card = tmp_path / "card.md"
    safety.main([str(tmp_path / "list.json"), "--bundle", "--factor", "2", "--markdown", str(card)])
    text = card.read_text()
    assert "**Lesions, CT ×2**" in text
    assert "| soft |" in text
    assert text.endswith("Made by `python -m tests.benchmarks.safety DATALIST --crop 96 --factor 2 --axes 1`.\n")
