"""Lines over a number: training curves, scores over layers, anything against anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from cutaway.base.columns import numbers
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.direct import SIZE, End, label_ends
from cutaway.figures.spans import Span, name_spans, patches, shade
from cutaway.figures.text import label, width

Style = Literal["strong", "light", "dashed", "dotted"]

_STYLES: dict[str, dict[str, Any]] = {
    "strong": {"linewidth": 1.4},
    "light": {"linewidth": 0.7, "alpha": 0.45},
    "dashed": {"linewidth": 1.2, "linestyle": look.LINESTYLES[1]},
    "dotted": {"linewidth": 1.2, "linestyle": look.LINESTYLES[2]},
}
_FEW = 20  # points up to which a strong line shows each of them
_SHORT = 40.0  # points: names of levels that may always stand in the margin
_BUCKETS = 1000  # columns of a thinned line: a page at 150 columns per inch


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `color` is its place in the palette (default: its place in the list); series that
    belong together share one. `low` and `high` draw a band. An empty label draws no name."""

    label: str
    x: Any
    y: Any
    color: int | None = None
    style: Style = "strong"
    low: Any = None
    high: Any = None


@look.styled()
def curves(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
    key: Mapping[str, Style] | None = None,
    levels: Mapping[str, float] | None = None,
    spans: Sequence[Span] = (),
    within: tuple[float, float] | None = None,
    note: str | None = None,
    width: look.Width = "column",
    height: float | None = None,
) -> Figure:
    """Draw lines with their names at their ends, or in a legend below where there are too many.

    `note` is a line below the chart, on what bands are for instance. `key` says what the styles mean (`{"validation": "strong", "training": "light"}`); `levels` are
    named horizontal lines, `spans` shaded stretches of x. `within`: between which values y can lie
    at all, as a share between 0 and 1; the axis does not reach beyond, nor show less than a tenth
    of it. NaN and infinities are gaps; a point alone is drawn as a dot; beyond 4,000 points a line
    is thinned, keeping each column's minimum and maximum. What a logarithmic axis cannot show is
    left out with a notice. Raises UserError for a series with nothing to draw.
    """
    figure, axes = look.new(width, height)
    ends = draw(axes, series, log_x=log_x, log_y=log_y, levels=levels, spans=spans, within=within)
    decorate(axes, x_label, y_label, title, key, spans)
    named = [end for end in ends if end.name]
    below = {}
    beside = level_ends(axes, levels, named)
    if not beside or not label_ends(figure, {axes: named + beside}):
        name_levels(axes, levels, series, log_x, log_y)
        below = {} if label_ends(figure, {axes: named}) else handles(series)
    if not name_spans(figure, {axes: spans}):
        below |= patches(spans)
    legend(figure, below, note)
    return figure


def draw(
    axes: Axes,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
    levels: Mapping[str, float] | None = None,
    spans: Sequence[Span] = (),
    within: tuple[float, float] | None = None,
) -> list[End]:
    """Draw the lines of `series` on `axes` and set its scales; returns where each line ends.

    Levels are drawn and not named: that is for `level_ends` or `name_levels`.
    """
    if not series:
        raise UserError("nothing to draw: no series given")
    colors = [index if one.color is None else one.color for index, one in enumerate(series)]
    points = [_points(one, log_x, log_y) for one in series]
    _tell_left_out(series, log_x, log_y)
    _scales(axes, points, levels or {}, log_x, log_y)
    ends = []
    for one, color, (x, y, low, high) in zip(series, colors, points, strict=True):
        _line(axes, one, color, x, y, low, high, log_x)
        last = np.flatnonzero(np.isfinite(y))[-1]
        ends.append(End(one.label, x[last], y[last], look.series_color(color)))
    for level in (levels or {}).values():
        axes.axhline(level, color=look.SOFT_INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.9)
    axes.autoscale_view()  # the names look for room in the final limits
    if within is not None and not log_y:
        _keep_within(axes, *within)
    shade(axes, spans)
    return ends


def level_ends(axes: Axes, levels: Mapping[str, float] | None, named: Sequence[End]) -> list[End]:
    """Where levels meet the right edge, for `label_ends` to name them beside the lines that are
    `named`; none where a level's name would take more of the chart's width than those do."""
    room = max((width(label(end.name), SIZE) for end in named), default=0.0)
    if not named or any(width(label(one), SIZE) > max(room, _SHORT) for one in levels or {}):
        return []
    edge = axes.get_xlim()[1]
    return [End(name, edge, level, look.SOFT_INK) for name, level in (levels or {}).items()]


def name_levels(
    axes: Axes,
    levels: Mapping[str, float] | None,
    series: Sequence[Series],
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Levels' names inside the axes, at that end and side of each that lines and bands leave free."""
    points = [_points(one, log_x, log_y) for one in series] if levels else []
    for name, level in (levels or {}).items():
        _name_level(axes, name, level, points)


def decorate(
    axes: Axes,
    x_label: str,
    y_label: str,
    title: str | None = None,
    key: Mapping[str, Style] | None = None,
    spans: Sequence[Span] = (),
    wide: float = 0.82,
) -> None:
    """Axis names, title above the left edge and, under it, what the line styles mean.

    Room is left above the axes for the names of `spans`. The title is at most `wide` of the
    chart's share of the figure.
    """
    above = 10 if any(span.label for span in spans) else 0
    axes.set_xlabel(label(x_label) if x_label else "")
    axes.set_ylabel(label(y_label) if y_label else "")
    if key:
        lines = [Line2D([], [], color=look.SOFT_INK, **_STYLES[style]) for style in key.values()]
        box = axes.legend(
            lines,
            [""] * len(lines),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(lines),
            borderpad=0,
            borderaxespad=0.4 + above / SIZE,
        )
        name_legend(box, list(key))
    if title:
        columns = axes.get_subplotspec().get_gridspec().ncols
        room = 72 * axes.figure.get_figwidth() * wide / columns
        axes.set_title(label(title, room, 8.5, 3), pad=(15 if key else 6) + above)


def handles(series: Sequence[Series]) -> dict[str, Line2D]:
    """A legend's line for each name, the first series of that name giving its look."""
    found: dict[str, Line2D] = {}
    for index, one in enumerate(series):
        if one.label and one.label not in found:
            color = index if one.color is None else one.color
            found[one.label] = Line2D([], [], **_look(one.style, color))
    return found


def legend(figure: Figure, named: Mapping[str, Artist], note: str | None = None) -> None:
    """A legend below the charts, in as many columns as fit, and above its names a note, if any; a
    note without names stands alone. The figure grows by their height."""
    if not named:
        if note:
            look.add_note(figure, label(note))
        return
    room = 72 * figure.get_figwidth() - 12
    names = [label(name, min(room, 190), SIZE) for name in named]
    widest = max(width(name, SIZE) for name in names) + 32
    columns = int(max(1, min(len(names), room // widest)))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + (rows + bool(note)) * 0.145 + 0.05)
    box = figure.legend(
        list(named.values()),
        [""] * len(names),
        loc="outside lower left",
        ncols=columns,
        title=label(note) if note else None,
        title_fontproperties={"size": SIZE},
        alignment="left",
    )
    box.get_title().set_color(look.SOFT_INK)
    name_legend(box, names, ready=True)


def name_legend(box: Legend, names: Iterable[str], ready: bool = False) -> None:
    """Name the lines of a legend made without names: one drops names that begin with an underscore.
    Names that are `ready` are labels already."""
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set_text(name if ready else label(name))


def thin(x: np.ndarray, *lines: np.ndarray, buckets: int = _BUCKETS) -> np.ndarray:
    """Indices that keep the look of lines over `x`: in each of `buckets` columns the first and last
    point, each line's minimum and maximum, and one gap if there is one. Everything if few points.

    Columns are equal in `x` where it ascends, else equal in count.
    """
    count = len(x)
    if count <= 4 * buckets:
        return np.arange(count)
    if np.all(np.diff(x) >= 0) and x[-1] > x[0]:
        cuts = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1])
    else:
        cuts = np.linspace(0, count, buckets + 1)[1:-1].astype(int)
    edges = np.unique([0, *cuts, count])
    keep: list[int] = []
    for start, stop in itertools.pairwise(edges):
        keep += [start, stop - 1]
        for line in lines:
            part = line[start:stop]
            gaps = np.isnan(part)
            if gaps.any():
                keep.append(start + int(gaps.argmax()))
            if not gaps.all():
                keep += [start + int(np.nanargmin(part)), start + int(np.nanargmax(part))]
    return np.unique(keep)


def _points(one: Series, log_x: bool, log_y: bool) -> tuple[np.ndarray, ...]:
    """x, y, low, high as float arrays, what cannot be drawn as NaN, x finite."""
    x = numbers(one.x, "x")
    columns = [numbers(one.y, "y")]
    columns += [numbers(band, "a band") for band in (one.low, one.high) if band is not None]
    if (one.low is None) != (one.high is None):
        raise UserError(f"series {one.label!r}: a band needs both low and high")
    if any(len(column) != len(x) for column in columns):
        raise UserError(f"series {one.label!r}: x has {len(x)} values, y {len(columns[0])}")
    for column in columns:
        column[~np.isfinite(column)] = np.nan
        if log_y:
            column[column <= 0] = np.nan
    shown = np.isfinite(x) & ((x > 0) | (not log_x))
    if not np.isfinite(columns[0][shown]).any():
        where = "that a logarithmic axis can show" if log_x or log_y else "that is finite"
        raise UserError(f"nothing to draw: series {one.label!r} has no point {where}")
    x, *columns = (column[shown] for column in (x, *columns))
    y = columns[0]
    low, high = columns[1:] if len(columns) == 3 else (y, y)
    return x, y, low, high


def _tell_left_out(series: Sequence[Series], log_x: bool, log_y: bool) -> None:
    for which, asked in (("x", log_x), ("y", log_y)):
        values = [np.asarray(getattr(one, which), dtype=float) for one in series] if asked else []
        count = sum(int((column <= 0).sum()) for column in values)
        if count:
            points = "1 point" if count == 1 else f"{count:,} points"
            notice(f"logarithmic {which} axis: left out {points} at or below 0")


def _scales(
    axes: Axes,
    points: Sequence[tuple[np.ndarray, ...]],
    levels: Mapping[str, float],
    log_x: bool,
    log_y: bool,
) -> None:
    xs = np.concatenate([x for x, *_ in points])
    ys = np.concatenate([column for _, *columns in points for column in columns])
    ys = np.concatenate([ys, list(levels.values())])
    for which, log, values in (("x", log_x, xs), ("y", log_y, ys)):
        if log:
            ticks.logarithmic(axes, which, np.nanmin(values), np.nanmax(values))
        else:
            ticks.plain(axes, which)
    axes.margins(x=0.02, y=0.06)


def _keep_within(axes: Axes, low: float, high: float) -> None:
    """Limits of y inside low to high, but for the width of a line, a tenth of it apart or more."""
    bottom, top = np.clip(axes.get_ylim(), low, high).tolist()
    short = (high - low) / 10 - (top - bottom)
    if short > 0:
        bottom, top = bottom - short / 2, top + short / 2
        moved = max(0.0, low - bottom) - max(0.0, top - high)
        bottom, top = bottom + moved, top + moved
    hair = 0.02 * (top - bottom)
    axes.set_ylim(bottom - hair * (bottom <= low), top + hair * (top >= high))


def _look(style: Style, color: int) -> dict[str, Any]:
    base = {"color": look.series_color(color), "linestyle": look.series_linestyle(color)}
    return base | _STYLES[style]


def _line(
    axes: Axes,
    one: Series,
    color: int,
    x: np.ndarray,
    y: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    log_x: bool,
) -> None:
    banded = low is not y
    keep = thin(np.log(x) if log_x else x, y, low, high)
    x, y, low, high = x[keep], y[keep], low[keep], high[keep]
    drawn = _look(one.style, color)
    order = 2.1 if one.style == "light" else 2.3
    present = np.isfinite(y)
    lonely = present & ~np.r_[False, present[:-1]] & ~np.r_[present[1:], False]
    dots = present if one.style == "strong" and present.sum() <= _FEW else lonely
    axes.plot(x, y, marker="o", markevery=np.flatnonzero(dots).tolist(), zorder=order, **drawn)
    if banded:
        shade = look.series_color(color)
        axes.fill_between(x, low, high, color=shade, alpha=0.16, linewidth=0, zorder=order - 0.5)


def _name_level(
    axes: Axes, name: str, level: float, points: Sequence[tuple[np.ndarray, ...]]
) -> None:
    """A level's name above or below its line, left or right: where there is most room, and of
    equal places above, at the left."""
    box = axes.get_window_extent()
    point = axes.figure.dpi / 72
    long = min(1.0, (width(label(name), SIZE) + 6) * point / box.width)
    high = (2 + SIZE / 2) * point / box.height
    places = [(right, above) for above in (True, False) for right in (False, True)]
    at = axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[0], level)))
    fits = [place for place in places if place[1] or at[1] > 2 * high] or places

    def room(place: tuple[bool, bool]) -> float:
        right, above = place
        ends = (1 - long, 1.0) if right else (0.0, long)
        return min(_clearance(axes, at[1] + (high if above else -high), points, *ends), 2 * high)

    right, above = max(fits, key=room)
    axes.annotate(
        label(name),
        xy=(1 if right else 0, level),
        xycoords=("axes fraction", "data"),
        xytext=(-3 if right else 3, 2 if above else -2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if above else "top",
        fontsize=SIZE,
        color=look.SOFT_INK,
        zorder=2.5,
    )


def _clearance(
    axes: Axes, height: float, points: Sequence[tuple[np.ndarray, ...]], left: float, right: float
) -> float:
    """How far lines and their bands stay from a height between two places of the width, all as
    shares of the axes; infinity where there are none."""
    nearest = np.inf
    places = np.linspace(left, right, 9)
    inside = axes.transData + axes.transAxes.inverted()
    for x, y, low, high in points:
        kept = np.isfinite(y)
        bounds = []
        for bound in (low, high):
            at = inside.transform(np.stack([x, np.where(np.isfinite(bound), bound, y)], 1)[kept])
            order = at[:, 0].argsort(kind="stable")
            nothing = {"left": np.nan, "right": np.nan}
            bounds.append(np.interp(places, at[order, 0], at[order, 1], **nothing))
        gaps = np.maximum(bounds[0] - height, height - bounds[1])
        gaps = gaps[np.isfinite(gaps)]
        nearest = min(nearest, float(gaps.min(initial=np.inf)))
    return nearest
