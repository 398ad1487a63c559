"""Gradient clipping in MONAI's own trainer: what the optimizer is given, and what is reported."""

from __future__ import annotations

import io
import logging
import math

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, StatsHandler
from torch import nn

from monai_sr.networks import ResidualNet
from monai_sr.training.clipping import GradientClipping


class Steps:
    """What the optimizer was given at every step, and by how much each weight moved."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.gradients: list[list[torch.Tensor]] = []
        self.moves: list[list[torch.Tensor]] = []
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    def before(self, *_) -> None:
        self.gradients.append([p.grad.clone() for p in self.weights])
        self.start = [p.detach().clone() for p in self.weights]

    def after(self, *_) -> None:
        self.moves.append([p.detach() - s for p, s in zip(self.weights, self.start, strict=True)])


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 1, 3, padding=1))


def batches(count: int, *, scale: float = 10.0) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {key: scale * torch.randn(2, 1, 4, 4, 4, generator=generator) for key in ("image", "label")}
        for _ in range(count)
    ]


def trainer_of(network, data, *handlers, optimizer=None, lr=1e-3, loss=None, epochs=1, **options) -> SupervisedTrainer:
    """MONAI's trainer, its handlers given the way configurations give them."""
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=optimizer or torch.optim.SGD(network.parameters(), lr),
        loss_function=loss or nn.MSELoss(),
        train_handlers=list(handlers),
        decollate=False,
        **options,
    )


def trained(data, *handlers, optimizer=torch.optim.SGD, lr=1e-3, momentum=None, **options) -> Steps:
    """Run a small network over the batches and watch its steps."""
    network = small_network()
    rates = [{"params": network[0].parameters(), "lr": lr}, {"params": network[2].parameters(), "lr": lr / 5}]
    chosen = optimizer(rates, **({"momentum": momentum} if momentum else {}))
    steps = Steps(chosen)
    trainer_of(network, data, *handlers, optimizer=chosen, **options).run()
    return steps


class Given(nn.Module):
    """A network of four weights whose gradient is the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return (x * self.weight).sum()


def run_given(gradients, *handlers, lr=0.1, **options):
    """A trainer over batches whose gradients are given."""
    network = Given()
    optimizer = torch.optim.SGD(network.parameters(), lr)
    steps = Steps(optimizer)
    data = [{"image": torch.tensor(g, dtype=torch.float32), "label": torch.zeros(1)} for g in gradients]
    trainer = trainer_of(network, data, *handlers, optimizer=optimizer, loss=lambda sr, hr: sr, **options)
    trainer.run()
    return trainer, steps


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 5.0])
def test_norm_clipping_bounds_the_norm_over_all_parameters_and_keeps_the_direction(threshold):
    (clipped,), (raw,) = (trained(batches(1), *h).gradients for h in ([GradientClipping(threshold, "norm")], []))
    norm = torch.cat([g.flatten() for g in raw]).norm()
    assert norm > threshold
    for ours, free in zip(clipped, raw, strict=True):
        torch.testing.assert_close(ours, free * threshold / norm, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("threshold", [0.1, 5.0])
def test_value_clipping_bounds_every_entry(threshold):
    (clipped,), (raw,) = (trained(batches(1), *h).gradients for h in ([GradientClipping(threshold, "value")], []))
    assert max(g.abs().max() for g in raw) > threshold
    for ours, free in zip(clipped, raw, strict=True):
        torch.testing.assert_close(ours, free.clamp(-threshold, threshold))


def test_adjustable_clipping_bounds_every_entry_by_the_rate_of_its_group():
    clipping = GradientClipping(0.002, "adjustable")
    (clipped,), (raw,) = (trained(batches(1), *h, lr=0.01).gradients for h in ([clipping], []))
    for k, (ours, free) in enumerate(zip(clipped, raw, strict=True)):
        bound = 0.002 / (0.01 if k < 2 else 0.002)  # weight and bias of the first layer, then of the second
        assert free.abs().max() > bound
        torch.testing.assert_close(ours, free.clamp(-bound, bound))


@pytest.mark.parametrize("lr", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_adjustable_clipping_bounds_how_far_a_weight_moves_however_high_the_rate(lr, momentum):
    steps = trained(batches(8, scale=1e2), GradientClipping(0.01, "adjustable"), lr=lr, momentum=momentum)
    furthest = max(float(m.abs().max()) for moves in steps.moves for m in moves)
    assert furthest <= 0.01 / (1 - (momentum or 0)) * (1 + 1e-4)
    assert furthest > 0.009  # the bound was met


def test_adjustable_clipping_reads_the_rate_when_it_clips():
    network = Given()
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    steps = Steps(optimizer)
    schedule = LrScheduleHandler(torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1), print_lr=False, epoch_level=False)
    data = [{"image": torch.full((4,), 1e6), "label": torch.zeros(1)}] * 4
    clipping = GradientClipping(0.5, "adjustable")
    trainer_of(network, data, clipping, schedule, optimizer=optimizer, loss=lambda sr, hr: sr).run()
    assert [float(g[0].max()) for g in steps.gradients] == pytest.approx([0.5, 5, 50, 500])
    assert [float(m[0].min()) for m in steps.moves] == pytest.approx([-0.5] * 4, rel=1e-4)


@pytest.mark.parametrize("mode", ["norm", "value", "adjustable"])
def test_gradients_within_the_bound_are_left_alone(mode):
    (clipped, raw) = (trained(batches(3), *h).gradients for h in ([GradientClipping(1e6, mode)], []))
    for ours, free in zip(clipped, raw, strict=True):
        torch.testing.assert_close(ours, free, rtol=0, atol=0)


# -- what is reported ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "threshold", "norm", "fraction"),
    [
        ("norm", 2.5, 30**0.5, 1.0),
        ("norm", 6.0, 30**0.5, 0.0),
        ("value", 2.5, 30**0.5, 0.5),
        ("value", 3.5, 30**0.5, 0.25),
        ("adjustable", 0.15, 30**0.5, 0.75),  # to ±1.5 at a rate of 0.1
    ],
)
def test_the_norm_before_clipping_and_the_fraction_clipped_are_in_the_state(mode, threshold, norm, fraction):
    trainer, _ = run_given([[1, -2, 3, -4]], GradientClipping(threshold, mode))
    assert trainer.state.gradient_norm == pytest.approx(norm)
    assert trainer.state.gradient_clipped == pytest.approx(fraction)


def test_the_state_is_that_of_the_last_step():
    clipping, states = GradientClipping(2.0, "value"), []
    network = Given()
    data = [{"image": torch.full((4,), v), "label": torch.zeros(1)} for v in (5.0, 1.0, 3.0)]
    trainer = trainer_of(network, data, clipping, loss=lambda sr, hr: sr)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: states.append((e.state.gradient_norm, e.state.gradient_clipped))
    )
    assert (trainer.state.gradient_norm, trainer.state.gradient_clipped) == (0, 0)
    trainer.run()
    assert states == [(10.0, 1.0), (2.0, 0.0), (6.0, 1.0)]


def test_the_stats_handler_logs_them():
    log, name = io.StringIO(), "gradient clipping test"
    logger, stream = logging.getLogger(name), logging.StreamHandler(log)
    logger.setLevel(logging.INFO)
    logger.addHandler(stream)
    stats = StatsHandler(
        name=name, iteration_log=False, state_attributes=["gradient_norm", "gradient_clipped"],
    )  # fmt: skip
    run_given([[3, 0, 0, 4]], GradientClipping(3.5, "value"), stats)
    logger.removeHandler(stream)
    assert "gradient_norm: 5.0 gradient_clipped: 0.25" in log.getvalue()


# -- accumulated gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["norm", "value", "adjustable"])
def test_with_accumulation_the_sum_is_clipped_once_and_not_its_parts(mode):
    # either part alone would be clipped; together they cancel but for 1 in the first entry
    parts = [[102, 100, -100, 0], [-100, -100, 100, 0]]
    trainer, steps = run_given(parts, GradientClipping(50, mode), lr=1.0, accumulation_steps=2)
    ((gradient,),) = steps.gradients
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0, 0, 0]))
    assert (trainer.state.gradient_norm, trainer.state.gradient_clipped) == (1, 0)


@pytest.mark.parametrize(("count", "steps_at"), [(6, [3, 6]), (7, [3, 6, 7]), (2, [2])])
def test_with_accumulation_it_clips_on_the_iterations_that_step(count, steps_at):
    network, clipped_at = Given(), []

    class Watched(GradientClipping):
        def _clip(self, *args):
            clipped_at.append((trainer.state.epoch, trainer.state.iteration))
            return super()._clip(*args)

    data = [{"image": torch.ones(4), "label": torch.zeros(1)}] * count
    trainer = trainer_of(
        network, data, Watched(0.5, "value"), loss=lambda sr, hr: sr, epochs=2, accumulation_steps=3
    )  # fmt: skip
    stepped_at = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: stepped_at.append((trainer.state.epoch, trainer.state.iteration))
    )
    trainer.run()
    assert clipped_at == stepped_at == [(1, k) for k in steps_at] + [(2, count + k) for k in steps_at]


def test_with_accumulation_and_batches_without_end_it_clips_where_the_trainer_steps():
    network = Given()
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    steps = Steps(optimizer)
    endless = ({"image": torch.full((4,), 8.0), "label": torch.zeros(1)} for _ in range(5))
    trainer = trainer_of(
        network, endless, GradientClipping(0.5, "value"), optimizer=optimizer, loss=lambda sr, hr: sr,
        accumulation_steps=2,
    )  # fmt: skip
    trainer.run()
    assert [float(g[0].max()) for g in steps.gradients] == [0.5, 0.5]


# -- mixed precision -------------------------------------------------------------------------------


@pytest.fixture
def scaling(monkeypatch):
    """Automatic mixed precision on a CPU: MONAI's trainer with a scaler that works there."""
    made = []

    def scaler():
        made.append(torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000))
        return made[-1]

    monkeypatch.setattr(torch.cuda.amp, "GradScaler", scaler)
    return made


@pytest.mark.parametrize("mode", ["norm", "value", "adjustable"])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_under_mixed_precision_it_is_the_gradient_that_is_clipped_and_not_its_scale(mode, scaling):
    gradients = [[1, -2, 3, -4], [0.5, 0.25, 0.5, 0.25]]
    threshold = 0.1 if mode == "adjustable" else 1.0
    plain, expected = run_given(gradients, GradientClipping(threshold, mode))
    scaled, scaled_back = run_given(gradients, GradientClipping(threshold, mode), amp=True)
    assert scaling
    assert scaling[0].get_scale() == 1024
    for ours, theirs in zip(scaled_back.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert scaled.state.gradient_norm == pytest.approx(plain.state.gradient_norm)
    assert scaled.state.gradient_clipped == plain.state.gradient_clipped


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_under_mixed_precision_with_accumulation_gradients_are_unscaled_once_per_step(scaling):
    parts = [[102, 100, -100, 0], [-100, -100, 100, 0]] * 2
    _, steps = run_given(parts, GradientClipping(50, "value"), amp=True, accumulation_steps=2)
    assert len(scaling) == 1
    assert len(steps.gradients) == 2
    for (gradient,) in steps.gradients:
        torch.testing.assert_close(gradient, torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_under_mixed_precision_a_step_that_overflows_is_skipped_and_the_next_is_taken(bad, scaling):
    trainer, steps = run_given([[1, 1, bad, 1], [2, 2, 2, 2]], GradientClipping(1.0, "value"), amp=True)
    assert len(steps.gradients) == 1
    torch.testing.assert_close(steps.gradients[0][0], torch.ones(4))
    assert scaling[0].get_scale() == 512
    assert torch.isfinite(trainer.network.weight).all()


@pytest.mark.parametrize("mode", ["norm", "value", "adjustable"])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_without_a_scaler_a_gradient_that_is_not_finite_raises_before_the_weights_are_lost(mode, bad):
    network = Given()
    data = [{"image": torch.tensor([1, 1, v, 1]), "label": torch.zeros(1)} for v in (1.0, bad)]
    trainer = trainer_of(network, data, GradientClipping(1.0, mode), loss=lambda sr, hr: sr)
    with pytest.raises(FloatingPointError, match=r"at iteration 2.*lower the learning rate"):
        trainer.run()
    assert torch.isfinite(network.weight).all()


# -- what it is for --------------------------------------------------------------------------------


def sharpened(*handlers, lr: float, momentum: float) -> tuple[ResidualNet, list[float]]:
    """Train a small residual network on one crop, and how its loss went."""
    torch.manual_seed(0)
    network, losses = ResidualNet(8, 4, 1), []
    image = torch.rand(2, 1, 6, 6, 6)
    data = [{"image": image, "label": image + 0.3 * torch.sin(6 * image)}] * 60
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=momentum)
    trainer = trainer_of(network, data, *handlers, optimizer=optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: None if math.isfinite(losses[-1]) else trainer.terminate()
    )
    trainer.run()
    return network, losses


@pytest.mark.parametrize(("threshold", "mode"), [(0.1, "norm"), (0.01, "value"), (0.002, "adjustable")])
def test_a_rate_that_throws_the_weights_away_trains_when_clipped(threshold, mode):
    network, losses = sharpened(lr=1.0, momentum=0.9)
    assert not math.isfinite(losses[-1])
    network, losses = sharpened(GradientClipping(threshold, mode), lr=1.0, momentum=0.9)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.isfinite(p).all() and p.abs().max() < 3 for p in network.parameters())


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("late", [False, True], ids=["given to the trainer", "attached later"])
def test_adjustable_clipping_with_an_optimizer_that_rescales_is_refused(optimizer, late):
    network, clipping = small_network(), GradientClipping(0.01, "adjustable")
    given = [] if late else [clipping]
    trainer = trainer_of(network, batches(1), *given, optimizer=optimizer(network.parameters()))
    if late:
        clipping.attach(trainer)
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(ValueError, match=f"{optimizer.__name__} rescales.*use mode 'norm', or SGD"):
        trainer.run()
    for p, start in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), start, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["norm", "value"])
def test_the_other_modes_go_with_any_optimizer(mode):
    steps = trained(batches(2), GradientClipping(0.1, mode), optimizer=torch.optim.Adam)
    for gradients in steps.gradients:
        flat = torch.cat([g.flatten() for g in gradients])
        assert (flat.norm() if mode == "norm" else flat.abs().max()) <= 0.1 * (1 + 1e-4)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_a_threshold_that_is_not_above_zero_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        GradientClipping(threshold)


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'global'"):
        GradientClipping(1.0, "global")


def test_an_engine_that_does_not_train_is_refused():
    evaluator = SupervisedEvaluator("cpu", batches(1), small_network())
    with pytest.raises(TypeError, match="SupervisedEvaluator"):
        GradientClipping(1.0).attach(evaluator)
