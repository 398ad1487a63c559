"""A volume as it was acquired: each fact is decided once, in one function, and has a source.

``image.meta`` describes an acquisition by the keys that :func:`acquisition_meta` writes. This module
alone reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import ImageError
from .grid import SAME_SPACING, ArrayImage, decide_axis, grid_of, positions_on, slice_spacing, target_grid, voxels_of
from .intensities import CT_AIR, USUAL, NormalizedSlices, as_array, guess_modality, intensity_range, padding_of
from .profiles import Known, Protocol, ProtocolWidth, checked_thickness, estimate_profile, known_profile
from .slices import Profile, SliceModel

if TYPE_CHECKING:
    from torch import Tensor

    from .grid import Grid
    from .intensities import IntensityRange, Modality, Normalization, Voxels

Source = Literal["option", "protocol", "corrected", "header", "sidecar", "estimated", "assumed"]
"""Where a fact comes from: the user, a table of protocols, the header times the factor of its kind of scan, the header,
a JSON file beside it, an estimate from voxels or grid, or an assumption."""

FACTS = ("axis", "slice_spacing", "slice_thickness", "modality")

MIN_SLICES = 3
"""Fewer slices show no through-plane structure."""


def acquisition_meta(
    *,
    stored_dtype: str | None = None,
    modality: Modality | None = None,
    slice_axis: int | None = None,
    slice_thickness: float | np.ndarray | None = None,
    slice_positions: np.ndarray | None = None,
    padding_value: float | None = None,
    protocol: Mapping[str, str] | None = None,
    nan_voxels: np.ndarray | None = None,
    has_orientation: bool = True,
    has_one_range: bool = False,
    source: Source = "header",
) -> dict[str, Any]:
    """The metadata of a volume that describe its acquisition; what is None is absent.

    Args:
        stored_dtype, modality, slice_axis: type of the voxels in the file; "CT" or "MR"; through-plane axis.
        slice_thickness: FWHM of the slice profile, mm; (m,) in the order of the voxels where slices differ.
        slice_positions: (m,) slice centers along the last axis, mm around the middle, where they are uneven.
        padding_value: of voxels that were not scanned.
        protocol: the fields of :class:`monai_sr.profiles.Protocol`.
        nan_voxels: (C, X, Y, Z) bool, voxels that held no number and were filled.
        has_orientation: False where the file does not say which side is which.
        has_one_range: all channels are volumes of one series, whose values are normalized alike.
        source: where these facts come from.
    """
    facts = {
        "stored_dtype": stored_dtype,
        "modality": modality,
        "slice_axis": slice_axis,
        "slice_thickness": slice_thickness,
        "slice_positions": slice_positions,
        "padding_value": padding_value,
        "protocol": protocol,
        "nan_voxels": nan_voxels,
        "has_orientation": None if has_orientation else False,
        "has_one_range": has_one_range or None,
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    return facts | ({"sidecar_facts": tuple(facts)} if source == "sidecar" else {})


def protocol_in(meta: Mapping[str, Any]) -> tuple[Protocol, float | None]:
    """Protocol and typical slice thickness (mm) in the metadata of an image; None without a thickness."""
    thickness = meta.get("slice_thickness")
    return Protocol(**meta.get("protocol", {})), None if thickness is None else float(np.median(thickness))


def stored_dtype_of(image: Tensor | ArrayImage) -> np.dtype:
    """The voxel type of the file that an image was read from; float32 without a file."""
    return np.dtype(_meta_of(image).get("stored_dtype", "float32"))


def padding_value_of(image: Tensor | ArrayImage) -> float | None:
    """The value of voxels that a CT did not scan, as the header gives it."""
    return _meta_of(image).get("padding_value")


def has_orientation(image: Tensor | ArrayImage) -> bool:
    """Whether the file of an image holds an orientation."""
    return bool(_meta_of(image).get("has_orientation", True))


def slice_axis_of(image: Tensor | ArrayImage) -> int | None:
    """The through-plane axis, if the reader of the image knows it; otherwise None."""
    return _meta_of(image).get("slice_axis")


def path_of(image: Tensor | ArrayImage) -> str:
    """The file that an image was read from; empty without a file."""
    return str(_meta_of(image).get("filename_or_obj") or "")


@dataclass(frozen=True, eq=False)
class Acquired:
    """A volume as acquired, made by :meth:`of`. Slices are counted in the order of the voxels.

    Attributes:
        source: (C, X, Y, Z) as it was read, in the file's units.
        grid: its shape and affine.
        axis: through-plane axis.
        positions: (m,) centers of the slices along ``axis``, mm around the middle of the grid, increasing.
        is_even: whether the slices are equally far apart.
        slice_spacing: see :func:`monai_sr.grid.slice_spacing`, mm.
        slice_thickness: FWHM of the slice profile, mm; one number, or (m,) where slices differ.
        modality: "CT" or "MR".
        padding: for each channel the value of voxels that were not scanned; None if all were.
        missing: (C, X, Y, Z) voxels that held no number and were filled; None if there are none.
        stored_dtype: voxel type of the file.
        has_orientation: whether the file holds an orientation.
        path: the file; empty without a file.
        sources: of ``axis``, ``slice_spacing``, ``slice_thickness`` and ``modality``.
        said_profile: the slice profile that the user or the protocol gives, and its source; see :attr:`slice_profile`.
        noise: standard deviation of the noise that was measured and removed, in the file's units; None where none was.
    """

    source: Tensor | ArrayImage
    grid: Grid
    axis: int
    positions: np.ndarray
    is_even: bool
    slice_spacing: float
    slice_thickness: np.ndarray
    modality: Modality
    padding: tuple[float | None, ...]
    missing: np.ndarray | None
    stored_dtype: np.dtype
    has_orientation: bool
    path: str
    sources: Mapping[str, Source]
    said_profile: tuple[Profile, Source] | None = None
    noise: float | None = None

    @classmethod
    def of(
        cls,
        image: Tensor | ArrayImage,
        *,
        slice_thickness: float | np.ndarray | None = None,
        profile: Profile | None = None,
        axis: int | None = None,
        modality: Modality | None = None,
        protocols: Sequence[ProtocolWidth] = (),
        refined: Grid | None = None,
    ) -> Acquired:
        """Decide every fact about an image.

        Args:
            image: (C, X, Y, Z) with affine, in the file's units.
            slice_thickness, profile, axis, modality: given by the user; they overrule the metadata.
            protocols: table of widths by protocol, see :func:`monai_sr.profiles.read_protocols`.
            refined: grid of a result of the image. If neither user nor header gives the through-plane
                axis, it is the one along which this grid is finer.

        Raises:
            ImageError: the header gives another modality (E-MOD), or the image has no three spatial axes.
            UsageError: an invalid axis or slice thickness.
        """
        meta, grid = _meta_of(image), grid_of(image)
        voxels, missing = as_array(image), meta.get("nan_voxels")
        uneven = uneven_positions_of(image)
        header_axis = meta.get("slice_axis", None if uneven is None else 2)
        even = uneven is None
        axis, axis_source = decide_axis(grid, given=axis, header=header_axis, uneven=not even, refined=refined)
        spacing = slice_spacing(grid.spacing[axis], uneven)
        known = _known_of(meta, protocols) if axis == meta.get("slice_axis", axis) else None
        thickness, thickness_source = _thickness_of(meta, slice_thickness, axis=axis, spacing=spacing, known=known)
        known_profile: tuple[Profile, Source] | None = (known.profile, known.source) if known else None
        modality, modality_source = _modality_of(meta, modality, voxels)
        return cls(
            source=image,
            grid=grid,
            axis=axis,
            positions=grid.positions(axis) if uneven is None else uneven,
            is_even=even,
            slice_spacing=spacing,
            slice_thickness=thickness,
            modality=modality,
            padding=tuple(padding_of(channel, modality, padding_value_of(image)) for channel in voxels),
            missing=None if missing is None else as_array(missing),
            stored_dtype=stored_dtype_of(image),
            has_orientation=has_orientation(image),
            path=path_of(image),
            sources=dict(zip(FACTS, (axis_source, "header", thickness_source, modality_source), strict=True)),
            said_profile=(profile, "option") if profile else known_profile,
        )

    @cached_property
    def image(self) -> Tensor:
        """``source`` as torch and MONAI compute with it."""
        return self.source.to_tensor() if isinstance(self.source, ArrayImage) else self.source

    @property
    def array(self) -> np.ndarray:
        """(C, X, Y, Z) float32, for what is decided without torch."""
        return as_array(self.source).astype(np.float32, copy=False)

    @property
    def voxels(self) -> Tensor:
        """(C, X, Y, Z) without metadata."""
        return voxels_of(self.source)

    @property
    def canonical_positions(self) -> np.ndarray:
        """``positions`` in canonical order."""
        return -self.positions[::-1] if 2 in self._canonical[1] else self.positions

    @property
    def positions_from_first(self) -> np.ndarray:
        """(m,) centers of the slices on the line of :func:`monai_sr.grid.positions_on`, mm from the grid's first."""
        line = positions_on(self.grid, self.axis, self.grid)
        return line if self.is_even else self.positions + (line[0] + line[-1]) / 2

    @property
    def slice_profile(self) -> Profile:
        """The slice profile: ``said_profile``, otherwise an estimate from the slices of the first channel."""
        return self._profile[0]

    @cached_property
    def _profile(self) -> tuple[Profile, Source]:
        if self.said_profile is not None:
            return self.said_profile
        estimate = estimate_profile(
            self.normalized(0).slices,
            in_plane=[self.grid.spacing[a] for a in self._canonical[0][:2]],
            positions=self.canonical_positions,
            slice_thickness=self._thickness,
        )
        return ("gaussian", "assumed") if estimate is None else (estimate, "estimated")

    def source_of(self, fact: str) -> Source:
        """Source of ``axis``, ``slice_spacing``, ``slice_thickness``, ``slice_profile`` or ``modality``."""
        return self._profile[1] if fact == "slice_profile" else "estimated" if fact == "noise" else self.sources[fact]

    def record(self) -> dict[str, Any]:
        """The facts that were used and their sources, as JSON holds them; lengths in mm."""
        facts = {
            "axis": self.axis,
            "slice_spacing": round(self.slice_spacing, 6),
            "slice_thickness": np.round(self.slice_thickness, 6).tolist(),
            "modality": self.modality,
        }
        if "_profile" in vars(self):  # an image that is passed through needs none
            facts["slice_profile"] = self.slice_profile
        if self.noise is not None:
            facts["noise"] = float(f"{self.noise:.4g}")
        return {name: {"value": value, "source": self.source_of(name)} for name, value in facts.items()}

    def wanted_grid(self, *, spacing: float | None = None, factor: float | None = None) -> Grid:
        """The grid of a result; see :func:`monai_sr.grid.target_grid`.

        Raises:
            UsageError: spacing and factor are both given or invalid, or the through-plane axis is ambiguous.
        """
        axis = None if self.sources["axis"] == "assumed" else self.axis
        uneven = None if self.is_even else self.positions
        return target_grid(self.grid, spacing=spacing, factor=factor, axis=axis, uneven=uneven)[0]

    def lies_on(self, wanted: Grid) -> bool:
        """Whether the acquired slices are those of a grid already."""
        return self.is_even and np.array_equal(wanted.affine, self.grid.affine)

    def check_slices(self) -> None:
        """Raise ImageError for fewer than three slices."""
        if (count := len(self.positions)) < MIN_SLICES:
            raise ImageError("E-IMG-FEW", f"{count} slices (minimum {MIN_SLICES})")

    def slice_model(self, wanted: Grid) -> SliceModel:
        """The matrices between the acquired slices and those of ``wanted``, both in canonical order.

        Raises:
            ImageError: fewer than three slices.
        """
        self.check_slices()
        thick, thin = self.canonical_positions, wanted.positions(self.axis)
        return SliceModel.between(thick, thin, slice_thickness=self._thickness, profile=self.slice_profile)

    def filled_slices(self, model: SliceModel) -> np.ndarray:
        """Indices of new slices in a gap, in the order of the voxels: farther from every acquired slice than usual."""
        reach = np.maximum(np.median(np.diff(model.thick)), self._thickness) / 2 * (1 + SAME_SPACING)
        far = (model.distances > reach).all(axis=1)
        return np.flatnonzero(far[::-1] if 2 in self._canonical[1] else far)

    def outside(self, voxels: Voxels, channel: int) -> Voxels | None:
        """Mask of the voxels that were not scanned, for a part of a channel or of its result; None if it is empty."""
        padding = self.padding[channel]
        mask = None if padding is None else voxels == padding
        return mask if mask is not None and bool(mask.any()) else None

    def air(self, channel: int) -> float:
        """What takes the place of padding: air in CT, in MR the minimum of what was scanned."""
        scanned = (voxels := self.array[channel]) != self.padding[channel]
        return CT_AIR if self.modality == "CT" else float(voxels.min(where=scanned, initial=voxels.max()))

    def normalization(self, usual: Normalization) -> Normalization | IntensityRange:
        """How each channel is normalized: volumes of one series by the range of all, others by their own."""
        if not _meta_of(self.source).get("has_one_range", False):
            return usual
        outside = self.outside(self.array, 0)  # one padding value for all
        return intensity_range(self.array if outside is None else self.array[~outside], self.modality, usual)

    def normalized(self, channel: int, by: Normalization | IntensityRange = USUAL) -> NormalizedSlices:
        """One channel as a network wants it, by its own range or a given one; ImageError without contrast."""
        lr = self.oriented(self.array[channel])
        outside = self.outside(lr, channel)
        if outside is not None:
            lr = np.where(outside, np.float32(self.air(channel)), lr)
        known = lr if self.missing is None else lr[~self.oriented(self.missing[channel])]
        intensities = intensity_range(known, self.modality, by)
        return NormalizedSlices(intensities.normalize(lr), intensities, outside, self.padding[channel] or 0.0)

    @cached_property
    def _canonical(self) -> tuple[list[int], list[int]]:
        return self.grid.canonical_order(self.axis)

    def oriented(self, voxels: Voxels) -> Voxels:
        """(X, Y, Z) of the file in canonical order, through-plane axis last; see :meth:`Grid.canonical_order`."""
        order, flips = self._canonical
        if isinstance(voxels, np.ndarray):
            return np.ascontiguousarray(np.flip(voxels.transpose(order), tuple(flips)))
        return voxels.permute(order).flip(flips).contiguous()

    @property
    def _thickness(self) -> np.ndarray:
        """Slice thickness in canonical order."""
        return np.flip(self.slice_thickness) if 2 in self._canonical[1] else self.slice_thickness


def _meta_of(image: Tensor | ArrayImage) -> Mapping[str, Any]:
    return getattr(image, "meta", {})  # a tensor may have none


def uneven_positions_of(image: Tensor | ArrayImage) -> np.ndarray | None:
    """Slice centers of an uneven series along the last axis, whose affine has the mean spacing; None if even."""
    if (positions := _meta_of(image).get("slice_positions")) is None:
        return None
    positions = np.asarray(positions, dtype=np.float64)
    if len(positions) != image.shape[-1]:
        raise ValueError(f"{len(positions)} slice positions for {image.shape[-1]} slices along the last axis")
    return positions


def _source_in(meta: Mapping[str, Any], fact: str) -> Source:
    return "sidecar" if fact in meta.get("sidecar_facts", ()) else "header"


def _known_of(meta: Mapping[str, Any], protocols: Sequence[ProtocolWidth]) -> Known | None:
    """What is known of the protocol in the metadata."""
    protocol, thickness = protocol_in(meta)
    known = known_profile(protocol, thickness=thickness, table=protocols)
    is_sidecar = bool(meta.get("sidecar_facts"))  # no image has a JSON and a protocol in its header
    return known._replace(source="sidecar") if known and known.source == "header" and is_sidecar else known


def _thickness_of(
    meta: Mapping[str, Any], given: float | np.ndarray | None, *, axis: int, spacing: float, known: Known | None
) -> tuple[np.ndarray, Source]:
    """The slice thickness: given, from header or sidecar (times the ratio of its protocol), or the slice spacing."""
    value, source = meta.get("slice_thickness"), _source_in(meta, "slice_thickness")
    if given is not None:
        value, source = given, "option"
    elif value is None or axis != meta.get("slice_axis", axis):  # the header describes its own axis
        value, source = spacing, "assumed"
    elif known is not None and (known.ratio != 1 or known.source == "protocol"):
        value = np.multiply(value, known.ratio)
        source = "protocol" if known.source == "protocol" else "corrected"
    return checked_thickness(value), source


def _modality_of(meta: Mapping[str, Any], given: Modality | None, voxels: np.ndarray) -> tuple[Modality, Source]:
    """The modality: given, from the header or sidecar, or estimated from the values of all channels."""
    stated: Modality | None = meta.get("modality")
    if given and stated and given != stated:
        problem = f"the header says {stated}, {given} was given"
        raise ImageError("E-MOD", problem, fix="omit --modality, or give the correct image")
    if given:
        return given, "option"
    if stated:
        return stated, _source_in(meta, "modality")
    # a phase image beside a magnitude reaches below 0 too
    return ("CT" if all(guess_modality(channel) == "CT" for channel in voxels) else "MR"), "estimated"
