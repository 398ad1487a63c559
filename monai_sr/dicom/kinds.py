"""What a DICOM file is: CT or MR images that slices average, or something that is left out, and why."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ..errors import ImageError, SuperResolutionError
from .late import pydicom

MODALITY_OF = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # enhanced
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",  # legacy converted enhanced
}
"""SOP classes of CT and MR images (PS3.4, table B.5-1)."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DICOMDIR = "1.2.840.10008.1.3.10"

KINDS = {
    "SR": "structured report",
    "PR": "presentation state",
    "KO": "key object note",
    "SEG": "segmentation",
    "REG": "registration",
    "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "radiotherapy plan",
    "RTDOSE": "radiotherapy dose",
}
"""Modality of files without images, in words."""

PHASE = ("E-DCM-PHASE", "a phase image: phase wraps, so slices do not average it; give the magnitude")
MAP = (
    "E-DCM-MAP",
    "a map of a quantity (ADC, T1, T2, field, perfusion, ...), which slices do not average; give the images",
)

_PHASE_WORD = re.compile(
    r"P|P (FFE|SE|IR|PCA)|(UNWRAPPED |FILTERED )?PHASE( ?MAP| ?DIFF| DIFFERENCE| IMAGE)?|VELOCITY( MAP)?"
)
_MAP_WORD = re.compile(
    r".*MAPS?|.*\bE?ADC\b.*|AVERAGE DC|FA|TENSOR|(R|REL ?)?CB[FV]|(REL ?)?MTT|TTP|TMAX|KTRANS|KEP|IAUC\d*|R[12]"
    r"|R2 ?S(TAR)?|R2\*|B1|FF|PDFF|(FAT|WATER) ?FRAC(TION)?|UNI|UNI DEN|QSM|T1 ?RHO|STIFFNESS|STD DEVIATION"
    r"|DIFFUSION ANISO|Z ?EFF"
)
"""Values of ImageType after the second that name a quantity: the standard's, and what the vendors write."""

_PROJECTION = re.compile(r"(CSA )?MIP|MI?NIP|MAX IP|MIN IP|PROJECTION IMAGE")
"""Values of ImageType of GE, Siemens and Philips, and the standard's (PS3.3, C.8.16.2.1.4)."""

_PHASE_UNIT = re.compile(r"(MILLI)?RAD.*|DEG.*|C?M/S")
_MAP_UNIT = re.compile(r"K?HZ|MS(EC)?|S|SEC|1/S|/S|S-1|.*[MU]M\^?2/S.*|PP[MB]|%|PCT|.*ML/.*|MG/?ML|Z ?EFF|EDW?")
"""Of RescaleType or the code of a real world value map; HU, US (unspecified) and 1 (no unit) are images."""

_CONTRASTS = ("T1", "T2", "T2 STAR")
"""As the fourth value of a derived image a quantity (PS3.3, C.8.13.3.1.4); elsewhere the weighting."""

_GE_IMAGE_TYPE, _GE_CREATOR = 0x0043102F, 0x00430010


class NotAnImageError(Exception):
    """A file without a CT or MR image, and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class BrokenFileError(Exception):
    """A slice that cannot be used, and so the whole series ``uid``."""

    def __init__(self, uid: str, error: SuperResolutionError) -> None:
        super().__init__(str(error))
        self.uid, self.error = uid, error


def check_kind(dataset: Any, name: str, *, own_results: bool) -> None:
    """Check that a file holds CT or MR slices as they were acquired.

    Raises:
        NotAnImageError: it holds something else.
        BrokenFileError: it ends too early to know.
    """
    sop_class, modality = str(dataset.get("SOPClassUID") or ""), str(dataset.get("Modality") or "")
    media = str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if media == DICOMDIR or sop_class == DICOMDIR:
        raise NotAnImageError("E-DCM-KIND", "DICOMDIR")
    if sop_class.startswith(SECONDARY_CAPTURE):
        raise NotAnImageError("E-DCM-SC", "secondary capture")
    known = MODALITY_OF.get(sop_class)
    if not known and "Rows" not in dataset and (media in MODALITY_OF or not (sop_class or modality)):
        raise BrokenFileError(str(dataset.get("SeriesInstanceUID") or ""), damaged(name))
    if not known and (modality in KINDS or (sop_class and "Rows" not in dataset and modality not in ("CT", "MR"))):
        raise NotAnImageError("E-DCM-KIND", KINDS.get(modality, "no image"))
    if not known and (modality not in ("CT", "MR") or is_of_another_class(sop_class)):
        raise NotAnImageError("E-DCM-MODALITY", "images of another modality (SOPClassUID, Modality) than CT or MR")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise NotAnImageError("E-DCM-SC", "color pixels, as of a secondary capture")
    kinds = {str(kind).upper() for kind in values_of(dataset.get("ImageType"))}
    if "LOCALIZER" in kinds:
        raise NotAnImageError("E-DCM-LOCALIZER", "localizer")
    if "MOSAIC" in kinds:
        raise NotAnImageError("E-DCM-MOSAIC", "mosaic of many slices in one; dcm2niix converts it")
    equipment = dataset.get("ContributingEquipmentSequence") or []
    if not own_results and any(str(item.get("Manufacturer", "")) == "monai-sr" for item in equipment):
        raise NotAnImageError("E-DCM-OWN", "made by monai-sr")


def is_of_another_class(sop_class: str) -> bool:
    """Whether a SOP class is one of the standard, and not of CT or MR images."""
    return sop_class not in MODALITY_OF and sop_class != "" and pydicom.uid.UID(sop_class).name != sop_class


def modality_of(dataset: Any) -> str:
    """ "CT" or "MR"."""
    return MODALITY_OF.get(str(dataset.get("SOPClassUID") or "")) or str(dataset.Modality)


@lru_cache(maxsize=256)
def quantity_of(
    image_type: tuple[str, ...], *, component: str = "", units: tuple[str, ...] = (), is_phase: bool = False
) -> tuple[str, str] | None:
    """Code and reason of a phase image or map; None for images.

    Args:
        image_type: ImageType, or FrameType of a frame.
        component: ComplexImageComponent.
        units: RescaleType, and the unit of a real world value map.
        is_phase: whether a private attribute of the vendor says phase.

    Source: PS3.3, C.7.6.1.1.2, C.8.13.3.1, C.11.1.1.2; conformance statements of Siemens, GE and Philips.
    """
    words = [re.sub(r"[ _-]+", " ", word.upper()).strip() for word in image_type]
    units_named = [re.sub(r"[ _-]+", " ", unit.upper()).strip() for unit in units]
    if is_phase or component == "PHASE" or any(map(_PHASE_WORD.fullmatch, words[2:])):
        return PHASE
    if any(map(_PHASE_UNIT.fullmatch, units_named)):
        return PHASE
    derived = words[:1] == ["DERIVED"] and any(word in _CONTRASTS for word in words[3:4])
    if derived or any(map(_MAP_WORD.fullmatch, words[2:])) or any(map(_MAP_UNIT.fullmatch, units_named)):
        return MAP
    return None


def is_projection(dataset: Any) -> bool:
    """Whether an image is a projection of maximum or minimum (MIP, MinIP)."""
    words = [*values_of(dataset.get("ImageType"))[2:], dataset.get("VolumeBasedCalculationTechnique") or ""]
    return any(_PROJECTION.fullmatch(str(word).upper().replace("_", " ").strip()) for word in words)


def says_phase_by_ge(dataset: Any) -> bool:
    """Whether GE's private image type (0 magnitude, 1 phase, 2 real, 3 imaginary) says phase."""
    if _GE_IMAGE_TYPE not in dataset._dict or "GEMS" not in str(dataset.get(_GE_CREATOR, "")):
        return False
    return dataset[_GE_IMAGE_TYPE].value in (1, b"\1\0")


def values_of(value: Any) -> list[Any]:
    """The values of an attribute."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def damaged(name: str) -> SuperResolutionError:
    """Error: the header cannot be read."""
    return ImageError("E-DCM-HEADER", f"{name} ends within its header or is damaged")
