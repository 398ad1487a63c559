"""BIDS datasets of empty images, and the validator that judges ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path


def put_json(path: Path, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def dataset(root: Path, *images: str, **description: object) -> Path:
    """A raw dataset of empty images, by their paths; ``{"Name": "Phantoms"}`` and more in its description."""
    put_json(root / "dataset_description.json", **({"Name": "Phantoms", "BIDSVersion": "1.9.0"} | description))
    for image in images:
        path = root / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def validator() -> str | None:
    """The BIDS validator that reads the schema, which is installed with Python; npm's 1.x knows no derivatives."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    return str(beside) if beside.exists() else shutil.which("bids-validator-deno")


def validator_errors(root: Path) -> list[tuple[str, str]]:
    """Code and place of what the validator calls an error."""
    ran = subprocess.run([str(validator()), str(root), "--format", "json"], capture_output=True, text=True, timeout=120)
    report = json.loads(ran.stdout)
    assert report["summary"]["totalFiles"] > 3, ran.stderr
    issues = report["issues"]["issues"]
    return [(issue["code"], issue["location"]) for issue in issues if issue["severity"] == "error"]
