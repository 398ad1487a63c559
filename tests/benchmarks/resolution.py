"""How accurate the measured through-plane resolution is, on volumes of known blur.

    python -m tests.benchmarks.resolution VOLUME... [--crop 96] [--factor 2 3 4]

Thick slices of known thickness are simulated along every axis of near-finest spacing and measured; so are the
thin volumes blurred by the same profiles without thinning them out, as a super-resolved volume would be. Each
line gives the mean and standard deviation over volumes and axes of measured over true thickness, and how many of the
thick volumes would give a warning (W-SR-WIDTH): with their true thickness, and with half of it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop

from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import read_image
from monai_sr.io.volumes import find_volumes
from monai_sr.slices import apply_along, profile_matrix
from monai_sr.transforms import simulate_thick_slices
from monai_sr.trust.resolution import WIDER, measure_resolution

torch.set_num_threads(1)
RATIOS = (0.6, 1.0, 1.4)


def measured(hr, axis: int, factor: float, ratio: float, profile: str, noise: float) -> tuple[float, float]:
    """Measured over true thickness of thick slices, and of the thin volume as blurred as they are."""
    grid = grid_of(hr)
    spacing = factor * grid.spacing[axis]
    thick = simulate_thick_slices(hr, spacing, slice_thickness=ratio * spacing, profile=profile, axis=axis)
    if noise:
        voxels = thick.as_tensor()
        deviation = noise * float(np.subtract(*np.percentile(voxels.numpy(), (99.9, 0.1))))
        thick = on_grid(voxels + deviation * torch.randn(voxels.shape), grid_of(thick), thick)
    at = grid.positions(axis)
    blurred = apply_along(
        profile_matrix(at, at, slice_thickness=ratio * spacing, profile=profile), hr.as_tensor(), axis + 1
    )
    thin = on_grid(blurred, grid, hr)
    found = measure_resolution(thick, axis), measure_resolution(thin, axis, lag=spacing / 2)
    return found[0].mm / (ratio * spacing), found[1].mm / (ratio * spacing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--factor", type=float, nargs="+", default=[2, 3, 4])
    options = parser.parse_args()
    torch.manual_seed(0)
    loaded = []
    for path in (path for source in options.volumes for path in find_volumes(source)):
        hr = CenterSpatialCrop((options.crop,) * 3)(read_image(path))
        loaded += [(hr, a) for a, s in enumerate(grid_of(hr).spacing) if s <= 1.3 * min(grid_of(hr).spacing)]
    print(
        f"{len(loaded)} axes; measured over true thickness, mean ± standard deviation: thick slices | thin, as blurred"
    )
    conditions = [("gaussian", ratio, 0.0) for ratio in RATIOS] + [("box", 1.0, 0.0), ("gaussian", 1.0, 0.02)]
    for factor in options.factor:
        for profile, ratio, noise in conditions:
            pairs = np.array([measured(hr, axis, factor, ratio, profile, noise) for hr, axis in loaded])
            name = f"×{factor:g}, {profile}, thickness {ratio:g} of spacing{', 2 % noise' if noise else ''}"
            cells = " | ".join(f"{np.nanmean(c):.2f} ± {np.nanstd(c):.2f}" for c in pairs.T)
            warned = " | ".join(f"{np.nanmean(error * pairs[:, 0] > WIDER):.1%}" for error in (1, 2))
            print(f"{name:50} {cells} | warned {warned}", flush=True)


if __name__ == "__main__":
    main()
