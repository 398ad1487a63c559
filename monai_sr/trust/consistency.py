"""Does a result agree with what the scanner saw? ``y - A x`` of any super-resolved volume, in HU or signal units.

The result is acquired again: averaged by the slice profile at the places of the acquired slices. What
remains cannot see what a method invents between slices, but it shows every contradiction: a shift, a
wrong intensity, a blur, a slice from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..errors import ImageError, QualityError, UsageError, warn
from ..grid import SAME_SPACING, Grid, grid_of, on_grid, positions_on, uneven_positions
from ..intensities import data_range, guess_modality, intensity_range, padding_mask
from ..io.images import as_stored
from ..profiles import recognize_profile
from ..slices import Banded, Profile, apply_along, interpolation_matrix, profile_matrix

SAME_PLACE = 0.02
"""Voxels; an in-plane grid that is off by less is the same."""

PARALLEL = 0.1
"""Voxels that the far end of an axis may be off the line, in-plane voxels of the acquired grid."""

_BLOCK = 2**21
"""Voxels that are taken at once, to save memory."""


@dataclass(frozen=True)
class Consistency:
    """How far a result is from the acquired slices once it is acquired again.

    Attributes:
        residual: (C, X, Y, Z) ``y - A x`` on the acquired grid, in the file's units; NaN where nothing
            is compared: beyond the result, beside padding, and where the acquired volume held no number.
        axis: through-plane axis of the acquired volume.
        value_range: what NRMSE is a share of, see :func:`measure_consistency`.
        nrmse: root mean square of the residual over ``value_range``, of all voxels.
        slice_nrmse: (m,) the same of each acquired slice in the order of the voxels; NaN where nothing is compared.
        p95, maximum: 95th percentile and largest of the absolute residual, in the file's units.
        unit: "HU", or "signal" for MR.
        rounding: half the step of an integer result: by so much it may be off for its type alone.
        notes: what had to be done to compare, in words.
    """

    residual: MetaTensor
    axis: int
    value_range: float
    nrmse: float
    slice_nrmse: np.ndarray
    p95: float
    maximum: float
    unit: str
    rounding: float
    notes: tuple[str, ...] = ()

    @property
    def worst_slice(self) -> int:
        """Index of the slice of the largest NRMSE."""
        return int(np.nanargmax(self.slice_nrmse))

    @property
    def score(self) -> float:
        """NRMSE of the worst slice, so that one wrong slice shows however many there are."""
        return float(self.slice_nrmse[self.worst_slice])

    def within(self, limit: float) -> bool:
        """Whether the score is at most ``limit``, and what rounding alone may cost."""
        return self.score <= limit + self.rounding / self.value_range

    def check(self, limit: float, *, path: Any = None) -> None:
        """Nothing, where the result is within ``limit``.

        Raises:
            QualityError: it is not.
        """
        if not self.within(limit):
            raise QualityError(
                "E-CON-LIMIT",
                f"slice {self.worst_slice} contradicts the acquired one by {self.score:.3g} of the range, "
                f"{limit:.3g} is the limit",
                fix="check slice thickness and profile, and where the result comes from",
                path=path,
            )

    def text(self) -> str:
        """The figures as a table for people."""
        compared = int(np.isfinite(self.slice_nrmse).sum())
        rows = [
            ("NRMSE", f"{self.nrmse:.3g} of {self.value_range:.5g} {self.unit}"),
            ("worst slice", f"{self.score:.3g} (slice {self.worst_slice} of {len(self.slice_nrmse)}, from 0)"),
            ("95th percentile", f"{self.p95:.3g} {self.unit}"),
            ("largest", f"{self.maximum:.3g} {self.unit}"),
            ("compared", f"{compared} slices along axis {self.axis}"),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:17} {value}" for name, value in rows)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole volume, as JSON holds them."""
        figures = {"score": self.score, "nrmse": self.nrmse, "p95": self.p95, "max": self.maximum}
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
    acquired: MetaTensor,
    result: MetaTensor,
    *,
    slice_thickness: float | np.ndarray | None = None,
    profile: Profile | None = None,
    axis: int | None = None,
    stored_dtype: Any = None,
) -> Consistency:
    """Acquire a super-resolved volume again and compare it with the acquired one.

    The result may come from any program. The affines tell where its voxels lie: axes in another order
    or direction are turned, more slices or voxels are left out, and another in-plane spacing is brought
    to the acquired one (averaged if finer, else cubic), which the notes tell. Only axes that are not
    parallel are refused.

    NRMSE is a share of the acquired volume's spread (its 99.9th less 0.1st percentile, padding left
    out), so that neither units nor single bright voxels matter.

    Args:
        acquired: (C, X, Y, Z) thick slices with affine.
        result: (C, X', Y', Z') thin slices with affine.
        slice_thickness: FWHM of the slice profile, mm; (m,) where slices differ. Default: what the
            metadata of ``acquired`` tell, else the slice spacing.
        profile: "gaussian" or "box". Default: what the result says it agrees with, else recognized from
            the acquired slices.
        axis: through-plane axis of ``acquired``. Default: what its metadata tell, else the one along
            which the result is finer.
        stored_dtype: compare the result as it looks when it is written in this type.

    Raises:
        ImageError: the volumes do not lie along one another (E-CON-GRID), or hold different numbers of volumes.
        UsageError: a slice thickness that is not above 0.
    """
    grid = grid_of(acquired)
    if len(acquired) != len(result):
        raise _apart(f"{len(acquired)} volume(s) were acquired, the result holds {len(result)}", "choose one of them")
    x, there = _turned(result, grid)
    axis = _through_plane(acquired, grid, there, axis)
    notes = []
    for a in {0, 1, 2} - {axis}:
        matrix, note = _in_plane(grid, there, a)
        if note:
            notes.append(note)
        if matrix is not None:
            x = apply_along(matrix, x.float(), a + 1)
    thin = positions_on(there, axis, grid)
    thick = positions_on(grid, axis, grid)
    uneven = uneven_positions(acquired)
    if uneven is not None and axis == 2:
        thick = uneven + (thick[0] + thick[-1]) / 2
    half = float(there.spacing[axis]) / 2 * (1 + SAME_SPACING)
    inside = (thick >= thin[0] - half) & (thick <= thin[-1] + half)
    if not inside.any():
        raise _apart("no acquired slice lies within the result", "check that they are of one scan")
    if not inside.all():
        notes.append(f"{int((~inside).sum())} of {len(thick)} acquired slices lie beyond the result")
    thickness = _thickness(acquired, grid, axis, slice_thickness)
    if profile is None:
        profile = result.meta.get("slice_profile") or _recognized(acquired, grid, axis, thick, thickness)
    if profile != "gaussian":
        notes.append(f"slice profile: {profile}")
    matrix = profile_matrix(
        thin, thick[inside], slice_thickness=thickness if thickness.ndim == 0 else thickness[inside], profile=profile
    )
    dtype = np.dtype(stored_dtype or result.meta.get("stored_dtype", "float32"))
    y = acquired.as_tensor().float().cpu()
    known = _compared(acquired, y, axis, grid, thickness) & _covered(grid, there, axis, inside)
    if not bool(known.any()):
        raise _apart("they have no voxel in common", "check that they are of one scan")
    residual = torch.full_like(y, math.nan)
    seen = _again(x, matrix, axis, dtype if stored_dtype is not None else None)
    places = [slice(None)] * 4
    places[axis + 1] = torch.from_numpy(np.flatnonzero(inside))  # type: ignore[call-overload]
    residual[tuple(places)] = y[tuple(places)] - seen
    residual.masked_fill_(~known, math.nan)
    unit = "HU" if (acquired.meta.get("modality") or guess_modality(y)) == "CT" else "signal"
    spread = data_range(y.numpy()[_meant(acquired, y).numpy()])
    return _figures(
        residual,
        acquired,
        axis=axis,
        value_range=spread,
        unit=unit,
        rounding=0.5 if np.issubdtype(dtype, np.integer) else 0.0,
        notes=tuple(notes),
    )


def check_result(
    acquired: MetaTensor, result: MetaTensor, *, limit: float | None, strict: bool = False, **told: Any
) -> Consistency:
    """:func:`measure_consistency` of a result that is about to be written, held against a bundle's limit.

    Args:
        acquired, result: see there.
        limit: the largest NRMSE of a slice; None where a bundle has none.
        strict: raise an error where there would be a warning that the result is beyond the limit.
        told: slice thickness, profile and axis that the result was made with.

    Raises:
        QualityError: it is beyond the limit, under ``strict``.
    """
    dtype = acquired.meta.get("stored_dtype", "float32")
    found = measure_consistency(acquired, result, stored_dtype=dtype, **told)
    if limit is None or found.within(limit):
        return found
    try:
        # what the type cannot hold is told of when it is written (W-OUT-CLIP); undershoot of 0 is no signal
        measure_consistency(acquired, result, **told).check(limit)
    except QualityError as error:
        if strict:
            raise error.at(acquired.meta.get("filename_or_obj") or "") from None
        warn(
            "W-CON-LIMIT",
            error.problem,
            path=acquired.meta.get("filename_or_obj"),
            facts={"found": found.score, "limit": limit},
        )
    return found


def _figures(residual: Tensor, acquired: MetaTensor, *, axis: int, value_range: float, **told: Any) -> Consistency:
    sums, counts = torch.zeros(2, residual.shape[axis + 1], dtype=torch.float64)
    for part in _parts(residual, axis):
        squared = torch.movedim(part, axis + 1, -1).double().square().flatten(0, -2)
        sums += squared.nansum(dim=0)
        counts += (~squared.isnan()).sum(dim=0)
    each = (sums / counts).sqrt().numpy() / value_range  # NaN where nothing is compared
    errors = residual.numpy()
    sizes = np.abs(errors[~np.isnan(errors)])
    return Consistency(
        residual=on_grid(residual, grid_of(acquired), acquired),
        axis=axis,
        value_range=value_range,
        nrmse=float((sums.sum() / counts.sum()).sqrt()) / value_range,
        slice_nrmse=each,
        maximum=float(sizes.max()),
        p95=float(np.percentile(sizes, 95, overwrite_input=True)),
        **told,
    )


def _turned(result: MetaTensor, grid: Grid) -> tuple[Tensor, Grid]:
    """The result's voxels with their axes in the order and direction of ``grid``, and where they lie then."""
    there = grid_of(result)
    ours, theirs = (g.affine[:3, :3] / np.array(g.spacing) for g in (grid, there))
    cosines = ours.T @ theirs
    order = [int(np.abs(row).argmax()) for row in cosines]
    extent = np.array(there.spacing) * np.array(there.shape)
    off = np.array([np.sqrt(max(0.0, 1 - cosines[a, o] ** 2)) * extent[o] for a, o in enumerate(order)])
    if sorted(order) != [0, 1, 2] or (off > PARALLEL * max(min(grid.spacing), 0.1)).any():
        angle = math.degrees(math.acos(min(1.0, float(np.abs(cosines).max(axis=1).min()))))
        raise _apart(
            f"their axes are not parallel (up to {angle:.2g} degrees)",
            "resample the result to the axes of the acquired volume, without a rotation",
        )
    affine, voxels = np.eye(4), result.as_tensor().cpu().permute(0, *(o + 1 for o in order))
    affine[:3, :3], affine[:3, 3] = there.affine[:3, order], there.affine[:3, 3]
    flipped = []
    for a, o in enumerate(order):
        if cosines[a, o] < 0:
            affine[:3, 3] += affine[:3, a] * (there.shape[o] - 1)
            affine[:3, a] *= -1
            flipped.append(a + 1)
    shape = [there.shape[o] for o in order]
    return voxels.flip(flipped) if flipped else voxels, Grid((shape[0], shape[1], shape[2]), affine)


def _through_plane(acquired: MetaTensor, grid: Grid, there: Grid, axis: int | None) -> int:
    """The axis that is given, told by the metadata, or along which the result is finer."""
    if axis is not None and axis not in (0, 1, 2):
        raise UsageError("E-USE", f"axis {axis} was given", fix="give 0, 1 or 2")
    if axis is None:
        axis = acquired.meta.get("slice_axis")
    if axis is not None:
        return int(axis)
    finer = [old / new for old, new in zip(grid.spacing, there.spacing, strict=True)]
    return int(np.argmax(finer)) if max(finer) > 1 + SAME_SPACING else grid.through_plane_axis


def _in_plane(grid: Grid, there: Grid, axis: int) -> tuple[Tensor | None, str]:
    """What brings the result's voxels along an in-plane axis to the acquired ones; None if they are those."""
    ours, theirs = positions_on(grid, axis, grid), positions_on(there, axis, grid)
    step, new = grid.spacing[axis], there.spacing[axis]
    if len(ours) == len(theirs) and np.abs(ours - theirs).max() < SAME_PLACE * step:
        return None, ""
    at = np.clip(ours, theirs[0], theirs[-1])
    nearest = np.abs(theirs[:, None] - at).argmin(axis=0)
    if np.abs(theirs[nearest] - at).max() < SAME_PLACE * step:
        return torch.eye(len(theirs), dtype=torch.float64)[nearest], ""
    if len(theirs) < 2:
        raise _apart(f"the result has one voxel along axis {axis}", "give the whole volume")
    if new < step * (1 - SAME_SPACING):
        # each acquired voxel is the mean over its own width
        edges = np.append(theirs - new / 2, theirs[-1] + new / 2)
        shares = np.diff(np.clip(edges, (at - step / 2)[:, None], (at + step / 2)[:, None]), axis=1)
        return torch.from_numpy(
            shares / shares.sum(axis=1, keepdims=True)
        ), f"axis {axis} averaged from {new:.4g} to {step:.4g} mm"
    places, index = np.unique(at, return_inverse=True)
    return interpolation_matrix(theirs, places)[index], f"axis {axis} interpolated from {new:.4g} to {step:.4g} mm"


def _thickness(acquired: MetaTensor, grid: Grid, axis: int, given: float | np.ndarray | None) -> np.ndarray:
    told = given
    if told is None and axis == acquired.meta.get("slice_axis", axis):
        told = acquired.meta.get("slice_thickness")
    thickness = np.array(grid.spacing[axis] if told is None else told, dtype=np.float64)
    if not ((thickness > 0) & np.isfinite(thickness)).all():
        raise UsageError("E-USE", f"a slice thickness of {told} mm was given", fix="give one above 0 mm")
    return thickness


def _recognized(acquired: MetaTensor, grid: Grid, axis: int, thick: np.ndarray, thickness: np.ndarray) -> Profile:
    """The profile that the acquired slices tell of themselves, as a run would recognize it."""
    slices = torch.movedim(acquired.as_tensor()[0].float().cpu(), axis, -1)
    kind = acquired.meta.get("modality") or guess_modality(slices)
    return recognize_profile(
        intensity_range(slices, kind).normalize(slices),
        in_plane=[step for a, step in enumerate(grid.spacing) if a != axis],
        positions=thick,
        slice_thickness=thickness,
    )


def _meant(acquired: MetaTensor, y: Tensor) -> Tensor:
    """Where the acquired volume holds what was measured: no padding, no filled NaN."""
    meant = torch.ones_like(y, dtype=torch.bool)
    missing = acquired.meta.get("nan_voxels")
    if missing is not None:
        meant &= ~torch.as_tensor(missing)
    for index, one in enumerate(y):
        kind = acquired.meta.get("modality") or guess_modality(one)
        outside = padding_mask(one, kind, acquired.meta.get("padding_value"))
        if outside is not None:
            meant[index] &= ~outside
    return meant if bool(meant.any()) else torch.ones_like(meant)


def _compared(acquired: MetaTensor, y: Tensor, axis: int, grid: Grid, thickness: np.ndarray) -> Tensor:
    """Where padding or NaN lie within no profile: those values are no tissue that slices average."""
    lost = ~_meant(acquired, y)
    if bool(lost.any()):
        reach = math.ceil(1.5 * float(np.max(thickness)) / grid.spacing[axis])
        near = lost.clone()
        for step in range(1, reach + 1):
            for one, other in (
                (slice(step, None), slice(None, -step)),
                (slice(None, -step), slice(step, None)),
            ):
                to, of = [slice(None)] * 4, [slice(None)] * 4
                to[axis + 1], of[axis + 1] = one, other
                near[tuple(to)] |= lost[tuple(of)]
        lost = near
    return ~lost


def _covered(grid: Grid, there: Grid, axis: int, inside: np.ndarray) -> Tensor:
    """(1, X, Y, Z) which acquired voxels lie within the result."""
    covered = torch.ones(1, *grid.shape, dtype=torch.bool)
    for a in range(3):
        if a == axis:
            within = inside
        else:
            ours, theirs = positions_on(grid, a, grid), positions_on(there, a, grid)
            half = there.spacing[a] / 2 + SAME_PLACE * grid.spacing[a]
            within = (ours >= theirs[0] - half) & (ours <= theirs[-1] + half)
        shape = [1, 1, 1, 1]
        shape[a + 1] = len(within)
        covered = covered & torch.from_numpy(np.asarray(within)).reshape(shape)
    return covered


def _again(x: Tensor, matrix: Tensor, axis: int, dtype: np.dtype | None) -> Tensor:
    """``A x`` in blocks, as ``dtype`` would hold x."""
    acquire, parts = Banded(matrix), []
    for part in _parts(x, axis):
        block = part.float()
        if dtype is not None:
            block = torch.from_numpy(as_stored(block.numpy(), dtype).astype(np.float32))
        parts.append(torch.movedim(acquire(torch.movedim(block, axis + 1, -1)), -1, axis + 1))
    return torch.cat(parts, dim=_cut(axis))


def _parts(x: Tensor, axis: int) -> Sequence[Tensor]:
    """(C, X, Y, Z) in blocks of whole lines along ``axis``."""
    return x.split(max(1, _BLOCK * x.shape[_cut(axis)] // x.numel()), dim=_cut(axis))


def _cut(axis: int) -> int:
    """The dimension that blocks are cut along: one of the other two."""
    return 2 if axis == 0 else 1


def _apart(what: str, fix: str) -> ImageError:
    return ImageError("E-CON-GRID", what, fix=fix)


def _digits(value: float) -> float:
    """Six significant digits: more would be rounding of the machine."""
    return float(f"{value:.6g}")
