"""The SQL of the views: a table over all runs as recorded, and with its numbers finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cutaway.runs import schemas

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cutaway.runs.selection import Selected

RAW, COPIED = "raw", "copied"  # schemas: tables as recorded, and rows read by our own reader
_NONE = "SELECT NULL::VARCHAR AS run, NULL::BIGINT AS step WHERE false"


def make_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    root: str,
    selected: Selected,
    tell: Callable[[str], None],
) -> None:
    """Make `raw."name"`, which has every value as recorded, and `"name"`, in which floats that are
    not finite are null and named in the map `not_finite` (column → NaN, Infinity or -Infinity).

    In `max`, `ORDER BY` and comparisons NaN is larger than every number; null takes no part.
    """
    parts = [_in_place(name, root, selected)] if selected.paths else []
    if selected.tables:
        _copy(connection, name, selected.tables, tell)
        parts.append(f"SELECT * FROM {COPIED}.{quoted_name(name)}")
    body = " UNION ALL BY NAME ".join(parts or [_NONE])
    connection.execute(f"CREATE OR REPLACE VIEW {RAW}.{quoted_name(name)} AS {body}")
    connection.execute(
        f"CREATE OR REPLACE VIEW main.{quoted_name(name)} AS {_finite(connection, name)}"
    )


def keep(connection: duckdb.DuckDBPyConnection, name: str, content: pa.Table) -> None:
    """Copy a table into the database: what is only registered one cursor sees and others do not."""
    connection.register("arriving", content)
    try:
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM arriving")
    finally:
        connection.unregister("arriving")


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(text: str) -> str:
    """The name of a table or column as SQL writes it."""
    return '"' + text.replace('"', '""') + '"'


def _in_place(name: str, root: str, selected: Selected) -> str:
    file = "__file"
    while file in selected.columns:
        file += "_"
    # `root/a/b/history.parquet` → `a/b`; of a file's name DuckDB makes one constant.
    begin = len(root) + 2
    cut = begin + len(f"/{name}.parquet") - 1
    files = ", ".join(map(quoted, selected.paths))
    return (
        f"SELECT substr({file}, {begin}, length({file}) - {cut}) AS run, "
        f"* EXCLUDE ({file}) FROM read_parquet([{files}], union_by_name = true, "
        f"filename = '{file}', hive_partitioning = false)"
    )


def _copy(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    tables: Sequence[pa.Table],
    tell: Callable[[str], None],
) -> None:
    """All rows of `tables` as one table; a run whose rows cannot be copied is left out and named."""
    import pyarrow as pa

    place = f"{COPIED}.{quoted_name(name)}"
    try:
        keep(connection, place, pa.concat_tables(tables, promote_options="permissive"))
        return
    except Exception:  # some run's types have no place beside the others': find out which
        kept = tables[0].slice(0, 0).select(["run"])
    for table in tables:
        try:
            more = pa.concat_tables([kept, table], promote_options="permissive")
            keep(connection, place, more)
            kept = more
        except Exception as error:
            tell(f"{table['run'][0]}: table {name}: {schemas.first_line(error)}; skipped")
    keep(connection, place, kept)


def _finite(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """The SELECT of a table with finite numbers only and `not_finite`."""
    raw = f"{RAW}.{quoted_name(name)}"
    floats = [
        column
        for column, kind, *_ in connection.execute(f"DESCRIBE {raw}").fetchall()
        if kind in ("DOUBLE", "FLOAT")
    ]
    if not floats:
        return f"SELECT *, NULL::MAP(VARCHAR, VARCHAR) AS not_finite FROM {raw}"
    # By its text: of `isnan` DuckDB thinks that Parquet's statistics, which leave NaN out, rule it out.
    words = "WHEN 'nan' THEN 'NaN' WHEN 'inf' THEN 'Infinity' ELSE '-Infinity'"
    replaced, entries, tests = [], [], []
    for column in floats:
        at = quoted_name(column)
        replaced.append(f"CASE WHEN isfinite({at}) THEN {at} END AS {at}")
        tests.append(f"coalesce(isfinite({at}), true)")
        entries.append(
            f"CASE WHEN NOT isfinite({at}) THEN {{'column': {quoted(column)}, "
            f"'value': CASE {at}::VARCHAR {words} END}} END"
        )
    listed = f"list_filter([{', '.join(entries)}], lambda one: one IS NOT NULL)"
    return (
        f"SELECT * REPLACE ({', '.join(replaced)}), "
        f"CASE WHEN NOT ({' AND '.join(tests)}) THEN map_from_entries({listed}) END AS not_finite "
        f"FROM {raw}"
    )
