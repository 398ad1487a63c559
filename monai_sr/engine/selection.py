"""Choose the engine and the precision of a network: torch or OpenVINO; 32, 16 or 8 bits."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import BundleError, Later, UsageError
from ..options import PARAMETERS
from . import Engine
from .averaged import AveragedEngine
from .devices import is_installed as is_installed
from .graphs import openvino
from .int8 import read_ranges
from .openvino import OpenVinoEngine
from .sizes import HALVES
from .spline import SplineEngine
from .weights import Weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .. import networks
    from . import torch_engine, torch_rows
else:
    networks = Later("monai_sr.networks")
    torch_engine, torch_rows = Later("monai_sr.engine.torch_engine"), Later("monai_sr.engine.torch_rows")


def can_stream(network: nn.Module | Weights) -> bool:
    """Whether a network can be computed a few rows at a time."""
    if isinstance(network, Weights):
        return True
    return type(network) in (networks.ResidualNet, networks.PyramidNet)


def choose_engine(network: nn.Module | Weights, *, engine: str, precision: str, device: str | torch.device) -> str:
    """The name of the engine to use. "auto" is, on the CPU, the fastest that is installed and supports the network.

    Any other engine must fit network, precision and device. The precision "auto" fits all of them.

    Raises:
        UsageError: they do not fit (E-ENGINE), or OpenVINO is needed and not installed (E-EXTRA).
    """
    for value, known in ((engine, PARAMETERS["engine"].choices), (precision, PARAMETERS["precision"].choices)):
        if value not in known:
            raise _unfit(f"{value!r} is unknown (known: {', '.join(known)})", fix=f"give {known[0]}")
    on_cpu = str(device) == "cpu"
    if precision in HALVES and on_cpu:
        _check_halves(network, engine, precision)
        return "torch"
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
            raise _unfit(f"OpenVINO has no graph for {type(network).__name__}", fix="give --engine torch")
        return "torch"
    if needed:
        openvino()
    return "openvino" if needed or is_installed("openvino") else "torch"


def _check_halves(network: nn.Module | Weights, engine: str, precision: str) -> None:
    """Refuse 16 bits on the CPU unless it is bfloat16, by torch, a few rows at a time, on a processor that has it."""
    fix = "give --precision float32 or int8"
    if precision != "bfloat16":
        raise _unfit(f"{precision} is for a GPU, the device is cpu", fix=fix)
    if engine == "openvino":
        raise _unfit("OpenVINO does not compute in bfloat16 here", fix="give --precision int8, which is faster")
    if not can_stream(network):
        raise _unfit(f"bfloat16 on the CPU is not for {type(network).__name__}", fix="give --precision float32")
    if not torch_rows.has_bfloat16():
        raise _unfit("this processor does not multiply in bfloat16 (AVX512_BF16)", fix=fix)


def make_engine(
    network: nn.Module | Weights,
    *,
    engine: str = "auto",
    precision: str = "auto",
    quality: str = "usual",
    int8: str | Path | None = None,
) -> Engine:
    """Make the engine of a network.

    Args:
        network: in eval mode on its device, in float32; or its weights, on the CPU.
        engine, precision, quality: see :class:`monai_sr.options.Compute`. The precision "auto" is int8 where OpenVINO
            computes and ``int8`` was made from these weights, else float32.
        int8: the bundle's ``models/int8.json``.

    Raises:
        UsageError: see :func:`choose_engine`; or the quality is unknown (E-ENGINE).
        BundleError: the file for int8 is missing, damaged or of other weights (E-W-INT8).
    """
    if quality not in PARAMETERS["quality"].choices:
        raise _unfit(f"the quality {quality!r} is unknown", fix="give usual or best")
    computed = _make_one(network, engine, precision, int8)
    return AveragedEngine(computed) if quality == "best" else computed


def _make_one(network: nn.Module | Weights, engine: str, precision: str, int8: str | Path | None) -> Engine:
    device = _device_of(network)
    if choose_engine(network, engine=engine, precision=precision, device=device) == "torch":
        return _torch_engine(network, "float32" if precision == "auto" else precision)
    ranges = None
    if precision != "float32":
        with suppress(BundleError) if precision == "auto" else nullcontext():
            ranges = read_ranges(int8, network)
    return OpenVinoEngine(network, ranges=ranges)


def _device_of(network: nn.Module | Weights) -> str:
    return "cpu" if isinstance(network, Weights) else str(next(network.parameters()).device)


def _torch_engine(network: nn.Module | Weights, precision: str = "float32") -> Engine:
    """Torch, a few rows at a time on the CPU; in tiles on a GPU, or for a network that does not stream."""
    if isinstance(network, Weights) or (can_stream(network) and _device_of(network) == "cpu"):
        return torch_rows.TorchRowsEngine(network, precision)
    return torch_engine.TorchEngine(network, precision)


def as_engine(network: nn.Module | Engine | None) -> Engine:
    """The engine of a network in float32 by torch, or the spline for None; an engine is returned unchanged."""
    if network is None:
        return SplineEngine()
    return cast(Engine, network) if hasattr(network, "propose") else _torch_engine(cast("nn.Module", network))


def describe_engine(engine: Engine) -> str:
    """Name, version and precision of an engine, in words; torch computes the spline too."""
    package = engine.name or "torch"
    return f"{package} {version(package)}{f', {engine.precision}' if engine.precision else ''}"


def _unfit(problem: str, *, fix: str) -> UsageError:
    return UsageError("E-ENGINE", problem, fix=fix)
