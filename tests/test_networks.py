"""The networks: shapes, where they start, what they share, how far they see, and that they export."""

from __future__ import annotations

import inspect

import numpy as np
import onnxruntime
import phantoms
import pytest
import torch
from torch import nn

from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.slices import SliceModel

THIN = {
    "residual": lambda: ResidualNet(4, 4),
    "residual without folding": lambda: ResidualNet(6, 4, 1),
    "residual folding three": lambda: ResidualNet(4, 3, 3),
    "residual without links": lambda: ResidualNet(4, 4, links=False),
    "srcnn": SRCNN,
}
THICK = {
    "pyramid x2": lambda: PyramidNet(4, 2, 1),
    "pyramid x4": lambda: PyramidNet(4, 4, 2),
}
every_network = pytest.mark.parametrize("make", (THIN | THICK).values(), ids=(THIN | THICK).keys())


def randomized(network: nn.Module) -> nn.Module:
    """Weights large enough that every layer shows in the output, unlike at the start of training."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    return network.eval()


def volume(*shape: int) -> torch.Tensor:
    return torch.rand(shape)


@pytest.mark.parametrize("make", THIN.values(), ids=THIN.keys())
@pytest.mark.parametrize("shape", [(1, 1, 6, 7, 8), (2, 1, 5, 6, 9), (1, 1, 4, 4, 7), (1, 1, 3, 5, 1)])
def test_a_network_on_thin_slices_keeps_any_shape(make, shape):
    assert randomized(make())(volume(*shape)).shape == shape


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("slices", [3, 4, 7])
def test_a_pyramid_doubles_the_slices_as_often_as_asked(levels, slices):
    network = randomized(PyramidNet(3, 2, levels=2))
    assert network(volume(2, 1, 5, 6, slices), levels).shape == (2, 1, 5, 6, slices * 2**levels)
    assert network(volume(1, 1, 5, 6, slices)).shape == (1, 1, 5, 6, slices * 4)


@pytest.mark.parametrize("levels", [1, 3])
def test_a_pyramid_in_training_shows_every_level_lowest_first(levels):
    network, image = randomized(PyramidNet(3, 2, levels=2)), volume(1, 1, 5, 6, 4)
    last = network(image, levels)
    outputs = network.train()(image, levels)
    assert [o.shape[-1] for o in outputs] == [4 * 2 ** (k + 1) for k in range(levels)]
    torch.testing.assert_close(outputs[-1], last)
    torch.testing.assert_close(
        outputs[0], network.double_image(image) + (network.last if levels == 1 else network.earlier)(image)
    )


def test_a_level_adds_the_residual_of_its_branch_to_the_doubled_image():
    network, acquired = randomized(PyramidNet(3, 4)), volume(1, 1, 5, 6, 4)
    outputs = network.every_level(acquired, 3)
    image = acquired
    for level in range(3):
        branch = network.last if level == 2 else network.earlier
        features = torch.relu(branch.embed(image))
        for pair in branch.body:
            features = features + pair.second(torch.relu(pair.first(features)))
        features = branch.double_features(features)
        image = network.double_image(image) + branch.residual(torch.relu(features))
        torch.testing.assert_close(outputs[level], image)


def test_the_residual_network_of_the_paper_has_twenty_convolutions():
    assert sum(isinstance(m, nn.Conv3d) for m in ResidualNet().modules()) == 20
    for layers in (4, 10):
        assert sum(isinstance(m, nn.Conv3d) for m in ResidualNet(layers, 2).modules()) == layers


@pytest.mark.parametrize("links", [True, False])
def test_links_are_what_the_linked_network_adds(links):
    network, image = randomized(ResidualNet(6, 4, 1, links=links)), volume(1, 1, 5, 6, 7)
    features = torch.relu(network.head(image))
    for pair in network.body:
        inner = pair.second(torch.relu(pair.first(features)))
        features = features + inner if links else torch.relu(inner)
    torch.testing.assert_close(network(image), image + network.tail(features))


@pytest.mark.parametrize("fold", [2, 3])
@pytest.mark.parametrize("slices", [7, 8])
def test_folding_pairs_neighboring_slices_and_unfolds_them_in_order(fold, slices):
    network = ResidualNet(4, 4, fold)
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.tail.register_forward_hook(lambda _, __, residual: seen[-1])  # the residual is the folded input itself
    image = volume(1, 1, 3, 4, slices)
    torch.testing.assert_close(network(image), 2 * image)
    assert seen[0].shape == (1, fold, 3, 4, -(-slices // fold))
    torch.testing.assert_close(seen[0][0, 1, :, :, 1], image[0, 0, :, :, fold + 1])


@pytest.mark.parametrize("arguments", [{}, {"layers": 8, "features": 16}, {"fold": 1}], ids=str)
def test_the_residual_network_starts_near_the_interpolation(arguments):
    image = torch.randn(1, 1, 10, 10, 12)
    change = ResidualNet(**arguments)(image) - image
    assert 0 < change.std() < 0.1 * image.std()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_pyramid_starts_near_the_doubled_image(levels):
    network, image = PyramidNet().eval(), torch.randn(1, 1, 6, 6, 8)
    doubled = image
    for _ in range(levels):
        doubled = network.double_image(doubled)
    change = network(image, levels) - doubled
    assert 0 < change.std() < 0.2 * image.std()


def test_doubling_is_the_consistent_spline_of_slices_that_become_half_as_thick():
    network, image = PyramidNet(2, 2), torch.randn(1, 1, 3, 4, 40)
    thick, thin = np.arange(40.0), np.arange(80) / 2 - 0.25
    spline = SliceModel.between(thick, thin, slice_thickness=0.75**0.5).spline
    expected = image.double() @ spline.T
    inside = (..., slice(20, -20))
    error = (network.double_image(image) - expected)[inside]
    assert error.abs().max() < 0.02 * image.abs().max()  # it is cut after 8 slices to each side


def test_doubling_keeps_constants_everywhere_and_ramps_nearly_away_from_the_ends():
    network = PyramidNet(2, 2)
    constant = torch.full((1, 1, 3, 4, 12), 3.5)
    torch.testing.assert_close(network.double_image(constant), torch.full((1, 1, 3, 4, 24), 3.5))
    ramp = torch.arange(20.0).expand(1, 1, 3, 4, 20)
    expected = (torch.arange(40.0) / 2 - 0.25).expand(1, 1, 3, 4, 40)
    error = phantoms.away_from_ends(network.double_image(ramp) - expected, 2, 18)
    assert error.abs().max() < 0.004  # of a slice step, which the cut after 8 slices to each side costs
    torch.testing.assert_close(error[..., ::2], -error[..., 1::2], atol=1e-4, rtol=0)  # the mean of both halves is kept


@pytest.mark.parametrize("levels", [1, 3])
def test_the_weights_of_a_pyramid_serve_any_number_of_levels(levels):
    reference, other = PyramidNet(4, 2, levels=2), PyramidNet(4, 2, levels=levels)
    other.load_state_dict(reference.state_dict())
    count = [sum(p.numel() for p in network.parameters()) for network in (reference, other)]
    assert count[0] == count[1]
    image = volume(1, 1, 4, 4, 3)
    torch.testing.assert_close(other.eval()(image), reference.eval()(image, levels))


def assert_all_learn(network: nn.Module) -> None:
    """Every parameter has a gradient, but for the earlier levels of a pyramid of one level."""
    unused = "earlier." if getattr(network, "levels", 2) == 1 else "-"
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in silent if not name.startswith(unused)] == []


@every_network
def test_the_gradient_reaches_every_parameter(make):
    network = randomized(make()).train()
    outputs = network(torch.randn(2, 1, 6, 6, 6))
    last = outputs[-1] if isinstance(outputs, list) else outputs
    (last * torch.randn_like(last)).sum().backward()
    assert_all_learn(network)


@every_network
def test_the_gradient_reaches_every_parameter_from_the_first_weights_too(make):
    network = make().train()
    outputs = network(torch.randn(2, 1, 6, 6, 6))
    (outputs[-1] if isinstance(outputs, list) else outputs).square().sum().backward()
    assert_all_learn(network)


# -- how far an output voxel sees ------------------------------------------------------------------


def see_through(network: nn.Module) -> nn.Module:
    """Random weights above zero, so that no path from input to output is closed or cancels another."""
    for parameter in network.double().parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
        parameter.data /= max(1, parameter[0].numel())
    return network.eval()


def seen_voxels(network: nn.Module, shape, voxel, **arguments) -> np.ndarray:
    """(k, 3) input voxels that one output voxel depends on: where its gradient is not zero."""
    image = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    network(image, **arguments)[(0, 0, *voxel)].backward()
    return image.grad[0, 0].nonzero().numpy()


def furthest(network: nn.Module, reach, *, period: int, step: int = 1, **arguments) -> tuple[int, int]:
    """How far in plane and through plane some output voxel sees, in a volume larger than ``reach``.

    Args:
        period: output slices after which the network repeats itself.
        step: output slices per input slice.
    """
    in_plane, through = reach
    wide, long = 2 * in_plane + 5, 2 * through + 5 + 2 * period
    # a line of voxels along one axis sees as far along it as the volume does
    middle = wide // 2
    lines = seen_voxels(network, (wide, 1, 3), (middle, 0, step), **arguments)[:, 0]
    turned = seen_voxels(network, (1, wide, 3), (0, middle, step), **arguments)[:, 1]
    sideways = max(np.abs(lines - middle).max(), np.abs(turned - middle).max())
    first = long // 2 * step // period * period
    ahead = 0
    for phase in range(first, first + period):
        line = seen_voxels(network, (1, 1, long), (0, 0, phase), **arguments)[:, 2]
        ahead = max(ahead, np.abs(line - phase // step).max())
    return sideways, ahead


def assert_just_covers(reach, seen) -> None:
    """The reach holds all that is seen, and no more than twice of it (tiles pay for every voxel)."""
    assert reach[0] >= seen[0]
    assert reach[1] >= seen[1]
    assert reach[0] <= seen[0] + 1
    assert reach[1] <= 2 * seen[1] + 1


@pytest.mark.parametrize(("layers", "fold"), [(4, 1), (4, 2), (6, 3), (20, 2)])
@pytest.mark.parametrize("links", [True, False])
def test_the_residual_network_sees_as_far_as_its_reach(layers, fold, links):
    network = see_through(ResidualNet(layers, 1, fold, links=links))
    assert_just_covers(network.reach, furthest(network, network.reach, period=fold))


@pytest.mark.parametrize(("depth", "levels"), [(2, 1), (2, 2), (2, 3), (4, 2), (8, 1), (8, 2)])
def test_a_pyramid_sees_as_far_as_its_reach(depth, levels):
    network = see_through(PyramidNet(1, depth))
    reach = network.reach_of(levels)
    assert_just_covers(reach, furthest(network, reach, period=2**levels, step=2**levels, levels=levels))


def test_srcnn_sees_as_far_as_its_reach():
    network = see_through(SRCNN())
    assert_just_covers(network.reach, furthest(network, network.reach, period=1))


@pytest.mark.parametrize("name", ["residual", "residual folding three", "pyramid x4"])
def test_a_voxel_beyond_the_reach_changes_nothing(name):
    network = randomized((THIN | THICK)[name]()).double()
    levels = getattr(network, "levels", 0)
    in_plane, through = network.reach_of(levels) if levels else network.reach
    image = torch.rand(1, 1, in_plane + 3, 3, 2 * through + 8, dtype=torch.float64)
    changed = image.clone()
    changed[0, 0, 0, 1, 1] += 10
    with torch.no_grad():
        difference = (network(changed) - network(image)).abs()[0, 0]
    assert difference[0].max() > 0.1
    assert difference[in_plane + 1 :].max() == 0
    assert difference[..., (through + 2) * 2**levels :].max() == 0


# -- export ----------------------------------------------------------------------------------------

SHAPES = [(1, 1, 6, 7, 8), (2, 1, 9, 5, 11)]


@every_network
@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_gives_what_eager_gives_at_any_size(make, how):
    network = randomized(make())
    compiled = torch.jit.script(network) if how == "script" else torch.jit.trace(network, volume(*SHAPES[0]))
    for shape in SHAPES:
        image = volume(*shape)
        torch.testing.assert_close(compiled(image), network(image))


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_pyramid_can_be_given_its_levels():
    network = randomized(PyramidNet(3, 2, levels=1))
    scripted, image = torch.jit.script(network), volume(1, 1, 4, 5, 3)
    torch.testing.assert_close(scripted(image, 3), network(image, 3))


@every_network
@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_what_eager_gives_at_any_size(make, tmp_path):
    network, file = randomized(make()), tmp_path / "network.onnx"
    sizes = {0: "batch", 2: "x", 3: "y", 4: "z"}
    # the exporter by tracing: a tenth of the time of the one by torch.export, with equal results
    torch.onnx.export(
        network, (volume(*SHAPES[0]),), file, dynamo=False, input_names=["image"], output_names=["sr"],
        dynamic_axes={"image": sizes, "sr": {**sizes, 4: "sr_z"}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        image = volume(*shape)
        (sr,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(sr, network(image).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "pyramid x4"])
@pytest.mark.filterwarnings("ignore")
def test_the_newer_onnx_exporter_works_too(name, tmp_path):
    network, file = randomized((THIN | THICK)[name]()), tmp_path / "network.onnx"
    sizes = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        network, (volume(2, 1, 6, 7, 8),), file, dynamo=True, input_names=["image"], dynamic_shapes=(sizes,),
        verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        image = volume(*shape)
        (sr,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(sr, network(image).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: ResidualNet(5), "layers is 5"), (lambda: ResidualNet(2), "layers is 2"),
     (lambda: PyramidNet(depth=3), "depth is 3"), (lambda: PyramidNet(depth=0), "depth is 0")],
    ids=lambda value: None if inspect.isfunction(value) else value,
)  # fmt: skip
def test_a_depth_that_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
