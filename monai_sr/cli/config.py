"""Options from the command line and a file: JSON, YAML, or the record beside a result."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, naming
from ..options import BUNDLES, LEFT_OUT, PARAMETERS, RunOptions, flat_options

MOST_BRACKETS = 1000
"""In a YAML file: nested ones take time by the square of their number."""


def run_options(given: argparse.Namespace) -> RunOptions:
    """What was chosen: on the command line, else in the file of ``--config``, else by default.

    Raises:
        UsageError: the file cannot be used, or options contradict each other.
    """
    see_help, known = f"see monai-sr {given.command} --help", PARAMETERS.keys() - LEFT_OUT[given.command]
    chosen = {name: value for name, value in vars(given).items() if name in known}
    places = [chosen.pop(name) for name in ("input", "output") if name in chosen]
    for name in ("input", "output"):
        option = getattr(given, f"{name}_option", None)
        if option or places:
            chosen[name] = option or places.pop(0)
    if places:
        raise UsageError("E-USE", f"unrecognized argument: {places[0]}", fix=see_help)
    config = read_config(Path(given.config)) if getattr(given, "config", None) else {}
    rivals = {rival for name in chosen for rival in PARAMETERS[name].excludes}
    config = {name: value for name, value in config.items() if name not in rivals}
    options = RunOptions.from_dict(config | chosen)
    for name in ("input", "output"):
        if not getattr(options, name) and name not in LEFT_OUT[given.command]:
            raise UsageError("E-USE", f"{name.upper()} is missing", fix=see_help)
    return options


def read_config(path: Path) -> dict[str, Any]:
    """The options that a JSON or YAML file gives, by name; or the record beside a result.

    Raises:
        UsageError: it cannot be read, names an unknown option, or one does not accept its value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else _from_yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError("E-CONFIG", f"it cannot be read ({first})", path=path) from error
    record, default = content.get("monai_sr") if isinstance(content, Mapping) else None, {}
    if isinstance(record, Mapping):
        content = record.get("options")
        # the options of a record leave out a default bundle, and another version may have another default
        short = str(record.get("bundle")).removesuffix("_super_resolution")
        default = {"bundle": short} if short in BUNDLES else {}
    if not isinstance(content, Mapping):
        raise UsageError("E-CONFIG", "it does not name options", fix="write 'factor: 4', for example", path=path)
    with naming(path):
        RunOptions.from_dict(content)
        return default | flat_options(content)


def _from_yaml(text: str) -> Any:
    import yaml  # here, because a command seldom needs it

    if sum(map(text.count, "[{")) > MOST_BRACKETS:
        raise ValueError("more brackets than any options have")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
