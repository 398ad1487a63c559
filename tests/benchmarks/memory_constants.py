"""Peak memory of one volume against the estimate that runs are planned by, one process per row.

``python tests/benchmarks/memory_constants.py`` prints, for each bundle, engine, size and tile, the peak
resident memory in MiB and its parts; ``monai_sr/engine/memory.py`` and the engines hold what follows from it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZES = [(32, 32, 8), (192, 192, 20), (256, 256, 40), (384, 384, 40)]
TILE = 2_000_000
BUNDLES = ["residual", "pyramid"]
WAYS = ("torch/float32", "torch/bfloat16", "openvino/float32", "openvino/int8")
STREAMED = [f"{bundle}/{way}" for bundle in BUNDLES for way in WAYS]


def measure(name: str, shape: tuple[int, int, int], tile_voxels: int, *, stored: str, factor: int = 4) -> None:
    """Super-resolve noise of that shape in this process, and print the peak after each step.

    Args:
        name: a bundle, or bundle/engine/precision.
        shape: voxels.
        tile_voxels: 0 for as many as are usual.
        stored: type of the voxels on disk.
        factor: output slices for each.
    """
    import torch

    from monai_sr.bundles import load_bundle
    from monai_sr.grid import Grid
    from monai_sr.io.images import read_image, write_image

    torch.set_num_threads(1)
    peaks = [_peak()]
    bundle, engine, precision = name.split("/") if "/" in name else (name, None, None)
    model = load_bundle(bundle, device="cpu", engine=engine, precision=precision)
    peaks.append(_peak())
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.nii.gz")
        image = torch.from_numpy(np.random.default_rng(0).normal(500, 90, shape).astype(np.float32))[None]
        from monai.data import MetaTensor

        grid = Grid(shape, np.diag([1.0, 1.0, float(factor), 1.0]))
        write_image(MetaTensor(image, affine=torch.from_numpy(grid.affine)), source, dtype=stored)
        del image
        image = read_image(source)
        peaks.append(_peak())
        sr = model(image, factor=factor, tile_voxels=tile_voxels or None, modality="MR")
        peaks.append(_peak())
        write_image(sr, Path(folder, "out.nii.gz"))
        peaks.append(_peak())
    print(name, "x".join(map(str, shape)), stored, tile_voxels, *(f"{p:.0f}" for p in peaks), flush=True)


def _peak() -> float:
    from monai_sr.engine.memory import peak_mib

    return peak_mib()


def main() -> None:
    """All rows, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("BUNDLE", "SHAPE", "TILE", "DTYPE"))
    parser.add_argument("--factor", type=int, default=4)
    options = parser.parse_args()
    if options.one:
        bundle, shape, tile, stored = options.one
        x, y, z = map(int, shape.split("x"))
        return measure(bundle, (x, y, z), int(tile), stored=stored, factor=options.factor)
    print("bundle shape dtype tile_voxels imports model read resolved written")
    rows = [("none", size, TILE, "int16") for size in SIZES] + [("none", SIZES[-1], TILE, "float32")]
    rows += [(name, SIZES[0], TILE, "int16") for name in STREAMED]
    rows += [(name, size, 0, "int16") for name in STREAMED for size in SIZES[1:]]
    for bundle, shape, tile, stored in rows:
        one = ["--one", bundle, "x".join(map(str, shape)), str(tile), stored]
        subprocess.run([sys.executable, __file__, *one], check=True)
    return None


if __name__ == "__main__":
    main()
