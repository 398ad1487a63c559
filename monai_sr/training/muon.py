"""The optimizer of the shipped weights: orthogonalized momentum for kernels, Adam for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer


class Muon(Optimizer):
    """Steps of equal size in all directions for the kernels of wide layers; Adam at half the rate for the rest.

    torch.optim.Muon takes matrices only; a kernel is one here, of its output channels and everything else. Wide
    layers have at least 16 channels on both sides.

    Args:
        params: parameters of the network.
        lr: learning rate.
        momentum: of the kernels.

    Source: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"; the size of a step as in
    Liu 2025, "Muon is scalable for LLM training", section 2.2.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 2e-3, momentum: float = 0.95) -> None:
        listed = list(params)
        kernels = [p for p in listed if p.ndim > 2 and min(p.shape[:2]) >= 16]
        others = [p for p in listed if not any(p is kernel for kernel in kernels)]
        groups = [{"params": kernels}, {"params": others}]
        super().__init__(groups, {"lr": lr, "momentum": momentum})
        self.adam = Adam(others, lr / 2, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        loss = None if closure is None else closure()
        group, others = self.param_groups
        alike: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault(parameter.shape, []).append(parameter)
        for shape, kernels in alike.items():  # kernels of one shape at once
            moved = []
            for kernel in kernels:
                mean = self.state[kernel].setdefault("mean", torch.zeros_like(kernel))
                gradient = cast(Tensor, kernel.grad)
                mean.lerp_(gradient, 1 - group["momentum"])
                moved.append(gradient.lerp(mean, group["momentum"]).flatten(1))
            steps = orthogonalize(torch.stack(moved)) * 0.2 * max(moved[0].shape) ** 0.5
            for kernel, step in zip(kernels, steps, strict=True):
                kernel.sub_(step.reshape(shape), alpha=group["lr"])
        self.adam.param_groups[0]["lr"] = others["lr"] / 2
        self.adam.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of both parts."""
        return super().state_dict() | {"adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of :meth:`state_dict`."""
        self.adam.load_state_dict(state_dict["adam"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "adam"})


def orthogonalize(matrices: Tensor) -> Tensor:
    """(B, m, n) matrices with all singular values brought near 1, by five steps of Newton and Schulz."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if x.is_cuda else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(matrices)
