"""What ``monai-sr`` understands: commands, options, and the nearest one to a misspelled option."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import replace
from typing import Any, NoReturn

from .. import __version__
from ..clients.slicer.description import OVERLAYS, STACKS
from ..errors import UsageError
from ..fusion.options import OWN
from ..options import GROUPS, NOTICE, PARAMETERS, parameters
from .arguments import (
    add_archive,
    add_carry,
    add_compute,
    add_crop,
    add_evaluate,
    add_fuse,
    add_limits,
    add_node,
    add_pairs,
    add_parameter,
    positive_number,
)

EXAMPLES = """\
examples:
  monai-sr run thick.nii.gz thin.nii.gz --report       one volume, with a page of pictures
  monai-sr run dicom/ derived/ --bundle pyramid        every DICOM series of a folder, as derived series
  monai-sr run scans/ thin/ --spacing 1 --dry-run      what would be made, with memory and time
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
        if name not in ("info", "errors", "completion", "hub"):
            add_limits(sub, makes_results=name in ("run", "bids", "fuse"))
        if name in ("run", "bids", "check", "evaluate", "info", "doctor"):
            sub.add_argument("--json", action="store_true", help="print one JSON document for programs, and no text")
        return sub

    sub = command(
        "run",
        "Super-resolve one volume or many, and go on where an earlier run stopped",
        usage="monai-sr run [OPTIONS] INPUT OUTPUT   (or: -i INPUT -o OUTPUT)",
        epilog=EXAMPLES,
    )
    _add_options(sub, "run")

    sub = command("bids", "Super-resolve a BIDS dataset into a derivative dataset, as a BIDS App")
    _add_options(sub, "bids", input="raw BIDS dataset", output="derivative dataset to write or to go on with")
    sub.add_argument("level", choices=("participant",), help="level of analysis")

    sub = command("slicer", "Super-resolve one volume as a command line module of 3D Slicer")
    sub.add_argument("--xml", action="store_true", help="print the description of the module, and no more")
    sub.add_argument("--fuse", action="store_true", help="fuse INPUT with --second and --third, as monai-sr fuse does")
    for parameter in (*OVERLAYS, *STACKS, *(parameter for parameter in OWN if parameter.name != "maps")):
        add_parameter(sub, parameter)
    _add_options(
        sub, "slicer", input="volume of thick slices (NRRD, NIfTI, MetaImage)", output="volume of thin slices to write"
    )

    sub = command(
        "fuse",
        "Make one volume from several stacks of a patient, such as axial, coronal and sagittal",
        usage="monai-sr fuse [OPTIONS] STACK [STACK ...] OUTPUT   (or: --from FOLDER OUTPUT)",
    )
    add_fuse(sub)

    sub = command("check", "Report what a DICOM folder, zip or image file holds, and what is wrong with it")
    sub.add_argument("source", metavar="SOURCE", help="folder, zip or file")
    _add_options(sub, "check")

    sub = command("verify", "Report whether a super-resolved volume, of any program, agrees with the acquired one")
    sub.add_argument("thick", metavar="THICK", help="acquired volume: file, or DICOM folder or zip")
    sub.add_argument("thin", metavar="THIN", help="super-resolved volume, on any grid with parallel axes")
    for name in ("slice_thickness", "profile", "axis", "volume"):
        add_parameter(sub, PARAMETERS[name], default=None)
    unset = "noise if the JSON beside THIN says that noise was removed, else exact"
    add_parameter(sub, replace(PARAMETERS["consistency"], default=None, unset=unset), default=None)
    sub.add_argument("--map", metavar="FILE", help="write acquired slices minus re-acquired result there")
    sub.add_argument(
        "--json", metavar="FILE", nargs="?", const="", help="print one JSON document for programs, or write it to FILE"
    )
    sub.add_argument(
        "--limit",
        type=positive_number,
        metavar="FRACTION",
        help="maximum NRMSE of a slice [that of the residual bundle]",
    )

    text = "Carry masks of thin slices to the thick ones, or of thick slices to the thin ones"
    add_carry(command("carry", text))

    sub = command("simulate", "Make a thick-slice volume from a thin-slice one")
    sub.add_argument("input", metavar="INPUT", help="volume of thin slices")
    sub.add_argument("output", metavar="OUTPUT", help="file to write")
    wanted = sub.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--factor", type=positive_number, help="thin slices per thick one")
    wanted.add_argument("--spacing", type=positive_number, metavar="MM", help="spacing of the thick slices")
    add_parameter(sub, replace(PARAMETERS["slice_thickness"], unset="the slice spacing"), default=None)
    add_parameter(sub, replace(PARAMETERS["profile"], unset="gaussian"), default="gaussian")
    add_parameter(sub, PARAMETERS["axis"], default=None)

    add_evaluate(command("evaluate", "Measure bundles against interpolation and peers on volumes of thin slices"))

    text = "Measure the limits of a bundle and write its configs/calibration.json, or fit slice profiles of real pairs"
    sub = command("calibrate", text)
    sub.add_argument("bundle", metavar="BUNDLE", nargs="?", help="residual, pyramid or a bundle folder")
    sub.add_argument("dataset", metavar="DATASET", nargs="?", help="datalist or folder, as for training")
    add_pairs(sub, "--pairs", "a bundle: DICOM series of one scan, whose slice profile is fitted")
    sub.add_argument("--protocols", metavar="FILE", help="with --pairs: the table to write or to add to")
    sub.add_argument(
        "--register", action="store_true", help="with --pairs: align the thin series rigidly to the thick one"
    )
    add_crop(sub)
    sub.add_argument("--markdown", metavar="FILE", help="write tables there, ready for a model card")
    add_compute(sub)

    sub = command("pack", "Make a bundle from a training run: its weights, their calibration and their 8-bit form")
    sub.add_argument("runs", metavar="RUNS", help="output_dir of the training")
    sub.add_argument("target", metavar="BUNDLE", help="folder to make")
    sub.add_argument("dataset", metavar="DATASET", help="datalist or folder, as for training")
    sub.add_argument("--bundle", default="pyramid", help="the bundle that was trained [%(default)s]")
    add_crop(sub)
    add_parameter(sub, PARAMETERS["trust_bundle"], default=False)

    sub = command("hub", "Make the folders of a bundle for the Hugging Face hub and MONAI's model zoo")
    sub.add_argument("bundle", metavar="BUNDLE", help="residual, pyramid or a bundle folder")
    sub.add_argument("output", metavar="OUTPUT", help="folder to make; nothing is uploaded")
    sub.add_argument(
        "--repository", metavar="OWNER/NAME", help="repository on the hub; also makes the zoo's entry that links to it"
    )

    sub = command("quantize", "Make the 8-bit form of a bundle (models/int8.json) from its weights, and measure it")
    sub.add_argument("bundle", metavar="BUNDLE", help="residual, pyramid or a bundle folder that you trust")
    sub.add_argument("--dataset", metavar="DATASET", required=True, help="datalist or folder, as for training")
    add_crop(sub)

    sub = command("demo", "Super-resolve the shipped example with both bundles and draw the result")
    sub.add_argument(
        "--output", metavar="FOLDER", default="demo_output", help="where to write the results [%(default)s]"
    )
    add_parameter(sub, PARAMETERS["device"], default="auto")

    sub = command("watch", "Super-resolve new thick series of a DICOMweb archive and store the results beside them")
    add_archive(sub)
    _add_options(sub, "watch")

    sub = command("node", "Receive thick series as a DICOM node (C-STORE), super-resolve them and send the results on")
    add_node(sub)
    _add_options(sub, "node")

    sub = command("info", "List versions, devices and bundles")
    sub.add_argument("--bundle-path", metavar="BUNDLE", help="print only the folder of this bundle")

    sub = command("doctor", "Check whether monai-sr works here: packages, memory, a folder for results, a self-test")
    sub.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="where results will go [this folder]")

    sub = command("completion", "Print the script with which a shell completes commands, options and their values")
    sub.add_argument("shell", choices=("bash", "zsh", "fish", "powershell", "tcsh"))

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
        add_parameter(place, parameter)
