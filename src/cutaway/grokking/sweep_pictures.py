"""Pictures of many grokking runs: a metric by group, and a grid over two hyper-parameters."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError, nearest
from cutaway.figures.heatmap import heatmap
from cutaway.figures.histories import group_curves
from cutaway.figures.recorded import recorded, rows
from cutaway.figures.ticks import number
from cutaway.grokking.pictures import NAMES

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.grokking.pictures import Log

_WORDS = NAMES | {
    "grokked_step_median": "step of grokking (median)",
    "grokked": "step of grokking",
}


def sweep_pictures(logs: Sequence[Log], groups: Sequence[str]) -> dict[str, Figure]:
    """Pictures of a sweep by name, of the runs that have what they show.

    `test_acc`: its curves, a colour for each of `groups`; `<one>_by_<other>` for each pair of
    numeric settings that vary between the runs (seeds aside): the step of grokking where any run
    grokked, else the last test accuracy, the median where a place has several runs.
    """
    from cutaway.grokking.histories import held_out

    figures = {}
    metrics = [held_out(log.history, "acc") for log in logs]
    metric = max(metrics, key=metrics.count, default="test_acc")
    shown = [index for index, log in enumerate(logs) if _has_line(log, metric)]
    if shown:
        chosen = [logs[index] for index in shown]
        figures[metric] = sweep_curves(chosen, metric, [groups[index] for index in shown])
    entries = [one for log in logs if (one := _entry(log)) is not None]
    settings = [name for name in (entries[0] if entries else ()) if _varies(entries, name)]
    value = "grokked" if any(one["grokked"] is not None for one in entries) else "test_acc"
    if any(one[value] is not None for one in entries):
        for x, y in itertools.combinations(settings, 2):
            places = {(one[x], one[y]) for one in entries}
            if len(places) == max(len({one[name] for one in entries}) for name in (x, y)):
                continue  # they vary together: a line of cells, no grid
            try:
                figures[f"{y}_by_{x}"] = sweep_grid(entries, x, y, value)
            except UserError:  # some runs grokked, but in no place most of them
                figures[f"{y}_by_{x}"] = sweep_grid(entries, x, y, "test_acc")
    return figures


def sweep_curves(
    logs: Sequence[Log],
    metric: str = "test_acc",
    groups: Sequence[str] | None = None,
    *,
    log_x: bool = True,
    title: str | None = None,
) -> Figure:
    """A metric of many runs over the steps, a colour for each group (`figures.histories.group_curves`).

    `groups` names each log's group; by default it is the run's name without its seed
    (`analysis.group_of`).
    """
    from cutaway.grokking.analysis import group_of

    if groups is None:
        groups = [group_of(log.name) for log in logs]
    return group_curves(logs, metric, groups, words=_WORDS, log_x=log_x, title=title)


def sweep_grid(
    summary: pa.Table | Iterable[Mapping[str, Any]],
    x: str,
    y: str,
    value: str = "grokked_step_median",
    *,
    title: str | None = None,
) -> Figure:
    """A figure of a sweep over two of its settings, as a heat map.

    `summary` is what `analysis.sweep_summary` gives, or one row for each run; `value` is a column of
    it, None and NaN mean not reached. Rows of one cell (seeds, other settings) become their median,
    one that did not reach counting as later than any that did; where some runs did not, cells tell
    how many did. A cell whose median was not reached, or without any run, is grey. Steps have a
    logarithmic scale. Raises UserError for a missing column, an empty summary or no figure at all.
    """
    entries = (
        summary.to_pylist() if hasattr(summary, "to_pylist") else [dict(row) for row in summary]
    )
    if not entries:
        raise UserError("nothing to draw: the summary has no rows")
    for column in (x, y, value):
        if column not in entries[0]:
            raise UserError(
                f"summary: no column {column!r}"
                f"{nearest(column, entries[0]) or '; it has ' + ', '.join(entries[0])}"
            )
    across = sorted({row[x] for row in entries}, key=_order)
    upwards = sorted({row[y] for row in entries}, key=_order, reverse=True)
    cells: dict[tuple[Any, Any], _Cell] = {}
    for row in entries:
        cells.setdefault((row[y], row[x]), _Cell()).add(row, value)
    counted = any(cell.reached < cell.runs for cell in cells.values())
    table = np.full((len(upwards), len(across)), np.nan)
    written = [["" for _ in across] for _ in upwards]
    for (high, wide), cell in cells.items():
        row, column = upwards.index(high), across.index(wide)
        lines = []
        if np.isfinite(cell.median):
            table[row, column] = cell.median
            lines.append(_figure(cell.median))
        if counted and cell.runs > 1:
            lines.append(f"{cell.reached} of {cell.runs}")
        written[row][column] = "\n".join(lines)
    if not np.isfinite(table).any():
        raise UserError(f"nothing to draw: no cell reached {value}")
    finite = table[np.isfinite(table)]
    return heatmap(
        table,
        [_name(one) for one in upwards],
        [_name(one) for one in across],
        x_label=x.replace("_", " "),
        y_label=y.replace("_", " "),
        value_label=_WORDS.get(value, value.replace("_", " ")),
        title=title,
        log=bool((finite > 1).all()),
        square=True,
        written=written,
        missing=_missing(cells.values(), table.size),
    )


@dataclass
class _Cell:
    """Figures of one pair of settings; infinite where not reached."""

    figures: list[float] = field(default_factory=list)
    runs: int = 0
    reached: int = 0

    def add(self, row: Mapping[str, Any], value: str) -> None:
        figure = row[value]
        reached = figure is not None and bool(np.isfinite(figure))
        self.figures.append(float(figure) if reached else np.inf)
        summed = value.startswith("grokked_step") and "runs" in row and "grokked" in row
        self.runs += row["runs"] if summed else 1
        self.reached += row["grokked"] if summed else int(reached)

    @property
    def median(self) -> float:
        return float(np.median(self.figures))


def _missing(cells: Collection[_Cell], places: int) -> str:
    """What grey cells are: there may be places without any run, and cells of several runs."""
    kinds = []
    if not all(np.isfinite(cell.median) for cell in cells):
        several = any(cell.runs > 1 for cell in cells)
        kinds.append("not reached by most runs" if several else "not reached")
    return ", or ".join([*kinds, *(["no run"] if len(cells) < places else [])])


def _has_line(log: Log, metric: str) -> bool:
    """Whether a metric was recorded after step 0, which logarithmic steps do not show."""
    if not recorded(log.history, metric):
        return False
    steps, values = rows(log.history, metric)
    return bool(np.isfinite(values[steps > 0]).any())


def _entry(log: Log) -> dict[str, Any] | None:
    """A run's settings, the step where it grokked and its last test accuracy; None without any."""
    from cutaway.grokking.derived import final_accuracy
    from cutaway.grokking.histories import config_of, history_if_any
    from cutaway.grokking.phases import has_accuracies, phases

    history = history_if_any(log.history)
    if history is None or not has_accuracies(history):
        return None
    last = final_accuracy(history)
    return {**config_of(log), "grokked": phases(history).grokked, "test_acc": last}


def _varies(entries: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a setting is a number, not a seed, with several values."""
    values = [one.get(name) for one in entries]
    numbers = all(type(value) in (int, float) for value in values)
    own = name in ("grokked", "test_acc") or name.endswith("seed")
    return numbers and not own and len(set(values)) > 1


def _figure(value: float) -> str:
    return number(value) if value >= 1 else f"{value:.2f}"


def _order(setting: Any) -> tuple[int, float, str]:
    """Numbers by size, then texts."""
    if isinstance(setting, int | float):
        return (0, float(setting), "")
    return (1, 0.0, str(setting))


def _name(setting: Any) -> str:
    plain = isinstance(setting, int | float) and not isinstance(setting, bool)
    return number(float(setting)) if plain else str(setting)
