"""What computes a network, and in which precision: torch or OpenVINO, 32, 16 or 8 bits.

An engine takes the network's place: ``super_resolve`` and the tiles do not know which one runs.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..networks import PyramidNet
from .int8 import read_ranges
from .openvino import StreamedNet, can_stream, openvino

ENGINES = ("auto", "torch", "openvino")

PRECISIONS = ("float32", "int8", "float16", "bfloat16")
"""Of the convolutions; image, residual sums and consistency are in float32 always."""

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class HalfNet(nn.Module):
    """A network on a GPU whose convolutions work with 16 bits; takes the network's place.

    Args:
        network: in eval mode on the GPU, in float32.
        precision: "float16" or "bfloat16".
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.works_on, self.fold = network.works_on, int(getattr(network, "fold", 1))
        if isinstance(network, PyramidNet):
            self.reach_of = network.reach_of
        else:
            self.reach = network.reach

    def forward(self, x: Tensor, *levels: int) -> Tensor:
        """What the network makes of it, in float32: the image is added to in full precision."""
        with torch.autocast(x.device.type, HALVES[self.precision]):
            return self.network(x, *levels).float()


def choose_engine(network: nn.Module, *, engine: str, precision: str, device: torch.device) -> str:
    """The engine that "auto" means here; any other must fit network, precision and device.

    On the CPU the fastest that is installed and knows the network: OpenVINO, then torch.

    Raises:
        UsageError: they do not fit (E-ENGINE), or OpenVINO is needed and not installed (E-EXTRA).
    """
    for value, known in ((engine, ENGINES), (precision, PRECISIONS)):
        if value not in known:
            raise _unfit(f"{value!r} is none of {', '.join(known)}", fix=f"give {known[0]}")
    on_cpu = device.type == "cpu"
    if precision in HALVES and on_cpu:
        raise _unfit(f"{precision} is for a GPU, the device is {device}", fix="give --precision float32 or int8")
    if precision == "int8" and not on_cpu:
        raise _unfit(f"int8 is for the CPU, the device is {device}", fix="give --device cpu, or --precision float16")
    if precision == "int8" and engine == "torch":
        raise _unfit("torch does not compute in int8", fix="give --engine openvino, or --precision float32")
    if engine == "openvino" and not on_cpu:
        raise _unfit(f"OpenVINO computes on the CPU, the device is {device}", fix="give --device cpu")
    if engine == "torch" or not on_cpu:
        return "torch"
    needed = engine == "openvino" or precision == "int8"
    if not can_stream(network):
        if needed:
            raise _unfit(f"there is no OpenVINO graph for {type(network).__name__}", fix="give --engine torch")
        return "torch"
    if needed:
        openvino()
    return "openvino" if needed or is_installed("openvino") else "torch"


def run_by(
    network: nn.Module, *, engine: str = "auto", precision: str = "float32", int8: str | Path | None = None
) -> nn.Module:
    """What computes ``network``: itself, or what takes its place.

    Args:
        network: in eval mode on its device, in float32.
        engine, precision: see :data:`ENGINES`, :data:`PRECISIONS`.
        int8: the bundle's ``models/int8.json``.

    Raises:
        UsageError: see :func:`choose_engine`.
        BundleError: the file for int8 is missing, damaged or of other weights (E-W-INT8).
    """
    device = next(network.parameters()).device
    chosen = choose_engine(network, engine=engine, precision=precision, device=device)
    if chosen == "openvino":
        ranges = read_ranges(int8, network) if precision == "int8" else None
        return StreamedNet(network, ranges=ranges)  # type: ignore[arg-type]
    return HalfNet(network, precision) if precision in HALVES else network


def bare(network: nn.Module) -> nn.Module:
    """The network itself, whatever computes it."""
    return network.network if isinstance(network, StreamedNet | HalfNet) else network


def engine_of(network: nn.Module | None) -> str:
    """The engine that computes a network, as ``--engine`` names it; empty without a network."""
    return "" if network is None else "openvino" if isinstance(network, StreamedNet) else "torch"


def precision_of(network: nn.Module | None) -> str:
    """The precision that a network is computed in; empty without a network."""
    if isinstance(network, HalfNet):
        return network.precision
    if isinstance(network, StreamedNet) and network.ranges is not None:
        return "int8"
    return "" if network is None else "float32"


def engine_text(network: nn.Module | None) -> str:
    """What computes a network, with its version and precision; torch computes the spline too."""
    engine = engine_of(network) or "torch"
    precision = precision_of(network)
    return f"{engine} {version(engine)}{f', {precision}' if precision else ''}"


def is_installed(engine: str) -> bool:
    """Whether an engine's package is there, without importing it."""
    try:
        return find_spec(engine) is not None and bool(version(engine))
    except (PackageNotFoundError, ValueError):  # ValueError: hidden by None in sys.modules
        return False


def _unfit(problem: str, *, fix: str) -> UsageError:
    return UsageError("E-ENGINE", problem, fix=fix)
