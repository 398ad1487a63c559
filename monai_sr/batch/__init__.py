"""Scans, one or many: find them, plan, super-resolve each on this machine or a cluster, and lose none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .case import Result, assess, process, super_resolve_case
    from .cases import Case, check_names, check_target, find_cases, list_cases
    from .companions import map_path, mask_path, masks_beside, write_map, write_masks
    from .examine import Forecast, examine_case
    from .forecast import forecast_cases, forecast_table, speed_of
    from .log import CLAIMED, Outcome, RunLog, exit_code, exit_code_of, explain, summary
    from .model import load_model, super_resolve_within
    from .pages import CasePage, write_index
    from .reading import read_case
    from .record import check_record, describe_result, made_by, report_path, resolve_options, sha256_of, write_record
    from .run import open_log, run_cases

_HOME = {
    "CLAIMED": "log",
    "Case": "cases",
    "CasePage": "pages",
    "Forecast": "examine",
    "Outcome": "log",
    "Result": "case",
    "RunLog": "log",
    "assess": "case",
    "check_names": "cases",
    "check_record": "record",
    "check_target": "cases",
    "describe_result": "record",
    "examine_case": "examine",
    "exit_code": "log",
    "exit_code_of": "log",
    "explain": "log",
    "find_cases": "cases",
    "forecast_cases": "forecast",
    "forecast_table": "forecast",
    "list_cases": "cases",
    "load_model": "model",
    "made_by": "record",
    "map_path": "companions",
    "mask_path": "companions",
    "masks_beside": "companions",
    "open_log": "run",
    "process": "case",
    "read_case": "reading",
    "report_path": "record",
    "resolve_options": "record",
    "run_cases": "run",
    "sha256_of": "record",
    "speed_of": "forecast",
    "summary": "log",
    "super_resolve_case": "case",
    "super_resolve_within": "model",
    "write_index": "pages",
    "write_map": "companions",
    "write_masks": "companions",
    "write_record": "record",
}
"""The names of this room and their modules, imported on first use: cases are found without torch."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
