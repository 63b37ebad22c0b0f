"""Tables of kinds as colours: which of a few possibilities each cell is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.curves import legend
from cutaway.figures.text import label

_MOST = 2 * len(look.PALETTE)
_NEITHER = "#d9d9d9"


@look.styled()
def category_maps(
    tables: Mapping[str, Any],
    names: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw tables side by side, each with its key as title; cell value i has the colour of names[i].

    Tables are (rows, columns) of integers, the first row at the bottom, as on a chart; cells below
    0 are grey. Kinds that occur in no table are left out of the legend below. From the ninth on
    colours are lighter versions of the first eight. Raises UserError where a value has no name,
    there are more than sixteen names, or nothing to draw.
    """
    arrays = {key: np.asarray(table) for key, table in tables.items()}
    if not arrays or not all(table.size for table in arrays.values()):
        raise UserError("nothing to draw: no table with cells given")
    if len(names) > _MOST:
        raise UserError(f"categories: {len(names)} names; at most {_MOST} can be told apart")
    largest = max(int(table.max()) for table in arrays.values())
    if largest >= len(names):
        raise UserError(f"categories: a cell is {largest}, and there are {len(names)} names")
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    width = "column" if columns == 1 else "page"
    each = look.WIDTHS[width] / columns
    first = next(iter(arrays.values()))
    tall = min(1.4, first.shape[0] / first.shape[1]) * (each - 0.45) + 0.55
    figure, grid = look.new(
        width, rows * tall + (0.25 if title else 0), rows, columns, squeeze=False
    )
    palette = np.array([_color(index) for index in range(len(names))] + [to_rgb(_NEITHER)])
    for axes in grid.flat[len(arrays) :]:
        axes.remove()
    for place, (axes, (key, table)) in enumerate(zip(grid.flat, arrays.items())):
        axes.imshow(palette[np.maximum(table, -1)], origin="lower", interpolation="nearest")
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
        ticks.plain(axes, "x", 5, whole=True)
        ticks.plain(axes, "y", 5, whole=True)
        axes.set_xlabel(label(x_label))
        if place % columns == 0:
            axes.set_ylabel(label(y_label))
        if key:
            axes.set_title(label(key, 72 * each * 0.85, 8.5, 2))
    if title:
        figure.suptitle(label(title), x=0.01, ha="left")
    used = sorted(set(np.concatenate([table.ravel() for table in arrays.values()]).tolist()))
    shown = {names[kind]: Patch(facecolor=_color(kind), linewidth=0) for kind in used if kind >= 0}
    legend(figure, shown)
    return figure


def _color(index: int) -> tuple[float, float, float]:
    color = np.array(to_rgb(look.series_color(index)))
    return tuple(color if index < len(look.PALETTE) else 0.45 * color + 0.55)
