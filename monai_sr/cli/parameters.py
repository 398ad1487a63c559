"""What a command takes, as data: what other programs' descriptions of it are made from.

The parser of the command line is the one source; 3D Slicer's XML, the Boutiques descriptor and the Nipype
interface follow it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from .parser import make_parser

Kind = Literal["flag", "number", "count", "text", "choice"]

ABOUT_THE_PROGRAM = {"help", "debug", "xml"}
"""Options that say nothing about the work, so no description names them."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a command.

    Attributes:
        name: as Python writes it, such as ``slice_thickness``.
        flag: as the command line writes it, such as ``--slice-thickness``; empty if it goes by its place.
        kind: "flag" takes no value, "number" one above 0, "count" a whole one, "choice" one of ``choices``.
        choices: as words.
        default: of the command line; None where it finds the value itself, as ``help`` says.
        many: takes several values.
        help: one line.
        excludes: names of those that cannot be given with it.
    """

    name: str
    flag: str
    kind: Kind
    choices: tuple[str, ...]
    default: Any
    many: bool
    help: str
    excludes: tuple[str, ...]


def parameters(command: str) -> list[Parameter]:
    """What ``monai-sr COMMAND`` takes, in the order of its help.

    Raises:
        KeyError: there is no such command.
    """
    parser = make_parser(defaultdict(lambda: lambda _: 0))
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    chosen = commands.choices[command]
    groups = [[a.dest for a in group._group_actions] for group in chosen._mutually_exclusive_groups]
    rivals = {name: [other for other in group if other != name] for group in groups for name in group}
    return [
        Parameter(
            name=action.dest,
            flag=action.option_strings[0] if action.option_strings else "",
            kind=_kind_of(action),
            choices=tuple(map(str, action.choices or ())),
            default=action.default,
            many=action.nargs in ("+", "*"),
            help=(action.help or "") % {"default": action.default},
            excludes=tuple(rivals.get(action.dest, ())),
        )
        for action in chosen._actions
        if action.dest not in ABOUT_THE_PROGRAM
    ]


def _kind_of(action: argparse.Action) -> Kind:
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return "choice"
    kinds: dict[str, Kind] = {"_positive": "number", "_share": "number", "_count": "count", "int": "count"}
    return kinds.get(getattr(action.type, "__name__", ""), "text")
