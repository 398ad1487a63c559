"""Closed contours to pixels and back. A pixel is inside if its center is; several contours are even-odd (holes).

Coordinates are pixels of a plane (P, Q), integers at the centers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_STEPS = {
    1: ((3, 2),), 2: ((2, 1),), 3: ((3, 1),), 4: ((1, 0),), 5: ((3, 2), (1, 0)), 6: ((2, 0),), 7: ((3, 0),),
    8: ((0, 3),), 9: ((0, 2),), 10: ((0, 3), (2, 1)), 11: ((0, 1),), 12: ((1, 3),), 13: ((1, 2),), 14: ((2, 3),),
}  # fmt: skip
"""Of marching squares: from which side of a cell of four pixels to which a contour runs, by the pixels inside."""

_MIDDLES = ((0, 1), (1, 2), (2, 1), (1, 0))
"""Middles of the sides of a cell, in half pixels from its first pixel: between its first and second pixel, and on."""


def fill_contours(contours: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(P, Q) bool of pixels whose centers lie inside an odd number of contours.

    A center on a contour is inside at the lower side of it, and outside at the upper one.

    Args:
        contours: (n, 2) each, closed; may lie partly outside.
        shape: of the plane.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), np.int32)
    for points in contours:
        start, end = points, np.roll(points, -1, axis=0)
        low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
        first, last = np.ceil(low).clip(0, shape[0]).astype(int), np.ceil(high).clip(0, shape[0]).astype(int)
        counts = last - first
        edge = np.repeat(np.arange(len(points)), counts)
        row = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + first[edge]
        fraction = (row - start[edge, 0]) / (end[edge, 0] - start[edge, 0])
        at = start[edge, 1] + fraction * (end[edge, 1] - start[edge, 1])
        np.add.at(crossings, (row, np.ceil(at).clip(0, shape[1]).astype(int)), 1)
    return crossings[:, :-1].cumsum(axis=1) % 2 == 1


def trace_contours(inside: np.ndarray) -> list[np.ndarray]:
    """Closed contours half way between pixels inside and outside, so that :func:`fill_contours` gives them back.

    Args:
        inside: (P, Q) bool.

    Returns:
        (n, 2) each, without points on a straight line.

    Source: marching squares, Maple 2003, "Geometric design and space planning using the marching squares and
    marching cube algorithms".
    """
    box = [np.flatnonzero(inside.any(axis=1 - axis)) for axis in (0, 1)]
    if not len(box[0]):
        return []
    corner = np.array([ends[0] for ends in box]) - 1
    cut = np.pad(inside[box[0][0] : box[0][-1] + 1, box[1][0] : box[1][-1] + 1], 1).astype(np.uint8)
    cells = cut[:-1, :-1] * 8 + cut[:-1, 1:] * 4 + cut[1:, 1:] * 2 + cut[1:, :-1]
    following: dict[tuple[int, int], tuple[int, int]] = {}
    for p, q in np.argwhere((cells > 0) & (cells < 15)).tolist():
        for begin, end in _STEPS[int(cells[p, q])]:
            (a, b), (c, d) = _MIDDLES[begin], _MIDDLES[end]
            following[2 * p + a, 2 * q + b] = 2 * p + c, 2 * q + d
    contours = []
    while following:
        point, line = next(iter(following)), []
        while point in following:
            line.append(point)
            point = following.pop(point)
        contours.append(_without_straight(np.array(line)) / 2 + corner)
    return contours


def _without_straight(line: np.ndarray) -> np.ndarray:
    """A closed line without the points in the middle of its straight parts."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    return line[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
