"""Files in and out: what is sound survives the round trip, what is not is named."""

import contextlib
import gzip
import warnings
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from catalogue import fault
from monai.data import MetaTensor
from nifti_tools import save_nifti
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_sr.errors import ImageError, InputMissingError, OutputError, SuperResolutionWarning, UsageError
from monai_sr.files import write_atomically
from monai_sr.io.images import as_stored, read_image, write_image

RNG = np.random.default_rng(0)


def affine_of(kind: str) -> np.ndarray:
    """A grid with 0.7 x 0.8 x 3 mm voxels in one of several orientations."""
    diagonal = np.diag([0.7, 0.8, 3.0])
    turn = {
        "RAS": np.eye(3),
        "LAS": np.diag([-1.0, 1, 1]),
        "LPS": np.diag([-1.0, -1, 1]),
        "PIR": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
        "oblique": phantoms_rotation(),
    }[kind]
    affine = np.eye(4)
    affine[:3, :3] = turn @ diagonal
    affine[:3, 3] = (-20.5, 13.25, 7.75)
    return affine


def phantoms_rotation() -> np.ndarray:
    """A proper rotation by 20 and 35 degrees about two axes."""
    a, b = np.radians([20, 35])
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return first @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])


def voxels(shape=(12, 10, 6), dtype=np.int16):
    return RNG.integers(0, 200, shape).astype(dtype)


@pytest.fixture
def nifti(tmp_path):
    """Write a NIfTI file; options change the header before saving."""

    def make(name="scan.nii.gz", data=None, affine=None, **header):
        data, affine = voxels() if data is None else data, affine_of("RAS") if affine is None else affine
        return save_nifti(tmp_path / name, data, affine, **header)

    return make


@fault("I13")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", ["RAS", "LAS", "LPS", "PIR", "oblique"])
def test_a_volume_survives_writing_and_reading_in_every_format_and_orientation(tmp_path, suffix, kind):
    data, affine = voxels(), affine_of(kind)
    image = MetaTensor(torch.from_numpy(data)[None].float(), torch.from_numpy(affine), meta={"stored_dtype": "int16"})
    again = read_image(write_image(image, tmp_path / f"scan{suffix}"))
    assert np.array_equal(again[0].numpy(), data)
    np.testing.assert_allclose(again.affine.numpy(), affine, atol=2e-6)
    assert again.meta["stored_dtype"] == "int16"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_the_voxel_type_of_the_file_is_kept(nifti, tmp_path, dtype):
    path = nifti(data=voxels(dtype=dtype))
    write_image(read_image(path), tmp_path / "again.nii.gz")
    again = nib.load(tmp_path / "again.nii.gz")
    assert again.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(again.dataobj), np.asarray(nib.load(path).dataobj))


def test_scaled_integers_are_read_in_their_units_and_kept_as_float(nifti, tmp_path):
    path = nifti(data=voxels(), scl_slope=0.25, scl_inter=-5)
    raw = nib.load(path)
    raw.header.set_slope_inter(0.25, -5)
    nib.save(raw, path)
    expected = nib.load(path).get_fdata(dtype=np.float32)
    image = read_image(path)
    np.testing.assert_allclose(image[0].numpy(), expected, rtol=1e-6)
    assert image.meta["stored_dtype"] == "float32"


@fault("I25")
def test_values_beyond_the_type_are_held_at_its_ends_and_never_wrapped():
    stored = as_stored(np.array([70000.0, -70000.0, 12.5, -1.4, 13.5]), np.dtype("int16"))
    assert stored.tolist() == [32767, -32768, 12, -1, 14]
    assert as_stored(np.array([-3.0, 300.0]), np.dtype("uint8")).tolist() == [0, 255]


def test_equal_results_are_equal_files(tmp_path):
    image = MetaTensor(torch.from_numpy(voxels())[None].float(), torch.from_numpy(affine_of("oblique")))
    first, second = write_image(image, tmp_path / "a.nii.gz"), write_image(image, tmp_path / "b.nii.gz")
    assert first.read_bytes() == second.read_bytes()


def test_simpleitk_agrees_on_where_voxels_lie(tmp_path):
    image = MetaTensor(torch.from_numpy(voxels())[None].float(), torch.from_numpy(affine_of("oblique")))
    path = write_image(image, tmp_path / "a.nii.gz")
    reader = sitk.ReadImage(str(path))
    world = reader.TransformContinuousIndexToPhysicalPoint((3.0, 4.0, 5.0))
    expected = (affine_of("oblique") @ [3, 4, 5, 1])[:3] * [-1, -1, 1]
    np.testing.assert_allclose(world, expected, atol=1e-4)


# ------------------------------------------------------------- bad files; most are in test_faults.py


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputMissingError, match=r"E-IO-MISSING.*nowhere"):
        read_image(tmp_path / "nowhere.nii.gz")


@fault("I05", "W-IO-NAME")
def test_content_counts_and_not_the_name(nifti, tmp_path):
    packed, plain = nifti("a.nii.gz"), nifti("b.nii", data=voxels())
    as_plain, as_packed = tmp_path / "c.nii", tmp_path / "d.nii.gz"
    as_plain.write_bytes(packed.read_bytes())
    as_packed.write_bytes(plain.read_bytes())
    with pytest.warns(SuperResolutionWarning, match="W-IO-NAME.*c.nii.gz"):
        assert torch.equal(read_image(as_plain), read_image(packed))
    with pytest.warns(SuperResolutionWarning, match="W-IO-NAME.*d.nii"):
        assert torch.equal(read_image(as_packed), read_image(plain))


def header_edited(path, offset, values, dtype="<f4"):
    content = bytearray(gzip.decompress(path.read_bytes()))
    raw = np.array(values, dtype=dtype).tobytes()
    content[offset : offset + len(raw)] = raw
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@fault("I08", "W-HDR-AFFINE")
def test_an_sform_of_nan_is_replaced_by_a_valid_qform(nifti):
    path = nifti()
    header_edited(path, 280, [np.nan] * 4)
    header_edited(path, 252, [1], "<i2")  # a qform stands beside it
    with pytest.warns(SuperResolutionWarning, match="W-HDR-AFFINE"):
        image = read_image(path)
    np.testing.assert_allclose(image.affine.numpy(), affine_of("RAS"), atol=1e-5)


def test_any_order_of_damage_is_an_image_error_and_nothing_else(nifti):
    path = nifti("a.nii", data=voxels((6, 6, 6)))
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        for offset in RNG.integers(0, 352, 3):
            damaged[offset] = int(RNG.integers(0, 256))
        path.write_bytes(damaged)
        with warnings.catch_warnings(), contextlib.suppress(ImageError):
            warnings.simplefilter("ignore")
            read_image(path)


# ------------------------------------------------------------- output


def sample(tmp_path):
    return MetaTensor(torch.from_numpy(voxels())[None].float(), torch.from_numpy(affine_of("RAS")))


def test_an_unknown_output_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"E-OUT-FORMAT.*\.xyz"):
        write_image(sample(tmp_path), tmp_path / "out.xyz")


def test_a_missing_output_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="E-OUT-FOLDER"):
        write_image(sample(tmp_path), tmp_path / "none" / "out.nii.gz")


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "out.nii.gz"
    target.write_bytes(b"before")

    def half(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="E-OUT-SPACE"):
        write_atomically(target, half)
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]
    assert target.read_bytes() == b"before"


# ------------------------------------------------------------- DICOM


@pytest.fixture
def series(tmp_path):
    """A CT series as files with shuffled names; ``change(index, dataset)`` edits a slice before it is written."""

    def make(name="series", count=6, change=None, step=3.0, orientation=(1, 0, 0, 0, 1, 0)):
        folder = tmp_path / name
        folder.mkdir()
        uid, study, frame = generate_uid(), generate_uid(), generate_uid()
        rng = np.random.default_rng(1)
        stack = rng.integers(0, 2000, (count, 10, 12)).astype(np.int16)
        row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
        normal = np.cross(row, column)
        names = rng.permutation(count)
        for index in range(count):
            meta = pydicom.dataset.FileMetaDataset()
            meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one = pydicom.Dataset()
            one.file_meta = meta
            one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
            one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, uid, frame
            one.Modality, one.PatientName, one.PatientID = "CT", "Canary^Name", "Canary-7"
            one.StudyDate = one.StudyTime = one.AccessionNumber = one.StudyID = ""
            one.PatientBirthDate = one.PatientSex = one.ReferringPhysicianName = ""
            one.SeriesNumber, one.InstanceNumber = 1, index + 1
            one.Rows, one.Columns = 10, 12
            one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 2.5
            one.ImageOrientationPatient = list(orientation)
            one.ImagePositionPatient = list(np.array([-5.0, 4.0, 9.0]) + normal * step * index)
            one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
            one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
            one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
            one.PixelData = stack[index].tobytes()
            if change:
                change(index, one)
            one.save_as(folder / f"{names[index]:03d}.dcm", enforce_file_format=True)
        return folder, stack

    return make


@fault("D12")
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)])
def test_a_series_is_read_by_position_in_hu_and_lies_where_simpleitk_says(series, orientation):
    folder, stack = series(orientation=orientation)
    image = read_image(folder)
    assert image.meta["modality"] == "CT"
    assert image.meta["slice_thickness"] == 2.5
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    reference = sitk.ReadImage(names)
    theirs = sitk.GetArrayFromImage(reference)
    for index in [(0, 0, 0), (3, 4, 2), (11, 9, 5)]:
        world = np.array(reference.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        ours = np.linalg.inv(image.affine.numpy()) @ [*world, 1]
        at = tuple(np.rint(ours[:3]).astype(int))
        np.testing.assert_allclose(ours[:3], at, atol=1e-4)
        assert float(image[0][at]) == theirs[index[::-1]]
    assert float(image.min()) == stack.min() - 1024


def test_an_empty_folder_holds_no_series(tmp_path):
    with pytest.raises(InputMissingError, match=r"E-DCM-NONE.*no file at all"):
        read_image(tmp_path)


def test_the_gzip_module_raises_what_we_catch():
    # the reader relies on these types; a Python that changes them must fail here
    with pytest.raises((EOFError, zlib.error)):
        gzip.decompress(gzip.compress(b"x" * 1000)[:-12])
