"""The page of a fused volume: its stacks and what became of them, pictures, and which stack measured where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from torch import Tensor

from ..acquired import stored_dtype_of
from ..errors import SuperResolutionWarning
from ..grid import grid_of
from ..intensities import Modality
from ..trust.resolution import length_text
from .case import write_sections
from .overlays import Overlay, uncertainty_overlay
from .pictures import thumbnail, viewer
from .sections import Answer, answers, deviation_text, for_methods
from .svg import Curve, plot
from .views import LABELS, Scene, turned
from .windows import windows_for
from .words import DIRECTIONS, NETWORKS, Rows, mm, provenance, references

AXES = ("R-L", "A-P", "S-I")
"""What the axes of the result are called, by the patient's direction that they are nearest to."""


@dataclass(frozen=True, eq=False)
class StackShown:
    """One stack on the page.

    Attributes:
        name: of its file or series.
        modality: "CT" or "MR".
        before: grid as acquired, in words.
        slice_nrmse: (m,) of each slice; NaN where not compared.
        record: its entry in the record of the result.
    """

    name: str
    modality: Modality
    before: str
    slice_nrmse: np.ndarray
    record: Mapping[str, Any]


@dataclass(frozen=True)
class FusedScene(Scene):
    """A fused volume; its layers are the first stack, the mean of the stacks, and the result, on the grid of it."""

    first: np.ndarray = field(kw_only=True)
    mean: np.ndarray = field(kw_only=True)

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Of each layer, its button and its name."""
        return {
            "thick": ("First stack", "the first stack, as acquired"),
            "cubic": ("Mean of stacks", "the mean of the interpolated stacks"),
            "sr": ("Fused", "fused"),
        }

    def plane(self, layer: str, lacking: int, index: int) -> np.ndarray:
        """Voxels of one plane in the file's units, its two axes in the order of this scene."""
        if layer == "sr":
            return super().plane(layer, lacking, index)
        return np.take(self.first if layer == "thick" else self.mean, index, axis=lacking)


def write_fusion_report(
    path: str | Path,
    fused: MetaTensor,
    stacks: Sequence[StackShown],
    *,
    first: Tensor,
    mean: Tensor,
    nearest: Tensor,
    name: str,
    record: Mapping[str, Any],
    uncertainty: MetaTensor | None = None,
    warnings: Sequence[SuperResolutionWarning] = (),
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write one self-contained HTML page on a fused volume.

    Args:
        path: where; the file appears whole or not at all.
        fused: (1, X, Y, Z) the result.
        stacks: what was fused.
        first, mean: (X, Y, Z) the first stack as acquired, and the mean of the interpolated stacks, on its grid.
        nearest: (X, Y, Z) which stack measured closest to a voxel, from 1; 0 for none.
        name: what to call the result.
        record: the block ``monai_sr`` of the JSON beside it.
        uncertainty: (1, X, Y, Z) predicted standard deviation of the error, on the grid of the result.
        warnings: that came with it.
        links: pages to go to from here, by what to call them.

    Raises:
        OutputError: it cannot be written.
    """
    scene = _scene(fused, stacks[0].modality, first, mean)
    windows = windows_for(scene.sample[0], scene.modality, scene.sample[1])
    names = tuple(f"{number} {stack.name}" for number, stack in enumerate(stacks, 1))
    map_of_stacks = Overlay("stacks", "Stack that measured closest", len(stacks), names=names)
    overlays = {"stacks": (map_of_stacks, turned(nearest[None], scene.axes, scene.flips))}
    if uncertainty is not None:
        deviations = turned(uncertainty, scene.axes, scene.flips)
        overlays["uncertainty"] = uncertainty_overlay(uncertainty, scene.modality), deviations
    made_by = str(record.get("monai_sr_version") or version("monai-sr"))
    codes = [notice.code for notice in warnings]
    summary = {
        "kind": "case",
        "output_sha256": record.get("output_sha256", ""),
        "codes": codes,
        "consistency": max(float(stack.record["consistency"]["nrmse"]) for stack in stacks),
        "thumbnail": thumbnail(scene, windows, "sr"),
    }
    grid = grid_of(fused)
    return write_sections(
        path,
        title=name,
        heading=name,
        lead=f"{scene.modality}, {len(stacks)} stacks to {grid.in_words()}",
        summary=summary,
        links=links,
        warnings=warnings,
        facts={
            "Geometry": _geometry(fused, record, len(stacks)),
            "Provenance": provenance(record, name=name, description="", version=made_by),
        },
        tiles=answers(_tiles(fused, stacks, record, codes)),
        viewer=viewer(scene, windows, list(LABELS), overlays),
        trust=_agreement(stacks, uncertainty),
        methods=for_methods(_paragraph(fused, stacks, record, made_by), references(record, made_by)),
    )


def _scene(fused: MetaTensor, modality: Modality, first: Tensor, mean: Tensor) -> FusedScene:
    """The result with its axes as the page shows them; no axis is through-plane, the last is shown as that."""
    grid = grid_of(fused)
    order, flips = grid.canonical_order(2)
    orientation = nib.io_orientation(grid.affine)
    voxels, at = turned(fused, order, flips), grid.positions(2)
    return FusedScene(
        thick=voxels,
        thin=voxels,
        thick_at=at,
        thin_at=at,
        spacing=(grid.spacing[order[0]], grid.spacing[order[1]]),
        directions=tuple(int(orientation[a, 0]) for a in order),  # type: ignore[arg-type]
        modality=modality,
        has_orientation=True,
        stored=stored_dtype_of(fused),
        affine=grid.affine,
        axes=tuple(order),
        flips=tuple(flips),
        first=turned(first[None], order, flips),
        mean=turned(mean[None], order, flips),
    )


def _axis_names(fused: MetaTensor, names: Sequence[str]) -> list[str]:
    """Of the axes of the result, by the patient's direction that they are nearest to."""
    return [names[int(row[0])] for row in nib.io_orientation(grid_of(fused).affine)]


def _tiles(
    fused: MetaTensor, stacks: Sequence[StackShown], record: Mapping[str, Any], codes: Sequence[str]
) -> list[Answer]:
    """How far it differs from the stacks, what it resolves, and whether there were warnings."""
    scores = [100 * float(stack.record["consistency"]["nrmse"]) for stack in stacks]
    axes = record["fusion"]["resolution"]["axes"]
    resolved = [f"{axis} {length_text(one)}" for axis, one in zip(_axis_names(fused, AXES), axes, strict=True)]
    return [
        (
            "Differs from the stacks by",
            "bad" if "W-FUSE-STACK" in codes else "plain",
            ", ".join(f"{score:.2g} %" for score in scores),
            "of the range of each, root mean square",
        ),
        ("Resolves", "plain", ", ".join(resolved), "voxel size is not resolution"),
        (
            "Warnings",
            "warn" if codes else "good",
            str(len(codes)) if codes else "none",
            ", ".join(dict.fromkeys(codes)),
        ),
    ]


def _geometry(fused: MetaTensor, record: Mapping[str, Any], stacks: int) -> Rows:
    """The grid, what it resolves, and how much of it was measured how often."""
    grid, fusion = grid_of(fused), record["fusion"]
    counts = np.array(fusion["voxels_by_stacks"], dtype=float)
    rows: Rows = [
        ("result", f"{' × '.join(map(str, grid.shape))} voxels of {mm(grid.spacing)}"),
        (
            "covers",
            {"union": "all stacks", "intersection": "what every stack covers"}.get(fusion["field"], "the first"),
        ),
        ("axes", ", ".join(_axis_names(fused, DIRECTIONS))),
    ]
    for axis, one in zip(_axis_names(fused, DIRECTIONS), fusion["resolution"]["axes"], strict=True):
        rows.append((f"effective resolution {axis}", length_text(one)))
    for number, fraction in enumerate(counts / counts.sum()):
        words = "no stack" if not number else "1 stack" if number == 1 else f"{number} stacks"
        rows.append((f"measured by {words}", f"{100 * fraction:.3g} % of the voxels"))
    return rows


def _agreement(stacks: Sequence[StackShown], uncertainty: MetaTensor | None) -> str:
    """What was done to each stack, how far the result agrees with it, slice by slice, and the predicted error."""
    head = ("stack", "acquired", "thickness", "moved", "gain", "noise", "weight", "difference", "worst slice")
    rows = []
    for number, stack in enumerate(stacks, 1):
        record, motion = stack.record, stack.record["motion"]
        moved = f"{motion['mm']:.2g} mm, {motion['degrees']:.2g}°" if motion["used"] else "no"
        thickness = record["acquired"]["slice_thickness"]["value"]
        cells = (
            f"{number} {stack.name}",
            stack.before,
            f"{thickness:.4g} mm" if isinstance(thickness, int | float) else "varying",
            moved,
            f"{record['scaling']['gain']:.3g}",
            f"{record['noise'] or 0:.3g}",
            f"{record['weight'] or 0:.2g}",
            f"{100 * record['consistency']['nrmse']:.2g} %",
            f"{100 * (record['consistency']['score'] or 0):.2g} %",
        )
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f'<table class="facts stacks"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
    graphs = []
    for number, stack in enumerate(stacks, 1):
        values = 100 * stack.slice_nrmse
        drawn = plot(
            [Curve("root mean square", "sr", np.arange(1, len(values) + 1), values, "bars")],
            title=f"Difference of each slice of stack {number} and the result, % of the range",
            x="acquired slice, in the order of the file",
            y="% of the range",
        )
        graphs.append(f'<figure class="graph"><h3>Each slice of stack {number}</h3>{drawn}</figure>')
    unit = "HU" if stacks[0].modality == "CT" else "signal units"
    predicted = "" if uncertainty is None else f" Predicted error: {deviation_text(uncertainty[0].numpy(), unit)}."
    return (
        "<p>The result, acquired again as each stack was, minus the slices of that stack: root mean square, in percent "
        "of the range of the stack. Weight: how much a voxel of the stack counts beside the prior, by its noise and "
        f'where the stacks contradict each other.{predicted}</p><div class="wide">{table}</div>'
        f'<div class="pair">{"".join(graphs)}</div>'
    )


def _paragraph(fused: MetaTensor, stacks: Sequence[StackShown], record: Mapping[str, Any], made_by: str) -> str:
    """A paragraph on how this volume was made, to be pasted."""
    bundle = str(record.get("bundle") or "none")
    network = NETWORKS.get(bundle, "the consistent spline" if bundle == "none" else "a convolutional network")
    register = record["fusion"]["register"]
    moved = (
        "were registered rigidly to the first (mutual information)"
        if register
        else "were used where their headers put them"
    )
    agree = ", ".join(f"{100 * float(stack.record['consistency']['nrmse']):.2g} %" for stack in stacks)
    scaled = ", brought to one scale of intensities" if stacks[0].modality == "MR" else ""
    model = f"bundle {bundle} {record.get('bundle_version') or ''}".strip()
    return (
        f"{len(stacks)} {stacks[0].modality} stacks ({'; '.join(stack.before for stack in stacks)}) were combined into "
        f"one volume of {mm(grid_of(fused).spacing)} voxels with monai-sr {made_by}. The stacks were super-resolved by "
        f"{network} ({model}), {moved}{scaled} and averaged by confidence; conjugate gradients then made it agree "
        "with the slices of every stack, as far as noise allows. Acquired again, the result differs from the stacks by "
        f"{agree} of their range (root mean square). Voxel size is not resolution."
    )
