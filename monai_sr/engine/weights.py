"""Our networks as arrays: all that an engine on the CPU needs of them, without torch, whose import takes a second."""

from __future__ import annotations

import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from ..errors import Later
from ..intensities import as_array
from ..slices import doubling_taps

if TYPE_CHECKING:
    from torch import nn

    from .. import networks
else:
    networks = Later("monai_sr.networks")

State: TypeAlias = Mapping[str, np.ndarray]
"""Weights by their names in a state dict."""


Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution.

    Attributes:
        weight, bias: as torch has them.
    """

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, state: State, name: str) -> Layer:
        return cls(state[f"{name}.weight"], state[f"{name}.bias"])


Pairs: TypeAlias = Sequence[tuple[Layer, Layer]]


def _pairs(state: State, name: str) -> Pairs:
    """The pairs of convolutions of a body."""
    count = len({key.split(".")[-3] for key in state if key.startswith(f"{name}.")})
    return [(Layer.of(state, f"{name}.{n}.first"), Layer.of(state, f"{name}.{n}.second")) for n in range(count)]


class ResidualWeights:
    """Those of a :class:`monai_sr.networks.ResidualNet`.

    Args:
        state: float32.
        links: whether its pairs have identity connections.
    """

    works_on: Final = "thin"

    def __init__(self, state: State, *, links: bool = True) -> None:
        self.state, self.links = state, links
        self.head, self.body, self.tail = Layer.of(state, "head"), _pairs(state, "body"), Layer.of(state, "tail")
        self.features, self.fold = self.head.weight.shape[:2]

    @property
    def reach(self) -> tuple[int, int]:
        """As of the network."""
        layers = 2 * len(self.body) + 2
        return layers, (layers + 1) * self.fold

    @cached_property
    def module(self) -> nn.Module:
        """The network itself."""
        return _filled(networks.ResidualNet(self.reach[0], self.features, self.fold, links=self.links), self.state)


class PyramidLevelWeights:
    """Those of a :class:`monai_sr.networks.PyramidLevel`."""

    def __init__(self, state: State, name: str) -> None:
        self.embed, self.body = Layer.of(state, f"{name}.embed"), _pairs(state, f"{name}.body")
        self.double_features = Layer.of(state, f"{name}.double_features")
        self.residual = Layer.of(state, f"{name}.residual")


class PyramidWeights:
    """Those of a :class:`monai_sr.networks.PyramidNet`.

    Args:
        state: float32.
        levels: default number of doublings.
    """

    works_on: Final = "thick"
    fold: Final = 1
    links: Final = True

    def __init__(self, state: State, *, levels: int = 2) -> None:
        self.state, self.levels = state, levels
        self.earlier, self.last = PyramidLevelWeights(state, "earlier"), PyramidLevelWeights(state, "last")
        self.features = len(self.last.embed.weight)

    def reach_of(self, levels: int) -> tuple[int, int]:
        """As of the network."""
        in_plane = 2 * len(self.last.body) + 2
        each = max(in_plane, doubling_taps().shape[1] // 2)
        return in_plane * levels, math.ceil(sum(each / 2**level for level in range(levels))) + 1

    @cached_property
    def module(self) -> nn.Module:
        """The network itself."""
        depth = 2 * len(self.last.body)
        return _filled(networks.PyramidNet(self.features, depth, self.levels), self.state)


Weights: TypeAlias = ResidualWeights | PyramidWeights
"""What engines on the CPU take; see :func:`weights_of`."""


def weights_of(network: nn.Module | Weights) -> Weights:
    """The weights of a ResidualNet or PyramidNet on the CPU, which must not change afterwards."""
    if isinstance(network, Weights):
        return network
    # in one order: by that of the memory oneDNN chooses how to compute
    state = {name: as_array(value).copy() for name, value in network.state_dict().items()}
    made: Weights
    if isinstance(network, networks.ResidualNet):
        made = ResidualWeights(state, links=not isinstance(network.body[0], networks.PlainPair))
    else:
        assert isinstance(network, networks.PyramidNet)
        made = PyramidWeights(state, levels=network.levels)
    made.module = network
    return made


def _filled(network: nn.Module, state: State) -> nn.Module:
    network.load_state_dict({name: networks.torch.from_numpy(value) for name, value in state.items()})
    return network.eval()


# ------------------------------------------------------------------- files


def read_weights(name: str, arguments: Mapping[str, Any], path: Path) -> Weights | None:
    """A network from a plain state dict, without torch.

    Args:
        name: "ResidualNet" or "PyramidNet".
        arguments: of the network, all of its sizes.
        path: a file that torch saved.

    Returns:
        None for anything unusual: torch reads it, or says what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            state = _Reader(packed).load()
        state = state.get("network", state)
        if {key: value.shape for key, value in state.items()} != _SHAPES[name](**arguments):
            return None
    except (pickle.UnpicklingError, zipfile.BadZipFile, OSError, EOFError, LookupError):
        return None
    except (AttributeError, TypeError, ValueError):  # no tensors, or other arguments
        return None
    if name == "ResidualNet":
        return ResidualWeights(state, links=arguments.get("links", True))
    return PyramidWeights(state, levels=arguments["levels"])


class _Reader(pickle.Unpickler):
    """Reads float32 tensors of a file of torch, and nothing else that a pickle may hold."""

    def __init__(self, packed: zipfile.ZipFile) -> None:
        (index,) = (name for name in packed.namelist() if name.endswith("/data.pkl"))
        self._packed, self._folder = packed, index.removesuffix("data.pkl")
        if packed.read(f"{self._folder}byteorder") != sys.byteorder.encode():
            raise pickle.UnpicklingError("the bytes are in another order")
        super().__init__(packed.open(index))

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count = pid
        values = np.frombuffer(self._packed.read(f"{self._folder}data/{key}"), dtype)
        if kind != "storage" or len(values) != count:
            raise pickle.UnpicklingError("no storage of that size")
        return values


def _tensor(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> np.ndarray:
    """A copy of a tensor in a storage."""
    places = zip(strides, np.indices(shape, sparse=True), strict=True)
    return storage[offset + sum(stride * index for stride, index in places)]


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.dtype(np.float32),
}


def _shapes_of_residual(*, layers: int, features: int, fold: int, links: bool = True) -> Shapes:
    ends: Shapes = {"head": (features, fold, 3, 3, 3), "tail": (fold, features, 3, 3, 3)}
    return _with_biases(ends | _shapes_of_pairs("body", layers // 2 - 1, features))


def _shapes_of_pyramid(*, features: int, depth: int, levels: int) -> Shapes:
    shapes: Shapes = {}
    for level in ("earlier", "last"):
        ends: Shapes = {f"{level}.embed": (features, 1, 3, 3, 3), f"{level}.residual": (1, features, 3, 3, 3)}
        shapes |= ends | _shapes_of_pairs(f"{level}.body", depth // 2, features)
        shapes[f"{level}.double_features"] = features, features, 1, 1, 4
    return _with_biases(shapes)


def _shapes_of_pairs(name: str, count: int, features: int) -> Shapes:
    both = [f"{name}.{n}.{which}" for n in range(count) for which in ("first", "second")]
    return dict.fromkeys(both, (features, features, 3, 3, 3))


def _with_biases(shapes: Shapes) -> Shapes:
    weights = {f"{name}.weight": shape for name, shape in shapes.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in shapes.items()}


_SHAPES: Mapping[str, Callable[..., Shapes]] = {"ResidualNet": _shapes_of_residual, "PyramidNet": _shapes_of_pyramid}
