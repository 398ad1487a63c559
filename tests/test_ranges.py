"""The training ranges are in a bundle, and an image outside them gives a warning with the code of each cause."""

from __future__ import annotations

import json

import numpy as np
import phantoms
import pytest
import torch

from monai_sr.acquired import Acquired
from monai_sr.bundles import Model, bundle_path, load_bundle, read_calibration
from monai_sr.cli.main import main
from monai_sr.errors import ImageError, SuperResolutionWarning, collect_notices
from monai_sr.evaluation.calibration import read_simulation
from monai_sr.grid import on_grid
from monai_sr.io.images import write_image
from monai_sr.trust.ranges import CAUSES, check_ranges, trained_ranges

MR = {
    "in_plane_spacing": [0.7, 2.0],
    "slice_spacing": [1.0, 10.0],
    "thickness_ratio": [0.25, 1.5],
    "field_of_view": [0.0, 250.0],
    "values": [-0.1, 1.6],
}
TRAINED = {"MR": MR}


def scan(spacing=(0.8, 0.8, 4.0), shape=(12, 12, 8), *, low: float = 0.0, bright: float = 1.0):
    grid = phantoms.grid(shape, spacing)
    voxels = torch.from_numpy(np.random.default_rng(0).uniform(100, 200, (1, *shape)).astype(np.float32))
    voxels[0, :2, :2, 0] *= bright
    return on_grid(voxels - low, grid, voxels)


def ranges_of(image, trained, *, spacing=None, factor=None, strict=False, **facts) -> dict[str, str]:
    acquired = Acquired.of(image, **facts)
    return check_ranges(acquired, acquired.wanted_grid(spacing=spacing, factor=factor), trained, strict=strict)


def causes(image, trained=TRAINED, **options) -> dict[str, str]:
    with collect_notices() as caught:
        ranges = ranges_of(image, trained, **options)
    assert [notice.code for notice in caught] == [CAUSES[name][0] for name in ranges]
    return ranges


@pytest.mark.parametrize("spacing", [(0.4, 0.4, 3.0), (0.8, 0.8, 4.0), (1.2, 1.2, 6.0), (1.0, 0.5, 1.2)])
def test_an_ordinary_scan_is_within(spacing):
    assert causes(scan(spacing)) == {}


@pytest.mark.parametrize(
    ("image", "options", "cause"),
    [
        (scan((0.2, 0.2, 4.0)), {}, "in_plane_spacing"),
        (scan((3.0, 3.0, 8.0)), {}, "in_plane_spacing"),
        (scan((1.0, 1.0, 14.0)), {}, "slice_spacing"),
        (scan(), {"slice_thickness": 0.5}, "thickness_ratio"),
        (scan(), {"slice_thickness": 8.0}, "thickness_ratio"),
        (scan((2.0, 2.0, 4.0), (200, 4, 4)), {}, "field_of_view"),
        (scan(bright=20), {}, "values"),
        (scan(low=1000), {}, "modality"),
    ],
)
def test_each_cause_has_its_own_code(image, options, cause):
    outside = causes(image, **options)
    assert list(outside) == [cause]
    assert "trained on" in outside[cause]
    with pytest.raises(ImageError) as error:
        ranges_of(image, TRAINED, strict=True, **options)
    assert error.value.code == CAUSES[cause][1]


def test_a_volume_passed_through_or_a_bundle_without_ranges_gives_no_warning():
    assert causes(scan((0.2, 0.2, 0.2)), spacing=0.2, axis=2) == {}
    assert causes(scan((0.2, 0.2, 4.0)), {}) == {}


def test_ranges_hold_what_every_training_volume_covers():
    volumes = [scan((0.8, 0.9, 1.0), (20, 20, 20)), scan((1.0, 1.1, 3.0), (40, 30, 10)), scan((1, 1, 1), low=1200)]
    ranges = trained_ranges(volumes, factors=(2, 4), thickness_ratios=(0.5, 1.5), coarsest=2.0)
    assert ranges["MR"]["in_plane_spacing"] == [0.8, 2.2]  # 3 mm is no near-finest axis
    assert ranges["MR"]["slice_spacing"] == [1.6, 8.8]
    assert ranges["MR"]["field_of_view"] == [0, 40]
    assert ranges["MR"]["thickness_ratio"] == [0.5, 1.5]
    assert ranges["MR"]["values"] == pytest.approx([0, 1], abs=0.05)
    assert ranges["CT"]["values"] == pytest.approx([(100 - 1200 + 1000) / 2000, (200 - 1200 + 1000) / 2000], abs=0.01)


def test_what_is_trained_is_read_from_the_training_configuration():
    assert read_simulation(bundle_path("residual"))["factors"] == (1.5, 5)
    simulation = read_simulation(bundle_path("pyramid"))
    assert simulation == {"factors": (2, 8), "thickness_ratios": (0.25, 1.5), "isotropy": 1.6, "coarsest": 2.0}


@pytest.mark.parametrize("bundle", ["residual", "pyramid"])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 3.0), (0.75, 0.75, 5.0), (1.2, 1.2, 6.0)])
def test_shipped_bundles_know_ordinary_scans(bundle, spacing):
    trained = read_calibration(bundle)["trained_on"]
    assert set(trained) == {"CT", "MR"}
    assert causes(scan(spacing), trained) == {}
    assert causes(scan(spacing, low=1100), trained) == {}


def test_a_record_says_how_the_input_differs_from_the_training_data(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_image(scan((0.1, 0.1, 1.0)), tmp_path / "in" / "a.nii.gz", dtype=np.int16)
    run = ["run", str(tmp_path / "in"), str(tmp_path / "out"), "--factor", "2", "--bundle", "pyramid"]
    assert main(run) == 0
    assert "W-RANGE-INPLANE" in capsys.readouterr().err
    outside = json.loads((tmp_path / "out" / "a.json").read_text())["monai_sr"]["outside_training"]
    assert list(outside) == ["in_plane_spacing"]
    assert main([*run, "--strict"]) == 0  # done already, and strictness changes no voxel
    one = ["run", str(tmp_path / "in" / "a.nii.gz"), str(tmp_path / "a.nii.gz"), *run[3:], "--strict"]
    assert main(one) == 5
    assert "E-RANGE-INPLANE" in capsys.readouterr().err


def test_a_model_warns_in_python_too():
    model = Model("own", "1", None, calibration={"trained_on": TRAINED})
    with pytest.warns(SuperResolutionWarning, match="W-RANGE-INPLANE"):
        made = model(scan((0.2, 0.2, 4.0)), factor=2)
    assert list(made.meta["outside_ranges"]) == ["in_plane_spacing"]
    assert "outside_ranges" not in load_bundle("none")(scan((0.2, 0.2, 4.0)), factor=2).meta
