"""What can be wrong with an input, an output or a bundle: a code, the cause, and what to do."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path


class SuperResolutionError(Exception):
    """A fault of the input or the surroundings, not of the program.

    Reads as one line: ``E-code: <file> - <what is wrong>. Fix: <one action>.``

    Args:
        code: short name users can search for, such as ``E-IO-TRUNC``.
        problem: what is wrong, with the value found and the value needed.
        fix: one action that settles it.
        path: the file concerned; may be added later, see :meth:`at`.
    """

    exit_code = 10

    def __init__(self, code: str, problem: str, *, fix: str, path: str | Path | None = None) -> None:
        super().__init__(code, problem)
        self.code, self.problem, self.fix, self.path = code, problem, fix, path

    def at(self, path: str | Path) -> SuperResolutionError:
        """The same error, naming ``path`` unless it already names a file."""
        self.path = self.path or path
        return self

    def __str__(self) -> str:
        place = f"{self.path} - " if self.path else ""
        line = f"{self.code}: {place}{self.problem.rstrip('.')}. Fix: {self.fix.rstrip('.')}."
        return " ".join(line.split())


class ImageError(SuperResolutionError):
    """This image cannot be processed; others may."""

    exit_code = 5


class InputMissingError(ImageError):
    """Nothing that could be processed was found where the input should be."""

    exit_code = 3


class OutputError(SuperResolutionError):
    """The result cannot be written where it was asked for."""

    exit_code = 6


class BundleError(SuperResolutionError):
    """A bundle or its weights are missing, damaged or do not fit together."""

    exit_code = 7


class QualityError(SuperResolutionError):
    """A result was made or found that is not good enough."""

    exit_code = 9


class UsageError(SuperResolutionError, ValueError):
    """Options that contradict each other or the input."""

    exit_code = 2


class ImageWarning(UserWarning):
    """The result is made, but something about it should be known; reads ``W-code: …``."""


def write_error(path: Path, error: Exception) -> OutputError:
    """What a failure to write means to the user."""
    if getattr(error, "errno", None) == errno.ENOSPC:
        return OutputError("E-OUT-SPACE", "the disk is full", fix="free some space and run again", path=path)
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return OutputError("E-OUT-PERM", f"cannot be written ({reason})", fix="choose a folder you may write to", path=path)


def warn(message: str) -> None:
    """Tell the user; the command line prints it as one line."""
    warnings.warn(ImageWarning(message), stacklevel=3)
