"""Charts of scores show the means of the tables, with their intervals."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from monai_sr.evaluation.charts import write_charts
from monai_sr.evaluation.conditions import Condition
from monai_sr.evaluation.scores import Score

SVG = "{http://www.w3.org/2000/svg}"


def scores(*, methods=("cubic", "consistent", "mine"), factors=(2, 4), volumes=("a", "b", "c"), profile="gaussian"):
    paths = []
    for factor in factors:
        for number, volume in enumerate(volumes):
            for rank, method in enumerate(methods):
                for axis in (0, 2):
                    psnr = 30 + 2 * rank + 0.3 * number + axis - factor
                    condition = Condition(factor, profile)
                    resolution = factor * (1 - 0.1 * rank)
                    paths.append(
                        Score(volume, "MR", axis, condition, method, psnr, 0.9, psnr - 32, 1, 60, 5, resolution)
                    )
    return paths


def drawn(path) -> dict[str, list[tuple[float, float]]]:
    """Where the dots of each kind lie."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for circle in ElementTree.parse(path).getroot().iter(f"{SVG}circle"):
        kind = circle.attrib["class"].split()[1]
        curves.setdefault(kind, []).append((float(circle.attrib["cx"]), float(circle.attrib["cy"])))
    return curves


def test_a_chart_for_gain_and_one_for_resolution_in_every_modality_and_condition(tmp_path):
    paths = write_charts([*scores(), *scores(profile="box")], tmp_path)
    assert [p.name for p in paths] == [
        "gain_MR.svg",
        "resolution_MR.svg",
        "gain_MR_box-profile.svg",
        "resolution_MR_box-profile.svg",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_points_lie_where_the_means_are_and_whiskers_around_them(tmp_path):
    path, _ = write_charts(scores(), tmp_path)
    dots = drawn(path)
    assert set(dots) == {"m1", "m2"}  # cubic is the line they are measured from
    text = path.read_text()
    zero = float(re.search(r'class="mark" d="M[\d.]+ ([\d.]+)H', text).group(1))
    heights = {kind: np.mean([zero - y for _, y in points]) for kind, points in dots.items()}
    assert heights["m2"] == pytest.approx(2 * heights["m1"], rel=0.02) and heights["m1"] > 0
    assert all(points[0][0] < points[1][0] for points in dots.values())
    assert text.count("whisker") >= 4 and ">consistent<" in text and ">×4<" in text


def test_one_volume_has_no_interval_and_without_cubic_there_is_no_gain(tmp_path):
    gain, _ = write_charts(scores(volumes=("a",)), tmp_path)
    assert 'class="whisker' not in gain.read_text()
    (tmp_path / "b").mkdir()
    assert [p.name for p in write_charts(scores(methods=("consistent", "mine")), tmp_path / "b")] == [
        "resolution_MR.svg"
    ]


def test_one_factor_and_what_cannot_be_measured_are_drawn_too(tmp_path):
    alone = [s.__class__(**{**s.__dict__, "resolution_mm": float("nan")}) for s in scores(factors=(3,))]
    assert [p.name for p in write_charts(alone, tmp_path)] == ["gain_MR.svg"]
    text = (tmp_path / "gain_MR.svg").read_text()
    assert "nan" not in text
