"""Rows of a run's tables, as its pictures read them, and words for what they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.base.columns import records
from cutaway.stats.ties import best

if TYPE_CHECKING:
    import pyarrow as pa

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "pa.Table | Sequence[Row] | None"


def rows_of(table: Rows) -> list[Row]:
    """The rows of an Arrow table, a DataFrame or a list of them; none where there is no table."""
    return records(table)


def number(row: Row, name: str) -> float:
    """A value of a row; NaN where it is null or missing."""
    value = row.get(name)
    return math.nan if value is None else float(value)


def best_site(layers: Rows) -> str | None:
    """The site whose probe has the highest balanced accuracy on validation (where that is not
    known: on test); None where no row has one."""
    for column in ("validation_balanced_accuracy", "balanced_accuracy"):
        known = [row for row in rows_of(layers) if math.isfinite(number(row, column))]
        if known:
            return best(known, partial(number, name=column))["site"]
    return None


def asked_words(task: str, target: str | None, classes: Sequence[str]) -> str:
    """What a probe tells: `next token ' the'`, `PER or O`, `9 classes`."""
    if target is not None:
        return f"{task} token {target!r}"
    return " or ".join(reversed(classes)) if len(classes) < 4 else f"{len(classes)} classes"


def model_words(id: str) -> str:
    """A model's name without the folder or organisation it is in."""
    return id.replace("\\", "/").rstrip("/").rpartition("/")[2] or id


def interval_words(layers: Rows) -> str:
    """What the tables' intervals are: 95 %, and over what where the tables say that."""
    over = {row.get("interval_over") for row in rows_of(layers)} - {None}
    if over == {"documents"}:
        return "95 % over documents"
    return "95 % over stretches of the test documents' text" if over else "95 % interval"
