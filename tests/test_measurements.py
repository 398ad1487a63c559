"""Measurements of results: features by the IBSI, structures of phantoms with known sizes, agreement, the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from monai.data import MetaTensor
from scipy import ndimage

import monai_sr.cli
from monai_sr.evaluation.conditions import Condition
from monai_sr.evaluation.features import FEATURES, co_occurrences, measure_features
from monai_sr.evaluation.measurements import REFERENCE, THICK, Study, agreement
from monai_sr.evaluation.scores import evaluate
from monai_sr.evaluation.structures import Region, compare_surfaces, measure_structures, roughness
from monai_sr.io.images import write_image

_ = 0
IBSI_PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [_, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, _, _], [1, 1, 1, 1, 1], [1, 1, _, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, _, _], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
"""The digital phantom of the IBSI; 0 is outside its mask."""

IBSI_VALUES = {
    "mean": 2.15,
    "variance": 3.05,
    "skewness": 1.08,
    "kurtosis": -0.355,
    "P10": 1,
    "P90": 4,
    "quartile range": 3,
    "entropy": 1.27,
    "contrast": 5.12,
    "correlation": 0.183,
    "joint entropy": 2.57,
    "inverse difference": 0.688,
    "angular second moment": 0.291,
}
"""Reference values of the IBSI (three digits), texture: 3-D, merged over directions."""


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_features_are_those_of_the_ibsi(axes):
    voxels = IBSI_PHANTOM.transpose(axes).astype(np.float32)
    figures = measure_features(voxels, voxels > 0, bin_width=1)
    assert tuple(figures) == FEATURES and set(IBSI_VALUES) == set(FEATURES)
    for name, value in IBSI_VALUES.items():
        assert figures[name] == pytest.approx(value, rel=5e-3), name


def test_gray_levels_have_the_given_width():
    voxels = 25.0 * IBSI_PHANTOM + 10
    wide, narrow = (measure_features(voxels, IBSI_PHANTOM > 0, bin_width=width) for width in (25, 12.5))
    assert wide["contrast"] == pytest.approx(5.12, rel=3e-3) and narrow["contrast"] == pytest.approx(
        4 * 5.118, rel=3e-3
    )
    assert wide["variance"] == pytest.approx(625 * 3.0455, rel=1e-3)


def test_a_flat_region_has_no_texture_and_that_of_a_single_voxel_is_unknown():
    mask = np.ones((3, 3, 3), bool)
    flat = measure_features(np.full((3, 3, 3), 7.0), mask, bin_width=1)
    assert (flat["variance"], flat["entropy"], flat["contrast"], flat["inverse difference"]) == (0, 0, 0, 1)
    assert co_occurrences(np.zeros((3, 3, 3), int), mask).tolist() == [[1.0]]
    lone = np.zeros((3, 3, 3), bool)
    lone[1, 1, 1] = True
    assert np.isnan(measure_features(np.ones((3, 3, 3)), lone, bin_width=1)["contrast"])


SPACING = (1.0, 1.0, 1.0)
CHEST_SPACING = (2.0, 2.0, 2.0)


def ball(radius: float, *, center=(32.0, 32.0, 32.0), shape=(64, 64, 64)) -> np.ndarray:
    points = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    return (points**2).sum(axis=0) < radius**2


def region_of(reference: np.ndarray, *, modality="CT", slice_spacing: float = 4.0, spacing=SPACING) -> Region:
    return Region(reference.astype(np.float32), spacing, np.ones(reference.shape, bool), modality, slice_spacing)


def test_surfaces_of_shifted_and_grown_balls_are_as_far_apart_as_drawn():
    true = ball(20)
    region = region_of(np.where(true, 500, -1000))
    same = compare_surfaces(true, true, region)
    assert (same["Dice"], same["distance"], same["95th percentile"]) == (1, 0, 0)
    grown = compare_surfaces(ball(23), true, region)
    assert grown["distance"] == pytest.approx(3, abs=0.25)
    assert grown["Dice"] == pytest.approx(2 * 20**3 / (20**3 + 23**3), abs=0.01)
    shifted = compare_surfaces(ball(20, center=(32, 32, 35)), true, region)
    assert shifted["95th percentile"] == pytest.approx(3, abs=0.3)
    assert shifted["distance"] == pytest.approx(1.5, abs=0.3)  # the mean of 3 |cos| over a sphere


def test_distances_are_in_millimeters():
    true = ball(20)
    twice = Region(np.zeros((64, 64, 64), np.float32), (2.0, 2.0, 2.0), np.ones((64, 64, 64), bool), "CT", 8.0)
    assert compare_surfaces(ball(23), true, twice)["distance"] == pytest.approx(6, abs=0.5)


def test_stair_steps_are_rough_and_planes_are_not():
    x, _y, z = np.indices((64, 64, 64))
    region = region_of(np.zeros((64, 64, 64)))
    assert roughness(z > 31.5, region) == pytest.approx(0, abs=0.1)
    for slope in (0.3, 0.5, 1.0):
        smooth, stairs = (roughness(height > slope * x + 10, region) for height in (z, z // 4 * 4 + 1.5))
        assert smooth < 6 and stairs > 2.5 * smooth + 5, slope
    assert roughness(ball(24), region) < 8 < 15 < roughness(np.repeat(ball(24)[:, :, 1::4], 4, axis=2), region)


LUNG = ball(12, center=(32, 18, 32))


def chest(seed: int = 0) -> np.ndarray:
    """A body in open air, with a lung of which 20 % are emphysema, a bone and a sinus, HU."""
    rng = np.random.default_rng(seed)
    voxels = np.full((64, 64, 64), -1000.0)
    body = ball(29)
    voxels[body] = rng.normal(40, 10, body.sum())
    lung = np.where(rng.random((64, 64, 64)) < 0.2, -980, -850)
    voxels[LUNG] = lung[LUNG]
    voxels[ball(8, center=(32, 44, 32))] = 600
    voxels[ball(5, center=(18, 32, 32))] = -1000
    return voxels


def soft_chest() -> np.ndarray:
    """With edges as soft as those of a scanner."""
    return ndimage.gaussian_filter(chest(), 1.2)


def test_lung_bone_and_air_of_a_chest_are_measured():
    region = region_of(chest(), spacing=CHEST_SPACING)
    assert (region.lung == LUNG).mean() > 0.999
    figures = measure_structures(region, region.reference)
    assert figures["lung · emphysema index"] == pytest.approx(20, abs=2)
    assert figures["lung · 15th percentile"] == -980
    assert figures["bone · ml"] == pytest.approx(4 / 3 * np.pi * 16**3 / 1000, rel=0.02)
    assert figures["airways and lungs · ml"] == pytest.approx(4 / 3 * np.pi * (24**3 + 10**3) / 1000, rel=0.02)
    assert (figures["bone · Dice"], figures["histogram · distance"], figures["histogram · width"]) == (1, 0, 1)
    softer = measure_structures(region, region.reference + 60)
    assert softer["lung · emphysema index"] == 0 and softer["histogram · distance"] == pytest.approx(60, abs=0.1)
    assert softer["airways and lungs · ml"] == figures["airways and lungs · ml"]


def test_an_mr_has_bright_tissue_and_no_hounsfield_units():
    figures = measure_structures(region_of(np.where(ball(20), 300, np.where(ball(28), 100, 5)), modality="MR"), chest())
    assert figures.keys() == {
        *("histogram · distance", "histogram · width"),
        *(f"bright tissue · {name}" for name in ("ml", "Dice", "distance", "95th percentile", "roughness")),
    }


def test_agreement_is_concordance_bias_and_limits():
    true = np.array([1.0, 2.0, 4.0, 7.0])
    same = agreement(true, true)
    assert (same.n, same.ccc, same.bias, same.low, same.high) == (4, 1, 0, 0, 0)
    moved = agreement(true + 2, true)
    assert moved.ccc == pytest.approx(2 * true.var() / (2 * true.var() + 4)) and moved.bias == 2
    assert agreement(-true, true).ccc < 0
    spread = agreement(true + np.array([1, -1, 1, -1]), true)
    assert spread.bias == 0 and spread.high == pytest.approx(1.96 * np.sqrt(4 / 3)) == -spread.low
    assert np.isnan(agreement(true[:2], true[:2]).ccc)


def test_a_perfect_method_agrees_and_thick_slices_do_not():
    rng = np.random.default_rng(1)
    hr = MetaTensor(
        (soft_chest() + rng.normal(0, 20, (64, 64, 64))).astype(np.float32)[None], affine=np.diag([2.0, 2.0, 2.0, 1.0])
    )
    study = Study()
    evaluate([hr], {"oracle": lambda lr, **_: hr.clone()}, conditions=[Condition(4)], study=study, baselines=["cubic"])
    methods = list(dict.fromkeys(m.method for m in study.measurements))
    assert methods == [REFERENCE, THICK, "cubic", "consistent", "oracle"]
    assert {m.group for m in study.measurements} == {"x4"}

    def ccc(method, name):
        return agreement(*study.pairs("CT", "x4", name, method, blocks=True)).ccc

    for name in ("variance", "contrast", "muscle %"):
        assert ccc("oracle", name) == pytest.approx(1, abs=1e-6) and ccc(THICK, name) < 0.99
    dice = {m.method: m.value for m in study.measurements if m.name == "bone · Dice"}
    assert dice["oracle"] == dice[REFERENCE] == 1 > dice["consistent"] > dice[THICK]
    rough = {m.method: m.value for m in study.measurements if m.name == "bone · roughness"}
    assert rough[THICK] > rough["consistent"] + 3 and rough["oracle"] == rough[REFERENCE]


@pytest.fixture
def thin(tmp_path) -> Path:
    image = MetaTensor(soft_chest().astype(np.float32)[None], affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    return write_image(image, tmp_path / "thin.nii.gz", dtype="int16")


def test_evaluate_measure_makes_a_page_and_its_files(call, thin, tmp_path):
    card, folder = tmp_path / "page.md", tmp_path / "figures"
    words = ["--bundle", "none", "--factor", "4", "--axis", "2", "--measure", "--markdown", card, "--output", folder]
    code, out, err = call("evaluate", thin, *words)
    assert (code, err) == (0, "")
    (row,) = (line.split() for line in out.splitlines() if line.startswith("bone · Dice"))
    assert row[3] == "1" and float(row[4]) < float(row[6]) < 1
    text = card.read_text()
    assert text.endswith("Made by `monai-sr evaluate VOLUMES --bundle none --factor 4 --axis 2 --measure`.\n")
    assert "|  | reference | thick | cubic | consistent | none |" in text and str(tmp_path) not in text
    rows = json.loads((folder / "measurements.json").read_text())["agreement"]
    assert {row["method"] for row in rows} == {"thick", "cubic", "consistent", "none"}
    of_volume = [row for row in csv.DictReader((folder / "measurements.csv").open()) if row["block"] == ""]
    assert {row["name"] for row in of_volume} > {"bone · distance", "lung · emphysema index", "muscle · ml"}
    assert (folder / "scores.csv").is_file()


@pytest.mark.parametrize("kind", ["volume", "pair"])
def test_evaluate_measure_answers_in_json(call, thin, tmp_path, kind):
    words = [thin, "--factor", "4"]
    if kind == "pair":
        voxels = soft_chest().reshape(64, 64, 16, 4).mean(axis=3)
        affine = np.diag([2.0, 2.0, 8.0, 1.0])
        affine[2, 3] = 3
        thick = MetaTensor(voxels.astype(np.float32)[None], affine=affine)
        words = ["--pair", write_image(thick, tmp_path / "thick.nii.gz"), thin]
    code, out, _ = call("evaluate", *words, "--bundle", "none", "--crop", 48, "--measure", "--json")
    document = json.loads(out)
    schema = json.loads((Path(monai_sr.cli.__file__).parent / "answer.schema.json").read_text())
    jsonschema.validate(document, schema)
    rows = {(row["measurement"], row["method"]): row for row in document["agreement"]}
    assert code == 0 and {row["group"] for row in document["agreement"]} == {"x4" if kind == "volume" else "pair"}
    assert rows["mean", "consistent"]["ccc"] > 0.99 > rows["contrast", "thick"]["ccc"]
