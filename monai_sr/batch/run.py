"""Process many cases, in this process, in others or on a cluster. No case is lost, and no case stops the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ..engine import Progress
from ..engine.memory import memory_budget
from ..errors import warn
from ..files import make_folder, remove_leftovers
from ..options import RunOptions
from .bids import write_dataset_description
from .case import process
from .cases import find_cases, names_one_file
from .chosen import Case
from .claims import drop_claim
from .cluster import run_on_cluster
from .log import CLAIMED, HOPELESS, Outcome, RunLog
from .model import fitting_jobs, load_model
from .pages import CasePage, write_index
from .plan import plan_case
from .workers import LOST, run_in_processes

NOT_RUN = "the run ended before"


def run(
    options: RunOptions, *, report: Callable[[Outcome], None] | None = None, progress: Progress | None = None
) -> list[Outcome]:
    """Super-resolve the input of ``options``, as ``monai-sr run`` does; one outcome for every volume.

    Args:
        options: input, output and all other options.
        report: called with each outcome as it comes.
        progress: called with the fraction that is done of a volume, if all run in this process.

    Raises:
        SuperResolutionError: there is no input, options contradict each other, the bundle cannot be used,
            or the output cannot be written. A volume that fails is an outcome, and no exception.
    """
    cases = find_cases(options)
    return run_cases(cases, options, log=open_log(options), report=report, progress=progress)


def open_log(options: RunOptions) -> RunLog | None:
    """The log in the output folder, which is created; None if the output is a file.

    Raises:
        OutputError: the folder cannot be written to.
    """
    if names_one_file(options):
        return None
    selection = options.selection
    part = None
    if selection.part_id is not None and selection.num_parts is not None:
        part = selection.part_id, selection.num_parts
    return RunLog(make_folder(Path(options.output)), part=part)


def run_cases(
    cases: Sequence[Case],
    options: RunOptions,
    *,
    memory: int | None = None,
    log: RunLog | None = None,
    report: Callable[[Outcome], None] | None = None,
    progress: Progress | None = None,
    work: Callable[..., Outcome] = process,
) -> list[Outcome]:
    """Super-resolve all cases that are not done yet.

    Args:
        cases: from :func:`monai_sr.batch.find_cases`.
        options: how, and on which processes or cluster.
        memory: bytes that the run may take. Default: the free memory.
        log: written to as cases end, and closed in the end.
        report: called with each outcome as it comes.
        progress: called with the fraction that is done of a case, if all run in this process.
        work: what is done with a case in this process, as of :func:`monai_sr.batch.process`.

    Returns:
        One outcome for every case, in their order.

    Raises:
        SuperResolutionError: bundle, device or scheduler cannot be used, or the log cannot be written.
    """
    _describe_datasets(cases)
    folders = {case.target.parent for case in cases}
    for folder in folders:
        remove_leftovers(folder)
    memory = memory_budget() if memory is None else memory
    ended: dict[Path, Outcome] = {}
    waiting = list(cases)
    try:
        for last in (False, True):
            # what another run holds is tried once more: it may be done then, or that run may be dead
            held = []
            with closing(_outcomes(waiting, options, memory, progress, work)) as outcomes:
                for case, outcome in outcomes:
                    if outcome.skipped == CLAIMED and not last:
                        held.append(case)
                        continue
                    if outcome.code == LOST:
                        drop_claim(case.target)
                    if outcome.status == "failed" and not outcome.report:
                        page = CasePage(case, options.outputs, folder=options.output)
                        page.show_failure(outcome.code, outcome.reason)
                        outcome = replace(outcome, report=page.written)
                    ended[case.target] = outcome
                    if log is not None:
                        log.add(outcome)
                    if report is not None:
                        report(outcome)
                    if outcome.code in HOPELESS or (options.selection.fail_fast and outcome.status == "failed"):
                        held = []
                        break
            waiting = held
    finally:
        for folder in folders:
            remove_leftovers(folder)  # of processes that were killed meanwhile
        for case in cases:
            if case.target not in ended:
                drop_claim(case.target)
    all_of_them = [ended.get(case.target) or Outcome(case.name, "skipped", skipped=NOT_RUN) for case in cases]
    _compare_profiles(all_of_them)
    if log is not None:
        log.close(all_of_them)
        if options.outputs.report:
            write_index(log.lines.parent)
    return all_of_them


def _compare_profiles(outcomes: Sequence[Outcome]) -> None:
    """Warn if volumes of one geometry, probably of one protocol, have different estimated slice profiles."""
    groups: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for facts in (outcome.facts for outcome in outcomes if outcome.facts.get("slice_profile")):
        if facts["slice_profile_source"] in ("estimated", "assumed"):
            geometry = (str(facts[name]) for name in ("slice_thickness", "slice_spacing", "factor"))
            groups[tuple(geometry)][facts["slice_profile"]] += 1
    for (thickness, *_), profiles in groups.items():
        if len(profiles) > 1:
            counts = ", ".join(f"{count} {profile}" for profile, count in profiles.most_common())
            problem = "volumes of one geometry (slice thickness {thickness} mm) got different slice profiles: {counts}"
            warn("W-PROFILE-MIXED", problem, facts={"thickness": thickness, "counts": counts, **profiles})


def _describe_datasets(cases: Sequence[Case]) -> None:
    """Write the dataset descriptions of folders that get results of BIDS datasets."""
    found = {
        (case.target.parents[len(case.bids.target.parts) - 1], case.bids.root)
        for case in cases
        if case.bids is not None
    }
    for folder, root in found:
        write_dataset_description(folder, raw_root=root)


def _outcomes(
    cases: Sequence[Case], options: RunOptions, memory: int, progress: Progress | None, work: Callable[..., Outcome]
) -> Generator[tuple[Case, Outcome], None, None]:
    sound, selection = [], options.selection
    for case in cases:
        if case.fault is not None:
            yield case, Outcome.failed(case.name, case.fault)
        else:
            sound.append(case)
    if not sound:
        return
    if selection.scheduler is not None:
        resources = {"GPU": 1.0} if selection.gpu_resource else None
        yield from run_on_cluster(sound, options, scheduler=selection.scheduler, resources=resources)
        return
    jobs = selection.jobs
    if jobs > 1:
        plans = [plan_case(case, options) for case in sound]
        jobs = fitting_jobs(plans, load_model(options, device="cpu"), jobs=jobs, memory=memory)
    if jobs > 1:
        yield from run_in_processes(sound, options, jobs=jobs, memory=memory // jobs)
        return
    model = load_model(options)
    for case in sound:
        yield case, work(case, options, model, memory=memory, progress=progress)
