"""The page of a fused volume: its stacks and what became of them, pictures, and which stack measured where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from ..acquired import stored_dtype_of
from ..errors import UsageError, read_warning
from ..grid import Grid, grid_of
from ..report.case import write_sections
from ..report.overlays import Overlay, uncertainty_overlay
from ..report.pictures import thumbnail, viewer
from ..report.sections import Answer, answers, deviation_text, for_methods, warnings_tile
from ..report.svg import Curve, plot
from ..report.views import LABELS, Scene, axes_of, turned
from ..report.words import DIRECTIONS, NETWORKS, Rows, mm, provenance, references
from ..trust.resolution import length_text
from .fuse import Fused, FusedStack
from .operators import resample
from .sources import Source
from .stacks import Stack

AXES = ("R-L", "A-P", "S-I")
"""What the axes of the result are called, by the patient's direction that they are nearest to."""


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


def write_page_of(
    path: Path,
    fused: Fused,
    sources: Sequence[Source],
    *,
    name: str,
    record: Mapping[str, Any],
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write one self-contained HTML page on a fused volume.

    Args:
        path: where; the file appears whole or not at all.
        fused: what was made.
        sources: of its stacks.
        name: what to call it.
        record: the block ``monai_sr`` of the JSON beside it.
        links: pages to go to from here, by what to call them.

    Raises:
        OutputError: it cannot be written.
    """
    scene, grid = _scene(fused), grid_of(fused.image)
    names = tuple(
        f"{number} {source.series.label if source.series is not None else source.path.name}"
        for number, source in enumerate(sources, 1)
    )
    map_of_stacks = Overlay("stacks", "Stack that measured closest", len(names), names=names)
    overlays = {"stacks": (map_of_stacks, turned(fused.nearest[None], scene.axes, scene.flips))}
    uncertainty = _uncertainty(fused)
    if uncertainty is not None:
        deviations = turned(uncertainty, scene.axes, scene.flips)
        overlays["uncertainty"] = uncertainty_overlay(uncertainty, scene.modality), deviations
    made_by = str(record.get("monai_sr_version") or version("monai-sr"))
    warnings = [read_warning(entry) for entry in record.get("warnings", ())]
    codes, fusion = [notice.code for notice in warnings], record["fusion"]
    summary = {
        "kind": "case",
        "output_sha256": record.get("output_sha256", ""),
        "codes": codes,
        "consistency": max(float(entry["consistency"]["nrmse"]) for entry in fusion["stacks"]),
        "thumbnail": thumbnail(scene, "sr"),
    }
    return write_sections(
        path,
        title=name,
        heading=name,
        lead=f"{scene.modality}, {len(names)} stacks to {grid.in_words()}",
        summary=summary,
        links=links,
        warnings=warnings,
        facts={
            "Geometry": _geometry(fused.image, fusion),
            "Provenance": provenance(record, name=name, description="", version=made_by),
        },
        tiles=answers(_tiles(fused.image, fusion, codes)),
        viewer=viewer(scene, list(LABELS), overlays),
        trust=_agreement(fused, names, fusion, uncertainty),
        methods=for_methods(_paragraph(fused, record, made_by), references(record, made_by)),
    )


def _scene(fused: Fused) -> FusedScene:
    """The result with its axes as the page shows them; no axis is through-plane, the last is shown as that."""
    grid = grid_of(fused.image)
    total, count = torch.zeros(grid.shape), torch.zeros(grid.shape)
    for stack in map(_moved, fused.stacks):
        values, inside = resample(stack.voxels, stack.grid, grid, degree=1)
        total += torch.where(inside, values, 0.0)
        count += inside
    lowest = min(float(stack.acquired.voxels.min()) for stack in fused.stacks)
    mean = torch.where(count > 0, total / count.clamp(min=1), lowest)
    axes = axes_of(grid, 2)
    voxels, first, mean_of_all = (
        turned(volume, axes["axes"], axes["flips"])
        for volume in (fused.image, _nearest(_moved(fused.stacks[0]), grid)[None], mean[None])
    )
    at = grid.positions(2)
    return FusedScene(
        thick=voxels,
        thin=voxels,
        thick_at=at,
        thin_at=at,
        modality=fused.stacks[0].acquired.modality,
        has_orientation=True,
        stored=stored_dtype_of(fused.image),
        first=first,
        mean=mean_of_all,
        **axes,
    )


def _axis_names(image: MetaTensor, names: Sequence[str]) -> list[str]:
    """Of the axes of the result, by the patient's direction that they are nearest to."""
    return [names[int(row[0])] for row in nib.io_orientation(grid_of(image).affine)]


def _tiles(image: MetaTensor, fusion: Mapping[str, Any], codes: Sequence[str]) -> list[Answer]:
    """How far it differs from the stacks, what it resolves, and whether there were warnings."""
    scores = [100 * float(entry["consistency"]["nrmse"]) for entry in fusion["stacks"]]
    axes = zip(_axis_names(image, AXES), fusion["resolution"]["axes"], strict=True)
    resolved = [f"{axis} {length_text(one)}" for axis, one in axes]
    return [
        (
            "Differs from the stacks by",
            "bad" if "W-FUSE-STACK" in codes else "plain",
            ", ".join(f"{score:.2g} %" for score in scores),
            "of the range of each, root mean square",
        ),
        ("Resolves", "plain", ", ".join(resolved), "voxel size is not resolution"),
        warnings_tile(codes),
    ]


def _geometry(image: MetaTensor, fusion: Mapping[str, Any]) -> Rows:
    """The grid, what it resolves, and how much of it was measured how often."""
    grid, counts = grid_of(image), np.array(fusion["voxels_by_stacks"], dtype=float)
    covered = {"union": "all stacks", "intersection": "what every stack covers"}.get(fusion["field"], "the first")
    rows: Rows = [
        ("result", f"{' × '.join(map(str, grid.shape))} voxels of {mm(grid.spacing)}"),
        ("covers", covered),
        ("axes", ", ".join(_axis_names(image, DIRECTIONS))),
    ]
    for axis, one in zip(_axis_names(image, DIRECTIONS), fusion["resolution"]["axes"], strict=True):
        rows.append((f"effective resolution {axis}", length_text(one)))
    for number, fraction in enumerate(counts / counts.sum()):
        words = "no stack" if not number else "1 stack" if number == 1 else f"{number} stacks"
        rows.append((f"measured by {words}", f"{100 * fraction:.3g} % of the voxels"))
    return rows


def _agreement(fused: Fused, names: Sequence[str], fusion: Mapping[str, Any], uncertainty: MetaTensor | None) -> str:
    """What was done to each stack, how far the result agrees with it, slice by slice, and the predicted error."""
    head = ("stack", "acquired", "thickness", "moved", "gain", "noise", "weight", "difference", "worst slice")
    rows, graphs = [], []
    for number, (stack, name, record) in enumerate(zip(fused.stacks, names, fusion["stacks"], strict=True), 1):
        motion = record["motion"]
        moved = f"{motion['mm']:.2g} mm, {motion['degrees']:.2g}°" if motion["used"] else "no"
        thickness = record["acquired"]["slice_thickness"]["value"]
        cells = (
            name,
            _acquired_in_words(stack),
            f"{thickness:.4g} mm" if isinstance(thickness, int | float) else "varying",
            moved,
            f"{record['scaling']['gain']:.3g}",
            f"{record['noise'] or 0:.3g}",
            f"{record['weight'] or 0:.2g}",
            f"{100 * record['consistency']['nrmse']:.2g} %",
            f"{100 * (record['consistency']['score'] or 0):.2g} %",
        )
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
        values = 100 * stack.agreement.slice_nrmse
        drawn = plot(
            [Curve("root mean square", "sr", np.arange(1, len(values) + 1), values, "bars")],
            title=f"Difference of each slice of stack {number} and the result, % of the range",
            x="acquired slice, in the order of the file",
            y="% of the range",
        )
        graphs.append(f'<figure class="graph"><h3>Each slice of stack {number}</h3>{drawn}</figure>')
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f'<table class="facts stacks"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
    unit = "HU" if fused.stacks[0].acquired.modality == "CT" else "signal units"
    predicted = "" if uncertainty is None else f" Predicted error: {deviation_text(uncertainty[0].numpy(), unit)}."
    return (
        "<p>The result, acquired again as each stack was, minus the slices of that stack: root mean square, in percent "
        "of the range of the stack. Weight: how much a voxel of the stack counts beside the prior, by its noise and "
        f'where the stacks contradict each other.{predicted}</p><div class="wide">{table}</div>'
        f'<div class="pair">{"".join(graphs)}</div>'
    )


def _acquired_in_words(stack: FusedStack) -> str:
    """Its grid as acquired."""
    return stack.acquired.grid.in_words(stack.acquired.axis, stack.acquired.slice_spacing)


def _paragraph(fused: Fused, record: Mapping[str, Any], made_by: str) -> str:
    """A paragraph on how this volume was made, to be pasted."""
    stacks, modality = fused.stacks, fused.stacks[0].acquired.modality
    bundle = str(record.get("bundle") or "none")
    network = NETWORKS.get(bundle, "the consistent spline" if bundle == "none" else "a convolutional network")
    register = record["fusion"]["register"]
    moved = (
        "were registered rigidly to the first (mutual information)"
        if register
        else "were used where their headers put them"
    )
    agree = ", ".join(f"{100 * float(entry['consistency']['nrmse']):.2g} %" for entry in record["fusion"]["stacks"])
    scaled = ", brought to one scale of intensities" if modality == "MR" else ""
    model = f"bundle {bundle} {record.get('bundle_version') or ''}".strip()
    return (
        f"{len(stacks)} {modality} stacks ({'; '.join(map(_acquired_in_words, stacks))}) were combined into one volume "
        f"of {mm(grid_of(fused.image).spacing)} voxels with monai-sr {made_by}. The stacks were super-resolved by "
        f"{network} ({model}), {moved}{scaled} and averaged by confidence; conjugate gradients then made it agree "
        "with the slices of every stack, as far as noise allows. Acquired again, the result differs from the stacks by "
        f"{agree} of their range (root mean square). Voxel size is not resolution."
    )


def _uncertainty(fused: Fused) -> MetaTensor | None:
    """The predicted error, if the bundle was calibrated for these stacks."""
    try:
        return fused.uncertainty() if fused.constants else None
    except UsageError:
        return None


def _moved(stack: FusedStack) -> Stack:
    """A stack where it was moved to, in the intensities of the first."""
    placed = Stack.of(stack.acquired, stack.name).by(stack.motion.used)
    return replace(placed, voxels=stack.scaling.apply(placed.voxels, placed.grid))


def _nearest(stack: Stack, grid: Grid) -> Tensor:
    """(X, Y, Z) each voxel of a grid as the nearest one of a stack; the lowest value beyond it."""
    matrix = np.linalg.inv(stack.grid.affine) @ grid.affine
    made = ndimage.affine_transform(
        stack.voxels.numpy(),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=grid.shape,
        order=0,
        mode="constant",
        cval=float(stack.voxels.min()),
    )
    return torch.from_numpy(made)
