"""What Windows and macOS do otherwise, simulated here: names, renames, processes, console encodings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import phantoms
import pytest

from monai_sr import batch, files
from monai_sr.batch import chosen, find_cases, workers
from monai_sr.batch.case import replace_folder
from monai_sr.errors import OutputError, UsageError
from monai_sr.io.images import write_image
from monai_sr.options import RunOptions


@pytest.fixture
def locked(monkeypatch):
    """A function that lets so many renames fail, as on Windows while another program has a file open."""
    rename, left, waits = os.replace, [0], []

    def replace(source, target):
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files, "time", SimpleNamespace(sleep=waits.append))

    def lock(times: int, *, patience: tuple[float, ...] = (0.1, 0.2, 0.4)) -> list[float]:
        monkeypatch.setattr(files, "_PATIENCE", patience)
        left[0] = times
        return waits

    return lock


def series(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "0001.dcm").write_text(text)
    return folder


def test_a_file_that_is_in_use_is_replaced_a_little_later(locked, tmp_path):
    path = tmp_path / "thin.nii"
    path.write_text("old")
    waits = locked(2)
    files.write_text("new", path)
    assert path.read_text() == "new" and waits == [0.1, 0.2]
    locked(4)
    with pytest.raises(OutputError) as caught:
        files.write_text("newer", path)
    assert caught.value.code == "E-OUT-PERM" and path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_elsewhere_a_refused_rename_is_final(locked, tmp_path):
    waits = locked(1, patience=())
    with pytest.raises(OutputError):
        files.write_text("new", tmp_path / "thin.nii")
    assert not waits


def test_a_series_is_replaced_although_a_viewer_has_it_open_for_a_moment(locked, tmp_path):
    target = series(tmp_path / "derived", "old")
    locked(2)
    replace_folder(target, lambda folder: series(folder, "new"))
    assert (target / "0001.dcm").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("lock_in", [0, 1])
def test_the_old_series_stays_where_the_new_one_cannot_be_put_in_its_place(lock_in, locked, monkeypatch, tmp_path):
    target = series(tmp_path / "derived", "old")
    move = files.move
    moves = []

    def counted(source, into):
        locked(9 if len(moves) == lock_in else 0)
        moves.append(into)
        move(source, into)

    monkeypatch.setattr("monai_sr.batch.case.move", counted)
    with pytest.raises(OutputError) as caught:
        replace_folder(target, lambda folder: series(folder, "new"))
    assert caught.value.code == "E-OUT-PERM" and caught.value.path == target
    assert (target / "0001.dcm").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), OutputError("E-OUT-SPACE", "the disk is full"), KeyboardInterrupt()],
)
def test_the_old_series_stays_where_the_new_one_cannot_be_written(error, tmp_path):
    target = series(tmp_path / "derived", "old")

    def fail(folder: Path) -> None:
        series(folder, "half")
        assert (target / "0001.dcm").read_text() == "old"
        raise error

    with pytest.raises(OutputError if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        replace_folder(target, fail)
    if isinstance(error, Exception):
        assert caught.value.code == "E-OUT-SPACE" and caught.value.path == target
    assert (target / "0001.dcm").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("names", [("Head.nii", "head.nii"), ("Kopf\u00e4.nii", "Kopfa\u0308.nii")])
def test_results_whose_names_are_one_on_a_mac_are_refused(names, monkeypatch, tmp_path):
    for number, name in enumerate(names):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        write_image(phantoms.body((8, 8, 8), (1.0, 1.0, 3.0)), tmp_path / "in" / str(number) / name, dtype=np.int16)
    options = RunOptions.from_dict({"input": str(tmp_path / "in"), "output": str(tmp_path / "out")})
    cases = [chosen.replace(case, target=tmp_path / "out" / case.target.name) for case in find_cases(options)]
    chosen.check_names(cases)
    monkeypatch.setattr(chosen, "sys", SimpleNamespace(platform="darwin"))
    with pytest.raises(UsageError) as caught:
        chosen.check_names(cases)
    assert caught.value.code == "E-OUT-CLASH"


SLOW = pytest.mark.slow


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=SLOW), pytest.param("utf-8", marks=SLOW)])
def test_a_console_without_a_letter_of_a_path_shows_its_code(encoding, tmp_path):
    thick, thin = tmp_path / "gr\u00f6\u00dfe \u2192.nii", tmp_path / "d\u00fcnn \u2192.nii"
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), thick, dtype=np.int16)
    words = ["run", str(thick), str(thin), "--bundle", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "monai_sr", *words], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0 and thin.exists(), done.stderr
    assert done.stdout.decode(encoding).startswith(str(thin).encode(encoding, "backslashreplace").decode(encoding))


@pytest.mark.slow
def test_processes_that_inherit_nothing_make_the_same_results(monkeypatch, tmp_path):
    """As on Windows and macOS: a new interpreter for each, to which options and cases are sent."""
    (tmp_path / "in").mkdir()
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(phantoms.body((24, 20, 8), (1.0, 1.0, 3.0)), tmp_path / "in" / name, dtype=np.int16)
    monkeypatch.setattr(workers, "sys", SimpleNamespace(platform="win32"))
    given = {"input": str(tmp_path / "in"), "bundle": "none", "device": "cpu"}
    for jobs in (1, 2):
        outcomes = batch.run_cases(
            find_cases(
                options := RunOptions.from_dict({**given, "output": str(tmp_path / f"out{jobs}"), "jobs": jobs})
            ),
            options,
            memory=8 * 2**30,
        )
        assert [outcome.status for outcome in outcomes] == ["done", "done"]
    for name in ("a.nii.gz", "b.nii.gz"):
        first, second = ((tmp_path / f"out{jobs}" / name).read_bytes() for jobs in (1, 2))
        assert first == second
