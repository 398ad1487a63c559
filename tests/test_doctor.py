"""``monai-sr doctor``: what works is said, what does not is named, and all of it is looked at."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from catalogue import fault

import monai_sr.cli
from monai_sr.bundles import load_bundle
from monai_sr.cli import doctor
from monai_sr.cli.doctor import instruction_sets
from monai_sr.errors import BundleError
from monai_sr.evaluation import self_test

SCHEMA = json.loads((Path(monai_sr.cli.__file__).parent / "answer.schema.json").read_text())


@pytest.fixture
def one_engine(monkeypatch):
    """Only the pyramid by torch."""
    monkeypatch.setattr(doctor, "BUNDLES", ("pyramid",))
    monkeypatch.setattr(self_test, "engines", lambda: iter([("torch", "float32", "cpu")]))


@pytest.fixture
def computed(monkeypatch, one_engine):
    """As if the voxels were so far from the expected ones, as a fraction of the range."""

    def differ(difference: float) -> None:
        monkeypatch.setattr(self_test, "made_by", lambda model: difference * self_test.RANGE + expected(model))

    def expected(model) -> np.ndarray:
        return self_test._read_expected("pyramid", model)

    return differ


@pytest.mark.parametrize("bundle", ["residual", "pyramid"])
def test_the_released_weights_give_the_expected_voxels(bundle):
    """If weights were changed on purpose: python -m monai_sr.evaluation.self_test"""
    result = self_test.run_self_test(bundle, "torch", "float32", "cpu")
    result.check()
    assert 0 < result.difference < 0.2 * result.tolerance  # the file is rounded


@pytest.mark.parametrize("bundle", ["residual", "pyramid"])
def test_the_expected_voxels_are_those_of_the_network_and_not_of_the_spline(bundle):
    expected = self_test._read_expected(bundle, load_bundle(bundle, device="cpu", engine="torch"))
    spline = self_test.made_by(load_bundle("none"))
    assert np.abs(spline - expected).max() > 1.5 * self_test.RANGE * max(self_test.TOLERANCES.values())
    assert len(expected) > 500 and np.ptp(expected) > 0.9 * self_test.RANGE


@pytest.mark.slow
def test_every_engine_passes_on_this_machine(call, tmp_path):
    code, out, err = call("doctor", tmp_path)
    assert (code, err) == (0, "")
    assert out.count("as expected") == 2 * len(list(self_test.engines()))


def test_the_findings_are_reported_in_text_and_in_json(call, tmp_path, computed):
    computed(1e-5)
    code, out, err = call("doctor", tmp_path)
    assert (code, err) == (0, "") and "MB/s" in out and "GiB" in out and "as expected" in out
    code, out, err = call("doctor", tmp_path, "--json")
    document = json.loads(out)
    jsonschema.validate(document, SCHEMA)
    assert (code, err, document["errors"]) == (0, "", [])
    assert document["memory"]["planned_mib"] > 100 and document["folder"]["write_mb_per_s"] > 0
    assert [test["as_expected"] for test in document["self_test"]] == [True]
    assert list(tmp_path.iterdir()) == []


@fault("W10", "E-SELF-TEST")
def test_an_engine_that_computes_something_else_is_exit_code_9(call, tmp_path, computed):
    for difference in (2e-4, float("nan")):
        computed(difference)
        code, out, err = call("doctor", tmp_path)
        assert code == 9 and err.startswith("monai-sr: E-SELF-TEST: pyramid by torch in float32 on cpu")
        assert "WRONG" in out and "all is well" not in out
    (test,) = json.loads(call("doctor", tmp_path, "--json")[1])["self_test"]
    assert not test["as_expected"]


def test_all_faults_are_named_and_the_first_gives_the_exit_code(call, tmp_path, computed):
    computed(1.0)
    code, out, err = call("doctor", tmp_path / "absent")
    assert code == 6 and "E-OUT-FOLDER, E-SELF-TEST" in out
    assert [line.split(": ")[1] for line in err.splitlines()] == ["E-OUT-FOLDER", "E-SELF-TEST"]


def test_a_package_that_cannot_be_loaded_is_named(call, tmp_path, monkeypatch):
    def broken(name, package):
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "import_module", broken)
    code, _, err = call("doctor", tmp_path)
    assert code == 2 and "E-EXTRA" in err and "libtorch_cpu.so" in err


def test_other_weights_than_the_released_ones_are_no_fault_of_an_engine(monkeypatch):
    model = load_bundle("pyramid", device="cpu", engine="torch")
    model.weights_sha256 = "0"
    with pytest.raises(BundleError) as caught:
        self_test._read_expected("pyramid", model)
    assert caught.value.code == "E-W-HASH" and caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", ["avx2", "avx512f", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp bf16x\n", ["asimd", "asimddp"]),
        ("no flags\n", []),
    ],
)
def test_instruction_sets_are_read_from_linux(text, sets, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert instruction_sets(tmp_path / "cpuinfo") == sets


def test_instruction_sets_of_other_systems_are_those_of_numpy(tmp_path):
    assert instruction_sets(tmp_path / "absent")
