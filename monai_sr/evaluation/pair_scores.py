"""Measure methods on real pairs: thick slices in, compared with the thin slices of the same scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..acquired import Acquired
from ..bundles import load_bundle
from ..errors import SuperResolutionError, warn
from ..grid import grid_of
from ..intensities import data_range
from ..slices import Profile
from ..trust.preparation import Settings
from .conditions import TRIM
from .measurements import Study
from .methods import BASELINES, SPLINE, PeerError, SuperResolution, resample_to
from .metrics import foreground, psnr, sharpness, ssim
from .pairs import Pair
from .profile_fit import PairFit, fit_record
from .structures import Region
from .tables import aligned, piped, write_rows

PAIRS_EXPLAINED = (
    "Thick slices of a scan, super-resolved and compared with its thin slices inside the body (CT: above -500 HU; MR: "
    "Otsu), one thick slice left out at each end. Width and profile: of the header, or fitted to the pair. PSNR: range "
    "from the 0.1st to the 99.9th percentile of the thin series; over cubic: PSNR minus that of cubic interpolation; "
    "sharpness: slice-to-slice difference divided by that of the thin series; bias: mean of result minus thin series; "
    "histogram: mean distance of equal quantiles; both in HU or signal. Profile: RMS of the thick voxels minus the "
    "thin ones weighted by a profile; free weights are non-negative. Widths are fitted after smoothing in plane "
    "(2 mm), with a free gain and offset, so that a difference of kernels matters less; residuals are without both."
)


SAME_GAIN = 1.25
"""Values of a pair differ by at most this factor; else PSNR and bias show the difference of two scans."""


@dataclass(frozen=True)
class PairScore:
    """One method on one pair.

    Attributes:
        width_by: "header"; "box", a box of the header's width, as slices averaged of thin ones have; "fitted"; or ""
            for interpolation, which needs none.
        source: of the header's width, see :data:`monai_sr.acquired.Source`; "fitted".
        over_cubic_db: PSNR minus that of cubic interpolation.
        bias: mean of result minus thin series, HU or signal.
        histogram: mean distance of equal quantiles, HU or signal.
    """

    pair: str
    modality: str
    factor: float
    method: str
    width_by: str
    source: str
    profile: str
    width: float | None
    psnr_db: float
    over_cubic_db: float
    ssim: float
    sharpness: float
    bias: float
    histogram: float


def score_pair(
    pair: Pair,
    fit: PairFit,
    models: Mapping[str, SuperResolution],
    *,
    failed: Callable[[str, SuperResolutionError], None] | None = None,
    progress: Callable[[float], None] | None = None,
    study: Study | None = None,
) -> list[PairScore]:
    """Measure interpolation, and the consistent spline and models with the header's, a box and the fitted profile.

    Args:
        pair: the series.
        fit: of their profile.
        models: by name; called as ``model(image, factor=, slice_thickness=, profile=, axis=)``; other programs without
            the profile.
        failed: called with the name of the pair and the error of another program. Default: raise.
        progress: called with the fraction that is done.
        study: also takes measurements of every result with the header's profile.
    """
    if not 1 / SAME_GAIN <= fit.gain <= SAME_GAIN:
        text = "the values of the thick series are {gain:.3g} times those of the thin one; the scores say little"
        warn("W-PAIR-FIT", text, path=pair.name, facts={"gain": fit.gain})
    acquired, hr = pair.acquired, pair.thin[0].numpy()
    grid, axis = grid_of(pair.thin), pair.acquired.axis
    counted = _counted(pair)
    body = foreground(hr, acquired.modality)
    mask = body & counted if (body & counted).any() else body
    across = int(np.argmax(np.abs(grid.affine[:3, :3].T @ acquired.grid.affine[:3, axis])))
    value_range, reference = data_range(hr), np.sort(hr[mask])
    nominal = np.asarray(acquired.slice_thickness), acquired.slice_profile, acquired.source_of("slice_thickness")
    settings: dict[str, tuple[np.ndarray, Profile, str]] = {
        "": nominal,
        "header": nominal,
        "box": (nominal[0], "box", nominal[2]),
        "fitted": (np.asarray(fit.best.width), fit.best.profile, "fitted"),
    }
    spline = load_bundle("none", engine="torch")
    spline.defaults = Settings.of(consistency="exact")
    jobs: list[tuple[str, SuperResolution, str]] = [(name, BASELINES[name], "") for name in ("cubic", "sinc")]
    every: dict[str, SuperResolution] = {SPLINE: spline, **models}
    for name, model in every.items():
        boxes = () if acquired.slice_profile == "box" or not _takes_profile(model) else ("box",)
        jobs += [(name, model, by) for by in ("header", *boxes, "fitted")]
    scores: list[PairScore] = []
    if study is not None:
        region = Region(hr, grid.spacing, counted, acquired.modality, acquired.slice_spacing)
        subject = study.begin(pair.name, "pair", region, resample_to(pair.thick, grid, order=0))
    for done, (name, model, by) in enumerate(jobs, start=1):
        width, profile, source = settings[by]
        try:
            sr = _result(model, pair, float(np.median(width)), profile)
        except PeerError as error:
            if failed is None:
                raise
            failed(pair.name, error)
            continue
        voxels = resample_to(sr, grid)
        if study is not None and by in ("", "header") and name != "sinc":
            subject.add(name, voxels)
        value = psnr(voxels, hr, value_range=value_range, mask=mask)
        scores.append(
            PairScore(
                pair=pair.name,
                modality=acquired.modality,
                factor=round(pair.factor, 4),
                method=name,
                width_by=by,
                source=source if by else "",
                profile=profile if by else "",
                width=round(float(np.median(width)), 3) if by else None,
                psnr_db=value,
                over_cubic_db=value - scores[0].psnr_db if scores else 0.0,
                ssim=ssim(voxels, hr, value_range=value_range, mask=mask),
                sharpness=sharpness(voxels, hr, axis=across, mask=mask),
                bias=float((voxels[mask] - hr[mask]).mean(dtype=np.float64)),
                histogram=float(np.abs(np.sort(voxels[mask]) - reference).mean(dtype=np.float64)),
            )
        )
        if progress:
            progress(done / len(jobs))
    return scores


def _takes_profile(model: SuperResolution) -> bool:
    """Whether a method is a bundle; other programs take no profile."""
    return hasattr(model, "calibration")


def _result(model: SuperResolution, pair: Pair, width: float, profile: Profile) -> Any:
    """The thick series at the spacing of the thin one; a bundle is also given the profile."""
    options: dict[str, Any] = {}
    if _takes_profile(model):
        options = {"profile": profile}
        if Acquired.of(pair.thick).modality != pair.acquired.modality:  # a crop may look like the other one
            options["modality"] = pair.acquired.modality
    return model(pair.thick, factor=pair.factor, slice_thickness=width, axis=pair.acquired.axis, **options)


def _counted(pair: Pair) -> np.ndarray:
    """(X, Y, Z) bool, voxels of the thin series inside the thick one, without its first and last slice."""
    turn = np.linalg.inv(pair.acquired.grid.affine) @ grid_of(pair.thin).affine
    shape = grid_of(pair.thin).shape
    inside = np.ones(shape, dtype=bool)
    for axis, count in enumerate(pair.acquired.grid.shape):
        trim = TRIM if axis == pair.acquired.axis and count > 2 * TRIM + 1 else 0
        places = turn[axis, 3] + sum(
            turn[axis, a] * np.arange(n).reshape([-1 if b == a else 1 for b in range(3)]) for a, n in enumerate(shape)
        )
        inside &= (places >= trim - 1e-3) & (places <= count - 1 - trim + 1e-3)
    return inside


def pair_table(pair: Pair, fit: PairFit, scores: Sequence[PairScore], *, markdown: bool = False) -> str:
    """What the profile of a pair is, and how each method did, as text."""
    unit, acquired = "HU" if pair.acquired.modality == "CT" else "signal", pair.acquired
    header = float(np.median(acquired.slice_thickness))
    profiles = [["profile", "width mm", f"residual {unit}", f"residual {unit} at {header:.4g} mm"]]
    profiles.append(["free weights", f"{fit.free_width:.2f}", f"{fit.free_residual:.1f}", "–"])
    profiles += [[f.profile, f"{f.width:.2f}", f"{f.residual:.1f}", f"{f.by_header:.1f}"] for f in fit.fits]
    rows = [["method", "width by", "profile", "mm", "PSNR dB", "over cubic", "SSIM", "sharpness", "bias", "histogram"]]
    for s in scores:
        width = "" if s.width is None else f"{s.width:.2f}"
        figures = f"{s.psnr_db:.2f}", f"{s.over_cubic_db:+.2f}", f"{s.ssim:.4f}", f"{s.sharpness:.3f}"
        rows.append([s.method, s.width_by, s.profile, width, *figures, f"{s.bias:+.1f}", f"{s.histogram:.1f}"])
    moved = "" if pair.moved is None else f", moved by {pair.moved[0]:.2f} mm and {pair.moved[1]:.2f} degrees"
    title = (
        f"{pair.name}: {acquired.modality}, slices {acquired.slice_spacing:.4g} mm apart, thickness {header:.4g} mm "
        f"({acquired.source_of('slice_thickness')}), {acquired.slice_profile} "
        f"({acquired.source_of('slice_profile')}); thin {pair.step:.4g} mm{moved}"
    )
    if markdown:
        return "\n\n".join([title, piped(profiles), piped(rows)])
    return "\n".join([title, aligned(profiles, left=1), "", aligned(rows, left=3)])


def pairs_document(measured: Sequence[tuple[Pair, PairFit, list[PairScore]]]) -> dict[str, Any]:
    """Fits (``profiles``) and ``scores``, as JSON holds them."""
    scores = [asdict(score) for *_, scores in measured for score in scores]
    return {"profiles": [fit_record(pair, fit) for pair, fit, _ in measured], "scores": scores}


def write_pairs(
    folder: str | Path, measured: Sequence[tuple[Pair, PairFit, list[PairScore]]], **settings: Any
) -> list[Path]:
    """Write ``pairs.csv``, and ``pairs.json`` with the settings and the fits."""
    made = pairs_document(measured)
    document = {"settings": settings, "figures": PAIRS_EXPLAINED} | made
    return write_rows(folder, "pairs", made["scores"], document)
