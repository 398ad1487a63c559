"""How large a volume is and its result will be, from the header alone, so that processes fit into memory."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ..dicom import SLICE_AXIS, stack_of
from ..engine import Engine
from ..engine.memory import TILE_LADDER, needed_bytes
from ..errors import SuperResolutionError, collect_notices, naming
from ..grid import Grid, decide_axis, target_grid
from ..io.images import read_header
from ..options import RunOptions
from .chosen import Case


@dataclass(frozen=True)
class Plan:
    """The grids of a case before and after, and how many volumes it has on them.

    The grids are None where the header cannot be read without the voxels.
    """

    before: Grid | None = None
    after: Grid | None = None
    volumes: int = 1

    @property
    def voxels(self) -> tuple[int, int]:
        """How many voxels there are before and after."""
        if self.before is None or self.after is None:
            return 0, 0
        return self.volumes * math.prod(self.before.shape), self.volumes * math.prod(self.after.shape)

    def least_memory(self, engine: Engine) -> int:
        """Bytes it takes with tiles a quarter as large as the largest: smaller ones cost more time."""
        voxels_in, voxels_out = self.voxels
        return needed_bytes(engine, TILE_LADDER[2], voxels_in=voxels_in, voxels_out=voxels_out)


def plan_case(case: Case, options: RunOptions) -> Plan:
    """Look at the header of a case; what is wrong with it is said when it is read."""
    with collect_notices(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = _header_of(case, options)
            if header is None:
                return Plan()
            before, stacked, uneven = header
            wanted, given = options.wanted, options.acquisition.axis
            axis, source = decide_axis(before, given=given, header=stacked, uneven=uneven is not None, refined=None)
            through = None if source == "assumed" else axis
            after, _ = target_grid(before, uneven=uneven, spacing=wanted.spacing, factor=wanted.factor, axis=through)
            return Plan(before, after, 1 if case.series is None else len(case.series.volumes))
        except SuperResolutionError:
            return Plan()


def check_header(case: Case, options: RunOptions) -> None:
    """Refuse a case for what its header shows, without its voxels and without torch.

    Raises:
        ImageError, UsageError: as :func:`monai_sr.io.images.read_header`.
    """
    if case.series is not None or case.fault is not None or not case.source.is_file():
        return
    with suppress(OSError), collect_notices(), naming(case.source):  # whoever reads the voxels says these
        read_header(case.source, geometry=options.reading.geometry)


def _header_of(case: Case, options: RunOptions) -> tuple[Grid, int | None, np.ndarray | None] | None:
    """Grid, axis and uneven positions of the slices; None for a header that needs the reader's care."""
    if case.series is not None:
        stack = stack_of(case.series, fill_gaps=options.reading.fill_gaps)
        header = case.series.frames[0].header
        size = (int(header.Columns), int(header.Rows), len(case.series.frames))
        return Grid(size, stack.affine), SLICE_AXIS, stack.positions
    header = read_header(case.source, geometry=options.reading.geometry)
    shape = header.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return (Grid(shape, header.affine), None, None) if len(shape) == 3 else None  # type: ignore[arg-type]
