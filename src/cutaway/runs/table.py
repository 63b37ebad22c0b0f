"""A run's table: one Parquet file when finished; while live, numbered parts and a tail beside it.

    history.parquet               rows of every part up to the number in its footer (`through`)
    history.live/000007.parquet   a part after that
    history.live/000008.jsonl     the tail: rows since the last part; becomes part 8

A row is one `write` of one JSON line, so a process killed at any moment leaves whole lines and at
most one torn one at the end, which the next opening cuts off. A part replaces its tail, and the
main file its parts, by a rename; what a kill leaves of the replaced is told by its number and
ignored. Hence no torn row, no duplicate, no gap. Integers stay 64-bit integers and floats stay
doubles bit for bit; NaN and infinities survive; a missing value is null.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from cutaway.base import files
from cutaway.base.errors import RunFailed, UserError
from cutaway.tables import schemas
from cutaway.tables.names import is_table_name, told_apart

TAIL_ROWS = 2000  # a tail of this many rows becomes a part: a live reader parses it in ~2 ms
MAX_PARTS = 32  # more parts are folded into the main file: each costs a reader ~1 ms
_THROUGH = b"through"
_RUN_IS_TAKEN = "table {}: column 'run' is the run's name in queries; call it otherwise"
_INTEGER, _FLOAT = pa.int64(), pa.float64()


class DamagedTable(UserError):
    """A table's file cannot be read; the message names it."""


class Table:
    """The one writer of table `name` in `folder`. Readers use `read`, at any time."""

    def __init__(self, folder: Path, name: str):
        self.name = name
        self.main, self.live = _places(folder, name)
        self.live.mkdir(parents=True, exist_ok=True)
        self._clear_replaced()
        schema = _schema(folder, name)
        self._types: dict[str, pa.DataType] = dict(zip(schema.names, schema.types))
        self._open_tail()

    # -- writing ---------------------------------------------------------------------------

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of numbers; each has an integer `step`. Safe on disk's cache when this returns.

        Raises `UserError` for text and other values that are no number, and then none of `rows`
        is in the table; `RunFailed` when the disk refuses.
        """
        lines = "".join([self._line(row) for row in rows]).encode()
        self._write(lines)
        self._rows += len(rows)
        if self._rows >= TAIL_ROWS:
            self.roll()

    def append_table(self, table: pa.Table) -> None:
        """Add a table of any column types, as a part of its own. It has an integer `step`."""
        table = schemas.plain(table)
        kinds = dict(zip(table.schema.names, table.schema.types))
        if not pa.types.is_integer(kinds.get("step", pa.null())):
            raise UserError(f"table {self.name}: needs an integer column 'step'")
        if "run" in kinds:
            raise UserError(_RUN_IS_TAKEN.format(self.name))
        known = schemas.united_schema([pa.schema(self._types.items()), table.schema], self.name)
        self._types = dict(zip(known.names, known.types))
        self.roll()
        with _disk_errors(self.live):
            _write_parquet(table, self._part(), self._number)
            self._unlink_tail()
            self._number += 1
            self._open_tail()
        self._fold_when_many()

    def roll(self) -> None:
        """Make the tail a part."""
        if not self._rows:
            return
        with _disk_errors(self.live):
            _write_parquet(_read_tail(self._tail), self._part(), self._number)
            self._unlink_tail()
            self._number += 1
            self._open_tail()
        self._fold_when_many()

    def truncate(self, step: int) -> None:
        """Keep only rows before `step`: what a resume from a checkpoint at `step` needs."""
        table = read(self.main.parent, self.name)
        if table is None or pc.all(pc.less(table["step"], step)).as_py() is not False:
            return
        with _disk_errors(self.live):
            _write_parquet(table.filter(pc.less(table["step"], step)), self.main, self._number)
            self._start_after_main()

    def fold(self) -> None:
        """Write everything into the main file."""
        self.roll()
        if any(self.live.glob("*.parquet")):
            with _disk_errors(self.live):
                _write_parquet(read(self.main.parent, self.name), self.main, self._number)
                self._start_after_main()

    def sync(self) -> None:
        """Flush the tail to the disk, so that it outlives a power cut too."""
        os.fsync(self._file)
        files.flush_to_disk(self.live)

    def close(self) -> None:
        """Fold and leave the main file alone, as a finished run keeps it."""
        try:
            self.fold()
        finally:
            os.close(self._file)
        self._tail.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # someone put a file of theirs in it
            self.live.rmdir()

    # -- inside ----------------------------------------------------------------------------

    def _line(self, row: Mapping[str, Any]) -> str:
        plain: dict[str, int | float] = {}
        types = self._types
        for key, value in row.items():
            kind = type(value)
            if kind is not float and kind is not int:
                if value is None:
                    continue
                value = schemas.number(value, f"table {self.name}: {key}")
                kind = type(value)
            known = types.get(key)
            if kind is float:
                if known is not _FLOAT:
                    self._learn(key, _FLOAT)
            elif known is _FLOAT:
                value = float(value)
            else:
                if known is not _INTEGER:
                    self._learn(key, _INTEGER)
                if not -(2**63) <= value < 2**63:
                    raise UserError(f"table {self.name}: {key} = {value} does not fit 64 bits")
            plain[key] = value
        if type(plain.get("step")) is not int:
            raise UserError(
                f"table {self.name}: a row needs an integer 'step', got {row.get('step')!r}"
            )
        return json.dumps(plain) + "\n"

    def _learn(self, key: str, kind: pa.DataType) -> None:
        """Column `key` is met for the first time, or with another kind of number."""
        if key == "run":
            raise UserError(_RUN_IS_TAKEN.format(self.name))
        known = self._types.get(key, kind)
        if pa.types.is_floating(known):
            kind = _FLOAT
        elif not pa.types.is_integer(known):
            raise UserError(f"table {self.name}: column {key} holds {known}, now a number came")
        self._types[key] = kind

    def _write(self, lines: bytes) -> None:
        """All of `lines` or nothing."""
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._file, lines[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise RunFailed(f"{self._tail}: cannot write: {error.strerror}") from None
        self._size += written

    def _part(self) -> Path:
        return self._tail.with_suffix(".parquet")

    def _unlink_tail(self) -> None:
        os.close(self._file)
        self._tail.unlink()

    def _open_tail(self) -> None:
        self._tail = self.live / f"{self._number:06d}.jsonl"
        self._file = os.open(self._tail, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        whole = files.read_bytes(self._tail)
        self._size = whole.rfind(b"\n") + 1
        os.ftruncate(self._file, self._size)
        self._rows = whole.count(b"\n")

    def _clear_replaced(self) -> None:
        """Remove what a kill left of files already replaced, and find the tail's number."""
        through = _through(self.main)
        parts = {int(path.stem) for path in self.live.glob("*.parquet") if _is_number(path.stem)}
        for path in list(self.live.iterdir()):
            replaced = _is_number(path.stem) and (
                int(path.stem) <= through or (path.suffix == ".jsonl" and int(path.stem) in parts)
            )
            if replaced or path.suffix == ".tmp":
                path.unlink()
        for leftover in self.main.parent.glob(f".{self.main.name}.*.tmp"):  # the writer is alone
            leftover.unlink()
        self._number = max([through, *parts]) + 1

    def _start_after_main(self) -> None:
        """The main file holds everything now: forget parts and tail."""
        os.close(self._file)
        for path in self.live.iterdir():
            path.unlink()
        self._number += 1
        self._open_tail()

    def _fold_when_many(self) -> None:
        if sum(1 for _ in self.live.glob("*.parquet")) >= MAX_PARTS:
            self.fold()


def read(folder: str | os.PathLike[str], name: str) -> pa.Table | None:
    """All rows of a table, finished or live, in the order written; None where there are none.

    Safe beside the writer: what was read counts only if no file was replaced meanwhile.
    """
    main, live = _places(folder, name)
    for attempt in range(50):
        try:
            before = _snapshot(main, live)
            tables = [_read_parquet(main)] if main.exists() else []
            tables += [table for path in _current(main, live) if (table := _read(path)) is not None]
            if _snapshot(main, live) == before:
                return schemas.united(tables, name)
        except FileNotFoundError:
            pass
        except DamagedTable:
            raise
        except OSError as error:
            raise DamagedTable(f"{main}: cannot read: {schemas.first_line(error)}") from None
        except UserError as error:  # parts whose columns do not unite
            raise DamagedTable(f"{main.parent}: {error}") from None
        time.sleep(0.002 * attempt)
    raise DamagedTable(f"{main.parent}: table {name} changed at each of 50 attempts to read it")


def fingerprint(folder: str | os.PathLike[str], name: str) -> object:
    """Changes whenever rows are added to a table or any of its files is replaced."""
    main, live = _places(folder, name)
    found: list[object] = []
    for path in [main, *(sorted(live.iterdir()) if live.is_dir() else [])]:
        with contextlib.suppress(OSError):  # not there, or replaced meanwhile
            state = path.stat()
            found.append((path.name, state.st_ino, state.st_size, state.st_mtime_ns))
    return found


def names(folder: str | os.PathLike[str]) -> list[str]:
    """The tables a folder holds, finished or live."""
    parts = [entry.name.rpartition(".") for entry in os.scandir(folder)]
    return sorted(
        {stem for stem, _, end in parts if end in ("parquet", "live") and is_table_name(stem)}
    )


def check_name(name: str) -> None:
    """Refuse a table name that is no plain word, or that means something else."""
    if not is_table_name(name):
        raise UserError(f"table name {name!r}: expected a-z, 0-9 and _, and not 'runs'")


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def _places(folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    return Path(folder) / f"{name}.parquet", Path(folder) / f"{name}.live"


def _through(main: Path) -> int:
    """The number of the last part the main file holds; -1 without a main file."""
    if not main.exists():
        return -1
    return int((_footer(main).metadata or {}).get(_THROUGH, b"-1"))


def _footer(path: Path) -> pq.FileMetaData:
    try:
        with files.open_regular(path) as opened:
            return pq.read_metadata(opened)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedTable(f"{path}: damaged: {schemas.first_line(error)}") from None


def _current(main: Path, live: Path) -> list[Path]:
    """The parts and the tail whose rows the main file does not hold, in order."""
    if not live.is_dir():
        return []
    through = _through(main)
    numbered = [path for path in live.iterdir() if _is_number(path.stem)]
    parts = {path.stem for path in numbered if path.suffix == ".parquet"}
    current = [
        path
        for path in numbered
        if int(path.stem) > through
        and (path.suffix == ".parquet" or (path.suffix == ".jsonl" and path.stem not in parts))
    ]
    return sorted(current, key=lambda path: int(path.stem))


def _snapshot(main: Path, live: Path) -> tuple:
    """Changes whenever a file is replaced; not when the tail grows."""
    try:
        state = main.stat()
        identity = (state.st_ino, state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        identity = None
    listed = sorted(os.listdir(live)) if live.is_dir() else []
    return identity, [name for name in listed if not name.endswith(".tmp")]


def _read(path: Path) -> pa.Table | None:
    return _read_tail(path) if path.suffix == ".jsonl" else _read_parquet(path)


def _read_parquet(path: Path) -> pa.Table:
    # Opened here: a path with `=`, `*`, `:` or bytes that are not UTF-8 means something to Arrow.
    try:
        with (
            files.open_regular(path) as opened,
            pq.ParquetFile(opened, page_checksum_verification=True) as file,
        ):
            return _told_apart(file.read())
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTable(f"{path}: damaged: {schemas.first_line(error)}") from None


def _told_apart(table: pa.Table) -> pa.Table:
    """With a name of its own for each column: what others wrote may have one twice."""
    if len(set(table.column_names)) == table.num_columns:
        return table
    return table.rename_columns(told_apart(table.column_names))


def _read_tail(path: Path) -> pa.Table | None:
    """The tail's whole lines. Python writes 2.0 for a float, so types are what they were."""
    try:
        content = files.read_bytes(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedTable(f"{path}: cannot read: {schemas.first_line(error)}") from None
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return None
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(content))
    try:
        return pyarrow.json.read_json(io.BytesIO(content), read_options=options)
    except pa.ArrowException as error:
        raise DamagedTable(f"{path}: damaged: {schemas.first_line(error)}") from None


def _write_parquet(table: pa.Table, path: Path, through: int) -> None:
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(
            table.replace_schema_metadata({_THROUGH: str(through)}),
            file,
            compression="zstd",
            write_page_checksum=True,
        )


def _schema(folder: str | os.PathLike[str], name: str) -> pa.Schema:
    """The columns the table has so far, without reading finished rows."""
    main, live = _places(folder, name)
    found = [_footer(main).schema.to_arrow_schema()] if main.exists() else []
    for path in _current(main, live):
        if path.suffix == ".parquet":
            found.append(_footer(path).schema.to_arrow_schema())
        elif (tail := _read_tail(path)) is not None:
            found.append(tail.schema)
    return schemas.united_schema(found, name)


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """Turns the disk's refusals into one line that names the place."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"{place}: cannot write: {error.strerror or error}") from None
