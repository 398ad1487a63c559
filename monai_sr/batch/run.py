"""Many cases to their end, wherever they run: none is lost, and none stops the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ..bids import write_dataset_description
from ..engine.memory import memory_budget
from ..errors import warn
from ..files import remove_leftovers
from ..inference import Progress
from .cases import Case
from .cluster import run_on_cluster
from .log import RunLog
from .one import failed, process
from .outcomes import CLAIMED, Outcome, failure
from .pages import write_index
from .plan import plan_case
from .records import drop_claim
from .settings import Settings
from .workers import LOST, run_in_processes

NOT_RUN = "the run ended before"

HOPELESS = ("E-OUT-SPACE",)
"""What would happen to every other case too."""


def run_cases(
    cases: Sequence[Case],
    settings: Settings,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    fail_fast: bool = False,
    log: RunLog | None = None,
    report: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Super-resolve every case that is not done yet.

    Args:
        cases: from :func:`monai_sr.batch.find_cases`.
        settings: for each of them.
        jobs: processes on this machine.
        scheduler, resources: a Dask cluster instead, see :func:`monai_sr.batch.run_on_cluster`.
        fail_fast: end with the first case that fails.
        log: written to as cases end, and closed in the end.
        report: told each outcome as it comes.
        progress: told the share that is done of a case, if all run in this process.

    Returns:
        One outcome for every case, in their order.

    Raises:
        SuperResolutionError: bundle, device or scheduler cannot be used, or the log cannot be written.
    """
    _describe_datasets(cases)
    folders = {case.target.parent for case in cases}
    for folder in folders:
        remove_leftovers(folder)
    if scheduler is None:
        settings, jobs = _within_memory(cases, settings, jobs)
    ended: dict[Path, Outcome] = {}
    waiting = list(cases)
    try:
        for last in (False, True):
            # what another run holds is tried once more: it may be done then, or that run may be dead
            held = []
            with closing(_outcomes(waiting, settings, jobs, scheduler, resources, progress)) as outcomes:
                for case, outcome in outcomes:
                    if outcome.reason == CLAIMED and not last:
                        held.append(case)
                        continue
                    if outcome.code == LOST:
                        drop_claim(case.target)
                    if outcome.status == "failed" and not outcome.report:
                        outcome = failed(case, settings, outcome)
                    ended[case.target] = outcome
                    if log is not None:
                        log.add(outcome)
                    if report is not None:
                        report(outcome)
                    if outcome.code in HOPELESS or (fail_fast and outcome.status == "failed"):
                        held = []
                        break
            waiting = held
    finally:
        for folder in folders:
            remove_leftovers(folder)  # of processes that were killed meanwhile
    all_of_them = [ended.get(case.target) or Outcome(case.name, "skipped", reason=NOT_RUN) for case in cases]
    if log is not None:
        log.close(all_of_them)
        if settings.report:
            write_index(log.lines.parent)
    return all_of_them


def _describe_datasets(cases: Sequence[Case]) -> None:
    """Make the folders that results of BIDS datasets go to such datasets themselves."""
    found = {
        (case.target.parents[len(case.bids.target.parts) - 1], case.bids.root)
        for case in cases
        if case.bids is not None
    }
    for folder, root in found:
        write_dataset_description(folder, raw_root=root)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """What a run ends with: 0 all good, 4 some failed, 5 all failed, or the one reason of all of them."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    hopeless = [outcome.exit_code for outcome in failed if outcome.code in HOPELESS]
    if hopeless or not failed:
        return hopeless[0] if hopeless else 0
    if len(failed) < len(outcomes):
        return 4
    codes = {outcome.exit_code for outcome in failed}
    return codes.pop() if len(codes) == 1 else 5


def _outcomes(
    cases: Sequence[Case],
    settings: Settings,
    jobs: int,
    scheduler: str | None,
    resources: Mapping[str, float] | None,
    progress: Progress | None,
) -> Generator[tuple[Case, Outcome], None, None]:
    sound = []
    for case in cases:
        if case.fault is not None:
            yield case, Outcome(case.name, **failure(case.fault))
        else:
            sound.append(case)
    if not sound:
        return
    if scheduler is not None:
        yield from run_on_cluster(sound, settings, scheduler=scheduler, resources=resources)
    elif jobs > 1:
        yield from run_in_processes(sound, settings, jobs=jobs)
    else:
        model = settings.load()
        for case in sound:
            yield case, process(case, settings, model, progress=progress)


def _within_memory(cases: Sequence[Case], settings: Settings, jobs: int) -> tuple[Settings, int]:
    """Settings with the memory of one process, and as many processes as fit into it."""
    budget = settings.memory or memory_budget()
    if jobs > 1:
        engine = settings.load(device="cpu").engine
        largest = max(plan.least_memory(engine) for plan in (plan_case(case, settings) for case in cases))
        fitting = max(1, min(jobs, budget // largest))
        if fitting < jobs:
            warn(
                "W-MEM-JOBS",
                "the largest volume takes {largest_mib:.0f} MiB, so {fitting} of {jobs} jobs are run",
                facts={"largest_mib": largest / 2**20, "fitting": fitting, "jobs": jobs},
                stacklevel=3,
            )
        jobs = fitting
    return replace(settings, memory=budget // jobs), jobs
