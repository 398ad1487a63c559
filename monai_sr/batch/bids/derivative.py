"""The BIDS derivative dataset that results make: description, README, and a JSON file beside each image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...acquired import Acquired
from ...errors import OutputError, write_error
from ...files import write_json, write_text
from ...grid import SAME_SPACING, Grid
from .raw import DESCRIPTION, RAW, BidsImage, read_description

BIDS_VERSION = "1.11.1"
PACKAGE = "monai-sr"

KEPT = (
    *("Modality", "Manufacturer", "ManufacturersModelName", "MagneticFieldStrength", "MRAcquisitionType"),
    *("PulseSequenceType", "ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "EchoTime"),
    *("EchoTrainLength", "RepetitionTime", "RepetitionTimeExcitation", "RepetitionTimePreparation", "InversionTime"),
    *("FlipAngle", "NumberShots", "MTState", "PhaseEncodingDirection", "SliceEncodingDirection", "PixelBandwidth"),
    *("ContrastBolusIngredient", "BodyPart", "BodyPartExamined", "Units", "TaskName"),
    *("XRayTubeVoltage", "ConvolutionKernel"),
)
"""What still holds of a result. Whatever else may point to a patient, a place or a date."""

# "ct" and not "ct/": the validator (3.0.2) asks for folders without their slash
IGNORED = ("monai-sr-*", "*.html", "*.png", "ct")
"""What our datasets hold besides BIDS: files about the run, reports, and CT."""

README = """# Thin slices by monai-sr

Volumes of thin slices, computed by monai-sr from the thick slices of the dataset that `DatasetLinks` in
`dataset_description.json` names. The JSON file beside each volume names its source and gives how far apart
and how thick the acquired slices were. Voxel size is not resolution. Research only, not for diagnosis.
"""

DOCKER_MARK = Path("/.dockerenv")


def derivative_sidecar(source: BidsImage, acquired: Acquired, result: Grid) -> dict[str, Any]:
    """The JSON that belongs beside a result, at ``source.target`` with the suffix ``.json``.

    Args:
        source: the image that the result was made from.
        acquired: the volume that was read from it.
        result: grid of the result.

    Raises:
        ImageError: the metadata of the source cannot be read.
    """
    content = {name: source.metadata[name] for name in KEPT if source.metadata.get(name) is not None} | {
        "Description": "Thin slices that agree with the acquired ones. Research only, not for diagnosis.",
        "Sources": [source.uri],
        "SpatialReference": source.uri,
        "SkullStripped": source.metadata.get("SkullStripped") is True,
    }
    before, after = acquired.slice_spacing, result.spacing[acquired.axis]
    if before <= after * (1 + SAME_SPACING):
        content["Resolution"] = "as acquired, the slices were thin already"
        return content | ({"SliceThickness": source.slice_thickness} if source.slice_thickness else {})
    thickness = float(np.median(acquired.slice_thickness))
    return content | {
        "Resolution": f"slices {after:.4g} mm apart, computed from slices {before:.4g} mm apart and {thickness:.4g} mm "
        "thick; in-plane as acquired. Voxel size is not resolution.",
        "SliceThickness": round(after, 6),
        "SpacingBetweenSlices": round(after, 6),
        "AcquiredSliceThickness": round(thickness, 6),
        "AcquiredSpacingBetweenSlices": round(before, 6),
    }


def fused_sidecar(sources: Sequence[BidsImage], result: Grid) -> dict[str, Any]:
    """The JSON that belongs beside a volume that stacks were fused to: of their metadata what all agree on.

    Args:
        sources: the images of the stacks.
        result: grid of the volume.

    Raises:
        ImageError: the metadata of a source cannot be read.
    """
    first, *others = (source.metadata for source in sources)
    kept = {name: first[name] for name in KEPT if first.get(name) is not None}
    return {name: value for name, value in kept.items() if all(other.get(name) == value for other in others)} | {
        "Description": "One volume that agrees with several stacks of thick slices. Research only, not for diagnosis.",
        "Sources": [source.uri for source in sources],
        "SpatialReference": sources[0].uri,
        "SkullStripped": all(source.metadata.get("SkullStripped") is True for source in sources),
        "SliceThickness": round(result.spacing[2], 6),
    }


def write_dataset_description(
    out_dir: str | Path,
    *,
    raw_root: str | Path,
    environment: Mapping[str, str] = os.environ,
    content: str = "Thin slices",
    links: Mapping[str, Path] | None = None,
) -> Path:
    """Make a folder a BIDS derivative dataset: description, README and ``.bidsignore``.

    May be called again, also by several processes at once: what is right already stays as it is.

    Args:
        out_dir: the derivative dataset; made if it is absent.
        raw_root: the raw dataset; named by its path relative to ``out_dir``.
        environment: names the container that we run in.
        content: what the dataset holds, for its name.
        links: other datasets by their names in URIs; a dataset of monai-sr that is there gets them, and keeps its name.

    Returns:
        Path of the description.

    Raises:
        OutputError: another dataset is there, or it cannot be written to.
        ImageError: a description cannot be read.
    """
    out_dir, raw_root = Path(out_dir), Path(raw_root)
    path = out_dir / DESCRIPTION
    there = read_description(out_dir)
    described = _described(read_description(raw_root), raw_root.resolve(), out_dir.resolve(), environment, content)
    if links:
        others = {name: _link(root.resolve(), out_dir.resolve()) for name, root in links.items()}
        described |= {"Name": there["Name"]} if _is_ours(there) and "Name" in there else {}
        described["DatasetLinks"] = (there.get("DatasetLinks") or described["DatasetLinks"]) | others
    if there and not (_is_ours(there) and there.get("Name") == described["Name"]):
        raise OutputError(
            "E-OUT-EXISTS",
            f"the dataset {there.get('Name', 'without a name')!r} is there, {described['Name']!r} is to be written",
            path=path,
        )
    ignore = out_dir / ".bidsignore"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        ignored = ignore.read_text(encoding="utf-8").splitlines() if ignore.exists() else []
    except OSError as error:
        raise write_error(out_dir, error) from error
    if not set(IGNORED) <= set(ignored):
        write_text("\n".join([*dict.fromkeys([*ignored, *IGNORED]), ""]), ignore)
    if not any(out_dir.glob("README*")):
        write_text(README.rstrip() + "\n", out_dir / "README.md")
    if there != described:
        write_json(described, path)
    return path


def _is_ours(description: Mapping[str, Any]) -> bool:
    makers = description.get("GeneratedBy")
    ours = isinstance(makers, list) and any(isinstance(m, dict) and m.get("Name") == PACKAGE for m in makers)
    return description.get("DatasetType") == "derivative" and ours


def _link(root: Path, out_dir: Path) -> str:
    """The path of a dataset relative to another, as a URI."""
    return quote(os.fsencode(Path(os.path.relpath(root, out_dir)).as_posix()))


def _described(
    raw: dict[str, Any], raw_root: Path, out_dir: Path, environment: Mapping[str, str], content: str
) -> dict[str, Any]:
    maker: dict[str, Any] = {
        "Name": PACKAGE,
        "Version": version(PACKAGE),
        "Description": "super-resolution across the slices of CT and MR; research only, not for diagnosis",
    }
    container = _container(environment)
    return {
        "Name": f"{content} of {raw.get('Name') or raw_root.name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [maker | ({"Container": container} if container else {})],
        "DatasetLinks": {RAW: _link(raw_root, out_dir)},
        **({"SourceDatasets": [{"DOI": raw["DatasetDOI"]}]} if raw.get("DatasetDOI") else {}),
        # a result is still made of the data of its source
        **{name: raw[name] for name in ("License", "HowToAcknowledge") if raw.get(name)},
    }


def _container(environment: Mapping[str, str]) -> dict[str, str]:
    """The container that we run in, as its runtime names it; never a path."""
    for runtime in ("apptainer", "singularity"):
        if name := environment.get(f"{runtime.upper()}_NAME"):
            return {"Type": runtime, "Tag": name}
    return {"Type": "docker"} if DOCKER_MARK.exists() else {}
