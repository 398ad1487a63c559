"""Make a MONAI datalist of volumes that are truly thin along every axis.

    python data_scripts/prepare_datalist.py data/ixi data/lidc --output data/datalist.json

Every NIfTI file, NRRD or MetaImage file and DICOM series folder below the sources is read. A volume is accepted
if its spacing is fine and nearly isotropic, and its spectrum shows that it is as sharp as its spacing (see
spectrum.py); the others are listed with the reason. Volumes are split by subject, so that no subject is in both
training and validation. The split depends only on subject and seed, so it stays when volumes are added. A
provenance table beside the datalist gives for each volume its source and the reason if it was refused. The
subject is the first of these that exists: what --subject-pattern finds; "sub-XX" as BIDS writes it, an IXI or
LIDC-IDRI number; the first folder below the source, unless it has a general name such as "imagesTr" or "T1";
the file name.

"weight" balances the modalities: if volumes are drawn by weight, CT and MR are equally frequent. DICOM folders
must hold one series each. Exit codes: 0 done, 2 wrong usage, 3 nothing usable, 6 output not writable.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import spectrum
from monai.data import MetaTensor
from tqdm import tqdm

from monai_sr.acquired import Acquired
from monai_sr.dicom import is_dicom
from monai_sr.errors import ImageError, InputMissingError, OutputError, SuperResolutionError, collect_notices
from monai_sr.files import write_atomically
from monai_sr.io.images import image_suffix, read_image
from monai_sr.io.volumes import find_volumes

KNOWN_SUBJECTS = (r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+", r"IXI\d{3}", r"LIDC-IDRI-\d{4}")
"""Names by which well-known data sets call a subject, wherever they stand in the path."""

GENERAL_FOLDERS = frozenset(
    {"anat", "ct", "data", "dicom", "flair", "image", "images", "imagestr", "imagests", "mr", "mri", "nifti", "nii"}
    | {"pd", "scans", "t1", "t1w", "t2", "t2w", "test", "train", "training", "val", "validation", "volumes"}
)
"""Folder names that say nothing about the subject."""

FEWEST_VALUES = 32
"""A volume with fewer different values is a label map."""

CT_FLOOR = -1024.0
"""HU below this are padding outside the reconstruction circle, whose edge is no anatomy."""


@dataclass(frozen=True)
class Volume:
    """One row of the provenance table."""

    path: str
    accepted: bool = False
    reason: str = ""
    split: str = ""
    subject: str = ""
    modality: str = ""
    shape: str = ""
    spacing_mm: str = ""
    orientation: str = ""
    share_above_half_nyquist: str = ""
    relative_share: str = ""
    roll_off: str = ""
    ripple: str = ""
    sha256: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Rules:
    """What is asked of a volume, and how the accepted ones are split."""

    max_spacing: float = 2.0
    max_anisotropy: float = 1.6
    validation_share: float = 0.2
    seed: int = 0
    subject_pattern: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Result:
    """All volumes, and the two halves of the datalist."""

    volumes: list[Volume]
    lists: dict[str, list[dict]] = field(default_factory=dict)


def prepare(sources: Sequence[Path], output: Path, rules: Rules = Rules()) -> Result:
    """Examine every volume below ``sources`` and write datalist and provenance table.

    The datalist is not written if no volume is accepted.
    """
    found = _found(sources)
    volumes = [examine(path, source, rules) for path, source in tqdm(found, desc="volumes", unit="", disable=None)]
    volumes = _without_copies(volumes)
    lists = {split: _items(volumes, split, output.parent) for split in ("training", "validation")}
    write_atomically(provenance_path(output), lambda file: file.write(_table(volumes)))
    if any(lists.values()):
        content = {
            "name": "thin-slice volumes",
            "description": f"made by prepare_datalist.py; provenance in {provenance_path(output).name}",
            "seed": rules.seed,
            "validation_share": rules.validation_share,
            **lists,
        }
        write_atomically(output, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))
    return Result(volumes, lists)


def provenance_path(output: Path) -> Path:
    """Where the table beside a datalist lies."""
    return output.with_name(f"{output.stem}_provenance.csv")


def examine(path: Path, source: Path, rules: Rules) -> Volume:
    """Read and judge one volume; whatever is wrong with it becomes the reason of its refusal."""
    subject = subject_of(path, source, rules.subject_pattern)
    volume = Volume(path=str(path), subject=hashlib.sha256(subject.encode()).hexdigest()[:12])
    with collect_notices() as caught:
        try:
            volume = replace(volume, sha256=_digest(path))
            image = read_image(path)
            volume = _described(volume, image)
            volume = _judged(volume, image[0].numpy(), rules)
        except SuperResolutionError as error:
            volume = replace(volume, reason=str(error))
        except Exception as error:
            # one volume must not end a run over thousands; the traceback is there to be reported
            traceback.print_exc()
            volume = replace(volume, reason=f"internal error: {type(error).__name__}: {error}")
    notes = map(str, caught)
    if volume.accepted:
        volume = replace(volume, split=split_of(subject, rules.seed, rules.validation_share))
    return replace(volume, notes="; ".join(notes))


def subject_of(path: Path, source: Path, pattern: re.Pattern[str] | None = None) -> str:
    """Whose volume this is, from its path alone; see the top of this file for the rule."""
    inside = path.relative_to(source) if path != source else Path(path.name)
    above = source.name if path != source else source.parent.name
    # a source may itself be one subject's folder, as in ".../sub-01"
    places = [(pattern, inside.as_posix())] if pattern else []
    places += [(re.compile(known), f"{above}/{inside.as_posix()}") for known in KNOWN_SUBJECTS]
    for candidate, text in places:
        if match := candidate.search(text):
            return match.group(1) if match.groups() else match.group(0)
    folders = inside.parts if path.is_dir() else inside.parts[:-1]
    telling = [name for name in folders if name.lower() not in GENERAL_FOLDERS]
    return telling[0] if telling else path.name.removesuffix(image_suffix(path))


def split_of(subject: str, seed: int, validation_share: float) -> str:
    """The side a subject is on: a fixed number in 0..1 drawn from its name and the seed, and the share."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:8], "big") / 2**64
    return "validation" if drawn < validation_share else "training"


def _found(sources: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every volume once, with the source it lies in."""
    found: dict[Path, tuple[Path, Path]] = {}
    for source in sources:
        try:
            paths = find_volumes(source)
        except InputMissingError as error:
            print(error, file=sys.stderr)
            continue
        for path in paths:
            found.setdefault(path.resolve(), (path, source))
    return list(found.values())


def _described(volume: Volume, image: MetaTensor) -> Volume:
    """What the header says."""
    affine = image.affine.numpy()
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return replace(
        volume,
        modality=Acquired.of(image).modality,
        shape="x".join(str(n) for n in image.shape[1:]),
        spacing_mm="x".join(f"{s:.4g}" for s in spacing),
        orientation="".join(nib.aff2axcodes(affine)),
    )


def _judged(volume: Volume, voxels: np.ndarray, rules: Rules) -> Volume:
    """Accepted, or refused with the reason."""
    spacing = [float(s) for s in volume.spacing_mm.split("x")]
    if max(spacing) > rules.max_spacing:
        return replace(volume, reason=f"spacing {volume.spacing_mm} mm: more than {rules.max_spacing:g} mm")
    if max(spacing) > rules.max_anisotropy * min(spacing):
        return replace(
            volume,
            reason=f"spacing {volume.spacing_mm} mm: the largest is {max(spacing) / min(spacing):.2f} times "
            f"the finest, more than {rules.max_anisotropy:g}",
        )
    if len(np.unique(voxels)) < FEWEST_VALUES:
        return replace(volume, reason=f"fewer than {FEWEST_VALUES} different values: a label map, not an image")
    try:
        sharpness = spectrum.measure(np.maximum(voxels, CT_FLOOR) if volume.modality == "CT" else voxels)
    except ValueError as error:
        return replace(volume, reason=str(error))
    volume = replace(
        volume,
        share_above_half_nyquist=_three(s.share for s in sharpness),
        relative_share=_three(s.relative for s in sharpness),
        roll_off=_three(s.roll_off for s in sharpness),
        ripple=_three(s.ripple for s in sharpness),
    )
    soft = "softer than its spacing, as if interpolated from thicker slices"
    faults = [f"axis {a} is {soft}: {s.fault}" for a, s in enumerate(sharpness) if s.fault]
    return replace(volume, accepted=not faults, reason="; ".join(faults))


def _three(figures: Iterable[float]) -> str:
    return " ".join(f"{f:.3g}" for f in figures)


def _without_copies(volumes: Sequence[Volume]) -> list[Volume]:
    """The same bytes under two names could stand on both sides: only the first is taken."""
    first: dict[str, str] = {}
    kept = []
    for volume in volumes:
        if volume.accepted and volume.sha256 in first:
            volume = replace(volume, accepted=False, split="", reason=f"a copy of {first[volume.sha256]}")
        elif volume.accepted:
            first[volume.sha256] = volume.path
        kept.append(volume)
    return kept


def _items(volumes: Sequence[Volume], split: str, base: Path) -> list[dict]:
    """One half of the datalist, weighted so that each modality is drawn equally often.

    The modality itself is left to the table: MONAI takes any string of a datalist for a path if a file
    of that name lies beside it, and a folder called CT often does.
    """
    chosen = [v for v in volumes if v.split == split]
    count = Counter(v.modality for v in chosen)
    return [
        {
            "image": _relative(Path(v.path), base),
            "weight": round(len(chosen) / (len(count) * count[v.modality]), 6),
            "subject": v.subject,
        }
        for v in chosen
    ]


def _relative(path: Path, base: Path) -> str:
    """Relative to the datalist's folder if it lies inside, so that the folder can be moved; else absolute."""
    path, base = path.resolve(), base.resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _table(volumes: Sequence[Volume]) -> bytes:
    """The provenance table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Volume)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(v) for v in volumes)
    return text.getvalue().encode()


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a DICOM folder that of its files' digests in sorted order, whatever their names."""
    try:
        if path.is_dir():
            digests = sorted(_digest(f) for f in path.iterdir() if f.is_file() and is_dicom(f))
            return hashlib.sha256("\n".join(digests).encode()).hexdigest()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise ImageError("E-IO-PERM", f"cannot be read ({error.strerror})", fix="check it", path=path) from error


def _summary(result: Result, output: Path, rules: Rules) -> str:
    """What a person wants to know at the end."""
    accepted = [v for v in result.volumes if v.accepted]
    refused = [v for v in result.volumes if not v.accepted]
    kinds = Counter(v.modality for v in accepted)
    lines = [f"refused: {v.path}: {v.reason}" for v in refused]
    lines.append(
        f"{len(result.volumes)} volumes: {len(accepted)} accepted "
        f"({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items())) or 'none'}), {len(refused)} refused"
    )
    for split, items in result.lists.items():
        lines.append(f"{split}: {len(items)} volumes of {len({i['subject'] for i in items})} subjects")
        if not items and accepted:
            lines.append(f"  no subject fell on this side: change --seed (now {rules.seed}) or --validation-share")
    subjects = Counter(v.subject for v in accepted)
    if len(accepted) > 4 and subjects.most_common(1)[0][1] > len(accepted) / 2:
        lines.append("  more than half of the volumes count as one subject: if they are not, give --subject-pattern")
    if accepted:
        lines.append(f"written: {output}, {provenance_path(output)}")
    else:
        lines.append(f"nothing usable, no datalist written; the reasons are in {provenance_path(output)}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Rules()
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="folder, at any depth, or file")
    parser.add_argument("--output", type=Path, required=True, help="the datalist, for example data/datalist.json")
    parser.add_argument(
        "--validation-share",
        type=float,
        default=defaults.validation_share,
        metavar="0..1",
        help="fraction of subjects kept for validation (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="another seed, another split (default: 0)")
    parser.add_argument(
        "--subject-pattern",
        metavar="REGEX",
        help='finds the subject in the path below SOURCE; its first group if it has one: "^(\\d+)/"',
    )
    parser.add_argument(
        "--max-spacing",
        type=float,
        default=defaults.max_spacing,
        metavar="MM",
        help="refuse volumes with a larger spacing along any axis (default: %(default)s)",
    )
    parser.add_argument(
        "--max-anisotropy",
        type=float,
        default=defaults.max_anisotropy,
        metavar="RATIO",
        help="refuse volumes whose largest spacing is more times the finest (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    for source in options.sources:
        if not source.exists():
            parser.error(f"there is no {source}")
    if not 0 <= options.validation_share <= 1:
        parser.error(f"--validation-share is {options.validation_share}, must be between 0 and 1")
    if options.max_spacing <= 0 or options.max_anisotropy < 1:
        parser.error("--max-spacing must be above 0 and --max-anisotropy at least 1")
    try:
        pattern = re.compile(options.subject_pattern) if options.subject_pattern else None
    except re.error as error:
        parser.error(f"--subject-pattern {options.subject_pattern!r}: {error}")
    rules = Rules(options.max_spacing, options.max_anisotropy, options.validation_share, options.seed, pattern)
    try:
        # before the long reading, not after it
        if not (options.output.parent.is_dir() and os.access(options.output.parent, os.W_OK)):
            raise OutputError(
                "E-OUT-FOLDER", "the folder is missing or not writable", fix="create it", path=options.output.parent
            )
        result = prepare(options.sources, options.output, rules)
    except OutputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(_summary(result, options.output, rules))
    return 0 if any(v.accepted for v in result.volumes) else InputMissingError.exit_code


if __name__ == "__main__":
    sys.exit(main())
