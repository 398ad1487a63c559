"""Carry masks and segmentations of an acquired volume to the grid of its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from .acquired import Acquired, path_of
from .errors import ImageError
from .grid import Grid, grid_of, on_grid, positions_on
from .slices import interpolation_matrix

SAME_PLACE = 0.05
"""Maximum distance between the corners of a mask and of its image, in voxels; headers round."""


def carry_labels(
    labels: MetaTensor, image: MetaTensor | Acquired, result: MetaTensor, *, axis: int | None = None
) -> MetaTensor:
    """Labels of an acquired volume on the grid of its super-resolved result.

    Shape-based interpolation: for each label, the signed distance to its contour is linearly interpolated between
    two slices, and the label with the largest distance inside wins. So contours move gradually from slice to
    slice, while nearest-neighbor interpolation makes steps. A label that exists in only one of two slices ends
    half way between them, its thin parts earlier. At the position of an acquired slice labels do not change, and
    no new values appear.

    Args:
        labels: (C, X, Y, Z) whole numbers on the grid of ``image``.
        image: (C', X, Y, Z) acquired volume, or its Acquired record.
        result: (C', X', Y', Z') its result, from :func:`monai_sr.inference.super_resolve`.
        axis: through-plane axis of ``image`` as a MetaTensor. Default: that of the metadata, otherwise the axis
            along which ``result`` is finer.

    Returns:
        (C, X', Y', Z') with the metadata of the labels, on the grid of ``result``.

    Raises:
        ImageError: the grids differ (E-MASK-GRID), or values are not whole numbers (E-MASK-VALUES).

    Source: Raya and Udupa 1990, "Shape-based interpolation of multidimensional objects".
    """
    wanted = grid_of(result)
    if not isinstance(image, Acquired):
        image = Acquired.of(image, axis=axis, refined=wanted)
    _check(labels, image.grid)
    axis = image.axis
    thin, thick = positions_on(wanted, axis, image.grid), image.positions_from_first
    in_plane = tuple(s for a, s in enumerate(image.grid.spacing) if a != axis)
    stacks = np.moveaxis(labels.as_tensor().cpu().numpy(), axis + 1, 1)
    carried = np.stack([_between(stack, thick, thin, in_plane) for stack in stacks])
    carried = np.ascontiguousarray(np.moveaxis(carried, 1, axis + 1))
    thin_labels = on_grid(torch.from_numpy(carried), wanted, labels)
    thin_labels.meta["super_resolved"] = True
    return thin_labels


def _check(labels: MetaTensor, theirs: Grid) -> None:
    ours, path = grid_of(labels), path_of(labels) or None
    if ours.shape != theirs.shape:
        sizes = [" x ".join(map(str, grid.shape)) for grid in (ours, theirs)]
        raise ImageError("E-MASK-GRID", f"the mask has {sizes[0]} voxels, its image {sizes[1]}", path=path)
    corners = np.array(np.meshgrid(*([0, n - 1] for n in theirs.shape), [1], indexing="ij")).reshape(4, -1)
    off = (np.linalg.inv(theirs.affine) @ ours.affine - np.eye(4)) @ corners
    if np.abs(off).max() > SAME_PLACE:
        raise ImageError(
            "E-MASK-GRID",
            f"the position of the mask differs from that of its image by up to {np.abs(off).max():.3g} voxels",
            path=path,
        )
    if not bool((labels == labels.round()).all()):
        raise ImageError("E-MASK-VALUES", "the mask has values that are not whole numbers", path=path)


def _between(stack: np.ndarray, thick: np.ndarray, thin: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(m, P, Q) labels at ``thick`` as (n, P, Q) at ``thin``."""
    weights = interpolation_matrix(thick, thin, order=1).numpy()
    carried = np.empty((len(thin), *stack.shape[1:]), stack.dtype)
    lower = np.clip(np.searchsorted(thick, thin, side="right") - 1, 0, max(len(thick) - 2, 0))
    for below in np.unique(lower):
        above = min(below + 1, len(thick) - 1)
        places = np.flatnonzero(lower == below)
        pair = stack[below], stack[above]
        carried[places] = pair[0]
        changed = pair[0] != pair[1]
        if changed.any():
            # voxels with the same label in both slices keep it between them
            fractions = weights[places, above]
            carried[places] = _blended(pair, fractions, changed, thick[above] - thick[below], spacing)
    return carried


def _blended(
    pair: tuple[np.ndarray, np.ndarray],
    fractions: np.ndarray,
    changed: np.ndarray,
    step: float,
    spacing: tuple[float, ...],
) -> np.ndarray:
    """(n, P, Q) labels between a pair of slices, at these fractions of the way to the second."""
    blended = np.repeat(pair[0][None], len(fractions), axis=0)
    deepest = np.full(blended.shape, -np.inf, np.float32)
    # A label that exists in one slice only is as far outside in the other as it is inside here, at least one
    # step; what is inside there has the same limit. So both meet half way, and earlier if the label is thin.
    limits = [np.full(changed.shape, np.inf, np.float32) for _ in pair]
    depths: dict[float, tuple[tuple[slice, slice], list[Any]]] = {}
    for value in np.union1d(pair[0][changed], pair[1][changed]):
        inside = [labels == value for labels in pair]
        box = _box(inside[0] | inside[1])
        both: list[Any] = [_depth(mask[box], spacing) if mask.any() else None for mask in inside]
        for this, other in ((0, 1), (1, 0)):
            if both[other] is None:
                deep = np.maximum(both[this], step)
                both[other] = -deep
                limits[other][box] = np.where(inside[this][box], deep, limits[other][box])
        depths[value] = box, both
    for value, (box, both) in depths.items():
        first, second = (np.minimum(depth, limit[box]) for depth, limit in zip(both, limits, strict=True))
        here = (slice(None), *box)
        depth = first + fractions[:, None, None].astype(np.float32) * (second - first)
        wins = (depth > deepest[here]) & changed[box]
        deepest[here] = np.where(wins, depth, deepest[here])
        blended[here] = np.where(wins, value, blended[here])
    return blended


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Bounding box of a mask, and one pixel around."""
    ends = [np.flatnonzero(mask.any(axis=1 - a)) for a in range(2)]
    rows, columns = (slice(max(int(e[0]) - 1, 0), int(e[-1]) + 2) for e in ends)
    return rows, columns


def _depth(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance from the contour, mm: positive inside, negative outside."""
    if mask.all():
        return np.full(mask.shape, 1e6, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return (inside - ndimage.distance_transform_edt(~mask, sampling=spacing)).astype(np.float32)
