"""How often the estimate of the slice profile is right, on acquired volumes with simulated Gaussian and box slices.

    python -m tests.benchmarks.profiles VOLUME… [--factor 1.7 2 3 4 5] [--ratio 1.25] [--crop 96] [--noise 0.02]

Every near-isotropic axis of every volume is the slice axis in turn; see
:func:`monai_sr.profiles.estimate_profile`. For each factor, a table gives how often it is wrong, the range
of nine in ten scores of each profile, and the best threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop

from monai_sr.evaluation.conditions import NOISE_TYPES, Condition, acquire
from monai_sr.evaluation.scores import NEAR
from monai_sr.grid import grid_of
from monai_sr.intensities import guess_modality, intensity_range
from monai_sr.io.images import read_image
from monai_sr.profiles import estimate_profile, profile_score
from monai_sr.slices import Profile

PROFILES: tuple[Profile, ...] = ("gaussian", "box")


def scores(volume: MetaTensor, condition: Condition) -> dict[str, list[tuple[float, bool]]]:
    """By profile, for the axes of ``volume`` (1, X, Y, Z), the scores and whether the slices are taken for a box."""
    grid = grid_of(volume)
    results: dict[str, list[tuple[float, bool]]] = {profile: [] for profile in PROFILES}
    for axis in range(3):
        if grid.spacing[axis] > NEAR * min(grid.spacing):
            continue
        for profile in PROFILES:
            made = acquire(volume, replace(condition, profile=profile), axis)
            slices = torch.movedim(made.lr[0].as_tensor(), axis, -1)
            lr = intensity_range(slices, guess_modality(slices)).normalize(slices)
            facts = {
                "in_plane": [s for a, s in enumerate(grid.spacing) if a != axis],
                "positions": grid_of(made.lr).positions(axis),
                "slice_thickness": made.slice_thickness,
            }
            score = profile_score(lr, **facts)
            if score is not None:
                results[profile].append((score, estimate_profile(lr, **facts) == "box"))
    return results


def row(factor: float, results: dict[str, list[tuple[float, bool]]]) -> str:
    """One line of the table."""
    gaussian, box = (np.array([score for score, _ in results[profile]]) for profile in PROFILES)
    taken, found = (sum(is_box for _, is_box in results[profile]) for profile in PROFILES)
    candidates = np.sort(np.concatenate([gaussian, box]))
    wrong = [int((gaussian > t).sum() + (box <= t).sum()) for t in candidates]
    spread = [f"{np.quantile(s, 0.05):+.3f} to {np.quantile(s, 0.95):+.3f}" for s in (gaussian, box)]
    return (
        f"| ×{factor:g} | {taken} of {len(gaussian)} | {len(box) - found} of {len(box)} "
        f"| {spread[0]} | {spread[1]} | {candidates[int(np.argmin(wrong))]:+.3f}: {min(wrong)} wrong |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")
    parser.add_argument("--factor", nargs="+", type=float, default=[1.7, 2, 3, 4, 5])
    parser.add_argument("--ratio", type=float, default=1.0, help="slice thickness divided by slice spacing")
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--noise", type=float, default=0.0, help="fraction of the data range")
    parser.add_argument("--noise-type", choices=NOISE_TYPES, default="white")
    options = parser.parse_args(arguments)
    volumes = [CenterSpatialCrop((options.crop,) * 3)(read_image(path)) for path in options.volumes]
    print(
        "| | Gaussian taken for a box | box taken for a Gaussian | scores of a Gaussian | of a box | best threshold |"
    )
    print("|---|---|---|---|---|---|")
    for factor in options.factor:
        condition = Condition(factor, thickness_ratio=options.ratio, noise=options.noise, noise_type=options.noise_type)
        results = [scores(volume, condition) for volume in volumes]
        together = {profile: [score for one in results for score in one[profile]] for profile in PROFILES}
        print(row(factor, together), flush=True)


if __name__ == "__main__":
    main()
