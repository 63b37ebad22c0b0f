"""A bar for each value of a number: spectra, counts, anything with one height per place."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.curves import decorate, legend


@look.styled()
def spikes(
    x: Sequence[float],
    heights: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    marked: Collection[float] = (),
    mark_label: str = "",
    title: str | None = None,
    width: look.Width = "column",
) -> Figure:
    """Upright bars from 0 at `x`; those in `marked` in another colour with their x written above.

    `mark_label` says below what marked ones are. Non-finite heights have no bar. Raises UserError
    where lengths differ or there is no finite height.
    """
    places, values = np.asarray(x, dtype=float), np.asarray(heights, dtype=float)
    if places.shape != values.shape:
        raise UserError(f"bars: {len(places)} places for {len(values)} heights")
    if not np.isfinite(values).any():
        raise UserError("nothing to draw: no finite height given")
    figure, axes = look.new(width)
    chosen = np.isin(places, list(marked))
    gap = float(np.diff(np.unique(places)).min()) if len(np.unique(places)) > 1 else 1.0
    for which, color in ((~chosen, 0), (chosen, 1)):
        shown = np.where(np.isfinite(values), values, 0)[which]
        axes.bar(places[which], shown, width=0.75 * gap, color=look.series_color(color))
    axes.grid(False, axis="x")
    axes.margins(x=0.01)
    axes.set_ylim(0, float(np.nanmax(values[np.isfinite(values)])) * 1.1 or 1)
    for place, value in zip(places[chosen], values[chosen]):
        axes.annotate(
            ticks.number(place),
            xy=(place, value),
            xytext=(0, 1.5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color=look.text_color(look.series_color(1)),
        )
    ticks.plain(axes, "x", whole=bool((places == np.round(places)).all()))
    ticks.plain(axes, "y", 5)
    decorate(axes, x_label, y_label, title)
    if mark_label and chosen.any():
        legend(figure, {mark_label: Patch(facecolor=look.series_color(1), linewidth=0)})
    return figure
