"""The benchmark of fusion fits what errors were drawn from, and sees a field between the stacks."""

import numpy as np
import phantoms
import pytest
from benchmarks import fusion

from monai_sr.grid import grid_of, on_grid
from monai_sr.io.images import write_image


def test_the_constants_are_those_that_errors_were_drawn_from():
    random, constants = np.random.default_rng(0), (1.4, 0.5, 1.2, 0.7)
    samples = []
    for stacks, noise in ((2, 0.0), (2, 0.02), (3, 0.0), (3, 0.02)):
        spread, farther = random.uniform(0, 0.05, (2, 20_000)) ** 2
        sample = fusion.Sample("head", stacks, noise**2, np.zeros(20_000), spread, farther)
        error = np.abs(random.laplace(0, sample.sigma(constants) / np.sqrt(2)))
        samples.append(fusion.Sample("head", stacks, noise**2, error, spread, farther))
    assert fusion.fit(samples) == pytest.approx(constants, rel=0.08)
    assert samples[0].within(constants) == pytest.approx([0.757, 0.941], abs=0.01)  # a Laplace distribution


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fusion, "FITTED", (fusion.SETTINGS[1], fusion.SETTINGS[0]))
    write_image(phantoms.body((48, 48, 48), (1.0, 1.0, 1.0)), tmp_path / "v.nii.gz", dtype=np.int16)
    words = ["uncertainty", str(tmp_path / "v.nii.gz"), "--bundle", "none", "--output", str(tmp_path / "voxels")]
    fusion.main(words)
    text = capsys.readouterr().out
    monkeypatch.setattr(fusion, "fuse", None)
    fusion.main(words)
    assert capsys.readouterr().out == text
    assert "| v | " in text and "| all | " in text and len(list((tmp_path / "voxels").iterdir())) == 2


def test_the_polynomial_removes_a_quadratic_field(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fusion, "FIELDS", ("quadratic",))
    body = phantoms.body((48, 48, 48), (1.0, 1.0, 1.0))
    head = on_grid(phantoms.anatomy(0, (48, 48, 48))[None] * 800 + 200, grid_of(body), body)
    write_image(head, tmp_path / "v.nii.gz", dtype=np.int16)
    monkeypatch.setattr(fusion, "with_n4", lambda stacks: stacks)
    fusion.main(["fields", str(tmp_path / "v.nii.gz"), "--crop", "48"])
    row = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert row[:2] == ["v", "quadratic"] and float(row[3]) > float(row[2]) + 1
