"""How fast, in how much memory, and what many scans cost: bundles, engines, precisions and peers side by side.

``python -m tests.benchmarks.speed`` prints a markdown table for each size; every row runs in a process of
its own, from file to file, all in one go, after this machine's matrix-multiply rate was measured.
``--growth`` fits how the time grows with the voxels, ``--scale`` computes the cost of a thousand and a million
scans from the same figures, ``--rows``, ``--sizes`` choose, ``--output`` also writes to a file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Figures = dict[str, Any]

SIZES: dict[str, tuple[tuple[int, int, int], int, str]] = {
    "MR": ((256, 256, 32), 4, "MR"),
    "CT": ((512, 512, 60), 5, "CT"),
}
"""Acquired voxels, factor and modality; a size may also be given as 64x64x16x4."""

GROWTH = ["96x96x16x4", "128x128x24x4", "192x192x32x4", "256x256x48x4", "384x384x48x4"]

BUNDLE_ROWS = ["none"] + [
    f"{bundle}/{how}"
    for bundle in ("residual", "pyramid")
    for how in (
        *("torch/float32/cpu", "openvino/float32/cpu", "openvino/int8/cpu"),
        *("torch/float32/cuda", "torch/float16/cuda", "torch/bfloat16/cuda"),
    )
]
PEER_ROWS = ["SimpleITK B-spline", "SimpleITK windowed sinc", "SciPy cubic zoom", "MONAI Spacing"]
ROWS = [*BUNDLE_ROWS, *PEER_ROWS]

CLUSTER_CORES, CLUSTER_GPUS = 1000, 8
"""The cluster of the page about many scans."""


def size_of(name: str) -> tuple[tuple[int, int, int], int, str]:
    """A size by its name, or X x Y x slices x factor."""
    if name in SIZES:
        return SIZES[name]
    x, y, slices, factor = map(int, name.split("x"))
    return (x, y, slices), factor, "CT"


# ---------------------------------------------------------------- one row, in its own process


def measure(row: str, size: str, source: str) -> Figures:
    """From file to file in this process: seconds, processor seconds, bytes, peak memory."""
    import psutil
    import torch

    from monai_sr.acquired import Acquired
    from monai_sr.engine.memory import peak_mib
    from monai_sr.errors import SuperResolutionError
    from monai_sr.io.images import read_image, write_image
    from monai_sr.trust.consistency import check_result
    from monai_sr.trust.resolution import effective_resolution

    _, factor, modality = size_of(size)
    try:
        resolve, work = _resolver(row, factor, modality)
    except SuperResolutionError as error:
        return {"row": row, "size": size, "absent": error.problem}
    started, cpu_started = time.perf_counter(), time.process_time()
    start = time.time() - psutil.Process().create_time()
    image = read_image(source)
    read = time.perf_counter()
    sr, proposing = resolve(image)
    resolved = time.perf_counter()
    if row not in PEER_ROWS:  # as every run does
        acquired = Acquired.of(image)
        check_result(acquired, sr, limit=None)
        effective_resolution(acquired, sr)
    checked = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = write_image(sr, Path(folder, "out.nii.gz"), dtype=np.int16)
        ended, cpu_ended = time.perf_counter(), time.process_time()
        written = target.stat().st_size
    return {
        "row": row,
        "size": size,
        "voxels": sr.numel(),
        "start": start,
        "read": read - started,
        "resolve": resolved - read,
        "network": proposing,
        "check": checked - resolved,
        "write": ended - checked,
        "core_seconds": cpu_ended - cpu_started,
        "operations": 2 * work(image.shape[1:], factor),
        "bytes_read": os.path.getsize(source),
        "bytes_written": written,
        "peak_mib": peak_mib(),
        "threads": torch.get_num_threads(),
    }


def _resolver(row: str, factor: int, modality: str) -> tuple[Callable[[Any], Any], Callable[[Any, int], float]]:
    """What makes a volume and the seconds its network took; and the multiply-adds that a volume needs."""
    if row in PEER_ROWS:
        return (lambda image: (_peer(row, image, factor), 0.0)), (lambda shape, factor: 0.0)
    from monai_sr.bundles import load_bundle

    bundle, engine, precision, device = row.split("/") if "/" in row else (row, None, None, "cpu")
    model = load_bundle(bundle, device=device, engine=engine, precision=precision)
    plain = load_bundle(bundle, device="cpu", engine="torch", precision="float32").network if engine else None
    spent = time_proposals(model.engine)

    def resolve(image: Any) -> Any:
        spent.clear()
        sr = model(image, factor=factor, modality=modality)
        return sr, sum(spent) if engine else 0.0

    return resolve, lambda shape, factor: multiply_adds(plain, tuple(shape), factor)


def time_proposals(engine: Any) -> list[float]:
    """The list to which an engine adds the seconds of its proposals from now on."""
    spent: list[float] = []
    propose = engine.propose

    def timed(*arguments: Any, **options: Any) -> Iterator[Any]:
        parts = propose(*arguments, **options)
        while True:
            began = time.perf_counter()
            part = next(parts, None)
            spent.append(time.perf_counter() - began)
            if part is None:
                return
            yield part

    engine.propose = timed
    return spent


def multiply_adds(network: Any, shape: tuple[int, ...], factor: float) -> float:
    """What the convolutions of a network need for a volume, each voxel once; 0 without a network.

    Counted on a small volume: with "same" padding it is the same for each voxel of the input.
    """
    if network is None:
        return 0.0
    import torch
    from torch import nn

    from monai_sr.slices import levels_for

    done = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal done
        entries = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        done += entries.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    small = torch.zeros(1, 1, 4, 4, 8)
    levels = (levels_for(factor),) if network.works_on == "thick" else ()
    with torch.no_grad():
        network(small, *levels)
    for hook in hooks:
        hook.remove()
    seen = math.prod(shape) * (1 if levels else factor)
    return done / small.numel() * seen


def _peer(row: str, image: Any, factor: int) -> Any:
    """The same volume by what others have, along the last axis."""
    import torch

    from monai_sr.grid import grid_of, on_grid, target_grid

    grid = grid_of(image)
    wanted, _ = target_grid(grid, factor=factor, axis=2)
    voxels = image[0].numpy()
    if row == "MONAI Spacing":
        from monai.transforms import Spacing

        return Spacing(wanted.spacing, mode="bilinear", padding_mode="border")(image)
    if row == "SciPy cubic zoom":
        from scipy import ndimage

        made = ndimage.zoom(voxels, (1, 1, factor), order=3, mode="nearest", grid_mode=True)
    else:
        import SimpleITK as sitk

        of_itk = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
        kind = sitk.sitkBSpline if row.endswith("B-spline") else sitk.sitkLanczosWindowedSinc
        first = (0.0, 0.0, (1 / factor - 1) / 2)
        step = (1.0, 1.0, 1 / factor)
        resampled = sitk.Resample(of_itk, list(wanted.shape), sitk.Transform(), kind, first, step)
        made = np.ascontiguousarray(sitk.GetArrayFromImage(resampled).T)
    return on_grid(torch.from_numpy(made)[None], wanted, image)


def matrix_rate(device: str) -> float:
    """float32 operations per second of the best of five large matrix products."""
    import torch

    side = 2048 if device == "cpu" else 8192
    one, other = (torch.randn(side, side, device=device) for _ in range(2))
    best = math.inf
    for _ in range(6):
        began = time.perf_counter()
        float((one @ other)[0, 0])  # a GPU has to be waited for
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def phantom(size: str) -> Any:
    """A body with structure and noise in air with noise: neither its voxels nor its bytes are trivial."""
    import torch
    from monai.data import MetaTensor

    shape, factor, modality = size_of(size)
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    body = (x / 0.8) ** 2 + (y / 0.7) ** 2 + 0 * z < 1
    inside = 200 * np.sin(14 * x + 5 * z) * np.cos(11 * y - 4 * z)
    voxels = np.where(body, inside, -900) + np.random.default_rng(0).normal(0, 15, shape)
    if modality == "MR":
        voxels = np.maximum(voxels + 950, 0)
    affine = torch.diag(torch.tensor([0.7, 0.7, 0.7 * factor, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(voxels).float()[None], affine=affine)


def write_phantom(size: str, path: Path) -> None:
    """The phantom of a size as a file of int16."""
    from monai_sr.io.images import write_image

    write_image(phantom(size), path, dtype=np.int16)


# ---------------------------------------------------------------- all rows


def in_own_process(*words: str) -> Figures:
    """One measurement by this file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"row": words[0], "size": words[1], "absent": (done.stderr.strip().splitlines() or ["it died"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measured(rows: list[str], sizes: list[str]) -> list[Figures]:
    """Every row on every size; progress on stderr."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            source = Path(folder, f"{size}.nii.gz")
            write_phantom(size, source)
            for row in rows:
                figures = in_own_process(row, size, str(source))
                print(json.dumps(figures), file=sys.stderr, flush=True)
                results.append(figures)
    return results


def whole(figures: Figures) -> float:
    """Seconds of the whole command, imports included."""
    return sum(figures[part] for part in ("start", "read", "resolve", "check", "write"))


def table(results: list[Figures], rates: dict[str, float]) -> str:
    """A markdown table for each size."""
    lines = []
    for size in dict.fromkeys(f["size"] for f in results):
        (x, y, slices), factor, _ = size_of(size)
        rows = [f for f in results if f["size"] == size]
        lines += [
            f"\n{x}×{y}×{slices} → {slices * factor} slices\n",
            "| | 10⁶ voxels/s | s | whole command, s | in the network | of the float32 matrix rate | peak MiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for f in rows:
            if "absent" in f:
                lines.append(f"| {f['row']} | – | – | – | – | – | – |")
                continue
            fraction = f"{100 * f['network'] / whole(f):.0f} %" if f["network"] else "–"
            rate = rates["cuda" if f["row"].endswith("cuda") else "cpu"]
            part = f"{100 * f['operations'] / f['network'] / rate:.0f} %" if f["network"] else "–"
            lines.append(
                f"| {f['row']} | {f['voxels'] / f['resolve'] / 1e6:.2f} | {f['resolve']:.1f} | {whole(f):.1f} "
                f"| {fraction} | {part} | {f['peak_mib']:.0f} |"
            )
        lines += [f"\nNot measured: {f['row']} ({f['absent']})" for f in rows if "absent" in f]
    return "\n".join(lines)


def exponent(results: list[Figures]) -> float:
    """The slope of a straight line through log seconds over log voxels: 1 where cost grows as the voxels do."""
    voxels, seconds = ([math.log(f[name]) for f in results] for name in ("voxels", "resolve"))
    return float(np.polyfit(voxels, seconds, 1)[0])


def scale_table(results: list[Figures]) -> str:
    """What a thousand scans of each size cost, and how long a million take on a cluster, in markdown."""
    lines = [
        "| 1,000 scans | core-hours | GPU-hours | GB read | GB written | a million on "
        f"{CLUSTER_CORES:,} cores or {CLUSTER_GPUS} GPUs |",
        "|---|---|---|---|---|---|",
    ]
    for f in results:
        if "absent" in f or f["row"] in PEER_ROWS:
            continue
        on_gpu = f["row"].endswith("cuda")
        cores, gpus = f["core_seconds"] * 1000 / 3600, f["network"] * 1000 / 3600 if on_gpu else 0.0
        days = 1000 * (gpus / CLUSTER_GPUS if on_gpu else cores / CLUSTER_CORES) / 24
        lines.append(
            f"| {f['size']}, {f['row']} | {cores:.1f} | {f'{gpus:.2f}' if on_gpu else '–'} "
            f"| {f['bytes_read'] / 1e6:.1f} | {f['bytes_written'] / 1e6:.1f} | {days:.1f} days |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    """All rows, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument(
        "--rows", nargs="+", help=f"default: {', '.join(ROWS)}; a part of a name takes all that have it"
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="MR, CT or X x Y x slices x factor")
    parser.add_argument("--growth", action="store_true", help="also how the time grows with the voxels")
    parser.add_argument("--scale", action="store_true", help="also what many scans cost")
    parser.add_argument("--output", type=Path, help="write the markdown here too")
    options = parser.parse_args(words)
    if options.one and options.one[0] == "rate":
        print(json.dumps({"rate": matrix_rate(options.one[1])}))
        return
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    import torch

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [r for r in ROWS if not options.rows or any(part in r for part in options.rows)]
    rows = [r for r in rows if not r.endswith("cuda") or "cuda" in devices]
    rates = {device: in_own_process("rate", device)["rate"] for device in devices}
    text = ", ".join(f"{device} {rate / 1e9:.0f} GFLOP/s" for device, rate in rates.items())
    parts = [f"{torch.get_num_threads()} threads; float32 matrix products: {text}."]
    results = measured(rows, options.sizes)
    parts.append(table(results, rates))
    if options.growth:
        for row in [r for r in rows if r not in PEER_ROWS]:
            grown = [f for f in measured([row], GROWTH) if "absent" not in f]
            if len(grown) > 1:
                parts.append(f"\n{row}: time grows as voxels to the power of {exponent(grown):.2f}")
    if options.scale:
        parts.append("\n" + scale_table(results))
    print("\n".join(parts))
    if options.output:
        options.output.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
