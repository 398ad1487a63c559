"""The volumes of a case to turn and cut at will: one page with NiiVue and both volumes in it, about 3 to 10 MB.

NiiVue (BSD-2-Clause, 2.3 MB of JavaScript) is not part of monai-sr: ``npm pack @niivue/niivue@0.69.0``
brings it, and the environment variable ``MONAI_SR_NIIVUE`` names its ``niivue.umd.js``.
"""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path

import nibabel as nib
import numpy as np

from ..acquired import Acquired
from ..errors import UsageError
from ..grid import Grid, Image, grid_of
from ..intensities import as_array
from ..io.images import as_stored
from .page import asset, script_json, write_page
from .views import Scene

VARIABLE = "MONAI_SR_NIIVUE"

LARGEST = 8_000_000
"""Voxels of a volume in the page; larger ones are averaged down."""

_POLICY = {"worker-src": "blob:", "connect-src": "data: blob:", "img-src": "data: blob:", "font-src": "data:"}
"""What NiiVue needs besides: its font and color maps are inside it."""


def niivue_script(environment: Mapping[str, str] = os.environ) -> Path:
    """Where NiiVue's ``niivue.umd.js`` is.

    Raises:
        UsageError: E-EXTRA, the variable is not set or names no file.
    """
    given = environment.get(VARIABLE, "")
    path = Path(given)
    if not given or not path.is_file():
        problem = f"the viewer needs NiiVue, and {VARIABLE} names {path if given else 'no file'}"
        fix = f"npm pack @niivue/niivue@0.69.0, unpack it, and set {VARIABLE} to its dist/niivue.umd.js"
        raise UsageError("E-EXTRA", problem, fix=fix)
    return path


def write_viewer(
    path: str | Path, image: Image | Acquired, sr: Image, *, name: str = "", output_sha256: str = ""
) -> Path:
    """Write a page with both volumes in it, to be cut along three planes and seen in three dimensions.

    Volumes hold 256 gray levels of the window they are shown in, and are averaged down where they are
    large: to look at, not to measure.

    Args:
        path: where.
        image: (C, X, Y, Z) the acquired volume, or what is known of it already; of several, the first is shown.
        sr: (C, X', Y', Z') the result.
        name: what to call it.
        output_sha256: of the file of the result, by which a later run knows that the page is of it.

    Raises:
        UsageError: ``MONAI_SR_NIIVUE`` does not name NiiVue.
        OutputError: it cannot be written.
    """
    library = niivue_script()
    acquired = image if isinstance(image, Acquired) else Acquired.of(image, refined=grid_of(sr))
    scene = Scene.of(acquired)
    window = next(iter(scene.windows.presets.items()))
    volumes, steps = [], set()
    # NiiVue lays every volume on the grid of the first: on that of the result nothing is lost
    for label, volume, grid in (("sr", as_array(sr), grid_of(sr)), ("thick", acquired.array, acquired.grid)):
        packed, step = _packed(as_stored(volume[0], scene.stored), grid, window[1])
        steps |= step
        volumes.append({"name": label, "nifti": packed})
    button = '<button type="button" data-do="show" data-value="{}" aria-pressed="false">{}<kbd>{}</kbd></button>'
    buttons = button.format("thick", "Thick", 1) + button.format("sr", "SR", 3)
    coarse = " Averaged down to fit." if steps else ""
    unit = " HU" if scene.modality == "CT" else ""
    return write_page(
        Path(path),
        "viewer.html",
        "viewer.js",
        library=library.read_text(encoding="utf-8").replace("</script", "<\\/script"),
        allowed=_POLICY,
        title=escape(f"{name or 'Volumes'} - monai-sr viewer"),
        heading=escape(name or "Volumes"),
        summary=script_json({"kind": "viewer", "output_sha256": output_sha256}),
        note=escape(f"Window: {window[0]}, {window[1][0]:.4g} to {window[1][1]:.4g}{unit}.{coarse}"),
        buttons=buttons,
        data=script_json(volumes),
        notice=escape(asset("niivue.license.txt").rstrip()),
    )


def _packed(voxels: np.ndarray, grid: Grid, window: tuple[float, float]) -> tuple[str, set[int]]:
    """A NIfTI file of 8 bits, compressed, in base64; and by what in-plane voxels were averaged, if at all."""
    low, high = window
    voxels = np.clip((voxels.astype(np.float32) - low) * (255 / max(high - low, 1e-12)), 0, 255)
    affine = grid.affine.copy()
    steps = set()
    while voxels.size > LARGEST:
        axis = int(np.argmin(np.linalg.norm(affine[:3, :3], axis=0)))  # the finest, so that voxels stay alike
        pairs = voxels.shape[axis] // 2
        first, second = (np.take(voxels, np.arange(pairs) * 2 + k, axis=axis) for k in (0, 1))
        voxels = (first + second) / 2
        affine[:3, 3] += affine[:3, axis] / 2
        affine[:3, axis] *= 2
        steps.add(axis)
    image = nib.Nifti1Image(np.rint(voxels).astype(np.uint8), affine)
    image.header.set_slope_inter((high - low) / 255, low)
    image.header["cal_min"], image.header["cal_max"] = low, high
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode(), steps
