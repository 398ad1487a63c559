"""Speed and size of gzip by zlib and by ISA-L, on the voxels of any volume as int16.

``python -m tests.benchmarks.compression VOLUME…`` prints, for each level, MB/s of processor time (the
best of three) and what is left of the size. :data:`monai_sr.io.nifti.COMPRESSION` follows from it.
"""

from __future__ import annotations

import argparse
import time
import zlib

import numpy as np
from isal import isal_zlib

from monai_sr.io.images import as_stored, read_image

LEVELS = [(zlib, level) for level in (1, 3, 6)] + [(isal_zlib, level) for level in (0, 1, 2, 3)]


def main() -> None:
    """A row for each volume and level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volumes", nargs="+", metavar="VOLUME")
    for path in parser.parse_args().volumes:
        voxels = as_stored(read_image(path)[0].numpy(), np.dtype("int16")).tobytes(order="F")
        for library, level in LEVELS:
            best, size = float("inf"), 0
            for _ in range(3):
                started = time.process_time()
                size = len(library.compress(voxels, level))
                best = min(best, time.process_time() - started)
            speed, left = len(voxels) / 1e6 / best, 100 * size / len(voxels)
            print(f"{path} {library.__name__} level {level}: {speed:.0f} MB/s, {left:.1f} % of the size", flush=True)


if __name__ == "__main__":
    main()
