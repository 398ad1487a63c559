"""``slicer``: one volume as a command line module of 3D Slicer."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from ..clients.slicer.description import describe
from .config import run_options
from .terminal import complain, say


def slicer(given: argparse.Namespace) -> int:
    """``monai-sr slicer INPUT OUTPUT``"""
    if given.xml:
        say(describe())
        return 0
    options = run_options(given)
    overlays = {name: Path(getattr(given, name)) for name in ("difference", "consistency") if hasattr(given, name)}
    module = import_module("..clients.slicer.module", __package__)  # which needs torch, and --xml does not
    outcome = module.run(options, overlays, say=say)
    for notice in outcome.warnings:
        complain(notice)
    say(f"{outcome.output}: {outcome.change}")
    return 0
