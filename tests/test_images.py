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
from monai.data import MetaTensor
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_sr.errors import ImageError, ImageWarning, InputMissingError, OutputError, UsageError
from monai_sr.images import as_stored, read_image, write_atomically, write_image

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
        image = nib.Nifti1Image(voxels() if data is None else data, affine_of("RAS") if affine is None else affine)
        for key, value in header.items():
            image.header[key] = value
        path = tmp_path / name
        nib.save(image, path)
        return path

    return make


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


# ------------------------------------------------------------- bad files, by the ids of the fault catalogue


def code_of(path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "Fix: " in message
    assert "\n" not in message
    return caught.value.code


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputMissingError, match=r"E-IO-MISSING.*nowhere"):
        read_image(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_i01_a_truncated_gzip_is_refused(nifti, share):
    path = nifti()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert code_of(path) == "E-IO-TRUNC"


def test_i02_flipped_bits_in_gzip_are_never_read_silently(nifti):
    path = nifti(data=voxels((20, 20, 12)))
    content = bytearray(path.read_bytes())
    for offset in RNG.integers(20, len(content), 60):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(RNG.integers(0, 8))
        path.write_bytes(damaged)
        assert code_of(path) in ("E-IO-CRC", "E-IO-TRUNC", "E-IO-TYPE")


def test_i03_a_wrong_checksum_is_refused(nifti):
    path = nifti()
    content = bytearray(path.read_bytes())
    content[-8] ^= 255
    path.write_bytes(content)
    assert code_of(path) == "E-IO-CRC"


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "0 bytes"), (b"just some words\n", "text"), (b"<!DOCTYPE html><html>404</html>", "HTML")],
)
def test_i04_what_is_no_image_is_told(tmp_path, content, word):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    assert code_of(path) == "E-IO-TYPE"
    with pytest.raises(ImageError, match=word):
        read_image(path)


def test_i05_content_counts_and_not_the_name(nifti, tmp_path):
    packed, plain = nifti("a.nii.gz"), nifti("b.nii", data=voxels())
    as_plain, as_packed = tmp_path / "c.nii", tmp_path / "d.nii.gz"
    as_plain.write_bytes(packed.read_bytes())
    as_packed.write_bytes(plain.read_bytes())
    with pytest.warns(ImageWarning, match="W-IO-NAME.*c.nii.gz"):
        assert torch.equal(read_image(as_plain), read_image(packed))
    with pytest.warns(ImageWarning, match="W-IO-NAME.*d.nii"):
        assert torch.equal(read_image(as_packed), read_image(plain))


def test_i06_a_short_uncompressed_file_is_refused(nifti):
    path = nifti("a.nii")
    path.write_bytes(path.read_bytes()[:-100])
    assert code_of(path) == "E-IO-TRUNC"


@pytest.mark.parametrize(
    "dim", [[3, 30000, 30000, 30000, 1, 1, 1, 1], [3, 12, -4, 6, 1, 1, 1, 1], [3, 0, 4, 6, 1, 1, 1, 1]]
)
def test_i07_absurd_dimensions_are_refused_before_any_memory_is_taken(nifti, dim):
    path = nifti("a.nii")
    content = bytearray(path.read_bytes())
    content[40:56] = np.array(dim, dtype="<i2").tobytes()
    path.write_bytes(content)
    assert code_of(path) == "E-HDR-DIM"


def header_edited(path, offset, values, dtype="<f4"):
    content = bytearray(gzip.decompress(path.read_bytes()))
    raw = np.array(values, dtype=dtype).tobytes()
    content[offset : offset + len(raw)] = raw
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def test_i08_an_affine_with_nan_is_refused_or_replaced_by_a_valid_qform(nifti):
    path = nifti()
    header_edited(path, 280, [np.nan] * 4)
    assert code_of(path) == "E-HDR-AFFINE"
    header_edited(path, 252, [1], "<i2")  # a qform stands beside it
    with pytest.warns(ImageWarning, match="W-HDR-AFFINE"):
        image = read_image(path)
    np.testing.assert_allclose(image.affine.numpy(), affine_of("RAS"), atol=1e-5)


def test_i09_forms_that_disagree_are_told(nifti):
    path = nifti()
    header_edited(path, 252, [1], "<i2")
    header_edited(path, 268, [50.0])  # qoffset_x
    with pytest.warns(ImageWarning, match="W-HDR-FORMS.*sform is used"):
        image = read_image(path)
    np.testing.assert_allclose(image.affine.numpy(), affine_of("RAS"), atol=1e-5)


def test_i10_no_orientation_is_told(nifti):
    path = nifti()
    header_edited(path, 252, [0, 0], "<i2")
    with pytest.warns(ImageWarning, match="W-HDR-NOFORM"):
        image = read_image(path)
    np.testing.assert_allclose(image.affine.numpy(), np.diag([0.7, 0.8, 3, 1]), atol=1e-6)


def test_i11_zero_spacing_is_refused(nifti):
    path = nifti()
    header_edited(path, 88, [0.0])
    assert code_of(path) == "E-HDR-SPACING"


def test_i12_a_sheared_affine_is_refused_and_rounding_is_straightened(nifti):
    sheared = affine_of("RAS")
    sheared[0, 1] = 0.1
    assert code_of(nifti(affine=sheared)) == "E-HDR-SHEAR"
    sheared[0, 1] = 0.0004
    fixed = read_image(nifti(affine=sheared)).affine.numpy()[:3, :3]
    assert abs(fixed[:, 0] @ fixed[:, 1]) < 1e-9


def test_i14_micrometres_become_millimetres(nifti):
    path = nifti(affine=np.diag([700.0, 800.0, 3000.0, 1.0]), xyzt_units=3)
    np.testing.assert_allclose(read_image(path).affine.numpy(), np.diag([0.7, 0.8, 3.0, 1.0]))
    assert code_of(nifti("b.nii.gz", affine=np.diag([700.0, 800.0, 3000.0, 1.0]), xyzt_units=2)) == "E-HDR-UNITS"


def test_i15_nan_voxels_are_counted_and_filled(nifti):
    data = voxels(dtype=np.float32) + 5
    data[2, 3, 4] = np.nan
    data[0, 0, 0] = np.inf
    with pytest.warns(ImageWarning, match="W-IMG-NAN.* 2 voxels"):
        image = read_image(nifti(data=data))
    assert torch.isfinite(image).all()
    assert image[0, 2, 3, 4] == image.min()
    assert code_of(nifti("b.nii.gz", data=np.full((4, 4, 4), np.nan, np.float32))) == "E-IMG-NAN"


def test_i16_a_constant_volume_is_refused(nifti):
    assert code_of(nifti(data=np.full((5, 5, 5), 7, np.int16))) == "E-IMG-CONST"


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (1, 16, 16)])
def test_i17_a_single_slice_is_refused(nifti, shape):
    assert code_of(nifti(data=voxels(shape))) == "E-IMG-2D"


def test_i18_several_volumes_are_refused_but_a_trailing_axis_of_one_is_not(nifti):
    assert code_of(nifti(data=voxels((6, 6, 6, 3)))) == "E-IMG-4D"
    assert read_image(nifti("b.nii.gz", data=voxels((6, 6, 6, 1)))).shape == (1, 6, 6, 6)


@pytest.mark.parametrize("kind", ["rgb", "complex"])
def test_i19_colors_and_complex_numbers_are_refused(nifti, kind):
    rgb = np.zeros((6, 6, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    data = rgb if kind == "rgb" else np.zeros((6, 6, 6), np.complex64)
    assert code_of(nifti(data=data)) == "E-IMG-DTYPE"


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


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)])
def test_d12_a_series_is_read_by_position_in_hu_and_lies_where_simpleitk_says(series, orientation):
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
