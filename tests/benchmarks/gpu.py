"""What a GPU does with the networks, in one script of less than five minutes.

    python -m tests.benchmarks.gpu [--device cuda] [--output FILE]

prints one Markdown table. For the shipped example (a head, MR), a small CT and volumes of usual size, with each bundle
and precision: the difference from the CPU in float32, voxels a second, the time in the network and in its
convolutions, how near these come to the card's rate of bfloat16 matrix products (measured first), and the peak of the
card's memory beside what is planned. Then memory is limited, so that smaller tiles must be tried. The exit code is 1
if float32 is more than 1e-4 of the range from the CPU, if 16 bits change PSNR by more than 0.02 dB, or if smaller
tiles do not give the same voxels.

It needs torch, MONAI, nibabel, pydicom and isal, and a checkout. ``--tiny`` runs all of it in seconds on a CPU, to see
that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn

from monai_sr.acquired import Acquired
from monai_sr.batch.model import super_resolve_within
from monai_sr.bundles import NAMES, Model, bundle_path, load_bundle
from monai_sr.engine.memory import peak_mib, reset_peak
from monai_sr.engine.torch_engine import TorchEngine
from monai_sr.options import Wanted
from monai_sr.transforms import simulate_thick_slices

from .speed import SIZES, phantom, size_of, time_proposals

PRECISIONS = ("float32", "float16", "bfloat16")

FLOAT32_LIMIT, HALF_LIMIT_DB = 1e-4, 0.02
TINY = {"MR": "12x12x5x3"}


@dataclass
class Sizes:
    """How large the volumes are."""

    matrix: int = 8192
    crop: int | None = None
    ct: str = "96x96x20x5"
    timed: dict[str, str] = field(default_factory=lambda: {name: name for name in SIZES})


@dataclass
class Volume:
    """Thick slices, and the thin ones where they are known."""

    name: str
    thick: MetaTensor
    factor: float
    modality: str
    thin: np.ndarray | None = None


@dataclass
class Row:
    """What was measured of one volume with one bundle and precision.

    Attributes:
        difference: largest one from the CPU in float32, divided by the range of the volume.
        decibels: PSNR minus that of the CPU.
        seconds: of the volume, of the network in it, and of the convolutions in that.
        rate: operations a second in the convolutions, halos included, divided by the card's matrix products.
        peak, planned: memory of the card, MiB.
    """

    volume: str
    bundle: str
    how: str
    difference: float = math.nan
    decibels: float = math.nan
    voxels: int = 0
    seconds: tuple[float, float, float] = (math.nan,) * 3
    rate: float = math.nan
    peak: float = math.nan
    planned: float = math.nan
    note: str = ""


class Clock:
    """Seconds and operations in the convolutions of a network, by events of the card or the clock of the CPU."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device, self.operations = device, 0.0
        self.marks: list[tuple[Any, Any]] = []
        self.hooks = []
        for layer in network.modules():
            if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
                self.hooks += [layer.register_forward_pre_hook(self._begin), layer.register_forward_hook(self._end)]

    def _mark(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _begin(self, layer: nn.Module, inputs: Any) -> None:
        self._began = self._mark()

    def _end(self, layer: Any, inputs: Any, output: Any) -> None:
        self.marks.append((self._began, self._mark()))
        entries = inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output
        self.operations += 2.0 * entries.numel() * layer.weight[0].numel()

    def stop(self) -> float:
        """The seconds; the network counts no more."""
        for hook in self.hooks:
            hook.remove()
        if self.device.type == "cpu":
            return sum(end - start for start, end in self.marks)
        torch.cuda.synchronize(self.device)
        return sum(start.elapsed_time(end) for start, end in self.marks) / 1000


def matrix_rate(device: torch.device, side: int) -> float:
    """Operations a second of square matrix products in bfloat16, the best of five runs of ten."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(10):
            made = one @ other
        float(made[0, 0])  # a card has to be waited for
        best = min(best, (time.perf_counter() - started) / 10)
    return 2 * side**3 / best


def volumes(sizes: Sizes) -> tuple[list[Volume], list[Volume]]:
    """The volumes that are compared with the CPU, and those that are timed."""
    folder = bundle_path("residual") / "docs" / "example"
    thick, thin = (_read(folder / f"{name}.nii.gz", sizes.crop) for name in ("thick", "truth"))
    factor = thin.shape[3] / thick.shape[3]
    compared = [Volume("head, MR", thick, factor, "MR", thin[0].numpy())]
    (x, y, slices), factor, _ = size_of(sizes.ct)
    of_ct = phantom(f"{x}x{y}x{slices * factor}x1")
    compared.append(
        Volume("phantom, CT", simulate_thick_slices(of_ct, 0.7 * factor, axis=2), factor, "CT", of_ct[0].numpy())
    )
    timed = []
    for name, size in sizes.timed.items():
        shape, factor, modality = size_of(size)
        text = f"{name} {'×'.join(map(str, shape))} ×{factor}"
        timed.append(Volume(text, phantom(size), factor, modality))
    return compared, timed


def _read(path: Path, crop: int | None) -> MetaTensor:
    image = nib.load(path)
    voxels = torch.from_numpy(np.asarray(image.dataobj, np.float32))[None]
    if crop:
        x, y = ((n - crop) // 2 for n in voxels.shape[1:3])
        voxels = voxels[:, x : x + crop, y : y + crop].clone()
    return MetaTensor(voxels, affine=torch.from_numpy(image.affine))


def made_by(model: Model, volume: Volume, *, on: str = "cpu") -> MetaTensor:
    """The thin slices of a volume that lies on a device."""
    thick = volume.thick.to(on)
    return model(
        thick,
        factor=volume.factor,
        modality=volume.modality,
        slice_thickness=volume.factor * _step(volume),
        consistency="exact",
    )


def _step(volume: Volume) -> float:
    return float(volume.thick.affine[:3, 2].norm()) / volume.factor


def measure(model: Model, volume: Volume, how: str, *, peak_rate: float, on: str = "cpu") -> tuple[Row, MetaTensor]:
    """One row without the comparison, and the result."""
    device, network = model.device, model.network
    assert network is not None
    engine = TorchEngine(network, how)
    spent = time_proposals(engine)
    clock = Clock(network, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()
    started = time.perf_counter()
    result = made_by(model.computed_by(engine), volume, on=on)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    inside = clock.stop()
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mib()
    size = {"voxels_in": volume.thick.numel(), "voxels_out": result.numel()}
    # on a card the proposal is in the memory of the CPU
    planned = engine.tile_bytes(engine.usual_tile(**size), **size) - 4 * result.numel() * (device.type == "cuda")
    return Row(
        volume=volume.name + (", on the card" if on != "cpu" else ""),
        bundle=_short(model),
        how=how,
        voxels=result.numel(),
        seconds=(seconds, sum(spent), inside),
        rate=clock.operations / inside / peak_rate,
        peak=peak,
        planned=planned / 2**20,
    ), result.cpu()


def compare(row: Row, result: MetaTensor, exact: MetaTensor, volume: Volume) -> Row:
    """The row with its difference from the CPU."""
    sr, cpu = result[0].numpy(), exact[0].numpy()
    difference = float(np.abs(sr - cpu).max() / np.ptp(cpu))
    assert volume.thin is not None
    errors = [float(((made - volume.thin).astype(np.float64) ** 2).mean()) for made in (sr, cpu)]
    return replace(row, difference=difference, decibels=10 * math.log10(errors[1] / errors[0]))


def ladder(model: Model, volume: Volume, exact: MetaTensor, *, free: float) -> Row:
    """The volume in less memory than its usual tile takes.

    Args:
        model: by torch in float32.
        volume: the volume.
        exact: its result with enough memory.
        free: bytes of the card; with 0 it ends on the CPU.
    """
    network = model.network
    assert network is not None
    acquired = Acquired.of(volume.thick, slice_thickness=volume.factor * _step(volume), modality=volume.modality)
    limited = model.computed_by(_LimitedEngine(network)) if model.device.type == "cpu" else model
    row = Row(volume.name, _short(model), f"float32 in {free / 2**20:.0f} MiB", voxels=exact.numel())
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(), _card_limited(model.device, free):
            warnings.simplefilter("ignore")
            sr, made = super_resolve_within(limited, acquired, Wanted(factor=volume.factor))
    except RuntimeError as error:
        return replace(row, note=f"error: {_first_line(error)}")
    steps = made.get("ran_out_of_memory", [])
    return replace(
        row,
        difference=float((sr - exact).abs().max()) / float(np.ptp(exact.numpy())),
        seconds=(time.perf_counter() - started, math.nan, math.nan),
        note=f"ran out {len(steps)}×, then {made['device']}, tiles of {made['tile_voxels']:,} voxels" if steps else "",
    )


class _LimitedEngine(TorchEngine):
    """On a CPU: torch that runs out of memory with all tiles but the smallest."""

    def tile_sizes(self, *, voxels_in: int, voxels_out: int) -> list[int]:
        """The volume, and the smallest tile."""
        return [voxels_out, 1]

    def propose(self, *arguments: Any, tile_voxels: int, **options: Any) -> Iterator[Any]:
        """See :meth:`TorchEngine.propose`."""
        if tile_voxels > 1:
            raise torch.OutOfMemoryError("as if")
        return super().propose(*arguments, tile_voxels=tile_voxels, **options)


@contextmanager
def _card_limited(device: torch.device, free: float) -> Iterator[None]:
    """As if a card had so many bytes beside what the weights take."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    allowed = torch.cuda.memory_reserved(device) + free
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def rows(device: torch.device, sizes: Sizes, *, peak_rate: float, left: Callable[[], bool]) -> Iterator[Row]:
    """Every row, as long as there is time."""
    compared, timed = volumes(sizes)
    models = {name: load_bundle(name, device=device, engine="torch") for name in NAMES}
    exact = {}
    for name in NAMES:
        cpu = load_bundle(name, device="cpu", engine="torch")
        exact |= {(name, volume.name): made_by(cpu, volume) for volume in compared}
    # torch emulates float16 on a CPU, a hundred times slower
    precisions = [how for how in PRECISIONS if device.type != "cpu" or how != "float16"]
    for name, model in models.items():
        for volume in compared:
            for how in precisions:
                if device.type != "cpu":
                    measure(model, volume, how, peak_rate=peak_rate)  # the first of a shape chooses algorithms
                row, result = measure(model, volume, how, peak_rate=peak_rate)
                yield compare(row, result, exact[name, volume.name], volume)
    if device.type != "cpu":
        yield ladder(models["pyramid"], compared[1], exact["pyramid", compared[1].name], free=0)
    for volume in timed:
        for model in models.values():
            for how in precisions:
                if not left():
                    return
                row, result = measure(model, volume, how, peak_rate=peak_rate)
                yield row
                if volume is timed[0] and how == "float32":
                    yield ladder(model, volume, result, free=0.6 * 2**20 * row.peak)
            if device.type != "cpu" and left():
                yield on_card(model, volume, peak_rate)


def on_card(model: Model, volume: Volume, peak_rate: float) -> Row:
    """A volume whose slices are on the card already, so that nothing else is computed by the CPU."""
    try:
        return measure(model, volume, "bfloat16", peak_rate=peak_rate, on=str(model.device))[0]
    except (RuntimeError, TypeError) as error:
        return Row(f"{volume.name}, on the card", _short(model), "bfloat16", note=f"error: {_first_line(error)}")


def _short(model: Model) -> str:
    return model.name.removesuffix("_super_resolution")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].replace("|", "/")


def failures(made: list[Row]) -> list[str]:
    """The limits that are not kept."""
    results = []
    for row in made:
        what = f"{row.volume}, {row.bundle}, {row.how}"
        if row.how.startswith("float32") and row.difference > FLOAT32_LIMIT:
            results.append(
                f"{what}: {row.difference:.1e} of the range from the CPU, at most {FLOAT32_LIMIT:g} is needed"
            )
        if not row.how.startswith("float32") and abs(row.decibels) > HALF_LIMIT_DB:
            results.append(f"{what}: {row.decibels:+.3f} dB, at most {HALF_LIMIT_DB:g} is needed")
        if " MiB" in row.how and not row.note:
            results.append(f"{what}: memory did not run out")
        if row.note.startswith("error"):
            results.append(f"{what}: {row.note}")
    return results


def table(made: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| volume | bundle | precision | from the CPU, of the range | PSNR, dB | 10⁶ voxels/s | s | in the network "
        "| in convolutions | of the bf16 matrix rate | peak MiB (planned) |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in made:
        seconds, network, inside = row.seconds
        cells = [
            *(row.volume, row.bundle, row.how),
            f"{row.difference:.1e}",
            f"{row.decibels:+.4f}",
            f"{row.voxels / seconds / 1e6:.1f}",
            f"{seconds:.2f}",
            f"{100 * network / seconds:.0f} %",
            f"{100 * inside / seconds:.0f} %",
            f"{100 * row.rate:.1f} %",
            row.note or f"{row.peak:.0f} ({row.planned:.0f})",
        ]
        lines.append(f"| {' | '.join('–' if 'nan' in cell else cell for cell in cells)} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny volumes, for a CPU too")
    parser.add_argument(
        "--limit", type=float, default=270.0, metavar="SECONDS", help="begin no row after [%(default)g]"
    )
    parser.add_argument("--output", type=Path, help="write the text here too, after each row")
    options = parser.parse_args(words)
    began, device = time.perf_counter(), torch.device(options.device)
    sizes = Sizes(256, 12, "12x12x6x3", TINY) if options.tiny else Sizes()
    peak_rate = matrix_rate(device, sizes.matrix)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    heading = f"{card}, torch {torch.__version__}; bfloat16 matrix products: {peak_rate / 1e12:.3g} TFLOP/s.\n"
    made: list[Row] = []
    text = heading
    for row in rows(device, sizes, peak_rate=peak_rate, left=lambda: time.perf_counter() - began < options.limit):
        made.append(row)
        text = f"{heading}\n{table(made)}\n"
        if options.output:
            options.output.write_text(text, encoding="utf-8")
    failed = failures(made)
    text += "".join(f"\nfailed: {line}" for line in failed) or "\nAll limits are kept."
    text += f"\n{time.perf_counter() - began:.0f} s"
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
