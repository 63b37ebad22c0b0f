"""Evaluations in one figure: the dictionary beside its baselines, task by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.evaluations.suite.summary import (
    ABLATED,
    PROBED,
    Score,
    Scores,
    of_tasks,
    scores,
    shown,
)
from cutaway.figures import look, ticks
from cutaway.figures.curves import legend
from cutaway.figures.text import label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "dictionary": "dictionary",
    "neurons": "neurons",
    "pca": "principal components",
    "random": "random dictionary",
    "random_features": "random features of the dictionary",
    "states": "whole hidden state",
}
_COLORS = {name: place for place, name in enumerate(_NAMES)}
_BAR = 0.11  # inches of a bar
_GAP = 0.14  # inches between tasks
_SCR_ENDS = (-1.0, 1.5)  # a ratio: where there is little to gain its interval has no end


@dataclass(frozen=True)
class _Chart:
    """Bars of some subjects for each task, from `start`, on a panel of its own."""

    title: str
    scores: Scores
    measure: str
    k: int
    subjects: tuple[str, ...]
    x_label: str
    start: float  # where bars begin: what a subject scores that does nothing
    cut: tuple[float, float] | None = None  # beyond which nothing is drawn

    @property
    def bars(self) -> tuple[str, ...]:
        """Subjects with a bar: the whole state is a mark across all of a task's."""
        there = {subject for *_, subject in self.scores}
        return tuple(name for name in self.subjects if name in there and name != "states")

    @property
    def inches(self) -> float:
        return len(self.scores.tasks()) * (len(self.bars) * _BAR + _GAP) + 0.65


@look.styled()
def suite_picture(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure | None:
    """Rows of `judged` as bars with their 95 % intervals; None where there is nothing to draw.

    Sparse probing has a row of panels, one per k, bars from chance to the right; TPP and SCR have
    one with as many panels as numbers of features taken out.
    """
    charts = _charts(of_tasks(rows))
    if not charts:
        return None
    most = max(map(len, charts))
    heights = [line[0].inches for line in charts]
    figure, axes = look.new(
        *("page", sum(heights) + (0.3 if title else 0.05), len(charts), most),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    drawn: dict[str, Artist] = {}
    for line, places in zip(charts, axes, strict=True):
        ends = [_ends(chart) for chart in line]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        for number, place in enumerate(places):
            if number >= len(line):
                place.set_axis_off()
                continue
            _draw(place, line[number], drawn, named=number == 0)
            place.set_xlim(low, high)
            ticks.plain(place, "x", 4)
    if title:
        figure.suptitle(label(title, 72 * figure.get_figwidth(), 9), fontsize=9)
    order = [name for name in _NAMES if name in drawn]
    legend(figure, {_NAMES[name]: drawn[name] for name in order})
    return figure


# -- inside ----------------------------------------------------------------------------------------


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[list[_Chart]]:
    """Lines of panels; evaluations without a score have none."""
    probing = scores(rows, "sparse_probing")
    lines = [
        [
            _Chart(
                f"sparse probing, {k} feature{'s' if k > 1 else ''}",
                *(probing, "accuracy", k, PROBED, "test accuracy", 0.5),
            )
            for k in probing.ks("accuracy")
        ]
    ]
    for name, short, x_label, ends in (
        ("tpp", "TPP", "own class's loss − others' loss", None),
        ("scr", "SCR", "share of the gap closed", _SCR_ENDS),
    ):
        found = scores(rows, name)
        lines.append(
            [
                _Chart(f"{short}, {k} features out", found, name, k, ABLATED, x_label, 0.0, ends)
                for k in shown(found.ks(name))
            ]
        )
    return [line for line in lines if any(_values(chart) for chart in line)]


def _values(chart: _Chart) -> list[float]:
    """All finite values and ends of intervals in a chart."""
    found = []
    for task in chart.scores.tasks():
        for subject in chart.subjects:
            score = chart.scores.at(task, chart.measure, _k(chart, subject), subject)
            found += [value for value in score if math.isfinite(value)]
    return found


def _k(chart: _Chart, subject: str) -> int | None:
    return None if subject == "states" else chart.k


def _ends(chart: _Chart) -> tuple[float, float]:
    """Where the axis begins and ends."""
    values = [chart.start, *_values(chart)]
    low, high = min(values), max(values)
    room = 0.04 * (high - low or 1)
    low, high = low if low == chart.start else low - room, high + room
    if chart.cut is not None:
        low, high = max(low, chart.cut[0]), min(high, chart.cut[1])
    return low, high


def _mark_cut(axes: Axes, chart: _Chart, score: Score, place: float) -> None:
    """An arrowhead where a bar or its interval goes on beyond the axis."""
    if chart.cut is None:
        return
    ends = [value for value in score if math.isfinite(value)]
    for beyond, end, marker in (
        (min(ends, default=0) < chart.cut[0], chart.cut[0], "<"),
        (max(ends, default=0) > chart.cut[1], chart.cut[1], ">"),
    ):
        if beyond:
            axes.plot([end], [place], marker=marker, markersize=3, color=look.INK, clip_on=False)


def _draw(axes: Axes, chart: _Chart, drawn: dict[str, Artist], *, named: bool) -> None:
    tasks, bars = chart.scores.tasks(), chart.bars
    step = len(bars) * _BAR + _GAP
    for number, subject in enumerate(bars):
        found = [chart.scores.at(task, chart.measure, chart.k, subject) for task in tasks]
        values = np.array([score.value for score in found])
        places = np.arange(len(tasks)) * step + (number + 0.5) * _BAR
        reached = np.where(np.isfinite(values), values - chart.start, 0)
        color = look.series_color(_COLORS[subject])
        drawn.setdefault(
            subject,
            axes.barh(places, reached, left=chart.start, height=0.85 * _BAR, color=color),
        )
        for place, score in zip(places, found, strict=True):
            if not math.isfinite(score.value):
                if number:
                    continue
                axes.annotate(
                    "not defined",
                    *((chart.start, place), (2, 0)),
                    textcoords="offset points",
                    va="center",
                    fontsize=6,
                    color=look.SOFT_INK,
                )
            elif math.isfinite(score.low):
                axes.plot([score.low, score.high], [place, place], color=look.INK, linewidth=0.7)
            _mark_cut(axes, chart, score, place)
    if "states" in chart.subjects:
        for number, task in enumerate(tasks):
            score = chart.scores.at(task, chart.measure, None, "states")
            ends = number * step - 0.03, number * step + len(bars) * _BAR + 0.03
            (mark,) = axes.plot(
                *([score.value] * 2, ends), color=look.INK, linewidth=1.2, linestyle=(0, (2, 1))
            )
            drawn.setdefault("states", mark)
    centres = np.arange(len(tasks)) * step + len(bars) * _BAR / 2
    axes.set_yticks(centres, [label(task, 95, 7, 2) for task in tasks] if named else [])
    axes.set_ylim(len(tasks) * step - _GAP / 2, -_GAP / 2)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.axvline(chart.start, color=look.SOFT_INK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_title(label(chart.title), fontsize=8)
    axes.set_xlabel(label(chart.x_label))
