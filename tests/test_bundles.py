"""Both bundles as MONAI runs them: every command from any folder, and the same result as the command line."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from dicom_phantoms import Stack, even, slices, tells_nothing, write
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_sr import bundles
from monai_sr.batch.record import record_beside
from monai_sr.bundles import NAMES, bundle_path, load_bundle, load_weights, pick_device
from monai_sr.cli.main import main
from monai_sr.errors import BundleError, UsageError, collect_notices
from monai_sr.io.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("train", "inference")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=sorted(NAMES))
def bundle(request) -> Path:
    """The folder of each bundle that ships."""
    return bundle_path(request.param)


@pytest.fixture
def parser(bundle):
    """Parse one of a bundle's configs, with options."""

    def read(name: str, **options) -> ConfigParser:
        config = ConfigParser()
        config.read_config(str(bundle / "configs" / f"{name}.json"))
        for key, value in {"bundle_root": str(bundle), "device": torch.device("cpu"), **options}.items():
            config[key] = value
        return config

    return read


@pytest.fixture
def volumes(tmp_path) -> Path:
    """Two small head-like volumes and a datalist of them."""
    folder = tmp_path / "volumes"
    folder.mkdir()
    for index in range(2):
        grid = phantoms.grid((30, 28, 26), (1.0, 1.0, 1.0))
        blobs = phantoms.known_value(grid) + 50 * phantoms.sphere(grid, radius=9.0 + index)
        blobs.meta["stored_dtype"] = "float32"
        write_image(blobs, folder / f"head{index}.nii.gz")
    entries = [{"image": f"head{index}.nii.gz"} for index in range(2)]
    (folder / "datalist.json").write_text(json.dumps({"training": entries, "validation": entries}))
    return folder


@pytest.fixture
def thick(tmp_path) -> Path:
    """A small volume of thick slices in a folder of its own."""
    folder = tmp_path / "thick"
    folder.mkdir()
    image = phantoms.known_value(phantoms.grid((20, 18, 6), (1.0, 1.0, 4.0)))
    image.meta["stored_dtype"] = "float32"
    write_image(image, folder / "scan.nii.gz")
    return folder


@pytest.fixture
def schema(shared_data) -> Path:
    """The model zoo's metadata schema."""
    return shared_data.parent / "schema" / "meta_schema_20240725.json"


def monai(*words: str, cwd: Path, launcher: tuple[str, ...] = (sys.executable,)) -> str:
    """``python -m monai.bundle …`` in a process of its own; its output, and its success."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, "-m", "monai.bundle", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


SMALL = ("--epoch_length", "2", "--val_interval", "1", "--val_size", "16", "--crop", "[16,16,16]")


# ------------------------------------------------------------- what a bundle consists of


def test_a_bundle_has_the_rooms_of_the_model_zoo(bundle):
    for name in (
        *(
            f"configs/{c}.json"
            for c in (*CONFIGS, "calibration", "evaluate", "metadata", "multi_gpu_train", "train_on_device")
        ),
        "configs/logging.conf",
        "models/model.pt",
        "models/model.ts",
        "docs/README.md",
        "docs/data_license.txt",
        "LICENSE",
    ):
        assert (bundle / name).is_file(), name


@pytest.mark.data
def test_the_metadata_follow_the_schema_of_the_model_zoo(bundle, schema):
    import jsonschema

    schema = json.loads(schema.read_text())
    jsonschema.validate(json.loads((bundle / "configs" / "metadata.json").read_text()), schema)


def test_the_metadata_name_the_version_of_the_package_they_need(bundle):
    from monai_sr import __version__

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"]["monai_sr"] == __version__
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("key", ["network_def", "ct_window", "mr_percentiles", "tile_voxels"])
def test_the_configs_of_a_bundle_agree(bundle, key):
    copies = [json.loads((bundle / "configs" / f"{name}.json").read_text())[key] for name in CONFIGS]
    assert copies[0] == copies[1]


def of_no_bundle(config: dict) -> dict:
    """A config without what is a bundle's own: network, loss, what it trains on and what it was trained for."""
    own = {"network_def", "loss", "epochs", "factor_range"}
    rest = {key: value for key, value in json.loads(json.dumps(config)).items() if key not in own}
    for step in rest.get("train", {}).get("preprocessing", {}).get("transforms", []):
        if step["_target_"].endswith("RandSimulateThickSlicesd"):
            del step["works_on"], step["factors"]
    return rest


@pytest.mark.parametrize("name", [*CONFIGS, "evaluate", "multi_gpu_train"])
def test_what_the_bundles_share_is_equal(name):
    first, second = (json.loads((bundle_path(b) / "configs" / f"{name}.json").read_text()) for b in sorted(NAMES))
    assert of_no_bundle(first) == of_no_bundle(second)
    assert name in ("evaluate", "multi_gpu_train") or first != second


@pytest.mark.parametrize(
    ("workflow", "names", "source"),
    [("train", ["train"], "volumes"), ("infer", ["inference"], "thick"), ("train", ["train", "evaluate"], "volumes")],
)
def test_monai_finds_every_property_of_a_workflow(bundle, workflow, names, source, request, tmp_path):
    files = [str(bundle / "configs" / f"{name}.json") for name in names]
    folders = {"dataset_dir": str(request.getfixturevalue(source)), "output_dir": str(tmp_path / "out")}
    checked = ConfigWorkflow(files, workflow_type=workflow, logging_file=False, **folders)
    checked.initialize()
    assert checked.check_properties() == []
    assert checked.parser["bundle_root"] == "."


@pytest.mark.parametrize("name", [*CONFIGS, "evaluate", "multi_gpu_train"])
def test_a_config_imports_what_it_uses_and_nothing_else(bundle, name):
    text = (bundle / "configs" / f"{name}.json").read_text()
    config = json.loads(text)
    imported = [re.split(r" import | as ", line[1:])[-1] for line in config.get("imports", config.get("+imports", []))]
    unused = [word for word in imported if len(re.findall(rf"\b{re.escape(word.split()[-1])}\b", text)) < 2]
    assert not unused


def test_training_feeds_the_network_the_slices_it_works_on(bundle, parser):
    config = parser("train")
    simulation = config["train"]["preprocessing"]["transforms"][-1]
    assert simulation["_target_"].endswith("RandSimulateThickSlicesd")
    assert simulation["works_on"] == config.get_parsed_content("network_def").works_on


def test_the_clipping_handler_comes_first_and_checkpoints_hold_what_resuming_needs(parser):
    config = parser("train")
    assert config["train"]["handlers"][0]["_target_"] == "monai_sr.training.GradientClipping"
    for part in ("network", "optimizer", "lr_scheduler", "trainer"):
        assert part in config["state"]


def test_the_scripted_network_is_the_network(bundle, parser):
    network = parser("inference").get_parsed_content("network_def").eval()
    load_weights(network, bundle / "models" / "model.pt")
    scripted = torch.jit.load(str(bundle / "models" / "model.ts")).eval()
    voxels = torch.rand(1, 1, 9, 10, 7)
    torch.testing.assert_close(scripted(voxels), network(voxels), atol=1e-5, rtol=1e-5)


def test_weights_are_a_plain_state_dict_of_a_few_megabytes(bundle):
    path = bundle / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert path.stat().st_size < 8e6


def test_inference_takes_the_options_of_dicom_input(parser, tmp_path):
    gap = Stack(offsets=tuple(o for i, o in enumerate(even(9, 4.0)) if i != 4))
    write(tmp_path / "export", slices(series=1, modality="MR"))
    write(tmp_path / "export", slices(gap, series=2, modality="MR"))
    image = {"image": str(tmp_path / "export")}
    for options, expected in (
        ({"series": 1}, {"series": "1"}),
        ({"series": "2", "fill_gaps": True}, {"series": "2", "fill_gaps": True}),
    ):
        read = parser("inference", **options).get_parsed_content("preprocessing")(image)["image"]
        assert torch.equal(read.as_tensor(), read_image(tmp_path / "export", **expected).as_tensor())
    singles = slices(modality="MR")
    for index, one in enumerate(singles):
        one.SeriesInstanceUID = f"1.2.3.{index}"
    write(tmp_path / "singles", singles)
    joined = parser("inference", merge_by_geometry=True).get_parsed_content("preprocessing")
    assert joined({"image": str(tmp_path / "singles")})["image"].shape[-1] == 8


# ------------------------------------------------------------- as MONAI runs it, from another folder


def test_a_resumed_training_does_not_replace_its_best_weights_by_worse_ones(volumes, tmp_path):
    options = {name.removeprefix("--"): json.loads(value) for name, value in zip(SMALL[::2], SMALL[1::2], strict=True)}
    runs, config = tmp_path / "runs", ROOT / "bundles" / "pyramid_super_resolution" / "configs" / "train.json"
    options |= {"dataset_dir": str(volumes / "datalist.json"), "output_dir": str(runs), "network_def#features": 8}
    run_workflow(config, workflow_type="train", epochs=1, **options)
    state = torch.load(runs / "checkpoint_epoch=1.pt", weights_only=True)
    key = next(iter(state["best"]))
    ((score, name),) = state["best"][key]
    best = (runs / "model.pt").read_bytes()
    for epochs, added in ((2, 1e3), (3, -1e6)):  # as if the first weights had been the best ever, then the worst
        latest = runs / f"checkpoint_epoch={epochs - 1}.pt"
        state = torch.load(latest, weights_only=True)
        state["best"][key] = [(score + added, name)]
        torch.save(state, latest)
        run_workflow(config, workflow_type="train", epochs=epochs, **options)
        assert ((runs / "model.pt").read_bytes() == best) == (added > 0)


@pytest.mark.slow
def test_inference_and_the_command_line_give_the_same_file(bundle, thick, tmp_path):
    monai(
        *("run", "--config_file", str(bundle / "configs" / "inference.json")),
        *("--dataset_dir", str(thick), "--output_dir", str(tmp_path / "out"), "--factor", "2.5"),
        cwd=tmp_path,
    )
    by_monai = tmp_path / "out" / "scan_sr.nii.gz"
    by_us = tmp_path / "ours.nii.gz"
    command = ["run", str(thick / "scan.nii.gz"), str(by_us), "--bundle", str(bundle), "--factor", "2.5"]
    assert main([*command, "--device", "cpu"]) == 0
    assert by_monai.read_bytes() == by_us.read_bytes()
    assert nib.load(by_monai).shape == (20, 18, 15)
    np.testing.assert_allclose(nib.load(by_monai).header.get_zooms(), (1, 1, 1.6), atol=1e-6)


def test_a_workflow_leaves_the_record_that_the_command_line_leaves(bundle, thick, tmp_path):
    given = {"dataset_dir": str(thick), "output_dir": str(tmp_path / "out"), "factor": 2.5, "engine": "torch"}
    run_workflow(bundle / "configs" / "inference.json", **given)
    target = tmp_path / "ours.nii.gz"
    words = ["--bundle", str(bundle), "--factor", "2.5", "--engine", "torch"]
    assert main(["run", str(thick / "scan.nii.gz"), str(target), *words]) == 0
    made = tmp_path / "out" / "scan_sr.nii.gz"
    assert made.read_bytes() == target.read_bytes()
    by_workflow, by_command = record_beside(made), record_beside(target)
    assert by_workflow.keys() == by_command.keys()
    differs = {"seconds", "peak_memory_mib", "tile_voxels"}
    assert {k: v for k, v in by_workflow.items() if k not in differs} == {
        k: v for k, v in by_command.items() if k not in differs
    }


def test_a_workflow_records_a_series_with_its_header_facts_and_warnings(bundle, tmp_path):
    gap = Stack(tuple(o for i, o in enumerate(even(9, 4.0)) if i != 4))
    write(tmp_path / "in", slices(gap))
    given = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "fill_gaps": True}
    with collect_notices() as notices:
        run_workflow(bundle / "configs" / "inference.json", **given)
    (path,) = (tmp_path / "out").glob("*.json")
    content = json.loads(path.read_text())
    assert content["FilledSlices"] and content["SpacingBetweenSlices"] < 4
    assert "W-DCM-GAP" in {notice["code"] for notice in content["monai_sr"]["warnings"]}
    assert "W-DCM-GAP" in {notice.code for notice in notices}
    assert content["monai_sr"]["options"]["reading"] == {"fill_gaps": True}
    assert tells_nothing(path.read_text(), "")


def test_a_workflow_takes_all_volumes_of_a_file_as_the_command_line_does(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    voxels = np.random.default_rng(0).normal(500, 90, (12, 11, 6, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "in" / "scan.nii.gz")
    run_workflow(
        bundle / "configs" / "inference.json",
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        volume="all",
        modality="MR",
    )
    words = ["--bundle", str(bundle), "--volume", "all", "--modality", "MR"]
    assert main(["run", str(tmp_path / "in" / "scan.nii.gz"), str(tmp_path / "ours.nii.gz"), *words]) == 0
    assert (tmp_path / "out" / "scan_sr.nii.gz").read_bytes() == (tmp_path / "ours.nii.gz").read_bytes()


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    """A copy of a bundle, under its own name."""
    return Path(shutil.copytree(bundle, tmp_path / "copy" / bundle.name, ignore=shutil.ignore_patterns("docs", "*.ts")))


def run_workflow(*config_files: Path, **options) -> None:
    """As ``python -m monai.bundle run`` does, in this process."""
    workflow = ConfigWorkflow(
        [str(path) for path in config_files], logging_file=False, device="$torch.device('cpu')", **options
    )
    workflow.initialize()
    workflow.run()


def test_a_copy_of_a_bundle_runs_its_own_weights(bundle, copied, thick, tmp_path):
    state = torch.load(copied / "models" / "model.pt", weights_only=True)
    torch.save({name: 0.5 * values for name, values in state.items()}, copied / "models" / "model.pt")
    voxels = []
    for folder in (bundle, copied):
        run_workflow(folder / "configs" / "inference.json", dataset_dir=str(thick), output_dir=str(tmp_path / "out"))
        voxels.append(nib.load(tmp_path / "out" / "scan_sr.nii.gz").get_fdata())
    assert np.abs(voxels[0] - voxels[1]).max() > 1e-3 * np.ptp(voxels[0])


@fault("W09", "E-W-MISSING")
@pytest.mark.parametrize("names", [["inference.json"], ["train.json", "evaluate.json"]])
@pytest.mark.parametrize("inside", [True, False])
def test_a_copy_without_weights_runs_no_others(copied, volumes, tmp_path, monkeypatch, names, inside):
    (copied / "models" / "model.pt").unlink()
    monkeypatch.chdir(copied if inside else tmp_path)
    configs = [(Path() if inside else copied) / "configs" / name for name in names]
    with pytest.raises(RuntimeError) as caught:  # MONAI puts its own around ours
        run_workflow(*configs, dataset_dir=str(volumes), output_dir=str(tmp_path / "out"))
    errors: list[BaseException] = [caught.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert isinstance(errors[-1], BundleError)
    assert (errors[-1].code, errors[-1].path) == ("E-W-MISSING", copied / "models" / "model.pt")


@pytest.mark.slow
def test_the_stock_workflow_runs_inference(bundle, thick, tmp_path):
    monai(
        *("run_workflow", "--config_file", str(bundle / "configs" / "inference.json"), "--workflow_type", "inference"),
        *("--dataset_dir", str(thick), "--output_dir", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert nib.load(tmp_path / "out" / "scan_sr.nii.gz").shape == (20, 18, 24)


def test_training_validates_saves_and_goes_on_where_it_stopped(bundle, volumes, tmp_path, caplog):
    options = {name.removeprefix("--"): json.loads(value) for name, value in zip(SMALL[::2], SMALL[1::2], strict=True)}
    options |= {"dataset_dir": str(volumes / "datalist.json"), "output_dir": str(tmp_path / "runs")}
    with caplog.at_level(logging.INFO):
        run_workflow(bundle / "configs" / "train.json", workflow_type="train", epochs=1, **options)
        assert "psnr_spline" in caplog.text and "gradient_norm" in caplog.text
        first = torch.load(tmp_path / "runs" / "checkpoint_epoch=1.pt", weights_only=True)
        assert first["trainer"]["iteration"] == 2
        caplog.clear()
        run_workflow(bundle / "configs" / "train.json", workflow_type="train", epochs=2, **options)
    ended = [one.getMessage() for one in caplog.records if one.name.endswith("SupervisedTrainer")]
    assert any("Epoch[2] Complete" in text for text in ended) and not any("Epoch[1]" in text for text in ended)
    second = torch.load(tmp_path / "runs" / "checkpoint_epoch=2.pt", weights_only=True)
    assert second["trainer"]["iteration"] == 4
    assert list((tmp_path / "runs").glob("events.out.tfevents*"))
    state = torch.load(tmp_path / "runs" / "model.pt", weights_only=True)
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in shipped.items()}


@pytest.mark.slow
def test_evaluation_writes_the_figures_of_every_volume_of_a_folder(bundle, volumes, tmp_path):
    configs = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
    monai(
        *("run", "--config_file", str(configs), "--factor", "2"),
        *("--dataset_dir", str(volumes), "--output_dir", str(tmp_path / "eval")),
        cwd=tmp_path,
    )
    lines = (tmp_path / "eval" / "metrics.csv").read_text().splitlines()
    figures = dict(re.split(r"[,\t]", line) for line in lines if re.search(r"[,\t]", line))
    for name in ("psnr", "ssim", "psnr_consistent", "psnr_cubic", "psnr_linear", "ssim_consistent"):
        assert float(figures[name]) > 0
    assert float(figures["psnr_consistent"]) > float(figures["psnr_linear"])
    raw = (tmp_path / "eval" / "psnr_raw.csv").read_text().splitlines()
    assert [Path(re.split(r"[,\t]", line)[0]).name for line in raw[1:]] == ["head0.nii.gz", "head1.nii.gz"]


@pytest.mark.data
@pytest.mark.slow
def test_the_metadata_pass_monai_s_check(bundle, schema, tmp_path):
    metadata = bundle / "configs" / "metadata.json"
    kept = tmp_path / "schema.json"  # kept where it exists, so that no network is needed
    kept.write_bytes(schema.read_bytes())
    output = monai("verify_metadata", "--meta_file", str(metadata), "--filepath", str(kept), cwd=tmp_path)
    assert "verified with no error" in output


@pytest.mark.slow
def test_the_network_passes_monai_s_check(bundle, tmp_path):
    metadata, config = bundle / "configs" / "metadata.json", bundle / "configs" / "inference.json"
    output = monai(
        *("verify_net_in_out", "--net_id", "network_def", "--meta_file", str(metadata)),
        *("--config_file", str(config), "--device", "cpu", "--any", "8"),
        cwd=tmp_path,
    )
    assert "verified with no error" in output


@pytest.mark.slow
def test_the_checkpoint_exports_to_torchscript(bundle, tmp_path):
    monai(
        *("ckpt_export", "--bundle_root", str(bundle), "--config_file", str(bundle / "configs" / "inference.json")),
        *("--filepath", str(tmp_path / "model.ts")),
        cwd=tmp_path,
    )
    voxels = torch.rand(1, 1, 8, 9, 6)
    shipped = torch.jit.load(str(bundle / "models" / "model.ts"))
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "model.ts"))(voxels), shipped(voxels))


@pytest.mark.slow
def test_the_checkpoint_exports_to_onnx_with_any_size(bundle, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    names = "'input_names':['image'],'output_names':['pred'],'dynamic_axes':{'image':{2:'x',3:'y',4:'z'}}"
    monai(
        *("onnx_export", "network_def", "--config_file", str(bundle / "configs" / "inference.json")),
        *("--bundle_root", str(bundle), "--ckpt_file", str(bundle / "models" / "model.pt")),
        *("--filepath", str(tmp_path / "model.onnx"), "--input_shape", "[1,1,16,16,8]"),
        *("--converter_kwargs", "{" + names + "}"),
        cwd=tmp_path,
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    scripted = torch.jit.load(str(bundle / "models" / "model.ts"))
    for shape in ((1, 1, 16, 16, 8), (1, 1, 11, 9, 7)):
        voxels = torch.rand(shape)
        np.testing.assert_allclose(
            session.run(None, {"image": voxels.numpy()})[0], scripted(voxels).detach().numpy(), atol=1e-4
        )


@pytest.mark.slow
def test_two_processes_keep_equal_replicas(bundle, volumes, tmp_path):
    keep = tmp_path / "keep.json"
    save = f"$torch.save(@network_def.state_dict(), '{tmp_path}/rank' + str(dist.get_rank()) + '.pt')"
    keep.write_text(json.dumps({"finalize": [save, "$dist.destroy_process_group()"]}))
    configs = [str(bundle / "configs" / name) for name in ("train.json", "multi_gpu_train.json")] + [str(keep)]
    monai(
        *("run", "--config_file", str(configs), "--dataset_dir", str(volumes / "datalist.json")),
        *("--output_dir", str(tmp_path / "runs"), *SMALL, "--epochs", "1", "--epoch_length", "4"),
        cwd=tmp_path,
        launcher=(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    )
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    fresh = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert first.keys() == fresh.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert (tmp_path / "runs" / "checkpoint_epoch=1.pt").is_file()


@pytest.mark.slow
def test_training_with_batches_made_on_the_device_starts_from_weights_and_resumes(bundle, volumes, tmp_path):
    configs = [str(bundle / "configs" / name) for name in ("train.json", "train_on_device.json")]
    runs = tmp_path / "runs"
    words = ("run", "--config_file", str(configs), "--dataset_dir", str(volumes), "--output_dir", str(runs))
    start = ("--start_from", str(bundle / "models" / "model.pt"), *SMALL, "--batch_size", "2", "--bfloat16", "False")
    output = monai(*words, *start, "--epochs", "1", cwd=tmp_path)
    assert "crops/s" in output
    assert float(re.search(r"Metrics -- loss: (-[\d.]+)", output)[1]) < -5  # a logarithm, of weights that are trained
    assert (runs / "model.pt").is_file()
    assert (runs / "checkpoint_epoch=1.pt").is_file()
    monai(*words, *start, "--epochs", "2", cwd=tmp_path)
    assert (runs / "checkpoint_epoch=2.pt").is_file()


@pytest.mark.slow
def test_the_second_stage_goes_on_from_weights_by_the_squared_error(bundle, volumes, tmp_path):
    configs = [str(bundle / "configs" / name) for name in ("train.json", "train_finish.json")]
    output = monai(
        *("run", "--config_file", str(configs), "--dataset_dir", str(volumes), "--output_dir", str(tmp_path / "runs")),
        *("--start_from", str(bundle / "models" / "model.pt"), *SMALL, "--epochs", "1"),
        cwd=tmp_path,
    )
    assert float(re.search(r"Metrics -- loss: ([\d.]+)", output)[1]) < 0.01  # of weights that are trained
    assert (tmp_path / "runs" / "model.pt").is_file()


@pytest.mark.slow
def test_both_stages_run_as_the_card_says(bundle, volumes, tmp_path):
    """With a learning rate near 0, the second stage keeps the weights of the first, also their average."""
    for runs, names, more in (
        ("first", ["train.json"], ()),
        ("second", ["train.json", "train_finish.json"], ("--start_from", "first/model.pt", "--learning_rate", "1e-9")),
    ):
        monai(
            *("run", "--config_file", str([str(bundle / "configs" / name) for name in names])),
            *("--dataset_dir", "volumes", "--output_dir", runs, *SMALL, "--epochs", "1", *more),
            cwd=tmp_path,
        )
    first, second = (torch.load(tmp_path / runs / "model.pt", weights_only=True) for runs in ("first", "second"))
    for name, values in first.items():
        torch.testing.assert_close(second[name], values, rtol=0, atol=1e-4)
    optimizer = torch.load(tmp_path / "second" / "checkpoint_epoch=1.pt", weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["lr"] < 1e-5


@pytest.mark.slow
def test_the_vdsr_recipe_trains_with_sgd_and_adjustable_clipping(volumes, tmp_path):
    configs = bundle_path("residual") / "configs"
    output = monai(
        *("run", "--config_file", str([str(configs / "train.json"), str(configs / "train_vdsr.json")])),
        *("--dataset_dir", str(volumes / "datalist.json"), "--output_dir", str(tmp_path / "runs"), *SMALL),
        *("--epochs", "1"),
        cwd=tmp_path,
    )
    assert "gradient_clipped" in output
    optimizer = torch.load(tmp_path / "runs" / "checkpoint_epoch=1.pt", weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["momentum"] == 0.9


# ------------------------------------------------------------- loading


def test_a_bundle_is_the_same_read_without_monai_and_by_its_parser(bundle):
    network, options, settings, weights = bundles._read_plain(bundle, "cuda")
    by_monai = bundles._evaluate(bundle, "cpu")
    assert str(network) == str(by_monai[0]) and (options, settings, weights) == by_monai[1:]
    plain, *rest = bundles._read_plain(bundle, "cpu")
    assert str(plain.module) == str(network) and rest == [options, settings, weights]
    bundles.load_weights(network, weights)
    for name, value in network.state_dict().items():
        assert np.array_equal(plain.state[name], value) and torch.equal(plain.module.state_dict()[name], value)
    assert plain.reach_of(3) == network.reach_of(3) if plain.works_on == "thick" else plain.reach == network.reach


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("network_def", "features", "$2 * 2"),
        ("network_def", "features", "@spacing"),
        ("network_def", "_disabled_", False),
        ("network_def", "_target_", "monai.networks.nets.UNet"),
        ("inferer", "_target_", "monai.inferers.SimpleInferer"),
        ("inferer", "spacing", "@network_def#features"),
        ("inferer", "spacing", "%other.json::spacing"),
    ],
)
def test_a_configuration_that_is_more_than_values_is_left_to_monai(copied, section, key, value):
    path = copied / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["spacing"] = "$1 + 1"
    config["inferer"]["spacing"] = None
    config[section][key] = value
    path.write_text(json.dumps(config))
    assert bundles._read_plain(copied, "cpu") is None


def test_an_unknown_bundle_is_refused_with_the_known_names():
    with pytest.raises(BundleError, match=r"E-W-BUNDLE.*'resdual'.*residual, pyramid, none"):
        load_bundle("resdual")


def test_a_device_that_is_absent_is_named():
    with pytest.raises(UsageError, match=r"E-DEV.*nonsense"):
        pick_device("nonsense")


def test_a_bundle_beats_the_spline_on_the_example(bundle):
    from monai_sr.evaluation.demo import example_folder
    from monai_sr.evaluation.scores import data_range, foreground, psnr
    from monai_sr.transforms import interpolate_slices

    reference = read_image(example_folder() / "truth.nii.gz")
    lr = read_image(example_folder() / "thick.nii.gz")
    part = (slice(None), slice(50, 98), slice(60, 108))
    hr = reference[part].as_tensor()[0].numpy()
    lr = type(lr)(lr[part].as_tensor(), lr.affine)
    mask, value_range = foreground(hr), data_range(hr)
    sr = load_bundle(bundle, device="cpu")(lr, factor=4)[0].numpy()
    spline = interpolate_slices(lr, 1.0, method="consistent")[0].numpy()
    gain = psnr(sr, hr, value_range=value_range, mask=mask) - psnr(spline, hr, value_range=value_range, mask=mask)
    assert gain > 0.2


def test_a_model_says_what_it_is():
    model = load_bundle("pyramid", device="cpu", engine="torch", precision="float32")
    shown = f"<monai-sr {model.name} {model.version}, torch float32 on cpu, weights {model.weights_sha256[:12]}>"
    assert repr(model) == shown
    assert repr(load_bundle("none")).startswith("<monai-sr none")
