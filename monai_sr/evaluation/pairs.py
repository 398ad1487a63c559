"""A real pair: a thick series and a thin one of the same scan, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import SpatialCrop

from ..acquired import Acquired, protocol_in
from ..dicom import Series, find_series, is_dicom_source
from ..dicom.attributes import attribute_of, grouped_values
from ..errors import ImageError, UsageError, naming, warn
from ..grid import Grid, grid_of
from ..io.images import read_dicom, read_image
from ..io.volumes import find_volumes
from ..profiles import Protocol
from .conditions import middle
from .registration import register_rigidly

APART = 10.0
"""Seconds between two acquisitions that are not of one scan."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A thick and a thin series in one world.

    Attributes:
        name: of the thick one.
        thick, thin: (1, X, Y, Z) with affine.
        acquired: the thick one as acquired, with its thickness and profile by header.
        step: distance of the thin voxels across the thick slices, mm.
        moved: mm and degrees of the registration; None without one.
        kernels: of thick and thin, as the headers give them; empty where they do not.
        protocol: of the thick one.
        nominal: slice thickness in the header of the thick one, mm; None where there is none.
    """

    name: str
    thick: MetaTensor
    thin: MetaTensor
    acquired: Acquired
    step: float
    moved: tuple[float, float] | None
    kernels: tuple[str, str]
    protocol: Protocol
    nominal: float | None

    @property
    def factor(self) -> float:
        """Thin slices for each thick one."""
        return self.acquired.slice_spacing / self.step


def read_pair(
    thick: str | Path,
    thin: str | Path,
    *,
    slice_thickness: float | None = None,
    crop: int | None = None,
    register: bool = False,
) -> Pair:
    """Read a thick and a thin series of one scan, and check that they are a pair.

    Args:
        thick, thin: files, or folders that hold one volume or DICOM series.
        slice_thickness: of the thick series, mm, where its file does not give it or is wrong.
        crop: use at most this many voxels of the thick slices a side, from the middle.
        register: align the thin series rigidly to the thick one.

    Raises:
        ImageError: one cannot be read (its own code), the patients differ (E-PAIR-PATIENT), the frames of reference
            differ and ``register`` is not set (E-PAIR-FRAME), the volumes do not overlap (E-PAIR-OVERLAP), or the
            thin slices are not thinner (E-PAIR-THIN).
    """
    (one, first), (two, second) = _read(thick), _read(thin)
    stated, moved = [protocol_in(image.meta) for image in (one, two)], None
    with naming(thick):
        if first is not None and second is not None:
            _check_headers(first, second, register=register)
        acquired = Acquired.of(one, slice_thickness=slice_thickness)
        _check_overlap(acquired, two, is_registered=register)
        if register:
            two, moved = register_rigidly(one, two)
            _check_overlap(acquired, two, is_registered=False)
        if crop:
            one = middle(one, [-1 if axis == acquired.axis else crop for axis in range(3)])
            axis, modality = acquired.axis, acquired.modality
            acquired = Acquired.of(one, slice_thickness=slice_thickness, axis=axis, modality=modality)
        two = _within(two, grid_of(one))
    step = _step_across(grid_of(two), acquired)
    (protocol, nominal), kernels = stated[0], (stated[0][0].kernel, stated[1][0].kernel)
    return Pair(Path(thick).name, one, two, acquired, step, moved, kernels, protocol, nominal)


def _read(source: str | Path) -> tuple[MetaTensor, Series | None]:
    """The one volume of a file or folder, and its DICOM series if it is one."""
    volumes = find_volumes(source)
    if len(volumes) > 1:
        problem = f"{len(volumes)} volumes are in this folder"
        raise UsageError("E-USE", problem, fix="give --pair one volume each", path=source)
    path = volumes[0]
    if not path.is_dir() and not is_dicom_source(path):
        return read_image(path), None
    with naming(path):
        series = find_series(path).only()
        return read_dicom(series, path=path).to_tensor(), series


def _check_headers(thick: Series, thin: Series, *, register: bool) -> None:
    """Check that headers agree that two series are of one patient, frame of reference and time."""
    heads = [series.frames[0].header for series in (thick, thin)]
    for name in ("PatientID", "PatientBirthDate"):
        values = [str(head.get(name) or "") for head in heads]
        if all(values) and values[0] != values[1]:
            problem = f"{name} of the thick and of the thin series differ"
            raise ImageError("E-PAIR-PATIENT", problem)
    frames = [str(head.get("FrameOfReferenceUID") or "") for head in heads]
    if all(frames) and frames[0] != frames[1] and not register:
        raise ImageError("E-PAIR-FRAME", "the series have different frames of reference")
    first, second = (_times(series) for series in (thick, thin))
    gap = max(second[0] - first[-1], first[0] - second[-1]) if first and second else 0.0
    if gap > APART:
        text = "the series were acquired {seconds:.0f} s apart; contrast and motion may differ"
        warn("W-PAIR-PHASE", text, facts={"seconds": gap})


def _times(series: Series) -> list[float]:
    """When the frames were acquired, seconds, in order."""
    moments = [attribute_of(frame, grouped_values(frame), "clock") for frame in series.frames]
    return sorted(moment for moment in moments if isinstance(moment, float))


def normal_of(acquired: Acquired) -> np.ndarray:
    """(3,) unit vector across the thick slices, in the direction of their axis."""
    columns = acquired.grid.affine[:3, :3]
    first, second = (columns[:, a] for a in range(3) if a != acquired.axis)
    normal = np.cross(first, second)
    return normal / np.linalg.norm(normal) * np.sign(normal @ columns[:, acquired.axis])


def _step_across(thin: Grid, acquired: Acquired) -> float:
    """Distance of the thin voxels across the thick slices, mm."""
    return float(1 / np.abs(np.linalg.inv(thin.affine[:3, :3]) @ normal_of(acquired)).max())


def _check_overlap(acquired: Acquired, thin: MetaTensor, *, is_registered: bool) -> None:
    """Refuse slices that are not thinner, and volumes that do not overlap.

    Raises:
        ImageError: E-PAIR-THIN, E-PAIR-OVERLAP.
    """
    step = _step_across(grid_of(thin), acquired)
    if step > 0.75 * acquired.slice_spacing:
        problem = f"the thin series has {step:.3g} mm slices across the thick ones of {acquired.slice_spacing:.3g} mm"
        raise ImageError("E-PAIR-THIN", problem)
    covered = _covered(acquired.grid, grid_of(thin), acquired.axis)
    if covered.sum() < 3 and not is_registered:
        problem = f"{int(covered.sum())} thick slices lie inside the thin series (minimum 3)"
        raise ImageError("E-PAIR-OVERLAP", problem)


def _covered(thick: Grid, thin: Grid, axis: int) -> np.ndarray:
    """(m,) bool, thick slices of which at least a quarter lies inside the thin series."""
    samples = [np.arange(n) if a == axis else np.linspace(0, n - 1, 24) for a, n in enumerate(thick.shape)]
    at = np.stack(np.meshgrid(*samples, indexing="ij"), axis=-1)
    turn = np.linalg.inv(thin.affine) @ thick.affine
    places = at @ turn[:3, :3].T + turn[:3, 3]
    inside = ((places > -0.5) & (places < np.array(thin.shape) - 0.5)).all(axis=-1)
    return np.moveaxis(inside, axis, 0).reshape(thick.shape[axis], -1).mean(axis=1) > 0.25


def _within(thin: MetaTensor, thick: Grid) -> MetaTensor:
    """The part of the thin series around the thick one."""
    corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in thick.shape)), axis=-1).reshape(-1, 3)
    turn = np.linalg.inv(grid_of(thin).affine) @ thick.affine
    places = corners @ turn[:3, :3].T + turn[:3, 3]
    low = np.maximum(np.floor(places.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(places.max(axis=0)) + 1, thin.shape[1:]).astype(int)
    return cast(MetaTensor, SpatialCrop(roi_start=low.tolist(), roi_end=high.tolist())(thin))
