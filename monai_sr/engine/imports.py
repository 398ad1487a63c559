"""Packages that are imported without what they would load beside, and never need here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """As if these were not installed; where one is imported already, or afterwards, nothing is different."""
    hidden: dict[str, Any] = {name: None for name in packages if name not in sys.modules}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def import_monai_to_run() -> None:
    """Import MONAI without ignite and matplotlib, which it has for training and plots: 0.8 of 3 seconds.

    Only for a process that trains nothing: MONAI keeps to what it found.
    """
    with without("ignite", "matplotlib"):
        import monai  # noqa: F401
