"""DICOM series as they come: found in trees, zips and multi-frame files, and read to where they lie."""

import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import catalogue
import dicom_phantoms
import numpy as np
import phantoms
import pydicom
import pytest
import SimpleITK as sitk
from dicom_phantoms import (
    ORIENTATIONS,
    Stack,
    anatomy_at,
    enhanced,
    even,
    read,
    read_one,
    save,
    slices,
    store,
    stored_of,
    tells_nothing,
    uid_of,
    update,
    write,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from monai_sr.acquired import Acquired
from monai_sr.dicom import acquisition, find_series, read_series, short_name
from monai_sr.dicom.pixels import read_frame
from monai_sr.errors import ImageError, InputMissingError, UsageError, collect_notices
from monai_sr.io.images import read_image

ROUNDING = 0.02
"""HU. Stored values are rounded to 1/64; a shift by 0.01 mm would show as 0.2 and more where it is steepest."""


def error_code(found) -> list[str]:
    return [error.code for _, error in found.broken]


# ------------------------------------------------------------- where voxels lie


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_lies_where_its_value_says(tmp_path, orientation):
    write(tmp_path, slices(Stack(orientation=orientation)))
    volume = read(tmp_path)
    assert volume.voxels.shape == (26, 22, 8)
    assert volume.voxels.dtype == np.float32 and volume.affine.dtype == np.float64
    assert np.linalg.norm(volume.affine[:3, :3], axis=0) == pytest.approx([1.25, 1.5, 4.0])
    assert volume.error().max() < ROUNDING
    assert volume.warnings == [] and "slice_positions" not in volume.meta


@pytest.mark.parametrize("orientation", ["axial ++", "sagittal -+", "oblique"])
def test_slices_of_uneven_spacing_lie_where_they_were_acquired(tmp_path, orientation):
    offsets = np.array([-15.0, -11.2, -7.0, -2.5, 2.0, 6.9, 10.0, 13.4])
    write(tmp_path, slices(Stack(tuple(offsets), orientation)))
    volume = read(tmp_path)
    assert volume.warnings == ["W-DCM-UNEVEN"]
    assert volume.meta["slice_positions"] == pytest.approx(offsets - (offsets[0] + offsets[-1]) / 2)
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx((offsets[-1] - offsets[0]) / 7)
    assert volume.error().max() < ROUNDING


@pytest.mark.parametrize("jitter", [0.009, 0.03])
def test_spacing_that_is_even_but_for_rounding_counts_as_even(tmp_path, jitter):
    spacing = 4.0 if jitter > 0.01 else 0.5
    offsets = np.array(even(8, spacing)) + jitter * np.array([0, 1, 0, 1, 0, 0, 1, 0]) * 0.9
    write(tmp_path, slices(Stack(tuple(offsets))))
    volume = read(tmp_path)
    assert volume.warnings == [] and "slice_positions" not in volume.meta


@catalogue.fault("D11", "W-DCM-TILT")
@pytest.mark.parametrize(("tilt", "orientation"), [(-18.5, "axial ++"), (16.5, "axial ++"), (16.5, "coronal --")])
def test_a_tilted_stack_is_made_upright(tmp_path, tilt, orientation):
    stack = Stack(even(10, 3.0), orientation, rows=30, columns=20, tilt=tilt)
    write(tmp_path, slices(stack, phantoms.known_value_at))
    volume = read(tmp_path)
    assert volume.warnings == ["W-DCM-TILT"]
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    covered = covered_by(stack, volume.points)
    assert covered.sum() > 2000
    # interpolation between 1.5 mm pixels of waves of at least 60 mm, two pixels from the border
    assert volume.error(phantoms.known_value_at)[covered].max() < 1.0


def covered_by(stack: Stack, points: np.ndarray, *, margin_voxels: float = 2.0) -> np.ndarray:
    """Which points lie within a slice of a stack, by that many pixels from its border."""
    right, down = stack.directions
    normal = np.cross(right, down)
    lps = points * np.array([-1, -1, 1])[:, None, None, None]
    along = np.tensordot(normal, lps, axes=1)
    nearest = np.abs(along[..., None] - stack.positions @ normal).argmin(axis=-1)
    corner = np.moveaxis(stack.positions[nearest], -1, 0)
    column = np.tensordot(right, lps - corner, axes=1) / stack.pixel_spacing[1]
    row = np.tensordot(down, lps - corner, axes=1) / stack.pixel_spacing[0]
    across = (column > margin_voxels - 0.5) & (column < stack.columns - 0.5 - margin_voxels)
    return across & (row > margin_voxels - 0.5) & (row < stack.rows - 0.5 - margin_voxels)


@catalogue.fault("D11", "W-DCM-TILT")
def test_a_slice_beside_the_others_is_moved_and_no_tilt(tmp_path):
    stack = Stack(rows=40, columns=40)
    made = slices(stack, phantoms.known_value_at)
    shifted = slices(replace(stack, shift=(-3.0, 0, 0)), phantoms.known_value_at)
    write(tmp_path, [*made[:3], shifted[3], *made[4:]])
    with collect_notices() as notices:
        voxels, affine, meta = read_series(find_series(tmp_path).only())
    (notice,) = notices
    assert notice.code == "W-DCM-TILT" and notice.facts["off"] == pytest.approx(3.0, abs=1e-3)
    assert notice.facts["degrees"] == 0 and "degrees" not in notice.problem
    inside = dicom_phantoms.Volume(voxels, affine, meta, []).error(phantoms.known_value_at)[5:-5, 3:-3]
    assert inside.max() < 1.0


def test_a_tilted_stack_of_uneven_spacing_is_read_too(tmp_path):
    stack = Stack((-12, -9, -5.5, -1, 2, 6, 10), rows=30, columns=20, tilt=12)
    write(tmp_path, slices(stack, phantoms.known_value_at))
    volume = read(tmp_path)
    assert sorted(volume.warnings) == ["W-DCM-TILT", "W-DCM-UNEVEN"]
    assert volume.error(phantoms.known_value_at)[covered_by(stack, volume.points)].max() < 1.0


def test_a_clean_series_reads_as_by_itk(tmp_path):
    write(tmp_path, slices(Stack(orientation="oblique"), rescale=(1, -1024)))
    volume = read(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image).T)
    affine = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-1, -1, 1]) @ affine, atol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 3], np.array(image.GetOrigin()) * (-1, -1, 1), atol=1e-6)


def test_neither_file_names_nor_instance_numbers_decide_the_order(tmp_path):
    stack = slices(Stack(even(9, 3.0)))
    for folder, order in (("forward", range(9)), ("backward", range(9)[::-1]), ("random", [4, 0, 8, 2, 6, 1, 7, 3, 5])):
        (tmp_path / folder).mkdir()
        for number, index in enumerate(order):
            stack[index].InstanceNumber = 9 - number
            save(stack[index], tmp_path / folder / f"{number}")
    volumes = [read(tmp_path / folder) for folder in ("forward", "backward", "random")]
    for volume in volumes:
        assert np.array_equal(volume.voxels, volumes[0].voxels)
        assert np.array_equal(volume.affine, volumes[0].affine)
    assert volumes[0].error().max() < ROUNDING


# ------------------------------------------------------------- values


@catalogue.fault("D19")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_slope_and_intercept_of_each_slice_are_used(tmp_path, modality):
    stack = slices(modality=modality)
    for count, one in enumerate(stack):
        drawn = stored_of(one) / 32 - 1024
        slope, intercept = (1 + count / 8) / 32, -1024 - count
        one.RescaleSlope, one.RescaleIntercept = dicom_phantoms.decimals([slope, intercept])
        store(one, np.rint((drawn - intercept) / slope))
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.warnings == []
    assert volume.error().max() < 2 * ROUNDING + 1 / 64  # rounded twice


def test_mr_needs_no_rescale(tmp_path):
    write(tmp_path, slices(value=lambda points: anatomy_at(points) + 1024, rescale=None, modality="MR"))
    volume = read(tmp_path)
    assert volume.warnings == []
    assert volume.error(lambda points: anatomy_at(points) + 1024).max() < 0.51


@catalogue.fault("D49", "W-DCM-LOCATION")
@pytest.mark.parametrize(("first", "other"), [(2, 5), (0, 1), (7, 0), (3, 3)])
@pytest.mark.parametrize(("step", "tilt"), [(4.0, 0), (-4.0, 20)])
def test_positions_that_are_interchanged_give_a_warning(tmp_path, first, other, step, tilt):
    stack = slices(Stack(tilt=tilt))
    for number, one in enumerate(stack):
        one.SliceLocation = round(-33 + number * step / np.cos(np.radians(tilt)), 1)
    places = [one.ImagePositionPatient for one in stack]
    stack[first].ImagePositionPatient, stack[other].ImagePositionPatient = places[other], places[first]
    write(tmp_path, stack)
    assert read(tmp_path).warnings == ["W-DCM-LOCATION"] * (first != other) + ["W-DCM-TILT"] * (tilt > 0)


@catalogue.fault("D20", "W-DCM-BITS")
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("bits", [12, 13])
def test_bits_above_those_stored_are_no_image(tmp_path, bits, described):
    """An overlay in the high bits, as older files keep it; undescribed they may be of the pixels."""
    stack = slices(rescale=(1, -1024))
    for one in stack:
        overlay = np.indices((one.Rows, one.Columns)).sum(axis=0) % 5 == 0
        store(one, stored_of(one) | (overlay << bits) | (overlay << 15))
        one.BitsStored, one.HighBit = bits, bits - 1
        if described:
            one.add_new(0x60020102, "US", bits)
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.error().max() < 0.51
    assert volume.warnings == ([] if described else ["W-DCM-BITS"])


@catalogue.fault("D20", "W-DCM-BITS")
@pytest.mark.parametrize(
    ("high", "left", "warned"), [(15, 4, 0), (15, 0, 1), (10, 0, 1), (0, 0, 1), (255, 0, 1), (None, 0, 1)]
)
def test_a_high_bit_that_contradicts_the_pixels_is_not_used(tmp_path, high, left, warned):
    """Older files keep 12 bits at the upper end of 16; others only say so."""
    stack = slices(rescale=(1, -1024))
    for one in stack:
        stored = stored_of(one) << left
        stored[0, 0] |= 0x8000 * (high is None)  # above 12 bits
        store(one, stored)
        one.BitsStored, one.HighBit = 12, high
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.warnings == ["W-DCM-BITS"] * warned
    assert volume.error()[1:, 1:].max() < 0.51


BITS = {
    "an overlay above": lambda stored: stored | np.where(np.indices(stored.shape).sum(axis=0) % 5, 0, 0x1000),
    "at the upper end": lambda stored: stored << 4,
    "signed, with padding beyond": lambda stored: np.where(
        np.arange(40)[:, None] < 3, -3024, stored.astype(int) - 1024
    ),
}


@catalogue.fault("D20")
@pytest.mark.parametrize("change", BITS)
@pytest.mark.parametrize(
    "syntax",
    [
        *(ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
        *(RLELossless, JPEGLSLossless, JPEG2000Lossless),
    ],
)
def test_twelve_bits_are_the_same_in_every_transfer_syntax(tmp_path, syntax, change):
    is_signed, high = "signed" in change, 15 if "upper" in change else 11
    stack = slices(Stack(even(4, 4.0), rows=40, columns=44), rescale=(1, -1024))
    for one in stack:
        store(one, BITS[change](stored_of(one)), dtype="int16" if is_signed else "uint16")
        update(one, **{"PixelPaddingValue": -3024, "RescaleIntercept": 0} if is_signed else {})
    for path in write(tmp_path, stack, syntax=syntax):
        one = pydicom.dcmread(path)
        one.BitsStored, one.HighBit = 12, high
        one.add_new(0x60000102, "US", 12)
        one.save_as(path)
    volume = read(tmp_path)
    assert volume.error()[:, 3:].max() < 0.51
    assert volume.meta.get("padding_value") == (-3024 if is_signed else None)


@catalogue.fault("D20")
def test_padding_beyond_the_bits_stored_makes_no_doubt_of_them(tmp_path):
    stack = slices(rescale=(1, 0), dtype="int16", PixelPaddingValue=-3024)
    for one in stack:
        store(one, np.where(stored_of(one) == stored_of(one)[0, 0], -3024, stored_of(one)))
        one.BitsStored, one.HighBit = 12, 11
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.warnings == [] and volume.meta["padding_value"] == -3024 and volume.voxels.max() > 0


@catalogue.fault("D20", "W-DCM-BITS")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
@pytest.mark.parametrize("lowest", [-1000, 0])
def test_negative_pixels_without_a_sign_give_a_warning(tmp_path, syntax, lowest):
    stack = slices(Stack(even(4, 4.0), rows=40, columns=44), rescale=None, dtype="int16", modality="MR")
    for one in stack:
        store(one, np.maximum(stored_of(one), lowest))
    for path in write(tmp_path, stack, syntax=syntax):
        one = pydicom.dcmread(path)
        one.PixelRepresentation = 0
        one.save_as(path)
    assert read(tmp_path).warnings == ["W-DCM-BITS"] * (lowest < 0)


@catalogue.fault("D20")
def test_signed_values_of_12_bits_are_extended_by_their_sign(tmp_path):
    stack = slices(rescale=(1, 0), dtype="int16")
    for one in stack:
        store(one, stored_of(one) & 0x0FFF)
        one.BitsStored, one.HighBit = 12, 11
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.voxels.min() < -900
    assert volume.error().max() < 0.51


@pytest.mark.parametrize(("dtype", "rescale"), [("uint8", (5, -1024)), ("int32", (1 / 32, 0)), ("int16", (1, 0))])
def test_stored_values_may_have_any_width(tmp_path, dtype, rescale):
    write(tmp_path, slices(dtype=dtype, rescale=rescale))
    assert read(tmp_path).error().max() < rescale[0] / 2 + 0.01


@pytest.mark.parametrize(
    ("rescale", "dtype", "stored"),
    [((1, -1024), "uint16", "int16"), ((1, 0), "int16", "int16"), ((1 / 32, -1024), "uint16", "float32")],
)
def test_whole_numbers_are_remembered_as_such(tmp_path, rescale, dtype, stored):
    write(tmp_path, slices(rescale=rescale, dtype=dtype))
    assert read(tmp_path).meta["stored_dtype"] == stored


def padded(stack: Stack, **attributes) -> list:
    """A round field of view, with -2000 around it."""
    made = slices(stack, phantoms.known_value_at, rescale=(1, -24), dtype="int16", **attributes)
    for one in made:
        store(one, np.where(stack.circle(), stored_of(one), -2000))
        one.PixelPaddingValue = -2000
    return made


def test_padding_of_a_ct_is_reported_and_kept(tmp_path):
    stack = Stack(rows=24, columns=28)
    write(tmp_path, padded(stack))
    volume = read(tmp_path)
    outside = np.broadcast_to(~stack.circle().T[..., None], volume.voxels.shape)
    assert volume.meta["padding_value"] == -2024
    assert np.array_equal(volume.voxels == -2024, outside)
    assert volume.error(phantoms.known_value_at)[~outside].max() < 0.51
    assert volume.warnings == []


def test_padding_given_as_a_range_is_padding_all_over(tmp_path):
    stack = Stack(rows=24, columns=28)
    made = padded(stack)
    for one in made:
        stored = stored_of(one)
        stored[0] = -1990
        store(one, stored)
        one.PixelPaddingRangeLimit = -1980
    write(tmp_path, made)
    volume = read(tmp_path)
    outside = ~stack.circle().T
    outside[:, 0] = True
    assert (volume.voxels[outside] == volume.meta["padding_value"]).all()
    assert volume.voxels[~outside].min() > -400


@pytest.mark.parametrize(("value", "is_padding"), [(-32768, True), (-1, True), (0, False), (40, False)])
def test_padding_of_mr_is_below_zero(tmp_path, value, is_padding):
    stack = Stack(rows=24, columns=28)
    made = slices(stack, modality="MR", rescale=(1, 0), dtype="int16", PixelPaddingValue=value)
    for one in made:
        store(one, np.where(stack.circle(), np.abs(stored_of(one)), value))
        one["PixelPaddingValue"].VR = "SS"
    write(tmp_path, made)
    assert read(tmp_path).meta.get("padding_value") == (value if is_padding else None)


@catalogue.fault("D19", "W-DCM-SCALE")
@pytest.mark.parametrize("is_enhanced", [False, True])
@pytest.mark.parametrize("vr", ["FL", "UN"])
def test_slices_of_philips_that_are_displayed_differently_have_one_scale(tmp_path, is_enhanced, vr):
    """Signal is the displayed value divided by RescaleSlope and MR Scale Slope, and only signal can be compared."""
    made = slices(Stack(even(5, 4.0)), modality="MR", rescale=(2, 0), dtype="int16", Manufacturer="Philips")
    displayed = [2.0 * stored_of(one) for one in made]
    for number, (one, values) in enumerate(zip(made, displayed, strict=True)):
        factor = 1 + min(number, 4 - number) / 4
        store(one, np.rint(values * factor / 2))
        one.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(
            0x0E, vr, factor / 8 if vr == "FL" else struct.pack("<f", factor / 8)
        )
    if is_enhanced:
        save(_with_private_groups(made), tmp_path / "all.dcm")
    else:
        write(tmp_path, made)
    volume = read(tmp_path)
    assert volume.warnings == ["W-DCM-SCALE"]
    np.testing.assert_allclose(np.moveaxis(volume.voxels, -1, 0).swapaxes(1, 2), displayed, atol=2)


def _with_private_groups(made: list) -> pydicom.Dataset:
    """As an enhanced file of Philips, with the private attribute in a sequence for each frame."""
    one = enhanced(made)
    by_position = {tuple(frame.ImagePositionPatient): frame for frame in made}
    for groups in one.PerFrameFunctionalGroupsSequence:
        frame = by_position[tuple(groups.PlanePositionSequence[0].ImagePositionPatient)]
        item = pydicom.Dataset()
        item.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        item.add(frame[0x2005100E])
        groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [item])
    del one[0x2005100E]
    return one


@catalogue.fault("I26")
def test_a_padding_value_that_tissue_has_marks_nothing(tmp_path):
    """Voxels of 0 HU would be air for their neighbors."""
    made = slices(rescale=(1, 0), dtype="int16", PixelPaddingValue=0)
    assert any((stored_of(one) == 0).any() for one in made)
    for one in made:
        one["PixelPaddingValue"].VR = "SS"
    write(tmp_path, made)
    assert "padding_value" not in read(tmp_path).meta


def test_a_padding_value_that_does_not_occur_is_not_reported(tmp_path):
    write(tmp_path, slices(PixelPaddingValue=65535))
    assert "padding_value" not in read(tmp_path).meta


def test_padding_does_not_bleed_into_a_tilted_stack(tmp_path):
    stack = Stack(even(8, 3.0), rows=28, columns=32, tilt=14)
    write(tmp_path, padded(stack))
    volume = read(tmp_path)
    padding = volume.voxels == volume.meta["padding_value"]
    assert volume.meta["padding_value"] == -2024
    assert 0.2 < padding.mean() < 0.8
    # air may be mixed with tissue at the border of the circle, padding may not
    assert volume.voxels[~padding].min() > -1300
    middle = np.zeros(volume.voxels.shape, dtype=bool)
    middle[10:-10] = True
    inside = covered_by(stack, volume.points, margin_voxels=6) & middle
    assert inside.sum() > 200
    assert volume.error(phantoms.known_value_at)[inside].max() < 1.5  # whole HU, rounded


@pytest.mark.parametrize(
    ("thickness", "expected"), [(3.5, 3.5), (5.0, 5.0), (4.0, 4.0), (None, None), (0, None), ("", None)]
)
def test_thickness_is_what_the_header_says_and_spacing_what_positions_say(tmp_path, thickness, expected):
    write(tmp_path, slices(SliceThickness=thickness, SpacingBetweenSlices=1.0))
    volume = read(tmp_path)
    assert volume.meta.get("slice_thickness") == expected
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(4.0)
    assert volume.warnings == []


SPIN_ECHO = {"ScanningSequence": "SE", "MRAcquisitionType": "2D"}


@pytest.mark.parametrize(
    ("modality", "header", "scan"),
    [
        ("CT", {"ScanOptions": "HELIX"}, "helical"),
        ("CT", {"ScanOptions": "HELICAL_CT"}, "helical"),
        ("CT", {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]}, "helical"),
        ("CT", {"SpiralPitchFactor": 0.39}, "helical"),
        ("CT", {"ScanOptions": "AXIAL MODE"}, "sequential"),
        ("CT", {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ"]}, "sequential"),
        ("CT", {}, ""),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "MPR"], "ScanOptions": "HELIX"}, "reformatted"),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, "reformatted"),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "AVERAGE"]}, "reformatted"),
        ("CT", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MIP"], "ScanOptions": "HELIX"}, "helical"),
        ("MR", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "reformatted"),
        ("MR", {"ImageType": ["ORIGINAL", "PRIMARY", "MPR"], **SPIN_ECHO}, "2D SE"),
        ("MR", SPIN_ECHO | {"ScanningSequence": ["SE", "IR"]}, "2D SE"),
        ("MR", SPIN_ECHO | {"ScanningSequence": ["SE", "EP"]}, "2D"),
        ("MR", {"ScanningSequence": "GR", "MRAcquisitionType": "3D"}, "3D"),
    ],
)
def test_the_header_says_how_the_slices_were_made(tmp_path, modality, header, scan):
    write(tmp_path, slices(modality=modality, **header))
    assert read(tmp_path).meta["protocol"]["scan"] == scan


def test_a_helical_ct_is_a_triangle_narrower_than_its_header(tmp_path):
    write(tmp_path, slices(Manufacturer="Philips", ConvolutionKernel="UB", ScanOptions="HELIX", SliceThickness=5.0))
    image = read_image(tmp_path)
    assert image.meta["protocol"] == {"manufacturer": "philips", "kernel": "UB", "scan": "helical"}
    acquired = Acquired.of(image)
    assert (acquired.slice_profile, acquired.source_of("slice_profile")) == ("triangle", "header")
    assert (acquired.slice_thickness, acquired.source_of("slice_thickness")) == (pytest.approx(4.45), "corrected")


def test_a_text_that_somebody_typed_is_no_protocol(tmp_path):
    write(tmp_path, slices(Manufacturer="Dr. Doe", ConvolutionKernel="for Jane Doe"))
    assert read(tmp_path).meta["protocol"] == {"manufacturer": "", "kernel": "", "scan": ""}


def test_a_thickness_that_changes_is_kept_slice_by_slice(tmp_path):
    thicknesses = [2.5, 2.5, 2.5, 5.0, 5.0, 5.0, None, 5.0]
    stack = slices()
    for one, thickness in zip(stack, thicknesses, strict=True):
        one.SliceThickness = thickness
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.meta["slice_thickness"].tolist() == [2.5, 2.5, 2.5, 5.0, 5.0, 5.0, 5.0, 5.0]
    assert volume.warnings == ["W-DCM-THICKNESS"]
    (series,) = find_series(tmp_path).series
    assert acquisition(series)["AcquiredSliceThickness"] == volume.meta["slice_thickness"].tolist()


def test_a_thickness_that_differs_by_rounding_is_one(tmp_path):
    stack = slices()
    stack[3].SliceThickness = 3.51
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.meta["slice_thickness"] == 3.5 and volume.warnings == []


# ------------------------------------------------------------- encodings


WIDE = Stack(even(4, 4.0), rows=32, columns=34)
"""As many pixels as the encoder of JPEG 2000 needs."""


@catalogue.fault("D26")
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_every_transfer_syntax_reads_the_same(tmp_path, syntax, dtype):
    stack = slices(WIDE, rescale=(1, -1024 if dtype == "uint16" else 0), dtype=dtype)
    write(tmp_path / "plain", stack)
    write(tmp_path / "other", stack, syntax=syntax)
    plain, other = read(tmp_path / "plain"), read(tmp_path / "other")
    assert np.array_equal(plain.voxels, other.voxels)
    assert np.array_equal(plain.affine, other.affine)
    assert other.warnings == []


@pytest.fixture
def jpeg(tmp_path):
    """Write a series compressed by dcmtk, which encodes what pydicom does not."""
    if not shutil.which("dcmcjpeg"):
        pytest.skip("dcmcjpeg is not installed")

    def encode(option: str, *, bits: int) -> Path:
        stack = slices(WIDE, rescale=(1000 / 2**bits, -1024), value=smooth, dtype="uint8" if bits == 8 else "uint16")
        for one in stack:
            one.BitsStored, one.HighBit = bits, bits - 1
        (tmp_path / "jpeg").mkdir()
        for path in write(tmp_path / "plain", stack):
            subprocess.run(["dcmcjpeg", option, path, tmp_path / "jpeg" / path.name], check=True)
        return tmp_path / "jpeg"

    return encode


def smooth(points: np.ndarray) -> np.ndarray:
    return -524 + 400 * np.sin(points.sum(axis=0) / 9)


@pytest.mark.parametrize(
    ("option", "bits", "loss"), [("+el", 12, 0), ("+e1", 12, 0), ("+el", 16, 0), ("+e1", 8, 0), ("+eb", 8, 5)]
)
def test_jpeg_reads_as_before_it_was_compressed(jpeg, option, bits, loss):
    folder = jpeg(option, bits=bits)
    difference = np.abs(read(folder).voxels - read(folder.parent / "plain").voxels)
    assert difference.max() <= loss * 1000 / 2**bits


def test_lossy_jpeg_of_12_bits_is_refused_and_its_decoder_named(jpeg):
    """GDCM decodes it to wrong values without a word."""
    if find_spec("libjpeg"):
        pytest.skip("its decoder is installed")
    with pytest.raises(ImageError, match="pylibjpeg-libjpeg") as caught:
        read(jpeg("+ee", bits=12))
    assert caught.value.code == "E-DCM-CODEC"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("rows", [21, 301], ids=["small", "large"])  # large ones stay in the file until they are read
def test_pixels_that_are_not_compressed_are_those_that_pydicom_decodes(tmp_path, syntax, dtype, rows):
    stack = slices(Stack(even(3, 4.0), rows=rows, columns=23), rescale=None, value=wrapped_to(dtype), dtype=dtype)
    for files in (write(tmp_path / "classic", stack, syntax=syntax),
                  write(tmp_path / "frames", enhanced(stack), syntax=syntax)):  # fmt: skip
        for frame in find_series(files[0].parent).series[0].frames:
            expected = pydicom.dcmread(frame.file).pixel_array.reshape(-1, rows, 23)[frame.number]
            stored = read_frame(frame)
            assert stored.dtype == expected.dtype and np.array_equal(stored, expected)


def wrapped_to(dtype: str):
    """Values all over the range of a type."""
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(5)
    return lambda points: rng.integers(limits.min, limits.max, points.shape[1:], endpoint=True).astype(float)


def test_slices_of_many_encodings_make_one_series(tmp_path):
    stack = slices(WIDE, rescale=(1, -1024))
    syntaxes = [ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]
    for count, (one, syntax) in enumerate(zip(stack, syntaxes, strict=True)):
        save(one, tmp_path / f"{count}", syntax=syntax)
    assert read(tmp_path).error().max() < 0.51


# ------------------------------------------------------------- multi-frame files


@catalogue.fault("D24")
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("shared", [(), ("PlaneOrientationSequence", "PixelMeasuresSequence")], ids=["own", "shared"])
def test_an_enhanced_file_reads_as_its_slices_would(tmp_path, modality, shared):
    stack = slices(Stack(orientation="oblique coronal"), modality=modality)
    write(tmp_path / "classic", stack)
    (path,) = write(tmp_path / "enhanced", enhanced(stack, shared=shared))
    classic = read(tmp_path / "classic")
    for source in (path, path.parent):
        volume = read(source)
        assert np.array_equal(volume.voxels, classic.voxels)
        np.testing.assert_allclose(volume.affine, classic.affine)
        assert volume.meta == classic.meta
        assert volume.warnings == []
    assert classic.error().max() < ROUNDING


@catalogue.fault("D24")
@pytest.mark.parametrize(
    "other",
    [Stack(orientation="sagittal ++"), Stack(even(6, 4.0), shift=(0, 0, 60.0))],
    ids=["across", "beside, parallel"],
)
def test_two_stacks_in_one_enhanced_file_are_two_series(tmp_path, other):
    stacks = [slices(), slices(other)]
    found = find_series(write(tmp_path, enhanced(*stacks, dimension="StackID"))[0])
    assert sorted(len(series.frames) for series in found.series) == sorted(map(len, stacks))
    for series in found.series:
        volume = read_one(series)
        assert volume.warnings == []
        assert volume.error().max() < ROUNDING
    assert len(found.choose(uid_of(1))) == 2
    assert len({short_name(series) for series in found.series}) == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_two_times_in_one_enhanced_file_are_two_series(tmp_path, syntax):
    times = [slices(WIDE, modality="MR"), slices(WIDE, value=lambda p: anatomy_at(p) / 2, modality="MR")]
    (path,) = write(tmp_path, enhanced(*times, dimension="TemporalPositionIndex"), syntax=syntax)
    early, late = sorted(map(read_one, find_series(path).series), key=lambda volume: volume.voxels.min())
    assert early.error().max() < ROUNDING
    assert late.error(lambda points: anatomy_at(points) / 2).max() < ROUNDING


def test_one_frame_of_an_enhanced_file_may_have_its_own_rescale(tmp_path):
    stack = slices()
    store(stack[3], stored_of(stack[3]) // 2)
    stack[3].RescaleSlope = "0.0625"
    assert read(write(tmp_path, enhanced(stack))[0]).error().max() < 0.1


# ------------------------------------------------------------- several series


@pytest.fixture
def study(tmp_path):
    """Three series in a tree of folders: 2 of axial CT, 3 of coronal CT, 11 of MR."""
    folder = tmp_path / "study"
    write(folder / "a" / "deep", slices(Stack(orientation="coronal +-"), series=3))
    write(folder, slices(Stack(even(9, 3.0)), series=2))
    write(folder / "b", slices(Stack(even(5, 5.0)), series=11, modality="MR"), suffix="")
    return folder


def test_all_series_of_a_tree_are_found_in_the_order_of_their_numbers(study):
    found = find_series(study)
    assert [series.number for series in found.series] == [2, 3, 11]
    assert [series.uid for series in found.series] == [uid_of(number) for number in (2, 3, 11)]
    assert [series.modality for series in found.series] == ["CT", "CT", "MR"]
    assert [len(series.frames) for series in found.series] == [9, 8, 5]
    assert found.left_out == () and found.broken == ()
    for series in found.series:
        assert (np.diff(series.offsets) > 0).all()
        volume = read_one(series)
        assert volume.error().max() < ROUNDING
        assert (volume.meta["series_uid"], volume.meta["modality"]) == (series.uid, series.modality)


@catalogue.fault("D06")
def test_series_mixed_in_one_folder_are_separated(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, slices(Stack(even(6, 4.0)), series=number, value=lambda p, n=number: anatomy_at(p) / n))
    for number, series in enumerate(find_series(tmp_path).series, start=1):
        assert read_one(series).error(lambda p, n=number: anatomy_at(p) / n).max() < ROUNDING


@pytest.mark.parametrize("wanted", ["3", uid_of(3)])
def test_a_series_is_chosen_by_its_number_or_uid(study, wanted):
    (chosen,) = find_series(study).choose(wanted)
    assert chosen.uid == uid_of(3)


def test_an_unknown_series_is_refused_with_what_there_is(study):
    found = find_series(study)
    for wanted in ("4", "1.2.3", ""):
        with pytest.raises(UsageError) as caught:
            found.choose(wanted)
        message = str(caught.value)
        assert caught.value.code == "E-DCM-SERIES"
        for number in (2, 3, 11):
            assert uid_of(number) in message and f"{number} (" in message
        assert tells_nothing(message)


def test_a_number_that_two_series_share_chooses_both(tmp_path):
    write(tmp_path / "a", slices(series=4))
    write(tmp_path / "b", slices(series=4, SeriesInstanceUID=uid_of("other")))
    assert {series.uid for series in find_series(tmp_path).choose("4")} == {uid_of(4), uid_of("other")}


@catalogue.fault("D06", "E-DCM-SERIES")
def test_an_image_is_one_series_and_must_be_chosen_if_there_are_several(study):
    with pytest.raises(ImageError) as caught:
        read_image(study)
    assert caught.value.code == "E-DCM-SERIES"
    assert str(study) in str(caught.value) and uid_of(11) in str(caught.value)
    assert read_image(study, series="11").shape == (1, 26, 22, 5)
    assert read_image(study, series=uid_of(2)).shape == (1, 26, 22, 9)


@catalogue.fault("D07")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"EchoNumbers": 1, "EchoTime": 20}, {"EchoNumbers": 2, "EchoTime": 80}),
        ({"EchoTime": 2.46}, {"EchoTime": 7.4}),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "W"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "F"]}),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"InversionTime": 100}, {"InversionTime": 900}),
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_repeats_in_one_series_are_split_by_what_distinguishes_them(tmp_path, first, second):
    write(tmp_path, slices(modality="MR", **first))
    write(tmp_path, slices(value=lambda p: anatomy_at(p) / 2, modality="MR", **second))
    found = find_series(tmp_path)
    assert {series.uid for series in found.series} == {uid_of(1)}
    one, two = sorted(map(read_one, found.series), key=lambda volume: volume.voxels.min())
    assert one.error().max() < ROUNDING
    assert two.error(lambda points: anatomy_at(points) / 2).max() < ROUNDING
    assert len({short_name(series) for series in found.series}) == 2


def test_repeats_that_differ_in_two_ways_are_split_by_both(tmp_path):
    for time in (1, 2):
        for echo in (1, 2, 3):
            attributes = {"EchoNumbers": echo, "TemporalPositionIdentifier": time}
            value = lambda p, n=time * 10 + echo: anatomy_at(p) / n  # noqa: E731
            write(tmp_path, slices(Stack(even(4, 4.0)), value, modality="MR", **attributes))
    found = find_series(tmp_path)
    assert len(found.series) == 6
    for series in found.series:
        head = series.frames[0].header
        number = head.TemporalPositionIdentifier * 10 + head.EchoNumbers
        assert read_one(series).error(lambda p, n=number: anatomy_at(p) / n).max() < ROUNDING


def test_what_differs_from_slice_to_slice_splits_nothing(tmp_path):
    stack = slices(modality="MR")
    for count, one in enumerate(stack):
        update(one, TriggerTime=100 + count, AcquisitionNumber=count, EchoTime=2.0 + (count % 2) / 1000)
    write(tmp_path, stack)
    assert read(tmp_path).error().max() < ROUNDING


# ------------------------------------------------------------- images, zips, progress


def test_a_folder_a_zip_and_a_multi_frame_file_read_as_the_same_image(tmp_path):
    stack = slices(SliceThickness=2.5)
    paths = write(tmp_path / "folder", stack)
    (frames,) = write(tmp_path / "frames", enhanced(stack))
    with zipfile.ZipFile(tmp_path / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"study/series/{path.name}")
    expected = read(tmp_path / "folder")
    for source in (tmp_path / "folder", tmp_path / "series.zip", frames):
        image = read_image(source)
        assert np.array_equal(image[0].numpy(), expected.voxels)
        np.testing.assert_allclose(image.affine.numpy(), expected.affine)
        assert image.meta["slice_thickness"] == 2.5
        assert image.meta["modality"] == "CT"
        assert tells_nothing(image.meta)


def test_a_series_from_a_zip_is_there_as_long_as_it_is_needed(tmp_path):
    paths = write(tmp_path / "folder", slices())
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    shutil.rmtree(tmp_path / "folder")
    (series,) = find_series(tmp_path / "series.zip").series
    assert read_one(series).error().max() < ROUNDING


def test_a_single_classic_file_is_no_volume(tmp_path):
    path = write(tmp_path, slices())[2]
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code in ("E-DCM-NONE", "E-IMG-2D")
    assert "single slice" in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_pixels_are_not_kept_in_memory(tmp_path, many_frames):
    stack = slices(Stack(rows=300, columns=300, pixel_spacing=(0.1, 0.1)))
    write(tmp_path, enhanced(stack) if many_frames else stack)
    pixels = 8 * 300 * 300 * 2
    tracemalloc.start()
    try:
        (series,) = find_series(tmp_path).series
        allocated = tracemalloc.get_traced_memory()[0]
        read_series(series)  # what is read is thrown away
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert allocated < pixels / 2
    assert after < pixels / 2


def test_progress_grows_to_one(tmp_path):
    write(tmp_path, slices())
    fractions = []
    read_series(find_series(tmp_path).series[0], progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1 and len(fractions) > 1


def test_nothing_there_is_an_error_of_its_own(tmp_path):
    with pytest.raises(InputMissingError) as caught:
        find_series(tmp_path / "absent")
    assert caught.value.exit_code == 3


# ------------------------------------------------------------- what is said


@catalogue.fault("Z04")
@catalogue.fault("P01")
def test_no_text_of_the_header_is_printed_anywhere(study, tmp_path):
    write(study, slices(series=30, modality="MR", FrameOfReferenceUID=uid_of("localizer"))[:1])
    write(study, slices(series=31, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write(study, slices(series=32, ImagePositionPatient=None))
    found = find_series(study)
    assert (len(found.series), len(found.broken), len(found.left_out)) == (3, 1, 2)
    # in a traceback with variables shown, or in a log, objects are shown by their repr
    assert tells_nothing(found.left_out, found.broken, found.choices(), *map(short_name, found.series))
    assert tells_nothing(found)
    assert all(name.replace("-", "").isalnum() for name in map(short_name, found.series))


def test_names_are_stable_and_different(study):
    names = [short_name(series) for series in find_series(study).series]
    assert names == [short_name(series) for series in find_series(study).series]
    assert len(set(names)) == 3


# ------------------------------------------------------------- real series


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "modality", "shape", "spacing", "thickness", "warned"),
    [
        ("ct_chest_8mm", "CT", (512, 512, 30), (0.6465, 0.6465, 8), 8, []),
        ("ct_head_phantom_gantry_tilt", "CT", (512, None, 12), (0.4824, 0.4824, 2.3708), 2.5, ["W-DCM-TILT"]),
        ("mr_brain_fse_pd_oblique_5mm", "MR", (256, 256, 20), (0.8594, 0.8594, 7), 5, ["W-DCM-UNEVEN"]),
        ("mr_enhanced_philips_8frames", "MR", (256, 256, 8), (1, 1, 1.2), 1.2, []),
        ("mr_enhanced_siemens_8frames", "MR", (256, 256, 8), (0.9375, 0.9375, 0.9), 0.9, []),
        ("mr_liver_haste_coronal_7mm", "MR", (None, None, 30), (1.5625, 1.5625, 8.75), 7, []),
    ],
)
def test_real_series_are_read(shared_data, name, modality, shape, spacing, thickness, warned):
    volume = read(shared_data / "dicom" / name)
    assert volume.warnings == warned
    assert all(count == wanted for count, wanted in zip(volume.voxels.shape, shape, strict=True) if wanted)
    assert np.linalg.norm(volume.affine[:3, :3], axis=0) == pytest.approx(spacing, abs=0.01)
    assert volume.meta["modality"] == modality
    assert volume.meta["slice_thickness"] == thickness
    assert ("slice_positions" in volume.meta) == ("W-DCM-UNEVEN" in warned)
    if "slice_positions" in volume.meta:
        steps = np.diff(volume.meta["slice_positions"])
        assert (steps.min(), steps.max()) == pytest.approx((6.958, 7.071), abs=0.001)
    if modality == "CT":
        assert np.percentile(volume.voxels, 5) == pytest.approx(-1000, abs=60)


@pytest.mark.data
def test_a_tilted_real_series_loses_nothing_in_height(shared_data):
    """18.5 degrees over 26.1 mm along the normal are 8.7 mm, 18 pixels, down the columns."""
    volume = read(shared_data / "dicom" / "ct_head_phantom_gantry_tilt")
    assert volume.voxels.shape[1] in (512, 512 + 18, 512 + 19)


@pytest.mark.data
def test_a_missing_slice_in_a_real_series_is_named_and_filled_on_request(shared_data):
    (series,) = find_series(shared_data / "dicom" / "mr_mprage_missing_slice").series
    with pytest.raises(ImageError) as caught:
        read_series(series)
    assert caught.value.code == "E-DCM-GAP"
    assert "36749446.dcm" in str(caught.value) and "36749418.dcm" in str(caught.value)
    volume = read_one(series, fill_gaps=True)
    assert volume.warnings == ["W-DCM-GAP"]
    assert volume.voxels.shape == (192, 192, 48)
    assert np.diff(volume.meta["slice_positions"]) == pytest.approx([1.0] * 23 + [2.0] + [1.0] * 23, abs=1e-3)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct_chest_8mm", "mr_liver_haste_coronal_7mm"])
def test_real_series_read_as_by_itk(shared_data, name):
    folder = shared_data / "dicom" / name
    volume = read(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image).T)
    np.testing.assert_allclose(volume.affine[:3, 3], np.array(image.GetOrigin()) * (-1, -1, 1), atol=1e-4)
