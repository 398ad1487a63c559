"""One volume from thick slices to thin ones, and the inferers that MONAI's engines call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer
from torch import Tensor, nn

from .acquired import Acquired
from .engine import Engine, Place, Progress
from .engine.selection import as_engine, make_engine
from .errors import ImageError, doubt, warn
from .grid import SAME_SPACING, Grid, on_grid
from .intensities import (
    CT_WINDOW,
    MR_PERCENTILES,
    Modality,
    Normalization,
    check_hounsfield,
    chosen_voxels,
    count_labels,
    possible_values,
)
from .io.adapters import takes_any_image
from .networks import levels_for
from .options import PARAMETERS, Acquisition, RunOptions, Wanted
from .profiles import read_protocols
from .slices import Banded, Profile, SliceModel
from .trust.noise import NOISY, noise_fraction, without_noise
from .trust.texture import random_texture


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
            :func:`monai_sr.trust.noise.without_noise`. "auto": "noise" where the noise is at least
            :data:`monai_sr.trust.noise.NOISY`.
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


@takes_any_image
def super_resolve(
    image: Tensor,
    network: nn.Module | Engine | None,
    *,
    progress: Progress | None = None,
    **options: Unpack[NetworkOptions],
) -> MetaTensor:
    """Super-resolve a volume: thin slices that agree with the acquired thick ones.

    Orient (through-plane axis last), normalize, let the network propose, enforce consistency,
    restore intensities and orientation. The image stays on its device; only tiles go to the
    network's.

    Args:
        image: (1, X, Y, Z) volume with affine, in the file's units; (C, X, Y, Z) for C volumes on
            one grid, each processed alone. Or a nibabel or SimpleITK image or ``(array, affine)``, see
            :func:`monai_sr.io.adapters.as_volume`; the result is of the same kind and voxel type.
        network: ResidualNet, PyramidNet or SRCNN in eval mode, or an engine that computes one; None for
            the consistent spline alone.
        progress: called with the fraction of the work that is done, 0..1.
        options: ``spacing``, ``factor``, ``slice_thickness`` and others, see :class:`NetworkOptions`.

    Returns:
        (C, X', Y', Z') float32 on :func:`monai_sr.grid.target_grid`, with the image's other
        metadata. It is the image itself, with a warning, if no finer spacing is wanted. Voxels that a CT
        did not scan keep their padding value and are not used; ``padding_share`` in the metadata
        is their fraction. ``filled_slices`` are the indices of slices in a gap, far from every acquired
        slice; ``slice_profile`` is the profile of the consistency; ``outside_training`` is the factor
        if it is outside the range of training.

    Raises:
        ImageError: fewer than three slices, an image without contrast, labels, a CT that is not in
            HU; with ``strict`` more.
        UsageError: contradicting options, or an unclear through-plane axis.
    """
    settings = Settings.of(**options)
    return super_resolve_acquired(acquire(image, settings.acquisition), network, settings, progress=progress)


@torch.no_grad()
def super_resolve_acquired(
    acquired: Acquired, network: nn.Module | Engine | None, settings: Settings, *, progress: Progress | None = None
) -> MetaTensor:
    """:func:`super_resolve` of a volume whose facts are decided; ``settings.acquisition`` is not used again."""
    wanted = acquired.wanted_grid(spacing=settings.wanted.spacing, factor=settings.wanted.factor)
    image, voxels, tile_voxels = acquired.image, acquired.voxels, settings.tile_voxels
    model = prepare(acquired, wanted, settings)
    if model is None:
        return on_grid(voxels.float(), wanted, image)
    result = torch.empty((len(voxels), *wanted.shape), device=voxels.device)
    padded = 0.0
    engine, nearest = as_engine(network), model.distances.argmin(axis=1)
    if tile_voxels is None:
        tile_voxels = engine.usual_tile(voxels_in=voxels.numel(), voxels_out=result.numel())
    normalization = acquired.normalization(settings.normalization)
    for channel in range(len(voxels)):
        scan = acquired.normalized(channel, normalization)
        done = _part_of(progress, channel, len(voxels)) if progress else None
        bounds = possible_values(
            *(scan.slices, scan.intensities, acquired.modality, acquired.stored_dtype),
            is_estimated=acquired.sources["modality"] == "estimated",
        )
        texture = random_texture(scan.slices, model, seed=channel) if settings.wanted.texture else None
        for place, proposal in _proposals(engine, scan.slices, model, tile_voxels=tile_voxels, progress=done):
            proposal = proposal if texture is None else proposal + texture[place]
            sr = model.enforce(proposal, scan.slices[place])
            sr = sr if bounds is None else model.hold(sr, scan.slices[place], bounds)
            acquired.put(scan.in_file_units(sr, place, nearest), result[channel], place)
        padded += scan.padding_fraction / len(voxels)
    if settings.wanted.texture:
        warn("W-SR-RANDOM", "random texture was added; none of it is anatomy", path=acquired.path or None)
    sharp = on_grid(result, wanted, image)
    sharp.meta["super_resolved"] = True
    sharp.meta["slice_profile"] = acquired.slice_profile
    filled = acquired.filled_slices(model)
    if len(filled):
        sharp.meta["filled_slices"] = filled
    if padded:
        sharp.meta["padding_share"] = padded
    if _is_beyond(model.factor, settings.factor_range):
        sharp.meta["outside_training"] = model.factor
    return sharp


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
    if trained is not None and _is_beyond(model.factor, trained):
        doubt(
            *("W-SR-RANGE", "E-SR-RANGE"),
            "a factor of {factor:.3g} is requested, the network was trained for {minimum:g} to {maximum:g}",
            facts={"factor": model.factor, "minimum": trained[0], "maximum": trained[1]},
            strict=strict,
            path=acquired.path,
        )
    return model


def _is_beyond(factor: float, trained: tuple[float, float] | None) -> bool:
    """Whether the network was not trained for a factor."""
    minimum, maximum = trained or (0.0, math.inf)
    return not minimum * (1 - SAME_SPACING) <= factor <= maximum * (1 + SAME_SPACING)


def _check_values(acquired: Acquired, *, strict: bool) -> None:
    """Refuse labels unless the modality is given, and warn of a CT whose values are not plausible HU."""
    source = acquired.sources["modality"]
    for channel, voxels in enumerate(acquired.voxels):
        labels = count_labels(acquired.oriented(voxels.float())) if source == "estimated" else 0
        if labels:
            raise ImageError(
                "E-MOD", f"{labels} different whole numbers in patches: a mask or segmentation, an image is needed"
            )
        if acquired.modality != "CT" or source == "estimated":
            continue
        outside = acquired.outside(voxels, channel)
        finding = check_hounsfield(
            voxels if outside is None or bool(outside.all()) else chosen_voxels(voxels, ~outside)
        )
        if finding:
            doubt("W-CT-HU", "E-CT-HU", finding, "they are used as HU", strict=strict, path=acquired.path)


def _part_of(progress: Progress, index: int, count: int) -> Progress:
    """Progress within one of several volumes as that of all."""
    return lambda done: progress((index + done) / count)


def _proposals(
    engine: Engine, lr: Tensor, model: SliceModel, *, tile_voxels: int, progress: Progress | None
) -> Iterator[tuple[Place, Tensor]]:
    """The proposals of the engine for the acquired slices (X, Y, m): thin slices of some rows and columns each."""
    levels, along, to_thin = 0, model.spline, None
    if engine.works_on == "thick":
        levels, along = levels_for(model.step / model.thin_step), model.standard_slices()
        from_even = model.from_even(2**levels * len(along))
        to_thin = None if from_even is None else Banded(from_even)
    for place, part in engine.propose(lr, along, levels=levels, tile_voxels=tile_voxels, progress=progress):
        yield place, part if to_thin is None else to_thin(part)


FACTS = ("super_resolved", "slice_profile", "filled_slices", "padding_share", "outside_training")
"""Metadata that :func:`super_resolve` adds to a result."""


def acquire(image: Tensor, said: Acquisition) -> Acquired:
    """A volume as acquired, from its file and the options.

    Raises:
        ImageError, UsageError: as of :meth:`monai_sr.acquired.Acquired.of` and :func:`read_protocols`.
    """
    acquired = Acquired.of(
        image,
        slice_thickness=said.slice_thickness,
        profile=said.profile,
        axis=said.axis,
        modality=said.modality,
        protocols=read_protocols(said.protocols) if said.protocols else (),
    )
    if said.consistency == "exact" or (said.consistency == "auto" and noise_fraction(acquired) < NOISY):
        return acquired
    return without_noise(acquired)


class SuperResolutionInferer(Inferer):
    """:func:`super_resolve` for MONAI's evaluator: a batch of thick volumes to thin ones.

    An evaluator keeps the input's affine, so ``SuperResolvedGridd`` must follow, with the same spacing, factor
    and axis.

    Args:
        engine, precision, quality, int8: see :func:`monai_sr.engine.selection.make_engine`; the network must not be
            trained further.
        options: see :class:`NetworkOptions`.

    Attributes:
        defaults: the settings.
        facts: of each result of the last call, the metadata of :data:`FACTS`.
    """

    def __init__(
        self,
        *,
        engine: str = "torch",
        precision: str = "auto",
        quality: str = "usual",
        int8: str | None = None,
        **options: Unpack[NetworkOptions],
    ) -> None:
        super().__init__()
        self.engine: dict[str, Any] = {"engine": engine, "precision": precision, "quality": quality, "int8": int8}
        self.defaults = Settings.of(**options)
        self._computed: Engine | None = None
        self.facts: list[dict[str, Any]] = []

    def __call__(self, inputs: Tensor, network: nn.Module | None, *args: Any, **kwargs: Any) -> Tensor:
        """(B, 1, X, Y, Z) MetaTensor in the file's units to (B, 1, X', Y', Z')."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        if not isinstance(inputs, MetaTensor):
            images = list(inputs)
        elif inputs.is_batch:
            images = decollate_batch(inputs)
        else:  # image[None], as in MONAI Label, with the metadata of one image
            images = [MetaTensor(voxels, meta=inputs.meta) for voxels in inputs.as_tensor()]
        computed = self.engine_for(network)
        acquired = (acquire(image, self.defaults.acquisition) for image in images)
        results = [super_resolve_acquired(one, computed, self.defaults) for one in acquired]
        self.facts = [{name: result.meta[name] for name in FACTS if name in result.meta} for result in results]
        return torch.stack([result.as_tensor() for result in results])

    def engine_for(self, network: nn.Module | None) -> Engine:
        """The engine of the network, kept between calls; an evaluator loads weights before the first."""
        if self._computed is None or self._computed.network is not network:
            self._computed = as_engine(None) if network is None else make_engine(network, **self.engine)
        return self._computed
