"""Showing results: a table for people, `--json` or `--csv` for programs, notices on stderr.

Results go to stdout, everything else to stderr, so that a pipe carries results only.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal

Format = Literal["table", "json", "csv"]

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
# Takes notices instead of stderr, in a process that works for another one.
notices_to: ContextVar[Callable[[str], None] | None] = ContextVar("notices_to", default=None)


def notice(message: str) -> None:
    """One line for the user on stderr, unless `--quiet`."""
    if (take := notices_to.get()) is not None:
        take(message)
    elif not quiet.get():
        print(printable(message), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` in one line that any terminal can show: controls, line ends and what UTF-8 cannot
    hold as their escapes (`\\n`, `\\x1b`, `\\xe9`)."""
    text = readable_path(text)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or unicodedata.category(one) == "Zs" else _escaped(one)
        for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def show(
    rows: Iterable[Mapping[str, Any]],
    format: Format = "table",
    *,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    empty: str = "nothing to show",
) -> None:
    """Print rows on stdout as a table, JSON lines-in-a-list or CSV. Columns default to all seen."""
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    if format == "json":
        chosen = [{key: json_value(row.get(key)) for key in columns} for row in rows]
        print(json.dumps(chosen, ensure_ascii=False, indent=2, default=str, allow_nan=False))
    elif format == "csv":
        sys.stdout.write(csv_text(rows, columns))
    elif rows:
        _table(rows, columns, title)
    else:
        notice(empty)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV, their columns in the first line; they default to all seen.

    A missing value is an empty cell; numbers that are not finite are NaN, Infinity and -Infinity.
    """
    rows = list(rows)
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([json_value(row.get(key)) for key in columns] for row in rows)
    return text.getvalue()


def not_finite_word(value: float) -> str:
    """What a number that is not finite is called everywhere: NaN, Infinity or -Infinity."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_value(value: Any) -> Any:
    """`value` for JSON, which has no NaN and no infinities: the texts "NaN", "Infinity" and
    "-Infinity" take their place, so that they are told apart from null, which means missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return not_finite_word(value)
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else str(key): json_value(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value


def finite(value: Any) -> Any:
    """`value` with NaN and infinities as None, for files in which None means not defined."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def readable_path(path: str | os.PathLike[str]) -> str:
    """A path as text that any output can hold: bytes of a name that are not UTF-8 as `\\xe9`."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        pass
    else:
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of characters that no file name has
        return text.encode("utf-8", "backslashreplace").decode()


def cell(value: Any) -> str:
    """One table cell: floats to four significant digits, None as a dash, NaN and infinities by name."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else not_finite_word(value)
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=None if title is None else Text(printable(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for key in columns:
        numeric = any(isinstance(row.get(key), int | float) for row in rows)
        table.add_column(
            Text(printable(str(key))), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell(row.get(key))) for key in columns))
    # Outside a terminal nothing may be folded: a script greps whole lines.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width).print(table, crop=False)
