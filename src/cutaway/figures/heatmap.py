"""A table of numbers as colours: light is little, dark is much; two hues where zero is a middle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.curves import legend
from cutaway.figures.text import label
from cutaway.figures.text import width as text_width

_MISSING = "#d9d9d9"
_WRITTEN = 200  # tables up to this many cells have their numbers written in them

# Björn Ottosson's OKLab (2020): linear sRGB → cone responses → lightness and two hue axes.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@look.styled()
def heatmap(
    values: Any,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    title: str | None = None,
    width: look.Width = "column",
    log: bool = False,
    square: bool = False,
    written: Sequence[Sequence[str]] | None = None,
    missing: str = "",
    scale: tuple[float, float] | None = None,
) -> Figure:
    """Draw `values` (rows, columns), the first row on top, with a colour bar unless all are equal.

    Colours step evenly to the eye; where values have both signs the map diverges from white at 0
    and reaches as far on either side. Missing values are grey. Labels that would collide are
    thinned to every second, third, ... (a `0` stays); up to 200 cells the numbers (or `written`, by row and
    column) are written in where they fit. With `log` colours step with the logarithm, and values
    at or below 0 are missing. `square`: cells are. `missing` says below what grey means, if any is.
    `scale`: the values at the two ends of the colours, by default the smallest and the largest.
    Raises UserError for lengths that do not match or nothing finite.
    """
    table = np.ma.masked_invalid(np.asarray(values, dtype=float))
    if log:
        table = np.ma.masked_less_equal(table, 0)
    if table.ndim != 2 or table.shape != (len(row_labels), len(column_labels)):
        raise UserError(
            f"heatmap: values of shape {table.shape} for {len(row_labels)} row "
            f"and {len(column_labels)} column labels"
        )
    if not table.count():
        raise UserError("nothing to draw: the table has no finite value")
    rows, columns = table.shape
    inches = look.WIDTHS[width]
    cell = 0.66 * inches / columns if square else 0.17
    height = np.clip(cell * rows + 0.9, 1.6, inches * 1.1)
    figure, axes = look.new(width, float(height))
    one_value = table.min() == table.max()
    low, high = scale or (float(table.min()), float(table.max()))
    both = low < 0 < high
    aspect = "equal" if square else "auto"
    norm = _scale(low, high, log)
    colors = colormap(both)
    image = axes.imshow(table, cmap=colors, norm=norm, aspect=aspect, interpolation="nearest")
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    _column_names(axes, column_labels, inches)
    _row_names(axes, row_labels, figure)
    axes.set_xlabel(label(x_label) if x_label else "")
    axes.set_ylabel(label(y_label) if y_label else "")
    if title:
        axes.set_title(label(title, 72 * inches * 0.75, 8.5, 3))
    if not one_value:
        _bar(figure, image, axes, norm, log, value_label)
    if table.size <= _WRITTEN:
        texts = {place: f"{value:.2g}" for place, value in np.ma.ndenumerate(table)}
        if written is not None:
            given = {
                (row, column): written[row][column] for row, column in np.ndindex(rows, columns)
            }
            texts = {place: text for place, text in given.items() if text}
        _write(axes, table, texts, image, 72 * inches * 0.6 / columns)
    if missing and np.ma.getmaskarray(table).any():
        legend(figure, {missing: Patch(facecolor=_MISSING, linewidth=0)})
    return figure


def _bar(
    figure: Figure, image: AxesImage, axes: Axes, norm: Normalize, log: bool, name: str
) -> None:
    """The colour bar beside the table."""
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    if log:
        ticks.logarithmic(bar.ax, "y", norm.vmin, norm.vmax)
    else:
        ticks.plain(bar.ax, "y", 5)
    if name:
        bar.set_label(label(name))


def _scale(low: float, high: float, log: bool) -> Normalize:
    if log:
        return LogNorm(low, high if high > low else 10 * low)
    reach = max(-low, high)
    if low < 0 < high:
        return Normalize(-reach, reach)
    return Normalize(low, high if high > low else low + 1)


def _column_names(axes, names: Sequence[str], inches: float) -> None:
    """Level where all fit side by side, else upright; every n-th where even those collide."""
    shown = [label(name, 90, 7) for name in names]
    room = 72 * inches * 0.68 / len(names)
    level = max(text_width(name, 7) for name in shown) + 3 <= room
    every = 1 if level else max(1, int(np.ceil(8.5 / room)))
    places = _thinned(names, every)
    axes.set_xticks(places, [shown[place] for place in places], rotation=0 if level else 90)


def _row_names(axes, names: Sequence[str], figure: Figure) -> None:
    room = 72 * figure.get_figwidth() * 0.3
    every = max(1, int(np.ceil(8.5 / (72 * figure.get_figheight() * 0.75 / len(names)))))
    places = _thinned(names, every)
    axes.set_yticks(places, [label(names[place], room, 7) for place in places])


def _thinned(names: Sequence[str], every: int) -> range:
    """Every n-th place, such that a name `0` is among them."""
    return range(list(names).index("0") % every if "0" in names else 0, len(names), every)


def _write(
    axes, table: np.ma.MaskedArray, texts: dict[tuple[int, ...], str], image, room: float
) -> None:
    """Texts inside the cells, light on dark and dark on light, if the widest fits."""
    if max((text_width(text, 7) for text in texts.values()), default=0) + 2 > room:
        return
    for (row, column), text in texts.items():
        if np.ma.getmaskarray(table)[row, column]:
            fill = to_rgb(_MISSING)
        else:
            fill = image.cmap(image.norm(table[row, column]))[:3]
        shade = look.luminance(np.array(fill))
        # near white and black: the cell, not the page, is behind them, so no dark scheme
        color = "#fefefe" if shade < 0.3 else "#010101"
        axes.text(
            column, row, text.replace("-", "−"), ha="center", va="center", fontsize=7, color=color
        )


@lru_cache
def colormap(diverging: bool) -> Colormap:
    """White to dark blue, or dark blue over white to dark red, in equal steps of OKLab."""
    blue, red, white = _oklab("#08306b"), _oklab("#7f1d00"), _oklab("#fbfbfb")
    middle_blue, middle_red = _oklab("#4f9bd0"), _oklab("#e8803f")
    up = _even([white, middle_red if diverging else middle_blue, red if diverging else blue])
    steps = np.concatenate([_even([white, middle_blue, blue])[:0:-1], up]) if diverging else up
    linear = np.linalg.solve(_CONES, np.linalg.solve(_LAB, steps.T) ** 3).T.clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    name = "cutaway-diverging" if diverging else "cutaway-sequential"
    return ListedColormap(rgb, name=name).with_extremes(bad=_MISSING)


def _oklab(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return _LAB @ np.cbrt(_CONES @ linear)


def _even(stops: list[np.ndarray], count: int = 128) -> np.ndarray:
    """`count` colours along the path over `stops`, equally far from each other."""
    path = np.array(stops)
    lengths = np.r_[0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
    at = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(at, lengths, path[:, axis]) for axis in range(3)], axis=1)
