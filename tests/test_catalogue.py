"""The fault catalogue, the tests, the codes in the source and their explanations name each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalogue import CODE, ROWS, codes_in, proofs

import monai_sr
from monai_sr.cli.main import main
from monai_sr.codes import CODES

PACKAGE = Path(monai_sr.__file__).parent


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_catalogue_is_proven_with_its_codes(row):
    assert proofs().get(row), "no test proves it"
    given = set().union(*proofs()[row].values())
    assert given == ROWS[row].codes, "the codes in tests/README.md are others than those of the tests"


def test_no_test_names_a_row_that_the_catalogue_lacks():
    assert len(ROWS) >= 92
    assert not set(proofs()) - set(ROWS)


def test_every_code_in_the_source_is_explained():
    unexplained = {code: where for code, where in codes_in(PACKAGE).items() if code not in CODES}
    assert not unexplained, "explain these in monai_sr/codes.tsv"


def test_every_explained_code_is_given_somewhere():
    assert not set(CODES) - set(codes_in(PACKAGE)), "nothing gives these any more"


def test_explanations_are_sorted_sentences():
    assert list(CODES) == sorted(CODES)
    for code, (severity, meaning, remedy) in CODES.items():
        assert CODE.fullmatch(code)
        assert severity in (("error", "info") if code.startswith("E-") else ("warning", "info")), code
        assert meaning.endswith(".") and remedy.endswith("."), code


def test_a_code_without_an_explanation_is_detected(tmp_path):
    (tmp_path / "new.py").write_text('def f(x):\n    raise ImageError("E-NEW-ONE", x)\n    warn(f"W-{x}: E-NOT")\n')
    assert codes_in(tmp_path) == {"E-NEW-ONE": "new.py:2"}


def test_the_command_line_explains_one_code_or_all(capsys):
    assert main(["errors", "e-io-crc"]) == 0
    _, meaning, remedy = CODES["E-IO-CRC"]
    assert capsys.readouterr().out == f"E-IO-CRC        {meaning}\n{'':16}{remedy}\n"
    assert main(["errors"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{code} " in f"\n{out}" for code in CODES)


def test_an_unknown_code_is_answered_with_the_nearest(capsys):
    assert main(["errors", "E-IO-CRK"]) == 2
    assert "E-IO-CRC" in capsys.readouterr().err
