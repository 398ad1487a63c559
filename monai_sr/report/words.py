"""What a report says in words: geometry, provenance, and the paragraph and references for a Methods section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from ..acquired import Acquired
from ..grid import Grid
from ..trust.resolution import length_text
from .page import asset
from .views import Scene, tilt

CITED = {"residual_super_resolution": "kim2016vdsr", "pyramid_super_resolution": "lai2017lapsrn"}
"""Keys in ``references.bib`` of the papers behind the bundles."""

NETWORKS = {
    "residual_super_resolution": "a 20-layer residual convolutional network after VDSR (Kim et al., 2016)",
    "pyramid_super_resolution": "a Laplacian pyramid network after LapSRN (Lai et al., 2017)",
}

PROFILES = {"gaussian": "Gaussian", "box": "box", "triangle": "triangular"}

SOURCES = {
    "option": "as given",
    "protocol": "from the table of protocols",
    "corrected": "from the file header, corrected for its protocol",
    "header": "from the file header",
    "sidecar": "from the JSON beside the file",
    "estimated": "estimated from the image",
    "assumed": "assumed",
}
"""Who said a fact, in words."""

DIRECTIONS = ("left-right", "anterior-posterior", "superior-inferior")

Rows = list[tuple[str, str]]


def mm(values: Sequence[float] | float) -> str:
    """Lengths as people read them."""
    several = [values] if isinstance(values, float | int) else values
    return " × ".join(f"{v:.4g}" for v in several) + " mm"


def thickness_text(thickness: float | np.ndarray) -> str:
    """One thickness, or from which to which."""
    values = np.atleast_1d(thickness)
    if np.ptp(values) < 1e-6:
        return mm(float(values[0]))
    return f"{values.min():.4g} to {values.max():.4g} mm"


def geometry(acquired: Acquired, after: Grid | None, scene: Scene) -> Rows:
    """What the grids were and are, and who said how the slices were acquired."""
    before, axis, spacing = acquired.grid, acquired.axis, acquired.slice_spacing
    steps = [spacing if a == axis else s for a, s in enumerate(before.spacing)]
    slices = DIRECTIONS[scene.directions[2]]
    rows: Rows = [("acquired", f"{' × '.join(map(str, before.shape))} voxels of {mm(steps)}")]
    if after is not None:
        factor = spacing / after.spacing[axis]
        rows += [
            ("result", f"{' × '.join(map(str, after.shape))} voxels of {mm(after.spacing)}"),
            ("slice spacing", f"{mm(spacing)} before, {mm(after.spacing[axis])} after: ×{factor:.3g}"),
        ]
    rows.append(("slice thickness", f"{thickness_text(acquired.slice_thickness)}, {source_text(acquired)}"))
    gap = float(spacing - np.median(acquired.slice_thickness))
    if abs(gap) > 0.01 * spacing:
        rows.append(("gap or overlap", f"{abs(gap):.3g} mm {'between slices unseen' if gap > 0 else 'of overlap'}"))
    if after is not None:
        rows.append(("slice profile", f"{acquired.slice_profile}, {source_text(acquired, 'slice_profile')}"))
    if scene.has_orientation:
        codes = "".join(nib.aff2axcodes(before.affine))
        angle = tilt(before, axis)
        lean = f", tilted by {angle:.1f}° from them" if angle > 0.5 else ""
        rows.append(("slices", f"{scene.name(2)}, stacked {slices} (axis {axis} of the file){lean}"))
        rows.append(("orientation of the file", codes))
    else:
        rows.append(("orientation", "not in the file: sides are not marked"))
    if not acquired.is_even:
        rows.append(("positions", "uneven; each slice is used at its position"))
    rows.append(("modality", f"{acquired.modality}, {source_text(acquired, 'modality')}"))
    if len(acquired.source) > 1:
        rows.append(("volumes", f"{len(acquired.source)} in the file; this page shows the first"))
    return rows


def source_text(acquired: Acquired, fact: str = "slice_thickness") -> str:
    """Who said a fact, in words."""
    source = acquired.source_of(fact)
    if (fact, source) == ("slice_thickness", "assumed"):
        return "assumed equal to the slice spacing"
    return SOURCES[source]


def resolution_text(resolution: Mapping[str, Any]) -> str:
    """Effective slice thickness before and after, and how it was measured, as a record holds it."""
    lengths = []
    for when in ("before", "after"):
        measured = resolution.get(when) or {}
        known = isinstance(measured.get("mm"), int | float)
        lengths.append(f"{measured.get('bounded', '')} {mm(float(measured['mm']))}".strip() if known else "cannot tell")
    return f"{lengths[0]} before, {lengths[1]} after, across the slices ({resolution.get('method', 'method unknown')})"


def artifacts_text(artifacts: Mapping[str, Any]) -> str:
    """Stripes at the slice spacing, and the texture of flat regions, as ratios."""
    known = [f"{name} ×{value:g}" for name, value in artifacts.items() if isinstance(value, int | float)]
    return f"{', '.join(known) or 'cannot be measured'} (×1: no artifact)"


def resolution_tile(resolution: Mapping[str, Any]) -> str:
    """Effective slice thickness before and after, in one short line."""
    return " → ".join(length_text(resolution.get(when) or {}) for when in ("before", "after"))


def provenance(record: Mapping[str, Any], *, name: str, description: str, version: str) -> Rows:
    """Where the result comes from, by its record."""
    rows: Rows = [("input", name)] if name else []
    if description:
        rows.append(("series description", description))
    rows.append(("software", f"monai-sr {version}"))
    bundle = record.get("bundle")
    if bundle == "none":
        rows.append(("method", "consistent spline, no network"))
    elif bundle:
        rows.append(("bundle", f"{bundle} {record.get('bundle_version') or ''}".strip()))
    for key, words in (
        ("weights_sha256", "SHA-256 of the weights"),
        ("input_sha256", "SHA-256 of the input"),
        ("output_sha256", "SHA-256 of the output"),
    ):
        if record.get(key):
            rows.append((words, str(record[key])))
    options: dict[str, Any] = {}
    for group, value in (record.get("options") or {}).items():
        if group != "outputs":
            options |= value if isinstance(value, Mapping) else {group: value}
    if options:
        rows.append(("options", ", ".join(f"{key} {value}" for key, value in sorted(options.items()))))
    engine = ", ".join(str(record[key]) for key in ("engine", "device") if record.get(key))
    if engine:
        rows.append(("computed by", engine))
    if record.get("seconds") is not None:
        rows.append(("run time", f"{float(record['seconds']):.3g} s"))
    if record.get("peak_memory_mib"):
        rows.append(("peak memory", f"{float(record['peak_memory_mib']):.0f} MiB"))
    return rows


def methods(acquired: Acquired, after: Grid, *, record: Mapping[str, Any], version: str, nrmse: float | None) -> str:
    """A paragraph on how this volume was made, to be pasted."""
    axis, spacing = acquired.axis, acquired.slice_spacing
    in_plane = [s for a, s in enumerate(acquired.grid.spacing) if a != axis]
    thickness = thickness_text(acquired.slice_thickness)
    bundle = str(record.get("bundle") or "none")
    weights = f", weights SHA-256 {record['weights_sha256'][:12]}…" if record.get("weights_sha256") else ""
    if bundle == "none":
        how = (
            "Slices were interpolated by the consistent spline, the cubic spline whose averages over the slice "
            "profile are exactly the acquired slices; no network was used."
        )
    else:
        network = NETWORKS.get(bundle, "a convolutional network")
        how = (
            f"Thin slices were proposed by {network} (bundle {bundle} {record.get('bundle_version') or ''}{weights}) "
            "built on MONAI (Cardoso et al., 2022), and made to agree with the acquired slices in closed form: "
            "averaged over the slice profile, the result gives them back."
        ).replace(" ,", ",")
    again = (
        f" Re-acquired with a {PROFILES[acquired.slice_profile]} slice profile of {thickness} full width at half "
        f"maximum ({source_text(acquired, 'slice_profile')}), the result differs from the acquired slices by "
        f"{nrmse:.2g} of their intensity range (root mean square)."
        if nrmse is not None
        else ""
    )
    return (
        f"The thick-slice {acquired.modality} volume ({mm(in_plane)} in-plane, slice spacing {mm(spacing)}, slice "
        f"thickness {thickness}, {source_text(acquired)}) was super-resolved across its slices by a factor of "
        f"{spacing / after.spacing[axis]:.3g} to a slice spacing of {mm(after.spacing[axis])} with monai-sr "
        f"{version}. {how}{again} Voxel size is not resolution: between the acquired slices, detail is estimated."
    )


def references(record: Mapping[str, Any], version: str) -> str:
    """BibTeX of what the paragraph cites; both networks' papers for a bundle that does not ship."""
    entries = asset("references.bib").strip().replace("VERSION", version).split("\n\n")
    by_key = {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}
    bundle = str(record.get("bundle") or "none")
    papers = [CITED[bundle]] if bundle in CITED else [] if bundle == "none" else list(CITED.values())
    return "\n\n".join(by_key[key] for key in (*papers, "cardoso2022monai", "monaisr"))
