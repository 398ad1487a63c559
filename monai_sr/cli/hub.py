"""``hub``: the folders in which the Hugging Face hub and MONAI's model zoo take a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.publishing import publish
from .terminal import say


def hub(options: argparse.Namespace) -> int:
    """``monai-sr hub BUNDLE OUTPUT``"""
    for folder in publish(options.bundle, Path(options.output), repository=options.repository):
        say(folder)
    return 0
