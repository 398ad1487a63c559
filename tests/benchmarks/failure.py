"""A failure, drawn: the slice profile of the shipped example is estimated wrongly.

    python -m tests.benchmarks.failure [--output FOLDER]

The reference of the example is thickened by a box of 2 mm. The residual bundle makes thin slices from it, once
with the profile estimated (it takes the box for a Gaussian) and once with the profile given. FOLDER gets
failure.png with the absolute errors of both and of cubic interpolation, on one scale.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_sr.bundles import load_bundle
from monai_sr.evaluation.demo import draw_comparison, example_folder
from monai_sr.evaluation.metrics import foreground, psnr
from monai_sr.grid import grid_of, on_grid
from monai_sr.intensities import data_range
from monai_sr.io.images import read_image
from monai_sr.transforms import interpolate_slices, simulate_thick_slices

FACTOR, AXIS = 2, 2

WINDOW = (0.0, 6.0)
"""Of the errors in the picture, percent of the data range."""


def main() -> None:
    """Print the PSNR of each method and draw its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(), metavar="FOLDER")
    options = parser.parse_args()
    reference = read_image(example_folder() / "truth.nii.gz")
    spacing = grid_of(reference).spacing[AXIS]
    thick = simulate_thick_slices(reference, FACTOR * spacing, axis=AXIS, profile="box")
    model = load_bundle("residual")
    results = {
        "profile estimated": model(thick, factor=FACTOR, axis=AXIS),
        "profile given": model(thick, factor=FACTOR, axis=AXIS, profile="box"),
        "cubic": interpolate_slices(thick, spacing, axis=AXIS, method="cubic"),
    }
    hr = reference[0].numpy()
    value_range, mask = data_range(hr), foreground(hr)
    errors = {}
    for name, sr in results.items():
        score = psnr(sr[0].numpy(), hr, value_range=value_range, mask=mask)
        print(f"{name:20}{score:8.2f} dB")
        error = 100 * abs(sr.as_tensor() - reference.as_tensor()) / value_range
        errors[f"{name}\n{score:.1f} dB"] = on_grid(error, grid_of(reference), reference)
    draw_comparison(
        errors,
        options.output / "failure.png",
        window=WINDOW,
        colors="inferno",
        color_bar="absolute error,\n% of the data range",
    )


if __name__ == "__main__":
    main()
