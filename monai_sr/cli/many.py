"""Many volumes to a folder, each with a result or a reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import settings_of
from .places import make_folder
from .terminal import bar, say

if TYPE_CHECKING:
    from ..batch import Outcome


def super_resolve_many(source: Path, target: Path, options: argparse.Namespace) -> int:
    """Every volume of a source, each with a result or a reason."""
    _check_together(options)
    from ..batch import RunLog, exit_code, find_cases, part_of, plan_table, run_cases, summary

    if options.scheduler:  # workers have a current folder of their own
        source, target = source.absolute(), target.absolute()
    cases = find_cases(
        source,
        target,
        include=options.include,
        exclude=options.exclude,
        series=options.series,
        as_nifti=options.format == "nifti",
        merge_by_geometry=bool(options.merge_by_geometry),
        participants=options.participant_label,
        masks=options.mask,
    )
    if options.format == "dicom" and not all(case.is_derived_dicom or case.fault for case in cases):
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    part = None
    if options.num_parts:
        part = options.part_id, options.num_parts
        cases = part_of(cases, part=part[0], parts=part[1])
    settings = settings_of(options)
    if options.dry_run:
        print(plan_table(cases, settings))
        return 0
    make_folder(target)
    shown = bar(len(cases), "volumes")

    def report(outcome: Outcome) -> None:
        with shown.external_write_mode():
            _tell(outcome, debug=options.debug)
        shown.update(int(shown.n) + 1 - shown.n)

    outcomes = run_cases(
        cases,
        settings,
        jobs=options.jobs,
        scheduler=options.scheduler,
        resources={"GPU": 1} if options.gpu_resource else None,
        fail_fast=options.fail_fast,
        log=RunLog(target, part=part),
        report=report,
        progress=lambda share: shown.update(int(shown.n) + min(share, 0.99) - shown.n),
    )
    shown.close()
    say(summary(outcomes))
    return exit_code(outcomes)


def _check_together(options: argparse.Namespace) -> None:
    """Options that only make sense together, or not at all."""
    if (options.num_parts is None) != (options.part_id is None):
        raise UsageError("E-USE", "--num-parts and --part-id belong together", fix="give both")
    if options.scheduler and options.jobs > 1:
        raise UsageError("E-USE", "--jobs is for this machine, --scheduler for a cluster", fix="give one of them")
    if options.gpu_resource and not options.scheduler:
        raise UsageError("E-USE", "--gpu-resource is for a cluster", fix="give --scheduler, or leave it out")


def _tell(outcome: Outcome, *, debug: bool) -> None:
    """One outcome to the user: results on stdout, what is wrong on stderr."""
    for text in outcome.warnings:
        print(f"monai-sr: {outcome.case}: {text}", file=sys.stderr)
    if outcome.status == "done":
        say(f"{outcome.output}: {outcome.change}")
    elif outcome.status == "failed":
        print(f"monai-sr: {outcome.code}: {outcome.case} - {outcome.reason}", file=sys.stderr)
        if debug and outcome.debug:
            print(outcome.debug, file=sys.stderr)
