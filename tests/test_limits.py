"""``--threads``, ``--memory``, ``--quiet`` and ``--verbose``: what a command may use of a machine, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs import scan

from monai_sr.cli import run as run_module
from monai_sr.cli.parser import make_parser
from monai_sr.engine.devices import MEMORY_LIMIT
from monai_sr.engine.memory import SHARE, memory_budget


@pytest.fixture
def seen(monkeypatch) -> dict:
    """What a run finds when it looks."""
    values: dict = {}

    def look(options, given):
        values.update(threads=torch.get_num_threads(), memory=memory_budget(), names=dict(os.environ))
        return 0

    monkeypatch.setattr(run_module, "super_resolve", look)
    return values


def test_a_command_and_its_processes_use_as_much_as_they_may(call, seen):
    before, threads = dict(os.environ), torch.get_num_threads()
    assert call("run", "a.nii", "b.nii", "--threads", "3", "--memory", "0.5G")[0] == 0
    assert seen["threads"] == 3 and seen["memory"] == int(SHARE * 2**29)
    assert seen["names"]["OMP_NUM_THREADS"] == "3" and seen["names"][MEMORY_LIMIT] == str(2**29)
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)


def test_without_a_limit_nothing_changes(call, seen):
    before = dict(os.environ)
    assert call("run", "a.nii", "b.nii")[0] == 0
    assert seen["names"] == before


def test_threads_hold_in_a_process_of_its_own(tmp_path):
    code = "import sys; from monai_sr.cli.main import main; import monai_sr.cli.run as r\n"
    code += "def look(*_):\n    import torch\n    print(torch.get_num_threads())\nr.super_resolve = look; main()"
    words = ["run", "a.nii", "b.nii", "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == ["2"]


@pytest.mark.parametrize(("text", "size"), [("512M", 2**29), ("2g", 2**31), ("1.5GiB", 3 * 2**29), ("64KB", 2**16)])
def test_sizes_have_units(text, size):
    assert make_parser().parse_args(["run", "a", "b", "--memory", text]).memory == size


@pytest.mark.parametrize("words", [["--memory", "8"], ["--memory", "0G"], ["--memory", "lots"], ["--threads", "0"]])
def test_an_invalid_limit_is_refused(fails, words):
    fails("run", "a.nii", "b.nii", *words, exit_code=2, code="E-USE", names=words[0])


def test_too_little_memory_is_refused_before_the_work(call, tmp_path):
    source = scan(tmp_path / "a.nii.gz", shape=(24, 20, 12))
    code, _, err = call("run", source, tmp_path / "b.nii.gz", "--bundle", "none", "--memory", "10M")
    assert (code, "E-MEM" in err, (tmp_path / "b.nii.gz").exists()) == (8, True, False)


def test_quiet_prints_only_what_is_wrong_and_makes_the_same(call, tmp_path):
    source = scan(tmp_path / "a.nii.gz", shape=(24, 20, 12))
    loud = call("run", source, tmp_path / "loud.nii.gz", "--bundle", "none", "--factor", "20")
    quiet = call("run", source, tmp_path / "quiet.nii.gz", "--bundle", "none", "--factor", "20", "--quiet")
    assert (loud[0], quiet[0]) == (0, 0) and loud[1] and quiet[1] == ""
    assert quiet[2] == loud[2]  # warnings
    made = [np.frombuffer((tmp_path / f"{name}.nii.gz").read_bytes(), np.uint8) for name in ("loud", "quiet")]
    assert np.array_equal(*made)
    code, out, err = call("run", tmp_path / "absent.nii", tmp_path / "c.nii.gz", "--quiet")
    assert (code, out) == (3, "") and "E-IO-MISSING" in err
    assert call("info")[1]  # and afterwards commands speak again


def test_verbose_says_what_computed_a_result_of_what_and_how_long_it_took(call, tmp_path):
    source, thin = scan(tmp_path / "a.nii.gz", shape=(24, 20, 12)), tmp_path / "b.nii.gz"
    words = ("run", source, thin, "--bundle", "none", "--profile", "box")
    _, plain, _ = call(*words)
    code, out, _ = call(*words, "--verbose")
    assert code == 0 and out.startswith(plain)
    facts = {line[2:17].strip(): line[18:] for line in out[len(plain) :].splitlines()}
    record = json.loads(thin.with_name("b.json").read_text())["monai_sr"]
    assert facts["model"] == "none" and facts["computed by"].startswith(f"{record['engine']} on cpu, tiles of ")
    assert facts["slice profile"] == "box, option" and facts["axis"] == "2, estimated"
    assert facts["took"] == f"{record['seconds']:.1f} s, peak memory {record['peak_memory_mib']:.0f} MiB"
    folder = call("run", tmp_path / "a.nii.gz", f"{tmp_path / 'out'}/", "--bundle", "none", "--verbose")
    assert "  slice profile   " in folder[1] and folder[0] == 0
    assert call(*words, "--verbose", "--quiet")[0] == 2
    assert call("check", source, "--verbose")[0] == 2  # it shows the facts anyway
