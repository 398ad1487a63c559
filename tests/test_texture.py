"""Random texture: as strong as the noise of the slices, in agreement with them, and only if it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from scipy import ndimage

from monai_sr import load_bundle
from monai_sr.acquired import Acquired
from monai_sr.batch import super_resolve_within
from monai_sr.cli.main import main
from monai_sr.engine.memory import MemoryShortError, needed_bytes
from monai_sr.errors import collect_notices
from monai_sr.io.images import read_image, write_image
from monai_sr.options import Wanted
from monai_sr.slices import SliceModel
from monai_sr.trust.consistency import measure_consistency
from monai_sr.trust.texture import AVERAGED, noise_spectrum, random_texture

THICK, THIN = (np.arange(count) * step + (step - 1) / 2 for count, step in ((12, 4.0), (48, 1.0)))
MODEL = SliceModel.between(THICK, THIN, slice_thickness=4.0)


def noise(shape, sigma, *, blur=0.0, seed=0):
    """Noise of a standard deviation, correlated in plane if blurred."""
    field = np.random.default_rng(seed).normal(0, 1, shape)
    field = ndimage.gaussian_filter(field, (blur, blur, 0), mode="wrap") if blur else field
    return sigma * field / field.std()


def anatomy(shape):
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    body = 100.0 + 30 * x + 200 * (x**2 + y**2 < 0.4)
    return np.repeat(body[..., None], shape[2], axis=2)


def scan(sigma=8.0, background=None):
    voxels = anatomy((128, 128, 12)) + noise((128, 128, 12), sigma, blur=0.8)
    if background is not None:
        voxels[:40] = background
    return MetaTensor(torch.from_numpy(voxels).float()[None], affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])))


@pytest.mark.parametrize("blur", [0.0, 0.8, 1.5])
def test_the_spectrum_is_that_of_the_noise_and_not_of_the_edges(blur):
    made = noise((128, 128, 40), 5.0, blur=blur)
    power = noise_spectrum(torch.from_numpy(anatomy(made.shape) + made))
    if blur < 1:
        assert np.sqrt(power.mean()) == pytest.approx(5.0, rel=0.15)
    else:  # the lowest frequencies may be anatomy
        assert 3.0 < np.sqrt(power.mean()) < 5.0
    frequency = np.abs(np.fft.fftfreq(len(power)))
    high, low = power[np.ix_(frequency > 0.3, frequency > 0.3)], power[np.ix_(frequency < 0.15, frequency < 0.15)]
    if blur == 0:
        assert low[1:].mean() == pytest.approx(high.mean(), rel=0.3)
    else:
        assert low.mean() > 5 * high.mean()


def test_the_texture_is_stronger_in_thin_slices_and_has_the_spectrum_of_the_acquired_ones():
    slices = torch.from_numpy(anatomy((128, 128, 12)) + noise((128, 128, 12), 5.0, blur=0.8)).float()
    texture = random_texture(slices, MODEL)
    left = float(MODEL.acquisition.square().sum(1).median())
    assert texture.shape == (128, 128, 48)
    assert float(texture.std()) == pytest.approx(5.0 / left ** (AVERAGED / 2), rel=0.15)
    first, second = texture[..., 10].flatten(), texture[..., 11].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05
    beside = torch.stack([texture[1:].flatten(), texture[:-1].flatten()])
    assert float(torch.corrcoef(beside)[0, 1]) > 0.4  # correlated in plane, as the noise of the slices
    assert torch.equal(texture, random_texture(slices, MODEL))
    assert not torch.equal(texture, random_texture(slices, MODEL, seed=1))


def test_slices_without_noise_get_no_texture():
    assert random_texture(torch.full((64, 64, 12), 3.0), MODEL).abs().max() == 0


def test_slices_that_are_too_small_get_no_texture():
    assert random_texture(torch.randn(7, 64, 12), MODEL).abs().max() == 0
    assert random_texture(torch.randn(8, 64, 12), MODEL).abs().max() > 0


def test_every_volume_of_a_file_has_a_texture_of_its_own_and_one_warning_says_so():
    image = scan()
    twice = MetaTensor(torch.cat([image.as_tensor()] * 2), affine=image.affine)
    with collect_notices() as notices:
        first, second = load_bundle("none")(twice, factor=4, axis=2, texture=True).as_tensor()
    assert not torch.equal(first, second)
    assert [notice.code for notice in notices] == ["W-SR-RANDOM"]


def test_memory_is_planned_for_the_texture():
    model, image = load_bundle("none"), scan()
    acquired = Acquired.of(image, axis=2)
    voxels = {"voxels_in": image.numel(), "voxels_out": 4 * image.numel()}
    enough = needed_bytes(model.engine, 1, **voxels)
    super_resolve_within(model, acquired, Wanted(factor=4), memory=enough)
    with pytest.raises(MemoryShortError):
        super_resolve_within(model, acquired, Wanted(factor=4, texture=True), memory=enough)


def test_a_result_with_texture_agrees_with_the_slices_and_leaves_an_empty_background_alone():
    image, model = scan(background=0.0), load_bundle("none")
    with collect_notices() as notices:
        plain, textured = (model(image, factor=4, axis=2, texture=wanted) for wanted in (False, True))
    assert [notice.code for notice in notices] == ["W-SR-RANDOM"]
    assert torch.equal(plain, model(image, factor=4, axis=2))
    assert measure_consistency(image, textured, axis=2).score == pytest.approx(0, abs=1e-4)
    difference = (textured - plain).as_tensor()[0]
    assert difference[:38].abs().max() == 0
    assert float(difference[60:].std()) > 8


@fault("R31", "W-SR-RANDOM")
def test_the_command_says_that_texture_is_random_and_the_record_holds_it(tmp_path):
    source, target = tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz"
    write_image(scan(), source)
    words = ["run", str(source), str(target), "--bundle", "none", "--factor", "4"]
    with collect_notices():
        assert main(words) == 0
        plain = read_image(target)
        assert main([*words, "--texture"]) == 0
    record = json.loads((tmp_path / "thin.json").read_text())["monai_sr"]
    assert "W-SR-RANDOM" in [one["code"] for one in record["warnings"]]
    assert record["options"]["wanted"]["texture"] is True
    assert not torch.equal(read_image(target), plain)
