"""Numbers on axes: plain ones, `20k` and `1.5M` for large, powers of ten only where they must be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


class PlainFormatter(Formatter):
    """Ticks of a linear axis with as many decimals as tell neighbours apart."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        largest = max((abs(value) for value in values), default=0.0)
        gaps = [abs(b - a) for a, b in itertools.pairwise(values) if a != b]
        gap = min(gaps, default=largest) or 1.0
        if largest and not 1e-3 <= largest < 1e15:
            return [scientific(value) for value in values]
        scale, suffix = 1.0, ""
        if largest >= 1e4:
            scale, suffix = next(pair for pair in _SUFFIXES if largest >= pair[0])
        decimals = max(0, -math.floor(math.log10(gap / scale) + 1e-9))
        if round(gap / scale, decimals) != round(gap / scale, decimals + 1):  # 2.5, 7.5
            decimals += 1
        return [
            "0" if value == 0 else f"{value / scale:,.{decimals}f}".replace("-", "−") + suffix
            for value in values
        ]

    def __call__(self, value: float, position: int | None = None) -> str:
        return number(value)


class LogFormatter(Formatter):
    """Ticks of a logarithmic axis: 0.001 to 100k in plain digits, powers of ten outside."""

    def __call__(self, value: float, position: int | None = None) -> str:
        return number(value)


def number(value: float) -> str:
    """A number as people write it: 0.05, 1,500, 20k, 3×10⁻⁵."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = abs(value)
    if size < 1e-3 or size >= 1e15:
        return scientific(value)
    scale, suffix = 1.0, ""
    if size >= 1e4:
        scale, suffix = next(pair for pair in _SUFFIXES if size >= pair[0])
    digits = f"{value / scale:,.0f}" if size / scale >= 1000 else f"{value / scale:.4g}"
    return digits.replace("-", "−") + suffix


def scientific(value: float) -> str:
    """`3e-05` → `3×10⁻⁵`, `1e-06` → `10⁻⁶`, in Unicode rather than mathematics markup."""
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if not exponent:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = f"{float(mantissa):g}"
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    if mantissa in ("1", "-1"):
        return power if mantissa == "1" else "−" + power
    return mantissa.replace("-", "−") + "×" + power


def plain(axes: Axes, which: Literal["x", "y"], count: int = 6, *, whole: bool = False) -> None:
    """A linear axis with about `count` plain ticks, at whole numbers only with `whole`."""
    axis = _axis(axes, which)
    axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(PlainFormatter())


def logarithmic(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """A logarithmic axis for data between `low` and `high`, with at least two labelled ticks.

    Whole decades where there are three, 1-2-5 where there is less, plain steps where the largest is
    at most five times the smallest.
    """
    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = _axis(axes, which)
    decades = math.log10(high / low) if high > low > 0 else 0.0
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(PlainFormatter())
        axis.set_minor_locator(NullLocator())
        return
    subs = (1.0,) if decades >= 2.5 else (1.0, 3.0) if decades >= 1.5 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8 if decades >= 2.5 else 12))
    axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=30))
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(NullFormatter())


def _axis(axes: Axes, which: Literal["x", "y"]) -> Axis:
    return axes.xaxis if which == "x" else axes.yaxis
