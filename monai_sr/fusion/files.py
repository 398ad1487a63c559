"""Stacks from files into one file, with the record beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..batch import check_target
from ..batch.model import load_model
from ..batch.record import (
    INTENDED_USE,
    RECORD_VERSION,
    is_own_result,
    resolve_options,
    sha256_of,
    write_record,
)
from ..engine import Progress
from ..engine.memory import reset_peak
from ..engine.selection import describe_engine
from ..errors import (
    OutputError,
    SuperResolutionWarning,
    collect_notices,
    give,
)
from ..grid import grid_of, on_grid
from ..io.images import image_suffix, write_image
from ..options import RunOptions
from ..trust.resolution import METHOD
from .fuse import Fused, fuse
from .sources import Source, read_sources
from .stacks import Field


def fuse_files(
    sources: Sequence[str | Path],
    target: str | Path,
    options: RunOptions | None = None,
    *,
    field: Field = "union",
    register: bool = True,
    maps: bool = False,
    progress: Progress | None = None,
) -> tuple[Fused, list[Path]]:
    """Fuse stacks from files and write the result with the record beside it.

    Args:
        sources: NIfTI, NRRD or MetaImage files, or folders or zips of one DICOM series each; or one folder or zip of
            a DICOM study, of which the series of one contrast and frame of reference are chosen.
        target: the file to write.
        options: bundle, spacing, how to read and to compute; those of the acquisition hold for every stack.
        field, register: see :func:`monai_sr.fusion.fuse.fuse`.
        maps: also write which stack measured closest to each voxel.
        progress: called with the fraction that is done.

    Returns:
        What was made, and the files that were written.

    Raises:
        SuperResolutionError: as of :func:`monai_sr.fusion.fuse.fuse`; a stack cannot be read, is of another patient
            (E-FUSE-UNLIKE), or the result cannot be written.
    """
    started, target, options = time.monotonic(), Path(target), options or RunOptions()
    reset_peak()
    paths = [Path(source) for source in sources]
    for path in paths:
        check_target(path, target)
    beside = [target, *([stacks_map_path(target)] if maps else [])]
    for path in beside:
        _check_replaceable(path, overwrite=options.outputs.overwrite)
    with _noting() as notices:
        model = load_model(options)
        stacks = read_sources(paths, options)
        fused = fuse(
            [stack.acquired for stack in stacks],
            model,
            spacing=options.wanted.spacing,
            field=field,
            register=register,
            names=[stack.name for stack in stacks],
            strict=options.wanted.strict,
            progress=progress,
        )
        write_image(fused.image, target)
        if maps:
            nearest = on_grid(fused.nearest[None].float(), grid_of(fused.image), fused.image)
            nearest.meta["super_resolved"] = True
            write_image(nearest, beside[1], dtype="uint8")
    content = describe_fusion(fused, stacks)
    content["GeneratedBy"][0]["Description"] = model.name
    content["monai_sr"] |= {
        "bundle": model.name,
        "bundle_version": model.version,
        "weights_sha256": model.weights_sha256,
        "options": resolve_options(options, model).deciding().to_dict(),
        "engine": describe_engine(model.engine),
        "device": str(model.device),
    }
    content["monai_sr"]["fusion"] |= {"field": field, "register": register}
    digest = sha256_of(file for stack in stacks for file in stack.files)
    write_record(target, content, input_sha256=digest, notices=notices, seconds=time.monotonic() - started)
    return fused, beside


def stacks_map_path(target: Path) -> Path:
    """Where the map of the stacks belongs: ``fused_stacks.nii.gz`` beside ``fused.nii.gz``."""
    return target.with_name(f"{target.name[: -len(image_suffix(target))]}_stacks.nii.gz")


def describe_fusion(fused: Fused, sources: Sequence[Source]) -> dict[str, Any]:
    """The JSON beside a result: how each stack was used, and how far the result agrees with it; no names of files."""
    return {
        "SpacingBetweenSlices": round(grid_of(fused.image).spacing[2], 6),
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr")}],
        "monai_sr": {
            "record": RECORD_VERSION,
            "monai_sr_version": version("monai-sr"),
            "intended_use": INTENDED_USE,
            "fusion": {
                "stacks": [
                    stack.record() | {"input_sha256": sha256_of(source.files)}
                    for stack, source in zip(fused.stacks, sources, strict=True)
                ],
                "voxels_by_stacks": torch.bincount(fused.count.flatten(), minlength=len(sources) + 1).tolist(),
                "resolution": {"method": METHOD, "axes": [fused.resolution(axis).record() for axis in range(3)]},
            },
        },
    }


@contextmanager
def _noting() -> Iterator[list[SuperResolutionWarning]]:
    """Warnings that are kept for the record and given to whoever collects outside, also where an error ends it."""
    notices: list[SuperResolutionWarning] = []
    try:
        with collect_notices() as inner:
            try:
                yield notices
            finally:
                notices += inner
    finally:
        for notice in notices:
            give(notice)


def _check_replaceable(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what monai-sr did not write."""
    if path.exists() and not overwrite and not is_own_result(path):
        raise OutputError(
            "E-OUT-EXISTS",
            "it exists already, and it is not a result of monai-sr",
            fix="move it away, or give --overwrite",
            path=path,
        )
