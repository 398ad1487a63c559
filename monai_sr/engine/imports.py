"""Import packages without dependencies that are not needed here, and without looking for garbage meanwhile."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Import as if these packages were not installed; those already imported stay, and later imports work."""
    hidden: dict[str, Any] = {name: None for name in packages if name not in sys.modules}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def imports_that_stay(*hidden: str) -> Iterator[None]:
    """Import packages until the process ends. The garbage collector need not look at what they hold.

    It would look again and again while torch is imported, and once more when the process ends, which took a third of
    the time of a short command. And NumPy multiplies in one thread, unless the environment says otherwise: its matrices
    are small, and its threads wait for more of them on processors that others need, which took half of the time of the
    check of a result. For a process of its own: other objects that are there by then stay, too.

    Args:
        hidden: packages that are not found, see :func:`without`.
    """
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with without(*hidden):
            yield
    finally:
        gc.freeze()
        gc.enable()
