"""The page of theory: its tables say what was measured."""

import csv
import json
import math

import numpy as np
import pytest

from sinai.model.theory import Shape
from sinai.model.theory_nets import LayerNoise, measure
from sinai.report import theory


@pytest.fixture(scope="module")
def tiny():
    return measure("tiny", draws=2, steps=1)


def test_tables_hold_every_layer_and_reading(tiny, tmp_path):
    theory.write({"tiny": tiny}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "theory.md",
        "theory.json",
        "layers.csv",
        "noise-tiny.png",
    }
    with (tmp_path / "layers.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["projection"] for row in rows] == ["patch"] * 6 + ["tap"] * 6
    first, noise = tiny["projected"]["patch"][0], tiny["noise"]["patch"][0]
    assert rows[0]["layer"] == first.layer == noise.layer == "stem"
    assert float(rows[0]["ratio_of_mean_squares"]) == pytest.approx(np.mean(first.ratios))
    assert float(rows[0]["standardised_distance"]) == noise.standardised.distance
    record = json.loads((tmp_path / "theory.json").read_text(encoding="utf-8"))
    bounds = record["theorem_2"]
    assert [each["scheme"] for each in bounds] == ["unstructured:0.5"] * 4 + [
        "unstructured:0.9"
    ] * 4
    assert bounds[1]["theta"] is None  # infinite: some class changes
    assert tiny["theorem_2"]["unstructured:0.5"][1].theta == math.inf
    text = (tmp_path / "theory.md").read_text(encoding="utf-8")
    assert text.count("## tiny") == 6
    assert f"| stem | 27 | 1 | {first.predicted:.3f} | {first.measured:.3f} |" in text
    assert "| unstructured:0.9, one P, largest logit | 1.000 | inf | 1.0000 |" in text


def noise(name, distance, values):
    shape = Shape(len(values), 0.0, 1.0, 0.0, 0.0, distance)
    return LayerNoise(name, 0.1, 0.0, shape, shape, shape, np.asarray(values, float))


def test_figure_marks_the_layer_furthest_from_normal():
    values = np.random.default_rng(0).normal(size=500)
    figure = theory.draw([noise("a", 0.01, values), noise("b", 0.2, values**2 - 1)], "title")
    left, right = figure.axes
    assert "b (furthest)" in [text.get_text() for text in left.get_legend().get_texts()]
    labels = ("normal", "b (furthest)")
    straight = next(line for line in right.lines if line.get_label() == "normal")
    x, y = straight.get_data()
    np.testing.assert_array_equal(x, y)
    assert x[99] == pytest.approx(0, abs=1e-9)  # the median
    close = next(line for line in right.lines if line.get_label() not in labels)
    assert np.abs(close.get_ydata() - x).max() < 0.5


def test_command_refuses_what_is_not_bundled(tmp_path, capsys):
    assert theory.main(["--checkpoint", "none", "-o", str(tmp_path / "out")]) == 2
    assert "--checkpoint must be one of" in capsys.readouterr().err
    assert theory.main(["--wrong"]) == 2
    (tmp_path / "out").mkdir()
    assert theory.main(["--checkpoint", "tiny", "-o", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
