"""Engines and precisions give the network's result, and a request for another one gets an error."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import phantoms
import pytest
import torch
from small_networks import computed, idle, lively

from monai_sr import SuperResolutionInferer
from monai_sr.batch.run import run
from monai_sr.bundles import NAMES, load_bundle
from monai_sr.cli.main import main
from monai_sr.engine import graphs, openvino, selection, streaming, torch_rows
from monai_sr.engine.openvino import OpenVinoEngine, thread_count
from monai_sr.engine.selection import as_engine, choose_engine, describe_engine, make_engine
from monai_sr.engine.torch_engine import TorchEngine
from monai_sr.engine.torch_rows import TorchRowsEngine
from monai_sr.errors import UsageError
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.options import RunOptions

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")

STREAMED = {"openvino": OpenVinoEngine, "torch": lambda network: TorchRowsEngine(network, "float32")}

NETWORKS = {
    "residual": lambda: lively(ResidualNet(6, 8)),
    "unfolded": lambda: lively(ResidualNet(4, 8, fold=1)),
    "plain": lambda: lively(ResidualNet(6, 8, fold=3, links=False)),
    "pyramid": lambda: lively(PyramidNet(8, 2)),
    "deep": lambda: lively(PyramidNet(8, 4, levels=1)),
}


@pytest.fixture
def without_openvino(monkeypatch):
    """As if openvino were not installed."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    graphs.openvino.cache_clear()
    yield
    graphs.openvino.cache_clear()


@pytest.fixture(scope="module")
def thick(tmp_path_factory):
    """A small head-like volume of thick slices, as a file."""
    path = tmp_path_factory.mktemp("thick") / "scan.nii.gz"
    write_image(phantoms.body((20, 22, 9), (1.0, 1.0, 3.0)), path, dtype=np.int16)
    return path


# ------------------------------------------------------------- the same result


@pytest.mark.parametrize("shape", [(40, 7, 6), (9, 5, 7), (1, 1, 3)])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, (levels,)) for name in ("pyramid", "deep") for levels in (1, 2, 3)]
    + [(name, ()) for name in ("residual", "unfolded", "plain")],
)
@pytest.mark.parametrize("engine", STREAMED)
def test_streamed_rows_are_what_the_network_makes_of_the_whole(engine, name, arguments, shape):
    network = NETWORKS[name]()
    image = torch.rand(1, 1, *shape)
    with torch.no_grad():
        expected = network(image, *arguments)
    streamed = computed(STREAMED[engine](network), image, *arguments)
    scale = (expected - expected.mean()).abs().max()
    assert streamed.shape == expected.shape
    assert (streamed - expected).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("name", ["residual", "pyramid"])
@pytest.mark.parametrize("tile_voxels", [1, 60_000])
@pytest.mark.parametrize("engine", STREAMED)
def test_tiles_of_streamed_rows_do_not_show(engine, name, tile_voxels):
    network, image = STREAMED[engine](NETWORKS[name]()), phantoms.body((30, 90, 40), (1.0, 1.0, 3.0))
    options = {"factor": 2.0, "modality": "MR"}
    whole = super_resolve(image, network, **options)
    tiled = super_resolve(image, network, tile_voxels=tile_voxels, **options)
    assert np.ptp(whole.numpy()) > 1
    assert (tiled - whole).abs().max() < 1e-5 * np.ptp(whole.numpy())


def test_strips_of_a_turned_and_padded_ct_lie_where_they_belong():
    image = phantoms.body((30, 90, 12), (1.0, 1.0, 3.0)) - 500
    image[:, :, :20] = -2000
    image.affine = torch.diag(torch.tensor([-1.0, -1.0, -3.0, 1.0], dtype=torch.float64))
    network = OpenVinoEngine(NETWORKS["residual"]())
    options = {"factor": 2.0, "modality": "CT"}
    whole = super_resolve(image, network, **options)
    tiled = super_resolve(image, network, tile_voxels=1, **options)
    assert (whole[:, :, :20] == -2000).all() and (whole[:, :, 20:] > -2000).all()
    assert (tiled - whole).abs().max() < 1e-5 * np.ptp(whole.numpy())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("engine", STREAMED)
def test_rows_of_air_are_computed_once_and_come_out_the_same(engine, name, monkeypatch):
    network = STREAMED[engine](NETWORKS[name]())
    image = torch.full((1, 1, 200, 6, 8), 0.25)
    image[:, :, 90:110] = torch.rand(20, 6, 8)
    block = openvino._Compiled if engine == "openvino" else torch_rows._Eager
    compute, calls = block.__call__, []

    def counted(self, *arguments):
        calls.append(arguments)
        return compute(self, *arguments)

    monkeypatch.setattr(block, "__call__", counted)
    levels = 2 if network.works_on == "thick" else 0
    rows, skipping = computed(network, image, levels), len(calls)
    monkeypatch.setattr(streaming, "is_same", lambda *_: False)  # no row is skipped as settled
    expected = computed(network, image, levels)
    everything = len(calls) - skipping
    assert torch.equal(rows, expected)
    assert skipping < 0.8 * everything


@pytest.mark.parametrize(("rows", "threads", "compiled"), [(64, 2, 2), (64, 1, 1), (8, 2, 1)])
def test_both_graphs_of_a_size_are_compiled_before_the_first_rows(rows, threads, compiled, monkeypatch):
    """Unless there is one processor, or all rows are near the edge."""
    monkeypatch.setattr(openvino, "thread_count", lambda: threads)
    engine, image = OpenVinoEngine(NETWORKS["residual"]()), np.random.default_rng(0).random((rows, 7, 6), np.float32)
    parts = engine.propose(image, np.eye(6), tile_voxels=10**6)
    next(parts)
    assert len(engine._graphs) == compiled


def test_progress_of_streamed_rows_grows_to_the_whole():
    fractions = []
    super_resolve(
        phantoms.body((60, 20, 16), (1.0, 1.0, 3.0)), OpenVinoEngine(NETWORKS["residual"]()), progress=fractions.append
    )
    assert len(fractions) > 5 and fractions == sorted(fractions) and fractions[-1] == 1


def assert_rows_equal_tiles(bundle, image, **options):
    """The streamed engines in float32, with a bundle's weights, against torch in tiles."""
    model = load_bundle(bundle, device="cpu", engine="torch", precision="float32")
    assert isinstance(model.engine, TorchRowsEngine)
    tiled = model.computed_by(TorchEngine(model.network))(image, **options)
    for streamed in (model, model.computed_by(OpenVinoEngine(model.network))):
        assert 0 < (streamed(image, **options) - tiled).abs().max() < 1e-4 * np.ptp(tiled.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "factor"), [((22, 20, 12), 3.0), ((13, 21, 5), 2.5), ((9, 8, 4), 6.0)])
@pytest.mark.parametrize("bundle", sorted(NAMES))
def test_rows_give_the_same_voxels_as_tiles_on_a_phantom(bundle, shape, factor):
    assert_rows_equal_tiles(bundle, phantoms.body(shape, (1.0, 1.0, factor)), factor=factor, modality="MR")


@pytest.mark.data
@pytest.mark.parametrize("bundle", sorted(NAMES))
def test_rows_give_the_same_voxels_as_tiles_on_a_scan(bundle, shared_data):
    image = read_image(shared_data / "volumes" / "ct" / "chest_cta_rider0117_0p8mm.nii.gz")[:, 100:140, 100:130, 30:42]
    assert_rows_equal_tiles(bundle, image, factor=3)


def test_the_inferer_computes_by_the_given_engine_with_the_current_weights():
    network, image = NETWORKS["residual"](), phantoms.body((16, 16, 12), (1.0, 1.0, 3.0))
    inferer = SuperResolutionInferer(factor=2, modality="MR", engine="openvino")
    by_torch = SuperResolutionInferer(factor=2, modality="MR")
    assert (inferer([image], network) - by_torch([image], network)).abs().max() < 0.01
    assert isinstance(inferer.engine_for(network), OpenVinoEngine)
    assert inferer.engine_for(network) is inferer.engine_for(network)
    other = NETWORKS["residual"]()
    assert (inferer([image], other) - by_torch([image], other)).abs().max() < 0.01


# ------------------------------------------------------------------ the choice


@pytest.mark.parametrize(
    ("engine", "precision", "device", "chosen"),
    [
        ("auto", "float32", CPU, "openvino"),
        ("auto", "int8", CPU, "openvino"),
        ("torch", "float32", CPU, "torch"),
        ("openvino", "int8", CPU, "openvino"),
        ("auto", "float32", CUDA, "torch"),
        ("auto", "float16", CUDA, "torch"),
        ("torch", "bfloat16", CUDA, "torch"),
        ("auto", "bfloat16", CPU, "torch"),
    ],
)
def test_auto_is_the_fastest_that_fits(engine, precision, device, chosen, monkeypatch):
    monkeypatch.setattr(selection.torch_rows, "has_bfloat16", lambda: True)
    assert choose_engine(ResidualNet(4, 4), engine=engine, precision=precision, device=device) == chosen


@pytest.mark.parametrize(
    ("engine", "precision", "device", "message"),
    [
        ("auto", "float16", CPU, "float16 is for a GPU"),
        ("auto", "bfloat16", CPU, "this processor does not multiply in bfloat16"),
        ("openvino", "bfloat16", CPU, "OpenVINO does not compute in bfloat16"),
        ("torch", "int8", CPU, "torch does not compute in int8"),
        ("auto", "int8", CUDA, "int8 is for the CPU"),
        ("openvino", "float32", CUDA, "OpenVINO computes on the CPU"),
        ("onnx", "float32", CPU, "'onnx' is unknown"),
        ("auto", "float64", CPU, "'float64' is unknown"),
    ],
)
def test_an_impossible_combination_is_refused_with_the_possible_ones(engine, precision, device, message, monkeypatch):
    monkeypatch.setattr(selection.torch_rows, "has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match=message) as caught:
        choose_engine(ResidualNet(4, 4), engine=engine, precision=precision, device=device)
    assert caught.value.code == "E-ENGINE" and "give " in caught.value.fix


def test_torch_takes_rows_on_the_cpu_and_tiles_elsewhere_or_of_a_network_that_does_not_stream():
    assert isinstance(as_engine(PyramidNet(8, 2)), TorchRowsEngine)
    assert isinstance(make_engine(ResidualNet(4, 4), engine="torch"), TorchRowsEngine)
    assert isinstance(as_engine(SRCNN()), TorchEngine)
    assert isinstance(as_engine(ResidualNet(4, 4).to(META)), TorchEngine)
    assert as_engine(SRCNN()).name == as_engine(PyramidNet(8, 2)).name == "torch"


def test_a_network_without_a_graph_is_left_to_torch_unless_openvino_is_asked_for():
    assert choose_engine(SRCNN(), engine="auto", precision="float32", device=CPU) == "torch"
    for options in ({"engine": "openvino"}, {"precision": "int8"}):
        with pytest.raises(UsageError, match="OpenVINO has no graph for SRCNN"):
            make_engine(SRCNN(), **options)


def test_without_openvino_torch_computes_and_asking_for_openvino_names_the_extra(without_openvino):
    network = ResidualNet(4, 4)
    assert choose_engine(network, engine="auto", precision="float32", device=CPU) == "torch"
    assert load_bundle("pyramid", device="cpu").engine.name == "torch"
    for options in ({"engine": "openvino", "precision": "float32"}, {"engine": "auto", "precision": "int8"}):
        with pytest.raises(UsageError, match=r'openvino is not installed\. Fix: pip install "monai-sr\[cpu\]"'):
            choose_engine(network, device=CPU, **options)


def test_without_openvino_the_command_line_works_and_says_what_is_missing(call, thick, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    graphs.openvino.cache_clear()
    assert call("run", thick, tmp_path / "thin.nii.gz", "--bundle", "pyramid")[0] == 0
    assert (tmp_path / "thin.nii.gz").is_file()
    code, _, err = call("run", thick, tmp_path / "other.nii.gz", "--engine", "openvino")
    assert code == 2 and "E-EXTRA" in err and "monai-sr[cpu]" in err


def test_info_names_the_engine_that_auto_takes(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    model = load_bundle("pyramid", device="cpu")
    assert f"computes by {model.engine.name} (--engine auto)" in printed
    assert describe_engine(model.engine).split(",")[0].split() == next(
        line.split() for line in printed.splitlines() if line.strip().startswith(model.engine.name)
    )


def test_openvino_is_imported_without_its_telemetry():
    code = (
        "from monai_sr.engine.graphs import openvino; openvino();"
        "import sys, openvino.tools.ovc.telemetry_utils as t;"
        "print(t.tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]


@pytest.mark.parametrize(("text", "quota"), [("max 100000", 64), ("150000 100000", 2), ("10000 100000", 1), ("?", 64)])
def test_threads_keep_within_the_quota_of_a_container(text, quota, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(f"{text}\n")
    assert thread_count(tmp_path) == quota
    assert thread_count(tmp_path / "elsewhere") == 64


# ------------------------------------------------------------ 16 bits on a GPU


@pytest.mark.parametrize("make", [TorchEngine, TorchRowsEngine])  # the CPU's autocast stands for a GPU's
@pytest.mark.parametrize("name", ["residual", "pyramid"])
def test_in_16_bits_only_the_convolutions_are_rounded(name, make, monkeypatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # oneDNN refuses bfloat16 on a processor with AVX2 alone
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network, levels = NETWORKS[name](), [2] if name == "pyramid" else []
    half = make(network, "bfloat16")
    image = torch.rand(1, 1, 8, 8, 8) + 1000
    with torch.no_grad():
        exact, rounded = network(image, *levels), computed(half, image, *levels)
    assert rounded.dtype == torch.float32 and half.works_on == network.works_on
    error = (rounded - exact).abs().max()
    assert 0 < error < 0.02 * exact.abs().max()
    half = make(idle(network), "bfloat16")
    with torch.no_grad():
        left = computed(half, image, *levels) - network(image, *levels)
    assert left.abs().max() <= (0 if make is TorchEngine else 1e-6 * 1000)  # what is left is the image path


def test_float32_is_not_rounded_to_tf32(monkeypatch):
    network, cudnn = NETWORKS["pyramid"](), torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    settings = []
    network.register_forward_hook(lambda *_: settings.append((cudnn.allow_tf32, cudnn.benchmark)))
    before = cudnn.allow_tf32
    for precision in ("float32", "bfloat16"):
        computed(TorchEngine(network, precision), torch.rand(1, 1, 8, 8, 8), 2)
    assert settings == [(False, True)] * 2
    assert cudnn.allow_tf32 == before


@pytest.mark.gpu
@pytest.mark.parametrize("bundle", sorted(NAMES))
def test_float32_on_a_gpu_equals_the_cpu(bundle):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    image = phantoms.body((34, 30, 12), (1.0, 1.0, 3.0))
    exact = load_bundle(bundle, device="cpu", engine="torch")(image)
    result = load_bundle(bundle, device="cuda", precision="float32")(image)
    assert (result.cpu() - exact).abs().max() < 1e-4 * np.ptp(exact.numpy())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("bundle", sorted(NAMES))
def test_16_bits_on_a_gpu_stay_near_32(bundle, precision):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    image = phantoms.body((34, 30, 12), (1.0, 1.0, 3.0))
    exact = load_bundle(bundle, device="cpu", engine="torch")(image)
    model = load_bundle(bundle, device="cuda", precision=precision)
    assert model.engine.precision == precision
    assert (model(image) - exact).abs().max() < 0.01 * np.ptp(exact.numpy())
    assert (model.on(CPU)(image) - exact).abs().max() < 1e-4 * np.ptp(exact.numpy())


def test_a_network_moves_without_a_second_copy_where_it_was(monkeypatch):
    model = load_bundle("pyramid", engine="torch")

    def full(*_):
        raise torch.OutOfMemoryError("the card is full")

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", full)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", full)
    moved = model.on(torch.device("meta"))
    assert {weight.device.type for weight in moved.network.state_dict().values()} == {"meta"}
    assert {buffer.device.type for buffer in moved.network.buffers()} == {"meta"}
    assert model.device == CPU and not any(weight.is_meta for weight in model.network.parameters())


@pytest.mark.parametrize("name", ["residual", "pyramid"])
def test_the_best_quality_is_the_mean_over_the_mirror_images(name):
    network, image = NETWORKS[name](), phantoms.body((18, 15, 9), (1.0, 1.0, 2.0))
    options = {"factor": 2.0, "modality": "MR"}
    mirrored = [
        super_resolve(image.flip(axes), make_engine(network, engine="torch"), **options).flip(axes).numpy()
        for axes in ([], [1], [2], [1, 2])
    ]
    best = super_resolve(image, make_engine(network, engine="torch", quality="best"), **options).numpy()
    spread = np.ptp(best)
    assert np.abs(best - np.mean(mirrored, axis=0)).max() < 1e-4 * spread
    assert np.abs(best - mirrored[0]).max() > 1e-3 * spread
    small = super_resolve(image, make_engine(network, engine="torch", quality="best"), tile_voxels=1, **options)
    assert np.abs(small.numpy() - best).max() < 1e-4 * spread


def test_the_best_quality_needs_memory_for_the_sum_and_is_recorded(thick, tmp_path):
    usual, best = (make_engine(NETWORKS["pyramid"](), quality=quality) for quality in ("usual", "best"))
    size = {"voxels_in": 1000, "voxels_out": 4000}
    assert best.tile_bytes(4000, **size) - usual.tile_bytes(4000, **size) >= 2 * 4 * 4000
    with pytest.raises(UsageError, match=r"E-ENGINE.*'finest'"):
        make_engine(NETWORKS["pyramid"](), quality="finest")
    for name, quality in (("a", "usual"), ("b", "best"), ("a", "best")):
        target = tmp_path / f"{name}.nii.gz"
        assert main(["run", str(thick), str(target), "--factor", "2", "--quality", quality, "--overwrite"]) == 0
    records = [json.loads((tmp_path / f"{name}.json").read_text())["monai_sr"] for name in "ab"]
    assert [one["options"]["compute"]["quality"] for one in records] == ["best", "best"]
    assert records[0]["output_sha256"] == records[1]["output_sha256"]


# ---------------------------------------------------------- what is written down


def test_the_json_has_engine_and_precision_and_another_engine_remakes_the_result(thick, tmp_path):
    def record(**choice):
        places = {"input": str(thick.parent), "output": str(tmp_path)}
        (outcome,) = run(RunOptions.from_dict(places | {"bundle": "pyramid", "device": "cpu", "factor": 2} | choice))
        return outcome.status, json.loads((tmp_path / "scan.json").read_text())["monai_sr"]

    status, facts = record()
    assert status == "done" and facts["engine"].startswith("openvino ") and facts["engine"].endswith(", int8")
    assert facts["options"] == {
        "wanted": {"factor": 2.0},
        "compute": {"device": "cpu", "engine": "openvino", "precision": "int8"},
    }
    assert record()[0] == "skipped"
    assert record(engine="openvino")[0] == "skipped"  # which is what auto took
    status, facts = record(engine="torch")
    assert status == "done" and facts["engine"] == f"torch {torch.__version__}, float32"
    assert facts["options"]["compute"]["engine"] == "torch"


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes_also_in_two_jobs(thick, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.nii.gz").write_bytes(thick.read_bytes())
    written = []
    for out, jobs in (("one", "1"), ("two", "1"), ("three", "2")):
        words = ["run", str(folder), str(tmp_path / out), "--bundle", "pyramid", "--jobs", jobs, "--factor", "3"]
        assert main(words) == 0
        written += [(tmp_path / out / f"{name}.nii.gz").read_bytes() for name in ("a", "b")]
    assert len(set(written)) == 1
