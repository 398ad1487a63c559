"""The record of a result: the JSON beside it. It describes how the result was made; a run resumes by it.

``record.md`` describes it field by field, ``record.schema.json`` is its JSON Schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..acquired import Acquired
from ..dicom import MadeBy, Series, acquisition
from ..dicom.deidentify import EDITION, Pseudonyms
from ..engine.memory import peak_mib
from ..errors import ImageError, OutputError, SuperResolutionWarning, UsageError, warn
from ..files import write_json
from ..grid import Image, grid_of
from ..io.images import READ_SUFFIXES, image_suffix
from ..io.nifti import is_super_resolved
from ..io.shelf import NAMES
from ..options import Outputs, RunOptions

if TYPE_CHECKING:
    from ..bundles import Model
    from .planned import Planned

RECORD_VERSION = 2
"""Of the block ``monai_sr``; a later monai-sr writes a higher one. Version 1 has warnings and options as texts."""

INTENDED_USE = "research only, not for diagnosis"


def sidecar_path(target: Path) -> Path:
    """The JSON beside a result."""
    return target.with_name(f"{stem_of(target)}.json")


def report_path(target: Path) -> Path:
    """The page beside a result."""
    return sidecar_path(target).with_suffix(".html")


def stem_of(path: Path) -> str:
    """The name of an image file without its suffix; of a folder its name."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix in (*READ_SUFFIXES, ".dcm") else path.name


def record_beside(target: Path) -> dict[str, Any] | None:
    """The block ``monai_sr`` of the JSON beside a result; None without one."""
    try:
        content = json.loads(sidecar_path(target).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    record = content.get("monai_sr") if isinstance(content, dict) else None
    return record if isinstance(record, dict) else None


def is_own_result(path: Path) -> bool:
    """Whether an image file is a result of ours, by the record beside it or its own header."""
    return record_beside(path) is not None or is_super_resolved(path)


def resolve_options(options: RunOptions, model: Model | Planned) -> RunOptions:
    """The options that apply: with the defaults of the bundle, the engine that runs, and the bundle by its name."""
    names = {folder: short for short, folder in NAMES.items()}
    wanted = options.wanted.or_else(model.defaults.wanted)
    engine: dict[str, Any] = {}
    if model.engine.name:
        engine = {"engine": model.engine.name, "precision": model.engine.precision}
    return replace(
        options,
        wanted=replace(wanted, bundle=names.get(model.name, model.name)),
        acquisition=options.acquisition.or_else(model.defaults.acquisition),
        compute=replace(options.compute, **engine),
    )


def made_by(options: RunOptions, model: Model | Planned) -> MadeBy:
    """The options and weights that decide a result, besides its input; ``options`` as of :func:`resolve_options`."""
    pseudonyms = Pseudonyms.load() if options.wanted.deidentify else None
    return MadeBy(model.name, model.version, model.weights_sha256, options.deciding(), pseudonyms)


def head_of_record(made: MadeBy | None = None) -> dict[str, Any]:
    """The first fields of every record: its version, that of monai-sr, the intended use, and the provenance."""
    ours = version("monai-sr")
    head: dict[str, Any] = {"record": RECORD_VERSION, "monai_sr_version": ours, "intended_use": INTENDED_USE}
    if made is None:
        return head
    if made.pseudonyms is not None:
        head["deidentified"] = {"profile": "Basic", "edition": EDITION, "secret": made.pseudonyms.id}
    return head | {name: getattr(made, name) for name in ("bundle", "bundle_version", "weights_sha256")}


def describe_result(
    sr: Image, acquired: Acquired, made: MadeBy, options: RunOptions, *, series: Series | None = None
) -> dict[str, Any]:
    """The JSON beside a result: BIDS fields on how it was acquired and made, and the block ``monai_sr``.

    Args:
        sr: the result.
        acquired: the volume that it was made of.
        made: what made it.
        options: as of :func:`resolve_options`.
        series: the DICOM series that it was made from.
    """
    content = {} if series is None else acquisition(series)
    if series is not None:
        content["FilledSlices"] = [int(i) for i in sr.meta.get("filled_slices", ())]
        content["PaddingShare"] = round(sr.meta.get("padding_share", 0.0), 4)
        if made.pseudonyms is not None:
            content.pop("SeriesPart", None)  # which may be a time of day
    return content | {
        "SpacingBetweenSlices": round(grid_of(sr).spacing[acquired.axis], 6),
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr"), "Description": made.bundle}],
        "monai_sr": head_of_record(made)
        | {
            "options": _reproducing(options).to_dict(),
            "acquired": acquired.record(),
            "factor_outside_training": sr.meta.get("outside_training"),
            "outside_training": sr.meta.get("outside_ranges", {}),
        },
    }


def essentials(content: Mapping[str, Any]) -> dict[str, Any]:
    """The main facts of a result, from the JSON beside it: for tables, and for the line that a run shows."""
    block = content["monai_sr"]
    acquired, consistency = block["acquired"], block.get("consistency", {})
    profile = acquired.get("slice_profile", {})
    before, after = (block.get("resolution", {}).get(when, {}) for when in ("before", "after"))
    return {
        "factor": float(f"{acquired['slice_spacing']['value'] / content['SpacingBetweenSlices']:.4g}"),
        "slice_spacing": content["SpacingBetweenSlices"],
        "slice_thickness": acquired["slice_thickness"]["value"],
        "slice_thickness_source": acquired["slice_thickness"]["source"],
        "slice_profile": profile.get("value"),
        "slice_profile_source": profile.get("source"),
        "score": consistency.get("score"),
        "limit": consistency.get("limit"),
        "within_limit": consistency.get("within_limit"),
        "resolution_before": before.get("mm"),
        "resolution_before_bounded": before.get("bounded"),
        "resolution": after.get("mm"),
        "resolution_bounded": after.get("bounded"),
    }


def _reproducing(options: RunOptions) -> RunOptions:
    """What gives the same result and maps again, by no path and no text of a header."""
    outputs = options.outputs
    kept = Outputs(consistency_map=outputs.consistency_map, uncertainty=outputs.uncertainty)
    decided = options.deciding()
    return replace(
        decided,
        wanted=replace(decided.wanted, format=options.wanted.format, strict=options.wanted.strict),
        compute=replace(decided.compute, device=options.compute.device),
        outputs=replace(kept, report=outputs.report, viewer=outputs.viewer, preview=outputs.preview),
    )


def write_record(
    target: Path,
    content: dict[str, Any],
    *,
    input_sha256: str,
    notices: Iterable[SuperResolutionWarning],
    seconds: float,
) -> None:
    """Complete the content of :func:`describe_result` and write it beside the result, which is there.

    Args:
        target: the result.
        content: completed in place.
        input_sha256: see :func:`sha256_of`.
        notices: warnings about the result.
        seconds: that it took.

    Raises:
        OutputError: it cannot be written.
    """
    content["monai_sr"] |= {
        "input_sha256": input_sha256,
        "output_sha256": sha256_of_result(target),
        "warnings": [notice.to_record() for notice in notices],
        "seconds": round(seconds, 3),
        "peak_memory_mib": round(peak_mib(), 1),
    }
    write_json(content, sidecar_path(target))


def sha256_of(paths: Iterable[Path]) -> str:
    """The hash of the content of files, one after the other.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of_result(target: Path) -> str:
    """The hash of a result: a file, or a folder of DICOM files in the order of their names."""
    return sha256_of(sorted(target.iterdir()) if target.is_dir() else [target])


def check_record(target: Path) -> dict[str, Any] | None:
    """The record beside a result, with ``is_as_recorded``; None for what has no record.

    Warns if the result was changed since (W-OUT-CHANGED).
    """
    record = record_beside(target) if target.exists() else None
    if record is None or "output_sha256" not in record:
        return None
    found = sha256_of_result(target)
    as_recorded = record["output_sha256"] == found
    if not as_recorded:
        text = "this result was changed since monai-sr wrote it (SHA-256 {found}, {recorded} is recorded)"
        warn("W-OUT-CHANGED", text, path=target, facts={"found": found, "recorded": record["output_sha256"]})
    return record | {"is_as_recorded": as_recorded}


def is_done(target: Path, made: MadeBy, *, input_sha256: str, unfinished: bool, overwrite: bool, again: bool) -> bool:
    """Whether a result is there and complete; if not, whether it may be written.

    A result of ours is made again if input, options or weights have changed.

    Args:
        target: the result.
        made: what is to make it.
        input_sha256: see :func:`sha256_of`.
        unfinished: a process of monai-sr died while it made the result.
        overwrite: also replace files that are not ours, or were changed.
        again: make it again in any case; then the header alone is enough to identify a result of ours.

    Raises:
        OutputError: E-OUT-EXISTS, what is there is not ours or was changed; E-VER, a later monai-sr made it.
    """
    record, json_there = record_beside(target), sidecar_path(target).exists()
    if not target.exists() and (record is not None or not json_there):
        return False
    if record is not None and record.get("record", 0) > RECORD_VERSION:
        problem = f"it was made by a newer monai-sr (record version {record['record']}, {RECORD_VERSION} is known)"
        raise OutputError("E-VER", problem, path=target)
    if unfinished or (record is not None and "output_sha256" not in record):
        return False
    if again and not json_there and is_super_resolved(target):
        return False
    if record is None or record["output_sha256"] != sha256_of_result(target):
        if overwrite:
            return False
        what = "it is not a result of monai-sr" if record is None else "it was changed since it was written"
        problem = f"it exists already, and {what}"
        fix = "move it away, or give --overwrite"
        raise OutputError("E-OUT-EXISTS", problem, fix=fix, path=target if target.exists() else sidecar_path(target))
    if again or record["input_sha256"] != input_sha256:
        return False
    same = all(record[key] == getattr(made, key) for key in ("bundle", "bundle_version", "weights_sha256"))
    same &= record.get("deidentified") == head_of_record(made).get("deidentified")
    return same and _decided_by(record) == made.options


def _decided_by(record: Mapping[str, Any]) -> RunOptions | None:
    """The options that decided a result; None if the record has unknown options."""
    try:
        return RunOptions.from_dict(record["options"]).deciding()
    except (UsageError, KeyError, AttributeError):
        return None


def stamps(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Sizes and times of change of files, to notice changes while they are read.

    Raises:
        ImageError: one is gone or may not be read.
    """
    try:
        return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]
    except OSError as error:
        raise ImageError("E-IO-READ", f"cannot be read ({error.strerror})") from error
