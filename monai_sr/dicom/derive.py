"""A result as a DICOM series of its own beside its source, so that archives and viewers know what it is.

Every slice becomes one classic CT or MR image; :mod:`.enhanced` makes one multi-frame image of them.
:mod:`.kept` lists what is kept of the source. The same source, options and weights give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import floor, log10
from pathlib import Path

import numpy as np

from ..acquired import padding_value_of
from ..errors import OutputError
from ..files import folder_beside, move
from ..grid import Image
from ..intensities import as_array
from ..options import RunOptions
from .attributes import get
from .dataset import pydicom_silent
from .deidentify import Pseudonyms, deidentify, warn_of_pixels
from .enhanced import combine_slices, format_of
from .kept import SOP_CLASS, attributes_of, code_of, decimal
from .late import pydicom
from .phases import header_of_slice, header_of_volume
from .series import LPS_TO_RAS, Frame, Series

PACKAGE = "monai-sr"
"""Also the manufacturer of the contributing equipment, which identifies results of monai-sr."""

DESCRIPTION = "SR research - not for diagnosis"

NUMBERS_FROM, FUSED_FROM = 9000, 9500
"""Added to the source's SeriesNumber: above the "scan number x 100" that GE and Philips give to their own. A fused
volume gets another number than the result of its first series alone."""

NOT_ACQUIRED = "no slice was acquired here"

SPATIAL_RESAMPLING = ("113085", "DCM", "Spatial resampling")  # context group 7203 of PS3.16, image derivation
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")  # 7202, purposes of reference
MODIFYING_EQUIPMENT = ("109103", "DCM", "Modifying Equipment")  # 7005, contributing equipment

OF_FIRST = (0x0010, 0x0020, 0x0028)
"""Groups of attributes that a fused volume has of its first source: patient, position, pixels."""

OF_STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")

FEWEST_STEPS = 100
"""MR signals of fewer stored steps get a finer rescale: some are decimals, of a range of 1."""


@dataclass(frozen=True)
class MadeBy:
    """Bundle and options of a result, written into it.

    Attributes:
        bundle: name of the bundle.
        bundle_version: its version.
        weights_sha256: of its weights; empty if it has none.
        options: those that decide the voxels; no paths and no text of a header.
        pseudonyms: of patients and UIDs, if the result is to be de-identified.
    """

    bundle: str
    bundle_version: str
    weights_sha256: str = ""
    options: RunOptions = field(default_factory=RunOptions)
    pseudonyms: Pseudonyms | None = field(default=None, compare=False)

    def released(self, dataset: pydicom.Dataset) -> pydicom.Dataset:
        """A dataset as it is to be written: de-identified in place if that is wanted."""
        return dataset if self.pseudonyms is None else deidentify(dataset, self.pseudonyms)


def write_derived_series(
    sr: Image,
    series: Series,
    folder: Path,
    *,
    made_by: MadeBy,
    others: Sequence[Series] = (),
    fusion: str = "",
    format: str | None = None,
) -> Path:
    """Write a super-resolved volume as a DICOM series of the study that its source belongs to.

    The folder appears whole or not at all.

    Args:
        sr: (1, X, Y, Z) float32 in HU or signal; X counts columns, Y rows, Z slices, and the affine
            gives their directions; (C, X, Y, Z) of C volumes that are kept together. ``meta`` may hold
            ``padding_value`` (HU) and ``filled_slices``
            (indices of slices that lie in a gap of the source).
        series: the source.
        folder: the new folder, for ``0001.dcm`` and so on, of which an enhanced series has one; its parent must exist.
        made_by: bundle and options.
        others: more sources of a fused volume; patient, study, position and intensities are those of ``series``.
        fusion: how they were fused; with it differ the UIDs.
        format: "classic" or "enhanced" images; None for those of the source, see :func:`.enhanced.format_of`.

    Returns:
        The folder.

    Raises:
        ValueError: a voxel is not finite, or the axes are not at right angles.
        OutputError: the folder exists, cannot be written, or an enhanced image would be too large (E-OUT-FORMAT).
    """
    folder = Path(folder)
    if folder.exists():
        raise OutputError("E-OUT-EXISTS", "it exists already", path=folder)
    if made_by.pseudonyms is not None:
        warn_of_pixels(series)
    as_enhanced = format_of(format, (series, *others)) == "enhanced"
    with folder_beside(folder) as hidden, pydicom_silent():
        seed = _seed(sr.shape[1:], (series, *others), made_by) + fusion + "enhanced" * as_enhanced
        instances = _instances(sr, series, seed, made_by, others)
        if as_enhanced:
            fused = [frame for one in (series, *others) for frame in one.frames]
            volumes = [fused] if others else [volume.frames for volume in series.volumes]
            instances = iter([combine_slices(instances, volumes, series.modality, seed=seed)])
        for number, instance in enumerate(instances, start=1):
            with open(hidden / f"{number:04d}.dcm", "wb") as file:
                pydicom.dcmwrite(file, made_by.released(instance))
                file.flush()
                os.fsync(file.fileno())
        move(hidden, folder)
    return folder


def _instances(
    sr: Image, series: Series, seed: str, made_by: MadeBy, others: Sequence[Series]
) -> Iterator[pydicom.FileDataset]:
    """The classic images, slice by slice; ``seed`` is for their UIDs."""
    affine = LPS_TO_RAS @ np.asarray(sr.affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column, across = axes = (affine[:3, :3] / spacing).T.round(12) + 0.0  # no -0 and no 1e-17
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-4):
        raise ValueError(f"the axes of the volume must be at right angles, got the directions {axes.tolist()}")
    volumes = as_array(sr)
    if not np.isfinite(volumes).all():
        raise ValueError("every voxel must be finite, got NaN or infinite ones")

    sources = replace(series, frames=tuple(frame for one in (series, *others) for frame in one.all_frames))
    shared = attributes_of(sources)
    if others:
        of_first = (e for e in attributes_of(series) if e.tag.group in OF_FIRST or e.keyword in OF_STUDY)
        shared.update({element.tag: element for element in of_first})
    described = replace(series, frames=series.all_frames)
    slope, intercept = _describe_pixels(shared, volumes, described, padding_value_of(sr))
    shared.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[seed])
    shared.SeriesNumber = min((series.number or 0) + (FUSED_FROM if others else NUMBERS_FROM), 2**31 - 1)
    kind = ["fused"] if others else [f"{len(series.phases)} volumes"] if series.phases else []
    parts = () if made_by.pseudonyms else series.part_texts  # which may be a time of day
    shared.SeriesDescription = text_of(", ".join((DESCRIPTION, *kind, *parts)), 64)
    shared.ImageOrientationPatient = [decimal(value) for value in (*row, *column)]
    shared.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    shared.SliceThickness = shared.SpacingBetweenSlices = decimal(spacing[2])
    shared.DerivationCodeSequence = code_of(*SPATIAL_RESAMPLING)
    shared.ContributingEquipmentSequence = [*shared.get("ContributingEquipmentSequence", ()), equipment_item(made_by)]
    counts = series.size if series.phases else f"{' + '.join(str(len(one.frames)) for one in (series, *others))} slices"
    story = (
        f"{'Fusion' if others else 'Super-resolution'} by {PACKAGE} {version(PACKAGE)} with {made_by.bundle} "
        f"{made_by.bundle_version}: {counts} became {volumes.shape[3]}, {spacing[2]:.4g} mm apart. {DESCRIPTION}."
    )
    filled = {int(index) for index in sr.meta.get("filled_slices", ())}
    headers = [header_of_volume(series, number) for number in range(len(series.phases))]
    for phase, index in np.ndindex(len(volumes), volumes.shape[3]):
        position = (affine[:3, 3] + index * affine[:3, 2]).round(9) + 0.0
        number = phase * volumes.shape[3] + index
        instance = _file(shared, pydicom.uid.generate_uid(entropy_srcs=[seed, f"slice {number}"]))
        instance.InstanceNumber = number + 1
        instance.ImagePositionPatient = [decimal(value) for value in position]
        instance.SliceLocation = decimal(position @ np.cross(row, column))
        near = _sources(series.volumes[phase], position, across, spacing[2])
        if series.phases:
            instance.update(headers[phase])
            instance.update(header_of_slice(headers[phase], _nearest(near, position, across)))
        crossed = [frame for one in others for frame in one.frames if _meets(frame, position, across, spacing[2])]
        references = _references([*near, *crossed], series.modality)
        if references:
            instance.SourceImageSequence = references
        instance.DerivationDescription = text_of(story, 1024)
        if index in filled:
            instance.DerivationDescription = text_of(f"{NOT_ACQUIRED.capitalize()}, it is filled in. {story}", 1024)
            instance.ImageComments = NOT_ACQUIRED
        stored = np.rint((volumes[phase, :, :, index].T.astype(np.float64) - intercept) / slope)
        instance.add_new("PixelData", "OW", stored.astype("<i2" if shared.PixelRepresentation else "<u2").tobytes())
        yield instance


def _describe_pixels(
    shared: pydicom.Dataset, voxels: np.ndarray, series: Series, padding: float | None
) -> tuple[float, float]:
    """Describe 16-bit pixels that hold every voxel; slope and intercept, as they will be read again."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    if padding is not None:
        lowest, highest = min(lowest, padding), max(highest, padding)
    slope, intercept = _rescale(lowest, highest, series)
    first, last = round((lowest - intercept) / slope), round((highest - intercept) / slope)
    shared.SamplesPerPixel = 1
    inverted = {get(frame.header, "PhotometricInterpretation") for frame in series.frames} == {"MONOCHROME1"}
    shared.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"  # whether low values are white
    shared.Columns, shared.Rows = voxels.shape[-3:-1]
    shared.BitsAllocated, shared.BitsStored, shared.HighBit = 16, 16, 15
    shared.PixelRepresentation = int(first < 0)
    assert (-(2**15) <= first and last < 2**15) or (0 <= first and last < 2**16), "the rescale holds the range"
    if padding is not None:
        vr = "SS" if shared.PixelRepresentation else "US"
        shared.add_new("PixelPaddingValue", vr, round((padding - intercept) / slope))
    has_slope = series.frames[0].slope is not None
    if series.modality == "CT" or has_slope or (slope, intercept) != (1, 0):
        shared.RescaleSlope, shared.RescaleIntercept = decimal(slope), decimal(intercept)
        shared.RescaleType = shared.get("RescaleType") or ("HU" if series.modality == "CT" and has_slope else "US")
    else:
        shared.pop("RescaleType", None)
    return slope, intercept


def _rescale(lowest: float, highest: float, series: Series) -> tuple[float, float]:
    """Slope and intercept: the source's where they hold the range in 16 bits, and MR in enough steps."""
    given = {(1.0 if f.slope is None else f.slope, f.intercept or 0.0) for f in series.frames}
    slope, intercept = given.pop() if len(given) == 1 else (1.0, 0.0)
    slope, intercept = float(decimal(slope)), float(decimal(intercept))
    span = highest - lowest
    if slope > 0 and (series.modality == "CT" or span >= FEWEST_STEPS * slope):
        first, last = round((lowest - intercept) / slope), round((highest - intercept) / slope)
        if (-(2**15) <= first and last < 2**15) or (0 <= first and last < 2**16):
            return slope, intercept
    # The next 1, 2 or 5 x 10^n: short in decimals, and 0 stays exactly 0.
    finest = max(span, 1e-6 * abs(highest), 1e-30) / 65000
    power = 10.0 ** floor(log10(finest))
    slope = next(float(decimal(step * power)) for step in (1, 2, 5, 10) if step * power >= finest)
    return slope, float(decimal(floor(lowest / slope) * slope))


def _seed(shape: Sequence[int], sources: Sequence[Series], made_by: MadeBy) -> str:
    """All that distinguishes this result from any other, for its UIDs."""
    every = (frame for series in sources for frame in series.all_frames)
    frames = (f"{get(frame.header, 'SOPInstanceUID')} {frame.number}" for frame in every)
    options = (f"{name}={value}" for name, value in sorted(made_by.options.texts().items()))
    bundle = (version(PACKAGE), made_by.bundle, made_by.bundle_version, made_by.weights_sha256, str(tuple(shape)))
    return "\n".join((PACKAGE, *bundle, *options, sources[0].uid, *frames, ""))


def _file(shared: pydicom.Dataset, uid: pydicom.uid.UID) -> pydicom.FileDataset:
    """A file without position and pixels."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # counted when written
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = shared.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = text_of(f"{PACKAGE} {version(PACKAGE)}", 16)
    instance = pydicom.FileDataset(
        "", {}, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False, is_little_endian=True
    )
    instance.update(shared)
    instance.SOPInstanceUID = uid
    return instance


def _sources(series: Series, position: np.ndarray, across: np.ndarray, spacing: float) -> list[Frame]:
    """The acquired slices that overlap a new one, or the nearest."""
    offsets = np.array([frame.position for frame in series.frames]) @ across
    step = float(np.median(np.abs(np.diff(offsets)))) if len(offsets) > 1 else spacing
    thickness = np.array([frame.slice_thickness or step for frame in series.frames])
    distances = np.abs(offsets - position @ across)
    near = np.flatnonzero(distances < (thickness + spacing) / 2 - 1e-6)
    return [series.frames[index] for index in (near if len(near) else [distances.argmin()])]


def _nearest(frames: list[Frame], position: np.ndarray, across: np.ndarray) -> Frame:
    return min(frames, key=lambda frame: abs(float((frame.position - position) @ across)))


def _meets(frame: Frame, position: np.ndarray, across: np.ndarray, spacing: float) -> bool:
    """Whether an acquired slice of any direction meets a new one."""
    rows, columns = (int(frame.header.get(name) or 1) for name in ("Rows", "Columns"))
    along_row, along_column = frame.orientation[:3] @ across, frame.orientation[3:] @ across
    ends = [
        x * frame.pixel_spacing[1] * along_row + y * frame.pixel_spacing[0] * along_column
        for x in (-0.5, columns - 0.5)
        for y in (-0.5, rows - 0.5)
    ]
    reach = ((frame.slice_thickness or 0.0) * abs(frame.normal @ across) + spacing) / 2
    start = (frame.position - position) @ across
    return bool(start + min(ends) < reach and start + max(ends) > -reach)


def _references(frames: list[Frame], modality: str) -> list[pydicom.Dataset]:
    """Items of SourceImageSequence, one for each file."""
    items: dict[str, pydicom.Dataset] = {}
    for frame in frames:
        header = frame.header
        uid = str(
            get(header, "SOPInstanceUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPInstanceUID", "")
        )
        item = items.setdefault(uid, pydicom.Dataset())
        item.ReferencedSOPClassUID = header.get("SOPClassUID") or SOP_CLASS[modality]
        item.ReferencedSOPInstanceUID = uid
        item.PurposeOfReferenceCodeSequence = code_of(*SOURCE_IMAGE)
        if int(header.get("NumberOfFrames") or 1) > 1:
            item.ReferencedFrameNumber = [*np.atleast_1d(item.get("ReferencedFrameNumber", [])), frame.number + 1]
    return [item for uid, item in items.items() if uid]


def equipment_item(made_by: MadeBy) -> pydicom.Dataset:
    """An item of ContributingEquipmentSequence, by which results of monai-sr are known."""
    options = "; ".join(f"{name}={value}" for name, value in sorted(made_by.options.texts().items()))
    item = pydicom.Dataset()
    item.PurposeOfReferenceCodeSequence = code_of(*MODIFYING_EQUIPMENT)
    item.Manufacturer = PACKAGE
    item.ManufacturerModelName = text_of(made_by.bundle, 64)
    item.SoftwareVersions = [
        text_of(f"{PACKAGE} {version(PACKAGE)}", 64),
        text_of(f"{made_by.bundle} {made_by.bundle_version}", 64),
    ]
    item.ContributionDescription = text_of(
        f"Super-resolution. Weights SHA-256: {made_by.weights_sha256 or 'none'}. Options: {options or 'none'}.", 1024
    )
    return item


def text_of(text: str, length: int) -> str:
    """Text that every character set and every VR can hold."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:length]
