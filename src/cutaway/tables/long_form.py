"""Histories in long form, a row for each figure, as the tables of one row per step that others are.

    tag,step,value                     split,step,loss
    train/loss,0,4.6                   train,0,4.6
    val/loss,0,4.7                     val,0,4.7

become the columns `train/loss` and `val/loss`. Without this, rows of one step would replace each
other, and the figure of one series would stand under the name of another.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cutaway.tables.tidy import renamed

_PARTS = ("split",)  # columns that say of which part of the data a figure is
_TAGS = ("tag", "metric", "name", "key", "variable", "series", "measure", "figure")
_VALUES = ("value", "val", "scalar")


def widened(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """The table with a column for each series, and notices; another table as it is.

    It is in long form if it has a column of numbers called `value` and one of text called `tag`,
    `metric` or the like, or if steps repeat and a column of text tells the rows of each step apart. A
    column called `value` gives a series its own name, any other `SERIES/COLUMN`.
    """
    step = next((raw for raw, ours in renamed(table.column_names).items() if ours == "step"), None)
    if step is None or table.column_names.count(step) != 1:
        return table, []
    texts = [name for name in table.column_names if name != step and _is_text(table, name)]
    keys = [name for kind in (_PARTS, _TAGS) for name in texts if _plain(name) in kind]
    numbers = [name for name in table.column_names if name not in (step, *texts)]
    lone = [name for name in numbers if _plain(name) in _VALUES]
    if len(lone) == 1 and any(_plain(name) in _TAGS for name in keys):
        return _wide(table, step, keys, lone, bare=True)
    steps = table[step].to_pylist()
    if not numbers or len(set(steps)) == len(steps):
        return table, []
    for chosen in ([keys] if keys else []) + [[name] for name in texts]:
        rows = list(zip(*(table[key].to_pylist() for key in chosen), strict=True))
        if _tells_apart(rows, steps, named=bool(keys)):
            return _wide(table, step, chosen, lone or numbers, bare=len(lone) == 1)
    return table, []


def _plain(name: str) -> str:
    return name.strip().lower()


def _is_text(table: pa.Table, name: str) -> bool:
    if table.column_names.count(name) != 1:
        return False
    kind = table[name].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _tells_apart(
    keys: Sequence[tuple[str | None, ...]], steps: Sequence[object], *, named: bool
) -> bool:
    """Whether no step has a key twice, and keys come again, as times of the clock do not."""
    different = set(keys)
    if any(None in key for key in different) or len(different) < 2:
        return False
    few = named or len(different) <= len(keys) / 2
    return few and len(set(zip(keys, steps, strict=True))) == len(keys)


def _wide(
    table: pa.Table, step: str, keys: Sequence[str], numbers: Sequence[str], *, bare: bool
) -> tuple[pa.Table, list[str]]:
    named = " and ".join(keys)
    notices = [f"a row for each {named} and step: made a column of each {named}"]
    parts = list(zip(*(table[key].to_pylist() for key in keys), strict=True))
    whole = [None not in row for row in parts]
    if lacking := whole.count(False):
        notices.append(f"left out {lacking} {'row' if lacking == 1 else 'rows'} without a {named}")
        table = table.filter(pa.array(whole))
        parts = [row for row in parts if None not in row]
    series = ["/".join(map(str, row)) for row in parts]
    steps = table[step].to_pylist()
    rows = {one: place for place, one in enumerate(dict.fromkeys(steps))}
    if twice := len(steps) - len(set(zip(series, steps, strict=True))):
        notices.append(f"steps that repeat within one {named} ({twice}): the last value counts")
    filled: dict[str, list[object]] = {}
    for number in numbers:
        for one, at, value in zip(series, steps, table[number].to_pylist(), strict=True):
            name = one if bare else f"{one}/{number}"
            filled.setdefault(name, [None] * len(rows))[rows[at]] = value
    kinds = {
        one if bare else f"{one}/{number}": table[number].type
        for one in series
        for number in numbers
    }
    columns = {name: pa.array(values, kinds[name]) for name, values in filled.items()}
    left = [name for name in table.column_names if name not in (step, *keys, *numbers, "")]
    if left:
        notices.append(f"left out (of single figures): {', '.join(left[:6])}")
    return pa.table({step: pa.array(list(rows), table[step].type), **columns}), notices
