"""How runs with the orthogonality penalty trained: τ, cosines, steps done, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutaway.figures import look
from cutaway.figures.curves import Series
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, recorded, rows
from cutaway.runs import record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = (0.0, 1.0)
_NEUTRAL = look.PALETTE.index("#333333")  # charcoal


def training_comparison(logs: Sequence[Log], title: str | None = None) -> Figure | None:
    """Four panels: τ, |cosine| of the selected pairs, successful steps, and the whole loss.

    τ over steps, where a higher one is looser: pairs cost nothing below it. The mean of |cosine|
    over the selected pairs with a band of ± 1 standard deviation over pairs (in `all_pairs`: over
    features and the nearest of each). Successful steps against attempts, with a cross where a run
    failed or was interrupted and from there a dotted plateau to where it was to end. The loss with every penalty, on a logarithmic axis. Runs without
    the penalty are in the panels they have something for; None where no run has it.
    """
    if not any(recorded(log.history, "pair_cosine_mean") for log in logs):
        return None
    names = [log.name if len(logs) > 1 else "" for log in logs]
    each = [_progress(log) for log in logs]
    charts = {
        "tau": Panel(lines(logs, names, "tau"), "step", "τ (a higher τ is looser)"),
        "cosine": Panel(
            _bands(logs, names), "step", "|cosine| of selected pairs ± 1 std", within=_SHARE
        ),
        "steps": Panel(
            _steps(each, [log.name for log in logs]),
            "steps attempted"
            + (" (dotted: never attempted)" if any(one.early for one in each) else ""),
            "successful steps",
        ),
        "loss": Panel(
            lines(logs, names, "train_loss"), "step", "whole loss (scaled units)", log_y=True
        ),
    }
    shown = {name: chart for name, chart in charts.items() if chart.series}
    figure = panels(
        list(shown.values()),
        own_names=True,
        title=logs[0].name if title is None and len(logs) == 1 else title,
        height=2.3 * -(-len(shown) // 2),
    )
    _mark_ends(figure.axes[list(shown).index("steps")], each)
    bands = figure.axes[list(shown).index("cosine")].collections
    for band in bands:  # the more lie on each other, the lighter
        band.set_alpha(band.get_alpha() * min(1.0, 3 / len(bands)))
    return figure


# -- what was recorded ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Progress:
    """Attempts at which it is known how many steps were successful, and how the run ended."""

    steps: np.ndarray
    attempted: int
    done: int
    planned: int
    early: bool


def _progress(log: Log) -> _Progress:
    """Steps of the history and, of a run, what its record says of attempts."""
    steps = log.history["step"].to_numpy()
    last = int(steps.max(initial=0))
    if not (log.path / record.FILE).is_file():
        return _Progress(steps, last, last, last, False)
    known = record.read(log.path)
    attempted, done = known.steps_attempted, known.steps_done
    if known.status == "running":  # its record is behind its history
        attempted, done = max(attempted, last), max(done, last)
    early = known.status in ("failed", "interrupted")
    return _Progress(steps, attempted, done, known.steps_planned or attempted, early)


def lines(logs: Sequence[Log], names: Sequence[str], column: str) -> list[Series]:
    """A line for each log that recorded `column`, in the colour of its place."""
    return [
        Series(name, *rows(log.history, column), color=color)
        for color, (log, name) in enumerate(zip(logs, names))
        if recorded(log.history, column)
    ]


def _bands(logs: Sequence[Log], names: Sequence[str]) -> list[Series]:
    series = []
    for color, (log, name) in enumerate(zip(logs, names)):
        if not recorded(log.history, "pair_cosine_mean"):
            continue
        at, mean = rows(log.history, "pair_cosine_mean")
        band = {}
        if recorded(log.history, "pair_cosine_std"):
            _, spread = rows(log.history, "pair_cosine_std")
            band = {"low": mean - spread, "high": mean + spread}
        series.append(Series(name, at, mean, color, **band))
    return series


def _steps(each: Sequence[_Progress], names: Sequence[str]) -> list[Series]:
    """A line per run to where it ended and, where that was early, a dotted one on to its planned end.

    Runs that came equally far lie on each other, so they share a name, at a dot of their end.
    """
    alike: dict[tuple[int, int, int], list[str]] = {}
    for one, name in zip(each, names):
        if not one.early:
            alike.setdefault((one.attempted, one.done, one.planned), []).append(name)
    series, shared = [], []
    for color, (one, name) in enumerate(zip(each, names)):
        count = f"{one.done:,} of {one.planned:,}"
        text = count if len(each) == 1 else f"{name}: {count}"
        at = np.unique(np.r_[0, one.steps[one.steps < one.attempted], one.attempted])
        ends = one.early and one.planned > one.attempted
        several = not one.early and len(alike[one.attempted, one.done, one.planned]) > 1
        named = "" if ends or several else text
        series.append(Series(named, at, np.minimum(at, one.done), color))
        if ends:
            plateau = [one.attempted, one.planned]
            series.append(Series(text, plateau, [one.done] * 2, color, "dotted"))
    for (attempted, done, planned), those in alike.items():
        if len(those) > 1:
            who = "all" if len(those) == len(each) else f"{len(those)} runs"
            shared.append(Series(f"{who}: {done:,} of {planned:,}", [attempted], [done], _NEUTRAL))
    return series + shared


def _mark_ends(axes: Axes, each: Sequence[_Progress]) -> None:
    """A cross where a run ended early."""
    for color, one in enumerate(each):
        if one.early:
            axes.plot(one.attempted, one.done, "x", color=look.series_color(color), zorder=3)
