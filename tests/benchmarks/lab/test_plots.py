"""Figures show what they are given: points with intervals, mean curves, and names apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.lab.plots import (
    intervals,
    level_intervals,
    name_beside,
    paired_differences,
    panels,
    seed_curves,
    spread,
)
from recsim_env.estimates import Estimate


def test_labels_stand_apart_and_move_no_further_than_needed() -> None:
    assert spread([0.0, 5.0, 9.0], 1.0) == [0.0, 5.0, 9.0]
    assert spread([1.0, 1.0, 5.0], 1.0) == pytest.approx([0.5, 1.5, 5.0])


def test_points_stand_at_their_values_and_lines_span_their_intervals() -> None:
    _, (axes,) = panels(3, 2)
    intervals(axes, [0, 1], [Estimate(2.0, 1.0, 4.0), Estimate(3.0)], colour="red", scale=10.0)
    (points,), (lines,) = axes.lines, axes.collections
    assert np.asarray(points.get_xydata()).tolist() == [[0.0, 20.0], [1.0, 30.0]]
    first, second = (path.vertices.tolist() for path in lines.get_paths())  # type: ignore[union-attr]
    assert first == [[0.0, 10.0], [0.0, 40.0]]
    assert math.isnan(second[0][1])  # an estimate without an interval has a point alone


def test_the_mean_over_seeds_is_drawn_over_their_lines() -> None:
    _, (axes,) = panels(3, 2)
    x = np.array([0.0, 1.0])
    curves = [(x, np.array([1.0, 2.0])), (x + 1, np.array([3.0, 6.0]))]
    seed_curves(axes, curves, colour="red", label="mean")
    assert len(axes.lines) == 3
    assert np.asarray(axes.lines[-1].get_xydata()).tolist() == [[0.5, 2.0], [1.5, 4.0]]


def test_the_first_line_stands_above_the_others() -> None:
    figure = level_intervals(
        [("a", Estimate(1.0, 0.0, 2.0), "red"), ("b", Estimate(5.0), "blue")], "x"
    )
    (axes,) = figure.axes
    heights = {
        label.get_text(): place
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }
    assert heights == {"a": 1, "b": 0}


def test_every_point_has_its_name_beside_it() -> None:
    _, (axes,) = panels(3, 2)
    axes.plot([0, 1], [0, 1], "o")
    name_beside(axes, {"low": (0, 0), "high": (1, 0.001)})
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights["low"] < heights["high"] - 0.04


def test_differences_stand_beside_the_policy_that_they_are_from() -> None:
    _, (axes,) = panels(4, 2)
    lines = [("a", Estimate(1.0, 0.5, 1.5), "red"), ("b", Estimate(-0.25, -1.0, 0.5), "blue")]
    paired_differences(axes, lines, "greedy")
    zero, *drawn = (np.asarray(line.get_xydata()).tolist() for line in axes.lines)
    assert [point[0] for point in zero] == [0, 0]
    assert drawn[0] == [[-1.0, 0.0], [0.5, 0.0]]  # the last name is below
    assert drawn[3] == [[1.0, 1.0]]
    assert [text.get_text() for text in axes.texts] == ["-0.25", "+1.00"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert "greedy" in axes.get_xlabel()
