"""``monai-sr hub``: what it makes is what the Hugging Face hub and MONAI's model zoo ask for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from runs import make_bundle

from monai_sr.bundles import bundle_path, load_bundle
from monai_sr.errors import BundleError
from monai_sr.evaluation import publishing
from monai_sr.io.shelf import name_of, revision_of

REPOSITORY = "owner/some_name"


@pytest.fixture
def folders(tmp_path, call) -> tuple[Path, Path, Path]:
    """The three folders of the shipped pyramid."""
    code, out, err = call("hub", "pyramid", tmp_path / "out", "--repository", REPOSITORY)
    assert (code, err) == (0, "")
    hub, zoo, link = map(Path, out.split())
    return hub, zoo, link


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("http")]


def test_the_hub_gets_the_whole_bundle_and_it_loads(folders):
    hub, zoo, _ = folders
    ours = bundle_path("pyramid")
    names = {path.relative_to(ours).as_posix() for path in ours.rglob("*") if path.is_file()}
    for folder, more in ((hub, {".gitattributes"}), (zoo, set())):
        made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert made == {name for name in names if not name.startswith(("runs/", "eval/"))} | more
    assert "*.pt filter=lfs" in (hub / ".gitattributes").read_text()
    model = load_bundle(hub, device="cpu", engine="torch", trust_bundle=True)
    assert model.weights_sha256 == load_bundle("pyramid", device="cpu", engine="torch").weights_sha256


def test_pages_link_only_to_what_is_there(folders):
    hub, zoo, link = folders
    for folder in (hub, zoo):
        pages = list(folder.rglob("*.md"))
        assert len(pages) == 2 and any(links(page) for page in pages)
        for page in pages:
            assert all((page.parent / target).exists() for target in links(page))
        assert "studies.md" in (folder / "docs" / "README.md").read_text()  # as text
    text = (link / "README.md").read_text()
    assert f"<https://huggingface.co/{REPOSITORY}>" in text and links(link / "README.md") == []
    assert f"](https://huggingface.co/{REPOSITORY}/blob/main/docs/data_license.txt)" in text


def test_the_entry_that_leads_to_the_hub_has_what_the_zoo_s_verifier_asks_for(folders):
    *_, link = folders
    assert sorted(path.name for path in link.iterdir()) == ["LICENSE", "README.md", "metadata.json"]
    metadata = json.loads((link / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert link.parent.name == "hf_models" and link.name == "pyramid_super_resolution"


@pytest.mark.data
def test_the_metadata_fit_the_zoo_s_schema(folders, shared_data):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((shared_data.parent / "schema" / "meta_schema_20240725.json").read_text())
    jsonschema.validate(json.loads((folders[2] / "metadata.json").read_text()), schema)
    assert set(schema["required"]) <= set(publishing.NEEDED)


@pytest.fixture
def own(tmp_path) -> Path:
    """A bundle as ``monai-sr pack`` leaves it: its card has no front matter."""
    folder = make_bundle(tmp_path / "own", "pyramid", features=4, depth=2)
    metadata = json.loads((bundle_path("pyramid") / "configs" / "metadata.json").read_text())
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    shutil.copy(bundle_path("pyramid") / "LICENSE", folder)
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "README.md").write_text("# own\n\n[license](../LICENSE) [more](../../more.md)\n")
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def test_a_bundle_of_ones_own_gets_a_card_with_front_matter(own, tmp_path):
    hub, _ = publishing.publish(own, tmp_path / "out")
    start, front, text = (hub / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert start == "" and (card["license"], card["library_name"]) == ("apache-2.0", "monai")
    assert "[license](LICENSE) more" in text
    assert (hub / "docs" / "README.md").read_text() == "# own\n\n[license](../LICENSE) more\n"


def test_a_file_too_large_for_the_zoo_is_named_with_its_hash(own, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(publishing, "LARGEST_FILE", 5000)
    weights = own / "models" / "model.pt"
    assert weights.stat().st_size > 5000
    fails("hub", own, tmp_path / "out", exit_code=2, code="E-USE", names="--repository")
    hub, zoo, _ = publishing.publish(own, tmp_path / "out", repository=REPOSITORY)
    named = {one["path"]: one for one in yaml.safe_load((zoo / "large_files.yml").read_text())["large_files"]}
    entry = named["models/model.pt"]
    assert entry["url"] == f"https://huggingface.co/{REPOSITORY}/resolve/main/models/model.pt"
    assert (entry["hash_type"], entry["hash_val"]) == ("sha256", hashlib.sha256(weights.read_bytes()).hexdigest())
    assert (hub / "models" / "model.pt").is_file() and not (zoo / "models" / "model.pt").exists()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda own: (own / "LICENSE").unlink(), "E-W-MISSING"),
        (lambda own: (own / "models" / "model.pt").unlink(), "E-W-MISSING"),
        (lambda own: (own / "configs" / "metadata.json").write_text("{}"), "E-W-CONFIG"),
        (lambda own: (own / "configs" / "metadata.json").write_text("no JSON"), "E-W-CONFIG"),
        (lambda own: _edit(own, version="9.9.9"), "E-W-CONFIG"),
        (lambda own: _edit(own, changelog=None), "E-W-CONFIG"),
    ],
)
def test_what_the_zoo_would_refuse_is_refused(own, tmp_path, spoil, code):
    spoil(own)
    with pytest.raises(BundleError) as caught:
        publishing.publish(own, tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def _edit(own: Path, **fields) -> None:
    path = own / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_existing_folder_and_an_invalid_repository_are_refused(fails, tmp_path):
    (tmp_path / "there").mkdir()
    fails("hub", "pyramid", tmp_path / "there", exit_code=6, code="E-OUT-EXISTS", names="there")
    words = ("hub", "pyramid", tmp_path / "out", "--repository", "https://huggingface.co/a/b")
    fails(*words, exit_code=2, code="E-USE", names="OWNER/NAME")


# ------------------------------------------------------------- a snapshot of the hub


@pytest.fixture
def cached(own, tmp_path) -> Path:
    """The bundle as the hub's client leaves it in its cache: links to blobs in a folder named by the commit."""
    model = tmp_path / "models--owner--some_name"
    for commit in ("0" * 40, "abc1" * 10):
        for path in [path for path in own.rglob("*") if path.is_file()]:
            blob = model / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blob)
            link = model / "snapshots" / commit / path.relative_to(own)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc1" * 10)
    return model


def test_a_snapshot_of_the_hub_loads_and_says_its_commit(cached, own, call, tmp_path):
    snapshot = cached / "snapshots" / ("abc1" * 10)
    for place in (cached, snapshot):
        assert bundle_path(place) == snapshot
        model = load_bundle(place, device="cpu", engine="torch", trust_bundle=True)
        assert (model.name, model.revision) == ("some_name", "abc1" * 10)
        assert model.weights_sha256 == hashlib.sha256((own / "models" / "model.pt").read_bytes()).hexdigest()
    assert call("info", "--bundle-path", cached)[1].strip() == str(snapshot)
    assert all(torch.isfinite(weight).all() for weight in model.network.parameters())


def test_a_copy_from_the_hub_is_not_trusted_by_itself(cached):
    with pytest.raises(BundleError) as caught:
        load_bundle(cached)
    assert caught.value.code == "E-W-TRUST" and "abc1" in str(caught.value)


def test_other_folders_have_no_commit(own, tmp_path):
    assert (name_of(own), revision_of(own)) == (own.name, "")
    with pytest.raises(BundleError):
        bundle_path(tmp_path)
