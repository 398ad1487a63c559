"""``demo``, ``info`` and ``errors``: what monai-sr does, has and says."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from .. import __version__
from ..errors import UsageError
from ..options import NOTICE
from .places import make_folder
from .terminal import say


def demo(options: argparse.Namespace) -> int:
    """``monai-sr demo``"""
    output = Path(options.output)
    make_folder(output)
    from ..evaluation.demo import run_demo

    scores = run_demo(output, device=options.device)
    say(f"\n{'method':22}{'PSNR dB':>9}{'gain dB':>9}{'SSIM':>9}")
    for score in scores:
        name = "consistent spline" if score.method == "consistent" else score.method
        say(f"{name:22}{score.psnr_db:9.2f}{score.gain_db:+9.2f}{score.ssim:9.4f}")
    say("PSNR and SSIM against the truth inside the head; gain over the consistent spline.\n")
    say(f"volumes and comparison.png are in {output.resolve()}")
    say(NOTICE)
    return 0


def info(options: argparse.Namespace) -> int:
    """``monai-sr info``"""
    from importlib.metadata import PackageNotFoundError, version

    say(f"monai-sr {__version__} - {NOTICE}")
    fastest = "torch"
    for package in ("torch", "openvino", "monai", "nibabel", "pydicom", "SimpleITK", "numpy"):
        try:
            say(f"  {package:12} {version(package)}")
            fastest = "openvino" if package == "openvino" else fastest
        except PackageNotFoundError:
            hint = ', faster: pip install "monai-sr[cpu]"' if package == "openvino" else ""
            say(f"  {package:12} not installed{hint}")
    from ..engine.devices import cpu_threads, gpu_names
    from ..io.shelf import SPLINE, bundle_path, shipped_bundles

    say("devices")
    say(f"  cpu          {cpu_threads()} threads, computes by {fastest} (--engine auto)")
    for index, name in enumerate(gpu_names()):
        say(f"  cuda:{index}       {name}")
    say("bundles")
    for name, metadata in shipped_bundles().items():
        say(f"  {name:12} {metadata['version']:8} {bundle_path(name)}")
    say(f"  {SPLINE:12} {'':8} the consistent spline alone, no network")
    return 0


def errors(options: argparse.Namespace) -> int:
    """``monai-sr errors [CODE]``"""
    from ..codes import CODES

    wanted = options.code.upper() if options.code else ""
    if wanted and wanted not in CODES:
        near = difflib.get_close_matches(wanted, CODES, n=1)
        hint = f"see {near[0]}, or" if near else "see"
        raise UsageError("E-USE", f"there is no code {options.code!r}", fix=f"{hint} monai-sr errors for all")
    for code in [wanted] if wanted else CODES:
        _, meaning, remedy = CODES[code]
        say(f"{code:15} {meaning}\n{'':16}{remedy}")
    return 0
