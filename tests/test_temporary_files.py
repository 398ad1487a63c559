"""Marks name the process of temporary files, and whether that process lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from monai_sr.files import hidden_beside, is_alive, own_mark, temporary_beside


def test_a_mark_holds_host_process_and_start():
    host, pid, start = own_mark().rsplit("-", 2)
    assert host and int(pid) == os.getpid()
    assert abs(int(start) - psutil.Process().create_time()) <= 1
    assert is_alive(own_mark())


def test_a_process_that_took_over_a_number_is_another():
    host, pid, start = own_mark().rsplit("-", 2)
    assert is_alive(f"{host}-{pid}-{int(start) - 100}") is False


def test_nothing_is_known_of_other_hosts():
    assert is_alive("elsewhere-1-1") is None


def test_a_process_that_ended_is_dead_also_before_its_parent_looks():
    child = subprocess.Popen([sys.executable, "-c", ""])
    mark = f"{own_mark().rsplit('-', 2)[0]}-{child.pid}-{int(psutil.Process(child.pid).create_time())}"
    end = time.monotonic() + 30
    while is_alive(mark) and time.monotonic() < end:
        time.sleep(0.01)
    assert is_alive(mark) is False  # a zombie
    child.wait()
    assert is_alive(mark) is False


def test_hidden_names_are_short_enough_and_differ():
    for name in ("a.nii.gz", "x" * 240 + "1.nii.gz", "x" * 240 + "2.nii.gz", "肺" * 80 + ".nii", "m\udce9.nii"):
        hidden = temporary_beside(Path("folder") / name)
        assert hidden.parent == Path("folder") and hidden.name.startswith(".") and hidden.name.endswith(".tmp")
        assert len(hidden.name.encode()) <= 255
    one, two = (hidden_beside(Path("x" * 240 + end), "claim") for end in "12")
    assert one != two
