"""Files that SimpleITK reads and writes for us: NRRD, MetaImage and others.

What it would pass over is looked at first: flipped bits in the compressed voxels of a MetaImage or
NRRD, and an origin of NaN, which it takes as 0 (SimpleITK 2.5.7; ``tests/test_faults.py`` shows both).
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, write_error
from ..files import temporary_beside
from ..grid import Grid
from .nifti import check_dtype

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""SimpleITK and DICOM count towards left and posterior, NIfTI and we towards right and anterior."""

LONGEST_HEADER = 2**16
"""Headers are looked for in so many bytes."""

_GEOMETRY = rb"(?m)^(?:Offset|Position|Origin|TransformMatrix|Rotation|Orientation|ElementSpacing|ElementSize)\s*=(.*)$"
_LOCAL = re.compile(rb"(?m)^ElementDataFile\s*=\s*LOCAL\s*?\n")


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, RAS+ affine and ``stored_dtype`` of a file that SimpleITK reads.

    Raises:
        ImageError: it cannot be read, its compressed data are damaged, its geometry is no number, or
            voxels are no real numbers.
    """
    import SimpleITK as sitk

    with open(path, "rb") as file:
        start = file.read(LONGEST_HEADER)
    if start[:10].lower() == b"objecttype":
        _check_meta_image(start, path)
    elif start[:4] == b"NRRD":
        _check_nrrd(start, path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr past Python
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError("E-IO-READ", f"cannot be read ({reason})", fix="check or convert the file") from error
    return from_itk(image)


def from_itk(image: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels float32, RAS+ affine and ``stored_dtype`` of a SimpleITK image.

    Raises:
        ImageError: voxels are no real numbers.
    """
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError("E-IMG-DTYPE", "voxels are colors or vectors", fix="give a scalar (gray) image")
    voxels = sitk.GetArrayFromImage(image).T
    check_dtype(voxels.dtype)
    axes = image.GetDimension()
    if axes < 3:
        return voxels, np.eye(4), {}  # refused for its dimensions
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    stored = voxels.dtype.name if voxels.dtype.itemsize <= 4 else "float32"
    return voxels.astype(np.float32), LPS_TO_RAS @ affine, {"stored_dtype": stored}


def _check_meta_image(start: bytes, path: Path) -> None:
    """Geometry that is no number, and the checksum of compressed voxels behind the header."""
    for values in re.findall(_GEOMETRY, start.partition(b"ElementDataFile")[0]):
        try:
            sound = all(np.isfinite(float(word)) for word in values.split())
        except ValueError:
            sound = False
        if not sound:
            text = values.decode("ascii", "replace").strip()
            raise ImageError(
                "E-HDR-AFFINE", f"the geometry holds {text!r}, numbers are needed", fix="repair the header"
            )
    end = _LOCAL.search(start)
    if end and re.search(rb"(?m)^CompressedData\s*=\s*True", start[: end.start()]):
        _check_stream(path, end.end(), wbits=47)


def _check_nrrd(start: bytes, path: Path) -> None:
    """The checksum of compressed voxels behind the header."""
    end = re.search(rb"\r?\n\r?\n", start)
    if end is None:
        return
    header = start[: end.start()]
    if re.search(rb"(?mi)^encoding:\s*gz", header) and not re.search(rb"(?mi)^data ?file:", header):
        _check_stream(path, end.end(), wbits=31)


def _check_stream(path: Path, offset: int, *, wbits: int) -> None:
    """Unpack the rest of a file to verify its checksum, keeping nothing; ``wbits`` as zlib takes it."""
    stream = zlib.decompressobj(wbits=wbits)
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            while not stream.eof and (block := file.read(2**20)):
                stream.decompress(block)
    except zlib.error as error:
        raise ImageError(
            "E-IO-CRC", f"the compressed data are damaged ({error})", fix="copy or download the file again"
        ) from error
    if not stream.eof:
        raise ImageError("E-IO-TRUNC", "the compressed data end early", fix="copy or download the file again")


def to_itk(voxels: np.ndarray, grid: Grid) -> Any:
    """A volume (X, Y, Z) as a SimpleITK image."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    affine = LPS_TO_RAS @ grid.affine
    image.SetSpacing(grid.spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(grid.spacing)).ravel().tolist())
    return image


def write_itk(voxels: np.ndarray, grid: Grid, path: Path) -> None:
    """Write a volume (X, Y, Z) through a temporary file."""
    import SimpleITK as sitk

    image = to_itk(voxels, grid)
    folder = temporary_beside(path)  # SimpleITK goes by the suffix, so the name must keep it
    whole = folder / f"whole{path.suffix}"
    try:
        folder.mkdir()
        sitk.WriteImage(image, str(whole), useCompression=True)
        with open(whole, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(whole, path)
    except (RuntimeError, OSError) as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
