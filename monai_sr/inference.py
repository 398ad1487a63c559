"""One volume from thick slices to thin ones, and the inferers that MONAI's engines call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import Inferer
from torch import Tensor, nn

from .errors import ImageError, ImageWarning, UsageError
from .grid import SAME_SPACING
from .intensities import (
    CT_AIR,
    CT_WINDOW,
    MR_PERCENTILES,
    Modality,
    check_hounsfield,
    count_labels,
    guess_modality,
    intensity_range,
    padding_mask,
)
from .networks import PyramidNet, ResidualNet
from .slices import Profile, SliceModel, apply_along, enforce_consistency, interpolation_matrix
from .tiles import apply_in_tiles
from .transforms import grid_of, on_grid, standard_slices, uneven_positions, wanted_grid

TILE_VOXELS = 4_000_000
"""Output voxels computed at once: about 1.5 GB for 32 features."""

FEWEST_SLICES = 3
"""Below this there is no through-plane structure to go by."""

Progress = Callable[[float], None]


@torch.no_grad()
def super_resolve(
    image: Tensor,
    network: nn.Module | None,
    *,
    spacing: float | None = None,
    factor: float | None = None,
    slice_thickness: float | np.ndarray | None = None,
    axis: int | None = None,
    profile: Profile = "gaussian",
    modality: Modality | None = None,
    ct_window: tuple[float, float] = CT_WINDOW,
    mr_percentiles: tuple[float, float] = MR_PERCENTILES,
    factor_range: tuple[float, float] | None = None,
    strict: bool = False,
    tile_voxels: int = TILE_VOXELS,
    progress: Progress | None = None,
) -> MetaTensor:
    """Thin slices that agree with the acquired thick ones.

    Orient (through-plane axis last), normalize, let the network propose, enforce consistency,
    restore intensities and orientation. The image stays on its device; only tiles go to the
    network's.

    Args:
        image: (1, X, Y, Z) volume with affine, in the file's units; (C, X, Y, Z) for C volumes on
            one grid, each taken by itself.
        network: ResidualNet, PyramidNet or SRCNN in eval mode; None for the consistent spline alone.
        spacing: wanted slice spacing, mm. Default: the finer in-plane spacing.
        factor: output slices per acquired slice instead; need not be an integer.
        slice_thickness: FWHM of the slice profile, mm; (m,) in the order of the voxels where slices
            differ. Default: what the image's metadata tell, else the slice spacing.
        axis: the through-plane axis, default the one of the largest spacing.
        profile: "gaussian" or "box".
        modality: "CT" or "MR". Default: what the metadata tell, else guessed from the values; then a
            mask or segmentation is refused.
        ct_window, mr_percentiles: see :func:`monai_sr.intensities.intensity_range`.
        factor_range: the factors that the network was trained for; beyond them a warning is given.
        strict: raise an error where there would be a warning that the result is not worth having:
            no finer spacing, a factor beyond the range, a CT that is not in HU.
        tile_voxels: output voxels computed at once; the result does not depend on it.
        progress: told the share of the work that is done, 0..1.

    Returns:
        (C, X', Y', Z') float32 on :func:`monai_sr.transforms.target_grid`, with the image's other
        metadata. The image itself, with a warning, where no finer spacing is wanted. Voxels outside
        what a CT scanned keep its padding value and take no part, ``padding_share`` in the metadata
        tells how many they are. ``filled_slices`` lists slices that lie in a gap, farther from an
        acquired one than its spacing explains; ``outside_training`` is the factor where it is beyond
        the range.

    Raises:
        ImageError: fewer than three slices, an image without contrast, labels, a CT that is not in
            HU; under ``strict`` see there.
        UsageError: contradicting options, or an unclear through-plane axis.
    """
    grid, uneven = grid_of(image), uneven_positions(image)
    wanted, axis = wanted_grid(image, spacing=spacing, factor=factor, axis=axis)
    voxels = image.as_tensor() if isinstance(image, MetaTensor) else image
    if uneven is None and np.array_equal(wanted.affine, grid.affine):
        _doubt(
            "W-SR-NOGAIN",
            "E-SR-NOGAIN",
            f"slices are {grid.spacing[axis]:.4g} mm apart already, no finer ones were asked for",
            "the image is passed through",
            fix="leave it as it is, or ask for a finer --spacing",
            strict=strict,
            image=image,
        )
        return on_grid(voxels.float(), grid, image)
    if grid.shape[axis] < FEWEST_SLICES:
        raise ImageError(
            "E-IMG-FEW",
            f"{grid.shape[axis]} slices, at least {FEWEST_SLICES} are needed",
            fix="give the whole series",
        )
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if slice_thickness is None and axis == meta.get("slice_axis", axis):
        slice_thickness = meta.get("slice_thickness")
    thickness = np.array(grid.spacing[axis] if slice_thickness is None else slice_thickness, dtype=np.float64)
    if not ((thickness > 0) & (thickness < math.inf)).all():
        raise UsageError("E-USE", f"a slice thickness of {slice_thickness} mm was given", fix="give one above 0 mm")
    order, flips = grid.canonical_order(axis)
    thick, thin = grid.positions(axis), wanted.positions(axis)
    if uneven is not None:
        thick = -uneven[::-1] if 2 in flips else uneven
    if 2 in flips:
        thickness = np.flip(thickness)
    reached = float(np.median(np.diff(thick)) / (thin[1] - thin[0]))
    least, most = factor_range or (0.0, math.inf)
    beyond = not least * (1 - SAME_SPACING) <= reached <= most * (1 + SAME_SPACING)
    if beyond:
        _doubt(
            "W-SR-RANGE",
            "E-SR-RANGE",
            f"a factor of {reached:.3g} is asked for, the network was trained for {least:g} to {most:g}",
            "the result may be no better than interpolation",
            fix="ask for a factor in that range, or take --bundle none",
            strict=strict,
            image=image,
        )
    model = SliceModel.between(thick, thin, slice_thickness=thickness, profile=profile)
    distance = np.abs(thin[:, None] - thick)
    results, padded = [], 0.0
    for index, one in enumerate(voxels):
        lr = one.float().permute(order).flip(flips).contiguous()
        missing = meta.get("nan_voxels")
        known = lr if missing is None else lr[~missing[index].permute(order).flip(flips)]
        kind = _modality_of(lr, modality, meta.get("modality"))
        outside = padding_mask(lr, kind, meta.get("padding_value"))
        if kind == "CT" and (modality or meta.get("modality")):
            doubt = check_hounsfield(lr if outside is None or bool(outside.all()) else lr[~outside])
            if doubt:
                _doubt(
                    *("W-CT-HU", "E-CT-HU", doubt, "they are taken as HU"),
                    fix="restore the rescale, or leave --modality out if it is no CT",
                    strict=strict,
                    image=image,
                )
        padding = 0.0
        if outside is not None:
            padding = float(lr[outside][0])
            padded += float(outside.float().mean()) / len(voxels)
            lr = torch.where(outside, CT_AIR, lr)
        intensities = intensity_range(known, kind, ct_window=ct_window, mr_percentiles=mr_percentiles)
        lr = intensities.normalize(lr)
        share = _share_of(progress, index, len(voxels)) if progress else None
        sr = _propose(network, lr, model, thick, thin, tile_voxels=tile_voxels, progress=share)
        sr = intensities.restore(model.enforce(sr, lr))
        if outside is not None:
            sr = torch.where(outside[..., distance.argmin(axis=1)], padding, sr)
        results.append(sr.flip(flips).permute(*np.argsort(order).tolist()))
    result = on_grid(torch.stack(results), wanted, image)
    result.meta["super_resolved"] = True
    reach = np.maximum(np.median(np.diff(thick)), thickness) / 2 * (1 + SAME_SPACING)
    far = (distance > reach).all(axis=1)
    if far.any():
        result.meta["filled_slices"] = np.flatnonzero(far[::-1] if 2 in flips else far)
    if padded:
        result.meta["padding_share"] = padded
    if beyond:
        result.meta["outside_training"] = reached
    return result


def _doubt(warning: str, error: str, finding: str, consequence: str, *, fix: str, strict: bool, image: Tensor) -> None:
    """Warn that a result may not be worth having, or refuse to make it."""
    path = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    if strict:
        raise ImageError(error, finding, fix=fix, path=path)
    place = f"{path} - " if path else ""
    warnings.warn(ImageWarning(f"{warning}: {place}{finding}; {consequence}"), stacklevel=3)


def _modality_of(lr: Tensor, given: Modality | None, told: Modality | None) -> Modality:
    """What is given or told by the metadata; else guessed, once it is an image at all."""
    if given and told and given != told:
        raise ImageError(
            "E-MOD", f"the header says {told}, {given} was given", fix="leave --modality out, or give the right image"
        )
    labels = 0 if given or told else count_labels(lr)
    if labels:
        raise ImageError(
            "E-MOD",
            f"{labels} different whole numbers in patches: a mask or segmentation, an image is needed",
            fix="give the image, or name what it is by --modality",
        )
    return given or told or guess_modality(lr)


def _share_of(progress: Progress, index: int, count: int) -> Progress:
    """Progress within one of several volumes as that of all."""
    return lambda done: progress((index + done) / count)


def _propose(
    network: nn.Module | None,
    lr: Tensor,
    model: SliceModel,
    thick: np.ndarray,
    thin: np.ndarray,
    *,
    tile_voxels: int,
    progress: Progress | None,
) -> Tensor:
    """What the network makes of the acquired slices (X, Y, m), on the thin grid (X, Y, n)."""
    if network is None:
        return apply_along(model.spline, lr)
    device = next(network.parameters()).device
    if not isinstance(network, PyramidNet):
        in_plane, through = cast(ResidualNet, network).reach
        return apply_in_tiles(
            lambda part: network(part.to(device)).to(part.device),
            apply_along(model.spline, lr),
            halo=(in_plane, in_plane, through),
            align=getattr(network, "fold", 1),
            tile_voxels=tile_voxels,
            progress=progress,
        )
    step = (thick[-1] - thick[0]) / (len(thick) - 1)
    levels = max(1, math.ceil(math.log2(step / (thin[1] - thin[0])) - 1e-6))
    in_plane, through = network.reach_of(levels)
    finest = apply_in_tiles(
        lambda part: network(part.to(device), levels).to(part.device),
        apply_along(standard_slices(model, thick, thin), lr),
        halo=(in_plane, in_plane, through),
        scale=2**levels,
        tile_voxels=tile_voxels,
        progress=progress,
    )
    count = finest.shape[-1]
    positions = (thick[0] + thick[-1]) / 2 + (np.arange(count) - (count - 1) / 2) * step / 2**levels
    if count == len(thin) and np.allclose(positions, thin, atol=1e-6 * step):
        return finest
    return apply_along(interpolation_matrix(positions, thin), finest)


class SuperResolutionInferer(Inferer):
    """:func:`super_resolve` for MONAI's evaluator: a batch of thick volumes to thin ones.

    Takes the options of :func:`super_resolve`. Follow it by ``SuperResolvedGridd`` with the same
    spacing, factor and axis, because an evaluator keeps the input's affine.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def __call__(self, inputs: Tensor, network: nn.Module | None, *args: Any, **kwargs: Any) -> Tensor:
        """(B, 1, X, Y, Z) MetaTensor in the file's units to (B, 1, X', Y', Z')."""
        bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        if not isinstance(inputs, MetaTensor):
            images = list(inputs)
        elif inputs.is_batch:
            images = decollate_batch(inputs)
        else:  # image[None], as of MONAI Label, whose metadata stay those of one image
            images = [MetaTensor(voxels, meta=inputs.meta) for voxels in inputs.as_tensor()]
        return torch.stack([super_resolve(i, bare, **(self.options | kwargs)).as_tensor() for i in images])


class ConsistentInferer(Inferer):
    """The training path of both networks on crops: the network, then consistency with the crop.

    Args:
        bfloat16: let the network's convolutions work in bfloat16, at less than half the cost on a
            processor that has such instructions (avx512_bf16, amx). Weights, the image that is passed
            along, consistency and loss keep full precision.

    Args of the call:
        inputs: what the network sees, from ``RandSimulateThickSlicesd``.
        network: ResidualNet, SRCNN or PyramidNet, bare or in DistributedDataParallel.
        acquired, acquisition, spline: y, A and B of the crops, batched.

    Returns:
        The consistent volume; from a PyramidNet in training the list of its levels, the last one
        consistent.
    """

    def __init__(self, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        spline = kwargs["spline"]
        levels = [round(math.log2(spline.shape[-2] / spline.shape[-1]))] if isinstance(bare, PyramidNet) else []
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            outputs = network(inputs, *levels)
        # consistency is exact only in full precision, also under automatic mixed precision
        with torch.autocast(inputs.device.type, enabled=False):
            last = outputs[-1] if isinstance(outputs, list) else outputs
            last = enforce_consistency(last.float(), kwargs["acquired"], kwargs["acquisition"], spline)
        return [*outputs[:-1], last] if isinstance(outputs, list) else last
