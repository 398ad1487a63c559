"""DICOM structure sets (RTSTRUCT): regions by closed contours on the slices of a series, as masks and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError, Later, collect_notices, give, warn
from ..files import write_atomically
from ..grid import ArrayImage, Grid
from .attributes import get
from .contours import fill_contours, trace_contours
from .dataset import pydicom_silent
from .derive import DESCRIPTION, NUMBERS_FROM, MadeBy, equipment_item, text_of
from .kept import copy_element, copy_item, item_of
from .late import pydicom
from .planes import SAME_PLACE, MaskObject, Planes
from .series import LPS_TO_RAS, Frame, Series

if TYPE_CHECKING:
    import torch
    from monai import data
    from monai.data import MetaTensor
else:
    data, torch = Later("monai.data"), Later("torch")

STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"

OF_STUDY = (
    *("SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyDescription", "StudyInstanceUID", "StudyID"),
)
"""Kept of the image, besides the patient."""

NEEDED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "OperatorsName", "PositionReferenceIndicator"),
    *("StructureSetLabel", "StructureSetDate", "StructureSetTime"),
)
"""What a structure set has, if only empty."""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

FEWEST_POINTS = 3

CONTOUR_DATA = 0x30060050


@dataclass(frozen=True)
class Region:
    """A region of interest.

    Attributes:
        number: ROINumber, which is its label.
        contours: slice of the image, and (n, 2) voxel indices along the two other axes, in their order.
    """

    number: int
    contours: tuple[tuple[int, np.ndarray], ...]


@dataclass(frozen=True)
class Structures:
    """Regions on the slices of an image. They may overlap.

    Attributes:
        source: the object.
        regions: in its order.
        grid: of the image.
        axis: through-plane axis of the image.
        voxels: number of voxels of each region, by its number.
    """

    source: MaskObject
    regions: tuple[Region, ...]
    grid: Grid
    axis: int
    voxels: dict[int, int]

    def mask(self, region: Region) -> MetaTensor:
        """(1, X, Y, Z) of one region: its number inside, 0 outside."""
        filled = np.zeros(self.grid.shape, np.uint8 if region.number < 256 else np.int32)
        slices = np.moveaxis(filled, self.axis, 0)
        by_slice: dict[int, list[np.ndarray]] = {}
        for number, points in region.contours:
            by_slice.setdefault(number, []).append(points)
        for number, contours in by_slice.items():
            slices[number][fill_contours(contours, slices.shape[1:])] = region.number
        meta = {"stored_dtype": str(filled.dtype), "filename_or_obj": str(self.source.path)}
        return data.MetaTensor(torch.from_numpy(filled)[None], affine=torch.as_tensor(self.grid.affine), meta=meta)

    def labels(self) -> MetaTensor:
        """(1, X, Y, Z) of all regions: the number of the region of each voxel, 0 without one.

        Raises:
            ImageError: regions overlap (E-SEG-OVERLAP).
        """
        labels = data.MetaTensor(torch.zeros(1, *self.grid.shape), affine=torch.as_tensor(self.grid.affine))
        overlaps = 0
        for region in self.regions:
            mask = self.mask(region).as_tensor()
            overlaps += int(((labels.as_tensor() > 0) & (mask > 0)).sum())
            labels[mask > 0] = region.number
        if overlaps:
            fix = "name a DICOM file (.dcm) as the output, or export the regions one by one"
            raise ImageError("E-SEG-OVERLAP", f"its regions overlap in {overlaps} voxels", fix=fix)
        highest = max((region.number for region in self.regions), default=0)
        labels.meta |= {"stored_dtype": "uint8" if highest < 256 else "int32"}
        labels.meta |= {"filename_or_obj": str(self.source.path)}
        return labels

    def carried(self, carry: Callable[[MetaTensor], MetaTensor]) -> Structures:
        """The regions on the slices of a DICOM series, each carried by itself; contours run half way between voxels."""
        regions, counts, grid = [], {}, self.grid
        with collect_notices() as notices:
            for region in self.regions:
                labels = carry(self.mask(region))
                grid = Grid((labels.shape[1], labels.shape[2], labels.shape[3]), np.asarray(labels.affine))
                slices = np.moveaxis(labels.as_tensor().cpu().numpy()[0] > 0, 2, 0)
                traced = ((n, points) for n, inside in enumerate(slices) for points in trace_contours(inside))
                regions.append(Region(region.number, tuple(traced)))
                counts[region.number] = int(slices.sum())
        for notice in notices:
            if notice.code != "W-MASK-EMPTY":  # a region without contours is usual
                give(notice)
        return replace(self, regions=tuple(regions), grid=grid, axis=2, voxels=counts)


def read_structures(rt: MaskObject, image: torch.Tensor | ArrayImage) -> Structures:
    """The regions of a structure set on the slices of its image.

    Args:
        rt: the object.
        image: (C, X, Y, Z) that it is about.

    Raises:
        ImageError: it is about another series (E-SEG-SERIES); a contour is open (E-RT-OPEN), is not in the plane of
            a slice (E-RT-PLANE), or is damaged (E-RT-CONTOUR).
    """
    from ..acquired import slice_axis_of  # here, because that imports torch

    rt.check_series(image)
    planes = Planes(image)
    points, regions = 0, []
    try:
        axis = slice_axis_of(image)
        axis = _flattest_axis(rt.dataset, planes) if axis is None else axis
        for item in rt.dataset.get("ROIContourSequence") or ():
            contours = []
            for contour in item.get("ContourSequence") or ():
                kind = str(contour.get("ContourGeometricType") or "")
                if kind == "POINT":
                    points += 1
                    continue
                region = int(item.ReferencedROINumber)
                if kind not in CLOSED:
                    raise ImageError("E-RT-OPEN", f"a contour of region {region} is {kind or 'of no type'}, not closed")
                contours.append(_on_slice(contour, planes, axis, region))
            regions.append(Region(int(item.ReferencedROINumber), tuple(contours)))
    except ImageError:
        raise
    except Exception as error:  # pydicom parses a value at its first use, and raises many types
        raise ImageError("E-RT-CONTOUR", "its contours are damaged") from error
    if points:
        warn("W-RT-POINT", "{points} points are not regions and are left out", path=rt.path, facts={"points": points})
    made = Structures(rt, tuple(regions), planes.grid, axis, {})
    return replace(made, voxels={region.number: int((made.mask(region) > 0).sum()) for region in regions})


def _flattest_axis(dataset: Any, planes: Planes) -> int:
    """The axis of the image across the first contour, for an image that has none in its metadata."""
    for item in dataset.get("ROIContourSequence") or ():
        for contour in item.get("ContourSequence") or ():
            if len(contour.ContourData) > 3:
                return int(
                    np.ptp(planes.voxels_of(np.array(contour.ContourData, float).reshape(-1, 3)), axis=0).argmin()
                )
    return 2


def _points_of(contour: Any) -> np.ndarray:
    """ContourData, from its bytes where it is unread, which is much faster than pydicom."""
    value = getattr(contour._dict.get(CONTOUR_DATA), "value", None)
    if isinstance(value, bytes):
        return np.array(value.strip(b" \0").split(b"\\")).astype(float)
    return np.array(contour.ContourData, dtype=float)


def _on_slice(contour: Any, planes: Planes, axis: int, region: int) -> tuple[int, np.ndarray]:
    """The slice of a contour, and its points within it."""
    values = _points_of(contour)
    count = int(contour.get("NumberOfContourPoints") or len(values) // 3)
    if len(values) != 3 * count or count < FEWEST_POINTS or not np.isfinite(values).all():
        problem = f"a contour of region {region} has {len(values) / 3:.4g} points, {count} are announced"
        raise ImageError("E-RT-CONTOUR", problem)
    places = planes.voxels_of(values.reshape(-1, 3))
    number = int(np.rint(np.median(places[:, axis])))
    off = float(np.abs(places[:, axis] - number).max())
    if off > SAME_PLACE or not 0 <= number < planes.grid.shape[axis]:
        problem = f"points of region {region} lie {off:.2g} slices beside the slices of its image"
        raise ImageError("E-RT-PLANE", problem)
    return number, np.delete(places, axis, axis=1)


def write_structures(structures: Structures, series: Series, path: Path, *, made_by: MadeBy) -> Path:
    """Write regions as a structure set of a series; names, colors and types of the regions are kept.

    Args:
        structures: on the slices of the series.
        series: that it is about; of a result found with ``own_results``.
        path: file to write.
        made_by: what made it.

    Raises:
        ImageError: the regions are on other slices (E-MASK-GRID).
        OutputError: it cannot be written.
    """
    source = structures.source.dataset
    with pydicom_silent():
        made = _kept(source, series.frames[0].header)
        seed = f"{series.uid} {get(source, 'SOPInstanceUID')} {sorted(made_by.options.texts().items())}"
        made.SOPClassUID, made.Modality = STORAGE, "RTSTRUCT"
        made.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[seed, "instance"])
        made.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[seed, "series"])
        made.SeriesNumber, made.InstanceNumber = min((series.number or 0) + NUMBERS_FROM, 2**31 - 1), 1
        made.SeriesDescription = text_of(f"Structures, {DESCRIPTION}", 64)
        made.ApprovalStatus = "UNAPPROVED"
        made.ContributingEquipmentSequence = [equipment_item(made_by)]
        reference = str(
            get(series.frames[0].header, "FrameOfReferenceUID") or pydicom.uid.generate_uid(entropy_srcs=[series.uid])
        )
        made.FrameOfReferenceUID = reference
        made.ReferencedFrameOfReferenceSequence = _about(series, reference)
        made.StructureSetROISequence = [_copy(item, reference) for item in source.get("StructureSetROISequence") or ()]
        frames = _frames_of_slices(structures, series)
        colors = {int(i.ReferencedROINumber): get(i, "ROIDisplayColor") for i in source.get("ROIContourSequence") or ()}
        made.ROIContourSequence = [
            _region(region, colors.get(region.number), structures, frames) for region in structures.regions
        ]
        made.RTROIObservationsSequence = [_copy(item, "") for item in source.get("RTROIObservationsSequence") or ()]
        write_atomically(
            path, lambda file: pydicom.dcmwrite(file, _file(made_by.released(made)), enforce_file_format=True)
        )
    return path


def _kept(source: Any, image: Any) -> pydicom.Dataset:
    """Patient and study of the image, and what describes the structure set."""
    made = pydicom.Dataset()
    for tag in list(image.keys()):
        if tag.group == 0x0010 or pydicom.datadict.keyword_for_tag(tag) in OF_STUDY:
            copy_element(tag, image, made)
    for tag in list(source.keys()):
        if tag.group == 0x3006 and tag.element < 0x0010:  # label, name, description, date and time
            copy_element(tag, source, made)
    for name in NEEDED:
        if name not in made:
            setattr(made, name, "CARRIED" if name == "StructureSetLabel" else None)
    made.Manufacturer = "monai-sr"
    if made.get("SpecificCharacterSet") != get(source, "SpecificCharacterSet"):
        made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _copy(item: Any, reference: str) -> pydicom.Dataset:
    """An item of a sequence about regions, with another frame of reference."""
    copy = copy_item(item)
    if reference:
        copy.ReferencedFrameOfReferenceUID = reference
    return copy


def _about(series: Series, reference: str) -> list[pydicom.Dataset]:
    """The series that a structure set is about."""
    study = item_of(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # retired, and what every writer gives
        ReferencedSOPInstanceUID=str(get(series.frames[0].header, "StudyInstanceUID")),
        RTReferencedSeriesSequence=item_of(
            SeriesInstanceUID=series.uid, ContourImageSequence=[_instance(header) for header in series.headers]
        ),
    )
    return item_of(FrameOfReferenceUID=reference, RTReferencedStudySequence=study)


def _instance(header: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _frames_of_slices(structures: Structures, series: Series) -> list[tuple[Frame, np.ndarray]]:
    """For each slice its frame, and (3, 3) from the two indices of a point and 1 to LPS mm.

    Raises:
        ImageError: the slices of the series are others (E-MASK-GRID).
    """
    grid, axis = structures.grid, structures.axis
    to_lps = LPS_TO_RAS @ grid.affine
    others = [a for a in range(3) if a != axis]
    if grid.shape[axis] != len(series.frames):
        problem = f"the regions are on {grid.shape[axis]} slices, the series has {len(series.frames)}"
        raise ImageError("E-MASK-GRID", problem)
    normal = series.frames[0].normal
    ordered = list(series.frames) if to_lps[:3, axis] @ normal > 0 else list(series.frames)[::-1]
    places = []
    for frame in ordered:
        # along the slices from the frame itself, which may be unevenly spaced
        origin = to_lps[:3, 3] + normal * ((frame.position - to_lps[:3, 3]) @ normal)
        places.append((frame, np.column_stack([to_lps[:3, others], origin])))
    return places


def _region(
    region: Region, color: Any, structures: Structures, frames: Sequence[tuple[Frame, np.ndarray]]
) -> pydicom.Dataset:
    """An item of ROIContourSequence."""
    made = pydicom.Dataset()
    if color is not None and len(color) == 3:
        made.ROIDisplayColor = [int(value) for value in color]
    contours = []
    for number, points in region.contours:
        frame, matrix = frames[number]
        contour, image = pydicom.Dataset(), _instance(frame.header)
        if int(frame.header.get("NumberOfFrames") or 1) > 1:
            image.ReferencedFrameNumber = frame.number + 1
        contour.ContourImageSequence = [image]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        corners = (np.column_stack([points, np.ones(len(points))]) @ matrix.T).round(4).ravel() + 0.0
        text = "\\".join([f"{value:.4f}".rstrip("0").rstrip(".") for value in corners.tolist()]).encode()
        text += b" " * (len(text) % 2)
        # as bytes: pydicom takes a hundred times as long for numbers
        tag = pydicom.tag.Tag(CONTOUR_DATA)
        contour[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(text), text, 0, True, True)
        contours.append(contour)
    if contours:
        made.ContourSequence = contours
    made.ReferencedROINumber = region.number
    return made


def _file(made: pydicom.Dataset) -> pydicom.Dataset:
    """With its file meta information. Explicit VR could not hold contours of more than 64 KiB."""
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(STORAGE)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    made.file_meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    return made
