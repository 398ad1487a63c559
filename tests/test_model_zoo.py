"""Both bundles as the MONAI model zoo and the Hugging Face hub take them.

The steps are those of the zoo's own verifier (``ci/verify_bundle.py`` of Project-MONAI/model-zoo, full
mode), done by the same functions of MONAI, and the rules of its ``CONTRIBUTING.md``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from monai_sr.bundles import NAMES, bundle_path
from monai_sr.options import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]

LARGEST_FILE = 25_000_000
"""What the zoo takes without a ``large_files.yml``, bytes."""

VERIFY = """
import sys
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out
bundle = sys.argv[1]
meta, config = bundle + "/configs/metadata.json", bundle + "/configs/inference.json"
verify_metadata(meta_file=meta, filepath=bundle + "/eval/schema.json")
verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, bundle_root=bundle)
ckpt_export(net_id="network_def", filepath=bundle + "/models/verify_model.ts", ckpt_file=bundle + "/models/model.pt",
            meta_file=meta, config_file=config, bundle_root=bundle)
torch.jit.load(bundle + "/models/model.ts")
"""


@pytest.fixture(params=sorted(NAMES))
def name(request) -> str:
    return request.param


@pytest.fixture
def bundle(name) -> Path:
    return bundle_path(name)


def front_matter(bundle: Path) -> dict:
    start, text, _ = (bundle / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    return yaml.safe_load(text)


def figures(bundle: Path, name: str) -> dict[tuple[str, str, str], float]:
    """Gain and SSIM by modality and factor, from the tables of the bundle's docs."""
    values = {}
    docs = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    for modality in ("MR", "CT"):
        table = re.search(rf"\n(\| {modality}, \d volumes \(.*?)\n\n", docs, flags=re.DOTALL)[1].splitlines()
        factors = [cell.strip() for cell in table[0].split("|")[2:-1]]
        (row,) = (line for line in table if line.startswith(f"| {name} |"))
        for factor, cell in zip(factors, row.split("|")[2:-1], strict=True):
            gain, ssim = re.search(r"\*\*([+-][\d.]+)\*\*.*<br>([\d.]+)", cell).groups()
            values |= {(modality, factor, "psnr_gain"): float(gain), (modality, factor, "ssim"): float(ssim)}
    return values


@pytest.mark.slow
@pytest.mark.data
def test_a_bundle_in_a_clean_folder_passes_the_steps_of_the_zoo_s_verifier(bundle, shared_data, tmp_path):
    clean = tmp_path / "models" / bundle.name
    shutil.copytree(bundle, clean, ignore=shutil.ignore_patterns("runs", "eval"))
    (clean / "eval").mkdir()
    shutil.copy(shared_data.parent / "schema" / "meta_schema_20240725.json", clean / "eval" / "schema.json")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VERIFY, f"models/{bundle.name}"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "metadata is verified with no error" in said
    assert "data shape of network is verified with no error" in said
    assert (clean / "models" / "verify_model.ts").stat().st_size > 10_000


def test_no_file_of_a_bundle_is_too_large_for_the_zoo(bundle):
    """So there is no ``large_files.yml``: the weights lie in the bundle and load offline."""
    assert max(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < LARGEST_FILE
    assert not list(bundle.glob("large_files.*"))


def test_the_configs_have_the_keys_that_the_zoo_asks_for(bundle):
    train, inference = (json.loads((bundle / "configs" / f"{n}.json").read_text()) for n in ("train", "inference"))
    assert {"bundle_root", "device", "dataset_dir", "network_def", "inferer", "output_dir"} <= set(inference)
    assert {"dataset", "evaluator", "handlers", "preprocessing", "postprocessing"} <= set(inference)
    assert {"bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "loss", "optimizer"} <= set(train)
    assert train["bundle_root"] == inference["bundle_root"] == "."
    parts = {"preprocessing", "dataset", "dataloader", "inferer", "handlers", "key_metric"}
    assert parts | {"trainer"} <= set(train["train"])
    assert parts | {"postprocessing", "evaluator"} <= set(train["validate"])
    assert "max_epochs" in train["train"]["trainer"] and "data" in train["train"]["dataset"]
    (validation,) = (h for h in train["train"]["handlers"] if h["_target_"] == "ValidationHandler")
    assert validation["interval"] == "@val_interval"


def test_the_packages_that_the_zoo_installs_are_the_ones_that_are_pinned(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for package, version in metadata["required_packages_version"].items():
        if package != "monai_sr":
            assert pins[package.lower()] == version
    assert pins["monai"] == metadata["monai_version"]
    assert pins["torch"] == metadata["pytorch_version"]
    assert pins["numpy"] == metadata["numpy_version"]


def test_the_hub_finds_in_the_model_card_what_it_asks_for(bundle):
    card = front_matter(bundle)
    assert (card["license"], card["library_name"], card["pipeline_tag"]) == ("apache-2.0", "monai", "image-to-image")
    assert "Apache License" in (bundle / "LICENSE").read_text()
    assert {"monai", "medical", "super-resolution"} <= set(card["tags"])
    assert card["metrics"] == ["psnr", "ssim"]
    (model,) = card["model-index"]
    assert model["name"] == bundle.name
    text = (bundle / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    assert "**Research only, not for diagnosis.**" in text
    assert all((bundle / link).exists() for link in re.findall(r"\]\((?!http)([^)]+)\)", text))


def test_the_figures_of_the_model_card_are_those_of_the_docs(bundle, name):
    (model,) = front_matter(bundle)["model-index"]
    listed = {}
    for result in model["results"]:
        assert result["task"]["type"] == "image-to-image"
        assert {"type", "name"} <= set(result["dataset"])
        modality = result["task"]["name"][-2:]
        for metric in result["metrics"]:
            listed[modality, re.search(r"×\d", metric["name"])[0], metric["type"]] = metric["value"]
    assert listed == figures(bundle, name)
    assert len(listed) == 16
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    units = {"psnr_gain": "psnr_gain_db", "ssim": "ssim"}
    assert metadata["eval_metrics"] == {
        f"{modality.lower()}_{factor.replace('×', 'x')}_{units[kind]}": value
        for (modality, factor, kind), value in listed.items()
    }


def test_the_metadata_name_the_applications_that_are_tested(bundle):
    apps = json.loads((bundle / "configs" / "metadata.json").read_text())["supported_apps"]
    clients = ROOT / "monai_sr" / "clients"
    pins = "".join(path.read_text() for path in clients.rglob("requirements.txt")).replace("monailabel", "monai-label")
    assert sorted(apps) == ["monai-deploy-app-sdk", "monai-label"]
    assert all(f"{app}=={version}" in pins for app, version in apps.items())


def test_the_card_that_the_zoo_shows_has_its_sections_and_length(bundle):
    """Those of the zoo's cards, at most 1,500 words, without front matter."""
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# ")
    sections = ["Model Overview", "Data", "Training configuration", "Performance", "Commands", "References", "License"]
    headings = re.findall(r"^## (.+)$", card, flags=re.MULTILINE)
    assert [heading for heading in headings if heading in sections] == sections
    assert len(card.split()) <= 1500


def test_the_card_names_every_option_of_inference(bundle):
    card = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert [name for name in config if name in PARAMETERS and f"`{name}`" not in card] == []
