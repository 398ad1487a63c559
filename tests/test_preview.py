"""``--preview``: a picture of the acquired slices and of the result, without a page."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from runs import scan

from monai_sr.report import summary_of
from monai_sr.report.preview import GAP, PIXELS

WORDS = ("--bundle", "none", "--preview")


def pixels_of(path: Path) -> np.ndarray:
    """The gray pixels of a PNG of ours."""
    content, place, data = path.read_bytes(), 8, b""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunk = content[place + 8 : place + 8 + length]
        assert struct.unpack(">I", content[place + 8 + length :][:4])[0] == zlib.crc32(kind + chunk)
        width, height = struct.unpack(">II", chunk[:8]) if kind == b"IHDR" else (width, height)  # noqa: F821
        data += chunk if kind == b"IDAT" else b""
        place += length + 12
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width + 1)[:, 1:]
    return np.cumsum(rows, axis=0, dtype=np.uint8)  # each row is the difference from the one above


@pytest.fixture
def thick(tmp_path) -> Path:
    return scan(tmp_path / "in" / "a.nii.gz", shape=(24, 20, 12))


def test_a_preview_shows_the_acquired_slices_and_the_result(call, thick, tmp_path):
    _, out, _ = call("run", thick, tmp_path / "thin.nii.gz", *WORDS)
    path = tmp_path / "thin.png"
    assert str(path) in out and not (tmp_path / "thin.html").exists()
    pixels = pixels_of(path)
    width = (pixels.shape[1] - GAP) // 2
    assert max(pixels.shape[0], width) == PIXELS and (pixels[:, width : width + GAP] == 255).all()
    before, after = (np.diff(half.astype(int), axis=0) for half in (pixels[:, :width], pixels[:, -width:]))
    assert (before != 0).any(axis=1).sum() == 11  # steps from one of twelve slices to the next
    assert (after != 0).any(axis=1).sum() > 40


def test_a_preview_is_made_for_a_result_that_is_there_and_the_same_each_time(call, thick, tmp_path):
    folder = f"{tmp_path / 'out'}/"
    assert call("run", thick, folder, "--bundle", "none")[0] == 0
    path = tmp_path / "out" / "a.png"
    assert not path.exists()
    assert "already done" in call("run", thick, folder, *WORDS)[1]
    first = path.read_bytes()
    assert summary_of(path)["kind"] == "preview" and len(summary_of(path)["output_sha256"]) == 64
    path.unlink()
    call("run", thick, folder, *WORDS)
    assert path.read_bytes() == first


def test_a_dry_run_names_the_preview(call, thick, tmp_path):
    planned = call("run", thick, tmp_path / "thin.nii.gz", *WORDS, "--device", "cpu", "--dry-run")[1]
    assert f"would write {tmp_path / 'thin.png'}" in planned.splitlines()


def test_a_picture_that_is_not_ours_is_kept(call, thick, tmp_path):
    path = tmp_path / "thin.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n of somebody else")
    code, _, err = call("run", thick, tmp_path / "thin.nii.gz", *WORDS)
    assert code == 0 and "thin.png" in err and path.read_bytes().endswith(b"else")
    assert call("run", thick, tmp_path / "thin.nii.gz", *WORDS, "--overwrite")[0] == 0
    assert summary_of(path)
