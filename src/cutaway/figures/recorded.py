"""What pictures draw: a log, and what its table holds of a column, as arrays for a chart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_MANY = 8


class Log(Protocol):
    """What pictures need of a run or of a training log (`cutaway.runs.foreign.Log` has it).

    `path`: the run's folder or the log's file. `words`: the table of a run that recorded words.
    """

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def history(self) -> pa.Table: ...
    @property
    def words(self) -> pa.Table | None: ...


def recorded(table: pa.Table, column: str) -> bool:
    """Whether `column` has a finite value at some `step`."""
    if column not in table.column_names or "step" not in table.column_names:
        return False
    return bool(np.isfinite(rows(table, column)[1]).any())


def rows(table: pa.Table, column: str, x: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """x and float64 values of the rows that recorded both.

    Null means not recorded at that row: dropped. NaN means not finite: kept, a gap in a line.
    """
    import pyarrow.compute as pc

    both = table.select([x, column] if x != column else [x])
    both = both.filter(pc.and_(pc.is_valid(both[x]), pc.is_valid(both[column])))
    return both[x].to_numpy(), both[column].to_numpy().astype(float)


def spread_steps(table: pa.Table, columns: Iterable[str]) -> bool:
    """Whether steps are worth a logarithmic axis: most of the columns that were recorded have
    `_MANY` points above 0.

    With fewer the first, step 0, which such an axis cannot show, is too much of what there is.
    """
    many = []
    for column in columns:
        if recorded(table, column):
            steps, values = rows(table, column)
            many.append((steps[np.isfinite(values)] > 0).sum() >= _MANY)
    return sum(many) > len(many) / 2


def decades(values: np.ndarray) -> float:
    """Powers of ten between the smallest and the largest positive value; 0 where none is."""
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.log10(positive.max() / positive.min())) if len(positive) else 0.0


def over_blocks(
    norms: dict[str, tuple[np.ndarray, np.ndarray]], most: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """At most about `most` lines of norms by component: more are one line for a part of all blocks.

    `blocks.0.mlp` and `blocks.1.mlp`, each (x, norm) over the same x, become `mlp, all blocks` with
    √(Σ norm²); other names stay.
    """
    if len(norms) <= most:
        return norms
    grouped: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (x, norm) in norms.items():
        part = name.split(".")
        group = f"{part[-1]}, all blocks" if part[0] == "blocks" else name
        before = grouped[group][1] if group in grouped else 0.0
        grouped[group] = (x, np.hypot(before, norm))
    return grouped
