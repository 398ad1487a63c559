"""Outcomes of cases: a line in a log when a case ends, and a table when all have ended."""

from __future__ import annotations

import csv
import io
import json
import os
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..engine.memory import MemoryShortError, is_out_of_memory
from ..errors import SuperResolutionError, SuperResolutionWarning, printable, write_error
from ..files import write_text
from ..trust.resolution import length_text

Status = Literal["done", "skipped", "failed"]

ALREADY_DONE = "already done"
CLAIMED = "another run works on it"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    Attributes:
        case: its name.
        status: done, skipped or failed.
        output: path of the result, if it is there now.
        error: why it failed.
        skipped: why it was skipped.
        change: grid before and after, in words.
        facts: see :func:`monai_sr.batch.record.essentials`; empty without a result.
        warnings: each once.
        seconds: duration.
        peak_memory_mib: of the process up to its end.
        debug: the traceback of an error.
        report: path of the page about it, if there is one.
        beside: paths of masks, maps and pages that were written beside the result.
    """

    case: str
    status: Status
    output: str = ""
    error: SuperResolutionError | None = None
    skipped: str = ""
    change: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[SuperResolutionWarning, ...] = ()
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    debug: str = field(default="", repr=False)
    report: str = ""
    beside: tuple[str, ...] = ()

    @classmethod
    def failed(cls, case: str, error: Exception, **known: Any) -> Outcome:
        """The outcome of a case that ended with an error."""
        debug = "".join(traceback.format_exception(error))
        return cls(case, "failed", error=explain(error), debug=debug, **known)

    @property
    def verdict(self) -> str:
        """One line on whether to trust the result, and why; empty without a result."""
        if self.facts.get("score") is None:
            return ""
        facts = self.facts
        within = {True: "agrees with the scan", False: "does NOT agree with the scan", None: "differs from the scan by"}
        limit = f" (limit {100 * facts['limit']:.2g} %)" if facts["limit"] is not None else ""
        before, after = (
            length_text({"mm": facts[name], "bounded": facts[f"{name}_bounded"]})
            for name in ("resolution_before", "resolution")
        )
        thickness = facts["slice_thickness"]
        thick = f"{thickness:.4g} mm" if isinstance(thickness, float | int) else "varying"
        return (
            f"{within[facts['within_limit']]}: {100 * facts['score']:.2g} % of the range in the worst slice{limit}; "
            f"resolves {before} before, {after} after; slice thickness {thick} "
            f"({facts['slice_thickness_source']}), profile {facts['slice_profile']} ({facts['slice_profile_source']})"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "case": self.case,
            "status": self.status,
            "output": self.output,
            "skipped": self.skipped,
            "change": self.change,
            **self.facts,
            "beside": list(self.beside),
            "report": self.report,
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
            "error": self.error and self.error.to_dict(),
            "warnings": [notice.to_dict() for notice in self.warnings],
        }

    @property
    def code(self) -> str:
        """Of the error."""
        return self.error.code if self.error else ""

    @property
    def reason(self) -> str:
        """Why it is not done: the problem and the remedy, without a path."""
        if self.error is None:
            return self.skipped
        return " ".join(f"{self.error.problem.rstrip('.')}. Fix: {self.error.remedy.rstrip('.')}.".split())

    @property
    def exit_code(self) -> int:
        """Of the error; 0 without one."""
        return self.error.exit_code if self.error else 0


def explain(error: Exception) -> SuperResolutionError:
    """Any error as a SuperResolutionError. Of other errors only type and place: their text may quote a header."""
    if isinstance(error, SuperResolutionError):
        return error
    if is_out_of_memory(error):
        fix = "run on a machine with more memory, or with fewer --jobs"
        return MemoryShortError("E-MEM", "memory ran out", fix=fix)
    last = traceback.extract_tb(error.__traceback__)[-1]
    problem = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    return SuperResolutionError("E-BUG", problem)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """What a run ends with, see :func:`exit_code_of`."""
    return exit_code_of([outcome.error if outcome.status == "failed" else None for outcome in outcomes])


def exit_code_of(errors: Sequence[SuperResolutionError | None]) -> int:
    """0 all good, 4 some failed, 5 all failed, or the one reason of all of them; ``errors`` of each volume."""
    failed = [error for error in errors if error is not None]
    hopeless = [error.exit_code for error in failed if error.code in HOPELESS]
    if hopeless or not failed:
        return hopeless[0] if hopeless else 0
    if len(failed) < len(errors):
        return 4
    codes = {error.exit_code for error in failed}
    return codes.pop() if len(codes) == 1 else 5


HOPELESS = ("E-OUT-SPACE",)
"""What would happen to every other case too."""

NAME = "monai-sr-run"

FACTS = (
    *("factor", "slice_spacing", "slice_thickness", "slice_profile", "score", "resolution"),
    "resolution_bounded",  # "at least" or "at most", where the resolution is only a limit; "cannot tell"
)
"""Of a result, see :func:`monai_sr.batch.record.essentials`; lengths in mm, the score as a fraction."""

COLUMNS = ("case", "status", "code", "reason", "output", "change", "seconds", "peak_memory_mib")

SHOWN = 5
"""Names of cases behind each reason in the table."""


class RunLog:
    """``monai-sr-run.jsonl`` in the output folder, a line for each case that ended.

    Args:
        folder: where.
        part: number of this part and how many there are, for array jobs; each has its own log.
        name: of the files, without their suffix.
    """

    def __init__(self, folder: Path, *, part: tuple[int, int] | None = None, name: str = NAME) -> None:
        stem = name if part is None else f"{name}.part-{part[0]}-of-{part[1]}"
        self.lines, self.table = folder / f"{stem}.jsonl", folder / f"{stem}.tsv"

    def add(self, outcome: Outcome) -> None:
        """Append a line, and flush it to the disk.

        Raises:
            OutputError: it cannot be written.
        """
        fields = self._row(outcome) | {"warnings": [notice.to_record() for notice in outcome.warnings]}
        if outcome.report:
            fields["report"] = os.path.relpath(outcome.report, self.lines.parent)
        line = json.dumps(fields | {"ended": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
        try:
            with open(self.lines, "ab+") as file:
                if _is_torn(file):
                    line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.lines, error) from error

    def close(self, outcomes: Sequence[Outcome]) -> None:
        """Write the table of all cases, as BIDS writes tables: tabs, and ``n/a`` for missing values.

        Raises:
            OutputError: it cannot be written.
        """
        text = io.StringIO()
        table = csv.writer(text, delimiter="\t", lineterminator="\n")
        table.writerow((*COLUMNS, *FACTS, "warnings"))
        for outcome in outcomes:
            codes = ",".join(dict.fromkeys(notice.code for notice in outcome.warnings))
            row = [*self._row(outcome).values(), codes]
            table.writerow([printable(str(value)) if value not in (None, "") else "n/a" for value in row])
        write_text(text.getvalue(), self.table)

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        """An outcome by the names of the columns, its result as seen from the folder."""
        row = {name: getattr(outcome, name) for name in COLUMNS}
        row |= {name: outcome.facts.get(name) for name in FACTS}
        return row | {"output": outcome.output and os.path.relpath(outcome.output, self.lines.parent)}


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table: how many cases were done, skipped or failed, and which failed."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.status, outcome.code or outcome.reason].append(outcome)
    lines = []
    for (status, why), members in sorted(groups.items(), key=lambda item: (_ORDER[item[0][0]], item[0][1])):
        names = ""
        if status == "failed":
            names = ", ".join(o.case for o in members[:SHOWN]) + (", ..." if len(members) > SHOWN else "")
        lines.append(f"{status:8}{len(members):6}  {why:16}{names}".rstrip())
    return "\n".join(lines)


_ORDER = {"done": 0, "skipped": 1, "failed": 2}


def _is_torn(file: BinaryIO) -> bool:
    """Whether the last line is incomplete, because the process was killed while it wrote."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
