"""A picture of a result beside the acquired slices, without a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..acquired import Acquired
from ..files import write_atomically
from ..grid import Image
from .page import summary_element
from .pictures import picture_of
from .png import png_bytes
from .views import Scene

PIXELS, GAP = 512, 8
"""On the longer side of a plane, and between two."""


def write_preview(path: Path, acquired: Acquired, sr: Image, *, output_sha256: str = "") -> None:
    """Write a PNG of a plane that shows the slices from the side: as acquired on the left, the result on the right.

    Args:
        path: where; the file appears whole or not at all.
        acquired: the volume; of several, the first is shown.
        sr: (C, X', Y', Z') the result.
        output_sha256: of the file of the result, kept as a comment, by which a preview of ours is known.

    Raises:
        OutputError: it cannot be written.
    """
    scene = Scene.of(acquired, sr)
    thick, thin = (picture_of(scene, layer, PIXELS) for layer in ("thick", "sr"))
    pixels = np.hstack([thick, np.full((len(thick), GAP), 255, np.uint8), thin])
    comment = summary_element({"kind": "preview", "output_sha256": output_sha256})
    write_atomically(path, lambda file: file.write(png_bytes(pixels, comment=comment)))
