"""The command line: ``monai-sr run | check | simulate | evaluate | demo | info | errors``.

Only this module prints. torch and MONAI are imported when a command needs them, so that help and
usage errors come at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import ImageWarning, OutputError, SuperResolutionError, UsageError

NOTICE = "Research only, not for diagnosis."

INTERNAL_ERROR = 10
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    0 all good, 2 usage, 3 no usable input, 4 some volumes failed, 5 all failed, 6 output not
    writable or disk full, 7 bundle or weights missing, damaged or not trusted, 10 internal error, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    options.words = list(sys.argv[1:] if arguments is None else arguments)
    _quiet_libraries()
    failure: Exception
    try:
        return options.command(options) or 0
    except SuperResolutionError as error:
        print(f"monai-sr: {error}", file=sys.stderr)
        code, failure = error.exit_code, error
    except KeyboardInterrupt:
        print("monai-sr: interrupted", file=sys.stderr)
        return INTERRUPTED
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
    from .dicom import is_dicom_source

    if source.is_dir() or is_dicom_source(source):
        return _run_dicom(source, target, options)
    if options.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "only DICOM can become DICOM", fix="leave --format out", path=source)
    _check_target(source, target)
    from .bundles import load_bundle
    from .images import read_image

    model = load_bundle(options.bundle, device=options.device, trust_bundle=options.trust_bundle)
    image = read_image(source, **_reading(options))
    sr = _super_resolved(image, model, options, source)
    _write(sr, target, image)
    return 0


def _run_dicom(source: Path, target: Path, options: argparse.Namespace) -> int:
    """Every series of a folder, zip or multi-frame file, or the one that was chosen."""
    from .bundles import load_bundle
    from .dicom import MadeBy, acquisition, find_series, short_name, write_derived_series
    from .images import NIFTI_SUFFIXES, image_suffix, read_dicom, refuse_file_options

    refuse_file_options(volume=options.volume, geometry=options.geometry)
    one_file = image_suffix(target) in (*NIFTI_SUFFIXES, ".nrrd", ".mha")
    if one_file and options.format == "dicom":
        raise UsageError("E-OUT-FORMAT", "a DICOM series needs a folder", fix="name a folder", path=target)
    if one_file:
        _check_target(source, target)
    elif target.exists() and not target.is_dir():
        raise OutputError("E-OUT-FOLDER", "a file of that name exists", fix="name a folder", path=target)
    elif source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UsageError("E-OUT-SAME", "the output lies inside the input folder", fix="write elsewhere", path=target)
    found = find_series(source, merge_by_geometry=bool(options.merge_by_geometry))
    chosen, faults = list(found.series), [fault for _, fault in found.broken]
    with _naming(source):
        if options.series and not one_file:
            chosen, faults = list(found.choose(options.series)), []
        elif one_file or len(chosen) + len(faults) < 2:
            chosen, faults = [found.only(options.series)], []
    for left in found.left_out:
        print(f"monai-sr: {left.files} file(s) left out: {left.reason} ({left.code})", file=sys.stderr)
    for fault in faults:
        print(f"monai-sr: {fault.at(source)}", file=sys.stderr)
    failed = len(faults)
    if chosen and not one_file:
        _make_folder(target)
    model = load_bundle(options.bundle, device=options.device, trust_bundle=options.trust_bundle)
    for series in chosen:
        name = short_name(series)
        try:
            image = read_dicom(
                series, path=source, fill_gaps=bool(options.fill_gaps), progress=_progress(f"read {name}")
            )
            sr = _super_resolved(image, model, options, source, name)
            settings = {k: str(v) for k in _SETTINGS if (v := getattr(options, k)) is not None}
            made_by = MadeBy(model.name, model.version, model.weights_sha256, settings)
            if one_file or options.format == "nifti":
                path = target if one_file else target / f"{name}.nii.gz"
                _write(sr, path, image)
                _write_sidecar(path, acquisition(series), sr, made_by)
            else:
                path = write_derived_series(sr, series, target / name, made_by=made_by)
                print(f"{path}: {_slices_text(image)} -> {_slices_text(sr)}")
        except SuperResolutionError as error:
            if len(chosen) + len(faults) == 1:
                raise error.at(source) from error.__cause__
            print(f"monai-sr: {name}: {error.at(source)}", file=sys.stderr)
            failed += 1
            if options.debug:
                traceback.print_exc()
    return 0 if not failed else 4 if failed < len(chosen) + len(faults) else 5


_SETTINGS = ("factor", "spacing", "slice_thickness", "modality", "fill_gaps", "merge_by_geometry")
"""Options that decide what a result is."""


def _super_resolved(image: Any, model: Any, options: argparse.Namespace, source: Path, name: str = "") -> Any:
    with _naming(source):
        return model(
            image,
            spacing=options.spacing,
            factor=options.factor,
            slice_thickness=options.slice_thickness,
            axis=options.axis,
            modality=options.modality,
            strict=options.strict,
            progress=_progress(name or source.name),
        )


def _write(sr: Any, target: Path, image: Any) -> None:
    from .images import write_image

    write_image(sr, target)
    print(f"{target}: {_slices_text(image)} -> {_slices_text(sr)}")


def _write_sidecar(target: Path, acquired: dict[str, Any], sr: Any, made_by: Any) -> None:
    """BIDS-style JSON beside a NIfTI file that was made from DICOM."""
    from .images import image_suffix, write_atomically
    from .transforms import grid_of

    content = acquired | {
        "SpacingBetweenSlices": round(grid_of(sr).spacing[2], 6),
        "FilledSlices": [int(i) for i in sr.meta.get("filled_slices", ())],
        "PaddingShare": round(sr.meta.get("padding_share", 0.0), 4),
        "GeneratedBy": [{"Name": "monai-sr", "Version": __version__, "Description": made_by.bundle}],
        "monai_sr": {
            "bundle": made_by.bundle,
            "bundle_version": made_by.bundle_version,
            "weights_sha256": made_by.weights_sha256,
            "options": dict(made_by.options),
            "factor_outside_training": sr.meta.get("outside_training"),
            "intended_use": "research only, not for diagnosis",
        },
    }

    def write(file: Any) -> None:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())

    write_atomically(target.with_name(target.name[: -len(image_suffix(target))] + ".json"), write)


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
    bundles = {
        name: load_bundle(name, device=options.device, trust_bundle=options.trust_bundle) for name in options.bundle
    }
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
        if value is None or value == _BUNDLES:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "bundle":
            text += "".join(f" {option} {Path(bundle).name}" for bundle in value)
        else:
            values = value if isinstance(value, list) else [value]
            text += f" {option} {' '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"
    text += "".join(f" --peer '{peer.split('=')[0]}=…'" for peer in options.peer)
    return text + (" --robustness" if options.robustness else "")


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


def info(options: argparse.Namespace) -> int:
    """``monai-sr info``"""
    from importlib.metadata import PackageNotFoundError, version

    print(f"monai-sr {__version__} - {NOTICE}")
    for package in ("torch", "monai", "nibabel", "pydicom", "SimpleITK", "numpy"):
        try:
            print(f"  {package:12} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package:12} not installed")
    import torch

    from .bundles import SPLINE, bundle_path, shipped_bundles

    print("devices")
    print(f"  cpu          {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        print(f"  cuda:{index}       {torch.cuda.get_device_name(index)}")
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
        print(f"{code:16}{meaning}\n{'':16}{remedy}")
    return 0


# ------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """argparse, but an unknown option is answered with the nearest known one."""

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.split() if word.startswith("--")]
        known = [text for action in self._all_actions() for text in action.option_strings]
        for word in unknown if "unrecognized" in message else ():
            near = difflib.get_close_matches(word.split("=")[0], known, n=1)
            if near:
                message += f"; did you mean {near[0]}?"
        self.exit(2, f"monai-sr: E-USE: {message}. Fix: see {self.prog} --help.\n")

    def _all_actions(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                actions += [inner for parser in action.choices.values() for inner in parser._actions]
        return actions


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="monai-sr",
        description=f"Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones. {NOTICE}",
    )
    parser.add_argument("--version", action="version", version=f"monai-sr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text}. {NOTICE}")
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    sub = command("run", run, "Super-resolve one volume, or every series of a DICOM folder")
    sub.add_argument(
        "input", metavar="INPUT", help="NIfTI, NRRD or MetaImage file; or a folder, zip or multi-frame file of DICOM"
    )
    sub.add_argument(
        "output", metavar="OUTPUT", help="file to write (.nii.gz, .nii, .nrrd, .mha), or a folder for DICOM series"
    )
    sub.add_argument(
        "--bundle", default="residual", help="residual, pyramid, none (spline only) or a bundle folder [%(default)s]"
    )
    wanted = sub.add_mutually_exclusive_group()
    wanted.add_argument("--factor", type=_positive, help="output slices per acquired slice, such as 4 or 2.5")
    wanted.add_argument(
        "--spacing", type=_positive, metavar="MM", help="wanted slice spacing [the finer in-plane spacing]"
    )
    _add_thickness(sub, "[the DICOM header's, else the slice spacing]")
    _add_axis(sub)
    sub.add_argument(
        "--modality", type=str.upper, choices=("CT", "MR"), help="[the DICOM header's, else by the values]"
    )
    _add_device(sub)
    sub.add_argument(
        "--format",
        choices=("nifti", "dicom"),
        help="what to write of a DICOM input into a folder [derived DICOM series]",
    )
    sub.add_argument("--series", metavar="UID|NUMBER", help="only this DICOM series [all]")
    _add_reading(sub)
    _add_gate(sub)
    sub.add_argument(
        "--strict",
        action="store_true",
        help="fail where the result would not be worth having: nothing to gain, factor not trained, CT not in HU",
    )
    _add_trust(sub)

    sub = command("check", check, "Tell what a DICOM folder, zip or image file holds, and what is wrong with it")
    sub.add_argument("source", metavar="SOURCE", help="folder, zip or file")
    _add_reading(sub)
    _add_gate(sub)

    sub = command("simulate", simulate, "Make a thick-slice volume from a thin-slice one")
    sub.add_argument("input", metavar="INPUT", help="volume of thin slices")
    sub.add_argument("output", metavar="OUTPUT", help="file to write")
    wanted = sub.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--factor", type=_positive, help="thin slices per thick one")
    wanted.add_argument("--spacing", type=_positive, metavar="MM", help="spacing of the thick slices")
    _add_thickness(sub, "[the slice spacing]")
    _add_profile(sub)
    _add_axis(sub)

    sub = command("evaluate", evaluate, "Measure bundles against interpolation and peers on volumes of thin slices")
    sub.add_argument("volumes", metavar="VOLUME", nargs="+", help="files, DICOM folders, or folders of them")
    sub.add_argument(
        "--bundle", action=_Replace, default=_BUNDLES, help="bundle to measure; may be repeated [residual and pyramid]"
    )
    sub.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program to measure: 'name=command {lr} {out} --factor {factor}', both NIfTI; it may also be told "
        "{axis} {modality} {thickness} {spacing}; may be repeated",
    )
    sub.add_argument(
        "--factor",
        type=_positive,
        nargs="+",
        metavar="F",
        help="thin slices per thick one [2 3 4; or 4 with --robustness]",
    )
    sub.add_argument(
        "--robustness",
        action="store_true",
        help="a fixed list of harder conditions: wrong profile and thickness, noise, gaps, odd factors, few slices",
    )
    sub.add_argument(
        "--profile",
        nargs="+",
        choices=("gaussian", "box", "point"),
        help="slice profiles to simulate; point is plain subsampling [gaussian]",
    )
    sub.add_argument(
        "--thickness-ratio", type=_positive, nargs="+", metavar="R", help="slice thickness in slice spacings [1]"
    )
    sub.add_argument(
        "--told", type=_positive, nargs="+", metavar="R", help="the thickness that methods are told, in true ones [1]"
    )
    sub.add_argument(
        "--noise",
        type=_share,
        nargs="+",
        metavar="SHARE",
        help="noise on the thick slices, share of their range [0]",
    )
    sub.add_argument(
        "--axis",
        nargs="+",
        choices=("0", "1", "2", "near"),
        help="slice axes, each by itself; near: all whose spacing is within 1.3 of the finest "
        "[the one of largest spacing]",
    )
    sub.add_argument(
        "--crop", type=_voxels, metavar="VOXELS", help="only the middle of each volume, so many voxels a side"
    )
    sub.add_argument("--limit", type=_count, metavar="N", help="only the first volumes")
    _add_device(sub)
    _add_trust(sub)
    sub.add_argument("--output", metavar="FOLDER", help="write scores.csv and scores.json there")
    sub.add_argument("--markdown", metavar="FILE", help="write the table there, ready for a model card")

    sub = command("demo", demo, "Super-resolve the shipped example with both bundles and draw the result")
    sub.add_argument("--output", metavar="FOLDER", default="demo_output", help="[%(default)s]")
    _add_device(sub)

    command("info", info, "List versions, devices and bundles")

    sub = command("errors", errors, "Explain an error or warning by its code, or all of them")
    sub.add_argument("code", metavar="CODE", nargs="?", help="such as E-IO-CRC [all]")
    return parser


_BUNDLES = ["residual", "pyramid"]


class _Replace(argparse.Action):
    """A repeatable option whose default goes when it is given once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [values] if given is self.default else [*given, values])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _share(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else _positive(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _voxels(text: str) -> int:
    if not text.isdigit() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 8")
    return int(text)


def _add_thickness(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--slice-thickness", type=_positive, metavar="MM", help=f"width (FWHM) of the slice profile {default}"
    )


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", choices=("gaussian", "box"), default="gaussian", help="slice profile [%(default)s]"
    )


def _add_axis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--axis", type=int, choices=(0, 1, 2), help="through-plane axis [the one of largest spacing]")


def _volume(text: str) -> int | str:
    if text != "all" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number from 0 nor all")
    return text if text == "all" else int(text)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--volume", type=_volume, metavar="K|all", help="of a NIfTI file of several volumes: which one, from 0, or all"
    )
    parser.add_argument(
        "--nan",
        choices=("fill", "refuse"),
        default="fill",
        help="take NaN and infinite voxels as the least value, or fail [%(default)s]",
    )
    parser.add_argument(
        "--geometry", choices=("sform", "qform"), help="of a NIfTI file [sform if its code is above 0, else qform]"
    )


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """How an image file is to be read."""
    return {name: getattr(options, name) for name in ("volume", "nan", "geometry")}


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-bundle", action="store_true", help="let a bundle that does not ship with monai-sr run its code"
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fill-gaps", action="store_true", default=None, help="take DICOM series with missing slices too"
    )
    parser.add_argument(
        "--merge-by-geometry",
        action="store_true",
        default=None,
        help="join slices that each have a series of their own",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... [%(default)s]")


# ------------------------------------------------------------- surroundings


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

    grid = grid_of(image)
    return f"{'x'.join(map(str, grid.shape))} at {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm"


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
