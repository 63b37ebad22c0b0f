"""Pictures of a language run: loss curves, words by sense over training, norms.

Tables in, figure out: nothing here needs torch. `PICTURES` lists what `cutaway plot all` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cutaway.base.errors import UserError, nearest
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series, curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.text import visible

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


class Log(Protocol):
    """What a picture needs of a run or of a training log (`cutaway.runs.foreign.Log` has it)."""

    @property
    def name(self) -> str: ...
    @property
    def history(self) -> pa.Table: ...
    @property
    def words(self) -> pa.Table | None: ...


# Columns of the history in plain words; any other is shown with its underscores as spaces.
NAMES = {
    "train_loss": "training loss (nats per token)",
    "val_loss": "validation loss (nats per token)",
    "val_bits_per_byte": "validation bits per byte",
    "gradient_norm": "L2 norm of the gradient",
    "weight_norm": "L2 norm of all weights",
    "seconds": "seconds since the start",
}
_LOSS = "loss (nats per token)"
_KEY = {"validation": "strong", "training": "light"}
_CHANCE = {"1 = attended to as by chance": 1.0}
_COMPONENTS = 12  # more weight norms than this are summed over blocks


def loss_curves(
    logs: Sequence[Log],
    labels: Sequence[str] | None = None,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x: str = "step",
    title: str | None = None,
) -> Figure:
    """Training and validation loss of one run or many, over `x` (a column of the history).

    One run: each line is named. Many: a colour per run, validation strong, training thin, and each
    run's name stands with its last validation loss (its last training loss where it has no other).
    Raises UserError for a run without losses, an unknown `x`, or labels that do not match.
    """
    names = _names(logs, labels)
    series: list[Series] = []
    kinds: set[str] = set()
    for color, (log, name) in enumerate(zip(logs, names, strict=True)):
        lines = {
            kind: _column(log, name, column, x)
            for kind, column in (("training", "train_loss"), ("validation", "val_loss"))
            if column in log.history.column_names
        }
        lines = {kind: line for kind, line in lines.items() if np.isfinite(line[1]).any()}
        if not lines:
            raise UserError(f"{name}: no finite train_loss or val_loss in its history")
        kinds |= lines.keys()
        for kind, (at, loss) in lines.items():
            alone = len(logs) == 1
            named = alone or kind == "validation" or "validation" not in lines
            series.append(
                Series(
                    f"{kind if alone else name} {_last(loss)}" if named else "",
                    at,
                    loss,
                    color=color,
                    style=_KEY[kind],
                )
            )
    return curves(
        series,
        x_label=_in_words(x),
        y_label=_LOSS,
        log_x=log_x,
        log_y=log_y,
        title=title,
        key=_KEY if len(logs) > 1 and len(kinds) > 1 else None,
        width="column" if len(logs) == 1 else "page",
    )


def metric_curves(
    logs: Sequence[Log],
    metric: str,
    labels: Sequence[str] | None = None,
    *,
    log_x: bool = False,
    log_y: bool = False,
    x: str = "step",
    title: str | None = None,
) -> Figure:
    """One recorded column of one run or many, over `x`.

    Raises UserError where a run lacks the column (with the nearest names) or never recorded it.
    """
    names = _names(logs, labels)
    series = []
    for color, (log, name) in enumerate(zip(logs, names, strict=True)):
        at, values = _column(log, name, metric, x)
        if not np.isfinite(values).any():
            raise UserError(f"{name}: no finite {metric} in its history")
        series.append(Series("" if len(logs) == 1 else name, at, values, color=color))
    return curves(
        series,
        x_label=_in_words(x),
        y_label=_in_words(metric),
        log_x=log_x,
        log_y=log_y,
        title=title,
        width="column" if len(logs) == 1 else "page",
    )


def words_evolution(
    words: pa.Table, *, top: int = 10, chance: bool = True, title: str | None = None
) -> Figure:
    """Activation of words over training: the `top` words of the last reading.

    A word that a reading does not list has a gap there. Where a word is listed with several senses
    its largest counts. `chance` draws the line at 1, for activations relative to uniform attention.
    """
    rows = last_reading(words)[:top]
    steps = np.unique(words["step"].to_numpy())
    series = []
    readings: dict[int, dict[int, float]] = {row["token_id"]: {} for row in rows}
    for row in words.select(["step", "token_id", "activation"]).to_pylist():
        if row["token_id"] in readings:
            known = readings[row["token_id"]]
            known[row["step"]] = max(row["activation"], known.get(row["step"], -np.inf))
    for row, name in zip(rows, _word_names(rows), strict=True):
        known = readings[row["token_id"]]
        series.append(Series(name, steps, [known.get(step, np.nan) for step in steps]))
    if title is None:
        title = f"The {len(rows)} words most attended to at step {steps[-1]:,}"
    return curves(
        series,
        x_label="step",
        y_label="activation of the word's strongest sense",
        levels=_CHANCE if chance else None,
        title=title,
        width="page",
        height=max(3.0, 0.15 * len(rows) + 1.0),
    )


def words_bars(
    rows: Sequence[Mapping[str, Any]],
    *,
    top: int = 20,
    chance: bool = True,
    title: str | None = None,
) -> Figure:
    """Words with their activations as bars, in the order given: rows with `word`, `activation`."""
    rows = list(rows)[:top]
    if not rows:
        raise UserError("nothing to draw: no words given")
    return horizontal_bars(
        _word_names(rows),
        [row["activation"] for row in rows],
        x_label="activation of the word's strongest sense",
        title=title,
        level=("chance", 1.0) if chance else None,
    )


def last_reading(words: pa.Table) -> list[dict[str, Any]]:
    """The rows of the last step that has words, one per token, largest activation first."""
    if not words.num_rows:
        raise UserError("nothing to draw: no words were recorded")
    last = max(words["step"].to_pylist())
    best: dict[int, dict[str, Any]] = {}
    for row in words.to_pylist():
        if row["step"] == last:
            known = best.setdefault(row["token_id"], row)
            if row["activation"] > known["activation"]:
                best[row["token_id"]] = row
    return sorted(best.values(), key=lambda row: (-row["activation"], row["token_id"]))


def weight_norms(history: pa.Table) -> Figure:
    """L2 norm of each component's weights, and of the gradient, over the steps.

    With more than twelve components the same part of all blocks is one line, √(Σ norm²). Raises
    UserError where neither `weight_norm.<component>` nor `gradient_norm` was recorded.
    """
    weights = _components(history)
    charts = []
    if weights:
        series = [Series(name, *line) for name, line in weights.items()]
        charts.append(Panel(series, "step", "L2 norm of the weights"))
    if _recorded(history, "gradient_norm"):
        line = _rows(history, "step", "gradient_norm")
        wide = _decades(line[1]) > 1
        gradient = Series("", *line, color=0, style="light")
        charts.append(Panel([gradient], "step", NAMES["gradient_norm"], log_y=wide))
    if not charts:
        raise UserError("no weight_norm.<component> and no gradient_norm in this history")
    return panels(charts, height=2.8)


def _components(history: pa.Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    prefix = "weight_norm."
    columns = [name for name in history.column_names if name.startswith(prefix)]
    columns = [name for name in columns if _recorded(history, name)]
    lines = {name.removeprefix(prefix): _rows(history, "step", name) for name in columns}
    if len(lines) <= _COMPONENTS:
        return lines
    grouped: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (steps, norms) in lines.items():
        part = name.split(".")
        group = f"{part[-1]}, all blocks" if part[0] == "blocks" else name
        before = grouped[group][1] if group in grouped else 0.0
        grouped[group] = (steps, np.hypot(before, norms))
    return grouped


def _names(logs: Sequence[Log], labels: Sequence[str] | None) -> list[str]:
    if not logs:
        raise UserError("nothing to draw: no runs given")
    if labels is None:
        return [log.name for log in logs]
    if len(labels) != len(logs):
        raise UserError(f"labels: {len(labels)} given for {len(logs)} runs; expected one for each")
    return list(labels)


def _column(log: Log, name: str, column: str, x: str) -> tuple[np.ndarray, np.ndarray]:
    """x and values of the rows that recorded `column`; refuses unknown and non-numeric columns."""
    import pyarrow.types as types

    known = [
        field.name
        for field in log.history.schema
        if types.is_integer(field.type) or types.is_floating(field.type)
    ]
    for wanted in (column, x):
        if wanted not in known:
            raise UserError(
                f"{name}: no column {wanted!r} of numbers in its history"
                f"{nearest(wanted, known) or '; it has ' + ', '.join(known)}"
            )
    return _rows(log.history, x, column)


def _rows(history: pa.Table, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Null means not recorded at that row: dropped. NaN means not finite: kept, drawn as a gap."""
    import pyarrow.compute as pc

    table = history.select([x, y] if x != y else [x])
    table = table.filter(pc.and_(pc.is_valid(table[x]), pc.is_valid(table[y])))
    return table[x].to_numpy(), table[y].to_numpy()


def _recorded(history: pa.Table, column: str) -> bool:
    if column not in history.column_names:
        return False
    return bool(np.isfinite(_rows(history, "step", column)[1].astype(float)).any())


def _decades(values: np.ndarray) -> float:
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.log10(positive.max() / positive.min())) if len(positive) else 0.0


def _last(values: np.ndarray) -> str:
    value = float(values[np.isfinite(values)][-1])
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _in_words(column: str) -> str:
    return NAMES.get(column, column.replace("_", " "))


def _word_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Words with whitespace visible; two tokens that read the same get their ids."""
    names = [visible(str(row["word"])) for row in rows]
    return [
        f"{name} #{row['token_id']}" if names.count(name) > 1 and "token_id" in row else name
        for name, row in zip(names, rows, strict=True)
    ]


def _loss(log: Log) -> Figure | None:
    found = [name for name in ("train_loss", "val_loss") if _recorded(log.history, name)]
    return loss_curves([log], title=log.name) if found else None


def _words(log: Log) -> Figure | None:
    if log.words is None or not log.words.num_rows:
        return None
    step = max(log.words["step"].to_pylist())
    return words_bars(last_reading(log.words), title=f"Most attended to at step {step:,}")


def _words_evolution(log: Log) -> Figure | None:
    return words_evolution(log.words) if log.words is not None and log.words.num_rows else None


def _weight_norms(log: Log) -> Figure | None:
    columns = [n for n in log.history.column_names if n.startswith("weight_norm.")]
    found = [name for name in [*columns, "gradient_norm"] if _recorded(log.history, name)]
    return weight_norms(log.history) if found else None


PICTURES: dict[str, Callable[[Log], Figure | None]] = {
    "loss": _loss,
    "words": _words,
    "words_evolution": _words_evolution,
    "weight_norms": _weight_norms,
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""
