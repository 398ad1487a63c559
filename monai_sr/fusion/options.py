"""What ``monai-sr fuse`` takes of the options, and its own. Needs no torch."""

from __future__ import annotations

from ..options import PARAMETERS, Parameter

TAKEN = (
    *("bundle", "spacing", "strict", "slice_thickness", "profile", "modality", "protocols"),
    *(name for name, parameter in PARAMETERS.items() if parameter.group in ("reading", "compute") and name != "series"),
    "overwrite",
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
