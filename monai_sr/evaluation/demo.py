"""The demonstration: the shipped example through both bundles, a table against the baselines, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..bundles import NAMES, bundle_path, load_bundle
from ..errors import BundleError
from ..grid import grid_of
from ..intensities import data_range, guess_modality
from ..io.images import read_image, write_image
from ..transforms import interpolate_slices
from .conditions import Condition
from .metrics import foreground, psnr, ssim
from .scores import Score

EXAMPLE = "example"
"""Folder below the first bundle's ``docs`` that holds ``thick.nii.gz``, ``truth.nii.gz`` and their origin."""


def example_folder() -> Path:
    """Where the shipped example lies.

    Raises:
        BundleError: the bundles were installed without it.
    """
    folder = bundle_path(next(iter(NAMES))) / "docs" / EXAMPLE
    if not (folder / "thick.nii.gz").is_file():
        raise BundleError("E-W-MISSING", "the example is missing", fix="install monai-sr again", path=folder)
    return folder


def run_demo(output: Path, *, device: str = "auto", report: Callable[[str], None] = print) -> list[Score]:
    """Super-resolve the example by both bundles, write volumes and ``comparison.png``, tell the figures.

    Returns:
        Scores of linear, cubic, the consistent spline and both bundles against the truth.
    """
    folder = example_folder()
    settings = json.loads((folder / "example.json").read_text())
    thick, truth = read_image(folder / "thick.nii.gz"), read_image(folder / "truth.nii.gz")
    grid, wanted = grid_of(thick), grid_of(truth)
    axis = grid.through_plane_axis
    spacing, thickness = wanted.spacing[axis], float(settings["slice_thickness"])
    factor = grid.spacing[axis] / spacing
    output.mkdir(parents=True, exist_ok=True)
    results = {
        method: interpolate_slices(thick, spacing, method=method, slice_thickness=thickness)
        for method in ("linear", "cubic", "consistent")
    }
    for name in NAMES:
        report(f"super-resolving with the {name} bundle: {grid.shape[axis]} slices to {wanted.shape[axis]}")
        results[name] = load_bundle(name, device=device)(thick, spacing=spacing, slice_thickness=thickness)
    hr = truth[0].numpy()
    value_range, mask = data_range(hr), foreground(hr)
    figures = {
        name: (
            psnr(sr[0].numpy(), hr, value_range=value_range, mask=mask),
            ssim(sr[0].numpy(), hr, value_range=value_range, mask=mask),
        )
        for name, sr in results.items()
    }
    reference = figures["consistent"][0]
    scores = [
        Score("example", guess_modality(truth), axis, Condition(factor), name, p, s, p - reference)
        for name, (p, s) in figures.items()
    ]
    for name in ("cubic", *NAMES):
        write_image(results[name], output / f"{name}.nii.gz")
    write_image(thick, output / "thick.nii.gz")
    write_image(truth, output / "truth.nii.gz")
    panels = {"thick slices": thick, "cubic": results["cubic"]} | {n: results[n] for n in NAMES} | {"truth": truth}
    draw_comparison(panels, output / "comparison.png")
    return scores


def draw_comparison(images: dict[str, Any], path: Path) -> None:
    """Coronal and sagittal middle slices side by side, true to the millimetre, in radiological view.

    Raises:
        BundleError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise BundleError(
            "E-REPORT", "pictures need matplotlib", fix='install it: pip install "monai-sr[report]"'
        ) from error
    import nibabel as nib

    columns, window = len(images), None
    planes: list[list[Any]] = [[None] * columns, [None] * columns]
    for column, image in reversed(list(enumerate(images.values()))):
        nifti = nib.as_closest_canonical(nib.Nifti1Image(image[0].numpy(), np.asarray(image.affine)))
        voxels, (x, y, z) = np.asarray(nifti.dataobj), nifti.header.get_zooms()
        window = window or np.percentile(voxels, (1, 99.8)).tolist()  # of the truth, which comes last
        coronal = voxels[::-1, voxels.shape[1] // 2, :].T  # the patient's right on the picture's left
        sagittal = voxels[int(voxels.shape[0] * 0.45), ::-1, :].T  # anterior on the left
        planes[0][column], planes[1][column] = (coronal, z / x), (sagittal, z / y)
    assert window is not None
    heights = [row[0][0].shape[0] * row[0][1] / row[0][0].shape[1] for row in planes]
    figure, axes = pyplot.subplots(
        2, columns, figsize=(3 * columns, 3 * sum(heights) + 0.6), height_ratios=heights, facecolor="black"
    )
    for row, label in enumerate(("coronal", "sagittal")):
        for column, name in enumerate(images):
            plane, aspect = planes[row][column]
            axis = axes[row, column]
            axis.imshow(
                plane, "gray", origin="lower", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="nearest"
            )
            axis.set_axis_off()
            if row == 0:
                axis.set_title(name, color="white", fontsize=15)
        axes[row, 0].text(0.02, 0.03, label, color="white", transform=axes[row, 0].transAxes, fontsize=12)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90, facecolor="black")
    pyplot.close(figure)
