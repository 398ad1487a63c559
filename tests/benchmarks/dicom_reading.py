"""How long a DICOM series takes to read, beside pydicom's own reading of the same files.

    python tests/benchmarks/dicom_reading.py [--slices 500] [--compressed] [--folder SERIES]

Without a folder, a CT series of that many 512 x 512 slices is made, in JPEG 2000 on demand. Every way
is timed in turn, five times; the table shows the best of each and their ratio. "pydicom" is dcmread and
pixel_array of every file, in whatever order, without geometry, rescale or checks; "pydicom, float" also
puts them rescaled into one float32 volume, which is what we return.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from monai_sr.dicom import find_series, read_series


def make_series(folder: Path, slices: int, size: int = 512, *, compressed: bool = False) -> None:
    """A CT series of noise, one slice each 1.25 mm."""
    rng = np.random.default_rng(0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = pydicom.Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.SeriesNumber, one.InstanceNumber = "CT", 1, index + 1
        one.Rows = one.Columns = size
        one.PixelSpacing, one.SliceThickness = [0.7, 0.7], 1.25
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-179, -179, 1.25 * index]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelData = rng.integers(0, 4096, (size, size), dtype=np.uint16).tobytes()
        if compressed:
            one.compress(JPEG2000Lossless, generate_instance_uid=False)
        one.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)


def by_pydicom(folder: Path) -> None:
    """Decode every file."""
    for file in sorted(folder.iterdir()):
        _ = pydicom.dcmread(file).pixel_array


def by_pydicom_float(folder: Path) -> None:
    """Decode every file into one volume of HU."""
    files = sorted(folder.iterdir())
    first = pydicom.dcmread(files[0])
    volume = np.empty((len(files), first.Rows, first.Columns), dtype=np.float32)
    for index, file in enumerate(files):
        one = pydicom.dcmread(file)
        volume[index] = one.pixel_array.astype(np.float32) * np.float32(one.RescaleSlope) + np.float32(
            one.RescaleIntercept
        )


def by_monai_sr(folder: Path) -> None:
    """Find, check and read the series."""
    read_series(find_series(folder).only())


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--compressed", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            make_series(folder, options.slices, compressed=options.compressed)
        ways = {"pydicom": by_pydicom, "pydicom, float": by_pydicom_float, "monai-sr": by_monai_sr}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(5):
            for name, read in ways.items():
                start = time.process_time()
                read(folder)
                seconds[name].append(time.process_time() - start)
        files = sum(1 for _ in folder.iterdir())
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{files} files{'seconds of CPU':>20}{'monai-sr takes':>18}")
    for name, value in best.items():
        print(f"{name:16}{value:9.2f}{best['monai-sr'] / value:18.2f} times as long")


if __name__ == "__main__":
    main()
