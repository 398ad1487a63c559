"""One case from its files to its result and record; whatever goes wrong becomes an outcome."""

from __future__ import annotations

import math
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from monai.data import MetaTensor

from ..bids import derivative_sidecar
from ..bundles import Model, load_bundle
from ..consistency import check_result
from ..dicom import MadeBy, acquisition, write_derived_series
from ..errors import ImageError, ImageWarning, OutputError, SuperResolutionError, UsageError, write_error
from ..grid import Grid
from ..images import image_suffix, read_dicom, read_image, read_labels, refuse_file_options, write_image
from ..inference import Progress
from ..labels import carry_labels
from ..processes import temporary_beside
from ..report import niivue_script
from ..resolution import METHOD, effective_resolution
from ..transforms import grid_of, wanted_grid
from ..uncertainty import uncertainty_map
from .cases import Case
from .companions import MAPS, describe_companions, map_path, remove_maps, write_map, write_masks
from .memory import TILE_LADDER, MemoryShortError, choose_tile, free_vram, is_out_of_memory, memory_budget
from .pages import CasePage
from .records import (
    RECORD_VERSION,
    ClaimedError,
    claimed,
    is_done,
    made_by_block,
    record_beside,
    sha256_of,
    sha256_of_result,
    stamps,
    write_sidecar,
)

Status = Literal["done", "skipped", "failed"]

ALREADY_DONE = "already done"
CLAIMED = "another run works on it"

LEAST_COMPRESSED = 4
"""Compressed results are hardly ever smaller than this part of their voxels; less free space is surely too little."""


@dataclass(frozen=True)
class Settings:
    """How cases are processed.

    Attributes:
        bundle: name or folder, see :func:`monai_sr.bundles.load_bundle`.
        device: "auto", "cpu", "cuda", ...
        options: spacing, factor, slice_thickness, axis and modality as of :func:`monai_sr.inference.super_resolve`.
        fill_gaps, merge_by_geometry: as of :func:`monai_sr.images.read_image`.
        reading: volume, nan and geometry as of :func:`monai_sr.images.read_image`.
        strict: as of :func:`monai_sr.inference.super_resolve`.
        trust_bundle: as of :func:`monai_sr.bundles.load_bundle`.
        overwrite: replace results that are not ours or were changed.
        maps: of :data:`monai_sr.batch.companions.MAPS`, to be written beside each result.
        report: write a page with pictures beside each result, or in its place where a case fails.
        viewer: write a page with the volumes themselves beside each result, see :func:`monai_sr.report.write_viewer`.
        memory: bytes that a process may take; None to find out where it runs.
    """

    bundle: str = "residual"
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    fill_gaps: bool = False
    merge_by_geometry: bool = False
    reading: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    trust_bundle: bool = False
    overwrite: bool = False
    maps: tuple[str, ...] = ()
    report: bool = False
    viewer: bool = False
    memory: int | None = None

    def load(self, *, device: str | None = None) -> Model:
        """The bundle, on this or another device.

        Raises:
            SuperResolutionError: bundle or device cannot be used.
        """
        if self.viewer:
            niivue_script()  # so that it is missed before the work
        model = load_bundle(self.bundle, device=device or self.device, trust_bundle=self.trust_bundle)
        if "uncertainty" in self.maps and not model.trust.get("uncertainty"):
            raise UsageError(
                "E-USE",
                f"{self.bundle} does not know how uncertain its results are",
                fix="choose another bundle, or run monai-sr calibrate",
            )
        return model

    def made_by(self, model: Model, *, slice_thickness: float | None = None) -> MadeBy:
        """What is written into results, and decides whether they are done.

        Args:
            model: the bundle.
            slice_thickness: mm, if something beside the image tells it.
        """
        flags = {name: True for name in ("fill_gaps", "merge_by_geometry") if getattr(self, name)}
        chosen = {**self.options, **self.reading, **flags}
        if chosen.get("nan") == "fill":  # which is no choice
            del chosen["nan"]
        if chosen.get("slice_thickness") is None:
            chosen["slice_thickness"] = slice_thickness
        options = {name: str(value) for name, value in chosen.items() if value is not None}
        return MadeBy(model.name, model.version, model.weights_sha256, options)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its name.
        status: done, skipped or failed.
        output: path of the result, if one stands there now.
        code, reason: why not done; the code is empty for what is skipped.
        change: grid before and after, in words.
        warnings: each ``W-code: …``.
        seconds: it took.
        peak_memory_mib: of the process up to its end.
        exit_code: of the error.
        debug: the traceback of an error.
        report: path of the page about it, if there is one.
    """

    case: str
    status: Status
    output: str = ""
    code: str = ""
    reason: str = ""
    change: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    exit_code: int = 0
    debug: str = field(default="", repr=False)
    report: str = ""


def process(case: Case, settings: Settings, model: Model, *, progress: Progress | None = None) -> Outcome:
    """Super-resolve one case, unless that is done; never raises but for an interruption."""
    started = time.monotonic()
    _reset_peak()
    result: dict[str, Any]
    page = CasePage(case, wanted=settings.report, viewer=settings.viewer, overwrite=settings.overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ImageWarning)
        try:
            try:
                result = _process(case, settings, model, caught, page, progress)
            except ImageError as error:
                if error.code != "E-IO-CHANGED":
                    raise
                result = _process(case, settings, model, caught, page, progress)
        except ClaimedError:
            result = {"status": "skipped", "reason": CLAIMED}
        except Exception as error:
            result = failure(error)
        if result["status"] == "failed":
            page.show_failure(result["code"], result["reason"], _texts(caught, case))
    return Outcome(
        case.name,
        **result,
        output=str(case.target) if case.target.exists() and result["status"] != "failed" else "",
        warnings=_texts(caught, case),
        seconds=round(time.monotonic() - started, 3),
        peak_memory_mib=round(_peak_mib(), 1),
        report=page.written,
    )


def failed(case: Case, settings: Settings, outcome: Outcome) -> Outcome:
    """An outcome of a case that no process ended, with its page."""
    page = CasePage(case, wanted=settings.report, overwrite=settings.overwrite)
    page.show_failure(outcome.code, outcome.reason)
    return replace(outcome, report=page.written)


def failure(error: Exception) -> dict[str, Any]:
    """An error as fields of an :class:`Outcome`, without paths and without a header's text."""
    debug = "".join(traceback.format_exception(error))
    if isinstance(error, SuperResolutionError):
        reason = f"{error.problem.rstrip('.')}. Fix: {error.fix.rstrip('.')}."
        return _failed(error.code, " ".join(reason.split()), error.exit_code, debug)
    if is_out_of_memory(error):
        fix = "run on a machine with more memory, or with fewer --jobs"
        return _failed("E-MEM", f"memory ran out. Fix: {fix}.", MemoryShortError.exit_code, debug)
    last = traceback.extract_tb(error.__traceback__)[-1]
    # the message of a foreign exception may quote a header
    reason = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}. Fix: report it with --debug."
    return _failed("E-BUG", reason, 10, debug)


def _failed(code: str, reason: str, exit_code: int, debug: str) -> dict[str, Any]:
    return {"status": "failed", "code": code, "reason": reason, "exit_code": exit_code, "debug": debug}


def _process(
    case: Case,
    settings: Settings,
    model: Model,
    caught: list[warnings.WarningMessage],
    page: CasePage,
    progress: Progress | None,
) -> dict[str, Any]:
    """Fields of the outcome of a case that is done or skipped; raises for one that fails."""
    if case.fault is not None:
        raise case.fault
    started = time.monotonic()
    made_by = settings.made_by(model, slice_thickness=case.bids.slice_thickness if case.bids else None)
    before = stamps(case.files)
    try:
        case.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(case.target.parent, error) from error
    with claimed(case.target) as claim:
        digest = _input_sha256(case)
        done = is_done(
            case.target,
            made_by,
            input_sha256=digest,
            unfinished=claim.unfinished,
            overwrite=settings.overwrite,
        )
        beside = [map_path(case.target, kind) for kind in settings.maps] + list(case.mask_targets)
        if done and all(map(os.path.exists, beside)):
            if page.is_current:
                return {"status": "skipped", "reason": ALREADY_DONE}
            if not case.is_derived_dicom:  # such a series is made again: what we made is never read
                _show_done(case, settings, page)
                return {"status": "skipped", "reason": ALREADY_DONE}
        image = page.image = _read(case, settings)
        labels = [read_labels(mask) for mask in case.masks]
        if stamps(case.files) != before:
            raise ImageError("E-IO-CHANGED", "it changed while it was read", fix="run again when copying is done")
        wanted, axis = _wanted(image, settings.options)
        _check_space(case, image, len(image) * math.prod(wanted.shape))
        memory = settings.memory or memory_budget()
        options = {**settings.options, "strict": settings.strict}
        sr, how = super_resolve_within(model, image, memory=memory, progress=progress, **options)
        trust, maps = trust_in(image, sr, model, settings)
        carried = [carry_labels(mask, image, sr, axis=axis) for mask in labels]
        change = f"{slices_text(image)} -> {slices_text(sr)}"
        claim.begin_writing()
        _write(sr, case, made_by)
        write_masks(dict(zip(case.mask_targets, carried, strict=True)), overwrite=settings.overwrite)
        remove_maps(case.target, set(MAPS) - set(settings.maps))
        for kind, made in maps.items():
            write_map(made, map_path(case.target, kind), overwrite=settings.overwrite)
        content = describe(sr, made_by, case, axis=axis)
        if case.bids is not None:
            thickness = settings.options.get("slice_thickness") or case.bids.slice_thickness
            derived = derivative_sidecar(case.bids, grid_of(image), grid_of(sr), slice_thickness=thickness)
            content |= derived
            describe_companions(case.target, derived, maps=maps, masks=case.mask_targets)
        content["monai_sr"] |= (
            how
            | trust
            | {
                "record": RECORD_VERSION,
                "input_sha256": digest,
                "output_sha256": sha256_of_result(case.target),
                "warnings": list(_texts(caught, case)),
                "seconds": round(time.monotonic() - started, 3),
                "peak_memory_mib": round(_peak_mib(), 1),
            }
        )
        write_sidecar(case.target, content)
        thickness = settings.options.get("slice_thickness")
        page.show_result(image, sr, content["monai_sr"], axis=axis, slice_thickness=thickness)
    return {"status": "done", "change": change}


def _show_done(case: Case, settings: Settings, page: CasePage) -> None:
    """The page of a case that was done without one, from its files."""
    image, record = _read(case, settings), record_beside(case.target) or {}
    sr = read_image(case.target, volume="all" if len(image) > 1 else None)
    axis = _wanted(image, settings.options)[1]
    page.show_result(image, sr, record, axis=axis, slice_thickness=settings.options.get("slice_thickness"))


def super_resolve_within(
    model: Model, image: MetaTensor, *, memory: int, progress: Progress | None = None, **options: Any
) -> tuple[MetaTensor, dict[str, Any]]:
    """``model(image)`` in tiles that fit; if memory runs out by smaller ones, and then on the CPU.

    The voxels are the same in any case, to float rounding.

    Args:
        model: what is to run.
        image: the acquired volume.
        memory: bytes that this process may take.
        progress: told the share that is done.
        options: as of :func:`monai_sr.inference.super_resolve`.

    Returns:
        The result, and what a record tells of how it was made: ``engine``, ``device``,
        ``tile_voxels``, ``ran_out_of_memory``.

    Raises:
        MemoryShortError: no tile fits, or memory runs out on the last step too.
    """
    tile_voxels = choose_tile(
        model.network,
        voxels_in=image.numel(),
        voxels_out=len(image) * math.prod(_wanted(image, options)[0].shape),
        memory=memory,
        vram=free_vram(model.device),
    )
    ran_out: list[str] = []
    device = model.device
    steps = [tile_voxels, *(tile for tile in TILE_LADDER if tile < tile_voxels)] if model.network else [tile_voxels]
    ladder = [(device, tile) for tile in steps]
    if device.type != "cpu":
        ladder += [(torch.device("cpu"), steps[-1])]
    for where, tile in ladder:
        try:
            sr = model.on(where)(image, tile_voxels=tile, progress=progress, **options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            ran_out.append(f"{where}, tiles of {tile} voxels")
        else:
            how: dict[str, Any] = {
                "engine": f"torch {torch.__version__}",
                "device": str(where),
                "tile_voxels": tile,
            }
            if ran_out:
                how["ran_out_of_memory"] = ran_out
                text = f"W-MEM-LADDER: memory ran out on {'; '.join(ran_out)}; made on {where}, tiles of {tile} voxels"
                warnings.warn(ImageWarning(text), stacklevel=2)
            return sr, how
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise MemoryShortError(
        "E-MEM", f"memory ran out: {'; '.join(ran_out)}", fix="run on a machine with more memory, or with fewer --jobs"
    )


def trust_in(
    image: MetaTensor, sr: MetaTensor, model: Model, settings: Settings
) -> tuple[dict[str, Any], dict[str, MetaTensor]]:
    """How far a result may be trusted: what its record tells, and the maps asked for.

    Both are empty for an image that was passed through.

    Raises:
        QualityError: it contradicts the acquired slices by more than the bundle's limit, under ``strict``.
        UsageError: how uncertain it is was asked for, and the bundle does not know.
    """
    if not sr.meta.get("super_resolved"):
        return {}, {}
    axis = settings.options.get("axis")
    found = check_result(
        image,
        sr,
        limit=model.trust.get("consistency", {}).get("limit"),
        strict=settings.strict,
        slice_thickness=settings.options.get("slice_thickness"),
        axis=axis,
    )
    before, after = effective_resolution(image, sr, axis=found.axis)
    told: dict[str, Any] = {
        "consistency": found.summary(),
        "resolution": {"method": METHOD, "before": before.record(), "after": after.record()},
    }
    maps = {"consistency": found.residual} if "consistency" in settings.maps else {}
    if "uncertainty" in settings.maps:
        maps["uncertainty"] = made = uncertainty_map(image, sr, model.trust.get("uncertainty", {}), axis=axis)
        told["uncertainty"] = {"median": float(f"{float(made.median()):.4g}"), "unit": found.unit}
    return told, maps


def describe(sr: MetaTensor, made_by: MadeBy, case: Case, *, axis: int) -> dict[str, Any]:
    """The JSON beside a result: BIDS fields on how it was acquired and made, and the block ``monai_sr``."""
    block = made_by_block(made_by) | {"factor_outside_training": sr.meta.get("outside_training")}
    block |= {"outside_training": sr.meta.get("outside_ranges", {})}
    block |= {"intended_use": "research only, not for diagnosis"}
    acquired = {} if case.series is None else acquisition(case.series)
    if case.series is not None:
        acquired["FilledSlices"] = [int(i) for i in sr.meta.get("filled_slices", ())]
        acquired["PaddingShare"] = round(sr.meta.get("padding_share", 0.0), 4)
    return acquired | {
        "SpacingBetweenSlices": round(grid_of(sr).spacing[axis], 6),
        "GeneratedBy": [{"Name": "monai-sr", "Version": version("monai-sr"), "Description": made_by.bundle}],
        "monai_sr": block,
    }


def slices_text(image: torch.Tensor) -> str:
    """Shape and spacing in words."""
    grid = grid_of(image)
    return f"{'x'.join(map(str, grid.shape))} at {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm"


def _wanted(image: MetaTensor, options: Mapping[str, Any]) -> tuple[Grid, int]:
    return wanted_grid(image, **{name: options.get(name) for name in ("spacing", "factor", "axis")})


def _input_sha256(case: Case) -> str:
    try:
        return sha256_of(case.files)
    except OSError as error:
        code = "E-IO-PERM" if isinstance(error, PermissionError) else "E-IO-READ"
        raise ImageError(
            code, f"cannot be read ({error.strerror})", fix="check the file and its permissions"
        ) from error


def _read(case: Case, settings: Settings) -> MetaTensor:
    if case.series is None:
        image = read_image(case.source, **settings.reading)
        if case.bids is not None:
            image.meta["modality"] = case.bids.modality
            image.meta["slice_thickness"] = case.bids.slice_thickness
        return image
    refuse_file_options(**{name: settings.reading.get(name) for name in ("volume", "geometry")})
    return read_dicom(case.series, path=case.source, fill_gaps=settings.fill_gaps)


def _write(sr: MetaTensor, case: Case, made_by: MadeBy) -> None:
    """The result, in the place of whatever of ours stands there."""
    if not case.is_derived_dicom:
        write_image(sr, case.target)
        return
    assert case.series is not None
    old = temporary_beside(case.target.with_name(f"{case.target.name}-old"))
    try:
        if case.target.exists():
            os.rename(case.target, old)
        write_derived_series(sr, case.series, case.target, made_by=made_by)
    except OSError as error:
        raise write_error(case.target, error) from error
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _check_space(case: Case, image: MetaTensor, voxels_out: int) -> None:
    """Refuse what surely does not fit on the disk, before the work."""
    size = voxels_out * np.dtype(image.meta.get("stored_dtype", "float32")).itemsize
    packed = image_suffix(case.target) not in (".nii",) and not case.is_derived_dicom
    needed = size // LEAST_COMPRESSED if packed else size
    free = shutil.disk_usage(case.target.parent).free
    if free < needed:
        raise OutputError(
            "E-OUT-SPACE",
            f"{free / 2**20:.0f} MiB are free on the disk, {needed / 2**20:.0f} MiB are needed",
            fix="free some space and run again",
            path=case.target,
        )


def _texts(caught: list[warnings.WarningMessage], case: Case) -> tuple[str, ...]:
    """Warnings of ours, each once, that name the case and not its path."""
    texts = (str(w.message) for w in caught if issubclass(w.category, ImageWarning))
    return tuple(dict.fromkeys(text.replace(str(case.source), case.name) for text in texts))


def _reset_peak() -> None:
    """Let the peak memory count from here, where the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if os.uname().sysname == "Darwin" else 2**10)
