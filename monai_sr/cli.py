"""The command line: ``monai-sr COMMAND``, one function for each.

Only this module prints. torch and MONAI are imported when a command needs them, so that help and
usage errors come at once.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import __version__
from .arguments import BUNDLES, MANY, NOTICE, make_parser
from .errors import ImageWarning, OutputError, SuperResolutionError, UsageError

INTERNAL_ERROR = 10
INTERRUPTED = 130
TERMINATED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    0 all good, 2 usage, 3 no usable input, 4 some volumes failed, 5 all failed, 6 output not
    writable or disk full, 7 bundle or weights missing, damaged or not trusted, 8 not enough memory, 9 not
    consistent, 10 internal error, 11 the archive cannot be reached or refuses, 130 interrupted, 143 terminated.
    """
    commands = {
        "run": run,
        "bids": bids,
        "slicer": slicer,
        "check": check,
        "verify": verify,
        "simulate": simulate,
        "evaluate": evaluate,
        "calibrate": calibrate,
        "demo": demo,
        "watch": watch,
        "info": info,
        "errors": errors,
    }
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["slicer"]:
        from .slicer.description import given

        words = ["slicer", *given(words[1:])]
    options = make_parser(commands).parse_args(words)
    options.words = words
    _quiet_libraries()
    failure: Exception
    try:
        with _termination_heeded():
            return options.command(options) or 0
    except SuperResolutionError as error:
        print(f"monai-sr: {error}", file=sys.stderr)
        code, failure = error.exit_code, error
    except KeyboardInterrupt:
        print("monai-sr: interrupted", file=sys.stderr)
        return INTERRUPTED
    except _TerminatedError:
        print("monai-sr: terminated", file=sys.stderr)
        return TERMINATED
    except BrokenPipeError:  # `monai-sr … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        print(
            f"monai-sr: E-BUG: {type(error).__name__}: {first}. Fix: run again with --debug and report it.",
            file=sys.stderr,
        )
        code, failure = INTERNAL_ERROR, error
    if options.debug:
        traceback.print_exception(failure)
    return code


def run(options: argparse.Namespace) -> int:
    """``monai-sr run INPUT OUTPUT``"""
    source, target = Path(options.input), Path(options.output)
    from .batch.cases import LIST_SUFFIXES
    from .dicom import is_dicom_source
    from .images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix

    one_file = image_suffix(target) in (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
    if source.suffix.lower() in LIST_SUFFIXES:
        return _run_many(source, target, options)
    if source.is_dir() or is_dicom_source(source):
        return _run_series(source, target, options) if one_file else _run_many(source, target, options)
    if options.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    if target.is_dir() and not one_file:
        return _run_many(source, target, options)
    _check_alone(options)
    _run_file(source, target, options)
    return 0


def _run_file(
    source: Path, target: Path, options: argparse.Namespace, progress: Callable[[float], None] | None = None
) -> tuple[Any, Any]:
    """One image file to one; the volume that was read and the one that was written."""
    _check_target(source, target)
    from .images import read_image

    with _page(options, source, target, source.name) as page:
        model = _settings(options).load()
        page.image = image = read_image(source, **_reading(options))
        masks = _masks(source, options)
        sr = _super_resolved(image, model, options, source, progress=progress)
        told = _write(sr, target, image, model, options, source=source, masks=masks)
        _show(page, sr, model, options, told)
    return image, sr


def slicer(options: argparse.Namespace) -> int:
    """``monai-sr slicer INPUT OUTPUT``"""
    if options.xml:
        from .slicer.description import describe

        print(describe())
        return 0
    if not options.output:
        raise UsageError("E-USE", "an input and an output are needed", fix="give both, or --xml for the description")
    source, target = Path(options.input), Path(options.output)
    overlays = {name: Path(getattr(options, name)) for name in ("difference", "consistency") if getattr(options, name)}
    for path in overlays.values():
        _check_target(source, path)
    if len({path.absolute() for path in (target, *overlays.values())}) <= len(overlays):
        raise UsageError("E-OUT-CLASH", "two outputs have the same name", fix="name each", path=target)
    from .consistency import measure_consistency
    from .images import write_image
    from .slicer.overlays import difference_map
    from .slicer.tags import told_to_slicer

    with told_to_slicer("monai-sr", f"super-resolving by {options.bundle}") as progress:
        image, sr = _run_file(source, target, options, progress)
        if "difference" in overlays:
            asked = {name: getattr(options, name) for name in _MODEL_OPTIONS}
            write_image(difference_map(image, sr, **asked), overlays["difference"])
        if "consistency" in overlays:
            told = {name: getattr(options, name) for name in ("slice_thickness", "profile", "axis")}
            passed_through = not sr.meta.get("super_resolved")
            residual = image - sr if passed_through else measure_consistency(image, sr, **told).residual
            write_image(residual.nan_to_num(), overlays["consistency"], dtype="float32")
    return 0


def bids(options: argparse.Namespace) -> int:
    """``monai-sr bids BIDS_DIR OUTPUT_DIR participant``"""
    options.participant_label = options.participant_label or []
    return _run_many(Path(options.input), Path(options.output), options)


def _run_series(source: Path, target: Path, options: argparse.Namespace) -> int:
    """One DICOM series to one file, with a JSON beside it."""
    if options.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "a DICOM series needs a folder", fix="name a folder", path=target)
    _check_alone(options)
    _check_target(source, target)
    from .batch import describe, write_sidecar
    from .dicom import find_series, short_name
    from .images import read_dicom, refuse_file_options

    refuse_file_options(volume=options.volume, geometry=options.geometry)
    found = find_series(source, merge_by_geometry=bool(options.merge_by_geometry))
    with _naming(source):
        series = found.only(options.series)
    for left in found.left_out:
        print(f"monai-sr: {left.files} file(s) left out: {left.reason} ({left.code})", file=sys.stderr)
    model = _settings(options).load()
    name = short_name(series)
    with _page(options, source, target, name, series) as page:
        image = read_dicom(series, path=source, fill_gaps=bool(options.fill_gaps), progress=_progress(f"read {name}"))
        page.image = image
        masks = _masks(source, options)
        sr = _super_resolved(image, model, options, source, name)
        told = _write(sr, target, image, model, options, source=source, masks=masks)
        made_by = _settings(options).made_by(model)
        content = describe(sr, made_by, page.case, axis=2)
        content["monai_sr"] |= told
        write_sidecar(target, content)
        _show(page, sr, model, options, told)
    return 0


@contextmanager
def _page(options: argparse.Namespace, source: Path, target: Path, name: str, series: Any = None) -> Iterator[Any]:
    """The report of one volume: if it fails, its page says why; what was warned of stands on the page too."""
    from .batch import Case, CasePage, failure

    page = CasePage(
        Case(name, source, target, series=series), wanted=options.report, viewer=options.viewer, overwrite=True
    )
    options.warned, options.started, tell = [], time.monotonic(), warnings.showwarning

    def note(message: Any, *rest: Any, **named: Any) -> None:
        options.warned.append(str(message).replace(str(source), name))
        tell(message, *rest, **named)

    warnings.showwarning = note
    try:
        yield page
    except Exception as error:
        told = failure(error)
        page.show_failure(told["code"], told["reason"], options.warned)
        raise
    finally:
        warnings.showwarning = tell


def _show(page: Any, sr: Any, model: Any, options: argparse.Namespace, told: dict[str, Any]) -> None:
    """Write the report of one volume that is done."""
    if not (page.wanted or page.viewer):
        return
    from .batch.records import made_by_block, sha256_of, sha256_of_result
    from .transforms import wanted_grid

    chosen = {name: getattr(options, name) for name in ("spacing", "factor", "axis")}
    record = made_by_block(_settings(options).made_by(model)) | options.how | told
    record |= {
        "input_sha256": sha256_of(page.case.files),
        "output_sha256": sha256_of_result(page.case.target),
        "warnings": options.warned,
        "seconds": round(time.monotonic() - options.started, 3),
    }
    axis = wanted_grid(page.image, **chosen)[1]
    page.show_result(page.image, sr, record, axis=axis, slice_thickness=options.slice_thickness)
    for path in filter(None, (page.written, page.viewer)):
        print(path)


def _run_many(source: Path, target: Path, options: argparse.Namespace) -> int:
    """Every volume of a source, each with a result or a reason."""
    _check_together(options)
    from .batch import RunLog, exit_code, find_cases, part_of, plan_table, run_cases, summary

    if options.scheduler:  # workers have a current folder of their own
        source, target = source.absolute(), target.absolute()
    cases = find_cases(
        source,
        target,
        include=options.include,
        exclude=options.exclude,
        series=options.series,
        as_nifti=options.format == "nifti",
        merge_by_geometry=bool(options.merge_by_geometry),
        participants=options.participant_label,
        masks=options.mask,
    )
    if options.format == "dicom" and not all(case.is_derived_dicom or case.fault for case in cases):
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    part = None
    if options.num_parts:
        part = options.part_id, options.num_parts
        cases = part_of(cases, part=part[0], parts=part[1])
    settings = _settings(options)
    if options.dry_run:
        print(plan_table(cases, settings))
        return 0
    _make_folder(target)
    bar = _bar(len(cases), "volumes")

    def report(outcome: Any) -> None:
        with bar.external_write_mode():
            _tell(outcome, debug=options.debug)
        bar.update(int(bar.n) + 1 - bar.n)

    outcomes = run_cases(
        cases,
        settings,
        jobs=options.jobs,
        scheduler=options.scheduler,
        resources={"GPU": 1} if options.gpu_resource else None,
        fail_fast=options.fail_fast,
        log=RunLog(target, part=part),
        report=report,
        progress=lambda share: bar.update(int(bar.n) + min(share, 0.99) - bar.n),
    )
    bar.close()
    _say(summary(outcomes))
    return exit_code(outcomes)


def _check_alone(options: argparse.Namespace) -> None:
    """Options for many volumes say nothing about one, so they were meant otherwise."""
    for name, default in MANY.items():
        if getattr(options, name) != default:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError("E-USE", f"{flag} is for many volumes, the output is a file", fix="name a folder")


def _check_together(options: argparse.Namespace) -> None:
    """Options that only make sense together, or not at all."""
    if (options.num_parts is None) != (options.part_id is None):
        raise UsageError("E-USE", "--num-parts and --part-id belong together", fix="give both")
    if options.scheduler and options.jobs > 1:
        raise UsageError("E-USE", "--jobs is for this machine, --scheduler for a cluster", fix="give one of them")
    if options.gpu_resource and not options.scheduler:
        raise UsageError("E-USE", "--gpu-resource is for a cluster", fix="give --scheduler, or leave it out")


def _tell(outcome: Any, *, debug: bool) -> None:
    """One outcome to the user: results on stdout, what is wrong on stderr."""
    for text in outcome.warnings:
        print(f"monai-sr: {outcome.case}: {text}", file=sys.stderr)
    if outcome.status == "done":
        _say(f"{outcome.output}: {outcome.change}")
    elif outcome.status == "failed":
        print(f"monai-sr: {outcome.code}: {outcome.case} - {outcome.reason}", file=sys.stderr)
        if debug and outcome.debug:
            print(outcome.debug, file=sys.stderr)


def _say(text: str) -> None:
    """Print, and go on without where nobody listens any more (``| head``)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settings(options: argparse.Namespace) -> Any:
    from .batch import Settings

    return Settings(
        bundle=options.bundle,
        device=options.device,
        engine=options.engine,
        precision=options.precision,
        options={name: getattr(options, name) for name in _MODEL_OPTIONS},
        fill_gaps=bool(options.fill_gaps),
        merge_by_geometry=bool(options.merge_by_geometry),
        reading=_reading(options),
        strict=options.strict,
        trust_bundle=options.trust_bundle,
        overwrite=options.overwrite,
        maps=_maps(options),
        report=options.report,
        viewer=options.viewer,
    )


def _maps(options: argparse.Namespace) -> tuple[str, ...]:
    chosen = {"consistency": options.consistency_map, "uncertainty": options.uncertainty}
    return tuple(name for name, wanted in chosen.items() if wanted)


_MODEL_OPTIONS = ("spacing", "factor", "slice_thickness", "profile", "axis", "modality")


def _loading(options: argparse.Namespace) -> dict[str, Any]:
    """How a bundle is to be loaded."""
    return {name: getattr(options, name) for name in ("device", "engine", "precision", "trust_bundle")}


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """How an image file is to be read."""
    return {name: getattr(options, name) for name in ("volume", "nan", "geometry")}


def _super_resolved(
    image: Any,
    model: Any,
    options: argparse.Namespace,
    source: Path,
    name: str = "",
    progress: Callable[[float], None] | None = None,
) -> Any:
    from .batch import memory_budget, super_resolve_within

    with _naming(source):
        sr, options.how = super_resolve_within(
            model,
            image,
            memory=memory_budget(),
            progress=progress or _progress(name or source.name),
            strict=options.strict,
            **{name: getattr(options, name) for name in _MODEL_OPTIONS},
        )
    return sr


def _masks(source: Path, options: argparse.Namespace) -> dict[Path, Any]:
    """The masks of one volume, read before any work is done."""
    from .batch import masks_beside
    from .images import read_labels

    named = [Path(text) for text in options.mask if "*" not in text]
    beside = masks_beside(source, [text for text in options.mask if "*" in text])
    return {path: read_labels(path) for path in (*named, *beside)}


def _write(
    sr: Any, target: Path, image: Any, model: Any, options: argparse.Namespace, *, source: Path, masks: dict[Path, Any]
) -> dict[str, Any]:
    """Write a result, and the masks and maps asked for; what its sidecar is to tell about it."""
    from .batch import map_path, mask_path, write_map, write_masks
    from .batch.making import trust_in
    from .images import write_image
    from .labels import carry_labels

    with _naming(source):
        carried = {
            mask_path(target, source, path): carry_labels(labels, image, sr, axis=options.axis)
            for path, labels in masks.items()
        }
    settings = _settings(options)
    told, maps = trust_in(image, sr, model, settings)
    write_image(sr, target)
    print(f"{target}: {_slices_text(image)} -> {_slices_text(sr)}")
    write_masks(carried, overwrite=True)
    for path in carried:
        print(path)
    for kind, made in maps.items():
        print(write_map(made, map_path(target, kind), overwrite=True))
    return told


def check(options: argparse.Namespace) -> int:
    """``monai-sr check SOURCE``"""
    source = Path(options.source)
    from .dicom import find_series, is_dicom_source, stack_of

    if not (source.is_dir() or is_dicom_source(source)):
        from .images import read_image

        print(f"{source}: {_slices_text(read_image(source, **_reading(options)))}")
        return 0
    from .images import refuse_file_options

    refuse_file_options(volume=options.volume, geometry=options.geometry)
    found = find_series(source, merge_by_geometry=bool(options.merge_by_geometry))
    good, bad = 0, len(found.broken)
    for series in found.series:
        number = "-" if series.number is None else series.number
        print(f"series {number}: {series.modality}, {len(series.frames)} slices, UID {series.uid}")
        try:
            stack = stack_of(series, fill_gaps=bool(options.fill_gaps))
        except SuperResolutionError as error:
            bad += 1
            print(f"  {error}")
            continue
        good += 1
        thick = series.slice_thickness
        thickness = "unknown" if thick is None else f"{thick:.4g} mm" if isinstance(thick, float) else "differs"
        print(f"  one each {stack.step:.4g} mm, slice thickness {thickness}")
        for note in stack.warnings:
            print(f"  {note}")
    for uid, fault in found.broken:
        print(f"series of UID {uid or 'unknown'}\n  {fault}")
    for left in found.left_out:
        print(f"left out: {left.files} file(s), {left.reason} ({left.code})")
    if not good and not bad:
        with _naming(source):
            found.only()
    return 0 if not bad else 4 if good else 5


def verify(options: argparse.Namespace) -> int:
    """``monai-sr verify THICK THIN``"""
    sources = Path(options.thick), Path(options.thin)
    from .bundles import trust_of
    from .consistency import measure_consistency
    from .dicom import is_dicom_source
    from .images import check_writable, read_image, write_image, write_json

    if options.map:
        check_writable(Path(options.map))
    limit = options.limit or trust_of("residual")["consistency"]["limit"]
    acquired, result = (
        read_image(source, volume=None if is_dicom_source(source) else options.volume, own_results=True)
        for source in sources
    )
    told = {name: getattr(options, name) for name in ("slice_thickness", "profile", "axis")}
    with _naming(sources[1]):
        found = measure_consistency(acquired, result, **told)
    print(f"{found.text()}\n{'limit':17} {limit:.3g} for each slice, and what rounding to integers costs")
    if options.map:
        print(write_image(found.residual, options.map, dtype="float32"))
    if options.json:
        print(write_json({"consistency": found.record() | {"limit": limit}}, Path(options.json)))
    found.check(limit, path=sources[1])
    print("consistent")
    return 0


def simulate(options: argparse.Namespace) -> int:
    """``monai-sr simulate INPUT OUTPUT``"""
    source, target = Path(options.input), Path(options.output)
    _check_target(source, target)
    from .images import read_image, write_image
    from .transforms import grid_of, simulate_thick_slices

    hr = read_image(source)
    grid = grid_of(hr)
    with _naming(source):
        axis = grid.through_plane_axis if options.axis is None else options.axis
        spacing = options.spacing if options.factor is None else options.factor * grid.spacing[axis]
        lr = simulate_thick_slices(
            hr, spacing, slice_thickness=options.slice_thickness, profile=options.profile, axis=axis
        )
    write_image(lr, target)
    print(f"{target}: {_slices_text(hr)} -> {_slices_text(lr)}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """``monai-sr evaluate VOLUMES``"""
    for folder in (options.output, options.markdown and Path(options.markdown).parent):
        if folder:
            _make_folder(Path(folder))
    if options.markdown and Path(options.markdown).is_dir():
        raise OutputError("E-OUT-FOLDER", "a folder of that name exists", fix="name a file", path=options.markdown)
    from .bundles import load_bundle
    from .charts import write_charts
    from .evaluation import evaluate
    from .methods import BASELINES, peer
    from .tables import (
        FIGURES_EXPLAINED,
        markdown,
        robustness_markdown,
        robustness_table,
        table,
        write_scores,
        write_text,
    )
    from .volumes import find_volumes

    conditions, axes = _conditions(options), _evaluated_axes(options.axis)
    models: dict[str, Any] = dict(map(peer, options.peer))
    bundles = {name: load_bundle(name, **_loading(options)) for name in options.bundle}
    models = bundles | models
    volumes = [path for source in options.volumes for path in find_volumes(source)][: options.limit]
    failed = 0

    def complain(_: str, error: SuperResolutionError) -> None:
        nonlocal failed
        failed += 1
        print(f"monai-sr: {error}", file=sys.stderr)
        if options.debug:
            traceback.print_exception(error)

    scores = evaluate(
        volumes,
        models,
        conditions=conditions,
        axes=axes,
        crop=options.crop,
        baselines=("cubic",) if options.robustness else BASELINES,
        failed=complain,
        progress=_progress("evaluate"),
    )
    if not scores:
        return 5
    print(robustness_table(scores) if options.robustness else f"{table(scores)}\n{FIGURES_EXPLAINED}")
    if options.output:
        settings = {
            "command": options.words,
            "bundles": {name: model.version for name, model in bundles.items()},
            "weights": {name: model.weights_sha256 for name, model in bundles.items()},
            "monai_sr": __version__,
        }
        for written in write_scores(scores, options.output, **settings):
            print(written)
        if not options.robustness:  # whose conditions have a factor each, and a table that says more
            for written in write_charts(scores, options.output):
                print(written)
    if options.markdown:
        made = (robustness_markdown if options.robustness else markdown)(scores, command=_command_of(options))
        print(write_text(made, Path(options.markdown)))
    return 4 if failed else 0


_OWN_CONDITIONS = ("profile", "thickness_ratio", "told", "noise")
"""Options of evaluate that say what the table of robustness says itself."""


def _conditions(options: argparse.Namespace) -> list[Any]:
    from .conditions import every_condition, robustness_conditions

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
        if value is None or value == BUNDLES:
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
    from .bundles import bundle_path, load_bundle
    from .calibration import calibrate, simulated_in, trust_markdown, write_trust
    from .tables import write_text
    from .volumes import datalist

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
        progress=_progress("calibrate"),
    )
    print(write_trust(bundle, found))
    if options.markdown:
        command = f"monai-sr calibrate {Path(options.bundle).name} DATALIST --crop {options.crop}"
        print(write_text(trust_markdown(found, command=command), Path(options.markdown)))
    return 0


def demo(options: argparse.Namespace) -> int:
    """``monai-sr demo``"""
    output = Path(options.output)
    _make_folder(output)
    from .demo import run_demo

    scores = run_demo(output, device=options.device)
    print(f"\n{'method':22}{'PSNR dB':>9}{'gain dB':>9}{'SSIM':>9}")
    for score in scores:
        name = "consistent spline" if score.method == "consistent" else score.method
        print(f"{name:22}{score.psnr_db:9.2f}{score.gain_db:+9.2f}{score.ssim:9.4f}")
    print("PSNR and SSIM against the truth inside the head; gain over the consistent spline.\n")
    print(f"volumes and comparison.png are in {output.resolve()}")
    print(NOTICE)
    return 0


def watch(options: argparse.Namespace) -> int:
    """``monai-sr watch --dicomweb URL --state FOLDER``"""
    try:
        from .pacs import Archive, Credentials, Watcher
        from .pacs import watch as watch_on
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("requests", "dicomweb_client"):
            raise
        fix = 'pip install "monai-sr[pacs]"'
        raise UsageError("E-EXTRA", f"{error.name} is not installed, which an archive needs", fix=fix) from error

    def report(event: Any) -> None:
        good = event.status == "stored"
        text = f"{event.series}: {'left out, ' if event.status == 'left out' else ''}{event.text}"
        _say(text) if good else print(f"monai-sr: {text}", file=sys.stderr, flush=True)

    archive = Archive(
        options.dicomweb,
        auth=Credentials.find(options.auth_file),
        ca_file=options.ca_file,
        timeout=options.timeout,
    )
    _make_folder(Path(options.state))
    watcher = Watcher(
        archive,
        Path(options.state),
        _settings(options),
        modalities=[options.modality] if options.modality else ["CT", "MR"],
        days=options.days,
        settle=options.settle,
        thick_ratio=options.thick_ratio,
        report=report,
    )
    if not options.once:
        watch_on(watcher, interval=options.interval, report=lambda error: print(f"monai-sr: {error}", file=sys.stderr))
    told = watcher.look()
    _say(
        f"{told.stored} stored, {told.left_out} left out, {told.failed} failed; "
        f"{told.settled} done before, {told.waiting} not ready, {told.later} tried again later"
    )
    return told.exit_code


def info(options: argparse.Namespace) -> int:
    """``monai-sr info``"""
    from importlib.metadata import PackageNotFoundError, version

    print(f"monai-sr {__version__} - {NOTICE}")
    fastest = "torch"
    for package in ("torch", "openvino", "monai", "nibabel", "pydicom", "SimpleITK", "numpy"):
        try:
            print(f"  {package:12} {version(package)}")
            fastest = "openvino" if package == "openvino" else fastest
        except PackageNotFoundError:
            hint = ', faster: pip install "monai-sr[cpu]"' if package == "openvino" else ""
            print(f"  {package:12} not installed{hint}")
    from .devices import cpu_threads, gpu_names
    from .shelf import SPLINE, bundle_path, shipped_bundles

    print("devices")
    print(f"  cpu          {cpu_threads()} threads, computes by {fastest} (--engine auto)")
    for index, name in enumerate(gpu_names()):
        print(f"  cuda:{index}       {name}")
    print("bundles")
    for name, metadata in shipped_bundles().items():
        print(f"  {name:12} {metadata['version']:8} {bundle_path(name)}")
    print(f"  {SPLINE:12} {'':8} the consistent spline alone, no network")
    return 0


def errors(options: argparse.Namespace) -> int:
    """``monai-sr errors [CODE]``"""
    from .codes import CODES

    wanted = options.code.upper() if options.code else ""
    if wanted and wanted not in CODES:
        near = difflib.get_close_matches(wanted, CODES, n=1)
        hint = f"see {near[0]}, or" if near else "see"
        raise UsageError("E-USE", f"there is no code {options.code!r}", fix=f"{hint} monai-sr errors for all")
    for code in [wanted] if wanted else CODES:
        meaning, remedy = CODES[code]
        print(f"{code:15} {meaning}\n{'':16}{remedy}")
    return 0


# ------------------------------------------------------------- surroundings


class _TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt no Exception, so that nothing but the end catches it."""


@contextmanager
def _termination_heeded() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that nothing half-written stays."""

    def end(*_: Any) -> None:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about an image that is at hand say which file it came from."""
    try:
        yield
    except SuperResolutionError as error:
        raise error.at(path) from error.__cause__


def _check_target(source: Path, target: Path) -> None:
    """Find out before any work whether the result could be written."""
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError("E-OUT-SAME", "input and output are the same file", fix="name another output", path=target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UsageError("E-OUT-SAME", "the output lies inside the input folder", fix="write elsewhere", path=target)
    from .images import check_writable

    check_writable(target)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".monai-sr-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            "E-OUT-PERM",
            f"cannot be written to ({error.strerror})",
            fix="choose a folder you may write to",
            path=folder,
        ) from error


def _slices_text(image: Any) -> str:
    from .transforms import grid_of

    return grid_of(image).in_words()


def _bar(total: float, text: str) -> Any:
    """A progress bar for work longer than a second, on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=text, delay=1, leave=False, disable=not sys.stderr.isatty())


def _progress(text: str) -> Callable[[float], None]:
    bar = _bar(1.0, text)
    bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

    def report(done: float) -> None:
        bar.update(done - bar.n)
        if done >= 1:
            bar.close()

    return report


def _quiet_libraries() -> None:
    """Our warnings as one line on stderr; other libraries' chatter not at all."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=ImageWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"monai-sr: {message}", file=sys.stderr)
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # of what it mends in headers


if __name__ == "__main__":
    sys.exit(main())
