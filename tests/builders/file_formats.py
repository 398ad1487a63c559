"""One small volume in every format that is read, as other programs write it."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.freesurfer.mghformat import MGHImage

SHAPE, SPACING, ORIGIN = (8, 7, 6), (1.0, 1.5, 4.0), (-5.0, 6.5, -7.25)

AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = ORIGIN


def voxels(shape=SHAPE, dtype="int16", seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)


META = {
    **{"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False"},
    **{"CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "5 -6.5 -7.25"},
    **{"ElementSpacing": "-1 -1.5 4", "DimSize": "8 7 6", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL"},
}

NRRD = {
    **{"type": "short", "dimension": "3", "space": "right-anterior-superior", "sizes": "8 7 6"},
    **{"space directions": "(1,0,0) (0,1.5,0) (0,0,4)", "kinds": "domain domain domain", "endian": "little"},
    **{"encoding": "raw", "space origin": "(-5,6.5,-7.25)"},
}


def stored(data: np.ndarray | None = None) -> bytes:
    """Voxels as formats without a header in binary hold them."""
    data = voxels() if data is None else data
    return data.astype(data.dtype.newbyteorder("<")).tobytes(order="F")


def meta_image(path: Path, content: bytes | None = None, **fields: str | None) -> Path:
    """A MetaImage with fields changed, or left out where None; ``content`` is what follows the header."""
    fields = META | fields
    place = fields.pop("ElementDataFile")
    text = "".join(f"{name} = {value}\n" for name, value in [*fields.items(), ("ElementDataFile", place)] if value)
    local = place == "LOCAL"
    content = stored() if content is None else content
    path.write_bytes(text.encode() + (content if local else b""))
    if not local:
        (path.parent / str(place)).write_bytes(content)
    return path


def nrrd(path: Path, content: bytes | None = None, **fields: str | None) -> Path:
    """A NRRD with fields changed, whose names have ``_`` for blanks."""
    fields = NRRD | {name.replace("_", " "): value for name, value in fields.items()}
    text = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    content = stored() if content is None else content
    if "data file" in fields:
        (path.parent / str(fields["data file"])).write_bytes(content)
        content = b""
    path.write_bytes(f"{text}\n".encode() + content)
    return path


def gipl(path: Path, data: np.ndarray | None = None) -> Path:
    data = voxels() if data is None else data
    header = struct.pack(">4HH4f80s20f2B2d4d4fI", *data.shape, 1, 15, *SPACING, 1, b"", *[0.0] * 20, 0, 0, 1, 99,
                         *(-ORIGIN[0], -ORIGIN[1], ORIGIN[2], 0.0), *[0.0] * 4, 719555000)  # fmt: skip
    content = header + data.astype(">i2").tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def saved(path: Path, kind: type) -> Path:
    """By nibabel."""
    data = voxels()
    nib.save(kind(data.astype("i4") if kind is MGHImage else data, AFFINE), path)
    return path


def by_itk(path: Path) -> Path:
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels().T))
    image.SetSpacing(SPACING)
    image.SetOrigin((-ORIGIN[0], -ORIGIN[1], ORIGIN[2]))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


PACKED, COMPRESSED = zlib.compress(stored()), gzip.compress(stored())

FORMATS: dict[str, Callable[[Path], Path]] = {
    "NIfTI-1": lambda folder: saved(folder / "a.nii", nib.Nifti1Image),
    "NIfTI-1 gzip": lambda folder: saved(folder / "a.nii.gz", nib.Nifti1Image),
    "NIfTI-2": lambda folder: saved(folder / "a.nii", nib.Nifti2Image),
    "NIfTI-2 gzip": lambda folder: saved(folder / "a.nii.gz", nib.Nifti2Image),
    "NIfTI-1 pair": lambda folder: saved(folder / "a.img", nib.Nifti1Pair),
    "NIfTI-1 pair gzip": lambda folder: saved(folder / "a.img.gz", nib.Nifti1Pair),
    "NIfTI-2 pair": lambda folder: saved(folder / "a.img", nib.Nifti2Pair),
    "Analyze": lambda folder: saved(folder / "a.img", nib.AnalyzeImage),
    "Analyze gzip": lambda folder: saved(folder / "a.img.gz", nib.Spm2AnalyzeImage),
    "MGH": lambda folder: saved(folder / "a.mgh", MGHImage),
    "MGZ": lambda folder: saved(folder / "a.mgz", MGHImage),
    "GIPL": lambda folder: gipl(folder / "a.gipl"),
    "GIPL gzip": lambda folder: gipl(folder / "a.gipl.gz"),
    "MetaImage": lambda folder: meta_image(folder / "a.mha"),
    "MetaImage zlib": lambda folder: meta_image(
        folder / "a.mha", PACKED, CompressedData="True", CompressedDataSize=str(len(PACKED))
    ),
    "MetaImage zlib without a size": lambda folder: meta_image(folder / "a.mha", PACKED, CompressedData="True"),
    "MetaImage by ITK": lambda folder: by_itk(folder / "a.mha"),
    "MetaImage text": lambda folder: meta_image(
        folder / "a.mha", " ".join(map(str, voxels().ravel(order="F"))).encode(), BinaryData="False"
    ),
    "MetaImage raw file": lambda folder: meta_image(folder / "a.mhd", ElementDataFile="a.raw"),
    "MetaImage zraw file": lambda folder: meta_image(
        folder / "a.mhd", PACKED, CompressedData="True", ElementDataFile="a.zraw"
    ),
    "NRRD": lambda folder: nrrd(folder / "a.nrrd"),
    "NRRD gzip": lambda folder: nrrd(folder / "a.nrrd", COMPRESSED, encoding="gzip"),
    "NRRD by ITK": lambda folder: by_itk(folder / "a.nrrd"),
    "NRRD text": lambda folder: nrrd(
        folder / "a.nrrd", "\n".join(map(str, voxels().ravel(order="F"))).encode(), encoding="ascii"
    ),
    "NRRD hex": lambda folder: nrrd(folder / "a.nrrd", stored().hex().encode(), encoding="hex"),
    "NRRD raw file": lambda folder: nrrd(folder / "a.nhdr", data_file="a.raw"),
    "NRRD gzip file": lambda folder: nrrd(folder / "a.nhdr", COMPRESSED, encoding="gz", data_file="a.raw.gz"),
}
"""By name what writes :func:`voxels` on :data:`AFFINE` into a folder; the path that a user gives."""


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels of what :data:`FORMATS` wrote."""
    others = [other for other in path.parent.iterdir() if other.suffix in (".raw", ".zraw")]
    return next(iter([*others, *path.parent.glob("a.raw.gz"), path]))


def is_packed(name: str) -> bool:
    """Whether the voxels of a format carry a checksum."""
    return any(word in name for word in ("gzip", "zlib", "MGZ", "ITK", "zraw"))
