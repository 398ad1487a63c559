"""From a training run to a bundle: its weights, what was measured of them, and their 8-bit form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..bundles import Model, bundle_path, load_bundle
from ..errors import BundleError, OutputError, SuperResolutionError, write_error
from ..files import temporary_beside, write_json, write_text
from ..io.volumes import datalist
from .calibration import calibrate, calibration_markdown, read_simulation, write_calibration
from .quantize import build


def pack(
    runs: Path,
    bundle: Path,
    dataset: str | Path,
    *,
    source: str | Path = "residual",
    crop: int = 96,
    trust_bundle: bool = False,
    progress: Callable[[float], None] | None = None,
    left_out: Callable[[SuperResolutionError], None] | None = None,
) -> Path:
    """Make a bundle of the best weights of a training run, calibrate it, and make its 8-bit form.

    Args:
        runs: ``output_dir`` of the training.
        bundle: the folder to make.
        dataset: what was trained on, datalist or folder.
        source: the bundle that was trained.
        crop: see :func:`monai_sr.evaluation.calibration.calibrate`.
        trust_bundle: let a ``source`` that does not ship run its code.
        progress: called with the fraction of the calibration that is done.
        left_out: called with the reason why there is no 8-bit form.

    Raises:
        OutputError: the folder is there already (E-OUT-EXISTS), or cannot be written.
        BundleError: there are no weights (E-W-MISSING), or they do not fit ``source`` (E-W-SHAPE).
        InputMissingError: the dataset has nothing to train or to validate on.
    """
    if bundle.exists():
        raise OutputError("E-OUT-EXISTS", "it is there already", path=bundle)
    weights = runs / "model.pt"
    if not weights.is_file():
        raise BundleError("E-W-MISSING", "no weights", fix="train until the first validation", path=weights)
    training, validation = (
        [Path(item["image"]) for item in datalist(dataset, section)] for section in ("training", "validation")
    )
    load_bundle(source, device="cpu", engine="torch", trust_bundle=trust_bundle)  # trusted, before it is copied
    around = temporary_beside(bundle)
    made = around / bundle.name
    try:
        _copy(bundle_path(source), weights, made)
        model = _load(made, weights)
        measured = calibrate(
            model, training, validation, crop=crop, simulation=read_simulation(made), progress=progress
        )
        write_calibration(made, measured)
        _describe(made, measured, f"{len(training)} training and {len(validation)} validation volumes", crop=crop)
        try:
            build(str(made), dataset, crop=crop)
        except SuperResolutionError as error:
            if left_out:
                left_out(error)
        made.rename(bundle)
    finally:
        shutil.rmtree(around, ignore_errors=True)
    return bundle


def _copy(source: Path, weights: Path, made: Path) -> None:
    """Configs of ``source`` and its license, if any, with other weights; its calibration and card are not copied."""
    try:
        shutil.copytree(source / "configs", made / "configs", ignore=shutil.ignore_patterns("calibration.json"))
        if (source / "LICENSE").is_file():
            shutil.copy(source / "LICENSE", made)
        (made / "models").mkdir()
        shutil.copy(weights, made / "models" / "model.pt")
        (made / "docs").mkdir()
    except OSError as error:
        raise write_error(made, error) from error


def _load(made: Path, weights: Path) -> Model:
    try:
        return load_bundle(made, device="cpu", trust_bundle=True)
    except BundleError as error:  # of a copy that the user does not know
        fix = "give the bundle that was trained by --bundle" if error.code == "E-W-SHAPE" else error.fix
        raise BundleError(error.code, error.problem, fix=fix, path=weights) from error


def _describe(made: Path, measured: Mapping[str, Any], data: str, *, crop: int) -> None:
    """Metadata and card of new weights: a first version, and no figures of others."""
    path = made / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    first = {"version": "0.1.0", "changelog": {"0.1.0": "first weights"}, "data_source": data, "eval_metrics": {}}
    write_json(metadata | first, path, indent=4)
    command = f"monai-sr pack RUNS {made.name} DATASET --crop {crop}"
    card = f"# {made.name}\n\n**Research only, not for diagnosis.**\n\nTrained with {data}.\n\n## Calibration\n\n"
    write_text(card + calibration_markdown(measured, command=command), made / "docs" / "README.md")
