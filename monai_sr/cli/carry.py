"""``carry``: masks of the thin slices on the thick ones, or of the thick slices on the thin ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch import Outcome, exit_code, summary
from ..batch.carry import carry_file, carry_folder, find_mask_cases
from ..errors import printable
from ..options import RunOptions
from .terminal import complain, say


def carry(given: argparse.Namespace) -> int:
    """``monai-sr carry MASK --from IMAGE --to IMAGE OUTPUT``"""
    names = ("slice_thickness", "profile", "axis", "volume", "overwrite")
    options = RunOptions.from_dict({name: getattr(given, name) for name in names})
    mask, target, first, second = map(Path, (given.mask, given.output, given.from_, given.to))
    if not mask.is_dir():
        _, record = carry_file(mask, target, first, second, options)
        say(f"{target}: {record['monai_sr']['carried']['change']}")
        return 0
    cases = find_mask_cases(mask, target, first, second, include=given.include or (), exclude=given.exclude or ())
    outcomes = carry_folder(cases, target, options, report=_show)
    say(summary(outcomes))
    return exit_code(outcomes)


def _show(outcome: Outcome) -> None:
    for notice in outcome.warnings:
        complain(notice)
    if outcome.error is not None:
        complain(f"{outcome.code}: {outcome.case} - {outcome.reason}")
    elif outcome.status == "done":
        say(f"{printable(outcome.output)}: {outcome.change}")
