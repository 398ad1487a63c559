"""Masks as DICOM segmentations (SEG) of a series, by highdicom."""

from __future__ import annotations

from copy import copy
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError, UsageError
from ..files import write_atomically
from ..grid import Image
from ..intensities import as_array
from .attributes import groups_of
from .dataset import PIXEL_DATA, pydicom_silent
from .derive import DESCRIPTION, NUMBERS_FROM, PACKAGE, MadeBy, equipment_item, text_of
from .kept import copy_element
from .late import pydicom
from .planes import Planes
from .series import Series

if TYPE_CHECKING:
    from monai.data import MetaTensor

TISSUE = ("85756007", "SCT", "Tissue")
"""Category and type of a segment of which nothing is known."""

NEEDED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
"""Attributes that a derived object has, if only empty."""

KEPT = (
    *("SegmentLabel", "SegmentDescription", "SegmentedPropertyCategoryCodeSequence", "AnatomicRegionSequence"),
    *("SegmentedPropertyTypeCodeSequence", "SegmentAlgorithmType", "SegmentAlgorithmName", "TrackingID"),
    *("SegmentationAlgorithmIdentificationSequence", "RecommendedDisplayCIELabValue", "TrackingUID"),
)
"""What a segment keeps."""


def write_segmentation(labels: MetaTensor, series: Series, path: Path, *, made_by: MadeBy) -> Path:
    """Write a mask as a segmentation of a series. The same mask and series give the same bytes.

    Args:
        labels: (1, X, Y, Z) on the slices of the series: labels, each of which becomes a segment, or probabilities,
            which become a fractional one. ``segments`` in the metadata describes them by their labels, as items of
            SegmentSequence; ``slice_positions`` gives uneven slices.
        series: that it is about; of a result found with ``own_results``.
        path: file to write.
        made_by: what made the mask.

    Raises:
        UsageError: highdicom is not installed (E-SEG-INSTALL).
        ImageError: the mask is not on the slices of the series (E-MASK-GRID), or is empty (E-SEG-EMPTY).
        OutputError: it cannot be written.
    """
    hd = import_highdicom()
    stored = slices_of(labels, series)
    is_fractional = not bool((stored == np.rint(stored)).all())
    known = labels.meta.get("segments", {})
    values = [1] if is_fractional else sorted({int(value) for value in np.unique(stored) if value} | set(known))
    if not stored.any():
        raise ImageError("E-SEG-EMPTY", "the mask holds no label, and a segmentation has at least one segment")
    if not is_fractional:
        stored = np.where(stored > 0, np.searchsorted(values, stored) + 1, 0).astype(np.uint16)
    seed = f"{series.uid} {sha256(stored.tobytes()).hexdigest()} {sorted(made_by.options.texts().items())}"
    with pydicom_silent():
        seg = hd.seg.Segmentation(
            pixel_array=stored,
            segmentation_type="FRACTIONAL" if is_fractional else "BINARY",
            segment_descriptions=[_description(hd, n, value) for n, value in enumerate(values, start=1)],
            content_label="MASK",
            **about(hd, series, seed, made_by),
        )
        for item, value in zip(seg.SegmentSequence, values, strict=True):
            for name in KEPT if value in known else ():
                if name in known[value]:
                    item[name] = known[value][name]
                else:
                    item.pop(name, None)
        finish(seg, series, "Masks", seed, made_by)
        write_atomically(path, lambda file: pydicom.dcmwrite(file, made_by.released(seg)))
    return path


def _description(hd: Any, number: int, value: int) -> Any:
    """A segment of which only its label is known."""
    tissue = hd.sr.CodedConcept(*TISSUE)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=PACKAGE, version=version(PACKAGE), family=hd.sr.CodedConcept("113085", "DCM", "Spatial resampling")
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Label {value}",
        segmented_property_category=tissue,
        segmented_property_type=tissue,
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=algorithm,
    )


def import_highdicom() -> Any:
    """highdicom.

    Raises:
        UsageError: it is not installed (E-SEG-INSTALL).
    """
    try:
        import highdicom
    except ImportError as error:
        fix = 'pip install "monai-sr[seg]", or write an image file'
        raise UsageError("E-SEG-INSTALL", "DICOM segmentations and maps need highdicom", fix=fix) from error
    return highdicom


def slices_of(image: Image, series: Series) -> np.ndarray:
    """(slices, rows, columns) of an image on the slices of a series, in their order.

    Raises:
        ImageError: the image lies on other slices (E-MASK-GRID).
    """
    planes, voxels = Planes(image), as_array(image)[0]
    rows, columns = int(series.frames[0].header.Rows), int(series.frames[0].header.Columns)
    pixels = np.arange(rows * columns).reshape(rows, columns)
    stored = np.empty((len(series.frames), rows * columns), voxels.dtype)
    for values, frame in zip(stored, series.frames, strict=True):
        between_rows, between_columns = frame.pixel_spacing
        steps = frame.orientation.reshape(2, 3) * [[between_columns], [between_rows]]
        view, places = planes.put(pixels, voxels, position=frame.position, steps=steps)
        values[places.ravel()] = view.ravel()
    return stored.reshape(-1, rows, columns)


def about(hd: Any, series: Series, seed: str, made_by: MadeBy) -> dict[str, Any]:
    """What highdicom is to be given of a series for an object about its slices."""
    first = series.frames[0]
    thickness = first.slice_thickness or 1.0
    spacing = float(np.median(np.diff(series.offsets))) if len(series.frames) > 1 else thickness
    return {
        "source_images": [_plain(header) for header in series.headers],
        "plane_positions": [hd.PlanePositionSequence("PATIENT", frame.position.tolist()) for frame in series.frames],
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", first.orientation.tolist()),
        "pixel_measures": hd.PixelMeasuresSequence(first.pixel_spacing, float(thickness), round(spacing, 6)),
        "series_instance_uid": pydicom.uid.generate_uid(entropy_srcs=[seed, "series"]),
        "series_number": min((series.number or 0) + NUMBERS_FROM, 2**31 - 1),
        "sop_instance_uid": pydicom.uid.generate_uid(entropy_srcs=[seed, "instance"]),
        "instance_number": 1,
        "manufacturer": PACKAGE,
        "manufacturer_model_name": text_of(made_by.bundle, 64),
        "software_versions": version(PACKAGE),
        "device_serial_number": version(PACKAGE),
        "content_description": text_of(DESCRIPTION, 64),
    }


def _plain(header: Any) -> pydicom.Dataset:
    """A header without its pixels, with the attributes that a derived object copies."""
    plain = pydicom.Dataset()
    for tag in list(header.keys()):
        if tag.group in (0x0008, 0x0010):
            copy_element(tag, header, plain)
        elif tag != PIXEL_DATA and not tag.is_private:
            plain[tag] = header[tag]
    plain.file_meta = header.file_meta
    groups = groups_of(header, 0)
    if groups:  # highdicom looks for these among the shared ones
        shared = copy((plain.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0])
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            setattr(shared, name, next((group[name].value for group in groups if name in group), None))
        plain.SharedFunctionalGroupsSequence = [shared]
    for name in NEEDED:
        if name not in plain:
            setattr(plain, name, None)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        if not plain.get(name):
            setattr(plain, name, pydicom.uid.generate_uid(entropy_srcs=[name, str(header.get("SeriesInstanceUID"))]))
    return plain


def finish(made: pydicom.Dataset, series: Series, what: str, seed: str, made_by: MadeBy) -> None:
    """Say what made an object, and replace the time of its making, so that it has the same bytes each time."""
    made.SeriesDescription = text_of(f"{what}, {DESCRIPTION}", 64)
    made.ContributingEquipmentSequence = [equipment_item(made_by)]
    head = series.frames[0].header
    made.ContentDate = head.get("StudyDate") or "19000101"
    made.ContentTime = head.get("StudyTime") or "000000"
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        made.pop(name, None)
    organization = pydicom.uid.generate_uid(entropy_srcs=[seed, "dimensions"])
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
