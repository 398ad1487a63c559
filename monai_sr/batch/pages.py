"""Report pages of a run: one beside each result, or instead of it if it failed, and an index of all.

An error in a page is a warning; it does not change the outcome of the case.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..acquired import Acquired
from ..dicom import series_description
from ..errors import SuperResolutionError, SuperResolutionWarning, read_warning, warn
from ..grid import Image
from ..options import Outputs
from ..report import (
    IndexRow,
    summary_of,
    write_failure_report,
    write_index_page,
    write_preview,
    write_report,
    write_viewer,
)
from .chosen import Case
from .log import FACTS
from .record import record_beside, report_path

INDEX = "index.html"


class CasePage:
    """The page of a case while it is processed. Does nothing unless a page is requested.

    Args:
        case: which.
        outputs: whether to write a page, and one with the volumes themselves, and whether they may replace a
            file of that name that is not ours.
        folder: of the run, whose index the page links to.

    Attributes:
        image: the volume of the case, for the page of a case that fails.
    """

    def __init__(self, case: Case, outputs: Outputs, *, folder: str = "") -> None:
        self.case, self.wanted, self.overwrite = case, outputs.report, outputs.overwrite
        self.path = report_path(case.target)
        self.folder = folder
        self.viewer = self.path.with_suffix(".viewer.html") if outputs.viewer else None
        self.preview = self.path.with_suffix(".png") if outputs.preview else None
        self.image: Image | None = None
        self.description = "" if case.is_deidentified else series_description(case.series)

    @property
    def is_current(self) -> bool:
        """Whether the page of a case that is done is about the present result."""
        of_result = (record_beside(self.case.target) or {}).get("output_sha256")
        pages = [self.path] if self.wanted else []
        pages += [page for page in (self.viewer, self.preview) if page]
        return all(of_result and summary_of(page).get("output_sha256") == of_result for page in pages)

    @property
    def links(self) -> dict[str, str]:
        """Links to other pages, relative to this one; none for a volume whose output was given as a file."""
        if self.case.is_named or not self.folder:
            return {}
        before, after = self.case.neighbors
        pages = {"previous": before and report_path(before), "all volumes": Path(self.folder, INDEX)}
        pages["next"] = after and report_path(after)
        return {name: os.path.relpath(page, self.path.parent) for name, page in pages.items() if page}

    @property
    def written(self) -> str:
        """Where the page is, if there is one."""
        return str(self.path) if self.wanted and summary_of(self.path) else ""

    def show_result(self, acquired: Acquired, sr: Image, record: Mapping[str, Any]) -> None:
        """Write the pages of a result."""
        digest = record.get("output_sha256", "")
        if viewer := self.viewer:
            self._write(viewer, lambda: write_viewer(viewer, acquired, sr, name=self.case.name, output_sha256=digest))
        if preview := self.preview:
            self._write(preview, lambda: write_preview(preview, acquired, sr, output_sha256=digest))
        if not self.wanted:
            return
        self._write(
            self.path,
            lambda: write_report(
                self.path,
                acquired,
                sr,
                record=record,
                warnings=[read_warning(entry) for entry in record.get("warnings", ())],
                **self._named(),
            ),
        )

    def show(self, write: Callable[[Path], Any]) -> None:
        """Write the page of a result of several acquired volumes, by another function."""
        if self.wanted:
            self._write(self.path, lambda: write(self.path))

    def show_failure(self, code: str, reason: str, warnings: Sequence[SuperResolutionWarning] = ()) -> None:
        """Write the page of a case that failed."""
        if not self.wanted:
            return
        self._write(
            self.path,
            lambda: write_failure_report(
                self.path, code=code, reason=reason, image=self.image, warnings=warnings, **self._named()
            ),
        )

    def _named(self) -> dict[str, Any]:
        return {"name": self.case.name, "description": self.description, "links": self.links}

    def _write(self, path: Path, write: Callable[[], Any]) -> None:
        if os.path.exists(path) and not summary_of(path) and not self.overwrite:
            _warn(f"{path.name} exists and is not a report of monai-sr")
            return
        _guarded(write)


def write_index(folder: str | Path) -> Path | None:
    """Write ``index.html``, the index of all volumes in the logs of a folder.

    Args:
        folder: the output folder, with one or more ``monai-sr-run*.jsonl``.

    Returns:
        Its path; None, with a warning, if it could not be written.
    """
    path = Path(folder) / INDEX
    if path.exists() and not summary_of(path):
        _warn(f"{path.name} exists and is not a report of monai-sr")
        return None
    return path if _guarded(lambda: write_index_page(path, index_rows(Path(folder)))) else None


def index_rows(folder: Path) -> list[IndexRow]:
    """The last line of the logs on every case; for a skipped case the line of when it was done."""
    rows: dict[str, dict[str, Any]] = {}
    for log in sorted(folder.glob("monai-sr-run*.jsonl"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                fields = json.loads(line)
                name, status = str(fields["case"]), fields["status"]
            except (ValueError, KeyError, TypeError):  # torn by a kill
                continue
            if status == "skipped" and fields.get("output"):
                fields = (
                    rows.get(name, fields)
                    | {"status": "done", "reason": "", "output": fields["output"]}
                    | ({"report": fields["report"]} if fields.get("report") else {})
                )
            rows[name] = fields
    return [_row(folder, name, fields) for name, fields in rows.items()]


def _row(folder: Path, name: str, fields: Mapping[str, Any]) -> IndexRow:
    report = str(fields.get("report") or "")
    summary = summary_of(folder / report) if report else {}
    return IndexRow(
        case=name,
        status=str(fields["status"]),
        code=str(fields.get("code") or ""),
        reason=str(fields.get("reason") or ""),
        change=str(fields.get("change") or ""),
        facts={name: fields[name] for name in FACTS if fields.get(name) is not None},
        warnings=tuple(read_warning(entry) for entry in fields.get("warnings") or ()),
        seconds=float(fields.get("seconds") or 0),
        report=report if summary else "",
        thumbnail=str(summary.get("thumbnail") or ""),
    )


def _guarded(write: Callable[[], Any]) -> bool:
    """Whether it was written; if not, a warning says why, without a header's text."""
    try:
        write()
    except SuperResolutionError as error:
        _warn(f"{error.code}, {error.problem}")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        _warn(f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}")
    else:
        return True
    return False


def _warn(why: str) -> None:
    warn("W-REPORT", "the report was not written ({reason})", facts={"reason": why})
