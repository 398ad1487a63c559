"""``pack``: from a training run to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation import packing
from .terminal import complain, progress_bar, say


def pack(options: argparse.Namespace) -> int:
    """``monai-sr pack RUNS BUNDLE DATASET``"""
    made = packing.pack(
        Path(options.runs),
        Path(options.target),
        options.dataset,
        source=options.bundle,
        crop=options.crop,
        trust_bundle=options.trust_bundle,
        progress=progress_bar("calibrate"),
        left_out=complain,
    )
    say(made)
    return 0
