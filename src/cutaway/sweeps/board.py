"""What a person sees while a sweep runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cutaway.base.display import printable, quiet
from cutaway.base.progress import duration

if TYPE_CHECKING:
    from rich.table import Table

_REFRESH = 0.25  # seconds between drawings
_AROUND = 6  # terminal lines that are not rows of runs
_COLUMNS = ("run", "status", "step", "rate", "time", "figures")


@dataclass
class _Line:
    """What is known of one run."""

    name: str
    status: str = "waiting"
    detail: str = ""
    began: float = 0.0
    seconds: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


class Board:
    """Follows runs by name, in units that train together, in order. `--quiet` shows nothing;
    results are not its business."""

    def __init__(self, units: Sequence[Sequence[str]], jobs: int = 1):
        self.lines = {name: _Line(name) for unit in units for name in unit}
        self.units = units
        self.jobs = jobs
        self._live: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Board:
        if sys.stderr.isatty() and not quiet.get() and self.lines:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def started(self, name: str, resumed: bool) -> None:
        """A worker was given this run."""
        line = self.lines[name]
        line.status, line.began = "starting", time.monotonic()
        self._say(line, "resumed" if resumed else "started")

    def progress(self, names: Sequence[str], told: dict[str, Any]) -> None:
        """How far the runs of one unit are: title, done, total, unit, rate, figures.

        Figures are those of the first; of runs stacked with it only their progress is known.
        """
        for name in names:
            figures = told["figures"] if name == names[0] else {f"with {names[0]}": ""}
            self.lines[name].status = told["title"]
            self.lines[name].told = told | {"figures": figures}

    def notice(self, names: Sequence[str], text: str) -> None:
        """Something a run has to say."""
        if text.partition(": ")[0] in names:  # it says itself which of a stack it is of
            self._print(text)
            return
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        self._print(f"{names[0]}{more}: {text}")

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A run's end."""
        line = self.lines[name]
        line.status, line.detail = status, reason or ""
        line.seconds = time.monotonic() - line.began
        if status == "done" and line.told:  # its last words may have come before its last step
            line.told = line.told | {"done": line.told["total"] or line.told["done"]}
        self._say(line, f"{status} in {duration(line.seconds)}" + (f": {reason}" if reason else ""))

    def stopping(self, again: bool) -> None:
        """The sweep was asked to stop."""
        if again:
            self._print("stopping at once")
        else:
            self._print("stopping: the runs at work save and end; once more stops at once")

    def tick(self) -> None:
        """Draw, if it is time to."""
        if self._live is not None and time.monotonic() - self._drawn > _REFRESH:
            self._draw()

    # -- inside ----------------------------------------------------------------------------

    def _say(self, line: _Line, what: str) -> None:
        if self._live is None:
            index = list(self.lines).index(line.name) + 1
            self._print(f"[{index}/{len(self.lines)}] {line.name}: {what}")

    def _print(self, text: str) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(printable(text)))
        elif not quiet.get():
            print(printable(text), file=sys.stderr, flush=True)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self.table(self._live.console.height - _AROUND), refresh=True)

    def table(self, height: int) -> Table:
        """The runs as a table of at most `height` rows: those at work, the latest ends, the next."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=self.caption())
        table.caption_justify = "left"
        rows = [_cells(line) for line in self._shown(max(3, height))]
        for index, column in enumerate(_COLUMNS):
            # a narrow terminal shortens the figures, not what a run is and how far
            widest = max(len(text) for text in (column, *(row[index] for row in rows)))
            table.add_column(
                column,
                justify="right" if column in ("step", "rate", "time") else "left",
                no_wrap=True,
                overflow="ellipsis",
                min_width=None if column == "figures" else min(widest, 40),
            )
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    def caption(self) -> str:
        """`3 of 18 done, 1 failed, 2 at work, about 12m00s left`."""
        states = [line.status for line in self.lines.values()]
        done, waiting = states.count("done"), states.count("waiting")
        bad = {state: states.count(state) for state in ("failed", "interrupted")}
        busy = len(states) - done - waiting - sum(bad.values())
        parts = [f"{done} of {len(states)} done"]
        parts += [f"{count} {state}" for state, count in bad.items() if count]
        parts += [f"{busy} at work"] if busy else []
        if (left := self._left()) is not None and (busy or waiting):
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _left(self) -> float | None:
        """Seconds until the last run ends, by the units that came to their end; None without any."""
        now = time.monotonic()
        units = [[self.lines[name] for name in unit] for unit in self.units]
        took = [
            max(line.seconds for line in unit)
            for unit in units
            if all(line.seconds for line in unit) and any(line.status == "done" for line in unit)
        ]
        if not took:
            return None
        mean = sum(took) / len(took)
        open_ = [unit for unit in units if not all(line.seconds for line in unit)]
        spent = sum(min(mean, now - unit[0].began) for unit in open_ if unit[0].began)
        return (mean * len(open_) - spent) / max(1, min(self.jobs, len(open_)))

    def _shown(self, height: int) -> list[_Line]:
        lines = list(self.lines.values())
        if len(lines) <= height:
            return lines
        busy = [line for line in lines if line.began and not line.seconds]
        ended = sorted((line for line in lines if line.seconds), key=lambda x: x.began + x.seconds)
        waiting = [line for line in lines if not line.began]
        chosen = busy[:height]
        chosen += waiting[: max(0, (height - len(chosen)) // 2)]
        chosen += ended[::-1][: height - len(chosen)]
        chosen += [line for line in waiting if line not in chosen][: height - len(chosen)]
        return [line for line in lines if line in chosen]


def _cells(line: _Line) -> list[str]:
    told = line.told
    if not told:
        return [line.name, line.status, "", "", "", line.detail]
    done, total, rate = told["done"], told["total"], told["rate"]
    if line.seconds:
        when = f"took {duration(line.seconds)}"
    else:
        when = f"{duration((total - done) / rate)} left" if total and rate > 0 else ""
    figures = [f"{name} {value}".strip() for name, value in told["figures"].items()]
    return [
        line.name,
        line.status,
        f"{done:,.0f}" + (f"/{total:,.0f}" if total else ""),
        (f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}") + f" {told['unit']}/s",
        when,
        line.detail or "  ".join(text for text in figures if "/s " not in text),
    ]
