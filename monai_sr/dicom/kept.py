"""What a derived series keeps of its source: patient, study, and how the slices were acquired.

Attributes that are equal in all slices are kept. Attributes that differ, describe pixels or are private
are not. Enhanced multi-frame headers are converted to classic ones.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .attributes import get
from .late import pydicom
from .series import Frame, Series

logger = logging.getLogger(__name__)

SOP_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}

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
"""Attributes that are written anew, or that describe single instances or the acquired grid."""

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
"""Attributes by which archives find patient and study: as in the source, even if the standard forbids the value."""

NEEDED = {
    "CT": "KVP AcquisitionNumber",
    "MR": "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength",
    "both": """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
        ReferringPhysicianName PatientPosition Manufacturer PositionReferenceIndicator""",
}
"""Attributes of type 2, which an image must have, if only empty (PS3.3, tables A.3-1 and A.4-1)."""

CLASSIC_NAMES = {
    "EffectiveEchoTime": "EchoTime",
    "ResonantNucleus": "ImagedNucleus",
    "TransmitterFrequency": "ImagingFrequency",
    "PulseSequenceName": "SequenceName",
}
"""Enhanced keyword, and the classic one in the same unit."""

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


def attributes_of(series: Series) -> pydicom.Dataset:
    """Attributes that are equal in all headers of the source, and those that a classic image needs."""
    frames = {(id(frame.header), frame.number): frame for frame in series.frames}.values()
    headers = [_classic_header(frame) for frame in frames]
    shared = pydicom.Dataset()
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
            setattr(shared, keyword, pydicom.uid.generate_uid(entropy_srcs=[keyword, series.uid]))
    if series.modality == "MR":
        shared.ScanningSequence = shared.get("ScanningSequence") or "RM"  # "research mode"
        shared.SequenceVariant = shared.get("SequenceVariant") or "NONE"
        if "IR" in shared.ScanningSequence:
            needed.append("InversionTime")
    for keyword in needed:
        if keyword not in shared:
            setattr(shared, keyword, None)
    return shared


def _classic_header(frame: Frame) -> pydicom.Dataset:
    """The classic header of a frame without what belongs to single slices; values are checked."""
    header = kept_attributes(frame.header)
    groups = [*(frame.header.get("SharedFunctionalGroupsSequence") or ())[:1]]
    groups += (frame.header.get("PerFrameFunctionalGroupsSequence") or ())[frame.number : frame.number + 1]
    if not groups:
        return header
    for group in groups:
        for element in group:
            if element.tag.element >= 0x9000 and element.VR == "SQ" and element.value:
                header.update(kept_attributes(element.value[0]))
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
    return kept_attributes(pydicom.Dataset({tag: header[tag] for tag in list(header.keys()) if tag.element >> 12 != 9}))


def kept_attributes(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """The elements that describe the whole series, with values that the standard allows."""
    kept = pydicom.Dataset()
    for tag in list(dataset.keys()):  # not the elements: that would read the pixels
        keyword = pydicom.datadict.keyword_for_tag(tag)
        of_series = tag.group in KEPT_GROUPS and keyword not in BUT_NOT.split()
        if (
            keyword
            and (of_series or keyword in KEPT_BESIDES.split())
            and not pydicom.datadict.dictionary_is_retired(tag)
        ):
            copy_element(tag, dataset, kept)
    return kept


def copy_element(tag: pydicom.tag.BaseTag, source: pydicom.Dataset, target: pydicom.Dataset) -> None:
    """Copy an element as the dictionary describes it, without private ones inside; not if its value is not allowed."""
    try:
        element = source[tag]
        vr = element.VR if " or " in pydicom.datadict.dictionary_VR(tag) else pydicom.datadict.dictionary_VR(tag)
        values = element.value if vr == "SQ" or element.VM > 1 else [] if element.is_empty else [element.value]
        if vr == "SQ":
            values = [copy_item(item) for item in values]
        elif vr == "DS":
            values = [decimal(value) for value in values]
        elif vr == "IS":
            values = [int(value) for value in values]
        elif pydicom.datadict.keyword_for_tag(tag) not in IDENTITY.split():
            for value in values:
                pydicom.valuerep.validate_value(vr, value, pydicom.config.RAISE)
                if vr not in ("ST", "LT", "UT") and not str(value).isprintable():
                    return
        target.add_new(tag, vr, values if vr == "SQ" or len(values) > 1 else values[0] if values else None)
    except Exception:  # pydicom raises many types for values it cannot parse
        logger.debug("an attribute of the source is not kept: %s", tag)


def copy_item(item: pydicom.Dataset) -> pydicom.Dataset:
    """An item of a sequence, its private and unsound elements left out."""
    copy = pydicom.Dataset()
    for tag in list(item.keys()):
        if not tag.is_private:
            copy_element(tag, item, copy)
    return copy


def _set_character_set(shared: pydicom.Dataset, series: Series) -> None:
    """Keep the character set of the source; Unicode if there are several or it is unknown."""
    names, *others = [_strings(frame.header, "SpecificCharacterSet") for frame in series.frames]
    if any(other != names for other in others) or not all(name in pydicom.charset.python_encoding for name in names):
        names = ["ISO_IR 192"]
    if any(names):
        shared.SpecificCharacterSet = names


def _set_lossy_history(shared: pydicom.Dataset, series: Series) -> None:
    """Record lossy compression if any slice has it, with the greatest ratio."""
    worst = -1.0
    for frame in series.frames:
        syntax = getattr(frame.header, "file_meta", {}).get("TransferSyntaxUID")
        lossy_flag = get(frame.header, "LossyImageCompression")
        if lossy_flag == "01" or (lossy_flag != "00" and syntax in LOSSY_SYNTAXES):
            lossy = pydicom.Dataset()
            for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                copy_element(pydicom.tag.Tag(keyword), frame.header, lossy)
            shared.LossyImageCompression = "01"
            ratio = float(np.max(lossy.get("LossyImageCompressionRatio") or 0))
            if ratio > worst:
                worst = ratio
                shared.update(lossy)


def _strings(dataset: pydicom.Dataset, keyword: str) -> list[str]:
    """The values of an attribute."""
    value = get(dataset, keyword) or []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _check_window(shared: pydicom.Dataset) -> None:
    """Keep the window if a viewer can apply it."""
    count = {name: np.size(shared.get(name) or ()) for name in WINDOW}
    if count["WindowCenter"] != count["WindowWidth"] or np.min(shared.get("WindowWidth") or 0) < 1:
        for name in WINDOW:
            shared.pop(name, None)
    elif count["WindowCenterWidthExplanation"] != count["WindowCenter"]:
        shared.pop("WindowCenterWidthExplanation", None)


def decimal(value: float) -> pydicom.valuerep.DSfloat:
    """A number as a decimal string of at most 16 characters."""
    return pydicom.valuerep.DSfloat(value, auto_format=True)


def item_of(**values: Any) -> list[pydicom.Dataset]:
    """A sequence of one item; attributes that are None are left out."""
    item = pydicom.Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(item, name, value)
    return [item]


def code_of(value: str, scheme: str, meaning: str) -> list[pydicom.Dataset]:
    """A code as a sequence of one item."""
    return item_of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
