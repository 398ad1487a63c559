"""Find the volume of a mask: by names in folders, by entities in BIDS, by the grid if several match."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dicom import Series, find_series, is_dicom_source, read_mask_object, regular_files, short_name
from ..errors import ImageError, SuperResolutionError, collect_notices, warn_left_out
from ..files import check_exists
from ..grid import Grid
from ..io.images import READ_SUFFIXES, image_suffix, read_header
from ..io.nifti import is_super_resolved
from ..labels import SAME_PLACE, corner_distance
from .bids.raw import read_description
from .record import record_beside

OF_BIDS = ("dseg", "mask", "probseg")
"""Suffixes of masks in BIDS: labels, one structure, probabilities."""

NOT_OF_SOURCE = {"space", "res", "den", "label", "desc", "seg", "hemi", "from", "to", "mode"}
"""Entities that say something about a derivative, and not of which image it is."""

AFTER_RES = ("den", "label", "from", "to", "mode", "desc")
"""Entities that follow ``res-`` in a name."""

MAPS = ("_consistency", "_uncertainty", "_stacks")
"""How names of maps end that monai-sr writes beside a result."""


@dataclass(frozen=True)
class Volume:
    """An image file or DICOM series that masks may belong to.

    Attributes:
        path: the image file; of a series the folder, zip or file that it is in.
        names: its names below its folder, without the suffix: of a series the folder and
            :func:`monai_sr.dicom.short_name`, of a BIDS image entities and suffix.
        series: the DICOM series.
        entities: of a BIDS image, without those of a derivative; None elsewhere.
    """

    path: Path
    names: frozenset[str]
    series: Series | None = None
    entities: frozenset[tuple[str, str]] | None = None

    @property
    def files(self) -> list[Path]:
        """The files that it is read from, each once."""
        return [self.path] if self.series is None else self.series.files

    @property
    def instances(self) -> frozenset[str]:
        """SOPInstanceUIDs of the series."""
        frames = self.series.all_frames if self.series is not None else ()
        return frozenset(str(frame.header.get("SOPInstanceUID")) for frame in frames)


def volumes_below(source: Path) -> list[Volume]:
    """The volumes of a file, folder, zip or BIDS dataset (raw or derivative), results of monai-sr included.

    Raises:
        InputMissingError: there is nothing.
        ImageError: a damaged archive.
    """
    check_exists(source)
    if is_bids_dataset(source):
        return [_bids_volume(source, path) for path in image_files(source) if not is_bids_mask(path)]
    found: list[Volume] = []
    if source.is_dir():
        found += [Volume(path, frozenset([_name(path, source)])) for path in image_files(source)]
    elif not is_dicom_source(source):
        return [Volume(source, frozenset([_name(source, source.parent)]))]
    if is_dicom_source(source):
        series = find_series(source, own_results=True).series
        folders = [one.frames[0].file.parent for one in series]
        for one, folder in zip(series, folders, strict=True):
            alone = one.unpacked is None and folder.is_relative_to(source) and folders.count(folder) == 1
            names = {short_name(one), *([folder.relative_to(source).as_posix()] if alone else [])}
            found.append(Volume(source, frozenset(names), one))
    return found


def masks_below(folder: Path, besides: Iterable[Path] = ()) -> list[Path]:
    """The files of a folder that may be masks: images but not volumes and not maps of monai-sr, and DICOM objects.

    Args:
        folder: searched to any depth; or one file.
        besides: the volumes.
    """
    if folder.is_file():
        return [folder]
    volumes = {path.resolve() for path in besides}
    bids = is_bids_dataset(folder)
    images = [
        path
        for path in image_files(folder)
        if path.resolve() not in volumes and not _is_map(path) and (not bids or is_bids_mask(path))
    ]
    return [*images, *(path for path in regular_files(folder) if read_mask_object(path) is not None)]


def volume_of(mask: Path, folder: Path, volumes: Sequence[Volume]) -> Volume:
    """The volume that a mask belongs to.

    A DICOM object names its series. The name of another mask starts with that of its volume, followed by ``_``,
    ``-``, ``.`` or a blank, or it is in a folder of that name. In BIDS it has the entities of its image; of several
    images the one that its JSON names as SpatialReference or in Sources, or else the only one on its grid.

    Args:
        mask: the file.
        folder: the folder that was searched.
        volumes: those it may belong to.

    Raises:
        ImageError: it belongs to none of them, or to several (E-MASK-IMAGE).
    """
    of_bids = [volume for volume in volumes if volume.entities is not None]
    with_series = [volume for volume in volumes if volume.series is not None]
    dicom = read_mask_object(mask) if with_series else None
    if dicom is not None:
        fits = [v for v in with_series if v.series and v.series.uid in dicom.series]
        fits = fits if len(fits) < 2 else [v for v in fits if v.instances & dicom.instances]
    elif of_bids:
        entities = {(k, v) for k, v in entities_of(mask).items() if k not in NOT_OF_SOURCE}
        fits = [
            v for v in of_bids if v.entities and entities <= v.entities and _subject(entities) == _subject(v.entities)
        ]
        fits = _named_by_json(mask, fits) or fits
        fits = _on_grid_of(mask, fits) if len(fits) > 1 else fits
    else:
        name = _name(mask, folder)
        lengths = [max(map(len, filter(lambda n: _begins(name, n), v.names)), default=0) for v in volumes]
        longest = max(lengths, default=0)
        fits = [v for v, length in zip(volumes, lengths, strict=True) if length == longest > 0]
    if len(fits) != 1:
        problem = f"{len(fits)} volumes may be its own" if fits else "no volume is called like this mask"
        raise ImageError("E-MASK-IMAGE", problem, path=mask)
    return fits[0]


def assign_masks(volumes: Sequence[Volume], folders: Iterable[Path]) -> list[list[Path]]:
    """The masks in folders that belong to each volume. Warns of masks that belong to none, or to several.

    Args:
        volumes: the volumes.
        folders: folders of masks, or DICOM files of one.
    """
    found: dict[Volume, list[Path]] = {volume: [] for volume in volumes}
    for folder in folders:
        left = 0
        for mask in masks_below(folder, [volume.path for volume in volumes]):
            try:
                found[volume_of(mask, folder, volumes)].append(mask)
            except ImageError:
                left += 1
        if left:
            warn_left_out(left, "masks that belong to none of the volumes, or to several", "E-MASK-IMAGE")
    return list(found.values())


def carried_name(mask: Path, folder: Path, result: Path | None = None) -> Path:
    """Path of a carried mask below its folder: that of the mask; in BIDS with the ``res-`` of its new image.

    Args:
        mask: the file.
        folder: the folder that was searched.
        result: the image that it is carried to; None outside BIDS.
    """
    suffix = ".nii" if image_suffix(mask) == ".nii" else ".nii.gz"
    name = mask.name[: len(mask.name) - len(image_suffix(mask))]
    if result is not None:
        resolution = entities_of(result).get("res")
        *pairs, last = [pair for pair in name.split("_") if not pair.startswith("res-")]
        place = next((n for n, pair in enumerate(pairs) if pair.split("-")[0] in AFTER_RES), len(pairs))
        pairs[place:place] = [f"res-{resolution}"] if resolution else []
        name = "_".join([*pairs, last])
    return mask.parent.relative_to(folder) / f"{name}{suffix}"


def is_bids_dataset(folder: Path) -> bool:
    """Whether a folder is a BIDS dataset, raw or derivative.

    Raises:
        ImageError: its description cannot be read.
    """
    return folder.is_dir() and "BIDSVersion" in read_description(folder)


def is_bids_mask(path: Path) -> bool:
    """Whether a name says by its suffix that it is a mask in BIDS."""
    return _stem(path).rpartition("_")[2] in OF_BIDS


def entities_of(path: Path) -> dict[str, str]:
    """Short names and labels of the entities in a name of BIDS."""
    return dict(pair.split("-", 1) for pair in _stem(path).split("_") if "-" in pair)


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below a folder in a stable order, without hidden ones."""
    return (path for path in visible_files(folder) if image_suffix(path) in READ_SUFFIXES and path.is_file())


def visible_files(folder: Path) -> Iterator[Path]:
    """What lies below a folder in a stable order, without hidden ones; not every one may be a regular file."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _bids_volume(root: Path, path: Path) -> Volume:
    """An image of a dataset."""
    entities = frozenset((k, v) for k, v in entities_of(path).items() if k not in NOT_OF_SOURCE)
    name = "_".join(f"{k}-{v}" for k, v in sorted(entities))
    return Volume(path, frozenset([f"{name}_{_stem(path).rpartition('_')[2]}"]), entities=entities)


def _subject(entities: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {pair for pair in entities if pair[0] in ("sub", "ses")}


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(image_suffix(path))]


def _name(path: Path, folder: Path) -> str:
    return (path.parent.relative_to(folder) / _stem(path)).as_posix()


def _begins(name: str, volume: str) -> bool:
    return name == volume or (name.startswith(volume) and name[len(volume)] in "_-. /")


def _is_map(path: Path) -> bool:
    """Whether a file is a map of monai-sr or of BIDS."""
    ends = _stem(path).endswith(MAPS) or entities_of(path).get("desc", "").startswith(("SRconsis", "SRuncert"))
    return ends and (is_super_resolved(path) or record_beside(path) is not None)


def _named_by_json(mask: Path, volumes: Sequence[Volume]) -> list[Volume]:
    """The images that the JSON beside a mask names."""
    beside = mask.with_name(f"{_stem(mask)}.json")
    try:
        content = json.loads(beside.read_bytes())
        references, sources = content.get("SpatialReference"), content.get("Sources")
    except (OSError, ValueError, RecursionError, AttributeError):
        return []
    for given in (references, sources):
        words = given if isinstance(given, list) else [given]
        words = [word for word in words if isinstance(word, str)]
        named = [v for v in volumes if any(Path(w.rpartition(":")[2]).name == v.path.name for w in words)]
        if named:
            return named
    return []


def _on_grid_of(mask: Path, volumes: Sequence[Volume]) -> list[Volume]:
    """The images whose grid is that of a mask."""
    with collect_notices():
        try:
            ours, *grids = [_grid_in(path) for path in (mask, *(volume.path for volume in volumes))]
        except (SuperResolutionError, OSError, ValueError):
            return list(volumes)
    fits = [grid.shape == ours.shape and corner_distance(ours, grid) <= SAME_PLACE for grid in grids]
    return [volume for volume, fit in zip(volumes, fits, strict=True) if fit]


def _grid_in(path: Path) -> Grid:
    """The grid of an image file, by its header."""
    header = read_header(path)
    x, y, z = header.shape[:3]
    return Grid((x, y, z), header.affine)
