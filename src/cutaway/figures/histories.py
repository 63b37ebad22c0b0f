"""Curves of what histories hold: losses, any recorded column, a column by groups of runs.

What a column means is the room's to say: it hands over its `words`, from a column's name to what
stands at the axis (`loss`: at the axis of losses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cutaway.base.errors import UserError, nearest
from cutaway.figures.curves import Series, Style, curves
from cutaway.figures.recorded import Log, decades, recorded, rows, spread_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSSES: tuple[tuple[str, str, Style], ...] = (  # column, its line's name, its style
    ("train_loss", "training", "light"),
    ("val_loss", "validation", "strong"),
    ("test_loss", "test", "strong"),
)
_WIDE = 2  # decades from which an axis is logarithmic where nobody says


def loss_curves(
    logs: Sequence[Log],
    labels: Sequence[str] | None = None,
    *,
    words: Mapping[str, str] = {},
    log_x: bool = False,
    log_y: bool | None = None,
    x: str = "step",
    title: str | None = None,
) -> Figure:
    """Training and held-out loss of one run or many, over `x` (a column of the history).

    Held out is the test loss, the validation loss where no test was recorded. One run: each line is
    named. Many: a colour per run, held-out strong, training thin, and each run's name stands with
    its last held-out loss (its last training loss where it has no other). `log_y` None: logarithmic
    where losses span more than two decades. Raises UserError for a run without losses, an unknown
    `x`, or labels that do not match.
    """
    names = _names(logs, labels)
    series: list[Series] = []
    key: dict[str, Style] = {}
    for color, (log, name) in enumerate(zip(logs, names, strict=True)):
        lines = _losses(log, name, x)
        main = list(lines)[-1]
        for kind, (style, at, loss) in lines.items():
            alone = len(logs) == 1
            text = f"{kind if alone else name} {_last(loss)}" if alone or kind == main else ""
            series.append(Series(text, at, loss, color=color, style=style))
            key.setdefault(kind, style)
    key = dict(sorted(key.items(), key=lambda entry: entry[1] == "light"))
    return curves(
        series,
        x_label=in_words(x, words),
        y_label=words.get("loss", "loss"),
        log_x=log_x,
        log_y=_wide(series) if log_y is None else log_y,
        title=title,
        key=key if len(logs) > 1 and len(key) > 1 else None,
        width="column" if len(logs) == 1 else "page",
    )


def metric_curves(
    logs: Sequence[Log],
    metric: str,
    labels: Sequence[str] | None = None,
    *,
    words: Mapping[str, str] = {},
    log_x: bool = False,
    log_y: bool | None = False,
    x: str = "step",
    title: str | None = None,
) -> Figure:
    """One recorded column of one run or many, over `x`.

    `log_y` None: logarithmic where the values span more than two decades. Raises UserError where a
    run lacks the column (with the nearest names) or never recorded it.
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
        x_label=in_words(x, words),
        y_label=in_words(metric, words),
        log_x=log_x,
        log_y=_wide(series) and not metric.endswith("_acc") if log_y is None else log_y,
        title=title,
        within=_bounds(metric),
        width="column" if len(logs) == 1 else "page",
    )


def require_losses(log: Log, x: str = "step") -> None:
    """Raises UserError where `loss_curves` could not draw this log."""
    _losses(log, log.name, x)


def require_finite(log: Log, metric: str, x: str = "step") -> None:
    """Raises UserError where `metric_curves` could not draw this column of this log."""
    _, values = _column(log, log.name, metric, x)
    if not np.isfinite(values).any():
        raise UserError(f"{log.name}: no finite {metric} in its history")


def group_curves(
    logs: Sequence[Log],
    metric: str,
    groups: Sequence[str],
    *,
    words: Mapping[str, str] = {},
    log_x: bool | None = None,
    title: str | None = None,
) -> Figure:
    """A metric of many runs over the steps, a colour for each group.

    The members are thin lines; the strong one is their median over the steps at which all of them
    recorded the metric (a group of one is drawn strong). `groups` names each log's group. `log_x`
    None: logarithmic where some run recorded the metric at eight steps above 0. Raises UserError
    where a run never recorded the metric or `groups` has another length.
    """
    if not logs:
        raise UserError("nothing to draw: no runs given")
    if len(groups) != len(logs):
        raise UserError(f"groups: {len(groups)} given for {len(logs)} runs; expected one for each")
    if log_x is None:
        log_x = any(spread_steps(log.history, [metric]) for log in logs)
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
            style: Style = "strong" if len(lines) == 1 else "light"
            label = group if named and line is lines[0] else ""
            thin.append(Series(label, list(line), list(line.values()), color=color, style=style))
    several = any(len(lines) > 1 for lines in members.values())
    return curves(
        [*thin, *strong],
        x_label="step",
        y_label=in_words(metric, words),
        log_x=log_x,
        log_y=not metric.endswith("_acc") and _wide(thin),
        title=title,
        key={"median of the group": "strong", "its runs": "light"} if several else None,
        within=_bounds(metric),
        width="page",
    )


def in_words(column: str, words: Mapping[str, str]) -> str:
    """A column in plain words: the room's, else its name with spaces."""
    return words.get(column, column.replace("_", " "))


def _bounds(metric: str) -> tuple[float, float] | None:
    """Between which values a column can lie, where its name says so: accuracies are shares."""
    return (0.0, 1.0) if metric.endswith("_acc") else None


def _names(logs: Sequence[Log], labels: Sequence[str] | None) -> list[str]:
    if not logs:
        raise UserError("nothing to draw: no runs given")
    if labels is None:
        return [log.name for log in logs]
    if len(labels) != len(logs):
        raise UserError(f"labels: {len(labels)} given for {len(logs)} runs; expected one for each")
    return list(labels)


def _losses(log: Log, name: str, x: str) -> dict[str, tuple[Style, np.ndarray, np.ndarray]]:
    """The losses a log has, training first, then what was held out."""
    found = {}
    for column, kind, style in _LOSSES:
        if column in log.history.column_names:
            at, loss = _column(log, name, column, x)
            if np.isfinite(loss).any():
                found[kind] = (style, at, loss)
    if not found:
        raise UserError(f"{name}: no finite train_loss, val_loss or test_loss in its history")
    if "test" in found:
        found.pop("validation", None)
    return found


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
    return rows(log.history, column, x)


def _wide(series: Sequence[Series]) -> bool:
    values = np.concatenate([np.asarray(one.y, dtype=float) for one in series])
    return bool((values[np.isfinite(values)] > 0).all()) and decades(values) > _WIDE


def _last(values: np.ndarray) -> str:
    value = float(values[np.isfinite(values)][-1])
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
