"""SQL over everything runs recorded. The only file that knows DuckDB.

DuckDB reads the Parquet files of finished runs in place; what is still being written is read
beside it, so that live rows are there too. A query may read the root's files and nothing else.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cutaway.base import files
from cutaway.base.errors import UserError
from cutaway.runs.record import RunRecord

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cutaway.runs.store import Found

_MAGIC = b"PAR1"
Readable = Callable[[], Iterable[tuple["Found", RunRecord]]]


class _Kept(NamedTuple):
    """A connection, the tables it has views of, and the state of the files they were made from."""

    connection: duckdb.DuckDBPyConnection
    state: list
    views: set[str]


class Queries:
    """Answers queries about the runs under `root`; `tell` is called for every file left out."""

    def __init__(self, root: Path, tell: Callable[[str], None]):
        self._root = os.path.realpath(root)
        self._tell = tell
        self._known: dict[str, tuple[tuple[int, int], bool]] = {}  # path: (stamp, whether sound)
        self._kept: _Kept | None = None
        self._lock = threading.Lock()  # a page's threads may ask one store

    def answer(self, query: str, readable: Readable) -> pa.Table:
        """The query's answer; `readable` lists the runs. `UserError` says what is wrong with it."""
        import duckdb

        mistakes = (
            duckdb.BinderException,
            duckdb.CatalogException,
            duckdb.ConversionException,
            duckdb.ParserException,
            duckdb.PermissionException,
        )
        try:
            try:
                return self._ask(query, list(readable()))
            except mistakes:
                raise
            except duckdb.Error:
                # A file with altered bytes, or one that was replaced meanwhile: look, and ask again.
                runs = list(readable())
                self._kept = None
                self._read_all(runs)
                return self._ask(query, runs)
        except duckdb.Error as error:
            known = _tables_hint(error, readable)
            raise UserError(f"SQL: {_first_line(error)}{known}") from None

    def _ask(self, query: str, runs: Sequence[tuple[Found, RunRecord]]) -> pa.Table:
        with self._lock:
            connection = self._connection(query.lower(), runs).cursor()
        with connection:
            return connection.sql(query).to_arrow_table()

    def _connection(
        self, query: str, runs: Sequence[tuple[Found, RunRecord]]
    ) -> duckdb.DuckDBPyConnection:
        """A connection that has the views a query needs: the last one while no file changed.

        With it DuckDB keeps what it knows of the files, which is most of a query's time.
        """
        known, wanted = _wanted(query, runs)
        kept, self._kept = self._kept, None
        if kept is not None:
            if wanted <= kept.views and kept.state == self._state(runs, kept.views):
                self._kept = kept
                return kept.connection
            wanted |= kept.views & known
        state = self._state(runs, wanted)  # before the files are read: they may change meanwhile
        connection = self._connect(wanted, runs)
        if state is not None:
            self._kept = _Kept(connection, state, wanted)
        return connection

    def _state(self, runs: Sequence[tuple[Found, RunRecord]], names: set[str]) -> list | None:
        """What an answer from these tables hangs on; None where one is still being written."""
        state: list[object] = [names]
        for found, record in runs:
            having = names & found.tables
            if not all(_in_place(found, name) for name in having):
                return None
            paths = [self._path(found, name) for name in having]
            stamps = [(path, self._is_parquet(path), self._known.get(path)) for path in paths]
            state.append((found.name, found.stamp, record.status, stamps))
        return state

    def _connect(
        self, names: set[str], runs: Sequence[tuple[Found, RunRecord]]
    ) -> duckdb.DuckDBPyConnection:
        """A new database with `runs` and one view for each table named, closed to all else."""
        import duckdb

        connection = duckdb.connect(":memory:")
        # of all cursors: footers are read once
        connection.execute("SET GLOBAL parquet_metadata_cache = true")
        _keep(connection, "runs", _runs_table([content for _, content in runs]))
        connection.execute("CREATE SCHEMA live")
        for name in names:
            self._table(connection, name, [found for found, _ in runs if name in found.tables])
        connection.execute(f"SET allowed_directories = [{_quoted(self._root + os.sep)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def _table(
        self, connection: duckdb.DuckDBPyConnection, name: str, having: Sequence[Found]
    ) -> None:
        """The view of one table over the runs that have it."""
        read = [found for found in having if not _in_place(found, name)]
        tables = [table for found in read if (table := self._live(found, name)) is not None]
        paths = [
            path
            for found in having
            if _in_place(found, name) and self._is_parquet(path := self._path(found, name))
        ]
        if not self._view(connection, name, paths, tables):
            # Some file is not what it seems: the rest shall answer.
            self._view(connection, name, [p for p in paths if self._fits(p, name)], tables)

    def _path(self, found: Found, name: str) -> str:
        return f"{self._root}/{found.name}/{name}.parquet"

    def _read_all(self, runs: Sequence[tuple[Found, RunRecord]]) -> None:
        """Read every file DuckDB reads, with its checksums, and remember which are damaged."""
        from cutaway.runs import table as tables

        for found, _ in runs:
            for name in found.tables:
                if _in_place(found, name) and self._is_parquet(path := self._path(found, name)):
                    try:
                        tables.read(found.path, name)
                    except UserError as error:
                        self._tell(f"{error}; skipped")
                        self._known[path] = (self._known[path][0], False)

    def _view(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        paths: Sequence[str],
        tables: Sequence[pa.Table],
    ) -> bool:
        """Make the view of a table; False where its files do not unite as they should."""
        import duckdb
        import pyarrow as pa

        parts = []
        if paths:
            # `root/a/b/history.parquet` → `a/b`; of a file's name DuckDB makes one constant.
            begin = len(self._root) + 2
            cut = begin + len(f"/{name}.parquet") - 1
            files = ", ".join(map(_quoted, paths))
            parts.append(
                f"SELECT substr(__file, {begin}, length(__file) - {cut}) AS run, "
                f"* EXCLUDE (__file) FROM read_parquet([{files}], union_by_name = true, "
                "filename = '__file', hive_partitioning = false)"
            )
        if tables:
            try:
                arriving = pa.concat_tables(tables, promote_options="permissive")
            except pa.ArrowException as error:
                self._tell(f"{name}: runs being written disagree: {_first_line(error)}; skipped")
                arriving = tables[0].slice(0, 0)
            _keep(connection, f'live."{name}"', arriving)
            parts.append(f'SELECT * FROM live."{name}"')
        if not parts:
            parts = ["SELECT NULL::VARCHAR AS run, NULL::BIGINT AS step WHERE false"]
        try:
            connection.execute(
                f'CREATE OR REPLACE VIEW "{name}" AS {" UNION ALL BY NAME ".join(parts)}'
            )
        except duckdb.Error:
            return False
        if name != "history":
            return True
        kinds = connection.execute(
            "SELECT data_type FROM duckdb_columns() "
            "WHERE table_name = 'history' AND column_name <> 'run'"
        ).fetchall()
        return all(_is_number(kind) for (kind,) in kinds)

    def _fits(self, path: str, name: str) -> bool:
        """Whether a file can be read and, of a history, holds numbers only.

        One text column in one foreign run would turn a metric into text for everybody.
        """
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(path)
        except Exception as error:
            self._tell(f"{path}: damaged: {_first_line(error)}; skipped")
            return False
        return name != "history" or self._numeric(schema, path)

    def _numeric(self, schema: pa.Schema, path: str | Path) -> bool:
        wrong = [field.name for field in schema if not _is_numeric_type(field.type)]
        if wrong:
            self._tell(f"{path}: column {wrong[0]} of a history is no number; skipped")
        return not wrong

    def _live(self, found: Found, name: str) -> pa.Table | None:
        import pyarrow as pa

        from cutaway.runs import table as tables

        try:
            table = tables.read(found.path, name)
        except UserError as error:
            self._tell(f"{error}; skipped")
            return None
        if table is None or (name == "history" and not self._numeric(table.schema, found.path)):
            return None
        return table.add_column(0, "run", pa.array([found.name] * len(table), pa.string()))

    def _is_parquet(self, path: str) -> bool:
        """Whether a file begins and ends as Parquet does: one cut short fails every query."""
        try:
            with files.open_regular(path) as file:
                state = os.fstat(file.fileno())
                stamp = (state.st_mtime_ns, state.st_size)
                known, sound = self._known.get(path, (None, False))
                if known == stamp:
                    return sound
                sound = state.st_size >= 12 and file.read(4) == _MAGIC
                if sound:
                    file.seek(-4, os.SEEK_END)
                    sound = file.read(4) == _MAGIC
        except OSError as error:
            self._tell(f"{path}: cannot read: {error.strerror}; skipped")
            return False
        if not sound:
            self._tell(f"{path}: damaged, no whole Parquet file ({state.st_size} bytes); skipped")
        self._known[path] = (stamp, sound)
        return sound


def require_select(query: str) -> None:
    """Refuse anything but one SELECT (which WITH, FROM, DESCRIBE and SHOW are for DuckDB)."""
    import duckdb

    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise UserError(f"SQL: {_first_line(error)}") from None
    if len(statements) != 1:
        raise UserError(f"SQL: expected one statement, found {len(statements)}")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise UserError(f"SQL: only SELECT, WITH, DESCRIBE and SHOW are allowed, not {kind.name}")


def _wanted(query: str, runs: Sequence[tuple[Found, RunRecord]]) -> tuple[set[str], set[str]]:
    """The tables there are, and those a query names (in any case); all where it names none."""
    names = {"history"}.union(*(found.tables for found, _ in runs))
    return names, {name for name in names if name.lower() in query} or names


def _tables_hint(error: duckdb.Error, readable: Readable) -> str:
    """What tables there are, where a query asked for one that is not."""
    import duckdb

    if not isinstance(error, duckdb.CatalogException) or "Table with name" not in str(error):
        return ""
    names = {"history"}.union(*(found.tables for found, _ in readable()))
    return f" tables: {', '.join(['runs', *sorted(names)])}"


def _keep(connection: duckdb.DuckDBPyConnection, name: str, content: pa.Table) -> None:
    """Copy a table into the database: what is only registered one cursor sees and others do not."""
    connection.register("arriving", content)
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM arriving")
    connection.unregister("arriving")


def _in_place(found: Found, name: str) -> bool:
    """Whether DuckDB can read the table where it is: finished, and inside the root."""
    return name not in found.live and not found.linked


def _runs_table(records: Sequence[RunRecord]) -> pa.Table:
    """One row per run; `config`, `resolved` and `metrics` as structs of all keys any run has."""
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
    columns: dict[str, pa.Array] = {"run": pa.array([r.name for r in records], pa.string())}
    for key, kind in plain.items():
        columns[key] = pa.array([getattr(r, key) for r in records], kind)
    columns["parents"] = pa.array([json.dumps(r.parents) for r in records], pa.string())
    for key in ("config", "resolved", "metrics", "versions"):
        struct = _struct([getattr(r, key) for r in records])
        if struct is not None:
            columns[key] = struct
    return pa.table(columns)


def _struct(rows: Sequence[Mapping[str, Any]]) -> pa.StructArray | None:
    """Mappings with differing keys and types as one struct column; None where there are no keys."""
    import pyarrow as pa

    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return None
    return pa.StructArray.from_arrays(
        [_column([row.get(key) for row in rows]) for key in keys], keys
    )


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers as numbers, text as text; where runs disagree, everything as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        kind = pa.int64() if kinds == {int} else pa.float64()
        return pa.array([None if v is None else v for v in values], kind)
    if kinds in ({bool}, {str}):
        return pa.array(values, pa.bool_() if bool in kinds else pa.string())
    texts = [v if isinstance(v, str) or v is None else json.dumps(v) for v in values]
    return pa.array(texts, pa.string())


def _is_numeric_type(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _is_number(kind: str) -> bool:
    return kind.endswith("INT") or kind in ("INTEGER", "DOUBLE", "FLOAT", "BOOLEAN")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
