"""SQL over everything runs recorded. With `views.py` the only file that knows DuckDB.

DuckDB reads the Parquet files of finished runs in place; what is still being written is read
beside it, so that live rows are there too. A query may read the root's files and nothing else.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cutaway.base.errors import UserError
from cutaway.runs import table as tables
from cutaway.runs import views
from cutaway.runs.record import RunRecord
from cutaway.runs.runs_view import runs_table
from cutaway.runs.selection import Identity, Selection, identity
from cutaway.tables.names import told_apart

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cutaway.runs.finding import Found

ATTEMPTS = 20  # at an answer for which no file was replaced meanwhile
_RAW = re.compile(rf"\b{views.RAW}\b", re.IGNORECASE)
Readable = Callable[[], Iterable[tuple["Found", RunRecord]]]
Runs = Sequence[tuple["Found", RunRecord]]


class _Kept(NamedTuple):
    """A connection, the tables it has views of, and the state of what they were made from."""

    connection: duckdb.DuckDBPyConnection
    state: _State
    views: set[str]
    raw: bool


class _State(NamedTuple):
    """Of what an answer is made: records, runs' folders, files read in place, tables copied before."""

    records: list[object]
    folders: dict[str, int | None]  # inode: a run that was moved meanwhile is listed again
    files: dict[str, Identity | None]
    copied: dict[tuple[str, str], object]


class Queries:
    """Answers queries about the runs under `root`; `tell` is called for every file left out."""

    def __init__(self, root: Path, tell: Callable[[str], None]):
        self._root = os.path.realpath(root)
        self._tell = tell
        self._selection = Selection(self._root, tell)
        self._kept: _Kept | None = None
        self._lock = threading.Lock()  # a page's threads may ask one store
        # Called between planning a query and reading the files; tests replace files here.
        self.before_reading: Callable[[], None] = lambda: None

    def answer(self, query: str, readable: Readable) -> pa.Table:
        """The query's answer; `readable` lists the runs. `UserError` says what is wrong with it.

        An answer counts only if no file it was read from was replaced or changed meanwhile: DuckDB
        opens a file several times. Else the query is asked again, with what changed copied first.
        Raises `UserError` where files change during each of `ATTEMPTS` attempts.
        """
        copied: set[str] = set()
        looked = False
        for attempt in range(ATTEMPTS):
            runs = list(readable())
            found, error, changed = self._ask(query, runs, copied, attempt == 0)
            if changed:
                copied |= changed
                time.sleep(0.005 * attempt)
            elif error is None:
                return found
            elif looked or _is_mistake(error):
                hint = _tables_hint(error, runs)
                raise UserError(f"SQL: {_first_line(error)}{hint}") from None
            else:  # a file with altered bytes, for one: look, and ask again
                looked = True
                self._selection.damaged(found for found, _ in runs)
        raise UserError(
            f"SQL: {min(changed)} was replaced or changed during each of {ATTEMPTS} attempts "
            "to read it; ask again later"
        )

    # -- inside ----------------------------------------------------------------------------

    def _ask(
        self, query: str, runs: Runs, copied: set[str], first: bool
    ) -> tuple[pa.Table | None, Exception | None, set[str]]:
        """The answer, or what DuckDB said instead; and the files and folders that changed meanwhile,
        at the `first` attempt with those that were listed and are gone."""
        import duckdb

        answer = error = None
        with self._lock:
            known, wanted = _wanted(query.lower(), runs)
            raw = _RAW.search(query) is not None
            kept = self._kept
            if kept is not None and not (
                raw == kept.raw
                and wanted <= kept.views
                and kept.state == self._state(runs, kept.views, copied)
            ):
                wanted |= kept.views & known
                kept = self._kept = None
            state = self._state(runs, wanted, copied) if kept is None else kept.state
            try:
                if kept is None:
                    kept = _Kept(self._connect(wanted, runs, copied, raw), state, wanted, raw)
                cursor = kept.connection.cursor()
            except duckdb.Error as raised:
                cursor, error = None, raised
        if cursor is not None:
            try:
                self.before_reading()
                with cursor:
                    answer = _named(cursor.sql(query).to_arrow_table())
            except duckdb.Error as raised:
                error = raised
        changed = _changed(state, first)
        with self._lock:
            if changed or (error is not None and not _is_mistake(error)):
                self._kept = None
            elif not copied:
                self._kept = kept
        return answer, error, changed

    def _state(self, runs: Runs, names: set[str], copied: set[str]) -> _State:
        """Of what an answer from these tables is made, as it is now."""
        records: list[object] = [names]
        folders: dict[str, int | None] = {}
        files: dict[str, Identity | None] = {}
        read: dict[tuple[str, str], object] = {}
        for found, record in runs:
            records.append((found.name, found.stamp, record.status, found.tables & names))
            if having := found.tables & names:
                folders[str(found.path)] = _inode(found.path)
            for name in having:
                path = self._selection.path(found, name)
                if self._selection.in_place(found, name) and path not in copied:
                    files[path] = identity(path)
                else:
                    read[found.name, name] = tables.fingerprint(found.path, name)
        return _State(records, folders, files, read)

    def _connect(
        self, names: set[str], runs: Runs, copied: set[str], raw: bool
    ) -> duckdb.DuckDBPyConnection:
        """A new database with `runs` and one view for each table named, closed to all else.

        With `raw` DuckDB draws no conclusions from Parquet's statistics, which leave NaN out: by
        them no value is NaN, and none is larger than the largest number.
        """
        import duckdb

        connection = duckdb.connect(":memory:")
        # of all cursors: footers are read once
        connection.execute("SET GLOBAL parquet_metadata_cache = true")
        if raw:
            connection.execute("SET disabled_optimizers = 'statistics_propagation,filter_pushdown'")
        views.keep(connection, "runs", runs_table([content for _, content in runs], self._tell))
        for schema in (views.RAW, views.COPIED):
            connection.execute(f"CREATE SCHEMA {schema}")
        for name in sorted(names):
            having = [found for found, _ in runs if name in found.tables]
            selected = self._selection.choose(name, having, copied)
            views.make_view(connection, name, self._root, selected, self._tell)
        connection.execute(f"SET allowed_directories = [{views.quoted(self._root + os.sep)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET lock_configuration = true")
        return connection


def _named(answer: pa.Table) -> pa.Table:
    """An answer with a name of its own for each column: `SELECT a, a` gives `a` and `a_2`."""
    if len(set(answer.column_names)) == answer.num_columns:
        return answer
    return answer.rename_columns(told_apart(answer.column_names))


def require_select(query: str) -> None:
    """Refuse anything but one SELECT (which WITH, FROM, DESCRIBE and SHOW are for DuckDB)."""
    import duckdb

    try:
        statements = duckdb.extract_statements(query)
    except UnicodeEncodeError:
        raise UserError("SQL: the query is not valid UTF-8 text") from None
    except duckdb.Error as error:
        raise UserError(f"SQL: {_first_line(error)}") from None
    if len(statements) != 1:
        raise UserError(f"SQL: expected one statement, found {len(statements)}")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise UserError(f"SQL: only SELECT, WITH, DESCRIBE and SHOW are allowed, not {kind.name}")


def _changed(state: _State, gone: bool) -> set[str]:
    """The files and folders that are no longer what they were; with `gone` also those that were
    listed a moment before and were not there any more."""
    changed = {
        path
        for path, before in state.files.items()
        if identity(path) != before or (gone and before is None)
    }
    return changed | {
        path
        for path, before in state.folders.items()
        if _inode(path) != before or (gone and before is None)
    }


def _inode(path: str | os.PathLike[str]) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _is_mistake(error: Exception) -> bool:
    """Whether the query is wrong, whatever the files hold."""
    import duckdb

    return isinstance(
        error,
        duckdb.BinderException
        | duckdb.CatalogException
        | duckdb.ConversionException
        | duckdb.ParserException
        | duckdb.PermissionException,
    )


def _wanted(query: str, runs: Runs) -> tuple[set[str], set[str]]:
    """The tables there are, and those a query names (in any case); all where it names none."""
    names = {"history"}.union(*(found.tables for found, _ in runs))
    return names, {name for name in names if name.lower() in query} or names


def _tables_hint(error: Exception, runs: Runs) -> str:
    """What tables there are, where a query asked for one that is not."""
    import duckdb

    if not isinstance(error, duckdb.CatalogException) or "Table with name" not in str(error):
        return ""
    return f" tables: {', '.join(['runs', *sorted(_wanted('', runs)[0])])}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
