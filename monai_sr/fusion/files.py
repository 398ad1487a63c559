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
from ..batch.attempt import attempt, hold_case
from ..batch.bids import fused_sidecar
from ..batch.case import write_result
from ..batch.claims import ClaimedError
from ..batch.companions import describe_companions, map_path, remove_maps, write_map, write_maps
from ..batch.log import ALREADY_DONE, CLAIMED, Outcome
from ..batch.model import load_model
from ..batch.pages import CasePage
from ..batch.reading import decide_format
from ..batch.record import (
    head_of_record,
    made_by,
    record_beside,
    resolve_options,
    sha256_of,
    sidecar_path,
    write_record,
)
from ..bundles import Model
from ..engine import Progress
from ..engine.memory import reset_peak
from ..engine.selection import describe_engine
from ..errors import OutputError, SuperResolutionWarning, collect_notices, give
from ..files import write_json
from ..grid import grid_of, on_grid
from ..options import NOTICE, RunOptions
from ..trust.resolution import METHOD
from .cases import FusionCase
from .fuse import Fused, fuse
from .options import FusionOptions
from .page import write_page_of
from .sources import Source, find_sources, read_stacks

MAP_DESCRIPTION = "Which stack measured closest to each voxel, from 1; 0 for none."


def fuse_files(
    sources: Sequence[str | Path],
    target: str | Path,
    options: RunOptions | None = None,
    *,
    fusion: FusionOptions | None = None,
    progress: Progress | None = None,
) -> tuple[Fused, list[Path]]:
    """Fuse stacks from files and write the result with the record beside it.

    Args:
        sources: NIfTI, NRRD or MetaImage files, or folders or zips of one DICOM series each; or one folder or zip of
            a DICOM study, of which the series of one contrast and frame of reference are chosen.
        target: the file to write.
        options: bundle, spacing, how to read and to compute; those of the acquisition hold for every stack.
        fusion: the options of a fusion alone.
        progress: called with the fraction that is done.

    Returns:
        What was made, and the files that were written.

    Raises:
        SuperResolutionError: as of :func:`monai_sr.fusion.fuse.fuse`; a stack cannot be read, is of another patient
            (E-FUSE-UNLIKE), or the result cannot be written or is worked on by another process.
    """
    target, options = Path(target), options or RunOptions()
    reset_peak()
    paths = [Path(source) for source in sources]
    for path in paths:
        check_target(path, target)
    with _noting() as notices:
        stacks = tuple(find_sources(paths, options))
        case = FusionCase(target.name, paths[0], target, is_named=True, stacks=stacks)
        try:
            page = CasePage(case, options.outputs)
            model, chosen = load_model(options), fusion or FusionOptions()
            fused = _fuse_case(case, options, model, chosen, notices, page, None, progress)
        except ClaimedError as error:
            raise OutputError("E-OUT-EXISTS", CLAIMED, fix="wait for it, or name another file", path=target) from error
    assert fused is not None, "what was named is made again"
    return fused, [target, *_maps_of(target, options, chosen), *([Path(page.written)] if page.written else [])]


def process_stacks(
    case: FusionCase,
    options: RunOptions,
    model: Model,
    *,
    fusion: FusionOptions,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Fuse the stacks of one case, unless that is done; never raises but for an interruption.

    As :func:`monai_sr.batch.process`, for :func:`monai_sr.batch.run_cases`.
    """

    def story(notices: list[SuperResolutionWarning], page: CasePage) -> Outcome:
        fused = _fuse_case(case, options, model, fusion, notices, page, memory, progress)
        if fused is None:
            return Outcome(case.name, "skipped", skipped=ALREADY_DONE)
        change = f"{len(fused.stacks)} stacks -> {grid_of(fused.image).in_words()}"
        facts = {
            "slice_spacing": round(grid_of(fused.image).spacing[2], 6),
            "score": max(float(stack.agreement.nrmse) for stack in fused.stacks),
            "resolution": max(fused.resolution(axis).mm for axis in range(3)),
        }
        beside = tuple(map(str, _maps_of(case.target, options, fusion)))
        return Outcome(case.name, "done", change=change, facts=facts, beside=beside)

    return attempt(case, options, story)


def _fuse_case(
    case: FusionCase,
    options: RunOptions,
    model: Model,
    fusion: FusionOptions,
    notices: Sequence[SuperResolutionWarning],
    page: CasePage,
    memory: int | None,
    progress: Progress | None,
) -> Fused | None:
    """Fuse, write, and write the record; None for what is done already."""
    started = time.monotonic()
    options = resolve_options(options, model)
    if case.is_derived_dicom:
        options = decide_format(options, [stack.series for stack in case.stacks if stack.series is not None])
    made, overwrite = made_by(options, model), options.outputs.overwrite
    maps = _maps_of(case.target, options, fusion)
    with hold_case(case, made, overwrite=overwrite) as held:
        if held.is_done and _is_alike(case, fusion) and all(path.exists() for path in maps) and page.is_current:
            return None
        acquired = read_stacks(case.stacks, options)
        held.check_unchanged()
        fused = fuse(
            acquired,
            model,
            spacing=options.wanted.spacing,
            field=fusion.field,
            register=fusion.register,
            names=[stack.name for stack in case.stacks],
            strict=options.wanted.strict,
            memory=memory,
            progress=progress,
        )
        sigma = {"uncertainty": fused.uncertainty()} if options.outputs.uncertainty else {}
        remove_maps(case.target, {"stacks", "uncertainty"})
        if fusion.maps:
            nearest = on_grid(fused.nearest[None].float(), grid_of(fused.image), fused.image)
            write_map(nearest, map_path(case.target, "stacks"), overwrite=overwrite, dtype="uint8")
        held.claim.begin_writing(case.target)
        others = [stack.series for stack in case.stacks[1:]]
        how = f"field={fusion.field} register={fusion.register}"
        write_result(fused.image, case, made, options, others=others, fusion=how)
        first = fused.stacks[0]
        source = case.series if case.is_derived_dicom else None
        write_maps(sigma, case.target, source, acquired=first.acquired, made_by=made, overwrite=overwrite)
        content = describe_fusion(fused, case.stacks, fusion)
        content["GeneratedBy"][0]["Description"] = model.name
        content["monai_sr"] |= {
            "bundle": model.name,
            "bundle_version": model.version,
            "weights_sha256": model.weights_sha256,
            "options": options.deciding().to_dict(),
            "engine": describe_engine(model.engine),
            "device": str(model.device),
        }
        for kind, values in sigma.items():
            known = values[0][fused.count > 0]
            median = float(known.median()) if len(known) else 0.0
            content["monai_sr"][kind] = {"median": float(f"{median:.4g}"), "unit": first.agreement.unit}
        images = [stack.bids for stack in case.stacks if stack.bids is not None]
        if images:
            derived = fused_sidecar(images, grid_of(fused.image))
            content |= derived
            describe_companions(case.target, derived, maps=sigma, masks=())
            if fusion.maps:
                kept = {name: derived[name] for name in ("Sources", "SpatialReference", "SkullStripped")}
                there = sidecar_path(map_path(case.target, "stacks"))
                write_json(kept | {"Description": f"{MAP_DESCRIPTION} {NOTICE}"}, there)
        seconds = time.monotonic() - started
        write_record(case.target, content, input_sha256=held.input_sha256, notices=notices, seconds=seconds)
        record = content["monai_sr"]
        page.show(lambda p: write_page_of(p, fused, case.stacks, name=case.name, record=record, links=page.links))
    return fused


def _maps_of(target: Path, options: RunOptions, fusion: FusionOptions) -> list[Path]:
    """Where the maps belong that were asked for: ``fused_stacks.nii.gz`` beside ``fused.nii.gz``; by BIDS as labels."""
    wanted = {"stacks": fusion.maps, "uncertainty": options.outputs.uncertainty}
    return [map_path(target, kind) for kind, is_wanted in wanted.items() if is_wanted]


def describe_fusion(fused: Fused, sources: Sequence[Source], fusion: FusionOptions) -> dict[str, Any]:
    """The JSON beside a result: how each stack was used, and how far the result agrees with it; no names of files."""
    return {
        "SpacingBetweenSlices": round(grid_of(fused.image).spacing[2], 6),
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr")}],
        "monai_sr": head_of_record()
        | {
            "fusion": {
                "stacks": [
                    stack.record() | {"input_sha256": sha256_of(source.files)}
                    for stack, source in zip(fused.stacks, sources, strict=True)
                ],
                "voxels_by_stacks": torch.bincount(fused.count.flatten(), minlength=len(sources) + 1).tolist(),
                "resolution": {"method": METHOD, "axes": [fused.resolution(axis).record() for axis in range(3)]},
                "field": fusion.field,
                "register": fusion.register,
            }
        },
    }


def _is_alike(case: FusionCase, fusion: FusionOptions) -> bool:
    """Whether a result that is there was made as is wanted: region, registration, and thickness by the BIDS JSON."""
    record = record_beside(case.target) or {}
    try:
        described = record["fusion"]
        alike: list[bool] = [described["field"] == fusion.field, described["register"] == fusion.register]
        for stack, source in zip(described["stacks"], case.stacks, strict=True):
            thickness = stack["acquired"]["slice_thickness"]
            if source.bids is not None and thickness["source"] in ("sidecar", "assumed"):
                said = source.bids.slice_thickness
                alike.append((thickness["value"] if thickness["source"] == "sidecar" else None) == said)
    except (KeyError, TypeError, ValueError):  # of another version, or no fusion
        return False
    return all(alike)


@contextmanager
def _noting() -> Iterator[list[SuperResolutionWarning]]:
    """Warnings that are kept for the record and given to whoever collects outside, also where an error ends it."""
    notices: list[SuperResolutionWarning] = []
    try:
        with collect_notices() as notices:
            yield notices
    finally:
        for notice in notices:
            give(notice)
