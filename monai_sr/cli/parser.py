"""What ``monai-sr`` understands: commands, options, and the nearest one to a misspelled option."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .. import __version__

NOTICE = "Research only, not for diagnosis."

MANY: dict[str, Any] = {
    "include": [],
    "exclude": [],
    "participant_label": None,
    "dry_run": False,
    "overwrite": False,
    "fail_fast": False,
    "jobs": 1,
    "scheduler": None,
    "gpu_resource": False,
    "num_parts": None,
    "part_id": None,
}
"""Options that concern many volumes only, and their defaults."""

MAPS: dict[str, Any] = {
    "consistency_map": False,
    "uncertainty": False,
    "mask": [],
    "report": False,
    "viewer": False,
}
"""Options of what is written beside a result, and their defaults."""

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
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


def make_parser(commands: Mapping[str, Command]) -> Parser:
    """The parser of ``monai-sr COMMAND ...``.

    Args:
        commands: what each command calls.
    """
    parser = Parser(
        prog="monai-sr",
        description=f"Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones. {NOTICE}",
    )
    parser.add_argument("--version", action="version", version=f"monai-sr {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=f"{text}. {NOTICE}")
        sub.set_defaults(command=commands[name])
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    sub = command("run", "Super-resolve one volume or many, and go on where an earlier run stopped")
    sub.add_argument(
        "input",
        metavar="INPUT",
        help="NIfTI, NRRD or MetaImage file; a list of files (.txt, or .csv with the columns input and output); "
        "a BIDS dataset; a folder of any depth; a zip or multi-frame file of DICOM",
    )
    sub.add_argument("output", metavar="OUTPUT", help="file to write (.nii.gz, .nii, .nrrd, .mha), or a folder")
    _add_model(sub)
    _add_maps(sub)
    sub.add_argument(
        "--format",
        choices=("nifti", "dicom"),
        help="what to write of a DICOM input into a folder [derived DICOM series]",
    )
    sub.add_argument("--series", metavar="UID|NUMBER", help="only this DICOM series [all]")
    _add_reading(sub)
    _add_gate(sub)
    _add_many(sub)

    sub = command("bids", "Super-resolve a BIDS dataset into a derivative dataset, called as a BIDS App")
    sub.add_argument("input", metavar="BIDS_DIR", help="raw BIDS dataset")
    sub.add_argument("output", metavar="OUTPUT_DIR", help="derivative dataset to write or to go on with")
    sub.add_argument("level", choices=("participant",), help="level of analysis")
    _add_model(sub)
    _add_maps(sub)
    _add_reading(sub)
    _add_many(sub)
    sub.set_defaults(format=None, series=None, fill_gaps=None, merge_by_geometry=None)

    sub = command("slicer", "Super-resolve one volume as a command line module of 3D Slicer")
    sub.add_argument("--xml", action="store_true", help="print the description of the module, and no more")
    sub.add_argument("input", metavar="INPUT", nargs="?", help="volume of thick slices (NRRD, NIfTI, MetaImage)")
    sub.add_argument("output", metavar="OUTPUT", nargs="?", help="volume of thin slices to write")
    sub.add_argument("--difference", metavar="FILE", help="also write what the network adds to the consistent spline")
    sub.add_argument(
        "--consistency",
        metavar="FILE",
        help="also write what the acquired slices hold beyond the result averaged by the slice profile",
    )
    _add_model(sub)
    _add_reading(sub)
    sub.set_defaults(fill_gaps=None, merge_by_geometry=None, overwrite=False, **MAPS)

    sub = command("check", "Tell what a DICOM folder, zip or image file holds, and what is wrong with it")
    sub.add_argument("source", metavar="SOURCE", help="folder, zip or file")
    _add_reading(sub)
    _add_gate(sub)

    sub = command("verify", "Tell whether a super-resolved volume, of any program, agrees with the acquired one")
    sub.add_argument("thick", metavar="THICK", help="acquired volume: file, or DICOM folder or zip")
    sub.add_argument("thin", metavar="THIN", help="super-resolved volume, on any grid with parallel axes")
    _add_thickness(sub, "[the DICOM header's, else the slice spacing]")
    _add_profile(sub, default=None)
    _add_axis(sub)
    sub.add_argument(
        "--volume", type=_volume, metavar="K|all", help="of files of several volumes: which one, from 0, or all"
    )
    sub.add_argument("--map", metavar="FILE", help="write what remains of each acquired voxel there")
    sub.add_argument("--json", metavar="FILE", help="write the figures there")
    sub.add_argument(
        "--limit", type=_positive, metavar="SHARE", help="largest NRMSE of a slice [the limit of the residual bundle]"
    )

    sub = command("simulate", "Make a thick-slice volume from a thin-slice one")
    sub.add_argument("input", metavar="INPUT", help="volume of thin slices")
    sub.add_argument("output", metavar="OUTPUT", help="file to write")
    wanted = sub.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--factor", type=_positive, help="thin slices per thick one")
    wanted.add_argument("--spacing", type=_positive, metavar="MM", help="spacing of the thick slices")
    _add_thickness(sub, "[the slice spacing]")
    _add_profile(sub, default="gaussian")
    _add_axis(sub)

    sub = command("evaluate", "Measure bundles against interpolation and peers on volumes of thin slices")
    sub.add_argument("volumes", metavar="VOLUME", nargs="+", help="files, DICOM folders, or folders of them")
    sub.add_argument(
        "--bundle", action=_Replace, default=BUNDLES, help="bundle to measure; may be repeated [residual and pyramid]"
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
    _add_engine(sub)
    _add_trust(sub)
    sub.add_argument("--output", metavar="FOLDER", help="write scores.csv, scores.json and charts (.svg) there")
    sub.add_argument("--markdown", metavar="FILE", help="write the table there, ready for a model card")

    sub = command("calibrate", "Measure how far a bundle may be trusted and write it into its metadata.json")
    sub.add_argument("bundle", metavar="BUNDLE", help="residual, pyramid or a bundle folder")
    sub.add_argument("dataset", metavar="DATASET", help="datalist or folder, as for training")
    sub.add_argument("--crop", type=_voxels, default=96, metavar="VOXELS", help="of each volume, a side [%(default)s]")
    sub.add_argument("--markdown", metavar="FILE", help="write tables there, ready for a model card")
    _add_device(sub)
    _add_engine(sub)
    _add_trust(sub)

    sub = command("demo", "Super-resolve the shipped example with both bundles and draw the result")
    sub.add_argument("--output", metavar="FOLDER", default="demo_output", help="[%(default)s]")
    _add_device(sub)

    sub = command("watch", "Super-resolve new thick series of a DICOMweb archive and store the results beside them")
    _add_archive(sub)
    _add_model(sub)
    _add_fill_gaps(sub)
    sub.set_defaults(merge_by_geometry=None, volume=None, nan=None, geometry=None, overwrite=False, **MAPS)

    command("info", "List versions, devices and bundles")

    sub = command("errors", "Explain an error or warning by its code, or all of them")
    sub.add_argument("code", metavar="CODE", nargs="?", help="such as E-IO-CRC [all]")
    return parser


BUNDLES = ["residual", "pyramid"]
"""What evaluate measures by default."""


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


def _voxels(text: str) -> int:
    if not text.isdigit() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 8")
    return int(text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", default="residual", help="residual, pyramid, none (spline only) or a bundle folder [%(default)s]"
    )
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--factor", type=_positive, help="output slices per acquired slice, such as 4 or 2.5")
    wanted.add_argument(
        "--spacing", type=_positive, metavar="MM", help="wanted slice spacing [the finer in-plane spacing]"
    )
    _add_thickness(parser, "[the DICOM header's, else the slice spacing]")
    _add_profile(parser, default=None)
    _add_axis(parser)
    parser.add_argument(
        "--modality", type=str.upper, choices=("CT", "MR"), help="[the DICOM header's, else by the values]"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail where the result would not be worth having: nothing to gain, not like what was trained on, "
        "CT not in HU, not consistent",
    )
    _add_device(parser)
    _add_engine(parser)
    _add_trust(parser)


def _add_maps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--consistency-map",
        action="store_true",
        help="write what remains of the acquired slices beside the result, as ..._consistency.nii.gz",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="write how wrong each voxel may be beside the result (standard deviation in HU or signal units), as "
        "..._uncertainty.nii.gz",
    )
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        metavar="FILE|PATTERN",
        help="carry a mask or segmentation along to the new grid; for many volumes a pattern such as '*_seg.nii.gz', "
        "where * is the name of each; may be repeated",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write a page with pictures beside each result (.html), also where it fails, and an index.html of many",
    )
    parser.add_argument(
        "--viewer",
        action="store_true",
        help="write a page with the volumes themselves, to cut and turn (.viewer.html); MONAI_SR_NIIVUE names NiiVue's "
        "niivue.umd.js",
    )


def _add_many(parser: argparse.ArgumentParser) -> None:
    many = parser.add_argument_group("many volumes into a folder")
    many.add_argument("--include", metavar="PATTERN", nargs="+", default=[], help="only those, such as 'sub-0*'")
    many.add_argument("--exclude", metavar="PATTERN", nargs="+", default=[], help="but not those")
    many.add_argument(
        "--participant-label", "--participant_label", metavar="LABEL", nargs="+", help="only these of a BIDS dataset"
    )
    many.add_argument("--dry-run", action="store_true", help="print what would be done and what it takes")
    many.add_argument("--overwrite", action="store_true", help="replace files that are not results of monai-sr, too")
    many.add_argument("--fail-fast", action="store_true", help="end with the first volume that fails")
    many.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes on this machine [%(default)s]")
    many.add_argument("--scheduler", metavar="ADDRESS|FILE", help="a Dask cluster instead, such as tcp://host:8786")
    many.add_argument("--gpu-resource", action="store_true", help="take one GPU of a Dask worker's resources for each")
    many.add_argument("--num-parts", type=_count, metavar="N", help="do only a part, for array jobs; of how many")
    many.add_argument("--part-id", type=int, metavar="K", help="which one, 0 to N-1")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _add_thickness(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--slice-thickness", type=_positive, metavar="MM", help=f"width (FWHM) of the slice profile {default}"
    )


def _add_profile(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    otherwise = default or "recognized from the slices"
    parser.add_argument("--profile", choices=("gaussian", "box"), default=default, help=f"slice profile [{otherwise}]")


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


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-bundle", action="store_true", help="let a bundle that does not ship with monai-sr run its code"
    )


def _add_archive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dicomweb", metavar="URL", required=True, help="root of the service: https://host/dicom-web")
    parser.add_argument(
        "--state", metavar="FOLDER", required=True, help="what became of each series; watchers may share it"
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
        type=_share,
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
        help="a series is thick whose slices are at least R pixels apart [%(default)g]",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="give up a connection on which nothing comes for so long [%(default)g]",
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    _add_fill_gaps(parser)
    parser.add_argument(
        "--merge-by-geometry",
        action="store_true",
        default=None,
        help="join slices that each have a series of their own",
    )


def _add_fill_gaps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fill-gaps", action="store_true", default=None, help="take DICOM series with missing slices too"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... [%(default)s]")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=("auto", "torch", "openvino"),
        help="what computes the network [auto: on the CPU the fastest installed, see monai-sr info]",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8", "float16", "bfloat16"),
        help="of its convolutions: int8 on the CPU, float16 or bfloat16 on a GPU [float32]",
    )
