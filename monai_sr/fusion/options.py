"""What ``monai-sr fuse`` takes of the options, and its own. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..options import PARAMETERS, Parameter

Field = Literal["union", "intersection", "first"]
"""What the common grid covers: all stacks, what every stack covers, or the first stack."""

TAKEN = (
    *("bundle", "spacing", "format", "strict", "slice_thickness", "profile", "modality", "protocols"),
    *(p.name for p in PARAMETERS.values() if p.group in ("reading", "compute") and p.name not in ("series", "adapt")),
    *("uncertainty", "report", "overwrite"),
    *("include", "exclude", "participant_label", "dry_run", "fail_fast", "num_parts", "part_id"),
)
"""Options of a run that a fusion takes too; those of the acquisition hold for every stack."""

OWN = (
    Parameter(
        "field",
        kind="choice",
        default="union",
        help="what the result covers",
        choices=("union", "intersection", "first"),
    ),
    Parameter("no_register", kind="flag", default=False, help="take the positions of the headers as they are"),
    Parameter("maps", kind="flag", default=False, help="write which stack measured closest as ..._stacks.nii.gz"),
)
"""Options of a fusion alone."""


@dataclass(frozen=True)
class FusionOptions:
    """The values of :data:`OWN`.

    Attributes:
        field: what the result covers.
        register: find rigid motions between the stacks; otherwise the positions in their headers are used.
        maps: also write which stack measured closest to each voxel.
    """

    field: Field = "union"
    register: bool = True
    maps: bool = False
