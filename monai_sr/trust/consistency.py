"""Consistency of a super-resolved volume with the acquired slices: ``y - A x``, in HU or signal units.

The result is acquired again: it is averaged by the slice profile at the positions of the acquired slices. The
difference does not show what a method invents between slices. It shows every contradiction: a shift, a wrong
intensity, blur, a slice of another scan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..acquired import Acquired, stored_dtype_of
from ..errors import QualityError, warn
from ..grid import SAME_SPACING, Image, blocks, grid_of, on_grid, positions_on
from ..intensities import CT_LEAST, as_array, data_range
from ..io.images import rounded
from ..slices import Banded, Profile, apply_along, profile_weights
from .alignment import covered_voxels, in_plane_matrix, not_aligned, turn_to

MISSED, MISSED_BY, MISSED_VOXELS = 0.02, 0.1, 1e-3
"""A voxel is missed if its difference exceeds the first fraction of the range. There is a warning if one difference
exceeds the second, or if the third fraction of all voxels is missed, even if the mean of a slice is small."""

FAR, FAR_VOXELS = 0.75, 1e-3
"""A result is far beyond the acquired values if it exceeds them by so much of their range in so many of its voxels,
both as fractions."""


@dataclass(frozen=True)
class Consistency:
    """Difference between a result, acquired again, and the acquired slices.

    Attributes:
        residual: (C, X, Y, Z) ``y - A x`` on the acquired grid, in the units of the file; NaN where nothing is
            compared: outside the result, beside padding, and where the acquired volume is NaN.
        acquired: the acquired volume.
        value_range: denominator of NRMSE, see :func:`measure_consistency`.
        nrmse: root mean square of the residual of all voxels, divided by ``value_range``.
        slice_nrmse: (m,) the same for each acquired slice, in the order of the voxels; NaN where nothing is compared.
        p95, maximum: 95th percentile and maximum of the absolute residual, in the units of the file.
        missed: fraction of the voxels that are missed by more than :data:`MISSED` of the range plus the rounding
            error. Noise of a CT below :data:`monai_sr.intensities.CT_LEAST` does not count.
        missed_by: maximum difference of a missed voxel, in the units of the file.
        rounding: half the step of an integer result, its maximum rounding error.
        notes: the steps that made the volumes comparable, in words.
    """

    residual: Image
    acquired: Acquired
    value_range: float
    nrmse: float
    slice_nrmse: np.ndarray
    p95: float
    maximum: float
    missed: float
    missed_by: float
    rounding: float
    notes: tuple[str, ...] = ()

    @property
    def axis(self) -> int:
        """Through-plane axis of the acquired volume."""
        return self.acquired.axis

    @property
    def unit(self) -> str:
        """ "HU", or "signal" for MR."""
        return "HU" if self.acquired.modality == "CT" else "signal"

    @property
    def worst_slice(self) -> int:
        """Index of the slice with the largest NRMSE."""
        return int(np.nanargmax(self.slice_nrmse))

    @property
    def score(self) -> float:
        """NRMSE of the worst slice: one wrong slice counts, however many slices there are."""
        return float(self.slice_nrmse[self.worst_slice])

    def within(self, limit: float) -> bool:
        """Whether the score is at most ``limit`` plus the RMS of the rounding error."""
        return self.score <= limit + self.rounding / math.sqrt(3) / self.value_range

    @property
    def misses_voxels(self) -> bool:
        """Whether so many voxels are missed, or one by so much, that the score alone would hide it."""
        return self.missed > MISSED_VOXELS or self.missed_by > MISSED_BY * self.value_range + self.rounding

    @property
    def missed_text(self) -> str:
        """The fraction of missed voxels, in words."""
        return f"{self.missed:.2%} of the acquired voxels by more than {MISSED:.0%} of the range"

    def check(self, limit: float, *, path: Any = None) -> None:
        """Raise an error if the score exceeds ``limit``.

        Raises:
            QualityError: E-CON-LIMIT.
        """
        if not self.within(limit):
            raise QualityError(
                "E-CON-LIMIT",
                f"slice {self.worst_slice} contradicts the acquired slice: NRMSE {self.score:.3g}, limit {limit:.3g}",
                path=path,
            )

    def text(self) -> str:
        """The figures as a table."""
        compared = int(np.isfinite(self.slice_nrmse).sum())
        ends = dict.fromkeys((self.acquired.slice_thickness.min(), self.acquired.slice_thickness.max()))
        thickness = " to ".join(f"{value:.4g}" for value in ends)
        rows = [
            ("NRMSE", f"{self.nrmse:.3g} of {self.value_range:.5g} {self.unit}"),
            ("worst slice", f"{self.score:.3g} (slice {self.worst_slice} of {len(self.slice_nrmse)}, from 0)"),
            ("95th percentile", f"{self.p95:.3g} {self.unit}"),
            ("largest", f"{self.maximum:.3g} {self.unit}"),
            ("missed", self.missed_text),
            ("compared", f"{compared} slices along axis {self.axis} ({self.acquired.sources['axis']})"),
            ("slice thickness", f"{thickness} mm ({self.acquired.sources['slice_thickness']})"),
            ("slice profile", f"{self.acquired.slice_profile} ({self.acquired.source_of('slice_profile')})"),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:17} {value}" for name, value in rows)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole volume, for JSON."""
        figures = {"score": self.score, "nrmse": self.nrmse, "p95": self.p95, "max": self.maximum}
        figures["missed"] = self.missed
        return {
            **{name: _digits(value) for name, value in figures.items()},
            "unit": self.unit,
            "range": _digits(self.value_range),
            "axis": self.axis,
            "worst_slice": self.worst_slice,
            "slices_compared": int(np.isfinite(self.slice_nrmse).sum()),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def record(self) -> dict[str, Any]:
        """:meth:`summary`, and the NRMSE of each slice; None where nothing is compared."""
        slices = [None if math.isnan(value) else _digits(value) for value in self.slice_nrmse.tolist()]
        return self.summary() | {"slice_nrmse": slices}


def measure_consistency(
    acquired: Image | Acquired,
    result: Image,
    *,
    slice_thickness: float | np.ndarray | None = None,
    profile: Profile | None = None,
    axis: int | None = None,
    stored_dtype: Any = None,
) -> Consistency:
    """Acquire a super-resolved volume again and compare it with the acquired volume.

    The result may come from any program. The affines give the position of its voxels. Axes in another order or
    direction are permuted and flipped, additional slices and voxels are left out, and another in-plane spacing
    is resampled (averaged if finer, otherwise cubic); the notes say so. Axes that are not parallel are
    refused, and a result that is coarser along an axis and finer along none.

    NRMSE is a fraction of the spread of the acquired volume (99.9th minus 0.1st percentile without padding), so
    it does not depend on units or on single bright voxels.

    Args:
        acquired: (C, X, Y, Z) thick slices with affine, or their Acquired record.
        result: (C, X', Y', Z') thin slices with affine.
        slice_thickness, profile, axis: as of :meth:`monai_sr.acquired.Acquired.of`, for ``acquired`` as a
            MetaTensor. Default of the profile: that recorded in the result, otherwise estimated from the
            acquired slices. Default of the axis: that of the metadata, otherwise the axis along which the
            result is finer.
        stored_dtype: compare the result as if written in this type.

    Raises:
        ImageError: the volumes are not aligned or have different numbers of channels (E-CON-GRID).
        UsageError: the slice thickness is not positive.
    """
    image = acquired.source if isinstance(acquired, Acquired) else acquired
    if len(image) != len(result):
        problem = "choose one volume"
        raise not_aligned(f"the acquired file has {len(image)} volume(s), the result {len(result)}", problem)
    grid = grid_of(image)
    x, there = turn_to(grid, result)
    coarser = np.array(there.spacing) / grid.spacing
    if coarser.max() > 1 + SAME_SPACING and coarser.min() > 1 - SAME_SPACING:
        what = f"the result is finer than the acquired volume along no axis, and {coarser.max():.3g} times as coarse"
        raise not_aligned(what, "give the acquired volume first, and its result second")
    if not isinstance(acquired, Acquired):
        profile = profile or result.meta.get("slice_profile")
        acquired = Acquired.of(acquired, slice_thickness=slice_thickness, profile=profile, axis=axis, refined=there)
    y, axis = acquired.array, acquired.axis
    notes = []
    for a in {0, 1, 2} - {axis}:
        matrix, note = in_plane_matrix(grid, there, a)
        if note:
            notes.append(note)
        if matrix is not None:
            x = apply_along(matrix, np.ascontiguousarray(x, np.float32), a + 1)
    thin = positions_on(there, axis, grid)
    thick = acquired.positions_from_first
    half = float(there.spacing[axis]) / 2 * (1 + SAME_SPACING)
    inside = (thick >= thin[0] - half) & (thick <= thin[-1] + half)
    if not inside.any():
        raise not_aligned("no acquired slice is inside the result", "check that both are of the same scan")
    if not inside.all():
        notes.append(f"{int((~inside).sum())} of {len(thick)} acquired slices are outside the result")
    thickness = acquired.slice_thickness
    weights = profile_weights(
        thin,
        thick[inside],
        slice_thickness=thickness if thickness.ndim == 0 else thickness[inside],
        profile=acquired.slice_profile,
    )
    known = _known_voxels(acquired)
    compared = _compared_voxels(acquired, known) & covered_voxels(grid, there, axis, inside)
    if not compared.any():
        raise not_aligned("the volumes do not overlap", "check that both are of the same scan")
    dtype = np.dtype(stored_dtype or stored_dtype_of(result))
    residual, acquire, slices = np.full_like(y, math.nan), Banded(weights), np.flatnonzero(inside)
    lines, of_y, of_x = (np.moveaxis(voxels, axis + 1, -1) for voxels in (residual, y, x))
    for rows in blocks(of_x.shape[1], of_x[:, 0].size):
        part = of_x[:, rows] if stored_dtype is None else rounded(of_x[:, rows], dtype)
        place = slice(None), rows, slice(None), slice(slices[0], slices[-1] + 1)
        lines[place] = of_y[place] - acquire(part.astype(np.float32))  # a copy, as BLAS takes no reversed axis
    residual[~compared] = math.nan
    return _figures(
        residual,
        acquired,
        value_range=data_range(y[known]),
        rounding=0.5 if np.issubdtype(dtype, np.integer) else 0.0,
        notes=tuple(notes),
    )


def check_result(acquired: Acquired, result: Image, *, limit: float | None, strict: bool = False) -> Consistency:
    """:func:`measure_consistency` of a result before it is written, compared with the limit of a bundle.

    Args:
        acquired, result: see there.
        limit: maximum NRMSE of a slice; None if the bundle has no limit.
        strict: raise an error instead of a warning if the limit is exceeded.

    Raises:
        QualityError: the limit is exceeded, with ``strict``.
    """
    consistency = measure_consistency(acquired, result, stored_dtype=acquired.stored_dtype)
    _check_values(acquired, result)
    if (limit is None or consistency.within(limit)) and not consistency.misses_voxels:
        return consistency
    # a warning when the result is written names what the type cannot hold (W-OUT-CLIP)
    unclipped = measure_consistency(acquired, result)
    path = acquired.path or None
    try:
        if limit is not None:
            unclipped.check(limit)
    except QualityError as error:
        if strict:
            raise error.at(acquired.path) from None
        warn("W-CON-LIMIT", error.problem, path=path, facts={"found": consistency.score, "limit": limit})
        return consistency
    if unclipped.misses_voxels:
        problem = (
            "averages of the result miss {fraction:.2%} of the acquired voxels by more than {by:.0%} of the range, "
            "at most by {largest:.3g} {unit}: values that are possible do not average to them"
        )
        figures = {"fraction": consistency.missed, "by": MISSED, "largest": consistency.missed_by}
        warn("W-CON-MISSED", problem, path=path, facts={**figures, "unit": consistency.unit})
    return consistency


def _check_values(acquired: Acquired, result: Image) -> None:
    """Warn of a result that is far beyond the acquired values."""
    known = _known_voxels(acquired)
    for channel, voxels in enumerate(as_array(result)):
        values = acquired.array[channel][known[channel]]
        low, high = float(values.min()), float(values.max())
        far, padding = FAR * (high - low), acquired.padding[channel]
        if low - far <= voxels.min() and voxels.max() <= high + far:
            continue
        beyond = (voxels < low - far) | (voxels > high + far)
        if padding is not None:
            beyond &= voxels != padding
        fraction = np.count_nonzero(beyond) / beyond.size
        if fraction > FAR_VOXELS:
            made = voxels if padding is None else voxels[voxels != padding]
            problem = (
                "{fraction:.2%} of the voxels are far beyond the acquired values: "
                "{least:.5g} to {most:.5g}, acquired were {low:.5g} to {high:.5g}"
            )
            facts = {"fraction": fraction, "least": float(made.min()), "most": float(made.max())}
            warn("W-OUT-RANGE", problem, path=acquired.path or None, facts={**facts, "low": low, "high": high})


def _figures(
    residual: np.ndarray, acquired: Acquired, *, value_range: float, rounding: float, notes: tuple[str, ...]
) -> Consistency:
    lines = np.moveaxis(residual, acquired.axis + 1, -1)
    sums, counts = np.zeros((2, lines.shape[-1]))
    for rows in blocks(lines.shape[1], lines[:, 0].size):
        squared = np.square(lines[:, rows], dtype=np.float64)
        sums += np.nansum(squared, axis=(0, 1, 2))
        counts += np.count_nonzero(~np.isnan(squared), axis=(0, 1, 2))
    with np.errstate(invalid="ignore"):
        each = np.sqrt(sums / counts) / value_range  # NaN where nothing is compared
    compared = ~np.isnan(residual)
    errors = residual[compared]
    sizes = missed = np.abs(errors)
    if acquired.modality == "CT":
        wanted = acquired.array[compared]
        missed = np.abs(np.maximum(wanted, CT_LEAST) - np.maximum(wanted - errors, CT_LEAST))
    return Consistency(
        residual=on_grid(residual, acquired.grid, acquired.source),
        acquired=acquired,
        value_range=value_range,
        nrmse=float(np.sqrt(sums.sum() / counts.sum())) / value_range,
        slice_nrmse=each,
        maximum=float(sizes.max()),
        missed=np.count_nonzero(missed > MISSED * value_range + rounding) / missed.size,
        missed_by=float(missed.max()),
        p95=float(np.percentile(sizes, 95, overwrite_input=True)),
        rounding=rounding,
        notes=notes,
    )


def _known_voxels(acquired: Acquired) -> np.ndarray:
    """(C, X, Y, Z) True for measured voxels: no padding, no filled NaN."""
    voxels = acquired.array
    known = np.ones(voxels.shape, bool) if acquired.missing is None else ~acquired.missing
    for channel, values in enumerate(voxels):
        outside = acquired.outside(values, channel)
        if outside is not None:
            known[channel] &= ~outside
    return known if known.any() else np.ones_like(known)


def _compared_voxels(acquired: Acquired, known: np.ndarray) -> np.ndarray:
    """True where no profile contains padding or NaN, because these values are not tissue."""
    lost = ~known
    if lost.any():
        reach = math.ceil(1.5 * float(acquired.slice_thickness.max()) / acquired.grid.spacing[acquired.axis])
        near = lost.copy()
        of, to = (np.moveaxis(mask, acquired.axis + 1, -1) for mask in (lost, near))
        for step in range(1, reach + 1):
            to[..., step:] |= of[..., :-step]
            to[..., :-step] |= of[..., step:]
        lost = near
    return ~lost


def _digits(value: float) -> float:
    """Round to six significant digits."""
    return float(f"{value:.6g}")
