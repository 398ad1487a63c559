"""A network adapted to one volume: better on what is like the volume, the same where that does not help."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import phantoms
import pytest
import torch
from runs import make_bundle
from small_networks import lively

import monai_sr
from monai_sr.batch import model as running
from monai_sr.bundles import Model
from monai_sr.cli.main import main
from monai_sr.grid import grid_of
from monai_sr.inference import acquire
from monai_sr.io.images import read_image, write_image
from monai_sr.networks import PyramidNet, ResidualNet
from monai_sr.options import Acquisition, Wanted
from monai_sr.training import adaptation
from monai_sr.training.adaptation import adapt

SCHEMA = Path(monai_sr.__file__).parent / "batch" / "record.schema.json"

NETWORKS = {"pyramid": lambda: lively(PyramidNet(8, 2)), "residual": lambda: lively(ResidualNet(6, 8))}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few small crops."""
    monkeypatch.setattr(adaptation, "CROP", 16)
    monkeypatch.setattr(adaptation, "STEPS", 30)


@pytest.fixture(scope="module")
def thick():
    """A head-like volume of 12 slices, in-plane voxels of 1 and 0.5 mm."""
    return phantoms.body((40, 64, 12), (1.0, 0.5, 4.0))


def adapted(network, image, *, spacing=1.0, profile=None, **options):
    """Model, its result, the adapted model and what came of it."""
    model = Model("small", "1", network.eval())
    acquired = acquire(image, Acquisition(modality="MR", profile=profile))
    sr = model.super_resolve(acquired, Wanted(spacing=spacing))
    return model, sr, *adapt(model, acquired, sr, minutes=9, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_gains_on_slices_that_were_held_back_and_is_repeatable(name, thick):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    model, _, better, outcome = adapted(network, thick)
    _, _, again, same = adapted(network, thick)
    assert outcome.is_used and outcome.steps == 30 and outcome.gain > 0.1 and outcome == same
    assert better is not model and better.engine.name == model.engine.name and better.name == model.name
    for one, two in zip(better.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not any(torch.equal(a, b) for a, b in zip(better.network.parameters(), network.parameters(), strict=True))
    assert not better.network.training and not network.training


def test_is_not_used_without_a_gain(thick, monkeypatch):
    monkeypatch.setattr(adaptation, "SMALLEST_GAIN", 99.0)
    model, _, better, outcome = adapted(NETWORKS["pyramid"](), thick)
    assert better is model and not outcome.is_used and outcome.steps == 30


@pytest.mark.parametrize(("spacing", "factor", "wanted"), [(1.0, 4.0, 1.0), (1.3, 4.0, 1.0), (2.0, 2.0, 2.0)])
def test_in_plane_voxels_come_to_the_spacing_that_the_pyramid_makes(thick, spacing, factor, wanted):
    model = Model("small", "1", NETWORKS["pyramid"]().eval())
    acquired = acquire(thick, Acquisition(modality="MR", profile="box", slice_thickness=3.0))
    sr = model.super_resolve(acquired, Wanted(spacing=spacing))
    volumes, simulate = adaptation._volumes(acquired, sr, model)
    slices = grid_of(sr).shape[2]
    lengths = [int(min(n, n * voxel / wanted)) for n, voxel in ((40, 1.0), (64, 0.5))]
    assert [tuple(volume.shape) for volume in volumes] == [(64, slices, lengths[0]), (40, slices, lengths[1])]
    simulate.randomize((1, 1, 1))
    assert (simulate.factor, simulate.profile, simulate.given_profile) == (factor, "box", "box")
    assert simulate.ratio == simulate.given_ratio == pytest.approx(0.75) and simulate.sigma == 0
    # the same anatomy: means are kept
    assert float(volumes[1].mean()) == pytest.approx(float(volumes[0].mean()), abs=0.01)


def test_only_the_middle_of_a_large_volume_is_trained_on_and_padding_is_air(monkeypatch):
    monkeypatch.setattr(adaptation, "MIDDLE", 24)
    image = phantoms.body((40, 36, 10), (1.0, 1.0, 4.0)) * 100
    model, acquired = Model("small", "1", NETWORKS["pyramid"]().eval()), acquire(image, Acquisition(modality="MR"))
    sr = model.super_resolve(acquired, Wanted(spacing=1.0))
    assert [tuple(v.shape) for v in adaptation._volumes(acquired, sr, model)[0]] == [(24, 24, 24)] * 2
    padded = image / 100
    padded[:, 20:] = -32768
    of_mr = acquire(padded, Acquisition(modality="MR"))
    padded_sr = model.super_resolve(of_mr, Wanted(spacing=1.0))
    assert min(float(v.min()) for v in adaptation._volumes(of_mr, padded_sr, model)[0]) > -0.5
    acquired = acquire(image - 1000, Acquisition(modality="CT"))
    sr = sr - 1000
    sr[:, 20:] = -3024
    assert min(float(v.min()) for v in adaptation._volumes(acquired, sr, model)[0]) > -0.1


def test_a_volume_of_few_voxels_is_not_trained_on():
    image = phantoms.body((9, 9, 12), (1.0, 1.0, 4.0))
    model, _, same, tried = adapted(NETWORKS["pyramid"](), image)
    assert same is model and tried == adaptation.Adaptation(0, 0.0, is_used=False)


def test_minutes_decide_the_number_of_steps(thick, monkeypatch):
    ticks = iter(np.arange(0, 1000, 7.0))
    monkeypatch.setattr(adaptation.time, "monotonic", lambda: next(ticks))
    model = Model("small", "1", NETWORKS["pyramid"]().eval())
    acquired = acquire(thick, Acquisition(modality="MR"))
    sr = model.super_resolve(acquired, Wanted(spacing=1.0))
    done = []
    # seven steps took seven seconds: one second each
    assert adapt(model, acquired, sr, minutes=0.25, progress=done.append)[1].steps == 15
    assert done == sorted(done) and done[-1] == 1 and len(done) == 15


@pytest.mark.filterwarnings("ignore:W-SR-NOGAIN")
@pytest.mark.parametrize("network", [None, "pyramid"])
def test_what_is_not_super_resolved_is_not_trained_on(network, thick):
    model = Model("small", "1", NETWORKS[network]().eval() if network else None)
    acquired = acquire(thick, Acquisition(modality="MR"))
    sr = model.super_resolve(acquired, Wanted(spacing=4.0 if network else 1.0))
    same, tried = adapt(model, acquired, sr, minutes=1)
    assert same is model and tried == adaptation.Adaptation(0, 0.0, is_used=False)


def test_run_records_it_and_does_not_repeat_it(tmp_path, thick, capsys, monkeypatch):
    source, target = tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz"
    write_image(thick, source, dtype=np.int16)
    monkeypatch.setattr(adaptation, "STEPS", 10)
    bundle = make_bundle(tmp_path, "pyramid", features=4, depth=2)
    options = ["--bundle", str(bundle), "--trust-bundle", "--device", "cpu", "--factor", "4", "--modality", "MR"]
    words = ["run", str(source), str(tmp_path / "out/"), *options]
    assert main(["run", str(source), str(target), *options]) == 0
    (tmp_path / "out").mkdir()
    assert main([*words, "--adapt", "3"]) == 0
    record = json.loads((tmp_path / "out" / "thick.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, json.loads(SCHEMA.read_text(encoding="utf-8")))
    facts = record["monai_sr"]
    assert facts["options"]["compute"]["adapt"] == 3 and facts["adaptation"]["steps"] == 10
    plain, other = (read_image(path).numpy() for path in (target, tmp_path / "out" / "thick.nii.gz"))
    assert np.array_equal(plain, other) != facts["adaptation"]["used"]
    assert facts["consistency"]["within_limit"]
    capsys.readouterr()
    assert main([*words, "--adapt", "3"]) == 0
    assert "already" in capsys.readouterr().out


def test_a_dry_run_says_the_time_and_memory_of_training(tmp_path, thick, capsys):
    source, costs = tmp_path / "thick.nii.gz", []
    write_image(thick, source, dtype=np.int16)
    for more in ([], ["--adapt", "3"]):
        assert (
            main(["run", str(source), str(tmp_path / "thin.nii.gz"), "--factor", "4", "--dry-run", "--json", *more])
            == 0
        )
        costs.append(json.loads(capsys.readouterr().out)["volumes"][0])
    assert costs[1]["seconds"] >= costs[0]["seconds"] + 180
    assert costs[1]["memory_mib"] == costs[0]["memory_mib"] + 700


def test_training_needs_memory(thick):
    model = Model("small", "1", NETWORKS["pyramid"]().eval())
    acquired = acquire(thick, Acquisition(modality="MR"))
    with pytest.raises(running.MemoryShortError, match="E-MEM"):
        running.super_resolve_adapted(model, acquired, Wanted(spacing=1.0), minutes=1, memory=100 * 2**20)
