"""Figures derived from one history: gaps, ratios, rates, and what a run was like after grokking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cutaway.base.errors import UserError
from cutaway.grokking.histories import History, held_out, history_of
from cutaway.grokking.phases import Phases, accuracies, phases

_SUMMARY = pa.schema(
    {
        "column": pa.string(),
        "count": pa.int64(),
        **dict.fromkeys(("mean", "std", "variance", "min", "max"), pa.float64()),
    }
)
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Quality:
    """How a run grokked; None where it did not, or where nothing was evaluated.

    `sharpness` is how many steps the held-out accuracy took from its last evaluation at or below
    10 % to its first at or above 90 %: small is sudden, and nothing below the distance of two
    evaluations can be told. `lost` is where it lost it again (`Phases.lost`).
    """

    delay: int | None
    share_kept: float | None
    variance_after: float | None
    final_test_acc: float | None
    best_test_acc: float | None
    best_step: int | None
    sharpness: int | None
    lost: int | None = None


def derived(history: History) -> pa.Table:
    """The tidy history with these columns added, where it has what they are made of.

    generalisation_gap   train_acc − test_acc
    loss_ratio           test_loss / train_loss; infinite where the training loss is 0
    <column>_rate        change per step since the last row that has it, for accuracies and losses:
                         (x_s − x_r) / (s − r), null where there is none before

    Validation takes the place of a test split that was not recorded. Raises `UserError` for a
    history without accuracies and losses.
    """
    table = history_of(history)
    measured = [
        name
        for metric in ("acc", "loss")
        for name in (f"train_{metric}", held_out(table, metric))
        if name in table.column_names
    ]
    if not measured:
        raise UserError(
            "history: has no accuracies and no losses to derive from "
            f"(it has {', '.join(table.column_names)})"
        )
    steps = table["step"].to_numpy()
    values = {name: _values(table[name]) for name in measured}
    added: dict[str, np.ndarray] = {}
    test_acc, test_loss = held_out(table, "acc"), held_out(table, "loss")
    if {"train_acc", test_acc} <= values.keys():
        added["generalisation_gap"] = values["train_acc"] - values[test_acc]
    if {"train_loss", test_loss} <= values.keys():
        with np.errstate(divide="ignore", invalid="ignore"):
            added["loss_ratio"] = values[test_loss] / values["train_loss"]
    added |= {f"{name}_rate": _rate(steps, values[name]) for name in measured}
    for name, column in added.items():
        made = pa.array(column, from_pandas=True)  # NaN: one of its parts was not recorded
        place = table.schema.get_field_index(name)
        table = (
            table.append_column(name, made) if place < 0 else table.set_column(place, name, made)
        )
    return table


def after_grokking(history: History, found: Phases | None = None) -> pa.Table:
    """Per numeric column: count, mean, std, variance, min and max over the rows after grokking.

    After is every row with step > `found.grokked` (`phases(history)` unless given), as in
    `Phases.variance_after`. Variance is the mean squared deviation, std its root, over the finite
    values; `count` says how many there are. A run that did not grok has no rows here.
    """
    table = history_of(history)
    found = phases(table) if found is None else found
    rows: list[dict[str, Any]] = []
    if found.grokked is not None:
        later = table["step"].to_numpy() > found.grokked
        for name in table.column_names[1:]:
            values = _values(table[name])[later]
            rows.append({"column": name, **summary(values[np.isfinite(values)])})
    return pa.Table.from_pylist(rows, _SUMMARY)


def grokking_quality(history: History, **thresholds: Any) -> Quality:
    """How suddenly a run grokked, how well it kept it, and how far it came.

    `thresholds` are those of `phases`.
    """
    table = history_of(history)
    found = phases(table, **thresholds)
    steps, _, test = accuracies(table)
    evaluated = np.isfinite(test)
    steps, test = steps[evaluated], test[evaluated]
    best = int(np.argmax(test)) if test.size else None
    return Quality(
        delay=found.delay,
        share_kept=found.share_kept,
        variance_after=found.variance_after,
        final_test_acc=final_accuracy(table),
        best_test_acc=None if best is None else float(test[best]),
        best_step=None if best is None else int(steps[best]),
        sharpness=_sharpness(steps, test),
        lost=found.lost,
    )


def final_accuracy(history: History) -> float | None:
    """The last held-out accuracy that was evaluated."""
    _, _, test = accuracies(history_of(history))
    test = test[np.isfinite(test)]
    return float(test[-1]) if test.size else None


def summary(values: np.ndarray) -> dict[str, float | int | None]:
    """count, mean, std, variance (both of the values as they are, divided by n), min, max."""
    if not values.size:
        return {"count": 0, **dict.fromkeys(("mean", "std", "variance", "min", "max"))}
    return {
        "count": int(values.size),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "variance": float(values.var()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _sharpness(steps: np.ndarray, test: np.ndarray) -> int | None:
    high = np.flatnonzero(test >= _HIGH)
    if not high.size:
        return None
    low = np.flatnonzero(test[: high[0]] <= _LOW)
    return int(steps[high[0]] - steps[low[-1]]) if low.size else None


def _rate(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    rate = np.full(len(values), np.nan)
    there = np.flatnonzero(~np.isnan(values))
    with np.errstate(invalid="ignore"):  # from infinity to infinity
        rate[there[1:]] = np.diff(values[there]) / np.diff(steps[there])
    return rate


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """As doubles, null as NaN."""
    return column.to_numpy().astype(np.float64)
