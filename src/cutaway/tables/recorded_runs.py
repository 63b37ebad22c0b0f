"""Files of others as recorded runs: one file may hold several runs, several files may be one.

A CSV download from Weights & Biases has a column `RUN - METRIC` for each run (with `__MIN` and
`__MAX` beside it): a run for each name. A CSV download from TensorBoard has `Wall time,Step,Value`
and is called `run-RUN-tag-TAG.csv`: the files of one run in one folder are joined on the step. A file
with a column `run` of several values, such as an answer of `runs sql`, has a run for each value.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cutaway.base.errors import UserError
from cutaway.tables import history_files
from cutaway.tables.history_files import HistoryFile
from cutaway.tables.tidy import is_step

_OF_A_RUN = re.compile(r"(?P<run>.+) - (?P<metric>.+)", re.DOTALL)
_RANGE = ("__MIN", "__MAX")
_TENSORBOARD = ["wall time", "step", "value"]
_TAGGED = re.compile(r"run-(?P<run>.+)-tag-(?P<tag>.+)", re.DOTALL)


@dataclass(frozen=True)
class RecordedRun:
    """One run that others recorded: its name, the files it is in, and what they hold."""

    name: str
    files: tuple[Path, ...]
    content: HistoryFile


def read_recorded(files: Iterable[str | Path]) -> list[RecordedRun]:
    """The runs in history files, in the order in which they first appear.

    Raises `UserError` for a file that holds no history, see `read_history_file`.
    """
    found: dict[tuple[object, ...], list[RecordedRun]] = {}
    for number, path in enumerate(map(Path, files)):
        for one in _runs_in(path):
            tagged = _TAGGED.fullmatch(path.stem) and _is_tensorboard(one.content.columns)
            key = (path.absolute().parent, one.name) if tagged else (number, one.name)
            found.setdefault(key, []).append(one)
    return [_joined(parts) for parts in found.values()]


def read_history_file(path: str | Path) -> HistoryFile:
    """The history in a JSON, CSV or Parquet file of one run.

    Of JSON lines, an object without a step is about the run: what one holds under `_meta`, `config`
    or the like is its configuration, else the first one, where it stands before the rows. Numbers
    inside objects become columns named by their way, `train.loss`. A last line that was cut off is
    left out.
    Raises `UserError` in one line for a file that is missing, empty, damaged or of another kind, and
    for one that holds several runs (`read_recorded` reads those).
    """
    runs = read_recorded([path])
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs[:4])
        raise UserError(
            f"{path}: holds {len(runs)} runs ({names}{', ...' if len(runs) > 4 else ''}); "
            "`cutaway runs import` makes a run of each"
        )
    return runs[0].content


def _runs_in(path: Path) -> list[RecordedRun]:
    raw = history_files.read_raw(path)
    names = raw.table.column_names
    if _is_tensorboard(names):
        return [_of_tensorboard(raw, path)]
    if runs := _runs_of_wandb(names):
        return [one for run in runs.items() for one in _of_name(raw, path, *run)]
    return _by_column(raw, path) or [
        RecordedRun(path.stem, (path,), history_files.tidied(raw, path))
    ]


def _by_column(raw: history_files.Raw, path: Path) -> list[RecordedRun]:
    """A run for each value of the column `run`, if it has several; else none."""
    names = [name.strip().lower() for name in raw.table.column_names]
    if names.count("run") != 1:
        return []
    place = names.index("run")
    named = [None if one is None else str(one) for one in raw.table.column(place).to_pylist()]
    runs = [one for one in dict.fromkeys(named) if one is not None]
    if len(runs) < 2:
        return []
    notices = list(raw.notices)
    if lacking := named.count(None):
        notices.append(f"left out {lacking} {'row' if lacking == 1 else 'rows'} without a run")
    rest = replace(raw, table=raw.table.remove_column(place), notices=notices)
    found = []
    for run in runs:
        rows = rest.table.filter(pa.array([one == run for one in named]))
        content = history_files.tidied(replace(rest, table=rows), path)
        found.append(RecordedRun(run, (path,), content))
    return found


def _is_tensorboard(names: Sequence[str]) -> bool:
    return [name.lower() for name in names] == _TENSORBOARD


def _of_tensorboard(raw: history_files.Raw, path: Path) -> RecordedRun:
    """A download from TensorBoard: one tag of one run, which the file's name says."""
    named = _TAGGED.fullmatch(path.stem)
    notices = [*raw.notices, "left out (times of the clock): Wall time"]
    if named is None:
        notices.append("its name is not run-RUN-tag-TAG.csv: the column is called value")
    tag = named["tag"] if named else "value"
    table = pa.table({"step": raw.table.column(1), tag: raw.table.column(2)})
    raw = replace(raw, table=table, notices=notices)
    content = replace(history_files.tidied(raw, path), columns=_TENSORBOARD)
    return RecordedRun(named["run"] if named else path.stem, (path,), content)


def _runs_of_wandb(names: Sequence[str]) -> dict[str, list[int]]:
    """Each run of a download from Weights & Biases → its columns' places; empty for other files.

    The first column is the axis; every other one is `RUN - METRIC`.
    """
    runs: dict[str, list[int]] = {}
    for place, name in enumerate(names[1:], start=1):
        matched = _OF_A_RUN.fullmatch(name)
        if matched is None:
            return {}
        runs.setdefault(matched["run"], []).append(place)
    return runs if names and _OF_A_RUN.fullmatch(names[0]) is None else {}


def _of_name(
    raw: history_files.Raw, path: Path, name: str, places: Sequence[int]
) -> list[RecordedRun]:
    """The runs of one name in a download from Weights & Biases, where names need not differ: a column
    that is there twice begins another run."""
    runs: list[list[int]] = []
    seen: Counter[str] = Counter()
    for place in places:
        column = raw.table.column_names[place]
        if seen[column] == len(runs):
            runs.append([])
        runs[seen[column]].append(place)
        seen[column] += 1
    if len(runs) > 1:
        told = f"{len(runs)} runs are called {name!r}: told apart by a number"
        raw = replace(raw, notices=[*raw.notices, told])
    found = [_of_wandb(raw, path, name, one) for one in runs]
    return [
        replace(one, name=name if number == 1 else f"{name}_{number}")
        for number, one in enumerate(found, start=1)
    ]


def _of_wandb(raw: history_files.Raw, path: Path, run: str, places: Sequence[int]) -> RecordedRun:
    """One run's columns, in the rows in which it has a value; the axis is its step, unless it has
    steps of its own."""
    kept: dict[str, pa.ChunkedArray] = {}
    ranges = []
    for place in places:
        name = raw.table.column_names[place]
        metric = name[len(run) + 3 :]
        if metric.endswith(_RANGE):
            ranges.append(metric)
        else:
            kept[metric] = raw.table.column(place)
    if not any(is_step(metric) for metric in kept):
        kept = {raw.table.column_names[0]: raw.table.column(0), **kept}
    table = pa.table(kept)
    has = [pc.is_valid(kept[metric]) for metric in kept if not is_step(metric)]
    if has:
        some = has[0]
        for more in has[1:]:
            some = pc.or_(some, more)
        table = table.filter(some)
    notices = list(raw.notices)
    if ranges:
        notices.append(f"left out (ranges): {', '.join(ranges)}")
    content = history_files.tidied(replace(raw, table=table, notices=notices), path)
    return RecordedRun(run, (path,), content)


def _joined(parts: Sequence[RecordedRun]) -> RecordedRun:
    """The files of one run as one history, joined on the step."""
    if len(parts) == 1:
        return parts[0]
    table = parts[0].content.history
    for part in parts[1:]:
        more = part.content.history
        if twice := set(more.column_names[1:]) & set(table.column_names):
            raise UserError(
                f"{part.files[0]}: {min(twice)} of the run {part.name!r} is there twice"
            )
        table = table.join(more, "step", join_type="full outer")
    table = table.sort_by("step")
    notices = list(dict.fromkeys(line for part in parts for line in part.content.notices))
    files = tuple(file for part in parts for file in part.files)
    notices.append(f"{len(files)} files of one run, joined on the step")
    content = HistoryFile(table, {}, [], notices, parts[0].content.columns)
    return RecordedRun(parts[0].name, files, content)
