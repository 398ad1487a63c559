"""Carry masks and segmentations between thick slices and thin ones, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .acquired import Acquired, path_of
from .errors import ImageError, Later, warn
from .grid import SAME_SPACING, Grid, Image, grid_of, on_grid, positions_on
from .intensities import as_array
from .slices import apply_along, interpolation_weights, profile_weights

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")

SAME_PLACE = 0.05
"""Maximum distance between the corners of a mask and of its image, in voxels; headers round."""

LARGEST = 2**24
"""Labels below are exact in float32."""

PURE, TRACE = 0.9, 0.02
"""A label that fills more of a thick voxel has it; one that fills less does not compete for it."""

THRESHOLDS = (1 / 3, 2 / 3)
"""The fraction of a thick voxel that a label needs lies between these, where the label keeps its volume."""


def carry_labels(
    labels: MetaTensor, image: MetaTensor | Acquired, result: Image, *, axis: int | None = None
) -> MetaTensor:
    """Labels of an acquired volume on the grid of its super-resolved result.

    Shape-based interpolation: for each label, the signed distance to its contour is linearly interpolated between
    two slices, and the label with the largest distance inside wins. So contours move gradually from slice to
    slice, while nearest-neighbor interpolation makes steps. A label that exists in only one of two slices ends
    half way between them, its thin parts earlier. At the position of an acquired slice labels do not change, and
    no new values appear. A probability map is linearly interpolated.

    Args:
        labels: (C, X, Y, Z) whole numbers, or probabilities 0 to 1, on the grid of ``image``.
        image: (C', X, Y, Z) acquired volume, or its Acquired record.
        result: (C', X', Y', Z') its result, from :func:`monai_sr.inference.super_resolve`.
        axis: through-plane axis of ``image`` as a MetaTensor. Default: that of the metadata, otherwise the axis
            along which ``result`` is finer.

    Returns:
        (C, X', Y', Z') with the metadata of the labels, on the grid of ``result``.

    Raises:
        ImageError: the grids differ (E-MASK-GRID), the in-plane grids of image and result do (E-CON-GRID), or values
            are neither labels nor probabilities (E-MASK-VALUES).

    Source: Raya and Udupa 1990, "Shape-based interpolation of multidimensional objects".
    """
    wanted = grid_of(result)
    if not isinstance(image, Acquired):
        image = Acquired.of(image, axis=axis, refined=wanted)
    check_mask(labels, image.grid)
    axis = image.axis
    _check_in_plane(wanted, image.grid, axis)
    thin, thick = positions_on(wanted, axis, image.grid), image.positions_from_first
    if _are_probabilities(labels):
        weights = interpolation_weights(thick, thin, order=1)
        return _marked(on_grid(apply_along(weights, as_array(labels).astype(np.float32), axis + 1), wanted, labels))
    in_plane = tuple(s for a, s in enumerate(image.grid.spacing) if a != axis)
    stacks = np.moveaxis(as_array(labels), axis + 1, 1)
    carried = np.stack([_between(stack, thick, thin, in_plane) for stack in stacks])
    return _marked(on_grid(np.ascontiguousarray(np.moveaxis(carried, 1, axis + 1)), wanted, labels))


def _marked(labels: MetaTensor) -> MetaTensor:
    """The labels, so that their file is never taken for an image to be super-resolved."""
    labels.meta["super_resolved"] = True
    return labels


def average_labels(labels: MetaTensor, thick: Acquired) -> MetaTensor:
    """Labels of thin slices on the grid of the thick slices of the same scan.

    The slice profile gives the fraction of each label, and of the background, in a thick voxel. The one that
    exceeds its threshold most has the voxel. The thresholds, 1/3 to 2/3, are those at which each label keeps its
    volume; at 1/2 it would change by several percent, depending on where the slices lie. A probability map is
    averaged by the slice profile.

    Args:
        labels: (C, X, Y, Z) whole numbers, or probabilities 0 to 1. Its axes have the order and direction of
            ``thick``, and its in-plane grid is the same.
        thick: the thick slices.

    Returns:
        (C, X, Y, Z') with the metadata of the labels, on the grid of ``thick``; 0 in slices outside ``labels``.

    Raises:
        ImageError: the in-plane grids differ or the volumes do not overlap (E-CON-GRID), or values are neither
            labels nor probabilities (E-MASK-VALUES).
    """
    axis, grid = thick.axis, grid_of(labels)
    check_mask(labels, grid)
    _check_in_plane(grid, thick.grid, axis)
    thin, slices = positions_on(grid, axis, thick.grid), thick.positions_from_first
    half = grid.spacing[axis] / 2 * (1 + SAME_SPACING)
    inside = np.flatnonzero((slices >= thin[0] - half) & (slices <= thin[-1] + half))
    if not len(inside):
        raise ImageError("E-CON-GRID", "the volumes do not overlap")
    if len(inside) < len(slices):
        facts = {"outside": len(slices) - len(inside), "slices": len(slices)}
        warn("W-MASK-PART", "{outside} of {slices} slices are outside the mask and get 0", facts=facts)
    thickness = np.broadcast_to(thick.slice_thickness, slices.shape)[inside]
    weights = profile_weights(thin, slices[inside], slice_thickness=thickness, profile=thick.slice_profile)
    given, place = as_array(labels), (slice(None),) * (axis + 1) + (inside,)
    if _are_probabilities(labels):
        voxels = np.zeros((len(labels), *thick.grid.shape), np.float32)
        voxels[place] = apply_along(weights, given.astype(np.float32), axis + 1)
        return _marked(on_grid(voxels, thick.grid, labels))
    stacks = np.moveaxis(given, axis + 1, 1)
    carried = np.stack([_majority(stack, weights.astype(np.float32)) for stack in stacks])
    voxels = np.zeros((len(labels), *thick.grid.shape), given.dtype)
    voxels[place] = np.moveaxis(carried, 1, axis + 1)
    lost = sorted({value for value in set(np.unique(stacks)) - set(np.unique(carried)) if value != 0})
    if lost:
        text = "labels {labels} are too small for the thick slices and are lost"
        warn("W-MASK-LOST", text, facts={"labels": [int(value) for value in lost]})
    return _marked(on_grid(voxels, thick.grid, labels))


def _check_in_plane(ours: Grid, theirs: Grid, axis: int) -> None:
    """Check that two grids of parallel axes differ along ``axis`` only."""
    for a in {0, 1, 2} - {axis}:
        at, wanted = positions_on(ours, a, theirs), positions_on(theirs, a, theirs)
        if len(at) != len(wanted) or np.abs(at - wanted).max() > SAME_PLACE * theirs.spacing[a]:
            problem = f"the in-plane grids of the two volumes differ along axis {a}"
            fix = "give volumes of one scan, without a crop or another in-plane spacing"
            raise ImageError("E-CON-GRID", problem, fix=fix)


def _are_probabilities(labels: MetaTensor) -> bool:
    return not bool((labels == labels.round()).all())


def check_mask(labels: MetaTensor, theirs: Grid) -> None:
    """Check that a mask lies on the grid of its image and holds labels or probabilities.

    Raises:
        ImageError: another grid (E-MASK-GRID) or other values (E-MASK-VALUES).
    """
    ours, path = grid_of(labels), path_of(labels) or None
    if ours.shape != theirs.shape:
        sizes = [" x ".join(map(str, grid.shape)) for grid in (ours, theirs)]
        raise ImageError("E-MASK-GRID", f"the mask has {sizes[0]} voxels, its image {sizes[1]}", path=path)
    if (off := corner_distance(ours, theirs)) > SAME_PLACE:
        problem = f"the position of the mask differs from that of its image by up to {off:.3g} voxels"
        raise ImageError("E-MASK-GRID", problem, path=path)
    lowest, highest = float(labels.min()), float(labels.max())
    if max(-lowest, highest) >= LARGEST:
        problem = f"the mask has labels up to {max(-lowest, highest):.9g}; float32 holds those below {LARGEST} exactly"
        raise ImageError("E-MASK-VALUES", problem, fix="number the labels from 1", path=path)
    if _are_probabilities(labels) and (lowest < 0 or highest > 1):
        problem = f"the mask has values of {lowest:.4g} to {highest:.4g} that are not whole numbers"
        raise ImageError("E-MASK-VALUES", problem, path=path)


def corner_distance(ours: Grid, theirs: Grid) -> float:
    """Maximum distance between the corners of two grids of one shape, in voxels of the second."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in theirs.shape), [1], indexing="ij")).reshape(4, -1)
    return float(np.abs((np.linalg.inv(theirs.affine) @ ours.affine - np.eye(4)) @ corners).max())


def _majority(stack: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, P, Q) labels of thin slices as (m, P, Q) labels of thick ones, by the (m, n) ``matrix``."""
    shape = (len(matrix), *stack.shape[1:])
    places, free = np.arange(np.prod(shape)).reshape(shape), np.ones(shape, np.float32)
    result, is_filled = np.zeros(shape, stack.dtype), np.zeros(shape, bool)
    entries, others = [], result.size
    for value in [*(value for value in np.unique(stack) if value != 0), 0]:
        if value:
            mask = stack == value
            here = (slice(None), *_box(mask.any(axis=0)))
            fractions = np.tensordot(matrix, mask[here].astype(np.float32), 1)
            free[here] -= fractions
        else:
            here, fractions = (slice(None),) * 3, free
        fills = fractions > PURE
        result[here][fills], is_filled[here] = value, is_filled[here] | fills
        # many voxels have the same fraction; those with more of the label around them come first
        around = ndimage.gaussian_filter(fractions, (0, 2, 2), mode="nearest")
        competes = (fractions > TRACE) & ~fills
        scores = (fractions + 1e-3 * around)[competes]
        count = others if value == 0 else round(float(fractions.sum()))  # the background has what no label gets
        scores -= _threshold(scores, count - int(fills.sum()))
        others -= int(fills.sum()) + int((scores > 0).sum())
        entries.append((places[here][competes], np.full(len(scores), value), scores))
    place, values, scores = (np.concatenate(column) for column in zip(*entries, strict=True))
    order = np.lexsort((scores, place))
    winners = order[np.diff(place[order], append=-1) != 0]
    winners = winners[~is_filled.ravel()[place[winners]]]
    result.ravel()[place[winners]] = values[winners]
    return result


def _threshold(scores: np.ndarray, count: int) -> float:
    """The value that so many scores exceed, within :data:`THRESHOLDS`."""
    if not 0 < count < len(scores):
        return THRESHOLDS[count <= 0]
    lower, upper = np.partition(scores, (len(scores) - count - 1, len(scores) - count))[-count - 1 :][:2]
    return float(np.clip((lower + upper) / 2, *THRESHOLDS))


def _between(stack: np.ndarray, thick: np.ndarray, thin: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """(m, P, Q) labels at ``thick`` as (n, P, Q) at ``thin``."""
    weights = interpolation_weights(thick, thin, order=1)
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
