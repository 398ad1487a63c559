"""Networks computed by torch, in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from ..slices import levels_for
from . import Place, Progress
from .memory import TILE_LADDER, TILE_VOXELS
from .sizes import HALVES
from .tiles import apply_in_tiles, blocks_of_rows, reach_of

TILE_FEATURES = 4
"""Feature maps of a tile in memory at once, of 4 bytes per voxel and feature; see :mod:`.memory`."""

GPU_FEATURES, GPU_BASE = 3.25, 32 * 2**20
"""On a GPU, feature maps at least, however the network folds its slices, and bytes of cuDNN and cuBLAS: their workspace
is that of whole maps. Measured by ``python -m tests.benchmarks.gpu``."""


class TorchEngine:
    """A network computed by torch, in float32 or, on a GPU, with convolutions in 16 bits.

    Args:
        network: in eval mode on its device, in float32.
        precision: "float32", "float16" or "bfloat16".
    """

    name = "torch"
    in_numpy = False

    def __init__(self, network: nn.Module, precision: str = "float32") -> None:
        self.network, self.precision = network, precision
        self.works_on, self.fold = str(network.works_on), int(getattr(network, "fold", 1))

    @property
    def device(self) -> str:
        """Where the network is."""
        return str(next(self.network.parameters()).device)

    def with_network(self, network: nn.Module) -> TorchEngine:
        """See :meth:`Engine.with_network`."""
        return TorchEngine(network, self.precision)

    def reach(self, levels: int = 0) -> tuple[int, int]:
        return reach_of(self.network, levels)

    def propose(
        self, slices: Tensor, along: np.ndarray, *, levels: int = 0, tile_voxels: int, progress: Progress | None = None
    ) -> Iterator[tuple[Place, Tensor]]:
        """See :meth:`Engine.propose`; tiles on the network's device, the proposal on that of ``slices``."""
        in_plane, through = self.reach(levels)
        proposal = apply_in_tiles(
            lambda part: self._compute(part, levels),
            slices,
            along=along,
            halo=(in_plane, in_plane, through),
            align=self.fold,
            scale=2**levels,
            tile_voxels=tile_voxels,
            progress=progress,
        )
        yield from ((place, proposal[place]) for place in blocks_of_rows(proposal))

    def tile_bytes(self, tile_voxels: int, *, voxels_in: int, voxels_out: int) -> int:
        """See :meth:`Engine.tile_bytes`; a tile is never larger than the volume, nor smaller than four halos a side."""
        tile_voxels = min(max(tile_voxels, self._least_tile(voxels_out / max(1, voxels_in))), voxels_out)
        features = max(layer.out_channels for layer in self.network.modules() if isinstance(layer, nn.Conv3d))
        maps, base = TILE_FEATURES * features // self.fold + 4, 0
        if self.device.startswith("cuda"):
            maps, base = max(maps, round(GPU_FEATURES * features)), GPU_BASE
        return base + 4 * voxels_out + tile_voxels * 4 * maps

    def usual_tile(self, *, voxels_in: int, voxels_out: int) -> int:
        """See :meth:`Engine.usual_tile`; smaller tiles compute mostly halo."""
        return TILE_VOXELS

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        largest = min(TILE_VOXELS, max(voxels_out, TILE_LADDER[-1]))
        return [largest, *(tile for tile in TILE_LADDER if tile < largest)]

    def _least_tile(self, factor: float) -> int:
        """Output voxels of the smallest tile that is made: four halos a side, see :mod:`monai_sr.engine.tiles`."""
        levels = levels_for(factor) if self.works_on == "thick" else 0
        in_plane, through = self.reach(levels)
        return (4 * in_plane + 1) ** 2 * (4 * through + self.fold) * 2**levels

    @torch.no_grad()
    def _compute(self, part: Tensor, levels: int) -> Tensor:
        """One tile, in float32; the image is added in full precision also if convolutions are in 16 bits.

        cuDNN may not round float32 to the 10 bits of TF32, as it does unless it is forbidden.
        """
        half = getattr(torch, self.precision) if self.precision in HALVES else None
        cudnn = torch.backends.cudnn
        with (
            cudnn.flags(cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False),
            nullcontext() if half is None else torch.autocast(torch.device(self.device).type, half),
        ):
            made = self.network(part.to(self.device), *([levels] if levels else []))
        return made.float().to(part.device)
