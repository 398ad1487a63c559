"""``demo``: the shipped example, by both bundles."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.demo import run_demo
from ..files import make_folder
from ..options import NOTICE
from .terminal import say


def demo(options: argparse.Namespace) -> int:
    """``monai-sr demo``"""
    output = make_folder(Path(options.output))
    scores = run_demo(output, device=options.device)
    say(f"\n{'method':22}{'PSNR dB':>9}{'gain dB':>9}{'SSIM':>9}")
    for score in scores:
        name = "consistent spline" if score.method == "consistent" else score.method
        say(f"{name:22}{score.psnr_db:9.2f}{score.gain_db:+9.2f}{score.ssim:9.4f}")
    say("PSNR and SSIM inside the head, compared with the thin slices; gain over the consistent spline.\n")
    picture = " and comparison.png" if (output / "comparison.png").is_file() else ""
    say(f"volumes{picture} are in {output.resolve()}")
    say(NOTICE)
    return 0
