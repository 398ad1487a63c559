"""Series that were sent to a node, in a folder that a :class:`~.watch.Watcher` reads as an archive.

``<series>/<instance>.dcm`` below the folder; both names are hashes of UIDs, so nothing in an object decides where it
is written. A file that exists is complete.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from ...dicom.dataset import pydicom_silent
from ...dicom.kinds import MODALITY_OF
from ...files import create_folder, folder_beside, move, remove_leftovers, write_atomically
from .access import PacsError
from .archive import RemoteSeries

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

DAY = 24 * 3600.0


class MismatchError(ValueError):
    """An instance is another one than its sender announced."""


@dataclass
class Received:
    """The series of a node.

    Attributes:
        folder: of what was received.
        results: where derived series are put if ``send`` is None.
        send: sends files to another node.
        days: how long a series without a result is kept, in case that more of its slices come.
    """

    folder: Path
    results: Path
    send: Callable[[Sequence[Path]], None] | None = None
    days: float = 7
    _heads: dict[str, RemoteSeries] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        create_folder(self.folder)
        create_folder(self.results)
        for folder in self._folders():  # files of a process that was killed while it received them
            remove_leftovers(folder)
        remove_leftovers(self.results)

    def keep(self, content: bytes, *, sop_class: str, uid: str) -> None:
        """Write an instance to the disk. It is there, whole, when this returns.

        Args:
            content: a DICOM file.
            sop_class, uid: of the instance, as the sender announced them.

        Raises:
            ValueError: the content is not DICOM, or lacks a UID.
            MismatchError: it is another instance than announced.
            OutputError: it cannot be written.
        """
        try:
            with pydicom_silent():
                head = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(UIDS))
                uids = {name: str(head.get(name) or "") for name in UIDS}
        except Exception as error:  # pydicom raises many types for what it cannot parse
            raise ValueError("no DICOM") from error
        if not all(uids.values()):
            raise ValueError("a UID is missing")
        if (uids["SOPClassUID"], uids["SOPInstanceUID"]) != (sop_class, uid):
            raise MismatchError("other UIDs than announced")
        folder = self.folder / _name(uids["SeriesInstanceUID"])
        path = folder / f"{_name(uid)}.dcm"
        with self._lock:  # two senders of one instance, or the removal of its folder
            create_folder(folder)
            write_atomically(path, lambda file: file.write(content))

    def search(self, modality: str, *, since: str | None = None) -> list[RemoteSeries]:
        """Every series of a modality, as of :class:`~.archive.Archive`; ``since`` does not apply."""
        found = (self._series(folder) for folder in self._folders())
        return [series for series in found if series is not None and series.modality == modality]

    def headers(self, series: RemoteSeries, keywords: Iterable[str]) -> list[Dataset]:
        """Some attributes of every instance of a series.

        Raises:
            PacsError: E-PACS-SHORT, an instance cannot be read, or is gone.
        """
        try:
            with pydicom_silent():
                return [
                    dcmread(file, stop_before_pixels=True, specific_tags=list(keywords)) for file in self._files(series)
                ]
        except (OSError, InvalidDicomError) as error:
            raise _short(0, series.instances) from error

    def fetch(self, series: RemoteSeries, folder: Path) -> list[Path]:
        """Every instance of a series as a file in an empty folder.

        Raises:
            PacsError: E-PACS-SHORT, there are more or fewer than those of a search.
        """
        files = []
        for number, source in enumerate(self._files(series), start=1):
            file = folder / f"{number:05d}.dcm"
            try:
                os.link(source, file)
            except OSError:  # a file system without links
                shutil.copyfile(source, file)
            files.append(file)
        if len(files) != series.instances:
            raise _short(len(files), series.instances)
        return files

    def store(self, files: Sequence[Path]) -> None:
        """Send the instances of a derived series, or put them into a folder of the results.

        Raises:
            PacsError: the other node cannot be reached, or did not take every one of them.
            OutputError: the folder cannot be written.
        """
        if self.send is not None:
            self.send(files)
            return
        for source in dict.fromkeys(file.parent for file in files):
            target = self.results / source.name
            if target.exists():  # a process was killed after it
                continue
            with folder_beside(target) as hidden:
                shutil.copytree(source, hidden, dirs_exist_ok=True)
                move(hidden, target)

    def release(self, series: RemoteSeries, *, is_stored: bool) -> None:
        """Remove a series that needs no more work: at once if its result is stored, else when it is old.

        One that has more instances than ``series`` stays, so that the next search sees them.
        """
        folder = self.folder / _name(series.uid)
        try:
            is_old = time.time() - folder.stat().st_mtime > self.days * DAY
        except OSError:
            return
        with self._lock:  # nothing arrives between counting and removal
            if not (is_old or (is_stored and len(self._files(series)) <= series.instances)):
                return
            shutil.rmtree(folder, ignore_errors=True)
        self._heads.pop(folder.name, None)

    def _folders(self) -> Iterator[Path]:
        yield from (path for path in sorted(self.folder.iterdir()) if path.is_dir() and path.name[0] != ".")

    def _series(self, folder: Path) -> RemoteSeries | None:
        """The series in a folder; None if it has no file."""
        files = list(folder.glob("[!.]*.dcm"))
        head = self._heads.get(folder.name)
        if head is None and files:
            try:
                with pydicom_silent():
                    read = dcmread(files[0], stop_before_pixels=True, specific_tags=list(UIDS))
            except (OSError, InvalidDicomError):
                return None
            study, series, modality = read.StudyInstanceUID, read.SeriesInstanceUID, MODALITY_OF.get(read.SOPClassUID)
            head = self._heads[folder.name] = RemoteSeries(str(study), str(series), modality or "", 0)
        return RemoteSeries(head.study, head.uid, head.modality, len(files)) if head and files else None

    def _files(self, series: RemoteSeries) -> list[Path]:
        return sorted((self.folder / _name(series.uid)).glob("[!.]*.dcm"))


def _name(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _short(count: int, expected: int) -> PacsError:
    return PacsError("E-PACS-SHORT", f"{count} of {expected} instances are there", is_temporary=True)
