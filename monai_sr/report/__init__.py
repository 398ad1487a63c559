"""Pages that show a result, with numbers and pictures: one HTML file for each case, and an index of many."""

from .case import write_failure_report, write_report
from .index import IndexRow, write_index_page
from .page import summary_of
from .preview import write_preview
from .volumes import niivue_script, write_viewer

__all__ = [
    "IndexRow",
    "niivue_script",
    "summary_of",
    "write_failure_report",
    "write_index_page",
    "write_preview",
    "write_report",
    "write_viewer",
]
