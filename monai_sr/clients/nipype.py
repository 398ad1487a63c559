"""monai-sr in Nipype workflows: ``SuperResolve`` runs ``monai-sr run`` on one image file.

Its inputs are the options of the command line, made from RunOptions, so their defaults are those too. A DICOM
series goes through any DICOM converter of Nipype first.
"""

from __future__ import annotations

from typing import Any

from ..options import Parameter, parameters

try:
    from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, TraitedSpec, traits
except ImportError as error:
    raise ImportError('monai_sr.clients.nipype needs Nipype. Fix: pip install "monai-sr[nipype]"') from error

NOT_OF_A_FILE = {
    *("input", "output", "format", "series", "fill_gaps", "merge_by_geometry"),
    *(parameter.name for parameter in parameters("run") if parameter.group == "selection"),
}
"""Options of ``monai-sr run`` that say nothing about one image file, or are given otherwise here."""


def _trait(parameter: Parameter) -> Any:
    """An option as a trait; nothing is passed on unless it is set."""
    how: dict[str, Any] = {"desc": parameter.text}
    if parameter.excludes:
        how["xor"] = list(parameter.excludes)
    if parameter.kind == "flag":
        return traits.Bool(argstr=parameter.flag, **how)
    how["argstr"] = f"{parameter.flag} %s"
    if parameter.kind == "choice":
        return traits.Enum(*parameter.choices, **how)
    return {"number": traits.Float, "count": traits.Int}.get(parameter.kind, traits.Str)(**how)


_INPUTS: dict[str, Any] = {
    "in_file": File(exists=True, mandatory=True, position=0, argstr="%s", desc="volume of thick slices"),
    "out_file": File(
        position=1,
        argstr="%s",
        name_source=["in_file"],
        name_template="%s_sr",
        keep_extension=True,
        desc="volume of thin slices to write",
    ),
} | {parameter.name: _trait(parameter) for parameter in parameters("run") if parameter.name not in NOT_OF_A_FILE}

SuperResolveInputSpec = type("SuperResolveInputSpec", (CommandLineInputSpec,), _INPUTS | {"__module__": __name__})


class SuperResolveOutputSpec(TraitedSpec):
    """What :class:`SuperResolve` makes."""

    out_file = File(exists=True, desc="volume of thin slices")


class SuperResolve(CommandLine):
    """Thin slices from one thick-slice CT or MR volume. Research only, not for diagnosis.

    Examples:
        >>> from monai_sr.clients.nipype import SuperResolve
        >>> sharpen = SuperResolve(factor=4, slice_thickness=5.0, bundle="pyramid")
    """

    _cmd = "monai-sr run"
    input_spec = SuperResolveInputSpec
    output_spec = SuperResolveOutputSpec
