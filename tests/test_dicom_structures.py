"""DICOM structure sets: contours to masks and back, refused if open or beside the slices, written for new slices."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path

import dicom_phantoms
import numpy as np
import pydicom
import pytest
from catalogue import fault
from dicom_phantoms import Stack
from matplotlib.path import Path as Outline
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from scipy import ndimage

from monai_sr.cli.main import main
from monai_sr.dicom import find_series, read_mask_object
from monai_sr.dicom.contours import fill_contours, trace_contours
from monai_sr.dicom.structures import read_structures
from monai_sr.errors import ImageError, collect_notices
from monai_sr.io.images import read_image, read_labels
from monai_sr.labels import carry_labels

STACK = Stack()


@pytest.mark.parametrize("seed", range(20))
def test_traced_contours_give_the_mask_back(seed):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.random(random.integers(1, 40, 2)), seed % 3)
    mask = noise > np.quantile(noise, 0.3 + 0.02 * seed)
    contours = trace_contours(mask)
    assert np.array_equal(fill_contours(contours, mask.shape), mask)
    assert all(len(points) >= 4 for points in contours)


def test_a_pixel_is_inside_if_its_center_is():
    angles = np.linspace(0, 2 * np.pi, 77)[:-1]
    radius = 1 + 0.3 * np.sin(5 * angles)
    star = np.stack([20 + 15.3 * np.cos(angles) * radius, 24 + 11.1 * np.sin(angles) * radius], axis=1)
    centers = np.stack(np.indices((41, 45)), axis=-1).reshape(-1, 2)
    assert np.array_equal(fill_contours([star], (41, 45)).ravel(), Outline(star).contains_points(centers))
    outside = fill_contours([star - 18], (41, 45))  # partly beyond the image
    assert np.array_equal(outside.ravel(), Outline(star - 18).contains_points(centers))


def test_a_contour_in_another_is_a_hole():
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], float)
    filled = fill_contours([square * 9.5 - 0.25, square * 3 + 3.5], (10, 10))
    assert filled.sum() == 100 - 9 and not filled[4:7, 4:7].any()


def item(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def contour(one: Dataset, stack: Stack, number: int, radius: float, *, kind: str = "CLOSED_PLANAR") -> Dataset:
    """A circle about the middle of a slice, in mm."""
    right, down = stack.directions
    rows, columns = stack.pixel_spacing[0] * (stack.rows - 1) / 2, stack.pixel_spacing[1] * (stack.columns - 1) / 2
    middle = stack.positions[number] + right * columns + down * rows
    angles = np.linspace(0, 2 * np.pi, 61)[:-1]
    points = middle + radius * (np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * down)
    image = item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID)
    return item(
        ContourImageSequence=[image],
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points),
        ContourData=dicom_phantoms.decimals(points.ravel()),
    )


COLORS = {1: [255, 0, 10], 4: [0, 200, 255], 9: [1, 2, 3]}
NAMES = {1: "Körper", 4: "tumor", 9: "not drawn"}


def structure_set(slices: list[Dataset], stack: Stack = STACK) -> Dataset:
    """A body with a hole, a tumor that overlaps it on three slices, and a region without contours."""
    first = slices[0]
    rt = copy.deepcopy(first)
    for name in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        delattr(rt, name)
    rt.SOPClassUID, rt.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", generate_uid()
    rt.SeriesInstanceUID, rt.Modality = generate_uid(), "RTSTRUCT"
    rt.StructureSetLabel, rt.StructureSetDate, rt.StructureSetTime = "plan", "20200102", "030405"
    rt.ApprovalStatus = "APPROVED"
    images = [item(ReferencedSOPClassUID=s.SOPClassUID, ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in slices]
    of_series = item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[of_series],
    )
    rt.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    rt.StructureSetROISequence = [
        item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        for number, name in NAMES.items()
    ]
    body = [contour(one, stack, n, radius) for n, one in enumerate(slices) for radius in (12.0, 4.0)]
    tumor = [contour(slices[n], stack, n, 7.0) for n in (2, 3, 4)]
    rt.ROIContourSequence = [
        item(ROIDisplayColor=COLORS[1], ContourSequence=body, ReferencedROINumber=1),
        item(ROIDisplayColor=COLORS[4], ContourSequence=tumor, ReferencedROINumber=4),
        item(ROIDisplayColor=COLORS[9], ReferencedROINumber=9),
    ]
    rt.RTROIObservationsSequence = [
        item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="ORGAN", ROIInterpreter="") for n in NAMES
    ]
    return rt


def expected(stack: Stack, region: int) -> np.ndarray:
    """(X, Y, Z) of a region, by distances in mm; slices in the order of the stack."""
    points = stack.points()
    middle = points.mean(axis=(2, 3), keepdims=True)
    distance = np.sqrt(((points - middle) ** 2).sum(axis=0))
    if region == 1:
        drawn = (distance < 12) & (distance >= 4)
    else:
        drawn = (distance < 7) & np.isin(np.arange(len(distance)), (2, 3, 4))[:, None, None]
    return drawn.transpose(2, 1, 0)


@pytest.fixture
def export(tmp_path):
    """A series in a folder, and its slices."""
    slices = dicom_phantoms.slices(STACK)
    dicom_phantoms.write(tmp_path / "export", slices)
    return tmp_path, slices


def save(rt: Dataset, path: Path) -> Path:
    return dicom_phantoms.save(rt, path, syntax=ImplicitVRLittleEndian)


@pytest.mark.parametrize("offsets", [STACK.offsets, (-14.0, -10.0, -6.0, -1.0, 3.0, 7.0, 12.0)])
@pytest.mark.parametrize("orientation", ["axial ++", "coronal -+", "oblique"])
def test_a_region_is_where_its_contours_say(tmp_path, orientation, offsets):
    stack = Stack(orientation=orientation, offsets=offsets)
    slices = dicom_phantoms.slices(stack)
    dicom_phantoms.write(tmp_path / "export", slices)
    rt = save(structure_set(slices, stack), tmp_path / "rt.dcm")
    with collect_notices():
        image = read_image(tmp_path / "export")
    structures = read_structures(read_mask_object(rt), image)
    assert [region.number for region in structures.regions] == [1, 4, 9]
    for region in structures.regions[:2]:
        there = structures.mask(region)[0].numpy() == region.number
        # the outline is a polygon of 60 corners, so a center may lie between it and the circle
        assert (there != expected(stack, region.number)).mean() < 2e-3 and there.any()
    assert structures.voxels[9] == 0


def test_regions_that_do_not_overlap_are_labels(export):
    folder, slices = export
    rt = structure_set(slices)
    del rt.ROIContourSequence[0]
    image = read_image(folder / "export")
    labels = read_labels(save(rt, folder / "rt.dcm"), image=image)
    assert set(labels.unique().tolist()) == {0.0, 4.0}
    assert (labels[0].numpy() == 4).sum() == expected(STACK, 4).sum()


def spoil(folder: Path, slices: list[Dataset], what: str) -> Path:
    rt = structure_set(slices)
    one = rt.ROIContourSequence[1].ContourSequence[1]
    if what == "series":
        study = rt.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = generate_uid()
    if what == "open":
        one.ContourGeometricType = "OPEN_PLANAR"
    if what == "slanted":
        one.ContourData = dicom_phantoms.decimals(np.add(one.ContourData, np.tile([0, 0, 0.5, 0, 0, -0.5], 30)))
    if what == "between":
        one.ContourData = dicom_phantoms.decimals(np.add(one.ContourData, np.tile([0, 0, 2.0], 60)))
    if what == "beyond":
        one.ContourData = dicom_phantoms.decimals(np.add(one.ContourData, np.tile([0, 0, 400.0], 60)))
    if what == "count":
        one.NumberOfContourPoints = 61
    if what == "line":
        one.ContourData, one.NumberOfContourPoints = one.ContourData[:6], 2
    return save(rt, folder / f"{what}.dcm")


@fault("D46", "E-SEG-SERIES", "E-RT-OPEN", "E-RT-PLANE", "E-RT-CONTOUR", "E-SEG-OVERLAP")
@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("series", "E-SEG-SERIES"),
        ("open", "E-RT-OPEN"),
        ("slanted", "E-RT-PLANE"),
        ("between", "E-RT-PLANE"),
        ("beyond", "E-RT-PLANE"),
        ("count", "E-RT-CONTOUR"),
        ("line", "E-RT-CONTOUR"),
        ("nothing", "E-SEG-OVERLAP"),
    ],
)
def test_a_structure_set_that_is_wrong_is_refused(export, what, code):
    folder, slices = export
    path, image = spoil(folder, slices, what), read_image(folder / "export")
    with pytest.raises(ImageError) as error:
        read_labels(path, image=image)
    assert error.value.code == code and error.value.path == path


@fault("D46", "E-DCM-HEADER", "W-RT-POINT")
def test_a_structure_set_cut_anywhere_is_read_or_refused(export):
    folder, slices = export
    rt = structure_set(slices)
    rt.ROIContourSequence[2].ContourSequence = [
        item(ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=[1, 2, 3])
    ]
    path, image = save(rt, folder / "rt.dcm"), read_image(folder / "export")
    with collect_notices() as caught:
        read_structures(read_mask_object(path), image)
    assert [(notice.code, notice.facts) for notice in caught] == [("W-RT-POINT", {"points": 1})]
    content, codes = path.read_bytes(), set()
    for end in range(400, len(content) - 2, 509):
        path.write_bytes(content[:end])
        with collect_notices():
            try:
                structures = read_mask_object(path)
                if structures is not None:
                    read_structures(structures, image)
            except ImageError as error:
                codes.add(error.code)
    assert codes == {"E-DCM-HEADER"}


def derived(folder: Path, *more: object) -> int:
    places = [str(folder / "export"), f"{folder / 'derived'}/"]
    return main(["run", *places, "--bundle", "none", "--device", "cpu", "--factor", "4", *map(str, more)])


def test_a_structure_set_of_the_derived_series_has_the_contours_of_the_carried_masks(export):
    folder, slices = export
    source = save(structure_set(slices), folder / "rt.dcm")
    assert derived(folder, "--mask", source) == 0
    (carried,) = (folder / "derived").glob("*_rt.dcm")
    content = carried.read_bytes()
    assert derived(folder, "--mask", source, "--overwrite") == 0 and carried.read_bytes() == content
    series = find_series(folder / "derived", own_results=True).only()
    image, thin = read_image(folder / "export"), read_image(folder / "derived", own_results=True)
    before = read_structures(read_mask_object(source), image)
    after = read_structures(read_mask_object(carried), thin)
    for old, new in zip(before.regions, after.regions, strict=True):
        assert old.number == new.number
        assert np.array_equal(after.mask(new)[0], carry_labels(before.mask(old), image, thin)[0])
    made = pydicom.dcmread(carried)
    assert {r.ROINumber: r.ROIName for r in made.StructureSetROISequence} == NAMES
    assert {r.ReferencedROINumber: list(r.ROIDisplayColor) for r in made.ROIContourSequence} == COLORS
    assert made.ApprovalStatus == "UNAPPROVED" and made.StructureSetLabel == "plan"
    study = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert study.RTReferencedSeriesSequence[0].SeriesInstanceUID == series.uid
    positions = {str(f.header.SOPInstanceUID): f.position[2] for f in series.frames}
    for one in made.ROIContourSequence[0].ContourSequence:
        assert one.ContourGeometricType == "CLOSED_PLANAR"
        heights = np.array(one.ContourData, float)[2::3]
        assert np.allclose(heights, positions[one.ContourImageSequence[0].ReferencedSOPInstanceUID], atol=1e-4)
    if shutil.which("dciodvfy"):
        judged = subprocess.run(["dciodvfy", carried], capture_output=True, text=True, errors="replace")
        assert not [line for line in judged.stderr.splitlines() if line.startswith("Error")], judged.stderr


def test_a_structure_set_of_the_thin_series_goes_back_to_the_scanner(export):
    folder, slices = export
    source = save(structure_set(slices), folder / "rt.dcm")
    assert derived(folder, "--mask", source) == 0
    (carried,) = (folder / "derived").glob("*_rt.dcm")
    (series,) = (path for path in (folder / "derived").iterdir() if path.is_dir())
    words = [carried, folder / "back.dcm", "--from", series, "--to", folder / "export"]
    assert main(["carry", *map(str, words)]) == 0
    image = read_image(folder / "export")
    first, again = (read_structures(read_mask_object(p), image) for p in (source, folder / "back.dcm"))
    for old, new in zip(first.regions[:2], again.regions, strict=False):
        assert (first.mask(old) != again.mask(new)).float().mean() < 0.01
        assert again.voxels[new.number] == pytest.approx(first.voxels[old.number], rel=0.03)
