"""The slice profile, estimated from the slices."""

import numpy as np
import phantoms
import pytest
import torch
from scipy import ndimage

from monai_sr.acquired import Acquired
from monai_sr.io.images import read_image
from monai_sr.io.shelf import bundle_path
from monai_sr.profiles import Protocol, estimate_profile, known_profile, profile_score
from monai_sr.slices import apply_along, profile_matrix


def seen(hr: torch.Tensor, factor: float, profile: str, *, ratio: float = 1.0) -> dict:
    """Slices of ``hr`` (spacing 1 mm), as arguments."""
    n = hr.shape[-1]
    positions = (np.arange(int(n / factor)) + 0.5) * factor - 0.5
    matrix = profile_matrix(np.arange(n), positions, slice_thickness=ratio * factor, profile=profile)
    return {
        "lr": apply_along(matrix, hr),
        "in_plane": (1.0, 1.0),
        "positions": positions,
        "slice_thickness": ratio * factor,
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [2, 2.5, 4])
@pytest.mark.parametrize("profile", ["gaussian", "box"])
def test_the_profile_is_estimated_from_its_slices(profile, factor, seed):
    assert estimate_profile(**seen(phantoms.anatomy(seed), factor, profile)) == profile


@pytest.mark.parametrize("profile", ["gaussian", "box"])
def test_the_profile_of_overlapping_slices_is_found_in_soft_anatomy(profile):
    soft = torch.from_numpy(ndimage.gaussian_filter(phantoms.anatomy(0).numpy(), 0.6))
    assert estimate_profile(**seen(soft, 2, profile, ratio=1.25)) == profile


def test_the_slices_of_the_example_are_taken_for_what_they_are():
    example = read_image(bundle_path("residual") / "docs" / "example" / "thick.nii.gz")
    assert Acquired.of(example, slice_thickness=4.0).slice_profile == "gaussian"


@pytest.mark.parametrize("factor", [2, 4])
def test_a_triangle_looks_like_a_gaussian(factor):
    assert estimate_profile(**seen(phantoms.anatomy(0), factor, "triangle")) == "gaussian"


@pytest.mark.parametrize(
    ("protocol", "known"),
    [
        (Protocol("philips", "UB", "helical"), ("triangle", 0.89, "header")),
        (Protocol("siemens", "B40f", "helical"), ("triangle", 1.0, "header")),
        (Protocol("", "", "reformatted"), ("box", 1.0, "header")),
        (Protocol("ge", "", "2D SE"), ("gaussian", 1.0, "header")),
        (Protocol("ge", "", "2D"), None),
        (Protocol("philips", "UB", "sequential"), None),
        (Protocol(), None),
    ],
)
def test_what_is_known_of_a_protocol(protocol, known):
    assert known_profile(protocol) == known


def test_turning_the_image_in_plane_changes_nothing():
    inputs = seen(phantoms.anatomy(0), 2, "box")
    turned = inputs | {"lr": inputs["lr"].transpose(0, 1)}
    assert profile_score(**turned) == pytest.approx(profile_score(**inputs), abs=1e-5)


def test_units_of_space_do_not_matter():
    inputs = seen(phantoms.anatomy(0), 2, "box")
    finer = inputs | {
        "in_plane": (0.5, 0.5),
        "positions": inputs["positions"] / 2,
        "slice_thickness": inputs["slice_thickness"] / 2,
    }
    assert profile_score(**finer) == pytest.approx(profile_score(**inputs), abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: {"lr": inputs["lr"][..., :11], "positions": inputs["positions"][:11]},
        lambda inputs: {"positions": np.delete(np.arange(0, 98, 2.0), 20)},
        lambda inputs: {"slice_thickness": np.linspace(1.5, 2.5, len(inputs["positions"]))},
        lambda inputs: {"slice_thickness": 1.0},
        lambda inputs: {"slice_thickness": 3.0},
        lambda inputs: {"lr": inputs["lr"][:8, :8]},
        lambda inputs: {"lr": torch.zeros_like(inputs["lr"])},
    ],
    ids=["few slices", "uneven", "of different thickness", "gaps", "overlaps", "small field", "no structure"],
)
def test_where_there_is_too_little_to_go_by_there_is_no_estimate(change):
    inputs = seen(phantoms.anatomy(0), 2, "box")
    assert profile_score(**inputs) is not None
    assert profile_score(**(inputs | change(inputs))) is None
    assert estimate_profile(**(inputs | change(inputs))) is None
