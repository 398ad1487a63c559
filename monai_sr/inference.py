"""One volume from thick slices to thin ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .acquired import Acquired
from .engine import Engine, Place, Progress, one_of
from .engine.devices import thread_count
from .engine.selection import as_engine
from .errors import Later, warn
from .grid import Image, on_grid
from .intensities import NormalizedSlices
from .io.adapters import takes_any_image
from .slices import Banded, SliceModel, levels_for
from .trust.bounds import Bounds, hold, possible_values
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


FINISHING = 4
"""Maximum number of threads that make proposals agree with the slices. The network takes thirty times as long."""


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
    engine, padded = as_engine(network), 0.0
    result = _empty((len(image), *wanted.shape), acquired, engine)
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
        finish = partial(_finished, scan=scan, model=model, bounds=bounds, texture_added=added)
        proposals = _proposals(engine, scan.slices, model, tile_voxels=tile_voxels, progress=done)
        for place, sr in _each(finish, proposals, threads=thread_count() if engine.in_numpy else 1):
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


def _finished(
    part: tuple[Place, Any], *, scan: NormalizedSlices, model: SliceModel, bounds: Bounds | None, texture_added: Any
) -> tuple[Place, Any]:
    """A part of the proposal as a part of the result: with texture, consistent, within bounds, in file units."""
    place, proposal = part
    proposal = proposal if texture_added is None else proposal + texture_added[place]
    sr = model.enforce(proposal, scan.slices[place])
    sr = sr if bounds is None else hold(model, sr, scan.slices[place], bounds)
    return place, scan.in_file_units(sr, place, model.nearest)


def _each(work: Callable[[Any], Any], parts: Iterable[Any], *, threads: int) -> Iterator[Any]:
    """What ``work`` makes of each part, in other threads while the next parts are computed; one thread does both."""
    if threads == 1:
        yield from map(work, parts)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(min(threads, FINISHING)) as pool:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * FINISHING:
                yield waiting.popleft().result()
        yield from (done.result() for done in waiting)


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
