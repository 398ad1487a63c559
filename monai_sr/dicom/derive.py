"""A result as a DICOM series of its own beside its source, so that archives and viewers know what it is.

Every slice becomes one classic CT or MR image, also where the source is an enhanced multi-frame file,
because every viewer and tool reads these. What all slices of the source agree on is true of the series
and kept; what differs between them, tells of their pixels or is private, is not. Nothing depends on
the clock: the same source, options and weights give the same bytes.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from math import floor, log10
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from pydicom import Dataset, FileDataset, config, dcmwrite
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_is_retired, dictionary_VR, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat, validate_value

from ..errors import OutputError, write_error
from ..processes import temporary_beside
from .header import pydicom_silent
from .series import Frame, Series

logger = logging.getLogger(__name__)

PACKAGE = "monai-sr"
"""Also the manufacturer of the contributing equipment, by which our results are known again."""

DESCRIPTION = "SR research - not for diagnosis"

NUMBERS_FROM = 9000
"""Added to the source's SeriesNumber: above the "scan number x 100" that GE and Philips give to their own."""

NOT_ACQUIRED = "no slice was acquired here"

SOP_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}

SPATIAL_RESAMPLING = ("113085", "Spatial resampling")  # context group 7203 of PS3.16, image derivation
SOURCE_IMAGE = ("121322", "Source image for image processing operation")  # 7202, purposes of reference
MODIFYING_EQUIPMENT = ("109103", "Modifying Equipment")  # 7005, contributing equipment

KEPT_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0032, 0x0038, 0x0040)
"""Attributes of patient, study and acquisition."""

BUT_NOT = """
    SpecificCharacterSet SOPClassUID SOPInstanceUID InstanceCreationDate InstanceCreationTime
    InstanceCreatorUID SeriesDate SeriesTime ContentDate ContentTime SeriesDescription SeriesDescriptionCodeSequence
    ReferencedSeriesSequence ReferencedImageSequence ReferencedInstanceSequence ReferencedWaveformSequence
    ReferencedRawDataSequence ReferencedFrameNumber SimpleFrameList RelatedSeriesSequence SourceImageSequence
    AlternateRepresentationSequence SourceImageEvidenceSequence ReferencedImageEvidenceSequence
    StudiesContainingOtherReferencedInstancesSequence DerivationDescription DerivationCodeSequence
    SliceThickness SpacingBetweenSlices GantryDetectorTilt SpatialResolution ReconstructionDiameter
    ReconstructionFieldOfView ReconstructionPixelSpacing ReconstructionTargetCenterPatient
    DataCollectionCenterPatient TablePosition RealWorldValueMappingSequence MeasurementUnitsCodeSequence
"""
"""What is written anew, and what tells of single instances or of the acquired grid."""

KEPT_BESIDES = """
    StudyInstanceUID StudyID FrameOfReferenceUID PositionReferenceIndicator SynchronizationFrameOfReferenceUID
    AcquisitionNumber Laterality ImageLaterality TemporalPositionIdentifier NumberOfTemporalPositions
    BurnedInAnnotation RecognizableVisualFeatures LongitudinalTemporalInformationModified LossyImageCompression
    RescaleType WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction
"""
"""What is kept of the groups 0020 (relationship) and 0028 (pixels)."""

IDENTITY = """
    PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyID StudyDate StudyTime StudyDescription
    AccessionNumber ReferringPhysicianName FrameOfReferenceUID
"""
"""What archives find patient and study by: as in the source, even where the standard forbids its value."""

NEEDED = {
    "CT": "KVP AcquisitionNumber",
    "MR": "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength",
    "both": """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
        ReferringPhysicianName PatientPosition Manufacturer PositionReferenceIndicator""",
}
"""Attributes of type 2, which an image must have, if only empty (PS3.3, tables A.3-1 and A.4-1)."""

FEWEST_STEPS = 100
"""MR signals of fewer stored steps get a finer rescale: some are decimals, of a range of 1."""

CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "ResonantNucleus": "ImagedNucleus",
    "TransmitterFrequency": "ImagingFrequency",
    "PulseSequenceName": "SequenceName",
}
"""What enhanced files call it, and what classic ones do, in the same unit."""

CLASSIC_TERMS = (
    ("ScanningSequence", "SE", "EchoPulseSequence", "SPIN BOTH"),
    ("ScanningSequence", "GR", "EchoPulseSequence", "GRADIENT BOTH"),
    ("ScanningSequence", "EP", "EchoPlanarPulseSequence", "YES"),
    ("ScanningSequence", "IR", "InversionRecovery", "YES"),
    ("SequenceVariant", "SK", "SegmentedKSpaceTraversal", "PARTIAL"),
    ("SequenceVariant", "MTC", "MagnetizationTransfer", "ON_RESONANCE OFF_RESONANCE"),
    ("SequenceVariant", "SS", "SteadyStatePulseSequence", "FREE_PRECESSION TRANSVERSE TIME_REVERSED LONGITUDINAL"),
    ("SequenceVariant", "SP", "Spoiling", "RF GRADIENT RF_AND_GRADIENT"),
    ("SequenceVariant", "OSP", "OversamplingPhase", "2D 3D 2D_3D"),
    ("InPlanePhaseEncodingDirection", "ROW", "InPlanePhaseEncodingDirection", "ROW"),
    ("InPlanePhaseEncodingDirection", "COL", "InPlanePhaseEncodingDirection", "COLUMN"),
)
"""A classic attribute and its term; the enhanced attribute and its values that mean it (PS3.3, C.8.3.1, C.8.13)."""

WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")

LOSSY_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 81, 91, 112, 203))
"""JPEG, JPEG-LS, JPEG 2000, JPEG XL and HTJ2K where they may lose something."""

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class MadeBy:
    """What made a result, to be written into it.

    Attributes:
        bundle: name of the bundle.
        bundle_version: its version.
        weights_sha256: of its weights; empty if it has none.
        options: what the user chose, by name; neither paths nor a header's text belong here.
    """

    bundle: str
    bundle_version: str
    weights_sha256: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def write_derived_series(sr: MetaTensor, series: Series, folder: Path, *, made_by: MadeBy) -> Path:
    """Write a super-resolved volume as a DICOM series of the study that its source belongs to.

    The folder appears whole or not at all. An enhanced multi-frame source gives classic images too.

    Args:
        sr: (1, X, Y, Z) float32 in HU or signal; X counts columns, Y rows, Z slices, and the affine
            tells their directions. ``meta`` may hold ``padding_value`` (HU) and ``filled_slices``
            (indices of slices that lie in a gap of the source).
        series: the source.
        folder: where to, as ``0001.dcm`` and so on; must not exist, its parent must.
        made_by: what made the volume.

    Returns:
        The folder.

    Raises:
        ValueError: a voxel is not finite, or the axes are not at right angles.
        OutputError: the folder exists, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise OutputError("E-OUT-EXISTS", "it exists already", fix="name a new folder, or remove this one", path=folder)
    hidden = temporary_beside(folder)
    try:
        hidden.mkdir()
        with pydicom_silent():
            for number, instance in enumerate(_instances(sr, series, made_by), start=1):
                with open(hidden / f"{number:04d}.dcm", "wb") as file:
                    dcmwrite(file, instance)
                    file.flush()
                    os.fsync(file.fileno())
        os.rename(hidden, folder)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return folder


def _instances(sr: MetaTensor, series: Series, made_by: MadeBy) -> Iterator[FileDataset]:
    """The files to be, slice by slice."""
    affine = LPS_FROM_RAS @ np.asarray(sr.affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column, across = axes = (affine[:3, :3] / spacing).T.round(12) + 0.0  # no -0 and no 1e-17
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-4):
        raise ValueError(f"the axes of the volume must be at right angles, got the directions {axes.tolist()}")
    voxels = sr.detach().cpu().numpy()[0]
    if not np.isfinite(voxels).all():
        raise ValueError("every voxel must be finite, got NaN or infinite ones")

    shared = _attributes_of(series)
    slope, intercept = _describe_pixels(shared, voxels, series, sr.meta.get("padding_value"))
    seed = _seed(voxels.shape, series, made_by)
    shared.SeriesInstanceUID = generate_uid(entropy_srcs=[seed])
    shared.SeriesNumber = min((series.number or 0) + NUMBERS_FROM, 2**31 - 1)
    shared.SeriesDescription = DESCRIPTION
    shared.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
    shared.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    shared.SliceThickness = shared.SpacingBetweenSlices = _decimal(spacing[2])
    shared.DerivationCodeSequence = [_code(*SPATIAL_RESAMPLING)]
    shared.ContributingEquipmentSequence = [*shared.get("ContributingEquipmentSequence", ()), _equipment(made_by)]
    story = (
        f"Super-resolution by {PACKAGE} {version(PACKAGE)} with {made_by.bundle} {made_by.bundle_version}: "
        f"{len(series.frames)} slices became {voxels.shape[2]}, {spacing[2]:.4g} mm apart. {DESCRIPTION}."
    )
    filled = {int(index) for index in sr.meta.get("filled_slices", ())}
    for index in range(voxels.shape[2]):
        position = (affine[:3, 3] + index * affine[:3, 2]).round(9) + 0.0
        instance = _file(shared, generate_uid(entropy_srcs=[seed, f"slice {index}"]))
        instance.InstanceNumber = index + 1
        instance.ImagePositionPatient = [_decimal(value) for value in position]
        instance.SliceLocation = _decimal(position @ np.cross(row, column))
        references = _references(_sources(series, position, across, spacing[2]), series.modality)
        if references:
            instance.SourceImageSequence = references
        instance.DerivationDescription = _text(story, 1024)
        if index in filled:
            instance.DerivationDescription = _text(f"{NOT_ACQUIRED.capitalize()}, it is filled in. {story}", 1024)
            instance.ImageComments = NOT_ACQUIRED
        stored = np.rint((voxels[:, :, index].T.astype(np.float64) - intercept) / slope)
        instance.add_new("PixelData", "OW", stored.astype("<i2" if shared.PixelRepresentation else "<u2").tobytes())
        yield instance


# ---------------------------------------------------------------- what is kept of the source


def _attributes_of(series: Series) -> Dataset:
    """What all headers of the source agree on, and what a classic image needs besides."""
    frames = {(id(frame.header), frame.number): frame for frame in series.frames}.values()
    headers = [_classic_header(frame) for frame in frames]
    shared = Dataset()
    for element in headers[0]:
        if all(header.get(element.tag) == element for header in headers):
            shared.add(element)
    _set_character_set(shared, series)
    _set_lossy_history(shared, series)
    _check_window(shared)
    shared.Modality = series.modality
    shared.SOPClassUID = SOP_CLASS[series.modality]
    kind, *more = _strings(shared, "ImageType")[2:] or [""]
    kind = kind or {"CT": "AXIAL", "MR": "OTHER"}[series.modality]
    shared.ImageType = ["DERIVED", "SECONDARY", kind, "RESAMPLED", *(word for word in more if word != "RESAMPLED")]
    needed = (NEEDED["both"] + " " + NEEDED[series.modality]).split()
    if not shared.get("BodyPartExamined") and "AnatomicRegionSequence" not in shared:
        needed.append("Laterality")  # it may be a paired organ
    if any("TriggerTime" in header for header in headers):
        needed.append("TriggerTime")
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not shared.get(keyword):
            setattr(shared, keyword, generate_uid(entropy_srcs=[keyword, series.uid]))
    if series.modality == "MR":
        shared.ScanningSequence = shared.get("ScanningSequence") or "RM"  # "research mode": none of the others
        shared.SequenceVariant = shared.get("SequenceVariant") or "NONE"
        if "IR" in shared.ScanningSequence:
            needed.append("InversionTime")
    for keyword in needed:
        if keyword not in shared:
            setattr(shared, keyword, None)
    return shared


def _classic_header(frame: Frame) -> Dataset:
    """What a classic header of this frame tells about its series: functional groups unfolded, values checked."""
    header = _kept(frame.header)
    groups = [*(frame.header.get("SharedFunctionalGroupsSequence") or ())[:1]]
    groups += (frame.header.get("PerFrameFunctionalGroupsSequence") or ())[frame.number : frame.number + 1]
    if not groups:
        return header
    for group in groups:
        for element in group:
            if element.tag.element >= 0x9000 and element.VR == "SQ" and element.value:
                header.update(_kept(element.value[0]))
    for name, classic in CLASSIC_NAMES.items():
        if name in header:
            setattr(header, classic, header[name].value)
    terms: dict[str, list[str]] = {}
    for classic, term, name, means in CLASSIC_TERMS:
        if header.get(name) in means.split():
            terms.setdefault(classic, []).append(term)
    for name in ("ImageType", "InPlanePhaseEncodingDirection"):  # other words than in a classic file
        header.pop(name, None)
    for classic, value in terms.items():
        setattr(header, classic, value)
    return _kept(Dataset({tag: header[tag] for tag in list(header.keys()) if tag.element >> 12 != 9}))


def _kept(dataset: Dataset) -> Dataset:
    """Of all elements those that tell of the whole series, with values that the standard allows."""
    kept = Dataset()
    for tag in list(dataset.keys()):  # not the elements: that would read the pixels
        keyword = keyword_for_tag(tag)
        of_series = tag.group in KEPT_GROUPS and keyword not in BUT_NOT.split()
        if keyword and (of_series or keyword in KEPT_BESIDES.split()) and not dictionary_is_retired(tag):
            _copy(tag, dataset, kept)
    return kept


def _copy(tag: BaseTag, source: Dataset, target: Dataset) -> None:
    """Copy an element as the dictionary describes it, without private ones inside; not if its value is not allowed."""
    try:
        element = source[tag]
        vr = element.VR if " or " in dictionary_VR(tag) else dictionary_VR(tag)
        values = element.value if vr == "SQ" or element.VM > 1 else [] if element.is_empty else [element.value]
        if vr == "SQ":
            values = [_copy_item(item) for item in values]
        elif vr == "DS":
            values = [_decimal(value) for value in values]
        elif vr == "IS":
            values = [int(value) for value in values]
        elif keyword_for_tag(tag) not in IDENTITY.split():
            for value in values:
                validate_value(vr, value, config.RAISE)
                if vr not in ("ST", "LT", "UT") and not str(value).isprintable():
                    return
        target.add_new(tag, vr, values if vr == "SQ" or len(values) > 1 else values[0] if values else None)
    except Exception:  # pydicom raises many types for values it cannot parse
        logger.debug("an attribute of the source is not kept: %s", tag)


def _copy_item(item: Dataset) -> Dataset:
    """An item of a sequence, its private and unsound elements left out."""
    copy = Dataset()
    for tag in list(item.keys()):
        if not tag.is_private:
            _copy(tag, item, copy)
    return copy


def _set_character_set(shared: Dataset, series: Series) -> None:
    """Keep the source's character set; Unicode if its files have several or one that is not known."""
    names, *others = [_strings(frame.header, "SpecificCharacterSet") for frame in series.frames]
    if any(other != names for other in others) or not all(name in python_encoding for name in names):
        names = ["ISO_IR 192"]
    if any(names):
        shared.SpecificCharacterSet = names


def _set_lossy_history(shared: Dataset, series: Series) -> None:
    """Say that pixels were compressed with loss if those of any slice were, and how much at most."""
    worst = -1.0
    for frame in series.frames:
        syntax = getattr(frame.header, "file_meta", {}).get("TransferSyntaxUID")
        told = frame.header.get("LossyImageCompression")
        if told == "01" or (told != "00" and syntax in LOSSY_SYNTAXES):
            lossy = Dataset()
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                _copy(Tag(keyword), frame.header, lossy)
            shared.LossyImageCompression = "01"
            ratio = float(np.max(lossy.get("LossyImageCompressionRatio") or 0))
            if ratio > worst:
                worst = ratio
                shared.update(lossy)


def _strings(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute, none to many."""
    value = dataset.get(keyword) or []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _check_window(shared: Dataset) -> None:
    """Keep the window if it is one that a viewer can apply."""
    count = {name: np.size(shared.get(name) or ()) for name in WINDOW}
    if count["WindowCenter"] != count["WindowWidth"] or np.min(shared.get("WindowWidth") or 0) < 1:
        for name in WINDOW:
            shared.pop(name, None)
    elif count["WindowCenterWidthExplanation"] != count["WindowCenter"]:
        shared.pop("WindowCenterWidthExplanation", None)


# ---------------------------------------------------------------- what is new


def _describe_pixels(shared: Dataset, voxels: np.ndarray, series: Series, padding: float | None) -> tuple[float, float]:
    """Describe 16-bit pixels that hold every voxel; slope and intercept, as they will be read again."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    if padding is not None:
        lowest, highest = min(lowest, padding), max(highest, padding)
    slope, intercept = _rescale(lowest, highest, series)
    first, last = round((lowest - intercept) / slope), round((highest - intercept) / slope)
    shared.SamplesPerPixel = 1
    shared.PhotometricInterpretation = "MONOCHROME2"
    shared.Columns, shared.Rows = voxels.shape[:2]
    shared.BitsAllocated, shared.BitsStored, shared.HighBit = 16, 16, 15
    shared.PixelRepresentation = int(first < 0)
    assert (-(2**15) <= first and last < 2**15) or (0 <= first and last < 2**16), "the rescale holds the range"
    if padding is not None:
        vr = "SS" if shared.PixelRepresentation else "US"
        shared.add_new("PixelPaddingValue", vr, round((padding - intercept) / slope))
    told = series.frames[0].slope is not None
    if series.modality == "CT" or told or (slope, intercept) != (1, 0):
        shared.RescaleSlope, shared.RescaleIntercept = _decimal(slope), _decimal(intercept)
        shared.RescaleType = shared.get("RescaleType") or ("HU" if series.modality == "CT" and told else "US")
    else:
        shared.pop("RescaleType", None)
    return slope, intercept


def _rescale(lowest: float, highest: float, series: Series) -> tuple[float, float]:
    """Slope and intercept: the source's where they hold the range in 16 bits, and MR in enough steps."""
    given = {(1.0 if f.slope is None else f.slope, f.intercept or 0.0) for f in series.frames}
    slope, intercept = given.pop() if len(given) == 1 else (1.0, 0.0)
    slope, intercept = float(_decimal(slope)), float(_decimal(intercept))
    span = highest - lowest
    if slope > 0 and (series.modality == "CT" or span >= FEWEST_STEPS * slope):
        first, last = round((lowest - intercept) / slope), round((highest - intercept) / slope)
        if (-(2**15) <= first and last < 2**15) or (0 <= first and last < 2**16):
            return slope, intercept
    # The next 1, 2 or 5 x 10^n: short in decimals, and 0 stays exactly 0.
    finest = max(span, 1e-6 * abs(highest), 1e-30) / 65000
    power = 10.0 ** floor(log10(finest))
    slope = next(float(_decimal(step * power)) for step in (1, 2, 5, 10) if step * power >= finest)
    return slope, float(_decimal(floor(lowest / slope) * slope))


def _seed(shape: tuple[int, ...], series: Series, made_by: MadeBy) -> str:
    """All that tells this result from any other, for its UIDs."""
    frames = (f"{frame.header.get('SOPInstanceUID')} {frame.number}" for frame in series.frames)
    options = (f"{name}={value}" for name, value in sorted(made_by.options.items()))
    bundle = (version(PACKAGE), made_by.bundle, made_by.bundle_version, made_by.weights_sha256, str(shape))
    return "\n".join((PACKAGE, *bundle, *options, series.uid, *frames, ""))


def _file(shared: Dataset, uid: UID) -> FileDataset:
    """A file without its slice."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # counted when written
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = shared.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = _text(f"{PACKAGE} {version(PACKAGE)}", 16)
    instance = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False, is_little_endian=True)
    instance.update(shared)
    instance.SOPInstanceUID = uid
    return instance


def _sources(series: Series, position: np.ndarray, across: np.ndarray, spacing: float) -> list[Frame]:
    """The acquired slices that overlap a new one; the nearest if none does."""
    offsets = np.array([frame.position for frame in series.frames]) @ across
    step = float(np.median(np.abs(np.diff(offsets)))) if len(offsets) > 1 else spacing
    thickness = np.array([frame.slice_thickness or step for frame in series.frames])
    distances = np.abs(offsets - position @ across)
    near = np.flatnonzero(distances < (thickness + spacing) / 2 - 1e-6)
    return [series.frames[index] for index in (near if len(near) else [distances.argmin()])]


def _references(frames: list[Frame], modality: str) -> list[Dataset]:
    """Items of SourceImageSequence, one for each file."""
    items: dict[str, Dataset] = {}
    for frame in frames:
        header = frame.header
        uid = str(
            header.get("SOPInstanceUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPInstanceUID", "")
        )
        item = items.setdefault(uid, Dataset())
        item.ReferencedSOPClassUID = header.get("SOPClassUID") or SOP_CLASS[modality]
        item.ReferencedSOPInstanceUID = uid
        item.PurposeOfReferenceCodeSequence = [_code(*SOURCE_IMAGE)]
        if int(header.get("NumberOfFrames") or 1) > 1:
            item.ReferencedFrameNumber = [*np.atleast_1d(item.get("ReferencedFrameNumber", [])), frame.number + 1]
    return [item for uid, item in items.items() if uid]


def _equipment(made_by: MadeBy) -> Dataset:
    """What changed the images, as an item of ContributingEquipmentSequence."""
    options = "; ".join(f"{name}={value}" for name, value in sorted(made_by.options.items()))
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code(*MODIFYING_EQUIPMENT)]
    item.Manufacturer = PACKAGE
    item.ManufacturerModelName = _text(made_by.bundle, 64)
    item.SoftwareVersions = [
        _text(f"{PACKAGE} {version(PACKAGE)}", 64),
        _text(f"{made_by.bundle} {made_by.bundle_version}", 64),
    ]
    item.ContributionDescription = _text(
        f"Super-resolution. Weights SHA-256: {made_by.weights_sha256 or 'none'}. Options: {options or 'none'}.", 1024
    )
    return item


def _code(value: str, meaning: str) -> Dataset:
    """A code of DICOM's own scheme, as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _decimal(value: float) -> DSfloat:
    """A number as a decimal string of at most 16 characters."""
    return DSfloat(value, auto_format=True)


def _text(text: str, length: int) -> str:
    """Text that every character set and every VR can hold."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:length]
