"""Rows of a run's tables, as its pictures read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "pa.Table | Sequence[Row] | None"


def rows_of(table: Rows) -> list[Row]:
    """The rows of a pyarrow table or of a list; none where there is no table."""
    if table is None:
        return []
    return list(table) if isinstance(table, Sequence) else table.to_pylist()


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
            return max(known, key=lambda row: number(row, column))["site"]
    return None
