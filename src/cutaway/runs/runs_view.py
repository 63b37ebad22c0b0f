"""The view `runs`: records as one table, a row per run, whatever single records hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutaway.base.display import json_value, not_finite_word
from cutaway.runs.record import RunRecord
from cutaway.tables.names import common_spelling, fold, told_apart

if TYPE_CHECKING:
    import pyarrow as pa

_GROUPS = ("config", "resolved", "metrics", "versions")


def runs_table(records: Sequence[RunRecord], tell: Callable[[str], None]) -> pa.Table:
    """One row per run; `config`, `resolved` and `metrics` as structs of all keys any run has.

    Numbers that are not finite are null and named in the map `not_finite`. A number that no column
    can hold (over 64 bits) is null, and `tell` gets a line about it: one odd value must not change
    the type that everybody's column has.
    """
    import pyarrow as pa

    plain = {
        "study": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "steps_planned": pa.int64(),
        "steps_attempted": pa.int64(),
        "steps_done": pa.int64(),
        "seed": pa.int64(),
        "seconds": pa.float64(),
        "started": pa.string(),
        "finished": pa.string(),
        "device": pa.string(),
        "host": pa.string(),
        "git_commit": pa.string(),
        "notices": pa.list_(pa.string()),
    }
    rows = [_Row(record, tell) for record in records]
    columns: dict[str, pa.Array] = {"run": pa.array([r.name for r in records], pa.string())}
    for key, kind in plain.items():
        columns[key] = pa.array([row.value(key, getattr(row.record, key)) for row in rows], kind)
    parents = [json.dumps(json_value(record.parents)) for record in records]
    columns["parents"] = pa.array(parents, pa.string())
    for key in _GROUPS:
        struct = _struct(key, rows)
        if struct is not None:
            columns[key] = struct
    kind = pa.map_(pa.string(), pa.string())
    columns["not_finite"] = pa.array([list(row.odd.items()) or None for row in rows], kind)
    return pa.table(columns)


class _Row:
    """One record's values as columns can hold them; `odd` collects what is not finite."""

    def __init__(self, record: RunRecord, tell: Callable[[str], None]):
        self.record, self._tell = record, tell
        self.odd: dict[str, str] = {}

    def value(self, place: str, value: Any) -> Any:
        """`value`, or None for a number that is not finite or does not fit its column."""
        if isinstance(value, float) and not math.isfinite(value):
            self.odd[place] = not_finite_word(value)
            return None
        if type(value) is int and not -(2**63) <= value < 2**63:
            self.tell(f"{place} = {str(value)[:40]} does not fit 64 bits")
            return None
        return value

    def tell(self, what: str) -> None:
        """Announce a value that queries do not have."""
        self._tell(f"{self.record.name}: {what}; null in queries")

    def group(self, key: str) -> dict[str, Any]:
        """The mapping `key` of the record, its keys as names that SQL tells apart."""
        content: Mapping[str, Any] = getattr(self.record, key)
        names = told_apart(content)
        return {
            name: self.value(f"{key}.{name}", value) for name, value in zip(names, content.values())
        }


def _struct(group: str, rows: Sequence[_Row]) -> pa.StructArray | None:
    """The mapping `group` of all records as one struct column; None where there are no keys."""
    import pyarrow as pa

    values = [row.group(group) for row in rows]
    spelling = common_spelling(key for each in values for key in each)
    if not spelling:
        return None
    folded = [{fold(key): value for key, value in each.items()} for each in values]
    columns = []
    for key, name in spelling.items():
        column = [each.get(key) for each in folded]
        for index in _misfits(column):
            rows[index].tell(
                f"{group}.{name} = {str(column[index])[:40]!r}: most runs have numbers"
            )
            column[index] = None
        columns.append(_column(column))
    return pa.StructArray.from_arrays(columns, list(spelling.values()))


def _misfits(values: Sequence[Any]) -> list[int]:
    """Where values are no numbers although more than half of those there are: text in one run
    must not make the numbers of all others text."""
    numbers = sum(type(value) in (int, float) for value in values)
    others = [i for i, v in enumerate(values) if v is not None and type(v) not in (int, float)]
    return others if numbers > len(others) else []


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers as numbers, text as text; where kinds are mixed, everything as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        if float in kinds:  # integers beyond 2^53 among them are rounded
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, pa.float64() if float in kinds else pa.int64())
    if kinds in ({bool}, {str}):
        return pa.array(values, pa.bool_() if bool in kinds else pa.string())
    texts = [v if isinstance(v, str) or v is None else json.dumps(json_value(v)) for v in values]
    return pa.array(texts, pa.string())
