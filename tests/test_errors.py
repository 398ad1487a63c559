"""Errors read as one line: the code, the file, what is wrong, and what to do."""

from __future__ import annotations

import pytest

from monai_sr.errors import BundleError, ImageError, InputMissingError, OutputError, SuperResolutionError, UsageError


def test_an_error_says_which_file_what_is_wrong_and_what_to_do():
    error = ImageError("E-IO-TRUNC", "ends after\n  3 of 5 bytes.", fix="copy it again.", path="a/b.nii.gz")
    assert str(error) == "E-IO-TRUNC: a/b.nii.gz - ends after 3 of 5 bytes. Fix: copy it again."


def test_a_file_named_closer_to_the_fault_is_kept():
    error = ImageError("E", "is wrong", fix="mend it").at("inner.nii").at("outer.zip")
    assert str(error) == "E: inner.nii - is wrong. Fix: mend it."
    assert str(ImageError("E", "is wrong", fix="mend it")) == "E: is wrong. Fix: mend it."


def test_each_kind_of_fault_has_its_own_exit_code():
    kinds = [SuperResolutionError, ImageError, InputMissingError, OutputError, BundleError, UsageError]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_contradicting_options_are_also_value_errors():
    with pytest.raises(ValueError, match="Fix: give one"):
        raise UsageError("E-USE", "two were given", fix="give one")
