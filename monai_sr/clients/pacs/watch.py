"""Super-resolve every new thick series of an archive once, and store the result beside its source.

Guarantee, for any number of kills and of watchers on one state folder: a series gives one derived
series for each set of settings. The UIDs of results depend only on the source and the settings. Results
wait in the state folder until the archive has all of them, so a partly stored series is completed.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from ...batch import CLAIMED, Case, Outcome, find_cases, load_model, made_by, process, resolve_options
from ...batch.claims import ClaimedError, hold_claim
from ...dicom import DERIVED_FORMATS, TOGETHER
from ...errors import ImageError, OutputError, UsageError, collect_notices, write_error
from ...files import create_folder, remove_leftovers, temporary_beside
from ...inference import Progress
from ...options import RunOptions
from .access import PacsError
from .archive import Archive, RemoteSeries
from .received import Received
from .state import Entry, State, name_of
from .thick import HEADER, THICK_RATIO, slices_in_pixels, why_not

MODALITIES = ("CT", "MR")

ATTEMPTS = 3
"""How often a series is begun whose process dies, or whose results the archive refuses."""

DAYS = 7
SETTLE = 60.0
INTERVAL = 60.0

LONGEST_WAIT = 3600.0
"""Seconds that a series which the archive does not give out is let alone at most."""


@dataclass(frozen=True)
class Event:
    """A report on a series.

    Attributes:
        series: a hash that names it.
        status: "stored", "left out", "failed", "later" (it is tried again) or "warning".
        text: in words; an error or a warning starts with its code.
    """

    series: str
    status: str
    text: str


@dataclass
class Round:
    """The counts of one search of the archive: how many series ended how.

    Attributes:
        waiting: changed a short time ago, or in work by another watcher.
        later: failed for now and are tried again.
        settled: done before.
    """

    stored: int = 0
    left_out: int = 0
    failed: int = 0
    waiting: int = 0
    later: int = 0
    settled: int = 0

    @property
    def exit_code(self) -> int:
        """0 all good, 4 some failed, 5 all failed, 11 the archive failed before the end."""
        if self.failed:
            return 4 if self.stored else 5
        return PacsError.exit_code if self.later else 0


@dataclass
class Watcher:
    """Looks for new thick series and super-resolves them.

    Attributes:
        archive: the archive, or what a node received.
        folder: of the state; holds records, and the series that is in work.
        options: of every result.
        modalities: "CT", "MR" or both.
        days: only studies of the last so many days.
        settle: seconds that a series must be unchanged before it is taken.
        thick_ratio: slices at least so many pixels apart are thick.
        report: called with every event.
        progress: called with the fraction of a series that is done.

    Raises:
        SuperResolutionError: the bundle or device cannot be used, or the folder cannot be written to.
    """

    archive: Archive | Received
    folder: Path
    options: RunOptions = field(default_factory=RunOptions)
    modalities: Sequence[str] = MODALITIES
    days: int = DAYS
    settle: float = SETTLE
    thick_ratio: float = THICK_RATIO
    report: Callable[[Event], None] = lambda event: None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self._model = load_model(self.options)
        wanted = self.options.wanted
        rules: dict[str, Any] = {"thick_ratio": self.thick_ratio, "strict": wanted.strict}
        if wanted.format == "nifti":
            raise UsageError("E-OUT-FORMAT", "an archive holds DICOM", fix="omit --format, or give classic or enhanced")
        volume = self.options.reading.volume
        if volume not in (None, *TOGETHER):
            problem = f"--volume {volume} chooses a volume of an image file"
            raise UsageError("E-USE", problem, fix="give --volume all or complete")
        if wanted.format in DERIVED_FORMATS:
            rules["format"] = wanted.format
        made = made_by(resolve_options(self.options, self._model), self._model)
        self._state = State(self.folder, made, rules=rules)
        self._postponed: dict[Path, tuple[float, float]] = {}  # until when, and for how long

    def look(self) -> Round:
        """Search the archive once and process every series that is ready.

        Raises:
            PacsError: the archive cannot be searched, refuses us, or did not take a result.
            OutputError: the disk of the state folder is full, or may not be written to.
        """
        create_folder(self.folder)
        remove_leftovers(self.folder)
        since = datetime.date.today() - datetime.timedelta(days=self.days)
        found = [
            (self._state.place(series.uid), series)
            for modality in self.modalities
            for series in self.archive.search(modality, since=f"{since:%Y%m%d}")
        ]
        counts = Round()
        # what waits to be stored comes first, so that there is never more than one of it
        for place, series in sorted(found, key=lambda one: not one[0].exists()):
            self._look_at(series, place, counts)
        return counts

    def _look_at(self, series: RemoteSeries, place: Path, counts: Round) -> None:
        entry = self._state.read(place)
        if entry is not None and entry.settles(series.instances) and not place.exists():
            self._note_late(series, place, entry)
            self.archive.release(series, is_stored=entry.status == "stored")
            counts.settled += 1
            return
        unfinished = entry is not None and entry.goes_on(series.instances)
        if time.monotonic() < self._postponed.get(place, (0.0, 0.0))[0]:
            counts.later += 1
        elif not unfinished and self._state.unchanged_for(place, series.instances) < self.settle:
            counts.waiting += 1
        else:
            try:
                with hold_claim(place):
                    self._bring_to_end(series, place, counts)
            except ClaimedError:
                counts.waiting += 1

    def _note_late(self, series: RemoteSeries, place: Path, entry: Entry) -> None:
        """Report, once, that a stored result lacks slices that arrived after its series was fetched (W-PACS-LATE)."""
        if entry.status == "stored" and series.instances > entry.instances:
            self._state.write(place, replace(entry, instances=series.instances))
            text = f"W-PACS-LATE: {series.instances - entry.instances} instance(s) arrived too late for the result"
            self.report(Event(name_of(series.uid), "warning", text))

    def _bring_to_end(self, series: RemoteSeries, place: Path, counts: Round) -> None:
        """Complete the work on a series whose claim this process holds."""
        entry = self._state.read(place)  # another watcher may have been here before the claim
        if entry is not None and entry.settles(series.instances):
            self._state.write(place, entry)  # which removes what a kill left behind
            counts.settled += 1
            return
        if entry is None or not entry.goes_on(series.instances):
            entry = Entry("begun", series.instances)
        if entry.attempts >= ATTEMPTS:
            code = entry.code or "E-WORKER"
            reason = entry.reason or f"the process that worked on it was killed, {ATTEMPTS} times"
            self._close(series, place, replace(entry, status="failed", code=code, reason=reason), counts)
            return
        # counted before the work, because a process that is killed can count nothing
        self._state.write(place, replace(entry, attempts=entry.attempts + 1, code="", reason=""))
        try:
            ended = self._attempt(series, place, replace(entry, code="", reason=""))
        except PacsError as error:
            self._interrupted(place, entry, error)
            if not _concerns_one_series(error) or (self._state.read(place) or entry).status == "made":
                raise  # a result that could not be stored waits by itself
            self._postpone(place)
            if error.code == "E-PACS-CONNECT":
                raise
            counts.later += 1
            self.report(Event(name_of(series.uid), "later", f"{error.code}: {error.problem}; it is tried again"))
        except (OutputError, ClaimedError) as error:
            self._interrupted(place, entry, error)
            raise
        except Exception as error:  # a fault of ours, which others need not suffer
            outcome = Outcome.failed(name_of(series.uid), error)
            entry = replace(entry, status="failed", code=outcome.code, reason=outcome.reason)
            self._close(series, place, entry, counts)
        except BaseException as error:  # stopped from outside
            self._interrupted(place, entry, error)
            raise
        else:
            self._postponed.pop(place, None)
            self._close(series, place, ended, counts)

    def _interrupted(self, place: Path, before: Entry, error: BaseException) -> None:
        """Take back an attempt that failed without a fault of the series; one that the archive refused counts."""
        now = self._state.read(place) or before
        if isinstance(error, PacsError) and error.code == "E-PACS-STORE":
            now = replace(now, code=error.code, reason=error.problem)
        else:
            now = replace(now, attempts=before.attempts)
        self._state.write(place, now)

    def _postpone(self, place: Path) -> None:
        """Let a series wait, twice as long each time."""
        wait = min(2 * self._postponed.get(place, (0.0, INTERVAL / 2))[1], LONGEST_WAIT)
        self._postponed[place] = time.monotonic() + wait, wait

    def _close(self, series: RemoteSeries, place: Path, entry: Entry, counts: Round) -> None:
        """Record and report the end of a series."""
        self._state.write(place, entry)
        self.archive.release(series, is_stored=entry.status == "stored")
        text = f"{entry.code}: {entry.reason}"
        if entry.status == "stored":
            counts.stored += 1
            text = f"{entry.stored} instances stored"
        elif entry.status == "failed":
            counts.failed += 1
        else:
            counts.left_out += 1
        self.report(Event(name_of(series.uid), entry.status, text))

    def _attempt(self, series: RemoteSeries, place: Path, entry: Entry) -> Entry:
        """Fetch, super-resolve and store a series; returns its entry."""
        if entry.status != "made":
            verdict = why_not(self.archive.headers(series, HEADER), thick_ratio=self.thick_ratio)
            if verdict is not None:
                return replace(entry, status="left out", code=verdict.code, reason=verdict.reason)
            fault = self._make(series, place)
            if fault is not None:
                return replace(entry, status="failed", code=fault[0], reason=fault[1])
            entry = replace(entry, status="made", attempts=0)
            self._state.write(place, replace(entry, attempts=1))
        files = sorted(file for result in _results(place) for file in result.iterdir())
        self.archive.store(files)
        return replace(entry, status="stored", stored=len(files))

    def _make(self, series: RemoteSeries, place: Path) -> tuple[str, str] | None:
        """Results of every thick volume of a series, into ``place``; code and reason where there is none."""
        fetched = temporary_beside(place.with_name(f"{place.name}-fetched"))
        try:
            fetched.mkdir()
            self.archive.fetch(series, fetched)
            with collect_notices():  # of files that are left out, which nobody needs to know
                try:
                    cases = find_cases(replace(self.options, input=str(fetched), output=f"{place}/"))
                except (ImageError, UsageError) as error:
                    return error.code, error.problem
            for old in _results(place):
                if old not in {case.target for case in cases}:
                    shutil.rmtree(old)
            remove_leftovers(place)
            faults = [fault for case in cases if (fault := self._make_one(case, series))]
        except OSError as error:
            raise write_error(fetched, error) from error
        finally:
            shutil.rmtree(fetched, ignore_errors=True)
        if _results(place):
            for code, reason in faults:
                self.report(Event(name_of(series.uid), "warning", f"{code}: a part of it is left out: {reason}"))
            return None
        return faults[0] if faults else ("E-PACS-THIN", "no part of it is a thick volume")

    def _make_one(self, case: Case, series: RemoteSeries) -> tuple[str, str] | None:
        """One volume; code and reason if there is no result."""
        if case.series is not None:
            ratio = slices_in_pixels(case.series.frames)
            if ratio is None or ratio < self.thick_ratio:
                return None
        outcome = process(case, self.options, self._model, progress=self.progress)
        if outcome.skipped == CLAIMED:
            raise ClaimedError(outcome.case)
        if isinstance(outcome.error, OutputError):
            raise outcome.error.at(self.folder)
        for notice in outcome.warnings:
            if notice.code == "W-SR-NOGAIN":
                shutil.rmtree(case.target)
                return "E-SR-NOGAIN", "no finer spacing is wanted than it has"
            self.report(Event(name_of(series.uid), "warning", str(notice)))
        return (outcome.code, outcome.reason) if outcome.status == "failed" else None


def watch(watcher: Watcher, *, interval: float = INTERVAL, report: Callable[[PacsError], None]) -> NoReturn:
    """Search repeatedly. Ends with an error that waiting does not solve, or by a signal.

    Args:
        watcher: the watcher.
        interval: seconds between searches.
        report: called with errors after which it continues.

    Raises:
        SuperResolutionError: see :meth:`Watcher.look`.
    """
    while True:
        try:
            watcher.look()
        except PacsError as error:
            if not error.is_temporary:
                raise
            report(error)
        time.sleep(interval)


def _concerns_one_series(error: PacsError) -> bool:
    """Whether the error concerns one series, so that others may succeed."""
    return error.is_temporary or error.code in ("E-PACS-ANSWER", "E-PACS-MISSING", "E-PACS-RIGHTS", "E-PACS-SERVER")


def _results(place: Path) -> list[Path]:
    """The derived series that wait to be stored."""
    return sorted(p for p in place.iterdir() if p.is_dir() and p.name[0] != ".") if place.is_dir() else []
