"""Damage at random: whatever a file, a list or a dataset holds, it is read or refused, soon and in little memory.

Each input is a sound one with some bytes changed, lost, repeated or put in, also inside its compression.
``MONAI_SR_FUZZ`` sets how many there are.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import dicom_phantoms as phantoms
import file_formats as formats
import numpy as np
import pytest
from catalogue import fault
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from monai_sr.acquired import Acquired
from monai_sr.batch import find_cases
from monai_sr.batch.bids import derivative_sidecar, find_bids_images, is_bids, write_dataset_description
from monai_sr.batch.record import is_own_result
from monai_sr.cli.config import read_config
from monai_sr.dicom import acquisition, find_series, short_name
from monai_sr.errors import SuperResolutionError, collect_notices
from monai_sr.grid import Grid
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_dicom, read_header, read_image, read_labels
from monai_sr.options import RunOptions

COUNT = int(os.environ.get("MONAI_SR_FUZZ", "10000"))
"""Inputs of all kinds together."""

SECONDS = 10
MEMORY, FLOOR = 20, 8 * 2**20
"""Memory may be so many times the input, and some MiB that any input takes."""

ODD = [
    *(b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f"),
    *(b"\0\0\x80\x7f", b"-1", b"0", b"nan", b"inf", b"1e999", b"-", b"9" * 20, b"9" * 5000, b"1 1 1"),
    *(b"\n", b"\n\n", b"=", b": ", b"(", b")", b"none", b"LOCAL", b"LIST", b"../a.raw", b"%s%d%n", b"/dev/zero"),
    *(b",", b'"', b"{", b"}", b"[", b"[" * 5000, b'{"a":' * 5000, b"null", b"true", b"*" * 50, b"\\", b"\xe2\x80\xa8"),
]
"""Pieces that parsers stumble over."""


class Mutator:
    """Changes bytes, always in the same way for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def below(self, limit: int) -> int:
        """A number below a limit, small ones more often: headers come first."""
        return int(limit * self.rng.random() ** self.rng.choice([1, 3]))

    def __call__(self, content: bytes) -> bytes:
        """Some bytes changed; of a compressed stream, mostly of what it holds."""
        for pack, unpack in ((gzip.compress, gzip.decompress), (zlib.compress, zlib.decompress)):
            start = content.find(b"\x1f\x8b" if pack is gzip.compress else b"\x78\x9c")
            if start >= 0 and self.rng.random() < 0.6:
                try:
                    return content[:start] + pack(self._changed(unpack(content[start:])))
                except (OSError, EOFError, zlib.error):
                    continue
        return self._changed(content)

    def _changed(self, content: bytes) -> bytes:
        made = bytearray(content)
        for _ in range(int(self.rng.integers(1, 5))):
            at, length = self.below(len(made) + 1), int(self.rng.integers(1, 40))
            kind = self.rng.integers(8)
            if kind == 0:
                made[at : at + 1] = bytes([self.rng.integers(256)])
            elif kind == 1 and at < len(made):
                made[at] ^= 1 << int(self.rng.integers(8))
            elif kind == 2:
                del made[at : at + length]
            elif kind == 3:
                made[at:at] = made[at : at + length]
            elif kind == 4:
                made[at:at] = self.rng.bytes(length)
            elif kind == 5 and self.rng.random() < 0.3:
                del made[at:]
            else:
                odd = ODD[self.rng.integers(len(ODD))]
                made[at : at + (len(odd) if kind == 6 else 0)] = odd
        return bytes(made)

    def one_of(self, paths: list[Path]) -> None:
        """Change a file, or sometimes all of them."""
        chosen = paths if self.rng.random() < 0.2 else [paths[self.rng.integers(len(paths))]]
        for path in chosen:
            path.write_bytes(self(path.read_bytes()))


def read_any_image(path: Path) -> None:
    """All that is done with an image file before a network sees it; and the spline, where it is no large volume."""
    for read in (read_header, read_labels):
        with contextlib.suppress(SuperResolutionError):
            read(path)
    is_own_result(path)
    image = read_image(path, volume="all")
    if image.numel() < 4000:
        super_resolve(image[:1], None, factor=2)


def an_image(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "a.json").write_text('{"monai_sr": {"record": 2}}')
        return formats.FORMATS[name](folder).name

    return make


def a_list(name: str, text: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_text(text)
        (folder / "in").mkdir()
        formats.FORMATS["NIfTI-1"](folder / "in")
        return name

    return make


def a_config(name: str, text: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_text(text)
        return name

    return make


def read_any_list(path: Path) -> None:
    find_cases(RunOptions(input=str(path), output=str(path.parent / "out")))


def a_dataset(folder: Path) -> str:
    (folder / "dataset_description.json").write_text(
        '{"Name": "x", "BIDSVersion": "1.9.0", "DatasetType": "raw", "License": "CC0", "GeneratedBy": [{"Name": "y"}]}'
    )
    (folder / "T1w.json").write_text('{"SliceThickness": 4, "MagneticFieldStrength": 3.0, "EchoTime": 0.1}')
    (folder / ".bidsignore").write_text("*_acq-trial_*\n/sub-02/**\n!a[0-9]?\n**/x\n")
    (folder / "sub-01" / "anat").mkdir(parents=True, exist_ok=True)
    (folder / "sub-01" / "anat" / "sub-01_T1w.json").write_text('{"SliceThickness": 5, "SkullStripped": true}')
    (folder / "sub-01" / "anat" / "sub-01_T1w.nii").write_bytes(b"")
    return ""


def read_any_dataset(folder: Path) -> None:
    is_bids(folder)
    for image in find_bids_images(folder).images:
        thick = formats.FORMATS["NIfTI-1"](folder)
        acquired = Acquired.of(read_image(thick), slice_thickness=image.slice_thickness)
        derivative_sidecar(image, acquired, Grid((8, 8, 24), np.diag([1.0, 1.0, 1.0, 1.0])))
    (folder / "out").mkdir(exist_ok=True)
    write_dataset_description(folder / "out", raw_root=folder)


SMALL = phantoms.Stack(phantoms.even(4, 4.0), rows=8, columns=8)
LARGER = phantoms.Stack(phantoms.even(4, 4.0), rows=32, columns=34)
"""As many pixels as the encoder of JPEG 2000 needs."""


def two_volumes(**attributes: list) -> list[list]:
    """Slices of two volumes at one place, which differ in some attributes."""
    return [
        phantoms.slices(
            SMALL,
            lambda points, n=n: phantoms.anatomy_at(points) / (n + 1),
            modality="MR",
            **{name: values[n] for name, values in attributes.items()},
        )
        for n in range(2)
    ]


DICOM = {
    "explicit": lambda: (phantoms.slices(SMALL), ExplicitVRLittleEndian),
    "implicit": lambda: (phantoms.slices(SMALL, modality="MR"), ImplicitVRLittleEndian),
    "big endian": lambda: (phantoms.slices(SMALL), ExplicitVRBigEndian),
    "deflated": lambda: (phantoms.slices(SMALL), DeflatedExplicitVRLittleEndian),
    "run length": lambda: (phantoms.slices(LARGER), RLELossless),
    "JPEG 2000": lambda: (phantoms.slices(LARGER), JPEG2000Lossless),
    "enhanced": lambda: (
        phantoms.enhanced(*two_volumes(), dimension="TemporalPositionIndex"),
        ImplicitVRLittleEndian,
    ),
    "enhanced run length": lambda: (phantoms.enhanced(phantoms.slices(LARGER)), RLELossless),
    "echoes": lambda: ([*chain(*two_volumes(EchoTime=[2, 9]))], ExplicitVRLittleEndian),
    "b-values": lambda: ([*chain(*two_volumes(DiffusionBValue=[0.0, 700.0]))], ExplicitVRLittleEndian),
}
"""Datasets and transfer syntax by name."""


def a_series(name: str, *, zipped: bool = False) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        datasets, syntax = DICOM[name]()
        paths = phantoms.write(folder / "series", datasets, syntax=syntax)
        if not zipped:
            return "series"
        with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in paths:
                archive.write(path, path.name)
        shutil.rmtree(folder / "series")
        return "series.zip"

    return make


def read_any_series(source: Path) -> None:
    """Find and read every volume; names differ, and nothing of a header's text is said."""
    found = find_series(source)
    said = [str(error) for _, error in found.broken]  # which name no UID; a damaged one may hold any text
    assert found.choices().isprintable()
    assert len({short_name(series) for series in found.series}) == len(found.series)
    error = found.broken[0][1] if found.broken else None
    for series in found.series:
        acquisition(series)
        try:
            read_dicom(series, path=source)
        except SuperResolutionError as fault_of_series:
            error = fault_of_series
            said.append(str(error))
    assert phantoms.tells_nothing(*said)
    if error is not None:
        raise error


KINDS: dict[str, tuple[Callable[[Path], str], Callable[[Path], object]]] = {
    **{name: (an_image(name), read_any_image) for name in formats.FORMATS},
    "text list": (a_list("list.txt", "# today\nin/a.nii\nin/b\ngone.nii\n"), read_any_list),
    "CSV list": (a_list("list.csv", "input,output\nin/a.nii,x.nii.gz\n\"in/b\",\ngone.nii,y.nii\n"), read_any_list),
    "options in JSON": (a_config("a.json", '{"wanted": {"factor": 4}, "axis": 2, "include": ["a*"]}'), read_config),
    "options in YAML": (a_config("a.yaml", "wanted: {factor: 4}\naxis: 2\ninclude:\n- a*\n"), read_config),
    "BIDS": (a_dataset, read_any_dataset),
    **{f"DICOM {name}": (a_series(name), read_any_series) for name in DICOM},
    "DICOM zip": (a_series("explicit", zipped=True), read_any_series),
}  # fmt: skip
"""By name what writes a sound input into a folder, and what reads it."""


class Hang(Exception):
    """An input took too long."""


def give_up(*_: object) -> None:
    raise Hang


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@fault("R25")
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_causes_a_bug_or_takes_long_or_much_memory(tmp_path, kind):
    make, read = KINDS[kind]
    sound, folder = tmp_path / "sound", tmp_path / "damaged"
    sound.mkdir()
    name = make(sound)
    mutate = Mutator(seed=sorted(KINDS).index(kind))
    answers: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, give_up)
    with collect_notices():
        read(shutil.copytree(sound, folder) / name)  # what it imports is no memory of an input
    for number in range(-(-COUNT // len(KINDS))):
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        mutate.one_of([path for path in files_below(folder) if path.suffix != ".nii" or "NIfTI" in kind])
        size = sum(path.stat().st_size for path in files_below(folder))
        tracemalloc.start()
        signal.alarm(SECONDS)
        try:
            with collect_notices():
                read(folder / name)
            answers["read"] += 1
        except SuperResolutionError as error:
            answers[error.code] += 1
        except BaseException as error:
            kept = shutil.copytree(folder, tmp_path / f"kept-{number}")
            raise AssertionError(f"{kind} {number}: {type(error).__name__}, kept in {kept}") from error
        finally:
            signal.alarm(0)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < FLOOR + MEMORY * size, f"{kind} {number}: {peak} bytes for {size}"
    print(kind, dict(answers))
    assert len(answers) > 1
