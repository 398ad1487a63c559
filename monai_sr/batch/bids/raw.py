"""A raw BIDS dataset: its anatomical images and their metadata in JSON files."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import ImageError, SuperResolutionError, UsageError, collect_notices, warn
from ...io.images import NIFTI_SUFFIXES, read_header
from ...io.sidecar import objections, path_beside
from ...profiles import plausible
from .ignore import ignored_by
from .names import OF_A_STACK, NotTakenError, is_label, parsed_name, result_name

DESCRIPTION = "dataset_description.json"

LONGEST_JSON = 2**24
"""Bytes; a longer file is not a description of an image."""

RAW = "raw"
"""The dataset type; also the name of the raw dataset in the URIs of its derivative."""


@dataclass(frozen=True)
class BidsImage:
    """One image of a raw dataset.

    Attributes:
        root: the dataset.
        path: the file, below ``root``.
        entities: short names and labels of the file name, in order, such as ``{"sub": "01", "run": "1"}``.
        suffix: the last part of the name, such as ``FLAIR``.
    """

    root: Path
    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def modality(self) -> Literal["CT", "MR"]:
        """The modality of the folder."""
        return "CT" if self.suffix == "ct" else "MR"

    @property
    def uri(self) -> str:
        """The URI of the image in the derivative dataset."""
        return f"bids:{RAW}:{self.path.relative_to(self.root).as_posix()}"

    @property
    def target(self) -> Path:
        """Path of the result, relative to the derivative dataset."""
        return self.path.parent.relative_to(self.root) / f"{result_name(self.entities, self.suffix)}.nii.gz"

    @property
    def fused_target(self) -> Path:
        """Path of the volume that this image and others of its contrast are fused to, relative to the derivative."""
        entities = {key: label for key, label in self.entities.items() if key not in OF_A_STACK}
        name = result_name(entities, self.suffix, {"desc": "fused"})
        return self.path.parent.relative_to(self.root) / f"{name}.nii.gz"

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the image from JSON files in its folder and above; the nearest file has priority.

        Raises:
            ImageError: a file cannot be read.

        Source: BIDS, "The Inheritance Principle".
        """
        metadata: dict[str, Any] = {}
        above = len(self.path.relative_to(self.root).parents)
        for folder in reversed(list(self.path.parents)[:above]):
            files = []
            for name in os.listdir(folder):
                if not name.endswith(f"{self.suffix}.json"):
                    continue
                *pairs, suffix = name.removesuffix(".json").split("_")
                entities = {pair.partition("-")[::2] for pair in pairs}
                if suffix == self.suffix and entities <= set(self.entities.items()):
                    files.append((len(pairs), name))
            for _, name in sorted(files):
                metadata |= read_json(folder / name)
        return metadata

    @cached_property
    def slice_thickness(self) -> float | None:
        """Slice thickness of the metadata, mm; None if absent, implausible or of another slice spacing than the header.

        Warns of what the JSON files above the image say against it; the reader of the image warns of that beside it.

        Raises:
            ImageError: the metadata cannot be read.
        """
        against = self._objections(self.metadata)
        beside = path_beside(self.path)
        known = self._objections(read_json(beside)) if against and beside is not None else {}
        for code, (text, facts) in against.items():
            if code not in known:
                warn(code, text, path=self.path, facts=facts)
        value = self.metadata.get("SliceThickness")
        if value is None or "W-JSON-SPACING" in against:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and plausible(value):
            return float(value)
        text = f"SliceThickness is {value!r}, implausible for CT or MR in mm; it is not used"
        warn("W-BIDS-THICKNESS", text, path=self.path, facts={"found": value})
        return None

    def _objections(self, metadata: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
        """What metadata say against the image, see :func:`monai_sr.io.sidecar.objections`."""
        try:
            with collect_notices():  # they are given when the image is read
                affine = read_header(self.path).affine
        except (SuperResolutionError, OSError):  # given when the image is read, too
            return {}
        return objections(metadata, np.linalg.norm(affine[:3, :3], axis=0).tolist())


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not processed."""

    path: Path
    code: str
    reason: str


@dataclass(frozen=True)
class Found:
    """Result of :func:`find_bids_images`.

    Attributes:
        images: sorted by path.
        left_out: images in the selected folders that are not processed, with the reason; sorted by path.
    """

    images: tuple[BidsImage, ...]
    left_out: tuple[LeftOut, ...]


def is_bids(root: str | Path) -> bool:
    """Whether a folder is a raw BIDS dataset.

    Raises:
        ImageError: its description cannot be read.
    """
    description = read_description(Path(root))
    return "BIDSVersion" in description and description.get("DatasetType", RAW) == RAW


def find_bids_images(root: str | Path, *, participant_labels: Iterable[str] = ()) -> Found:
    """The anatomical images of a raw dataset: ``sub-*/[ses-*/]anat``, and ``ct``.

    Files in ``.bidsignore`` are left out, except CT, which a valid dataset cannot contain otherwise.

    Args:
        root: the dataset.
        participant_labels: only these participants, with or without ``sub-``; default: all.

    Raises:
        UsageError: the folder is not a raw BIDS dataset, or does not have a label.
        ImageError: its description cannot be read.
    """
    root = Path(root)
    if not is_bids(root):
        kind = read_description(root).get("DatasetType", RAW)
        problem = f"no {DESCRIPTION} with a BIDSVersion" if kind == RAW else f"a dataset of the type {kind!r}"
        raise UsageError("E-BIDS-DATASET", problem, path=root)
    left_out: list[LeftOut] = []
    subjects = _labeled(root, "sub", left_out)
    ignored = ignored_by(root / ".bidsignore")
    images: dict[Path, BidsImage] = {}
    for subject in _choose(subjects, participant_labels, root):
        visits = _labeled(subjects[subject], "ses", left_out)
        places = [({"sub": subject, "ses": session}, folder) for session, folder in visits.items()]
        for labels, place in [*places, ({"sub": subject}, subjects[subject])]:
            for path in [path for name in ("", "anat", "ct") for path in _nifti_in(place / name, left_out)]:
                try:
                    images[path] = _image(root, path, labels, ignored(path.relative_to(root).as_posix()))
                except NotTakenError as reason:
                    left_out.append(LeftOut(path, *reason.args))
                except OSError as error:
                    left_out.append(LeftOut(path, "E-IO-PERM", f"the file cannot be looked at ({error.strerror})"))
    for path in [path for path in images if path.with_name(path.name + ".gz") in images]:
        del images[path]
        left_out.append(LeftOut(path, "E-BIDS-TWIN", f"{path.name}.gz exists too, BIDS allows only one"))
    return Found(tuple(images[path] for path in sorted(images)), tuple(sorted(left_out, key=lambda left: left.path)))


def read_description(root: Path) -> dict[str, Any]:
    """The description of a dataset; empty if there is none.

    Raises:
        ImageError: it cannot be read.
    """
    path = root / DESCRIPTION
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a dataset.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"{path.stat().st_size >> 20} MiB")
        # NaN and Infinity are not JSON, but some tools write them
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
    except RecursionError as error:
        raise ImageError("E-BIDS-JSON", "nested too deeply", path=path) from error
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise ImageError(
            "E-BIDS-JSON", f"cannot be read ({reason})", fix="restore the file (`datalad get` in DataLad)", path=path
        ) from error
    except ValueError as error:
        raise ImageError("E-BIDS-JSON", f"not valid JSON ({error})", path=path) from error
    if not isinstance(content, dict):
        raise ImageError("E-BIDS-JSON", "not a JSON object", path=path)
    return content


def _image(root: Path, path: Path, labels: dict[str, str], ignored: bool) -> BidsImage:
    if ignored and path.parent.name != "ct":
        raise NotTakenError("E-BIDS-IGNORED", "named in .bidsignore")
    if path.parent.name not in ("anat", "ct"):
        raise NotTakenError("E-BIDS-NAME", "an image must be in a folder such as anat")
    image = BidsImage(root, path, *parsed_name(path, labels))
    # before a file is fetched, DataLad has a broken link or a line with the name of the content
    if path.is_symlink() and not path.exists():
        raise NotTakenError("E-BIDS-FETCH", "content not fetched; run datalad get")
    if not path.is_file():
        raise NotTakenError("E-IO-TYPE", "not a regular file")
    if path.stat().st_size < 1000:
        with path.open("rb") as file:
            if file.read(16).startswith(b"/annex/objects/"):
                raise NotTakenError("E-BIDS-FETCH", "content not fetched; run datalad get")
    return image


def _choose(there: Iterable[str], wanted: Iterable[str], root: Path) -> list[str]:
    """The requested participants, default all; for an unknown label the error names similar labels."""
    folded = {label.casefold(): label for label in there}
    labels = [label.removeprefix("sub-") for label in wanted]
    for label in labels:
        if label not in set(there):
            near = difflib.get_close_matches(label.casefold(), folded, n=3) or sorted(folded)[:5]
            choices = ", ".join(f"sub-{folded[name]}" for name in near) or "the dataset has none"
            raise UsageError("E-BIDS-LABEL", f"sub-{label} does not exist", fix=f"choose {choices}", path=root)
    return sorted(set(labels) or set(there))


def _labeled(folder: Path, entity: str, left_out: list[LeftOut]) -> Mapping[str, Path]:
    """The folders ``sub-<label>`` or ``ses-<label>`` in a folder, by label."""
    found = {}
    for name in _names(folder, left_out):
        if name.startswith(f"{entity}-") and (folder / name).is_dir():
            label = name.removeprefix(f"{entity}-")
            if is_label(label):
                found[label] = folder / name
            else:
                left_out.append(LeftOut(folder / name, "E-BIDS-NAME", "a label has letters and digits only"))
    return found


def _nifti_in(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """Files with a NIfTI suffix, also in upper case."""
    return [folder / name for name in _names(folder, left_out) if name.lower().endswith(NIFTI_SUFFIXES)]


def _names(folder: Path, left_out: list[LeftOut]) -> list[str]:
    """Names in a folder, without hidden files; empty if the folder does not exist."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        left_out.append(LeftOut(folder, "E-IO-PERM", f"the folder cannot be read ({error.strerror})"))
        return []
