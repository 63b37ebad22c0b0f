"""Progress on stderr: a bar with rate and ETA in a terminal, plain lines elsewhere.

Nothing is shown in the first two seconds, so quick work stays quiet.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from cutaway.base.display import quiet

T = TypeVar("T")

_PATIENCE = 2.0  # seconds before anything is shown
_WARM_UP = 0.5  # seconds from the first work on that do not count in the rate
_LINE_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Counts work done and shows it. Use `progress(...)`, which closes it."""

    def __init__(self, title: str, total: float | None, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self.figures: dict[str, str] = {}
        self._started = time.monotonic()
        self._origin = 0.0
        self._first: float | None = None  # when the first work was done
        self._base: tuple[float, float] | None = None  # when the rate begins, and what was done
        self._shown = self._started
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._share: Any = None

    def start_at(self, done: float) -> None:
        """Work that was done before this process began: counted, but not in the rate."""
        self.done = self._origin = done

    def _time(self, now: float) -> None:
        """Let the rate begin after the first work, and what follows it within half a second."""
        if self._first is None:
            self._first = now
        if now - self._first <= _WARM_UP:
            self._base = (now, self.done)

    def advance(self, amount: float = 1, **figures: str) -> None:
        """`amount` more is done; `figures` are shown beside the bar (`loss='3.21'`)."""
        self.update(self.done + amount, **figures)

    def update(self, done: float, **figures: str) -> None:
        """`done` in all is done; cheap to call often, shows at most ten times a second."""
        self.done = done
        if self.total and done > self.total * 1.01:  # an estimate, of what is packed for instance
            self.total = None
            if self._bar is not None:
                self._bar.columns = [one for one in self._bar.columns if one is not self._share]
        if figures:
            self.figures.update(figures)
        now = time.monotonic()
        self._time(now)
        if (take := progress_to.get()) is not None:
            take(self)
            return
        if quiet.get() or now - self._started < _PATIENCE:
            return
        if self._terminal:
            if now - self._shown >= 0.1:
                self._draw()
                self._shown = now
        elif now - self._shown >= _LINE_EVERY or self._shown == self._started:
            print(self.line(now), file=sys.stderr, flush=True)
            self._shown = now

    def tell(self, line: str) -> None:
        """A line that stays, above the bar."""
        if quiet.get() or progress_to.get() is not None:
            return
        if self._terminal and self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def rate(self, now: float | None = None) -> float:
        """Units per second since the work is under way: what came before it began is left out."""
        now = time.monotonic() if now is None else now
        if self._base is not None and now > self._base[0] and self.done > self._base[1]:
            since, done = self._base
        else:
            since, done = self._started, self._origin
        return (self.done - done) / (now - since) if now > since else 0.0

    def left(self, now: float | None = None) -> str:
        """`25s left`; empty where that cannot be said yet, or there is no total."""
        now = time.monotonic() if now is None else now
        if not self.total or self._base is None:
            return ""
        since, done = self._base
        if now - since < _PATIENCE or self.done <= done:
            return ""
        return f"{duration(max(0.0, self.total - self.done) / self.rate(now))} left"

    def line(self, now: float | None = None) -> str:
        """`training 120/1000 steps (12%), 34.5 steps/s, 25s left, loss 3.21`"""
        of = f"/{_count(self.total)}" if self.total else ""
        parts = [f"{self.title} {_count(self.done)}{of} {self.unit}"]
        if self.total:
            parts[0] += f" ({self.done / self.total:.0%})"
        parts.append(f"{_count(self.rate(now))} {self.unit}/s")
        if left := self.left(now):
            parts.append(left)
        parts += [f"{name} {value}" for name, value in self.figures.items()]
        return ", ".join(parts)

    def close(self) -> None:
        """Draw the last state and release the terminal."""
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            self._begin()
        extra = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        speed = f"{_count(self.rate())} {self.unit}/s"
        self._bar.update(
            self._task,
            total=self.total,
            completed=self.done,
            speed=speed,
            left=self.left(),
            extra=extra,
        )

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._share = TextColumn("{task.percentage:>3.0f}%" if self.total else "")
        self._bar = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            self._share,
            TextColumn("{task.fields[speed]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[extra]}", markup=False),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=self.total, speed="", left="", extra="")


# Takes every update instead of stderr, in a process that works for another one.
progress_to: ContextVar[Callable[[Progress], None] | None] = ContextVar("progress_to", default=None)


@contextmanager
def progress(title: str, total: float | None = None, unit: str = "items") -> Iterator[Progress]:
    """Show progress of the block's work: `with progress("reading", n, "files") as bar:`."""
    bar = Progress(title, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def track(items: Iterable[T], title: str, total: float | None = None, unit: str = "items"):
    """Iterate with progress."""
    with progress(title, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def duration(seconds: float) -> str:
    """`75` → `'1m15s'`; what is no number of seconds → `'-'`."""
    if not math.isfinite(seconds):
        return "-"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def _count(value: float | None) -> str:
    if value is None:
        return "?"
    if value >= 10_000_000:
        return f"{value / 1e6:.1f}M"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
