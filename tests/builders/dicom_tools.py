"""DICOM for tests: series from clean files, tiny series made here, and the independent tools that judge ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
from monai.data import MetaTensor
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from monai_sr.dicom import find_series, read_series
from monai_sr.dicom.series import Frame, Series
from monai_sr.errors import collect_notices

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load(folder: Path) -> Series:
    """The one clean series of a folder, its frames in order along their normal."""
    (series,) = find_series(folder).series
    return series


def upsampled(series: Series, factor: int = 2, *, crop: int | None = None) -> MetaTensor:
    """The slices of a series, each repeated: enough of a result to be written."""
    with collect_notices():
        slices, affine, _ = read_series(series, fill_gaps=True)
    affine[:3, 2] /= factor
    affine[:3, 3] -= affine[:3, 2] * (factor - 1) / 2
    return MetaTensor(np.repeat(slices, factor, axis=-1)[None, :crop, :crop], affine=affine)


def header(modality: str = "CT", **attributes: object) -> pydicom.Dataset:
    """The header of one slice as a scanner would write it; ``attributes`` replace its own, None removes."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = (
        CTImageStorage if modality == "CT" else MRImageStorage
    )
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M", "NORM"]
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20200102", "030405", "A1", "1"
    dataset.Modality, dataset.Manufacturer = modality, "Acme"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = (
        "Doe^Jane",
        "p1",
        "19700101",
        "F",
    )
    dataset.ReferringPhysicianName = "House^Gregory"
    dataset.BodyPartExamined, dataset.PatientPosition = "CHEST", "HFS"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.PositionReferenceIndicator = 4, 1, ""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    if modality == "CT":
        dataset.KVP, dataset.RescaleSlope, dataset.RescaleIntercept = 120, 1, -1024
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = "2D", 1500, 93, 1
    for name, value in attributes.items():
        if value is None:
            dataset.pop(name, None)
        else:
            setattr(dataset, name, value)
    return dataset


def acquired(
    modality: str = "CT",
    *,
    slices: int = 4,
    directions: np.ndarray | None = None,
    slice_spacing: float = 4.0,
    slice_thickness: float | None = 5.0,
    folder: Path | None = None,
    **attributes: object,
) -> Series:
    """A tiny series: 6 rows of 0.9 mm, 5 columns of 0.8 mm; written to a new ``folder`` if one is given.

    Args:
        directions: (3, 3) rows: along a row, along a column, along the slices, LPS.
        attributes: for :func:`header`; a tuple holds one value for each slice.
    """
    if folder:
        folder.mkdir()
    row, column, along = np.eye(3) if directions is None else directions
    frames = []
    for index in range(slices):
        own = {name: value[index] if isinstance(value, tuple) else value for name, value in attributes.items()}
        dataset = header(modality, **({"SOPInstanceUID": f"1.2.3.4.{index + 1}", "InstanceNumber": index + 1} | own))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
        position = np.array([-31.0, 17.5, 8.25]) + along * slice_spacing * index
        dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.9g}" for value in (*row, *column)]
        dataset.PixelSpacing, dataset.Rows, dataset.Columns = [0.9, 0.8], 6, 5
        dataset.SliceThickness = slice_thickness
        file = Path(folder or ".", f"{index + 1}.dcm")
        if folder:
            dataset.PixelData = (np.arange(30, dtype="<u2") + 1000 + index).tobytes()
            pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        orientation = np.concatenate([row, column])
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        frames.append(Frame(file, 0, dataset, position, orientation, (0.9, 0.8), slice_thickness, slope, intercept))
    normal = frames[0].normal
    frames.sort(key=lambda frame: float(frame.position @ normal))
    return Series("1.2.3.4", modality, tuple(frames), 4)


def enhanced(modality: str = "MR", *, slices: int = 4, shared: dict | None = None, **attributes: object) -> Series:
    """The header of a multi-frame file as :func:`acquired` slices; ``shared`` are groups of all frames, by name."""
    dataset = header(modality, **attributes)
    dataset.SOPInstanceUID, dataset.NumberOfFrames = "1.2.3.4.1", slices
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1" if modality == "MR" else "1.2.840.10008.5.1.4.1.1.2.1"
    for name in (
        "RescaleSlope",
        "RescaleIntercept",
        "WindowCenter",
        "WindowWidth",
        "EchoTime",
        "RepetitionTime",
        "KVP",
    ):
        dataset.pop(name, None)
    group = pydicom.Dataset()
    for name, content in (shared or {}).items():
        item = pydicom.Dataset()
        for keyword, value in content.items():
            setattr(item, keyword, value)
        setattr(group, name, [item])
    dataset.SharedFunctionalGroupsSequence = [group]
    dataset.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(slices)]
    frames = [
        Frame(Path("1.dcm"), index, dataset, np.array([0, 0, 4.0 * index]), np.eye(3)[:2].ravel(), (0.9, 0.8), 5.0)
        for index in range(slices)
    ]
    return Series("1.2.3.4", modality, tuple(frames), 4)


def volume(series: Series, factor: int = 2, *, value=None) -> MetaTensor:
    """A result on the finer grid of a tiny series: ``value`` of RAS points, or a ramp."""
    first = series.frames[0]
    lps = np.eye(4)
    step = np.diff(series.offsets)[0] / factor if len(series.frames) > 1 else 2.0
    lps[:3, :3] = np.stack([first.orientation[:3] * 0.8, first.orientation[3:] * 0.9, first.normal * step], axis=-1)
    lps[:3, 3] = first.position
    shape = (5, 6, len(series.frames) * factor)
    affine = LPS_FROM_RAS @ lps
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    points = np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3, None, None, None]
    voxels = value(points) if value else index.sum(axis=0) * 7.0
    return MetaTensor(np.asarray(voxels, dtype=np.float32)[None], affine=affine)


def read(folder: Path) -> list[pydicom.Dataset]:
    """Every file of a written series, in the order of their names."""
    return [pydicom.dcmread(file) for file in sorted(folder.iterdir())]


def values(instances: list[pydicom.Dataset]) -> np.ndarray:
    """(X, Y, Z) what a reader gets: stored values after rescale."""
    slices = [
        i.pixel_array.T * float(i.get("RescaleSlope", 1)) + float(i.get("RescaleIntercept", 0)) for i in instances
    ]
    return np.stack(slices, axis=-1)


def affine(instances: list[pydicom.Dataset]) -> np.ndarray:
    """The RAS affine of the headers, by the formula of PS3.3, C.7.6.2.1.1."""
    first, last = instances[0], instances[-1]
    lps = np.eye(4)
    orientation = np.array(first.ImageOrientationPatient, dtype=float)
    lps[:3, 0] = orientation[:3] * float(first.PixelSpacing[1])
    lps[:3, 1] = orientation[3:] * float(first.PixelSpacing[0])
    ends = np.array(first.ImagePositionPatient, dtype=float), np.array(last.ImagePositionPatient, dtype=float)
    lps[:3, 2] = (ends[1] - ends[0]) / (len(instances) - 1)
    lps[:3, 3] = ends[0]
    return LPS_FROM_RAS @ lps


def complaints(*command: str | Path) -> set[str]:
    """The lines that a dicom3tools program writes."""
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    return set((ran.stdout + ran.stderr).splitlines())
