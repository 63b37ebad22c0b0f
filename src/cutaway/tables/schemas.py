"""What a table's columns may hold, and how tables of one name but other columns become one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cutaway.base.errors import UserError


def united_schema(schemas: Sequence[pa.Schema], name: str) -> pa.Schema:
    """The columns of all, integers beside floats made floats; UserError where types cannot meet.

    `name` is the table's, for that message.
    """
    if not schemas:
        return pa.schema([])
    try:
        return pa.unify_schemas(
            [s.remove_metadata() for s in schemas], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise UserError(f"table {name}: columns changed their type: {first_line(error)}") from None


def united(tables: Sequence[pa.Table], name: str) -> pa.Table | None:
    """The rows of all, in order, with the columns of all; None of none."""
    if not tables:
        return None
    schema = united_schema([table.schema for table in tables], name)
    return pa.concat_tables([_cast(table, schema) for table in tables])


def plain(table: pa.Table) -> pa.Table:
    """Without dictionary encoding, whose parts would not unite, and without columns of only null type."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index).cast(field.type.value_type)
            table = table.set_column(index, field.name, column)
    return table.select([f.name for f in table.schema if not pa.types.is_null(f.type)])


def number(value: Any, place: str) -> int | float:
    """`value` (bool, NumPy scalar, tensor with one element) as a Python number.

    UserError, which begins with `place`, for anything else.
    """
    if hasattr(value, "item"):
        with contextlib.suppress(ValueError, RuntimeError):  # more than one element: told below
            value = value.item()
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    raise UserError(f"{place} = {value!r} is no number; this table holds numbers only")


def first_line(error: BaseException) -> str:
    """What an error says, without what follows; its kind where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`: missing ones null, integers made floats where asked."""
    columns = [
        table[field.name].cast(field.type, safe=False)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
