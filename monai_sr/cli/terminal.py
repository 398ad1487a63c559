"""What a user sees while the work goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


def say(text: str) -> None:
    """Print, and go on without where nobody listens any more (``| head``)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        leave_stdout()


def bar(total: float, text: str) -> Any:
    """A progress bar for work longer than a second, on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=text, delay=1, leave=False, disable=not sys.stderr.isatty())


def progress_bar(text: str) -> Callable[[float], None]:
    """A bar of one piece of work, as what is told the share that is done."""
    shown = bar(1.0, text)
    shown.bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

    def report(done: float) -> None:
        shown.update(done - shown.n)
        if done >= 1:
            shown.close()

    return report


def leave_stdout() -> None:
    """Where nobody listens any more, nothing is said."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
