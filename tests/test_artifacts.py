"""Stripes, combs, streaks and false texture: seen where they are, and not where they are not."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from monai.data import MetaTensor
from scipy import ndimage

from monai_sr.acquired import Acquired
from monai_sr.bundles import load_bundle
from monai_sr.errors import collect_notices
from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import write_image
from monai_sr.transforms import interpolate_slices, simulate_thick_slices
from monai_sr.trust.artifacts import (
    LIMITS,
    bands,
    body_of,
    check_artifacts,
    combs,
    false_texture,
    measure_artifacts,
    slices_of,
    stripes,
)

FACTOR = 4


def thin(*, noise: float = 15.0, smooth: float = 0.0) -> np.ndarray:
    """(72, 72, 96) anatomy with white noise, alike in all directions."""
    voxels = np.asarray(phantoms.anatomy(0, (72, 72, 96))) * 1000
    voxels = voxels + np.random.default_rng(0).normal(0, noise, voxels.shape)
    return ndimage.gaussian_filter(voxels, smooth).astype(np.float32)


def image(voxels: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(voxels[None].astype(np.float32)), affine=np.eye(4))


def at_slices(count: int) -> np.ndarray:
    """(count,) bool, every fourth slice."""
    return np.arange(count) % FACTOR == 0


def alternating(sr: np.ndarray) -> np.ndarray:
    """Noisy slices at the slice spacing, smooth ones between."""
    return np.where(at_slices(sr.shape[2]), sr, ndimage.gaussian_filter(sr, (1, 1, 0)))


def accentuated(sr: np.ndarray) -> np.ndarray:
    """Slices that are brighter by a tenth at the slice spacing, as teeth of a comb."""
    return sr * (1 + 0.1 * at_slices(sr.shape[2]))


def repeated(sr: np.ndarray) -> np.ndarray:
    """Steps: each slice four times."""
    return np.repeat(sr[..., ::FACTOR], FACTOR, axis=2)


def textured(sr: np.ndarray) -> np.ndarray:
    """A pattern of 200 units everywhere."""
    pattern = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=sr.shape), 1)
    return sr + 200 * pattern / pattern.std()


@pytest.fixture(scope="module")
def acquired() -> Acquired:
    return Acquired.of(simulate_thick_slices(image(thin()), float(FACTOR), axis=2), axis=2, modality="MR")


def result_of(acquired: Acquired, method: str = "cubic", change=lambda sr: sr) -> MetaTensor:
    model = load_bundle("none")
    sr = model(acquired.image, factor=FACTOR, axis=2) if method == "none" else None
    sr = interpolate_slices(acquired.image, factor=FACTOR, axis=2, method=method) if sr is None else sr
    return on_grid(torch.from_numpy(change(sr[0].numpy())[None]).float(), grid_of(sr), sr)


def codes_of(acquired: Acquired, result: MetaTensor) -> list[str]:
    with collect_notices() as notices:
        check_artifacts(measure_artifacts(acquired, result))
    return [notice.code for notice in notices]


@pytest.mark.parametrize("smooth", [0.0, 0.8])
def test_thin_slices_have_no_artifacts(smooth):
    slices = slices_of(thin(smooth=smooth), 2)
    assert stripes(slices, body_of(slices), FACTOR) == pytest.approx((1, 1), abs=0.05)
    assert combs(slices, body_of(slices), FACTOR) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", ["cubic", "none"])
def test_good_results_give_no_warning(acquired, method):
    assert codes_of(acquired, result_of(acquired, method)) == []


@fault("I36", "W-SR-STRIPES")
@pytest.mark.parametrize(
    ("change", "measures"),
    [(alternating, {"noise"}), (repeated, {"steps", "combs"}), (accentuated, {"combs", "bands"})],
    ids=["noise", "steps", "teeth"],
)
def test_stripes_at_the_slice_spacing_give_a_warning(acquired, change, measures):
    result = result_of(acquired, change=change)
    measured = measure_artifacts(acquired, result)
    assert (
        measures <= {name for name in LIMITS if getattr(measured, name) > LIMITS[name]} <= LIMITS.keys() - {"texture"}
    )
    assert codes_of(acquired, result) == ["W-SR-STRIPES"]


@fault("I37", "W-SR-TEXTURE")
def test_texture_in_flat_regions_gives_a_warning(acquired):
    assert codes_of(acquired, result_of(acquired, change=textured)) == ["W-SR-TEXTURE"]


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("period", [2, 2.5, 4, 6.3])
def test_bands_are_detected_at_any_spacing_and_axis_and_not_at_another(period, axis):
    voxels = thin(smooth=0.8)
    striped = voxels * (1 + 0.1 * np.cos(2 * np.pi * np.arange(96) / period))
    slices, striped = (slices_of(np.moveaxis(v, 2, axis), axis) for v in (voxels, striped))
    body, of_striped = body_of(slices), body_of(striped)
    assert bands(slices, body, period) < 1.05 < LIMITS["bands"] < bands(striped, of_striped, period)
    assert bands(striped, of_striped, 1.6 * period if period < 5 else 0.6 * period) < 1.1


def test_a_flat_plate_counts_as_flat_though_it_ends_at_the_next_slice():
    thick, at = np.zeros((40, 40, 24), np.float32), (np.arange(96) + 0.5) / 4 - 0.5
    thick[4:-4, 4:-4] = 500 + 200 * (np.arange(24) % 3 == 0)
    before, after = slices_of(thick, 2), slices_of(thick.repeat(4, axis=2), 2)
    assert false_texture(before, after, at) == pytest.approx(1, abs=0.01)
    noise = np.random.default_rng(0).normal(0, 20, after.shape).astype(np.float32)
    assert false_texture(before, after + noise, at) > 4


def test_short_volumes_other_grids_and_constants_cannot_be_measured(acquired):
    short = Acquired.of(acquired.image[..., :4], axis=2, modality="MR")
    assert np.isnan(measure_artifacts(short, result_of(short)).combs)
    result = result_of(acquired)
    turned = on_grid(result.as_tensor()[:, :60], grid_of(result[:, :60]), result)
    assert set(measure_artifacts(acquired, turned).record().values()) == {None}
    assert false_texture(np.zeros((9, 9, 9), np.float32), np.zeros((9, 9, 9), np.float32), np.arange(9)) == 1


def test_the_record_of_a_result_holds_them(call, acquired, tmp_path):
    thick = write_image(acquired.image, tmp_path / "thick.nii.gz", dtype="float32")
    code, _, _ = call("run", thick, tmp_path / "thin.nii.gz", "--bundle", "none", "--report")
    record = json.loads((tmp_path / "thin.json").read_text())["monai_sr"]["artifacts"]
    assert code == 0 and list(record) == list(LIMITS) and all(1 <= v < 4 for n, v in record.items() if n != "texture")
    assert f"combs ×{record['combs']:g}" in (tmp_path / "thin.html").read_text()


def test_verify_warns_of_the_stripes_of_any_program(call, acquired, tmp_path):
    thick = write_image(acquired.image, tmp_path / "thick.nii.gz", dtype="float32")
    bad = write_image(result_of(acquired, change=repeated), tmp_path / "bad.nii.gz", dtype="float32")
    good = write_image(result_of(acquired, "none"), tmp_path / "good.nii.gz", dtype="float32")
    words = ["--profile", "gaussian", "--json", tmp_path / "record.json"]
    assert "W-SR-STRIPES" in call("verify", thick, bad, *words)[2]
    assert json.loads((tmp_path / "record.json").read_text())["artifacts"]["steps"] > 4
    code, _, err = call("verify", thick, good, *words)
    assert (code, err) == (0, "")
