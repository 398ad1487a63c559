"""What one level less costs the pyramid at factors between powers of two, in PSNR.

``python -m tests.benchmarks.pyramid_levels VOLUME… --factor 2.5 3 5 6 7`` evaluates the bundle along
every axis of near-finest spacing with the levels rounded up and rounded down, and prints the
difference in dB for each volume (mean over its axes) and for each modality (mean over its volumes).
:func:`monai_sr.slices.levels_for` follows from it.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from monai_sr import evaluate, inference, load_bundle
from monai_sr.evaluation.conditions import Condition

ROUNDED: dict[str, Callable[[float], int]] = {
    "up": lambda factor: max(1, math.ceil(math.log2(factor) - 1e-6)),
    "down": lambda factor: max(1, math.floor(math.log2(factor) + 1e-6)),
}


def main() -> None:
    """A line for each factor and volume, then one for each modality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")
    parser.add_argument("--factor", nargs="+", type=float, default=[2.5, 3, 5, 6, 7])
    parser.add_argument("--crop", type=int, default=96)
    options = parser.parse_args()
    model = load_bundle("pyramid")

    def rounded(how: str) -> Callable[..., Any]:
        def call(image: Any, **asked: Any) -> Any:
            inference.levels_for = ROUNDED[how]  # the one place that asks for it
            return model(image, **asked)

        return call

    for factor in options.factor:
        changes: dict[str, list[float]] = defaultdict(list)
        for path in options.volumes:
            models = {how: rounded(how) for how in ROUNDED}
            scores = evaluate(
                [path], models, conditions=[Condition(factor)], axes="near", crop=options.crop, baselines=()
            )
            up, down = ([s.psnr_db for s in scores if s.method == how] for how in ROUNDED)
            change = fmean(down) - fmean(up)
            changes[scores[0].modality].append(change)
            print(f"x{factor:g} {scores[0].modality} {Path(path).name}: {change:+.3f} dB", flush=True)
        for modality, gains in changes.items():
            print(f"x{factor:g} {modality}: {fmean(gains):+.4f} dB with one level less", flush=True)


if __name__ == "__main__":
    main()
