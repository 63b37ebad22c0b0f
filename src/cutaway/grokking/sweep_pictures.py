"""Pictures of many grokking runs: a metric by group, and a grid over two hyper-parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError, nearest
from cutaway.figures.curves import Series, curves
from cutaway.figures.heatmap import heatmap
from cutaway.figures.recorded import decades, recorded, rows
from cutaway.figures.ticks import number

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from cutaway.grokking.pictures import Log

_WORDS = {
    "test_acc": "test accuracy",
    "train_acc": "training accuracy",
    "test_loss": "test loss (nats)",
    "train_loss": "training loss (nats)",
    "grokked_step_median": "step of grokking (median)",
}


def sweep_curves(
    logs: Sequence[Log],
    metric: str = "test_acc",
    groups: Sequence[str] | None = None,
    *,
    log_x: bool = True,
    title: str | None = None,
) -> Figure:
    """A metric of many runs over the steps, a colour for each group.

    The members are thin lines; the strong one is their median over the steps at which all of them
    recorded the metric (a group of one is drawn strong). `groups` names each log's group; by default
    it is the run's name without its seed (`analysis.group_of`). Raises UserError where a run never
    recorded the metric or `groups` has another length.
    """
    from cutaway.grokking.analysis import group_of

    if not logs:
        raise UserError("nothing to draw: no runs given")
    if groups is None:
        groups = [group_of(log.name) for log in logs]
    if len(groups) != len(logs):
        raise UserError(f"groups: {len(groups)} given for {len(logs)} runs; expected one for each")
    members: dict[str, list[dict[int, float]]] = {}
    for log, group in zip(logs, groups):
        if not recorded(log.history, metric):
            raise UserError(
                f"{log.name}: no finite {metric} in its history"
                f"{nearest(metric, log.history.column_names)}"
            )
        steps, values = rows(log.history, metric)
        shown = steps > 0 if log_x else steps >= steps.min()
        line = dict(zip(steps[shown].tolist(), values[shown].tolist()))
        members.setdefault(group, []).append(line)
    thin, strong = [], []
    for color, (group, lines) in enumerate(members.items()):
        common = sorted(set.intersection(*(set(line) for line in lines)))
        middle = [float(np.median([line[step] for line in lines])) for step in common]
        named = len(lines) == 1 or not np.isfinite(middle).any()
        if not named:
            strong.append(Series(f"{group} ({len(lines)})", common, middle, color=color))
        for line in lines:
            style = "strong" if len(lines) == 1 else "light"
            label = group if named and line is lines[0] else ""
            thin.append(Series(label, list(line), list(line.values()), color=color, style=style))
    values = np.concatenate([np.asarray(one.y) for one in thin])
    several = any(len(lines) > 1 for lines in members.values())
    return curves(
        [*thin, *strong],
        x_label="step",
        y_label=_WORDS.get(metric, metric.replace("_", " ")),
        log_x=log_x,
        log_y=not metric.endswith("_acc") and _wide(values),
        title=title,
        key={"median of the group": "strong", "its runs": "light"} if several else None,
        width="page",
    )


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


def _wide(values: np.ndarray) -> bool:
    return bool((values[np.isfinite(values)] > 0).all()) and decades(values) > 2


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
