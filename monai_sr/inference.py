"""One volume from thick slices to thin ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .acquired import Acquired
from .engine import Engine, Place, Progress, one_of
from .engine.selection import as_engine
from .errors import Later, warn
from .grid import Image, on_grid
from .io.adapters import takes_any_image
from .slices import Banded, SliceModel, levels_for
from .trust.bounds import hold, possible_values
from .trust.preparation import NetworkOptions as NetworkOptions
from .trust.preparation import Settings as Settings
from .trust.preparation import VolumeOptions as VolumeOptions
from .trust.preparation import acquire as acquire
from .trust.preparation import is_beyond
from .trust.preparation import prepare as prepare

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .trust import texture
else:
    texture, torch = Later("monai_sr.trust.texture"), Later("torch")


@takes_any_image
def super_resolve(
    image: Tensor,
    network: nn.Module | Engine | None,
    *,
    progress: Progress | None = None,
    **options: Unpack[NetworkOptions],
) -> Image:
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
    acquired = acquire(image, settings.acquisition, settings.wanted)
    return super_resolve_acquired(acquired, network, settings, progress=progress)


def super_resolve_acquired(
    acquired: Acquired, network: nn.Module | Engine | None, settings: Settings, *, progress: Progress | None = None
) -> Image:
    """:func:`super_resolve` of a volume whose facts are decided; ``settings.acquisition`` is not used again."""
    wanted = acquired.wanted_grid(spacing=settings.wanted.spacing, factor=settings.wanted.factor)
    image, tile_voxels = acquired.source, settings.tile_voxels
    model = prepare(acquired, wanted, settings)
    if model is None:
        return on_grid(acquired.array, wanted, image)
    engine, nearest = as_engine(network), model.distances.argmin(axis=1)
    result = _empty((len(image), *wanted.shape), acquired, engine)
    padded = 0.0
    if tile_voxels is None:
        tile_voxels = engine.usual_tile(voxels_in=math.prod(image.shape), voxels_out=math.prod(result.shape))
    normalization = acquired.normalization(settings.normalization)
    for channel in range(len(image)):
        scan = acquired.normalized(channel, normalization).beside(result)
        done = one_of(progress, channel, len(image)) if progress else None
        bounds = possible_values(
            *(scan.slices, scan.intensities, acquired.modality, acquired.stored_dtype),
            is_estimated=acquired.sources["modality"] == "estimated",
        )
        added = texture.random_texture(scan.slices, model, seed=channel) if settings.wanted.texture else None
        for place, proposal in _proposals(engine, scan.slices, model, tile_voxels=tile_voxels, progress=done):
            proposal = proposal if added is None else proposal + added[place]
            sr = model.enforce(proposal, scan.slices[place])
            sr = sr if bounds is None else hold(model, sr, scan.slices[place], bounds)
            sr = scan.in_file_units(sr, place, nearest)
            acquired.grid.put(sr, result[channel], place, through_plane=acquired.axis)
        padded += scan.padding_fraction / len(image)
    if settings.wanted.texture:
        warn("W-SR-RANDOM", "random texture was added; it is not anatomy", path=acquired.path or None)
    sharp = on_grid(result, wanted, image)
    sharp.meta["super_resolved"] = True
    sharp.meta["slice_profile"] = acquired.slice_profile
    filled = acquired.filled_slices(model)
    if len(filled):
        sharp.meta["filled_slices"] = filled
    if padded:
        sharp.meta["padding_share"] = padded
    if is_beyond(model.factor, settings.factor_range):
        sharp.meta["outside_training"] = model.factor
    return sharp


def _empty(shape: tuple[int, ...], acquired: Acquired, engine: Engine) -> Any:
    """Where a result is put: an array, or a tensor on the device of the image if the engine computes with tensors."""
    if engine.in_numpy:
        return np.empty(shape, np.float32)
    return torch.empty(shape, device=getattr(acquired.source, "device", "cpu"))


def _proposals(
    engine: Engine, lr: Any, model: SliceModel, *, tile_voxels: int, progress: Progress | None
) -> Iterator[tuple[Place, Any]]:
    """The proposals of the engine for the acquired slices (X, Y, m): thin slices of some rows and columns each."""
    levels, along, to_thin = 0, model.spline_weights, None
    if engine.works_on == "thick":
        levels, along = levels_for(model.step / model.thin_step), model.standard_slices()
        from_even = model.from_even(2**levels * len(along))
        to_thin = None if from_even is None else Banded(from_even)
    for place, part in engine.propose(lr, along, levels=levels, tile_voxels=tile_voxels, progress=progress):
        yield place, part if to_thin is None else to_thin(part)
