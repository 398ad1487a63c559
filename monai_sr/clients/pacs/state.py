"""The state of each series, in a folder that outlives every process, so that no series is stored twice.

A series and the settings make a key. ``<key>.json`` is its record, ``<key>/`` holds results until they
are stored, ``<key>.seen`` when it last changed, and a hidden claim which process works on it. Names and
contents are hashes and counts, without any text of a header.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...dicom import MadeBy
from ...errors import OutputError
from ...files import write_text

RECORD_VERSION = 1

Status = Literal["begun", "made", "stored", "left out", "failed"]


@dataclass(frozen=True)
class Entry:
    """The record of a series.

    Attributes:
        status: "begun": a process works or worked on it; "made": its results wait to be stored; the
            others are final.
        instances: number of instances.
        attempts: how often work began and did not end.
        code, reason: why it is left out or failed.
        stored: instances that were stored.
        ended: when, in seconds since 1970.
    """

    status: Status
    instances: int
    attempts: int = 0
    code: str = ""
    reason: str = ""
    stored: int = 0
    ended: float = 0.0

    @property
    def is_final(self) -> bool:
        """Whether the work is complete."""
        return self.status in ("stored", "left out", "failed")

    def goes_on(self, instances: int) -> bool:
        """Whether work on a series of so many instances can continue; a series that grew starts again."""
        return self.status == "made" or (self.status == "begun" and self.instances == instances)

    def settles(self, instances: int) -> bool:
        """Whether a series of so many instances needs no more work.

        A stored series is never made again, even if slices arrive later; others are judged again.
        """
        return self.is_final and (self.status == "stored" or self.instances == instances)


class State:
    """The records of one folder.

    Args:
        folder: of the records; created if necessary.
        made_by: provenance of the results.
        rules: that select series; with other rules every series is judged again.
    """

    def __init__(self, folder: Path, made_by: MadeBy, *, rules: Mapping[str, Any]) -> None:
        self.folder = folder
        made = {name: getattr(made_by, name) for name in ("bundle", "bundle_version", "weights_sha256")}
        self._settings = json.dumps(made | {"options": made_by.options.texts(), **rules}, sort_keys=True)

    def place(self, series_uid: str) -> Path:
        """The folder in which the results of a series wait; its records are beside it."""
        settings = hashlib.sha256(self._settings.encode()).hexdigest()[:8]
        return self.folder / f"{name_of(series_uid)}-{settings}"

    def read(self, place: Path) -> Entry | None:
        """The record beside a place; None without one.

        Raises:
            OutputError: E-VER, a later monai-sr wrote it.
        """
        content = _json(_record(place))
        if content is None:
            return None
        if content.pop("record", 0) > RECORD_VERSION:
            raise OutputError("E-VER", "a later monai-sr wrote it", path=_record(place))
        return Entry(**content)

    def write(self, place: Path, entry: Entry) -> None:
        """Record an entry; a final one removes the waiting results."""
        if entry.is_final:
            entry = replace(entry, ended=round(time.time(), 3))
        _write(_record(place), {"record": RECORD_VERSION} | asdict(entry))
        if entry.is_final:
            shutil.rmtree(place, ignore_errors=True)
            _seen(place).unlink(missing_ok=True)

    def unchanged_for(self, place: Path, instances: int) -> float:
        """Seconds since a series was first seen with so many instances."""
        content = _json(_seen(place)) or {}
        if content.get("instances") == instances:
            return max(0.0, time.time() - content["since"])
        _write(_seen(place), {"instances": instances, "since": time.time()})
        return 0.0


def name_of(series_uid: str) -> str:
    """The name of a series in logs."""
    return f"series-{hashlib.sha256(series_uid.encode()).hexdigest()[:12]}"


def _record(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _seen(place: Path) -> Path:
    return place.with_name(f"{place.name}.seen")


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(f"{json.dumps(content)}\n", path)
