"""Which files of a table a query reads, and how: in place by DuckDB, or copied by our own reader.

DuckDB reads a finished file in place where its path is a plain one: in a path with `[`, `*` or `?`
it would look for a pattern and read other files too. Everything else is read by `table.read`: tables
that are being written, files behind links, paths that are not plain, files whose columns SQL could
not tell apart. What cannot be read, or whose columns hold something else than those of the other
runs, is left out and named.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.tables import schemas
from cutaway.tables.names import common_spelling, fold, told_apart

if TYPE_CHECKING:
    import pyarrow as pa

    from cutaway.runs.finding import Found

_PLAIN_PATH = re.compile(r"[\w/.,=+@ -]+")  # nothing that a library reads as a pattern or a scheme
RESERVED = ("run", "not_finite")  # columns that views add
Identity = tuple[int, int, int, int]


class Selected(NamedTuple):
    """What one table is made of: files read in place, with their runs' names, and copied rows."""

    paths: list[str]
    tables: list[pa.Table]
    columns: set[str]  # in lower case


class _Part(NamedTuple):
    found: Found
    path: str
    names: list[str]  # as views call them
    schema: pa.Schema
    table: pa.Table | None  # None: in place


class Selection:
    """Chooses files under `root`, an absolute path; `tell` gets a line for each that is left out."""

    def __init__(self, root: str, tell: Callable[[str], None]):
        self._root, self._tell = root, tell
        # path: (identity, its columns; None where it cannot be read)
        self._schemas: dict[str, tuple[Identity, pa.Schema | None]] = {}
        self._unfit: dict[str, Identity] = {}  # files that DuckDB cannot read and we can

    def path(self, found: Found, name: str) -> str:
        """Where the finished file of a run's table is."""
        return f"{self._root}/{found.name}/{name}.parquet"

    def in_place(self, found: Found, name: str) -> bool:
        """Whether DuckDB may read the file where it is: finished, in the root, its path plain."""
        if name in found.live or found.linked:
            return False
        path = self.path(found, name)
        if not _PLAIN_PATH.fullmatch(path):
            return False
        return path not in self._unfit or self._unfit[path] != identity(path)

    def choose(self, name: str, having: Iterable[Found], copied: set[str]) -> Selected:
        """The parts of table `name` of the runs `having` it; files in `copied` are not in place."""
        parts = []
        for found in having:
            try:
                part = self._part(found, name, copied)
            except Exception as error:  # one odd run: named and left out
                self._tell(f"{found.path}: table {name}: {schemas.first_line(error)}; skipped")
                continue
            if part is not None and (name != "history" or self._numeric(part)):
                parts.append(part)
        parts = [self._spelled(part, name, spelling) for part, spelling in _spellings(parts)]
        parts = self._agreeing(parts, name)
        return Selected(
            [part.path for part in parts if part.table is None],
            [_as_named(part) for part in parts if part.table is not None],
            {fold(column) for part in parts for column in part.names},
        )

    def damaged(self, runs: Iterable[Found]) -> None:
        """Read every file DuckDB reads, with its checksums, and remember which it cannot read."""
        for found in runs:
            for name in found.tables:
                if self.in_place(found, name):
                    self._look(found, name)

    # -- inside ----------------------------------------------------------------------------

    def _look(self, found: Found, name: str) -> None:
        from cutaway.runs import table as tables

        path = self.path(found, name)
        before = identity(path)
        if before is None or self._schemas.get(path) == (before, None):
            return
        try:
            tables.read(found.path, name)
        except UserError as error:
            self._tell(f"{error}; skipped")
            self._schemas[path] = (before, None)
            return
        if not _duckdb_reads(path):
            self._unfit[path] = before

    def _part(self, found: Found, name: str, copied: set[str]) -> _Part | None:
        """None where nothing can be read, which is told."""
        path = self.path(found, name)
        if self.in_place(found, name) and path not in copied:
            schema = self._schema(path)
            if schema is None:
                return None
            names = told_apart(schema.names, RESERVED)
            if names == schema.names and not any(map(_needs_cast, schema.types)):
                return _Part(found, path, names, schema, None)
        table = self._read(found, name)
        if table is None:
            return None
        names = told_apart(table.column_names, RESERVED)
        for before, after in zip(table.column_names, names):
            if before != after:
                self._tell(f"{found.path}: table {name}: column {before!r} is called {after!r}")
        return _Part(found, path, names, table.schema, table)

    def _schema(self, path: str) -> pa.Schema | None:
        """A file's columns, from its footer; None, which is told, where it has none."""
        import pyarrow.parquet as pq

        now = identity(path)
        known = self._schemas.get(path)
        if now is not None and known is not None and known[0] == now:
            return known[1]
        schema = None
        try:
            with files.open_regular(path) as file:
                if file.read(4) != b"PAR1":
                    raise ValueError("no whole Parquet file")
                schema = pq.read_schema(file)
        except Exception as error:
            what = "cannot read" if isinstance(error, OSError) and error.errno else "damaged"
            self._tell(f"{path}: {what}: {schemas.first_line(error)}; skipped")
        if now is not None:
            self._schemas[path] = (now, schema)
        return schema

    def _read(self, found: Found, name: str) -> pa.Table | None:
        """All rows of a table; None where there are none, or where they cannot be read."""
        from cutaway.runs import table as tables

        try:
            table = tables.read(found.path, name)
            return None if table is None else _cast(schemas.plain(table), str(found.path), name)
        except UserError as error:
            self._tell(f"{error}; skipped")
            return None

    def _numeric(self, part: _Part) -> bool:
        """Whether a history holds numbers only: what it does not is told."""
        wrong = [f.name for f in part.schema if not _is_numeric(f.type)]
        if wrong:
            path = part.path if part.table is None else part.found.path
            self._tell(f"{path}: column {wrong[0]} of a history is no number; skipped")
        return not wrong

    def _spelled(self, part: _Part, name: str, spelling: dict[str, str]) -> _Part:
        """The part with its columns spelled as in most runs: SQL does not tell cases apart."""
        names = [spelling[fold(column)] for column in part.names]
        if names == part.names:
            return part
        table = self._read(part.found, name) if part.table is None else part.table
        return part._replace(names=names, table=table)

    def _agreeing(self, parts: Sequence[_Part], name: str) -> list[_Part]:
        """The parts of which each column holds the same kind as in most runs."""
        kinds: dict[str, Counter[str]] = {}
        for part in parts:
            for column, kind in _kinds(part):
                kinds.setdefault(column, Counter())[kind] += 1
        common = {column: counts.most_common(1)[0][0] for column, counts in kinds.items()}
        kept = []
        for part in parts:
            odd = [(column, kind) for column, kind in _kinds(part) if kind != common[column]]
            if not odd:
                kept.append(part)
                continue
            column, kind = odd[0]
            self._tell(
                f"{part.found.path}: table {name}: runs disagree: column {column} holds {kind}, "
                f"in most runs {common[column]}; skipped"
            )
        return kept


def identity(path: str | os.PathLike[str]) -> Identity | None:
    """What changes whenever a file is replaced or written: inode, size, times; None without it.
    Of a link that leads nowhere, its own."""
    try:
        state = os.stat(path)
    except OSError:
        try:
            state = os.lstat(path)
        except OSError:
            return None
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _spellings(parts: Sequence[_Part]) -> list[tuple[_Part, dict[str, str]]]:
    spelling = common_spelling(column for part in parts for column in part.names)
    return [(part, spelling) for part in parts]


def _kinds(part: _Part) -> list[tuple[str, str]]:
    """Each column and what it holds: numbers, text, or a type by its name. Columns of nulls fit."""
    import pyarrow.types as types

    found = []
    for column, field in zip(part.names, part.schema):
        kind = field.type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_null(kind):
            continue
        if _is_numeric(kind) or types.is_decimal(kind):
            found.append((column, "numbers"))
        elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            found.append((column, "text"))
        else:
            found.append((column, str(kind)))
    return found


def _needs_cast(kind: pa.DataType) -> bool:
    """Whether a column of this type would change the type that everybody's column has."""
    import pyarrow.types as types

    return types.is_uint64(kind) or types.is_decimal(kind)


def _cast(table: pa.Table, path: str, name: str) -> pa.Table:
    """Unsigned integers as signed ones, decimals as doubles."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if not _needs_cast(field.type):
            continue
        kind = pa.int64() if pa.types.is_uint64(field.type) else pa.float64()
        try:
            column = table.column(index).cast(kind)
        except pa.ArrowInvalid:
            raise UserError(
                f"{path}: table {name}: column {field.name} holds integers over 63 bits"
            ) from None
        table = table.set_column(index, field.name, column)
    return table


def _as_named(part: _Part) -> pa.Table:
    """A copied part's rows under the views' names, the run's name first."""
    import pyarrow as pa

    table = part.table.rename_columns(part.names).replace_schema_metadata()
    return table.add_column(0, "run", pa.array([part.found.name] * len(table), pa.string()))


def _is_numeric(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _duckdb_reads(path: str) -> bool:
    """Whether DuckDB can read every column of a file."""
    import duckdb

    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute("SELECT max(hash(COLUMNS(*))) FROM read_parquet(?)", [path])
    except duckdb.Error:
        return False
    return True
