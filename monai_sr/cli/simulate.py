"""``simulate``: thick slices from thin ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch import check_target
from ..errors import naming
from ..grid import grid_of
from ..io.images import read_image, write_image
from ..transforms import simulate_thick_slices
from .terminal import say


def simulate(options: argparse.Namespace) -> int:
    """``monai-sr simulate INPUT OUTPUT``"""
    source, target = Path(options.input), Path(options.output)
    check_target(source, target)
    hr = read_image(source)
    grid = grid_of(hr)
    with naming(source):
        axis = grid.through_plane_axis if options.axis is None else options.axis
        spacing = options.spacing if options.factor is None else options.factor * grid.spacing[axis]
        lr = simulate_thick_slices(
            hr, spacing, slice_thickness=options.slice_thickness, profile=options.profile, axis=axis
        )
    write_image(lr, target)
    say(f"{target}: {grid.in_words()} -> {grid_of(lr).in_words()}")
    return 0
