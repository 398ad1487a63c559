"""The Boutiques descriptor of ``monai-sr run``, made from its options.

``python -m monai_sr.clients.boutiques`` prints it; ``workflows/boutiques.json`` keeps it.
"""

from __future__ import annotations

import json
from typing import Any

from .. import __version__
from ..options import NOTICE, Parameter, parameters

_TYPES = {"flag": "Flag", "number": "Number", "count": "Number"}


def descriptor() -> dict[str, Any]:
    """By schema 0.5 of Boutiques."""
    known = parameters("run")
    placed = sorted(known, key=lambda one: bool(one.flag))  # what may take several values never comes first
    pairs = {tuple(sorted((one.name, *one.excludes))) for one in known if one.excludes}
    return {
        "name": "monai-sr",
        "description": f"Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones. {NOTICE}",
        "author": "The monai-sr authors",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join(["monai-sr run", *(f"[{one.name.upper()}]" for one in placed)]),
        "inputs": [_input(one) for one in known],
        "groups": [
            {"id": "_or_".join(names), "name": " or ".join(names), "members": list(names), "mutually-exclusive": True}
            for names in sorted(pairs)
        ],
        "output-files": [
            {
                "id": "result",
                "name": "Thin slices",
                "description": "The file, or the folder of all results, their JSON and the table monai-sr-run.tsv.",
                "path-template": "[OUTPUT]",
            }
        ],
        "tags": {"domain": ["neuroinformatics", "image processing", "mri", "ct"], "purpose": ["super-resolution"]},
    }


def _input(one: Parameter) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": one.name,
        "name": one.name.replace("_", " ").capitalize(),
        "description": one.text,
        "type": "File" if one.name == "input" else _TYPES.get(one.kind, "String"),
        "value-key": f"[{one.name.upper()}]",
        "optional": bool(one.flag),
    }
    if one.flag:
        made["command-line-flag"] = one.flag
    if one.many == "words":
        made["list"] = True
    elif one.kind == "count":
        made["integer"] = True
    if one.kind == "choice":
        made["value-choices"] = list(map(str, one.choices))
    if one.flag and one.kind != "flag" and one.default not in (None, ()):
        made["default-value"] = one.default
    if one.kind == "number":
        made |= {"minimum": 0, "exclusive-minimum": True}
    return made


if __name__ == "__main__":
    print(json.dumps(descriptor(), indent=4, ensure_ascii=False))
