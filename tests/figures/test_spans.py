from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from cutaway.base.errors import UserError
from cutaway.figures import look
from cutaway.figures.categories import category_maps
from cutaway.figures.curves import Series, curves
from cutaway.figures.heatmap import heatmap
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import decades, recorded, rows
from cutaway.figures.spans import Span
from cutaway.figures.spikes import spikes

LINE = Series("a line", np.arange(1, 1001), np.linspace(0, 1, 1000))
PHASES = [Span("first", None, 100), Span("second", 100, 600), Span("third", 600, None)]


def shades(axes) -> list[tuple[float, float]]:
    found = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_alpha() is not None]
    return [(p.get_x(), p.get_x() + p.get_width()) for p in found]


def texts(figure) -> dict[str, object]:
    figure.set_dpi(look.PNG_DPI)
    figure.draw_without_rendering()
    return {
        text.get_text(): text.get_window_extent()
        for axes in figure.axes
        for text in axes.texts
        if text.get_text()
    }


def legend_names(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("log_x", [False, True])
def test_spans_shade_their_stretch_and_open_ones_reach_the_axes_ends(log_x):
    plain = curves([LINE], x_label="x", y_label="y", log_x=log_x).axes[0].get_xlim()
    figure = curves([LINE], x_label="x", y_label="y", log_x=log_x, spans=PHASES)
    (axes,) = figure.axes
    assert axes.get_xlim() == pytest.approx(plain)  # shading widens nothing
    low, high = plain
    np.testing.assert_allclose(shades(axes), [(low, 100), (100, 600), (600, high)])
    assert all(
        patch.get_zorder() < line.get_zorder() for patch in axes.patches for line in axes.lines
    )


def test_names_stand_above_their_stretch_without_touching():
    figure = curves([LINE], x_label="x", y_label="y", spans=PHASES, title="A title", width="page")
    places = texts(figure)
    (axes,) = figure.axes
    box = axes.get_window_extent()
    for one, other in itertools.combinations(places.values(), 2):
        assert not one.overlaps(other)
    for span in PHASES:
        assert places[span.label].y0 >= box.y1
        assert places[span.label].y1 <= axes._left_title.get_window_extent().y0
    middle = axes.transData.transform((350, 0))[0]
    assert (places["second"].x0 + places["second"].x1) / 2 == pytest.approx(middle, abs=3)
    assert legend_names(figure) == []


def test_names_that_do_not_fit_go_into_the_legend():
    spans = [Span(f"a phase with the long name {i}", 300 * i, 300 * i + 300) for i in range(3)]
    figure = curves([LINE], x_label="x", y_label="y", spans=spans)
    assert list(texts(figure)) == ["a line"]
    assert legend_names(figure) == [span.label for span in spans]
    patch = figure.legends[0].get_patches()[0]
    assert patch.get_facecolor()[:3] == to_rgba(look.series_color(6))[:3]


def test_spans_outside_the_chart_and_without_a_name_write_nothing():
    spans = [Span("", 0, 100), Span("far", 5000, 6000), Span("empty", 200, 200)]
    figure = curves([LINE], x_label="x", y_label="y", spans=spans)
    assert list(texts(figure)) == ["a line"]
    assert len(shades(figure.axes[0])) == 1


def test_panels_shade_each_chart_and_can_name_in_the_legend():
    charts = [Panel([LINE], "x", "y", spans=PHASES), Panel([LINE], "x", "", spans=PHASES[:1])]
    above = panels(charts, columns=1)
    assert [len(shades(axes)) for axes in above.axes] == [3, 1]
    assert {"first", "second", "third"} <= texts(above).keys()
    below = panels(charts, columns=1, spans_in_legend=True)
    assert not {"first", "second", "third"} & texts(below).keys()
    assert legend_names(below) == ["a line", "first", "second", "third"]
    assert below.axes[1].get_ylabel() == ""


def test_a_logarithmic_heatmap_steps_by_powers_and_leaves_out_what_has_none():
    table = [[1, 10, 100], [0, 1000, 10000]]
    figure = heatmap(table, ["a", "b"], ["x", "y", "z"], log=True, missing="nothing")
    image = figure.axes[0].images[0]
    assert np.asarray(image.norm([1, 10, 100, 1000, 10000])) == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1]
    )
    assert image.get_array().mask.tolist() == [[False] * 3, [True, False, False]]
    assert legend_names(figure) == ["nothing"]
    whole = heatmap([[1, 10]], ["a"], ["x", "y"], log=True, missing="nothing")
    assert legend_names(whole) == []  # nothing is missing


def test_cells_say_what_is_written_for_them_also_where_a_value_is_missing():
    figure = heatmap([[1, np.nan]], ["a"], ["x", "y"], written=[["one", "0 of 3"]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["one", "0 of 3"]
    plain = heatmap([[1, np.nan]], ["a"], ["x", "y"])
    assert [text.get_text() for text in plain.axes[0].texts] == ["1"]


def test_square_cells_and_thinned_labels_that_keep_zero():
    names = [str(k) for k in range(-40, 41)]
    figure = heatmap(np.eye(81), names, names, square=True)
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.02)
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        shown = [text.get_text() for text in labels]
        assert "0" in shown
        assert len(shown) < 45


def test_category_maps_colour_each_kind_and_name_those_that_occur():
    maps = {"layer 0": [[0, 1], [2, -1]], "layer 1": [[0, 0], [0, 0]]}
    figure = category_maps(maps, ["p", "q", "r", "never"], x_label="a", y_label="b", title="T")
    assert legend_names(figure) == ["p", "q", "r"]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    for cell, color in (((0, 1), 1), ((1, 0), 2)):
        assert shown[cell] == pytest.approx(to_rgba(look.series_color(color))[:3])
    assert shown[1, 1] == pytest.approx(to_rgba("#d9d9d9")[:3])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer 0", "layer 1"]
    many = category_maps({"": [np.arange(16)]}, list("abcdefghijklmnop"), x_label="", y_label="")
    assert len({tuple(cell) for cell in np.asarray(many.axes[0].images[0].get_array())[0]}) == 16


@pytest.mark.parametrize(
    ("maps", "names", "message"),
    [
        ({}, ["p"], "nothing to draw"),
        ({"": [[1]]}, ["p"], "a cell is 1"),
        ({"": [[0]]}, ["p"] * 17, "17 names"),
    ],
)
def test_category_maps_refuse_what_they_cannot_tell_apart(maps, names, message):
    with pytest.raises(UserError, match=message):
        category_maps(maps, names, x_label="a", y_label="b")


def test_spikes_stand_at_their_place_and_marked_ones_are_named():
    figure = spikes(
        [1, 2, 4], [3, np.nan, 7], x_label="k", y_label="h", marked=[4], mark_label="key"
    )
    bars = figure.axes[0].patches
    assert sorted((bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars) == [
        *((pytest.approx(1), 3), (pytest.approx(2), 0), (pytest.approx(4), 7))
    ]
    colors = {round(bar.get_x() + bar.get_width() / 2): bar.get_facecolor() for bar in bars}
    assert colors[1] == colors[2] != colors[4]
    assert [text.get_text() for text in figure.axes[0].texts] == ["4"]
    assert legend_names(figure) == ["key"]
    with pytest.raises(UserError, match="no finite height"):
        spikes([1], [np.nan], x_label="k", y_label="h")
    with pytest.raises(UserError, match="2 places for 1 heights"):
        spikes([1, 2], [1], x_label="k", y_label="h")


def test_rows_drop_what_was_not_recorded_and_keep_what_was_not_finite():
    import pyarrow as pa

    table = pa.table({"step": [0, 1, 2], "a": [1.0, None, float("nan")], "b": [None, None, 2.0]})
    steps, values = rows(table, "a")
    assert steps.tolist() == [0, 2]
    assert values[0] == 1
    assert np.isnan(values[1])
    assert recorded(table, "a")
    assert recorded(table, "b")
    assert not recorded(table, "c")
    assert not recorded(pa.table({"step": [0], "a": [float("nan")]}), "a")
    assert decades(np.array([0.1, 100, -5, np.nan, 0])) == pytest.approx(3)
    assert decades(np.array([-1.0])) == 0
