"""The page of one case: pictures, curves, agreement, provenance. One file that needs nothing else.

Equal results and records give equal bytes: the page holds no date and no place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundles import trust_of
from ..codes import CODES
from ..errors import BundleError, SuperResolutionWarning, UsageError
from ..grid import SAME_SPACING, grid_of, on_grid
from ..io.images import as_stored
from ..trust.consistency import Consistency, measure_consistency
from ..trust.resolution import METHOD, effective_resolution
from ..trust.uncertainty import uncertainty_map
from .overlays import consistency_overlay, uncertainty_overlay
from .page import script_json, write_page
from .pictures import LAYERS, thumbnail, viewer
from .sections import curves, for_methods, help_dialog, notes, tables, tiles, trust
from .views import Scene, turned
from .windows import windows_for
from .words import Rows, geometry, methods, provenance, references, resolution_text, resolution_tile


def write_report(
    path: str | Path,
    image: MetaTensor,
    sr: MetaTensor,
    *,
    name: str = "",
    description: str = "",
    axis: int | None = None,
    slice_thickness: float | np.ndarray | None = None,
    record: Mapping[str, Any] | None = None,
    warnings: Sequence[SuperResolutionWarning] = (),
    consistency: Consistency | None = None,
    uncertainty: MetaTensor | None = None,
) -> Path:
    """Write one self-contained HTML page on a super-resolved volume.

    Args:
        path: where; the file appears whole or not at all.
        image: (C, X, Y, Z) the acquired volume; of several, the first is shown.
        sr: (C, X', Y', Z') the result; it is shown as the stored voxel type of ``image`` holds it.
        name: what to call it, such as the name of its file.
        description: the series description, if it is to stand there.
        axis: the through-plane axis. Default: the one along which the result is finer.
        slice_thickness: mm, as it was given to the model. Default: what the metadata tell, else the spacing.
        record: how it was made, as the block ``monai_sr`` of the JSON beside a result tells.
        warnings: that came with it.
        consistency: measured already; else it is measured here.
        uncertainty: (C, X', Y', Z') standard deviation on the grid of ``sr``, in its units. Default: what the
            bundle that ``record`` names foretells, if it was calibrated.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.
    """
    before, after = grid_of(image), grid_of(sr)
    axis = _axis(image, sr) if axis is None else axis
    record, told = dict(record or {}), slice_thickness
    told_by = "given"
    if told is None and axis == image.meta.get("slice_axis", axis):
        told, told_by = image.meta.get("slice_thickness"), "as the file tells"
    if told is None:
        told, told_by = before.spacing[axis], "assumed equal to the slice spacing"
    scene = Scene.of(image, sr, axis)
    if consistency is None:
        consistency = measure_consistency(
            image, sr, slice_thickness=slice_thickness, axis=axis, stored_dtype=scene.stored
        )
    windows = windows_for(scene.sample[0], scene.modality, scene.sample[1])
    overlays = {
        "consistency": (
            consistency_overlay(consistency, scene.modality),
            turned(consistency.residual, scene.axes, scene.flips),
        )
    }
    if uncertainty is None:
        uncertainty = _foretold(image, sr, scene, record, axis=axis)
    foretold = None
    if uncertainty is not None:
        foretold = turned(uncertainty, scene.axes, scene.flips)
        overlays["uncertainty"] = uncertainty_overlay(uncertainty, scene.modality), foretold
    made_by = str(record.get("monai_sr_version") or version("monai-sr"))
    resolved = record.get("resolution") or _resolution(image, sr, axis=axis)
    facts = {
        "Geometry": geometry(image, before, after, scene, axis=axis, thickness=told, told_by=told_by),
        "Provenance": provenance(record, name=name, description=description, version=made_by),
    }
    facts["Geometry"].append(("effective resolution", resolution_text(resolved)))
    nrmse = consistency.nrmse
    limit = _calibrated(record).get("consistency", {}).get("limit")
    paragraph = methods(
        *(before, after),
        axis=axis,
        modality=scene.modality,
        thickness=told,
        told_by=told_by,
        record=record,
        version=made_by,
        nrmse=nrmse,
    )
    summary = {
        "kind": "case",
        "output_sha256": record.get("output_sha256", ""),
        "codes": [notice.code for notice in warnings],
        "consistency": float(f"{consistency.score:.3g}"),
        "thumbnail": thumbnail(scene, windows, "sr"),
    }
    lead = (
        f"{scene.modality}, {before.shape[axis]} slices of {before.spacing[axis]:.3g} mm to "
        f"{after.shape[axis]} of {after.spacing[axis]:.3g} mm"
    )
    return write_page(
        Path(path),
        "case.html",
        "report.js",
        title=escape(f"{name or 'Super-resolved volume'} - monai-sr report"),
        heading=escape(description or name or "Super-resolved volume"),
        lead=escape(f"{name}: {lead}" if description and name else lead),
        summary=script_json(summary),
        failure="",
        tiles=tiles(consistency, limit, resolution_tile(resolved), summary["codes"]),
        viewer=viewer(scene, windows, list(LAYERS), overlays),
        warnings=notes(warnings),
        curves=curves(scene),
        curves_hidden="",
        trust=trust(consistency, limit, foretold),
        trust_hidden="",
        facts=tables(facts),
        methods=for_methods(paragraph, references(record, made_by)),
        methods_hidden="",
        dialog=help_dialog(),
    )


def write_failure_report(
    path: str | Path,
    *,
    name: str,
    code: str,
    reason: str,
    image: MetaTensor | None = None,
    description: str = "",
    axis: int | None = None,
    record: Mapping[str, Any] | None = None,
    warnings: Sequence[SuperResolutionWarning] = (),
) -> Path:
    """Write a page on a volume that failed: why, what to do, and what was read of it.

    Args:
        path: where.
        name: what to call it.
        code: the error's, such as ``E-IO-CRC``.
        reason: what is wrong and what to do, in a sentence each.
        image: what was read of it, if anything.
        description, axis, record, warnings: as of :func:`write_report`.

    Raises:
        OutputError: it cannot be written.
    """
    _, meaning, remedy = CODES.get(code, ("", "", ""))
    failure = (
        '<section class="failed" aria-labelledby="failed-heading">'
        f'<h2 id="failed-heading">Not super-resolved: <span class="hash">{escape(code)}</span></h2><dl>'
        f"<dt>What is wrong</dt><dd>{escape(reason)}</dd>"
        f"<dt>{escape(code)} means</dt><dd>{escape(meaning)}</dd>"
        f'<dd class="remedy">{escape(remedy)}</dd></dl></section>'
    )
    facts: dict[str, Rows] = {}
    pictures, small, lead = "", "", "Nothing of it could be read."
    if image is not None:
        grid = grid_of(image)
        axis = _axis(image, image) if axis is None else axis
        scene = Scene.of(image, None, axis)
        windows = windows_for(scene.sample[0], scene.modality, scene.sample[1])
        pictures = viewer(scene, windows, ["thick"], {})
        small = thumbnail(scene, windows, "thick")
        told = image.meta.get("slice_thickness")
        rows = geometry(
            *(image, grid, None, scene),
            axis=axis,
            thickness=grid.spacing[axis] if told is None else told,
            told_by="unknown, the slice spacing" if told is None else "as the file tells",
        )
        facts["What was read"] = rows
        lead = f"{scene.modality}, {' × '.join(map(str, grid.shape))} voxels were read."
    facts["Provenance"] = provenance(record or {}, name=name, description=description, version=version("monai-sr"))
    summary = {"kind": "failure", "code": code, "codes": [notice.code for notice in warnings], "thumbnail": small}
    return write_page(
        Path(path),
        "case.html",
        "report.js",
        title=escape(f"{name} failed - monai-sr report"),
        heading=escape(description or name),
        lead=escape(f"{name}: {lead}" if description else lead),
        summary=script_json(summary),
        failure=failure,
        tiles="",
        viewer=pictures,
        warnings=notes(warnings),
        curves="",
        curves_hidden=" hidden",
        trust="",
        trust_hidden=" hidden",
        facts=tables(facts),
        methods="",
        methods_hidden=" hidden",
        dialog=help_dialog() if pictures else "",
    )


def _calibrated(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of the bundle that made it; empty for one that is not here."""
    try:
        return trust_of(str(record["bundle"]))
    except (KeyError, BundleError):
        return {}


def _resolution(image: MetaTensor, sr: MetaTensor, *, axis: int) -> dict[str, Any]:
    """As a record tells it."""
    before, after = effective_resolution(image, sr, axis=axis)
    return {"method": METHOD, "before": before.record(), "after": after.record()}


def _foretold(
    image: MetaTensor, sr: MetaTensor, scene: Scene, record: Mapping[str, Any], *, axis: int
) -> MetaTensor | None:
    """How uncertain the stored result is, if its bundle was calibrated and anything was made at all."""
    constants = _calibrated(record).get("uncertainty")
    if not constants or sr.shape == image.shape:
        return None
    stored = torch.from_numpy(as_stored(sr.as_tensor().cpu().numpy(), scene.stored).astype(np.float32))
    try:
        return uncertainty_map(image, on_grid(stored, grid_of(sr), sr), constants, axis=axis)
    except UsageError:  # not for this modality
        return None


def _axis(image: MetaTensor, sr: MetaTensor) -> int:
    """The axis along which the result is finer; else what the image tells, else its coarsest."""
    before, after = grid_of(image), grid_of(sr)
    ratios = [a / b for a, b in zip(before.spacing, after.spacing, strict=True)]
    if max(ratios) > 1 + SAME_SPACING:
        return int(np.argmax(ratios))
    told = image.meta.get("slice_axis")
    if told is not None:
        return int(told)
    return 2 if before.is_isotropic else int(np.argmax(before.spacing))
