"""Faulty and foreign DICOM: what is refused, what is left out, what is mended, and what is said.

The tables below follow the rows of the fault list (D01 … Z05). Each builder writes one small folder.
"""

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import catalogue
import numpy as np
import pydicom
import pytest
from dicom_phantoms import (
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
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    generate_uid,
)

from monai_sr.dicom import archive, find_series, read_series
from monai_sr.errors import ImageError, InputMissingError, SuperResolutionError, collect_notices
from monai_sr.io.images import read_image

ROUNDING = 0.02
"""HU, see test_dicom_scan."""

WIDE = Stack(even(4, 4.0), rows=32, columns=34)
"""As many pixels as the encoder of JPEG 2000 needs."""


def error_of(source: Path) -> SuperResolutionError:
    """The one fault that finding or reading a source meets; it says what to do and nothing of a patient."""
    with pytest.raises(SuperResolutionError) as caught:
        read(source)
    assert caught.value.fix
    assert tells_nothing(str(caught.value), caught.value.__cause__)
    return caught.value


def cut(path: Path, keep: int) -> None:
    """Leave the first bytes of a file; so many less than all where negative."""
    path.write_bytes(path.read_bytes()[:keep])


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Change one place of a file."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


# ------------------------------------------------------------- refused

FAULTS = []
"""Builder and code of every fault that makes a series useless."""


def fault(row: str, code: str):
    """Enter a builder in the table; it returns what the message has to name."""

    def enter(build: Callable[[Path], list[str]]):
        FAULTS.append(pytest.param(build, code, id=f"{row} {build.__name__}"))
        return build

    return enter


@fault("D01", "E-DCM-TRUNC")
def pixels_cut_off(folder):
    path = write(folder, slices())[3]
    cut(path, -100)
    return [path.name, str(path.stat().st_size), str(path.stat().st_size + 100)]


@fault("D01", "E-DCM-TRUNC")
def the_last_byte_cut_off(folder):
    path = write(folder, slices(Stack(rows=50, columns=50)))[0]
    cut(path, -1)
    return [path.name]


@fault("D01", "E-DCM-TRUNC")
def fewer_pixels_than_the_header_says(folder):
    stack = slices()
    stack[2].PixelData = stack[2].PixelData[:-52]
    return [write(folder, stack)[2].name]


@fault("D01", "E-DCM-TRUNC")
def frames_cut_off(folder):
    (path,) = write(folder, enhanced(slices()))
    cut(path, -3000)
    return [path.name]


@fault("D02", "E-DCM-HEADER")
def cut_before_rows(folder):
    path = write(folder, slices())[5]
    cut(path, path.read_bytes().index(b"\x28\x00\x10\x00US"))
    return [path.name]


@fault("D02", "E-DCM-HEADER")
def cut_before_the_pixels(folder):
    path = write(folder, slices())[5]
    cut(path, path.read_bytes().index(b"\xe0\x7f\x10\x00"))
    return [path.name]


@fault("D02", "E-DCM-HEADER")
def cut_in_the_file_meta_information(folder):
    path = write(folder, slices())[0]
    cut(path, 180)
    return [path.name]


@fault("D02", "E-DCM-HEADER")
def nothing_but_a_preamble(folder):
    path = write(folder, slices())[7]
    cut(path, 132)
    return [path.name]


@fault("D07", "E-DCM-AMBIG")
def repeats_that_nothing_tells_apart(folder):
    first = write(folder, slices(modality="MR"))
    second = write(folder, slices(value=lambda points: anatomy_at(points) / 2, modality="MR"))
    return [first[0].name, second[0].name]


@fault("D08", "E-DCM-DUP")
def two_slices_at_one_position_that_differ(folder):
    stack = slices()
    other = slices()[4]
    stored = stored_of(other)
    stored[11, 12] += 1
    store(other, stored)
    paths = write(folder, [*stack, other])
    return [paths[4].name, paths[-1].name]


@fault("D09", "E-DCM-GAP")
def a_slice_missing(folder):
    stack = slices(Stack(even(12, 2.5)))
    del stack[7]
    paths = write(folder, stack)
    return [paths[6].name, paths[7].name, "5 mm", "2.5 mm", "1 slice"]


@fault("D09", "E-DCM-GAP")
def two_neighboring_slices_missing(folder):
    stack = slices(Stack(even(12, 2.5)))
    del stack[4:6]
    paths = write(folder, stack)
    return [paths[3].name, paths[4].name, "7.5 mm", "2 slice"]


@fault("D09", "E-DCM-GAP")
def slices_missing_at_two_places(folder):
    stack = slices(Stack(even(12, 2.5)))
    del stack[8], stack[3:5]
    paths = write(folder, stack)
    return [paths[2].name, paths[3].name, "3 slice"]


@fault("D09", "E-DCM-GAP")
def a_slice_missing_between_slices_that_are_nearly_even(folder):
    """Steps of 6.9 to 7.1 mm, as MR at an angle may have, and one of 14."""
    offsets = even(10, 7.0) + np.array([0, 1, -1, 0, 1, 0, -1, 1, 0, 0]) * 0.06
    paths = write(folder, slices(Stack(tuple(np.delete(offsets, 5)), rows=40, columns=40)))
    return [paths[4].name, paths[5].name]


@fault("D14", "E-DCM-NOGEOM")
def no_position(folder):
    stack = slices()
    update(stack[2], ImagePositionPatient=None)
    return [write(folder, stack)[2].name, "ImagePositionPatient"]


@fault("D14", "E-DCM-NOGEOM")
def no_orientation(folder):
    write(folder, slices(ImageOrientationPatient=None))
    return ["ImageOrientationPatient"]


@fault("D14", "E-DCM-NOGEOM")
def an_orientation_of_zeros(folder):
    write(folder, slices(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]))
    return ["ImageOrientationPatient"]


@fault("D14", "E-DCM-NOGEOM")
def every_position_zero(folder):
    write(folder, slices(ImagePositionPatient=[0, 0, 0]))
    return ["ImagePositionPatient"]


@fault("D14", "E-DCM-NOGEOM")
def a_position_of_two_numbers(folder):
    stack = slices()
    stack[1].ImagePositionPatient = [1.5, 2.5]
    return [write(folder, stack)[1].name, "ImagePositionPatient"]


@fault("D14", "E-DCM-NOGEOM")
def frames_without_positions(folder):
    (path,) = write(folder, enhanced(slices(ImagePositionPatient=None)))
    return [path.name, "ImagePositionPatient"]


@fault("D16", "E-DCM-SPACING")
def spacing_at_the_detector_only(folder):
    write(folder, slices(PixelSpacing=None, ImagerPixelSpacing=[0.5, 0.5]))
    return ["PixelSpacing"]


@fault("D16", "E-DCM-SPACING")
def pixels_of_no_size(folder):
    stack = slices()
    stack[6].PixelSpacing = [0, 0]
    return [write(folder, stack)[6].name, "PixelSpacing"]


@fault("D16", "E-DCM-SPACING")
def pixels_of_negative_size(folder):
    write(folder, slices(PixelSpacing=[1.5, -1.5]))
    return ["PixelSpacing"]


@fault("D18", "E-CT-HU")
def ct_counted_from_zero_without_rescale(folder):
    write(folder, slices(value=lambda points: anatomy_at(points) + 1024, rescale=None))
    return ["-1000", "Rescale"]


@fault("D18", "E-CT-HU")
def ct_with_slope_but_without_intercept(folder):
    write(folder, slices(value=lambda points: anatomy_at(points) + 1024, rescale=None, RescaleSlope=1))
    return ["-1000", "Rescale"]


@fault("D18", "E-CT-HU")
def frames_of_ct_without_rescale(folder):
    write(folder, enhanced(slices(value=lambda points: anatomy_at(points) + 1024, rescale=None)))
    return ["-1000", "Rescale"]


@fault("D21", "E-DCM-CODEC")
def a_syntax_that_nobody_decodes(folder):
    stack = slices(WIDE)
    path = write(folder, stack)[1]
    encapsulated(path, [b"\0\0\1\xb3" * 40], MPEG2MPML)
    return [path.name, "MPEG2"]


@fault("D21", "E-DCM-CODEC")
def a_syntax_of_the_future(folder):
    """JPEG XL, which pydicom knows no name of yet."""
    path = write(folder, slices(WIDE))[1]
    encapsulated(path, [b"\xff\x0a" * 40], HTJ2KLossless)
    replace_bytes(path, HTJ2KLossless.encode(), b"1.2.840.10008.1.2.4.110")
    return [path.name, "1.2.840.10008.1.2.4.110"]


@fault("D22", "E-DCM-PIXELS")
def compressed_pixels_that_are_noise(folder):
    path = write(folder, slices(WIDE), syntax=JPEGLSLossless)[2]
    encapsulated(path, [np.random.default_rng(0).bytes(800)], JPEGLSLossless)
    return [path.name, "JPEG-LS"]


@fault("D22", "E-DCM-PIXELS")
def half_of_a_jpeg_2000_image(folder):
    path = write(folder, slices(WIDE), syntax=JPEG2000Lossless)[2]
    (frame,) = frames_in(path)
    encapsulated(path, [frame[: len(frame) // 2]], JPEG2000Lossless)
    return [path.name, "JPEG 2000"]


@fault("D22", "E-DCM-PIXELS")
def half_of_a_run_length_image(folder):
    path = write(folder, slices(WIDE), syntax=RLELossless)[2]
    (frame,) = frames_in(path)
    encapsulated(path, [frame[: len(frame) // 2]], RLELossless)
    return [path.name, "RLE"]


@fault("D22", "E-DCM-PIXELS")
def fewer_compressed_frames_than_announced(folder):
    (path,) = write(folder, enhanced(slices(WIDE)), syntax=RLELossless)
    encapsulated(path, frames_in(path)[:-1], RLELossless)
    return [path.name]


def frames_in(path: Path) -> list[bytes]:
    """The compressed frames of a file."""
    dataset = pydicom.dcmread(path)
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))


def encapsulated(path: Path, frames: list[bytes], syntax: UID, **options) -> None:
    """Write a file again with other compressed pixels."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames, **options)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(("build", "code"), FAULTS)
def test_a_fault_is_refused_by_its_code_and_names_what_is_wrong(tmp_path, build, code):
    named = build(tmp_path)
    error = error_of(tmp_path)
    assert error.code == code, str(error)
    assert error.exit_code == 5
    assert [name for name in named if name not in str(error)] == [], str(error)


@pytest.mark.parametrize(
    "build",
    [pixels_cut_off, cut_before_rows, no_position, spacing_at_the_detector_only, fewer_pixels_than_the_header_says],
)
def test_a_broken_series_does_not_keep_the_others_from_being_read(tmp_path, build):
    build(tmp_path / "broken")
    write(tmp_path / "sound", slices(series=2))
    found = find_series(tmp_path)
    ((uid, error),) = found.broken
    assert uid == uid_of(1)
    assert [series.number for series in found.series] == [2]
    assert read_one(found.series[0]).error().max() < ROUNDING
    assert found.choose("2") == found.series
    with pytest.raises(ImageError) as caught:
        found.choose(uid)
    assert caught.value.code == error.code


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_a_series_with_a_truncated_compressed_slice_is_not_offered_without_it(tmp_path, syntax):
    """Where it is cut cannot be told without decoding; that it is must not be passed over."""
    path = write(tmp_path, slices(WIDE), syntax=syntax)[0]
    cut(path, -200)
    error = error_of(tmp_path)
    assert error.code in ("E-DCM-TRUNC", "E-DCM-PIXELS", "E-DCM-HEADER")
    assert path.name in str(error)
    for series in find_series(tmp_path).series:  # if pixels are looked at no earlier than when they are read
        with pytest.raises(ImageError):
            read_series(series)


@pytest.mark.parametrize("stored", [10, 14, 16])
def test_a_precision_that_differs_from_the_header_never_changes_values(tmp_path, stored):
    """JPEG 2000 of 12 bits in files that announce another number: read as drawn, or refused."""
    stack = slices(WIDE, rescale=(1, -1024))
    for one in stack:
        one.BitsStored, one.HighBit = 12, 11
    for path in write(tmp_path, stack, syntax=JPEG2000Lossless):
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit = stored, stored - 1
        dataset.save_as(path)
    try:
        wrong = read(tmp_path).error().max()
    except ImageError as error:
        refused, wrong = error.code, 0.0
    else:
        refused = "E-DCM-PIXELS"
    assert refused == "E-DCM-PIXELS"
    assert wrong < 0.51


# ------------------------------------------------------------- left out

OTHERS = []
"""Builder, code and number of files of everything that is no volume of ours."""


def left_out(row: str, code: str, files: int = 1):
    """Enter a builder in the table; what it writes is left out of a sound series beside it."""

    def enter(build: Callable[[Path], None]):
        OTHERS.append(pytest.param(build, code, files, id=f"{row} {build.__name__}"))
        return build

    return enter


@left_out("D04", "E-IO-TYPE", 4)
def texts(folder):
    (folder / "README.txt").write_text("Images of the study")
    (folder / "page.dcm").write_text("<!DOCTYPE html><html>log in first</html>")
    (folder / "empty.dcm").touch()
    (folder / "short").write_bytes(b"\x08\x00")


@left_out("D04", "E-IO-TYPE")
def bytes_that_start_as_a_data_set_may(folder):
    (folder / "junk").write_bytes(b"\x08\x00\x05\x00" + np.random.default_rng(0).bytes(3000))


@left_out("D04", "E-DCM-KIND")
def dicomdir(folder):
    one = Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.FileSetID, one.DirectoryRecordSequence = "CANARY", []
    one.save_as(folder / "DICOMDIR", enforce_file_format=True)


@left_out("D04", "E-DCM-KIND", 3)
def report_presentation_and_structures(folder):
    basic_text_report = UID("1.2.840.10008.5.1.4.1.1.88.11")
    for modality, kind in (
        ("SR", basic_text_report),
        ("PR", GrayscaleSoftcopyPresentationStateStorage),
        ("RTSTRUCT", RTStructureSetStorage),
    ):
        one = slices(SOPClassUID=kind, Modality=modality)[0]
        for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
            delattr(one, name)
        save(one, folder / f"{modality}.dcm")


@left_out("D05", "E-DCM-LOCALIZER", 3)
def localizers_of_their_own_series(folder):
    write(folder, slices(Stack(even(3, 20.0)), series=9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))


@left_out("D05", "E-DCM-LOCALIZER")
def a_localizer_in_the_same_series(folder):
    stack = Stack((0.0,), "coronal ++", rows=30)
    write(folder, slices(stack, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]))


@left_out("D05", "E-IMG-2D")
def a_slice_of_another_direction_in_the_same_series(folder):
    write(folder, slices(Stack((0.0,), "sagittal ++")))


@left_out("D05", "E-IMG-2D")
def a_single_slice_of_its_own_series(folder):
    write(folder, slices(Stack((0.0,)), series=7))


@left_out("D13", "E-DCM-SPLIT", 6)
def a_series_for_every_slice(folder):
    stack = slices(Stack(even(6, 4.0)), series=5)
    for count, one in enumerate(stack):
        one.SeriesInstanceUID = uid_of(f"slice {count}")
    write(folder, stack)


@left_out("D23", "E-DCM-SC")
def colors(folder):
    one = slices(series=8)[0]
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
    one.PixelData = bytes(one.Rows * one.Columns * 3)
    one["PixelData"].VR = "OB"
    save(one, folder / "dose.dcm")


@left_out("D23", "E-DCM-SC", 2)
def secondary_captures(folder):
    write(folder, slices(Stack(even(2, 4.0)), series=8, SOPClassUID=SecondaryCaptureImageStorage))


@left_out("D25", "E-DCM-MOSAIC", 2)
def mosaics(folder):
    kind = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    write(folder, slices(Stack(even(2, 4.0)), series=8, modality="MR", ImageType=kind))


@left_out("D04", "E-DCM-MODALITY", 5)
def other_modalities(folder):
    write(
        folder, slices(Stack(even(4, 4.0)), series=8, SOPClassUID=PositronEmissionTomographyImageStorage, Modality="PT")
    )
    write(folder, slices(Stack((0.0,)), series=9, SOPClassUID=UltrasoundImageStorage, Modality="US"))


@left_out("R11", "E-DCM-OWN", 8)
def what_we_made_before(folder):
    equipment = Dataset()
    equipment.Manufacturer = "monai-sr"
    write(folder, slices(series=1001, ContributingEquipmentSequence=[equipment]))


@left_out("Z02", "E-IO-TYPE")
def a_zip_beside_the_series(folder):
    with zipfile.ZipFile(folder / "more.zip", "w") as packed:
        packed.writestr("a.dcm", write(folder.parent / "elsewhere", slices(series=3))[0].read_bytes())


@pytest.mark.parametrize(("build", "code", "files"), OTHERS)
def test_what_is_no_volume_of_ours_is_left_out_and_counted(tmp_path, build, code, files):
    folder = tmp_path / "study"
    write(folder, slices(rescale=(1, -1024)))
    build(folder)
    found = find_series(folder)
    assert {left.code for left in found.left_out} == {code}
    assert sum(left.files for left in found.left_out) == files
    assert found.broken == ()
    assert tells_nothing(found.left_out)
    volume = read(folder)
    assert volume.error().max() < 0.51
    assert volume.warnings == []


@pytest.mark.parametrize(
    ("build", "hint"),
    [(mosaics, "dcm2niix"), (a_series_for_every_slice, "--merge-by-geometry"), (dicomdir, "DICOMDIR")],
)
def test_the_reason_says_what_to_do(tmp_path, build, hint):
    build(tmp_path)
    (left,) = find_series(tmp_path).left_out
    assert hint in left.reason


def test_kinds_are_counted_one_by_one(tmp_path):
    for build in (texts, dicomdir, report_presentation_and_structures, mosaics):
        build(tmp_path)
    counts = {(left.code, left.reason): left.files for left in find_series(tmp_path).left_out}
    assert sorted(counts.values()) == [1, 1, 1, 1, 2, 4]


def test_nothing_usable_is_said_with_all_that_was_left_out(tmp_path):
    texts(tmp_path)
    mosaics(tmp_path)
    localizers_of_their_own_series(tmp_path)
    with pytest.raises(InputMissingError) as caught:
        read_image(tmp_path)
    message = str(caught.value)
    assert caught.value.code == "E-DCM-NONE"
    assert caught.value.exit_code == 3
    assert str(tmp_path) in message
    for part in ("4 ", "2 ", "3 ", "mosaic", "localizer", "not DICOM"):
        assert part in message


@pytest.mark.parametrize("build", [lambda folder: None, texts], ids=["empty", "texts"])
def test_a_folder_without_dicom_is_said_to_be_so(tmp_path, build):
    build(tmp_path)
    with pytest.raises(InputMissingError) as caught:
        read_image(tmp_path)
    assert caught.value.code == "E-DCM-NONE"
    assert str(tmp_path) in str(caught.value)


# ------------------------------------------------------------- mended

MENDED = []
"""Builder and warning, if any, of every oddity that is read to the right values."""


def mended(row: str, codes: str = ""):
    """Enter a builder in the table; it returns how far values may be from the phantom's, HU."""

    def enter(build: Callable[[Path], float]):
        MENDED.append(pytest.param(build, codes, id=f"{row} {build.__name__}"))
        return build

    return enter


@mended("D03", "W-DCM-PREAMBLE")
def no_preamble(folder):
    for path in write(folder, slices()):
        path.write_bytes(path.read_bytes()[132:])
    return ROUNDING


@mended("D03", "W-DCM-PREAMBLE")
def neither_preamble_nor_file_meta_information(folder):
    for path in write(folder, slices()):
        dataset = pydicom.dcmread(path)
        pydicom.dcmwrite(path, plain(dataset), implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    return ROUNDING


@mended("D03", "W-DCM-PREAMBLE")
def an_explicit_data_set_alone(folder):
    for path in write(folder, slices()):
        dataset = pydicom.dcmread(path)
        pydicom.dcmwrite(path, plain(dataset), implicit_vr=False, little_endian=True)
    return ROUNDING


@mended("D03", "W-DCM-PREAMBLE")
def one_slice_without_preamble(folder):
    path = write(folder, slices())[3]
    path.write_bytes(path.read_bytes()[132:])
    return ROUNDING


def plain(dataset: Dataset) -> Dataset:
    """The same elements without a file around them."""
    bare = Dataset()
    for element in dataset:
        bare.add(element)
    return bare


@mended("D08", "W-DCM-DUP")
def one_file_copied(folder):
    path = write(folder, slices())[2]
    shutil.copy(path, folder / "copy of it.dcm")
    return ROUNDING


@mended("D08", "W-DCM-DUP")
def a_slice_sent_twice_under_another_uid(folder):
    stack = slices()
    write(folder, [*stack, slices()[0], slices()[7]])
    return ROUNDING


@mended("D08", "W-DCM-DUP")
def the_whole_folder_copied(folder):
    write(folder / "a", slices())
    shutil.copytree(folder / "a", folder / "b")
    return ROUNDING


@mended("D08", "W-DCM-DUP")
def a_copy_in_another_encoding(folder):
    stack = slices()
    write(folder / "a", stack)
    write(folder / "b", stack, syntax=ImplicitVRLittleEndian)
    return ROUNDING


@mended("D10", "W-DCM-UNEVEN")
def steps_that_vary_widely(folder):
    """As between 1.08 and 7 mm."""
    write(folder, slices(Stack((-14, -12.9, -9.4, -2.4, 0.1, 4.8, 9.1, 12.4))))
    return ROUNDING


@mended("D10", "W-DCM-UNEVEN W-DCM-THICKNESS")
def thin_slices_below_and_thick_ones_above(folder):
    """A head CT in two parts: thickness follows the spacing, so nothing is missing."""
    stack = slices(Stack((-16, -12, -8, -4, 0, 6, 14)), SliceThickness=4)
    for one in stack[5:]:
        one.SliceThickness = 8
    write(folder, stack)
    return ROUNDING


@mended("D10", "W-DCM-UNEVEN W-DCM-THICKNESS")
def spacing_that_doubles_with_the_thickness(folder):
    stack = slices(Stack((-20, -16, -12, -8, -4, 0, 8, 16)), SliceThickness=4)
    for one in stack[5:]:
        one.SliceThickness = 8
    write(folder, stack)
    return ROUNDING


@mended("D12")
def names_and_numbers_in_no_order(folder):
    for count, one in enumerate(slices()):
        one.InstanceNumber = [3, 1, 4, 1, 5, 9, 2, 6][count]
        one.SliceLocation = 100 - count % 3
        save(one, folder / f"{hash((count, 7)) % 997:x}-{count}")
    return ROUNDING


@mended("D15")
def slices_that_overlap(folder):
    write(folder, slices(SliceThickness=6, SpacingBetweenSlices=6))
    return ROUNDING


@mended("D18", "W-CT-NORESCALE")
def hounsfield_units_without_rescale(folder):
    write(folder, slices(rescale=None, dtype="int16"))
    return 0.51


@mended("D22")
def fragments_and_an_empty_offset_table(folder):
    for path in write(folder, slices(WIDE, rescale=(1, -1024)), syntax=JPEG2000Lossless):
        encapsulated(path, frames_in(path), JPEG2000Lossless, fragments_per_frame=3, has_bot=False)
    return 0.51


@mended("D22")
def an_empty_offset_table_of_many_frames(folder):
    (path,) = write(folder, enhanced(slices(WIDE, rescale=(1, -1024))), syntax=RLELossless)
    encapsulated(path, frames_in(path), RLELossless, has_bot=False)
    return 0.51


@mended("D26")
def deflated_without_suffix(folder):
    write(folder, slices(), syntax=DeflatedExplicitVRLittleEndian, suffix="")
    return ROUNDING


@mended("D27")
def no_sop_class(folder):
    for path in write(folder, slices()):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = ""
        dataset.save_as(path)
    return ROUNDING


@mended("D27")
def private_junk(folder):
    stack = slices()
    for count, one in enumerate(stack):
        block = one.private_block(0x0029, "JUNK OF A VENDOR", create=True)
        block.add_new(0x10, "OB", np.random.default_rng(count).bytes(20 * count))
        block.add_new(0x11, "UN", b"odd" * (2 * count + 1))
        block.add_new(0x12, "SQ", [Dataset()])
    write(folder, stack)
    return ROUNDING


@mended("Z05")
def fifo_and_links_in_the_tree(folder):
    write(folder, slices())
    os.mkfifo(folder / "IM9999.dcm")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "nothing").symlink_to(folder / "absent")
    (folder / "device").symlink_to("/dev/zero")
    return ROUNDING


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("build", "codes"), MENDED)
def test_an_oddity_is_read_to_the_right_values_and_told(tmp_path, build, codes):
    limit = build(tmp_path)
    volume = read(tmp_path)
    assert volume.error().max() < limit
    assert volume.warnings == codes.split()
    assert volume.voxels.shape[2] in (4, 7, 8)


# ------------------------------------------------------------- gaps, merging, mixtures, changes


@catalogue.fault("D09", "W-DCM-GAP")
@pytest.mark.parametrize("missing", [(7,), (4, 5), (2, 3, 8)])
def test_gaps_are_kept_as_positions_where_filling_is_asked_for(tmp_path, missing):
    offsets = np.delete(np.array(even(12, 2.5)), missing)
    write(tmp_path, slices(Stack(tuple(offsets))))
    volume = read(tmp_path, fill_gaps=True)
    assert volume.warnings == ["W-DCM-GAP"]
    assert volume.meta["slice_positions"] == pytest.approx(offsets - (offsets[0] + offsets[-1]) / 2)
    assert volume.error().max() < ROUNDING
    with pytest.raises(ImageError, match="E-DCM-GAP"):
        read_image(tmp_path)
    with pytest.warns(UserWarning, match="W-DCM-GAP"):
        assert read_image(tmp_path, fill_gaps=True).shape == (1, 26, 22, len(offsets))


def test_asking_to_fill_gaps_changes_nothing_where_there_are_none(tmp_path):
    write(tmp_path, slices())
    whole, filled = read(tmp_path), read(tmp_path, fill_gaps=True)
    assert np.array_equal(whole.voxels, filled.voxels)
    assert filled.warnings == [] and "slice_positions" not in filled.meta


@catalogue.fault("D13", "W-DCM-MERGED")
def test_a_series_for_every_slice_is_merged_on_request(tmp_path):
    a_series_for_every_slice(tmp_path)
    volume = read(tmp_path, merge_by_geometry=True)
    assert volume.warnings == ["W-DCM-MERGED"]
    assert volume.voxels.shape == (26, 22, 6)
    assert volume.error().max() < ROUNDING
    with pytest.warns(UserWarning, match="W-DCM-MERGED"):
        assert read_image(tmp_path, merge_by_geometry=True).shape == (1, 26, 22, 6)
    with pytest.raises(InputMissingError, match="merge-by-geometry"):
        read_image(tmp_path)


def test_merging_leaves_series_that_are_whole_alone(tmp_path):
    a_series_for_every_slice(tmp_path)
    write(tmp_path, slices(Stack(even(9, 3.0)), series=2))
    found = find_series(tmp_path, merge_by_geometry=True)
    assert sorted(len(series.frames) for series in found.series) == [6, 9]
    assert all(read_one(series).error().max() < ROUNDING for series in found.series)


@catalogue.fault("D17", "W-DCM-MIXED")
@pytest.mark.parametrize(
    "other",
    [
        {"stack": Stack(rows=24, columns=28)},
        {"stack": Stack(pixel_spacing=(0.9, 0.9))},
        {"stack": Stack(even(8, 4.0), shift=(0, 0, 40.0)), "FrameOfReferenceUID": uid_of("another frame")},
        {"FrameOfReferenceUID": uid_of("another frame")},
    ],
    ids=["matrix", "pixel spacing", "frame of reference", "frame of reference, same place"],
)
def test_a_mixture_in_one_series_is_split(tmp_path, other):
    write(tmp_path, slices())
    write(tmp_path, slices(**other))
    found = find_series(tmp_path)
    assert len(found.series) == 2 and found.broken == ()
    for series in found.series:
        volume = read_one(series)
        assert volume.warnings == ["W-DCM-MIXED"]
        assert volume.voxels.shape[2] == 8
        assert volume.error().max() < ROUNDING


@catalogue.fault("D28", "E-IO-CHANGED")
def test_a_file_that_changes_after_it_was_found_is_not_read(tmp_path):
    paths = write(tmp_path, slices(Stack(rows=50, columns=50)))
    (series,) = find_series(tmp_path).series
    spoil(paths[3])
    with pytest.raises(ImageError) as caught:
        read_series(series)
    assert caught.value.code == "E-IO-CHANGED"
    assert paths[3].name in str(caught.value)


@catalogue.fault("D28", "E-IO-CHANGED")
@pytest.mark.parametrize("change", ["rewritten", "cut", "removed"])
def test_a_file_that_changes_while_the_series_is_read_is_noticed(tmp_path, change):
    paths = write(tmp_path, slices(Stack(rows=50, columns=50)))
    (series,) = find_series(tmp_path).series
    last = max(paths)

    def progress(share):
        if share > 0.5 and last.exists():
            {"rewritten": spoil, "cut": lambda path: cut(path, -600), "removed": os.remove}[change](last)

    with pytest.raises(ImageError) as caught:
        read_series(series, progress=progress)
    assert caught.value.code == "E-IO-CHANGED"
    assert last.name in str(caught.value)


def spoil(path: Path) -> None:
    """Other pixels in a file of the same length, written a second later."""
    content = path.read_bytes()
    path.write_bytes(content[:-400] + bytes(400))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 1))


# ------------------------------------------------------------- zips


@pytest.fixture
def pack(tmp_path):
    """Write a zip of a sound series under given names, and more entries; its path."""
    contents = [path.read_bytes() for path in write(tmp_path / "packed", slices(Stack(even(6, 4.0))))]
    shutil.rmtree(tmp_path / "packed")

    def make(names=None, more=None, name="study.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for entry, content in zip(names or [f"dir/IM{i}" for i in range(6)], contents, strict=True):
                packed.writestr(entry, content)
            for entry, content in (more or {}).items():
                packed.writestr(entry, content)
        return path

    return make


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where archives are unpacked; nothing may be left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("dir/link.dcm")
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@catalogue.fault("Z01", "E-SEC-PATH")
@pytest.mark.parametrize(
    "entry",
    ["../outside.dcm", "dir/../../outside.dcm", "/absolute.dcm", "C:/drive.dcm", "C:\\drive.dcm", "..\\up.dcm", link()],
    ids=lambda entry: entry if isinstance(entry, str) else "link",
)
def test_an_archive_that_leads_out_of_its_folder_is_refused(pack, temporary, entry):
    path = pack(more={entry: b"/etc/passwd"})
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code == "E-SEC-PATH"
    assert path.name in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


@catalogue.fault("Z02", "E-SEC-BOMB")
@pytest.mark.parametrize(
    ("limits", "more"),
    [
        ({"MOST_ENTRIES": 5}, {}),
        ({"MOST_BYTES": 8000}, {}),
        ({"SMALL": 50_000, "MOST_RATIO": 20}, {"zeros.dcm": bytes(2_000_000)}),
    ],
    ids=["entries", "bytes", "ratio"],
)
def test_a_zip_bomb_is_refused_before_it_is_unpacked(pack, temporary, monkeypatch, limits, more):
    path = pack(more=more)
    assert read_image(path).shape == (1, 26, 22, 6)  # within the real limits
    for name, value in limits.items():
        monkeypatch.setattr(archive, name, value)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code == "E-SEC-BOMB"
    assert path.name in str(caught.value)
    assert list(temporary.iterdir()) == []


@catalogue.fault("Z02", "E-IO-CRC", "E-SEC-BOMB")
def test_an_entry_larger_than_announced_does_not_fill_the_disk(pack, temporary):
    path = pack(more={"zeros.dcm": bytes(2_000_000)})
    size = (2_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code in ("E-IO-CRC", "E-SEC-BOMB")
    assert list(temporary.iterdir()) == []


@catalogue.fault("Z02", "E-ZIP-CRYPT")
def test_an_encrypted_archive_is_refused(pack, temporary):
    path = pack()
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code == "E-ZIP-CRYPT"
    assert path.name in str(caught.value)


@pytest.mark.parametrize("damage", ["a byte", "the end"])
def test_a_damaged_archive_is_refused(pack, temporary, damage):
    path = pack()
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 0xFF
    else:
        del content[-300:]
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code == "E-IO-CRC"
    assert path.name in str(caught.value)
    assert list(temporary.iterdir()) == []


@catalogue.fault("Z03")
@pytest.mark.parametrize(
    "names",
    [
        ["a/im", "A/im", "a/IM", "A/IM", "a/Im", "a/iM"],
        ["CON", "NUL", "com1.dcm", "AUX.dcm", "trailing.", "trailing "],
        ["same", "same", "same", "same", "same", "same"],
        [f"{'long' * 60}/{i}/{'name' * 60}" for i in range(6)],
        ["sp ace", "ümlaut", "日本", "semi;colon", "new\nline", "%00"],
    ],
    ids=["case", "reserved", "doubled", "long", "odd"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_an_archive_decide_nothing(pack, temporary, names):
    path = pack(names)
    volume = read(path)
    assert volume.voxels.shape == (26, 22, 6)
    assert volume.error().max() < ROUNDING


@catalogue.fault("Z02")
def test_a_zip_in_a_zip_and_its_other_files_are_left_out(pack, temporary):
    inner = pack(name="inner.zip").read_bytes()
    path = pack(more={"inner.zip": inner, "README.txt": b"hello", "empty/": b""})
    found = find_series(path)
    assert sum(left.files for left in found.left_out) == 2
    assert len(found.series) == 1


def test_nothing_stays_unpacked(pack, temporary):
    path = pack()
    read_image(path)
    assert list(temporary.iterdir()) == []


def test_a_zip_without_dicom_is_no_input(tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as packed:
        packed.writestr("a.txt", "hello")
    with pytest.raises(InputMissingError) as caught:
        read_image(tmp_path / "texts.zip")
    assert caught.value.code == "E-DCM-NONE"


@catalogue.fault("Z05")
@pytest.mark.timeout(60)
def test_a_fifo_as_the_source_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "fifo.dcm")
    for read_it in (find_series, read_image):
        with pytest.raises(SuperResolutionError):
            read_it(tmp_path / "fifo.dcm")


# ------------------------------------------------------------- whatever a header holds


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An element of explicit VR little endian."""
    number = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    return number + vr.encode() + len(value).to_bytes(2, "little") + value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SeriesNumber", b"x "),
        ("SeriesNumber", b"1\\2 "),
        ("SliceThickness", b"CANARY"),
        ("RescaleSlope", b"CANARY /"),
        ("RescaleSlope", b"nan "),
        ("RescaleSlope", b"0 "),
        ("RescaleIntercept", b"1e999 "),
        ("ImagePositionPatient", b"nan\\1\\2 "),
        ("ImagePositionPatient", b"CANARY\\1\\2"),
        ("PixelSpacing", b"1.5/1.25"),
        ("PixelSpacing", b"1e30\\1e30 "),
        ("BitsAllocated", b"\0\0"),
        ("BitsAllocated", b"\x0c\0"),
        ("BitsStored", b"\xff\xff"),
        ("BitsStored", b"\0\0"),
        ("HighBit", b"\xff\xff"),
        ("PixelRepresentation", b"\x07\0"),
        ("Rows", b"\xff\xff"),
        ("Rows", b"\x16\0\x16\0"),
        ("SamplesPerPixel", b"\0\0"),
        ("SamplesPerPixel", b"\1\0\1\0"),
        ("PhotometricInterpretation", b"CANARY"),
        ("SeriesInstanceUID", b"../../CANARY"),
        ("Modality", b"MR"),
        ("SpecificCharacterSet", b"CANARY"),
        ("ImageType", b"\xff\xfe\xff\xfe"),
        ("NumberOfFrames", b"x "),
        ("NumberOfFrames", b"-3"),
        ("NumberOfFrames", b"999999999 "),
        ("PixelPaddingValue", b"\0\0\1\0"),
        ("ContributingEquipmentSequence", b""),
    ],
)
def test_nonsense_in_a_header_is_refused_or_read_but_never_a_crash(tmp_path, name, value):
    there = {"NumberOfFrames": "1", "PixelPaddingValue": 77, "ContributingEquipmentSequence": [Dataset()]}
    for path in write(tmp_path, slices(**{name: there[name]} if name in there else {})):
        set_raw(path, name, value)
    survives(tmp_path)


def set_raw(path: Path, name: str, value: bytes) -> None:
    """Write other bytes as the value of an element of an explicit VR little endian file."""
    tag = pydicom.datadict.tag_for_keyword(name)
    number = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    content = path.read_bytes()
    at = content.index(number, 132)
    size = 4 if content[at + 4 : at + 6] == b"SQ" else 2
    start = at + 6 + size + (2 if size == 4 else 0)
    end = start + int.from_bytes(content[start - size : start], "little")
    path.write_bytes(content[: start - size] + len(value).to_bytes(size, "little") + value + content[end:])


@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_whatever_byte_of_a_header_is_damaged_nothing_but_our_errors_is_raised(tmp_path, many_frames):
    stack = slices(Stack(even(3, 4.0), rows=4, columns=4), PixelPaddingValue=65535)
    path = write(tmp_path, enhanced(stack) if many_frames else stack)[-1]
    sound = path.read_bytes()
    end = sound.rindex(b"\xe0\x7f\x10\x00")
    random = np.random.default_rng(7)
    for _ in range(100):
        damaged = bytearray(sound)
        for at in random.integers(132, end, random.integers(1, 4)):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        survives(tmp_path)


def test_wherever_a_file_is_cut_it_is_refused_and_not_passed_over(tmp_path):
    path = write(tmp_path, slices(Stack(even(3, 4.0), rows=4, columns=4)))[0]
    sound = path.read_bytes()
    for length in range(132, len(sound), 23):
        path.write_bytes(sound[:length])
        found = find_series(tmp_path)
        assert len(found.broken) == 1, length
        assert found.broken[0][1].code in ("E-DCM-HEADER", "E-DCM-TRUNC")
        assert tells_nothing(str(found.broken[0][1]))


def survives(folder: Path) -> None:
    """Find and read whatever can be; every other exception than ours is a bug."""
    with collect_notices() as caught:
        said: list[object] = []
        try:
            found = find_series(folder)
            said += [str(error) for _, error in found.broken] + [str(left) for left in found.left_out]
            for series in found.series:
                read_series(series)
        except SuperResolutionError as error:
            said.append(str(error))
    said += [notice.to_dict() for notice in caught]
    assert tells_nothing(*said)
