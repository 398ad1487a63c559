"""Maps beside a result as DICOM parametric maps (float) of its series, by highdicom."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..grid import Image
from .attributes import get
from .dataset import pydicom_silent
from .derive import MadeBy
from .late import pydicom
from .segmentation_out import about, finish, import_highdicom, slices_of
from .series import Series

UNITS = {"CT": ("[hnsf'U]", "UCUM", "Hounsfield unit"), "MR": ("1", "UCUM", "no units")}
"""Of the values of an image and of their differences."""

QUANTITIES = {"uncertainty": ("386136009", "SCT", "Standard deviation"), "consistency": ("110817", "DCM", "Difference")}


def write_parametric_map(image: Image, kind: str, series: Series, path: Path, *, made_by: MadeBy) -> Path:
    """Write a map as a parametric map of a series. The same map and series give the same bytes.

    Args:
        image: (1, X, Y, Z) on the slices of the series; ``slice_positions`` in the metadata gives uneven ones.
        kind: "consistency" or "uncertainty".
        series: that it is about; of a result found with ``own_results``.
        path: file to write.
        made_by: what made the result.

    Raises:
        UsageError: highdicom is not installed (E-SEG-INSTALL).
        ImageError: the map is not on the slices of the series (E-MASK-GRID).
        OutputError: it cannot be written.
    """
    hd = import_highdicom()
    stored = slices_of(image, series).astype(np.float32)
    lowest, highest = float(stored.min()), float(stored.max())
    seed = f"{series.uid} {kind} {sha256(stored.tobytes()).hexdigest()} {sorted(made_by.options.texts().items())}"
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=kind.upper(),
        lut_explanation=kind,
        unit=hd.sr.CodedConcept(*UNITS[series.modality]),
        value_range=(lowest, highest),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(*QUANTITIES[kind]),
    )
    window = hd.VOILUTTransformation(
        window_center=(lowest + highest) / 2, window_width=max(highest - lowest, 1e-6), voi_lut_function="LINEAR_EXACT"
    )
    recognizable = get(series.frames[0].header, "RecognizableVisualFeatures") == "YES"
    with pydicom_silent():
        made = hd.pm.ParametricMap(
            pixel_array=stored[..., None],
            real_world_value_mappings=[[mapping]],
            contains_recognizable_visual_features=recognizable,
            voi_lut_transformations=[window],
            content_label=kind.upper(),
            **about(hd, series, seed, made_by),
        )
        if not made.get("BodyPartExamined"):
            made.Laterality = None  # it may be a paired organ
        finish(made, series, kind.capitalize(), seed, made_by)
        write_atomically(path, lambda file: pydicom.dcmwrite(file, made_by.released(made)))
    return path
