"""One case from beginning to end: its warnings, its time, its page and any error make one outcome."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..dicom import MadeBy
from ..engine.memory import peak_mib, reset_peak
from ..errors import ImageError, SuperResolutionWarning, collect_notices
from ..files import create_folder
from ..options import RunOptions
from .chosen import Case
from .claims import Claim, ClaimedError, hold_claim
from .log import CLAIMED, Outcome
from .pages import CasePage
from .reading import input_sha256
from .record import is_done, stamps


def attempt(
    case: Case, options: RunOptions, story: Callable[[list[SuperResolutionWarning], CasePage], Outcome]
) -> Outcome:
    """The outcome of a case. Raises nothing but an interruption.

    Args:
        case: which.
        options: of the run.
        story: does the work, with the warnings so far and the page of the case. It raises an error if the case
            fails, and is called once more if the input changed while it was read.
    """
    started = time.monotonic()
    reset_peak()
    page = CasePage(case, options.outputs, folder=options.output)
    with collect_notices() as notices, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        try:
            for trial in (1, 2):
                try:
                    outcome = story(notices, page)
                    break
                except ImageError as error:
                    if error.code != "E-IO-CHANGED" or trial > 1:
                        raise
        except ClaimedError:
            outcome = Outcome(case.name, "skipped", skipped=CLAIMED)
        except Exception as error:
            outcome = Outcome.failed(case.name, error)
            page.show_failure(outcome.code, outcome.reason, case.name_in(notices))
    return replace(
        outcome,
        output=str(case.target) if case.target.exists() and outcome.error is None else "",
        warnings=case.name_in(notices),
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mib=round(peak_mib(), 1),
        report=page.written,
    )


@dataclass(frozen=True)
class Held:
    """A case that no other process works on.

    Attributes:
        case: the case.
        claim: on it.
        input_sha256: of its files.
        is_done: whether its result is there and complete.
        stamps: of its files before they were read.
    """

    case: Case
    claim: Claim
    input_sha256: str
    is_done: bool
    stamps: Sequence[tuple[int, int]]

    def check_unchanged(self) -> None:
        """Refuse a case whose files changed since (E-IO-CHANGED)."""
        if stamps(self.case.files) != self.stamps:
            raise ImageError("E-IO-CHANGED", "it changed while it was read")


@contextmanager
def hold_case(case: Case, made: MadeBy, *, overwrite: bool) -> Iterator[Held]:
    """Hold the claim on a case; ``made`` and ``overwrite`` as of :func:`monai_sr.batch.record.is_done`.

    Raises:
        ClaimedError: another process works on it.
        ImageError: its files cannot be read.
        OutputError: its result cannot be written, or must not be replaced.
    """
    before = stamps(case.files)
    create_folder(case.target.parent)
    with hold_claim(case.target) as claim:
        digest = input_sha256(case)
        done = is_done(
            case.target,
            made,
            input_sha256=digest,
            unfinished=claim.unfinished,
            overwrite=overwrite,
            again=case.is_named,
        )
        yield Held(case, claim, digest, done, before)
