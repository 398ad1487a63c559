"""What was done: the JSON beside each result is also the record that resuming goes by.

A result appears by rename, its record after it. While a process works on a case it holds a claim, a
hidden file beside the result; so a result without a record is ours if a claim of a dead process
lies there, and somebody else's if not. Claims need no locks of the file system. Where two processes
meet all the same, they write the same bytes under names of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..dicom import MadeBy
from ..errors import ImageError, OutputError, write_error
from ..files import hidden_beside, is_alive, own_mark, temporary_beside, write_json
from ..io.images import image_suffix
from ..io.nifti import is_super_resolved

RECORD_VERSION = 2
"""Of the block ``monai_sr`` in a JSON; a later monai-sr writes a higher one. Version 1 has warnings as texts."""

HEARTBEAT = 30.0
"""Seconds between signs of life of a claim, for runs on other hosts."""

SILENT = 300.0
"""A claim of another host without a sign of life for so many seconds is taken over."""


class ClaimedError(Exception):
    """Another process works on this case at this moment."""


def sidecar_path(target: Path) -> Path:
    """The JSON beside a result."""
    suffix = image_suffix(target)
    known = suffix in (".nii", ".nii.gz", ".nrrd", ".mha")
    return target.with_name((target.name[: -len(suffix)] if known else target.name) + ".json")


def is_own_result(path: Path) -> bool:
    """Whether an image file is a result of ours, by the record beside it or its own header."""
    return record_beside(path) is not None or is_super_resolved(path)


def write_sidecar(target: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON beside a result, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(content, sidecar_path(target))


def sha256_of(paths: Iterable[Path]) -> str:
    """Of the content of files, one after the other.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of_result(target: Path) -> str:
    """Of a result: a file, or a folder of DICOM files in the order of their names."""
    return sha256_of(sorted(target.iterdir()) if target.is_dir() else [target])


def is_done(target: Path, made_by: MadeBy, *, input_sha256: str, unfinished: bool, overwrite: bool) -> bool:
    """Whether a result stands complete; if not, whether it may be written.

    A result of ours is made anew if input, options or weights are others than those it was made from.

    Args:
        target: the result.
        made_by: what is to make it.
        input_sha256: see :func:`sha256_of`.
        unfinished: a process of ours died while it worked on it.
        overwrite: replace also what is not ours, or was changed since.

    Raises:
        OutputError: E-OUT-EXISTS, what stands there is not ours or was changed; E-VER, a later monai-sr made it.
    """
    record, json_there = record_beside(target), sidecar_path(target).exists()
    if not target.exists() and (record is not None or not json_there):
        return False
    if record is not None and record.get("record", 0) > RECORD_VERSION:
        raise OutputError(
            "E-VER",
            f"a later monai-sr made it (record {record['record']}, {RECORD_VERSION} is known)",
            fix="update monai-sr, or write to another folder",
            path=target,
        )
    if unfinished or (record is not None and "output_sha256" not in record):
        return False
    if record is None or record["output_sha256"] != sha256_of_result(target):
        if overwrite:
            return False
        what = "it is not a result of ours" if record is None else "it was changed since it was written"
        raise OutputError(
            "E-OUT-EXISTS",
            f"it exists already, and {what}",
            fix="move it away, or give --overwrite",
            path=target if target.exists() else sidecar_path(target),
        )
    return record["input_sha256"] == input_sha256 and all(record[k] == v for k, v in made_by_block(made_by).items())


def made_by_block(made_by: MadeBy) -> dict[str, Any]:
    """What decides a result besides its input, as a record tells it."""
    block = asdict(made_by)
    return {**block, "options": dict(block["options"])}


class Claim:
    """A case that this process works on: a file that names the process, and whether it writes yet.

    Attributes:
        unfinished: what stands at the place of the result is ours, though no record may tell so: this
            process, or a dead one that held the claim before it, had begun to write.
    """

    def __init__(self, path: Path, *, unfinished: bool) -> None:
        self._path, self.unfinished = path, unfinished

    def begin_writing(self) -> None:
        """From here on, what stands at the place of the result is ours."""
        self.unfinished = True
        self._sign()

    def _sign(self) -> None:
        # by rename, so that no instant is without the word "writing" of the holder before
        temporary = temporary_beside(self._path)
        temporary.write_text(f"{own_mark()}{_WRITING if self.unfinished else ''}")
        os.replace(temporary, self._path)


_WRITING = " writing"


@contextmanager
def claimed(target: Path) -> Iterator[Claim]:
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
    finally:
        ended.set()
        with suppress(OSError):
            # a result whose record is missing needs the claim to be known as ours
            ours = path.read_text().removesuffix(_WRITING) == own_mark()
            if ours and not (claim.unfinished and _lacks_record(target)):
                path.unlink()


def drop_claim(target: Path) -> None:
    """Remove the claim of a dead process that had not begun to write."""
    path = hidden_beside(target, "claim")
    with suppress(OSError):
        text = path.read_text()
        if not text.endswith(_WRITING) and is_alive(text) is False:
            path.unlink()


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
        with open(descriptor, "w") as file:
            file.write(own_mark())
        return Claim(path, unfinished=False)
    try:
        text, age = path.read_text(), time.time() - path.stat().st_mtime
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


def record_beside(target: Path) -> dict[str, Any] | None:
    """The block ``monai_sr`` of the JSON beside a result; None without one."""
    try:
        content = json.loads(sidecar_path(target).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    record = content.get("monai_sr") if isinstance(content, dict) else None
    return record if isinstance(record, dict) else None


def stamps(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Sizes and times of change, by which it shows if files change while they are read.

    Raises:
        ImageError: one is gone or may not be read.
    """
    try:
        return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]
    except OSError as error:
        raise ImageError("E-IO-READ", f"cannot be read ({error.strerror})", fix="check the file") from error
