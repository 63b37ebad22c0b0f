"""Histories in files of others: JSON, CSV and Parquet, read into one tidy table.

.jsonl .ndjson     an object per line; one without a step describes the run (see `HistoryFile`)
.json              a list of such objects; `trainer_state.json` of Hugging Face's Trainer; TensorBoard's
                   lists of [wall time, step, value]; an object of equally long lists; what pandas'
                   `to_json` writes as `split`, `columns` or `table`
.csv .tsv          column names in the first line; `,`, `;` or tab between the columns
.parquet           one file, any numeric columns

Of these, tables in long form (`tag,step,value`) get a column for each tag (`long_form.py`).
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cutaway.base import files, json_text
from cutaway.base.errors import UserError
from cutaway.tables import long_form
from cutaway.tables.tidy import is_step, tidy

# Keys whose object is the configuration, where a line about the run wraps it in one.
_CONFIG_KEYS = {"meta", "config", "configuration", "args", "hparams", "hyperparameters", "settings"}
_TRAINER_STATE = "trainer_state.json"  # of Hugging Face's Trainer
_EARLIEST = 1e8  # seconds since 1970: no time of a clock is before, and few steps come after
_DEEPEST = 350  # levels of a line; those of a configuration that go too deep become null
_NUMBERS_AS_TEXT = {"nan", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"}


@dataclass(frozen=True)
class HistoryFile:
    """What one file holds.

    `history` is tidy (see `tidy.tidy`); `config` the run's configuration, empty where the file
    has none; `about` other objects it holds about the run, such as a summary, as they were;
    `notices` one line for whatever had to be changed or left out; `columns` the names in the file.
    """

    history: pa.Table
    config: dict[str, Any]
    about: list[dict[str, Any]]
    notices: list[str]
    columns: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Raw:
    """What a file holds before it is tidied."""

    table: pa.Table
    config: dict[str, Any]
    about: list[dict[str, Any]]
    notices: list[str]


def tidied(raw: Raw, path: Path) -> HistoryFile:
    """What a file holds as a tidy history."""
    table, widening = long_form.widened(raw.table)
    history, told = tidy(table, str(path))
    notices = raw.notices + widening + told
    return HistoryFile(history, raw.config, raw.about, notices, raw.table.column_names)


def read_raw(path: Path) -> Raw:
    """The table in a file, with the names and values it has there. Errors as `recorded_runs.read_recorded`."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: expected a file named {', '.join(f'*{s}' for s in _READERS)}")
    try:
        content = files.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path}: is empty")
    notices: list[str] = []
    table, config, about = reader(content, path, notices)
    return Raw(table, config, about, notices)


def is_history_file(path: str | Path) -> bool:
    """Whether a file's name says that it is one of these; of .json files most are something else."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        return path.name == _TRAINER_STATE
    return path.suffix.lower() in _READERS


_Content = tuple[pa.Table, dict[str, Any], list[dict[str, Any]]]


def _json_lines(content: bytes, path: Path, notices: list[str]) -> _Content:
    return _of_objects(_objects(_text(content, path), path, notices), path, notices)


def _of_objects(objects: list[dict[str, Any]], path: Path, notices: list[str]) -> _Content:
    """Rows, and objects about the run before, between and after them."""
    # The commonest such key: `epochs` in a line of settings is no step where rows have `epoch`.
    steps = Counter(key for one in objects for key in one if is_step(key))
    step = max(steps, key=steps.__getitem__) if steps else None
    is_row = [step in one if step else any(map(_is_number, one.values())) for one in objects]
    if not any(is_row):  # all numbers may be inside objects; settings are as well
        is_row = [_has_numbers(one) and not _is_about_run(one) for one in objects]
    if not any(is_row):
        raise UserError(f"{path}: no line holds a row of numbers")
    rows = [one for one, row in zip(objects, is_row) if row]
    head = objects[: is_row.index(True)]
    later = [one for one, row in zip(objects, is_row) if not row][len(head) :]
    config, about = _configuration(head, later)
    return _of_rows(rows, notices), config, about


def _objects(text: str, path: Path, notices: list[str]) -> list[dict[str, Any]]:
    """The object of each line; a last one that was cut off is left out."""
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    objects = []
    for number, line in lines:
        try:
            one = json_text.loads(line, deepest=_DEEPEST)
        except ValueError as error:
            if number == lines[-1][0] and objects and line.lstrip().startswith("{"):
                notices.append(f"line {number} is cut off: left out")
                break
            raise UserError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(one, dict):
            raise UserError(
                f"{path}: line {number}: expected an object like "
                f'{{"step": 0, "train_loss": 4.6}}, found {type(one).__name__}'
            )
        objects.append(one)
    return objects


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and value.strip().lower() in _NUMBERS_AS_TEXT
    )


def _has_numbers(one: Mapping[str, Any]) -> bool:
    return any(map(_is_number, _flat(one).values()))


def _is_about_run(one: Mapping[str, Any]) -> bool:
    return any(key.startswith("_") or key.lower() in _CONFIG_KEYS for key in one)


def _flat(row: Mapping[str, Any], way: str = "") -> dict[str, Any]:
    """`{"train": {"loss": 1}}` → `{"train.loss": 1}`; a name that is there already keeps its value."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            for inner, one in _flat(value, f"{way}{key}.").items():
                found.setdefault(inner, one)
        else:
            found[f"{way}{key}"] = value
    return found


def _configuration(
    head: list[dict[str, Any]], later: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration among the lines about the run, before and after its rows; and the others."""
    about = head + later
    for index, one in enumerate(about):
        for key, value in one.items():
            if key.strip("_").lower() in _CONFIG_KEYS and isinstance(value, dict):
                rest = {other: content for other, content in one.items() if other != key}
                return value, [*about[:index], *([rest] if rest else []), *about[index + 1 :]]
    if head:
        return head[0], about[1:]
    return {}, about


def _of_rows(rows: Sequence[Mapping[str, Any]], notices: list[str]) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    nested = []
    rows = [_flat(row) for row in rows]
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        if any(isinstance(value, list) for value in values):
            nested.append(name)
        else:
            arrays[_writable(name)] = _array(values)
    if nested:
        notices.append(f"left out (lists): {', '.join(map(_writable, nested[:6]))}")
    return pa.table(arrays)


def _array(values: Sequence[Any]) -> pa.Array:
    """Numbers as int64 or float64, anything else as text."""
    present = [value for value in values if value is not None]
    if not present:
        return pa.nulls(len(values))
    if not all(map(_is_number, present)):
        return pa.array([None if v is None else _writable(str(v)) for v in values], pa.string())
    if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present):
        return pa.array([None if v is None else int(v) for v in values], pa.int64())
    return pa.array([None if v is None else _double(v) for v in values], pa.float64())


def _double(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond 1e308
        return math.inf if value > 0 else -math.inf


def _writable(text: str) -> str:
    """Without half characters (`\\ud800`), which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _csv(content: bytes, path: Path, notices: list[str]) -> _Content:
    text = _text(content, path)
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    names = [name.strip().strip('"').strip() for name in first.split(delimiter)]
    if all(_reads_as_number(name) for name in names):
        raise UserError(f"{path}: the first line must name the columns, found {first[:40]!r}")
    odd: list[tuple[int | None, int, int]] = []

    def skip(row: Any) -> str:
        odd.append((row.number, row.actual_columns, row.expected_columns))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            # One block: row numbers are known, and a column's type is seen on all of its rows.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(content) + 1024),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=skip, newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=["", "null", "NULL", "None", "NA", "N/A", "n/a", "-"],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(f"{path}: not CSV: {_first_line(error)}") from None
    last = len(table) + len(odd) + 1
    if len(odd) == 1 and odd[0][0] == last and odd[0][1] < odd[0][2] and len(table):
        notices.append(f"line {last} is cut off: left out")
    elif odd:
        number, found, expected = odd[0]
        raise UserError(f"{path}: row {number}: expected {expected} values, found {found}")
    return table.rename_columns([name.strip() for name in table.column_names]), {}, []


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json(content: bytes, path: Path, notices: list[str]) -> _Content:
    """One JSON value: a trainer's state, a list of rows, or an object of lists."""
    try:
        value = json_text.loads(_text(content, path), deepest=_DEEPEST)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("log_history"), list):
        return _trainer_state(value, path, notices)
    if isinstance(value, dict):
        value = _of_pandas(value, path)
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        if len({len(one) for one in value.values()}) > 1:
            told = ", ".join(f"{key} has {len(one)}" for key, one in list(value.items())[:6])
            raise UserError(f"{path}: lists of uneven length: {told}")
        value = [dict(zip(value, row)) for row in zip(*value.values())]
    if (
        isinstance(value, list)
        and value
        and all(isinstance(r, list) and len(r) == 3 for r in value)
    ):
        if not all(_is_number(row[0]) and float(row[0]) > _EARLIEST for row in value):
            raise UserError(
                f"{path}: lists of three values are read as TensorBoard's [wall time, step, value], "
                f"and {str(value[0][0])[:20]} is no time; give the columns names"
            )
        value = [dict(zip(("Wall time", "Step", "Value"), row)) for row in value]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(
            f"{path}: expected a list of rows, an object of lists, or a trainer's state "
            "(an object with log_history)"
        )
    return _of_objects(value, path, notices)


def _of_pandas(value: dict[str, Any], path: Path) -> Any:
    """The rows of `DataFrame.to_json`, of its `split`, `columns` and `table` form; anything else as
    it is."""
    names, data = value.get("columns"), value.get("data")
    if (
        isinstance(names, list)
        and isinstance(data, list)
        and value.keys()
        <= {
            *("columns", "index", "data"),
        }
    ):
        if not all(isinstance(row, list) and len(row) == len(names) for row in data):
            raise UserError(
                f"{path}: data: expected rows of {len(names)} values, one for each column"
            )
        texts = [str(name) for name in names]
        if len(set(texts)) < len(texts):
            raise UserError(f"{path}: columns: holds a name twice")
        return [dict(zip(texts, row)) for row in data]
    if isinstance(value.get("schema"), dict) and isinstance(data, list) and len(value) == 2:
        return data
    first = next(iter(value.values()), None)
    if (
        isinstance(first, dict)
        and first
        and all(isinstance(one, dict) and one.keys() == first.keys() for one in value.values())
        and all(key.isdigit() for key in first)
    ):
        return [{name: column[row] for name, column in value.items()} for row in first]
    return value


def _trainer_state(state: dict[str, Any], path: Path, notices: list[str]) -> _Content:
    """`trainer_state.json`: `log_history` has the rows; the last one may sum up the whole training,
    under names (`train_loss`, the mean over all steps) that mean something else in a row."""
    rows = [row for row in state["log_history"] if isinstance(row, dict)]
    about = [row for row in rows if "train_runtime" in row]
    rows = [row for row in rows if "train_runtime" not in row]
    if not rows:
        raise UserError(f"{path}: log_history holds no rows")
    plain = (int, float, str, bool, type(None))
    config = {key: value for key, value in state.items() if isinstance(value, plain)}
    return _of_rows(rows, notices), config, about


def _parquet(content: bytes, path: Path, notices: list[str]) -> _Content:
    try:
        with pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True) as file:
            return file.read(), {}, []
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged, or not Parquet: {_first_line(error)}") from None


def _text(content: bytes, path: Path) -> str:
    if b"\x00" in content:
        raise UserError(f"{path}: is not UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text: byte {error.start}") from None
    return text.replace("\r\n", "\n")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


_READERS: dict[str, Callable[[bytes, Path, list[str]], _Content]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
