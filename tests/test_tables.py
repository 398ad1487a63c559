"""Tables say what the scores say: each volume once, and where a method falls short."""

import csv
import json
from dataclasses import asdict

import numpy as np
import phantoms
import pytest

from monai_sr.evaluation.conditions import Condition
from monai_sr.evaluation.methods import BASELINES
from monai_sr.evaluation.scores import Score, evaluate
from monai_sr.evaluation.tables import (
    gain_interval,
    markdown,
    robustness_markdown,
    robustness_table,
    table,
    write_scores,
)

PLAIN = Condition(2)


@pytest.fixture(scope="module")
def scores():
    conditions = [Condition(2), Condition(2.5)]
    return evaluate([phantoms.body(), phantoms.body(air=-1000.0)], {}, conditions=conditions)


def score(volume="a", method="cubic", gain=0.0, *, condition=PLAIN, axis=2, modality="MR", psnr=30.0, ceiling=5.0):
    return Score(volume, modality, axis, condition, method, psnr + gain, 0.9, gain, 0.8, 60.0, ceiling)


# ------------------------------------------------------------- intervals


def test_the_interval_of_many_volumes_is_that_of_a_mean():
    gains = np.random.default_rng(1).normal(1.0, 0.5, 100)
    low, high = gain_interval(gains)
    half = 1.96 * gains.std() / np.sqrt(100)
    assert (low, high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.01)
    assert gain_interval(gains) == (low, high)  # seeded


def test_one_volume_has_no_interval_and_equal_ones_have_a_point():
    assert gain_interval([1.0]) is None
    assert gain_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)


# ------------------------------------------------------------- the plain table


def test_the_table_gives_the_mean_of_every_modality_factor_and_method(scores):
    lines = table(scores).split("\n\n")[0].splitlines()
    assert len(lines) == 1 + 2 * 2 * len(BASELINES)
    for line in lines[1:]:
        modality, factor, method, count, decibels, gain, interval, similarity, sharp, _, ceiling = line.split()
        (expected,) = [
            s for s in scores if (s.modality, f"x{s.condition.factor:g}", s.method) == (modality, factor, method)
        ]
        assert (int(count), interval) == (1, "-")
        assert float(decibels) == pytest.approx(expected.psnr_db, abs=0.006)
        assert float(gain) == pytest.approx(expected.gain_db, abs=0.006)
        assert float(similarity) == pytest.approx(expected.ssim, abs=6e-5)
        assert float(sharp) == pytest.approx(expected.sharpness, abs=6e-4)
        assert float(ceiling) == pytest.approx(expected.ceiling_db, abs=0.06)


def test_a_volume_counts_once_however_many_axes_it_has():
    scores = [score("a", gain=1.0, axis=axis) for axis in (0, 1, 2)] + [score("b", gain=3.0)]
    row = table(scores).splitlines()[1].split()
    assert row[:4] == ["MR", "x2", "cubic", "2"]
    assert row[5:7] == ["+2.00", "[+1.00,+3.00]"]


def test_few_volumes_are_called_few_and_enough_are_not():
    few = [score(str(i), "consistent") for i in range(4)]
    assert "Few volumes (MR 4)" in table(few)
    assert "Few volumes (MR 4)" in markdown(few, command="c")
    assert "Few volumes" not in table([*few, score("4", "consistent")])


def test_conditions_are_listed_under_their_names():
    scores = [score(gain=1.0), score(gain=-1.0, condition=Condition(2, "box"))]
    plain, box = table(scores).split("\n\n")[:2]
    assert plain.startswith("plain\n") and "+1.00" in plain
    assert box.startswith("box profile\n") and "-1.00" in box


def test_the_ceiling_of_every_volume_is_in_the_table():
    scores = [score(v, "consistent", ceiling=c, axis=a) for v, c, a in (("a", 3, 0), ("a", 5, 1), ("b", 7, 2))]
    for text in (table(scores), markdown(scores, command="c").replace("|", " ")):
        rows = [line.split() for line in text.splitlines()]
        assert ["MR", "a", "+4.0"] in rows and ["MR", "b", "+7.0"] in rows


def test_a_model_card_table_has_the_factors_side_by_side_and_names_its_command():
    scores = [
        score(v, m, g, condition=Condition(f))
        for f in (2, 4)
        for v, g in (("a", 1.0), ("b", 2.0))
        for m, g in (("consistent", 0.0), ("residual", g * f))
    ]
    lines = markdown(scores, command="monai-sr evaluate VOLUMES --factor 2 4").splitlines()
    assert lines[0] == "| MR, 2 volumes | ×2 | ×4 |"
    assert lines[1] == "|---|---|---|"
    residual = next(line for line in lines if line.startswith("| residual"))
    assert residual == (
        "| residual | **+3.00** [+2.00, +4.00]<br>0.900, 0.80 | **+6.00** [+4.00, +8.00]<br>0.900, 0.80 |"
    )
    assert "| *ceiling* | *+5.0* (+5.0 to +5.0) | *+5.0* (+5.0 to +5.0) |" in lines
    assert lines[-1] == "Made by `monai-sr evaluate VOLUMES --factor 2 4`."


# ------------------------------------------------------------- robustness


@pytest.fixture
def robust():
    """Cubic at 30 dB; the spline 1 dB above; residual 2 dB above that, but below cubic on one axis of one volume."""
    box, scores = Condition(4, "box"), []
    for volume, axis, residual in (("a", 0, 2.0), ("a", 1, 1.5), ("b", 2, -1.25)):
        scores += [score(volume, "cubic", -1.0, condition=box, axis=axis, psnr=31.0)]
        scores += [score(volume, "consistent", 0.0, condition=box, axis=axis, psnr=31.0)]
        scores += [score(volume, "residual", residual, condition=box, axis=axis, psnr=31.0)]
    return scores


def test_the_worst_volume_is_named_and_marked_if_below_cubic(robust):
    text = robustness_table(robust)
    row = next(line for line in text.splitlines() if "box profile" in line)
    # over the spline: mean of 1.75 and -1.25; over cubic one more; the worst axis of b is 0.25 below cubic
    assert row.split("profile")[1].split() == [
        "+0.00",
        "/",
        "+1.00",
        "/",
        "+1.00",
        "+0.25",
        "/",
        "+1.25",
        "/",
        "-0.25*",
    ]
    assert "Worse than cubic:" in text
    assert "- ×4, box profile: residual on b axis 2 (-0.25 dB)" in text
    card = robustness_markdown(robust, command="monai-sr evaluate VOLUMES --robustness")
    assert "| ×4 | box profile | +0.00 / +1.00 / +1.00 | +0.25 / +1.25 / -0.25* |" in card
    assert card.startswith("| MR, 2 volumes (3 axes) |  | consistent | residual |\n|---|---|---|---|\n")
    assert card.endswith("Made by `monai-sr evaluate VOLUMES --robustness`.\n")


def test_a_table_says_so_if_nothing_is_below_cubic(robust):
    good = [s for s in robust if s.volume == "a"]
    assert "No method is worse than cubic." in robustness_table(good)
    assert "*" not in robustness_table(good).splitlines()[1]


def test_a_method_without_a_result_under_a_condition_has_a_dash(robust):
    extra = score("a", "peer", 1.0, condition=Condition(4))
    plain = [score("a", m, g, condition=Condition(4)) for m, g in (("cubic", -1.0), ("consistent", 0.0))]
    rows = robustness_table([*plain, extra, *robust]).splitlines()
    box = next(line for line in rows if "box profile" in line)
    assert "–" in box


# ------------------------------------------------------------- files


def test_scores_survive_the_round_trip(tmp_path, scores):
    paths = write_scores(scores, tmp_path / "new" / "folder", command=["a", "b"])
    assert [p.name for p in paths] == ["scores.csv", "scores.json"]
    document = json.loads(paths[1].read_text())

    def score_of(row):
        condition = Condition(**{key: row.pop(key) for key in asdict(Condition(2))})
        return Score(condition=condition, **row)

    rows = [dict(row) for row in document["scores"]]
    assert [score_of(dict(row)) for row in rows] == scores
    assert document["settings"] == {"command": ["a", "b"]}
    for word in ("foreground", "data range", "gain", "sharpness", "ceiling"):
        assert word in document["figures"].lower()
    with open(paths[0], newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == lines
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["scores.csv", "scores.json"]


def test_what_could_not_be_measured_is_null_and_not_nan_in_the_files(tmp_path):
    _, path = write_scores([score()], tmp_path)
    text = path.read_text()
    assert "NaN" not in text and json.loads(text)["scores"][0]["resolution_mm"] is None
