"""``evaluate``: how good results are where the thin slices are known."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..bundles import load_bundle
from ..engine import one_of
from ..errors import OutputError, SuperResolutionError, UsageError
from ..evaluation import scores as evaluation
from ..evaluation import tables
from ..evaluation.charts import write_charts
from ..evaluation.conditions import every_condition, robustness_conditions
from ..evaluation.measurement_tables import agreement_rows, measurement_text, page, write_measurements
from ..evaluation.measurements import Study
from ..evaluation.methods import BASELINES, peer
from ..evaluation.pair_scores import PAIRS_EXPLAINED, pair_table, pairs_document, score_pair, write_pairs
from ..evaluation.pairs import read_pair
from ..evaluation.profile_fit import fit_profile
from ..files import make_folder, write_text
from ..fusion.gains import GAINS_EXPLAINED, Gain, gain_table, measure_gains
from ..io.volumes import find_volumes
from ..options import BUNDLES, PARAMETERS
from .arguments import loading
from .terminal import answer, complain, progress_bar, say


def evaluate(options: argparse.Namespace) -> int:
    """``monai-sr evaluate VOLUMES``"""
    for folder in (options.output, options.markdown and Path(options.markdown).parent):
        if folder:
            make_folder(Path(folder))
    if options.markdown and Path(options.markdown).is_dir():
        raise OutputError("E-OUT-FOLDER", "a folder of that name exists", fix="name a file", path=options.markdown)
    _check_kind(options)
    conditions, axes = _conditions(options), _evaluated_axes(options.axis)
    models: dict[str, Any] = dict(map(peer, options.peer))
    bundles = {name: load_bundle(name, **loading(options)) for name in options.bundle or BUNDLES}
    for model in bundles.values():
        acquisition = replace(model.defaults.acquisition, consistency=options.consistency)
        wanted = replace(model.defaults.wanted, texture=options.texture)
        model.defaults = replace(model.defaults, acquisition=acquisition, wanted=wanted)
    models = bundles | models
    settings = {
        "command": options.words,
        "bundles": {name: model.version for name, model in bundles.items()},
        "weights": {name: model.weights_sha256 for name, model in bundles.items()},
        "monai_sr": __version__,
    }
    if options.pair:
        return _evaluate_pairs(options, models, settings)
    volumes = [path for source in options.volumes for path in find_volumes(source)][: options.limit]
    study, failed = Study() if options.measure else None, list[str]()
    count_failure = _counting(failed, debug=options.debug)
    if options.fuse:
        bar = progress_bar("evaluate")
        gains = measure_gains(volumes, bundles, crop=options.crop, failed=count_failure, progress=bar)
        if not gains:
            return 5
        _show_gains(gains, options, settings)
        return 4 if failed else 0
    scores = evaluation.evaluate(
        volumes,
        models,
        conditions=conditions,
        axes=axes,
        crop=options.crop,
        baselines=("cubic",) if options.robustness or study else BASELINES,
        failed=count_failure,
        progress=progress_bar("evaluate"),
        study=study,
    )
    if not scores:
        return 5
    robust = options.robustness
    say(tables.robustness_table(scores) if robust else f"{tables.table(scores)}\n{tables.FIGURES_EXPLAINED}")
    answer(scores=[tables.score_row(score) for score in scores])
    if options.output:
        _say_each(tables.write_scores(scores, options.output, **settings))
        if not options.robustness:  # whose conditions have a factor each, and a table that says more
            _say_each(write_charts(scores, options.output))
    if study is not None:
        _show_measurements(study, options, settings)
    elif options.markdown:
        make = tables.robustness_markdown if robust else tables.markdown
        say(write_text(make(scores, command=_command_of(options)), Path(options.markdown)))
    return 4 if failed else 0


def _show_gains(gains: Sequence[Gain], options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """``monai-sr evaluate --fuse VOLUMES``"""
    rows, table = [asdict(gain) for gain in gains], gain_table(gains)
    say(f"{tables.aligned(table, left=2)}\n{GAINS_EXPLAINED}")
    answer(scores=rows)
    if options.output:
        document = {"settings": settings, "figures": GAINS_EXPLAINED, "scores": rows}
        _say_each(tables.write_rows(options.output, "fusion", rows, document))
    if options.markdown:
        text = "\n\n".join([tables.piped(table), GAINS_EXPLAINED, f"Made by `{_command_of(options)}`."])
        say(write_text(f"{text}\n", Path(options.markdown)))


def _evaluate_pairs(options: argparse.Namespace, models: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """``monai-sr evaluate --pair THICK THIN``"""
    measured, bar, study, failed = [], progress_bar("evaluate"), Study() if options.measure else None, list[str]()
    count_failure = _counting(failed, debug=options.debug)
    for index, (thick, thin) in enumerate(options.pair):
        show = one_of(bar, index, len(options.pair))
        try:
            pair = read_pair(
                *(thick, thin), slice_thickness=options.slice_thickness, crop=options.crop, register=options.register
            )
            fit = fit_profile(pair)
            measured.append(
                (pair, fit, score_pair(pair, fit, models, failed=count_failure, progress=show, study=study))
            )
        except SuperResolutionError as error:
            count_failure(thick, error.at(thick))
    if not measured:
        return 5
    say("\n\n".join([*(pair_table(*one) for one in measured), PAIRS_EXPLAINED]))
    answer(**pairs_document(measured))
    if options.output:
        _say_each(write_pairs(options.output, measured, **settings))
    if study is not None:
        _show_measurements(study, options, settings)
    elif options.markdown:
        parts = [pair_table(*one, markdown=True) for one in measured]
        text = "\n\n".join([*parts, PAIRS_EXPLAINED, f"Made by `{_command_of(options)}`."])
        say(write_text(f"{text}\n", Path(options.markdown)))
    return 4 if failed else 0


def _show_measurements(study: Study, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Print the tables of ``--measure``, and write its page and files."""
    say(measurement_text(study))
    answer(agreement=agreement_rows(study))
    if options.output:
        _say_each(write_measurements(study, options.output, **settings))
    if options.markdown:
        say(write_text(page(study, command=_command_of(options)), Path(options.markdown)))


def _counting(failed: list[str], *, debug: bool) -> Callable[[str, SuperResolutionError], None]:
    """What shows the error of a volume and counts it."""

    def count(name: str, error: SuperResolutionError) -> None:
        failed.append(name)
        complain(error)
        if debug:
            traceback.print_exception(error)

    return count


def _say_each(written: Sequence[Path]) -> None:
    for path in written:
        say(path)


_OF_VOLUMES = ("volumes", "fuse", "factor", "robustness", "axis", "limit")
"""Options of evaluate that do not apply to pairs."""

_NOT_OF_FUSION = ("factor", "robustness", "measure", "axis", "peer")
"""Options of evaluate that do not apply to stacks, as do those of its conditions."""


def _check_kind(options: argparse.Namespace) -> None:
    """Refuse options of volumes for pairs, of pairs for volumes, and neither.

    Raises:
        UsageError: see above.
    """
    if not options.pair and not options.volumes:
        raise UsageError("E-USE", "no volume was given", fix="give volumes of thin slices, or --pair THICK THIN")
    if (options.register or options.slice_thickness) and not options.pair:
        problem = "--register and --slice-thickness are for pairs"
        raise UsageError("E-USE", problem, fix="give --pair THICK THIN, or omit them")
    barred: dict[str, tuple[str, ...]] = {"pair": _OF_VOLUMES, "fuse": _NOT_OF_FUSION}
    why = {"pair": "--pair has no simulated slices", "fuse": "--fuse has its own conditions"}
    for kind, names in barred.items():
        given = [name for name in (*names, *_OWN_CONDITIONS) if getattr(options, kind) and getattr(options, name)]
        if given:
            option = given[0] if given[0] == "volumes" else f"--{given[0].replace('_', '-')}"
            raise UsageError("E-USE", f"{why[kind]}, and {option} was given", fix="give one of them")


_OWN_CONDITIONS = ("profile", "thickness_ratio", "given_thickness", "noise", "noise_type")
"""Options of evaluate that say what the table of robustness says itself."""


def _conditions(options: argparse.Namespace) -> list[Any]:
    given = [name for name in _OWN_CONDITIONS if getattr(options, name) is not None]
    if options.robustness:
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise UsageError("E-USE", f"--robustness has its own conditions, and {option} was given", fix="give one")
        return robustness_conditions(options.factor or [2, 3, 4])
    return every_condition(
        options.factor or [2, 3, 4],
        profiles=options.profile or ["gaussian"],
        thickness_ratios=options.thickness_ratio or [1.0],
        given_thicknesses=options.given_thickness or [1.0],
        noise=options.noise or [0.0],
        noise_types=options.noise_type or ["white"],
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
    text = "monai-sr evaluate " + (" ".join(["--pair THICK THIN"] * len(options.pair)) or "VOLUMES")
    for name in ("bundle", "factor", *_OWN_CONDITIONS, "slice_thickness", "axis", "crop", "limit"):
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
    for name in ("consistency", "engine", "precision", "quality"):
        if getattr(options, name) != PARAMETERS[name].default:
            text += f" --{name} {getattr(options, name)}"
    flags = (name for name in ("robustness", "register", "fuse", "measure", "texture") if getattr(options, name))
    return text + "".join(f" --{name}" for name in flags)
