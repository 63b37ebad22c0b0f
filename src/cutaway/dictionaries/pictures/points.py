"""Dictionaries as points against their features per token, kinds named in a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cutaway.figures import look
from cutaway.figures.curves import Series, curves, handles, legend
from cutaway.figures.direct import SIZE
from cutaway.figures.recorded import decades
from cutaway.figures.text import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@look.styled()
def against_l0(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    title: str,
    names: Mapping[tuple[float, float], str] | None = None,
) -> Figure:
    """Points, each series joined by lines; its name in a legend below, not at its end.

    Points end anywhere, and a line from there to a name at the edge would look like a curve.
    `names` stand beside single points (x, y).
    """
    ends = np.concatenate([one.x for one in series])
    figure = curves(
        [replace(one, label="") for one in series],
        x_label=x_label,
        y_label=y_label,
        log_x=bool((ends > 0).all() and decades(ends) > 1),
        title=title,
        width="page",
    )
    for point, name in (names or {}).items():
        figure.axes[0].annotate(
            label(name),
            point,
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=SIZE,
            color=look.SOFT_INK,
        )
    named = handles(series)
    joined = any(len(one.x) > 1 for one in series)
    for line in named.values():
        line.set(marker="o", linestyle=line.get_linestyle() if joined else "none")
    legend(figure, named)
    return figure


def by_rising_x(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Points as x and y, by rising x."""
    x, y = np.array(sorted(points)).T
    return x, y
