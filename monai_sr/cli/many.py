"""Many volumes to a folder, each with a result or a reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .places import make_folder
from .terminal import bar, complain, say

if TYPE_CHECKING:
    from ..batch import Outcome
    from ..options import RunOptions


def super_resolve_many(source: Path, target: Path, options: RunOptions, *, debug: bool) -> int:
    """Every volume of a source, each with a result or a reason."""
    from ..batch import RunLog, Settings, exit_code, find_cases, part_of, plan_table, run_cases, summary

    selection = options.selection
    if selection.scheduler:  # workers have a current folder of their own
        source, target = source.absolute(), target.absolute()
    cases = find_cases(
        source,
        target,
        include=selection.include,
        exclude=selection.exclude,
        series=options.reading.series,
        as_nifti=options.wanted.format == "nifti",
        merge_by_geometry=options.reading.merge_by_geometry,
        participants=selection.participant_label,
        masks=options.outputs.mask,
    )
    if options.wanted.format == "dicom" and not all(case.is_derived_dicom or case.fault for case in cases):
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    part = None
    if selection.part_id is not None and selection.num_parts is not None:
        part = selection.part_id, selection.num_parts
        cases = part_of(cases, part=part[0], parts=part[1])
    settings = Settings.of(options)
    if selection.dry_run:
        say(plan_table(cases, settings))
        return 0
    make_folder(target)
    shown = bar(len(cases), "volumes")

    def report(outcome: Outcome) -> None:
        with shown.external_write_mode():
            _tell(outcome, debug=debug)
        shown.update(int(shown.n) + 1 - shown.n)

    outcomes = run_cases(
        cases,
        settings,
        jobs=selection.jobs,
        scheduler=selection.scheduler,
        resources={"GPU": 1} if selection.gpu_resource else None,
        fail_fast=selection.fail_fast,
        log=RunLog(target, part=part),
        report=report,
        progress=lambda share: shown.update(int(shown.n) + min(share, 0.99) - shown.n),
    )
    shown.close()
    say(summary(outcomes))
    return exit_code(outcomes)


def _tell(outcome: Outcome, *, debug: bool) -> None:
    """One outcome to the user: results on stdout, what is wrong on stderr."""
    for notice in outcome.warnings:
        complain(notice)
    if outcome.status == "done":
        say(f"{outcome.output}: {outcome.change}")
    elif outcome.status == "failed":
        complain(f"{outcome.code}: {outcome.case} - {outcome.reason}")
        if debug and outcome.debug:
            complain(outcome.debug)
