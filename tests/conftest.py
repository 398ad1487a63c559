"""What every test may count on: one seed, the command line, and the shared data if it is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_sr.batch import speed
from monai_sr.cli.main import main
from monai_sr.fusion import registration

# Tensors are small here: threads would cost more than they give, on a busy machine ten times more.
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason=f"real volumes are absent: {SHARED_DATA} does not exist")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(autouse=True, scope="session")
def hasten() -> Iterator[None]:
    """What costs time and is no property that a test in this process can see.

    No test ends the machine, so files need not be forced onto the disk. A dry run measures the speed by small volumes.
    Stacks are registered by few samples; ``test_fusion.py`` tests the accuracy with all.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(speed, "_FIRST", 8)
        patch.setattr(speed, "_ENOUGH", 0.02)
        patch.setattr(registration, "SAMPLES", 8000)
        yield


@pytest.fixture(autouse=True)
def alike() -> Iterator[None]:
    """Every test starts from the same random numbers and log level, whichever ran before."""
    np.random.seed(0)  # noqa: NPY002 - the global state is what is seeded
    torch.default_generator.manual_seed(0)
    level = logging.getLogger().level  # which the command line sets for its process
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes; ask for it in tests marked ``data``."""
    return SHARED_DATA


@pytest.fixture
def call(capsys):
    """Run a command in this process: its exit code, stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as end:  # argparse leaves by itself
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def fails(call, tmp_path):
    """Run a command that must fail as FAULTS says: one line, the right code, nothing left in ``out``."""

    def run(*arguments, exit_code: int, code: str, names: str | Path = "") -> str:
        before = sorted(tmp_path.rglob("*"))
        returned, _, err = call(*arguments)
        assert err.count("\n") == 1, err
        assert err.startswith(f"monai-sr: {code}: "), err
        assert str(names) in err
        assert " Fix: " in err
        assert returned == exit_code
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run
