"""Several charts on one page that share what can be shared: colours by name, and one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.base.errors import UserError
from cutaway.figures import look
from cutaway.figures.curves import (
    Series,
    Style,
    decorate,
    draw,
    handles,
    legend,
    level_ends,
    name_legend,
    name_levels,
)
from cutaway.figures.direct import label_ends
from cutaway.figures.spans import Span, name_spans, patches
from cutaway.figures.text import label


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of a grid: its lines and what `curves` says of them."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    title: str | None = None
    log_x: bool = False
    log_y: bool = False
    levels: Mapping[str, float] = field(default_factory=dict)
    spans: Sequence[Span] = ()
    within: tuple[float, float] | None = None


@look.styled()
def panels(
    charts: Sequence[Panel],
    *,
    columns: int = 2,
    title: str | None = None,
    key: Mapping[str, Style] | None = None,
    spans_in_legend: bool = False,
    own_names: bool = False,
    note: str | None = None,
    width: look.Width = "page",
    height: float | None = None,
) -> Figure:
    """Draw charts in a grid, row by row, with `columns` in a row.

    A name keeps its colour in every chart. Names that occur in one chart only stand at the ends of
    their lines; as soon as one occurs in two, all go into one legend below. With `own_names` a name
    means something else in every chart, and each has its names at its lines, or a legend of its
    own where they do not fit. Names of spans stand
    above their charts where they fit, else (or with `spans_in_legend`) in the legend. `note` is a
    line below it all. Raises UserError where a chart has nothing to draw.
    """
    if not charts:
        raise UserError("nothing to draw: no charts given")
    charts = _colored(charts)
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    figure, grid = look.new(width, height, rows, columns, squeeze=False)
    used = grid.flat[: len(charts)]
    for axes in grid.flat[len(charts) :]:
        axes.remove()
    ends = {}
    for axes, chart in zip(used, charts, strict=True):
        tips = draw(
            axes,
            chart.series,
            log_x=chart.log_x,
            log_y=chart.log_y,
            levels=chart.levels,
            spans=chart.spans,
            within=chart.within,
        )
        above = () if spans_in_legend else chart.spans
        wide = 0.64 if own_names else 0.82  # names at the lines take from the chart
        decorate(axes, chart.x_label, chart.y_label, chart.title, key, above, wide)
        ends[axes] = [tip for tip in tips if tip.name]
    if title:
        figure.suptitle(label(title), x=0.01, ha="left")
    below: dict[str, Artist] = {}
    beside = {axes: level_ends(axes, one.levels, ends[axes]) for axes, one in zip(used, charts)}
    every = {axes: tips + beside[axes] for axes, tips in ends.items()}
    inside = [axes for axes in used if not beside[axes]]  # levels named between the lines
    if own_names:
        for axes, chart in zip(used, charts, strict=True):
            if label_ends(figure, {axes: every[axes]}):
                continue
            inside.append(axes)
            if not label_ends(figure, {axes: ends[axes]}):
                _legend_inside(axes, chart.series)
    elif _shared(ends.values()) or not label_ends(figure, every):
        inside = list(used)
        if _shared(ends.values()) or not label_ends(figure, ends):
            below |= handles([one for chart in charts for one in chart.series])
    for axes, chart in zip(used, charts, strict=True):
        if axes in inside:
            name_levels(axes, chart.levels, chart.series, chart.log_x, chart.log_y)
    spans = {axes: chart.spans for axes, chart in zip(used, charts, strict=True)}
    if spans_in_legend or not name_spans(figure, spans):
        for chart in charts:  # one by one: a shade goes by the place in its chart's list
            below |= patches(chart.spans)
    legend(figure, below, note)
    return figure


def _legend_inside(axes: Axes, series: Sequence[Series]) -> None:
    named = handles(series)
    name_legend(axes.legend(list(named.values()), [""] * len(named), loc="best"), list(named))


def _colored(charts: Sequence[Panel]) -> list[Panel]:
    """The charts with every series' colour set: by name, in the order names first occur."""
    places: dict[str, int] = {}
    colored = []
    for chart in charts:
        series = [
            one
            if one.color is not None
            else replace(one, color=places.setdefault(one.label, len(places)))
            for one in chart.series
        ]
        colored.append(replace(chart, series=series))
    return colored


def _shared(ends) -> bool:
    names = [{end.name for end in tips} for tips in ends]
    return len(set().union(*names)) < sum(map(len, names))
