"""The page of one case: pictures, curves, agreement, provenance, in one self-contained file.

Equal results and records give equal bytes: the page has no date and no path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import Acquired
from ..codes import CODES
from ..errors import BundleError, SuperResolutionWarning, UsageError
from ..grid import Image, grid_of, on_grid
from ..intensities import as_array
from ..io.images import rounded
from ..io.shelf import read_calibration
from ..trust.artifacts import measure_artifacts
from ..trust.consistency import measure_consistency
from ..trust.resolution import METHOD, effective_resolution
from ..trust.uncertainty import uncertainty_map
from .overlays import consistency_overlay, uncertainty_overlay
from .page import script_json, write_page
from .pictures import thumbnail, viewer
from .sections import curves, for_methods, help_dialog, navigation, notes, tables, tiles, trust
from .views import LABELS, Scene, turned
from .words import Rows, artifacts_text, geometry, methods, provenance, references, resolution_text, resolution_tile


def write_report(
    path: str | Path,
    image: Image | Acquired,
    sr: Image,
    *,
    name: str = "",
    description: str = "",
    record: Mapping[str, Any] | None = None,
    warnings: Sequence[SuperResolutionWarning] = (),
    links: Mapping[str, str] | None = None,
    uncertainty: Image | None = None,
) -> Path:
    """Write one self-contained HTML page on a super-resolved volume.

    Args:
        path: of the page, which is written atomically.
        image: (C, X, Y, Z) the acquired volume, or its Acquired record; of several volumes, the first is shown.
        sr: (C, X', Y', Z') the result; it is shown as the stored voxel type of ``image`` holds it.
        name: of the case, such as the name of its file.
        description: the series description, if it is to be shown.
        record: the block ``monai_sr`` of the JSON beside a result.
        warnings: of the case.
        links: other pages by their names.
        uncertainty: (C, X', Y', Z') standard deviation on the grid of ``sr``, in its units. Default: what the
            bundle that ``record`` names predicts, if it was calibrated.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.
    """
    acquired, record = image, dict(record or {})
    if not isinstance(acquired, Acquired):
        profile = sr.meta.get("slice_profile")
        acquired = Acquired.of(acquired, profile=profile, refined=grid_of(sr))
    after, scene = grid_of(sr), Scene.of(acquired, sr)
    consistency = measure_consistency(acquired, sr, stored_dtype=acquired.stored_dtype)
    overlays = {
        "consistency": (
            consistency_overlay(consistency, scene.modality),
            turned(consistency.residual, scene.axes, scene.flips),
        )
    }
    if uncertainty is None:
        uncertainty = _predicted_error(acquired, sr, record)
    deviation = None
    if uncertainty is not None:
        deviation = turned(uncertainty, scene.axes, scene.flips)
        overlays["uncertainty"] = uncertainty_overlay(uncertainty, scene.modality), deviation
    made_by = str(record.get("monai_sr_version") or version("monai-sr"))
    resolved = record.get("resolution") or _resolution(acquired, sr)
    facts = {
        "Geometry": geometry(acquired, after, scene),
        "Provenance": provenance(record, name=name, description=description, version=made_by),
    }
    facts["Geometry"].append(("effective resolution", resolution_text(resolved)))
    artifacts = record.get("artifacts") or measure_artifacts(acquired, sr).record()
    facts["Geometry"].append(("stripes and texture", artifacts_text(artifacts)))
    limit = _calibrated(record).get("consistency", {}).get("limit")
    paragraph = methods(acquired, after, record=record, version=made_by, nrmse=consistency.nrmse)
    summary = {
        "kind": "case",
        "output_sha256": record.get("output_sha256", ""),
        "codes": [notice.code for notice in warnings],
        "consistency": float(f"{consistency.score:.3g}"),
        "thumbnail": thumbnail(scene, "sr"),
    }
    lead = (
        f"{acquired.modality}, {len(acquired.positions)} slices of {acquired.slice_spacing:.3g} mm to "
        f"{after.shape[acquired.axis]} of {after.spacing[acquired.axis]:.3g} mm"
    )
    return write_sections(
        path,
        title=name or "Super-resolved volume",
        heading=description or name or "Super-resolved volume",
        lead=f"{name}: {lead}" if description and name else lead,
        summary=summary,
        links=links,
        warnings=warnings,
        facts=facts,
        tiles=tiles(consistency, limit, resolution_tile(resolved), summary["codes"]),
        viewer=viewer(scene, list(LABELS), overlays),
        curves=curves(scene),
        trust=trust(consistency, limit, deviation),
        methods=for_methods(paragraph, references(record, made_by)),
    )


def write_failure_report(
    path: str | Path,
    *,
    name: str,
    code: str,
    reason: str,
    image: Image | None = None,
    description: str = "",
    warnings: Sequence[SuperResolutionWarning] = (),
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write a page on a volume that failed: the reason, the remedy, and the volume if it was read.

    Args:
        path: of the page.
        name: of the case.
        code: of the error, such as ``E-IO-CRC``.
        reason: the problem and the remedy, in one sentence each.
        image: the volume, if it was read.
        description, warnings, links: as of :func:`write_report`.

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
        acquired = Acquired.of(image)
        scene = Scene.of(acquired)
        pictures = viewer(scene, ["thick"], {})
        small = thumbnail(scene, "thick")
        facts["What was read"] = geometry(acquired, None, scene)
        lead = f"{scene.modality}, {' × '.join(map(str, acquired.grid.shape))} voxels were read."
    facts["Provenance"] = provenance({}, name=name, description=description, version=version("monai-sr"))
    summary = {"kind": "failure", "code": code, "codes": [notice.code for notice in warnings], "thumbnail": small}
    return write_sections(
        path,
        title=f"{name} failed",
        heading=description or name,
        lead=f"{name}: {lead}" if description else lead,
        summary=summary,
        links=links,
        warnings=warnings,
        facts=facts,
        failure=failure,
        viewer=pictures,
    )


def write_sections(
    path: str | Path,
    *,
    title: str,
    heading: str,
    lead: str,
    summary: dict[str, Any],
    links: Mapping[str, str] | None,
    warnings: Sequence[SuperResolutionWarning],
    facts: Mapping[str, Rows],
    **sections: str,
) -> Path:
    """Write a page of those ``sections``, HTML by their names in ``case.html``."""
    texts = {"title": f"{title} - monai-sr report", "heading": heading, "lead": lead}
    hidden = {f"{name}_hidden": "" if name in sections else " hidden" for name in ("curves", "trust", "methods")}
    return write_page(
        Path(path),
        "case.html",
        "report.js",
        allowed=None,
        summary=script_json(summary),
        links=navigation(links or {}),
        warnings=notes(warnings),
        facts=tables(facts),
        dialog=help_dialog() if sections["viewer"] else "",
        **{name: escape(text) for name, text in texts.items()},
        **dict.fromkeys(("failure", "tiles", "curves", "trust", "methods"), "") | sections | hidden,
    )


def _calibrated(record: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration of the bundle that made the result; empty if the bundle is not installed."""
    try:
        return read_calibration(str(record["bundle"]))
    except (KeyError, BundleError):
        return {}


def _resolution(acquired: Acquired, sr: Image) -> dict[str, Any]:
    """The resolution before and after, as in a record."""
    before, after = effective_resolution(acquired, sr)
    return {"method": METHOD, "before": before.record(), "after": after.record()}


def _predicted_error(acquired: Acquired, sr: Image, record: Mapping[str, Any]) -> Image | None:
    """The uncertainty map of the stored result; None without a calibration or without new slices."""
    constants = _calibrated(record).get("uncertainty")
    if not constants or sr.shape == acquired.source.shape:
        return None
    stored = rounded(as_array(sr), acquired.stored_dtype).astype(np.float32, copy=False)
    try:
        return uncertainty_map(acquired, on_grid(stored, grid_of(sr), sr), constants)
    except UsageError:  # not for this modality
        return None
