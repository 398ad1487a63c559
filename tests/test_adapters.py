"""Images of other libraries: taken as their files would be, and given back as what they were."""

import nibabel as nib
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_sr.bundles import load_bundle
from monai_sr.errors import ImageError, SuperResolutionWarning, UsageError
from monai_sr.grid import grid_of
from monai_sr.inference import super_resolve
from monai_sr.io.adapters import as_volume
from monai_sr.io.images import read_image, write_image

ORIENTATIONS = list(phantoms.ORIENTATIONS)


def drawn(orientation: str = "RAS", dtype: str = "int16", axis: int = 2) -> MetaTensor:
    spacing = [1.0, 1.2, 1.1]
    spacing[axis] = 4.0
    image = phantoms.known_value(phantoms.grid((9, 8, 7), tuple(spacing), orientation=orientation)).round()
    image.meta["stored_dtype"] = dtype
    return image


def by_file(image: MetaTensor, folder, suffix: str, **options) -> MetaTensor:
    """Write, read, super-resolve, write and read again."""
    write_image(image, folder / f"in{suffix}")
    write_image(super_resolve(read_image(folder / f"in{suffix}"), None, **options), folder / f"out{suffix}")
    return read_image(folder / f"out{suffix}")


def nifti_of(image: MetaTensor, dtype: str = "int16") -> nib.Nifti1Image:
    return nib.Nifti1Image(image[0].numpy().astype(dtype), image.affine.numpy())


def itk_of(image: MetaTensor, folder) -> sitk.Image:
    """By a file that nibabel writes and SimpleITK reads, so that we take no part in the change of axes."""
    nib.save(nifti_of(image), folder / "drawn.nii")
    return sitk.ReadImage(str(folder / "drawn.nii"))


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_nibabel_image_gives_what_its_file_gives(orientation, axis, tmp_path):
    image = drawn(orientation, axis=axis)
    expected = by_file(image, tmp_path, ".nii.gz")
    sr = super_resolve(nifti_of(image), None)
    assert type(sr) is nib.Nifti1Image
    assert sr.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(sr.dataobj), expected[0].numpy())
    np.testing.assert_allclose(sr.affine, expected.affine, atol=1e-5)
    stored = nib.load(tmp_path / "out.nii.gz")
    assert sr.header["descrip"] == stored.header["descrip"]
    assert sr.header["qform_code"] == stored.header["qform_code"] == 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_simpleitk_image_gives_what_its_file_gives(orientation, tmp_path):
    image = drawn(orientation)
    expected = by_file(image, tmp_path, ".nrrd")
    sr = super_resolve(itk_of(image, tmp_path), None)
    assert isinstance(sr, sitk.Image)
    assert sr.GetPixelID() == sitk.sitkInt16
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sr).T, expected[0].numpy())
    sitk.WriteImage(sr, str(tmp_path / "theirs.nii"))  # in RAS again, by ITK's own writer
    np.testing.assert_allclose(nib.load(tmp_path / "theirs.nii").affine, expected.affine, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "int64"])
def test_an_array_with_its_affine_gives_an_array_with_its_affine(dtype, tmp_path):
    image = drawn("oblique LPS", dtype="float32")
    image = (image - image.min()) / 5 + 50  # within every type, also where the spline overshoots
    kept = np.dtype(dtype).itemsize <= 4
    image = image.round()
    image.meta["stored_dtype"] = dtype if kept else "float32"
    expected = by_file(image, tmp_path, ".nii", factor=2.5)
    array, affine = super_resolve((image[0].numpy().astype(dtype), image.affine.numpy()), None, factor=2.5)
    assert array.dtype == (dtype if kept else "float32")
    np.testing.assert_array_equal(array, expected[0].numpy())
    np.testing.assert_allclose(affine, expected.affine, atol=1e-5)


def test_a_metatensor_stays_one_and_keeps_what_it_knows():
    image = drawn()
    image.meta["slice_thickness"] = 2.0
    sr = super_resolve(image, None)
    assert isinstance(sr, MetaTensor)
    assert sr.dtype == torch.float32
    assert sr.meta["super_resolved"]
    assert not torch.equal(sr, super_resolve(drawn(), None))


def test_every_image_type_gives_the_same_voxels_in_the_same_place(tmp_path):
    image = drawn("oblique", dtype="float32")
    expected = super_resolve(image, None, factor=3)
    single = nifti_of(image, "float32")
    nib.save(single, tmp_path / "in.nii")
    by_nibabel = super_resolve(single, None, factor=3)
    by_itk = super_resolve(sitk.ReadImage(str(tmp_path / "in.nii")), None, factor=3)
    by_array, affine = super_resolve((image[0].numpy(), image.affine.numpy()), None, factor=3)
    for voxels in (np.asarray(by_nibabel.dataobj), sitk.GetArrayFromImage(by_itk).T, by_array):
        np.testing.assert_allclose(voxels, expected[0].numpy(), atol=1e-3)
    np.testing.assert_allclose(affine, expected.affine, atol=1e-9)
    corner = [8, 7, 20]
    world = (by_nibabel.affine @ [*corner, 1])[:3]
    x, y, z = by_itk.TransformIndexToPhysicalPoint(corner)
    np.testing.assert_allclose((-x, -y, z), world, atol=1e-3)


def test_a_bundle_takes_and_gives_them_too(tmp_path):
    image, model = drawn(), load_bundle("residual", device="cpu")
    write_image(image, tmp_path / "in.nii.gz")
    write_image(model(read_image(tmp_path / "in.nii.gz"), factor=2), tmp_path / "out.nii.gz")
    sr = model(nib.load(tmp_path / "in.nii.gz"), factor=2)
    np.testing.assert_array_equal(np.asarray(sr.dataobj), np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj))
    array, _ = model((image[0].numpy().astype(np.int16), image.affine), factor=2)
    np.testing.assert_array_equal(array, np.asarray(sr.dataobj))


def test_a_scaled_file_is_taken_as_it_is_read(tmp_path):
    image = drawn(dtype="float32")
    scaled = nib.Nifti1Image(image[0].numpy().astype(np.int16), image.affine.numpy())
    scaled.header.set_slope_inter(0.37, 11.0)
    scaled = nib.Nifti1Image(image[0].numpy() * 0.37 + 11, image.affine.numpy(), scaled.header)
    nib.save(scaled, tmp_path / "scaled.nii")
    loaded = nib.load(tmp_path / "scaled.nii")
    assert loaded.dataobj.slope != 1
    volume, _ = as_volume(loaded)
    expected = read_image(tmp_path / "scaled.nii")
    assert torch.equal(volume.as_tensor(), expected.as_tensor())
    assert volume.meta["stored_dtype"] == expected.meta["stored_dtype"] == "float32"


def test_an_affine_that_was_changed_in_memory_counts():
    image = nifti_of(drawn())
    image.affine[:3, 3] += 100
    assert np.allclose(grid_of(as_volume(image)[0]).affine, image.affine)
    image.set_sform(None)
    image.set_qform(None)
    with pytest.warns(SuperResolutionWarning, match="W-HDR-NOFORM"):
        as_volume(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header))


def test_time_points_are_super_resolved_each_by_itself():
    one, other = drawn(dtype="float32"), 3 * drawn(dtype="float32")
    series = nib.Nifti1Image(np.stack([one[0].numpy(), other[0].numpy()], axis=-1), one.affine.numpy())
    series.header.set_zooms((1.0, 1.2, 4.0, 2.5))
    sr = super_resolve(series, None, factor=2)
    assert sr.shape == (9, 8, 14, 2)
    assert sr.header.get_zooms()[3] == 2.5
    for index, volume in enumerate((one, other)):
        single = super_resolve(nifti_of(volume, "float32"), None, factor=2)
        np.testing.assert_array_equal(np.asarray(sr.dataobj)[..., index], np.asarray(single.dataobj))


def test_a_freesurfer_volume_stays_one():
    image = drawn(dtype="float32")
    sr = super_resolve(nib.MGHImage(image[0].numpy(), image.affine.numpy()), None, factor=2)
    assert isinstance(sr, nib.MGHImage)
    np.testing.assert_allclose(np.asarray(sr.dataobj), super_resolve(image, None, factor=2)[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda voxels, affine: (voxels * 0, affine), "E-IMG-CONST"),
        (lambda voxels, affine: (voxels + 1j, affine), "E-IMG-DTYPE"),
        (lambda voxels, affine: (voxels, affine * np.nan), "E-HDR-AFFINE"),
        (lambda voxels, affine: (voxels, affine + np.eye(4, k=1)), "E-HDR-SHEAR"),
        (lambda voxels, affine: (voxels[..., 0], affine), "E-IMG-2D"),
        (lambda voxels, affine: (np.full_like(voxels, np.nan), affine), "E-IMG-NAN"),
    ],
)
def test_what_is_wrong_with_a_file_is_wrong_with_an_array(spoil, code):
    image = drawn()
    with pytest.raises(ImageError, match=code):
        super_resolve(spoil(image[0].numpy(), image.affine.numpy()), None)


def test_a_transposed_affine_is_refused():
    """Its translation would be lost and the result lie elsewhere."""
    image = drawn()
    with pytest.raises(ImageError, match="E-HDR-AFFINE"):
        super_resolve((image[0].numpy(), image.affine.numpy().T), None)


def test_nan_in_a_tensor_is_refused():
    image = drawn()
    image[0, 2, 3, 4] = torch.nan
    with pytest.raises(ImageError, match="E-IMG-NAN"):
        super_resolve(image, None, modality="MR")


def test_nan_in_an_array_is_filled_with_a_warning():
    voxels = drawn()[0].numpy().copy()
    voxels[2, 3, 4] = np.nan
    with pytest.warns(SuperResolutionWarning, match="W-IMG-NAN: .* 1 of 504 "):
        array, _ = super_resolve((voxels, drawn().affine.numpy()), None)
    assert np.isfinite(array).all()


def test_other_objects_are_refused_with_the_supported_types():
    for thing in ("scan.nii.gz", drawn()[0].numpy(), (drawn()[0].numpy(),), None):
        with pytest.raises(UsageError, match=r"E-USE.*read_image"):
            super_resolve(thing, None)
    with pytest.raises(ImageError, match=r"E-IMG-2D.*3 "):
        super_resolve(sitk.Image(4, 4, sitk.sitkFloat32), None)
    with pytest.raises(ImageError, match=r"E-IMG-4D.*image\[:, :, :, 0\]"):
        super_resolve(sitk.Image([4, 4, 4, 2], sitk.sitkFloat32), None)
