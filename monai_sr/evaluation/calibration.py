"""Calibrate a bundle: limits, uncertainty and training ranges, measured on training and validation volumes.

``monai-sr calibrate`` writes the result to ``configs/calibration.json`` of the bundle; every run reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from scipy.optimize import minimize

from ..acquired import Acquired, stored_dtype_of
from ..bundles import SPLINE, Model, load_bundle, read_calibration
from ..errors import BundleError
from ..files import write_json
from ..grid import grid_of
from ..io.images import read_image
from ..training.augmentation import RandCoarseCropd, RandSimulateThickSlicesd
from ..trust.consistency import measure_consistency
from ..trust.ranges import join_ranges, trained_ranges
from ..trust.uncertainty import constants_for, through_plane_detail, unit_of
from .conditions import Acquisition, Condition, acquire, middle, without_noise_notice
from .metrics import foreground

FACTORS = (2, 3, 4, 5)

THICKNESS_RATIOS = (0.5, 1.0, 1.5)

MARGIN = 2.0
"""The limit of consistency, as a multiple of the worst score in validation."""

VOXELS = 20_000
"""Number of voxels of each result to which constants are fitted."""


@dataclass(frozen=True)
class Sample:
    """Errors of one result at voxels inside the body, and the detail that predicts them.

    Attributes:
        modality: "CT" or "MR".
        factor: thin slices per thick slice.
        error: (k,) result minus reference, in the units of :func:`monai_sr.trust.uncertainty.unit_of`.
        detail: (k,) see :func:`monai_sr.trust.uncertainty.through_plane_detail`, in the same units.
    """

    modality: str
    factor: float
    error: np.ndarray
    detail: np.ndarray


def calibrate(
    model: Model,
    training: Sequence[str | Path | MetaTensor],
    validation: Sequence[str | Path | MetaTensor],
    *,
    factors: Sequence[float] = FACTORS,
    crop: int = 96,
    simulation: Mapping[str, Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measure the calibration of a bundle, under the conditions of the model cards.

    Args:
        model: the bundle.
        training, validation: volumes of thin slices; files or (1, X, Y, Z) with affine.
        factors: thin slices per thick slice.
        crop: voxels along each side, from the middle of each validation volume; half of it for training volumes.
        simulation: simulation in training, see :func:`read_simulation`; without it there are no ranges.
        progress: called with the fraction that is done.

    Returns:
        ``consistency`` see :func:`consistency_limit`; ``uncertainty`` see :func:`fit_uncertainty` and
        :func:`rescale`, with the :func:`coverage_left_out` of the validation volumes; ``trained_on`` see
        :func:`monai_sr.trust.ranges.trained_ranges`.
    """
    work = len(training) + 8 * len(validation)
    seen, unseen, scores, ranges = [], [], [], []
    for index, volume in enumerate(training):
        whole = _volume(volume)
        if simulation is not None:
            ranges.append(trained_ranges([whole], normalization=model.defaults.normalization, **simulation))
        hr = middle(whole, crop // 2)
        seen += [sample_of(*result_of(model, hr, factor)) for factor in factors]
        if progress:
            progress((index + 1) / work)
    for index, volume in enumerate(validation):
        whole = _volume(volume)
        hr = middle(whole, crop)
        results = [result_of(model, hr, factor) for factor in factors]
        unseen.append([sample_of(case, sr) for case, sr in results])
        scores += [_score(case, sr, whole) for case, sr in results]
        scores += spline_scores(whole, factors)
        if progress:
            progress((len(training) + 8 * (index + 1)) / work)
    constants = fit_uncertainty(seen)
    return {
        "consistency": consistency_limit(scores),
        "uncertainty": rescale(constants, [sample for samples in unseen for sample in samples])
        | {"coverage": coverage_left_out(unseen, constants)},
        **({"trained_on": join_ranges(ranges)} if ranges else {}),
    }


def read_simulation(bundle: Path) -> dict[str, Any]:
    """The simulation in ``train.json`` of a bundle: minimum and maximum of factor, thickness ratio and voxel growth.

    Raises:
        BundleError: the file is missing or has no such transforms.
    """
    path = bundle / "configs" / "train.json"
    try:
        steps = json.loads(path.read_text())["train"]["preprocessing"]["transforms"]
        by_name = {step["_target_"].rpartition(".")[2]: step for step in steps}
        given, coarse = by_name[RandSimulateThickSlicesd.__name__], by_name.get(RandCoarseCropd.__name__)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("E-W-CONFIG", "it does not define the training", path=path) from error
    usual = {name: p.default for name, p in signature(RandSimulateThickSlicesd).parameters.items()} | given
    growth = signature(RandCoarseCropd).parameters["coarsest"].default
    return {
        "factors": (min(usual["factors"]), max(usual["factors"])),
        "thickness_ratios": tuple(usual["thickness_ratios"]),
        "isotropy": usual["isotropy"],
        "coarsest": 1.0 if coarse is None else coarse.get("coarsest", growth),
    }


def result_of(
    model: Model, hr: MetaTensor, factor: float, *, thickness_ratio: float = 1.0
) -> tuple[Acquisition, MetaTensor]:
    """Simulated thick slices of a volume, and the result of a model."""
    case = acquire(hr, Condition(factor, thickness_ratio=thickness_ratio), Acquired.of(hr).axis)
    with without_noise_notice():
        return case, model(case.lr, factor=factor, axis=case.axis, slice_thickness=case.slice_thickness)


def consistency_limit(scores: Sequence[float]) -> dict[str, Any]:
    """The limit on the NRMSE of a slice: :data:`MARGIN` times the worst score in validation.

    Args:
        scores: of results as written to a file: rounded, and clipped to the range of the type. Clipping of
            undershoot beside a background of 0 causes most of the worst score, so the limit hardly depends on the
            network.

    Returns:
        ``limit``, the ``worst`` score and the number of ``cases``.
    """
    worst = max(scores)
    return {"limit": _round_up(MARGIN * worst), "worst": float(f"{worst:.3g}"), "cases": len(scores)}


def spline_scores(hr: MetaTensor, factors: Sequence[float]) -> list[float]:
    """Scores of the consistent spline on a whole volume, also with thinner and thicker slices."""
    spline = load_bundle(SPLINE)
    results = (result_of(spline, hr, f, thickness_ratio=r) for f in factors for r in THICKNESS_RATIOS)
    return [_score(case, sr, hr) for case, sr in results]


def _score(case: Acquisition, sr: MetaTensor, hr: MetaTensor) -> float:
    consistency = measure_consistency(
        case.lr, sr, slice_thickness=case.slice_thickness, axis=case.axis, stored_dtype=stored_dtype_of(hr)
    )
    return consistency.score


def sample_of(case: Acquisition, sr: MetaTensor, *, predictor: np.ndarray | None = None) -> Sample:
    """Errors at :data:`VOXELS` voxels inside the body, without the ends of the volume.

    Args:
        case, sr: see :func:`result_of`.
        predictor: (X, Y, Z) predictor of the errors, instead of the through-plane detail.
    """
    acquired, reference = Acquired.of(case.lr, axis=case.axis), case.reference[0].numpy()
    unit, spacing = unit_of(acquired.array[0], acquired.modality), acquired.slice_spacing
    if predictor is None:
        predictor = through_plane_detail(sr[0].numpy(), grid_of(sr), case.axis, spacing)
    inside = np.moveaxis(foreground(reference), case.axis, -1) & case.measured
    both = sr[0].numpy() - reference, predictor
    error, detail = (np.moveaxis(values, case.axis, -1)[inside] / unit for values in both)
    chosen = np.random.default_rng(0).choice(len(error), min(VOXELS, len(error)), replace=False)
    factor = spacing / grid_of(sr).spacing[case.axis]
    error, detail = (values[chosen].astype(np.float64) for values in (error, detail))
    return Sample(acquired.modality, round(factor, 3), error, detail)


def fit_uncertainty(samples: Sequence[Sample]) -> dict[str, Any]:
    """Maximum-likelihood constants of :mod:`monai_sr.trust.uncertainty` for each modality and factor.

    Errors are modeled by a Laplace distribution, because their tails are longer than those of a Gaussian.

    Returns:
        By modality ``factor``, ``floor`` (a) and ``slope`` (c), lists of equal length.
    """
    constants: dict[str, Any] = {}
    for modality in sorted({sample.modality for sample in samples}):
        factors = sorted({sample.factor for sample in samples if sample.modality == modality})
        pairs = [_fit([s for s in samples if (s.modality, s.factor) == (modality, f)]) for f in factors]
        floors, slopes = ([float(f"{pair[index]:.4g}") for pair in pairs] for index in range(2))
        constants[modality] = {"factor": factors, "floor": floors, "slope": slopes}
    return constants


def rescale(constants: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """Constants times one number for each modality and factor, so that they suit volumes not used for training.

    On its training volumes a network has a smaller error. There are many of them, so ``floor`` and ``slope`` are fitted
    there; the number is the maximum-likelihood scale on ``samples``, each of the same weight.
    """
    scaled: dict[str, Any] = {}
    for modality, fitted in constants.items():
        scales = []
        for factor, floor, slope in zip(fitted["factor"], fitted["floor"], fitted["slope"], strict=True):
            here = [s for s in samples if (s.modality, s.factor) == (modality, factor)]
            ratios = [np.mean(np.abs(s.error) / np.hypot(floor, slope * s.detail)) for s in here]
            scales.append(math.sqrt(2) * float(np.mean(ratios)) if ratios else 1.0)
        scaled[modality] = fitted | {
            name: [float(f"{scale * value:.4g}") for scale, value in zip(scales, fitted[name], strict=True)]
            for name in ("floor", "slope")
        }
    return scaled


def coverage_left_out(volumes: Sequence[Sequence[Sample]], constants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The :func:`coverage` of each volume with the scale of the others, see :func:`rescale`; the mean over volumes."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for index, samples in enumerate(volumes):
        others = [sample for other, part in enumerate(volumes) if other != index for sample in part]
        for row in coverage(samples, rescale(constants, others)):
            rows.setdefault((row["modality"], row["factor"]), []).append(row)
    return [
        {"modality": kind, "factor": factor}
        | {name: round(float(np.mean([row[name] for row in here])), 3) for name in ("within_1", "within_2")}
        for (kind, factor), here in sorted(rows.items())
    ]


def _fit(samples: Sequence[Sample]) -> tuple[float, float]:
    error = np.abs(np.concatenate([sample.error for sample in samples]))
    detail = np.concatenate([sample.detail for sample in samples])

    def negative_log_likelihood(logs: np.ndarray) -> float:
        sigma = np.hypot(np.exp(logs[0]), np.exp(logs[1]) * detail)
        return float(np.mean(np.log(sigma) + np.sqrt(2) * error / sigma))

    start = np.log([np.median(error) + 1e-9, 1.0])
    floor, slope = np.exp(minimize(negative_log_likelihood, start, method="Nelder-Mead").x)
    return float(floor), float(slope)


def coverage(samples: Sequence[Sample], constants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How often errors stay within the predicted deviations, for each modality and factor.

    Returns:
        Rows of ``modality``, ``factor``, ``within_1`` and ``within_2``, the fraction of voxels whose error is at
        most one and two deviations, the mean over volumes.
    """
    rows = []
    for kind, factor in sorted({(sample.modality, sample.factor) for sample in samples}):
        fractions = []
        for sample in samples:
            if (sample.modality, sample.factor) == (kind, factor):
                floor, slope = constants_for(constants, kind, factor)
                ratio = np.abs(sample.error) / np.hypot(floor, slope * sample.detail)
                fractions.append([(ratio <= 1).mean(), (ratio <= 2).mean()])
        one, two = np.mean(fractions, axis=0)
        rows.append(
            {"modality": kind, "factor": factor, "within_1": round(float(one), 3), "within_2": round(float(two), 3)}
        )
    return rows


def calibration_markdown(calibration: Mapping[str, Any], *, command: str) -> str:
    """A calibration as tables for a model card."""
    limit = calibration["consistency"]
    lines = [
        f"Consistency: the worst slice of {limit['cases']} validation results had an NRMSE of {limit['worst']:.3g}; "
        f"a result above {limit['limit']:.3g} gives a warning, and an error with `--strict`.",
        "",
        "Uncertainty: fraction of voxels inside the body whose error is at most one / two predicted deviations, on "
        "volumes used neither for training nor for their own scale (Laplace distribution: 0.76 / 0.94):",
        "",
    ]
    rows = calibration["uncertainty"]["coverage"]
    factors = sorted({row["factor"] for row in rows})
    lines += ["| | " + " | ".join(f"×{factor:g}" for factor in factors) + " |", "|---" * (len(factors) + 1) + "|"]
    for modality in sorted({row["modality"] for row in rows}):
        cells = {r["factor"]: f"{r['within_1']:.2f} / {r['within_2']:.2f}" for r in rows if r["modality"] == modality}
        lines.append(f"| {modality} | " + " | ".join(cells.get(factor, "–") for factor in factors) + " |")
    return "\n".join([*lines, "", f"Made by `{command}`.", ""])


def _volume(volume: str | Path | MetaTensor) -> MetaTensor:
    return volume if isinstance(volume, MetaTensor) else read_image(volume)


def write_calibration(bundle: Path, calibration: Mapping[str, Any]) -> Path:
    """Write a calibration to ``configs/calibration.json`` of a bundle; keeps training ranges that are not given.

    Raises:
        OutputError: it cannot be written.
    """
    return write_json(read_calibration(bundle) | dict(calibration), bundle / "configs" / "calibration.json", indent=4)


def _round_up(value: float) -> float:
    """Round up to two digits."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.2g}")
