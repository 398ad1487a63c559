"""``info`` and ``errors``: what monai-sr has and says. Needs no torch."""

from __future__ import annotations

import argparse
import difflib
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..codes import CODES
from ..engine.devices import cpu_threads, gpu_names
from ..errors import UsageError
from ..io.shelf import SPLINE, bundle_path, shipped_bundles
from ..options import NOTICE
from .terminal import answer, say


def info(options: argparse.Namespace) -> int:
    """``monai-sr info``"""
    if options.bundle_path:
        say(bundle_path(options.bundle_path))
        answer(bundles={options.bundle_path: {"folder": str(bundle_path(options.bundle_path))}})
        return 0
    show_machine()
    say("bundles")
    for name, metadata in shipped_bundles().items():
        say(f"  {name:12} {metadata['version']:8} {bundle_path(name)}")
    say(f"  {SPLINE:12} {'':8} the consistent spline alone, no network")
    answer(
        bundles={
            name: {"version": metadata["version"], "folder": str(bundle_path(name))}
            for name, metadata in shipped_bundles().items()
        }
    )
    return 0


def show_machine() -> None:
    """Versions of the packages that matter, and the devices."""
    say(f"monai-sr {__version__} - {NOTICE}")
    fastest = "torch"
    versions: dict[str, str | None] = {}
    for package in ("torch", "openvino", "monai", "nibabel", "pydicom", "SimpleITK", "numpy"):
        versions[package] = None
        try:
            versions[package] = version(package)
            say(f"  {package:12} {version(package)}")
            fastest = "openvino" if package == "openvino" else fastest
        except PackageNotFoundError:
            hint = ', faster: pip install "monai-sr[cpu]"' if package == "openvino" else ""
            say(f"  {package:12} not installed{hint}")
    say("devices")
    say(f"  cpu          {cpu_threads()} threads, computes by {fastest} (--engine auto)")
    for index, name in enumerate(gpu_names()):
        say(f"  cuda:{index}       {name}")
    answer(
        packages=versions,
        devices={"cpu": {"threads": cpu_threads(), "engine": fastest}}
        | {f"cuda:{index}": {"name": name} for index, name in enumerate(gpu_names())},
    )


def errors(options: argparse.Namespace) -> int:
    """``monai-sr errors [CODE]``"""
    wanted = options.code.upper() if options.code else ""
    if wanted and wanted not in CODES:
        near = difflib.get_close_matches(wanted, CODES, n=1)
        hint = f"see {near[0]}, or" if near else "see"
        raise UsageError("E-USE", f"unknown code {options.code!r}", fix=f"{hint} monai-sr errors for all")
    for code in [wanted] if wanted else CODES:
        _, meaning, remedy = CODES[code]
        say(f"{code:15} {meaning}\n{'':16}{remedy}")
    return 0
