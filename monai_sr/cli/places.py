"""Files and folders that a user named: whether they can be written, and that errors name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError, SuperResolutionError, UsageError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors about an image that is at hand say which file it came from."""
    try:
        yield
    except SuperResolutionError as error:
        raise error.at(path) from error.__cause__


def check_target(source: Path, target: Path) -> None:
    """Find out before any work whether the result could be written."""
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError("E-OUT-SAME", "input and output are the same file", fix="name another output", path=target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UsageError("E-OUT-SAME", "the output lies inside the input folder", fix="write elsewhere", path=target)
    from ..io.images import check_writable

    check_writable(target)


def make_folder(folder: Path) -> None:
    """A folder that is there and can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".monai-sr-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            "E-OUT-PERM",
            f"cannot be written to ({error.strerror})",
            fix="choose a folder you may write to",
            path=folder,
        ) from error
