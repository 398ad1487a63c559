"""How BIDS names images: which suffixes and entities there are, and in which order.

The grammar is that of BIDS 1.11 (https://bids-specification.readthedocs.io), narrowed to images in
``anat``, and to ``ct/*_ct.nii[.gz]``, which BIDS does not know yet.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...io.images import NIFTI_SUFFIXES

ENTITIES = (
    *("sub", "ses", "task", "acq", "ce", "rec", "dir", "run"),
    *("echo", "flip", "inv", "mt", "part", "chunk", "res", "desc"),
)
"""Short names of the entities, in the order that BIDS prescribes."""

NUMBERED = {"run", "echo", "flip", "inv"}
COMMON = {"sub", "ses", "task", "acq", "ce", "rec", "run", "part", "chunk"}

RESULT = {"res": "thin", "desc": "SR"}
"""What the name of a result says besides that of its source."""

OF_A_STACK = ("acq", "run")
"""Entities in which the stacks of one contrast may differ."""

WEIGHTED = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "T2star", "FLASH", "PD")

ANAT: dict[str, tuple[set[str], set[str]]] = {
    **{suffix: (set(), {"echo"}) for suffix in WEIGHTED},
    "MEGRE": ({"echo"}, set()),
    "MESE": ({"echo"}, {"dir"}),
    "VFA": ({"flip"}, {"echo"}),
    "IRT1": ({"inv"}, set()),
    "MP2RAGE": ({"inv"}, {"echo", "flip"}),
    "MPM": ({"flip", "mt"}, {"echo"}),
    "MTS": ({"flip", "mt"}, {"echo"}),
    "MTR": ({"mt"}, set()),
}
"""Suffixes of images in ``anat``, and which entities each must and may have besides the common ones."""

CT: dict[str, tuple[set[str], set[str]]] = {"ct": (set(), set())}

MAPS = {
    *("T1map", "T2map", "T2starmap", "R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "UNIT1", "T1rho"),
    *("MWFmap", "MTVmap", "Chimap", "S0map", "M0map", "defacemask"),
}


class NotTakenError(Exception):
    """Code and reason why a file is left out."""


def is_label(text: str, *, number: bool = False) -> bool:
    """Whether an entity may have that label."""
    return re.fullmatch("[0-9]+" if number else "[0-9A-Za-z+]+", text) is not None


def parsed_name(path: Path, folders: dict[str, str]) -> tuple[dict[str, str], str]:
    """Entities and suffix of an image of a raw dataset.

    Args:
        path: the image, in a folder ``anat`` or ``ct``.
        folders: the entities that the folders above name.

    Raises:
        NotTakenError: BIDS has no such name, or not in this folder; or it is no image to super-resolve.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    if path.name[len(stem) :] not in NIFTI_SUFFIXES:
        raise NotTakenError("E-BIDS-NAME", "the extension must be .nii or .nii.gz, in lower case")
    *pairs, suffix = stem.split("_")
    known = CT if path.parent.name == "ct" else ANAT
    if suffix in MAPS:
        raise NotTakenError("E-BIDS-MAP", f"{suffix} is a map or a mask, not an image that slices average")
    if suffix not in known:
        hint = "".join(f"; {name} is meant" for name in known if name.lower() == suffix.lower())
        raise NotTakenError("E-BIDS-NAME", f"{suffix!r} is not an image suffix in {path.parent.name}{hint}")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, _, label = pair.partition("-")
        if not is_label(label, number=key in NUMBERED):
            raise NotTakenError("E-BIDS-NAME", f"{pair!r} is not an entity with a label")
        if key in entities:
            raise NotTakenError("E-BIDS-NAME", f"{key}- is there twice")
        entities[key] = label
    needed, allowed = known[suffix]
    for key in entities.keys() - COMMON - needed - allowed:
        raise NotTakenError("E-BIDS-NAME", f"a raw {suffix} has no {key}-")
    for key in needed - entities.keys():
        raise NotTakenError("E-BIDS-NAME", f"a {suffix} needs {key}-")
    if {key: entities.get(key) for key in ("sub", "ses")} != {key: folders.get(key) for key in ("sub", "ses")}:
        wanted = "_".join(f"{key}-{label}" for key, label in folders.items())
        raise NotTakenError("E-BIDS-NAME", f"a name in this folder must start with {wanted}_")
    ordered = [key for key in ENTITIES if key in entities]
    if list(entities) != ordered:
        raise NotTakenError("E-BIDS-NAME", f"the order must be {', '.join(f'{key}-' for key in ordered)}")
    if entities.get("part") == "phase":
        raise NotTakenError("E-BIDS-PHASE", "a phase image: phase wraps, so slices do not average it")
    return entities, suffix


def result_name(entities: dict[str, str], suffix: str, says: dict[str, str] = RESULT) -> str:
    """Name of the result of an image, without its extension; ``says`` holds the entities of the result itself."""
    labels = entities | says
    return "_".join([*(f"{key}-{labels[key]}" for key in ENTITIES if key in labels), suffix])
