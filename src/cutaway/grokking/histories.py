"""What is analysed: a run, a log or a table, as a tidy history with its settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from cutaway.base import display
from cutaway.base.columns import is_table
from cutaway.base.columns import table as table_of
from cutaway.base.errors import UserError
from cutaway.runs import record
from cutaway.runs.folder import Run
from cutaway.runs.foreign import Log, open_log
from cutaway.studies.settings import synonyms
from cutaway.tables.tidy import tidy

if TYPE_CHECKING:
    from pathlib import Path

Recorded: TypeAlias = "Run | Log"
History: TypeAlias = "pa.Table | Run | Log | str | Path"


def history_of(source: History) -> pa.Table:
    """The tidy history (`tables.tidy.tidy`) of a table, a run, a log, or the path of one.

    Announces what had to be changed. Raises `UserError` for a run that has recorded nothing.
    """
    if isinstance(source, str | os.PathLike):
        source = open_log(source)
    table = history_if_any(source)
    if table is None:
        raise UserError(f"{source.path}: this run has no history yet")
    return table


def history_if_any(source: pa.Table | Run | Log) -> pa.Table | None:
    """The same; None for a run that has recorded nothing, as one that failed at its start."""
    name = getattr(source, "name", "history")
    table: Any = source
    if isinstance(source, Run):
        table = source.read()
        if table is None or not len(table):
            return None
    elif isinstance(source, Log):
        table = source.history
        if not len(table):
            return None
    if not isinstance(table, pa.Table) and is_table(table):
        held = table_of(table, index=True)
        table = pa.table({one: held.column(one, one) for one in held.names})
    if not isinstance(table, pa.Table):
        kind = type(table).__name__
        raise UserError(f"history: expected a pyarrow table, a run or a log, got {kind}")
    table, notices = tidy(table, name)
    for notice in notices:
        display.notice(f"{name}: {notice}")
    return table


def held_out(table: pa.Table, metric: str) -> str:
    """The column of held-out `metric` (acc, loss): of the test split, else of the validation."""
    names = (f"test_{metric}", f"val_{metric}")
    return next((name for name in names if name in table.column_names), names[0])


def named(sources: Iterable[History] | Mapping[str, History]) -> dict[str, History]:
    """Sources by name: the keys given, else names of runs and logs, their paths where those repeat.

    Tables have no name and are numbered from 1.
    """
    if isinstance(sources, Mapping):
        return dict(sources)
    opened = [
        open_log(one) if isinstance(one, str | os.PathLike) else one for one in _several(sources)
    ]
    names = [getattr(one, "name", str(n)) for n, one in enumerate(opened, start=1)]
    if len(set(names)) < len(names):
        names = [str(getattr(one, "path", name)) for one, name in zip(opened, names)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice}: given twice")
    return dict(zip(names, opened))


def config_of(run: Recorded) -> Mapping[str, Any]:
    """The settings of a run, or those a log came with; empty where it came without."""
    if isinstance(run, Run):
        return run.record.config
    if not run.config and (run.path / record.FILE).is_file():
        return record.read(run.path).config
    return run.config


def has_failed(run: Any) -> bool:
    """Whether the run, or the run whose log this is, failed; what others recorded never did.

    A failed run shows where it stood when it failed, which is not a result of its settings.
    """
    if isinstance(run, Run):
        return run.record.status == "failed"
    path = getattr(run, "path", None)
    if path is None or not (path / record.FILE).is_file():
        return False
    return record.read(path).status == "failed"


def setting(config: Mapping[str, Any], name: str) -> Any:
    """The value of a setting, `optimizer.lr` for nested ones; None where it has none.

    A setting that is not there under its name counts under what others call it (`d_model` for
    `hidden_dim`).
    """
    if name not in config:
        name = next((other for other in synonyms(name) if other in config), name)
    value: Any = config
    for part in [name] if name in config else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _several(sources: Any) -> Iterable[History]:
    if isinstance(sources, pa.Table | Run | Log | str | os.PathLike):
        return [sources]
    return sources
