"""``calibrate``: how far a bundle may be trusted."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bundles import bundle_path, load_bundle
from ..evaluation import calibration
from ..files import write_text
from ..io.volumes import datalist
from .terminal import progress_bar, say


def calibrate(options: argparse.Namespace) -> int:
    """``monai-sr calibrate BUNDLE DATASET``"""
    model = load_bundle(
        options.bundle,
        device=options.device,
        engine=options.engine,
        precision=options.precision,
        trust_bundle=options.trust_bundle,
    )
    training, validation = (
        [item["image"] for item in datalist(options.dataset, section)] for section in ("training", "validation")
    )
    bundle = bundle_path(options.bundle)
    found = calibration.calibrate(
        model,
        training,
        validation,
        crop=options.crop,
        simulation=calibration.read_simulation(bundle),
        progress=progress_bar("calibrate"),
    )
    say(calibration.write_calibration(bundle, found))
    if options.markdown:
        command = f"monai-sr calibrate {Path(options.bundle).name} DATALIST --crop {options.crop}"
        say(write_text(calibration.calibration_markdown(found, command=command), Path(options.markdown)))
    return 0
