"""Rows as a person reads them: lines of tables, and bars."""

from __future__ import annotations

import math
from typing import Any

import pytest
from matplotlib.colors import to_hex

from cutaway.evaluations.suite.pictures import suite_picture
from cutaway.evaluations.suite.summary import Score, of_tasks, scores, tables
from cutaway.figures import look


def row(task: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """A row of sparse probing with one feature, interval 0.1 down and 0.02 up."""
    low, high = (None, None) if value is None else (value - 0.1, value + 0.02)
    about = {"evaluation": "sparse_probing", "measure": "accuracy", "k": 1, "seed": 0}
    about |= {"task": task, "subject": "dictionary", "value": value, "low": low, "high": high}
    return about | changes


def removals(value: float | None, **changes: Any) -> list[dict[str, Any]]:
    """Rows of SCR: the task, and its two directions, of which the second counts."""
    about = {"evaluation": "scr", "measure": "scr", "k": 20, **changes}
    accuracies = {"evaluation": "scr", "k": None, "subject": "states"}
    return [
        row("a x b", value, **about),
        row("a x b", 0.1, **{**about, "subject": "random_features"}),
        *(
            row(f"a x b: {way}", accuracy, **{**accuracies, "measure": measure})
            for way, measure, accuracy in (
                ("a without b", "base_accuracy", 0.8),
                ("a without b", "oracle_accuracy", 0.95),
                ("b without a", "base_accuracy", 0.6),
                ("b without a", "oracle_accuracy", 0.9),
            )
        ),
    ]


def test_a_part_is_left_out_and_a_task_with_a_colon_is_not() -> None:
    names = ["books", "books: emma", "file: PER", "first_letter", "first_letter.s", "v1.2: a"]
    kept = of_tasks([row(name, 0.5) for name in names])
    assert [one["task"] for one in kept] == ["books", "file: PER", "first_letter", "v1.2: a"]


def test_a_part_belongs_to_a_task_of_its_own_evaluation() -> None:
    rows = [row("books", 0.5), row("books: emma", 0.5, evaluation="tpp")]
    assert of_tasks(rows) == rows


def test_a_score_is_written_with_the_larger_side_of_its_interval() -> None:
    assert str(Score(0.9, 0.8, 0.92)) == "0.900 ±0.100"
    assert str(Score(0.9)) == "0.900"
    assert str(Score(math.nan)) == "-"


def test_seeds_are_averaged_with_students_interval() -> None:
    several = [row("a", value, seed=seed) for seed, value in enumerate((0.5, 0.6, 0.7))]
    found = scores(several, "sparse_probing").at("a", "accuracy", 1, "dictionary")
    # t with 2 degrees of freedom, 97.5 %: 4.3027; standard deviation 0.1
    assert found == pytest.approx((0.6, 0.6 - 0.24842, 0.6 + 0.24842), abs=1e-4)


def test_seeds_without_a_score_are_left_out_of_the_mean() -> None:
    several = [row("a", value, seed=seed) for seed, value in enumerate((0.5, None, 0.7))]
    assert scores(several, "sparse_probing").at("a", "accuracy", 1, "dictionary").value == 0.6
    nothing = [row("a", None, seed=seed) for seed in range(2)]
    found = scores(nothing, "sparse_probing").at("a", "accuracy", 1, "dictionary")
    assert math.isnan(found.value)


def test_scr_stands_beside_the_accuracies_of_the_direction_that_counts() -> None:
    ((title, (line,)),) = tables(removals(0.4))
    assert title.startswith("spurious correlation removal")
    accuracies = {"task": "a x b", "biased": "0.600 ±0.100", "unbiased": "0.900 ±0.100", "k": 20}
    assert line == accuracies | {"scr": "0.400 ±0.100", "random": "0.100 ±0.100"}


def test_bars_are_as_long_as_the_accuracy_above_chance() -> None:
    rows = [
        row("a", 0.9),
        row("a", 0.7, subject="random"),
        row("b", 0.4),
        row("a: part", 1.0),
        row("a", 0.95, subject="states", k=None),
    ]
    figure = suite_picture(rows, title="mine")
    (axes,) = figure.axes
    bars = [bar for bar in axes.patches if bar.get_width()]
    assert [(bar.get_x(), round(bar.get_width(), 6)) for bar in bars] == [
        (0.5, 0.4),
        (0.5, -0.1),
        (0.5, 0.2),
    ]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    intervals = [
        tuple(line.get_xdata())
        for line in axes.lines
        if line.get_linestyle() == "-" and len(set(line.get_xdata())) == 2
    ]
    ends = [round(float(end), 6) for pair in sorted(intervals) for end in pair]
    assert ends == [0.3, 0.42, 0.6, 0.72, 0.8, 0.92]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["dictionary", "random dictionary", "whole hidden state"]
    assert to_hex(bars[0].get_facecolor()) == look.series_color(0)


def test_an_interval_beyond_the_axis_ends_in_an_arrow_and_nothing_is_no_bar() -> None:
    figure = suite_picture(removals(0.4, low=-30.0, high=0.9))
    (axes,) = figure.axes
    assert axes.get_xlim()[0] == -1
    assert "<" in {line.get_marker() for line in axes.lines}
    (axes,) = suite_picture(removals(None)).axes
    assert [text.get_text() for text in axes.texts] == ["not defined"]


def test_nothing_to_draw_is_no_picture() -> None:
    assert suite_picture([row("first_letter", None, evaluation="absorption")]) is None
    assert suite_picture([]) is None
