"""The arguments of commands that have their own, beside the options of a run."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..fusion.options import OWN, TAKEN
from ..options import BUNDLES, PARAMETERS, Parameter


def add_parameter(place: Any, parameter: Parameter, *, default: Any = argparse.SUPPRESS) -> None:
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


def add_compute(parser: argparse.ArgumentParser) -> None:
    """The options of computing, each with its default."""
    for parameter in PARAMETERS.values():
        if parameter.group == "compute" and parameter.name != "adapt":  # which is of a run
            add_parameter(parser, parameter, default=parameter.default)


def loading(options: argparse.Namespace) -> dict[str, Any]:
    """How :func:`monai_sr.bundles.load_bundle` is to load, by the options of :func:`add_compute`."""
    return {name: getattr(options, name) for name in ("device", "engine", "precision", "quality", "trust_bundle")}


positive_number = _typed(Parameter("number", kind="number"))
count = _typed(Parameter("count", kind="count"))


def add_limits(parser: argparse.ArgumentParser, *, makes_results: bool) -> None:
    """What a command may use of this machine, and what it says."""
    place = parser.add_argument_group("this machine")
    place.add_argument("--threads", type=count, metavar="N", help="processor threads [all that this process may use]")
    place.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="memory to plan with, such as 8G [all free memory]"
    )
    loud = place.add_mutually_exclusive_group()
    loud.add_argument("--quiet", action="store_true", help="print only errors and warnings, and show no progress")
    if makes_results:
        text = "print also what computed each result, the facts of its acquisition with their sources, time and memory"
        loud.add_argument("--verbose", action="store_true", help=text)


def _bytes(text: str) -> int:
    """Bytes of a size with a unit."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if not size or not float(size[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 8G")
    return int(float(size[1]) * 2 ** (10 * (1 + "KMGT".index(size[2].upper()))))


def number_from_0(text: str) -> float:
    """A number of at least 0."""
    return 0.0 if text in ("0", "0.0") else positive_number(text)


def side(text: str) -> int:
    """A side in voxels."""
    if not text.isdecimal() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 8")
    return int(text)


def add_crop(sub: argparse.ArgumentParser) -> None:
    """How much of each volume is measured."""
    text = "use the middle of each volume, so many voxels a side [%(default)s]"
    sub.add_argument("--crop", type=side, default=96, metavar="VOXELS", help=text)


def add_pairs(sub: argparse.ArgumentParser, flag: str, text: str) -> None:
    """Real pairs, instead of other input."""
    how: dict[str, Any] = {"action": "append", "default": [], "nargs": 2, "metavar": ("THICK", "THIN")}
    sub.add_argument(flag, help=f"instead of {text}; may be repeated", **how)


def add_carry(sub: argparse.ArgumentParser) -> None:
    """Those of ``carry``."""
    sub.add_argument(
        "mask", metavar="MASK", help="labels, or probabilities of 0 to 1; a folder or BIDS dataset of them"
    )
    sub.add_argument("output", metavar="OUTPUT", help="file to write; for many masks a folder")
    sub.add_argument(
        "--from",
        dest="from_",
        metavar="IMAGE",
        required=True,
        help="the volume that the mask lies on; for many masks the folder of the volumes",
    )
    sub.add_argument(
        "--to",
        metavar="IMAGE",
        required=True,
        help="the volume with the wanted slices; for many masks the folder of the volumes",
    )
    for name in ("slice_thickness", "profile", "axis", "volume", "include", "exclude"):
        add_parameter(sub, PARAMETERS[name], default=None)
    add_parameter(sub, PARAMETERS["overwrite"], default=False)


def add_fuse(sub: argparse.ArgumentParser) -> None:
    """Those of ``fuse``."""
    sub.add_argument(
        "stacks",
        metavar="STACK",
        nargs="*",
        help="image file, or folder or zip of one DICOM series; the first stack gives the axes. Or a DICOM study: its "
        "series of one contrast",
    )
    sub.add_argument(
        "output",
        metavar="OUTPUT",
        help="file to write (.nii.gz, .nii, .nrrd, .mha); for DICOM or with --from also a folder",
    )
    sub.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="instead of stacks: a DICOM study. For many patients, with a folder as OUTPUT: a BIDS dataset, DICOM, or "
        "a folder with a folder of images for each patient; each patient and contrast gives a volume",
    )
    for parameter in OWN:
        add_parameter(sub, parameter, default=parameter.default)
    for name in TAKEN:
        add_parameter(sub, PARAMETERS[name])


def add_numbers(sub: argparse.ArgumentParser, flag: str, unit: str, text: str, *, type: Any = positive_number) -> None:
    """One or more numbers."""
    sub.add_argument(flag, type=type, nargs="+", metavar=unit, help=text)


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Those of ``evaluate``."""
    sub.add_argument("volumes", metavar="VOLUME", nargs="*", help="files, DICOM folders, or folders of them")
    add_pairs(sub, "--pair", "volumes: thick and thin series of one scan; fits the slice profile too")
    sub.add_argument("--register", action="store_true", help="align the thin series of a pair rigidly to the thick one")
    add_parameter(
        sub, replace(PARAMETERS["slice_thickness"], help="of the thick series of a pair, by its protocol"), default=None
    )
    add_parameter(sub, PARAMETERS["consistency"], default=PARAMETERS["consistency"].default)
    add_parameter(sub, PARAMETERS["texture"], default=False)
    sub.add_argument("--bundle", action="append", help=f"bundle to measure; may be repeated [{' and '.join(BUNDLES)}]")
    sub.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program to measure: 'name=command {lr} {out} --factor {factor}', both NIfTI; more fields: "
        "{axis} {modality} {thickness} {spacing}; may be repeated",
    )
    add_numbers(sub, "--factor", "F", "thin slices per thick one [2 3 4]")
    sub.add_argument(
        "--robustness",
        action="store_true",
        help="use a fixed list of harder conditions: wrong profile and thickness, noise, gaps, odd factors, few slices",
    )
    sub.add_argument(
        "--measure",
        action="store_true",
        help="also compare measurements with those of thin slices: HU, volumes, surfaces, texture",
    )
    sub.add_argument(
        "--fuse", action="store_true", help="simulate stacks in three planes, and measure what fusing them gains"
    )
    sub.add_argument(
        "--profile",
        nargs="+",
        choices=(*PARAMETERS["profile"].choices, "point"),
        help="slice profiles to simulate; point is plain subsampling [gaussian]",
    )
    add_numbers(sub, "--thickness-ratio", "R", "slice thickness in slice spacings [1]")
    add_numbers(sub, "--given-thickness", "R", "thickness given to methods, divided by the true one [1]")
    text = "noise on the thick slices, fraction of their range [0]"
    add_numbers(sub, "--noise", "FRACTION", text, type=number_from_0)
    sub.add_argument(
        "--noise-type",
        nargs="+",
        choices=("white", "scanner"),
        help="form of the noise; scanner: correlated in plane in CT, Rician in MR [white]",
    )
    sub.add_argument(
        "--axis",
        nargs="+",
        choices=("0", "1", "2", "near"),
        help="slice axes, each by itself; near: all whose spacing is within 1.3 of the finest "
        "[the one of largest spacing]",
    )
    sub.add_argument(
        "--crop", type=side, metavar="VOXELS", help="only the middle of each volume, so many voxels a side"
    )
    sub.add_argument("--limit", type=count, metavar="N", help="only the first N volumes")
    add_compute(sub)
    sub.add_argument("--output", metavar="FOLDER", help="write scores.csv, scores.json and charts (.svg) there")
    sub.add_argument("--markdown", metavar="FILE", help="write the table there, ready for a model card")


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Those of ``watch`` about the archive."""
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
    parser.add_argument("--once", action="store_true", help="query once and end, for cron")
    _add_choice(parser, interval=60.0, days="process only studies dated within the last N days [%(default)s]")


def add_node(parser: argparse.ArgumentParser) -> None:
    """Those of ``node`` about the network."""
    parser.add_argument(
        "--state", metavar="FOLDER", required=True, help="what was received, and the state of each series"
    )
    parser.add_argument("--ae-title", default="MONAI-SR", metavar="TITLE", help="AE title of this node [%(default)s]")
    parser.add_argument(
        "--address", default="127.0.0.1", metavar="IP", help="listen at this address; 0.0.0.0 for all [%(default)s]"
    )
    parser.add_argument("--port", type=count, default=11112, metavar="N", help="listen at this port [%(default)s]")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="TITLE[@ADDRESS]",
        help="accept this AE title, from this address only; may be repeated [all, at a loopback address]",
    )
    parser.add_argument(
        "--send", metavar="TITLE@HOST:PORT", help="send results to this node [a folder 'results' in the state folder]"
    )
    parser.add_argument("--certificate", metavar="FILE", help="use TLS with this certificate (PEM), in both directions")
    parser.add_argument("--key", metavar="FILE", help="key of the certificate [in the same file]")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates (PEM) of which every peer must have one")
    parser.add_argument(
        "--associations", type=count, default=8, metavar="N", help="associations at the same time [%(default)s]"
    )
    _add_choice(
        parser,
        interval=10.0,
        days="keep a series that was left out or failed for N days, for late slices [%(default)s]",
    )


def _add_choice(parser: argparse.ArgumentParser, *, interval: float, days: str) -> None:
    """Which series are processed, and when."""
    seconds: dict[str, Any] = {"type": positive_number, "metavar": "SECONDS"}
    parser.add_argument("--interval", default=interval, help="time between two queries [%(default)g]", **seconds)
    text = "process a series when no slice has arrived for this time [%(default)g]"
    parser.add_argument("--settle", default=60.0, help=text, **seconds | {"type": number_from_0})
    parser.add_argument("--days", type=count, default=7, metavar="N", help=days)
    text = "minimum slice spacing of a thick series, in pixels [%(default)g]"
    parser.add_argument("--thick-ratio", type=positive_number, default=2.0, metavar="R", help=text)
    text = "give up a connection on which nothing has arrived for this time [%(default)g]"
    parser.add_argument("--timeout", default=60.0, help=text, **seconds)
