"""Networks that are quick to run and in which nothing is idle."""

from __future__ import annotations

from torch import nn


def lively(network: nn.Module) -> nn.Module:
    """A network whose every layer matters, in eval mode."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network.eval()
