"""What a user sees while the work goes on. Only this module prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import Notice, SuperResolutionError, printable, write_error

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_verbose: ContextVar[bool] = ContextVar("verbose", default=False)
_answer: ContextVar[dict[str, Any] | None] = ContextVar("answer", default=None)


@contextmanager
def answer_in_json() -> Iterator[dict[str, Any]]:
    """While it is open, what is said is not printed, and what is answered and complained of is collected."""
    document: dict[str, Any] = {"errors": [], "warnings": []}
    token = _answer.set(document)
    try:
        yield document
    finally:
        _answer.reset(token)


@contextmanager
def loudness(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """While it is open, with ``quiet`` only complaints are shown, and with ``verbose`` details too."""
    tokens = _quiet.set(quiet), _verbose.set(verbose)
    try:
        yield
    finally:
        for variable, token in zip((_quiet, _verbose), tokens, strict=True):
            variable.reset(token)


def in_json() -> bool:
    """Whether a document for programs is made."""
    return _answer.get() is not None


def answer(**fields: Any) -> None:
    """Fields of the document that ``--json`` prints."""
    document = _answer.get()
    if document is not None:
        document |= fields


def say(text: object) -> None:
    """Print on stdout, without what a terminal would obey; go on where nobody listens any more (``| head``).

    Raises:
        OutputError: stdout cannot be written to.
    """
    if _answer.get() is None and not _quiet.get():
        with _writable_stdout():
            print(_shown(text, sys.stdout), flush=True)


def say_details(lines: Iterable[str]) -> None:
    """Print lines on stdout where ``--verbose`` asks for them; raises as :func:`say`."""
    for line in lines if _verbose.get() else ():
        say(line)


def print_json(document: Mapping[str, Any]) -> None:
    """Print what programs are to read.

    Raises:
        OutputError: stdout cannot be written to.
    """
    with _writable_stdout():
        print(json.dumps(document, indent=2, default=str), flush=True)


def complain(text: object) -> None:
    """Print on stderr, by our name and without what a terminal would obey; a notice goes into the JSON instead."""
    document = _answer.get()
    if document is not None and isinstance(text, Notice):
        document["errors" if isinstance(text, SuperResolutionError) else "warnings"].append(text.to_dict())
        return
    with suppress(OSError):  # there is no other place to tell it
        print(f"monai-sr: {_shown(text, sys.stderr)}", file=sys.stderr, flush=True)


def flush_stdout() -> None:
    """Write what others printed, such as a help page; beside a document for programs there is nothing.

    Raises:
        OutputError: stdout cannot be written to.
    """
    if _answer.get() is None:
        with _writable_stdout():
            print(end="", flush=True)


def bar(total: float, text: str) -> Any:
    """A progress bar for work longer than a second, on a terminal only."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc=printable(text), delay=1, leave=False, disable=_quiet.get() or not sys.stderr.isatty()
    )


def progress_bar(text: str) -> Callable[[float], None]:
    """A bar of one piece of work, as a function called with the fraction that is done."""
    shown = bar(1.0, text)
    shown.bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

    def report(done: float) -> None:
        shown.update(done - shown.n)
        if done >= 1:
            shown.close()

    return report


@contextmanager
def _writable_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # what is left in its buffer must not fail once more when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise write_error(Path("stdout"), error) from error


def _shown(text: object, stream: Any) -> str:
    """The text without what a terminal would obey, or what its encoding lacks, such as cp1252 on Windows."""
    shown = "\n".join("\t".join(map(printable, line.split("\t"))) for line in str(text).split("\n"))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
