"""``carry``: a mask of the thin slices on the thick ones, or of the thick slices on the thin ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from ..acquired import Acquired
from ..batch import check_target, write_masks
from ..dicom import is_dicom_source
from ..errors import naming, warn
from ..grid import SAME_SPACING, grid_of, on_grid
from ..io.images import read_image, read_labels
from ..labels import average_labels, carry_labels, check_mask
from ..trust.alignment import not_aligned, turn_to
from .terminal import say


def carry(options: argparse.Namespace) -> int:
    """``monai-sr carry MASK --from IMAGE --to IMAGE OUTPUT``"""
    mask, target = Path(options.mask), Path(options.output)
    sources = Path(options.from_), Path(options.to)
    for source in (mask, *sources):
        check_target(source, target)
    labels = read_labels(mask)
    first, second = (
        read_image(source, volume=None if is_dicom_source(source) else options.volume, own_results=True)
        for source in sources
    )
    with naming(mask):
        labels = on_grid(*turn_to(grid_of(first), labels), labels)
        check_mask(labels, grid_of(first))
        if not bool(labels.any()):
            warn("W-MASK-EMPTY", "the mask holds no label", path=mask)
        carried = _carried(labels, first, second, options)
    write_masks({target: carried}, overwrite=options.overwrite)
    say(f"{target}: {grid_of(labels).in_words()} -> {grid_of(carried).in_words()}")
    return 0


def _carried(labels: MetaTensor, first: MetaTensor, second: MetaTensor, options: argparse.Namespace) -> MetaTensor:
    """The labels of the first volume on the grid of the second, averaged or interpolated.

    Raises:
        ImageError: the axes are not parallel, the slices are equally far apart, or the grids do not fit (E-CON-GRID).
    """
    given = {name: getattr(options, name) for name in ("slice_thickness", "profile", "axis")}
    wanted = grid_of(second)
    turned = on_grid(*turn_to(wanted, labels), labels)
    growth = np.array(wanted.spacing) / grid_of(turned).spacing
    axis = int(np.abs(np.log(growth)).argmax())
    if growth[axis] > 1 + SAME_SPACING:
        return average_labels(turned, Acquired.of(second, refined=grid_of(turned), **given))
    if growth[axis] > 1 - SAME_SPACING:
        raise not_aligned("both volumes have the same spacing", "give the thick slices and the thin ones of one scan")
    thin = on_grid(*turn_to(grid_of(first), second), second)
    carried = carry_labels(labels, Acquired.of(first, refined=grid_of(thin), **given), thin)
    return on_grid(turn_to(wanted, carried)[0], wanted, carried)
