"""DICOM segmentations (SEG) as masks of their series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError, Later
from ..grid import ArrayImage
from .attributes import groups_of, in_group
from .dataset import UNDEFINED_LENGTH, pixel_element
from .pixels import read_stored
from .planes import MaskObject, Planes
from .structures import read_structures

if TYPE_CHECKING:
    import torch
    from monai import data
    from monai.data import MetaTensor
else:
    data, torch = Later("monai.data"), Later("torch")

_LABELMAP = "LABELMAP"


def read_mask_labels(mask: MaskObject, image: torch.Tensor | ArrayImage) -> MetaTensor:
    """A segmentation or structure set as labels on the grid of its image.

    Raises:
        ImageError: as of :func:`read_segmentation`, :func:`monai_sr.dicom.structures.read_structures`; regions of a
            structure set overlap (E-SEG-OVERLAP).
    """
    return read_segmentation(mask, image) if mask.modality == "SEG" else read_structures(mask, image).labels()


def read_segmentation(seg: MaskObject, image: torch.Tensor | ArrayImage) -> MetaTensor:
    """A segmentation on the grid of its image. Slices without a frame hold no segment.

    Args:
        seg: the object.
        image: (C, X, Y, Z) that it is about.

    Returns:
        (1, X, Y, Z) with the number of the segment of each voxel, 0 without one; of a fractional segmentation of one
        segment the fraction of each voxel, 0 to 1. ``segments`` in the metadata holds
        the items of SegmentSequence by their numbers.

    Raises:
        ImageError: it is about another series (E-SEG-SERIES) or lies on other slices (E-MASK-GRID); segments overlap
            (E-SEG-OVERLAP); it is fractional and has several (E-SEG-FRACTIONAL); frames are missing, or do not say
            where they lie or what they show (E-SEG-FRAMES); the pixels cannot be decoded.
    """
    seg.check_series(image)
    dataset = seg.dataset
    try:
        items = {int(item.SegmentNumber): item for item in dataset.get("SegmentSequence") or ()}
        frames = [_Frame.of(dataset, number) for number in range(_count(dataset))]
        kind = str(dataset.get("SegmentationType") or "BINARY")
        highest = float(dataset.get("MaximumFractionalValue") or 1)
    except ImageError:
        raise
    except Exception as error:  # pydicom parses a value at its first use, and raises many types
        raise ImageError("E-SEG-FRAMES", "a frame does not say where it lies or what it shows") from error
    if kind == "FRACTIONAL" and len(items) > 1:
        raise ImageError("E-SEG-FRACTIONAL", f"it is fractional and has {len(items)} segments")
    unknown = {frame.segment for frame in frames} - set(items) if kind != _LABELMAP else set()
    if unknown:
        raise ImageError("E-SEG-FRAMES", f"frames show segments {sorted(unknown)}, which are not described")
    stored, planes = read_stored(dataset, seg.path), Planes(image)
    voxels = np.zeros(planes.grid.shape, np.float32)
    overlaps = 0
    for frame, values in zip(frames, stored, strict=True):
        view, plane = planes.put(values, voxels, position=frame.position, steps=frame.steps)
        if kind == "FRACTIONAL":
            view[...] = plane / highest
            continue
        labels = plane if kind == _LABELMAP else np.where(plane > 0, frame.segment, 0)
        there = labels > 0
        overlaps += int((there & (view > 0) & (view != labels)).sum())
        view[there] = labels[there]
    if overlaps:
        raise ImageError("E-SEG-OVERLAP", f"its segments overlap in {overlaps} voxels")
    dtype = "float32" if kind == "FRACTIONAL" else "uint8" if max(items, default=0) < 256 else "uint16"
    meta = {"stored_dtype": dtype, "filename_or_obj": str(seg.path), "segments": items}
    return data.MetaTensor(torch.from_numpy(voxels)[None], affine=torch.as_tensor(planes.grid.affine), meta=meta)


@dataclass(frozen=True)
class _Frame:
    segment: int
    position: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(cls, dataset: Any, number: int) -> _Frame:
        groups = groups_of(dataset, number)
        position = in_group(groups, "PlanePositionSequence", "ImagePositionPatient")
        directions = np.array(in_group(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), dtype=float)
        between_rows, between_columns = map(float, in_group(groups, "PixelMeasuresSequence", "PixelSpacing"))
        segment = in_group(groups, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        steps = directions.reshape(2, 3) * [[between_columns], [between_rows]]
        if segment is None and dataset.get("SegmentationType") == _LABELMAP:
            segment = 0
        return cls(int(segment), np.array(position, dtype=float).reshape(3), steps)


def _count(dataset: Any) -> int:
    """Number of frames.

    Raises:
        ImageError: there are more of them than descriptions or pixels.
    """
    count, described = int(dataset.NumberOfFrames), len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if count != described:
        raise ImageError("E-SEG-FRAMES", f"it has {count} frames and describes {described}")
    length = getattr(pixel_element(dataset), "length", None)
    bits = int(dataset.BitsAllocated) * int(dataset.Rows) * int(dataset.Columns) * count
    if length is None or (length != UNDEFINED_LENGTH and length < (bits + 7) // 8):
        problem = f"its {count} frames need {(bits + 7) // 8} bytes of pixels, {length or 0} are there"
        raise ImageError("E-SEG-FRAMES", problem)
    return count
