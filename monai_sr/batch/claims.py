"""Who works on a case: a hidden file beside the result, which needs no locks of the file system.

A result appears by rename, then its record. So a result without a record is ours if there is a claim of a
dead process, and otherwise not. If two processes do work on one case, they write the same
bytes under different temporary names.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import write_error
from ..files import hidden_beside, is_alive, move, own_mark, temporary_beside
from .record import record_beside, sha256_of_result

HEARTBEAT = 30.0
"""Seconds between signs of life of a claim, for runs on other hosts."""

SILENT = 300.0
"""A claim of another host without a sign of life for so many seconds is taken over."""


class ClaimedError(Exception):
    """Another process works on this case at this moment."""


class Claim:
    """A case that this process works on: a file that names the process, and whether it writes yet.

    Attributes:
        unfinished: the file at the path of the result is ours, even without a record: this process, or
            a dead one that held the claim before, had begun to write it.
    """

    def __init__(self, path: Path, *, unfinished: bool) -> None:
        self._path, self.unfinished = path, unfinished
        self._before: tuple[Path, tuple[int, int] | None] | None = None

    def begin_writing(self, target: Path) -> None:
        """From here on, a file at the path of the result is ours."""
        self._before = target, _identity_of(target)
        self.unfinished = True
        self._sign()

    def take_back(self) -> None:
        """Remove a result that was written without its record."""
        if self._before is not None:
            target, before = self._before
            if _identity_of(target) != before and _lacks_record(target):
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            self.unfinished = False

    def _sign(self) -> None:
        # by rename, so that no instant is without the word "writing" of the holder before
        temporary = temporary_beside(self._path)
        temporary.write_text(f"{own_mark()}{_WRITING if self.unfinished else ''}", encoding="utf-8")
        move(temporary, self._path)


_WRITING = " writing"


@contextmanager
def hold_claim(target: Path) -> Iterator[Claim]:
    """Hold the claim on a case.

    Raises:
        ClaimedError: a living process holds it.
        OutputError: the folder cannot be written to.
    """
    path = hidden_beside(target, "claim")
    try:
        claim = _take(path)
    except OSError as error:
        raise write_error(target, error) from error
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield claim
    except BaseException as error:
        if not isinstance(error, Exception):  # an interruption
            with suppress(OSError):
                claim.take_back()
        raise
    finally:
        ended.set()
        with suppress(OSError):
            # a result whose record is missing needs the claim to be known as ours
            ours = path.read_text(encoding="utf-8").removesuffix(_WRITING) == own_mark()
            if ours and not (claim.unfinished and _lacks_record(target)):
                path.unlink()


def drop_claim(target: Path) -> None:
    """Remove the claim of a dead process, or of this one at its end, unless it marks a result as ours."""
    path = hidden_beside(target, "claim")
    with suppress(OSError):
        text = path.read_text(encoding="utf-8")
        holder = text.removesuffix(_WRITING)
        ended = not holder or holder == own_mark() or is_alive(holder) is False
        if ended and not (text.endswith(_WRITING) and _lacks_record(target)):
            path.unlink()


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Inode and time of change of a file or folder; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _lacks_record(target: Path) -> bool:
    record = record_beside(target) or {}
    return target.exists() and record.get("output_sha256") != sha256_of_result(target)


def _take(path: Path) -> Claim:
    """The claim at ``path``, new or of a dead process."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        pass
    else:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(own_mark())
        return Claim(path, unfinished=False)
    try:
        text, age = path.read_text(encoding="utf-8"), time.time() - path.stat().st_mtime
    except FileNotFoundError:  # given up in between
        return _take(path)
    holder = text.removesuffix(_WRITING)
    # an empty claim is of a process that was killed before it could sign
    alive = is_alive(holder) if holder and holder != own_mark() else False
    if alive or (alive is None and age < SILENT):
        raise ClaimedError(holder)
    claim = Claim(path, unfinished=text.endswith(_WRITING))
    claim._sign()
    return claim
