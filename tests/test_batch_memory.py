"""Memory is planned before the run; when it runs out all the same, a result comes by smaller steps."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dicom_phantoms
import numpy as np
import phantoms
import psutil
import pytest
import torch
from catalogue import fault
from runs import run
from small_networks import lively

from monai_sr.acquired import Acquired
from monai_sr.batch import find_cases, forecast_cases, forecast_table, reading, super_resolve_within
from monai_sr.batch import run as run_module
from monai_sr.batch import speed as speed_module
from monai_sr.batch.forecast import peak_bytes
from monai_sr.batch.plan import plan_case
from monai_sr.bundles import NAMES, Model, load_bundle
from monai_sr.cli.main import main
from monai_sr.engine import openvino, torch_rows
from monai_sr.engine.memory import (
    PROCESS,
    SHARE,
    TILE_LADDER,
    TILE_VOXELS,
    MemoryShortError,
    choose_tile,
    is_out_of_memory,
    memory_budget,
    needed_bytes,
    volume_bytes,
)
from monai_sr.engine.selection import as_engine, make_engine
from monai_sr.engine.streaming import StreamedEngine
from monai_sr.engine.tiles import plan_tiles
from monai_sr.engine.torch_engine import TorchEngine
from monai_sr.errors import SuperResolutionWarning, collect_notices
from monai_sr.io.images import write_image
from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.options import RunOptions, Wanted
from monai_sr.trust.resolution import SAMPLES

GIB = 2**30


def machine(root: Path, *, cgroup: str, **files: int | str) -> Path:
    """A root folder whose process lies in control groups with these limits."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, limit in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    return root


V2 = "0::/job/step\n"
V1 = "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n"


@fault("R03")
@pytest.mark.parametrize(
    ("cgroup", "files"),
    [
        (V2, {"job/step/memory__max": GIB}),
        (V2, {"job/step/memory__max": "max", "job/memory__max": GIB}),
        (V2, {"job/step/memory__max": 2 * GIB, "job/memory__max": GIB}),
        (V1, {"memory/job/memory__limit_in_bytes": GIB}),
        (V1, {"memory/job/memory__limit_in_bytes": 2**63 - 4096, "memory/memory__limit_in_bytes": GIB}),
    ],
)
def test_the_tightest_control_group_counts(tmp_path, cgroup, files):
    assert memory_budget(root=machine(tmp_path, cgroup=cgroup, **files), environment={}) == int(SHARE * GIB)


@fault("R03")
@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_MEM_PER_NODE": "1024"},
        {"SLURM_MEM_PER_NODE": "1G"},
        {"SLURM_MEM_PER_CPU": "256", "SLURM_CPUS_ON_NODE": "4"},
    ],
)
def test_what_slurm_allows_counts(tmp_path, environment):
    assert memory_budget(root=tmp_path, environment=environment) == int(SHARE * GIB)


@pytest.mark.parametrize("environment", [{}, {"SLURM_MEM_PER_NODE": "0"}], ids=["none", "whole node"])
def test_without_limits_what_is_free_counts(tmp_path, monkeypatch, environment):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("free", (), {"available": GIB}))
    rss = psutil.Process().memory_info().rss
    assert memory_budget(root=tmp_path, environment=environment) == pytest.approx(SHARE * (GIB + rss), rel=0.05)


@pytest.mark.parametrize("network", [ResidualNet(layers=4, features=8), PyramidNet(features=8, depth=2), SRCNN(), None])
@pytest.mark.parametrize("make", [as_engine, TorchEngine])
def test_tiles_shrink_until_they_fit_and_a_volume_that_cannot_fit_is_refused(network, make):
    engine, size = make(network) if network else as_engine(network), {"voxels_in": 2_500_000, "voxels_out": 10**7}
    fixed, tiles = PROCESS + volume_bytes(*size.values()), engine.tile_sizes(**size)
    assert isinstance(engine, StreamedEngine) or tiles == [*TILE_LADDER][: 1 if network is None else None]
    assert choose_tile(engine, **size, memory=64 * GIB, vram=None) == tiles[0] <= TILE_VOXELS
    if network is not None:
        for tile in tiles:
            on_tile = engine.tile_bytes(tile, **size)
            assert choose_tile(engine, **size, memory=fixed + on_tile, vram=None) == tile
            assert choose_tile(engine, **size, memory=fixed, vram=int(on_tile / SHARE) + 1) == tile
    with pytest.raises(MemoryShortError, match="E-MEM") as short:
        choose_tile(engine, **size, memory=fixed - 1, vram=None)
    assert short.value.exit_code == 8


@pytest.mark.parametrize("asked", [10_000, 250_000, 1_000_000])
@pytest.mark.parametrize("shape", [(192, 192, 20), (512, 512, 60), (40, 40, 12)])
@pytest.mark.parametrize(
    ("network", "levels"), [(ResidualNet(), 0), (PyramidNet(), 1), (PyramidNet(), 2), (PyramidNet(), 3)]
)
def test_no_tile_that_is_made_is_larger_than_what_was_planned_for(network, levels, shape, asked):
    scale, thin = 2**levels, 2**levels if levels else 4
    halo = network.reach_of(levels) if levels else network.reach
    given = shape if levels else (*shape[:2], shape[2] * thin)
    tiles = plan_tiles(given, (halo[0], *halo), voxels=max(1, asked // scale), align=(1, 1, 1 if levels else 2))
    largest = scale * max(math.prod(s.stop - s.start for s in tile.padded) for tile in tiles)
    size = {"voxels_in": math.prod(shape), "voxels_out": math.prod(shape) * thin}
    proposed = 4 * size["voxels_out"]  # which is held whole, whatever the tiles
    on_tile, on_all = (TorchEngine(network).tile_bytes(tile, **size) - proposed for tile in (asked, size["voxels_out"]))
    planned = size["voxels_out"] * on_tile / on_all
    assert planned >= largest


@fault("R01")
@pytest.mark.parametrize("by", ["openvino", "torch"])
def test_out_of_memory_ends_in_narrower_strips_with_the_same_voxels(by, monkeypatch):
    pytest.importorskip(by)
    block = openvino._Compiled if by == "openvino" else torch_rows._Eager
    image = phantoms.known_value(phantoms.grid((24, 150, 6), (1.0, 1.0, 4.0)))
    engine = make_engine(lively(ResidualNet(4, 4)), engine=by)
    expected, _ = super_resolve_within(model_of(engine), Acquired.of(image), Wanted(), memory=64 * GIB)
    compute, widths = block.__call__, []

    def short(self, part, *rest):
        widths.append(part.shape[2])
        if part.shape[2] > 60:
            raise RuntimeError("Exception from src/core/src/runtime/allocator.cpp:79:\nstd::bad_alloc")
        return compute(self, part, *rest)

    monkeypatch.setattr(block, "__call__", short)
    with pytest.warns(SuperResolutionWarning, match="W-MEM-LADDER"):
        sr, how = super_resolve_within(model_of(engine), Acquired.of(image), Wanted(), memory=64 * GIB)
    assert widths[0] == 150 and widths[-1] <= 60 and len(how["ran_out_of_memory"]) >= 1
    assert all(key[0][1] <= 60 for key in getattr(engine, "_graphs", ()))  # what did not fit is not kept
    torch.testing.assert_close(sr, expected, atol=1e-3, rtol=0)


def test_the_peak_is_of_the_process_itself_and_not_of_the_one_that_started_it():
    child = "from monai_sr.engine.memory import peak_mib; print(peak_mib())"
    parent = f"import subprocess, sys; full = b'x' * (900 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 5 < float(done.stdout) < 500


@pytest.mark.slow
def test_a_volume_takes_no_more_memory_than_is_planned_for():
    script = Path(__file__).parent / "benchmarks" / "memory_constants.py"
    words = [sys.executable, str(script), "--one", "none", "256x256x40", str(TILE_VOXELS), "int16"]
    peaks = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    planned = (PROCESS + volume_bytes(256 * 256 * 40, 256 * 256 * 160)) / 2**20
    assert 0.8 * planned < float(peaks[-1]) < planned


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("bundle", sorted(NAMES))
def test_a_command_stays_within_1_gb_and_three_times_its_result(bundle, precision, tmp_path):
    pytest.importorskip("openvino")
    image = phantoms.known_value(phantoms.grid((320, 320, 24), (1.0, 1.0, 4.0)))
    write_image(image, tmp_path / "thick.nii.gz", dtype=np.int16)
    words = ["run", str(tmp_path / "thick.nii.gz"), str(tmp_path / "thin.nii.gz"), "--factor", "4"]
    words += ["--modality", "MR", "--bundle", bundle, "--precision", precision]
    code = "import sys; from monai_sr.cli.main import main; from monai_sr.engine.memory import peak_mib;"
    code += "assert main(sys.argv[1:]) == 0; print(peak_mib())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) * 2**20 < 10**9 + 12 * 320 * 320 * 96


class Hungry(SRCNN):
    """Runs out of memory for tiles above a size, as a GPU does."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.asked = limit, []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.asked.append(image.numel())
        if image.numel() > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(image)


def model_of(network) -> Model:
    return Model("hungry", "1", network.eval() if isinstance(network, torch.nn.Module) else network)


@fault("R01")
def test_out_of_memory_ends_in_smaller_tiles_with_the_same_voxels():
    image = phantoms.known_value(phantoms.grid((120, 110, 6), (1.0, 1.0, 4.0)))
    network = Hungry(10**9)
    expected, how = super_resolve_within(model_of(network), Acquired.of(image), Wanted(), memory=64 * GIB)
    assert "ran_out_of_memory" not in how
    network.limit, network.asked = 200_000, []
    with pytest.warns(SuperResolutionWarning, match="W-MEM-LADDER"):
        sr, how = super_resolve_within(model_of(network), Acquired.of(image), Wanted(), memory=64 * GIB)
    assert how["ran_out_of_memory"] == ["cpu, tiles of 316800 voxels"]
    assert how["tile_voxels"] == 250_000 and network.asked[0] == 316_800 and max(network.asked[1:]) <= network.limit
    torch.testing.assert_close(sr, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("can't allocate memory"),
        RuntimeError("Exception from src/inference/src/cpp/core.cpp:117:\nstd::bad_alloc"),
        RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc"),
        RuntimeError("Failed to allocate 15728640 bytes of memory"),
    ],
)
def test_every_way_to_say_out_of_memory_is_understood(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_after_the_smallest_tile_the_volume_fails_for_memory():
    image = phantoms.known_value(phantoms.grid((40, 30, 6), (1.0, 1.0, 4.0)))
    with pytest.raises(MemoryShortError, match="memory ran out: cpu, tiles of 250000 voxels") as short:
        super_resolve_within(model_of(Hungry(1)), Acquired.of(image), Wanted(), memory=64 * GIB)
    assert short.value.exit_code == 8


def test_memory_that_runs_out_while_reading_is_not_reported_as_a_bug(volume, tmp_path, monkeypatch):
    def full(path, *_):
        raise MemoryError

    monkeypatch.setattr(reading, "read_array", full)
    (outcome,) = run(volume, tmp_path / "out").values()
    assert (outcome.code, outcome.exit_code) == ("E-MEM", 8)


def test_another_error_is_no_reason_for_smaller_tiles():
    image = phantoms.known_value(phantoms.grid((20, 20, 6), (1.0, 1.0, 4.0)))

    class Broken(SRCNN):
        def forward(self, image):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        super_resolve_within(model_of(Broken()), Acquired.of(image), Wanted(), memory=64 * GIB)


@pytest.fixture
def volume(tmp_path) -> Path:
    grid = phantoms.grid((64, 64, 8), (1.0, 1.0, 4.0))
    (tmp_path / "in").mkdir()
    write_image(phantoms.known_value(grid), tmp_path / "in" / "a.nii.gz", dtype=np.int16)
    return tmp_path / "in"


@fault("R03")
def test_a_run_without_enough_memory_is_exit_code_8_before_any_work(volume, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    for target in (tmp_path / "a.nii.gz", tmp_path / "out"):
        source = volume / "a.nii.gz" if target.suffix else volume
        assert main(["run", str(source), str(target), "--bundle", "none"]) == 8
        assert "E-MEM" in capsys.readouterr().err
    assert not (tmp_path / "a.nii.gz").exists() and not (tmp_path / "out" / "a.nii.gz").exists()


def test_jobs_are_as_many_as_fit_into_memory(volume, tmp_path, monkeypatch):
    begun = []

    def begin(cases, options, *, jobs, memory):
        begun.append((jobs, memory))
        return iter(())

    monkeypatch.setattr(run_module, "run_in_processes", begin)
    options = RunOptions.from_dict({"input": str(volume), "output": str(tmp_path / "out"), "bundle": "none", "jobs": 5})
    cases = find_cases(options)
    with pytest.warns(SuperResolutionWarning, match="W-MEM-JOBS: .* 3 of 5 "):
        run_module.run_cases(cases, options, memory=int(3.5 * PROCESS))
    run_module.run_cases(cases, options, memory=64 * GIB)
    assert begun == [(3, int(3.5 * PROCESS) // 3), (5, 64 * GIB // 5)]


def test_the_plan_is_a_table_of_what_from_which_grid_to_which_at_what_cost_and_why_not(volume, tmp_path, capsys):
    (volume / "bad.nii.gz").write_bytes(b"")
    write_image(phantoms.known_value(phantoms.grid((9, 9, 9), (1.0, 3.0, 3.0))), volume / "unclear.nrrd")
    assert main(["run", str(volume), str(tmp_path / "out"), "--bundle", "none", "--dry-run"]) == 4
    head, good, bad, unclear, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "acquired", "result", "MiB", "seconds", "output", "verdict"]
    assert " ".join(good.split()).startswith("a.nii.gz 64x64x8 at 1 x 1 x 4 mm 64x64x32 at 1 x 1 x 1 mm ")
    assert str(tmp_path / "out" / "a.nii.gz") in good and good.endswith("can be processed")
    peak = peak_bytes(as_engine(None), 1, voxels_in=64 * 64 * 8, voxels_out=64 * 64 * 32) / 2**20
    mib, seconds = good.split()[17:19]
    assert float(mib) == pytest.approx(peak, abs=1) and float(seconds) >= 1
    assert "  E-IO-TYPE: " in bad
    assert "E-HDR-AXIS" in unclear
    assert total.startswith("1 of 3 volumes")
    assert not (tmp_path / "out").exists()
    assert main(["run", str(volume), str(tmp_path / "out"), "--bundle", "none", "--include", "a*"]) == 0
    capsys.readouterr()
    assert main(["run", str(volume), str(tmp_path / "out"), "--bundle", "none", "--dry-run"]) == 4
    assert "done already" in capsys.readouterr().out
    options = RunOptions.from_dict({"input": str(volume), "output": str(tmp_path / "out")})
    forecasts = list(forecast_cases(find_cases(options), options, load_bundle("none"), memory=PROCESS))
    assert "E-MEM" in forecast_table(forecasts)


PEAKS = {
    "none": {(32, 32, 8): 374, (96, 96, 16): 389, (128, 128, 20): 409, (256, 256, 32): 566, (512, 512, 60): 1130},
    "pyramid/openvino/int8": {
        **{(32, 32, 8): 471, (96, 96, 16): 493, (128, 128, 20): 514, (192, 192, 24): 557, (256, 256, 32): 622},
        **{(512, 512, 60): 1339, (512, 512, 240): 3686},
    },
    "residual/openvino/int8": {(32, 32, 8): 463, (128, 128, 20): 504, (256, 256, 32): 663, (512, 512, 240): 3072},
    "residual/openvino/float32": {(32, 32, 8): 460, (128, 128, 20): 529, (256, 256, 32): 794, (512, 512, 60): 1506},
    "pyramid/torch/float32": {(32, 32, 8): 474, (128, 128, 20): 562},
    "residual/torch/float32": {(32, 32, 8): 469, (192, 192, 20): 591},
}
"""Measured peak of a whole run that imports torch, MiB, by acquired voxels; 512 x 512 at factor 5, the others at 4."""


@pytest.mark.parametrize("way", PEAKS)
def test_the_plan_foresees_the_measured_peak_within_30_percent(way):
    bundle, engine, precision = way.split("/") if "/" in way else (way, None, None)
    if engine == "openvino":
        pytest.importorskip("openvino")
    engine = load_bundle(bundle, device="cpu", engine=engine, precision=precision).engine
    for shape, mib in PEAKS[way].items():
        voxels_in = shape[0] * shape[1] * shape[2]
        size = {"voxels_in": voxels_in, "voxels_out": voxels_in * (5 if shape[0] == 512 else 4)}
        tile = choose_tile(engine, **size, memory=16 * GIB, vram=None)
        assert peak_bytes(engine, tile, **size) / 2**20 == pytest.approx(mib, rel=0.3), shape
        assert needed_bytes(engine, tile, **size) >= 0.95 * mib * 2**20, shape  # what a run is planned with


@pytest.mark.parametrize(("engine", "growth"), [("", 1.0), ("torch", 1.0), ("openvino", 0.9)])
def test_the_time_of_a_volume_grows_by_its_voxels_and_the_resolution_by_no_more_than_its_samples(
    monkeypatch, engine, growth
):
    monkeypatch.setattr(speed_module, "_seconds_per_sample", lambda: 1e-7)

    def taken(voxels_in, voxels_out):  # a start, 2e-7 s a voxel, and the resolution
        return 0.1 + 2e-7 * voxels_out**growth + 1e-7 * (min(voxels_in, SAMPLES) / 2 + min(voxels_out, SAMPLES))

    def seconds_of(model, options, side):
        return 48 * side**2, taken(12 * side**2, 48 * side**2)

    monkeypatch.setattr(speed_module, "_seconds_of", seconds_of)
    model = SimpleNamespace(engine=SimpleNamespace(name=engine))
    seconds = speed_module.measure_speed(model, RunOptions())
    for size in ((10_000, 40_000), (500_000, 2_000_000), (2_000_000, 8_000_000), (15_000_000, 75_000_000)):
        assert seconds(*size) == pytest.approx(taken(*size), rel=1e-6)


@pytest.mark.parametrize("offsets", [dicom_phantoms.even(8, 4.0), (0.0, 4.0, 8.5, 12.0, 16.5)], ids=["even", "uneven"])
def test_the_plan_of_a_series_has_the_grid_of_its_result_along_the_stack(tmp_path, offsets):
    stack = dicom_phantoms.Stack(offsets, pixel_spacing=(9.0, 9.0))  # wider than the slices are apart
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(stack))
    options = RunOptions.from_dict(
        {"input": str(tmp_path / "in"), "output": str(tmp_path / "out.nii"), "bundle": "none", "factor": 2}
    )
    (planned,) = find_cases(options)
    plan = plan_case(planned, options)
    with collect_notices():
        acquired = Acquired.of(reading.read_case(planned, options))
    wanted = acquired.wanted_grid(factor=2)
    assert plan.after.shape == wanted.shape == (26, 22, 2 * len(offsets))
    np.testing.assert_allclose(plan.after.affine, wanted.affine, atol=1e-6)
    (forecast,) = forecast_cases([planned], options, load_bundle("none"))
    assert forecast.before == acquired.grid.in_words(2, acquired.slice_spacing)
