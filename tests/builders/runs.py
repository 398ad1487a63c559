"""Runs as users start them: small scans, sources with their outcomes, small bundles, processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tqdm
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_sr.batch import Case, RunLog, find_cases, run_cases
from monai_sr.bundles import NAMES
from monai_sr.io.images import write_image
from monai_sr.options import RunOptions, flat_options

BUILDERS = Path(__file__).resolve().parent
ROOT = BUILDERS.parents[1]
BUNDLES = ROOT / "bundles"
SPLINE = RunOptions.from_dict({"bundle": "none", "device": "cpu"})


def scan(path: Path, *, seed: int = 0, shape=(8, 7, 6), spacing=(1.0, 1.2, 4.0), dtype=np.int16) -> Path:
    """A small thick-slice volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(500, 90, shape).astype(dtype)
    image = MetaTensor(
        torch.from_numpy(voxels.astype(np.float32))[None], affine=torch.diag(torch.tensor([*spacing, 1.0]))
    )
    return write_image(image, path, dtype=dtype)


def two_heads(root: Path) -> Path:
    """A raw dataset of two participants; a JSON gives the slice thickness of one of them."""
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Two heads", "BIDSVersion": "1.10.0"}))
    for seed, label in enumerate(("01", "02")):
        scan(root / f"sub-{label}" / "anat" / f"sub-{label}_T2w.nii.gz", seed=seed)
    (root / "sub-02" / "anat" / "sub-02_T2w.json").write_text(json.dumps({"SliceThickness": 2.0, "EchoTime": 0.1}))
    return root


def content(folder: Path) -> dict[str, str]:
    """Hashes of all results below a folder, by name; records and logs hold times and are left out."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".json", ".jsonl", ".tsv"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def record_of(path: Path) -> dict:
    return json.loads(path.read_text())["monai_sr"]


def lines_of(folder: Path, name: str = "monai-sr-run.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def cases_of(source: Path, target: Path, options: RunOptions = SPLINE, **chosen) -> list[Case]:
    """The cases of a source whose results go to a folder."""
    places = {"input": str(source), "output": f"{target}/"}
    return find_cases(RunOptions.from_dict(flat_options(options.to_dict()) | chosen | places))


def run(source: Path, target: Path, options: RunOptions = SPLINE, *, memory: int | None = None, **chosen):
    """Run a whole source; outcomes by name."""
    options = RunOptions.from_dict(flat_options(options.to_dict()) | chosen)
    cases = cases_of(source, target, options)
    target.mkdir(exist_ok=True)
    placed = replace(options, output=f"{target}/")
    outcomes = run_cases(cases, placed, log=RunLog(target), memory=memory)
    assert [o.case for o in outcomes] == [c.name for c in cases]
    return {o.case: o for o in outcomes}


def make_bundle(home: Path, short: str, *, changes: dict | None = None, **smaller) -> Path:
    """The shipped configuration with fresh random weights; ``smaller`` changes the network, ``changes`` the rest."""
    folder = home / NAMES[short]
    shutil.copytree(BUNDLES / NAMES[short] / "configs", folder / "configs")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"].update(smaller)
    config.update(changes or {})
    path.write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config(str(path))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


class EagerBar(tqdm.tqdm):
    """Shows itself at once, so that a test need not work for a second."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **(kwargs | {"delay": 0, "mininterval": 0}))


def command(*arguments, **options) -> subprocess.Popen:
    """``monai-sr`` as a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{BUILDERS}"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment} | options
    # a process inherits that SIGINT is ignored, as it is under nohup and in the background of a shell
    if os.name == "posix":
        options.setdefault("preexec_fn", partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen([sys.executable, "-m", "monai_sr", *map(str, arguments)], **options)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until something is seen, while a process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
