"""DICOM segmentations: read as masks of their series, refused if damaged, written for the derived series."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from catalogue import fault
from dicom_phantoms import Stack
from pydicom import Dataset
from pydicom.uid import generate_uid
from runs import lines_of

from monai_sr.cli.main import main
from monai_sr.dicom import find_series
from monai_sr.errors import ImageError, UsageError, collect_notices
from monai_sr.io.images import read_image, read_labels, write_image
from monai_sr.labels import carry_labels

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
STACK = Stack()


def shapes(points: np.ndarray) -> np.ndarray:
    """Segments 1 and 2 of points in the world: two halves of a ball."""
    off = points - dicom_phantoms.CENTER[:, None, None, None]
    inside = (off**2).sum(axis=0) < 100
    return np.where(inside, np.where(off[0] > 0, 2, 1), 0)


def item(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def code(value: str, meaning: str) -> list[Dataset]:
    return [item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)]


def segmentation(
    slices: list[Dataset], segments: dict[int, np.ndarray], *, fraction: int = 0, turned: bool = False
) -> Dataset:
    """A SEG by hand: (slices, rows, columns) bool of each segment on classic slices; no frame where there is nothing.

    Args:
        fraction: MaximumFractionalValue; 0 of a binary one.
        turned: frames start at the last pixel of a slice, and run backwards.
    """
    first = slices[0]
    seg = copy.deepcopy(first)
    for name in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(seg, name)
    seg.SOPClassUID, seg.SOPInstanceUID, seg.SeriesInstanceUID = SEG, generate_uid(), generate_uid()
    seg.Modality, seg.ImageType = "SEG", ["DERIVED", "PRIMARY"]
    seg.SegmentationType = "FRACTIONAL" if fraction else "BINARY"
    if fraction:
        seg.MaximumFractionalValue, seg.SegmentationFractionalType = fraction, "OCCUPANCY"
    instances = [item(ReferencedSOPClassUID=s.SOPClassUID, ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in slices]
    seg.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=first.SeriesInstanceUID, ReferencedInstanceSequence=instances)
    ]
    seg.SegmentSequence = [
        item(
            SegmentNumber=number,
            SegmentLabel=f"organ {number}",
            SegmentAlgorithmType="MANUAL",
            RecommendedDisplayCIELabValue=[1000 * number, 2000, 3000],
            SegmentedPropertyCategoryCodeSequence=code("123037004", "Anatomical Structure"),
            SegmentedPropertyTypeCodeSequence=code("10200004", "Liver"),
        )
        for number in segments
    ]
    sign = -1 if turned else 1
    orientation = np.array(first.ImageOrientationPatient, float)
    spacing = np.array(first.PixelSpacing, float)
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(sign * orientation))],
        PixelMeasuresSequence=[item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)],
    )
    seg.SharedFunctionalGroupsSequence = [shared]
    frames, bits = [], []
    for number, masks in segments.items():
        for one, mask in zip(slices, masks, strict=True):
            if not mask.any():
                continue
            position = np.array(one.ImagePositionPatient, float)
            if turned:
                position += orientation[:3] * spacing[1] * (one.Columns - 1)
                position += orientation[3:] * spacing[0] * (one.Rows - 1)
            frames.append(
                item(
                    PlanePositionSequence=[item(ImagePositionPatient=dicom_phantoms.decimals(position))],
                    SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
                )
            )
            bits.append(mask[::-1, ::-1] if turned else mask)
    seg.PerFrameFunctionalGroupsSequence, seg.NumberOfFrames = frames, len(frames)
    stored = np.stack(bits)
    seg.BitsAllocated = seg.BitsStored = 8 if fraction else 1
    seg.HighBit, seg.PixelRepresentation = seg.BitsStored - 1, 0
    packed = stored.astype(np.uint8).ravel() if fraction else np.packbits(stored.ravel() > 0, bitorder="little")
    seg.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)
    seg["PixelData"].VR = "OB"
    for name in ("RescaleSlope", "RescaleIntercept"):
        seg.pop(name, None)
    return seg


def halves(stack: Stack = STACK) -> dict[int, np.ndarray]:
    drawn = shapes(stack.points())
    return {1: drawn == 1, 2: drawn == 2}


@pytest.fixture
def export(tmp_path):
    """A series in a folder, and its slices."""
    slices = dicom_phantoms.slices(STACK)
    dicom_phantoms.write(tmp_path / "export", slices)
    return tmp_path, slices


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("orientation", ["axial ++", "sagittal -+", "oblique coronal"])
def test_a_segmentation_lies_where_its_frames_say(tmp_path, orientation, turned):
    stack = Stack(orientation=orientation, offsets=(-14.0, -10.0, -6.0, -1.0, 3.0, 7.0, 12.0))
    slices = dicom_phantoms.slices(stack)
    dicom_phantoms.write(tmp_path / "export", slices)
    seg = dicom_phantoms.save(segmentation(slices, halves(stack), turned=turned), tmp_path / "seg.dcm")
    with collect_notices():
        image = read_image(tmp_path / "export")
    labels = read_labels(seg, image=image)
    volume = dicom_phantoms.Volume(image[0].numpy(), np.asarray(image.affine), image.meta, [])
    assert np.array_equal(labels[0], shapes(volume.points))
    assert {number: entry.SegmentLabel for number, entry in labels.meta["segments"].items()} == {
        1: "organ 1",
        2: "organ 2",
    }


def test_a_fractional_segmentation_of_one_segment_is_a_probability_map(export):
    folder, slices = export
    drawn = np.round(np.clip(10 - np.abs(STACK.points()[0] - 12), 0, 8))
    seg = dicom_phantoms.save(segmentation(slices, {1: drawn}, fraction=8), folder / "seg.dcm")
    image = read_image(folder / "export")
    labels = read_labels(seg, image=image)
    volume = dicom_phantoms.Volume(image[0].numpy(), np.asarray(image.affine), image.meta, [])
    expected = np.round(np.clip(10 - np.abs(volume.points[0] - 12), 0, 8)) / 8
    assert np.allclose(labels[0], expected, atol=1e-6)


def spoil(folder: Path, slices: list[Dataset], what: str) -> Path:
    """A segmentation that is wrong in one way."""
    masks = halves()
    if what == "overlap":
        masks[2] = masks[2] | np.roll(masks[2], 3, axis=2)
    seg = segmentation(slices, masks, fraction=1 if what == "fractional" else 0)
    if what == "series":
        seg.ReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    if what == "pixels":
        seg.PixelData = seg.PixelData[: len(seg.PixelData) // 2 // 2 * 2]
    if what == "descriptions":
        seg.PerFrameFunctionalGroupsSequence = list(seg.PerFrameFunctionalGroupsSequence)[:-1]
    if what == "segments":
        seg.SegmentSequence = list(seg.SegmentSequence)[:1]
    if what == "position":
        del seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    if what == "between slices":
        place = seg.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        place.ImagePositionPatient = dicom_phantoms.decimals(np.add(place.ImagePositionPatient, (0, 0, 1)))
    if what == "spacing":
        seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.5, 1.5]
    return dicom_phantoms.save(seg, folder / f"{what}.dcm")


@fault("D44", "E-SEG-SERIES", "E-SEG-OVERLAP", "E-SEG-FRACTIONAL", "E-SEG-FRAMES")
@fault("D44", "E-MASK-GRID", "E-USE")
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("series", "E-SEG-SERIES"),
        ("overlap", "E-SEG-OVERLAP"),
        ("fractional", "E-SEG-FRACTIONAL"),
        ("pixels", "E-SEG-FRAMES"),
        ("descriptions", "E-SEG-FRAMES"),
        ("segments", "E-SEG-FRAMES"),
        ("position", "E-SEG-FRAMES"),
        ("between slices", "E-MASK-GRID"),
        ("spacing", "E-MASK-GRID"),
    ],
)
def test_a_segmentation_that_is_wrong_is_refused(export, what, expected):
    folder, slices = export
    path, image = spoil(folder, slices, what), read_image(folder / "export")
    with pytest.raises(ImageError) as error:
        read_labels(path, image=image)
    assert error.value.code == expected and error.value.path == path
    with pytest.raises(UsageError, match="E-USE"):
        read_labels(path)


@fault("D44", "E-SEG-FRAMES")
def test_a_segmentation_cut_anywhere_is_refused(export):
    folder, slices = export
    path, image = dicom_phantoms.save(segmentation(slices, halves()), folder / "seg.dcm"), read_image(folder / "export")
    content, codes = path.read_bytes(), set()
    for end in range(0, len(content) - 2, 61):
        path.write_bytes(content[:end])
        with pytest.raises(ImageError) as error:
            read_labels(path, image=image)
        codes.add(error.value.code)
    assert "E-SEG-FRAMES" in codes


def test_a_segmentation_is_carried_with_the_series_it_names(export):
    """To image files, without highdicom."""
    folder, slices = export
    dicom_phantoms.save(segmentation(slices, halves()), folder / "export" / "seg.dcm")
    others = dicom_phantoms.slices(STACK, series=2)
    dicom_phantoms.write(folder / "export", others)
    run = ["run", str(folder / "export"), f"{folder / 'thin'}/", "--bundle", "none", "--device", "cpu", "--factor", "4"]
    assert main([*run, "--format", "nifti", "--mask", str(folder / "export")]) == 0
    (carried,) = (folder / "thin").glob("*_seg.nii.gz")
    thin = read_image(carried.with_name(carried.name.replace("_seg", "")))
    image = read_image(folder / "export", series="1")
    expected = carry_labels(read_labels(folder / "export" / "seg.dcm", image=image), image, thin)
    assert np.array_equal(nib.load(carried).get_fdata(), expected[0])
    assert nib.load(carried).get_data_dtype() == np.uint8


def derived(folder: Path) -> list[str]:
    places = [str(folder / "export"), f"{folder / 'derived'}/"]
    return ["run", *places, "--bundle", "none", "--device", "cpu", "--factor", "4"]


def test_a_segmentation_of_the_derived_series_keeps_its_segments(export):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    folder, slices = export
    seg = dicom_phantoms.save(segmentation(slices, halves()), folder / "seg.dcm")
    assert main([*derived(folder), "--mask", str(seg)]) == 0
    (carried,) = (folder / "derived").glob("*_seg.dcm")
    content = carried.read_bytes()
    assert main([*derived(folder), "--mask", str(seg), "--overwrite"]) == 0 and carried.read_bytes() == content
    series = find_series(folder / "derived", own_results=True).only()
    made = pydicom.dcmread(carried)
    (reference,) = made.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == series.uid
    assert {one.ReferencedSOPInstanceUID for one in reference.ReferencedInstanceSequence} <= {
        frame.header.SOPInstanceUID for frame in series.frames
    }
    assert made.StudyInstanceUID == slices[0].StudyInstanceUID
    assert made.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    for kept, given in zip(made.SegmentSequence, pydicom.dcmread(seg).SegmentSequence, strict=True):
        assert kept == given
    image, thin = read_image(folder / "export"), read_image(folder / "derived", own_results=True)
    expected = carry_labels(read_labels(seg, image=image), image, thin)
    assert np.array_equal(read_labels(carried, image=thin)[0], expected[0])
    if shutil.which("dciodvfy"):
        judged = subprocess.run(["dciodvfy", carried], capture_output=True, text=True)
        assert not [line for line in judged.stderr.splitlines() if line.startswith("Error")], judged.stderr


def test_labels_of_any_program_go_back_to_the_scanner_as_a_segmentation(export):
    highdicom = pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    folder, _ = export
    assert main([*derived(folder)]) == 0
    (series,) = (path for path in (folder / "derived").iterdir() if path.is_dir())
    thin = read_image(series, own_results=True)
    volume = dicom_phantoms.Volume(thin[0].numpy(), np.asarray(thin.affine), thin.meta, [])
    thin[0] = thin.new_tensor(np.where(shapes(volume.points) == 2, 7, shapes(volume.points)))
    write_image(thin, folder / "labels.nii.gz", dtype=np.uint8)
    words = [str(folder / "labels.nii.gz"), str(folder / "back.dcm")]
    words += ["--from", str(series), "--to", str(folder / "export")]
    assert main(["carry", *words]) == 0
    # highdicom reads it by itself
    seg = highdicom.seg.segread(folder / "back.dcm")
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["Label 1", "Label 7"]
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == find_series(folder / "export").only().uid
    words[1] = str(folder / "back.nii.gz")
    assert main(["carry", *words]) == 0
    with_image = read_labels(folder / "back.dcm", image=read_image(folder / "export"))
    expected = nib.load(folder / "back.nii.gz").get_fdata()
    assert np.array_equal(np.choose(with_image[0].numpy().astype(int), [0, 1, 7]), expected) and expected.any()


def test_masks_of_a_folder_become_segmentations_of_their_series(export):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    folder, slices = export
    assert main([*derived(folder)]) == 0
    (folder / "masks").mkdir()
    dicom_phantoms.save(segmentation(slices, halves()), folder / "masks" / "organs.dcm")
    dicom_phantoms.save(segmentation(dicom_phantoms.slices(STACK, series=2), halves()), folder / "masks" / "other.dcm")
    words = [folder / "masks", folder / "out", "--from", folder / "export", "--to", folder / "derived"]
    assert main(["carry", *map(str, words)]) == 4
    assert {line["code"] for line in lines_of(folder / "out", "monai-sr-carry.jsonl")} == {"", "E-SEG-SERIES"}
    thin = read_image(folder / "derived", own_results=True)
    assert read_labels(folder / "out" / "organs.dcm", image=thin).max() == 2


@fault("D45", "E-SEG-EMPTY", "E-OUT-FORMAT", "E-SEG-INSTALL", "E-OUT-EXISTS")
def test_what_cannot_become_a_segmentation_is_refused(export, capsys, monkeypatch):
    folder, slices = export
    assert main([*derived(folder), "--format", "nifti"]) == 0
    (thin,) = (folder / "derived").glob("*.nii.gz")
    image = read_image(thin)
    write_image(image * 0, folder / "empty.nii.gz", dtype=np.uint8)

    def carry(mask, target, second=folder / "export") -> str:
        words = [folder / mask, folder / target, "--from", thin, "--to", second]
        assert main(["carry", *map(str, words)]) != 0
        return capsys.readouterr().err

    shutil.copy(thin, folder / "copy.nii.gz")
    write_image(image * 0 + 1, folder / "ones.nii.gz", dtype=np.uint8)
    if find_spec("highdicom"):
        assert "E-OUT-EXISTS" in carry("ones.nii.gz", spoil(folder, slices, "series").name)
        assert "E-SEG-EMPTY" in carry("empty.nii.gz", "out.dcm")
        thick = folder / "thick.nii.gz"
        write_image(read_image(folder / "export"), thick)
        assert "E-OUT-FORMAT" in carry("ones.nii.gz", "out.dcm", thick)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert "E-SEG-INSTALL" in carry("ones.nii.gz", "out.dcm")
    assert not (folder / "out.dcm").exists()
