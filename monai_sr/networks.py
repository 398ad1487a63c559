"""The two networks, and the three-layer ancestor they are measured against.

All take and give ``(B, 1, X, Y, Z)`` float tensors with the through-plane axis last and
intensities normalized, and hold only what is learned: consistency with the acquired slices is
enforced around them (:mod:`monai_sr.slices`).

Each says on which slices it works (``works_on``: the "thin" grid that is wanted or the "thick"
one that was acquired) and how far an output voxel sees (``reach``), which is what tiling needs.
"""

# TorchScript takes a comment "type: ignore" on a function for its type, so mypy is told here.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Optional, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .slices import SliceModel


class LinkedPair(nn.Module):
    """Two convolutions with an identity link around them: ``x + conv(relu(conv(x)))``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(features, features, 3, padding=1)
        self.second = nn.Conv3d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class PlainPair(LinkedPair):
    """The same two convolutions without the link, as in the paper; hard to train when stacked."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))


class ResidualNet(nn.Module):
    """Very deep residual network: slices interpolated to the wanted grid in, sharper ones out.

    ``layers`` convolutions predict what the interpolation lost, which is added to it. One network
    serves every factor, integer or not. Neighboring thin slices are folded into channels first
    (``fold`` of them), because an interpolated slice hardly differs from its neighbor: the same
    depth then costs ``fold`` times less and sees ``fold`` times farther through plane.

    Args:
        layers: convolutions from input to residual, even, at least 4.
        features: channels of the inner layers.
        fold: neighboring slices that become channels; 1 for none.
        links: identity links around every two layers; without them twenty layers hardly train.

    Shape: ``(B, 1, X, Y, Z)`` to the same, any sizes.

    Source: Kim, Lee, Lee 2016, "Accurate Image Super-Resolution Using Very Deep Convolutional
    Networks", section 3; links after He 2016 and, without normalization, Lim 2017 (EDSR).
    """

    works_on: Final[str] = "thin"

    def __init__(self, layers: int = 20, features: int = 32, fold: int = 2, *, links: bool = True) -> None:
        super().__init__()
        if layers < 4 or layers % 2:
            raise ValueError(f"layers is {layers}, must be even and at least 4")
        self.layers, self.fold = layers, fold
        pair = LinkedPair if links else PlainPair
        self.head = nn.Conv3d(fold, features, 3, padding=1)
        self.body = nn.Sequential(*[pair(features) for _ in range((layers - 2) // 2)])
        self.tail = nn.Conv3d(features, fold, 3, padding=1)
        _prepare(self, last=self.tail)

    @property
    def reach(self) -> tuple[int, int]:
        """Voxels that an output voxel sees in plane, and thin slices through plane, to each side."""
        return self.layers, (self.layers + 1) * self.fold

    def forward(self, x: Tensor) -> Tensor:
        slices = x.shape[4]
        missing = (self.fold - slices % self.fold) % self.fold
        folded = F.pad(x, [0, missing, 0, 0, 0, 0], mode="replicate")
        b, _, height, width, depth = folded.shape
        folded = folded.reshape(b, height, width, depth // self.fold, self.fold).permute(0, 4, 1, 2, 3)
        residual = self.tail(self.body(torch.relu(self.head(folded))))
        residual = residual.permute(0, 2, 3, 4, 1).reshape(b, 1, height, width, depth)
        return x + residual[..., :slices]


class PyramidNet(nn.Module):
    """Laplacian pyramid along the slices: every level doubles them and adds what that one lacked.

    A level embeds its image, refines features by ``depth`` convolutions, doubles the slices of the
    features and of the image, and adds the residual read from the features; the sum feeds the next
    level. Weights are shared between levels, so one network serves ×2, ×4, ×8. Only the image goes
    from level to level: features that are carried along too, as in the paper, grow from level to
    level through the identity links, and weights trained so had levels after the first in which no
    ReLU ever opened.

    Args:
        features: channels of the feature branch.
        depth: convolutions of the feature branch in each level, even.
        levels: how often :meth:`forward` doubles the slices when it is not told.

    Shape: ``(B, 1, X, Y, m)`` to ``(B, 1, X, Y, m·2^levels)``. In training mode the list of every
    level's output, lowest first, for deep supervision.

    Source: Lai 2017, "Deep Laplacian Pyramid Networks"; weights shared over levels as in Lai 2018
    (MS-LapSRN), section 3.2.
    """

    works_on: Final[str] = "thick"

    if TYPE_CHECKING:  # TorchScript cannot read this annotation
        doubling: Tensor

    def __init__(self, features: int = 32, depth: int = 8, levels: int = 2) -> None:
        super().__init__()
        if depth < 2 or depth % 2:
            raise ValueError(f"depth is {depth}, must be even and at least 2")
        self.depth, self.levels = depth, levels
        self.embed = nn.Conv3d(1, features, 3, padding=1)
        self.body = nn.Sequential(*[LinkedPair(features) for _ in range(depth // 2)])
        self.double_features = nn.ConvTranspose3d(features, features, (1, 1, 4), (1, 1, 2), (0, 0, 1))
        self.residual = nn.Conv3d(features, 1, 3, padding=1)
        self.register_buffer("doubling", _doubling_weights(), persistent=False)
        _prepare(self, last=self.residual)

    def reach_of(self, levels: int) -> tuple[int, int]:
        """Voxels that an output voxel sees in plane, and *thick* slices through plane, to each side."""
        in_plane = self.depth + 2
        # a level of step s (in thick slices) sees that many of its own slices, or the doubling's taps
        each = max(in_plane, self.doubling.shape[-1] // 2)
        return in_plane * levels, math.ceil(sum(each / 2**level for level in range(levels))) + 1

    def forward(self, x: Tensor, levels: Optional[int] = None):  # noqa: UP045 - TorchScript
        outputs = self.every_level(x, self.levels if levels is None else levels)
        if torch.jit.is_scripting():
            return outputs[-1]
        return outputs if self.training else outputs[-1]

    def every_level(self, x: Tensor, levels: int) -> list[Tensor]:
        """The images of all levels, ×2 first."""
        image = x
        outputs: list[Tensor] = []
        for _ in range(levels):
            features = self.double_features(self.body(torch.relu(self.embed(image))))
            image = self.double_image(image) + self.residual(torch.relu(features))
            outputs.append(image)
        return outputs

    def double_image(self, image: Tensor) -> Tensor:
        """Twice the slices by the consistent spline, as far as its first taps reach."""
        taps = self.doubling.shape[-1] // 2
        padded = F.pad(image, [taps, taps, 0, 0, 0, 0], mode="replicate")
        if torch.jit.is_scripting():
            pairs = F.conv3d(padded, self.doubling)
        else:  # the image itself must not be rounded, also under automatic mixed precision
            with _full_precision(image):
                pairs = F.conv3d(padded, self.doubling)  # (B, 2, X, Y, m): the two halves of each slice
        b, _, height, width, depth = pairs.shape
        return pairs.permute(0, 2, 3, 4, 1).reshape(b, 1, height, width, depth * 2)


def levels_for(factor: float) -> int:
    """How often a PyramidNet doubles the slices for a factor: up to the next power of two, above 4 the last one.

    From 4 to 5 slices there is little left to gain. Two levels for three, at less than half the cost, changed PSNR
    at factors 5 / 6 / 7 by -0.006 / -0.008 / -0.007 dB for MR and +0.07 / +0.06 / +0.06 for CT (at worst -0.07, one
    CT at 5); one level for two lost 0.16 dB for MR at 2.5 and 3. Means over volumes, by
    ``python -m tests.benchmarks.pyramid_levels VOLUME…``.
    """
    exact = math.log2(max(factor, 2.0))
    return max(min(math.ceil(exact - 1e-6), 2), math.floor(exact + 1e-6))


class SRCNN(nn.Module):
    """Three convolutions, no residual: the network both of ours descend from, as a reference.

    Shape: ``(B, 1, X, Y, Z)`` interpolated to the wanted grid, to the same.

    Source: Dong 2014, "Image Super-Resolution Using Deep Convolutional Networks", 9-1-5 with 64
    and 32 channels, here in three dimensions (Pham 2017).
    """

    works_on: Final[str] = "thin"
    reach: Final[tuple[int, int]] = (6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 64, 9, padding=4),
            nn.ReLU(),
            nn.Conv3d(64, 32, 1),
            nn.ReLU(),
            nn.Conv3d(32, 1, 5, padding=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _prepare(network: nn.Module, *, last: nn.Conv3d) -> None:
    """He weights; links and output start at zero, so that training starts from the interpolation."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, module.bias))
    for module in network.modules():
        if type(module) is LinkedPair:
            module.second.weight.data.mul_(0.1)
    last.weight.data.mul_(0.01)


def _full_precision(image: Tensor) -> AbstractContextManager[object]:
    """Automatic mixed precision off, where it is on; an export does not see this."""
    kind = image.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _doubling_weights(taps: int = 17) -> Tensor:
    """(2, 1, 1, 1, taps): each slice's two halves, from the slices around it.

    Rows of the consistent spline for a factor of 2. A slice of FWHM s becomes two of FWHM s/2;
    variances of Gaussians add, so the profile to undo has the FWHM √(s² − (s/2)²). Seventeen taps keep
    ramps to 0.003 of a slice step; nine would leave stairs of 0.05.
    """
    n = 4 * taps
    thick = torch.arange(n, dtype=torch.float64)
    thin = torch.arange(2 * n, dtype=torch.float64) / 2 - 0.25
    spline = SliceModel.between(thick, thin, slice_thickness=0.75**0.5).spline
    middle, half = n // 2, taps // 2
    rows = spline[2 * middle : 2 * middle + 2, middle - half : middle + half + 1]
    return (rows / rows.sum(dim=1, keepdim=True)).float().reshape(2, 1, 1, 1, taps)
