"""Scans, one or many: find them, plan, super-resolve each on this machine or a cluster, and lose none."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .case import Result, assess, process, super_resolve_case
    from .cases import check_target, find_cases, list_cases
    from .chosen import Case, check_names
    from .companions import map_path, mask_path, masks_beside, write_map, write_masks
    from .examine import Forecast, examine_case
    from .forecast import forecast_cases, forecast_table, speed_of
    from .log import CLAIMED, Outcome, RunLog, exit_code, exit_code_of, explain, summary
    from .model import load_model, super_resolve_within
    from .pages import CasePage, write_index
    from .reading import read_case
    from .record import check_record, describe_result, made_by, report_path, resolve_options, sha256_of, write_record
    from .run import open_log, run_cases

_MODULES = {
    "case": "Result assess process super_resolve_case",
    "cases": "check_target find_cases list_cases",
    "chosen": "Case check_names",
    "companions": "map_path mask_path masks_beside write_map write_masks",
    "examine": "Forecast examine_case",
    "forecast": "forecast_cases forecast_table speed_of",
    "log": "CLAIMED Outcome RunLog exit_code exit_code_of explain summary",
    "model": "load_model super_resolve_within",
    "pages": "CasePage write_index",
    "reading": "read_case",
    "record": "check_record describe_result made_by report_path resolve_options sha256_of write_record",
    "run": "open_log run_cases",
}
"""Modules of this room and their names here, imported on first use: cases are found without torch."""

_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
