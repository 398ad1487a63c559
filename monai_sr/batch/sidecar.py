"""What the JSON beside a result tells."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from monai.data import MetaTensor

from ..acquired import Acquired
from ..dicom import MadeBy, acquisition
from ..grid import grid_of
from .cases import Case
from .records import made_by_block


def describe(sr: MetaTensor, acquired: Acquired, made_by: MadeBy, case: Case) -> dict[str, Any]:
    """The JSON beside a result: BIDS fields on how it was acquired and made, and the block ``monai_sr``."""
    block = made_by_block(made_by) | {"factor_outside_training": sr.meta.get("outside_training")}
    block |= {"outside_training": sr.meta.get("outside_ranges", {}), "slice_profile": sr.meta.get("slice_profile")}
    block |= {"acquired": acquired.record(), "intended_use": "research only, not for diagnosis"}
    content = {} if case.series is None else acquisition(case.series)
    if case.series is not None:
        content["FilledSlices"] = [int(i) for i in sr.meta.get("filled_slices", ())]
        content["PaddingShare"] = round(sr.meta.get("padding_share", 0.0), 4)
    return content | {
        "SpacingBetweenSlices": round(grid_of(sr).spacing[acquired.axis], 6),
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr"), "Description": made_by.bundle}],
        "monai_sr": block,
    }
