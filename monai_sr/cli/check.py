"""``check``: what an input holds, whether it can be processed, and what would be made of it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..batch.cases import list_cases
from ..batch.examine import Forecast, examine_case
from ..batch.record import check_record
from ..dicom.phases import is_phase
from ..errors import collect_notices, give, printable
from ..io.shelf import SPLINE, read_calibration
from ..trust.preparation import Trained
from .config import run_options
from .terminal import answer, say

NOWHERE = Path("results")
"""Results are named, and none is made."""


def check(given: argparse.Namespace) -> int:
    """``monai-sr check SOURCE``"""
    options, source = run_options(given), Path(given.source)
    made = _check_result(source)
    with collect_notices() as notices:
        cases = list_cases(source, NOWHERE, options)
    forecasts, spline = [], Trained(SPLINE, calibration=read_calibration(SPLINE))
    for case in cases:
        forecast = examine_case(case, options, spline)
        if forecast.error is not None and len(cases) == 1 and not source.is_dir() and case.series is None:
            raise forecast.error
        _show(forecast)
        forecasts.append(forecast)
    left_out = []
    for notice in notices:
        if notice.code == "W-LEFT-OUT":
            left_out.append(notice.facts)
        else:
            give(notice)
    apart = Counter(
        case.series.label.split("#")[0] for case in cases if case.series is not None and is_phase(case.series)
    )
    for label in (label for label, count in apart.items() if count > 1):
        say(f"series {label} holds {apart[label]} volumes; --volume all super-resolves them together")
    for files in left_out:
        say(f"left out: {files['files']} file(s), {files['reason']} ({files['code']})")
    answer(volumes=[forecast.to_dict() for forecast in forecasts], left_out=left_out, made_by_monai_sr=made)
    errors = sum(forecast.error is not None for forecast in forecasts)
    return 0 if not errors else 4 if errors < len(cases) else 5


def _check_result(source: Path) -> dict[str, Any] | None:
    """By what a result of monai-sr was made, and whether it is as recorded; None for other inputs."""
    record = check_record(source)
    if record is None:
        return None
    names = ("monai_sr_version", "bundle", "bundle_version", "input_sha256", "output_sha256", "is_as_recorded")
    made = {name: record.get(name) for name in names}
    if made["is_as_recorded"]:
        by = f"monai-sr {made['monai_sr_version']} with {made['bundle']}"
        say(f"{printable(str(source))}: made by {by}, SHA-256 as recorded")
    return made


def _show(forecast: Forecast) -> None:
    series = forecast.case.series
    if series is None:
        say(printable(forecast.case.name))
    else:
        what = f"{series.modality}, {series.size}, UID {printable(series.uid)}"
        say(f"series {series.label}: {what}, named {forecast.case.name}")
    if forecast.before:
        result = f" -> {forecast.after}, factor {forecast.factor:.4g}" if forecast.factor else ""
        say(f"  {forecast.before}{result}")
    for line in fact_lines(forecast.acquired or {}):
        say(line)
    for notice in forecast.warnings:
        say(f"  {notice.code}: {notice.problem}")
    say(f"  {forecast.verdict if forecast.error is None else forecast.error}")


def fact_lines(acquired: Mapping[str, Any]) -> Iterator[str]:
    """The facts of an acquisition with their sources, see :meth:`monai_sr.acquired.Acquired.record`."""
    for fact, entry in acquired.items():
        value = entry["value"]
        shown = value if isinstance(value, str | int) or fact == "noise" else _mm(value)
        yield f"  {fact.replace('_', ' '):15} {shown}, {entry['source']}"


def _mm(value: float | list[float]) -> str:
    values = value if isinstance(value, list) else [value]
    return f"{min(values):.4g} mm" if min(values) == max(values) else f"{min(values):.4g} to {max(values):.4g} mm"
