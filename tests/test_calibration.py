"""One command measures how far a bundle may be trusted and writes it where every run finds it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import phantoms
import pytest
import torch

from monai_sr.bundles import bundle_path, load_bundle, read_calibration
from monai_sr.cli.main import main
from monai_sr.errors import BundleError
from monai_sr.evaluation.calibration import calibration_markdown
from monai_sr.io.images import write_image


@pytest.fixture
def bundle(tmp_path):
    """A copy of the pyramid bundle without its calibration."""
    folder = tmp_path / "own"
    shutil.copytree(bundle_path("pyramid"), folder)
    (folder / "configs" / "calibration.json").unlink()
    return folder


@pytest.fixture
def listed(tmp_path):
    """A datalist of one volume to train on and one to validate with."""
    for name in ("a", "b"):
        noise = torch.from_numpy(np.random.default_rng(ord(name)).normal(0, 4, (1, 34, 34, 34))).float()
        write_image(phantoms.body((34, 34, 34), air=60.0) + noise, tmp_path / f"{name}.nii.gz", dtype=np.int16)
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], "validation": [{"image": "b.nii.gz"}]}))
    return path


def test_a_bundle_is_calibrated_by_one_command(bundle, listed, tmp_path):
    before = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert read_calibration(bundle) == {}
    card = tmp_path / "card.md"
    chosen = ["--crop", "34", "--trust-bundle", "--device", "cpu", "--markdown", str(card)]
    assert main(["calibrate", str(bundle), str(listed), *chosen]) == 0
    assert json.loads((bundle / "configs" / "metadata.json").read_text()) == before
    after = json.loads((bundle / "configs" / "calibration.json").read_text())
    model = load_bundle(bundle, device="cpu", trust_bundle=True)
    assert model.calibration == read_calibration(bundle) == after
    assert model.calibration["consistency"]["cases"] == 4 + 12  # factors, and each of the spline at three thicknesses
    assert 0 < model.calibration["consistency"]["worst"] < model.calibration["consistency"]["limit"] < 0.05
    assert model.calibration["uncertainty"]["MR"]["factor"] == [2, 3, 4, 5]
    assert len(model.calibration["uncertainty"]["coverage"]) == 4
    assert model.calibration["trained_on"]["MR"]["in_plane_spacing"] == [1, 2]
    assert model.on(model.device).calibration == model.calibration
    text = card.read_text()
    assert "| MR | 0." in text
    assert text.endswith("Made by `monai-sr calibrate own DATALIST --crop 34`.\n")


def test_the_card_tells_what_was_found():
    rows = [
        {"modality": "CT", "factor": 2.0, "within_1": 0.8, "within_2": 0.95},
        {"modality": "MR", "factor": 4.0, "within_1": 0.7, "within_2": 0.9},
    ]
    found = {"consistency": {"limit": 0.02, "worst": 0.01, "cases": 7}, "uncertainty": {"coverage": rows}}
    text = calibration_markdown(found, command="the command")
    assert "7 validation results had an NRMSE of 0.01" in text
    assert "| CT | 0.80 / 0.95 | – |" in text
    assert "| MR | – | 0.70 / 0.90 |" in text


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_calibration_that_cannot_be_read_is_named(bundle, content):
    (bundle / "configs" / "calibration.json").write_text(content)
    with pytest.raises(BundleError, match="E-W-CONFIG"):
        read_calibration(bundle)
