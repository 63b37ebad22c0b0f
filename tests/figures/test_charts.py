from __future__ import annotations

import itertools

import numpy as np
import pytest

from cutaway.base.errors import UserError
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series
from cutaway.figures.heatmap import _oklab, colormap, heatmap
from cutaway.figures.panels import Panel, panels


def panel(*names: str) -> Panel:
    return Panel([Series(name, [0, 1], [1, 2]) for name in names], "step", "loss")


def colors(axes) -> list[str]:
    return [line.get_color() for line in axes.lines]


def test_a_series_keeps_its_colour_across_panels_and_is_named_once():
    figure = panels([panel("a", "b", "c"), panel("c", "a"), panel("d", "b")])
    first, second, third = (colors(axes) for axes in figure.axes)
    assert second == [first[2], first[0]]
    assert third[1] == first[1]
    assert third[0] not in first
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c", "d"]


def test_names_of_one_panel_only_stand_at_their_lines():
    figure = panels([panel("a", "b"), panel("c")])
    assert not figure.legends
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["a", "b"], ["c"]]


def test_panels_without_charts_are_refused():
    with pytest.raises(UserError, match="no charts"):
        panels([])


def test_bars_are_in_order_with_their_values_written():
    figure = horizontal_bars(["the", "of", "to"], [3.0, np.nan, 0.5], x_label="activation")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    names = {text.get_text(): text.get_window_extent().y0 for text in axes.get_yticklabels()}
    assert names["the"] > names["of"] > names["to"]
    assert [text.get_text() for text in axes.texts] == ["3.00", "not finite", "0.500"]
    assert [bar.get_width() for bar in axes.patches] == [3.0, 0.0, 0.5]


def test_negative_bars_keep_their_values_inside_the_picture():
    figure = horizontal_bars(["down", "up"], [-2.0, 1.0], x_label="change")
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    for text in figure.axes[0].texts:
        assert text.get_window_extent().x0 >= box.x0 - 1
        assert text.get_window_extent().x1 <= box.x1 + 1


@pytest.mark.parametrize("count", [1, 5, 60])
def test_names_of_bars_do_not_overlap(count):
    figure = horizontal_bars([f"word {i}" for i in range(count)], range(count), x_label="x")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_bars_of_uneven_lengths_or_none_are_refused():
    with pytest.raises(UserError, match="2 labels for 1 values"):
        horizontal_bars(["a", "b"], [1.0], x_label="x")
    with pytest.raises(UserError, match="no bars"):
        horizontal_bars([], [], x_label="x")


def names(count: int, what: str = "layer") -> list[str]:
    return [f"{what} {i}" for i in range(count)]


def test_both_signs_diverge_around_zero():
    image = heatmap([[-1.0, 3.0]], names(1), names(2)).axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-3.0, 3.0)
    assert np.min(image.cmap(image.norm(0.0))[:3]) > 0.95
    positive = heatmap([[1.0, 3.0]], names(1), names(2)).axes[0].images[0]
    assert (positive.norm.vmin, positive.norm.vmax) == (1.0, 3.0)


@pytest.mark.parametrize("diverging", [False, True])
def test_colours_step_evenly_to_the_eye(diverging):
    from matplotlib.colors import to_hex

    table = colormap(diverging)(np.arange(colormap(diverging).N))
    lab = np.array([_oklab(to_hex(color)) for color in table])
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() < 2.5 * np.median(steps)  # 8-bit colours round
    middle = len(lab) // 2 if diverging else 0
    assert np.all(np.diff(lab[middle:, 0]) < 0.002)
    assert np.all(np.diff(lab[: middle + 1, 0]) > -0.002)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (40, 12), (150, 200)])
def test_ticks_of_a_heatmap_do_not_overlap(rows, columns):
    values = np.random.default_rng(0).normal(size=(rows, columns))
    figure = heatmap(values, names(rows, "some word"), names(columns), width="page")
    figure.draw_without_rendering()
    for ticks in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        boxes = [text.get_window_extent() for text in ticks]
        assert boxes
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_missing_cells_are_grey_and_have_no_number():
    figure = heatmap([[1.0, np.nan], [2.0, np.inf]], names(2), names(2))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    red, green, blue, _ = axes.images[0].cmap(np.ma.masked)
    assert red == green == blue


@pytest.mark.parametrize("values", [[[1.0]], [1.0, 2.0], [[np.nan, np.nan]]])
def test_a_table_that_does_not_fit_its_labels_or_is_empty_is_refused(values):
    with pytest.raises(UserError):
        heatmap(values, names(1), names(2))
