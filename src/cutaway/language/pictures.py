"""Pictures of a language run: loss curves, words by sense over training, norms.

Tables in, figure out: nothing here needs torch. `PICTURES` lists what `cutaway plot all` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cutaway.base.errors import UserError
from cutaway.figures import histories
from cutaway.figures.bars import horizontal_bars
from cutaway.figures.curves import Series, curves
from cutaway.figures.panels import Panel, panels
from cutaway.figures.recorded import Log, decades, over_blocks, recorded
from cutaway.figures.recorded import rows as recorded_rows
from cutaway.figures.text import visible

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

# Columns of the history in plain words (loss: the axis of both losses); any other is shown with
# its underscores as spaces.
NAMES = {
    "loss": "loss (nats per token)",
    "train_loss": "training loss (nats per token)",
    "val_loss": "validation loss (nats per token)",
    "val_bits_per_byte": "validation bits per byte",
    "gradient_norm": "L2 norm of the gradient",
    "weight_norm": "L2 norm of all weights",
    "seconds": "seconds since the start",
}
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
    """Training and validation loss in nats per token (`figures.histories.loss_curves`)."""
    return histories.loss_curves(
        logs, labels, words=NAMES, log_x=log_x, log_y=log_y, x=x, title=title
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
    """One recorded column of one run or many (`figures.histories.metric_curves`)."""
    return histories.metric_curves(
        logs, metric, labels, words=NAMES, log_x=log_x, log_y=log_y, x=x, title=title
    )


def sweep_pictures(logs: Sequence[Log], groups: Sequence[str]) -> dict[str, Figure]:
    """Pictures of a sweep by name: the validation loss of its runs, a colour for each group."""
    shown = [index for index, log in enumerate(logs) if recorded(log.history, "val_loss")]
    if not shown:
        return {}
    chosen = [logs[index] for index in shown]
    names = [groups[index] for index in shown]
    return {"val_loss": histories.group_curves(chosen, "val_loss", names, words=NAMES, log_x=False)}


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
    if recorded(history, "gradient_norm"):
        line = recorded_rows(history, "gradient_norm")
        wide = decades(line[1]) > 1
        gradient = Series("", *line, color=0, style="light")
        charts.append(Panel([gradient], "step", NAMES["gradient_norm"], log_y=wide))
    if not charts:
        raise UserError("no weight_norm.<component> and no gradient_norm in this history")
    return panels(charts, height=2.8)


def _components(history: pa.Table) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    prefix = "weight_norm."
    columns = [name for name in history.column_names if name.startswith(prefix)]
    columns = [name for name in columns if recorded(history, name)]
    lines = {name.removeprefix(prefix): recorded_rows(history, name) for name in columns}
    return over_blocks(lines, _COMPONENTS)


def _word_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Words with whitespace visible; two tokens that read the same get their ids."""
    names = [visible(str(row["word"])) for row in rows]
    return [
        f"{name} #{row['token_id']}" if names.count(name) > 1 and "token_id" in row else name
        for name, row in zip(names, rows, strict=True)
    ]


def _loss(log: Log) -> Figure | None:
    found = [name for name in ("train_loss", "val_loss") if recorded(log.history, name)]
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
    found = [name for name in [*columns, "gradient_norm"] if recorded(log.history, name)]
    return weight_norms(log.history) if found else None


PICTURES: dict[str, Callable[[Log], Figure | None]] = {
    "loss": _loss,
    "words": _words,
    "words_evolution": _words_evolution,
    "weight_norms": _weight_norms,
}
"""Every picture of a run by name; each draws it, or returns None where the run has nothing for it."""
