from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from cutaway.base.errors import UserError
from cutaway.figures import look
from cutaway.figures.curves import Series, curves, thin
from cutaway.figures.direct import spread

HISTORIES = Path(__file__).parents[2] / ".." / "shared" / "data" / "grokking-histories"


def names_in(figure):
    """Texts at the ends of lines with their boxes in pixels, at the resolution files are saved."""
    figure.set_dpi(look.PNG_DPI)
    figure.draw_without_rendering()
    found = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    return [(text.get_text(), text.get_window_extent()) for text in found]


def assert_apart(figure):
    boxes = names_in(figure)
    for (name, box), (other, place) in itertools.combinations(boxes, 2):
        assert not box.overlaps(place), f"{name!r} over {other!r}"
    width, height = figure.get_size_inches() * figure.dpi
    for name, box in boxes:
        assert box.x0 >= 0, name
        assert box.x1 <= width + 1, name
        assert box.y0 >= 0, name
        assert box.y1 <= height + 1, name
    return [name for name, _ in boxes]


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 12])
def test_names_at_the_ends_of_lines_do_not_overlap(width, count):
    x = np.arange(50)
    close = [Series(f"run number {i}", x, 4 + np.exp(-x / 9) + i * 1e-3) for i in range(count)]
    figure = curves(close, x_label="step", y_label="loss", width=width)
    assert len(assert_apart(figure)) == count


def test_very_long_names_stay_inside_the_picture():
    names = [f"europarl_lr{i}_with-a-name-that-never-ends-{'x' * 60}_seed{i}" for i in range(3)]
    series = [Series(name, [0, 1], [i, 1.0]) for i, name in enumerate(names)]
    shown = assert_apart(curves(series, x_label="step", y_label="loss", title="long " * 40))
    assert len(set(shown)) == 3


def test_names_of_equal_ends_stand_in_the_order_given():
    series = [Series(name, [0, 1], [1, 1]) for name in ("a", "b", "c")]
    places = dict(names_in(curves(series, x_label="x", y_label="y")))
    assert places["a"].y0 > places["b"].y0 > places["c"].y0


def test_too_many_names_go_into_a_legend_and_the_chart_keeps_its_size():
    few = curves([Series("a", [0, 1], [0, 1])], x_label="x", y_label="y")
    many = [Series(f"run {i}", [0, 1], [i, i]) for i in range(30)]
    figure = curves(many, x_label="x", y_label="y")
    assert not [text for text in figure.axes[0].texts if text.get_text()]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [one.label for one in many]
    figure.draw_without_rendering()
    few.draw_without_rendering()
    assert figure.axes[0].get_window_extent().height > 0.9 * few.axes[0].get_window_extent().height
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(1, 20)), min_size=1, max_size=12),
    st.floats(0, 3),
)
def test_spread_boxes_never_overlap_nor_leave_the_bounds(boxes, gap):
    wanted, heights = zip(*boxes, strict=True)
    centres = spread(wanted, heights, 0, 100, gap)
    if sum(heights) + gap * (len(heights) - 1) > 100:
        assert centres is None
        return
    placed = sorted(zip(centres, heights, strict=True))
    assert placed[0][0] - placed[0][1] / 2 >= -1e-6
    assert placed[-1][0] + placed[-1][1] / 2 <= 100 + 1e-6
    for (low, a), (high, b) in itertools.pairwise(placed):
        assert high - low >= (a + b) / 2 + gap - 1e-6


def test_spread_moves_as_little_as_possible():
    assert spread([10, 50], [4, 4], 0, 100) == [10, 50]
    assert spread([50, 50], [4, 4], 0, 100) == [52, 48]
    assert spread([0, 0, 50], [4, 4, 4], 0, 100) == [6, 2, 50]
    # brute force over a fine grid finds nothing better
    wanted, heights = [20.0, 21.0, 24.0], [4.0, 6.0, 4.0]
    grid = np.arange(10, 36, 0.25)
    a, b, c = np.meshgrid(grid, grid, grid, indexing="ij")
    cost = (a - wanted[0]) ** 2 + (b - wanted[1]) ** 2 + (c - wanted[2]) ** 2
    best = cost[(b - a >= 5) & (c - b >= 5)].min()
    found = spread(wanted, heights, 0, 100)
    assert sum((x - y) ** 2 for x, y in zip(found, wanted, strict=True)) <= best + 1e-9


def test_thinning_keeps_minimum_maximum_ends_and_gaps():
    generator = np.random.default_rng(0)
    x = np.arange(100_000)
    y = generator.normal(size=x.size)
    y[54_321], y[12_345] = 99, -99
    y[70_000:71_000] = np.nan
    kept = thin(x, y)
    assert len(kept) < 6_000
    assert kept[0] == 0
    assert kept[-1] == x.size - 1
    assert np.nanmax(y[kept]) == 99
    assert np.nanmin(y[kept]) == -99
    for column in np.array_split(np.arange(x.size), 100):  # no column loses its range
        inside = kept[(kept >= column[0]) & (kept <= column[-1])]
        if np.isfinite(y[column]).any():
            assert np.nanmax(y[inside]) >= np.nanmax(y[column]) - 1.0
    assert np.isnan(y[kept]).any()
    assert len(thin(x[:3000], y[:3000])) == 3000


def test_a_hundred_thousand_points_make_a_small_file(tmp_path):
    y = np.random.default_rng(0).normal(size=100_000)
    figure = curves([Series("noise", np.arange(100_000), y)], x_label="x", y_label="y")
    assert look.save(figure, tmp_path / "a.pdf").stat().st_size < 150_000


def test_a_point_alone_is_drawn_and_gaps_stay_gaps():
    y = [1.0, np.nan, 2.0, 3.0, np.inf, 4.0, *[np.nan] * 30, *[5.0] * 30]
    figure = curves([Series("a", range(len(y)), y)], x_label="x", y_label="y")
    (line,) = figure.axes[0].lines
    assert line.get_markevery() == [0, 5]  # between two gaps a line has no length
    assert np.isnan(line.get_ydata()[[1, 4]]).all()
    single = curves([Series("a", [3], [1.0])], x_label="x", y_label="y")
    assert single.axes[0].lines[0].get_markevery() == [0]


@pytest.mark.parametrize(
    ("series", "options"),
    [
        ([], {}),
        ([Series("empty", [], [])], {}),
        ([Series("nan", [0, 1], [np.nan, np.inf])], {}),
        ([Series("good", [0, 1], [1, 2]), Series("empty", [0], [None])], {}),
        ([Series("negative", [1, 2], [-1, 0])], {"log_y": True}),
        ([Series("zero", [0], [1])], {"log_x": True}),
        ([Series("uneven", [0, 1, 2], [1, 2])], {}),
        ([Series("half a band", [0, 1], [1, 2], low=[0, 1])], {}),
    ],
)
def test_nothing_to_draw_is_refused_by_name(series, options):
    with pytest.raises(UserError) as caught:
        curves(series, x_label="x", y_label="y", **options)
    assert series == [] or series[-1].label in str(caught.value)


def test_what_a_logarithmic_axis_cannot_show_is_said(capsys):
    curves([Series("a", [0, 1, 10], [1, 2, 3])], x_label="x", y_label="y", log_x=True)
    assert "logarithmic x axis: left out 1 point at or below 0" in capsys.readouterr().err


@pytest.mark.parametrize(("low", "high"), [(1e-8, 5), (0.5, 5), (4.1, 4.9), (1, 20), (3, 3)])
def test_a_logarithmic_axis_has_two_labelled_ticks_or_more(low, high):
    y = np.geomspace(low, high, 20)
    figure = curves([Series("a", range(20), y)], x_label="x", y_label="y", log_y=True)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    bottom, top = axes.get_ylim()
    shown = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    assert len(shown) >= (2 if high > low else 1)
    labels = [text.get_text() for text in axes.get_yticklabels() if text.get_text()]
    assert len(set(labels)) == len(labels)


def test_bands_styles_and_levels_are_drawn():
    x = np.arange(10)
    band = Series("mean", x, x + 1.0, low=x + 0.5, high=x + 1.5)
    light = Series("", x, x + 2.0, color=0, style="light")
    options = {"levels": {"memorised": 20.0}, "key": {"a": "strong", "b": "light"}}
    figure = curves([band, light], x_label="x", y_label="y", **options)
    axes = figure.axes[0]
    assert len(axes.collections) == 1
    assert axes.get_ylim()[1] > 20
    strong, thin_line = axes.lines[:2]
    assert strong.get_color() == thin_line.get_color()
    assert strong.get_linewidth() > 1.5 * thin_line.get_linewidth()
    assert thin_line.get_alpha() < 0.6
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_real_histories_over_nine_decades_draw(tmp_path):
    if not HISTORIES.is_dir():
        pytest.skip("../shared/data/grokking-histories is not here")
    series = []
    for color, path in enumerate(sorted(HISTORIES.glob("*.jsonl"))):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in rows if "step" in row]
        steps = [row["step"] for row in rows]
        for label, column in ((path.stem, "test_loss"), ("", "train_loss")):
            values = [row[column] for row in rows]
            series.append(Series(label, steps, values, color, "strong" if label else "light"))
    figure = curves(series, x_label="step", y_label="loss", log_x=True, log_y=True, width="page")
    assert len(assert_apart(figure)) == 6
    look.save(figure, tmp_path / "histories.pdf")


def test_the_name_of_a_level_stands_where_the_curves_are_not():
    x = np.linspace(0, 1, 50)
    for y, side in ((1 - x, "right"), (x, "left")):  # near 1 at the left, at the right
        figure = curves([Series("", x, y)], x_label="x", y_label="y", levels={"one": 1.0})
        (name,) = figure.axes[0].texts
        assert name.get_horizontalalignment() == side


def test_a_level_is_named_in_the_margin_beside_the_lines_names():
    x = np.arange(6)
    lines = [Series("near", x, 0.5 + 0.001 * x), Series("far", x, 1 - 0.02 * x)]
    figure = curves(lines, x_label="x", y_label="y", levels={"chance": 0.5})
    figure.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert set(names) == {"near", "far", "chance"}
    assert all(box.x0 > figure.axes[0].get_window_extent().x1 for box in names.values())
    assert not names["near"].overlaps(names["chance"])


def test_every_name_that_had_to_move_has_a_leader():
    from matplotlib.patches import ConnectionPatch

    x = np.arange(6)
    lines = [Series(name, x, 0 * x + 0.5) for name in ("one", "two", "three")]
    alone = Series("alone", x, 0 * x)
    figure = curves([*lines, alone], x_label="x", y_label="y")
    leaders = [one.get_edgecolor() for one in figure.findobj(ConnectionPatch)]
    assert len(set(leaders)) == 2  # of three at one height the middle one stands beside its line


def test_inside_a_level_s_name_keeps_clear_of_bands():
    x = np.array([0.0, 10.0])
    band = Series("", x, x * 0 + 0.55, low=x * 0 + 0.51, high=x * 0 + 1.0)
    other = Series("", x, x * 0)
    figure = curves([band, other], x_label="x", y_label="y", levels={"chance": 0.5})
    (name,) = figure.axes[0].texts
    assert name.get_verticalalignment() == "top"  # below the line: above it is the band


def test_a_note_stands_below_the_chart_and_apart_from_a_legend():
    x = np.arange(6)
    many = [Series(f"name {index}", x, x + index) for index in range(30)]
    for series in (many[:2], many):
        figure = curves(series, x_label="x", y_label="y", note="band: 95 %")
        figure.draw_without_rendering()
        (note,) = (t for t in figure.findobj(Text) if t.get_text() == "band: 95 %")
        names = [t for box in figure.legends for t in box.get_texts()]
        assert len(names) == (30 if series is many else 0)
        assert note.get_window_extent().y1 < figure.axes[0].xaxis.label.get_window_extent().y0
        assert not any(t.get_window_extent().overlaps(note.get_window_extent()) for t in names)
