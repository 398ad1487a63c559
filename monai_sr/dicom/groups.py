"""Functional groups of an enhanced multi-frame image: kept of the source where its frames agree, or written anew.

Source: PS3.3, C.7.6.16, C.8.13, C.8.15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .attributes import get, groups_of, value_of
from .kept import BUT_NOT, WINDOW, code_of, copy_element, item_of
from .kinds import values_of
from .late import pydicom
from .series import Frame

REPLACED = (
    *("FrameContentSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
    *("DerivationImageSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence", "CTPositionSequence"),
    *("ReferencedImageSequence", "RealWorldValueMappingSequence", "ConversionSourceAttributesSequence"),
    *("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"),
)
"""Functional groups that are written anew, or that describe acquired frames only."""

GROUPS = {
    "CTAcquisitionTypeSequence": "AcquisitionType ConstantVolumeFlag FluoroscopyFlag",
    "CTAcquisitionDetailsSequence": """SingleCollimationWidth TotalCollimationWidth TableHeight GantryDetectorTilt
        DataCollectionDiameter""",
    "CTGeometrySequence": "DistanceSourceToDetector DistanceSourceToDataCollectionCenter",
    "CTReconstructionSequence": """ReconstructionAlgorithm ConvolutionKernel ConvolutionKernelGroup
        ReconstructionPixelSpacing ReconstructionAngle ImageFilter""",
    "CTExposureSequence": """ExposureTimeInms=ExposureTime XRayTubeCurrentInmA=XRayTubeCurrent ExposureInmAs=Exposure
        ExposureModulationType""",
    "CTXRayDetailsSequence": "KVP FocalSpots FilterType FilterMaterial",
    "IrradiationEventIdentificationSequence": "IrradiationEventUID",
    "MRTimingAndRelatedParametersSequence": """RepetitionTime FlipAngle EchoTrainLength RFEchoTrainLength
        GradientEchoTrainLength SpecificAbsorptionRateSequence OperatingModeSequence""",
    "MRFOVGeometrySequence": """InPlanePhaseEncodingDirection MRAcquisitionFrequencyEncodingSteps
        MRAcquisitionPhaseEncodingStepsInPlane PercentSampling PercentPhaseFieldOfView""",
    "MREchoSequence": "EffectiveEchoTime=EchoTime",
    "MRModifierSequence": """InversionRecovery InversionTimes=InversionTime FlowCompensation T2Preparation
        SpectrallySelectedExcitation SpatialPresaturation PartialFourier ParallelAcquisition""",
    "MRImagingModifierSequence": """MagnetizationTransfer BloodSignalNulling Tagging PixelBandwidth
        TransmitterFrequency=ImagingFrequency""",
    "MRReceiveCoilSequence": """ReceiveCoilName ReceiveCoilManufacturerName ReceiveCoilType QuadratureReceiveCoil""",
    "MRTransmitCoilSequence": "TransmitCoilName TransmitCoilManufacturerName TransmitCoilType",
    "MRDiffusionSequence": "DiffusionDirectionality",
    "MRAveragesSequence": "NumberOfAverages",
}
"""Functional groups and what is never missing in them; after ``=`` the name in a classic image, if it is another.

A group that lacks one of these is left out, unless volumes differ in it. The standard demands them of acquired
frames; ``dciodvfy`` of all.
"""

OPTIONAL = ("InversionTimes",)
"""What may be missing."""

OF_RECONSTRUCTION = ("ReconstructionDiameter", "ReconstructionFieldOfView", "ReconstructionPixelSpacing")
"""What stays true of the pixels within a slice."""

IMAGE_TERMS = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "UNKNOWN",
}
"""What describes an image and each frame, and its value where the source does not say; the last two of MR only."""

OF_MR = ("ComplexImageComponent", "AcquisitionContrast")

ANATOMY = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "BRAIN": ("12738006", "Brain"),
    "BREAST": ("76752008", "Breast"),
    "CHEST": ("816094009", "Chest"),
    "CSPINE": ("122494005", "Cervical spine"),
    "HEAD": ("69536005", "Head"),
    "HEART": ("80891009", "Heart"),
    "HIP": ("24136001", "Hip joint"),
    "KIDNEY": ("64033007", "Kidney"),
    "KNEE": ("72696002", "Knee"),
    "LIVER": ("10200004", "Liver"),
    "LSPINE": ("122496007", "Lumbar spine"),
    "LUNG": ("39607008", "Lung"),
    "NECK": ("45048000", "Neck"),
    "PELVIS": ("816092008", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"),
    "SHOULDER": ("16982005", "Shoulder"),
    "TSPINE": ("122495006", "Thoracic spine"),
    "WHOLEBODY": ("38266002", "Entire body"),
}
"""BodyPartExamined as a code of SNOMED CT (PS3.16, table L-1)."""

NEVER_SHARED = ("FrameContentSequence", "PlaneOrientationSequence")
"""The second because dcm2niix confuses slices and volumes of Siemens and GE where their frames do not repeat it."""

ANY_PART = ("91723000", "Anatomical structure")


class Indices(NamedTuple):
    """Where a volume lies among others: its number in time, and its numbers along the dimensions of volumes."""

    time: int | None
    settings: tuple[int, ...]


# ---------------------------------------------------------------- what is kept of the source


def groups_in_common(frames: Sequence[Frame], modality: str) -> dict[str, list[pydicom.Dataset]]:
    """The items of functional groups by keyword, with the attributes in which all frames agree."""
    unique = {(id(frame.header), frame.number): frame for frame in frames}.values()
    first, *others = (_groups_of_source(frame, modality) for frame in unique)
    common: dict[str, list[pydicom.Dataset]] = {}
    for name, items in first.items():
        mates = [other.get(name, []) for other in others]
        if len(items) == 1 and all(len(mate) == 1 for mate in mates):
            kept = [_sound(in_common([items[0], *(mate[0] for mate in mates)]))]
        else:
            kept = [_sound(item) for item in items] if all(mate == items for mate in mates) else []
        if any(kept):
            common[name] = kept
    return common


def in_common(items: Sequence[pydicom.Dataset]) -> pydicom.Dataset:
    """The elements that are equal in all items."""
    first, *others = items
    alike = (tag for tag in list(first.keys()) if all(other.get(tag) == first[tag] for other in others))
    return pydicom.Dataset({tag: first[tag] for tag in alike})


def _sound(item: pydicom.Dataset) -> pydicom.Dataset:
    """The elements that the standard allows and that do not describe the acquired grid."""
    copy, beside = pydicom.Dataset(), set(BUT_NOT.split()) - {*OF_RECONSTRUCTION, "GantryDetectorTilt"}
    for tag in list(item.keys()):
        if (
            not tag.is_private
            and not pydicom.datadict.dictionary_is_retired(tag)
            and pydicom.datadict.keyword_for_tag(tag) not in beside
        ):
            copy_element(tag, item, copy)
    if copy.get("GantryDetectorTilt"):  # whose slices are made upright
        del copy.GantryDetectorTilt
    return copy


def _groups_of_source(frame: Frame, modality: str) -> dict[str, list[pydicom.Dataset]]:
    """The items of the functional groups of an acquired frame, by keyword; of a classic one those it would have."""
    found: dict[str, list[pydicom.Dataset]] = {}
    for group in groups_of(frame.header, frame.number):
        for tag in list(group.keys()):
            name, items = pydicom.datadict.keyword_for_tag(tag), get(group, tag)
            if name and isinstance(items, pydicom.sequence.Sequence) and items and name not in REPLACED:
                found.setdefault(name, list(items))
    for sequence, names in GROUPS.items():
        if sequence in found or sequence[:2] == ("MR" if modality == "CT" else "CT"):
            continue
        item = pydicom.Dataset()
        for name, _, classic in (text.partition("=") for text in names.split()):
            value = value_of(frame, classic or name)
            if value not in (None, "", []):
                given = pydicom.Dataset()
                given.add_new(pydicom.tag.Tag(name), pydicom.datadict.dictionary_VR(name), value)
                copy_element(pydicom.tag.Tag(name), given, item)
        if item:
            found[sequence] = [item]
    return found


def is_complete(name: str, items: Sequence[pydicom.Dataset]) -> bool:
    """Whether the items of a functional group have all that they need."""
    needed = {text.partition("=")[0] for text in GROUPS.get(name, "").split()} - {*OPTIONAL}
    return all(keyword in item for item in items for keyword in needed)


# ---------------------------------------------------------------- functional groups


def groups_of_volume(one: pydicom.Dataset, kept: dict[str, list[pydicom.Dataset]], modality: str) -> pydicom.Dataset:
    """The functional groups that all frames of a volume have in common.

    Args:
        one: a classic image of the volume.
        kept: of the source.
        modality: "CT" or "MR".
    """
    groups = pydicom.Dataset()
    for name, items in kept.items():
        setattr(groups, name, items)
    groups.PixelMeasuresSequence = item_of(
        **{name: one[name].value for name in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")}
    )
    groups.PlaneOrientationSequence = item_of(ImageOrientationPatient=one.ImageOrientationPatient)
    groups.PixelValueTransformationSequence = item_of(
        RescaleSlope=one.get("RescaleSlope", 1),
        RescaleIntercept=one.get("RescaleIntercept", 0),
        RescaleType="HU" if modality == "CT" else one.get("RescaleType", "US"),
    )
    if one.get("WindowCenter") not in (None, ""):
        groups.FrameVOILUTSequence = item_of(**{name: one.get(name) for name in WINDOW})
    part = ANATOMY.get(str(one.get("BodyPartExamined") or "").upper(), ANY_PART)
    side = str(one.get("ImageLaterality") or one.get("Laterality") or "U")
    groups.FrameAnatomySequence = kept.get("FrameAnatomySequence") or item_of(
        AnatomicRegionSequence=one.get("AnatomicRegionSequence") or code_of(part[0], "SCT", part[1]),
        FrameLaterality=side if side in ("L", "R", "B") else "U",
    )
    if modality == "CT" and "IrradiationEventIdentificationSequence" not in groups:
        uid = pydicom.uid.generate_uid(
            entropy_srcs=["irradiation", str(one.StudyInstanceUID), str(one.FrameOfReferenceUID)]
        )
        groups.IrradiationEventIdentificationSequence = item_of(IrradiationEventUID=uid)  # never absent
    if modality == "MR" and "MRDiffusionSequence" not in groups and one.get("DiffusionBValue") is not None:
        direction = one.get("DiffusionGradientOrientation")
        groups.MRDiffusionSequence = item_of(
            DiffusionBValue=one.DiffusionBValue,
            DiffusionDirectionality=one.get("DiffusionDirectionality"),
            DiffusionGradientDirectionSequence=direction and item_of(DiffusionGradientOrientation=direction),
        )
    given = (kept.get(f"{modality}ImageFrameTypeSequence") or [pydicom.Dataset()])[0]
    flavor = (values_of(given.get("FrameType")) or ["", "", "VOLUME"])[2:3] or ["VOLUME"]
    terms = {name: given.get(name) or default for name, default in IMAGE_TERMS.items()}
    if modality == "CT":
        for name in OF_MR:
            terms.pop(name)
    setattr(
        groups,
        f"{modality}ImageFrameTypeSequence",
        item_of(FrameType=["DERIVED", "PRIMARY", flavor[0], "RESAMPLED"], **terms),
    )
    return groups


def groups_of_frame(
    one: pydicom.Dataset, of_volume: pydicom.Dataset, indices: Indices, position: int
) -> pydicom.Dataset:
    """All functional groups of a frame.

    Args:
        one: its classic image.
        of_volume: of its volume.
        indices: of its volume, see :func:`_set_dimensions`.
        position: of the frame in its volume, from 1.
    """
    groups = pydicom.Dataset()
    groups.update(of_volume)
    day, clock = str(one.get("AcquisitionDate") or ""), str(one.get("AcquisitionTime") or "")
    groups.FrameContentSequence = item_of(
        StackID="1",
        InStackPositionNumber=position,
        TemporalPositionIndex=indices.time,
        DimensionIndexValues=[1, position, *indices.settings],
        FrameAcquisitionDateTime=day + clock if day and clock and indices.settings else None,
        FrameComments=one.get("ImageComments"),
    )
    groups.PlanePositionSequence = item_of(ImagePositionPatient=one.ImagePositionPatient)
    groups.DerivationImageSequence = item_of(
        DerivationDescription=one.DerivationDescription,
        DerivationCodeSequence=one.DerivationCodeSequence,
        SourceImageSequence=one.get("SourceImageSequence", []),
    )
    if one.get("TriggerTime") not in (None, ""):
        (synchronized,) = item_of(NominalCardiacTriggerDelayTime=float(one.TriggerTime))
        synchronized.update((of_volume.get("CardiacSynchronizationSequence") or [pydicom.Dataset()])[0])
        groups.CardiacSynchronizationSequence = [synchronized]
    return groups


def take_shared(groups: Sequence[pydicom.Dataset]) -> pydicom.Dataset:
    """Move the groups that are equal in all frames into one of all."""
    first, *others = groups
    shared = pydicom.Dataset()
    for tag in list(first.keys()):
        if pydicom.datadict.keyword_for_tag(tag) not in NEVER_SHARED and all(
            other.get(tag) is first[tag] or other.get(tag) == first[tag] for other in others
        ):
            shared[tag] = first[tag]
            for one in groups:
                del one[tag]
    return shared
