"""How right the measured through-plane resolution and its interval are, on slices of known width.

    python -m tests.benchmarks.resolution VOLUME... [--crop 72] [--factor 1.5 2 3 4 6] [--noise 0.02]

Slices are simulated along every axis of near-finest spacing, by a Gaussian and a box of 0.5 to 1.5 times their spacing.
The true width of a box is that of the Gaussian that blurs as it does. Columns:

bias, spread   median and standard deviation of estimated divided by true width
within 10 %    of the estimates
in interval    how often the interval holds the true width
cannot tell    series without an estimate
warned         W-SR-WIDTH with the true thickness, with half of it and with twice
acting         how often the consistent spline is worse by more than 0.1 dB if it takes the slices for a Gaussian of the
               estimated width, and not for their profile and thickness; and the median of the difference
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop

from monai_sr.acquired import Acquired
from monai_sr.errors import collect_notices
from monai_sr.evaluation.conditions import Acquisition, Condition, acquire
from monai_sr.evaluation.methods import resample_to
from monai_sr.evaluation.scores import NEAR
from monai_sr.grid import grid_of
from monai_sr.io.images import read_image
from monai_sr.io.volumes import find_volumes
from monai_sr.transforms import interpolate_slices
from monai_sr.trust.resolution import EQUIVALENT, check_width, effective_resolution, measure_resolution

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5)


def measured(made: Acquisition, condition: Condition) -> dict[str, Any]:
    """The figures of one series."""
    thickness, axis = made.slice_thickness, made.axis
    before, _ = effective_resolution(Acquired.of(made.lr, axis=axis), made.lr)
    estimate = measure_resolution(made.lr, axis)

    def is_warned(ratio: float) -> bool:
        with collect_notices() as notices:
            check_width(Acquired.of(made.lr, axis=axis, slice_thickness=thickness * ratio), before)
        return bool(notices)

    def error(width: float, profile: Any) -> float:
        spline = interpolate_slices(
            made.lr, factor=condition.factor, method="consistent", slice_thickness=width, profile=profile, axis=axis
        )
        difference = resample_to(spline, grid_of(made.reference)) - made.reference[0].numpy()
        return float(np.square(np.take(difference, np.flatnonzero(made.measured), axis)).mean())

    figures: dict[str, Any] = {"warned": [is_warned(ratio) for ratio in (1, 0.5, 2)]}
    if not np.isnan(estimate.mm):
        true = thickness * EQUIVALENT[condition.profile]
        figures |= {"ratio": estimate.mm / true, "inside": estimate.interval[0] <= true <= estimate.interval[1]}
        figures["loss"] = 10 * np.log10(error(estimate.mm, "gaussian") / error(thickness, condition.profile))
    return figures


def series(volumes: list[Any], factor: float, profile: Any, noise: float) -> Iterator[dict[str, Any]]:
    """Figures of every series of one factor and profile."""
    for hr in volumes:
        spacing = grid_of(hr).spacing
        for axis in (a for a in range(3) if spacing[a] <= NEAR * min(spacing)):
            for ratio in RATIOS:
                condition = Condition(factor, profile, thickness_ratio=ratio, noise=noise)
                yield measured(acquire(hr, condition, axis), condition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--crop", type=int, default=72)
    parser.add_argument("--factor", type=float, nargs="+", default=[1.5, 2, 3, 4, 6])
    parser.add_argument("--noise", type=float, default=0.0, help="fraction of the data range")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = [path for source in options.volumes for path in find_volumes(source)]
    volumes = [CenterSpatialCrop((options.crop,) * 3)(read_image(path)) for path in paths]
    print("| | series | bias | spread | within 10 % | in interval | cannot tell | warned ×1, ×0.5, ×2 | acting |")
    print("|---|---|---|---|---|---|---|---|---|")
    for profile in ("gaussian", "box"):
        for factor in options.factor:
            rows = list(series(volumes, factor, profile, options.noise))
            known = [row for row in rows if "ratio" in row]
            ratio, inside, loss = (np.array([row[name] for row in known]) for name in ("ratio", "inside", "loss"))
            warned = " / ".join(f"{fraction:.1%}" for fraction in np.mean([row["warned"] for row in rows], axis=0))
            print(
                f"| ×{factor:g} {profile} | {len(rows)} | {np.median(ratio):.2f} | ± {ratio.std():.2f} "
                f"| {(np.abs(ratio - 1) <= 0.1).mean():.0%} | {inside.mean():.1%} | {len(rows) - len(known)} "
                f"| {warned} | {(loss > 0.1).mean():.0%}, {-np.median(loss):+.2f} dB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
