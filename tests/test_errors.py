"""Errors and warnings: fields for programs, one line of text for people, and who gets them."""

from __future__ import annotations

import inspect
import json
import pickle
import threading
import warnings
from contextlib import suppress

import numpy as np
import pytest

from monai_sr.codes import CODES
from monai_sr.errors import (
    BundleError,
    ImageError,
    InputMissingError,
    OutputError,
    SuperResolutionError,
    SuperResolutionWarning,
    UsageError,
    collect_notices,
    doubt,
    read_warning,
    warn,
)


def test_an_error_says_which_file_what_is_wrong_and_what_to_do():
    error = ImageError("E-IO-TRUNC", "ends after\n  3 of 5 bytes.", fix="copy it again.", path="a/b.nii.gz")
    assert str(error) == "E-IO-TRUNC: a/b.nii.gz - ends after 3 of 5 bytes. Fix: copy it again."


def test_a_file_named_closer_to_the_fault_is_kept():
    error = ImageError("E", "is wrong", fix="mend it").at("inner.nii").at("outer.zip")
    assert str(error) == "E: inner.nii - is wrong. Fix: mend it."
    assert str(ImageError("E", "is wrong", fix="mend it")) == "E: is wrong. Fix: mend it."


def test_each_class_of_error_has_its_own_exit_code():
    kinds = [SuperResolutionError, ImageError, InputMissingError, OutputError, BundleError, UsageError]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_contradicting_options_are_also_value_errors():
    with pytest.raises(ValueError, match="Fix: give one"):
        raise UsageError("E-USE", "two were given", fix="give one")


# ---------------------------------------------------------------- fields and text


CLIPPED = "{voxels} voxels lie beyond {range}"


def test_text_is_made_of_facts():
    facts = {"found": 7.0 / 3, "needed": (1, 2)}
    error = ImageError("E-X", "a step is {found:.3g} mm, not {needed} {other}", fix="mend it", facts=facts)
    assert error.problem == "a step is 2.33 mm, not (1, 2) {other}"
    assert str(error) == "E-X: a step is 2.33 mm, not (1, 2) {other}. Fix: mend it."


def test_a_brace_of_a_name_is_no_field():
    error = ImageError("E-X", "{a:b} {found:d}", fix="{c}", facts={"found": "{a}"})
    assert str(error) == "E-X: {a:b} {found:d}. Fix: {c}."


def test_a_notice_is_json():
    facts = {"found": np.float32(0.5), "many": np.arange(2), "name": "a\x1b", "none": None, "pair": (1, "x")}
    warning = SuperResolutionWarning("W-SR-RANGE", "a factor of {found:g}", path="a.nii", facts=facts)
    fields = json.loads(json.dumps(warning.to_dict()))
    assert fields.pop("fix").endswith("error.")  # of the table of codes
    assert fields == {
        "code": "W-SR-RANGE",
        "severity": "warning",
        "message": "a factor of 0.5",
        "path": "a.nii",
        "facts": {"found": 0.5, "many": [0, 1], "name": "a\\x1b", "none": None, "pair": [1, "x"]},
    }
    assert warning.to_record().keys() == {"code", "severity", "message", "facts"}


@pytest.mark.parametrize(
    ("code", "severity"), [("E-IO-CRC", "error"), ("E-DCM-OWN", "info"), ("W-CT-HU", "warning"), ("W-DCM-DUP", "info")]
)
def test_the_table_of_codes_says_how_severe_a_notice_is(code, severity):
    assert SuperResolutionWarning(code, "").severity == severity


@pytest.mark.parametrize("kind", [ImageError, UsageError, BundleError, SuperResolutionWarning])
def test_a_notice_reaches_another_process_whole(kind):
    sent = kind("E-X", "{found} of 2", fix="mend it", path="a.nii", facts={"found": 1})
    got = pickle.loads(pickle.dumps(sent))
    assert (type(got), str(got), got.facts, got.fix) == (kind, str(sent), {"found": 1}, "mend it")


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x9b31m", "\x00", "\u202e", "\udcff", "\x07"])
def test_what_a_terminal_would_obey_is_escaped(evil):
    error = ImageError("E-X", f"is {evil}", fix=f"see {evil}", path=f"a{evil}.nii", facts={"found": evil})
    assert str(error).isprintable() and str(error).isascii()
    assert json.dumps(error.to_dict(), ensure_ascii=False).isascii()


def test_a_warning_is_read_from_a_record_of_either_version():
    sent = SuperResolutionWarning("W-SR-RANGE", "a factor of {found:g}", facts={"found": 8})
    assert read_warning(sent.to_record()) == SuperResolutionWarning("W-SR-RANGE", "a factor of 8", facts={"found": 8})
    old = read_warning("W-SR-RANGE: a.nii - a factor of 8")
    assert (old.code, old.problem) == ("W-SR-RANGE", "a.nii - a factor of 8")
    assert read_warning("a note: of old").problem == "a note: of old"
    assert read_warning({"message": "{a:d}", "facts": ["a"]}).problem == "{a:d}"


# ---------------------------------------------------------------- who gets a warning


def test_a_warning_that_is_not_collected_is_one_of_python():
    def write() -> None:
        warn("W-OUT-CLIP", CLIPPED, path="a.nii", facts={"voxels": 3, "range": 1})

    with pytest.warns(SuperResolutionWarning, match="W-OUT-CLIP: a.nii - 3 voxels lie beyond 1") as caught:
        write()
    assert caught[0].filename == __file__  # the one who called what warned
    assert caught[0].message.facts["voxels"] == 3


def test_a_warning_is_collected_once_and_shown_as_it_comes():
    shown = []
    with warnings.catch_warnings(record=True) as by_python, collect_notices(shown.append) as collected:
        for voxels in (1, 1, 2):
            warn("W-OUT-CLIP", CLIPPED, facts={"voxels": voxels, "range": 1})
            assert shown == collected
    assert [notice.facts["voxels"] for notice in collected] == [1, 2] and not by_python


def test_the_innermost_context_collects():
    with collect_notices() as outer:
        warn("W-A", "before")
        with suppress(ValueError), collect_notices() as inner:
            warn("W-B", "within")
            raise ValueError
        warn("W-C", "after")
    assert ([n.code for n in outer], [n.code for n in inner]) == (["W-A", "W-C"], ["W-B"])


def test_threads_collect_apart():
    turn = threading.Barrier(2)
    collected = {}

    def work(name: str) -> None:
        with collect_notices() as notices:
            turn.wait()
            warn("W-X", name)
            turn.wait()
        collected[name] = [notice.problem for notice in notices]

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collected == {"a": ["a"], "b": ["b"]}


def test_no_remedy_repeats_what_the_warning_says_already():
    consequence = inspect.signature(doubt).parameters["consequence"].default
    assert [code for code, row in CODES.items() if consequence in row.remedy.lower()] == []
