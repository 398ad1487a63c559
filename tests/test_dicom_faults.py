"""Faulty and foreign DICOM: what is refused, what is left out, what is mended, and what is said.

The tables follow the fault catalogue (``README.md``); each entry writes one small folder.
"""

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from catalogue import entry, fault
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

POSITION = ("ImagePositionPatient",)


def error_of(source: Path) -> SuperResolutionError:
    """The one fault that finding or reading a source meets; it says what to do and nothing of a patient."""
    with pytest.raises(SuperResolutionError) as caught:
        read(source)
    assert caught.value.remedy
    assert tells_nothing(str(caught.value), caught.value.__cause__)
    return caught.value


def cut(path: Path, keep: int | bytes) -> Path:
    """Leave the first bytes of a file: all up to some, so many, or so many less than all where negative."""
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else content.index(keep)])
    return path


def replace_bytes(path: Path, old: bytes, new: bytes) -> Path:
    """Change one place of a file."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def one_of(folder: Path, number: int, stack: list[Dataset] | None = None, **attributes) -> Path:
    """A series of whose slices one has other attributes; the file of that one."""
    stack = stack or slices()
    update(stack[number], **attributes)
    return write(folder, stack)[number]


def without(folder: Path, offsets, *missing: int) -> list[Path]:
    """A series that lacks slices; the files around the first widest gap."""
    kept = np.delete(np.array(offsets), missing)
    at = int(np.diff(kept).argmax())
    return write(folder, slices(Stack(tuple(kept), rows=40, columns=40)))[at : at + 2]


def counted_from_zero(**attributes) -> list[Dataset]:
    """A CT without rescale whose air is 24."""
    return slices(value=lambda points: anatomy_at(points) + 1024, rescale=None, **attributes)


def frames_in(path: Path) -> list[bytes]:
    """The compressed frames of a file."""
    dataset = pydicom.dcmread(path)
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))


def encapsulated(path: Path, frames: list[bytes], syntax: UID, **options) -> Path:
    """Write a file again with other compressed pixels."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames, **options)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def half(path: Path, syntax: UID) -> Path:
    """Half of the one compressed frame of a file."""
    (frame,) = frames_in(path)
    return encapsulated(path, [frame[: len(frame) // 2]], syntax)


def a_pixel_changed(dataset: Dataset) -> Dataset:
    stored = stored_of(dataset)
    stored[11, 12] += 1
    store(dataset, stored)
    return dataset


# ------------------------------------------------------------- refused

NEARLY_EVEN = even(10, 7.0) + np.array([0, 1, -1, 0, 1, 0, -1, 1, 0, 0]) * 0.06
"""Steps of 6.9 to 7.1 mm, as MR at an angle may have."""

FUTURE = b"1.2.840.10008.1.2.4.999"  # which no package knows a name of

REFUSED = [
    entry("D01", "E-DCM-TRUNC", "pixels", lambda f: cut(write(f, slices())[3], -100)),
    entry("D01", "E-DCM-TRUNC", "last byte", lambda f: cut(write(f, slices(Stack(rows=50, columns=50)))[0], -1)),
    entry("D01", "E-DCM-TRUNC", "fewer than the header says", lambda f: one_of(f, 2, PixelData=bytes(1092))),
    entry("D01", "E-DCM-TRUNC", "frames", lambda f: cut(*write(f, enhanced(slices())), -3000)),
    entry("D02", "E-DCM-HEADER", "before Rows", lambda f: cut(write(f, slices())[5], b"\x28\0\x10\0US")),
    entry("D02", "E-DCM-HEADER", "before the pixels", lambda f: cut(write(f, slices())[5], b"\xe0\x7f\x10\0")),
    entry("D02", "E-DCM-HEADER", "in the file meta information", lambda f: cut(write(f, slices())[0], 180)),
    entry("D02", "E-DCM-HEADER", "behind the preamble", lambda f: cut(write(f, slices())[7], 132)),
    entry("D07", "E-DCM-AMBIG", "nothing differs", lambda f: [
        write(f, slices(modality="MR"))[0],
        write(f, slices(value=lambda points: anatomy_at(points) / 2, modality="MR"))[0]]),
    entry("D08", "E-DCM-DUP", "that differ", lambda f: write(f, [*slices(), a_pixel_changed(slices()[4])])[4::4]),
    entry("D09", "E-DCM-GAP", "one", lambda f: without(f, even(12, 2.5), 7), says=("5 mm", "2.5 mm", "1 slice")),
    entry("D09", "E-DCM-GAP", "two neighbors", lambda f: without(f, even(12, 2.5), 4, 5), says=("7.5 mm", "2 slice")),
    entry("D09", "E-DCM-GAP", "at two places", lambda f: without(f, even(12, 2.5), 3, 4, 8), says=("3 slice",)),
    entry("D09", "E-DCM-GAP", "of nearly even slices", lambda f: without(f, NEARLY_EVEN, 5)),
    entry("D14", "E-DCM-NOGEOM", "no position", lambda f: one_of(f, 2, ImagePositionPatient=None), says=POSITION),
    entry("D14", "E-DCM-NOGEOM", "no orientation", lambda f: write(
        f, slices(ImageOrientationPatient=None))[:0], says=("ImageOrientationPatient",)),
    entry("D14", "E-DCM-NOGEOM", "orientation of zeros", lambda f: write(
        f, slices(ImageOrientationPatient=[0] * 6))[:0], says=("ImageOrientationPatient",)),
    entry("D14", "E-DCM-NOGEOM", "orientation of length 2", lambda f: write(
        f, slices(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]))[:0], says=("ImageOrientationPatient",)),
    entry("D14", "E-DCM-NOGEOM", "positions of zeros", lambda f: write(
        f, slices(ImagePositionPatient=[0, 0, 0]))[:0], says=POSITION),
    entry("D14", "E-DCM-NOGEOM", "two numbers", lambda f: one_of(f, 1, ImagePositionPatient=[1.5, 2.5]), says=POSITION),
    entry("D14", "E-DCM-NOGEOM", "frames", lambda f: write(
        f, enhanced(slices(ImagePositionPatient=None))), says=POSITION),
    entry("D16", "E-DCM-SPACING", "at the detector only", lambda f: write(
        f, slices(PixelSpacing=None, ImagerPixelSpacing=[0.5, 0.5]))[:0], says=("PixelSpacing",)),
    entry("D16", "E-DCM-SPACING", "zero", lambda f: one_of(f, 6, PixelSpacing=[0, 0]), says=("PixelSpacing",)),
    entry("D16", "E-DCM-SPACING", "negative", lambda f: write(
        f, slices(PixelSpacing=[1.5, -1.5]))[:0], says=("PixelSpacing",)),
    entry("D18", "E-CT-HU", "from zero", lambda f: write(f, counted_from_zero())[:0], says=("-1000", "Rescale")),
    entry("D18", "E-CT-HU", "slope alone", lambda f: write(
        f, counted_from_zero(RescaleSlope=1))[:0], says=("-1000", "Rescale")),
    entry("D18", "E-CT-HU", "frames", lambda f: write(
        f, enhanced(counted_from_zero()))[:0], says=("-1000", "Rescale")),
    entry("D19", "E-DCM-RESCALE", "one without", lambda f: one_of(f, 3, RescaleSlope=None, RescaleIntercept=None)),
    entry("D19", "E-DCM-RESCALE", "one without intercept", lambda f: one_of(f, 3, RescaleIntercept=None)),
    entry("D19", "E-DCM-RESCALE", "a table", lambda f: write(f, slices(
        rescale=None, modality="MR", dtype="int16", ModalityLUTSequence=[Dataset()]))[:0], says=("ModalityLUT",)),
    entry("D21", "E-DCM-CODEC", "MPEG2", lambda f: encapsulated(
        write(f, slices(WIDE))[1], [b"\0\0\1\xb3" * 40], MPEG2MPML), says=("MPEG2",)),
    entry("D21", "E-DCM-CODEC", "of the future", lambda f: replace_bytes(encapsulated(
        write(f, slices(WIDE))[1], [b"\xff\x0a" * 40], HTJ2KLossless), HTJ2KLossless.encode(), FUTURE),
        says=(FUTURE.decode(),)),
    entry("D22", "E-DCM-PIXELS", "noise", lambda f: encapsulated(
        write(f, slices(WIDE), syntax=JPEGLSLossless)[2], [np.random.default_rng(0).bytes(800)], JPEGLSLossless),
        says=("JPEG-LS",)),
    entry("D22", "E-DCM-PIXELS", "half of JPEG 2000", lambda f: half(
        write(f, slices(WIDE), syntax=JPEG2000Lossless)[2], JPEG2000Lossless), says=("JPEG 2000",)),
    entry("D22", "E-DCM-PIXELS", "half of RLE", lambda f: half(
        write(f, slices(WIDE), syntax=RLELossless)[2], RLELossless), says=("RLE",)),
    entry("D22", "E-DCM-PIXELS", "a frame too few", lambda f: a_frame_too_few(
        *write(f, enhanced(slices(WIDE)), syntax=RLELossless))),
    entry("D22", "E-DCM-PIXELS", "floating-point numbers", lambda f: one_of(
        f, 2, PixelData=None, FloatPixelData=bytes(4 * 26 * 22)), says=("floating-point",)),
]  # fmt: skip


def a_frame_too_few(path: Path) -> Path:
    return encapsulated(path, frames_in(path)[:-1], RLELossless)


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_refused_by_its_code_and_names_what_is_wrong(tmp_path, case):
    paths = case.build(tmp_path)
    error = error_of(tmp_path)
    assert (error.code, error.exit_code) == (case.code, 5), str(error)
    named = [path.name for path in (paths if isinstance(paths, list) else [paths])]
    assert [part for part in (*named, *case.expected.get("says", ())) if part not in str(error)] == [], str(error)


def test_a_cut_file_is_named_with_the_bytes_it_has_and_needs(tmp_path):
    size = cut(write(tmp_path, slices())[3], -100).stat().st_size
    assert str(size) in str(error_of(tmp_path)) and str(size + 100) in str(error_of(tmp_path))


BEFORE_THE_PIXELS = ("pixels", "before Rows", "no position", "at the detector only", "fewer than the header says")


@pytest.mark.parametrize("case", [one for one in REFUSED if one.id.endswith(BEFORE_THE_PIXELS)])
def test_a_broken_series_does_not_keep_the_others_from_being_read(tmp_path, case):
    case.build(tmp_path / "broken")
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
    with pytest.raises(ImageError) as caught:  # not as if one of two sound series were to be chosen
        found.only()
    assert caught.value.code == "E-DCM-SERIES" and error.code in caught.value.problem


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_a_series_with_a_truncated_compressed_slice_is_not_offered_without_it(tmp_path, syntax):
    """Only decoding shows where it is cut; but the cut must be reported."""
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


def texts(folder):
    (folder / "README.txt").write_text("Images of the study")
    (folder / "page.dcm").write_text("<!DOCTYPE html><html>log in first</html>")
    (folder / "empty.dcm").touch()
    (folder / "short").write_bytes(b"\x08\x00")


def dicomdir(folder):
    one = Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.FileSetID, one.DirectoryRecordSequence = "CANARY", []
    one.save_as(folder / "DICOMDIR", enforce_file_format=True)


def report_presentation_and_structures(folder):
    basic_text_report = UID("1.2.840.10008.5.1.4.1.1.88.11")
    kinds = basic_text_report, GrayscaleSoftcopyPresentationStateStorage, RTStructureSetStorage
    absent = dict.fromkeys(("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"))
    for modality, kind in zip(("SR", "PR", "RTSTRUCT"), kinds, strict=True):
        save(slices(SOPClassUID=kind, Modality=modality, **absent)[0], folder / f"{modality}.dcm")


def a_series_for_every_slice(folder):
    stack = slices(Stack(even(6, 4.0)), series=5)
    for count, one in enumerate(stack):
        one.SeriesInstanceUID = uid_of(f"slice {count}")
    write(folder, stack)


def colors(folder):
    one = slices(series=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)[0]
    one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
    one.PixelData = bytes(one.Rows * one.Columns * 3)
    one["PixelData"].VR = "OB"
    save(one, folder / "dose.dcm")


def a_few(folder, count: int, series: int = 8, orientation: str = "axial ++", **attributes) -> None:
    """Some slices 4 mm apart."""
    write(folder, slices(Stack(even(count, 4.0), orientation), series=series, **attributes))


def a_zip(folder):
    with zipfile.ZipFile(folder / "more.zip", "w") as packed:
        packed.writestr("a.dcm", write(folder.parent / "elsewhere", slices(series=3))[0].read_bytes())


def ours() -> Dataset:
    equipment = Dataset()
    equipment.Manufacturer = "monai-sr"
    return equipment


LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]
PET, ULTRASOUND = PositronEmissionTomographyImageStorage, UltrasoundImageStorage

MOSAIC = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
JUNK = b"\x08\x00\x05\x00" + np.random.default_rng(0).bytes(3000)

LEFT_OUT = [
    entry("D04", "E-IO-TYPE", "texts", texts, files=4),
    entry("D04", "E-IO-TYPE", "bytes that start as DICOM may", lambda f: (f / "junk").write_bytes(JUNK)),
    entry("D04", "E-DCM-KIND", "DICOMDIR", dicomdir),
    entry("D04", "E-DCM-KIND", "report, presentation, structures", report_presentation_and_structures, files=3),
    entry("D04", "E-DCM-MODALITY", "PET", lambda f: a_few(f, 4, SOPClassUID=PET, Modality="PT"), files=4),
    entry("D04", "E-DCM-MODALITY", "ultrasound", lambda f: a_few(f, 1, SOPClassUID=ULTRASOUND, Modality="US")),
    entry("D05", "E-DCM-LOCALIZER", "own series", lambda f: a_few(f, 3, ImageType=LOCALIZER[:3]), files=3),
    entry("D05", "E-DCM-LOCALIZER", "same series", lambda f: a_few(f, 1, 1, "coronal ++", ImageType=LOCALIZER)),
    entry("D05", "E-IMG-2D", "another direction, same series", lambda f: a_few(f, 1, 1, "sagittal ++")),
    entry("D05", "E-IMG-2D", "a slice alone", lambda f: a_few(f, 1)),
    entry("D13", "E-DCM-SPLIT", "not joined", a_series_for_every_slice, files=6),
    entry("D23", "E-DCM-SC", "colors", colors),
    entry("D23", "E-DCM-SC", "a palette", lambda f: a_few(f, 2, PhotometricInterpretation="PALETTE COLOR"), files=2),
    entry("D23", "E-DCM-SC", "captures", lambda f: a_few(f, 2, SOPClassUID=SecondaryCaptureImageStorage), files=2),
    entry("D25", "E-DCM-MOSAIC", "two", lambda f: mosaics(f), files=2),
    entry("R11", "E-DCM-OWN", "a result", lambda f: a_few(f, 8, ContributingEquipmentSequence=[ours()]), files=8),
    entry("Z02", "E-IO-TYPE", "a zip beside the series", a_zip),
]


def mosaics(folder):
    a_few(folder, 2, modality="MR", ImageType=MOSAIC)


@pytest.mark.parametrize("case", LEFT_OUT)
def test_other_files_are_left_out_and_counted(tmp_path, case):
    folder = tmp_path / "study"
    write(folder, slices(rescale=(1, -1024)))
    case.build(folder)
    found = find_series(folder)
    assert {left.code for left in found.left_out} == {case.code}
    assert sum(left.files for left in found.left_out) == case.expected.get("files", 1)
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


def test_each_type_of_file_is_counted_separately(tmp_path):
    for build in (texts, dicomdir, report_presentation_and_structures, mosaics):
        build(tmp_path)
    counts = {(left.code, left.reason): left.files for left in find_series(tmp_path).left_out}
    assert sorted(counts.values()) == [1, 1, 1, 1, 2, 4]


def test_an_error_without_a_usable_series_lists_all_that_was_left_out(tmp_path):
    texts(tmp_path)
    mosaics(tmp_path)
    a_few(tmp_path, 3, ImageType=LOCALIZER[:3])
    with pytest.raises(InputMissingError) as caught:
        read_image(tmp_path)
    message = str(caught.value)
    assert caught.value.code == "E-DCM-NONE"
    assert caught.value.exit_code == 3
    assert str(tmp_path) in message
    for part in ("4 ", "2 ", "3 ", "mosaic", "localizer", "not DICOM"):
        assert part in message


@pytest.mark.parametrize("build", [lambda folder: None, texts], ids=["empty", "texts"])
def test_a_folder_without_dicom_is_named(tmp_path, build):
    build(tmp_path)
    with pytest.raises(InputMissingError) as caught:
        read_image(tmp_path)
    assert caught.value.code == "E-DCM-NONE"
    assert str(tmp_path) in str(caught.value)


# ------------------------------------------------------------- mended


def changed(paths: list[Path], change: Callable[[Path], None]) -> None:
    for path in paths:
        change(path)


def bare(path: Path, *, implicit: bool) -> None:
    """The same elements without a file around them."""
    dataset = Dataset()
    for element in pydicom.dcmread(path):
        dataset.add(element)
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[:2] == b"\x08\x00"


def no_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def two_thicknesses(folder: Path, *offsets: float) -> None:
    """A head CT whose sixth and later slices are 8 mm thick: thickness follows the spacing, nothing is missing."""
    stack = slices(Stack(offsets), SliceThickness=4)
    for one in stack[5:]:
        one.SliceThickness = 8
    write(folder, stack)


def no_order(folder: Path) -> None:
    for count, one in enumerate(slices()):
        one.InstanceNumber, one.SliceLocation = [3, 1, 4, 1, 5, 9, 2, 6][count], 100 - count % 3
        save(one, folder / f"{hash((count, 7)) % 997:x}-{count}")


def no_sop_class(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = ""
    dataset.save_as(path)


def private_junk(folder: Path) -> None:
    stack = slices()
    for count, one in enumerate(stack):
        block = one.private_block(0x0029, "JUNK OF A VENDOR", create=True)
        block.add_new(0x10, "OB", np.random.default_rng(count).bytes(20 * count))
        block.add_new(0x11, "UN", b"odd" * (2 * count + 1))
        block.add_new(0x12, "SQ", [Dataset()])
    write(folder, stack)


def fifo_and_links(folder: Path) -> None:
    write(folder, slices())
    os.mkfifo(folder / "IM9999.dcm")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "nothing").symlink_to(folder / "absent")
    (folder / "device").symlink_to("/dev/zero")


def two_folders(folder: Path, **second) -> None:
    write(folder / "a", slices())
    write(folder / "b", slices(), **second)


WHOLE = {"rescale": (1, -1024)}
VARYING = Stack((-14, -12.9, -9.4, -2.4, 0.1, 4.8, 9.1, 12.4))  # steps of 1.1 to 7 mm

EMPTY = {
    "PixelPaddingRangeLimit": {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 0},
    "ModalityLUTSequence": {"ModalityLUTSequence": [Dataset()]},
}

MENDED = [
    entry("D03", "W-DCM-PREAMBLE", "no preamble", lambda f: changed(write(f, slices()), no_preamble)),
    entry("D03", "W-DCM-PREAMBLE", "implicit data set", lambda f: changed(
        write(f, slices()), lambda path: bare(path, implicit=True))),
    entry("D03", "W-DCM-PREAMBLE", "explicit data set", lambda f: changed(
        write(f, slices()), lambda path: bare(path, implicit=False))),
    entry("D03", "W-DCM-PREAMBLE", "one slice", lambda f: no_preamble(write(f, slices())[3])),
    entry("D08", "W-DCM-DUP", "a file copied", lambda f: shutil.copy(write(f, slices())[2], f / "copy of it.dcm")),
    entry("D08", "W-DCM-DUP", "sent twice under another UID", lambda f: write(f, [*slices(), *slices()[::7]])),
    entry("D08", "W-DCM-DUP", "the whole folder", lambda f: two_folders(f)),
    entry("D08", "W-DCM-DUP", "in another encoding", lambda f: two_folders(f, syntax=ImplicitVRLittleEndian)),
    entry("D10", "W-DCM-UNEVEN", "steps that vary widely", lambda f: write(f, slices(VARYING))),
    entry("D10", "W-DCM-UNEVEN W-DCM-THICKNESS", "thin slices below", lambda f: two_thicknesses(
        f, -16, -12, -8, -4, 0, 6, 14)),
    entry("D10", "W-DCM-UNEVEN W-DCM-THICKNESS", "doubled with the thickness", lambda f: two_thicknesses(
        f, -20, -16, -12, -8, -4, 0, 8, 16)),
    entry("D12", "", "both", no_order),
    entry("D15", "", "overlap", lambda f: write(f, slices(SliceThickness=6, SpacingBetweenSlices=6))),
    *(entry("D15", "", f"{thickness} mm", lambda f, thickness=thickness: write(f, slices(SliceThickness=thickness)),
            thickness=None) for thickness in (0, 0.004, 400)),
    entry("D18", "W-CT-NORESCALE", "HU", lambda f: write(f, slices(rescale=None, dtype="int16")), off=0.51),
    entry("D22", "", "fragments, empty offset table", lambda f: changed(
        write(f, slices(WIDE, **WHOLE), syntax=JPEG2000Lossless), lambda path: encapsulated(
            path, frames_in(path), JPEG2000Lossless, fragments_per_frame=3, has_bot=False)), off=0.51),
    entry("D22", "", "frames, empty offset table", lambda f: changed(
        write(f, enhanced(slices(WIDE, **WHOLE)), syntax=RLELossless), lambda path: encapsulated(
            path, frames_in(path), RLELossless, has_bot=False)), off=0.51),
    entry("D26", "", "deflated", lambda f: write(f, slices(), syntax=DeflatedExplicitVRLittleEndian, suffix="")),
    entry("D27", "", "no SOP class", lambda f: changed(write(f, slices()), no_sop_class)),
    entry("D27", "", "private junk", private_junk),
    *(entry("D27", "", f"{name} without value", lambda f, name=name: changed(
        write(f, slices(**EMPTY[name])), lambda path: set_raw(path, name, b""))) for name in EMPTY),
    entry("D33", "", "directions of length 1.02", lambda f: write(
        f, slices(ImageOrientationPatient=[1.02, 0, 0, 0, 1.02, 0]))),
    entry("Z05", "", "in a DICOM folder", fifo_and_links),
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", MENDED)
def test_an_oddity_is_read_to_the_right_values_with_its_warning(tmp_path, case):
    case.build(tmp_path)
    volume = read(tmp_path)
    assert volume.error().max() < case.expected.get("off", ROUNDING)
    assert tuple(volume.warnings) == case.codes
    assert volume.voxels.shape[2] in (4, 7, 8)
    assert "thickness" not in case.expected or volume.meta.get("slice_thickness") == case.expected["thickness"]


# ------------------------------------------------------------- gaps, merging, mixtures, changes


@fault("D09", "W-DCM-GAP")
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


@fault("D13", "W-DCM-MERGED")
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


@fault("D17", "W-DCM-MIXED")
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


@fault("D28", "E-IO-CHANGED")
def test_a_file_that_changes_after_the_scan_is_not_read(tmp_path):
    paths = write(tmp_path, slices(Stack(rows=50, columns=50)))
    (series,) = find_series(tmp_path).series
    spoil(paths[3])
    with pytest.raises(ImageError) as caught:
        read_series(series)
    assert caught.value.code == "E-IO-CHANGED"
    assert paths[3].name in str(caught.value)


@fault("D28", "E-IO-CHANGED")
@pytest.mark.parametrize("change", ["rewritten", "cut", "removed"])
def test_a_file_that_changes_while_the_series_is_read_is_noticed(tmp_path, change):
    paths = write(tmp_path, slices(Stack(rows=50, columns=50)))
    (series,) = find_series(tmp_path).series
    last = max(paths)

    def progress(fraction):
        if fraction > 0.5 and last.exists():
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


@fault("Z01", "E-SEC-PATH")
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


@fault("Z02", "E-SEC-BOMB")
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


@fault("Z02", "E-IO-CRC", "E-SEC-BOMB")
def test_an_entry_larger_than_announced_does_not_fill_the_disk(pack, temporary):
    path = pack(more={"zeros.dcm": bytes(2_000_000)})
    size = (2_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.code in ("E-IO-CRC", "E-SEC-BOMB")
    assert list(temporary.iterdir()) == []


@fault("Z02", "E-ZIP-CRYPT")
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


@fault("Z03")
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


@fault("Z02")
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


@fault("Z05")
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
        ("SliceThickness", b"3,5 "),
        ("ContributingEquipmentSequence", b""),
    ],
)
def test_nonsense_in_a_header_is_refused_or_read_but_never_a_crash(tmp_path, name, value):
    there = {"NumberOfFrames": "1", "PixelPaddingValue": 77, "ContributingEquipmentSequence": [Dataset()]}
    for path in write(tmp_path, slices(**{name: there[name]} if name in there else {})):
        set_raw(path, name, value)
    survives(tmp_path)


@fault("D42", "E-DCM-HEADER")
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [b"nan ", b"-inf", b"1e300 ", b"0 ", b"1\\2 "])
@pytest.mark.parametrize("count", [1, 8])
def test_a_rescale_that_gives_no_values_is_refused(tmp_path, name, value, count):
    paths = write(tmp_path, slices())
    for path in paths[:count]:
        set_raw(path, name, value)
    found = find_series(tmp_path)
    if (name, value) == ("RescaleIntercept", b"0 "):
        assert found.broken == ()
    else:
        ((_, error),) = found.broken
        assert error.code == "E-DCM-HEADER" and found.series == ()


@fault("D43", "W-IO-MORE")
@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_more_pixels_than_the_header_says_give_a_warning(tmp_path, many_frames):
    stack = slices()
    for path in write(tmp_path, enhanced(stack) if many_frames else stack):
        set_raw(path, "Rows", b"\x15\0")
    (series,) = find_series(tmp_path).series
    assert [warning.code for warning in series.warnings] == ["W-IO-MORE"]


def test_a_byte_that_makes_the_pixels_even_is_no_more_pixels(tmp_path):
    write(tmp_path, slices(Stack(even(3, 4.0), rows=5, columns=5), dtype="uint8", rescale=(8.0, -1024.0)))
    assert find_series(tmp_path).series[0].warnings == ()


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
