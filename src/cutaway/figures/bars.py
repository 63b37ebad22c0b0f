"""Horizontal bars: one number per name, names readable, values written at the bars' ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cutaway.base.columns import column, names_of_values, numbers
from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.text import label


@look.styled()
def horizontal_bars(
    labels: Sequence[str],
    values: Sequence[float],
    *,
    x_label: str,
    title: str | None = None,
    level: tuple[str, float] | None = None,
    width: look.Width = "column",
) -> Figure:
    """Bars from 0, the first name on top, each with its value; `level` is a named vertical line.

    The figure is as tall as the names need. Non-finite values have no bar and say `not finite`.
    Raises UserError where there is nothing to draw or the lengths differ.
    """
    labels, values = names_of_values(column(labels, "labels")), numbers(values, "values")
    if len(labels) != len(values):
        raise UserError(f"bars: {len(labels)} labels for {len(values)} values")
    if not len(values):
        raise UserError("nothing to draw: no bars given")
    finite = np.isfinite(values)
    height = 0.155 * len(values) + 0.55 + (0.25 if title else 0) + (0.15 if level else 0)
    figure, axes = look.new(width, max(height, 1.1))
    places = np.arange(len(values))
    axes.barh(places, np.where(finite, values, 0), height=0.7, color=look.series_color(0))
    room = 72 * figure.get_figwidth() * 0.35
    axes.set_yticks(places, [label(name, room, 7) for name in labels])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.axvline(0, color=look.SOFT_INK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    for place, value in zip(places, values, strict=True):
        text = _written(value)
        left = np.isfinite(value) and value < 0
        axes.annotate(
            text,
            xy=(value if np.isfinite(value) else 0, place),
            xytext=(-2 if left else 2, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=7,
            bbox={"facecolor": look.PAPER, "edgecolor": "none", "pad": 0.4},
        )
    axes.margins(x=0.14)
    if not (values[finite] < 0).any():
        axes.set_xlim(left=0)
    if level:
        _level(axes, *level)
    ticks.plain(axes, "x", 5)
    axes.set_xlabel(label(x_label))
    if title:
        room = 72 * figure.get_figwidth() * 0.65
        axes.set_title(label(title, room, 8.5, 3), pad=14 if level else 6)
    return figure


def _written(value: float) -> str:
    if not np.isfinite(value):
        return "not finite"
    if 0.01 <= abs(value) < 1000:
        return f"{value:#.3g}".rstrip(".").replace("-", "−")
    return ticks.number(value)


def _level(axes, name: str, level: float) -> None:
    axes.axvline(level, color=look.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        label(name),
        xy=(level, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=look.SOFT_INK,
    )
