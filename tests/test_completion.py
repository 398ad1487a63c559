"""``monai-sr completion``: a shell completes commands, options, values and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_sr.options import PARAMETERS


@pytest.fixture
def script(call) -> str:
    pytest.importorskip("shtab", reason="shtab (monai-sr[completion]) is not installed")
    code, out, err = call("completion", "bash")
    assert (code, err) == (0, "")
    return out


ASK = """
source "$1"; shift
COMP_WORDS=(monai-sr "$@"); COMP_CWORD=$#
_shtab_monai_sr
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["r"], {"run"}),
        (["run", "--bun"], {"--bundle"}),
        (["run", "--bundle", ""], {"residual", "pyramid", "none"}),
        (["run", "--precision", ""], set(PARAMETERS["precision"].choices)),
        (["errors", "E-IO-C"], {"E-IO-CHANGED", "E-IO-CRC"}),
        (["run", "thi"], {"thick.nii.gz"}),
        (["doctor", "out"], {"outputs"}),
    ],
)
def test_bash_completes(script, tmp_path, words, expected):
    (tmp_path / "thick.nii.gz").touch()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "out.txt").touch()
    path = Path(tmp_path, "script.bash")
    path.write_text(script)
    done = subprocess.run(["bash", "-c", ASK, "bash", path, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "" and set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish", "powershell", "tcsh"])
def test_there_is_a_script_for_other_shells(script, call, shell):
    code, out, err = call("completion", shell)
    assert (code, err) == (0, "") and "bundle" in out and out != script


def test_it_needs_a_package_that_it_names(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, out, err = call("completion", "bash")
    assert (code, out) == (2, "") and "E-EXTRA" in err and 'pip install "monai-sr[completion]"' in err
