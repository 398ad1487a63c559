"""``slicer``: one volume as a command line module of 3D Slicer."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..clients.slicer.description import describe
from ..errors import UsageError
from .one import super_resolve_file
from .parser import run_options
from .places import check_target
from .terminal import say


def slicer(given: argparse.Namespace) -> int:
    """``monai-sr slicer INPUT OUTPUT``"""
    if given.xml:
        say(describe())
        return 0
    options = run_options(given)
    source, target = Path(options.input), Path(options.output)
    overlays = {
        name: Path(getattr(given, name)) for name in ("difference", "consistency") if getattr(given, name, None)
    }
    for path in overlays.values():
        check_target(source, path)
    if len({path.absolute() for path in (target, *overlays.values())}) <= len(overlays):
        raise UsageError("E-OUT-CLASH", "two outputs have the same name", fix="name each", path=target)
    from ..clients.slicer.overlays import difference_map
    from ..clients.slicer.tags import told_to_slicer
    from ..io.images import write_image
    from ..trust.consistency import measure_consistency

    wanted = options.wanted
    with told_to_slicer("monai-sr", f"super-resolving by {wanted.bundle}", say=say) as progress:
        acquired, sr = super_resolve_file(source, target, options, progress=progress)
        if "difference" in overlays:
            difference = difference_map(acquired, sr, spacing=wanted.spacing, factor=wanted.factor)
            write_image(difference, overlays["difference"])
        if "consistency" in overlays:
            passed_through = not sr.meta.get("super_resolved")
            residual = acquired.image - sr if passed_through else measure_consistency(acquired, sr).residual
            write_image(residual.nan_to_num(), overlays["consistency"], dtype="float32")
    return 0
