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
    placed = sorted(known, key=lambda parameter: bool(parameter.flag))  # what may take several values never comes first
    pairs = {tuple(sorted((parameter.name, *parameter.excludes))) for parameter in known if parameter.excludes}
    return {
        "name": "monai-sr",
        "description": f"Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones. {NOTICE}",
        "author": "The monai-sr authors",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join(["monai-sr run", *(f"[{parameter.name.upper()}]" for parameter in placed)]),
        "inputs": [_input(parameter) for parameter in known],
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


def _input(parameter: Parameter) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": parameter.name,
        "name": parameter.name.replace("_", " ").capitalize(),
        "description": parameter.text,
        "type": "File" if parameter.name == "input" else _TYPES.get(parameter.kind, "String"),
        "value-key": f"[{parameter.name.upper()}]",
        "optional": bool(parameter.flag),
    }
    if parameter.flag:
        made["command-line-flag"] = parameter.flag
    if parameter.many == "words":
        made["list"] = True
    elif parameter.kind == "count":
        made["integer"] = True
    if parameter.kind == "choice":
        made["value-choices"] = list(map(str, parameter.choices))
    if parameter.flag and parameter.kind != "flag" and parameter.default not in (None, ()):
        made["default-value"] = parameter.default
    if parameter.kind == "number":
        made |= {"minimum": 0, "exclusive-minimum": True}
    return made


if __name__ == "__main__":
    print(json.dumps(descriptor(), indent=4, ensure_ascii=False))
