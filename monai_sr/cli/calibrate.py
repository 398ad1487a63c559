"""``calibrate``: how far a bundle may be trusted."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bundles import bundle_path, load_bundle
from ..errors import SuperResolutionError, UsageError
from ..evaluation import calibration
from ..evaluation.pairs import read_pair
from ..evaluation.profile_fit import fit_profile, join_widths, protocol_width
from ..files import write_text
from ..io.volumes import datalist
from ..profiles import protocols_text, read_protocols
from .arguments import loading
from .terminal import complain, progress_bar, say


def calibrate(options: argparse.Namespace) -> int:
    """``monai-sr calibrate BUNDLE DATASET``, or ``--pairs THICK THIN --protocols FILE``"""
    if options.pairs or options.protocols or options.register:
        return _calibrate_protocols(options)
    if not options.dataset:
        raise UsageError("E-USE", "no bundle and data set were given", fix="give both, or --pairs and --protocols")
    model = load_bundle(options.bundle, **loading(options))
    training, validation = (
        [item["image"] for item in datalist(options.dataset, section)] for section in ("training", "validation")
    )
    bundle = bundle_path(options.bundle)
    values = calibration.calibrate(
        model,
        training,
        validation,
        crop=options.crop,
        simulation=calibration.read_simulation(bundle),
        progress=progress_bar("calibrate"),
    )
    say(calibration.write_calibration(bundle, values))
    if options.markdown:
        command = f"monai-sr calibrate {Path(options.bundle).name} DATALIST --crop {options.crop}"
        say(write_text(calibration.calibration_markdown(values, command=command), Path(options.markdown)))
    return 0


def _calibrate_protocols(options: argparse.Namespace) -> int:
    """Fit the slice profiles of pairs and write them by protocol."""
    if options.bundle or not (options.pairs and options.protocols):
        problem = "--pairs, --protocols and a bundle do not go together"
        raise UsageError("E-USE", problem, fix="give the first two alone")
    table = Path(options.protocols)
    known = read_protocols(table) if table.exists() else ()
    fitted, failed = [], False
    for thick, thin in options.pairs:
        try:
            pair = read_pair(thick, thin, crop=None, register=options.register)
            fitted.append(protocol_width(pair, fit_profile(pair)))
        except SuperResolutionError as error:
            failed = True
            complain(error.at(thick))
    if not fitted:
        return 5
    text = protocols_text(join_widths(known, fitted))
    write_text(text, table)
    say(f"{text.rstrip()}\n{table}")
    return 4 if failed else 0
