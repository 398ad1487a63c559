"""Real pairs: the slice profile is found again, methods are measured, and what is no pair is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from catalogue import fault
from dicom_phantoms import Stack, even, slices
from monai.data import MetaTensor
from scipy import ndimage

from monai_sr.errors import ImageError, collect_notices
from monai_sr.evaluation.pairs import read_pair
from monai_sr.evaluation.profile_fit import fit_profile
from monai_sr.grid import Grid, grid_of
from monai_sr.io.images import write_image
from monai_sr.transforms import simulate_thick_slices

SPACING = (0.8, 0.8, 1.0)
DATA = Path(__file__).parents[2] / "shared" / "data" / "pairs"


def thin_ct(seed: int = 0) -> MetaTensor:
    """Anatomy in HU in the file's order, sharp enough to show a profile."""
    voxels = phantoms.anatomy(seed, (48, 44, 96)) * 1600 - 600
    affine = torch.from_numpy(np.diag([*SPACING, 1.0]))
    return MetaTensor(voxels[None], affine=affine)


def pair_of(
    folder: Path, thin: MetaTensor, *, profile="gaussian", width=4.0, change=lambda thick: thick
) -> tuple[Path, Path]:
    """Files of a thin series and of thick slices made from it, 4 mm apart."""
    thick = change(simulate_thick_slices(thin, 4.0, slice_thickness=width, profile=profile, axis=2))
    return tuple(
        write_image(image, folder / f"{name}.nii.gz", dtype="float32")
        for name, image in (("thick", thick), ("thin", thin))
    )


def fitted(paths, **options):
    with collect_notices() as notices:
        pair = read_pair(*paths, **options)
        return pair, fit_profile(pair), [notice.code for notice in notices]


@pytest.mark.parametrize(("profile", "width"), [("gaussian", 3.5), ("box", 4.5), ("triangle", 4.0)])
def test_the_profile_of_a_pair_is_found_again(tmp_path, profile, width):
    pair, fit, codes = fitted(pair_of(tmp_path, thin_ct(), profile=profile, width=width))
    assert (fit.best.profile, codes) == (profile, [])
    assert fit.best.width == pytest.approx(width, rel=0.03) and fit.best.shift == pytest.approx(0, abs=0.05)
    assert fit.best.residual < 0.5 * min(other.residual for other in fit.fits[1:])
    assert fit.best.by_header >= fit.best.residual and fit.free_residual < 1.5 * fit.best.residual + 1
    assert fit.explained > 0.999 and fit.in_plane == pytest.approx(1, abs=0.01)
    assert fit.weights.sum() == pytest.approx(1, abs=0.02) and fit.weights.min() >= 0
    assert fit.free_width == pytest.approx(width, abs=0.6)  # one thin slice is 1 mm
    assert pair.factor == pytest.approx(4) and pair.moved is None


def test_the_order_of_the_thin_voxels_does_not_matter(tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct(), width=3.5)
    image = nib.load(thin)
    turned = (
        nib.as_closest_canonical(image)
        .slicer[::1]
        .as_reoriented(nib.orientations.axcodes2ornt(("I", "L", "P"), (("L", "R"), ("P", "A"), ("I", "S"))))
    )
    nib.save(turned, tmp_path / "turned.nii.gz")
    one, other = fitted((thick, thin))[1], fitted((thick, tmp_path / "turned.nii.gz"))[1]
    assert other.best.width == pytest.approx(one.best.width, abs=0.02)
    assert other.best.profile == one.best.profile


def test_an_mr_may_have_another_gain_and_offset(tmp_path):
    thin = thin_ct()
    thin = MetaTensor(thin.as_tensor() + 700, affine=thin.affine)
    _, fit, codes = fitted(pair_of(tmp_path, thin, width=3.5, change=lambda thick: thick * 1.7 + 40))
    assert fit.best.width == pytest.approx(3.5, rel=0.03) and fit.explained > 0.999 and codes == []


def test_only_the_middle_of_the_slices_is_used_with_crop(tmp_path):
    paths = pair_of(tmp_path, thin_ct(), width=3.5)
    pair, fit, _ = fitted(paths, crop=24)
    assert pair.thick.shape[1:] == (24, 24, 24) and max(pair.thin.shape[1:3]) <= 26
    assert fit.best.width == pytest.approx(3.5, rel=0.03)


def moved(image: MetaTensor, *, mm=(3.0, -2.0, 1.0), degrees: float = 0.0) -> MetaTensor:
    """The same voxels at another place."""
    turn, grid = np.eye(4), grid_of(image)
    angle = np.radians(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    center = grid.affine @ np.array([*((n - 1) / 2 for n in grid.shape), 1.0])
    turn[:3, 3] = center[:3] - turn[:3, :3] @ center[:3] + mm
    return MetaTensor(image.as_tensor(), affine=torch.from_numpy(turn @ grid.affine))


@fault("R26", "W-PAIR-FIT")
def test_a_pair_that_is_shifted_is_warned_of_and_aligned_on_request(tmp_path):
    thick, _ = pair_of(tmp_path, thin_ct(), width=3.5)
    shifted = write_image(moved(thin_ct(), degrees=2.0), tmp_path / "shifted.nii.gz", dtype="float32")
    assert fitted((thick, shifted))[2] == ["W-PAIR-FIT"]
    pair, fit, codes = fitted((thick, shifted), register=True)
    assert pair.moved == (pytest.approx(np.sqrt(14), abs=0.4), pytest.approx(2.0, abs=0.4))
    assert fit.explained > 0.98 and fit.best.width == pytest.approx(3.5, rel=0.1)
    assert codes == []


@fault("R26", "W-PAIR-KERNEL")
def test_another_kernel_shows_in_plane(tmp_path):
    thin = thin_ct()
    smooth = torch.from_numpy(ndimage.gaussian_filter(thin[0].numpy(), (1, 1, 0)))
    sharp = MetaTensor(2 * thin.as_tensor() - smooth[None], affine=thin.affine)
    thick, _ = pair_of(tmp_path, thin)
    path = write_image(sharp, tmp_path / "sharp.nii.gz", dtype="float32")
    assert fitted((thick, path))[2] == ["W-PAIR-KERNEL"]


# ------------------------------------------------------------- DICOM


SMALL = {"rows": 22, "columns": 26}


def dicom_pair(folder: Path, **thin_header) -> tuple[Path, Path]:
    """Two series of one scan, 4 mm and 1 mm apart; the header of the thin one may differ."""
    both = {"ConvolutionKernel": "UB", "PatientID": "1", "AcquisitionTime": "101500", "AcquisitionDate": "20260101"}
    thick = slices(Stack(even(8, 4.0), **SMALL), SliceThickness=4.0, **both)
    thin = slices(Stack(even(32, 1.0), **SMALL), series=2, SliceThickness=1.0, **both | thin_header)
    for name, stack in (("thick", thick), ("thin", thin)):
        dicom_phantoms.write(folder / name, stack)
    return folder / "thick", folder / "thin"


def codes_of(paths, **options) -> list[str]:
    with collect_notices() as notices:
        try:
            read_pair(*paths, **options)
        except ImageError as error:
            return [*(notice.code for notice in notices), error.code]
    return [notice.code for notice in notices]


def test_two_series_of_one_scan_are_a_pair(tmp_path):
    assert codes_of(dicom_pair(tmp_path)) == []
    pair = read_pair(tmp_path / "thick", tmp_path / "thin")
    assert pair.kernels == ("UB", "UB") and pair.protocol["kernel"] == "UB"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        pytest.param({"PatientID": "2"}, "E-PAIR-PATIENT", marks=fault("R26", "E-PAIR-PATIENT")),
        pytest.param({"PatientBirthDate": "20000101"}, "E-PAIR-PATIENT", marks=fault("R26", "E-PAIR-PATIENT")),
        pytest.param({"FrameOfReferenceUID": "1.2.3"}, "E-PAIR-FRAME", marks=fault("R26", "E-PAIR-FRAME")),
        pytest.param({"AcquisitionTime": "101540"}, "W-PAIR-PHASE", marks=fault("R26", "W-PAIR-PHASE")),
    ],
)
def test_headers_say_what_is_no_pair(tmp_path, header, code):
    assert codes_of(dicom_pair(tmp_path, **header)) == [code]


def test_a_frame_of_reference_of_its_own_is_aligned_on_request(tmp_path):
    assert codes_of(dicom_pair(tmp_path, FrameOfReferenceUID="1.2.3"), register=True) == []


@fault("R26", "W-PAIR-KERNEL")
def test_headers_name_kernels_that_differ(tmp_path):
    pair = read_pair(*dicom_pair(tmp_path, ConvolutionKernel="YA"))
    assert pair.kernels == ("UB", "YA")
    with collect_notices() as notices:
        fit_profile(pair)
    assert "W-PAIR-KERNEL" in [notice.code for notice in notices]


@fault("R26", "E-PAIR-OVERLAP")
@pytest.mark.parametrize("mm", [(0, 0, 300.0), (200.0, 0, 0)])
def test_series_that_do_not_overlap_are_refused(tmp_path, mm):
    thick, _ = pair_of(tmp_path, thin_ct())
    away = write_image(moved(thin_ct(), mm=mm), tmp_path / "away.nii.gz", dtype="float32")
    assert codes_of((thick, away)) == ["E-PAIR-OVERLAP"]


@fault("R26", "E-PAIR-THIN")
def test_a_thin_series_that_is_not_thinner_is_refused(tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct())
    assert codes_of((thin, thick)) == codes_of((thick, thick)) == ["E-PAIR-THIN"]


# ------------------------------------------------------------- the command


def test_evaluate_measures_a_pair_with_both_widths(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct(), profile="triangle", width=5.5)
    peer = f"copy={sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{lr}} {{out}}"
    words = ["--pair", thick, thin, "--bundle", "none", "--crop", 32, "--peer", peer]
    out_folder = tmp_path / "out"
    code, out, err = call("evaluate", *words, "--output", out_folder, "--markdown", out_folder / "card.md")
    assert (code, err) == (0, "")
    document = json.loads((out_folder / "pairs.json").read_text())
    rows = document["scores"]
    expected = [
        ("cubic", ""),
        ("sinc", ""),
        *((m, by) for m in ("consistent", "none", "copy") for by in ("header", "fitted")),
    ]
    assert [(row["method"], row["width_by"]) for row in rows] == expected
    by = {(row["method"], row["width_by"]): row for row in rows}
    assert by["cubic", ""]["over_cubic_db"] == 0 and by["cubic", ""]["width"] is None
    assert by["consistent", "header"]["width"] == 4 and by["consistent", "header"]["source"] == "assumed"
    assert by["consistent", "fitted"]["width"] == pytest.approx(5.5, abs=0.2)
    assert by["consistent", "fitted"]["profile"] == "triangle"
    assert by["none", "fitted"] == by["consistent", "fitted"] | {"method": "none"}
    assert by["consistent", "fitted"]["psnr_db"] > by["consistent", "header"]["psnr_db"] + 0.2
    assert by["copy", "header"]["psnr_db"] < by["cubic", ""]["psnr_db"]
    assert all(abs(row["bias"]) < 20 and 0 < row["histogram"] < 200 and row["ssim"] <= 1 for row in rows)
    assert document["profiles"][0]["fits"]["triangle"]["width"] == by["consistent", "fitted"]["width"]
    assert len(list(csv.DictReader((out_folder / "pairs.csv").open()))) == len(rows)
    assert "fitted" in out and "free weights" in out
    card = (out_folder / "card.md").read_text()
    assert card.endswith("Made by `monai-sr evaluate --pair THICK THIN --bundle none --crop 32 --peer 'copy=…'`.\n")


def test_evaluate_goes_on_after_what_is_no_pair(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct())
    words = ["--bundle", "none", "--crop", 24]
    code, out, err = call("evaluate", "--pair", thin, thick, "--pair", thick, thin, *words)
    assert code == 4 and err.startswith("monai-sr: E-PAIR-THIN: ") and "consistent" in out
    assert call("evaluate", "--pair", thin, thick, *words)[0] == 5


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "no volume was given"),
        (["VOLUME", "--register"], "--register"),
        (["VOLUME", "--pair", "a", "b"], "volumes"),
        (["--pair", "a", "b", "--factor", "2"], "--factor"),
        (["--pair", "a", "b", "--noise", "0.01"], "--noise"),
        (["--pair", "a", "b", "--robustness"], "--robustness"),
    ],
)
def test_options_of_pairs_and_of_volumes_are_not_mixed(fails, words, word):
    assert word in fails("evaluate", *words, exit_code=2, code="E-USE")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no real pairs here")
def test_the_real_pair_is_read_fitted_and_its_kernels_are_told_apart():
    (folder,) = sorted(path for path in DATA.iterdir() if "kernel_ya" in path.name)
    pair, fit, codes = fitted((folder / "thick.nii.gz", folder / "thin.nii.gz"), crop=160)
    assert codes == ["W-PAIR-KERNEL"]
    widths = {one.profile: one.width for one in fit.fits}
    assert fit.fits[-1].profile == "box"
    assert widths["triangle"] == pytest.approx(4.6, abs=0.15) and widths["box"] == pytest.approx(6.0, abs=0.2)
    assert fit.free_residual <= fit.best.residual < 60
    assert isinstance(pair.acquired.grid, Grid)
