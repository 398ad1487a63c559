"""Gradient clipping for MONAI's SupervisedTrainer, and the checkpoint from which training resumes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor
from torch.optim import SGD, Optimizer

Mode = Literal["norm", "value", "adjustable"]


class GradientClipping:
    """Prevent one bad batch from destroying the weights; must be the first of the trainer's handlers.

    Before every step of the optimizer, gradients are unscaled (under automatic mixed precision) and clipped:

    - ``"norm"``: scaled so that their norm over all parameters is at most ``threshold``;
    - ``"value"``: each entry to ±``threshold``;
    - ``"adjustable"``: each entry to ±``threshold``/learning rate, with the current rate of each parameter
      group. A step then changes no weight by more than ``threshold`` (with momentum μ, ``threshold``/(1 − μ)),
      at any learning rate. Only for SGD: optimizers that normalize gradients, such as Adam, ignore their size.

    It writes ``gradient_norm`` (before clipping) and ``gradient_clipped`` (fraction of changed entries) to
    ``engine.state``; StatsHandler and TensorBoardStatsHandler log them with
    ``state_attributes=["gradient_norm", "gradient_clipped"]``. If gradients are not finite, a scaler skips the
    step; without a scaler an error is raised.

    Args:
        threshold: θ, above 0.
        mode: see above.

    Source: "adjustable": Kim, Lee, Lee 2016 (VDSR), section 3.2; "norm": Pascanu 2013.
    """

    def __init__(self, threshold: float, mode: Mode = "norm") -> None:
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold}, must be above 0")
        if mode not in ("norm", "value", "adjustable"):
            raise ValueError(f"mode is {mode!r}, must be 'norm', 'value' or 'adjustable'")
        self.threshold, self.mode = threshold, mode

    def attach(self, engine: Engine) -> None:
        """Add the handler to the trainer; MONAI calls this.

        Raises:
            TypeError: the engine is not a SupervisedTrainer.
        """
        if not isinstance(engine, SupervisedTrainer):
            raise TypeError(f"GradientClipping needs a SupervisedTrainer, not a {type(engine).__name__}")
        engine.state.gradient_norm = engine.state.gradient_clipped = 0.0
        # SupervisedTrainer attaches its handlers before it has its optimizer.
        engine.add_event_handler(Events.STARTED, self.check_optimizer)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def check_optimizer(self, engine: SupervisedTrainer) -> None:
        """Check mode and optimizer when training starts.

        Raises:
            ValueError: "adjustable" with an optimizer other than SGD.
        """
        if self.mode == "adjustable" and not isinstance(engine.optimizer, SGD):
            raise ValueError(
                f"adjustable clipping bounds the step of SGD; {type(engine.optimizer).__name__} rescales "
                "gradients by their own size, so the clipping has no effect: use mode 'norm', or SGD"
            )

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Clip after a backward pass if the optimizer will make a step."""
        if not _steps_now(engine):
            return
        optimizer: Optimizer = engine.optimizer
        if engine.amp and engine.scaler is not None:
            # The gradients are still multiplied by the scale; clipping before unscaling would clip the
            # scale and not the gradient. The scaler does not unscale again in its step.
            engine.scaler.unscale_(optimizer)
        gradients = list(_gradients(optimizer.param_groups))
        if not gradients:
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        engine.state.gradient_norm = float(norm)
        if not torch.isfinite(norm):
            if engine.amp and engine.scaler is not None and engine.scaler.is_enabled():
                return
            raise FloatingPointError(
                f"the gradient norm is {float(norm)} at iteration {engine.state.iteration}: "
                "lower the learning rate or the clipping threshold"
            )
        entries = sum(g.numel() for g in gradients)
        engine.state.gradient_clipped = self._clip(optimizer, gradients, norm) / entries

    def _clip(self, optimizer: Optimizer, gradients: list[Tensor], norm: Tensor) -> float:
        """Clip in place; returns the number of changed entries."""
        if self.mode == "norm":
            torch.nn.utils.clip_grads_with_norm_(_parameters(optimizer), self.threshold, norm)
            return sum(g.numel() for g in gradients) if norm > self.threshold else 0
        changed = 0.0
        for group in optimizer.param_groups:
            rate = float(group["lr"]) if self.mode == "adjustable" else 1.0
            bound = self.threshold / rate if rate else float("inf")
            for gradient in _gradients([group]):
                changed += float((gradient.abs() > bound).sum())
                gradient.clamp_(-bound, bound)
        return changed


def latest_checkpoint(folder: str | Path) -> str:
    """The newest ``checkpoint_*.pt`` of CheckpointSaver in ``folder``; empty if there is none."""
    checkpoints = sorted(Path(folder).glob("checkpoint_*.pt"), key=lambda path: path.stat().st_mtime)
    return str(checkpoints[-1]) if checkpoints else ""


def _steps_now(engine: SupervisedTrainer) -> bool:
    """Whether the optimizer makes a step after this backward pass, by the rule of SupervisedTrainer."""
    accumulated = getattr(engine, "accumulation_steps", 1)
    if accumulated == 1:
        return True
    length = engine.state.epoch_length
    done = engine.state.iteration if length is None else (engine.state.iteration - 1) % length + 1
    return done % accumulated == 0 or done == length


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _gradients(groups: Iterable[dict]) -> Iterable[Tensor]:
    return (p.grad for group in groups for p in group["params"] if p.grad is not None)
