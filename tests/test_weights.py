"""Networks as arrays, read without torch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from monai_sr.engine.layers import doubling_matrix
from monai_sr.engine.weights import PyramidWeights, ResidualWeights, read_weights, weights_of
from monai_sr.networks import PyramidNet, ResidualNet

CASES = {
    "ResidualNet": (ResidualNet, {"layers": 6, "features": 4, "fold": 3}),
    "PyramidNet": (PyramidNet, {"features": 4, "depth": 4, "levels": 3}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a checkpoint"])
@pytest.mark.parametrize("ordered", [False, True], ids=["dict", "OrderedDict"])
def test_they_are_what_torch_reads_and_the_network_can_be_made_of_them(name, wrapped, ordered, tmp_path):
    make, arguments = CASES[name]
    network = make(**arguments).eval()
    state = (OrderedDict if ordered else dict)(network.state_dict())
    torch.save({"network": state} if wrapped else state, tmp_path / "model.pt")
    weights = read_weights(name, arguments, tmp_path / "model.pt")
    assert weights.state.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert np.array_equal(weights.state[key], value) and weights.state[key].dtype == np.float32
    image = torch.rand(1, 1, 6, 5, 6)
    with torch.no_grad():
        assert torch.equal(weights.module(image), network(image))
    assert str(weights.module) == str(network) and not weights.module.training


@pytest.mark.parametrize("links", [True, False])
def test_a_network_becomes_the_weights_that_its_file_holds(links, tmp_path):
    network = ResidualNet(6, 4, 1, links=links).to(memory_format=torch.channels_last_3d)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    read = read_weights("ResidualNet", {"layers": 6, "features": 4, "fold": 1, "links": links}, tmp_path / "model.pt")
    made = weights_of(network)
    assert weights_of(made) is made and made.module is network
    for weights in (read, made):
        assert isinstance(weights, ResidualWeights) and weights.links is links and weights.reach == network.reach
    for key, value in made.state.items():  # in one order of the memory, by which oneDNN chooses how to compute
        assert value.flags.c_contiguous and value.strides == read.state[key].strides


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("depth", [2, 8])
def test_weights_reach_as_far_as_their_network(depth, levels):
    network = PyramidNet(4, depth)
    weights = weights_of(network)
    assert isinstance(weights, PyramidWeights) and weights.reach_of(levels) == network.reach_of(levels)


@pytest.mark.parametrize("slices", [1, 3, 40])
def test_the_doubling_matrix_doubles_as_the_network_does(slices):
    image = torch.rand(1, 1, 2, 3, slices)
    doubled = image @ torch.from_numpy(doubling_matrix(slices))
    torch.testing.assert_close(doubled, PyramidNet(2, 2).double_image(image), atol=1e-6, rtol=0)


def _written(path, state):
    torch.save(state, path)
    return path


def _changed(path, change):
    """The file with the bytes of its members as ``change(name, bytes)`` gives them."""
    with zipfile.ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, change(name, content))
    return path


class Evil:
    """What runs code when it is read."""

    def __reduce__(self):
        return os.system, ("echo evil >evil.txt",)


UNUSUAL = {
    "float64": lambda path, state: _written(path, {k: v.double() for k, v in state.items()}),
    "one more": lambda path, state: _written(path, state | {"more": torch.zeros(1)}),
    "one less": lambda path, state: _written(path, dict(list(state.items())[1:])),
    "another shape": lambda path, state: _written(path, state | {"head.bias": torch.zeros(5)}),
    "parameters": lambda path, state: _written(path, {k: torch.nn.Parameter(v) for k, v in state.items()}),
    "no tensors": lambda path, state: _written(path, [1, 2]),
    "text": lambda path, state: (path.write_text("no weights"), path)[1],
    "code": lambda path, state: _written(path, state | {"evil": Evil()}),
    "a storage cut": lambda path, state: _changed(
        _written(path, state), lambda name, content: content[:-4] if name.endswith("/data/0") else content
    ),
    "the other byte order": lambda path, state: _changed(
        _written(path, state), lambda name, content: b"big" if name.endswith("byteorder") else content
    ),
    "a pickle cut": lambda path, state: _changed(
        _written(path, state), lambda name, content: content[:-9] if name.endswith("data.pkl") else content
    ),
    "another pickle": lambda path, state: _changed(
        _written(path, state),
        lambda name, content: pickle.dumps({"head.weight": 1}) if name.endswith("data.pkl") else content,
    ),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_anything_else_is_left_to_torch_and_no_code_is_run(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, arguments = CASES["ResidualNet"]
    path = UNUSUAL[what](tmp_path / "model.pt", dict(make(**arguments).state_dict()))
    assert read_weights("ResidualNet", arguments, path) is None
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize(
    "arguments", [{}, {"layers": 6, "features": 4}, {"layers": 8, "features": 4, "fold": 3}, {"depth": 4}]
)
def test_other_arguments_are_left_to_the_network_itself(arguments, tmp_path):
    make, usual = CASES["ResidualNet"]
    torch.save(make(**usual).state_dict(), tmp_path / "model.pt")
    assert read_weights("ResidualNet", arguments, tmp_path / "model.pt") is None


def test_torch_is_not_imported(tmp_path):
    make, arguments = CASES["PyramidNet"]
    torch.save(make(**arguments).state_dict(), tmp_path / "model.pt")
    code = (
        "import sys; from pathlib import Path; from monai_sr.engine.weights import read_weights;"
        f"weights = read_weights('PyramidNet', {arguments}, Path(sys.argv[1]));"
        "print(len(weights.state), 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(make(**arguments).state_dict())), "False"]
