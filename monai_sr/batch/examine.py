"""What a run would make of a volume, and what it would say: read as a run reads it, and decided as a run decides."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SuperResolutionError, SuperResolutionWarning, collect_notices
from ..options import RunOptions
from ..trust.preparation import Trained, acquire
from .chosen import Case
from .log import explain
from .reading import read_case


@dataclass(frozen=True)
class Forecast:
    """The prediction for a case.

    Attributes:
        case: the case.
        before, after: its grid and that of the result, in words; empty if it cannot be read.
        factor: output slices per acquired slice; None if nothing is to be super-resolved.
        acquired: the acquisition, see :meth:`monai_sr.acquired.Acquired.record`.
        voxels: acquired and new ones.
        error: why a run would refuse it.
        is_done: the result of these options exists already.
        warnings: those of a run before its work.
        outputs: files and folders that would be written.
        memory: peak memory of the process, bytes.
        seconds: predicted duration.
    """

    case: Case
    before: str = ""
    after: str = ""
    factor: float | None = None
    acquired: dict[str, Any] | None = None
    voxels: tuple[int, int] = (0, 0)
    error: SuperResolutionError | None = None
    is_done: bool = False
    warnings: tuple[SuperResolutionWarning, ...] = ()
    outputs: tuple[Path, ...] = ()
    memory: int = 0
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """In words what a run would do, or why it would not."""
        if self.error is not None:
            return f"{self.error.code}: {self.error.problem}"
        if self.is_done:
            return "done already"
        return "can be processed" if self.factor else "fine enough already: it would be passed through"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        series = self.case.series
        known = {} if series is None else {"series": series.label, "uid": series.uid, "modality": series.modality}
        return {
            "name": self.case.name,
            "source": str(self.case.source),
            **known,
            "before": self.before,
            "after": self.after,
            "factor": self.factor,
            "acquired": self.acquired,
            "verdict": self.verdict,
            "error": self.error and self.error.to_dict(),
            "warnings": [notice.to_dict() for notice in self.warnings],
        }

    def costs(self) -> dict[str, Any]:
        """Outputs, memory and time, for JSON."""
        return {
            "outputs": [str(path) for path in self.outputs],
            "memory_mib": round(self.memory / 2**20),
            "seconds": round(self.seconds, 1),
        }


def examine_case(case: Case, options: RunOptions, model: Trained) -> Forecast:
    """Read a case and make the decisions that a run makes before its work."""
    forecast = Forecast(case)
    with collect_notices() as notices, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries
        try:
            if case.fault is not None:
                raise case.fault
            acquired = acquire(read_case(case, options), options.acquisition, options.wanted)
            before = acquired.grid.in_words(acquired.axis, acquired.slice_spacing)
            forecast = replace(forecast, before=before)
            acquired.check_slices()
            wanted = acquired.wanted_grid(spacing=options.wanted.spacing, factor=options.wanted.factor)
            slices = model.prepare(acquired, options.wanted)
            forecast = replace(
                forecast,
                after=wanted.in_words(acquired.axis),
                factor=None if slices is None else round(slices.factor, 4),
                acquired=acquired.record(),
                voxels=(acquired.array.size, len(acquired.array) * math.prod(wanted.shape)),
            )
        except (SuperResolutionError, MemoryError) as error:
            forecast = replace(forecast, error=explain(error).at(case.source))
    return replace(forecast, warnings=case.name_in(notices))
