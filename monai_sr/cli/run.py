"""``run`` and ``bids``: one volume or many, each with a result or a reason."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import batch
from ..batch.cases import find_cases
from ..batch.chosen import Case
from ..batch.plan import check_header
from ..batch.planned import LONG, plan_model
from ..batch.record import record_beside
from ..errors import printable
from ..options import RunOptions
from ..profiles import read_protocols
from .check import fact_lines
from .config import run_options
from .terminal import answer, bar, complain, in_json, say, say_details

if TYPE_CHECKING:
    from ..batch.log import Outcome


def run(given: argparse.Namespace) -> int:
    """``monai-sr run INPUT OUTPUT``"""
    return super_resolve(run_options(given), given)


def bids(given: argparse.Namespace) -> int:
    """``monai-sr bids BIDS_DIR OUTPUT_DIR participant``"""
    options = run_options(given)
    labels = options.selection.participant_label or ()
    return super_resolve(replace(options, selection=replace(options.selection, participant_label=labels)), given)


def super_resolve(options: RunOptions, given: argparse.Namespace) -> int:
    """Find the cases, plan or run them, and show what became of each; the exit code.

    What is refused before the first volume is read is refused without torch, whose import takes a second.
    """
    if options.acquisition.protocols:
        read_protocols(options.acquisition.protocols)  # a table that is none fails before the work
    cases = find_cases(options)
    if cases and cases[0].is_named and not (options.selection.dry_run or options.outputs.report or in_json()):
        check_header(cases[0], options)
    if options.selection.dry_run:
        return foresee(cases, options)
    with given.importing():
        work = batch.process  # and torch with it
    return work_on(cases, options, debug=given.debug, work=work)


def work_on(cases: Sequence[Case], options: RunOptions, *, debug: bool, work: Callable[..., Outcome]) -> int:
    """Run cases and show what became of each; the exit code. ``work`` as of :func:`monai_sr.batch.run_cases`."""
    log = batch.open_log(options)
    shown = bar(len(cases), cases[0].name if len(cases) == 1 else "volumes")

    def report(outcome: Outcome) -> None:
        with shown.external_write_mode():
            show(outcome, cases, debug=debug)
        shown.update(int(shown.n) + 1 - shown.n)
        shown.refresh()

    def progress(done: float) -> None:
        shown.update(int(shown.n) + min(done, 0.99) - shown.n)

    outcomes = batch.run_cases(cases, options, log=log, report=report, progress=progress, work=work)
    shown.close()
    if log is not None:
        say(batch.summary(outcomes))
    answer(volumes=[outcome.to_dict() for outcome in outcomes])
    return batch.exit_code(outcomes)


def foresee(cases: list[Case], options: RunOptions) -> int:
    """Show what would become of each case, and make nothing; the exit code.

    Without torch and MONAI, unless they are needed to know what computes, or how long a long run takes.
    """
    planned, forecasts = plan_model(options), []
    with bar(len(cases), "volumes") as shown:
        for forecast in batch.forecast_cases(cases, options, planned or batch.load_model(options)):
            forecasts.append(forecast)
            for notice in forecast.warnings:
                complain(notice)
            shown.update()
    if planned is not None and sum(forecast.seconds for forecast in forecasts) > LONG:
        seconds = batch.speed_of(batch.load_model(options), options)
        forecasts = [
            replace(forecast, seconds=seconds(*forecast.voxels)) if forecast.memory else forecast
            for forecast in forecasts
        ]
    say(batch.forecast_table(forecasts))
    if len(forecasts) == 1:
        for path in forecasts[0].outputs:
            say(f"would write {printable(str(path))}")
    answer(volumes=[forecast.to_dict() | forecast.costs() for forecast in forecasts])
    return batch.exit_code_of([forecast.error for forecast in forecasts])


def show(outcome: Outcome, cases: Sequence[Case], *, debug: bool) -> None:
    """One outcome to the user: results on stdout, what is wrong on stderr."""
    named = cases[0].is_named
    for notice in outcome.warnings:
        complain(notice)
    if outcome.error is not None and in_json():
        complain(outcome.error.at(cases[0].source) if named else outcome.error)
    elif outcome.error is not None:
        path = outcome.error.path or cases[0].source if named else outcome.case
        place = "" if named and outcome.code == "E-BUG" else f"{path} - "
        complain(f"{outcome.code}: {place}{outcome.reason}")
        if debug:
            complain(outcome.debug)
    elif outcome.status == "done":
        say(f"{printable(outcome.output)}: {outcome.change}")
        if named and outcome.verdict:
            say(f"  {outcome.verdict}")
        for path in outcome.beside if named else ():
            say(printable(path))
        say_details(details(record_beside(Path(outcome.output)) or {}))
    elif named:
        say(f"{printable(str(cases[0].target))}: {outcome.skipped}")


def details(record: Mapping[str, Any]) -> Iterator[str]:
    """What ``--verbose`` says of a result, by the record beside it."""
    if "engine" in record:
        name = " ".join(filter(None, (record["bundle"], record["bundle_version"])))
        weights = f", weights {record['weights_sha256'][:12]}" if record["weights_sha256"] else ""
        yield f"  {'model':15} {name}{weights}"
        yield f"  {'computed by':15} {record['engine']} on {record['device']}, tiles of {record['tile_voxels']} voxels"
    yield from fact_lines(record.get("acquired", {}))
    if "seconds" in record:
        yield f"  {'took':15} {record['seconds']:.1f} s, peak memory {record['peak_memory_mib']:.0f} MiB"
