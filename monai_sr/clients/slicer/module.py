"""What the command line module of Slicer does: a result, and volumes to lay over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...batch import Outcome, Result, check_target, find_cases, load_model, process
from ...errors import UsageError
from ...grid import Image, grid_of, on_grid
from ...inference import Settings, super_resolve_acquired
from ...io.images import write_image
from ...options import RunOptions
from ...trust.consistency import measure_consistency
from .tags import told_to_slicer


def run(options: RunOptions, places: Mapping[str, Path], *, say: Callable[[str], None]) -> Outcome:
    """Super-resolve one volume and write the overlays of the result, float32 in the file's units.

    Args:
        options: of the run.
        places: file by overlay: ``difference``, all that came from the network, on the grid of the result;
            ``consistency``, acquired slices minus re-acquired result, on that of the acquired volume.
        say: prints a line, for progress as Slicer reads it.

    Raises:
        SuperResolutionError: options contradict each other, the bundle cannot be used, or a file cannot be written.
    """
    for path in places.values():
        check_target(Path(options.input), path)
    if len({path.absolute() for path in (Path(options.output), *places.values())}) <= len(places):
        raise UsageError("E-OUT-CLASH", "two outputs have the same name", path=options.output)
    (case,) = find_cases(options)
    model = load_model(options)
    with told_to_slicer("monai-sr", f"super-resolving by {options.wanted.bundle}", say=say) as progress:
        outcome = process(case, options, model, progress=progress, also=lambda made: _overlays(made, options, places))
        if outcome.error is not None:
            raise outcome.error.at(options.input)
    return outcome


def _overlays(result: Result, options: RunOptions, places: Mapping[str, Path]) -> None:
    if "difference" in places:
        write_image(_difference(result, options), places["difference"], dtype="float32")
    if "consistency" in places:
        residual = _residual(result)
        residual = on_grid(residual.as_tensor().nan_to_num(), grid_of(residual), residual)
        write_image(residual, places["consistency"], dtype="float32")


def _difference(result: Result, options: RunOptions) -> Image:
    spline = super_resolve_acquired(result.acquired, None, Settings(options.wanted))
    return on_grid(result.sr.as_tensor() - spline.as_tensor(), grid_of(result.sr), result.sr)


def _residual(result: Result) -> Image:
    if result.sr.meta.get("super_resolved"):
        return measure_consistency(result.acquired, result.sr).residual
    acquired = result.acquired  # it was passed through
    return on_grid(acquired.voxels - result.sr.as_tensor(), acquired.grid, acquired.source)
