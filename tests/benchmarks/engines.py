"""How fast engines and precisions are on this machine, and how near to what it can do.

    python tests/benchmarks/engines.py [--size 256 256 32] [--factor 4] [--repeats 3] [--busy]

For each bundle, engine and precision: output voxels a second, floating-point operations a second in the convolutions
(2 for a multiplication and addition; halos are not counted as work), the fraction of this machine's rate of float32
matrix products with as many threads (the best of torch's and OpenVINO's), the time as a multiple of that of OpenVINO
in float32, and how far the voxels are from torch's in float32. "tiles" is torch as on a GPU. All take turns in every
repetition; the shortest time of each counts. ``--busy`` takes processor time for seconds, for a machine that others
use too (with OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor

from monai_sr.bundles import NAMES, Model, load_bundle
from monai_sr.engine.graphs import openvino
from monai_sr.engine.openvino import thread_count
from monai_sr.engine.selection import is_installed
from monai_sr.engine.torch_engine import TorchEngine
from monai_sr.engine.torch_rows import has_bfloat16
from monai_sr.errors import BundleError
from monai_sr.networks import PyramidNet, ResidualNet

EDGE = 2048
"""Rows of the matrices that are multiplied."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[256, 256, 32], help="voxels of the thick slices")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bundle", nargs="+", default=list(NAMES))
    parser.add_argument("--busy", action="store_true", help="processor time for seconds")
    options = parser.parse_args()
    now = time.process_time if options.busy else time.perf_counter
    voxels = np.random.default_rng(0).normal(500, 90, (1, *options.size)).astype(np.float32)
    image = MetaTensor(torch.from_numpy(voxels), affine=torch.diag(torch.tensor([1.0, 1.0, options.factor, 1.0])))
    voxels_out = round(image.numel() * options.factor)
    runs: dict[tuple[str, str, str], Callable[[], MetaTensor]] = {}
    work = {}
    for name in options.bundle:
        for engine, precision in _choices():
            try:
                model = load_bundle(name, device="cpu", engine=engine.replace("tiles", "torch"), precision=precision)
            except BundleError as error:  # a bundle without an 8-bit form
                print(error)
                continue
            if engine == "tiles" and model.network is not None:
                model = model.computed_by(TorchEngine(model.network, precision))
            runs[name, engine, precision] = lambda model=model: model(image, factor=options.factor, modality="MR")
            work[name] = operations(model, image.numel(), options.factor)
    seconds = dict.fromkeys(runs, math.inf)
    results, peak = {}, 0.0
    for _ in range(options.repeats):
        peak = max(peak, *(rate() for rate in _matrix_rates()))
        for key, run in runs.items():
            started = now()
            results[key] = run()
            seconds[key] = min(seconds[key], now() - started)
    print(f"{options.size} at factor {options.factor:g}, {thread_count()} threads; float32 matrices {peak:.0f} GFLOP/s")
    print(
        f"{'bundle':10}{'engine':10}{'precision':10}{'seconds':>9}{'Mvoxel/s':>10}{'GFLOP/s':>9}{'share':>7}"
        f"{'times':>7}{'off':>9}"
    )
    for (name, engine, precision), taken in seconds.items():
        reference = results[name, "torch", "float32"]
        off = float((results[name, engine, precision] - reference).abs().max() / np.ptp(reference.numpy()))
        rate, base = work[name] / taken / 1e9, seconds.get((name, "openvino", "float32"), math.nan)
        print(
            f"{name:10}{engine:10}{precision:10}{taken:9.2f}{voxels_out / taken / 1e6:10.2f}"
            f"{rate:9.0f}{rate / peak:7.2f}{taken / base:7.2f}{off:9.1e}"
        )


def operations(model: Model, voxels_in: int, factor: float) -> float:
    """Floating-point operations in the convolutions of a volume, without halos."""
    network = model.network
    if isinstance(network, ResidualNet):
        taps = sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))
        return 2 * taps * voxels_in * factor / network.fold
    assert isinstance(network, PyramidNet)
    same = sum(
        p.numel() for layer in (network.last.embed, network.last.body) for p in layer.parameters() if p.dim() == 5
    )
    doubling = network.last.double_features.weight.numel()
    each = same + doubling + 2 * network.last.residual.weight.numel() + network.doubling.numel()
    levels = max(1, math.ceil(math.log2(factor) - 1e-6))
    return 2 * each * voxels_in * (2**levels - 1)


def _choices() -> list[tuple[str, str]]:
    other = [("openvino", "float32"), ("openvino", "int8")] if is_installed("openvino") else []
    half = [("torch", "bfloat16")] if has_bfloat16() else []
    return [("torch", "float32"), ("tiles", "float32"), *half, *other]


def _matrix_rates() -> list[Callable[[], float]]:
    """Products of square matrices: what each engine reaches, GFLOP/s."""
    first, second = torch.rand(EDGE, EDGE), torch.rand(EDGE, EDGE)

    def timed(multiply: Callable[[], object]) -> float:
        multiply()
        started = time.perf_counter()
        multiply()
        return 2 * EDGE**3 / (time.perf_counter() - started) / 1e9

    rates = [lambda: timed(lambda: first @ second)]
    if is_installed("openvino"):
        ov = openvino()
        op = ov.opset13
        given = op.parameter([EDGE, EDGE], np.float32)
        graph = ov.Model([op.matmul(given, op.constant(second.numpy()), False, False)], [given], "matrices")
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": thread_count(), "NUM_STREAMS": 1}
        request = ov.Core().compile_model(graph, "CPU", hints).create_infer_request()
        request.set_input_tensor(ov.Tensor(first.numpy(), shared_memory=True))
        rates.append(lambda: timed(request.infer))
    return rates


if __name__ == "__main__":
    main()
