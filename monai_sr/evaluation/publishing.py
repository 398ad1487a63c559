"""The folders in which the Hugging Face hub and MONAI's model zoo take a bundle.

Nothing is uploaded. The zoo has two forms: a bundle in ``models/``, whose files of more than 25 MB are named in
``large_files.yml``, and an entry in ``hf_models/`` that only leads to the hub: card, license and metadata.

Source: README.md, ci/verify_bundle.py and ci/verify_hf_model.py of Project-MONAI/model-zoo.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from ..errors import BundleError, OutputError, UsageError
from ..files import folder_beside, write_text
from ..io.shelf import bundle_path, name_of

LARGEST_FILE = 25_000_000
"""What the zoo takes without ``large_files.yml``, bytes."""

NEEDED = (
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
    *("required_packages_version", "task", "description", "authors", "copyright", "network_data_format"),
)
"""Keys of ``metadata.json`` without which the zoo's verifier refuses it."""

FILES = ("LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.pt")

LARGE_FILES_OF_GIT = "*.pt filter=lfs diff=lfs merge=lfs -text\n*.ts filter=lfs diff=lfs merge=lfs -text\n"

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def publish(bundle: str | Path, output: Path, *, repository: str | None = None) -> list[Path]:
    """Make ``hub/NAME`` and ``models/NAME``, and with a repository ``hf_models/NAME``, in a new folder.

    Args:
        bundle: "residual", "pyramid" or a bundle folder.
        output: the folder to make.
        repository: of the hub, as ``OWNER/NAME``.

    Returns:
        The folders.

    Raises:
        BundleError: a file is missing (E-W-MISSING), or the zoo would refuse the metadata (E-W-CONFIG).
        OutputError: the folder is there already (E-OUT-EXISTS), or cannot be written.
        UsageError: the repository is no OWNER/NAME, or is needed because a file is too large for the zoo.
    """
    source = bundle_path(bundle)
    metadata = _checked_metadata(source)
    if repository is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError("E-USE", f"--repository {repository!r} was given", fix="give OWNER/NAME")
    if output.exists():
        raise OutputError("E-OUT-EXISTS", "it is there already", path=output)
    name = name_of(source)
    made = [Path("hub", name), Path("models", name), *([Path("hf_models", name)] if repository else [])]
    with folder_beside(output) as around:
        _make_hub(source, around / made[0], metadata)
        _make_zoo(around / made[0], around / made[1], repository)
        if repository:
            _make_link(around / made[0], around / made[2], repository)
        around.rename(output)
    return [output / folder for folder in made]


def _checked_metadata(source: Path) -> dict[str, Any]:
    for name in FILES:
        if not (source / name).is_file():
            raise BundleError("E-W-MISSING", "the file is missing", path=source / name)
    path = source / "configs" / "metadata.json"
    try:
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in metadata]
        if not missing and metadata["version"] not in metadata["changelog"]:
            missing = [f"changelog of version {metadata['version']}"]
    except (OSError, ValueError, TypeError) as error:
        raise BundleError("E-W-CONFIG", f"it cannot be read ({error})", path=path) from error
    if missing:
        raise BundleError("E-W-CONFIG", f"the zoo needs {', '.join(missing)}", fix="add what is missing", path=path)
    return metadata


def _make_hub(source: Path, made: Path, metadata: dict[str, Any]) -> None:
    """The whole bundle. Links that lead out of it become text."""
    shutil.copytree(source, made, ignore=shutil.ignore_patterns("runs", "eval", "__pycache__", ".*"))
    card = made / "README.md"
    if not card.is_file():
        text = (made / "docs" / "README.md").read_text(encoding="utf-8")
        write_text(_front_matter(metadata) + _relinked(text, made / "docs", made, to="."), card)
    for page in made.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        write_text(_relinked(text, page.parent, made, to=os.path.relpath(made, page.parent)), page)
    write_text(LARGE_FILES_OF_GIT, made / ".gitattributes")


def _front_matter(metadata: dict[str, Any]) -> str:
    """What the hub reads of a card, for a bundle whose card has none."""
    fields = {
        "license": "apache-2.0",
        "library_name": "monai",
        "pipeline_tag": "image-to-image",
        "tags": ["monai", "medical", "super-resolution", "3d"],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n\n> {metadata['description']}\n\n"


def _relinked(text: str, folder: Path, bundle: Path, *, to: str) -> str:
    """A page in a folder of a bundle, whose links within it start at ``to``; other relative links become text."""

    def link(match: re.Match[str]) -> str:
        words, where = match.groups()
        path, hash_sign, anchor = where.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        inside = Path(os.path.normpath(folder / path))
        if not (inside.is_relative_to(bundle) and inside.exists()):
            return words
        target = inside.relative_to(bundle).as_posix()
        target = f"{to}/{target}" if ":" in to else Path(os.path.normpath(f"{to}/{target}")).as_posix()
        return f"[{words}]({target}{hash_sign}{anchor})"

    return _LINK.sub(link, text)


def _make_zoo(hub: Path, made: Path, repository: str | None) -> None:
    """The same without what is too large, which ``large_files.yml`` names."""
    shutil.copytree(hub, made)
    (made / ".gitattributes").unlink()
    large = []
    for path in sorted(path for path in made.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_FILE):
        name = path.relative_to(made).as_posix()
        if repository is None:
            problem = f"{name} is {path.stat().st_size / 1e6:.0f} MB, the zoo takes {LARGEST_FILE / 1e6:.0f}"
            raise UsageError("E-USE", problem, fix="give --repository OWNER/NAME of the hub, where it will be")
        url = f"https://huggingface.co/{repository}/resolve/main/{name}"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        large.append({"path": name, "url": url, "hash_val": digest, "hash_type": "sha256"})
        path.unlink()
    if large:
        write_text(yaml.safe_dump({"large_files": large}, sort_keys=False), made / "large_files.yml")


def _make_link(hub: Path, made: Path, repository: str) -> None:
    """Card, license and metadata; the card leads to the hub."""
    made.mkdir(parents=True)
    shutil.copy(hub / "LICENSE", made)
    shutil.copy(hub / "configs" / "metadata.json", made)
    root = f"https://huggingface.co/{repository}"
    text = (hub / "docs" / "README.md").read_text(encoding="utf-8")
    title, rest = _relinked(text, hub / "docs", hub, to=f"{root}/blob/main").split("\n", 1)
    lead = f"The bundle with its weights is on the Hugging Face hub: <{root}>."
    write_text(f"{title}\n\n{lead}\n{rest}", made / "README.md")
