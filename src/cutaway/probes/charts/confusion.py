"""What a probe decides: test examples by label and decision, at even odds and at natural ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError
from cutaway.figures import look
from cutaway.figures.heatmap import colormap
from cutaway.figures.text import label as shown
from cutaway.figures.text import width as text_width
from cutaway.probes.states.report_rows import Rows, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@look.styled()
def confusion_figure(
    confusion: Rows, site: str | None = None, *, of: str = "", title: str | None = None
) -> Figure:
    """Test examples by label (rows) and decision (columns), at even odds and at natural ones.

    Cells hold the share of the label's examples, which is their colour, and where there is room the
    count. `site` is the layer (default: the first in the table), `of` the task and model, for the
    title. Raises UserError where the table has no such site.
    """
    rows = rows_of(confusion)
    site = site or (rows[0]["site"] if rows else None)
    rows = [row for row in rows if row["site"] == site]
    if not rows:
        raise UserError(f"nothing to draw: the confusion table has no site {site!r}")
    names = list(dict.fromkeys(row["label"] for row in rows))
    place = {name: index for index, name in enumerate(names)}
    odds = [one for one in ("even", "natural") if any(row["odds"] == one for row in rows)]
    each = 7.0 / 2
    cell = min(0.62, 2.35 / len(names))
    figure, grid = look.new("page", cell * len(names) + 1.0, 1, len(odds), squeeze=False)
    for axes, which in zip(grid[0], odds, strict=True):
        counts = np.zeros((len(names), len(names)))
        for row in rows:
            if row["odds"] == which:
                counts[place[row["label"]], place[row["predicted"]]] += row["count"]
        _table(axes, counts, names, 72 * each, cell)
        axes.set_title(_odds_title(counts, which), pad=6)
    grid[0][0].set_ylabel("label")
    title = title or f"Decisions on test examples, {site}" + (f": {of}" if of else "")
    figure.suptitle(shown(title, 490, 9, 3), x=0.01, ha="left")
    return figure


def _odds_title(counts: np.ndarray, which: str) -> str:
    total = counts.sum(1)
    if which == "even":
        recalls = np.diag(counts)[total > 0] / total[total > 0]
        return f"Even odds: balanced accuracy {recalls.mean():.3f}"
    return f"Natural odds: accuracy {np.trace(counts) / max(counts.sum(), 1):.3f}"


def _table(axes: Axes, counts: np.ndarray, names: Sequence[str], room: float, cell: float) -> None:
    """Shares of each row as colours, with share and count written in where they fit."""
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    colors = colormap(False)
    axes.imshow(np.ma.masked_invalid(shares), cmap=colors, vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    wide = 0.72 * room / len(names)
    labels = [shown(name, 70, 7) for name in names]
    upright = max(text_width(one, 7) for one in labels) > wide
    axes.set_xticks(range(len(names)), labels, rotation=90 if upright else 0)
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("decision")
    texts = {
        place: f"{100 * share:.1f} %\n{int(counts[place]):,}"
        for place, share in np.ndenumerate(shares)
        if not math.isnan(share)
    }
    lines = [line for text in texts.values() for line in text.split("\n")]
    if 72 * cell < 22 or max((text_width(line, 7) for line in lines), default=0) > wide:
        texts = {place: _short(shares[place]) for place in texts}
        axes.set_xlabel("decision (cells: % of the label)")
    for (i, j), text in texts.items():
        dark = look.luminance(np.array(colors(shares[i, j])[:3])) < 0.3
        color = "#fefefe" if dark else "#010101"
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)


def _short(share: float) -> str:
    """Whole per cent; nothing for none."""
    return "" if share == 0 else "<1" if share < 0.005 else f"{100 * share:.0f}"
