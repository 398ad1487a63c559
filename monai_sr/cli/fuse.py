"""``fuse``: several stacks of one patient into one volume, for one patient or many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..batch.cases import names_one_file
from ..errors import UsageError, printable
from ..fusion.cases import FusionCase, find_fusion, find_fusions
from ..fusion.files import fuse_files, process_stacks
from ..fusion.fuse import Fused
from ..fusion.options import TAKEN, FusionOptions
from ..grid import grid_of
from ..options import RunOptions
from .run import work_on
from .terminal import progress_bar, say


def fuse(given: argparse.Namespace) -> int:
    """``monai-sr fuse STACK STACK... OUTPUT``, or ``monai-sr fuse --from FOLDER OUTPUT``"""
    chosen = {name: getattr(given, name) for name in TAKEN if hasattr(given, name)}
    options = RunOptions.from_dict({"output": given.output} | chosen)
    fusion = FusionOptions(given.field, not given.no_register, given.maps)
    if given.source and given.stacks:
        problem = f"--from {given.source} and {len(given.stacks)} stack(s) were given"
        raise UsageError("E-USE", problem, fix="give one of them")
    sources = [given.source] if given.source else given.stacks
    options = replace(options, input=sources[0] if sources else "")
    if sources and not names_one_file(options):
        cases = find_fusions(options) if len(sources) == 1 else [find_fusion(list(map(Path, sources)), options)]
        if options.selection.dry_run:
            _show_plan(cases)
            return 0
        return work_on(cases, options, debug=given.debug, work=partial(process_stacks, fusion=fusion))
    if options.selection.dry_run:
        raise UsageError("E-USE", "--dry-run is for many stacks", fix="give --from FOLDER OUTFOLDER, or omit it")
    bar = progress_bar(Path(given.output).name)
    fused, written = fuse_files(sources, given.output, options, fusion=fusion, progress=bar)
    say(text_of(fused, written[0]))
    for path in written[1:]:
        say(path)
    return 0


def _show_plan(cases: Sequence[FusionCase]) -> None:
    """Which stacks would be fused, and what the result would be called."""
    for case in cases:
        names = (stack.series.label if stack.series else stack.path.name for stack in case.stacks)
        say(f"{printable(str(case.target))}: {len(case.stacks)} stacks ({printable(', '.join(names))})")


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
