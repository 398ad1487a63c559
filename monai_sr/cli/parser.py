"""What ``monai-sr`` understands: commands, options, and the nearest one to a misspelled option."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from .. import __version__
from ..clients.slicer.description import OVERLAYS
from ..errors import UsageError
from ..fusion.options import OWN, TAKEN
from ..options import BUNDLES, GROUPS, NOTICE, PARAMETERS, Parameter, parameters

EXAMPLES = """\
examples:
  monai-sr run thick.nii.gz thin.nii.gz --report       one volume, with a page of pictures
  monai-sr run dicom/ derived/ --bundle pyramid        every DICOM series of a folder, as derived series
  monai-sr run scans/ thin/ --spacing 1 --dry-run      what would be made of many volumes, and what it takes
"""


class Parser(argparse.ArgumentParser):
    """argparse, but options may stand between positionals, and an unknown one is answered with the nearest."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how, formatter_class=_Formatter)
        self._intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._intermixed = True  # which parses in two passes, by this method
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, []

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.split() if word.startswith("--")]
        known = [text for action in self._actions for text in action.option_strings]
        for word in unknown if "unrecognized" in message else ():
            near = difflib.get_close_matches(word.split("=")[0], known, n=1)
            if near:
                message += f"; did you mean {near[0]}?"
        raise UsageError("E-USE", message, fix=f"see {self.prog} --help")


class _Formatter(argparse.HelpFormatter):
    """Texts of several lines stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def make_parser() -> Parser:
    """The parser of ``monai-sr COMMAND ...``; ``command`` of what it parses names the command."""
    parser = Parser(
        prog="monai-sr",
        description=f"Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones. {NOTICE}",
    )
    parser.add_argument("--version", action="version", version=f"monai-sr {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, **how: Any) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=f"{text}. {NOTICE}", **how)
        sub.set_defaults(command=name)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name in ("run", "bids", "check", "evaluate", "info"):
            sub.add_argument("--json", action="store_true", help="print one JSON document for programs, and no text")
        return sub

    sub = command(
        "run",
        "Super-resolve one volume or many, and go on where an earlier run stopped",
        usage="monai-sr run [OPTIONS] INPUT OUTPUT   (or: -i INPUT -o OUTPUT)",
        epilog=EXAMPLES,
    )
    _add_options(sub, "run")

    sub = command("bids", "Super-resolve a BIDS dataset into a derivative dataset, called as a BIDS App")
    _add_options(sub, "bids", input="raw BIDS dataset", output="derivative dataset to write or to go on with")
    sub.add_argument("level", choices=("participant",), help="level of analysis")

    sub = command("slicer", "Super-resolve one volume as a command line module of 3D Slicer")
    sub.add_argument("--xml", action="store_true", help="print the description of the module, and no more")
    for overlay in OVERLAYS:
        _add(sub, overlay)
    _add_options(
        sub, "slicer", input="volume of thick slices (NRRD, NIfTI, MetaImage)", output="volume of thin slices to write"
    )

    sub = command(
        "fuse",
        "Make one volume of several stacks of a patient, such as axial, coronal and sagittal",
        usage="monai-sr fuse [OPTIONS] STACK [STACK ...] OUTPUT",
    )
    sub.add_argument(
        "stacks",
        metavar="STACK",
        nargs="+",
        help="file, or folder or zip of one DICOM series; the first gives the axes. Or a DICOM study alone: its series "
        "of one contrast",
    )
    sub.add_argument("output", metavar="OUTPUT", help="file to write (.nii.gz, .nii, .nrrd, .mha)")
    for parameter in OWN:
        _add(sub, parameter, default=parameter.default)
    for name in TAKEN:
        _add(sub, PARAMETERS[name])

    sub = command("check", "Report what a DICOM folder, zip or image file holds, and what is wrong with it")
    sub.add_argument("source", metavar="SOURCE", help="folder, zip or file")
    _add_options(sub, "check")

    sub = command("verify", "Report whether a super-resolved volume, of any program, agrees with the acquired one")
    sub.add_argument("thick", metavar="THICK", help="acquired volume: file, or DICOM folder or zip")
    sub.add_argument("thin", metavar="THIN", help="super-resolved volume, on any grid with parallel axes")
    for name in ("slice_thickness", "profile", "axis", "volume"):
        _add(sub, PARAMETERS[name], default=None)
    _add(sub, PARAMETERS["consistency"], default="exact")
    sub.add_argument("--map", metavar="FILE", help="write the residual of each acquired voxel there")
    sub.add_argument(
        "--json", metavar="FILE", nargs="?", const="", help="print one JSON document for programs, or write it to FILE"
    )
    sub.add_argument(
        "--limit",
        type=_positive,
        metavar="FRACTION",
        help="maximum NRMSE of a slice [that of the residual bundle]",
    )

    sub = command("carry", "Carry a mask of thin slices to the thick ones, or of thick slices to the thin ones")
    sub.add_argument("mask", metavar="MASK", help="labels, or probabilities of 0 to 1")
    sub.add_argument("output", metavar="OUTPUT", help="file to write")
    sub.add_argument("--from", dest="from_", metavar="IMAGE", required=True, help="the volume that the mask lies on")
    sub.add_argument("--to", metavar="IMAGE", required=True, help="the volume with the wanted slices")
    for name in ("slice_thickness", "profile", "axis", "volume"):
        _add(sub, PARAMETERS[name], default=None)
    _add(sub, PARAMETERS["overwrite"], default=False)

    sub = command("simulate", "Make a thick-slice volume from a thin-slice one")
    sub.add_argument("input", metavar="INPUT", help="volume of thin slices")
    sub.add_argument("output", metavar="OUTPUT", help="file to write")
    wanted = sub.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--factor", type=_positive, help="thin slices per thick one")
    wanted.add_argument("--spacing", type=_positive, metavar="MM", help="spacing of the thick slices")
    _add(sub, replace(PARAMETERS["slice_thickness"], unset="the slice spacing"), default=None)
    _add(sub, replace(PARAMETERS["profile"], unset="gaussian"), default="gaussian")
    _add(sub, PARAMETERS["axis"], default=None)

    _add_evaluate(command("evaluate", "Measure bundles against interpolation and peers on volumes of thin slices"))

    text = "Measure how far a bundle may be trusted and write its configs/calibration.json, or fit slices of real pairs"
    sub = command("calibrate", text)
    sub.add_argument("bundle", metavar="BUNDLE", nargs="?", help="residual, pyramid or a bundle folder")
    sub.add_argument("dataset", metavar="DATASET", nargs="?", help="datalist or folder, as for training")
    sub.add_argument(
        "--pairs",
        action="append",
        default=[],
        nargs=2,
        metavar=("THICK", "THIN"),
        help="instead of a bundle: DICOM series of one scan, whose slice profile is fitted; may be repeated",
    )
    sub.add_argument("--protocols", metavar="FILE", help="of --pairs: the table to write or to add to, for run")
    sub.add_argument(
        "--register", action="store_true", help="of --pairs: align the thin series rigidly to the thick one"
    )
    sub.add_argument("--crop", type=_voxels, default=96, metavar="VOXELS", help="of each volume, a side [%(default)s]")
    sub.add_argument("--markdown", metavar="FILE", help="write tables there, ready for a model card")
    _add_compute(sub)

    sub = command("pack", "Make a bundle of a training run: its weights, their calibration and their 8-bit form")
    sub.add_argument("runs", metavar="RUNS", help="output_dir of the training")
    sub.add_argument("target", metavar="BUNDLE", help="folder to make")
    sub.add_argument("dataset", metavar="DATASET", help="datalist or folder, as for training")
    sub.add_argument("--bundle", default="pyramid", help="the bundle that was trained [%(default)s]")
    sub.add_argument("--crop", type=_voxels, default=96, metavar="VOXELS", help="of each volume, a side [%(default)s]")
    _add(sub, PARAMETERS["trust_bundle"], default=False)

    sub = command("quantize", "Make the 8-bit form of a bundle (models/int8.json) from its weights, and measure it")
    sub.add_argument("bundle", metavar="BUNDLE", help="residual, pyramid or a bundle folder that you trust")
    sub.add_argument("--dataset", metavar="DATASET", required=True, help="datalist or folder, as for training")
    sub.add_argument(
        "--crop", type=_voxels, default=96, metavar="VOXELS", help="measure on the middle, so many a side [%(default)s]"
    )

    sub = command("demo", "Super-resolve the shipped example with both bundles and draw the result")
    sub.add_argument("--output", metavar="FOLDER", default="demo_output", help="[%(default)s]")
    _add(sub, PARAMETERS["device"], default="auto")

    sub = command("watch", "Super-resolve new thick series of a DICOMweb archive and store the results beside them")
    _add_archive(sub)
    _add_options(sub, "watch")

    sub = command("info", "List versions, devices and bundles")
    sub.add_argument("--bundle-path", metavar="BUNDLE", help="print only the folder of this bundle")

    sub = command("errors", "Explain an error or warning by its code, or all of them")
    sub.add_argument("code", metavar="CODE", nargs="?", help="such as E-IO-CRC [all]")
    return parser


def _add_options(parser: argparse.ArgumentParser, command: str, **helps: str) -> None:
    """The options of a command by their groups; what is not given is not set.

    Args:
        parser: of the command.
        command: see :func:`monai_sr.options.parameters`.
        helps: other words for its input and output.
    """
    if command != "check":
        parser.add_argument(
            "--config", metavar="FILE", help="take options from this JSON or YAML file, such as the record of a result"
        )
    groups: dict[str, Any] = {}
    for parameter in parameters(command):
        if not parameter.flag:
            name, text = parameter.name, helps.get(parameter.name, parameter.help)
            parser.add_argument(name, metavar=name.upper(), nargs="?", default=argparse.SUPPRESS, help=text)
            parser.add_argument(f"-{name[0]}", f"--{name}", dest=f"{name}_option", help=argparse.SUPPRESS)
            continue
        if parameter.group not in groups:
            groups[parameter.group] = parser.add_argument_group(GROUPS[parameter.group].__doc__)
        place = groups[parameter.group]
        if parameter.excludes:
            rivals = " ".join(sorted((parameter.name, *parameter.excludes)))
            if rivals not in groups:
                groups[rivals] = place.add_mutually_exclusive_group()
            place = groups[rivals]
        _add(place, parameter)


def _add(place: Any, parameter: Parameter, *, default: Any = argparse.SUPPRESS) -> None:
    """One option; by default it is not set unless it is given."""
    flags = [parameter.flag, *(["--participant_label"] if parameter.name == "participant_label" else [])]
    how: dict[str, Any] = {"default": default, "help": parameter.text}
    if parameter.kind == "flag":
        place.add_argument(*flags, action="store_true", **how)
        return
    if parameter.many:
        how |= {"action": "extend", "nargs": "+"} if parameter.many == "words" else {"action": "append"}
    elif parameter.kind != "text":
        how["type"] = _typed(parameter)
    choices = parameter.kind == "choice" and f"{{{','.join(map(str, parameter.choices))}}}"
    place.add_argument(*flags, metavar=choices or parameter.unit.upper() or parameter.placeholder or None, **how)


def _typed(parameter: Parameter) -> Callable[[str], Any]:
    def convert(word: str) -> Any:
        try:
            return parameter.convert(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _add_compute(parser: argparse.ArgumentParser) -> None:
    for parameter in PARAMETERS.values():
        if parameter.group == "compute":
            _add(parser, parameter, default=parameter.default)


_positive = _typed(Parameter("number", kind="number"))
_count = _typed(Parameter("count", kind="count"))


def _not_negative(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else _positive(text)


def _voxels(text: str) -> int:
    if not text.isdecimal() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 8")
    return int(text)


def _add_evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("volumes", metavar="VOLUME", nargs="*", help="files, DICOM folders, or folders of them")
    sub.add_argument(
        "--pair",
        action="append",
        default=[],
        nargs=2,
        metavar=("THICK", "THIN"),
        help="instead of volumes: thick and thin series of one scan; fits the slice profile too; may be repeated",
    )
    sub.add_argument("--register", action="store_true", help="align the thin series of a pair rigidly to the thick one")
    _add(
        sub, replace(PARAMETERS["slice_thickness"], help="of the thick series of a pair, by its protocol"), default=None
    )
    sub.add_argument("--bundle", action="append", help=f"bundle to measure; may be repeated [{' and '.join(BUNDLES)}]")
    sub.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program to measure: 'name=command {lr} {out} --factor {factor}', both NIfTI; more fields: "
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
        choices=(*PARAMETERS["profile"].choices, "point"),
        help="slice profiles to simulate; point is plain subsampling [gaussian]",
    )
    sub.add_argument(
        "--thickness-ratio", type=_positive, nargs="+", metavar="R", help="slice thickness in slice spacings [1]"
    )
    sub.add_argument(
        "--given-thickness",
        type=_positive,
        nargs="+",
        metavar="R",
        help="thickness given to methods, divided by the true one [1]",
    )
    sub.add_argument(
        "--noise",
        type=_not_negative,
        nargs="+",
        metavar="FRACTION",
        help="noise on the thick slices, fraction of their range [0]",
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
    _add_compute(sub)
    sub.add_argument("--output", metavar="FOLDER", help="write scores.csv, scores.json and charts (.svg) there")
    sub.add_argument("--markdown", metavar="FILE", help="write the table there, ready for a model card")


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dicomweb", metavar="URL", required=True, help="root of the service: https://host/dicom-web")
    parser.add_argument(
        "--state", metavar="FOLDER", required=True, help="state of each series; several watches may share it"
    )
    parser.add_argument(
        "--auth-file",
        metavar="FILE",
        help="credentials, 'user:password' or 'Bearer TOKEN' [MONAI_SR_DICOMWEB_USER and MONAI_SR_DICOMWEB_PASSWORD, "
        "else MONAI_SR_DICOMWEB_TOKEN, else ~/.netrc]",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="trust these certificates (PEM) and no others")
    parser.add_argument("--once", action="store_true", help="look once and end, for cron")
    parser.add_argument(
        "--interval", type=_positive, default=60.0, metavar="SECONDS", help="between looks [%(default)g]"
    )
    parser.add_argument(
        "--settle",
        type=_not_negative,
        default=60.0,
        metavar="SECONDS",
        help="take a series when no slice came for so long [%(default)g]",
    )
    parser.add_argument(
        "--days", type=_count, default=7, metavar="N", help="only studies dated within the last N days [%(default)s]"
    )
    parser.add_argument(
        "--thick-ratio",
        type=_positive,
        default=2.0,
        metavar="R",
        help="minimum slice spacing of a thick series, in pixels [%(default)g]",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="give up a connection on which nothing comes for so long [%(default)g]",
    )
