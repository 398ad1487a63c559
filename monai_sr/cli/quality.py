"""``simulate``, ``evaluate`` and ``calibrate``: how good results are where the truth is known."""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import OutputError, SuperResolutionError, UsageError
from ..options import BUNDLES
from .places import check_target, make_folder, naming
from .terminal import complain, progress_bar, say


def simulate(options: argparse.Namespace) -> int:
    """``monai-sr simulate INPUT OUTPUT``"""
    source, target = Path(options.input), Path(options.output)
    check_target(source, target)
    from ..grid import grid_of
    from ..io.images import read_image, write_image
    from ..transforms import simulate_thick_slices

    hr = read_image(source)
    grid = grid_of(hr)
    with naming(source):
        axis = grid.through_plane_axis if options.axis is None else options.axis
        spacing = options.spacing if options.factor is None else options.factor * grid.spacing[axis]
        lr = simulate_thick_slices(
            hr, spacing, slice_thickness=options.slice_thickness, profile=options.profile, axis=axis
        )
    write_image(lr, target)
    say(f"{target}: {grid.in_words()} -> {grid_of(lr).in_words()}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """``monai-sr evaluate VOLUMES``"""
    for folder in (options.output, options.markdown and Path(options.markdown).parent):
        if folder:
            make_folder(Path(folder))
    if options.markdown and Path(options.markdown).is_dir():
        raise OutputError("E-OUT-FOLDER", "a folder of that name exists", fix="name a file", path=options.markdown)
    from ..bundles import load_bundle
    from ..evaluation.charts import write_charts
    from ..evaluation.methods import BASELINES, peer
    from ..evaluation.scores import evaluate
    from ..evaluation.tables import (
        FIGURES_EXPLAINED,
        markdown,
        robustness_markdown,
        robustness_table,
        table,
        write_scores,
        write_text,
    )
    from ..io.volumes import find_volumes

    conditions, axes = _conditions(options), _evaluated_axes(options.axis)
    models: dict[str, Any] = dict(map(peer, options.peer))
    bundles = {name: load_bundle(name, **_loading(options)) for name in options.bundle or BUNDLES}
    models = bundles | models
    volumes = [path for source in options.volumes for path in find_volumes(source)][: options.limit]
    failed = 0

    def count_failure(_: str, error: SuperResolutionError) -> None:
        nonlocal failed
        failed += 1
        complain(error)
        if options.debug:
            traceback.print_exception(error)

    scores = evaluate(
        volumes,
        models,
        conditions=conditions,
        axes=axes,
        crop=options.crop,
        baselines=("cubic",) if options.robustness else BASELINES,
        failed=count_failure,
        progress=progress_bar("evaluate"),
    )
    if not scores:
        return 5
    say(robustness_table(scores) if options.robustness else f"{table(scores)}\n{FIGURES_EXPLAINED}")
    if options.output:
        settings = {
            "command": options.words,
            "bundles": {name: model.version for name, model in bundles.items()},
            "weights": {name: model.weights_sha256 for name, model in bundles.items()},
            "monai_sr": __version__,
        }
        for written in write_scores(scores, options.output, **settings):
            say(written)
        if not options.robustness:  # whose conditions have a factor each, and a table that says more
            for written in write_charts(scores, options.output):
                say(written)
    if options.markdown:
        made = (robustness_markdown if options.robustness else markdown)(scores, command=_command_of(options))
        say(write_text(made, Path(options.markdown)))
    return 4 if failed else 0


def _loading(options: argparse.Namespace) -> dict[str, Any]:
    """How a bundle is to be loaded."""
    return {name: getattr(options, name) for name in ("device", "engine", "precision", "trust_bundle")}


_OWN_CONDITIONS = ("profile", "thickness_ratio", "told", "noise")
"""Options of evaluate that say what the table of robustness says itself."""


def _conditions(options: argparse.Namespace) -> list[Any]:
    from ..evaluation.conditions import every_condition, robustness_conditions

    given = [name for name in _OWN_CONDITIONS if getattr(options, name) is not None]
    if options.robustness:
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise UsageError("E-USE", f"--robustness has its own conditions, and {option} was given", fix="give one")
        return robustness_conditions(options.factor or [4])
    return every_condition(
        options.factor or [2, 3, 4],
        profiles=options.profile or ["gaussian"],
        thickness_ratios=options.thickness_ratio or [1.0],
        told=options.told or [1.0],
        noise=options.noise or [0.0],
    )


def _evaluated_axes(words: list[str] | None) -> Any:
    if words is None:
        return None
    if words == ["near"]:
        return "near"
    if "near" in words:
        raise UsageError("E-USE", f"--axis {' '.join(words)} was given", fix="give near, or some of 0, 1 and 2")
    return [int(word) for word in dict.fromkeys(words)]


def _command_of(options: argparse.Namespace) -> str:
    """What was typed, without places of this machine: a model card is read elsewhere."""
    text = "monai-sr evaluate VOLUMES"
    for name in ("bundle", "factor", *_OWN_CONDITIONS, "axis", "crop", "limit"):
        value = getattr(options, name)
        if value is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "bundle":
            text += "".join(f" {option} {Path(bundle).name}" for bundle in value)
        else:
            values = value if isinstance(value, list) else [value]
            text += f" {option} {' '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"
    text += "".join(f" --peer '{peer.split('=')[0]}=…'" for peer in options.peer)
    return text + (" --robustness" if options.robustness else "")


def calibrate(options: argparse.Namespace) -> int:
    """``monai-sr calibrate BUNDLE DATASET``"""
    from ..bundles import bundle_path, load_bundle
    from ..evaluation.calibration import calibrate, calibration_markdown, simulated_in, write_calibration
    from ..evaluation.tables import write_text
    from ..io.volumes import datalist

    model = load_bundle(options.bundle, **_loading(options))
    training, validation = (
        [item["image"] for item in datalist(options.dataset, section)] for section in ("training", "validation")
    )
    bundle = bundle_path(options.bundle)
    found = calibrate(
        model,
        training,
        validation,
        crop=options.crop,
        simulation=simulated_in(bundle),
        progress=progress_bar("calibrate"),
    )
    say(write_calibration(bundle, found))
    if options.markdown:
        command = f"monai-sr calibrate {Path(options.bundle).name} DATALIST --crop {options.crop}"
        say(write_text(calibration_markdown(found, command=command), Path(options.markdown)))
    return 0
