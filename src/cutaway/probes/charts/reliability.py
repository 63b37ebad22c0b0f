"""Are a probe's probabilities to be believed: predicted against observed, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import NullLocator

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.text import label as shown
from cutaway.probes.states.report_rows import Row, Rows, best_site, interval_words, number, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = 6  # layers whose reliability is shown beside each other
_FAR = 0.05  # where probabilities go below it the axes are stretched at both ends
_EDGE = 0.0001  # what is nearer to 0 or 1 stands at the edge
_PERCENT = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_MOST = 6  # of these beside each other
_LABEL = 27  # points that a tick's label takes of the x axis
_COARSE = (0.0001, 0.01, 0.5, 0.99, 0.9999)
_FINER = (0.02, 0.05, 0.2, 0.8, 0.95, 0.98)  # also, where few of those are in reach


@look.styled()
def reliability_diagram(
    reliability: Rows,
    layers: Rows = None,
    *,
    classes: int = 2,
    of: str = "",
    title: str | None = None,
) -> Figure:
    """Predicted probability against observed share with its 95 % interval, on the diagonal where the
    two agree; above it how many examples a bin holds.

    All layers, up to six, else the one best on validation. The axes reach as far as probabilities do;
    where some are below 5 % they are stretched towards 0 and 1 (logit), to 0.01 % and 99.99 % at
    most; what is beyond stands at the edge, shares of 0 or 1 as triangles. `of`: the task and model, for
    the title. Raises UserError without a bin.
    """
    by_site: dict[str, list[Row]] = {}
    for row in rows_of(reliability):
        by_site.setdefault(row["site"], []).append(row)
    if not by_site:
        raise UserError("nothing to draw: no bins of predictions")
    best = best_site(layers)
    if len(by_site) > _SMALL:
        site = best if best in by_site else next(iter(by_site))
        by_site = {site: by_site[site]}
    columns = min(3, len(by_site))
    rows = -(-len(by_site) // columns)
    width = "page" if columns > 1 else "column"
    each = (look.WIDTHS[width] - 0.3) / columns
    figure, grid = look.new(
        width,
        rows * (0.95 * each + 0.45) + 0.3,
        2 * rows,
        columns,
        squeeze=False,
        gridspec_kw={"height_ratios": [1, 6] * rows},
    )
    bins = [row for those in by_site.values() for row in those]
    limits, stretched = _reach(bins)
    pairs = [(grid[2 * i, j], grid[2 * i + 1, j]) for i in range(rows) for j in range(columns)]
    for index, (above, axes) in enumerate(pairs):
        if index >= len(by_site):
            above.remove()
            axes.remove()
            continue
        site = list(by_site)[index]
        _diagram(axes, by_site[site], limits, stretched)
        _counts(above, by_site[site], limits, stretched, max(row["count"] for row in bins))
        if len(by_site) > 1:
            above.set_title(shown(site + (" (best)" if site == best else "")))
        below = index + columns >= len(by_site)
        axes.set_xlabel("predicted probability" if below else "")
        axes.set_ylabel("observed share" if index % columns == 0 else "")
        above.set_ylabel("count" if index % columns == 0 else "", rotation=0, ha="right")
    whose = "" if classes == 2 else " of the likeliest class"
    one = f", {next(iter(by_site))}" if len(by_site) == 1 else ""
    title = title or f"Reliability{whose}{one}" + (f": {of}" if of else "")
    figure.suptitle(shown(title, 72 * look.WIDTHS[width] - 12, 9, 3), x=0.01, ha="left")
    _explain(figure, bins, layers, limits, look.WIDTHS[width])
    return figure


def _explain(
    figure: Figure, bins: Sequence[Row], layers: Rows, limits: tuple[float, float], wide: float
) -> None:
    """What a dot, its bar and a triangle are, at the foot."""
    said = ["dot: a bin of examples of similar probability, each of equal Σ p(1 − p)"]
    said.append(f"bar: {interval_words(layers)}")
    observed = [number(row, "observed") for row in bins]
    edges = [y for y in observed if y < limits[0] or y > limits[1]]
    if edges:
        only = set(edges) <= {0.0, 1.0}
        what = {0.0: "0 %", 1.0: "100 %"}
        words = " or ".join(what[y] for y in sorted(set(edges))) if only else "beyond the axis"
        marks = "".join(
            m
            for m, there in (("▼", min(edges) < limits[0]), ("▲", max(edges) > limits[1]))
            if there
        )
        said.append(f"{marks} observed share {words}")
    text = "; ".join(said)
    look.add_note(figure, shown(text, 72 * wide - 12, 7, 4))


def _reach(bins: Sequence[Row]) -> tuple[tuple[float, float], bool]:
    """Limits of both axes, and whether they are stretched."""
    predicted = np.array([number(row, "predicted") for row in bins])
    around = np.array([number(row, one) for row in bins for one in ("observed", "low", "high")])
    around = around[np.isfinite(around)]
    low, high = np.nanmin(predicted), np.nanmax([*predicted, *around])
    if low >= _FAR or high - low < 0.1:
        low = min(low, *around)
        room = 0.05 * max(high - low, 0.02)
        return (max(-room, low - room), min(1 + room, high + room)), False
    inside = np.concatenate([predicted, around])
    inside = inside[(inside > 0) & (inside < 1)]
    # an interval may reach far below what is predicted anywhere; so far the axis need not go
    low = max(inside.min(initial=0.5), predicted.min(where=predicted > 0, initial=0.5) / 4)
    high = min(
        inside.max(initial=0.5),
        1 - (1 - predicted.max(where=predicted < 1, initial=0.5)) / 4,
    )
    return (max(_moved(low, -0.35), _EDGE), min(_moved(high, 0.35), 1 - _EDGE)), True


def _moved(p: float, by: float) -> float:
    """A probability whose log-odds are `by` higher."""
    return 1 / (1 + math.exp(-(math.log(p / (1 - p)) + by)))


def _scaled(axes: Axes, which: str, limits: tuple[float, float], stretched: bool) -> None:
    """One axis of probabilities between limits."""
    bounds = axes.set_xlim if which == "x" else axes.set_ylim
    if not stretched:
        bounds(*limits)
        ticks.plain(axes, which, 5)
        return
    axes.set_xscale("logit") if which == "x" else axes.set_yscale("logit")
    bounds(*limits)
    axis = axes.xaxis if which == "x" else axes.yaxis
    places = [one for one in _PERCENT if limits[0] <= one <= limits[1]]
    if len(places) > _MOST:
        places = [one for one in _COARSE if limits[0] <= one <= limits[1]]
    elif len(places) < 4:
        places = sorted([*places, *(one for one in _FINER if limits[0] <= one <= limits[1])])
    named = places
    if which == "x":
        columns = axes.get_subplotspec().get_gridspec().ncols
        named = _apart(places, limits, 72 * axes.figure.get_figwidth() / columns - 45)
    said = [f"{ticks.number(round(100 * one, 4))} %" if one in named else "" for one in places]
    axis.set_ticks(places, said)
    axis.set_minor_locator(NullLocator())


def _apart(places: Sequence[float], limits: tuple[float, float], room: float) -> list[float]:
    """Those of the ticks that stand a label's width apart on an axis `room` points long."""
    low, high = (math.log(p / (1 - p)) for p in limits)
    kept: list[float] = []
    last = -math.inf
    for one in places:
        at = room * (math.log(one / (1 - one)) - low) / (high - low)
        if at - last >= _LABEL:
            kept.append(one)
            last = at
    return kept


def _diagram(axes: Axes, bins: Sequence[Row], limits: tuple[float, float], stretched: bool) -> None:
    _scaled(axes, "x", limits, stretched)
    _scaled(axes, "y", limits, stretched)
    steps = np.linspace(*limits, 200) if not stretched else np.array(limits)
    axes.plot(steps, steps, color=look.SOFT_INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.9)
    color = look.series_color(0)
    for row in bins:
        x, y, low, high = (number(row, one) for one in ("predicted", "observed", "low", "high"))
        x = min(max(x, limits[0]), limits[1])
        at = min(max(y, limits[0]), limits[1])
        if math.isfinite(low) and math.isfinite(high):
            ends = np.clip([low, high], *limits)
            axes.plot([x, x], ends, color=color, linewidth=2.4, alpha=0.3, zorder=2)
        mark = "o" if at == y else "v" if y < at else "^"
        axes.plot([x], [at], mark, color=color, markersize=3.5, clip_on=False, zorder=3)


def _counts(
    axes: Axes, bins: Sequence[Row], limits: tuple[float, float], stretched: bool, most: int
) -> None:
    """How many examples each bin holds, over the same x, on a logarithmic scale from 1."""
    _scaled(axes, "x", limits, stretched)
    axes.set_yscale("log")
    axes.set_ylim(1, 1.6 * max(most, 10))
    for row in bins:
        axes.plot([min(max(row["predicted"], limits[0]), limits[1])] * 2, [1, row["count"]], color=look.SOFT_INK, linewidth=1.6,
                  solid_capstyle="butt")  # fmt: skip
    places = [1, 10 ** int(math.log10(most))] if most >= 10 else [1]
    axes.set_yticks(places, [ticks.number(one) for one in places])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.grid(False)
