"""Many scans: find them, plan, super-resolve each on this machine or a cluster, and lose none."""

from .cases import Case, check_names, find_cases, part_of
from .companions import map_path, mask_path, masks_beside, write_map, write_masks
from .log import RunLog, summary
from .memory import MemoryShortError, memory_budget
from .one import Outcome, Settings, describe, process, slices_text, super_resolve_within, trust_in
from .pages import CasePage, report_path, write_index
from .plan import plan_table
from .records import write_sidecar
from .run import exit_code, run_cases

__all__ = [
    "Case",
    "CasePage",
    "MemoryShortError",
    "Outcome",
    "RunLog",
    "Settings",
    "check_names",
    "describe",
    "exit_code",
    "find_cases",
    "map_path",
    "mask_path",
    "masks_beside",
    "memory_budget",
    "part_of",
    "plan_table",
    "process",
    "report_path",
    "run_cases",
    "slices_text",
    "summary",
    "super_resolve_within",
    "trust_in",
    "write_index",
    "write_map",
    "write_masks",
    "write_sidecar",
]
