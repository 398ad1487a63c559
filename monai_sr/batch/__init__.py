"""Scans, one or many: find them, plan, super-resolve each on this machine or a cluster, and lose none."""

from .case import Result, assess, process, read_case, super_resolve_case
from .cases import Case, check_names, check_target, find_cases, list_cases
from .companions import map_path, mask_path, masks_beside, write_map, write_masks
from .forecast import Forecast, examine_case, forecast_cases, forecast_table
from .log import CLAIMED, Outcome, RunLog, explain, summary
from .model import load_model, super_resolve_within
from .pages import CasePage, report_path, write_index
from .record import check_record, describe_result, made_by, resolve_options, sha256_of, write_record
from .run import exit_code, open_log, run_cases

__all__ = [
    "CLAIMED",
    "Case",
    "CasePage",
    "Forecast",
    "Outcome",
    "Result",
    "RunLog",
    "assess",
    "check_names",
    "check_record",
    "check_target",
    "describe_result",
    "examine_case",
    "exit_code",
    "explain",
    "find_cases",
    "forecast_cases",
    "forecast_table",
    "list_cases",
    "load_model",
    "made_by",
    "map_path",
    "mask_path",
    "masks_beside",
    "open_log",
    "process",
    "read_case",
    "report_path",
    "resolve_options",
    "run_cases",
    "sha256_of",
    "summary",
    "super_resolve_case",
    "super_resolve_within",
    "write_index",
    "write_map",
    "write_masks",
    "write_record",
]
