"""Real pairs: the slice profile is recovered, methods are measured, and unlike series are refused."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path

import dicom_phantoms
import jsonschema
import nibabel as nib
import numpy as np
import phantoms
import pydicom
import pytest
import torch
from bids_datasets import put_json
from catalogue import fault
from dicom_phantoms import Stack, even, slices
from monai.data import MetaTensor
from scipy import ndimage

import monai_sr.cli
from monai_sr.acquired import Acquired
from monai_sr.bundles import load_bundle
from monai_sr.errors import ImageError, collect_notices
from monai_sr.evaluation.pair_scores import score_pair
from monai_sr.evaluation.pairs import read_pair
from monai_sr.evaluation.profile_fit import fit_profile, join_widths
from monai_sr.grid import Grid, grid_of
from monai_sr.io.images import write_image
from monai_sr.profiles import Protocol, ProtocolWidth, protocols_text, read_protocols
from monai_sr.transforms import simulate_thick_slices

SPACING = (0.8, 0.8, 1.0)
DATA = Path(__file__).parents[2] / "shared" / "data" / "pairs"


def thin_ct(seed: int = 0) -> MetaTensor:
    """Anatomy in HU in the file's order, sharp enough to show a profile."""
    voxels = phantoms.anatomy(seed, (36, 32, 96)) * 1600 - 600
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
def test_the_profile_of_a_pair_is_recovered(tmp_path, profile, width):
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


@fault("R26", "W-PAIR-FIT")
def test_a_shift_across_the_slices_that_the_fit_takes_up_is_warned_of_and_so_is_another_gain(tmp_path):
    thick, _ = pair_of(tmp_path, thin_ct(), width=3.5)
    shifted = write_image(moved(thin_ct(), mm=(0, 0, -0.5)), tmp_path / "shifted.nii.gz", dtype="float32")
    _, fit, codes = fitted((thick, shifted))
    assert fit.explained > 0.99 and fit.best.shift == pytest.approx(-0.5, abs=0.05) and codes == ["W-PAIR-FIT"]
    mr = MetaTensor(thin_ct().as_tensor() + 700, affine=thin_ct().affine)
    pair, fit, codes = fitted(pair_of(tmp_path, mr, width=3.5, change=lambda thick: thick * 1.7))
    with collect_notices() as notices:
        score_pair(pair, fit, {})
    assert codes == [] and fit.gain == pytest.approx(1.7, rel=0.01)
    assert [notice.code for notice in notices] == ["W-PAIR-FIT"]


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
    assert pair.kernels == ("UB", "UB") and pair.protocol.kernel == "UB"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        pytest.param({"PatientID": "2"}, "E-PAIR-PATIENT", marks=fault("R26", "E-PAIR-PATIENT")),
        pytest.param({"PatientBirthDate": "20000101"}, "E-PAIR-PATIENT", marks=fault("R26", "E-PAIR-PATIENT")),
        pytest.param({"FrameOfReferenceUID": "1.2.3"}, "E-PAIR-FRAME", marks=fault("R26", "E-PAIR-FRAME")),
        pytest.param({"AcquisitionTime": "101540"}, "W-PAIR-PHASE", marks=fault("R26", "W-PAIR-PHASE")),
    ],
)
def test_headers_of_unlike_series_are_refused_as_a_pair(tmp_path, header, code):
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
        *((m, by) for m in ("consistent", "none") for by in ("header", "box", "fitted")),
        *(("copy", by) for by in ("header", "fitted")),  # a program that takes no profile
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


def test_a_pair_of_averaged_slices_gains_by_the_box_of_its_header(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct(), profile="box", width=4.0)
    words = ["--pair", thick, thin, "--bundle", "none", "--crop", 32, "--slice-thickness", 4, "--json"]
    words += ["--consistency", "exact"]  # the averaged slices have noise
    rows = {(s["method"], s["width_by"]): s for s in json.loads(call("evaluate", *words)[1])["scores"]}
    assert rows["consistent", "header"]["profile"] == "gaussian"  # too few slices for an estimate
    box = rows["consistent", "box"]
    assert (box["profile"], box["width"], box["source"]) == ("box", 4, "option")
    assert box["psnr_db"] > rows["consistent", "header"]["psnr_db"] + 0.5
    assert box["psnr_db"] == pytest.approx(rows["consistent", "fitted"]["psnr_db"], abs=0.3)


def test_evaluate_answers_programs_with_the_profile_and_the_scores(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct())
    code, out, _ = call("evaluate", "--pair", thick, thin, "--bundle", "none", "--crop", 24, "--json")
    document = json.loads(out)
    schema = json.loads((Path(monai_sr.cli.__file__).parent / "answer.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert code == 0 and len(document["scores"]) == 8 - (document["scores"][2]["profile"] == "box")
    assert document["profiles"][0]["fits"]["gaussian"]["width"] == pytest.approx(4, abs=0.1)


def test_the_thickness_of_the_thick_series_may_be_given(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct(), width=3.0)
    words = ["--bundle", "none", "--crop", 24, "--slice-thickness", 3.2, "--json"]
    rows = json.loads(call("evaluate", "--pair", thick, thin, *words)[1])["scores"]
    (row,) = (row for row in rows if (row["method"], row["width_by"]) == ("consistent", "header"))
    assert (row["width"], row["source"]) == (3.2, "option")


def test_a_crop_of_a_ct_without_air_stays_a_ct(tmp_path):
    thin = thin_ct()
    thin[:, 4:-4] = thin[:, 4:-4].clamp(min=-100)
    pair, _, codes = fitted(pair_of(tmp_path, thin), crop=24)
    assert pair.acquired.modality == "CT" and codes == []
    scores = score_pair(pair, fit_profile(pair), {"mine": load_bundle("none")})
    assert {score.modality for score in scores} == {"CT"}
    assert Acquired.of(pair.thick).modality == "MR"  # by its values alone


def test_evaluate_goes_on_after_series_that_are_not_a_pair(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct())
    words = ["--bundle", "none", "--crop", 24]
    code, out, err = call("evaluate", "--pair", thin, thick, "--pair", thick, thin, *words)
    assert code == 4 and err.startswith("monai-sr: E-PAIR-THIN: ") and "consistent" in out
    assert call("evaluate", "--pair", thin, thick, *words)[0] == 5


# ------------------------------------------------------------- tables of protocols


def helical_pair(folder: Path, *, width: float = 4.5, **header) -> tuple[Path, Path]:
    """DICOM series of one helical scan: slices of a triangle of that width, whose header says 5 mm."""
    thin = thin_ct()
    thick = simulate_thick_slices(thin, 4.0, slice_thickness=width, profile="triangle", axis=2)
    both = {"Manufacturer": "GE MEDICAL SYSTEMS", "ConvolutionKernel": "STANDARD", "ScanOptions": "HELICAL MODE"}
    for name, image, thickness in (("thick", thick, 5.0), ("thin", thin, 1.0)):
        voxels, affine = image[0].numpy(), grid_of(image).affine
        stack = []
        for index in range(voxels.shape[2]):
            (one,) = slices(Stack((0.0,), rows=voxels.shape[1], columns=voxels.shape[0]), series=len(name), **both)
            one.SliceThickness, one.PixelSpacing = thickness, [SPACING[1], SPACING[0]]
            one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            one.ImagePositionPatient = [0, 0, float(affine[2, 3] + index * affine[2, 2])]
            one.RescaleSlope, one.RescaleIntercept = 0.05, -2000
            for attribute, value in header.items():
                setattr(one, attribute, value)
            dicom_phantoms.store(one, np.round((voxels[:, :, index].T + 2000) / 0.05).astype(np.uint16))
            stack.append(one)
        dicom_phantoms.write(folder / name, stack)
    return folder / "thick", folder / "thin"


def test_a_table_of_protocols_is_written_and_decides_the_width_of_a_run(call, tmp_path):
    thick, thin = helical_pair(tmp_path)
    table = tmp_path / "protocols.tsv"
    code, out, err = call("calibrate", "--pairs", thick, thin, "--protocols", table)
    assert (code, err) == (0, "")
    (row,) = read_protocols(table)
    assert row.protocol == Protocol("ge", "STANDARD", "helical") and (row.thickness, row.profile) == (5, "triangle")
    assert row.width == pytest.approx(4.5, abs=0.1) and row.pairs == 1 and table.read_text().rstrip() in out
    words = ["run", thick, "--bundle", "none", "--factor", "4"]
    assert call(*words, tmp_path / "a.nii.gz", "--protocols", table)[0] == 0
    record = json.loads((tmp_path / "a.json").read_text())["monai_sr"]
    assert record["acquired"]["slice_thickness"] == {"value": pytest.approx(row.width), "source": "protocol"}
    assert record["acquired"]["slice_profile"] == {"value": "triangle", "source": "protocol"}
    assert record["options"]["acquisition"] == {"slice_thickness": pytest.approx(row.width), "profile": "triangle"}
    given = [*words, tmp_path / "b.nii.gz", "--slice-thickness", f"{row.width}", "--profile", "triangle"]
    assert call(*given)[0] == 0
    assert np.array_equal(*(np.asarray(nib.load(tmp_path / name).dataobj) for name in ("a.nii.gz", "b.nii.gz")))


def test_a_result_is_made_again_if_its_width_in_the_table_changes(call, tmp_path):
    source = tmp_path / "scans"
    helical_pair(source)
    shutil.rmtree(source / "thin")
    table = tmp_path / "protocols.tsv"
    words = ["run", source, f"{tmp_path}/out/", "--bundle", "none", "--factor", "2", "--format", "nifti"]
    words += ["--protocols", table]
    row = ProtocolWidth(Protocol("ge", "STANDARD", "helical"), 5.0, 4.5, "triangle")
    made = []
    for width in (4.5, 4.5, 4.2):
        table.write_text(protocols_text([row._replace(width=width)]))
        assert call(*words)[0] == 0
        (result,) = (tmp_path / "out").rglob("*.nii.gz")
        made.append(result.stat().st_mtime_ns)
    assert made[0] == made[1] != made[2]


def test_a_bids_dataset_uses_a_table_by_the_metadata_that_its_images_inherit(call, tmp_path):
    root, table = tmp_path / "bids", tmp_path / "protocols.tsv"
    thick = simulate_thick_slices(thin_ct(), 4.0, slice_thickness=3.5, axis=2)
    put_json(root / "dataset_description.json", Name="x", BIDSVersion="1.10.0")
    put_json(root / "FLAIR.json", SliceThickness=4, Manufacturer="Siemens", MRAcquisitionType="2D")
    (root / "sub-01" / "anat").mkdir(parents=True)
    write_image(thick + 1000, root / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", dtype="int16")
    words = ["bids", root, tmp_path / "out", "participant", "--bundle", "none", "--protocols", table]
    rows = [ProtocolWidth(Protocol("siemens", "*", "2D"), 4.0, width, "gaussian") for width in (3.5, 3.2)]
    decided, made = [], []
    for text in (protocols_text([]), protocols_text(rows[:1]), protocols_text(rows[:1]), protocols_text(rows[1:])):
        table.write_text(text)
        code, _, err = call(*words)
        assert code == 0, err
        (result,) = (tmp_path / "out").rglob("*.nii.gz")
        record = json.loads(result.with_name(result.name.replace(".nii.gz", ".json")).read_text())["monai_sr"]
        decided.append(tuple(record["acquired"]["slice_thickness"].values()))
        made.append(result.stat().st_mtime_ns)
    assert decided == [(4.0, "sidecar"), (3.5, "protocol"), (3.5, "protocol"), (3.2, "protocol")]
    assert made[0] != made[1] == made[2] != made[3]


def test_the_option_is_stronger_than_the_table_and_the_table_than_the_header():
    image = MetaTensor(torch.rand(1, 8, 8, 6) * 100, affine=torch.from_numpy(np.diag([1.0, 1, 5, 1])))
    image.meta |= {"protocol": {"manufacturer": "philips", "kernel": "UB", "scan": "helical"}, "slice_thickness": 5.0}
    rows = [
        ProtocolWidth(Protocol("*", "*", "helical"), 5.0, 4.8, "gaussian"),
        ProtocolWidth(Protocol("philips", "*", "helical"), 5.0, 4.1, "box"),
        ProtocolWidth(Protocol("philips", "YA", "helical"), 5.0, 3.9, "box"),
        ProtocolWidth(Protocol("philips", "UB", "helical"), 3.0, 2.7, "triangle"),
    ]

    def decided(**given):
        acquired = Acquired.of(image, **given)
        facts = acquired.slice_profile, acquired.source_of("slice_profile"), acquired.source_of("slice_thickness")
        return pytest.approx(float(acquired.slice_thickness)), *facts

    assert decided() == (4.45, "triangle", "header", "corrected")
    assert decided(protocols=rows[:1]) == (4.8, "gaussian", "protocol", "protocol")
    assert decided(protocols=rows) == (4.1, "box", "protocol", "protocol")
    assert decided(protocols=rows, slice_thickness=4.0) == (4.0, "box", "protocol", "option")
    assert decided(protocols=rows, profile="gaussian") == (4.1, "gaussian", "option", "protocol")
    assert decided(protocols=rows[2:]) == (4.45, "triangle", "header", "corrected")


def test_pairs_of_one_protocol_make_one_row_and_other_rows_stay():
    one = ProtocolWidth(Protocol("ge", "STANDARD", "helical"), 5.0, 4.4, "triangle", 1, 8.0)
    other = ProtocolWidth(Protocol("siemens", "B40f", "helical"), 5.0, 5.1, "gaussian", 3, 9.0)
    fitted = [one, one._replace(width=4.6, residual=10.0), one._replace(width=3.0, profile="box")]
    rows = join_widths([one._replace(width=9.9), other], fitted)
    assert rows == [other, one._replace(width=4.5, pairs=2, residual=9.0)]
    assert read_text(protocols_text(rows)) == (rows[1], rows[0])


def read_text(text: str) -> tuple[ProtocolWidth, ...]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "table.tsv").write_text(text)
        return read_protocols(Path(folder, "table.tsv"))


def test_a_nifti_has_the_protocol_of_the_json_beside_it(call, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct(), profile="triangle", width=4.5)
    stated = {"Manufacturer": "GE", "ConvolutionKernel": "STANDARD", "ScanOptions": "HELICAL MODE", "Modality": "CT"}
    (tmp_path / "thick.json").write_text(json.dumps(stated | {"SliceThickness": 5.0}))
    table = tmp_path / "protocols.tsv"
    assert call("calibrate", "--pairs", thick, thin, "--protocols", table)[0] == 0
    (row,) = read_protocols(table)
    assert row.protocol == Protocol("ge", "STANDARD", "helical") and row.width == pytest.approx(4.5, abs=0.1)
    words = ["run", thick, tmp_path / "thin4.nii.gz", "--bundle", "none", "--factor", "4", "--protocols", table]
    assert call(*words)[0] == 0
    record = json.loads((tmp_path / "thin4.json").read_text())["monai_sr"]
    assert record["acquired"]["slice_thickness"] == {"value": pytest.approx(row.width), "source": "protocol"}
    assert record["options"]["acquisition"]["slice_thickness"] == pytest.approx(row.width)


@fault("R27", "E-PROTOCOLS")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\tb\n",
        "{}ge\tB\thelical\t5\tx\tbox\n",
        "{}ge\tB\thelical\t5\t-1\tbox\n",
        "{}ge\tB\thelical\t5\t4\tsine\n",
        "{}ge\tB\n",
        None,
    ],
)
def test_an_invalid_table_is_refused_before_the_work(fails, tmp_path, text):
    table = tmp_path / "protocols.tsv"
    if text is not None:
        table.write_text(text.format("manufacturer\tkernel\tscan\tthickness\twidth\tprofile\n"))
    fails("run", tmp_path, tmp_path / "out", "--protocols", table, exit_code=2, code="E-PROTOCOLS", names=table)


@fault("R26", "E-PAIR-PROTOCOL")
def test_a_pair_without_a_header_makes_no_row(fails, tmp_path):
    thick, thin = pair_of(tmp_path, thin_ct())
    table = tmp_path / "t.tsv"
    fails("calibrate", "--pairs", thick, thin, "--protocols", table, exit_code=5, code="E-PAIR-PROTOCOL", names=thick)


@fault("R26", "E-PAIR-FIT")
def test_a_pair_that_does_not_fit_makes_no_row(call, tmp_path):
    thick, thin = helical_pair(tmp_path)
    for file in thin.iterdir():
        one = pydicom.dcmread(file)
        one.ImagePositionPatient = [6.0, -5.0, one.ImagePositionPatient[2]]
        one.save_as(file)
    code, _, err = call("calibrate", "--pairs", thick, thin, "--protocols", tmp_path / "t.tsv")
    assert code == 5 and "E-PAIR-FIT" in err and not (tmp_path / "t.tsv").exists()


@pytest.mark.parametrize(
    "words", [["residual"], ["--pairs", "a", "b"], ["--protocols", "t"], ["residual", "d", "--pairs", "a", "b"]]
)
def test_calibrate_takes_a_bundle_and_data_or_pairs_and_a_table(fails, words):
    fails("calibrate", *words, exit_code=2, code="E-USE")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "no volume was given"),
        (["VOLUME", "--register"], "--register"),
        (["VOLUME", "--slice-thickness", "5"], "--slice-thickness"),
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
def test_the_real_pair_is_read_and_fitted_and_its_kernels_differ():
    (folder,) = sorted(path for path in DATA.iterdir() if "kernel_ya" in path.name)
    pair, fit, codes = fitted((folder / "thick.nii.gz", folder / "thin.nii.gz"), crop=160)
    assert codes == ["W-PAIR-KERNEL"]
    widths = {one.profile: one.width for one in fit.fits}
    assert fit.fits[-1].profile == "box"
    assert widths["triangle"] == pytest.approx(4.6, abs=0.15) and widths["box"] == pytest.approx(6.0, abs=0.2)
    assert fit.free_residual <= fit.best.residual < 60
    assert isinstance(pair.acquired.grid, Grid)
