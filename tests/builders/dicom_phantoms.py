"""DICOM series whose values are a formula: stacks of slices through :func:`anatomy_at`, as files.

A :class:`Stack` says where slices lie, :func:`slices` draws them as datasets that a test may spoil,
:func:`enhanced` joins them to one multi-frame dataset, and :func:`write` makes files of any transfer
syntax. File names and InstanceNumbers are shuffled, and every text that could identify a patient
holds :data:`CANARY`. :func:`read` reads the one series of a folder back, with all that was said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import phantoms
from pydicom import Dataset
from pydicom import Sequence as Items
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation
from scipy.special import expit

from monai_sr.dicom import find_series, read_series
from monai_sr.errors import collect_notices

CANARY = "../../etc/x^y CANARY"
"""In every text of every header; may appear in nothing we say or write."""

CENTER = np.array([12.0, 31.5, -84.25])
"""RAS mm of the middle of every stack."""

RADIUS = 14.0
"""Of the body, mm; around it is air."""

_OBLIQUE = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
_PLANES = {"axial": np.eye(3)[[0, 1]], "coronal": np.array([[1, 0, 0], [0, 0, -1]]), "sagittal": -np.eye(3)[[1, 2]]}
ORIENTATIONS = {
    f"{plane} {'-+'[right > 0]}{'-+'[down > 0]}": np.stack([right * along_row, down * along_column])
    for plane, (along_row, along_column) in _PLANES.items()
    for right in (1, -1)
    for down in (1, -1)
} | {
    "transposed": np.eye(3)[[1, 0]],
    "oblique": _OBLIQUE[:, :2].T,
    "oblique coronal": _PLANES["coronal"] @ Rotation.from_euler("xyz", [-12, 25, 10], degrees=True).as_matrix(),
}
"""Directions of a row and of a column, LPS, by name."""

RESCALE = (1 / 32, -1024.0)
"""Slope and intercept by default: all of :func:`anatomy_at` in 16 bits, rounded to 1/64."""


def anatomy_at(points: np.ndarray) -> np.ndarray:
    """Soft tissue that is different everywhere, in HU, within a round body in air (-1000)."""
    away = np.sqrt(((points.T - CENTER) ** 2).sum(axis=-1)).T
    body = expit((RADIUS - away) / 1.5)
    return body * phantoms.known_value_at(points) - 1000 * (1 - body)


def even(count: int, spacing: float) -> tuple[float, ...]:
    """Offsets of evenly spaced slices around 0."""
    return tuple((np.arange(count) - (count - 1) / 2) * spacing)


@dataclass(frozen=True)
class Stack:
    """Where slices lie.

    Attributes:
        offsets: of the slices from :data:`CENTER` along their normal, mm.
        orientation: see :data:`ORIENTATIONS`.
        pixel_spacing: mm between rows, and between columns.
        tilt: degrees by which the line through the slices leans from their normal down the columns.
        shift: RAS mm by which all of it lies beside :data:`CENTER`.
    """

    offsets: tuple[float, ...] = field(default_factory=lambda: even(8, 4.0))
    orientation: str = "axial ++"
    rows: int = 22
    columns: int = 26
    pixel_spacing: tuple[float, float] = (1.5, 1.25)
    tilt: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def directions(self) -> np.ndarray:
        """(2, 3) along a row and along a column, LPS."""
        return ORIENTATIONS[self.orientation]

    @property
    def positions(self) -> np.ndarray:
        """(m, 3) centers of the first voxels, LPS mm."""
        right, down = self.directions
        middle = (CENTER + self.shift) * (-1, -1, 1)
        between_rows, between_columns = self.pixel_spacing
        corner = middle - right * between_columns * (self.columns - 1) / 2 - down * between_rows * (self.rows - 1) / 2
        along = np.cross(right, down) + np.tan(np.radians(self.tilt)) * down
        return corner + np.array(self.offsets)[:, None] * along

    def points(self) -> np.ndarray:
        """(3, slices, rows, columns) RAS mm of every voxel center."""
        right, down = self.directions
        across = np.arange(self.columns)[:, None] * self.pixel_spacing[1] * right
        below = np.arange(self.rows)[:, None, None] * self.pixel_spacing[0] * down
        points = self.positions[:, None, None] + below + across
        return np.moveaxis(points * (-1, -1, 1), -1, 0)

    def circle(self) -> np.ndarray:
        """(rows, columns) whether a pixel lies in the round field of view of a CT."""
        below, across = np.indices((self.rows, self.columns))
        y, x = below - (self.rows - 1) / 2, across - (self.columns - 1) / 2
        return (x * self.pixel_spacing[1]) ** 2 + (y * self.pixel_spacing[0]) ** 2 < (
            self.rows * self.pixel_spacing[0] / 2
        ) ** 2


def slices(
    stack: Stack | None = None,
    value: Callable[[np.ndarray], np.ndarray] = anatomy_at,
    *,
    series: int = 1,
    modality: str = "CT",
    rescale: tuple[float, float] | None = RESCALE,
    dtype: str = "uint16",
    **attributes: object,
) -> list[Dataset]:
    """``value`` of the world in classic CT or MR slices, in the order of the stack.

    Args:
        stack: where they lie; default an axial stack 4 mm apart.
        value: of (3, …) RAS mm, in HU or signal.
        series: SeriesNumber, which also decides SeriesInstanceUID.
        rescale: slope and intercept; None to store values as they are and leave the tags out.
        dtype: of the stored values.
        attributes: more of the header of every slice; None removes one.
    """
    stack = stack or Stack()
    slope, intercept = rescale or (1.0, 0.0)
    numbers = np.random.default_rng(series).permutation(len(stack.offsets)) + 1
    made = []
    for position, drawn, number in zip(stack.positions, value(stack.points()), numbers, strict=True):
        one = _header(stack, series, modality)
        one.InstanceNumber = int(number)
        one.ImagePositionPatient = decimals(position)
        if rescale:
            one.RescaleSlope, one.RescaleIntercept = decimals(rescale)
        store(one, np.rint((drawn - intercept) / slope), dtype=dtype)
        update(one, **attributes)
        made.append(one)
    return made


def store(dataset: Dataset, stored: np.ndarray, *, dtype: str | None = None) -> None:
    """Put stored values into a dataset, in the type it has unless another is given."""
    kind = np.dtype(dtype or stored_dtype(dataset))
    limits = np.iinfo(kind)
    assert limits.min <= stored.min() and stored.max() <= limits.max, "the phantom does not fit its type"
    dataset.BitsAllocated = dataset.BitsStored = 8 * kind.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(kind.kind == "i")
    dataset.PixelData = stored.astype(kind.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"


def stored_dtype(dataset: Dataset) -> np.dtype:
    """Of the stored values."""
    return np.dtype(f"{'iu'[dataset.PixelRepresentation == 0]}{dataset.BitsAllocated // 8}")


def stored_of(dataset: Dataset) -> np.ndarray:
    """(rows, columns) stored values of a classic slice, for a test to change and :func:`store` again."""
    flat = np.frombuffer(dataset.PixelData, stored_dtype(dataset).newbyteorder("<"))
    return flat.reshape(dataset.Rows, dataset.Columns).copy()


def update(dataset: Dataset, **attributes: object) -> None:
    """Set attributes of a dataset; None removes one."""
    for name, value in attributes.items():
        if value is not None:
            setattr(dataset, name, value)
        elif name in dataset:
            delattr(dataset, name)


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """Numbers as DICOM writes them, with at most 16 characters."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _header(stack: Stack, series: int, modality: str) -> Dataset:
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    one.SOPInstanceUID = generate_uid()
    one.StudyInstanceUID, one.FrameOfReferenceUID = uid_of("study"), uid_of("frame of reference")
    one.SeriesInstanceUID, one.SeriesNumber = uid_of(series), series
    one.Modality, one.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
    for name in ("PatientName", "PatientID", "PatientComments", "StudyDescription", "SeriesDescription"):
        setattr(one, name, CANARY)
    for name in ("ProtocolName", "InstitutionName", "ReferringPhysicianName", "OperatorsName", "ImageComments"):
        setattr(one, name, CANARY)
    for name in ("AccessionNumber", "StudyID", "StationName"):  # at most 16 characters
        setattr(one, name, CANARY[-16:])
    one.PatientBirthDate, one.StudyDate, one.StudyTime, one.PatientSex = "19010203", "20010203", "010203", "O"
    one.Rows, one.Columns, one.PixelSpacing = stack.rows, stack.columns, decimals(stack.pixel_spacing)
    one.ImageOrientationPatient = decimals(stack.directions.ravel())
    one.SliceThickness = 3.5
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    return one


def uid_of(what: object) -> UID:
    """The same UID for the same thing, such as a series number."""
    return generate_uid(entropy_srcs=["monai-sr phantom", str(what)])


def enhanced(*groups: Sequence[Dataset], dimension: str = "StackID", shared: Sequence[str] = ()) -> Dataset:
    """One enhanced CT or MR file of many frames.

    Args:
        groups: classic slices; frames of one group have the same number of ``dimension``.
        dimension: ``"StackID"`` or ``"TemporalPositionIndex"``: what distinguishes groups.
        shared: functional groups of the first slice that hold for all, such as
            ``"PlaneOrientationSequence"``; the rest is repeated for each frame.
    """
    first = groups[0][0]
    one = copy.deepcopy(first)
    one.SOPClassUID = EnhancedCTImageStorage if first.Modality == "CT" else EnhancedMRImageStorage
    one.PixelData = b"".join(frame.PixelData for group in groups for frame in group)
    one["PixelData"].VR = "OW"
    one.NumberOfFrames = sum(map(len, groups))
    per_frame = []
    for count, group in enumerate(groups, start=1):
        for number, frame in enumerate(group, start=1):
            content = Dataset()
            content.StackID, content.InStackPositionNumber, content.TemporalPositionIndex = "1", number, 1
            setattr(content, dimension, str(count) if dimension == "StackID" else count)
            per_frame.append(_functional_groups(frame))
            per_frame[-1].FrameContentSequence = Items([content])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        update(one, **{name: None})
    update(one, RescaleSlope=None, RescaleIntercept=None)
    of_all = Dataset()
    for name in shared:
        setattr(of_all, name, per_frame[0][name].value)
        for groups_of_frame in per_frame:
            delattr(groups_of_frame, name)
    one.SharedFunctionalGroupsSequence = Items([of_all])
    # the order of frames in a file means nothing
    order = np.random.default_rng(0).permutation(len(per_frame))
    one.PerFrameFunctionalGroupsSequence = Items([per_frame[i] for i in order])
    size = len(first.PixelData)
    one.PixelData = b"".join(one.PixelData[i * size : (i + 1) * size] for i in order)
    return one


def _functional_groups(frame: Dataset) -> Dataset:
    of = Dataset()
    for sequence, names in (
        ("PlanePositionSequence", ["ImagePositionPatient"]),
        ("PlaneOrientationSequence", ["ImageOrientationPatient"]),
        ("PixelMeasuresSequence", ["PixelSpacing", "SliceThickness"]),
        ("PixelValueTransformationSequence", ["RescaleSlope", "RescaleIntercept"]),
    ):
        item = Dataset()
        update(item, **{name: frame.get(name) for name in names})
        setattr(of, sequence, Items([item]))
    return of


def write(
    folder: Path, datasets: Sequence[Dataset] | Dataset, *, syntax: UID = ExplicitVRLittleEndian, suffix: str = ".dcm"
) -> list[Path]:
    """Save datasets under shuffled names; the paths are in the order of the datasets."""
    datasets = [datasets] if isinstance(datasets, Dataset) else datasets
    folder.mkdir(parents=True, exist_ok=True)
    before = len(list(folder.iterdir()))
    names = np.random.default_rng(before).permutation(len(datasets)) + before + 1
    return [
        save(dataset, folder / f"IM{name:04d}{suffix}", syntax=syntax)
        for dataset, name in zip(datasets, names, strict=True)
    ]


def save(dataset: Dataset, path: Path, *, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Write one file, compressed or with its bytes swapped as the transfer syntax wants; returns its path."""
    changes = syntax.is_encapsulated or syntax == ExplicitVRBigEndian
    one = copy.deepcopy(dataset) if changes else copy.copy(dataset)
    one.file_meta = FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID or CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    one.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        stored = np.frombuffer(one.PixelData, stored_dtype(one).newbyteorder("<"))
        one.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    one.save_as(path, enforce_file_format=True)
    return path


@dataclass(frozen=True)
class Volume:
    """What was read of a series, and the codes of the warnings on the way."""

    voxels: np.ndarray
    affine: np.ndarray
    meta: dict
    warnings: list[str]

    @property
    def points(self) -> np.ndarray:
        """(3, X, Y, Z) RAS mm of every voxel, by the affine and the slice positions."""
        index = [np.arange(count, dtype=float) for count in self.voxels.shape]
        if "slice_positions" in self.meta:
            step = np.linalg.norm(self.affine[:3, 2])
            index[2] = self.meta["slice_positions"] / step + (self.voxels.shape[2] - 1) / 2
        points = np.einsum("ij,jxyz->ixyz", self.affine[:3, :3], np.stack(np.meshgrid(*index, indexing="ij")))
        return points + self.affine[:3, 3, None, None, None]

    def error(self, value: Callable[[np.ndarray], np.ndarray] = anatomy_at) -> np.ndarray:
        """(X, Y, Z) how far each voxel is from the reference at its place."""
        return np.abs(self.voxels - value(self.points))


def read(source: Path, *, merge_by_geometry: bool = False, **options: object) -> Volume:
    """Find and read the one series there is; messages on the way must say nothing of a patient."""
    found = find_series(source, merge_by_geometry=merge_by_geometry)
    for _, error in found.broken:
        raise error
    (series,) = found.series
    return read_one(series, **options)


def read_one(series: object, **options: object) -> Volume:
    """Read a series, as :func:`read` does."""
    with collect_notices() as caught:
        voxels, affine, meta = read_series(series, **options)
    assert tells_nothing(caught, [notice.to_dict() for notice in caught], meta)
    return Volume(voxels, affine, meta, [notice.code for notice in caught])


def tells_nothing(*said: object) -> bool:
    """Whether nothing of :data:`CANARY` and no date is in what was said."""
    return not any(part in repr(one) + str(one) for one in said for part in ("CANARY", "etc/", "19010203", "20010203"))
