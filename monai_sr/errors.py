"""What can be wrong with an input, an output or a bundle: errors and warnings with fields for programs.

Both have a code, facts and a remedy; text is made from them when it is shown. A warning goes to the
innermost :func:`collect_notices`, and to Python's ``warnings`` where none is open.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from .codes import CODES

_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}


class Later(ModuleType):
    """A package that is imported at its first use, so that an error that does not need it comes at once.

    For type checkers the package is imported as usual, under ``TYPE_CHECKING``.
    """

    def __getattr__(self, name: str) -> Any:
        package = import_module(self.__name__)
        self.__dict__.update(vars(package))
        return getattr(package, name)


class Notice(Exception):
    """What errors and warnings have in common. As text ``code: <file> - <what is wrong>. Fix: <one action>.``

    Args:
        code: short name users can search for, such as ``E-IO-TRUNC``; :mod:`monai_sr.codes` has a row for it.
        problem: what is wrong, with the value found and the value needed. ``{name}`` and ``{name:format}``
            are replaced by facts.
        fix: one action that settles it, where it says more than the remedy of the code in general.
        path: the file concerned; may be added later, see :meth:`at`.
        facts: values of the problem by name, for programs.
    """

    severity_unless_in_table = "error"

    def __init__(
        self,
        code: str,
        problem: str,
        *,
        fix: str = "",
        path: str | Path | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, problem)
        self.code, self.template, self.fix, self.path, self.facts = code, problem, fix, path, dict(facts or {})

    def __reduce__(self) -> tuple[Any, tuple[()]]:  # otherwise the arguments of an exception are positional
        return partial(type(self), self.code, self.template, fix=self.fix, path=self.path, facts=self.facts), ()

    @property
    def problem(self) -> str:
        """The problem in words, with its facts."""

        def value(field: re.Match[str]) -> str:
            name, spec = field.groups()
            try:
                return format(self.facts[name], spec)
            except (KeyError, ValueError, TypeError):  # a brace of the text itself
                return field[0]

        return re.sub(r"\{(\w+):?([^{}]*)\}", value, self.template)

    @property
    def severity(self) -> str:
        """ "error", "warning" or "info"."""
        return CODES[self.code].severity if self.code in CODES else self.severity_unless_in_table

    @property
    def remedy(self) -> str:
        """What to do: the fix of this case, otherwise that of the code in general."""
        return self.fix or (CODES[self.code].remedy if self.code in CODES else "")

    def at(self, path: str | Path) -> Self:
        """The same, naming ``path`` unless it already names a file."""
        self.path = self.path or path
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON: code, severity, message, fix, path and facts."""
        path = None if self.path is None else printable(str(self.path))
        return {**self.to_record(), "fix": printable(self.remedy), "path": path}

    def to_record(self) -> dict[str, Any]:
        """For the record beside a result, which names no place: code, severity, message and facts."""
        facts = {name: _plain(value) for name, value in self.facts.items()}
        message = printable(" ".join(self.problem.split()))
        return {"code": self.code, "severity": self.severity, "message": message, "facts": facts}

    def __str__(self) -> str:
        place = f"{self.path} - " if self.path else ""
        line = f"{self.code}: {place}{self.problem}"
        fix = self.remedy if self.severity == "error" else self.fix
        if fix:
            line = f"{line.rstrip('.')}. Fix: {fix.rstrip('.')}."
        return printable(" ".join(line.split()))


class SuperResolutionError(Notice):
    """A fault of the input or the surroundings, not of the program."""

    exit_code = 10


class ImageError(SuperResolutionError):
    """This image cannot be processed; others may."""

    exit_code = 5


class InputMissingError(ImageError):
    """There is no input that can be processed."""

    exit_code = 3


class OutputError(SuperResolutionError):
    """The result cannot be written to the requested place."""

    exit_code = 6


class BundleError(SuperResolutionError):
    """A bundle or its weights are missing, damaged or do not fit together."""

    exit_code = 7


class QualityError(SuperResolutionError):
    """A result is not good enough."""

    exit_code = 9


class UsageError(SuperResolutionError, ValueError):
    """Options that contradict each other or the input."""

    exit_code = 2


class SuperResolutionWarning(Notice, UserWarning):
    """The result is made, but has a problem or a property that its user should know."""

    severity_unless_in_table = "warning"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SuperResolutionWarning) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(str(self))


def read_warning(entry: SuperResolutionWarning | Mapping[str, Any] | str) -> SuperResolutionWarning:
    """A warning from a record: of version 2 an object, of version 1 a text ``W-code: message``."""
    if isinstance(entry, SuperResolutionWarning):
        return entry
    if isinstance(entry, Mapping):
        facts = entry.get("facts")
        message = str(entry.get("message", ""))
        return SuperResolutionWarning(
            str(entry.get("code", "")), message, facts=facts if isinstance(facts, Mapping) else None
        )
    code, _, message = str(entry).partition(": ")
    return SuperResolutionWarning(code, message) if code in CODES else SuperResolutionWarning("", str(entry))


_collector: ContextVar[Callable[[SuperResolutionWarning], None] | None] = ContextVar("collector", default=None)


@contextmanager
def collect_notices(
    show: Callable[[SuperResolutionWarning], None] | None = None,
) -> Iterator[list[SuperResolutionWarning]]:
    """Warnings of this thread while the context is open, each once, instead of Python's ``warnings``.

    Contexts nest: the innermost takes a warning.

    Args:
        show: called with each warning as it comes.
    """
    notices: list[SuperResolutionWarning] = []

    def collect(notice: SuperResolutionWarning) -> None:
        if notice not in notices:
            notices.append(notice)
            if show is not None:
                show(notice)

    token = _collector.set(collect)
    try:
        yield notices
    finally:
        _collector.reset(token)


def warn(
    code: str,
    problem: str,
    *,
    fix: str = "",
    path: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn of something about a result; arguments as of :class:`Notice`."""
    give(SuperResolutionWarning(code, problem, fix=fix, path=path, facts=facts), stacklevel=stacklevel + 1)


def give(notice: SuperResolutionWarning, *, stacklevel: int = 2) -> None:
    """Give a warning to the innermost :func:`collect_notices`, or to Python's ``warnings``."""
    collect = _collector.get()
    if collect is not None:
        collect(notice)
    else:
        warnings.warn(notice, stacklevel=stacklevel + 1)


def doubt(
    warning: str,
    error: str,
    finding: str,
    consequence: str = "the result may not be better than interpolation",
    *,
    strict: bool,
    path: str | Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Warn that a result may not be better than interpolation, or refuse to make it.

    Args:
        warning, error: the codes.
        finding, consequence: what was found, and what it means for the result, which only the warning says.
        strict: refuse.
        path, facts: as of :class:`Notice`.

    Raises:
        ImageError: with ``strict``.
    """
    if strict:
        raise ImageError(error, finding, path=path or None, facts=facts)
    warn(warning, f"{finding}; {consequence}", path=path or None, facts=facts, stacklevel=3)


def warn_left_out(files: int, reason: str, code: str) -> None:
    """Warn of files that are left out, and why."""
    facts = {"files": files, "reason": reason, "code": code}
    warn("W-LEFT-OUT", "{files} file(s) left out: {reason} ({code})", facts=facts, stacklevel=3)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add a file to errors that do not name one."""
    try:
        yield
    except SuperResolutionError as error:
        raise error.at(path) from error.__cause__


def no_room_by(error: Exception) -> str:
    """Why there is no room for any file, disk or quota; empty for other errors."""
    return next((why for code, why in _NO_ROOM.items() if _is_by(error, code)), "")


def _is_by(error: Exception, code: int) -> bool:
    """Whether the system gave this code; SimpleITK has only the text."""
    return getattr(error, "errno", None) == code or os.strerror(code) in str(error)


def write_error(path: Path, error: Exception) -> OutputError:
    """The error for a failure to write."""
    if no_room := no_room_by(error):
        return OutputError("E-OUT-SPACE", no_room, path=path)
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    fix = "write to a disk, or under a limit, that takes larger files" if _is_by(error, errno.EFBIG) else ""
    return OutputError("E-OUT-PERM", f"cannot be written ({reason})", fix=fix, path=path)


def printable(text: str) -> str:
    """The text with control characters and the like escaped, as ``\\x1b``, because a terminal would obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _plain(value: Any) -> Any:
    """A fact in the types of JSON."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | None) else printable(str(value))
