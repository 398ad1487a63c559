"""Through-plane resolution measured on the volume itself, on tissue of known blur."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from scipy import ndimage

from monai_sr.acquired import Acquired
from monai_sr.cli.main import main
from monai_sr.errors import collect_notices
from monai_sr.grid import grid_of, on_grid
from monai_sr.inference import super_resolve
from monai_sr.io.images import write_image
from monai_sr.slices import apply_along, profile_matrix
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.resolution import (
    EQUIVALENT,
    METHOD,
    Resolution,
    check_width,
    effective_resolution,
    length_text,
    measure_resolution,
)


def tissue(shape=(48, 48, 64)):
    """Alike in all directions: noise, smoothed by 1.5 voxels."""
    noise = np.random.default_rng(0).normal(0, 1, shape)
    voxels = torch.from_numpy(ndimage.gaussian_filter(noise, 1.5 / phantoms.FWHM)).float()
    return on_grid(400 * voxels[None], phantoms.grid(shape), voxels)


def anatomy(shape=(48, 48, 64)):
    """As images: coarse and fine."""
    volume = phantoms.constant(phantoms.grid(shape))
    volume[:] = 1000 * phantoms.anatomy(0, shape)
    return volume


@pytest.mark.parametrize("slice_thickness", [3.0, 4.0, 6.0])
def test_the_thickness_of_thick_slices_is_estimated(slice_thickness):
    thick = simulate_thick_slices(tissue(), 4.0, slice_thickness=slice_thickness, axis=2)
    resolution = measure_resolution(thick, 2)
    assert resolution.mm == pytest.approx(slice_thickness, rel=0.15)
    assert not resolution.bounded


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_thin_volume_is_as_fine_as_it_is_blurred_and_not_as_its_voxels(axis):
    hr = tissue((60, 60, 60))
    at = grid_of(hr).positions(axis)
    blurred = apply_along(profile_matrix(at, at, slice_thickness=4.0), hr.as_tensor(), axis + 1)
    assert measure_resolution(on_grid(blurred, grid_of(hr), hr), axis, lag=2.0).mm == pytest.approx(4.0, rel=0.15)


def test_slices_take_detail_from_their_planes_too():
    edges = torch.sign(
        torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (64, 64, 96)), 2))
    )
    thick = simulate_thick_slices(on_grid(edges[None].float(), phantoms.grid((64, 64, 96)), edges), 4.0, axis=2)
    assert measure_resolution(thick, 2).mm == pytest.approx(4, rel=0.1)  # 3.5 beside planes that are sharp


def test_units_and_contrast_do_not_matter():
    thick = simulate_thick_slices(tissue(), 4.0, axis=2)
    other = on_grid(-3 * thick.as_tensor() + 1000, grid_of(thick), thick)
    assert measure_resolution(other, 2).mm == pytest.approx(measure_resolution(thick, 2).mm, rel=1e-3)


@fault("I35", "W-SR-WIDTH")
@pytest.mark.parametrize(
    ("given", "codes"),
    [(None, ["W-SR-WIDTH"]), (4.0, []), (6.0, []), (2.5, []), (2.2, ["W-SR-WIDTH"]), (16.0, ["W-SR-WIDTH"])],
)
def test_slices_of_another_width_than_their_thickness_are_warned_of(given, codes):
    thick = simulate_thick_slices(tissue(), 2.0, slice_thickness=4.0, axis=2)
    acquired = Acquired.of(thick, axis=2, slice_thickness=given)
    with collect_notices() as notices:
        check_width(acquired, effective_resolution(acquired, thick)[0])
    assert [notice.code for notice in notices] == codes
    for notice in notices:
        assert notice.facts["estimated"] == pytest.approx(4.0, rel=0.15)
        assert notice.facts["low"] < 4.0 < notice.facts["high"] and "result" in notice.problem


def test_a_profile_that_is_known_narrows_what_its_thickness_may_be():
    thick = simulate_thick_slices(tissue(), 2.0, slice_thickness=4.0, axis=2)
    before = effective_resolution(Acquired.of(thick, axis=2), thick)[0]
    for profile, codes in (("box", ["W-SR-WIDTH"]), (None, [])):
        thickness = before.interval[0] * 1.2  # as a Gaussian within the interval, as a box below it
        with collect_notices() as notices:
            check_width(Acquired.of(thick, axis=2, slice_thickness=thickness, profile=profile), before)
        assert [notice.code for notice in notices] == codes


@fault("I35", "W-SR-WIDTH")
def test_a_run_warns_of_slices_that_overlap_and_are_not_known_to(tmp_path, capsys):
    thick = simulate_thick_slices(tissue(), 2.0, slice_thickness=4.0, axis=2)
    path = write_image(thick, tmp_path / "thick.nii.gz")
    words = ["run", str(path), str(tmp_path / "thin.nii.gz"), "--factor", "2", "--bundle", "none"]
    assert main(words) == 0
    assert "W-SR-WIDTH" in capsys.readouterr().err
    assert main([*words, "--slice-thickness", "4"]) == 0
    assert "W-SR-WIDTH" not in capsys.readouterr().err


def test_slices_with_gaps_and_volumes_that_cannot_be_measured_give_no_warning():
    for thick in (
        simulate_thick_slices(tissue(), 4.0, slice_thickness=1.0, axis=2),
        simulate_thick_slices(tissue((8, 8, 64)), 4.0, axis=2),
    ):
        acquired = Acquired.of(thick, axis=2, slice_thickness=1.0)
        with collect_notices() as notices:
            check_width(acquired, effective_resolution(acquired, thick)[0])
        assert notices == []


def test_an_estimate_that_is_impossible_is_reported():
    assert measure_resolution(tissue((48, 48, 48)), 2).bounded in ("at most", "")
    assert measure_resolution(tissue((48, 48, 48)), 2).mm < 1.2
    flat = phantoms.constant(phantoms.grid((20, 20, 8), (1, 1, 4)))
    assert np.isnan(measure_resolution(flat, 2).mm)
    few = simulate_thick_slices(tissue((12, 12, 64)), 4.0, axis=2)
    assert np.isnan(measure_resolution(few, 2).mm)  # three slices' breadth in plane
    assert measure_resolution(few, 2).record()["mm"] is None
    along = on_grid(tissue().as_tensor().mean(dim=-1, keepdim=True).expand(-1, -1, -1, 64), grid_of(tissue()), tissue())
    drift = on_grid(along + torch.linspace(0, 1e-3, 64), grid_of(along), along)
    assert measure_resolution(drift, 2).bounded == "at least"


def noisy(voxels: np.ndarray, spacing=(1.0, 1.0, 4.0)):
    grid = phantoms.grid(voxels.shape, spacing)
    return on_grid(torch.from_numpy(voxels[None].astype(np.float32)), grid, torch.zeros(1))


def test_noise_and_flat_plates_give_no_resolution():
    generator = np.random.default_rng(0)
    white = generator.normal(0, 10, (64, 64, 24))
    x, y = np.indices((64, 64))
    body = np.hypot(x - 32, y - 32)[..., None] < 26
    phantom = np.where(body, 50 + white, -1000 + white / 5)  # of water
    plates = np.repeat(generator.normal(0, 300, 12), 2) * np.ones((64, 64, 1)) + white / 100
    in_plane = ndimage.gaussian_filter(white, (1, 1, 0))  # as in a CT
    for voxels in (white, plates, in_plane, 1000 + in_plane):
        measured = measure_resolution(noisy(voxels), 2)
        assert np.isnan(measured.mm) and measured.text() == "cannot tell", measured
        assert measured.record() == {"mm": None, "bounded": "cannot tell"}
    result = super_resolve(noisy(white), None, factor=4)
    estimates = effective_resolution(Acquired.of(noisy(white)), result)
    assert [resolution.text() for resolution in estimates] == ["cannot tell"] * 2
    assert not measure_resolution(noisy(phantom), 2).mm > 4  # its rim is the same in every slice


@pytest.mark.parametrize("slice_thickness", [3.0, 4.0, 6.0])
def test_step_edges_have_the_width_of_their_slices(slice_thickness):
    x, y, z = np.indices((96, 96, 96)) - 47.5
    inside = np.zeros(x.shape)
    for a, b, c, radius in ((-20, -15, -18, 14), (18, 20, 5, 17), (12, -22, 20, 11), (-18, 16, 24, 13)):
        inside += (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < radius**2
    spheres = noisy(ndimage.gaussian_filter(inside, 0.5), (1, 1, 1))
    thick = simulate_thick_slices(spheres, 4.0, slice_thickness=slice_thickness, axis=2)
    measured = measure_resolution(thick, 2)
    assert measured.mm == pytest.approx(slice_thickness, rel=0.2)
    assert measured.interval[0] < slice_thickness < measured.interval[1]


@pytest.mark.parametrize("profile", ["gaussian", "box"])
def test_the_interval_holds_the_width(profile):
    for ratio in (0.75, 1.0, 1.5):
        thick = simulate_thick_slices(anatomy((64, 64, 96)), 3.0, slice_thickness=3.0 * ratio, profile=profile, axis=2)
        measured = measure_resolution(thick, 2)
        low, high = measured.interval
        assert low <= EQUIVALENT[profile] * 3.0 * ratio <= high < 4 * 3.0 * ratio
        assert measured.record()["interval"][1] == pytest.approx(high, rel=0.01)
    assert low > 1


def test_every_record_has_the_resolution_before_and_after(tmp_path):
    (tmp_path / "in").mkdir()
    thick = simulate_thick_slices(tissue(), 4.0, axis=2)
    write_image(thick, tmp_path / "in" / "a.nii.gz")
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", "none", "--factor", "4"]) == 0
    record = json.loads((tmp_path / "out" / "a.json").read_text())["monai_sr"]["resolution"]
    assert record["method"] == METHOD
    assert record["before"]["mm"] == pytest.approx(4, rel=0.15)
    # slices four times as many, and a spline that knows no more than it was given
    assert record["after"]["mm"] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (Resolution(1.725, 1.0, 2), "1.73 mm"),
        (Resolution(8.0, 4.0, 2, "at least"), "≥ 8 mm"),
        (Resolution(4.0, 4.0, 2, "at most"), "≤ 4 mm"),
        (Resolution(float("nan"), 4.0, 2), "unknown"),
    ],
)
def test_a_resolution_that_is_only_a_limit_reads_as_one(measured, text):
    assert length_text(measured.record()) == text


def test_a_run_says_everywhere_that_a_resolution_is_only_a_limit(call, tmp_path):
    thick = simulate_thick_slices(anatomy(), 4.0, slice_thickness=1.0, axis=2)  # sharper than their spacing
    (tmp_path / "in").mkdir()
    source = write_image(thick, tmp_path / "in" / "a.nii.gz")
    words = ["--bundle", "none", "--factor", "1.1", "--slice-thickness", "1"]
    code, out, _ = call("run", source, tmp_path / "a.nii.gz", *words)
    assert code == 0 and "resolves ≤ 4 mm before, ≤ 3.64 mm after" in out
    assert call("run", source.parent, tmp_path / "out", *words, "--report")[0] == 0
    line = json.loads((tmp_path / "out" / "monai-sr-run.jsonl").read_text())
    assert (line["resolution"], line["resolution_bounded"]) == (3.64, "at most")
    head, row = [text.split("\t") for text in (tmp_path / "out" / "monai-sr-run.tsv").read_text().splitlines()]
    assert dict(zip(head, row, strict=True))["resolution_bounded"] == "at most"
    for page in ("index.html", "a.html"):
        assert "≤ 3.64 mm" in (tmp_path / "out" / page).read_text(encoding="utf-8")


def test_the_lag_of_a_result_is_half_a_slice_whatever_its_own_spacing():
    thick = simulate_thick_slices(tissue(), 4.0, axis=2)
    at = grid_of(tissue()).positions(2)
    blurred = apply_along(profile_matrix(at, at, slice_thickness=3.0), tissue().as_tensor())
    before, after = effective_resolution(Acquired.of(thick, axis=2), on_grid(blurred, grid_of(tissue()), thick))
    assert (before.lag, after.lag) == (4, 2)
    assert after.mm == pytest.approx(3, rel=0.2)


def test_no_result_resolves_less_than_its_slice_spacing():
    thick = simulate_thick_slices(anatomy(), 4.0, slice_thickness=1.5, axis=2)  # thin slices with gaps
    before, _ = effective_resolution(Acquired.of(thick, axis=2), thick)
    assert (before.mm, before.bounded) == (4.0, "at most")
    assert measure_resolution(thick, 2).mm < 4.0  # what a slice itself is as thick as
