"""Names written at the ends of lines, apart from each other, in place of a legend.

A legend makes the eye travel and hides data; a name at the line's end does neither. The names
stand in the right margin at the height of the line's last point, moved apart by the least sum of
squares where they would overlap, with a thin leader to the line where the name had to move.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from cutaway.figures import look
from cutaway.figures.text import label

SIZE = 7.0  # points
_GAP = 1.5  # points kept free between two names
_MARGIN = 4.0  # points between the axes and the names
_SIDE = 2.0  # points by which a name may be off its line's end and still stand beside it
_MOST = 24  # more names than this are a list, not labels


@dataclass(frozen=True, slots=True)
class End:
    """A line's last point, in data coordinates, and the name to write beside it."""

    name: str
    x: float
    y: float
    color: str


def spread(
    wanted: Sequence[float], heights: Sequence[float], low: float, high: float, gap: float = 0.0
) -> list[float] | None:
    """Centres for boxes of `heights` near `wanted`, without overlap, within [low, high].

    Minimises the sum of squared moves: isotonic regression on the centres less the room that the
    boxes before them need (pool adjacent violators), clipped to the bounds. None if they don't fit.
    """
    if sum(heights) + gap * (len(heights) - 1) > high - low:
        return None
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], -i))  # equal: the first on top
    offsets = [0.0]
    for before, after in itertools.pairwise(order):
        offsets.append(offsets[-1] + (heights[before] + heights[after]) / 2 + gap)
    pools: list[list[float]] = []  # [sum, count] of neighbours that touch
    for i, offset in zip(order, offsets, strict=True):
        pools.append([wanted[i] - offset, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    bottom = low + heights[order[0]] / 2
    top = high - heights[order[-1]] / 2 - offsets[-1]
    centres = [0.0] * len(wanted)
    bases = (total / count for total, count in pools for _ in range(int(count)))
    for i, offset, base in zip(order, offsets, bases, strict=True):
        centres[i] = min(max(base, bottom), top) + offset
    return centres


def label_ends(figure: Figure, ends: dict[Axes, list[End]], share: float = 0.34) -> bool:
    """Write the names of each axes' lines in its right margin, at most `share` of its width each.

    Lays the figure out to learn where the lines end. Returns False, and leaves nothing behind,
    where the names do not fit one above the other: then a legend has to do.
    """
    if any(len(names) > _MOST for names in ends.values()):
        return False
    points = 72 * figure.get_figwidth() * share / _columns(figure)
    placed = {
        axes: [_write(axes, end, points) for end in names] for axes, names in ends.items() if names
    }
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    centres = {}
    for axes, names in placed.items():
        box = axes.get_window_extent()
        heights = [text.get_window_extent().height for text in names]
        wanted = axes.transData.transform([(end.x, end.y) for end in ends[axes]])[:, 1]
        slack = heights[0] / 2  # a name may stand half its height above or below the axes
        fits = spread(wanted, heights, box.y0 - slack, box.y1 + slack, _GAP * scale)
        if fits is None:
            for text in (text for names in placed.values() for text in names):
                text.remove()
            return False
        centres[axes] = (np.array(fits) - box.y0) / box.height
    for axes, names in placed.items():
        for text, end, centre in zip(names, ends[axes], centres[axes], strict=True):
            text.xy = (1.0, centre)
            _lead(axes, end, centre)
    return True


def _columns(figure: Figure) -> int:
    return max(
        (
            axes.get_subplotspec().get_gridspec().ncols
            for axes in figure.axes
            if axes.get_subplotspec()
        ),
        default=1,
    )


def _write(axes: Axes, end: End, points: float):
    return axes.annotate(
        label(end.name, points, SIZE, lines=2),
        xy=(1.0, 0.5),
        xycoords="axes fraction",
        xytext=(_MARGIN, 0),
        textcoords="offset points",
        va="center",
        ha="left",
        fontsize=SIZE,
        color=look.text_color(end.color),
        linespacing=1.0,
        annotation_clip=False,
    )


def _lead(axes: Axes, end: End, centre: float) -> None:
    """A thin line from the end of the curve to its name, where the two are not side by side."""
    tip = axes.transAxes.inverted().transform(axes.transData.transform((end.x, end.y)))
    box = axes.get_window_extent()
    away, moved = (1.0 - tip[0]) * box.width, abs(centre - tip[1]) * box.height
    point = axes.figure.dpi / 72
    if away <= 12 * point and moved <= _SIDE * point:
        return
    leader = ConnectionPatch(
        xyA=(end.x, end.y),
        coordsA=axes.transData,
        xyB=(1.0 + 0.7 * _MARGIN * axes.figure.dpi / 72 / box.width, centre),
        coordsB=axes.transAxes,
        color=end.color,
        linewidth=0.6,
        alpha=0.9,
        linestyle=(0, (1, 1)),
    )
    leader.set_in_layout(False)
    axes.add_artist(leader)
    leader.set_clip_on(False)
