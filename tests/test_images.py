"""Files in and out: what is sound survives the round trip, what is not is named."""

import contextlib
import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from catalogue import fault
from monai.data import MetaTensor
from nifti_tools import save_nifti

from monai_sr.errors import (
    ImageError,
    InputMissingError,
    OutputError,
    SuperResolutionError,
    SuperResolutionWarning,
    collect_notices,
    write_error,
)
from monai_sr.files import write_atomically
from monai_sr.io.images import as_stored, read_image, write_image

RNG = np.random.default_rng(0)


AFFINES = {name: phantoms.grid(spacing=(0.7, 0.8, 3.0), orientation=name).affine for name in phantoms.ORIENTATIONS}
AFFINES["PIR"] = np.array([[0, 0, 3.0, -20.5], [-0.7, 0, 0, 13.25], [0, -0.8, 0, 7.75], [0, 0, 0, 1]])


def voxels(shape=(12, 10, 6), dtype=np.int16):
    return RNG.integers(0, 200, shape).astype(dtype)


def image(orientation: str = "RAS", **meta) -> MetaTensor:
    return MetaTensor(torch.from_numpy(voxels())[None].float(), torch.from_numpy(AFFINES[orientation]), meta=meta)


@fault("I13")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("orientation", AFFINES)
def test_a_volume_survives_writing_and_reading_in_every_format_and_orientation(tmp_path, suffix, orientation):
    written = image(orientation, stored_dtype="int16")
    again = read_image(write_image(written, tmp_path / f"scan{suffix}"))
    assert torch.equal(again.as_tensor(), written.as_tensor())
    np.testing.assert_allclose(again.affine, written.affine, atol=2e-6)
    assert again.meta["stored_dtype"] == "int16"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_the_voxel_type_of_the_file_is_kept(tmp_path, dtype):
    path = save_nifti(tmp_path / "scan.nii.gz", voxels(dtype=dtype), AFFINES["RAS"])
    write_image(read_image(path), tmp_path / "again.nii.gz")
    again = nib.load(tmp_path / "again.nii.gz")
    assert again.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(again.dataobj), np.asarray(nib.load(path).dataobj))


def test_scaled_integers_are_read_in_their_units_and_kept_as_float(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz", voxels(), AFFINES["RAS"])
    raw = nib.load(path)
    raw.header.set_slope_inter(0.25, -5)
    nib.save(raw, path)
    read = read_image(path)
    np.testing.assert_allclose(read[0].numpy(), nib.load(path).get_fdata(dtype=np.float32), rtol=1e-6)
    assert read.meta["stored_dtype"] == "float32"


@fault("I25")
def test_values_beyond_the_type_are_clipped_and_never_wrapped():
    stored = as_stored(np.array([70000.0, -70000.0, 12.5, -1.4, 13.5]), np.dtype("int16"))
    assert stored.tolist() == [32767, -32768, 12, -1, 14]
    assert as_stored(np.array([-3.0, 300.0]), np.dtype("uint8")).tolist() == [0, 255]
    assert as_stored(np.float32([3e9, -3e9]), np.dtype("int32")).tolist() == [2**31 - 1, -(2**31)]


def test_equal_results_are_equal_files(tmp_path):
    written = image("oblique")
    first, second = (write_image(written, tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    assert first.read_bytes() == second.read_bytes()


def test_simpleitk_agrees_on_where_voxels_lie(tmp_path):
    reader = sitk.ReadImage(str(write_image(image("oblique"), tmp_path / "a.nii.gz")))
    world = reader.TransformContinuousIndexToPhysicalPoint((3.0, 4.0, 5.0))
    expected = (AFFINES["oblique"] @ [3, 4, 5, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(world, expected, atol=1e-4)


# ------------------------------------------------------------- bad files; most are in test_faults.py


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputMissingError, match=r"E-IO-MISSING.*nowhere"):
        read_image(tmp_path / "nowhere.nii.gz")


@fault("I05", "W-IO-NAME")
@pytest.mark.parametrize(("name", "other"), [("a.nii.gz", "b.nii"), ("a.nii", "b.nii.gz")])
def test_content_counts_and_not_the_name(tmp_path, name, other):
    expected = read_image(write_image(image(), tmp_path / name))
    (tmp_path / name).rename(tmp_path / other)
    with pytest.warns(SuperResolutionWarning, match="W-IO-NAME"):
        assert torch.equal(read_image(tmp_path / other), expected)


@fault("I08", "W-HDR-AFFINE")
def test_an_sform_of_nan_is_replaced_by_a_valid_qform(tmp_path):
    path = save_nifti(tmp_path / "a.nii", voxels(), AFFINES["RAS"], qform_code=1)
    content = bytearray(path.read_bytes())
    content[280:296] = np.full(4, np.nan, "<f4").tobytes()
    path.write_bytes(content)
    with pytest.warns(SuperResolutionWarning, match="W-HDR-AFFINE"):
        np.testing.assert_allclose(read_image(path).affine, AFFINES["RAS"], atol=1e-5)


def test_any_order_of_damage_is_an_image_error_and_nothing_else(tmp_path):
    path = save_nifti(tmp_path / "a.nii", voxels((6, 6, 6)), AFFINES["RAS"])
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for offset in RNG.integers(0, 352, 3):
            damaged[offset] = int(RNG.integers(0, 256))
        path.write_bytes(damaged)
        with collect_notices(), contextlib.suppress(ImageError):
            read_image(path)


def test_volumes_along_a_fifth_axis_are_those_of_a_fourth(tmp_path):
    """AFNI writes buckets so."""
    data = voxels((6, 5, 4, 1, 3))
    path = save_nifti(tmp_path / "bucket.nii", data, AFFINES["RAS"])
    assert np.array_equal(read_image(path, volume=2)[0].numpy(), data[..., 0, 2])
    assert read_image(path, volume="all").shape == (3, 6, 5, 4)


# ------------------------------------------------------------- output


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_an_affine_in_lps_is_written_to_its_place(tmp_path, suffix):
    """MONAI's ITKReader gives one with ``affine_lps_to_ras=False`` and says so in the metadata."""
    ras = image("RAS")
    lps = MetaTensor(ras.as_tensor(), torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)) @ ras.affine)
    lps.meta["space"] = "LPS"
    one, other = (write_image(it, tmp_path / f"{n}{suffix}").read_bytes() for n, it in enumerate((ras, lps)))
    assert one == other


@pytest.mark.parametrize(("name", "code"), [("out.xyz", "E-OUT-FORMAT"), ("none/out.nii.gz", "E-OUT-FOLDER")])
def test_an_output_that_cannot_be_written_is_named(tmp_path, name, code):
    with pytest.raises(SuperResolutionError, match=f"{code}.*{name[:4]}"):
        write_image(image(), tmp_path / name)


@fault("R05")
@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_why_a_file_could_not_be_written_decides_what_to_do(error):
    """SimpleITK gives a RuntimeError with the text of the system."""

    def answer(number: int) -> OutputError:
        text = f"Reason: {os.strerror(number)}"
        return write_error(Path("out.mha"), error(text) if error is RuntimeError else error(number, text))

    codes = [answer(number).code for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES)]
    assert codes == ["E-OUT-SPACE", "E-OUT-SPACE", "E-OUT-PERM", "E-OUT-PERM"]
    assert answer(errno.EFBIG).fix != answer(errno.EACCES).fix


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path, number):
    target = tmp_path / "out.nii.gz"
    target.write_bytes(b"before")

    def half(file):
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match="E-OUT-SPACE"):
        write_atomically(target, half)
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]
    assert target.read_bytes() == b"before"
