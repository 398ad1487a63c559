"""Compare predictors of the errors of a bundle, and an ensemble of flips.

    python -m tests.benchmarks.uncertainty BUNDLE DATALIST [--crop 40] [--factor 2 4]

For each modality and factor ``σ² = a² + (c p)²`` is fitted on the training volumes for each predictor p. On the
validation volumes it is measured: coverage of one and two deviations, mean negative log-likelihood of the errors
under a Laplace distribution (nats per voxel, lower is better), and the rank correlation of σ with the absolute error.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop
from scipy import ndimage, stats

from monai_sr.bundles import SPLINE, load_bundle
from monai_sr.evaluation.calibration import coverage, fit_uncertainty, result_of, sample_of
from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import read_image
from monai_sr.io.volumes import datalist

torch.set_num_threads(1)


def predictors(model, hr, factor):
    """By predictor its sample, made by putting the predictor in the place of the detail; and the ensemble's dB."""
    case, sr = result_of(model, hr, factor)
    settings = {"factor": factor, "axis": case.axis, "slice_thickness": case.slice_thickness}
    members = []
    for flips in itertools.product((False, True), repeat=3):
        dims = [a + 1 for a, flipped in enumerate(flips) if flipped]
        turned = on_grid(case.lr.as_tensor().flip(dims), grid_of(case.lr), case.lr)
        members.append(model(turned, **settings).as_tensor().flip(dims))
    members = torch.stack(members)
    spline = load_bundle(SPLINE)(case.lr, **settings).as_tensor()
    spread = members.std(dim=0)
    change = sr.as_tensor() - spline
    estimates = {
        "detail": None,
        "ensemble": spread,
        "ensemble, smoothed": _rms(spread),
        "network less spline": change.abs(),
        "network less spline, smoothed": _rms(change),
        "in-plane slope": _rms(torch.hypot(*torch.gradient(sr.as_tensor(), dim=(1, 2)))),
    }
    samples = {}
    for name, values in estimates.items():
        samples[name] = sample_of(case, sr, predictor=None if values is None else values[0].numpy())
    reference, inside = case.reference.as_tensor(), torch.from_numpy(case.measured)
    errors = [((x - reference)[..., inside] ** 2).mean() for x in (sr.as_tensor(), members.mean(dim=0))]
    return samples, float(10 * torch.log10(errors[0] / errors[1]))


def _rms(values):
    return torch.from_numpy(ndimage.uniform_filter(values.numpy()[0] ** 2, 3)).clamp(min=0).sqrt()[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("datalist")
    parser.add_argument("--crop", type=int, default=40)
    parser.add_argument("--factor", type=float, nargs="+", default=[2, 4])
    options = parser.parse_args()
    model = load_bundle(options.bundle)
    sides, gains = {}, []
    for section in ("training", "validation"):
        sides[section] = {}
        for item in datalist(options.datalist, section):
            hr = CenterSpatialCrop((options.crop,) * 3)(read_image(item["image"]))
            for factor in options.factor:
                samples, gain = predictors(model, hr, factor)
                for name, sample in samples.items():
                    sides[section].setdefault(name, []).append(sample)
                if section == "validation":
                    gains.append(gain)
    for name, samples in sides["training"].items():
        constants = fit_uncertainty(samples)
        unlikely, ranks = [], []
        for sample in sides["validation"][name]:
            at = constants[sample.modality]["factor"].index(sample.factor)
            floor, slope = (constants[sample.modality][key][at] for key in ("floor", "slope"))
            sigma = np.hypot(floor, slope * sample.detail) / (1 if sample.modality == "MR" else 2000)
            error = np.abs(sample.error) / (1 if sample.modality == "MR" else 2000)
            unlikely.append(np.mean(np.log(sigma) + np.sqrt(2) * error / sigma))
            ranks.append(stats.spearmanr(sigma, error).statistic)
        covered = ", ".join(
            f"{row['modality']} ×{row['factor']:g} {row['within_1']:.2f}/{row['within_2']:.2f}"
            for row in coverage(sides["validation"][name], constants)
        )
        print(f"{name:30} {np.mean(unlikely):7.3f} nats, rank correlation {np.mean(ranks):.2f}; {covered}")
    print(f"mean of the ensemble over one run: {np.mean(gains):+.2f} dB")


if __name__ == "__main__":
    main()
