"""What would be made of a volume, before anything is installed or run.

The rule is that of ``monai_sr.grid.target_grid``, which a test holds this equal to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SAME_SPACING = 0.01
"""Relative difference below which two spacings count as equal."""


@dataclass(frozen=True)
class Proposal:
    """Slices now and then.

    Attributes:
        axis: through-plane axis, 0 to 2.
        slices, spacing: acquired ones and how far apart, mm.
        new_slices, new_spacing: what becomes of them.
    """

    axis: int
    slices: int
    spacing: float
    new_slices: int
    new_spacing: float

    @property
    def text(self) -> str:
        """For the panel."""
        now = f"{self.slices} slices, one each {self.spacing:.4g} mm"
        if self.new_slices == self.slices:
            return f"{now}: fine enough, nothing to do"
        return f"{now} → {self.new_slices} slices, one each {self.new_spacing:.4g} mm"


def propose(
    shape: Sequence[int], spacings: Sequence[float], *, factor: float = 0, spacing: float = 0, axis: int | None = None
) -> Proposal:
    """What a volume of that shape and those spacings (mm) becomes.

    Args:
        factor: new slices for each acquired one; 0 if not given.
        spacing: wanted slice spacing, mm; 0 if not given: then the finer in-plane spacing.
        axis: through-plane axis; default the one of the largest spacing.

    Raises:
        ValueError: factor and spacing are both given, or no axis has the largest spacing.
    """
    if factor and spacing:
        raise ValueError("Give a factor or a spacing, not both.")
    order = sorted(range(3), key=lambda a: spacings[a])
    isotropic = spacings[order[2]] <= spacings[order[0]] * (1 + SAME_SPACING)
    if isotropic and axis is None and not factor and not spacing:
        return Proposal(2, shape[2], spacings[2], shape[2], spacings[2])
    if axis is None:
        if spacings[order[2]] <= spacings[order[1]] * (1 + SAME_SPACING):
            raise ValueError("The slice axis cannot be derived from the spacing: choose it.")
        axis = order[2]
    old, slices = spacings[axis], shape[axis]
    wanted = old / factor if factor else spacing or min(s for a, s in enumerate(spacings) if a != axis)
    if wanted >= old * (1 - SAME_SPACING):
        return Proposal(axis, slices, old, slices, old)
    return Proposal(axis, slices, old, max(1, math.floor(slices * old / wanted + 0.5)), wanted)
