"""The pairs that the orthogonality penalty selected, while it trained: their cosines, and how long
they stayed selected.

Each picture takes one run or several, in the order of their colours. Tables in, figure out: torch
only for the overlap of recorded selections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from cutaway.dictionaries.pictures.training import lines
from cutaway.figures import look, ticks
from cutaway.figures.curves import Series, legend
from cutaway.figures.heatmap import colormap
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, recorded, rows
from cutaway.figures.text import label
from cutaway.runs import record
from cutaway.runs.table import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 24  # of |cosine|
_LAGS = 12  # points of the overlap against lag
_DRAWS = 24  # pairs of readings behind each of them
_TAU_COLOR = 1


def pair_cosines(logs: Sequence[Log], title: str | None = None) -> Figure | None:
    """How the selected pairs' |cosine| is distributed, from the first reading to the last.

    A map for each run with a table `pairs`: steps to the right, |cosine| upwards, the shade is the
    share of a reading's pairs; the line is τ, above which a pair is pushed apart.
    """
    found = [(log, pairs) for log in logs if (pairs := _pairs(log))]
    if not found:
        return None
    top = max(float(one.cosines.max()) for _, pairs in found for one in pairs)
    edges = np.linspace(0, max(np.ceil(20 * top) / 20, 0.05), _BINS + 1)
    return _maps(found, edges, title)


def pair_stability(logs: Sequence[Log], title: str | None = None) -> Figure | None:
    """How long the same pairs stay selected: overlap over steps, half-life, overlap against lag.

    Overlap is Jaccard's, |A ∩ B| / |A ∪ B|. Over steps: with the selection of the step before.
    Half-life: steps until the overlap with a reference selection halved, the newest completed.
    Against lag: mean over pairs of recorded readings so far apart (`sketch_overlap`), all of
    training; its first point, a lag of one step, is the mean of the first panel.
    """
    names = [log.name if len(logs) > 1 else "" for log in logs]
    charts = [
        Panel(lines(logs, names, "pair_overlap"), "step", "overlap with the step before"),
        Panel(lines(logs, names, "pair_half_life"), "step", "half-life of a selection, steps"),
        Panel(_lags(logs, names), "steps apart", "overlap of two selections", log_x=True),
    ]
    shown = [chart for chart in charts if chart.series]
    if not shown:
        return None
    if title is None and len(logs) == 1:
        title = logs[0].name
    return panels(shown, columns=3, title=title, height=2.5)


# -- inside --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """The pairs a table `pairs` has of one step: ids i·F + j, ascending, and their |cosine|."""

    step: int
    ids: np.ndarray
    cosines: np.ndarray


def _pairs(log: Log) -> list[_Reading]:
    table = read(log.path, "pairs") if (log.path / record.FILE).is_file() else None
    if table is None or not len(table):
        return []
    settings = record.read(log.path).resolved.get("settings", {})
    step, i, j, cosine = (table[name].to_numpy() for name in ("step", "i", "j", "cosine"))
    features = int(settings.get("d_hidden") or j.max() + 1)  # of ids, which the sketch goes by
    known = np.isfinite(cosine)  # a run that diverged has others
    step, i, j, cosine = (column[known] for column in (step, i, j, cosine))
    starts = np.flatnonzero(np.diff(step, prepend=-1))
    stops = [*starts[1:], len(step)]
    return [
        _Reading(int(step[a]), i[a:b] * features + j[a:b], np.abs(cosine[a:b]))
        for a, b in zip(starts, stops)
    ]


def _lags(logs: Sequence[Log], names: Sequence[str]) -> list[Series]:
    series = []
    for color, (log, name) in enumerate(zip(logs, names)):
        points = _overlaps(_pairs(log))
        if points and recorded(log.history, "pair_overlap"):
            points = {1.0: float(np.nanmean(rows(log.history, "pair_overlap")[1])), **points}
        if points:
            series.append(Series(name, list(points), list(points.values()), color))
    return series


def _overlaps(pairs: Sequence[_Reading]) -> dict[float, float]:
    """Mean overlap of readings by how many steps they are apart, at up to a dozen distances."""
    import torch

    from cutaway.orthogonality.instrument import SIZE
    from cutaway.orthogonality.stability import sketch_overlap

    ids = [torch.from_numpy(one.ids) for one in pairs]
    found = {}
    longest = len(pairs) - 1
    for lag in np.unique(np.geomspace(1, max(1, longest), _LAGS).round().astype(int)):
        if lag > longest:
            break
        first = np.unique(np.linspace(0, longest - lag, _DRAWS).round().astype(int))
        apart = np.mean([pairs[n + lag].step - pairs[n].step for n in first])
        overlaps = [sketch_overlap(ids[n], ids[n + lag], SIZE) for n in first]
        found[float(apart)] = float(np.mean(overlaps))
    return found


def _shares(cosines: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.clip(cosines, edges[0], edges[-1]), edges)[0] / len(cosines)


@look.styled()
def _maps(
    found: Sequence[tuple[Log, Sequence[_Reading]]], edges: np.ndarray, title: str | None
) -> Figure:
    shares = [np.array([_shares(one.cosines, edges) for one in pairs]).T for _, pairs in found]
    columns = min(len(found), 4)
    height = -(-len(found) // columns)
    single = len(found) == 1
    figure, grid = look.new(
        "column" if single else "page",
        2.6 if single else 1.75 * height + 0.5,
        height,
        columns,
        squeeze=False,
        sharey=True,
    )
    for axes in grid.flat[len(found) :]:
        axes.remove()
    # a run that selects three pairs has shares of a third, and would leave the others pale
    strongest = float(np.median([share.max() for share in shares]))
    has_tau = False
    for place, (axes, (log, pairs)) in enumerate(zip(grid.flat, found)):
        at = _borders(np.array([one.step for one in pairs]))
        image = axes.pcolormesh(
            at, edges, shares[place], cmap=colormap(False), vmin=0, vmax=strongest, rasterized=True
        )
        has_tau |= _tau(axes, log, edges[-1])
        _dress(axes, log.name, columns)
        if place % columns == 0:
            axes.set_ylabel("|cosine| of selected pairs")
    beyond = any(share.max() > strongest for share in shares)
    bar = figure.colorbar(
        image,
        ax=list(grid.flat[: len(found)]),
        fraction=0.03,
        pad=0.02,
        extend="max" if beyond else "neither",
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    ticks.plain(bar.ax, "y", 5)
    bar.set_label("share of a reading's pairs")
    if title:
        figure.suptitle(label(title), x=0.01, ha="left")
    if has_tau:
        line = Line2D([], [], color=look.series_color(_TAU_COLOR), linewidth=1.2)
        legend(figure, {"τ: pairs above it are pushed apart": line})
    return figure


def _tau(axes: Axes, log: Log, top: float) -> bool:
    """The run's τ over its map; False where it has none, or it is beyond the map."""
    if not recorded(log.history, "tau"):
        return False
    at, tau = rows(log.history, "tau")
    axes.plot(at, tau, color=look.series_color(_TAU_COLOR), linewidth=1.2)
    return bool((tau <= top).any())


def _dress(axes: Axes, name: str, columns: int) -> None:
    axes.grid(False)
    ticks.plain(axes, "x", 4)
    ticks.plain(axes, "y", 5)
    axes.set_xlabel("step")
    room = 72 * axes.figure.get_figwidth() * 0.8 / columns
    axes.set_title(label(name, room, 8.5, 2))


def _borders(steps: np.ndarray) -> np.ndarray:
    """Where one reading's stretch of steps ends and the next begins: half-way between them."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    return np.r_[steps[0], (steps[1:] + steps[:-1]) / 2, steps[-1]]
