"""What adapting a bundle to each volume gains: simulated thick slices, with `--adapt` and without.

    python -m tests.benchmarks.adaptation VOLUME... [--bundle pyramid] [--factor 4] [--crop 128] [--minutes 10]

Slices with a Gaussian profile are simulated along the last axis of the middle of each volume. PSNR is inside the
body (CT: above -500 HU; MR: above the median), without one thick slice at each end. Each line gives the gain of the
bundle over the consistent spline, the change by adapting, the gain on the slices that were held back, by which it
is decided, and the processor time of the training.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop

from monai_sr.bundles import load_bundle
from monai_sr.evaluation.conditions import Condition
from monai_sr.evaluation.conditions import acquire as simulate
from monai_sr.inference import acquire
from monai_sr.intensities import guess_modality
from monai_sr.io.images import read_image
from monai_sr.options import Acquisition, Wanted
from monai_sr.training.adaptation import adapt

AXIS = 2


def psnr(sr: MetaTensor, hr: MetaTensor, factor: float, modality: str) -> float:
    """dB of 1 unit of the file; only differences of it mean something."""
    slices = min(sr.shape[-1], hr.shape[-1])
    inner = slice(math.ceil(factor), slices - math.ceil(factor))
    result, reference = (volume.as_tensor()[0, ..., :slices][..., inner].double() for volume in (sr, hr))
    body = reference > (-500 if modality == "CT" else hr.as_tensor().float().median())
    return float(-10 * torch.log10(((result - reference)[body] ** 2).mean()))


def main(words: list[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--bundle", default="pyramid")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(words)
    model, spline, wanted = load_bundle(options.bundle), load_bundle("none"), Wanted(factor=options.factor)
    print("| volume | bundle over spline | adapted | held back | steps | used | processor seconds |")
    print("|---|---|---|---|---|---|---|")
    for path in options.volumes:
        hr = CenterSpatialCrop((options.crop,) * 3)(read_image(path))
        modality = guess_modality(hr.as_tensor())
        lr = simulate(hr, Condition(options.factor), AXIS).lr
        acquired = acquire(lr, Acquisition(axis=AXIS, modality=modality))
        plain = model.super_resolve(acquired, wanted)
        started = time.process_time()
        adapted, outcome = adapt(model, acquired, plain, minutes=options.minutes)
        seconds = time.process_time() - started
        results = spline.super_resolve(acquired, wanted), plain, adapted.super_resolve(acquired, wanted)
        low, usual, better = (psnr(sr, hr, options.factor, modality) for sr in results)
        cells = (
            f"{usual - low:+.2f} | {better - usual:+.2f} | {outcome.gain:+.2f} | {outcome.steps} | {outcome.is_used}"
        )
        print(f"| {path.rsplit('/', 1)[-1]} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
