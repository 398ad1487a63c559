"""What a run will do, from headers alone: which grid becomes which, what it takes, and why not."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundles import Model
from ..dicom import SLICE_AXIS, stack_of
from ..engine import Engine
from ..engine.memory import TILE_LADDER, choose_tile, free_vram, memory_budget, needed_bytes
from ..errors import SuperResolutionError
from ..grid import Grid, decide_axis, target_grid
from ..io.images import read_header, read_image, write_image
from ..options import RunOptions
from .cases import Case
from .record import record_beside

_PROBE = (48, 48, 12)
"""Voxels of the volume by which speed is measured, made four times as many."""


@dataclass(frozen=True)
class Plan:
    """What is to become of a case.

    Attributes:
        case: which.
        before, after: the grids; None where the header cannot be read without the voxels.
        spacing: of the acquired voxels, mm; typical where slices are uneven.
        problem: why it will not be processed, as far as the header tells.
    """

    case: Case
    before: Grid | None = None
    after: Grid | None = None
    spacing: Sequence[float] = ()
    problem: str = ""

    @property
    def voxels(self) -> tuple[int, int]:
        """How many voxels there are before and after."""
        if self.before is None or self.after is None:
            return 0, 0
        return math.prod(self.before.shape), math.prod(self.after.shape)

    def least_memory(self, engine: Engine) -> int:
        """Bytes it takes with tiles a quarter as large as the largest: smaller ones cost more time."""
        voxels_in, voxels_out = self.voxels
        return needed_bytes(engine, TILE_LADDER[2], voxels_in=voxels_in, voxels_out=voxels_out)


def plan_case(case: Case, options: RunOptions) -> Plan:
    """Look at the header of a case."""
    if case.fault is not None:
        return Plan(case, problem=f"{case.fault.code}: {case.fault.problem}")
    before = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = _header_of(case, options)
            if header is None:
                return Plan(case, problem="unknown from the header; determined in the run")
            before, spacing, stacked, uneven = header
            wanted, given = options.wanted, options.acquisition.axis
            axis, source = decide_axis(before, given=given, header=stacked, uneven=uneven is not None, refined=None)
            through = None if source == "assumed" else axis
            after, _ = target_grid(before, uneven=uneven, spacing=wanted.spacing, factor=wanted.factor, axis=through)
    except SuperResolutionError as error:
        return Plan(case, before, problem=f"{error.code}: {error.problem}")
    done = case.target.exists() and record_beside(case.target) is not None
    return Plan(case, before, after, spacing, problem="done already, unless something changed" if done else "")


def plan_table(cases: Sequence[Case], options: RunOptions, model: Model, *, memory: int | None = None) -> str:
    """Every case with what is planned for it, as a table for people.

    Args:
        cases, options: as of :func:`monai_sr.batch.run_cases`.
        model: of these options.
        memory: bytes that this process may take; None to find out.

    Raises:
        SuperResolutionError: bundle or device cannot be used.
    """
    memory = memory_budget() if memory is None else memory
    plans = [plan_case(case, options) for case in cases]
    speed = _seconds_per_voxel(model) if any(plan.after for plan in plans) else 0.0
    good, total = 0, 0.0
    rows = [("case", "mm", "voxels", "MiB", "seconds", "why not")]
    for plan in plans:
        if plan.before is None or plan.after is None:
            rows.append((plan.case.name, "", "", "", "", plan.problem))
            continue
        voxels_in, voxels_out = plan.voxels
        problem, tile = plan.problem, TILE_LADDER[-1]
        try:
            vram = free_vram(model.device)
            tile = choose_tile(model.engine, voxels_in=voxels_in, voxels_out=voxels_out, memory=memory, vram=vram)
        except SuperResolutionError as error:
            problem = f"{error.code}: {error.problem}"
        needed = needed_bytes(model.engine, tile, voxels_in=voxels_in, voxels_out=voxels_out)
        seconds = speed * voxels_out
        if not problem:
            good, total = good + 1, total + seconds
        spacing = f"{_spacing(plan.spacing)} -> {_spacing(plan.after.spacing)}"
        shape = f"{_shape(plan.before)} -> {_shape(plan.after)}"
        rows.append((plan.case.name, spacing, shape, f"{needed / 2**20:.0f}", f"{max(1, seconds):.0f}", problem))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    end = f"{good} of {len(plans)} volumes will be processed (judged by their headers): about {total:.0f} s one by one"
    return "\n".join((*(line.rstrip() for line in lines), end))


def _header_of(case: Case, options: RunOptions) -> tuple[Grid, Sequence[float], int | None, np.ndarray | None] | None:
    """Grid, spacing, axis and uneven positions of the slices; None for a header that needs the reader's care."""
    if case.series is not None:
        stack = stack_of(case.series, fill_gaps=options.reading.fill_gaps)
        header = case.series.frames[0].header
        size = (int(header.Columns), int(header.Rows), len(case.series.frames))
        grid = Grid(size, stack.affine)
        return grid, (*grid.spacing[:2], stack.slice_spacing), SLICE_AXIS, stack.positions
    header = read_header(case.source, geometry=options.reading.geometry)
    shape = header.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        return None
    grid = Grid(shape, header.affine)  # type: ignore[arg-type]
    return grid, grid.spacing, None, None


def _spacing(steps: Sequence[float]) -> str:
    return " x ".join(f"{s:.3g}" for s in steps)


def _shape(grid: Grid) -> str:
    return "x".join(map(str, grid.shape))


def _seconds_per_voxel(model: Model) -> float:
    """How long a new voxel takes on this machine, from reading to writing, by a small volume of noise."""
    grid = Grid(_PROBE, np.diag([1.0, 1.0, 4.0, 1.0]))
    voxels = torch.from_numpy(np.random.default_rng(0).normal(500, 90, (1, *_PROBE)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.nii.gz")
        write_image(MetaTensor(voxels, affine=torch.from_numpy(grid.affine)), path, dtype=np.int16)
        started = time.monotonic()
        sr = model(read_image(path), factor=4)
        write_image(sr, path)
        return (time.monotonic() - started) / sr.numel()
