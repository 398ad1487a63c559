"""The page of a fused volume, of what was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from ..errors import UsageError, read_warning
from ..grid import Grid, grid_of
from ..report import StackShown, write_fusion_report
from .fuse import Fused, FusedStack
from .operators import resample
from .sources import Source
from .stacks import Stack


def write_page_of(
    path: Path,
    fused: Fused,
    sources: Sequence[Source],
    *,
    name: str,
    record: Mapping[str, Any],
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a fused volume, see :func:`monai_sr.report.write_fusion_report`.

    Args:
        path: where.
        fused: what was made.
        sources: of its stacks.
        name: what to call it.
        record: the block ``monai_sr`` of the JSON beside it.
        links: pages to go to from here.
    """
    grid = grid_of(fused.image)
    total, count = torch.zeros(grid.shape), torch.zeros(grid.shape)
    for stack in map(_moved, fused.stacks):
        values, inside = resample(stack.voxels, stack.grid, grid, degree=1)
        total += torch.where(inside, values, 0.0)
        count += inside
    lowest = min(float(stack.acquired.voxels.min()) for stack in fused.stacks)
    shown = [
        StackShown(
            name=source.series.label if source.series is not None else source.path.name,
            modality=stack.acquired.modality,
            before=stack.acquired.grid.in_words(stack.acquired.axis, stack.acquired.slice_spacing),
            slice_nrmse=stack.agreement.slice_nrmse,
            record=entry,
        )
        for stack, source, entry in zip(fused.stacks, sources, record["fusion"]["stacks"], strict=True)
    ]
    return write_fusion_report(
        path,
        fused.image,
        shown,
        first=_nearest(_moved(fused.stacks[0]), grid),
        mean=torch.where(count > 0, total / count.clamp(min=1), lowest),
        nearest=fused.nearest,
        name=name,
        record=record,
        uncertainty=_uncertainty(fused),
        warnings=[read_warning(entry) for entry in record.get("warnings", ())],
        links=links,
    )


def _uncertainty(fused: Fused) -> MetaTensor | None:
    """The predicted error, if the bundle was calibrated for these stacks."""
    try:
        return fused.uncertainty() if fused.constants else None
    except UsageError:
        return None


def _moved(stack: FusedStack) -> Stack:
    """A stack where it was moved to, in the intensities of the first."""
    placed = Stack.of(stack.acquired, stack.name).by(stack.motion.used)
    return Stack(
        placed.acquired, placed.name, stack.scaling.apply(placed.voxels, placed.grid), placed.known, placed.motion
    )


def _nearest(stack: Stack, grid: Grid) -> Tensor:
    """(X, Y, Z) each voxel of a grid as the nearest one of a stack; the lowest value beyond it."""
    matrix = np.linalg.inv(stack.grid.affine) @ grid.affine
    made = ndimage.affine_transform(
        stack.voxels.numpy(),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=grid.shape,
        order=0,
        mode="constant",
        cval=float(stack.voxels.min()),
    )
    return torch.from_numpy(made)
