"""Faulty volumes, bundles and paths, each made for real and met as a user does.

The tables follow the fault catalogue (``README.md``). DICOM has its own tables in ``test_dicom_faults.py``.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from catalogue import entry, fault
from monai.bundle import ConfigParser
from monai.data import MetaTensor, list_data_collate
from nifti_tools import save_nifti
from torch import nn

import monai_sr.io.stored
from monai_sr import SuperResolutionInferer
from monai_sr.acquired import acquisition_meta, stored_dtype_of
from monai_sr.bundles import NAMES, bundle_path, load_bundle, load_weights
from monai_sr.errors import BundleError, ImageError, SuperResolutionWarning
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.networks import PyramidNet, ResidualNet
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.consistency import measure_consistency

RNG = np.random.default_rng(0)
SPACING = (1.0, 1.2, 4.0)


def noise(shape=(8, 7, 6), dtype=np.int16) -> np.ndarray:
    return RNG.integers(1, 500, shape).astype(dtype)


def nifti(folder: Path, data: np.ndarray | None = None, *, name="scan.nii.gz", affine=None, **header) -> Path:
    """A NIfTI file as another program would write it, with header fields changed."""
    data, affine = noise() if data is None else data, np.diag([*SPACING, 1.0]) if affine is None else affine
    return save_nifti(folder / name, data, affine, **header)


def holding(folder: Path, content: bytes, name="scan.nii.gz") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def edited(path: Path, offset: int, values, dtype="<f4") -> Path:
    """The same file with other bytes at an offset of its header."""
    raw = path.read_bytes()
    packed = raw[:2] == b"\x1f\x8b"
    content = bytearray(gzip.decompress(raw) if packed else raw)
    new = np.array(values, dtype=dtype).tobytes()
    content[offset : offset + len(new)] = new
    return holding(path.parent, gzip.compress(bytes(content)) if packed else bytes(content), path.name)


def cut(path: Path, keep: int | float) -> Path:
    """The first bytes of a file, or the first part; so many less than all where negative."""
    content = path.read_bytes()
    return holding(path.parent, content[: keep if isinstance(keep, int) else int(keep * len(content))], path.name)


def flipped(path: Path, offset: int, bits: int) -> Path:
    content = bytearray(path.read_bytes())
    content[offset] ^= bits
    return holding(path.parent, bytes(content), path.name)


def link(folder: Path, to: str | Path) -> Path:
    (folder / "scan.nii.gz").symlink_to(to)
    return folder / "scan.nii.gz"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def by_itk(folder: Path, voxels: np.ndarray, name: str, **options) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(voxels, **options), str(folder / name))
    return folder / name


def turned(cosine: float) -> np.ndarray:
    """An affine whose first two axes are off the right angle."""
    affine = np.diag([*SPACING, 1.0])
    affine[0, 1] = cosine * SPACING[1]
    return affine


def with_voxels(data: np.ndarray, *voxels: tuple[object, float]) -> np.ndarray:
    """The same data with other values at some places."""
    for place, value in voxels:
        data[place] = value
    return data


def missing(*more: tuple[object, float]) -> np.ndarray:
    """Three voxels are not finite."""
    return with_voxels(noise(dtype=np.float32), ((2, 3, 4), np.nan), ((0, 0, 0), np.inf), ((1, 1, 1), -np.inf), *more)


def labels() -> np.ndarray:
    return with_voxels(np.zeros((24, 22, 12), np.int16), (np.s_[4:12, 4:18], 17), (np.s_[12:20, 5:17], 53))


def offset_ct(folder: Path) -> Path:
    """A CT that counts from air = 0."""
    data = RNG.integers(0, 3000, (8, 7, 6)).astype(np.int16)
    return nifti(folder, with_voxels(data, ((0, 0, 0), 0), ((0, 0, 1), 3000)))


def ct_series(folder: Path) -> Path:
    dicom_phantoms.write(folder / "series", dicom_phantoms.slices())
    return folder / "series"


def two_forms(folder: Path) -> Path:
    """The qform lies 50 mm to the right of the sform."""
    return edited(edited(nifti(folder), QFORM_CODE, [1], "<i2"), QOFFSET, [50.0])


def without_form(folder: Path) -> Path:
    return edited(nifti(folder), QFORM_CODE, [0, 0], "<i2")


def scaled(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


DIM, PIXDIM, VOX_OFFSET, QFORM_CODE, QOFFSET, SROW = 40, 76, 108, 252, 268, 280
"""Offsets in a NIfTI-1 header."""

MICROMETERS = {"affine": scaled(1000, 1200, 4000), "xyzt_units": 3}
METERS = {"affine": scaled(0.001, 0.0012, 0.004), "xyzt_units": 1}
COLORS = np.zeros((6, 6, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
HTML = b"<!DOCTYPE html><html>404</html>"
BUNDLE = ("--bundle", "pyramid")

# ------------------------------------------------------------- refused, and nothing is written

REFUSED = [
    entry("I01", "E-IO-TRUNC", "half", lambda f: cut(nifti(f), 0.5), says=("1024",)),
    entry("I01", "E-IO-TRUNC", "without the last byte", lambda f: cut(nifti(f), -1), says=("1024 bytes",)),
    entry("I01", "E-IO-TRUNC", "a few bytes", lambda f: cut(nifti(f), 12), says=("0 bytes",)),
    entry("I02", "E-IO-CRC", "a voxel", lambda f: flipped(nifti(f, noise((20, 20, 12))), 4000, 4)),
    entry("I03", "E-IO-CRC", "checksum", lambda f: flipped(nifti(f), -8, 255)),
    entry("I03", "E-IO-CRC", "length", lambda f: flipped(nifti(f), -1, 1)),
    entry("I04", "E-IO-TYPE", "nothing", lambda f: holding(f, b""), says=("0 bytes",)),
    entry("I04", "E-IO-TYPE", "text", lambda f: holding(f, b"version https://git-lfs.github.com\n"), says=("text",)),
    entry("I04", "E-IO-TYPE", "a web page", lambda f: holding(f, HTML), says=("HTML",)),
    entry("I04", "E-IO-TYPE", "zipped text", lambda f: holding(f, gzip.compress(b"just words\n" * 40)), says=("text",)),
    entry("I04", "E-IO-READ", "random bytes", lambda f: holding(f, RNG.bytes(3000))),
    entry("I06", "E-IO-TRUNC", "a short file", lambda f: cut(nifti(f, name="a.nii"), -100), says=("924", "1024")),
    entry("I06", "E-IO-TRUNC", "a short header", lambda f: cut(nifti(f, name="a.nii"), 100), says=("100", "348")),
    entry("I06", "E-IO-TRUNC", "in a sound gzip", lambda f: packed(f, lambda content: content[:-1])),
    entry("Z02", "E-SEC-BOMB", "image", lambda f: packed(f, lambda raw: raw + b"0" * 8**9), says=("65 MiB",)),
    entry("I07", "E-HDR-DIM", "terabytes", lambda f: terabytes(f, "a.nii"), says=("30000, 30000, 30000",)),
    entry("I07", "E-HDR-DIM", "terabytes in a gzip", lambda f: terabytes(f, "a.nii.gz"), says=("30000, 30000, 30000",)),
    entry("I28", "E-HDR-FIELD", "infinite slope", lambda f: edited(nifti(f), 112, [np.inf])),
    entry("I07", "E-HDR-DIM", "negative", lambda f: edited(nifti(f), DIM, [3, 12, -4, 6], "<i2"), says=("-4",)),
    entry("I07", "E-HDR-DIM", "zero", lambda f: edited(nifti(f), DIM, [3, 0, 4, 6], "<i2"), says=("(0, 4, 6)",)),
    entry("I07", "E-HDR-DIM", "voxels that start nowhere", lambda f: edited(nifti(f), VOX_OFFSET, [np.nan])),
    entry("I07", "E-HDR-DIM", "nine axes", lambda f: edited(nifti(f), DIM, [9], "<i2")),
    entry("I08", "E-HDR-AFFINE", "sform of NaN", lambda f: edited(nifti(f), SROW, [np.nan] * 4), says=("sform",)),
    entry("I08", "E-HDR-AFFINE", "infinite origin", lambda f: edited(nifti(f), SROW + 12, [np.inf]), says=("sform",)),
    entry("I08", "E-HDR-AFFINE", "qform of NaN alone", lambda f: edited(
        edited(nifti(f), QFORM_CODE, [1, 0], "<i2"), QOFFSET, [np.nan]), says=("qform",)),
    entry("I08", "E-HDR-AFFINE", "no qform", nifti, "--geometry", "qform", says=("qform_code is 0", "--geometry")),
    entry("I08", "E-HDR-AFFINE", "MetaImage with an origin of NaN", lambda f: holding(
        f, by_itk(f, noise(), "a.mha").read_bytes().replace(b"Offset = 0 0 0", b"Offset = nan 0 0"), "a.mha")),
    entry("I11", "E-HDR-SPACING", "zero", lambda f: edited(nifti(f), PIXDIM + 12, [0.0]), says=("(1.0, 1.2", "0.0)")),
    entry("I11", "E-HDR-SPACING", "NaN", lambda f: edited(nifti(f), PIXDIM + 4, [np.nan])),
    entry("I12", "E-HDR-SHEAR", "sheared", lambda f: nifti(f, affine=turned(0.1)), says=("0.0995", "0.001")),
    entry("I12", "E-HDR-SHEAR", "two axes in one direction", lambda f: nifti(
        f, affine=with_voxels(scaled(*SPACING), (np.s_[:2, 1], (1, 0)))), says=(" 1,",)),
    entry("I12", "E-HDR-SPACING", "an axis without length", lambda f: edited(nifti(f), SROW, [0.0])),
    entry("I14", "E-HDR-UNITS", "micrometers called mm", lambda f: nifti(
        f, affine=scaled(700, 800, 3000), xyzt_units=2), says=("700 x 800 x 3000", "0.05 to 50")),
    entry("I14", "E-HDR-UNITS", "meters called mm", lambda f: nifti(
        f, affine=scaled(0.0007, 0.0008, 0.003), xyzt_units=2), says=("0.0007",)),
    entry("I15", "E-IMG-NAN", "refused", lambda f: nifti(
        f, missing()), "--nan", "refuse", says=("3 of 336", "--nan fill")),
    entry("I15", "E-IMG-NAN", "beyond float32", lambda f: nifti(f, noise(dtype=np.float32) * np.float32(1e35))),
    entry("I15", "E-IMG-NAN", "all", lambda f: nifti(f, np.full((6, 6, 6), np.nan, np.float32))),
    entry("I16", "E-IMG-CONST", "7", lambda f: nifti(f, np.full((6, 6, 6), 7, np.int16)), says=("7",)),
    entry("I16", "E-IMG-CONST", "zeros", lambda f: nifti(f, np.zeros((6, 6, 6), np.float32)), says=("0",)),
    entry("I16", "E-IMG-CONST", "7 and NaN", lambda f: nifti(
        f, with_voxels(np.full((6, 6, 6), 7, np.float32), (1, np.nan)))),
    entry("I16", "E-IMG-CONST", "contrast lost beside an offset", lambda f: nifti(
        f, noise(dtype=np.int32) + 10**9), says=("1e+09", "float32")),
    entry("I17", "E-IMG-2D", "no third spacing", lambda f: edited(
        nifti(f, noise((16, 16))), PIXDIM + 12, [0.0]), says=("16 x 16",)),
    *(entry("I17", "E-IMG-2D", f"{shape}", lambda f, shape=shape: nifti(f, noise(shape)))
      for shape in ((16, 16), (16, 16, 1), (1, 16, 16))),
    entry("I18", "E-IMG-4D", "none chosen", lambda f: nifti(
        f, noise((6, 6, 6, 3))), says=("6 x 6 x 6 x 3", "--volume 0 to 2", "--volume all")),
    entry("I18", "E-USE", "the fourth of three", lambda f: nifti(
        f, noise((6, 6, 6, 3))), "--volume", "3", says=("3", "0 to 2"), exit_code=2),
    entry("I18", "E-IMG-4D", "five axes", lambda f: nifti(f, noise((6, 6, 6, 3, 2))), "--volume", "all", says=("5",)),
    entry("I18", "E-IMG-4D", "along the fifth axis", lambda f: nifti(
        f, noise((6, 6, 6, 1, 3))), says=("--volume 0 to 2",)),
    entry("I18", "E-USE", "of a series", ct_series, "--volume", "1", says=("--volume 1",), exit_code=2),
    entry("I19", "E-IMG-DTYPE", "colors", lambda f: nifti(f, COLORS)),
    entry("I19", "E-IMG-DTYPE", "complex", lambda f: nifti(
        f, (noise() * 1j).astype(np.complex64)), says=("complex64",)),
    entry("I19", "E-IMG-DTYPE", "vectors", lambda f: by_itk(
        f, noise((6, 6, 6, 3), np.float32), "scan.nrrd", isVector=True)),
    *(entry("I19", "E-IMG-DTYPE", f"intent code {code}", lambda f, code=code: nifti(
        f, noise((6, 6, 6, 1, 3)), intent_code=code), "--volume", "all", says=("3", str(code)))
      for code in (1005, 1006, 1007, 2003)),
    entry("I20", "E-IMG-FEW", "two", lambda f: nifti(f, noise((8, 7, 2))), says=("2", "3")),
    entry("I21", "E-SR-NOGAIN", "isotropic", lambda f: nifti(f, affine=np.eye(4)), "--strict", says=("1 mm",)),
    entry("I21", "E-SR-NOGAIN", "5 mm wanted", nifti, "--strict", "--spacing", "5", says=("4 mm",)),
    entry("I22", "E-SR-RANGE", "9", nifti, "--strict", *BUNDLE, "--factor", "9", says=("9", "1.2", "8")),
    entry("I23", "E-MOD", "segmentation", lambda f: nifti(f, labels()), says=("3", "--modality")),
    entry("I23", "E-MOD", "mask", lambda f: nifti(f, (labels() > 0).astype(np.uint8)), says=("2",)),
    entry("I23", "E-MOD", "a CT called MR", ct_series, "--modality", "MR", says=("CT", "MR")),
    entry("I24", "E-CT-HU", "0 to 1", lambda f: nifti(f, with_voxels(
        RNG.random((8, 7, 6), np.float32), ((0, 0, 0), 0), ((0, 0, 1), 1))),
        "--modality", "CT", says=("0 and 1", "-1000")),
    entry("I24", "E-CT-HU", "0 to 3000", offset_ct, "--modality", "CT", "--strict", says=("0 and 3000",)),
    entry("Z05", "E-IO-TYPE", "FIFO", fifo),
    entry("Z05", "E-IO-TYPE", "endless device", lambda f: link(f, "/dev/zero")),
    entry("Z05", "E-IO-TYPE", "file of /proc", lambda f: link(f, "/proc/self/status"), says=("0 bytes",)),
    entry("Z05", "E-IO-MISSING", "link to nothing", lambda f: link(f, f / "absent"), exit_code=3),
    entry("Z05", "E-IO-MISSING", "link to itself", lambda f: link(f, f / "scan.nii.gz"), exit_code=3),
]  # fmt: skip


def packed(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """A sound gzip stream of changed content."""
    return holding(folder, gzip.compress(change(gzip.decompress(nifti(folder).read_bytes())), 1))


def terabytes(folder: Path, name: str) -> Path:
    return edited(nifti(folder, name=name), DIM, [3, 30000, 30000, 30000], "<i2")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_refused_in_one_line_and_nothing_is_written(call, tmp_path, case):
    path = case.build(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    bundle = [] if "--bundle" in case.options else ["--bundle", "none"]
    code, out, err = call("run", path, tmp_path / "out.nii.gz", *bundle, *case.options)
    assert (code, out, err.count("\n")) == (case.expected.get("exit_code", 5), "", 1), err
    assert err.startswith(f"monai-sr: {case.code}: " + (f"{path} - " if case.code != "E-USE" else "")), err
    assert err.count(" Fix: ") == 1
    assert [part for part in case.expected.get("says", ()) if part not in err] == [], err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", [one for one in REFUSED if one.values[0].code.startswith(("E-IO", "E-HDR", "E-IMG"))])
def test_check_finds_what_is_wrong_with_a_file_before_any_work(call, tmp_path, case):
    exit_code, _, err = call("check", case.build(tmp_path), *case.options)
    assert exit_code == case.expected.get("exit_code", 5)
    assert err.startswith(f"monai-sr: {case.code}: "), err


# ------------------------------------------------------------- done with a warning

WARNED = [
    entry("I05", "W-IO-NAME", "gzip", lambda f: holding(f, nifti(f).read_bytes(), "a.nii"), says=("a.nii.gz",)),
    entry("I05", "W-IO-NAME", "plain", lambda f: nifti(f, name="b.nii").rename(f / "b.nii.gz"), says=("b.nii",)),
    entry("I08", "W-HDR-AFFINE", "sform of NaN, sound qform", lambda f: edited(
        edited(nifti(f), SROW, [np.nan] * 4), QFORM_CODE, [1], "<i2"), says=("qform",)),
    entry("I09", "W-HDR-FORMS", "50 mm apart", two_forms, says=("50 mm", "--geometry qform")),
    entry("I10", "W-HDR-NOFORM", "both codes 0", without_form, says=()),
    entry("I14", "W-HDR-UNITS", "micrometers", lambda f: nifti(f, **MICROMETERS), says=("micrometers",)),
    entry("I14", "W-HDR-UNITS", "meters", lambda f: nifti(f, **METERS), says=("meters",)),
    entry("I15", "W-IMG-NAN", "filled", lambda f: nifti(f, missing(((5, 5, 5), 1))), says=("3 of 336", " 1")),
    *(entry("I15", "W-IMG-NAN", f"fill values of {end:.1e}", lambda f, end=end: nifti(
        f, with_voxels(noise(dtype=np.float32), (np.s_[:2], end), ((5, 5, 5), 1))), says=("84 of 336", " 1"))
      for end in (np.finfo(np.float32).min, np.finfo(np.float32).max)),
    entry("I21", "W-SR-NOGAIN", "isotropic", lambda f: nifti(f, affine=np.eye(4)), says=("1 mm",)),
    entry("I21", "W-SR-NOGAIN", "5 mm wanted", nifti, "--spacing", "5", says=("4 mm",)),
    entry("I22", "W-SR-RANGE", "9", nifti, *BUNDLE, "--factor", "9", says=("9", "1.2", "8")),
    entry("I22", "W-SR-RANGE", "0.5 mm", nifti, "--bundle", "residual", "--spacing", "0.5", says=("8", "1.2", "6")),
    entry("I38", "W-IMG-EMPTY", "zeros", lambda f: nifti(
        f, with_voxels(noise((8, 7, 9)), (np.s_[..., [0, 3, 4]], 0))), says=("2 slices", "slice 3")),
    entry("I24", "W-CT-HU", "0 to 3000", offset_ct, "--modality", "CT", says=("0 and 3000", "-1000")),
    entry("I24", "W-CT-HU", "negative values without a sign", lambda f: nifti(f, with_voxels(
        RNG.integers(-1000, 1000, (8, 7, 6)).astype(np.float32), ((0, 0), 65436))), "--modality", "CT",
        says=("65436", "-1000")),
    entry("I25", "W-OUT-CLIP", "at the end of int16", lambda f: nifti(f, at_the_end_of_the_type()), says=("int16",)),
]  # fmt: skip


def at_the_end_of_the_type() -> np.ndarray:
    return np.where(noise() > 250, 32767, 0).astype(np.int16)


@pytest.mark.parametrize("case", WARNED)
def test_an_oddity_is_processed_with_one_warning(call, tmp_path, case):
    path, target = case.build(tmp_path), tmp_path / "out.nii.gz"
    bundle = [] if "--bundle" in case.options else ["--bundle", "none"]
    code, out, err = call("run", path, target, *bundle, *case.options)
    assert (code, err.count("\n")) == (0, 1), err
    assert err.startswith(f"monai-sr: {case.code}: ") and str(tmp_path) in err
    assert [part for part in case.expected["says"] if part not in err] == [], err
    assert str(target) in out
    written = nib.load(target)
    assert np.isfinite(written.get_fdata()).all()
    assert written.header.get_zooms()[:2] in (pytest.approx(SPACING[:2]), (1, 1))


# ------------------------------------------------------------- what is done about them


@fault("Z02")
def test_a_compressed_file_of_more_than_the_spare_is_read(tmp_path, monkeypatch):
    """The header decides how much is too much, also where the first bytes arrive one by one."""
    monkeypatch.setattr(monai_sr.io.stored, "SPARE", 100)
    data = noise((20, 20, 12))
    assert np.array_equal(read_image(nifti(tmp_path, data))[0].numpy(), data)


@fault("I07", "E-HDR-DIM")
def test_no_memory_is_taken_for_absurd_dimensions(tmp_path):
    path = terabytes(tmp_path, "a.nii")
    tracemalloc.start()
    with pytest.raises(ImageError):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@fault("I09", "W-HDR-FORMS")
def test_either_form_can_be_chosen(tmp_path):
    path = two_forms(tmp_path)
    with pytest.warns(SuperResolutionWarning, match="W-HDR-FORMS"):
        assert read_image(path).affine[0, 3] == 0
    assert read_image(path, geometry="qform").affine[0, 3] == 50
    assert read_image(path, geometry="sform").affine[0, 3] == 0


@fault("I09")
def test_a_form_cannot_be_chosen_where_there_are_none(call, tmp_path):
    write_image(read_image(nifti(tmp_path)), tmp_path / "scan.mha")
    returned, _, err = call("run", tmp_path / "scan.mha", tmp_path / "o.nii", "--bundle", "none", "--geometry", "sform")
    assert returned == 2
    assert err.startswith("monai-sr: E-USE: ") and "--geometry sform" in err


@fault("I10", "W-HDR-NOFORM")
def test_a_result_of_an_image_without_orientation_has_none(call, tmp_path):
    for make, code in ((without_form, 0), (nifti, 1)):
        assert call("run", make(tmp_path), tmp_path / "out.nii.gz", "--bundle", "none")[0] == 0
        header = nib.load(tmp_path / "out.nii.gz").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (code, code)
        assert header.get_zooms() == pytest.approx((1.0, 1.2, 1.0))


@fault("I12")
def test_a_shear_of_rounding_is_straightened(call, tmp_path):
    path = nifti(tmp_path, affine=turned(0.0004))
    assert call("run", path, tmp_path / "out.nii.gz", "--bundle", "none")[::2] == (0, "")
    axes = nib.load(tmp_path / "out.nii.gz").affine[:3, :3]
    assert abs(axes[:, 0] @ axes[:, 1]) < 1e-6
    np.testing.assert_allclose(read_image(path).affine, turned(0.0004), atol=0.0004 * 1.2)


@fault("I13")
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_storage_order_of_the_voxels_changes_nothing(tmp_path, flips, axes):
    grid = phantoms.grid((9, 8, 7), SPACING)
    image = phantoms.known_value(grid)
    expected = super_resolve(image, None)
    stored = nib.Nifti1Image(image[0].numpy(), grid.affine)
    orientation = np.stack([np.argsort(axes), np.array(flips)[np.argsort(axes)]], axis=1)
    nib.save(stored.as_reoriented(orientation), tmp_path / "scan.nii")
    sr = super_resolve(read_image(tmp_path / "scan.nii"), None)
    write_image(sr, tmp_path / "out.nii", dtype="float32")
    again = nib.as_closest_canonical(nib.load(tmp_path / "out.nii"))
    np.testing.assert_allclose(again.get_fdata(), expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(again.affine, expected.affine, atol=1e-5)


@fault("I14", "W-HDR-UNITS")
@pytest.mark.parametrize("header", [MICROMETERS, METERS])
def test_other_units_become_millimeters(tmp_path, header):
    with pytest.warns(SuperResolutionWarning, match="W-HDR-UNITS"):
        image = read_image(nifti(tmp_path, **header))
    np.testing.assert_allclose(image.affine, np.diag([*SPACING, 1.0]), rtol=1e-6)


@fault("I15", "W-IMG-NAN")
def test_missing_voxels_take_no_part_in_the_intensity_range(tmp_path):
    """Half the volume is NaN: percentiles are those of the other half, and the result holds numbers."""
    data = noise((8, 8, 6), np.float32)
    whole = read_image(nifti(tmp_path, data[4:]))
    data[:4] = np.nan
    with pytest.warns(SuperResolutionWarning, match="192 of 384"):
        image = read_image(nifti(tmp_path, data))
    assert int(image.meta["nan_voxels"].sum()) == 192
    network = Spy()
    sr = super_resolve(image, network)
    assert torch.isfinite(sr).all()
    assert "nan_voxels" not in sr.meta
    seen, network.seen = network.seen[0], []
    super_resolve(whole, network)
    torch.testing.assert_close(seen[..., 4:, :, :], network.seen[0])
    batch = SuperResolutionInferer()(list_data_collate([image]), None)
    torch.testing.assert_close(batch[0], super_resolve(image, None).as_tensor())


class Spy(ResidualNet):
    """Adds nothing and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(layers=4, features=2)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return x


@fault("I18")
def test_one_of_several_volumes_can_be_chosen(call, tmp_path):
    data = noise((6, 6, 6, 3))
    path = nifti(tmp_path, data)
    for index in range(3):
        assert call("run", path, tmp_path / "out.nii", "--bundle", "none", "--volume", index)[0] == 0
        alone = super_resolve(read_image(nifti(tmp_path, data[..., index], name="one.nii")), None)
        assert np.abs(nib.load(tmp_path / "out.nii").get_fdata() - alone[0].numpy()).max() <= 0.51


@fault("I18")
@pytest.mark.parametrize("bundle", ["none", "pyramid"])
def test_all_volumes_keep_the_fourth_axis_and_its_step(call, tmp_path, bundle):
    path = nifti(tmp_path, noise((6, 6, 6, 3)), pixdim=[1, *SPACING, 2.5, 0, 0, 0], xyzt_units=2 | 8)
    target = tmp_path / "out.nii.gz"
    options = ["--bundle", bundle, "--device", "cpu", "--factor", "2"]
    assert call("run", path, target, "--volume", "all", *options)[::2] == (0, "")
    written = nib.load(target)
    assert written.shape == (6, 6, 12, 3)
    assert written.header.get_zooms() == pytest.approx((1.0, 1.2, 2.0, 2.5))
    assert written.header.get_xyzt_units() == ("mm", "sec")
    for index in range(3):
        assert call("run", path, tmp_path / "one.nii", "--volume", index, *options)[0] == 0
        assert np.array_equal(nib.load(tmp_path / "one.nii").get_fdata(), written.get_fdata()[..., index])
    again = read_image(target, volume="all")
    assert again.shape == (3, 6, 6, 12)
    returned, _, err = call("run", path, tmp_path / "out.nrrd", "--volume", "all", *options)
    assert returned == 2 and err.startswith("monai-sr: E-OUT-FORMAT: ")
    assert not (tmp_path / "out.nrrd").exists()


@fault("I18")
def test_a_fourth_axis_of_one_is_no_fourth_axis(call, tmp_path):
    path = nifti(tmp_path, noise((6, 6, 6, 1)))
    assert call("run", path, tmp_path / "out.nii", "--bundle", "none")[::2] == (0, "")
    assert nib.load(tmp_path / "out.nii").ndim == 3


@fault("I18")
def test_a_four_dimensional_meta_image_is_read_where_it_lies(tmp_path):
    image = sitk.GetImageFromArray(noise((3, 6, 7, 8)), isVector=False)
    image.SetSpacing((1, 1.2, 4, 9))
    image.SetOrigin((5, 6, 7, 8))
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    read = read_image(tmp_path / "scan.mha", volume=2)
    np.testing.assert_allclose(read.affine, [[-1, 0, 0, -5], [0, -1.2, 0, -6], [0, 0, 4, 7], [0, 0, 0, 1]])
    assert np.array_equal(read[0].numpy(), sitk.GetArrayFromImage(image)[2].T)


@fault("I20")
@pytest.mark.parametrize("short", NAMES)
def test_three_slices_are_enough_for_every_shipped_network(call, tmp_path, short):
    path = nifti(tmp_path, noise((9, 8, 3), np.float32))
    options = ["--bundle", short, "--device", "cpu"]
    assert call("run", path, tmp_path / "out.nii", *options)[::2] == (0, "")
    written = nib.load(tmp_path / "out.nii")
    assert written.shape == (9, 8, 12)
    assert np.isfinite(written.get_fdata()).all()


@fault("I21", "W-SR-NOGAIN")
def test_what_is_passed_through_is_a_copy(call, tmp_path):
    path = nifti(tmp_path, affine=np.eye(4))
    assert call("run", path, tmp_path / "out.nii.gz", "--bundle", "none")[0] == 0
    copied, source = nib.load(tmp_path / "out.nii.gz"), nib.load(path)
    assert np.array_equal(copied.get_fdata(), source.get_fdata())
    assert np.array_equal(copied.affine, source.affine)
    assert copied.get_data_dtype() == source.get_data_dtype()


@fault("I22", "W-SR-RANGE")
def test_a_result_out_of_range_is_marked_and_one_within_is_not(tmp_path):
    model = load_bundle("pyramid", device="cpu")
    image = read_image(nifti(tmp_path))
    with pytest.warns(SuperResolutionWarning, match="W-SR-RANGE"):
        assert model(image, factor=9).meta["outside_training"] == pytest.approx(9)
    for factor in (1.2, 2, 8):
        assert "outside_training" not in model(image, factor=factor).meta
    with pytest.warns(SuperResolutionWarning, match="W-SR-RANGE"):
        model(image, factor=1.09)
    assert "outside_training" not in load_bundle("none")(image, factor=20).meta


@fault("I22")
@pytest.mark.parametrize("short", NAMES)
def test_the_range_of_a_bundle_holds_the_factors_it_was_trained_for(short):
    configs = bundle_path(short) / "configs"
    lowest, highest = json.loads((configs / "inference.json").read_text())["factor_range"]
    (simulation,) = [
        step
        for step in json.loads((configs / "train.json").read_text())["train"]["preprocessing"]["transforms"]
        if "RandSimulateThickSlicesd" in step["_target_"]
    ]
    assert lowest <= min(simulation["factors"]) and max(simulation["factors"]) <= highest


@fault("I22", "W-SR-RANGE")
def test_a_sidecar_has_the_factor_out_of_range_and_the_fraction_of_padding(call, tmp_path):
    where = dicom_phantoms.Stack(dicom_phantoms.even(4, 4.0), rows=10, columns=12)
    stack = dicom_phantoms.slices(where, rescale=(1, -1024), dtype="int16", PixelPaddingValue=-2000)
    for one in stack:
        stored = dicom_phantoms.stored_of(one).astype(np.int16)
        stored[:, :2] = -2000
        dicom_phantoms.store(one, stored)
    dicom_phantoms.write(tmp_path / "series", stack)
    fraction = 2 / stack[0].Columns
    for factor, recorded in ((2, None), (9, 9)):
        options = ["--bundle", "pyramid", "--factor", factor, "--device", "cpu"]
        returned, _, err = call("run", tmp_path / "series", tmp_path / "out.nii", *options)
        assert returned == 0 and ("W-SR-RANGE" in err) == (recorded is not None)
        sidecar = json.loads((tmp_path / "out.json").read_text())
        assert sidecar["PaddingShare"] == pytest.approx(fraction, abs=1e-3)
        assert sidecar["monai_sr"]["factor_outside_training"] == (None if recorded is None else pytest.approx(recorded))


@fault("I23", "E-MOD")
def test_what_is_named_an_image_is_taken_as_one(call, tmp_path):
    options = ["--bundle", "none", "--modality", "MR"]
    assert call("run", nifti(tmp_path, labels()), tmp_path / "out.nii", *options)[::2] == (0, "")


@fault("I23", "E-MOD")
@pytest.mark.data
@pytest.mark.slow
def test_no_real_image_is_taken_for_a_mask(shared_data):
    paths = sorted((shared_data / "volumes").rglob("*.nii.gz"))
    assert len(paths) > 5
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read_image(path)
            part = image[:, :, :, image.shape[-1] // 2 - 2 : image.shape[-1] // 2 + 2].as_tensor()
            affine = torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64))
            super_resolve(MetaTensor(part, affine), None, factor=1.5)  # some are noisy, which is said


@fault("I24", "W-CT-HU")
def test_padding_does_not_pass_for_air(tmp_path):
    data = RNG.integers(0, 3000, (8, 7, 6)).astype(np.int16)
    data[:2] = -2000
    with pytest.warns(SuperResolutionWarning, match="W-CT-HU"):
        super_resolve(read_image(nifti(tmp_path, data)), None, modality="CT")


@fault("I24", "E-CT-HU")
@pytest.mark.parametrize("ends", [(-1024, 1500), (-90, 300)], ids=["a body in air", "a crop inside a body"])
def test_hounsfield_units_raise_no_doubt(call, tmp_path, ends):
    # the slices of a body are alike; what differs from one to the next by white noise has no possible values between
    body = RNG.integers(*ends, (8, 7, 1)) + RNG.integers(-20, 20, (8, 7, 6))
    path = nifti(tmp_path, body.astype(np.int16))
    assert call("run", path, tmp_path / "out.nii", "--bundle", "none", "--modality", "CT", "--strict")[::2] == (0, "")


@fault("I25", "W-OUT-CLIP")
def test_values_beyond_the_type_are_clipped_and_counted(call, tmp_path):
    path = nifti(tmp_path, at_the_end_of_the_type())
    sr = super_resolve(read_image(path), None)[0].numpy()
    beyond = int((sr > 32767.5).sum() + (sr < -32768.5).sum())
    assert beyond > 10
    _, _, err = call("run", path, tmp_path / "out.nii.gz", "--bundle", "none")
    assert f" {beyond} voxels are outside" in err
    written = nib.load(tmp_path / "out.nii.gz").get_fdata()
    assert np.array_equal(written, np.clip(np.rint(sr), -32768, 32767))


def residual_of(path, sr) -> np.ndarray:
    """How far a result, as its file holds it, is from the acquired slices."""
    consistency = measure_consistency(read_image(path), sr, stored_dtype=stored_dtype_of(sr))
    return np.abs(consistency.residual.as_tensor().numpy())


@fault("I31")
def test_unsigned_integers_keep_the_promise_without_values_below_zero(call, tmp_path):
    """Anatomy beside a background of 0, acquired in the same type signed and unsigned."""
    thin = phantoms.sphere(phantoms.grid((20, 20, 48), (1.0, 1.0, 1.0)), radius=9.0)
    voxels = (simulate_thick_slices(thin, 4.0, axis=2)[0].numpy() * 300).round()
    signed, unsigned = (nifti(tmp_path, voxels.astype(d), name=f"{d}.nii") for d in ("int16", "uint16"))
    results = [super_resolve(read_image(path), None, profile="gaussian") for path in (signed, unsigned)]
    assert results[0].min() < -1 and results[1].min() >= -0.5
    assert residual_of(signed, results[0].clamp(min=0)).max() > 15
    assert residual_of(unsigned, results[1]).max() < 4  # of 300: anatomy of 0 and 300 alone is the hardest
    assert call("run", unsigned, tmp_path / "out.nii", "--bundle", "none")[::2] == (0, "")


@fault("I31")
@pytest.mark.data
def test_a_real_flair_is_as_consistent_unsigned_as_its_noise_allows(shared_data):
    image = read_image(shared_data / "volumes" / "mr_thick" / "flair_ms_patient12_3mm.nii.gz")[:, 100:164, 120:184]
    scores = {}
    for dtype in ("int16", "uint16"):
        image.meta["stored_dtype"] = dtype
        sr = super_resolve(image, None, consistency="exact")
        scores[dtype] = measure_consistency(image, sr, stored_dtype=dtype)
        if dtype == "int16":
            cut = measure_consistency(image, sr, stored_dtype="uint16")
    assert scores["int16"].maximum < 0.5
    assert cut.score > 0.01 and cut.maximum > 60  # what clamping alone would give up
    assert scores["uint16"].score < 0.35 * cut.score and scores["uint16"].maximum < 0.5 * cut.maximum
    assert scores["uint16"].p95 < 0.5
    assert scores["uint16"].missed < 5e-4 and not scores["uint16"].misses_voxels


@fault("I32")
def test_noise_of_air_that_another_program_cuts_off_is_not_missed():
    """Below -1024 HU a CT measures nothing."""
    data = RNG.normal(-1000, 120, (24, 24, 12)).round().astype(np.float32)
    data[8:16, 8:16] = 40
    facts = acquisition_meta(modality="CT", stored_dtype="int16")
    image = MetaTensor(torch.from_numpy(data)[None], affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])), meta=facts)
    affine = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    affine[2, 3] = -1.5
    cut = MetaTensor(image.as_tensor().repeat_interleave(4, dim=-1).clamp(min=-1024), affine=affine)
    consistency = measure_consistency(image, cut, profile="box")
    assert consistency.maximum > 0.1 * consistency.value_range  # as the residual says
    assert not consistency.misses_voxels
    cut[0, 10, 10] += 300
    assert measure_consistency(image, cut, profile="box").misses_voxels


@fault("I31", "W-CON-MISSED")
def test_voxels_missed_in_unsigned_integers_give_a_warning(call, tmp_path):
    data = np.broadcast_to(RNG.integers(150, 250, (16, 16, 1)), (16, 16, 12)).astype(np.uint16)
    path = nifti(tmp_path, with_voxels(data.copy(), (np.s_[3, 3, ::2], 0), (np.s_[3, 3, 1::2], 250)))
    assert super_resolve(read_image(path), None).min() == 0
    returned, _, err = call("run", path, tmp_path / "out.nii.gz", "--bundle", "none")
    assert returned == 0 and [line.split(": ")[1] for line in err.splitlines()] == ["W-CON-MISSED"]
    returned, out, _ = call("verify", path, tmp_path / "out.nii.gz")
    assert returned == 0 and out.splitlines()[-1].startswith("consistent, but for ")


@fault("I32")
def test_a_ct_has_no_values_below_those_of_scanners(call, tmp_path):
    """Sharp slices 5 mm apart that are said to be 8 mm thick."""
    z = np.arange(12) * 5.0
    stack = dicom_phantoms.slices(dicom_phantoms.Stack(tuple(z), rows=24, columns=24), SliceThickness=8.0)
    dicom_phantoms.write(tmp_path / "scan", stack)
    returned, _, err = call("run", tmp_path / "scan", tmp_path / "out.nii.gz", "--bundle", "none")
    written = nib.load(tmp_path / "out.nii.gz").get_fdata()
    acquired = read_image(tmp_path / "scan")
    span = float(acquired.max() - acquired.min())
    assert returned == 0
    assert written.min() >= min(-1024, float(acquired.min())) and written.max() <= float(acquired.max()) + 0.5 * span
    assert err == ""  # and still the averages are those of the slices


@fault("I32", "W-OUT-RANGE")
def test_signal_far_beyond_the_acquired_values_gives_a_warning(call, tmp_path):
    path = nifti(tmp_path, np.where(noise() > 250, 300, 20).astype(np.float32))
    options = ("--bundle", "none", "--slice-thickness", "8")
    returned, _, err = call("run", path, tmp_path / "out.nii.gz", *options)
    assert returned == 0 and [line.split(": ")[1] for line in err.splitlines()] == ["W-OUT-RANGE", "W-SR-TEXTURE"]


@fault("I26")
@pytest.mark.parametrize("padding", [-2000, -3024])
def test_padding_of_a_ct_is_put_back_and_does_not_bleed(tmp_path, padding):
    data = RNG.integers(-1000, 1000, (12, 11, 6)).astype(np.int16)
    outside = np.zeros(data.shape, dtype=bool)
    outside[:3], outside[9:, :, :2] = True, True  # all the way, and in the first slices only
    air = super_resolve(read_image(nifti(tmp_path, np.where(outside, -1000, data).astype(np.int16))), None)
    padded = super_resolve(read_image(nifti(tmp_path, np.where(outside, padding, data).astype(np.int16))), None)
    outside = torch.from_numpy(outside.repeat(4, axis=2))
    assert torch.all(padded[0][outside] == padding)
    torch.testing.assert_close(padded[0][~outside], air[0][~outside], atol=1e-3, rtol=0)
    assert padded.meta["padding_share"] == pytest.approx((3 * 6 + 3 * 2) / (12 * 6))
    assert "padding_share" not in air.meta


@fault("I27")
def test_what_a_network_is_given_at_once_does_not_grow_with_the_volume():
    """The volume itself is held in memory; what the network needs for it is bounded."""
    sizes = []
    for slices in (40, 160):
        image = phantoms.constant(phantoms.grid((16, 16, slices), (1.0, 1.0, 2.0)))
        image[:] = torch.rand(16, 16, slices)
        network = Spy()
        super_resolve(image, network, tile_voxels=8000)
        sizes.append((max(part.numel() for part in network.seen), len(network.seen)))
    assert sizes[1][0] <= 1.1 * sizes[0][0] < 16000
    assert sizes[1][1] >= 3 * sizes[0][1] > 3


# ------------------------------------------------------------- bundles


def copied(folder: Path, short: str = "pyramid") -> Path:
    """A shipped bundle somewhere else."""
    target = folder / "elsewhere"
    shutil.copytree(bundle_path(short), target, ignore=shutil.ignore_patterns("docs", "*.ts"))
    return target


@fault("W01", "E-W-MISSING")
@fault("W02", "E-W-HASH")
@fault("W05", "E-W-SHAPE")
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: path.unlink(), "E-W-MISSING"),
        (lambda path: path.write_bytes(b""), "E-W-HASH"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "E-W-HASH"),
        (lambda path: path.write_text("<html>404</html>"), "E-W-HASH"),
        (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path)), "E-W-HASH"),
        (lambda path: torch.save(torch.zeros(3), path), "E-W-SHAPE"),
        (lambda path: torch.save({"weight": torch.zeros(3)}, path), "E-W-SHAPE"),
        (lambda path: torch.save(PyramidNet(features=4, depth=2).state_dict(), path), "E-W-SHAPE"),
        (lambda path: torch.save(ResidualNet(4, 4).state_dict(), path), "E-W-SHAPE"),
    ],
    ids=[
        *("missing", "empty", "truncated", "web page", "TorchScript"),
        *("not a dictionary", "other keys", "other shapes", "another network"),
    ],
)
@pytest.mark.parametrize("short", NAMES)
def test_weights_that_cannot_be_used_are_exit_code_7(call, tmp_path, short, damage, code):
    folder = copied(tmp_path, short)
    damage(folder / "models" / "model.pt")
    returned, _, err = call("run", nifti(tmp_path), tmp_path / "out.nii", "--bundle", folder, "--trust-bundle")
    assert returned == 7
    assert err.startswith(f"monai-sr: {code}: {folder / 'models' / 'model.pt'} - ") and " Fix: " in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.nii").exists()


@fault("W02", "E-W-HASH")
@pytest.mark.parametrize("short", NAMES)
def test_monai_s_own_run_verifies_the_weights_too(tmp_path, short):
    """Its CheckpointLoader reads them by torch alone."""
    folder = copied(tmp_path, short)

    def initialize():
        parser = ConfigParser()
        parser.read_config(str(folder / "configs" / "inference.json"))
        parser["bundle_root"] = str(folder)
        parser.get_parsed_content("initialize")

    initialize()
    content = bytearray((folder / "models" / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "models" / "model.pt").write_bytes(content)
    torch.load(folder / "models" / "model.pt", weights_only=True)  # reads other weights, silently
    with pytest.raises((BundleError, RuntimeError)) as caught:  # MONAI puts its own around ours
        initialize()
    errors: list[BaseException] = [caught.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert "E-W-HASH" in " ".join(map(str, errors))


@fault("W02", "E-W-HASH")
def test_weights_that_call_themselves_a_folder_are_refused(tmp_path):
    """torch reads nothing of such an entry and takes whatever lay in memory."""
    path = tmp_path / "model.pt"
    torch.save(PyramidNet(features=4, depth=2).state_dict(), path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2", content.index(b"PK\1\2") + 4) + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(BundleError, match="E-W-HASH"):
        load_weights(PyramidNet(features=4, depth=2), path)


@fault("W02", "E-W-HASH")
def test_no_flipped_bit_of_the_weights_is_loaded_silently(tmp_path):
    network = PyramidNet(features=4, depth=2)
    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path)
    content = path.read_bytes()
    refused = 0
    for offset in RNG.permutation(len(content))[:200]:
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(RNG.integers(8))
        path.write_bytes(damaged)
        other = PyramidNet(features=4, depth=2)
        try:
            load_weights(other, path)
        except BundleError as error:
            refused += error.code == "E-W-HASH"
        else:  # in what the zip does not protect, such as dates
            assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert refused > 100


class Canary:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@fault("W03", "E-W-HASH")
@pytest.mark.parametrize("old_format", [False, True])
def test_a_hostile_pickle_does_not_run(call, tmp_path, old_format):
    folder = copied(tmp_path)
    hostile = {"weight": Canary(tmp_path / "canary")}
    torch.save(hostile, folder / "models" / "model.pt", _use_new_zipfile_serialization=not old_format)
    returned, _, err = call("run", nifti(tmp_path), tmp_path / "out.nii", "--bundle", folder, "--trust-bundle")
    assert returned == 7 and err.startswith("monai-sr: E-W-HASH: ")
    assert not (tmp_path / "canary").exists()


@fault("W04", "E-W-TRUST")
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_foreign_bundle_runs_no_code_until_it_is_trusted(call, tmp_path, command):
    folder = copied(tmp_path)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] = f"$__import__('os').mkdir({str(tmp_path / 'canary')!r})"
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    volume = nifti(tmp_path)
    words = [volume, tmp_path / "out.nii"] if command == "run" else [volume]
    returned, _, err = call(command, *words, "--bundle", folder)
    assert returned == 7
    assert err.startswith(f"monai-sr: E-W-TRUST: {folder} - ") and "--trust-bundle" in err
    assert not (tmp_path / "canary").exists()
    call(command, *words, "--bundle", folder, "--trust-bundle")
    assert (tmp_path / "canary").exists()


@fault("W04", "E-W-TRUST")
def test_no_name_leads_out_of_the_place_of_shipped_bundles(tmp_path, monkeypatch):
    folder = copied(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAMES["residual"]).symlink_to(folder, target_is_directory=True)
    up = os.path.relpath(folder, bundle_path("pyramid").parent)
    for name in ("elsewhere", NAMES["residual"] + "/", up, folder):
        if Path(name).name in NAMES.values():
            continue  # a shipped bundle of that name comes first
        with pytest.raises(BundleError, match="E-W-TRUST"):
            load_bundle(name, device="cpu")
    assert load_bundle(folder, device="cpu", trust_bundle=True).name == "elsewhere"
    assert load_bundle(bundle_path("pyramid"), device="cpu").name == NAMES["pyramid"]


@fault("W06")
@fault("W07")
@pytest.mark.parametrize("short", NAMES)
def test_a_bundle_runs_without_network_and_home_and_writes_nothing(call, tmp_path, monkeypatch, short):
    def offline(*_):
        raise AssertionError("something was asked of the network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    before = {path: path.stat().st_mtime_ns for path in bundle_path(short).rglob("*")}
    assert call("run", nifti(tmp_path), tmp_path / "out.nii", "--bundle", short, "--device", "cpu")[::2] == (0, "")
    assert {path: path.stat().st_mtime_ns for path in bundle_path(short).rglob("*")} == before
    assert not (tmp_path / "nowhere").exists()


# ------------------------------------------------------------- names and privacy


@fault("Z04")
def test_no_text_of_a_header_decides_where_or_under_which_name_a_result_lies(call, tmp_path):
    """Every text of these headers is ``../../etc/x^y CANARY``."""
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(series=1))
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(series=2, modality="MR", SeriesDescription="a/b:*\n"))
    before = set(tmp_path.rglob("*"))
    assert call("run", tmp_path / "in", tmp_path / "out", "--bundle", "none", "--factor", "2")[0] == 0
    made = {path.relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before - {tmp_path / "out"}}
    series = {path.parts[0] for path in made if len(path.parts) == 2}
    assert len(series) == 2
    logs = {"monai-sr-run.jsonl", "monai-sr-run.tsv"}
    assert {str(path) for path in made if len(path.parts) == 1} == series | {f"{name}.json" for name in series} | logs
    for name in series:
        assert name.removeprefix("series-").isalnum() and len(name) == len("series-") + 12
    assert all(path.parts[1].removesuffix(".dcm").isdigit() for path in made if len(path.parts) == 2)


@fault("P01")
def test_nothing_of_a_patient_is_in_a_message_or_its_traceback(call, tmp_path):
    faults = {
        "gap": dicom_phantoms.Stack((0.0, 4.0, 8.0, 16.0, 20.0, 24.0)),
        "few": dicom_phantoms.Stack((0.0, 4.0)),
    }
    for name, stack in faults.items():
        dicom_phantoms.write(tmp_path / name, dicom_phantoms.slices(stack))
        for target in (tmp_path / "out", tmp_path / "out.nii"):
            returned, out, err = call("run", tmp_path / name, target, "--bundle", "none", "--debug")
            assert returned == 5
            assert "Traceback" in err
            assert dicom_phantoms.tells_nothing(out, err)
