"""The slices of a derived series as one enhanced multi-frame CT or MR image.

Functional groups of an enhanced source are kept where all its frames agree; those that describe the acquired grid,
the pixels or the frames themselves are written anew. The attributes of a classic source go to the groups where
enhanced images have them.

Source: PS3.3, A.36, A.38, C.7.6.16, C.7.6.17, C.8.13, C.8.15.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import OutputError
from .attributes import get
from .groups import (
    IMAGE_TERMS,
    Indices,
    groups_in_common,
    groups_of_frame,
    groups_of_volume,
    in_common,
    is_complete,
    take_shared,
)
from .kept import CLASSIC_NAMES, CLASSIC_TERMS, WINDOW, item_of, kept_attributes
from .kinds import values_of
from .late import pydicom
from .series import Frame, Series

DERIVED_FORMATS = ("classic", "enhanced")
"""Values of ``--format`` that name the kind of images of a derived series."""

ENHANCED_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}

MOST_BYTES = 2**32 - 2
"""Of the pixels of one file: its length has 32 bits, and is even."""

OF_GROUPS_ONLY = (
    *("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence", "AnatomicRegionSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "TemporalPositionIdentifier"),
    *("NumberOfTemporalPositions", "ImageLaterality", "ImageComments", "PixelSpacing", "RescaleSlope"),
    *("RescaleIntercept", "RescaleType", "AcquisitionDate", "AcquisitionTime", "SliceThickness", *WINDOW),
    *("SpacingBetweenSlices", "Laterality", "TriggerTime", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("DiffusionDirectionality", "EchoNumbers", "MRAcquisitionType"),
)
"""What of the other groups is in functional groups, or has another name in an enhanced image."""

UNKNOWN = "UNKNOWN"

SETTINGS = {
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "DiffusionGradientDirectionSequence": "MRDiffusionSequence",
    "KVP": "CTXRayDetailsSequence",
    "InversionTimes": "MRModifierSequence",
    "FlipAngle": "MRTimingAndRelatedParametersSequence",
}
"""What may distinguish volumes besides their time, and its functional group."""

NOT_READ = ("InversionTimes", "FlipAngle")
"""Settings by which not every reader separates volumes; where only these differ, the volumes are numbered in time."""


def is_enhanced(series: Series) -> bool:
    """Whether all slices of a series come from enhanced multi-frame files."""
    return all("PerFrameFunctionalGroupsSequence" in frame.header for frame in series.all_frames)


def format_of(wanted: str | None, sources: Sequence[Series]) -> str:
    """What ``--format`` means for a derived series, "enhanced" or "classic": as its sources, unless it names one."""
    if wanted in DERIVED_FORMATS:
        return str(wanted)
    return "enhanced" if all(map(is_enhanced, sources)) else "classic"


def check_size(voxels: int) -> None:
    """Refuse more voxels than one file can hold.

    Raises:
        OutputError: E-OUT-FORMAT.
    """
    if 2 * voxels > MOST_BYTES:
        problem = f"its pixels take {2 * voxels / 2**30:.3g} GiB, an enhanced multi-frame file holds less than 4"
        raise OutputError("E-OUT-FORMAT", problem, fix="give --format classic")


def combine_slices(
    slices: Iterable[pydicom.FileDataset], volumes: Sequence[Sequence[Frame]], modality: str, *, seed: str
) -> pydicom.FileDataset:
    """One enhanced image of classic ones.

    Args:
        slices: the classic images of a derived series, one volume after the other, with as many slices each.
        volumes: the acquired slices that each volume was made of.
        modality: "CT" or "MR".
        seed: distinguishes the result from any other, for its UIDs.

    Returns:
        The first of ``slices``, changed: with functional groups and all pixels.

    Raises:
        OutputError: there are more pixels than one file can hold (E-OUT-FORMAT).
    """
    headers, pixels = list[pydicom.FileDataset](), bytearray()
    for one in slices:
        pixels += one.PixelData
        del one.PixelData
        headers.append(one)
    check_size(len(pixels) // 2)
    made, count = headers[0], len(headers) // len(volumes)
    common = [groups_in_common(frames, modality) for frames in volumes]
    differing = {SETTINGS[name] for name in _values_of_settings(common)}
    of_volumes = []
    for one, groups in zip(headers[::count], common, strict=True):
        kept = {name: items for name, items in groups.items() if name in differing or is_complete(name, items)}
        of_volumes.append(groups_of_volume(one, kept, modality))
    indices = _set_dimensions(
        made, of_volumes, [one.get("TemporalPositionIdentifier") for one in headers[::count]], seed
    )
    of_frames = []
    for number, one in enumerate(headers):
        volume, place = divmod(number, count)
        of_frames.append(groups_of_frame(one, of_volumes[volume], indices[volume], place + 1))
    _move_to_top(made, headers, [frame for frames in volumes for frame in frames], of_volumes)
    types = zip(*(values_of(one[f"{modality}ImageFrameTypeSequence"][0].FrameType) for one in of_volumes), strict=True)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(ENHANCED_CLASS[modality])
    made.ImageType = [words[0] if len(set(words)) == 1 else "MIXED" for words in types]
    for name in IMAGE_TERMS:
        values = {str(one[f"{modality}ImageFrameTypeSequence"][0].get(name)) for one in of_volumes}
        if values != {"None"}:
            setattr(made, name, values.pop() if len(values) == 1 else "MIXED")
    made.SharedFunctionalGroupsSequence = [take_shared(of_frames)]
    made.PerFrameFunctionalGroupsSequence = of_frames
    made.NumberOfFrames = len(of_frames)
    made.add_new("PixelData", "OW", bytes(pixels) + b"\0" * (len(pixels) % 2))
    return made


# ---------------------------------------------------------------- dimensions


def _set_dimensions(
    made: pydicom.Dataset, of_volumes: Sequence[pydicom.Dataset], times: Sequence[int | None], seed: str
) -> list[Indices]:
    """Describe the dimensions: stack, what distinguishes the volumes, and the position in the stack.

    Args:
        made: the image.
        of_volumes: the functional groups of each volume.
        times: the number of each in time; None without one.
        seed: for the UID.
    """
    values = _values_of_settings(of_volumes)
    read = [column for name, column in values.items() if name not in NOT_READ]
    is_distinct, numbers = len(set(zip(*read, strict=True))) == len(times), range(1, len(times) + 1)
    if None in times or len(set(zip(times, *read, strict=True))) < len(times):
        times = [None] * len(times) if is_distinct or len(times) == 1 else list(numbers)
    if len(set(times)) > 1:
        values["TemporalPositionIndex"] = [str(time) for time in times]
    elif "DiffusionBValue" in values:
        times = list(numbers)  # by which dcm2niix finds the volumes of Siemens and GE
    uid = pydicom.uid.generate_uid(entropy_srcs=[seed, "dimensions"])
    # in the order of Siemens and Philips, by which dcm2niix sorts the frames
    names = ("StackID", "InStackPositionNumber", *values)
    pointers = [(name, SETTINGS.get(name, "FrameContentSequence")) for name in names]
    made.DimensionOrganizationSequence = item_of(DimensionOrganizationUID=uid)
    if set(values) <= {"TemporalPositionIndex"}:
        made.DimensionOrganizationType = "3D_TEMPORAL" if values else "3D"
    made.DimensionIndexSequence = [
        item_of(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=pydicom.tag.Tag(name.replace("DirectionSequence", "Orientation")),
            FunctionalGroupPointer=pydicom.tag.Tag(sequence),
            DimensionDescriptionLabel=name[:64],
        )[0]
        for name, sequence in pointers
    ]
    orders = [list(dict.fromkeys(column)) for column in values.values()]
    rows = zip(*values.values(), strict=True) if values else [()] * len(times)
    return [
        Indices(time, tuple(order.index(text) + 1 for order, text in zip(orders, row, strict=True)))
        for time, row in zip(times, rows, strict=True)
    ]


def _values_of_settings(
    of_volumes: Sequence[pydicom.Dataset | dict[str, list[pydicom.Dataset]]],
) -> dict[str, list[str]]:
    """For each setting in which the volumes differ, its value in each as text."""
    values: dict[str, list[str]] = {}
    for name, sequence in SETTINGS.items():
        texts = [str((one.get(sequence) or [pydicom.Dataset()])[0].get(name)) for one in of_volumes]
        if len(set(texts)) > 1:
            values[name] = texts
    return values


# ---------------------------------------------------------------- the attributes of the whole image


def _move_to_top(
    made: pydicom.Dataset,
    headers: Sequence[pydicom.Dataset],
    frames: Sequence[Frame],
    of_volumes: Sequence[pydicom.Dataset],
) -> None:
    """Leave in ``made`` what an enhanced image has outside its groups, and add what it needs there.

    Attributes of the acquisition stay outside where no group has them, as a classic source that lacks some of a group.
    """
    sources = list({id(frame.header): frame.header for frame in frames}.values())
    is_all_enhanced = all("PerFrameFunctionalGroupsSequence" in header for header in sources)
    grouped = {keyword for one in of_volumes for group in one for item in group.value for keyword in item.dir()}
    grouped |= {classic for name, classic in CLASSIC_NAMES.items() if name in grouped} | {*OF_GROUPS_ONLY}
    if is_all_enhanced:
        grouped |= {name for name, *_ in CLASSIC_TERMS} | {"ScanOptions"}
    day, clock = (str(made.get(name) or "") for name in ("AcquisitionDate", "AcquisitionTime"))
    for tag in list(made.keys()):
        name = pydicom.datadict.keyword_for_tag(tag)
        is_empty = tag.group == 0x0018 and name != "PatientPosition" and made[tag].is_empty
        if name in grouped or is_empty:
            del made[tag]
    if is_all_enhanced:
        for element in in_common([kept_attributes(header) for header in sources]):
            if element.tag.element >> 12 == 9 and element.tag.group in (0x0008, 0x0018):
                made.add(element)
    if "ImagedNucleus" in made:
        made.ResonantNucleus = made.ImagedNucleus
        del made.ImagedNucleus
    if "AcquisitionDateTime" not in made and day and clock:
        made.AcquisitionDateTime = day + clock
    for name in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
        if not made.get(name):
            setattr(made, name, UNKNOWN)
    if made.Modality == "MR" and not made.get("ApplicableSafetyStandardAgency"):
        made.ApplicableSafetyStandardAgency = UNKNOWN
    made.ContentDate, made.ContentTime = made.get("StudyDate") or "19000101", made.get("StudyTime") or "000000"
    made.AcquisitionContextSequence = []
    made.ContentQualification = "RESEARCH"
    made.PhotometricInterpretation, made.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    made.LossyImageCompression = made.get("LossyImageCompression") or "00"
    made.BurnedInAnnotation = made.get("BurnedInAnnotation") or "NO"
    made.ReferencedSeriesSequence = _referenced_series(headers, sources, "ReferencedInstanceSequence")
    (evidence,) = item_of(
        StudyInstanceUID=made.StudyInstanceUID,
        ReferencedSeriesSequence=_referenced_series(headers, sources, "ReferencedSOPSequence"),
    )
    made.SourceImageEvidenceSequence = [evidence]


def _referenced_series(
    headers: Sequence[pydicom.Dataset], sources: Sequence[pydicom.Dataset], name: str
) -> list[pydicom.Dataset]:
    """The source files that frames refer to, by their series; ``name`` is the sequence of files."""
    series_of = {str(get(one, "SOPInstanceUID")): str(get(one, "SeriesInstanceUID") or "") for one in sources}
    found: dict[str, dict[str, pydicom.Dataset]] = {}
    for reference in (item for one in headers for item in one.get("SourceImageSequence") or ()):
        uid = str(reference.ReferencedSOPInstanceUID)
        (item,) = item_of(ReferencedSOPClassUID=reference.ReferencedSOPClassUID, ReferencedSOPInstanceUID=uid)
        found.setdefault(series_of.get(uid, ""), {})[uid] = item
    return [
        item_of(**{"SeriesInstanceUID": uid, name: list(instances.values())})[0]
        for uid, instances in found.items()
        if uid
    ]
