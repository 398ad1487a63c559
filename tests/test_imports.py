"""Imports without what is not needed, which leave no trace."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import phantoms
import pytest

from monai_sr.engine.imports import without
from monai_sr.io.images import write_image


def test_what_is_hidden_cannot_be_imported_until_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_what_is_imported_already_stays():
    with without("numpy"):
        assert importlib.import_module("numpy") is np
    assert sys.modules["numpy"] is np


def test_it_can_be_imported_after_an_error_too(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ZeroDivisionError), without("colorsys"):
        raise ZeroDivisionError
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_a_run_starts_without_what_monai_has_for_training(tmp_path):
    write_image(phantoms.body((16, 16, 8), (1.0, 1.0, 3.0)), tmp_path / "thick.nii.gz", dtype=np.int16)
    code = (
        "import sys; from monai_sr.cli.main import main; assert main() == 0;"
        "print('monai' in sys.modules, 'ignite' in sys.modules, 'matplotlib' in sys.modules); import ignite.engine"
    )
    words = ["run", str(tmp_path / "thick.nii.gz"), str(tmp_path / "thin.nii.gz"), "--bundle", "none"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["True", "False", "False"]
