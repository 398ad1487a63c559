"""``fuse``: several stacks of one patient into one volume."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..fusion.files import fuse_files
from ..fusion.fuse import Fused
from ..fusion.options import TAKEN
from ..grid import grid_of
from ..options import RunOptions
from .terminal import progress_bar, say


def fuse(given: argparse.Namespace) -> int:
    """``monai-sr fuse STACK STACK... OUTPUT``"""
    options = RunOptions.from_dict({name: getattr(given, name) for name in TAKEN if hasattr(given, name)})
    fused, written = fuse_files(
        given.stacks,
        given.output,
        options,
        field=given.field,
        register=not given.no_register,
        maps=given.maps,
        progress=progress_bar(Path(given.output).name),
    )
    say(text_of(fused, written[0]))
    for path in written[1:]:
        say(path)
    return 0


def text_of(fused: Fused, target: Path) -> str:
    """What became of each stack, and the resolution along each axis of the result."""
    lines = [f"{target}: {len(fused.stacks)} stacks -> {grid_of(fused.image).in_words()}"]
    for stack in fused.stacks:
        before = stack.acquired.grid.in_words(stack.acquired.axis, stack.acquired.slice_spacing)
        moved = (
            f"moved {stack.motion.mm:.2g} mm, {stack.motion.degrees:.2g} degrees"
            if stack.motion.is_used
            else "not moved"
        )
        lines.append(f"  {stack.name}: {before}, {moved}, NRMSE {stack.agreement.nrmse:.3g}")
    axes = ", ".join(fused.resolution(axis).text() for axis in range(3))
    lines.append(f"  resolution along its axes: {axes}")
    return "\n".join(lines)
