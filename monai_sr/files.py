"""Write files atomically; marks in the names of temporary files and claims that identify their process.

A process that is killed leaves temporary files. Their names contain host, process id and start time,
so that the next process can distinguish them from those of a process that still runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from .errors import InputMissingError, OutputError, write_error

FORGOTTEN = 24 * 3600
"""Age in seconds at which temporary files of another host are removed, because its processes cannot be looked up."""

_CLOCKS_DIFFER = 2
"""Tolerance of start times in seconds: on some systems they change when the clock is set."""

_MMAP_THRESHOLD, _MIB = -3, 2**20
"""From malloc.h of glibc."""

_PATIENCE = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ()
"""Seconds between attempts to rename."""

_TEMPORARY = re.compile(r"\..+\.(?P<mark>[\w-]+-\d+-\d+)\.tmp", re.DOTALL)


def give_memory_back() -> None:
    """Return freed arrays above 1 MiB to the system at once.

    glibc keeps those of up to 32 MiB, in pieces too small for the next array: OpenVINO took 170 MB more for
    a CT, in the same time.
    """
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MIB)
    except (OSError, AttributeError, TypeError):  # another C library
        return


def own_mark() -> str:
    """``host-pid-start`` of this process."""
    return _mark_of(os.getpid())


@cache
def _mark_of(pid: int) -> str:
    host = re.sub(r"[^\w-]", "_", socket.gethostname())[:60]
    return f"{host}-{pid}-{int(psutil.Process(pid).create_time())}"


def is_alive(mark: str) -> bool | None:
    """Whether the process of a mark still runs; None for another host."""
    host, pid, start = mark.rsplit("-", 2)
    if host != own_mark().rsplit("-", 2)[0]:
        return None
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - int(start)) <= _CLOCKS_DIFFER
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def hidden_beside(path: Path, ending: str) -> Path:
    """A hidden, unique name in the folder of ``path``, not longer than file systems allow."""
    whole = os.fsencode(path.name)
    name = whole.decode(errors="ignore")
    if len(whole) > 120 or name.encode() != whole:  # names of other bytes than UTF-8 differ in their hash
        name = f"{whole[:100].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"
    return path.with_name(f".{name}.{ending}")


def temporary_beside(path: Path) -> Path:
    """The temporary file that this process writes before it is renamed to ``path``."""
    return hidden_beside(path, f"{own_mark()}.tmp")


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files and folders of dead processes in ``folder``; returns their number."""
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None:
            continue
        alive = is_alive(match["mark"])
        try:
            if alive or (alive is None and time.time() - entry.stat().st_mtime < FORGOTTEN):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed += 1
        except OSError:  # another run removed it, or we may not
            continue
    return removed


def check_exists(path: Path) -> None:
    """Refuse an input that is not there.

    Raises:
        InputMissingError: E-IO-MISSING.
    """
    if not path.exists():
        raise InputMissingError("E-IO-MISSING", "no such file or folder", fix="check the path", path=path)


def create_folder(folder: Path) -> None:
    """Create a folder and those above it if necessary.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def make_folder(folder: Path) -> Path:
    """Create a folder if necessary, and check that it can be written to.

    Raises:
        OutputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".monai-sr-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError("E-OUT-PERM", f"cannot be written to ({error.strerror})", path=folder) from error
    return folder


def write_json(content: Mapping[str, Any], path: Path, *, indent: int = 2) -> Path:
    """Write JSON, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    return write_text(f"{json.dumps(content, indent=indent)}\n", path)


def write_text(text: str, path: Path) -> Path:
    """Write text as UTF-8, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def move(source: Path, target: Path) -> None:
    """Rename a file, replacing another one, or a folder, within one disk.

    Windows refuses while a virus scanner, an indexer or a viewer has a file open; there it is tried again.

    Raises:
        OSError: it cannot be renamed, on Windows after the waits of :data:`_PATIENCE`.
    """
    for seconds in _PATIENCE:
        try:
            os.replace(source, target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(source, target)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` for what is not complete yet; at the end it is removed, unless it was renamed.

    Raises:
        OutputError: the system refuses what is done while it is open.
    """
    folder = temporary_beside(path)
    try:
        folder.mkdir()
        yield folder
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, and rename it."""
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
