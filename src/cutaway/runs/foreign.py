"""Logs, whoever wrote them, in one shape: a run, a `training_log.json`, or a history in a file.

Histories are JSON lines, CSV and Parquet (`tables/history_files.py`). A further form is one more reader
that makes a `Log`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base import display
from cutaway.base.errors import UserError
from cutaway.base.files import as_path
from cutaway.runs import record, training_log

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Log:
    """What was recorded in training.

    `history` has `step` and, of a language model, `train_loss` and `val_loss` (nats per token);
    `words` has `step`, `token_id`, `word`, `activation`, in our own runs also `sense`; None where
    no words were recorded. `path` is the run's folder or the file. `config` is what a history's
    file says about its settings; a run's are in its record. `planned`, of a run of a sweep, is what
    each of the sweep's runs varies, field by field, whether it was begun or not.
    """

    name: str
    path: Path
    history: pa.Table
    words: pa.Table | None
    config: Mapping[str, Any] = field(default_factory=dict)
    planned: Sequence[Mapping[str, Any]] = ()


def open_log(reference: str | os.PathLike[str], root: str | os.PathLike[str] = "runs") -> Log:
    """The log at a path (a run, a training log, a folder with one, a history) or of a run by name.

    Raises `UserError` for a history file of several runs; `open_logs` opens those.
    """
    logs = open_logs(reference, root)
    if len(logs) > 1:
        names = ", ".join(log.name for log in logs[:4])
        raise UserError(f"{reference}: holds {len(logs)} runs ({names}); expected one")
    return logs[0]


def open_logs(
    reference: str | os.PathLike[str], root: str | os.PathLike[str] = "runs"
) -> list[Log]:
    """The same, of a history file that may hold several runs, as downloads from W&B do."""
    from cutaway.runs.finding import find_run

    path = as_path(reference)
    if path.is_dir() and not (path / record.FILE).exists() and (path / training_log.FILE).exists():
        path = path / training_log.FILE
    if path.is_file():
        from cutaway.tables.history_files import is_history_file

        if is_history_file(path) or training_log.is_other_json(path):
            return _of_history(path)
        return [_of_file(path)]
    return [_of_run(find_run(reference, root))]


def load_history(path: str | os.PathLike[str]) -> pa.Table:
    """The history (`step`, `train_loss`, `val_loss`) in a `training_log.json` or a run."""
    return open_log(path).history


def _of_run(path: Path) -> Log:
    import pyarrow as pa

    from cutaway.runs.folder import HISTORY
    from cutaway.runs.table import read

    history = read(path, HISTORY)
    if history is None:
        raise UserError(f"{path}: this run has no history yet")
    kind = history.schema.field("step").type if history.column_names.count("step") == 1 else None
    if kind is not None and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(f"{path}: column step of its history holds {kind}; expected numbers")
    return Log(path.name, path, history, read(path, training_log.WORDS))


def _of_history(path: Path) -> list[Log]:
    from cutaway.tables.recorded_runs import read_recorded

    runs = read_recorded([path])
    for notice in dict.fromkeys(notice for run in runs for notice in run.content.notices):
        display.notice(f"{path}: {notice}")
    return [
        Log(run.name, path.absolute(), run.content.history, None, run.content.config)
        for run in runs
    ]


def _of_file(path: Path) -> Log:
    import pyarrow as pa

    data = training_log.read_training_log(path)
    history = pa.table(
        {
            "step": pa.array(data.iterations, pa.int64()),
            "train_loss": pa.array(data.train_loss, pa.float64()),
            "val_loss": pa.array(data.val_loss, pa.float64()),
        }
    )
    rows = [
        {"step": reading["iteration"], **word}
        for reading in data.top_activating_words
        for word in reading["words"]
    ]
    schema = pa.schema(
        {
            "step": pa.int64(),
            "token_id": pa.int64(),
            "word": pa.string(),
            "activation": pa.float64(),
        }
    )
    words = pa.Table.from_pylist(rows, schema) if rows else None
    path = path.absolute()
    name = path.parent.name if path.name == training_log.FILE else path.stem
    return Log(name, path, history, words)
