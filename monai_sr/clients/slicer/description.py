"""The command line module as Slicer's execution model describes it, made from the options.

Slicer has no word for "not given": it sends every number and choice of its form. So a number that
the command line finds by itself is 0 in the form, a choice "auto", and :func:`given` takes them away again.
Long flags have no hyphens there (``ctkCmdLineModule.xsd``).
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from ... import __version__
from ...fusion.options import OWN, TAKEN
from ...options import BUNDLES, NOTICE, Parameter, parameters

OVERLAYS = (
    Parameter("difference", help="also write what the network adds to the consistent spline", placeholder="FILE"),
    Parameter("consistency", help="also write acquired slices minus re-acquired result", placeholder="FILE"),
)
"""Volumes that only Slicer asks for."""

STACKS = (
    Parameter("second", help="the second stack, in another plane", placeholder="FILE"),
    Parameter("third", help="the third stack, if there is one", placeholder="FILE"),
)
"""More volumes of the module that fuses stacks."""

AUTO = "auto"

FIRST = ("bundle", "factor", "spacing", "slice_thickness", "profile", "modality")
"""What most users look at; the rest is hidden at first."""

FIRST_OF_FUSION = ("bundle", "spacing", "field", "no_register", "slice_thickness", "modality")

OF_FUSION = ("input", "output", "second", "third", "field", "no_register", *TAKEN)

LEFT_OUT = ("trust_bundle",)
"""Of no use where the bundle is one of a list."""

EXTENSIONS = ".nrrd,.nii.gz,.nii,.mha"

_NUMBERS = {"number": "double", "count": "integer"}

_TYPES = _NUMBERS | {"flag": "boolean"}


def describe() -> str:
    """The XML that ``monai-sr slicer --xml`` prints."""
    known = {parameter.name: parameter for parameter in (*parameters("slicer"), *OVERLAYS)}
    text = "Thin slices from thick-slice CT and MR volumes, consistent with the acquired ones."
    return _module(
        *("MonaiSR (command line)", text, known, FIRST),
        arguments=(("input", "Thick slices", "input"), ("output", "Thin slices", "output")),
        options=(("difference", "Difference to the spline", "output"), ("consistency", "Consistency map", "output")),
    )


def describe_fusion() -> str:
    """The XML that ``monai-sr slicer --fuse --xml`` prints."""
    known = {
        parameter.name: parameter for parameter in (*parameters("slicer"), *STACKS, *OWN) if parameter.name in OF_FUSION
    }
    text = "One volume from stacks of a patient in several planes, consistent with each of them."
    return _module(
        *("MonaiSR fuse stacks (command line)", text, known, FIRST_OF_FUSION),
        arguments=(("input", "First stack", "input"), ("output", "Fused volume", "output")),
        options=(("second", "Second stack", "input"), ("third", "Third stack", "input")),
    )


_Image = tuple[str, str, str]


def _module(
    title: str,
    text: str,
    known: dict[str, Parameter],
    first: Sequence[str],
    *,
    arguments: Sequence[_Image],
    options: Sequence[_Image],
) -> str:
    """The XML of a module: its volumes (name, label, channel), then ``first``, then the other known options."""
    root = ElementTree.Element("executable")
    for name, content in (
        ("category", "Super-Resolution"),
        ("title", title),
        ("description", f"{text} {NOTICE}"),
        ("version", __version__),
        ("license", "Apache-2.0"),
        ("contributor", "The monai-sr authors"),
    ):
        ElementTree.SubElement(root, name).text = content
    known = {name: parameter for name, parameter in known.items() if name not in LEFT_OUT}
    group = _group(root, "Volumes", "What is read and written")
    for index, (name, label, channel) in enumerate(arguments):
        _image(group, known.pop(name), label, channel, index=str(index))
    for name, label, channel in options:
        _image(group, known.pop(name), label, channel, longflag=name)
    group = _group(root, "Slices", "What is wanted, and how the slices were acquired")
    for name in first:
        _option(group, known.pop(name))
    group = _group(root, "More", "Options that are seldom needed")
    group.set("advanced", "true")
    for parameter in known.values():
        _option(group, parameter)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def given(words: Sequence[str]) -> list[str]:
    """What Slicer sends as a user would have typed it: without the options that were left alone.

    Args:
        words: after ``monai-sr slicer``; flags with hyphens or underscores.
    """
    known = {
        parameter.name: parameter for parameter in (*parameters("slicer"), *OVERLAYS, *STACKS, *OWN) if parameter.flag
    }
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        parameter = known.get(word[2:].replace("-", "_")) if word.startswith("--") else None
        if parameter is None:
            kept.append(word)
        elif parameter.kind == "flag" or not rest:
            kept.append(parameter.flag)
        else:
            value = rest.pop(0)
            if parameter.default is not None or not _left_alone(parameter, value):
                kept += [parameter.flag, value]
    return kept


def _left_alone(parameter: Parameter, value: str) -> bool:
    """Whether a value is what the form shows before anything is chosen."""
    if parameter.kind in _NUMBERS:
        try:
            return float(value) == 0
        except ValueError:
            return False
    return value == (AUTO if parameter.kind == "choice" else "")


def _group(root: ElementTree.Element, label: str, text: str) -> ElementTree.Element:
    group = ElementTree.SubElement(root, "parameters")
    ElementTree.SubElement(group, "label").text = label
    ElementTree.SubElement(group, "description").text = text
    return group


def _image(group: ElementTree.Element, parameter: Parameter, label: str, channel: str, **how: str) -> None:
    """A volume, handed over by a file; its place is given by ``index`` or ``longflag``."""
    image = ElementTree.SubElement(group, "image", {"fileExtensions": EXTENSIONS})
    for name, text in (("name", parameter.name), *how.items(), ("description", parameter.help), ("label", label)):
        ElementTree.SubElement(image, name).text = text
    ElementTree.SubElement(image, "channel").text = channel


def _option(group: ElementTree.Element, parameter: Parameter) -> None:
    choices = (
        (*BUNDLES, "none") if parameter.name == "bundle" else parameter.choices if parameter.kind == "choice" else ()
    )
    default, text = parameter.default, parameter.text
    if default is None and choices:
        choices = (AUTO, *(choice for choice in choices if choice != AUTO))
        default = AUTO
    elif default is None and parameter.kind in _NUMBERS:
        default, text = 0, f"{text}; 0: not given"
    elif default is None:
        default = ""
    element = ElementTree.SubElement(group, "string-enumeration" if choices else _TYPES.get(parameter.kind, "string"))
    fields = {
        "name": parameter.name,
        "longflag": parameter.name,
        "description": text,
        "label": parameter.name.replace("_", " ").capitalize(),
        "default": str(default).lower() if parameter.kind == "flag" else str(default),
    }
    for name, field in fields.items():
        ElementTree.SubElement(element, name).text = field
    for choice in choices:
        ElementTree.SubElement(element, "element").text = str(choice)
    if parameter.kind == "number":
        limits = ElementTree.SubElement(element, "constraints")
        for name, limit in (("minimum", "0"), ("maximum", "50"), ("step", "0.1")):
            ElementTree.SubElement(limits, name).text = limit
