"""Interpolation by the library, and other people's programs, are methods like any other."""

import sys

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor

from monai_sr.errors import UsageError
from monai_sr.evaluation import methods
from monai_sr.evaluation.methods import BASELINES, ExternalMethod, PeerError, peer, resample_to, sinc_matrix
from monai_sr.grid import grid_of
from monai_sr.transforms import simulate_thick_slices


@pytest.fixture(scope="module")
def thick() -> MetaTensor:
    return simulate_thick_slices(phantoms.body((10, 12, 24)), 4.0, axis=2)


# ------------------------------------------------------------- interpolation


@pytest.mark.parametrize("factor", [2, 3, 2.5])
@pytest.mark.parametrize("axis", [0, 2])
def test_every_baseline_gives_the_wanted_grid(factor, axis):
    hr = phantoms.known_value(phantoms.grid((20, 14, 24), orientation="oblique LPS"))
    lr = simulate_thick_slices(hr, factor, axis=axis)
    for method in BASELINES.values():
        sr = method(lr, factor=factor, slice_thickness=factor, axis=axis)
        inner = (slice(None), *(slice(8, -8) if a == axis else slice(None) for a in range(3)))
        expected = phantoms.known_value(grid_of(sr))
        assert grid_of(sr).spacing[axis] == pytest.approx(1)
        assert torch.allclose(sr[inner], expected[inner], atol=8)  # of 600


def test_the_windowed_sinc_is_that_of_simpleitk_in_three_dimensions(thick):
    sitk = pytest.importorskip("SimpleITK")
    voxels = np.pad(thick[0].numpy(), ((0, 0), (0, 0), (10, 10)), mode="edge")
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    theirs = sitk.Resample(
        *(image, (10, 12, 24), sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLanczosWindowedSinc),
        *((0.0, 0.0, 10 - 0.375), (1.0, 1.0, 0.25), image.GetDirection(), 0.0, sitk.sitkFloat32),
    )
    ours = BASELINES["sinc"](thick, factor=4, slice_thickness=4.0, axis=2)
    assert np.allclose(ours[0].numpy(), sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), atol=0.01)


def test_the_windowed_sinc_keeps_the_slices_it_passes_through():
    assert torch.allclose(sinc_matrix(7, np.arange(7) - 3.0), torch.eye(7, dtype=torch.float64), atol=1e-6)


# ------------------------------------------------------------- bringing a result on the grid of the reference


def test_a_result_on_the_same_grid_is_taken_as_it_is():
    image = phantoms.known_value(phantoms.grid((6, 7, 8), (1.0, 1.2, 0.7), orientation="oblique"))
    assert np.array_equal(resample_to(image, grid_of(image)), image[0].numpy())


def test_a_result_off_by_whole_voxels_is_shifted_and_its_ends_repeated():
    target = phantoms.grid((6, 7, 8))
    longer = phantoms.grid((6, 7, 11), origin=(phantoms.ORIGIN[0], phantoms.ORIGIN[1], phantoms.ORIGIN[2] - 2))
    image = phantoms.known_value(longer)
    assert np.array_equal(resample_to(image, target), image[0].numpy()[..., 2:10])
    shorter = phantoms.known_value(phantoms.grid((6, 7, 5)))[0].numpy()
    extended = resample_to(phantoms.known_value(phantoms.grid((6, 7, 5))), target)
    assert np.array_equal(extended, np.pad(shorter, ((0, 0), (0, 0), (0, 3)), mode="edge"))


@pytest.mark.parametrize("orientation", ["RAS", "LPS"])
def test_a_result_on_another_grid_is_resampled_by_the_affines(orientation):
    target = phantoms.grid((12, 13, 14))
    corner = phantoms.center(target) - phantoms.ORIENTATIONS[orientation] @ np.array([9.5, 9.5, 9.5]) * 0.8
    image = phantoms.known_value(phantoms.grid((20, 20, 20), (0.8, 0.8, 0.8), orientation=orientation, origin=corner))
    assert np.allclose(resample_to(image, target), phantoms.known_value(target)[0].numpy(), atol=0.5)


# ------------------------------------------------------------- external commands


def program(tmp_path, text: str) -> str:
    """A command that runs ``text`` with its words in ``words``."""
    script = tmp_path / "a program.py"
    script.write_text(f"import shutil, sys, time, os\nwords = sys.argv[1:]\n{text}\n")
    return f"{sys.executable} '{script}'"


def test_a_program_gets_what_it_asks_for_and_its_file_is_read_back(tmp_path, thick, monkeypatch):
    monkeypatch.setenv("PEER_NOTE", str(tmp_path / "a note"))
    text = "shutil.copy(words[0], words[1]); open(words[2], 'w').write(' '.join(words[3:]))"
    command = program(tmp_path, text) + " {lr} {out} $PEER_NOTE {factor} {axis} {modality} {thickness} --s={spacing}"
    name, method = peer(f"mine = {command}")
    back = method(thick, factor=2.5, slice_thickness=3.2, axis=2)
    assert name == "mine"
    assert (tmp_path / "a note").read_text() == "2.5 2 mr 3.2 --s=1.6"
    assert torch.allclose(back.as_tensor(), thick.as_tensor())
    assert np.allclose(back.affine, thick.affine)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("print('loading'); sys.exit('no weights here')", ["exit code 1", "no weights here"]),
        ("print('all done')", ["no output", "all done"]),
        ("pass", ["no output", "no message"]),
        ("open(words[1], 'w').write('not an image')", ["its output", "text"]),
        ("time.sleep(30)", ["no result after"]),
    ],
    ids=["failing", "writing nothing", "silent", "writing rubbish", "slow"],
)
def test_a_program_without_a_result_is_an_error_that_names_it(tmp_path, thick, monkeypatch, text, words):
    monkeypatch.setattr(methods, "PATIENCE", 1.0 if "sleep" in text else 60.0)
    method = ExternalMethod("theirs", program(tmp_path, text) + " {lr} {out}")
    with pytest.raises(PeerError, match=r"^E-PEER: theirs: ") as caught:
        method(thick, factor=4, slice_thickness=4, axis=2)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_program_that_is_not_there_is_an_error_that_names_it(thick):
    with pytest.raises(PeerError, match="E-PEER: theirs: "):
        ExternalMethod("theirs", "no-such-program {lr} {out}")(thick, factor=4, slice_thickness=4, axis=2)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("saint", "was given as a peer"),
        ("=run {lr} {out}", "was given as a peer"),
        ("saint=", "was given as a peer"),
        ("saint=run {lr}", "it needs {lr} and {out}"),
        ("saint=run {lr} {out} {fwhm}", "fwhm"),
        ("saint=run {lr} {out", "quotes and braces"),
        ("saint=run '{lr} {out}", "quotes and braces"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_it_runs(text, word):
    with pytest.raises(UsageError) as caught:
        peer(text)
    assert word in str(caught.value)


def test_a_result_with_the_wrong_affine_is_measured_at_the_place_of_its_affine(tmp_path, thick):
    shifted = nib.Nifti1Image(thick[0].numpy(), np.asarray(thick.affine) + np.eye(4, k=3) * 4.0)
    nib.save(shifted, tmp_path / "shifted.nii.gz")
    method = ExternalMethod(
        "shifted", program(tmp_path, f"shutil.copy({str(tmp_path / 'shifted.nii.gz')!r}, words[1])") + " {lr} {out}"
    )
    back = resample_to(method(thick, factor=1, slice_thickness=4, axis=2), grid_of(thick))
    assert not np.allclose(back, thick[0].numpy(), atol=1)
