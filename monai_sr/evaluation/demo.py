"""The demonstration: the shipped example through both bundles, a table against the baselines, a picture."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..acquired import Acquired
from ..bundles import NAMES, bundle_path, load_bundle
from ..errors import BundleError
from ..grid import grid_of
from ..intensities import data_range
from ..io.images import read_image, write_image
from ..transforms import interpolate_slices
from .conditions import Condition
from .metrics import foreground, psnr, ssim
from .scores import Score

EXAMPLE = "example"
"""Folder below the first bundle's ``docs`` that holds ``thick.nii.gz``, ``truth.nii.gz`` and their origin."""

INSTALL_PLOTS = 'pip install "monai-sr[plots]", in a checkout pip install -c constraints.txt ".[plots]"'


def example_folder() -> Path:
    """Where the shipped example lies.

    Raises:
        BundleError: the bundles were installed without it.
    """
    folder = bundle_path(next(iter(NAMES))) / "docs" / EXAMPLE
    if not (folder / "thick.nii.gz").is_file():
        raise BundleError("E-W-MISSING", "the example is missing", path=folder)
    return folder


def run_demo(output: Path, *, device: str = "auto", report: Callable[[str], None] = print) -> list[Score]:
    """Super-resolve the example with both bundles; write the volumes and, with matplotlib, ``comparison.png``.

    Returns:
        Scores of linear, cubic, the consistent spline and both bundles against the reference.
    """
    folder = example_folder()
    settings = json.loads((folder / "example.json").read_text())
    thick, reference = read_image(folder / "thick.nii.gz"), read_image(folder / "truth.nii.gz")
    grid, wanted = grid_of(thick), grid_of(reference)
    axis = grid.through_plane_axis
    spacing, thickness = wanted.spacing[axis], float(settings["slice_thickness"])
    factor = grid.spacing[axis] / spacing
    output.mkdir(parents=True, exist_ok=True)
    if not has_matplotlib():
        report(f"no picture: matplotlib is not installed ({INSTALL_PLOTS})")
    results = {
        method: interpolate_slices(thick, spacing, method=method, slice_thickness=thickness)
        for method in ("linear", "cubic", "consistent")
    }
    for name in NAMES:
        report(f"super-resolving with the {name} bundle: {grid.shape[axis]} slices to {wanted.shape[axis]}")
        results[name] = load_bundle(name, device=device)(thick, spacing=spacing, slice_thickness=thickness)
    hr = reference[0].numpy()
    value_range, mask = data_range(hr), foreground(hr)
    figures = {
        name: (
            psnr(sr[0].numpy(), hr, value_range=value_range, mask=mask),
            ssim(sr[0].numpy(), hr, value_range=value_range, mask=mask),
        )
        for name, sr in results.items()
    }
    spline_psnr = figures["consistent"][0]
    scores = [
        Score("example", Acquired.of(reference).modality, axis, Condition(factor), name, p, s, p - spline_psnr)
        for name, (p, s) in figures.items()
    ]
    for name in ("cubic", *NAMES):
        write_image(results[name], output / f"{name}.nii.gz")
    write_image(thick, output / "thick.nii.gz")
    write_image(reference, output / "truth.nii.gz")
    if has_matplotlib():
        panels = {
            f"thick slices\n{grid.spacing[axis]:g} mm": thick,
            f"cubic\n{figures['cubic'][0]:.1f} dB": results["cubic"],
            f"pyramid\n{figures['pyramid'][0]:.1f} dB": results["pyramid"],
            f"reference\n{spacing:g} mm": reference,
        }
        draw_comparison(panels, output / "comparison.png")
    return scores


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_comparison(
    images: Mapping[str, Any],
    path: Path,
    *,
    window: tuple[float, float] | None = None,
    colors: str = "gray",
    color_bar: str = "",
) -> None:
    """Middle coronal slices side by side in radiological view, and below a part of each, magnified.

    Pixels are true to the millimeter, and a bar gives the scale.

    Args:
        images: volumes (1, X, Y, Z) by their titles.
        path: PNG file to write.
        window: values shown as black and white; 1st to 99.8th percentile of the last volume by default.
        colors: a color map of matplotlib.
        color_bar: what the values are; draws a color bar.

    Raises:
        BundleError: matplotlib is not installed.
    """
    if not has_matplotlib():
        raise BundleError("E-REPORT", "pictures need matplotlib")
    from matplotlib.figure import Figure

    planes = [_coronal(image) for image in images.values()]
    low, high = window or np.percentile(planes[-1][0], (1, 99.8)).tolist()
    height, width = planes[-1][0].shape[0] * planes[-1][1][1], planes[-1][0].shape[1] * planes[-1][1][0]
    left, bottom, across, up = 0.58 * width, 0.06 * height, 0.36 * width, 0.54 * height
    columns, side, heights = len(planes), 3.1, (height / width, up / across)
    figure = Figure(figsize=(columns * side, side * sum(heights) + 0.75), facecolor="black")
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, hspace=0, wspace=0)
    axes = figure.subplots(2, columns, squeeze=False, height_ratios=heights)
    for column, (title, (plane, (x, z))) in enumerate(zip(images, planes, strict=True)):
        for axis in axes[:, column]:
            extent = (0, plane.shape[1] * x, 0, plane.shape[0] * z)
            shown = axis.imshow(
                plane, colors, origin="lower", vmin=low, vmax=high, extent=extent, interpolation="nearest"
            )
            axis.set_axis_off()
        whole, magnified = axes[:, column]
        whole.set_title(title, color="white", fontsize=16)
        right, top = left + across, bottom + up
        whole.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color="gold", linewidth=1.5)
        magnified.set(xlim=(left, right), ylim=(bottom, top))
    for axis, length, x0, y0 in ((axes[0, 0], 50, 4, 4), (axes[1, 0], 10, left + 2, bottom + 2)):
        axis.plot([x0, x0 + length], [y0, y0], color="white", linewidth=3, solid_capstyle="butt")
        axis.text(x0, y0 + 0.02 * (axis.get_ylim()[1] - axis.get_ylim()[0]), f"{length} mm", color="white", fontsize=12)
    if color_bar:
        bar = figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.01)
        bar.set_label(color_bar, color="white", fontsize=13)
        bar.ax.tick_params(colors="white", labelsize=12)
    figure.savefig(path, dpi=100, facecolor="black")


def _coronal(image: Any) -> tuple[np.ndarray, tuple[float, float]]:
    """The middle coronal slice (z, x), the patient's right on the left, and the size of its pixels (x, z), mm."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(image[0].numpy(), np.asarray(image.affine)))
    voxels, (x, _, z) = np.asarray(canonical.dataobj), canonical.header.get_zooms()
    return voxels[::-1, voxels.shape[1] // 2, :].T, (float(x), float(z))
