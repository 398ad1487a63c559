"""The benchmarks measure what they say."""

import json
import math
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch
from benchmarks import adaptation, convergence, gallery, gpu, pareto, speed, start, training
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.data import default_collate

from monai_sr.batch.run import run
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.io.volumes import datalist
from monai_sr.networks import PyramidNet, ResidualNet
from monai_sr.options import RunOptions
from monai_sr.training.inferer import ConsistentInferer
from monai_sr.training.losses import PyramidLoss

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


class Idle(nn.Identity):
    works_on = "thin"


def test_the_gain_of_a_network_that_adds_nothing_is_zero(volumes):
    validation = training.Validation(volumes, SETTINGS, "thin")
    for inferer in (convergence.PlainInferer(), ConsistentInferer()):
        assert list(validation.gains(Idle(), inferer).values()) == pytest.approx([0, 0], abs=1e-3)


def test_the_gain_of_the_reference_is_large_and_that_of_noise_a_loss(volumes):
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


def test_the_table_shows_what_a_gain_costs():
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


# --------------------------------------------------------------------- quality against cost


VARIANTS = [pytest.param(variant, id=variant.name) for variant in pareto.VARIANTS]


def levels_of(network: nn.Module, factor: int) -> list[int]:
    """What a pyramid must be given besides its input."""
    return [int(math.log2(factor))] if isinstance(network, PyramidNet) else []


@pytest.mark.parametrize("factor", training.FACTORS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_variant_costs_is_what_its_convolutions_do(variant, factor):
    network = variant.network()
    work = training.Work(network)
    slices = 16 // factor if training.works_on(network) == "thick" else 16
    with torch.no_grad():
        network(torch.zeros(1, 1, 4, 4, slices), *levels_of(network, factor))
    assert work.done == 4 * 4 * 16 * pareto.multiply_adds(network, factor)


@pytest.mark.parametrize("factor", training.FACTORS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_starts_from_the_interpolation(variant, factor):
    network = variant.network().eval()
    thick = training.works_on(network) == "thick"
    x = torch.rand(1, 1, 5, 7, 6 if thick else 9)
    with torch.no_grad():
        sr = network(x, *levels_of(network, factor))
        start = PyramidNet(2)
        for branch in (start.earlier, start.last):
            nn.init.zeros_(branch.residual.weight)
        expected = start.eval()(x, *levels_of(start, factor)) if thick else x
    assert sr.shape == expected.shape
    assert 0 < float((sr - expected).abs().max()) < 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_residual_of_twenty_layers_or_a_pyramid_of_supervised_levels(variant):
    network = variant.network()
    if variant.family == "pyramid":
        assert [level.shape[-1] for level in network(torch.zeros(1, 1, 4, 4, 2), 2)] == [4, 8]
    else:
        assert sum(isinstance(module, nn.Conv3d) for module in network.modules()) == 20


@pytest.mark.parametrize("name", ["residual", "pyramid"])
def test_the_shipped_network_is_the_one_that_is_marked(name):
    (shipped,) = [variant for variant in pareto.VARIANTS if variant.shipped and variant.family == name]
    config = Path(__file__).parents[2] / "bundles" / f"{name}_super_resolution" / "configs" / "train.json"
    wanted = ConfigParser(json.loads(config.read_text())).get_parsed_content("network_def")
    network = shipped.network()
    assert type(network) is type(wanted)
    network.load_state_dict(wanted.state_dict())
    x = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(network.eval()(x), wanted.eval()(x))


def test_cells_go_back_to_where_their_voxels_were():
    network = pareto.FoldedInPlane(8)
    for part, ones in ((network.head, torch.eye(8)), (network.tail, torch.eye(8))):
        nn.init.zeros_(part.weight)
        part.weight.data[:, :, 1, 1, 1] = ones
    network.body = nn.Sequential()
    x = torch.rand(1, 1, 5, 4, 7)
    torch.testing.assert_close(network(x), 2 * x)


def test_a_shuffle_lays_the_two_halves_of_a_slice_side_by_side():
    doubling = pareto.ShuffledDoubling(2)
    nn.init.zeros_(doubling.halves.weight)
    doubling.halves.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    doubled = doubling(torch.zeros(1, 2, 1, 1, 2))
    assert doubled.flatten(1).tolist() == [[1.0, 3.0, 1.0, 3.0, 2.0, 4.0, 2.0, 4.0]]


def test_the_front_holds_what_nothing_cheaper_reaches():
    points = [(3, 0.5), (1, 0.2), (2, 0.1), (3, 0.4), (5, 0.5), (4, 0.9), (1, 0.1), (6, 0.9)]
    assert pareto.front(points) == [1, 0, 5]
    assert pareto.front([]) == []


def measured(name: str, *gains: float) -> list[training.Row]:
    """A variant's measurements, one for each initialization."""
    return [training.Row(name, 450, 1.0, gain - 0.1, gain + 0.1, 0.1, 0.2, 90.0) for gain in gains]


def test_the_table_shows_cost_gain_and_the_front():
    names = {"residual-32": (0.8, 1.0), "residual-16": (0.7,), "residual-24": (0.6,), "pyramid-32": (0.4, 0.8)}
    text = pareto.table({name: measured(name, *gains) for name, gains in names.items()})
    assert "| 251 | 251 | 502 | +0.80 | +1.00 | **+0.90** (+0.80, +1.00) | ×2, ×4 | 3.0 |" in text
    assert "| 63 | 63 | 126 | +0.60 | +0.80 | **+0.70** | ×2, ×4 | 1.5 |" in text
    assert "| 141 | 141 | 283 | +0.50 | +0.70 | **+0.60** | – | 1.5 |" in text
    assert "| 114 | 171 | 455 | +0.50 | +0.70 | **+0.60** (+0.40, +0.80) | ×2, ×4 | 3.0 |" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[2].strip() for line in lines[2:5]] == ["63", "141", "251"]


def test_chance_is_the_pooled_deviation_of_what_was_repeated():
    results = {"a": measured("a", 0.8, 1.0), "b": measured("b", 0.4, 0.8), "c": measured("c", 5.0)}
    pooled = np.mean([np.std([0.8, 1.0], ddof=1) ** 2, np.std([0.4, 0.8], ddof=1) ** 2]) ** 0.5
    assert pareto.chance(results) == pytest.approx(pooled)
    assert math.isnan(pareto.chance({"c": results["c"]}))


@pytest.mark.slow
def test_an_interrupted_benchmark_shows_what_is_there_and_goes_on(listed, tmp_path, monkeypatch, capsys):
    few = pareto.Variant("residual-few", "few", "four layers", lambda: ResidualNet(4, 4), initializations=(0, 1))
    other = pareto.Variant("pyramid-few", "few", "two layers", lambda: PyramidNet(4, 2), loss=PyramidLoss)
    monkeypatch.setattr(pareto, "VARIANTS", [few, other])
    folder, trained = tmp_path / "out", []
    fit = training.fit

    def interrupted(variant, *arguments, **keywords):
        if len(trained) == 2:
            raise RuntimeError("power is gone")
        trained.append(keywords["initialization"])
        return fit(variant, *arguments, **keywords)

    small = {"--crops": "4", "--batch": "2", "--crop": "8", "--validation-crop": "16"}
    words = [listed, "--output", str(folder), *(word for pair in small.items() for word in pair)]
    monkeypatch.setattr(pareto, "fit", interrupted)
    with pytest.raises(RuntimeError, match="power is gone"):
        pareto.main(words)
    assert trained == [0, 1]
    assert "four layers" in (folder / "pareto.md").read_text()
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    rows = [training.read_rows(folder / f"residual-few.{seed}.csv") for seed in (0, 1)]
    assert [row.step for (row,) in rows] == [2, 2]
    assert rows[0][0].gain != rows[1][0].gain
    trained.pop()
    pareto.main(words)
    assert trained == [0, 0]
    assert "two layers" in (folder / "pareto.md").read_text()
    assert (folder / "pareto.md").read_text() in capsys.readouterr().out
    with pytest.raises(SystemExit, match="name another folder"):
        pareto.main([*words, "--seed", "1"])


@pytest.mark.slow
def test_the_plot_of_a_page_has_the_gains_of_its_table(tmp_path, monkeypatch):
    rows = {
        v.name: [training.Row(v.name, 4, 1.0, 0.1 * i, 0.2 * i, 1.0, 0.0, 60.0)] for i, v in enumerate(pareto.VARIANTS)
    }
    page = tmp_path / "page.md"
    page.write_text(f"text\n\n{pareto.table(rows)}\ntext")
    results = pareto.read_table(page.read_text())
    assert {name: (row.gain_x2, row.gain_x4) for name, (row,) in results.items()} == {
        name: (pytest.approx(row.gain_x2), pytest.approx(row.gain_x4)) for name, (row,) in rows.items()
    }
    monkeypatch.setattr(pareto, "VARIANTS", pareto.VARIANTS[::8])
    pareto.main(["--plot", str(page), "--output", str(tmp_path)])
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_variants_have_names_of_their_own():
    names = [variant.name for variant in pareto.VARIANTS]
    assert len(set(names)) == len(names)
    assert {variant.family for variant in pareto.VARIANTS} == set(pareto.FAMILIES)


# ------------------------------------------------------------- speed


def figures(row: str, voxels: int = 10**6, **changed) -> dict:
    """One row of the speed benchmark with round numbers."""
    parts = {"start": 1.0, "read": 1.0, "resolve": 6.0, "network": 5.0, "check": 0.0, "write": 2.0}
    rest = {"core_seconds": 36.0, "operations": 1e12, "bytes_read": 10**6, "bytes_written": 2 * 10**6, "peak_mib": 700}
    return {"row": row, "size": "MR", "voxels": voxels} | parts | rest | changed


def test_the_table_of_speed_says_what_was_measured_and_what_was_not():
    results = [figures("pyramid/openvino/int8/cpu"), {"row": "residual", "size": "MR", "absent": "openvino is missing"}]
    text = speed.table(results, {"cpu": 400e9})
    assert "| pyramid/openvino/int8/cpu | 0.17 | 6.0 | 10.0 | 50 % | 50 % | 700 |" in text
    assert "Not measured: residual (openvino is missing)" in text


def test_cost_that_grows_with_the_voxels_has_the_exponent_1():
    assert speed.exponent([figures("none", n, resolve=3e-6 * n) for n in (10, 200, 3000)]) == pytest.approx(1)
    assert speed.exponent([figures("none", n, resolve=3e-6 * n**2) for n in (10, 200, 3000)]) == pytest.approx(2)


def test_a_thousand_scans_cost_a_thousand_times_one():
    text = speed.scale_table([figures("none"), figures("pyramid/torch/float16/cuda"), figures("SciPy cubic zoom")])
    assert "| MR, none | 10.0 | – | 1.0 | 2.0 | 0.4 days |" in text
    assert "| MR, pyramid/torch/float16/cuda | 10.0 | 1.39 | 1.0 | 2.0 | 7.2 days |" in text
    assert "SciPy" not in text


@pytest.mark.parametrize(("network", "seen"), [(ResidualNet(4, 4, fold=2), 3), (PyramidNet(4, 2), 1)])
def test_multiply_adds_are_those_of_the_whole_volume(network, seen):
    work = convergence.Work(network)
    levels = () if seen == 3 else (2,)
    network.train()(torch.zeros(1, 1, 6, 5, 8 * seen), *levels)
    assert speed.multiply_adds(network.eval(), (6, 5, 8), 3) == work.done


@pytest.mark.parametrize("row", speed.PEER_ROWS)
def test_peers_make_the_slices_that_are_asked_for(row, tmp_path):
    speed.write_phantom("12x10x9x3", tmp_path / "thick.nii.gz")
    made = speed.measure(row, "12x10x9x3", str(tmp_path / "thick.nii.gz"))
    image = read_image(tmp_path / "thick.nii.gz")
    peer, spline = speed._peer(row, image, 3)[0].numpy(), super_resolve(image, None)[0].numpy()
    assert made["voxels"] == peer.size and spline.shape == (12, 10, 27)
    # MONAI makes slices from the first center to the last only
    outer = 1 if row == "MONAI Spacing" else 0
    spline = spline[..., outer : 27 - outer]
    assert peer.shape == spline.shape
    inner = (slice(2, -2), slice(2, -2), slice(6, -6))
    assert np.corrcoef(peer[inner].ravel(), spline[inner].ravel())[0, 1] > 0.97


@pytest.mark.slow
def test_the_smallest_benchmark_of_speed_prints_a_table(tmp_path, capsys):
    rows = ["none", "pyramid/torch/float32/cpu"]
    speed.main(["--rows", *rows, "--sizes", "24x24x8x2", "--scale", "--output", str(tmp_path / "speed.md")])
    text = capsys.readouterr().out
    assert (tmp_path / "speed.md").read_text() == text
    for row in rows:
        assert f"| {row} |" in text and f"| 24x24x8x2, {row} |" in text
    assert "Not measured" not in text


# ------------------------------------------------------------- a GPU, as far as a CPU shows


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu(tmp_path, capsys):
    page = tmp_path / "gpu.md"
    gpu.main(["--device", "cpu", "--tiny", "--output", str(page)])
    text = page.read_text()
    assert text == capsys.readouterr().out
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * 2 * 2 + 2 * 3  # compared with the CPU, timed, and with too little memory
    assert {len(row) for row in rows} == {11}
    exact = [row for row in rows if row[2].startswith("float32") and row[3] != "–"]
    assert len(exact) == 6 and all(float(row[3]) < gpu.FLOAT32_LIMIT for row in exact)
    rounded = [float(row[3]) for row in rows if row[2] == "bfloat16" and row[3] != "–"]
    assert len(rounded) == 4 and min(rounded) > 1e-4  # the comparison sees what rounding does
    assert sum("ran out 1×" in row[-1] for row in rows) == 2


def test_the_clock_of_a_network_counts_its_convolutions_and_their_time():
    network = ResidualNet(4, 8)
    clock = gpu.Clock(network, torch.device("cpu"))
    shape, image = (6, 5, 8), torch.zeros(1, 1, 6, 5, 8)
    network(image)
    seconds = clock.stop()
    assert clock.operations == pytest.approx(2 * speed.multiply_adds(network, shape, 1))
    assert 0 < seconds < 60
    network(image)
    assert clock.operations == pytest.approx(2 * speed.multiply_adds(network, shape, 1))


@pytest.mark.parametrize(
    ("row", "failed"),
    [
        ({"how": "float32", "difference": 2e-4}, True),
        ({"how": "float32", "difference": 5e-5, "decibels": 0.5}, False),
        ({"how": "float16", "difference": 2e-4, "decibels": -0.03}, True),
        ({"how": "float16", "difference": 2e-4, "decibels": 0.01}, False),
        ({"how": "float32 in 10 MiB", "difference": 0.0}, True),
        ({"how": "float32 in 10 MiB", "difference": 0.0, "note": "ran out 1×"}, False),
        ({"how": "bfloat16", "note": "error: no"}, True),
    ],
)
def test_a_limit_that_is_not_kept_is_named(row, failed):
    assert bool(gpu.failures([gpu.Row("head", "residual", **row)])) == failed


def test_the_seconds_of_a_command_are_measured(capsys):
    start.main(["--repeats", "1", "--only", "wrong option"])
    (row,) = capsys.readouterr().out.splitlines()[2:]
    name, spent, wall = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "wrong option" and 0 < float(spent) <= float(wall) + 0.05


def test_the_gallery_draws_measures_and_counts_warnings(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    phantom = gallery.plates(10)[:, 20:60, 20:60, :12]
    monkeypatch.setattr(gallery, "plates", lambda noise: phantom)
    monkeypatch.setattr(gallery, "PLATES", (10,))
    words = [
        "gallery",
        "--output",
        tmp_path,
        "--plates",
        "--spoil",
        "--bundle",
        "none",
        "--markdown",
        tmp_path / "t.md",
    ]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    gallery.main()
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "plates_10HU.png").is_file()
    assert [line.split()[2] for line in lines if line.startswith("plates_10HU ")] == ["thick", "cubic", "none"]
    counts = {line[:15].strip(): line for line in lines if line.startswith(("as they are", "slices repeated"))}
    assert counts.keys() == {"as they are", "slices repeated"}
    assert "| slices repeated |" in (tmp_path / "t.md").read_text()


def test_repeated_slices_are_streaks_and_thin_ones_are_not():
    voxels = np.asarray(phantoms.anatomy(0, (72, 72, 96))) * 1000
    thin = voxels + np.random.default_rng(0).normal(0, 15, voxels.shape)
    repeated = thin.reshape(72, 72, 24, 4).mean(axis=3).repeat(4, axis=2)
    assert gallery.streaks(thin, 2, (1.0, 1.0, 1.0), 4.0) == pytest.approx(1, abs=0.1)
    assert gallery.streaks(repeated, 2, (1.0, 1.0, 1.0), 4.0) > 1.4


@pytest.mark.slow
def test_adapting_is_measured_beside_the_bundle_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("monai_sr.training.adaptation.CROP", 16)
    monkeypatch.setattr("monai_sr.training.adaptation.STEPS", 8)
    write_image(phantoms.body((24, 24, 32), (1.0, 1.0, 1.0)), tmp_path / "v.nii.gz", dtype=np.int16)
    adaptation.main([str(tmp_path / "v.nii.gz")])
    lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert lines[0].count("|") == lines[2].count("|") and cells[0] == "v.nii.gz" and cells[4] == "8"
    assert float(cells[2]) == 0 or cells[5] == "True"


# ---------------------------------------------------------------- start


def test_the_parts_of_a_run_are_what_it_does_and_each_is_timed(tmp_path, capsys):
    thick, thin = tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz"
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), thick, dtype=np.int16)
    exec(start.program(str(thick), str(thin)), {})
    seconds = json.loads(capsys.readouterr().out)
    assert len(seconds) == len(start.PARTS) and min(min(pair) for pair in seconds) >= 0
    options = RunOptions.from_dict({"input": str(thick), "output": str(tmp_path / "run.nii.gz"), "device": "cpu"})
    assert [outcome.status for outcome in run(options)] == ["done"]
    assert np.array_equal(read_image(thin), read_image(tmp_path / "run.nii.gz"))
