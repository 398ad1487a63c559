"""The two networks, and SRCNN for comparison.

Input and output are ``(B, 1, X, Y, Z)`` float tensors with the through-plane axis last and normalized intensities.
The networks contain only the learned part; consistency with the acquired slices is enforced outside
(:mod:`monai_sr.slices`).

``works_on`` is the grid of the input: "thin" (the output grid) or "thick" (the acquired grid). ``reach`` is the
distance of the farthest input voxel that an output voxel depends on; tiling needs it.
"""

# TorchScript interprets the comment "type: ignore" on a function as its type, so mypy is configured here.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Optional, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .slices import doubling_taps


class LinkedPair(nn.Module):
    """Two convolutions with an identity connection: ``x + conv(relu(conv(x)))``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(features, features, 3, padding=1)
        self.second = nn.Conv3d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class PlainPair(LinkedPair):
    """The same without the identity connection, as in the paper; hard to train when stacked."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))))


class ResidualNet(nn.Module):
    """Very deep residual network: sharpens slices that were interpolated to the output grid.

    ``layers`` convolutions predict what the interpolation lost; this residual is added to the input. One network
    serves every factor, integer or not. Groups of ``fold`` neighboring thin slices are first folded into channels,
    because an interpolated slice hardly differs from its neighbor: the same depth then costs ``fold`` times less
    and reaches ``fold`` times farther through plane.

    Args:
        layers: number of convolutions, even, at least 4.
        features: channels of the inner layers.
        fold: number of neighboring slices that become channels; 1 for none.
        links: identity connections around every two layers; without them twenty layers hardly train.

    Shape: ``(B, 1, X, Y, Z)`` to the same, any size.

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
        """Reach to each side: voxels in plane, thin slices through plane."""
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


class PyramidLevel(nn.Module):
    """The feature branch of a level of :class:`PyramidNet`: the residual of the doubled image.

    It embeds the image, refines the features by ``depth`` convolutions, doubles the slices of the features, and
    computes the residual from them.

    Args:
        features: channels.
        depth: convolutions between embedding and doubling, even, at least 2.

    Shape: ``(B, 1, X, Y, m)`` to ``(B, 1, X, Y, 2m)``.
    """

    def __init__(self, features: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, features, 3, padding=1)
        self.body = nn.Sequential(*[LinkedPair(features) for _ in range(depth // 2)])
        self.double_features = nn.ConvTranspose3d(features, features, (1, 1, 4), (1, 1, 2), (0, 0, 1))
        self.residual = nn.Conv3d(features, 1, 3, padding=1)
        _prepare(self, last=self.residual)

    def forward(self, image: Tensor) -> Tensor:
        features = self.double_features(self.body(torch.relu(self.embed(image))))
        return self.residual(torch.relu(features))


class PyramidNet(nn.Module):
    """Laplacian pyramid along the slices: every level doubles the slices and adds a residual.

    The sum is the input of the next level. Only the image is passed from level to level. If features are passed too,
    as in the paper, they grow through the identity connections; weights trained in that way had later levels in
    which no ReLU ever opened.

    The last level has weights of its own, because it makes slices near the in-plane resolution; all levels before it
    share theirs. So one network serves ×2, ×4, ×8. With the same weights for all levels the first of two levels
    stays behind: its last layer, solved for it alone, gains 0.05 to 0.09 dB.

    Args:
        features: channels of the feature branches.
        depth: convolutions of the feature branch in each level, even.
        levels: default number of doublings in :meth:`forward`.

    Shape: ``(B, 1, X, Y, m)`` to ``(B, 1, X, Y, m·2^levels)``. In training mode a list of the outputs of all
    levels, from coarse to fine, for deep supervision.

    Source: Lai 2017, "Deep Laplacian Pyramid Networks"; weights shared over levels as in Lai 2018
    (MS-LapSRN), section 3.2, but for the last one.
    """

    works_on: Final[str] = "thick"

    if TYPE_CHECKING:  # TorchScript cannot read this annotation
        doubling: Tensor

    def __init__(self, features: int = 32, depth: int = 8, levels: int = 2) -> None:
        super().__init__()
        if depth < 2 or depth % 2:
            raise ValueError(f"depth is {depth}, must be even and at least 2")
        self.depth, self.levels = depth, levels
        self.earlier = PyramidLevel(features, depth)
        self.last = PyramidLevel(features, depth)
        self.register_buffer("doubling", torch.from_numpy(doubling_taps()).reshape(2, 1, 1, 1, -1), persistent=False)

    def reach_of(self, levels: int) -> tuple[int, int]:
        """Reach to each side: voxels in plane, *thick* slices through plane."""
        in_plane = self.depth + 2
        # a level of step s (in thick slices) reaches that many of its own slices, or the taps of the doubling
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
        for level in range(levels):
            # TorchScript has no variable that holds a module
            residual = self.last(image) if level == levels - 1 else self.earlier(image)
            image = self.double_image(image) + residual
            outputs.append(image)
        return outputs

    def double_image(self, image: Tensor) -> Tensor:
        """Twice the slices by the consistent spline, limited to its central taps."""
        taps = self.doubling.shape[-1] // 2
        padded = F.pad(image, [taps, taps, 0, 0, 0, 0], mode="replicate")
        if torch.jit.is_scripting():
            pairs = F.conv3d(padded, self.doubling)
        else:  # the image must not be rounded under automatic mixed precision
            with _full_precision(image):
                pairs = F.conv3d(padded, self.doubling)  # (B, 2, X, Y, m): the two halves of each slice
        b, _, height, width, depth = pairs.shape
        return pairs.permute(0, 2, 3, 4, 1).reshape(b, 1, height, width, depth * 2)


class SRCNN(nn.Module):
    """Three convolutions without a residual, for comparison.

    Shape: ``(B, 1, X, Y, Z)`` interpolated to the output grid, to the same.

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
    """He initialization; residual branches and output start near zero, so training starts from the interpolation."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, module.bias))
    for module in network.modules():
        if type(module) is LinkedPair:
            module.second.weight.data.mul_(0.1)
    last.weight.data.mul_(0.01)


def _full_precision(image: Tensor) -> AbstractContextManager[object]:
    """Disable automatic mixed precision where it is enabled; not part of an exported network."""
    kind = image.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
