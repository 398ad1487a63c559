"""Masks and segmentations of an acquired volume on the grid of its result; labels stay labels."""

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
"""Voxels that the corners of a mask may be off those of its image, as headers round."""


def carry_labels(
    labels: MetaTensor, image: MetaTensor | Acquired, result: MetaTensor, *, axis: int | None = None
) -> MetaTensor:
    """Labels of an acquired volume on the grid of its super-resolved one.

    Shape-based interpolation: between two slices each label has the signed distance to its contour in
    either, linearly interpolated, and the label that lies deepest wins. So contours move steadily from
    slice to slice, where nearest-neighbor interpolation leaves steps. A label that is in one of two
    slices only ends half way between them, its thin parts earlier. At the place of an acquired slice its
    labels are as they were, and no value appears that was not there.

    Args:
        labels: (C, X, Y, Z) whole numbers on the grid of ``image``.
        image: (C', X, Y, Z) the acquired volume, or what is known of it already.
        result: (C', X', Y', Z') what was made of it, by :func:`monai_sr.inference.super_resolve`.
        axis: through-plane axis of ``image`` as a MetaTensor. Default: what the metadata say, else the one along
            which ``result`` is finer.

    Returns:
        (C, X', Y', Z') with the labels' metadata on the grid of ``result``.

    Raises:
        ImageError: another grid (E-MASK-GRID), or not whole numbers (E-MASK-VALUES).

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
        raise ImageError(
            "E-MASK-GRID",
            f"the mask has {sizes[0]} voxels, its image {sizes[1]}",
            fix="give a mask on the grid of the image",
            path=path,
        )
    corners = np.array(np.meshgrid(*([0, n - 1] for n in theirs.shape), [1], indexing="ij")).reshape(4, -1)
    off = (np.linalg.inv(theirs.affine) @ ours.affine - np.eye(4)) @ corners
    if np.abs(off).max() > SAME_PLACE:
        raise ImageError(
            "E-MASK-GRID",
            f"the mask lies elsewhere than its image, by up to {np.abs(off).max():.3g} voxels",
            fix="give a mask with the affine of the image",
            path=path,
        )
    if not bool((labels == labels.round()).all()):
        raise ImageError(
            "E-MASK-VALUES", "the values of the mask are no whole numbers", fix="give labels, no map", path=path
        )


def _between(stack: np.ndarray, thick: np.ndarray, thin: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(m, P, Q) labels at ``thick`` as (n, P, Q) at ``thin``."""
    weights = interpolation_matrix(thick, thin, order=1).numpy()
    made = np.empty((len(thin), *stack.shape[1:]), stack.dtype)
    lower = np.clip(np.searchsorted(thick, thin, side="right") - 1, 0, max(len(thick) - 2, 0))
    for below in np.unique(lower):
        above = min(below + 1, len(thick) - 1)
        places = np.flatnonzero(lower == below)
        pair = stack[below], stack[above]
        made[places] = pair[0]
        changed = pair[0] != pair[1]
        if changed.any():
            # what is the same in both slices stays so between them
            shares = weights[places, above]
            made[places] = _blended(pair, shares, changed, thick[above] - thick[below], spacing)
    return made


def _blended(
    pair: tuple[np.ndarray, np.ndarray],
    shares: np.ndarray,
    changed: np.ndarray,
    step: float,
    spacing: tuple[float, ...],
) -> np.ndarray:
    """The slices that have these shares of the second of a pair."""
    made = np.repeat(pair[0][None], len(shares), axis=0)
    deepest = np.full(made.shape, -np.inf, np.float32)
    # Where a label is in one slice only, what is there in the other lies as deep as it did, at least a step:
    # so they part half way between, and earlier where the label is thin.
    most = [np.full(changed.shape, np.inf, np.float32) for _ in pair]
    depths: dict[float, tuple[tuple[slice, slice], list[Any]]] = {}
    for value in np.union1d(pair[0][changed], pair[1][changed]):
        inside = [one == value for one in pair]
        box = _box(inside[0] | inside[1])
        found: list[Any] = [_depth(one[box], spacing) if one.any() else None for one in inside]
        for this, other in ((0, 1), (1, 0)):
            if found[other] is None:
                deep = np.maximum(found[this], step)
                found[other] = -deep
                most[other][box] = np.where(inside[this][box], deep, most[other][box])
        depths[value] = box, found
    for value, (box, found) in depths.items():
        first, second = (np.minimum(depth, cap[box]) for depth, cap in zip(found, most, strict=True))
        here = (slice(None), *box)
        depth = first + shares[:, None, None].astype(np.float32) * (second - first)
        wins = (depth > deepest[here]) & changed[box]
        deepest[here] = np.where(wins, depth, deepest[here])
        made[here] = np.where(wins, value, made[here])
    return made


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """Where a mask is, and one pixel around."""
    ends = [np.flatnonzero(mask.any(axis=1 - a)) for a in range(2)]
    rows, columns = (slice(max(int(e[0]) - 1, 0), int(e[-1]) + 2) for e in ends)
    return rows, columns


def _depth(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """mm from the contour: above 0 inside, below outside."""
    if mask.all():
        return np.full(mask.shape, 1e6, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return (inside - ndimage.distance_transform_edt(~mask, sampling=spacing)).astype(np.float32)
