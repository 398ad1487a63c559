"""One command measures how far a bundle may be trusted and writes it where every run finds it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch
from runs import make_bundle

from monai_sr.bundles import bundle_path, load_bundle, read_calibration
from monai_sr.cli.main import main
from monai_sr.engine.averaged import AveragedEngine
from monai_sr.errors import BundleError, collect_notices, warn
from monai_sr.evaluation import calibration, packing, quantize
from monai_sr.evaluation.calibration import calibrate, calibration_markdown
from monai_sr.io.images import write_image


@pytest.fixture
def bundle(tmp_path):
    """A small bundle without a calibration."""
    folder = make_bundle(tmp_path, "pyramid", features=4, depth=2).rename(tmp_path / "own")
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


def test_a_bundle_is_calibrated_in_the_quality_that_was_asked_for(bundle, listed, monkeypatch):
    engines = []
    monkeypatch.setattr(calibration, "calibrate", lambda model, *_, **__: engines.append(model.engine) or {})
    for quality in ("usual", "best"):
        assert main(["calibrate", str(bundle), str(listed), "--quality", quality, "--trust-bundle"]) == 0
    assert [isinstance(engine, AveragedEngine) for engine in engines] == [False, True]


def test_the_noise_of_a_simulation_is_no_warning():
    def model(lr, **_):
        warn("W-CON-NOISE", "noise")
        warn("W-SR-RANGE", "factor")
        return lr

    with collect_notices() as notices:
        calibration.result_of(model, phantoms.body(), 2)
    assert [notice.code for notice in notices] == ["W-SR-RANGE"]


def test_the_card_shows_the_calibration():
    rows = [
        {"modality": "CT", "factor": 2.0, "within_1": 0.8, "within_2": 0.95},
        {"modality": "MR", "factor": 4.0, "within_1": 0.7, "within_2": 0.9},
    ]
    measured = {"consistency": {"limit": 0.02, "worst": 0.01, "cases": 7}, "uncertainty": {"coverage": rows}}
    text = calibration_markdown(measured, command="the command")
    assert "7 validation results had an NRMSE of 0.01" in text
    assert "| CT | 0.80 / 0.95 | – |" in text
    assert "| MR | – | 0.70 / 0.90 |" in text


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_calibration_that_cannot_be_read_is_named(bundle, content):
    (bundle / "configs" / "calibration.json").write_text(content)
    with pytest.raises(BundleError, match="E-W-CONFIG"):
        read_calibration(bundle)


# -------------------------------------------------------------------- from a training to a bundle


def trained(bundle: Path, folder: Path) -> Path:
    """What a training of a bundle left: its best weights."""
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    (folder / "runs").mkdir()
    torch.save({name: 0.9 * values for name, values in state.items()}, folder / "runs" / "model.pt")
    return folder / "runs"


@pytest.fixture
def runs(tmp_path):
    return trained(bundle_path("pyramid"), tmp_path)


def test_one_command_makes_a_bundle_of_a_training(listed, tmp_path, monkeypatch, capsys):
    source = make_bundle(tmp_path / "source", "pyramid", features=8, depth=2)
    runs = trained(source, tmp_path)  # of a bundle without a license
    for name, value in {"PATCHES": 3, "PATCH": 24, "FACTORS": (2,)}.items():
        monkeypatch.setattr(quantize, name, value)
    monkeypatch.setattr(packing, "calibrate", partial(calibrate, factors=(2,)))
    words = ["pack", runs, tmp_path / "own", listed, "--bundle", source, "--crop", "34", "--trust-bundle"]
    words = [str(word) for word in words]
    assert main(words) == 0
    own = load_bundle(tmp_path / "own", device="cpu", trust_bundle=True)
    before = load_bundle(source, device="cpu", trust_bundle=True)
    assert own.version == "0.1.0" and own.weights_sha256 != before.weights_sha256
    assert own.calibration["consistency"]["cases"] == 1 + 3
    assert own.calibration["trained_on"].keys() == {"MR"}  # of these volumes, and not of those that ship
    assert load_bundle(tmp_path / "own", device="cpu", precision="int8", trust_bundle=True).engine.precision == "int8"
    metadata = json.loads((tmp_path / "own" / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == {} and "1 training and 1 validation" in metadata["data_source"]
    assert "| MR | 0." in (tmp_path / "own" / "docs" / "README.md").read_text()
    assert main(words) == 6 and "E-OUT-EXISTS" in capsys.readouterr().err


def test_a_bundle_without_an_8_bit_form_says_why(runs, listed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "calibrate", lambda *_, **__: {})
    monkeypatch.setattr(packing, "_describe", lambda *_, **__: None)

    def build(*_, **__):
        raise BundleError("E-W-INT8", "int8 loses 1 dB", fix="ship float32 alone")

    monkeypatch.setattr(packing, "build", build)
    assert main(["pack", str(runs), str(tmp_path / "own"), str(listed), "--bundle", "pyramid"]) == 0
    assert "E-W-INT8" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "own" / "models").iterdir()) == ["model.pt"]


def test_what_makes_no_bundle_leaves_nothing(runs, listed, tmp_path):
    before = sorted(tmp_path.iterdir())
    for source, runs_folder, code in (
        ("residual", runs, "E-W-SHAPE"),
        ("pyramid", tmp_path, "E-W-MISSING"),
        (bundle_path("pyramid").parent / "nowhere", runs, "E-W-BUNDLE"),
    ):
        with pytest.raises(BundleError) as caught:
            packing.pack(runs_folder, tmp_path / "own", listed, source=source)
        assert caught.value.code == code
    assert sorted(tmp_path.iterdir()) == before
