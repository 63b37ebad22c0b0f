"""Rows of tables with labels, as they stand in .csv, .tsv, .jsonl and .parquet files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cutaway.base.errors import UserError
from cutaway.base.json_text import loads
from cutaway.text import decoding
from cutaway.text.files import opened_parquet

TABLES = (".jsonl", ".csv", ".tsv", ".parquet")


def labelled_rows(
    path: Path, wanted: Sequence[str] = ("text", "label", "group", "split")
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table with where each stands; of a Parquet file only the columns `wanted`.

    Raises UserError where a line of a .csv or .tsv has more values than the header names, and for
    a header that names a column twice: values would be read as other columns'.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path, wanted)
        return
    encoding, _ = decoding.examined(path)
    with decoding.opened(path, encoding) as stream:
        if kind == ".jsonl":
            for number, line in enumerate(decoding.lines(stream, path), 1):
                if not line.strip():
                    continue
                try:
                    row = loads(line)
                except ValueError as error:
                    raise UserError(f"{path}: line {number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}: line {number}: expected a JSON object")
                yield f"{path}: line {number}", row
            return
        delimiter = "\t" if kind == ".tsv" else ","
        row_lines: list[str] = []  # of the row that is being read
        reader = csv.DictReader(_kept(decoding.lines(stream, path), row_lines), delimiter=delimiter)
        try:
            names = reader.fieldnames or []
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{path}: line 1: two columns are called {twice!r}")
            row_lines.clear()
            for row in reader:
                if None in row:
                    raise UserError(
                        f"{path}: line {reader.line_num}: {len(names) + len(row[None])} values for "
                        f"{len(names)} columns; a value that holds the separator needs quotes"
                    )
                where, began = (
                    f"{path}: line {reader.line_num}",
                    reader.line_num + 1 - len(row_lines),
                )
                if len(row_lines) > 1 and _open_at_end(row_lines, delimiter):
                    raise UserError(
                        f"{path}: line {began}: a quote is opened and never closed; a value that "
                        "holds one needs quotes around it, and its own doubled"
                    )
                row_lines.clear()
                yield where, row
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}") from None


def _kept(lines: Iterator[str], held: list[str]) -> Iterator[str]:
    """The lines, each put into `held` on its way."""
    for line in lines:
        held.append(line)
        yield line


def _open_at_end(lines: Sequence[str], delimiter: str) -> bool:
    """Whether a quote that these lines of a row open is still open at their end."""
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with opened_parquet(path) as file:
        names = file.schema_arrow.names
        if twice := next((name for name in wanted if names.count(name) > 1), None):
            raise UserError(f"{path}: two columns are called {twice!r}")
        there = [name for name in wanted if name in names]
        number = 0
        for batch in file.iter_batches(columns=there or None):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
