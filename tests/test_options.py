"""What a user chooses: one record from the command line, a configuration file, Python or an earlier result."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue import fault

from monai_sr.cli.config import run_options
from monai_sr.cli.parser import make_parser
from monai_sr.errors import UsageError
from monai_sr.options import GROUPS, PARAMETERS, RunOptions, parameters

VALUES = {"flag": True, "number": 2.5, "count": 3, "index": 1, "text": "some text"}


def value_of(parameter):
    """A value that is not the default."""
    if parameter.kind == "choice":
        return next(choice for choice in parameter.choices if choice != parameter.default)
    return ("a", "b") if parameter.many else VALUES[parameter.kind]


def words_of(parameter, value) -> list[str]:
    """The value as it is typed."""
    if not parameter.flag:
        return [str(value)]
    if parameter.kind == "flag":
        return [parameter.flag]
    if parameter.many == "repeat":
        return [word for one in value for word in (parameter.flag, one)]
    return [parameter.flag, *(value if parameter.many else [str(value)])]


def typed(*words: str, command: str = "run") -> RunOptions:
    return run_options(make_parser().parse_args([command, *words]))


WITH = {  # what an option needs beside it
    "num_parts": {"part_id": 1},
    "part_id": {"num_parts": 3},
    "gpu_resource": {"scheduler": "tcp://x"},
}


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_every_option_is_the_same_typed_flat_by_group_and_written_down(parameter, tmp_path):
    values = {parameter.name: value_of(parameter)} | WITH.get(parameter.name, {})
    places = {"input": "a", "output": "b"} | values
    words = [
        word for name, value in values.items() for word in words_of(PARAMETERS[name], value) if PARAMETERS[name].flag
    ]
    options = typed(places["input"], places["output"], *words)
    assert options == RunOptions.from_dict(places)
    assert options != RunOptions(input="a", output="b")
    assert RunOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    holder = getattr(options, parameter.group) if parameter.group else options
    assert getattr(holder, parameter.name) == value_of(parameter)


def test_every_field_has_its_help_and_one_name():
    assert set(PARAMETERS) >= {one.name for group in GROUPS.values() for one in dataclasses.fields(group)}
    assert len(PARAMETERS) == 2 + sum(len(dataclasses.fields(group)) for group in GROUPS.values())
    for parameter in PARAMETERS.values():
        assert parameter.text and parameter.convert(parameter.default) == parameter.default
        assert all(PARAMETERS[rival].excludes == (parameter.name,) for rival in parameter.excludes)


def test_a_text_from_python_is_checked_like_one_that_was_typed():
    assert RunOptions.from_dict({"factor": "2", "modality": "ct"}).wanted.factor == 2.0
    for wrong in ({"factor": 0}, {"factor": True}, {"axis": 3}, {"jobs": 1.5}, {"strict": "yes"}, {"volume": -1}):
        with pytest.raises(UsageError) as caught:
            RunOptions.from_dict(wrong)
        assert caught.value.code == "E-USE" and f"--{next(iter(wrong))}" in str(caught.value)
    with pytest.raises(UsageError, match="factor and spacing"):
        RunOptions.from_dict({"factor": 2, "spacing": 1})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flat.json", '{"factor": 4, "modality": "CT", "include": ["a*"]}'),
        ("nested.json", '{"wanted": {"factor": 4}, "acquisition": {"modality": "CT"}, "selection": {"include": "a*"}}'),
        ("flat.yaml", "factor: 4\nmodality: CT\ninclude: ['a*']\n"),
        ("nested.yml", "wanted:\n  factor: 4\nacquisition: {modality: CT}\nselection: {include: 'a*'}\n"),
        ("record.json", '{"monai_sr": {"options": {"wanted": {"factor": 4}, "modality": "CT", "include": ["a*"]}}}'),
    ],
)
def test_a_file_gives_options_and_the_command_line_beats_it(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    by_file = typed("in", "out", "--config", str(path))
    assert by_file == typed("in", "out", "--factor", "4", "--modality", "CT", "--include", "a*")
    beaten = typed("in", "out", "--config", str(path), "--factor", "2", "--modality", "MR")
    assert (beaten.wanted.factor, beaten.acquisition.modality) == (2.0, "MR")
    rival = typed("in", "out", "--config", str(path), "--spacing", "1.5")
    assert (rival.wanted.factor, rival.wanted.spacing) == (None, 1.5)


def test_a_file_may_name_input_and_output(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("input: scans\noutput: thin\n")
    options = typed("--config", str(path), "-o", "elsewhere")
    assert (options.input, options.output) == ("scans", "elsewhere")


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b"],
        ["-i", "a", "-o", "b"],
        ["--output", "b", "a"],
        ["a", "--factor", "2", "-o", "b"],
        ["a", "--strict", "b"],
    ],
)
def test_input_and_output_are_given_by_place_or_by_name(words):
    options = typed(*words)
    assert (options.input, options.output) == ("a", "b")


@fault("R19")
@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ('{"factr": 4}', "E-USE", "did you mean factor?"),
        ('{"wanted": {"slice-thicknes": 4}}', "E-USE", "did you mean slice_thickness?"),
        ('{"factor": "four"}', "E-USE", "--factor"),
        ('{"factor": 2, "spacing": 1}', "E-USE", "factor and spacing"),
        ("[1, 2]", "E-CONFIG", ""),
        ("{", "E-CONFIG", ""),
        ("[" * 5000, "E-CONFIG", ""),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_wrong_file_is_named_with_what_is_wrong(call, tmp_path, text, code, word, suffix):
    path = tmp_path / f"wrong{suffix}"
    path.write_text(text)
    exit_code, _, err = call("run", "a", "b", "--config", path)
    assert exit_code == 2 and err.startswith(f"monai-sr: {code}: {path} - ") and err.count("\n") == 1
    assert word in err


def test_a_file_of_options_that_is_not_there_is_named(call, tmp_path):
    exit_code, _, err = call("run", "a", "b", "--config", tmp_path / "none.json")
    assert exit_code == 2 and "E-CONFIG" in err


@pytest.mark.parametrize("words", [["run", "a", "b", "--factr", "2"], ["run", "a", "b", "c"], ["run", "a"]])
def test_a_wrong_call_names_the_help_of_its_command(call, words):
    code, _, err = call(*words)
    assert code == 2 and "monai-sr run --help" in err


def test_the_help_of_run_has_its_groups_in_order_and_three_examples(call):
    _, out, _ = call("run", "--help")
    titles = [f"\n{group.__doc__}:" for group in GROUPS.values()]
    places = [out.index(title) for title in titles]
    assert len(places) == 6 and places == sorted(places)
    assert out.split("examples:")[1].count("monai-sr run ") == 3
    for parameter in parameters("run"):
        assert parameter.flag in out


def test_the_options_come_without_torch():
    code = (
        "import sys, monai_sr.options, monai_sr.cli.parser; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_does_not_decide_the_voxels_is_left_out_of_what_does():
    chosen = {"factor": 2, "nan": "refuse", "profile": "box", "precision": "int8", "bundle": "pyramid"}
    rest = {
        "strict": True,
        "report": True,
        "series": "1.2.3",
        "device": "cpu",
        "jobs": 3,
        "overwrite": True,
        "input": "a",
    }
    assert RunOptions.from_dict(chosen | rest).deciding() == RunOptions.from_dict(chosen)


# ------------------------------------------------------------- bundles

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"

NOT_OF_A_BUNDLE = {"bundle", "format", "trust_bundle", "device", "input", "output", "protocols", "adapt", "deidentify"}
"""Options that a bundle's configuration has other keys for, or none."""


@pytest.mark.parametrize("name", ["residual_super_resolution", "pyramid_super_resolution"])
def test_the_keys_of_a_bundle_are_the_options_with_their_defaults(name):
    config = json.loads((BUNDLES / name / "configs" / "inference.json").read_text())
    groups = ("wanted", "acquisition", "reading", "compute")
    shared = {one.name: one.default for one in PARAMETERS.values() if one.group in groups} | {"engine": "auto"}
    shared |= {"precision": "auto"}  # quality is "usual" in both
    assert {key: config[key] for key in shared if key not in NOT_OF_A_BUNDLE} == {
        key: value for key, value in shared.items() if key not in NOT_OF_A_BUNDLE
    }
    reader = config["preprocessing"]["transforms"][0]
    for parameter in PARAMETERS.values():
        if parameter.group in groups and parameter.name not in NOT_OF_A_BUNDLE:
            place = reader if parameter.group == "reading" else config["inferer"]
            assert place[parameter.name] == f"@{parameter.name}"


def test_what_a_bundle_says_fills_what_is_left_open():
    defaults = RunOptions.from_dict({"spacing": 1, "profile": "box", "axis": 0})
    chosen = RunOptions.from_dict({"factor": 3, "axis": 2})
    assert chosen.wanted.or_else(defaults.wanted) == chosen.wanted  # a factor excludes a spacing
    acquired = chosen.acquisition.or_else(defaults.acquisition)
    assert (acquired.profile, acquired.axis) == ("box", 2)
