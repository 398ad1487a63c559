"""What a user sees while the work goes on. Only this module prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import printable, write_error


def say(text: object) -> None:
    """Print on stdout, without what a terminal would obey; go on where nobody listens any more (``| head``).

    Raises:
        OutputError: stdout cannot be written to.
    """
    with _writable_stdout():
        print(_shown(text), flush=True)


def complain(text: object) -> None:
    """Print on stderr, by our name and without what a terminal would obey."""
    with suppress(OSError):  # there is no other place to tell it
        print(f"monai-sr: {_shown(text)}", file=sys.stderr, flush=True)


def flush_stdout() -> None:
    """Write what others printed, such as a help page.

    Raises:
        OutputError: stdout cannot be written to.
    """
    with _writable_stdout():
        print(end="", flush=True)


def bar(total: float, text: str) -> Any:
    """A progress bar for work longer than a second, on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=printable(text), delay=1, leave=False, disable=not sys.stderr.isatty())


def progress_bar(text: str) -> Callable[[float], None]:
    """A bar of one piece of work, as what is told the share that is done."""
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


def _shown(text: object) -> str:
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in str(text).split("\n"))
