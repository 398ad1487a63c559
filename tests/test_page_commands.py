"""Every command in a fenced block of a page runs on small inputs as it stands there, or has a reason why not."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from nifti_tools import save_nifti
from scipy import ndimage
from test_pages import PAGES, blocks, name_of

from monai_sr.io.images import write_image
from monai_sr.profiles import protocols_text

NOT_RUN = {
    r"^(make|pip|pre-commit|pytest|monai-sr demo|python3? -m venv|\. )": "installs or takes minutes: .ci/run",
    r"^monai-sr watch": "needs an archive: test_pacs.py",
    r"^monai-sr node": "goes on until it is stopped: test_node.py",
    r"--deidentify": "makes a secret: test_deidentify.py",
    r"^monai-sr (calibrate|pack)|my_bundle": "writes a bundle, or needs one: test_calibration.py",
    r"--robustness|--peer": "many conditions, or another program: test_cli.py",
    r"--precision b?float16": "needs a GPU, or a processor with bfloat16: test_engines.py",
    r"--adapt": "minutes of training: test_adaptation.py",
    r"--num-parts 8 --part-id \"\$": "an array job of Slurm: test_pipelines.py",
    r"--scheduler": "needs a Dask cluster: test_batch_processes.py",
    r"--viewer": "needs NiiVue: test_report_viewer.py",
    r"seg\.dcm": "needs highdicom: test_dicom_masks.py",
    r"#echo=": "needs a series of several echoes: test_dicom_parts.py",
    r"^monai-sr slicer .*--difference": "a second network run: test_slicer_cli.py",
    r"^python -m tests\.benchmarks|^python tests/benchmarks": "a measurement of minutes: tests/benchmarks",
    r"^python -m monai\.bundle|^torchrun": "test_bundles.py",
    r"^monai-sr quantize": "test_quantization.py",
    r"^monai-sr .*data/rplhr": "needs the data set",
    r"^python data_scripts": "downloads, or needs real volumes: test_data_scripts.py",
    r"^Slicer ": "needs 3D Slicer",
    r"^monai-sr hub": "makes a folder of weights: test_publishing.py",
    r"^monai-sr completion": "needs shtab: test_completion.py",
    r"^(snakemake|nextflow|bosh|docker|apptainer|srun) |^cd monai-sr$": "test_pipelines.py",
    r"^(ulimit|python monai_sr/clients/deploy)": "test_deploy.py",
}
"""Commands that are not run here, and why; a pattern that matches no command is an error."""

SHELL = re.compile(r"^(#|export |$)")


def commands_of(page: Path) -> list[str]:
    """The commands of a page's shell blocks, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in text.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if not SHELL.match(line)]


def reason(command: str) -> str | None:
    """Why a command is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


EVERY_COMMAND = sorted({command for page in PAGES for command in commands_of(page)})
RUNNABLE = {page: [c for c in commands_of(page) if not reason(c)] for page in PAGES}


def test_every_command_is_run_or_has_a_reason():
    assert [c for c in EVERY_COMMAND if not reason(c) and not c.startswith("monai-sr ")] == []
    assert len([c for c in EVERY_COMMAND if not reason(c)]) > 30


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_every_reason_is_needed(pattern):
    assert [c for c in EVERY_COMMAND if re.search(pattern, c)]


# ------------------------------------------------------------- small inputs by the names of the pages


def textured(shape: tuple[int, ...]) -> np.ndarray:
    """A smooth body with texture, so that it is neither a mask nor noise."""
    body = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.5)
    return np.rint(400 + 300 * body / np.abs(body).max()).astype(np.int16)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with a small input for every name that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    thick, thin = np.diag([1.0, 1.0, 4.0, 1.0]), np.eye(4)
    voxels = textured((20, 20, 12))
    for name in ("thick.nii.gz", "scans/one.nii.gz", "scans/pair.nii.gz", "scans/more/two_T2w.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_nifti(folder / name, voxels, thick)
    (folder / "thick").mkdir(), (folder / "thin").mkdir(), (folder / "results").mkdir()
    save_nifti(folder / "thick" / "pair.nii.gz", voxels, thick)
    for axis, name in enumerate(("sagittal", "coronal", "axial")):
        slices = np.moveaxis(textured((24, 24, 24)), axis, 0).reshape(6, 4, 24, 24).mean(axis=1)
        spacing = [4.0 if a == axis else 1.0 for a in range(3)]
        stack, affine = np.moveaxis(np.rint(slices).astype(np.int16), 0, axis), np.diag([*spacing, 1.0])
        save_nifti(folder / f"{name}.nii.gz", stack, affine)
        save_nifti(_made(folder / "dataset/sub-02/anat") / f"sub-02_acq-{name}_T2w.nii.gz", stack, affine)
        nrrd = folder / f"{name[:2] if axis == 2 else name[:3]}.nrrd"
        write_image(MetaTensor(stack[None].astype(np.float32), affine=affine), nrrd)
    for name in ("thin", "truth", "thin/pair"):
        save_nifti(folder / f"{name}.nii.gz", np.repeat(voxels, 4, axis=2), thin)
    nib.save(nib.Nifti1Image(np.stack([voxels, voxels], axis=3), thick), folder / "fmri.nii.gz")
    save_nifti(folder / "labels.nii.gz", (voxels > 400).astype(np.uint8), thick)
    for name in ("thin_labels", "masks/pair"):
        mask = np.repeat(voxels > 400, 4, axis=2).astype(np.uint8)
        save_nifti(_made(folder / "masks").parent / f"{name}.nii.gz", mask, thin)
    write_image(MetaTensor(voxels[None].astype(np.float32), affine=thick), folder / "thick.nrrd")
    for name in ("volumes", "VOLUMES"):
        (folder / name).mkdir()
        save_nifti(folder / name / "one.nii.gz", textured((32, 32, 32)), thin)
    (folder / "p.tsv").write_text(protocols_text([]))
    (folder / "list.csv").write_text("input,output\nscans/one.nii.gz,one.nii.gz\n")
    for name in ("dicom", "dicom_folder", "export"):
        dicom_phantoms.write(folder / name, dicom_phantoms.slices(dicom_phantoms.Stack(), series=4))
    for series, plane in enumerate(("axial ++", "coronal ++"), 1):
        dicom_phantoms.write(
            folder / "study", dicom_phantoms.slices(dicom_phantoms.Stack(orientation=plane), series=series)
        )
    shutil.make_archive(str(folder / "export"), "zip", folder / "export")
    raw = folder / "dataset" / "sub-01" / "anat" / "sub-01_T2w.nii.gz"
    raw.parent.mkdir(parents=True)
    shutil.copy(folder / "thick.nii.gz", raw)
    description = {"Name": "Phantoms", "BIDSVersion": "1.9.0"}
    (folder / "dataset" / "dataset_description.json").write_text(json.dumps(description))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "from monai_sr import" in page.read_text()], ids=name_of)
def test_the_python_of_a_page_runs(page, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(inputs, tmp_path / "inputs"))
    for block in blocks(page, "python"):
        if "from monai_sr import" in block and "dask_jobqueue" not in block:  # which needs Slurm
            exec(compile(block, name_of(page), "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, commands in RUNNABLE.items() if commands], ids=name_of)
def test_the_commands_of_a_page_run(page, inputs, tmp_path, call, monkeypatch):
    """Each in a fresh copy of the inputs, as a reader tries one of them."""
    for number, command in enumerate(RUNNABLE[page]):
        folder = tmp_path / str(number)
        shutil.copytree(inputs, folder)
        monkeypatch.chdir(folder)
        words = shlex.split(command)[1:]
        if words[0] == "run":  # to other commands these are inputs
            shutil.rmtree("thin")
            for path in Path().glob("thin*"):
                path.unlink()
        with warnings.catch_warnings(), contextlib.suppress(SystemExit):
            warnings.simplefilter("ignore")
            code, _, err = call(*words)
        unequal = command.startswith("monai-sr verify")  # what lies there was not made from the other
        assert code in ((0, 9) if unequal else (0,)), f"{command}\n{err}"
