"""What a volume is as acquired: every fact decided once, and its source."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor

import monai_sr
from monai_sr.acquired import Acquired, acquisition_meta, has_orientation, padding_value_of, path_of, stored_dtype_of
from monai_sr.errors import ImageError, UsageError
from monai_sr.grid import Grid, grid_of
from monai_sr.inference import Settings, super_resolve, super_resolve_acquired
from monai_sr.transforms import simulate_thick_slices

PACKAGE = Path(monai_sr.__file__).parent
UNEVEN = np.array([-11.0, -6.0, -2.2, 2.1, 6.0, 11.0])
"""Centers of slices that are 4.3 mm apart as a rule, and 4.4 mm on average."""

FILE = {"filename_or_obj": "scan.nii.gz"}


def thick(spacing=(1.0, 1.2, 4.0), shape=(9, 8, 6), *, low: float = 0.0, channels: int = 1, **meta) -> MetaTensor:
    """A volume of texture above ``low`` with metadata; noise in it is no label."""
    image = phantoms.known_value(phantoms.grid(shape, spacing))
    noise = torch.from_numpy(np.random.default_rng(0).uniform(0, 200, image.shape).astype(np.float32))
    return MetaTensor((noise + low).repeat(channels, 1, 1, 1), affine=image.affine, meta=meta)


# -- each fact, by whoever says it first -------------------------------------------------------------


@pytest.mark.parametrize(
    ("meta", "given", "value", "source"),
    [
        ({}, {}, 2, "estimated"),
        ({"slice_axis": 0}, {}, 0, "header"),
        ({"slice_axis": 0}, {"axis": 1}, 1, "option"),
        ({}, {"axis": 2}, 2, "option"),
        ({"slice_positions": UNEVEN}, {}, 2, "header"),
        ({}, {"refined": Grid((9, 32, 6), np.diag([1.0, 0.3, 4.0, 1.0]))}, 1, "estimated"),
        ({"slice_axis": 2}, {"refined": Grid((9, 32, 6), np.diag([1.0, 0.3, 4.0, 1.0]))}, 2, "header"),
    ],
)
def test_the_axis(meta, given, value, source):
    acquired = Acquired.of(thick(**meta), **given)
    assert (acquired.axis, acquired.sources["axis"]) == (value, source)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 4.0, 4.0), (4.0, 4.0, 1.0)])
def test_an_unclear_axis_is_assumed_until_it_is_needed(spacing):
    acquired = Acquired.of(thick(spacing))
    assert acquired.sources["axis"] == "assumed"
    with pytest.raises(UsageError) as fault:
        acquired.wanted_grid(factor=2)
    assert fault.value.code == "E-HDR-AXIS"
    assert Acquired.of(thick(spacing), axis=1).wanted_grid(factor=2).shape[1] == 16


@pytest.mark.parametrize(("meta", "axis"), [({}, 3), ({}, -1), ({"slice_positions": UNEVEN}, 0)])
def test_an_axis_that_cannot_be_is_refused(meta, axis):
    with pytest.raises(UsageError):
        Acquired.of(thick(**meta), axis=axis)


@pytest.mark.parametrize(
    ("meta", "given", "value", "source"),
    [
        ({}, {}, 4.0, "assumed"),
        ({"slice_thickness": 3.0}, {}, 3.0, "header"),
        ({"slice_thickness": 3.0, "sidecar_facts": ("slice_thickness",)}, {}, 3.0, "sidecar"),
        ({"slice_thickness": 3.0, "sidecar_facts": ("modality",)}, {}, 3.0, "header"),
        ({"slice_thickness": 3.0}, {"slice_thickness": 5.0}, 5.0, "option"),
        ({"slice_thickness": 3.0, "slice_axis": 2}, {"axis": 0}, 1.0, "assumed"),
        ({"slice_thickness": np.arange(1.0, 7)}, {}, np.arange(1.0, 7), "header"),
        ({"slice_positions": UNEVEN}, {}, 4.3, "assumed"),
    ],
    ids=["spacing", "header", "sidecar", "header beside a sidecar", "option", "of another axis", "each", "uneven"],
)
def test_the_slice_thickness(meta, given, value, source):
    acquired = Acquired.of(thick(**meta), **given)
    np.testing.assert_allclose(acquired.slice_thickness, value)
    assert acquired.sources["slice_thickness"] == source


@pytest.mark.parametrize("thickness", [0.0, -2.0, 1e-9, 5000.0, float("nan"), float("inf"), [4.0, 4, 4, 0, 4, 4]])
def test_an_impossible_slice_thickness_is_refused_from_every_source(thickness):
    with pytest.raises(UsageError):
        Acquired.of(thick(), slice_thickness=thickness)
    with pytest.raises(UsageError):
        Acquired.of(thick(slice_thickness=thickness))


@pytest.mark.parametrize(
    ("low", "meta", "given", "value", "source"),
    [
        (0, {}, {}, "MR", "estimated"),
        (-1000, {}, {}, "CT", "estimated"),
        (-1000, {"modality": "MR"}, {}, "MR", "header"),
        (0, {"modality": "MR", "sidecar_facts": ("modality",)}, {}, "MR", "sidecar"),
        (0, {}, {"modality": "CT"}, "CT", "option"),
        (0, {"modality": "CT"}, {"modality": "CT"}, "CT", "option"),
    ],
)
def test_the_modality(low, meta, given, value, source):
    acquired = Acquired.of(thick(low=low, **meta), **given)
    assert (acquired.modality, acquired.sources["modality"]) == (value, source)


def test_a_modality_that_contradicts_the_header_is_refused():
    with pytest.raises(ImageError) as fault:
        Acquired.of(thick(modality="CT"), modality="MR")
    assert fault.value.code == "E-MOD"


def test_volumes_of_one_file_are_of_one_modality():
    magnitude, phase = thick().as_tensor(), thick(low=-4096).as_tensor()
    for pair in ((magnitude, phase), (phase, magnitude)):
        assert Acquired.of(MetaTensor(torch.cat(pair), affine=thick().affine)).modality == "MR"
    assert Acquired.of(MetaTensor(torch.cat((phase, phase)), affine=thick().affine)).modality == "CT"


@pytest.mark.parametrize(
    ("low", "meta", "value"),
    [
        (0, {}, None),
        (0, {"padding_value": 0.0}, 0.0),
        (-1000, {}, None),
        (-1000, {"padding_value": -990.0}, -990.0),
        (-2000, {}, -2000.0),
    ],
    ids=["MR", "header of MR", "air", "header of CT", "darker than air"],
)
def test_the_padding(low, meta, value):
    image = thick(low=low, **meta)
    image[0, :3] = low
    acquired = Acquired.of(image)
    assert acquired.padding == (value,)
    outside = acquired.outside(image.as_tensor()[0], 0)
    expected = None if value != low else image.as_tensor()[0] == low
    assert outside is None if expected is None else torch.equal(outside, expected)


@pytest.mark.parametrize("profile", ["gaussian", "box"])
def test_the_profile(profile):
    hr = MetaTensor(phantoms.anatomy(0)[None], affine=torch.eye(4, dtype=torch.float64))
    lr = simulate_thick_slices(hr, 2.0, profile=profile, axis=2)
    estimated, given = Acquired.of(lr), Acquired.of(lr, profile="box")
    assert (estimated.slice_profile, estimated.source_of("slice_profile")) == (profile, "estimated")
    assert (given.slice_profile, given.source_of("slice_profile")) == ("box", "option")
    few = Acquired.of(thick())
    assert (few.slice_profile, few.source_of("slice_profile")) == ("gaussian", "assumed")


HELICAL = {
    "protocol": {"manufacturer": "philips", "kernel": "UB", "scan": "helical"},
    "slice_thickness": 5.0,
}


@pytest.mark.parametrize(
    ("meta", "given", "thickness", "profile"),
    [
        (HELICAL, {}, (4.45, "corrected"), ("triangle", "header")),
        (HELICAL | {"protocol": {"scan": "helical"}}, {}, (5.0, "header"), ("triangle", "header")),
        (HELICAL | {"slice_thickness": None}, {}, (4.0, "assumed"), ("triangle", "header")),
        (HELICAL, {"slice_thickness": 3.0}, (3.0, "option"), ("triangle", "header")),
        (HELICAL, {"profile": "box"}, (4.45, "corrected"), ("box", "option")),
        (HELICAL | {"slice_axis": 2}, {"axis": 0}, (1.0, "assumed"), ("gaussian", "assumed")),
        (HELICAL | {"protocol": {"scan": "reformatted"}}, {}, (5.0, "header"), ("box", "header")),
        (HELICAL | {"protocol": {"scan": "sequential"}}, {}, (5.0, "header"), ("gaussian", "assumed")),
    ],
)
def test_a_protocol_decides_profile_and_width(meta, given, thickness, profile):
    acquired = Acquired.of(thick(**meta), **given)
    assert acquired.slice_profile == profile[0] and acquired.source_of("slice_profile") == profile[1]
    assert acquired.slice_thickness == pytest.approx(thickness[0])
    assert acquired.source_of("slice_thickness") == thickness[1]
    assert acquired.record()["slice_thickness"] == {"value": pytest.approx(thickness[0]), "source": thickness[1]}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_profile_does_not_depend_on_the_order_of_the_voxels(axis):
    hr = MetaTensor(phantoms.anatomy(0)[None], affine=torch.eye(4, dtype=torch.float64))
    lr = simulate_thick_slices(hr, 2.0, profile="box", axis=2)
    voxels = torch.movedim(lr.as_tensor(), 3, axis + 1).flip(axis + 1)
    affine, order = np.eye(4), [0, 1]
    order.insert(axis, 2)
    affine[:3, :3] = np.diag([1.0, 1.0, 2.0])[:, order]
    affine[:3, axis] *= -1
    turned = Acquired.of(MetaTensor(voxels, affine=torch.from_numpy(affine)))
    assert (turned.axis, turned.slice_profile) == (axis, "box")
    assert np.array_equal(turned.normalized(0).slices, Acquired.of(lr).normalized(0).slices)


# -- the spacing of a scan is one number -------------------------------------------------------------


def test_uneven_slices_have_their_typical_spacing_everywhere():
    acquired = Acquired.of(thick((1.0, 1.2, 4.4), slice_positions=UNEVEN))
    assert acquired.slice_spacing == pytest.approx(4.3)
    wanted = acquired.wanted_grid(factor=4)
    assert wanted.spacing[2] == pytest.approx(4.3 / 4)
    assert acquired.slice_model(wanted).factor == pytest.approx(acquired.slice_spacing / wanted.spacing[2])
    assert acquired.record()["slice_spacing"] == {"value": pytest.approx(4.3), "source": "header"}
    assert "x 4.3 mm" in acquired.grid.in_words(acquired.axis, acquired.slice_spacing)


def test_a_missing_slice_does_not_change_the_spacing():
    positions = np.array([-12.0, -8.0, -4.0, 4.0, 8.0, 12.0])
    assert Acquired.of(thick(slice_positions=positions)).slice_spacing == 4.0


# -- from metadata and back ---------------------------------------------------------------------------


def test_what_is_written_about_an_acquisition_is_read_again():
    missing = torch.zeros(1, 9, 8, 6, dtype=torch.bool)
    missing[0, 0, 0, 0] = True
    meta = acquisition_meta(
        stored_dtype="int16",
        modality="CT",
        slice_axis=2,
        slice_thickness=3.5,
        slice_positions=UNEVEN,
        padding_value=-2000.0,
        nan_voxels=missing,
        has_orientation=False,
    )
    image = thick(**meta, **FILE)
    acquired = Acquired.of(image)
    assert acquired.stored_dtype == stored_dtype_of(image) == np.int16
    assert (acquired.modality, acquired.axis, acquired.is_even) == ("CT", 2, False)
    assert acquired.slice_thickness == 3.5 and np.array_equal(acquired.positions, UNEVEN)
    assert acquired.padding == (-2000.0,) and padding_value_of(image) == -2000.0
    assert np.array_equal(acquired.missing, missing)
    assert acquired.has_orientation is has_orientation(image) is False
    assert acquired.path == path_of(image) == "scan.nii.gz"
    assert set(acquired.sources.values()) == {"header"}


def test_an_unknown_fact_is_absent():
    assert acquisition_meta() == {}
    assert acquisition_meta(modality="MR", source="sidecar") == {"modality": "MR", "sidecar_facts": ("modality",)}
    acquired = Acquired.of(torch.rand(1, 4, 5, 6) * 100)
    assert acquired.stored_dtype == np.float32 and acquired.has_orientation and acquired.path == ""
    assert acquired.missing is None and acquired.is_even and grid_of(acquired.image).spacing == (1, 1, 1)


def test_positions_of_another_number_of_slices_are_a_fault_of_the_program():
    with pytest.raises(ValueError, match="5 slice positions for 6 slices"):
        Acquired.of(thick(slice_positions=UNEVEN[:5]))


def test_the_record_names_every_fact_that_was_used_with_its_source():
    acquired = Acquired.of(thick(modality="MR"), slice_thickness=3.0)
    assert acquired.record() == {
        "axis": {"value": 2, "source": "estimated"},
        "slice_spacing": {"value": 4.0, "source": "header"},
        "slice_thickness": {"value": 3.0, "source": "option"},
        "modality": {"value": "MR", "source": "header"},
    }
    assert acquired.slice_profile == "gaussian"
    assert acquired.record()["slice_profile"] == {"value": "gaussian", "source": "assumed"}
    each = Acquired.of(thick(slice_thickness=np.arange(1.0, 7))).record()
    assert each["slice_thickness"]["value"] == [1, 2, 3, 4, 5, 6]


def keys_read(source: str) -> set[str]:
    """Strings that a module looks up in something called ``meta``, or assigns there."""
    keys = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner, key = node.func.value, node.args[0]
        else:
            continue
        owner = owner.func if isinstance(owner, ast.Call) else owner
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        if name in ("meta", "_meta_of") and isinstance(key, ast.Constant):
            keys.add(key.value)
    return keys


KEYS = {
    "stored_dtype", "modality", "slice_axis", "slice_thickness", "slice_positions", "padding_value", "nan_voxels",
    "has_orientation", "filename_or_obj", "sidecar_facts",
}  # fmt: skip


def test_one_module_alone_reads_and_writes_the_acquisition_in_metadata():
    assert keys_read('a.meta["modality"]; meta.get("slice_axis"); x.meta.pop("nan_voxels", 1); y["modality"]') == {
        *("modality", "slice_axis", "nan_voxels")
    }
    read = {path.name: keys_read(path.read_text(encoding="utf-8")) & KEYS for path in PACKAGE.rglob("*.py")}
    assert {name: keys for name, keys in read.items() if keys} == {"acquired.py": KEYS}


# -- to a result ----------------------------------------------------------------------------------------


def test_a_volume_that_was_looked_at_gives_the_same_result_as_its_image():
    image = thick()
    acquired = Acquired.of(image, slice_thickness=5.0, profile="box")
    by_facts = super_resolve_acquired(acquired, None, Settings.of(factor=2))
    assert torch.equal(by_facts, super_resolve(image, None, factor=2, slice_thickness=5.0, profile="box"))
    assert not torch.equal(by_facts, super_resolve(image, None, factor=2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_rows_and_columns_go_back_to_where_they_came_from(axis, flipped):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    affine = np.diag([*spacing, 1.0])
    for a in flipped:
        affine[:3, a] *= -1
    image = MetaTensor(torch.rand(1, 7, 6, 5), affine=torch.from_numpy(affine))
    acquired = Acquired.of(image)
    canonical, target = acquired.oriented(image[0].as_tensor()), torch.full((7, 6, 5), torch.nan)
    for rows in (slice(0, 2), slice(2, None)):
        for columns in (slice(0, 3), slice(3, None)):
            acquired.grid.put(canonical[rows, columns], target, (rows, columns), through_plane=acquired.axis)
    assert torch.equal(target, image[0].as_tensor())
