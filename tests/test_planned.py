"""Dry runs without torch: what they say of a model equals what the loaded model says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import phantoms
import pytest

from monai_sr.batch import exit_code_of, find_cases, forecast, forecast_cases, planned, resolve_options
from monai_sr.batch.planned import Planned, estimate_speed, plan_model
from monai_sr.bundles import load_bundle
from monai_sr.cli import run as run_module
from monai_sr.engine import devices
from monai_sr.engine.memory import choose_tile
from monai_sr.errors import BundleError, UsageError
from monai_sr.io.images import write_image
from monai_sr.io.shelf import bundle_path
from monai_sr.options import RunOptions

SIZE = {"voxels_in": 500_000, "voxels_out": 2_000_000}


@pytest.fixture
def thick(tmp_path) -> str:
    path = tmp_path / "thick.nii.gz"
    write_image(phantoms.body((40, 32, 12), (1.0, 1.0, 3.0)), path, dtype=np.int16)
    return str(path)


def options(thick: str = "thick.nii.gz", **chosen) -> RunOptions:
    return RunOptions.from_dict({"input": thick, "output": f"{thick[:-12]}thin.nii.gz", "device": "cpu", **chosen})


def facts(model, chosen: RunOptions) -> list:
    names = ("name", "version", "weights_sha256", "calibration", "defaults", "revision")
    sizes = [model.engine.tile_bytes(size, **SIZE) for size in model.engine.tile_sizes(**SIZE)]
    tile = choose_tile(model.engine, **SIZE, memory=8 * 2**30, vram=None)
    return [*(getattr(model, name) for name in names), sizes, tile, resolve_options(chosen, model)]


@pytest.mark.parametrize("precision", [None, "int8", "float32"])
@pytest.mark.parametrize("bundle", ["none", "residual", "pyramid"])
def test_a_planned_model_is_the_one_that_is_loaded(bundle, precision):
    pytest.importorskip("openvino")
    chosen = options(bundle=bundle, **({"precision": precision} if precision and bundle != "none" else {}))
    loaded = load_bundle(bundle, device="cpu", precision=chosen.compute.precision)
    assert facts(plan_model(chosen), chosen) == facts(loaded, chosen)


@pytest.mark.parametrize("chosen", [{"engine": "torch"}, {"quality": "best"}, {"engine": "torch", "quality": "best"}])
@pytest.mark.parametrize("bundle", ["none", "residual", "pyramid"])
def test_so_is_that_of_torch_and_of_mirror_images(bundle, chosen):
    pytest.importorskip("openvino")
    wanted = options(bundle=bundle, **chosen)
    loaded = load_bundle(bundle, device="cpu", **chosen)
    assert facts(plan_model(wanted), wanted) == facts(loaded, wanted)


@pytest.mark.parametrize(
    "chosen",
    [
        *({"device": "cuda"}, {"viewer": True}, {"bundle": "./elsewhere"}, {"precision": "bfloat16"}),
        *({"engine": "torch", "precision": "int8"}, {"device": "auto"}),
    ],
    ids=str,
)
def test_what_only_loading_can_show_is_not_planned(chosen, monkeypatch):
    monkeypatch.setattr(planned, "may_use_gpu", lambda: True)
    assert plan_model(options(**{"bundle": "pyramid"} | chosen)) is None


def test_without_openvino_torch_is_planned(monkeypatch):
    monkeypatch.setattr(planned, "is_installed", lambda name: name == "torch")
    wanted, torch = options(bundle="pyramid"), options(bundle="pyramid", engine="torch")
    assert facts(plan_model(wanted), wanted) == facts(load_bundle("pyramid", device="cpu", engine="torch"), torch)
    assert plan_model(options(bundle="pyramid", engine="openvino")) is None
    assert plan_model(options(bundle="pyramid", precision="int8")) is None


def test_with_a_damaged_configuration_the_model_is_loaded(monkeypatch, tmp_path):
    chosen = options(bundle="pyramid")
    folder = shutil.copytree(bundle_path("pyramid"), tmp_path / "pyramid_super_resolution")
    monkeypatch.setattr(planned, "bundle_path", lambda _: folder)
    assert plan_model(chosen) is None  # it is not ours
    monkeypatch.setattr(planned, "ships", lambda _: True)
    assert isinstance(plan_model(chosen), Planned)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    for broken in ("{", json.dumps(config | {"inferer": []}), json.dumps(config | {"factor_range": 3})):
        (folder / "configs" / "inference.json").write_text(broken)
        assert plan_model(chosen) is None, broken[:20]


def test_damaged_weights_and_missing_constants_are_refused_as_by_a_run(monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(UsageError, match="does not know how uncertain"):
        plan_model(options(bundle="none", uncertainty=True))
    folder = shutil.copytree(bundle_path("pyramid"), tmp_path / "pyramid_super_resolution")
    monkeypatch.setattr(planned, "bundle_path", lambda _: folder)
    monkeypatch.setattr(planned, "ships", lambda _: True)
    content = bytearray((folder / "models" / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "models" / "model.pt").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        plan_model(options(bundle="pyramid"))
    assert caught.value.code == "E-W-HASH"


@pytest.mark.parametrize(
    ("torch", "driver", "listed", "may"),
    [
        *(("2.13.0+cpu", True, ["H100"], False), ("2.13.0", False, [], False), ("2.13.0+cu130", False, ["H100"], True)),
        *(("2.13.0", True, [], True), ("2.13.0+rocm7.0", False, [], True)),
    ],
)
def test_a_gpu_may_be_there_if_torch_is_built_for_it_and_its_driver_answers(
    torch, driver, listed, may, monkeypatch, tmp_path
):
    monkeypatch.setattr(devices, "version", lambda _: torch)
    monkeypatch.setattr(devices, "gpu_names", lambda: listed)
    monkeypatch.setattr(devices, "DRIVERS", (str(tmp_path if driver else tmp_path / "absent"),))
    assert devices.may_use_gpu() is may


@pytest.mark.parametrize("bundle", ["none", "pyramid"])
def test_a_forecast_by_a_planned_model_is_that_by_the_loaded_one_but_for_the_time(thick, bundle, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(forecast.speed, "measure_speed", lambda *_: lambda *_: 1.0)
    chosen = options(thick, bundle=bundle, spacing=0.25)  # beyond the factors of training
    calls = []
    for model in (plan_model(chosen), load_bundle(bundle, device="cpu")):
        (one,) = forecast_cases(find_cases(chosen), chosen, model)
        assert one.seconds > 0 and not exit_code_of([one.error])
        calls.append(one.to_dict() | one.costs() | {"seconds": 0})
    assert calls[0] == calls[1]
    assert {notice["code"] for notice in calls[0]["warnings"]} >= ({"W-SR-RANGE"} if bundle != "none" else set())


def test_the_time_grows_with_voxels_network_and_slowness_of_the_machine(monkeypatch):
    monkeypatch.setattr(planned, "_shortest", lambda work: planned.DEFLATED)
    int8 = planned.StreamedSizes("int8")
    models = {name: Planned(f"{name}_super_resolution", engine=int8) for name in ("residual", "pyramid")}
    spline, pyramid, residual = (estimate_speed(model) for model in (Planned("none"), *reversed(models.values())))
    by_torch = Planned("residual_super_resolution", engine=planned.TorchRowsSizes("float32"))
    best = Planned("residual_super_resolution", engine=planned.AveragedSizes(by_torch.engine))
    for size in ((100_000, 400_000), (5_000_000, 20_000_000)):
        seconds = [estimate(*size) for estimate in (spline, pyramid, residual, *map(estimate_speed, (by_torch, best)))]
        assert seconds == sorted(seconds) and seconds[0] > 0
        assert seconds[4] - seconds[0] == pytest.approx(4 * (seconds[3] - seconds[0]))
    monkeypatch.setattr(planned, "_shortest", lambda work: 2 * planned.DEFLATED)
    assert estimate_speed(models["pyramid"])(*size) == pytest.approx(2 * pyramid(*size))


def test_the_time_of_a_long_run_is_measured(call, thick, monkeypatch):
    monkeypatch.setattr(forecast.speed, "measure_speed", lambda *_: lambda *_: 4321.0)
    words = ("run", thick, f"{thick[:-12]}thin.nii.gz", "--bundle", "none", "--device", "cpu", "--dry-run")
    assert "4321 s" not in call(*words)[1]
    monkeypatch.setattr(run_module, "LONG", 0.0)
    assert "about 4321 s one by one" in call(*words)[1]
