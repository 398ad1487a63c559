"""``completion``: the script by which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module

from ..codes import CODES
from ..errors import UsageError
from ..io.shelf import NAMES, SPLINE
from ..options import PARAMETERS
from .terminal import say

FOLDERS = ("FOLDER", "BIDS_DIR", "OUTPUT_DIR")


def completion(options: argparse.Namespace) -> int:
    """``monai-sr completion SHELL``"""
    try:
        shtab = import_module("shtab")
    except ModuleNotFoundError as error:
        fix = 'pip install "monai-sr[completion]"'
        raise UsageError("E-EXTRA", "shtab is not installed, which makes completions", fix=fix) from error
    parser: argparse.ArgumentParser = import_module(".parser", __package__).make_parser()
    for action in _actions(parser):
        values = _values_of(action)
        if values:
            action.choices = values
        elif action.nargs != 0 and not isinstance(action, argparse._SubParsersAction):
            where = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE
            action.complete = where  # type: ignore[attr-defined]
    say(shtab.complete(parser, shell=options.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


def _values_of(action: argparse.Action) -> list[str]:
    """What may be given to an argument, as far as it is a list."""
    if action.choices or action.nargs == 0:
        return []
    if action.dest == "bundle":
        return [*NAMES, SPLINE]
    if action.dest == "code":
        return list(CODES)
    return [str(value) for value in PARAMETERS[action.dest].choices] if action.dest in PARAMETERS else []
