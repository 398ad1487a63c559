"""``slicer``: one volume, or stacks of one patient, as a command line module of 3D Slicer."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from ..clients.slicer.description import describe, describe_fusion
from ..fusion.options import FusionOptions
from ..options import RunOptions
from .config import run_options
from .terminal import complain, say


def slicer(given: argparse.Namespace) -> int:
    """``monai-sr slicer INPUT OUTPUT``"""
    if given.xml:
        say(describe_fusion() if given.fuse else describe())
        return 0
    options = run_options(given)
    if given.fuse:
        return _fuse(given, options)
    overlays = {name: Path(getattr(given, name)) for name in ("difference", "consistency") if hasattr(given, name)}
    module = import_module("..clients.slicer.module", __package__)  # which needs torch, and --xml does not
    outcome = module.run(options, overlays, say=say)
    for notice in outcome.warnings:
        complain(notice)
    say(f"{outcome.output}: {outcome.change}")
    return 0


def _fuse(given: argparse.Namespace, options: RunOptions) -> int:
    """``monai-sr slicer --fuse --second STACK [--third STACK] INPUT OUTPUT``"""
    stacks = [options.input, *(getattr(given, name) for name in ("second", "third") if hasattr(given, name))]
    files, tags = (import_module(f"..{name}", __package__) for name in ("fusion.files", "clients.slicer.tags"))
    fusion = FusionOptions(getattr(given, "field", "union"), not getattr(given, "no_register", False))
    with tags.told_to_slicer("monai-sr", f"fusing {len(stacks)} stacks", say=say) as progress:
        fused, written = files.fuse_files(stacks, options.output, options, fusion=fusion, progress=progress)
    say(f"{written[0]}: {len(fused.stacks)} stacks")
    return 0
