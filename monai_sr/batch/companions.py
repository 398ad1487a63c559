"""Files that are written beside a result on request, and their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..acquired import Acquired
from ..dicom import MadeBy, Series, find_series, is_dicom, read_mask_object
from ..dicom.maps_out import write_parametric_map
from ..dicom.planes import is_own_object
from ..dicom.segmentation_out import import_highdicom, write_segmentation
from ..dicom.structures import Structures, read_structures, write_structures
from ..errors import ImageError, OutputError, UsageError, naming, warn
from ..files import write_json
from ..grid import ArrayImage, Image
from ..io.images import ITK_SUFFIXES, NIFTI_SUFFIXES, image_suffix, read_labels, write_image
from ..io.nifti import is_super_resolved
from ..options import NOTICE
from .masks import carried_name, is_bids_mask
from .record import sidecar_path, stem_of

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from torch import Tensor

MAPS = ("consistency", "uncertainty")
"""Maps that a run may write beside each result, NIfTI of float32 in the file's units; of a derived series DICOM too."""

DESCRIPTIONS = {
    "consistency": "Acquired slices less the result acquired again, in its units.",
    "uncertainty": "Standard deviation of the error of each voxel of the result, in its units.",
}
_OF_BIDS, _FUSED = "_res-thin_desc-SR_", "_desc-fused_"


def map_path(target: Path, kind: str) -> Path:
    """Where a map of a result belongs: ``thin_consistency.nii.gz`` beside ``thin.nii.gz``.

    In a BIDS dataset ``desc-`` names the map, and the consistency map is not on the thin grid.

    Args:
        target: the result, a file or the folder of a DICOM series.
        kind: one of :data:`MAPS`, or "stacks": which stack of a fused volume measured closest.
    """
    if _FUSED in target.name:
        of, suffix = target.name.removesuffix(".nii.gz").split(_FUSED)
        named = f"{suffix}stacks_dseg" if kind == "stacks" else f"{kind}_{suffix}"
        return target.with_name(f"{of}_desc-fused{named}.nii.gz")
    if _OF_BIDS in target.name:
        grid = "" if kind == "consistency" else "_res-thin"
        return target.with_name(target.name.replace(_OF_BIDS, f"{grid}_desc-SR{kind}_"))
    return target.with_name(f"{stem_of(target)}_{kind}.nii.gz")


def mask_path(target: Path, source: Path, mask: Path) -> Path:
    """Where a carried mask belongs: ``thin_seg.nii.gz`` beside ``thin.nii.gz`` if ``a_seg.nii.gz`` was
    that of ``a.nii.gz``; ``thin_tumor.nii.gz`` for a mask with another name, ``thin_mask.nii.gz`` for one with the
    name of its image. In BIDS a mask of a derivative keeps its entities.

    Args:
        target: the result.
        source: the image that the result is made from.
        mask: its mask.
    """
    own = stem_of(mask).removeprefix(stem_of(source)).strip("_-. ") or "mask"
    if _OF_BIDS in target.name and is_bids_mask(mask):  # of a BIDS derivative
        return target.with_name(carried_name(mask, mask.parent, target).name)
    if _OF_BIDS in target.name:
        of = target.name.split(_OF_BIDS)[0]
        return target.with_name(f"{of}_res-thin_desc-SR{''.join(filter(str.isalnum, own))}_dseg.nii.gz")
    suffix = ".nii" if image_suffix(mask) == ".nii" else ".nii.gz"  # whose headers say that they are ours
    if image_suffix(target) not in (*NIFTI_SUFFIXES, *ITK_SUFFIXES) and is_dicom(mask):
        suffix = ".dcm"
    return target.with_name(f"{stem_of(target)}_{own}{suffix}")


def masks_beside(source: Path, patterns: Iterable[str]) -> tuple[Path, ...]:
    """Masks beside an image whose names match its name.

    Args:
        source: the image.
        patterns: names in which ``*`` stands for that of the image without its suffix, ``*_seg.nii.gz``.
    """
    found = (source.parent / pattern.replace("*", stem_of(source)) for pattern in patterns)
    return tuple(path for path in found if path.is_file() and path != source)


def write_map(image: Image, path: Path, *, overwrite: bool = False, dtype: str = "float32") -> Path:
    """Write a map. It is marked as ours, so that no run reads it as an input.

    Raises:
        OutputError: a file that is not ours is there, or it cannot be written.
    """
    _spare(path, overwrite=overwrite)
    image.meta["super_resolved"] = True
    return write_image(image, path, dtype=dtype)


def write_maps(
    maps: Mapping[str, Image],
    target: Path,
    source: Series | None,
    *,
    acquired: Acquired,
    made_by: MadeBy,
    overwrite: bool = False,
) -> None:
    """Write the maps of a result beside it, and those of a series derived from ``source`` as DICOM, too."""
    for kind, volume in maps.items():
        write_map(volume, map_path(target, kind), overwrite=overwrite)
        if source is not None:
            write_dicom_map(volume, target, kind, source, acquired=acquired, made_by=made_by, overwrite=overwrite)


def write_dicom_map(
    image: Image,
    target: Path,
    kind: str,
    source: Series,
    *,
    acquired: Acquired,
    made_by: MadeBy,
    overwrite: bool = False,
) -> None:
    """Write a map of a derived series as a DICOM parametric map beside it, if highdicom is installed.

    Nothing is written of several volumes, and of a map of the acquired slices of a tilted gantry (W-MAP-TILT).

    Args:
        image: the map; one of the consistency is on the acquired slices.
        target: folder of the derived series.
        kind: one of :data:`MAPS`.
        source: the acquired series.
        acquired: its volume.
        made_by: what made the result.
        overwrite: also replace files that are not ours.

    Raises:
        OutputError: a file that is not ours is there, or it cannot be written.
    """
    if find_spec("highdicom") is None or len(image) > 1:
        return
    path = target.with_name(f"{target.name}_{kind}.dcm")
    _spare(path, overwrite=overwrite)
    if kind == "consistency":
        series = source
        image.meta.update({} if acquired.is_even else {"slice_positions": acquired.positions})
    else:
        series = find_series(target, own_results=True, volume="all").only()
    try:
        write_parametric_map(image, kind, series, path, made_by=made_by)
    except ImageError as error:
        if error.code != "E-MASK-GRID":
            raise
        text = "slices of a tilted gantry are moved to an upright volume, so the {kind} map is not written as DICOM"
        warn("W-MAP-TILT", text, path=target, facts={"kind": kind})


def describe_companions(
    target: Path, derived: Mapping[str, Any], *, maps: Iterable[str], masks: Iterable[Path]
) -> None:
    """Write the JSON beside each map and mask of a BIDS result; the BIDS validator requires it.

    Args:
        target: the result.
        derived: its JSON, see :func:`monai_sr.batch.bids.derivative_sidecar`.
        maps: kinds that were written.
        masks: where carried masks were written.
    """
    labels = "Labels of the acquired slices on the grid of the thin ones."
    what = {map_path(target, kind): DESCRIPTIONS[kind] for kind in maps} | dict.fromkeys(masks, labels)
    for path, description in what.items():
        kept = ("Sources", "SpatialReference", "SkullStripped", *(("Resolution",) if "_res-" in path.name else ()))
        inherited = {name: derived[name] for name in kept if name in derived}
        write_json(inherited | {"Description": f"{description} {NOTICE}"}, sidecar_path(path))


def read_mask(path: Path, image: Tensor | ArrayImage, target: Path) -> MetaTensor | Structures:
    """A mask of an image. A structure set whose result is a structure set stays one, because its regions may overlap.

    Raises:
        SuperResolutionError: as of :func:`monai_sr.io.images.read_labels`; a DICOM segmentation is to be written, and
            highdicom is missing.
    """
    if target.suffix.lower() == ".dcm":
        mask = read_mask_object(path)
        if mask is not None and mask.modality == "RTSTRUCT":
            with naming(path):
                return read_structures(mask, image)
        import_highdicom()  # its absence is found before the work
    return read_labels(path, image=image)


def carry_mask(mask: MetaTensor | Structures, carry: Callable[[MetaTensor], MetaTensor]) -> MetaTensor | Structures:
    """A mask on other slices; of a structure set each region by itself."""
    return mask.carried(carry) if isinstance(mask, Structures) else carry(mask)


def write_masks(
    masks: Mapping[Path, MetaTensor | Structures],
    *,
    made_by: MadeBy,
    series: Path | Series | None = None,
    overwrite: bool = False,
) -> None:
    """Write carried masks, each where it belongs and in its own type.

    Args:
        masks: by the file; one called ``.dcm`` becomes a DICOM segmentation or structure set.
        made_by: what made them.
        series: that DICOM masks are about, or the folder of a derived one.
        overwrite: also replace files that are not ours.

    Raises:
        UsageError: a DICOM segmentation is wanted, and there is no series or highdicom is missing.
        OutputError: a file that is not ours is there, or it cannot be written.
    """
    for path, labels in masks.items():
        _spare(path, overwrite=overwrite)
        if path.suffix.lower() != ".dcm":
            assert not isinstance(labels, Structures)
            write_image(labels, path)
            continue
        if isinstance(series, Path):
            series = find_series(series, own_results=True, volume="all").only()
        if series is None:
            raise UsageError("E-OUT-FORMAT", "a DICOM mask needs a DICOM series", fix="name an image file", path=path)
        if isinstance(labels, Structures):
            write_structures(labels, series, path, made_by=made_by)
        else:
            write_segmentation(labels, series, path, made_by=made_by)


def _spare(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that is not ours."""
    if os.path.exists(path) and not overwrite and not (is_super_resolved(path) or is_own_object(path)):
        problem = "it exists already, and monai-sr did not make it"
        raise OutputError("E-OUT-EXISTS", problem, fix="move it away, or give --overwrite", path=path)


def remove_maps(target: Path, kinds: Iterable[str]) -> None:
    """Remove our maps of an earlier result: they do not describe the new one."""
    for kind in kinds:
        for path in (map_path(target, kind), target.with_name(f"{target.name}_{kind}.dcm")):
            # Path.exists raises where a name is too long
            if os.path.exists(path) and (is_super_resolved(path) or is_own_object(path)):
                path.unlink()
