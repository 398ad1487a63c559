"""A raw BIDS dataset: its anatomical images, and what its JSON files tell of them."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import ImageError, UsageError, warn
from ..io.images import NIFTI_SUFFIXES
from .ignore import ignored_by
from .names import NotTakenError, is_label, parsed_name, result_name

DESCRIPTION = "dataset_description.json"

LONGEST_JSON = 2**24
"""Bytes; a longer file describes no image."""

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
        """What the folder says."""
        return "CT" if self.suffix == "ct" else "MR"

    @property
    def uri(self) -> str:
        """How the derivative dataset cites the image."""
        return f"bids:{RAW}:{self.path.relative_to(self.root).as_posix()}"

    @property
    def target(self) -> Path:
        """Where the result belongs, relative to the derivative dataset."""
        return self.path.parent.relative_to(self.root) / f"{result_name(self.entities, self.suffix)}.nii.gz"

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What JSON files in the folder and above tell of the image; the nearest has the last word.

        Raises:
            ImageError: one of them cannot be read.

        Source: BIDS, "The Inheritance Principle".
        """
        told: dict[str, Any] = {}
        above = len(self.path.relative_to(self.root).parents)
        for folder in reversed(list(self.path.parents)[:above]):
            found = []
            for name in os.listdir(folder):
                if not name.endswith(f"{self.suffix}.json"):
                    continue
                *pairs, suffix = name.removesuffix(".json").split("_")
                entities = {pair.partition("-")[::2] for pair in pairs}
                if suffix == self.suffix and entities <= set(self.entities.items()):
                    found.append((len(pairs), name))
            for _, name in sorted(found):
                told |= read_json(folder / name)
        return told

    @cached_property
    def slice_thickness(self) -> float | None:
        """Millimetres, as the metadata tell; None if they do not.

        Raises:
            ImageError: the metadata cannot be read.
        """
        told = self.metadata.get("SliceThickness")
        if told is None:
            return None
        if isinstance(told, int | float) and not isinstance(told, bool) and 0.05 <= told <= 50:
            return float(told)
        text = f"SliceThickness is {told!r}, implausible for CT or MR in mm; it is not used"
        warn("W-BIDS-THICKNESS", text, path=self.path, facts={"found": told})
        return None


@dataclass(frozen=True)
class LeftOut:
    """A file, or a folder, that is not taken."""

    path: Path
    code: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What :func:`find_bids_images` found.

    Attributes:
        images: sorted by path.
        left_out: images in the chosen folders that are not taken, and why; sorted by path.
    """

    images: tuple[BidsImage, ...]
    left_out: tuple[LeftOut, ...]


def is_bids(root: str | Path) -> bool:
    """Whether a folder is a raw BIDS dataset.

    Raises:
        ImageError: its description cannot be read.
    """
    told = read_description(Path(root))
    return "BIDSVersion" in told and told.get("DatasetType", RAW) == RAW


def find_bids_images(
    root: str | Path, *, participant_labels: Iterable[str] = (), sessions: Iterable[str] = ()
) -> Found:
    """The anatomical images of a raw dataset: ``sub-*/[ses-*/]anat``, and ``ct``.

    What ``.bidsignore`` names is left out, except CT, which a valid dataset can hold in no other way.

    Args:
        root: the dataset.
        participant_labels: only these participants, with or without ``sub-``; all by default.
        sessions: only these sessions, with or without ``ses-``; all by default, and what is in none.

    Raises:
        UsageError: no raw BIDS dataset, or a label that it does not have.
        ImageError: its description cannot be read.
    """
    root = Path(root)
    if not is_bids(root):
        kind = read_description(root).get("DatasetType", RAW)
        problem = f"no {DESCRIPTION} with a BIDSVersion" if kind == RAW else f"a dataset of the type {kind!r}"
        raise UsageError("E-BIDS-DATASET", problem, fix="give the folder of a raw BIDS dataset", path=root)
    left_out: list[LeftOut] = []
    subjects = _labeled(root, "sub", left_out)
    chosen = {label: subjects[label] for label in _choose(subjects, participant_labels, "sub", root)}
    visits = {label: _labeled(folder, "ses", left_out) for label, folder in chosen.items()}
    wanted = _choose({name for names in visits.values() for name in names}, sessions, "ses", root)
    ignored = ignored_by(root / ".bidsignore")
    images: dict[Path, BidsImage] = {}
    for subject, folder in chosen.items():
        places = [({"sub": subject, "ses": name}, visits[subject][name]) for name in wanted if name in visits[subject]]
        if not sessions:
            places.append(({"sub": subject}, folder))
        for labels, place in places:
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
    """A dataset's description; empty where there is none.

    Raises:
        ImageError: it cannot be read.
    """
    path = root / DESCRIPTION
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a dataset.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"{path.stat().st_size >> 20} MiB")
        # NaN and Infinity are no JSON, but some tools write them
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=lambda _: None)
    except RecursionError as error:
        raise ImageError("E-BIDS-JSON", "nested too deeply", fix="repair the file", path=path) from error
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise ImageError(
            "E-BIDS-JSON", f"cannot be read ({reason})", fix="restore the file (`datalad get` in DataLad)", path=path
        ) from error
    except ValueError as error:
        raise ImageError("E-BIDS-JSON", f"no valid JSON ({error})", fix="repair the file", path=path) from error
    if not isinstance(content, dict):
        raise ImageError("E-BIDS-JSON", "no JSON object", fix="repair the file", path=path)
    return content


def _image(root: Path, path: Path, labels: dict[str, str], ignored: bool) -> BidsImage:
    if ignored and path.parent.name != "ct":
        raise NotTakenError("E-BIDS-IGNORED", "named in .bidsignore")
    if path.parent.name not in ("anat", "ct"):
        raise NotTakenError("E-BIDS-NAME", "an image must be in a folder such as anat")
    image = BidsImage(root, path, *parsed_name(path, labels))
    # DataLad leaves a broken link, or a line that names the content, until it is asked for it
    if path.is_symlink() and not path.exists():
        raise NotTakenError("E-BIDS-FETCH", "content not fetched; run datalad get")
    if not path.is_file():
        raise NotTakenError("E-IO-TYPE", "not a regular file")
    if path.stat().st_size < 1000:
        with path.open("rb") as file:
            if file.read(16).startswith(b"/annex/objects/"):
                raise NotTakenError("E-BIDS-FETCH", "content not fetched; run datalad get")
    return image


def _choose(there: Iterable[str], wanted: Iterable[str], entity: str, root: Path) -> list[str]:
    """The wanted labels, all if none is wanted; an unknown one is answered with near ones."""
    folded = {label.casefold(): label for label in there}
    labels = [label.removeprefix(f"{entity}-") for label in wanted]
    for label in labels:
        if label not in set(there):
            near = difflib.get_close_matches(label.casefold(), folded, n=3) or sorted(folded)[:5]
            choices = ", ".join(f"{entity}-{folded[name]}" for name in near) or "the dataset has none"
            raise UsageError("E-BIDS-LABEL", f"there is no {entity}-{label}", fix=f"choose {choices}", path=root)
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
    """Whatever is named like NIfTI, in upper case too."""
    return [folder / name for name in _names(folder, left_out) if name.lower().endswith(NIFTI_SUFFIXES)]


def _names(folder: Path, left_out: list[LeftOut]) -> list[str]:
    """What a folder holds, without hidden files; nothing if it is absent."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        left_out.append(LeftOut(folder, "E-IO-PERM", f"the folder cannot be read ({error.strerror})"))
        return []
