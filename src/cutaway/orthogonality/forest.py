"""Differences of arms to their baseline, measures side by side, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Patch

from cutaway.base.errors import UserError
from cutaway.figures import look, ticks
from cutaway.figures.curves import legend
from cutaway.figures.text import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {
    "better than the baseline": look.PALETTE[0],
    "worse than the baseline": look.PALETTE[1],
    "within noise": "#a8a8a8",
}


@dataclass(frozen=True)
class Row:
    """An arm at a target L0: for each chart mean, low and high (or None), and whether it is noise."""

    arm: str
    target_l0: float
    cells: Sequence[np.ndarray | None]
    noise: Sequence[bool]


def reach(values: Sequence[float], intervals: Sequence[float]) -> tuple[float, float]:
    """Limits that show every value, and of the intervals what is within the values' own range."""
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    wanted = np.array([value for value in (*values, *intervals) if np.isfinite(value)])
    low, high = max(wanted.min(), low - room), min(wanted.max(), high + room)
    margin = 0.06 * ((high - low) or room)
    return low - margin, high + margin


@look.styled()
def side_by_side(
    rows: Sequence[Row], names: Sequence[str], better: Sequence[int], *, bars: bool, title: str
) -> Figure:
    """A chart per measure, a line per arm, grouped by target L0; 0 is the baseline.

    `names` of the measures may have line breaks; `better` is +1 where more is better, else -1.
    Marks, or bars from 0, are coloured by verdict: better, worse, or within noise. A measure that
    no row has is left out. Raises UserError where there is nothing to draw.
    """
    columns = [n for n in range(len(names)) if any(row.cells[n] is not None for row in rows)]
    if not columns:
        raise UserError("nothing to draw: no arm has a difference to the baseline")
    targets = list(dict.fromkeys(row.target_l0 for row in rows))
    lines: list[tuple[str, Row | None]] = []
    for target in targets:
        if len(targets) > 1:
            lines.append((f"L0 {target:g}", None))
        lines += [(row.arm, row) for row in rows if row.target_l0 == target]
    height = 0.17 * len(lines) + 1.15
    figure, grid = look.new("page", max(height, 1.8), 1, len(columns), squeeze=False, sharey=True)
    seen: set[str] = set()
    for column, axes in zip(columns, grid.flat):
        drawn = [
            (n, row) for n, (_, row) in enumerate(lines) if row and row.cells[column] is not None
        ]
        for place, row in drawn:
            verdict = _verdict(row.cells[column][0] * better[column], row.noise[column])
            seen.add(verdict)
            _cell(axes, place, row.cells[column], _COLORS[verdict], bars)
        cells = np.array([row.cells[column] for _, row in drawn])
        axes.set_xlim(*reach([0.0, *cells[:, 0]], cells[:, 1:].ravel()))
        axes.axvline(0, color=look.SOFT_INK, linewidth=0.6, zorder=1.9)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(bars is False, axis="y")
        ticks.plain(axes, "x", 4)
        arrow = "" if bars else "\n(more is better)" if better[column] > 0 else "\n(less is better)"
        axes.set_xlabel("\n".join(label(part) for part in (names[column] + arrow).split("\n")))
    first = grid.flat[0]
    first.set_ylim(len(lines) - 0.5, -0.5)
    texts = first.set_yticks(range(len(lines)), [label(name, 90, 7) for name, _ in lines])
    for tick, (_, row) in zip(texts, lines):
        if row is None:
            tick.label1.set_fontweight("bold")
    figure.suptitle(label(title), x=0.01, ha="left")
    shown = {name: color for name, color in _COLORS.items() if name in seen}
    legend(figure, {name: Patch(facecolor=color, linewidth=0) for name, color in shown.items()})
    return figure


def _cell(axes: Axes, place: int, cell: np.ndarray, color: str, bars: bool) -> None:
    mean, low, high = cell
    if bars:
        axes.barh(place, mean, height=0.66, color=color, zorder=2)
    else:
        axes.plot(mean, place, "o", color=color, markersize=4, zorder=2.4)
    if np.isfinite([low, high]).all():
        ink = look.INK if bars else color
        axes.plot([low, high], [place, place], color=ink, linewidth=1.0, zorder=2.2)


def _verdict(gain: float, noise: bool) -> str:
    if noise:
        return "within noise"
    return "better than the baseline" if gain > 0 else "worse than the baseline"
