"""Compare bundles with interpolation and other programs, on volumes with a reference.

Thick slices are simulated from thin ones, super-resolved, and compared with the thin ones inside the
foreground. The data range is the 99.9th minus the 0.1st percentile of the reference; nothing is clipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor

from ..acquired import Acquired, path_of
from ..errors import SuperResolutionError
from ..grid import grid_of
from ..intensities import data_range
from ..io.images import read_image
from ..slices import apply_along
from .conditions import TRIM, Condition, acquire, middle, without_noise_notice
from .measurements import Study
from .methods import BASELINES, SPLINE, PeerError, SuperResolution, resample_to
from .metrics import (
    ceiling,
    foreground,
    noise_deviation,
    psnr,
    resolved_spacing,
    sharpness,
    squared_error,
    ssim,
    unseen_noise,
)
from .structures import Region

NEAR = 1.3
"""An axis can be the slice axis if its spacing is at most this many times the finest."""


@dataclass(frozen=True)
class Score:
    """One method on one volume, one axis, under one condition.

    Attributes:
        gain_db: PSNR minus that of the consistent spline on the same slices.
        sharpness: see :func:`monai_sr.evaluation.metrics.sharpness`.
        consistency_db: PSNR of the re-acquired result, compared with the thick slices.
        ceiling_db: maximum gain that the noise of the reference permits; the same for all methods.
        resolution_mm: through-plane resolution, see :func:`monai_sr.evaluation.metrics.resolved_spacing`.
    """

    volume: str
    modality: str
    axis: int
    condition: Condition
    method: str
    psnr_db: float
    ssim: float
    gain_db: float
    sharpness: float = float("nan")
    consistency_db: float = float("nan")
    ceiling_db: float = float("nan")
    resolution_mm: float = float("nan")


def evaluate(
    volumes: Sequence[str | Path | MetaTensor],
    models: Mapping[str, SuperResolution],
    *,
    conditions: Sequence[Condition] = (Condition(2), Condition(3), Condition(4)),
    axes: Sequence[int] | Literal["near"] | None = None,
    crop: int | None = None,
    baselines: Iterable[str] = BASELINES,
    report: Callable[[Score], None] | None = None,
    failed: Callable[[str, SuperResolutionError], None] | None = None,
    progress: Callable[[float], None] | None = None,
    study: Study | None = None,
) -> list[Score]:
    """Measure models and the baselines on volumes of thin slices.

    Args:
        volumes: files, DICOM folders, or volumes (1, X, Y, Z) with affine.
        models: by name; called as ``model(image, factor=, slice_thickness=, axis=)``. May include an
            :class:`monai_sr.evaluation.methods.ExternalMethod`.
        conditions: see :class:`monai_sr.evaluation.conditions.Condition`.
        axes: slice axes, one at a time; "near" for all whose spacing is at most 1.3 times the finest.
            Default: the axis of the largest spacing (2 if all are equal).
        crop: use at most this many voxels a side, from the middle, to save time.
        baselines: names in :data:`monai_sr.evaluation.methods.BASELINES`; the consistent spline is always used.
        report: called with every score.
        failed: called with the name of a volume and its error, or the error of a peer on it; the others
            continue. Default: raise.
        progress: called with the fraction of the work that is done, 0..1.
        study: also takes measurements of every result.

    Returns:
        One score for every volume, axis, condition and method; baselines first.
    """
    wanted = dict.fromkeys([*baselines, SPLINE])
    methods = {name: method for name, method in BASELINES.items() if name in wanted} | dict(models)
    scores: list[Score] = []
    for index, (name, volume) in enumerate(zip(_names(volumes), volumes, strict=True)):

        def complain(error: SuperResolutionError, name: str = name, volume: Any = volume) -> None:
            error = error if isinstance(volume, MetaTensor) else error.at(volume)
            if failed is None:
                raise error
            failed(name, error)

        try:
            hr = volume if isinstance(volume, MetaTensor) else read_image(volume)
            if crop:
                hr = middle(hr, crop)
            cases = [(along, condition) for along in _axes(hr, axes) for condition in conditions]
            for done, (along, condition) in enumerate(cases, 1):
                for score in _scores(hr, name, along, condition, methods, complain, study):
                    scores.append(score)
                    if report:
                        report(score)
                if progress:
                    progress((index + done / len(cases)) / len(volumes))
        except SuperResolutionError as error:
            complain(error)
    return scores


def _scores(
    hr: MetaTensor,
    name: str,
    axis: int,
    condition: Condition,
    methods: Mapping[str, SuperResolution],
    complain: Callable[[SuperResolutionError], None],
    study: Study | None,
) -> list[Score]:
    """Scores of all methods on one simulated acquisition."""
    made = acquire(hr, condition, axis)
    thin, reference, along = made.hr[0].numpy(), made.reference[0].numpy(), made.axis
    value_range, body = data_range(thin), foreground(thin)
    step = grid_of(made.reference).spacing[along]
    noise = noise_deviation(thin, body)
    body = np.take(body, made.nearest, axis=along)
    counted = made.measured.reshape([-1 if a == along else 1 for a in range(3)])
    if not (body & counted).any():
        body = np.ones_like(body)
    mask = body & counted
    slices = range(TRIM, made.lr.shape[along + 1] - TRIM) or range(made.lr.shape[along + 1])
    matrix = made.matrix[list(slices)]
    seen = apply_along(matrix, torch.from_numpy(body.astype(np.float32)), along).numpy() > 0.5
    lr = np.take(made.lr[0].numpy(), slices, axis=along)
    figures: dict[str, dict[str, float]] = {}
    errors = {}
    grid, modality = grid_of(made.reference), Acquired.of(hr).modality
    if study is not None:
        inside = np.broadcast_to(counted, reference.shape)
        region = Region(reference, grid.spacing, inside, modality, grid_of(made.lr).spacing[along])
        group = f"x{condition.factor:g}" + ("" if condition.name == "plain" else f", {condition.name}")
        subject = study.begin(f"{name}, axis {axis}", group, region, resample_to(made.lr, grid, order=0))
    for method, model in methods.items():
        try:
            with without_noise_notice():
                sr = model(made.lr, factor=condition.factor, slice_thickness=made.slice_thickness, axis=along)
        except PeerError as problem:
            complain(problem)
            continue
        voxels = resample_to(sr, grid)
        if study is not None:
            subject.add(method, voxels)
        again = apply_along(matrix, torch.from_numpy(voxels), along).numpy()
        errors[method] = squared_error(voxels, reference, mask)
        figures[method] = {
            "psnr_db": psnr(voxels, reference, value_range=value_range, mask=mask),
            "ssim": ssim(voxels, reference, value_range=value_range, mask=mask),
            "sharpness": sharpness(voxels, reference, axis=along, mask=mask),
            "consistency_db": psnr(again, lr, value_range=value_range, mask=seen if seen.any() else None),
            "resolution_mm": resolved_spacing(voxels, reference, axis=along, spacing=step, mask=mask),
        }
    unseen = unseen_noise(made.matrix, reference_noise=noise, slice_noise=made.noise)
    voxels_of_slice = np.moveaxis(mask, along, -1).sum(axis=(0, 1))
    room = ceiling(errors[SPLINE], float(np.average(unseen, weights=voxels_of_slice)))
    spline_db = figures[SPLINE]["psnr_db"]
    return [
        Score(name, modality, axis, condition, method, gain_db=row["psnr_db"] - spline_db, ceiling_db=room, **row)
        for method, row in figures.items()
    ]


def _axes(hr: MetaTensor, wanted: Sequence[int] | Literal["near"] | None) -> list[int]:
    if wanted is None:
        return [Acquired.of(hr).axis]
    if wanted == "near":
        grid = grid_of(hr)
        return [axis for axis in range(3) if grid.spacing[axis] <= NEAR * min(grid.spacing)]
    return [int(axis) for axis in wanted]


def _names(volumes: Sequence[str | Path | MetaTensor]) -> list[str]:
    """A name for each volume: its file name; if two are equal, the path below the common folder."""
    paths = [Path((path_of(volume) or "volume") if isinstance(volume, MetaTensor) else volume) for volume in volumes]
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):
        common = os.path.commonpath([path.absolute() for path in paths])
        names = [path.absolute().relative_to(common).as_posix() for path in paths]
    return names
