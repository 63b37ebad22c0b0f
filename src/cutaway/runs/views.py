"""The SQL of the views: a table over all runs as recorded, and with its numbers finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cutaway.tables import schemas

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
    columns = [(one, kind) for one, kind, *_ in connection.execute(f"DESCRIBE {raw}").fetchall()]
    floats = [quoted_name(one) for one, kind in columns if kind in ("DOUBLE", "FLOAT")]
    if not floats:
        return f"SELECT *, NULL::MAP(VARCHAR, VARCHAR) AS not_finite FROM {raw}"
    # Every column by its name: `* REPLACE` takes DuckDB time that grows with their number squared.
    known = set(floats)
    shown = [
        f"CASE WHEN isfinite({at}) THEN {at} END AS {at}"
        if (at := quoted_name(one)) in known
        else at
        for one, _ in columns
    ]
    tests = " AND ".join(f"coalesce(isfinite({at}), true)" for at in floats)
    names = ", ".join(quoted(one) for one, _ in columns if quoted_name(one) in known)
    values = ", ".join(f"{at}::DOUBLE" for at in floats)
    # By its text: of `isnan` DuckDB thinks that Parquet's statistics, which leave NaN out, rule it out.
    words = "WHEN 'nan' THEN 'NaN' WHEN 'inf' THEN 'Infinity' ELSE '-Infinity'"
    odd = f"list_filter(list_zip([{names}], [{values}]), lambda one: NOT isfinite(one[2]))"
    entry = f"{{'column': one[1], 'value': CASE one[2]::VARCHAR {words} END}}"
    return (
        f"SELECT {', '.join(shown)}, CASE WHEN NOT ({tests}) THEN "
        f"map_from_entries(list_transform({odd}, lambda one: {entry})) END AS not_finite FROM {raw}"
    )
