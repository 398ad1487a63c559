"""What a user chooses for a run: one typed record from the command line to the record beside a result.

The parser, the descriptors of 3D Slicer, Boutiques and Nipype, configuration files and the record of provenance
are made from the fields of :class:`RunOptions`. Needs no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from numbers import Real  # numpy's numbers are Real too
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_type_hints

from .errors import UsageError

NOTICE = "Research only, not for diagnosis."

BUNDLES = ("residual", "pyramid")

Kind = Literal["flag", "number", "count", "index", "choice", "text"]


@dataclass(frozen=True)
class Parameter:
    """One option, as every door describes it.

    Attributes:
        name: the field, such as ``slice_thickness``.
        group: the field of :class:`RunOptions` that holds it; empty for its own fields.
        kind: "flag" takes no value, "number" one above 0, "count" a whole one above 0, "index" a whole one
            from 0 or one of ``choices``, "choice" one of ``choices``.
        default: None where monai-sr finds the value, as ``unset`` says.
        help: one line.
        choices: the values that are accepted.
        unset: what applies when it is not given.
        unit: of a number.
        placeholder: in the help, where it takes a value.
        many: "words" takes several values, "repeat" may be given several times.
        excludes: names of those that cannot be given with it.
    """

    name: str
    group: str = ""
    kind: Kind = "text"
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    unset: str = ""
    unit: str = ""
    placeholder: str = ""
    many: Literal["", "words", "repeat"] = ""
    excludes: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As the command line writes it; empty for what goes by its place."""
        return "" if self.name in ("input", "output") else f"--{self.name.replace('_', '-')}"

    @property
    def text(self) -> str:
        """The help with the default."""
        default = "" if self.default in (None, False, ()) else str(self.default)
        text = f"{self.help}, {self.unit}" if self.unit else self.help
        return f"{text} [{self.unset or default}]" if self.unset or default else text

    def convert(self, value: Any) -> Any:
        """A word of the command line or a value of a configuration file as the value of the field.

        Raises:
            ValueError: the field does not accept it; says what it does.
        """
        if value is None and self.default is None:
            return None
        if self.many:
            values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
            return tuple(str(one) for one in values)
        word, plain = str(value), isinstance(value, str | Path | Real) and not isinstance(value, bool)
        if self.kind == "flag" and isinstance(value, bool):
            return value
        for choice in self.choices if plain else ():
            if str(choice).lower() == word.lower():
                return choice
        if self.kind == "text" and plain:
            return word
        if self.kind == "number" and plain and _NUMBER.fullmatch(word) and float(word) > 0:
            return float(word)
        if self.kind in ("count", "index") and plain and word.isdecimal() and int(word) >= (self.kind == "count"):
            return int(word)
        choices = map(str, self.choices)
        if self.kind == "choice":
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        expected = " or ".join((_EXPECTED[self.kind], *choices))
        raise ValueError(f"{value!r} is not {expected}")


_EXPECTED = {"flag": "true or false", "number": "a number above 0", "text": "a text"}
_EXPECTED |= {"count": "a whole number above 0", "index": "a whole number from 0"}

_NUMBER = re.compile(r"\+?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?", re.IGNORECASE)
_KINDS: dict[Any, Kind] = {bool: "flag", float: "number", int: "count", str: "text"}


def _option(default: Any, help: str, **how: Any) -> Any:
    """A field that is an option; ``how`` as of :class:`Parameter`. Its type gives kind and choices."""
    return field(default=default, metadata={"option": {"default": default, "help": help, **how}})


@dataclass(frozen=True)
class _Group:
    """Fields that are checked when the record is made, from wherever its values come."""

    def __post_init__(self) -> None:
        for parameter in _parameters_of(type(self)):  # type: ignore[arg-type]  # a class is hashable
            name = parameter.flag or parameter.name
            try:
                value = parameter.convert(getattr(self, parameter.name))
            except ValueError as error:
                raise UsageError("E-USE", f"{name}: {error}", fix=f"correct {name}") from error
            object.__setattr__(self, parameter.name, value)
            rivals = [rival for rival in parameter.excludes if getattr(self, rival) is not None]
            if value is not None and rivals:
                raise UsageError("E-USE", f"{parameter.name} and {rivals[0]} were both given", fix="give one of them")

    def or_else(self, defaults: Self) -> Self:
        """Itself; what it leaves open as in ``defaults``, but nothing that excludes what it gives."""
        options = _parameters_of(type(self))  # type: ignore[arg-type]
        given = {one.name for one in options if getattr(self, one.name) != one.default}
        others = {one.name: getattr(defaults, one.name) for one in options if not given & {one.name, *one.excludes}}
        return replace(self, **others)


@cache
def _parameters_of(group: type[_Group], name: str = "") -> tuple[Parameter, ...]:
    """The options of a record, as its fields describe them."""
    hints, made = get_type_hints(group), []
    for one in (one for one in fields(group) if "option" in one.metadata):
        types = [hint for hint in get_args(hints[one.name]) or [hints[one.name]] if hint is not type(None)]
        inner = [literal for hint in types for literal in get_args(hint)] or types  # of Literal[...] | None
        literal = not any(isinstance(hint, type) for hint in inner)
        kind: Kind = "choice" if literal else next((_KINDS[hint] for hint in types if hint in _KINDS), "text")
        how: dict[str, Any] = {"kind": kind, "choices": tuple(inner) if literal else ()}
        made.append(Parameter(one.name, group=name, **how | one.metadata["option"]))
    return tuple(made)


@dataclass(frozen=True)
class Wanted(_Group):
    """what to make"""

    bundle: str = _option("pyramid", "pyramid, residual, none (consistent spline) or a bundle folder")
    factor: float | None = _option(None, "output slices per acquired slice, such as 4 or 2.5", excludes=("spacing",))
    spacing: float | None = _option(
        None, "wanted slice spacing", unit="mm", unset="the finer in-plane spacing", excludes=("factor",)
    )
    format: Literal["nifti", "dicom", "classic", "enhanced"] | None = _option(
        None, "results of DICOM input in a folder; dicom: classic or enhanced as the source", unset="dicom"
    )
    deidentify: bool = _option(False, "remove identity from derived DICOM; MONAI_SR_SECRET names the secret's file")
    strict: bool = _option(
        False,
        "fail instead of a warning if the result may not be better than interpolation: spacing not finer, "
        "unlike the training data, CT not in HU, not consistent",
    )
    texture: bool = _option(False, "add random texture as strong as the noise of the slices; it is not anatomy")


@dataclass(frozen=True)
class Acquisition(_Group):
    """how the volume was acquired, where the file does not say or is wrong"""

    slice_thickness: float | None = _option(
        None, "width (FWHM) of the slice profile", unit="mm", unset="by header or JSON, else the slice spacing"
    )
    profile: Literal["gaussian", "box", "triangle"] | None = _option(
        None, "slice profile", unset="by header or JSON, else estimated from the slices"
    )
    protocols: str | None = _option(None, "slice profiles by protocol, from calibrate --pairs", placeholder="FILE")
    consistency: Literal["exact", "noise", "auto"] = _option(
        "auto", "agree with the slices, or with the slices without their noise; auto: without noise if it is strong"
    )
    axis: int | None = _option(
        None, "through-plane axis", kind="choice", choices=(0, 1, 2), unset="the one of largest spacing"
    )
    modality: Literal["CT", "MR"] | None = _option(None, "modality", unset="by header or JSON, else by the values")


@dataclass(frozen=True)
class Reading(_Group):
    """input"""

    series: str | None = _option(
        None,
        "only this DICOM series, or one of several volumes in it, as check names it, such as 4#echo=2",
        placeholder="UID|NUMBER",
        unset="all",
    )
    volume: int | Literal["all", "complete"] | None = _option(
        None,
        "which volume of a 4-D file, from 0, or all; of a DICOM series: keep all volumes, or the complete ones",
        kind="index",
        choices=("all", "complete"),
        placeholder="K|all|complete",
    )
    nan: Literal["fill", "refuse"] = _option("fill", "replace NaN and infinite voxels by the minimum value, or fail")
    geometry: Literal["sform", "qform"] | None = _option(
        None, "which affine of a NIfTI file to use", unset="sform if its code is above 0, else qform"
    )
    fill_gaps: bool = _option(False, "interpolate up to five missing slices in a row of a DICOM series")
    merge_by_geometry: bool = _option(False, "join DICOM series of one slice each")


@dataclass(frozen=True)
class Compute(_Group):
    """compute"""

    device: str = _option("auto", "device of the network: auto, cpu, cuda, cuda:1, ...")
    engine: Literal["auto", "torch", "openvino"] | None = _option(
        None, "what computes the network", unset="auto: on the CPU the fastest installed, see monai-sr info"
    )
    precision: Literal["auto", "float32", "int8", "float16", "bfloat16"] | None = _option(
        None, "of the convolutions; int8: only CPU; float16: only GPU", unset="auto: int8 if calibrated, else float32"
    )
    quality: Literal["usual", "best"] = _option("usual", "best: mean over mirror images, more accurate, 4 times slower")
    adapt: float | None = _option(None, "first train on the volume itself, for at most this time", unit="minutes")
    trust_bundle: bool = _option(False, "let a bundle that does not ship with monai-sr run its code")


@dataclass(frozen=True)
class Outputs(_Group):
    """beside the result"""

    consistency_map: bool = _option(False, "write acquired slices minus re-acquired result as ..._consistency.nii.gz")
    uncertainty: bool = _option(False, "write the standard deviation of each voxel's error as ..._uncertainty.nii.gz")
    mask: tuple[str, ...] = _option(
        (),
        "carry a mask or segmentation to the new grid; for many volumes a folder of them, or a pattern such as "
        "'*_seg.nii.gz', where * is the name of the volume; may be repeated",
        many="repeat",
        placeholder="FILE|FOLDER|PATTERN",
    )
    report: bool = _option(
        False, "write a page with pictures for each volume (.html), also if it fails, and an index.html for many"
    )
    viewer: bool = _option(
        False, "write a page to browse the volumes (.viewer.html); MONAI_SR_NIIVUE names NiiVue's niivue.umd.js"
    )
    preview: bool = _option(False, "write a picture (.png) of a plane of the acquired slices and of the result")
    overwrite: bool = _option(False, "also replace files that monai-sr did not write")


@dataclass(frozen=True)
class Selection(_Group):
    """many volumes"""

    include: tuple[str, ...] = _option((), "only matching paths, as 'sub-0*'", many="words", placeholder="PATTERN")
    exclude: tuple[str, ...] = _option((), "leave out matching paths", many="words", placeholder="PATTERN")
    participant_label: tuple[str, ...] | None = _option(
        None, "only these participants of a BIDS dataset", many="words", placeholder="LABEL"
    )
    name: str | None = _option(
        None, "names of results, with {name}, {number} or {number:03}, and {bundle}", placeholder="TEMPLATE"
    )
    dry_run: bool = _option(False, "make nothing; print what would be made, with memory and time")
    fail_fast: bool = _option(False, "end at the first volume that fails")
    jobs: int = _option(1, "processes on this machine", placeholder="N")
    scheduler: str | None = _option(None, "a Dask cluster instead, such as tcp://host:8786", placeholder="ADDRESS|FILE")
    gpu_resource: bool = _option(False, "each volume takes one GPU of a Dask worker's resources")
    num_parts: int | None = _option(None, "number of parts of an array job", placeholder="N")
    part_id: int | None = _option(None, "do only this part, 0 to N-1", kind="index", placeholder="K")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.num_parts is None) != (self.part_id is None):
            raise UsageError("E-USE", "--num-parts and --part-id belong together", fix="give both")
        if self.part_id is not None and self.num_parts is not None and self.part_id >= self.num_parts:
            problem = f"part {self.part_id} of {self.num_parts} was asked for"
            raise UsageError("E-USE", problem, fix=f"give --part-id 0 to {self.num_parts - 1}")
        if self.scheduler and self.jobs > 1:
            raise UsageError("E-USE", "--jobs is for this machine, --scheduler for a cluster", fix="give one of them")
        if self.gpu_resource and not self.scheduler:
            raise UsageError("E-USE", "--gpu-resource is for a cluster", fix="give --scheduler, or omit it")


@dataclass(frozen=True)
class RunOptions(_Group):
    """All that a user chooses for a run.

    Raises:
        UsageError: a value that its field does not accept, or two that contradict each other.
    """

    input: str = _option(
        "",
        "NIfTI, NRRD or MetaImage file; a list of files (.txt, or .csv with the columns input and output); "
        "a BIDS dataset; a folder of any depth; a zip or multi-frame file of DICOM",
    )
    output: str = _option("", "file to write (.nii.gz, .nii, .nrrd, .mha), or a folder; a new one ends with /")
    wanted: Wanted = field(default_factory=Wanted)
    acquisition: Acquisition = field(default_factory=Acquisition)
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)
    outputs: Outputs = field(default_factory=Outputs)
    selection: Selection = field(default_factory=Selection)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunOptions:
        """The options that a mapping gives, by group (``{"wanted": {"factor": 4}}``) or flat (``{"factor": 4}``).

        Raises:
            UsageError: there is no such option, or it does not accept the value.
        """
        flat = flat_options(values)
        groups: dict[str, Any] = {
            name: group(**{one.name: flat[one.name] for one in fields(group) if one.name in flat})
            for name, group in GROUPS.items()
        }
        return cls(flat.get("input", ""), flat.get("output", ""), **groups)

    def to_dict(self) -> dict[str, Any]:
        """The values that are not the defaults, by group, as JSON holds them."""
        made: dict[str, Any] = {}
        for parameter in PARAMETERS.values():
            place = made.setdefault(parameter.group, {}) if parameter.group else made
            value = getattr(getattr(self, parameter.group) if parameter.group else self, parameter.name)
            if value != parameter.default:
                place[parameter.name] = list(value) if isinstance(value, tuple) else value
        return {name: value for name, value in made.items() if value != {}}

    def texts(self) -> dict[str, str]:
        """The values that are not the defaults as texts, by name; without the bundle, which has a version too."""
        return {name: str(value) for name, value in flat_options(self.to_dict()).items() if name != "bundle"}

    def deciding(self) -> RunOptions:
        """Only what decides a result: its voxels, and whether they are an enhanced DICOM image; the rest by default."""
        return RunOptions(
            wanted=replace(self.wanted, format="enhanced" if self.wanted.format == "enhanced" else None, strict=False),
            acquisition=replace(self.acquisition, protocols=None),
            reading=replace(self.reading, series=None),
            compute=replace(self.compute, device=Compute.device, trust_bundle=False),
        )


GROUPS: dict[str, type[_Group]] = {
    group.__name__.lower(): group for group in (Wanted, Acquisition, Outputs, Reading, Compute, Selection)
}
"""The nested records of :class:`RunOptions`, in the order of the help; the docstring of each is its title there."""

PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for name, group in [("", RunOptions), *GROUPS.items()]
    for parameter in _parameters_of(group, name)
}
"""Every option by its name, in the order of the help."""

_DICOM_ONLY = {"format", "deidentify", "series", "fill_gaps", "merge_by_geometry"}
_OF_A_RUN = {parameter.name for parameter in PARAMETERS.values() if parameter.group in ("outputs", "selection")}

LEFT_OUT: dict[str, set[str]] = {
    "run": set(),
    "bids": _DICOM_ONLY | {"name"},
    "slicer": _DICOM_ONLY | _OF_A_RUN | {"consistency", "protocols"},  # whose name is that of its map there
    "watch": _OF_A_RUN | {"input", "output", "series", "nan", "geometry", "merge_by_geometry"},
    "node": _OF_A_RUN | {"input", "output", "series", "nan", "geometry", "merge_by_geometry"},
    "check": {p.name for p in PARAMETERS.values() if p.group not in ("reading", "acquisition")} | {"series"},
}
"""Options that a command does not take."""


def parameters(command: str) -> list[Parameter]:
    """What ``monai-sr COMMAND`` takes of the options, in the order of its help.

    Raises:
        KeyError: the command takes none of them.
    """
    return [one for name, one in PARAMETERS.items() if name not in LEFT_OUT[command]]


def flat_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name alone, of a mapping by group or flat.

    Raises:
        UsageError: there is no such option.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in GROUPS and isinstance(value, Mapping):
            flat |= flat_options(value)
        elif name in PARAMETERS:
            flat[name] = value
        else:
            near = difflib.get_close_matches(name, [*PARAMETERS, *GROUPS], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError("E-USE", f"unknown option {key!r}{hint}", fix="see monai-sr run --help for all")
    return flat
