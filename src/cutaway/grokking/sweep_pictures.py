"""Pictures of many grokking runs: a metric by group, and a grid over two hyper-parameters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.columns import records
from cutaway.base.errors import UserError, nearest
from cutaway.figures.heatmap import heatmap
from cutaway.figures.histories import group_curves
from cutaway.figures.recorded import Log, recorded, rows
from cutaway.figures.ticks import number
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.pictures import NAMES

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

_WORDS = NAMES | {
    "grokked_step_median": "step of grokking (median)",
    "grokked": "step of grokking",
    "grokked_step": "step of grokking",
}
# Not what a sweep asks about: figures, seeds, and what does not touch the weights.
_NO_AXIS = GrokkingConfig.free | {
    *("grokked", "grokked_lost", "test_acc", "failed", "seed", "data_seed")
}


def sweep_pictures(logs: Sequence[Log], groups: Sequence[str]) -> dict[str, Figure]:
    """Pictures of a sweep by name, of the runs that have what they show.

    `test_acc`: its curves, a colour for each of `groups`, without runs that failed;
    `<one>_by_<other>` for each pair of settings that the sweep varies (seeds aside), numbers or
    names: the step of grokking where any run grokked, else the last test accuracy, the median where
    a place has several runs.
    """
    from cutaway.grokking.histories import has_failed, held_out

    figures = {}
    failed = [has_failed(log) for log in logs]
    metrics = [held_out(log.history, "acc") for log in logs]
    metric = max(metrics, key=metrics.count, default="test_acc")
    shown = [
        index for index, log in enumerate(logs) if not failed[index] and _has_line(log, metric)
    ]
    if shown:
        of = f"{sum(failed)} of {len(logs)} runs failed and are not drawn"
        figures[metric] = sweep_curves(
            [logs[index] for index in shown],
            metric,
            [groups[index] for index in shown],
            title=of if any(failed) else None,
        )
    entries = [one for log in logs if (one := _entry(log)) is not None]
    value = "grokked" if any(one["grokked"] is not None for one in entries) else "test_acc"
    if any(one[value] is not None for one in entries):
        for x, y in _grids(entries, getattr(logs[0], "planned", ())):
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
    log_x: bool | None = None,
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
    how many did. Runs that failed (`failed`: whether, or how many) are left out of the medians and
    counted in their cell. A cell whose median was not reached, or without any run that came
    through, is grey. Steps have a logarithmic scale, accuracies one from 0 to 1. The title, unless
    given, says what is drawn and over how many runs. Raises UserError for a missing column, an
    empty summary or no figure at all.
    """
    entries = records(summary)
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
        if np.isfinite(cell.median):
            table[row, column] = cell.median
        written[row][column] = "\n".join(cell.lines(counted))
    if not np.isfinite(table).any():
        raise UserError(f"nothing to draw: no cell reached {value}")
    finite = table[np.isfinite(table)]
    accuracy = _base(value).endswith("_acc")
    words = _WORDS.get(value) or _WORDS.get(_base(value), value.replace("_", " "))
    return heatmap(
        table,
        [_name(one) for one in upwards],
        [_name(one) for one in across],
        x_label=x.replace("_", " "),
        y_label=y.replace("_", " "),
        value_label=words,
        title=title or _title(words, value, cells.values()),
        log=bool((finite > 1).all()),
        scale=(0.0, 1.0) if accuracy else None,
        square=True,
        written=written,
        missing=_missing(cells.values(), table.size),
    )


@dataclass
class _Cell:
    """Figures of one pair of settings; infinite where not reached. `runs` and `reached` are of what
    the figures are of (runs, or rows of a summary), `members`, `failed` and `lost` of runs."""

    figures: list[float] = field(default_factory=list)
    runs: int = 0
    reached: int = 0
    members: int = 0
    failed: int = 0
    lost: int = 0

    def add(self, row: Mapping[str, Any], value: str) -> None:
        failed = int(row.get("failed") or 0)
        came_through = row.get("runs", 1) - failed
        self.failed += failed
        self.members += came_through
        if failed and not came_through:
            return
        self.lost += int(row.get("grokked_lost") or 0) if "grokked" in value else 0
        figure = row[value]
        reached = figure is not None and bool(np.isfinite(figure))
        self.figures.append(float(figure) if reached else np.inf)
        summed = value.startswith("grokked_step") and "runs" in row and "grokked" in row
        self.runs += came_through if summed else 1
        self.reached += row["grokked"] if summed else int(reached)

    @property
    def median(self) -> float:
        return float(np.median(self.figures)) if self.figures else np.inf

    def lines(self, counted: bool) -> list[str]:
        """What is written in the cell; `counted`: also how many runs reached the figure."""
        found = [_figure(self.median)] if np.isfinite(self.median) else []
        if counted and self.runs > 1:
            found.append(f"{self.reached} of {self.runs}")
        if self.lost:
            found.append("lost" if self.members == 1 else f"{self.lost} lost")
        if self.failed:
            found.append("failed" if not self.members else f"{self.failed} failed")
        return found


def _missing(cells: Collection[_Cell], places: int) -> str:
    """What grey cells are: there may be places without any run, and cells of several runs."""
    kinds = []
    if any(cell.figures and not np.isfinite(cell.median) for cell in cells):
        several = any(cell.runs > 1 for cell in cells)
        lost = " or lost" if any(cell.lost for cell in cells) else ""
        kinds.append(f"not reached{lost} by most runs" if several else f"not reached{lost}")
    if any(not cell.figures for cell in cells):
        kinds.append("failed")
    if len(cells) < places:
        kinds.append("no run")
    return ", or ".join(kinds)


def _title(words: str, value: str, cells: Collection[_Cell]) -> str:
    """`Test accuracy, median of 3 runs`; how many is left out where each cell is one run."""
    counts = sorted({cell.members for cell in cells if cell.members})
    about = words.partition(" (")[0]
    if counts[-1] > 1:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        about += f", {'mean' if value.endswith('_mean') else 'median'} of {several} runs"
    return about[0].upper() + about[1:]


def _base(value: str) -> str:
    """The figure that a column of a summary is of: `test_acc_mean` → `test_acc`."""
    return re.sub("_(mean|std|min|max|median)$", "", value)


def _has_line(log: Log, metric: str) -> bool:
    """Whether a metric was recorded after step 0, which logarithmic steps do not show."""
    if not recorded(log.history, metric):
        return False
    steps, values = rows(log.history, metric)
    return bool(np.isfinite(values[steps > 0]).any())


def _entry(log: Log) -> dict[str, Any] | None:
    """A run's settings, the step where it grokked (and kept it) and its last test accuracy; neither
    where it failed. None for a run without accuracies that did not fail."""
    from cutaway.grokking.derived import final_accuracy
    from cutaway.grokking.histories import config_of, has_failed, history_if_any
    from cutaway.grokking.phases import phases, was_evaluated

    if has_failed(log):
        return {**config_of(log), "grokked": None, "test_acc": None, "failed": True}
    history = history_if_any(log.history)
    if history is None or not was_evaluated(history):
        return None
    seen = phases(history)
    found = {
        "grokked": seen.grokked if seen.stayed else None,
        "test_acc": final_accuracy(history),
        "grokked_lost": seen.lost is not None,
    }
    return {**config_of(log), **found, "failed": False}


def _grids(
    entries: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Pairs of settings that a sweep combines, in the order of the config.

    `planned` has what each of its runs varies; without it the runs' settings tell. Two that vary
    together are a line of cells, no grid, and of names every combination must be there: else each
    name is one of a list of runs, not an axis.
    """
    rows = planned or entries
    names = [name for name in entries[0] if name not in _NO_AXIS and _varies(rows, name)]
    for x, y in itertools.combinations(names, 2):
        places = {(one.get(x), one.get(y)) for one in rows}
        across, upwards = ({one.get(name) for one in rows} for name in (x, y))
        named = not (_numeric(across) and _numeric(upwards))
        least = len(across) * len(upwards) - 1 if named else max(len(across), len(upwards))
        if len(places) > least:
            yield x, y


def _varies(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a setting, no list, has several values."""
    values = [one.get(name) for one in rows]
    plain = all(value is None or isinstance(value, int | float | str) for value in values)
    return plain and len(set(values)) > 1


def _numeric(values: Collection[Any]) -> bool:
    return all(type(value) in (int, float) for value in values)


def _figure(value: float) -> str:
    return number(value) if value >= 1 else f"{value:.2f}"


def _order(setting: Any) -> tuple[int, float, str]:
    """Numbers by size, then texts."""
    if isinstance(setting, int | float):
        return (0, float(setting), "")
    return (1, 0.0, _name(setting))


def _name(setting: Any) -> str:
    if setting is None or isinstance(setting, bool):
        return {None: "none", True: "yes", False: "no"}[setting]
    return number(float(setting)) if isinstance(setting, int | float) else str(setting)
