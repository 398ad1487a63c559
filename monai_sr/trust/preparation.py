"""What is decided about a volume before a network runs: its acquisition, settings and warnings. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np

from ..acquired import Acquired
from ..errors import BundleError, ImageError, doubt, warn
from ..grid import SAME_SPACING, ArrayImage, Grid
from ..intensities import CT_WINDOW, MR_PERCENTILES, Modality, Normalization, check_hounsfield, count_labels
from ..io import shelf
from ..options import PARAMETERS, Acquisition, RunOptions, Wanted
from ..profiles import read_protocols
from ..slices import Profile, SliceModel
from .noise import is_noisy, without_noise
from .ranges import check_ranges

if TYPE_CHECKING:
    from torch import Tensor


class VolumeOptions(TypedDict, total=False):
    """Keyword arguments of :func:`super_resolve` and of a loaded bundle; each may be left out.

    Attributes:
        spacing: wanted slice spacing, mm. Default: the finer in-plane spacing.
        factor: output slices per acquired slice instead; need not be an integer.
        strict: raise an error where a warning would say that the result is not worth having: no finer
            spacing, a factor beyond the range of training, a CT that is not in HU.
        texture: add random texture as strong as the noise of the slices, see :mod:`monai_sr.trust.texture`.
        slice_thickness: FWHM of the slice profile, mm. Default: the value in the metadata, else the slice spacing.
        profile: "gaussian", "box" or "triangle". Default: that of the header's protocol, else estimated, see
            :func:`monai_sr.profiles.known_profile` and :func:`monai_sr.profiles.estimate_profile`.
        axis: through-plane axis. Default: the one of the largest spacing.
        consistency: "exact": agree with the slices. "noise": with these without the noise measured in them, see
            :func:`monai_sr.trust.noise.without_noise`. "auto": "noise" where they are noisy, see
            :func:`monai_sr.trust.noise.is_noisy`.
        modality: "CT" or "MR". Default: the value in the metadata, else estimated from the voxels; then a
            mask or segmentation is refused.
        tile_voxels: output voxels computed at once; the result does not depend on it. Default: see
            :meth:`monai_sr.engine.Engine.usual_tile`.
    """

    spacing: float | None
    factor: float | None
    strict: bool
    texture: bool
    slice_thickness: float | None
    profile: Profile | None
    axis: int | None
    consistency: Literal["exact", "noise", "auto"]
    modality: Modality | None
    tile_voxels: int | None


class NetworkOptions(VolumeOptions, total=False):
    """Also how a network was trained, which a bundle knows.

    Attributes:
        ct_window, mr_percentiles: see :class:`monai_sr.intensities.Normalization`.
        factor_range: the factors that the network was trained for; beyond them a warning is given.
    """

    ct_window: Sequence[float]
    mr_percentiles: Sequence[float]
    factor_range: Sequence[float] | None


@dataclass(frozen=True)
class Settings:
    """What decides a result besides its image and its network, see :class:`NetworkOptions`."""

    wanted: Wanted = field(default_factory=Wanted)
    acquisition: Acquisition = field(default_factory=Acquisition)
    normalization: Normalization = field(default_factory=Normalization)
    factor_range: tuple[float, float] | None = None
    tile_voxels: int | None = None

    @classmethod
    def of(cls, **options: Unpack[NetworkOptions]) -> Settings:
        """The settings that options give.

        Raises:
            TypeError: there is no such option.
            UsageError: a value that is not accepted, or two that contradict each other.
        """
        refuse_unknown(options, NetworkOptions.__optional_keys__)
        network = NetworkOptions.__optional_keys__ - PARAMETERS.keys()
        said = RunOptions.from_dict({name: value for name, value in options.items() if name not in network})
        factors = options.get("factor_range")
        return cls(
            wanted=said.wanted,
            acquisition=said.acquisition,
            normalization=Normalization(
                ct_window=_pair(options.get("ct_window", CT_WINDOW)),
                mr_percentiles=_pair(options.get("mr_percentiles", MR_PERCENTILES)),
            ),
            factor_range=None if factors is None else _pair(factors),
            tile_voxels=options.get("tile_voxels"),
        )


def refuse_unknown(options: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise TypeError for an option that is not among the known ones."""
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; options are {', '.join(sorted(known))}")


def _pair(ends: Sequence[float]) -> tuple[float, float]:
    low, high = ends
    return low, high


def acquire(image: Tensor | ArrayImage, said: Acquisition, wanted: Wanted | None = None) -> Acquired:
    """A volume as acquired, from its file and the options.

    Args:
        image: as of :meth:`monai_sr.acquired.Acquired.of`.
        said: how it was acquired.
        wanted: what is to be made of it. A volume that is passed through keeps its noise.

    Raises:
        ImageError, UsageError: as of :meth:`monai_sr.acquired.Acquired.of`, its ``wanted_grid`` and
            :func:`read_protocols`.
    """
    acquired = Acquired.of(
        image,
        slice_thickness=said.slice_thickness,
        profile=said.profile,
        axis=said.axis,
        modality=said.modality,
        protocols=read_protocols(said.protocols) if said.protocols else (),
    )
    if said.consistency == "noise":
        return without_noise(acquired)
    if said.consistency == "exact" or not is_noisy(acquired):
        return acquired
    if wanted and acquired.lies_on(acquired.wanted_grid(spacing=wanted.spacing, factor=wanted.factor)):
        return acquired
    return without_noise(acquired, boxes_keep=True)


def prepare(acquired: Acquired, wanted: Grid, settings: Settings) -> SliceModel | None:
    """Check a volume before a network runs, with warnings; returns the matrices between the slices.

    ``wanted`` is the grid of the result. Returns None if the acquired slices lie on it already.

    Raises:
        ImageError: as of :func:`super_resolve`.
    """
    strict, trained = settings.wanted.strict, settings.factor_range
    if acquired.lies_on(wanted):
        doubt(
            *("W-SR-NOGAIN", "E-SR-NOGAIN"),
            f"slices are {acquired.slice_spacing:.4g} mm apart already; no finer spacing was requested",
            "the image is passed through",
            strict=strict,
            path=acquired.path,
        )
        return None
    _check_values(acquired, strict=strict)
    model = acquired.slice_model(wanted)
    if trained is not None and is_beyond(model.factor, trained):
        doubt(
            *("W-SR-RANGE", "E-SR-RANGE"),
            "a factor of {factor:.3g} is requested, the network was trained for {minimum:g} to {maximum:g}",
            facts={"factor": model.factor, "minimum": trained[0], "maximum": trained[1]},
            strict=strict,
            path=acquired.path,
        )
    return model


def is_beyond(factor: float, trained: tuple[float, float] | None) -> bool:
    """Whether the network was not trained for a factor."""
    minimum, maximum = trained or (0.0, math.inf)
    return not minimum * (1 - SAME_SPACING) <= factor <= maximum * (1 + SAME_SPACING)


def _check_values(acquired: Acquired, *, strict: bool) -> None:
    """Refuse labels unless the modality is given; warn of empty slices, and of a CT without plausible HU."""
    source = acquired.sources["modality"]
    for channel, voxels in enumerate(acquired.array):
        labels = count_labels(acquired.oriented(voxels)) if source == "estimated" else 0
        if labels:
            problem = f"{labels} different whole numbers in patches: a mask or segmentation, an image is needed"
            raise ImageError("E-MOD", problem)
        empty = _empty_slices(voxels, acquired.axis)
        if len(empty):
            text = "{count} slices between others hold one value each, the first is slice {first}; were they lost?"
            warn("W-IMG-EMPTY", text, path=acquired.path, facts={"count": len(empty), "first": int(empty[0])})
        if acquired.modality != "CT" or source == "estimated":
            continue
        outside = acquired.outside(voxels, channel)
        finding = check_hounsfield(voxels if outside is None or outside.all() else voxels[~outside])
        if finding:
            doubt("W-CT-HU", "E-CT-HU", finding, "they are used as HU", strict=strict, path=acquired.path)


def _empty_slices(voxels: np.ndarray, axis: int) -> np.ndarray:
    """Numbers of the slices of one value between slices with contrast, which were lost."""
    in_plane = tuple({0, 1, 2} - {axis})
    seen = np.flatnonzero(voxels.min(axis=in_plane) != voxels.max(axis=in_plane))
    return np.setdiff1d(np.arange(seen[0], seen[-1]), seen) if len(seen) else seen


@dataclass(eq=False)
class Trained:
    """What a bundle says before its network is loaded, and decides with it.

    Attributes:
        name: of the bundle, see :func:`monai_sr.io.shelf.name_of`; or "none".
        version: from its metadata.
        weights_sha256: of the file of weights; empty without a network.
        calibration: see :func:`monai_sr.io.shelf.read_calibration`.
        defaults: the settings in its ``inference.json``.
        revision: commit of a snapshot of the Hugging Face hub; empty for other folders.
    """

    name: str
    version: str = ""
    weights_sha256: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    defaults: Settings = field(default_factory=Settings)
    revision: str = ""

    def check_ranges(self, acquired: Acquired, wanted: Grid, *, strict: bool = False) -> dict[str, str]:
        """Warn where a volume is unlike the training data, see :func:`monai_sr.trust.ranges.check_ranges`."""
        return check_ranges(
            acquired,
            wanted,
            self.calibration.get("trained_on", {}),
            normalization=self.defaults.normalization,
            strict=strict,
        )

    def prepare(self, acquired: Acquired, wanted: Wanted) -> SliceModel | None:
        """What is decided before the network runs, with its warnings; see :func:`prepare`."""
        grid = acquired.wanted_grid(spacing=wanted.spacing, factor=wanted.factor)
        self.check_ranges(acquired, grid, strict=wanted.strict)
        return prepare(acquired, grid, replace(self.defaults, wanted=wanted))


def read_trained(folder: Path, weights: Path, defaults: Settings) -> Trained:
    """What the folder of a bundle says of its weights.

    Raises:
        BundleError: its metadata, weights or calibration cannot be read.
    """
    path = folder / "configs" / "metadata.json"
    try:
        version = str(json.loads(path.read_text(encoding="utf-8"))["version"])
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("E-W-CONFIG", f"it cannot be read ({error})", path=path) from error
    calibration = shelf.read_calibration(folder)
    return Trained(shelf.name_of(folder), version, digest, calibration, defaults, shelf.revision_of(folder))
