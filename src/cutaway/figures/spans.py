"""Stretches of the x axis shaded behind the lines, with their names above the chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cutaway.figures import look
from cutaway.figures.direct import SIZE, spread
from cutaway.figures.text import label

_ORDER = (6, 4, 2, 5, 7, 3)  # places in the palette, those of the first lines last
_STRENGTH = 0.14
_GAP = 6.0  # points kept free between two names


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of x from `start` to `end`; None is the axis's own end.

    An empty label draws no name. `color` is its place among the shades (default: in the list).
    """

    label: str
    start: float | None = None
    end: float | None = None
    color: int | None = None


def shade(axes: Axes, spans: Sequence[Span]) -> None:
    """Shade `spans` behind the lines of axes whose limits are final; they stay as they are."""
    low, high = limits = axes.get_xlim()
    for index, span in enumerate(spans):
        left, right = _within(span, low, high)
        if left < right:
            color = _color(index, span)
            axes.axvspan(left, right, color=color, alpha=_STRENGTH, linewidth=0, zorder=0.5)
    axes.set_xlim(limits)


def name_spans(figure: Figure, spans: Mapping[Axes, Sequence[Span]]) -> bool:
    """Write the names above the charts, each over its stretch where there is room, in its shade.

    Names move apart where they would overlap. Returns False, and leaves nothing behind, where the
    names of a chart do not fit side by side: then a legend has to do.
    """
    shown = {axes: _shown(axes, its) for axes, its in spans.items()}
    if not any(shown.values()):
        return True
    figure.draw_without_rendering()
    written = []
    scale = figure.dpi / 72
    for axes, its in shown.items():
        texts = [_write(axes, index, span) for index, span in its]
        written += texts
        if not texts:
            continue
        box = axes.get_window_extent()
        widths = [text.get_window_extent().width for text in texts]
        middles = [_middle(axes, span) for _, span in its]
        slack = 8 * scale  # a name may stand a little over the chart's edges
        centres = spread(middles, widths, box.x0 - slack, box.x1 + slack, _GAP * scale)
        if centres is None:
            for text in written:
                text.remove()
            return False
        for text, centre in zip(texts, centres, strict=True):
            text.xy = ((centre - box.x0) / box.width, 1.0)
    return True


def patches(spans: Sequence[Span]) -> dict[str, Patch]:
    """A legend's patch for each name."""
    return {
        span.label: Patch(facecolor=_color(index, span), alpha=2 * _STRENGTH, linewidth=0)
        for index, span in enumerate(spans)
        if span.label
    }


def _shown(axes: Axes, spans: Sequence[Span]) -> list[tuple[int, Span]]:
    """Those with a name and a visible part, with their places in the list."""
    low, high = axes.get_xlim()
    visible = []
    for index, span in enumerate(spans):
        left, right = _within(span, low, high)
        if span.label and left < right:
            visible.append((index, span))
    return visible


def _within(span: Span, low: float, high: float) -> tuple[float, float]:
    left = low if span.start is None else max(span.start, low)
    right = high if span.end is None else min(span.end, high)
    return left, right


def _middle(axes: Axes, span: Span) -> float:
    """The middle of the visible part, in pixels."""
    left, right = _within(span, *axes.get_xlim())
    ends = axes.transData.transform([(left, axes.get_ylim()[1]), (right, axes.get_ylim()[1])])
    return float(ends[:, 0].mean())


def _write(axes: Axes, index: int, span: Span):
    return axes.annotate(
        label(span.label),
        xy=(0.5, 1.0),
        xycoords="axes fraction",
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=SIZE,
        color=look.text_color(_color(index, span)),
        annotation_clip=False,
    )


def _color(index: int, span: Span) -> str:
    place = index if span.color is None else span.color
    return look.series_color(_ORDER[place % len(_ORDER)])
