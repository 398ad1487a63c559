"""Many scans: find them, plan, super-resolve each on this machine or a cluster, and lose none."""

from ..engine.memory import MemoryShortError, memory_budget
from .cases import Case, check_names, find_cases, part_of
from .companions import map_path, mask_path, masks_beside, write_map, write_masks
from .files import read_case
from .log import RunLog, summary
from .making import Made, make, super_resolve_within
from .one import process
from .outcomes import CLAIMED, Outcome, failure
from .pages import CasePage, report_path, write_index
from .plan import plan_table
from .records import write_sidecar
from .run import exit_code, run_cases
from .settings import Settings
from .sidecar import describe

__all__ = [
    "CLAIMED",
    "Case",
    "CasePage",
    "Made",
    "MemoryShortError",
    "Outcome",
    "RunLog",
    "Settings",
    "check_names",
    "describe",
    "exit_code",
    "failure",
    "find_cases",
    "make",
    "map_path",
    "mask_path",
    "masks_beside",
    "memory_budget",
    "part_of",
    "plan_table",
    "process",
    "read_case",
    "report_path",
    "run_cases",
    "summary",
    "super_resolve_within",
    "write_index",
    "write_map",
    "write_masks",
    "write_sidecar",
]
