"""``quantize``: the 8-bit form of a bundle."""

from __future__ import annotations

import argparse

from ..evaluation.quantize import build
from .terminal import say


def quantize(options: argparse.Namespace) -> int:
    """``monai-sr quantize BUNDLE --dataset DATALIST``"""
    say(build(options.bundle, options.dataset, crop=options.crop, report=say))
    return 0
