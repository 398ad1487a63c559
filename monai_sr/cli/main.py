"""The command line: ``monai-sr COMMAND``, and what its end means.

Only this module and :mod:`monai_sr.cli` print.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

from .. import __version__
from ..clients.slicer.description import given
from ..engine.devices import MEMORY_LIMIT
from ..engine.imports import imports_that_stay
from ..errors import SuperResolutionError, SuperResolutionWarning, collect_notices
from .parser import make_parser
from .terminal import answer_in_json, complain, flush_stdout, loudness, print_json

ELSEWHERE = {"bids": "run", "errors": "info"}
"""Modules of commands that are not in a module of their name; each is imported when it is called."""

NOT_NIBABELS = {"run": ["pydicom"], "bids": ["pydicom"], "check": ["pydicom"]}
"""What nibabel would import for these commands, to read DICOM in the header of a NIfTI file, which we do not use.
With its decoders, pydicom takes a third of a check. DICOM files are read as ever."""

_parser = cache(make_parser)  # some programs call :func:`main` for one volume after the other

INTERNAL_ERROR = 10
INTERRUPTED = 130
TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    0 all good, 2 usage, 3 no usable input, 4 some volumes failed, 5 all failed, 6 output not
    writable or disk full, 7 bundle or weights missing, damaged or not trusted, 8 not enough memory, 9 not
    consistent or not the expected result, 10 internal error, 11 the archive cannot be reached or refuses,
    130 interrupted, 143 terminated.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["slicer"]:
        words = ["slicer", *given(words[1:])]
    importing = imports_that_stay if arguments is None else nullcontext
    _quiet_libraries()
    if not _asks_for_json(words):
        return _run(words, importing)
    with answer_in_json() as document:
        code = _run(words, importing)
    try:
        print_json({"command": words[0], "monai_sr_version": __version__, "exit_code": code, **document})
    except SuperResolutionError as error:
        complain(error)
        return error.exit_code
    return code


def _asks_for_json(words: Sequence[str]) -> bool:
    """Whether stdout is to hold one JSON document; after ``verify --json`` a file may be named instead."""
    if "--json" not in words[1:]:
        return False
    after = words[words.index("--json") + 1 :]
    return words[0] != "verify" or not after or after[0].startswith("-")


def _run(words: list[str], importing: Callable[..., AbstractContextManager[Any]]) -> int:
    """Run one command, whose packages are imported within ``importing``; its exit code."""
    failure: Exception
    try:
        try:
            options = _parser().parse_args(words)
        finally:
            flush_stdout()  # of --help
        options.words, options.importing = words, importing
        loud = loudness(quiet=getattr(options, "quiet", False), verbose=getattr(options, "verbose", False))
        with _termination_heeded(), collect_notices(show=complain), _limited(options), loud:
            with importing(*NOT_NIBABELS.get(options.command, ())):
                module = import_module(f".{ELSEWHERE.get(options.command, options.command)}", __package__)
            return getattr(module, options.command)(options) or 0
    except SuperResolutionError as error:
        complain(error)
        code, failure = error.exit_code, error
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except _TerminatedError:
        complain("terminated")
        return TERMINATED
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        complain(SuperResolutionError("E-BUG", f"{type(error).__name__}: {first}"))
        code, failure = INTERNAL_ERROR, error
    if "--debug" in words:
        traceback.print_exception(failure)
    return code


class _TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt no Exception, so that nothing but the end catches it."""


@contextmanager
def _termination_heeded() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that nothing half-written stays."""

    def end(*_: Any) -> None:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _limited(options: argparse.Namespace) -> Iterator[None]:
    """The environment as ``--threads`` and ``--memory`` say; processes that are started inherit it."""
    given = {"OMP_NUM_THREADS": getattr(options, "threads", None), MEMORY_LIMIT: getattr(options, "memory", None)}
    before, torch = {name: os.environ.get(name) for name in given}, sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    os.environ.update({name: str(value) for name, value in given.items() if value})
    if torch and given["OMP_NUM_THREADS"]:  # which it reads when it is imported
        torch.set_num_threads(given["OMP_NUM_THREADS"])
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if torch and threads:
            torch.set_num_threads(threads)


def _quiet_libraries() -> None:
    """Our warnings as one line on stderr; other libraries' chatter not at all."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=SuperResolutionWarning)  # of a thread where nobody collects
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # of what it mends in headers


if __name__ == "__main__":
    sys.exit(main())
