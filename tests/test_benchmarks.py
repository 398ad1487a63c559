"""The benchmarks measure what they say."""

import json
import math

import numpy as np
import phantoms
import pytest
import torch
from benchmarks import convergence, training
from torch import nn
from torch.utils.data import default_collate

from monai_sr.images import write_image
from monai_sr.inference import ConsistentInferer
from monai_sr.networks import ResidualNet
from monai_sr.volumes import datalist

SETTINGS = convergence.Settings(budget=0.1, seed=3, batch=2, crop=8, validation_crop=16, points=2)


@pytest.fixture
def volumes() -> list[dict]:
    """Two head-like volumes as :func:`training.load` leaves them."""
    grid = phantoms.grid((20, 22, 24))
    return [
        {"image": (phantoms.known_value(grid) + 200 * phantoms.sphere(grid, radius=r) + 300) / 800, "weight": r}
        for r in (7, 9)
    ]


@pytest.fixture
def listed(tmp_path, volumes) -> str:
    """The same volumes as files, and a datalist of them."""
    for number, volume in enumerate(volumes):
        image = volume["image"]
        image.meta["stored_dtype"] = "float32"
        write_image(image, tmp_path / f"head{number}.nii.gz")
    entries = [{"image": f"head{number}.nii.gz"} for number in range(len(volumes))]
    file = tmp_path / "datalist.json"
    file.write_text(json.dumps({"training": entries, "validation": entries}))
    return str(file)


def smallest(listed: str, folder, *words: str) -> None:
    """The benchmark with one run of as few steps as there are."""
    small = {"--budget": "0.001", "--batch": "1", "--crop": "8", "--validation-crop": "16", "--points": "2"}
    options = [word for pair in small.items() for word in pair]
    convergence.main([listed, "--output", str(folder), "--runs", "clipped", *options, *words])


def test_a_convolution_costs_its_kernel_for_every_entry_of_its_output():
    network = nn.Conv3d(3, 5, (3, 3, 1), padding=(1, 1, 0), stride=(1, 1, 2))
    work = training.Work(network)
    network(torch.zeros(2, 3, 4, 6, 8))
    assert work.done == (2 * 5 * 4 * 6 * 4) * (3 * 3 * 3)


def test_a_transposed_convolution_costs_its_kernel_for_every_entry_of_its_input():
    network = nn.ConvTranspose3d(3, 5, (1, 1, 4), (1, 1, 2), (0, 0, 1))
    work = training.Work(network)
    network(torch.zeros(2, 3, 4, 6, 8))
    assert work.done == (2 * 3 * 4 * 6 * 8) * (5 * 4)


def test_validation_is_no_training_work():
    network = nn.Sequential(nn.Conv3d(1, 1, 3)).eval()
    work = training.Work(network)
    network(torch.zeros(1, 1, 4, 4, 4))
    assert work.done == 0


def test_every_network_trains_on_the_same_crops_in_the_same_order(volumes):
    thin, thick = (training.Crops(volumes, SETTINGS, kind, 4) for kind in ("thin", "thick"))
    for index in [5, *range(len(thin))]:
        assert torch.equal(thin[index]["label"], thick[index]["label"])
        assert torch.equal(thin[index]["acquired"], thick[index]["acquired"])
    labels = [thin[index]["label"] for index in range(len(thin))]
    assert not any(torch.equal(labels[0], label) for label in labels[1:])
    assert [thin[index]["acquired"].shape[-1] for index in range(len(thin))] == [4, 4, 2, 2, 4, 4, 2, 2]


def test_the_consistency_step_takes_the_place_of_the_connection_to_the_output(volumes):
    batch = default_collate([training.Crops(volumes, SETTINGS, "thin", 2)[index] for index in (2, 3)])
    network = ResidualNet(4, 4).eval()
    network.tail.weight.data.mul_(1000)
    matrices = {key: batch[key] for key in training.PAIR}
    bare = convergence.WithoutOutputConnection(network)
    assert not torch.allclose(network(batch["image"]), bare(batch["image"]), atol=0.1)
    predicted = [ConsistentInferer()(batch["image"], one, **matrices) for one in (network, bare)]
    torch.testing.assert_close(*predicted, atol=1e-4, rtol=0)  # B is built with a ridge of 1e-5


def test_the_gain_of_a_network_that_adds_nothing_is_none(volumes):
    validation = training.Validation(volumes, SETTINGS, "thin")
    for inferer in (convergence.PlainInferer(), ConsistentInferer()):
        assert list(validation.gains(nn.Identity(), inferer).values()) == pytest.approx([0, 0], abs=1e-3)


def test_the_gain_of_the_truth_is_great_and_of_noise_a_loss(volumes):
    class Add(nn.Module):
        def forward(self, x):
            return x + 0.3 * torch.randn(x.shape)

    validation = training.Validation(volumes, SETTINGS, "thin")
    assert all(gain < -5 for gain in validation.gains(Add(), convergence.PlainInferer()).values())
    for _, pair in validation.pairs:
        pair["image"] = pair["label"] + 1e-4
    assert all(gain > 10 for gain in validation.gains(nn.Identity(), convergence.PlainInferer()).values())


def test_a_training_that_is_lost_ends_and_the_table_says_so(volumes, monkeypatch):
    run = convergence.Run("lost", "lost", "a rate beyond reason", lambda: ResidualNet(4, 4), convergence.sgd(1e9))
    rows = convergence.train(run, SETTINGS, volumes, volumes)
    assert math.isnan(rows[-1].gain)
    steps = round(SETTINGS.budget / rows[-1].work * rows[-1].step)
    assert 0 < rows[-1].step < steps / 2
    monkeypatch.setattr(convergence, "RUNS", [run])
    assert f"| a rate beyond reason | {rows[-1].step} | – | – | **diverged** |" in convergence.table(
        {"lost": rows}, 0.2
    )


def test_the_table_tells_what_a_gain_costs():
    def row(step: int, gain: float, clipped: float) -> training.Row:
        return training.Row("clipped", step, 10.0 * step, gain - 0.1, gain + 0.1, 1.0, clipped, 60.0 * step)

    rows = [row(0, 0.3, 0), row(1, -0.5, 1.0), row(3, 0.25, 0.4), row(4, 0.15, 0.2)]
    text = convergence.table({"clipped": rows}, 0.2)
    assert "| 4 | +0.05 | +0.25 | **+0.15** | +0.30 | 50 % | 30 | 4.0 |" in text
    assert "| 50 % | – | 4.0 |" in convergence.table({"clipped": rows}, 0.4)


def test_names_in_the_plot_move_apart_and_keep_their_order():
    placed = training.spread([0.1, 0.5, 0.51, 0.52, 0.99], 0.05)
    assert min(np.diff(placed)) > 0.049
    assert placed[0] == pytest.approx(0.1) and placed[2] == pytest.approx(0.51, abs=0.01)
    assert max(training.spread([0.99, 1.0], 0.05)) <= 1


def test_the_smallest_benchmark_leaves_table_and_plot_and_is_not_repeated(listed, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    smallest(listed, folder)
    rows = training.read_rows(folder / "convergence.csv")
    assert [row.step for row in rows] == [0, 1, 2]
    # 2 convolutions from 2 and to 2 channels, 18 inside, on folded slices: 8 x 8 x 4 places
    assert rows[-1].work == pytest.approx(2 * 256 * 27 * (2 * 2 * 16 + 18 * 16 * 16) / 1e9)
    assert (folder / "convergence.md").read_text() in capsys.readouterr().out
    assert (folder / "convergence.png").read_bytes().startswith(b"\x89PNG")

    def trained(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(convergence, "train", trained)
    smallest(listed, folder)
    assert training.read_rows(folder / "convergence.csv") == rows
    with pytest.raises(SystemExit, match="name another folder"):
        smallest(listed, folder, "--seed", "1")


def test_the_benchmark_normalizes_and_pads_what_it_loads(listed):
    entries = datalist(listed, "training")
    loaded = [item["image"] for item in training.load(entries, 32)]
    assert all(min(image.shape[1:]) >= 32 for image in loaded)
    assert all(0.8 < float(image.max()) < 1.6 for image in loaded)


def test_runs_have_names_of_their_own():
    names = [run.name for run in convergence.RUNS]
    assert len(set(names)) == len(names)
    assert all(isinstance(run.network(), nn.Module) for run in convergence.RUNS)
