"""What became of a case, and how an error is told: by a code and words, without what a header says."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..engine.memory import MemoryShortError, is_out_of_memory
from ..errors import SuperResolutionError, SuperResolutionWarning

Status = Literal["done", "skipped", "failed"]

ALREADY_DONE = "already done"
CLAIMED = "another run works on it"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its name.
        status: done, skipped or failed.
        output: path of the result, if one stands there now.
        code, reason: why not done; the code is empty for what is skipped.
        change: grid before and after, in words.
        warnings: that it gave, each once.
        seconds: it took.
        peak_memory_mib: of the process up to its end.
        exit_code: of the error.
        debug: the traceback of an error.
        report: path of the page about it, if there is one.
    """

    case: str
    status: Status
    output: str = ""
    code: str = ""
    reason: str = ""
    change: str = ""
    warnings: tuple[SuperResolutionWarning, ...] = ()
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    exit_code: int = 0
    debug: str = field(default="", repr=False)
    report: str = ""


def failure(error: Exception) -> dict[str, Any]:
    """An error as fields of an :class:`Outcome`, without paths and without a header's text."""
    debug = "".join(traceback.format_exception(error))
    if isinstance(error, SuperResolutionError):
        reason = f"{error.problem.rstrip('.')}. Fix: {error.fix.rstrip('.')}."
        return _failed(error.code, " ".join(reason.split()), error.exit_code, debug)
    if is_out_of_memory(error):
        fix = "run on a machine with more memory, or with fewer --jobs"
        return _failed("E-MEM", f"memory ran out. Fix: {fix}.", MemoryShortError.exit_code, debug)
    last = traceback.extract_tb(error.__traceback__)[-1]
    # the message of a foreign exception may quote a header
    reason = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}. Fix: report it with --debug."
    return _failed("E-BUG", reason, 10, debug)


def _failed(code: str, reason: str, exit_code: int, debug: str) -> dict[str, Any]:
    return {"status": "failed", "code": code, "reason": reason, "exit_code": exit_code, "debug": debug}
