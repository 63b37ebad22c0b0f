"""Axes that show what there is: whole numbers, shares between 0 and 1, few steps, one colour."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cutaway.figures import look, ticks
from cutaway.figures.categories import category_maps
from cutaway.figures.curves import Series, curves
from cutaway.figures.heatmap import heatmap
from cutaway.figures.histories import group_curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import spread_steps
from cutaway.figures.spans import Span
from cutaway.figures.spikes import spikes
from cutaway.grokking.pictures import dynamics, training_curves
from cutaway.runs.foreign import Log


def labels(axis) -> list[str]:
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1.get_text()
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]


def history(points: int, accuracy: float = 0.0, **columns: list[float]) -> pa.Table:
    at = np.arange(points) * 10
    same = np.full(points, accuracy)
    return pa.table({"step": at, "train_acc": same, "test_acc": same, **columns})


def test_a_shade_in_the_legend_is_that_of_its_band():
    charts = [
        Panel([Series("", [0, 1], [0, 1])], "", "", spans=[Span("not memorised")]) for _ in range(3)
    ]
    figure = panels(charts, spans_in_legend=True)
    (swatch,) = figure.legends[0].get_patches()
    bands = {axes.patches[0].get_facecolor()[:3] for axes in figure.axes}
    assert bands == {swatch.get_facecolor()[:3]}


def test_residues_and_frequencies_have_whole_ticks():
    maps = category_maps({"": np.zeros((11, 11), int)}, ["head 0"], x_label="a", y_label="b")
    axes = maps.axes[0]
    bars = spikes(range(1, 12), np.ones(11), x_label="k", y_label="").axes[0]
    for axis in (axes.xaxis, axes.yaxis, bars.xaxis):
        assert all("." not in text for text in labels(axis))


@pytest.mark.parametrize(("points", "scale"), [(4, "linear"), (8, "linear"), (9, "log")])
def test_few_steps_are_linear_with_step_0_among_them(points, scale):
    table = history(points, weight_hessian_trace=[1.0] * points)
    assert spread_steps(table, ["test_acc"]) == (scale == "log")
    group = group_curves([Log("a", None, table, None)], "test_acc", ["a"])
    for figure in (training_curves(table), dynamics(table), group):
        axes = figure.axes[0]
        assert axes.get_xscale() == scale
        assert axes.lines[0].get_xdata()[0] == (0 if scale == "linear" else 10)


def test_rows_of_other_columns_do_not_make_few_evaluations_many():
    table = history(20)
    sparse = [0.5 if row % 5 == 0 else None for row in range(20)]
    place = table.column_names.index("test_acc")
    table = table.set_column(place, "test_acc", pa.array(sparse))
    assert training_curves(table).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("accuracy", [0.0, 1.0, 0.5])
def test_the_axis_of_a_share_stays_between_0_and_1(accuracy):
    low, high = training_curves(history(20, accuracy)).axes[0].get_ylim()
    assert low <= accuracy <= high
    assert -0.003 < low < high < 1.003
    assert high - low > 0.09
    wide = curves([Series("", [0, 1], [0.0, 1.0])], x_label="", y_label="", within=(0.0, 1.0))
    assert wide.axes[0].get_ylim() == pytest.approx((-0.02, 1.02), abs=0.005)


def test_names_of_charts_that_mean_other_things_stand_in_each_chart():
    both = {"effective_lr_mean": [1.0] * 9, "effective_lr_max": [5.0] * 9}
    ratios = {"adam_ratio_mean": [0.1] * 9, "adam_ratio_max": [1.0] * 9}
    figure = dynamics(history(9, **both, **ratios))
    for axes in figure.axes:
        assert {"mean", "max"} == {text.get_text() for text in axes.texts}
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "mean" not in named
    crowd = [Series(f"line {n}", [0, 1], [0, 0]) for n in range(30)]
    crowded = panels([Panel(crowd, "", "")], own_names=True)
    assert crowded.axes[0].get_legend() is not None


def test_a_short_logarithmic_axis_names_each_hundred():
    _, axes = look.new()
    ticks.logarithmic(axes, "x", 100, 400)
    axes.set_xlim(97, 412)
    assert labels(axes.xaxis) == ["100", "200", "300", "400"]


def test_a_heatmap_of_one_value_has_no_colour_bar_and_a_scale_may_be_given():
    one = heatmap([[0.5, 0.5]], ["a"], ["b", "c"], scale=(0.0, 1.0))
    assert len(one.axes) == 1
    assert one.axes[0].images[0].get_clim() == (0, 1)
    two = heatmap([[0.5, 0.6]], ["a"], ["b", "c"], scale=(0.0, 1.0))
    assert len(two.axes) == 2
    assert two.axes[1].get_ylim() == (0, 1)
