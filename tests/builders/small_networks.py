"""Networks that are quick to run and in which nothing is idle."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def lively(network: nn.Module) -> nn.Module:
    """A network whose every layer matters, in eval mode."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def last_layers(network: nn.Module) -> list[nn.Conv3d]:
    """The layers that make what a network adds to the image."""
    if hasattr(network, "tail"):
        return [network.tail]
    return [network.earlier.residual, network.last.residual]


def idle(network: nn.Module) -> nn.Module:
    """The same network, which adds nothing; in eval mode."""
    for layer in last_layers(network):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return network.eval()


def computed(engine, image, levels=0):
    """What an engine makes of (1, 1, X, Y, Z), as ``super_resolve`` asks for it."""
    slices, made = image[0, 0].numpy() if engine.in_numpy else image[0, 0], {}
    for (rows, columns), part in engine.propose(slices, np.eye(slices.shape[2]), levels=levels, tile_voxels=4_000_000):
        made[rows.start or 0, columns.start or 0] = torch.as_tensor(part)
    return torch.cat([made[key] for key in sorted(made)])[None, None]
