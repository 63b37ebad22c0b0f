"""Columns of values as people hold them, always read by position.

A column may be a list, a tuple, any other iterable in order, an array, a tensor, a pandas or polars
Series, an Arrow array; a table a DataFrame, an Arrow table, a mapping of columns, or a list of
records. None of these libraries is imported: what they give is recognised by what it can do. A
pandas Series counts its rows by its index, which after a shuffle or a selection is no position;
that is why no code of this package may write `given[row]` for what a user gave.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any, TypeAlias

from cutaway.base.errors import UserError, nearest

if TYPE_CHECKING:
    import numpy as np
    import torch

Column: TypeAlias = Any
"""What `column` takes: an ordered collection of values."""

_PLAIN = (str, int, float, bool, type(None))
_SHOWN = 5  # positions that a message names


def missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, pandas' NA and NaT, a null of Arrow."""
    if value is None:
        return True
    if isinstance(value, str | bytes | list | tuple | dict) or getattr(value, "ndim", 0):
        return False
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # pandas' NA will not even be compared
        return type(value).__name__ in ("NAType", "NaTType")


def blank(value: Any) -> bool:
    """Whether a value is missing, or a text of nothing but space."""
    return missing(value) or (isinstance(value, str) and not value.strip())


def column(given: Column, name: str) -> list[Any]:
    """The values of a column in their order, as plain Python values; missing ones are None.

    Values that are columns themselves (a list of words, say) become lists; an array of shape (n, 1) is
    one column. `name` is what messages
    call it. Raises UserError for a text, a single value, a table, and what has no order (a set).
    """
    if isinstance(given, str | bytes | bytearray):
        raise UserError(f"{name} = {str(given)[:40]!r}: a text, expected a column of values")
    if is_table(given) or isinstance(given, Mapping):
        raise UserError(f"{name}: a table, expected one column of it")
    if getattr(given, "ndim", 1) == 2 and tuple(given.shape)[1:] == (1,):
        given = given.reshape(-1)  # an array of one column
    values = _values(given)
    if values is None:
        raise UserError(
            f"{name}: {type(given).__name__}, expected a column of values: a list, an array, a "
            "tensor, a Series or an Arrow array"
        )
    return [_plain(value) for value in values]


def optional(given: Column | None, name: str) -> list[Any] | None:
    """`column`, or None where nothing is given."""
    return None if given is None else column(given, name)


def names_of_values(values: Iterable[Any]) -> list[str | None]:
    """Labels or groups as text; missing ones stay None.

    Whole numbers are written alike whatever they came as: 1, 1.0 and "1" are one class, since a
    column of whole numbers becomes one of decimals where a value is missing.
    """
    return [None if missing(value) else name_of(value) for value in values]


def name_of(value: Any) -> str:
    """One label or group as text: `1` for 1 and 1.0, `True` for True, a text as it is, and bytes as
    the text they hold in UTF-8."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def look_alike(names: Iterable[str]) -> str | None:
    """A line about two names that may be meant to be one, or None where all are plainly different.

    They differ in upper and lower case only, in blanks, in signs that are not seen, in how a letter or
    a number is written; or one is a truth value and the other a number.
    """
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        key = _key(name)
        if (other := seen.setdefault(key, name)) != name:
            return (
                f"{other!r} and {name!r} are taken as two classes; write them alike if they are one"
            )
    return None


def require_lengths(what: str, lengths: Mapping[str, int]) -> None:
    """Refuse columns of different lengths, naming each with its length."""
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{count:,} {name}" for name, count in lengths.items())
        raise UserError(f"{what}: {listed}; expected as many of each")


def positions(found: Sequence[int]) -> str:
    """`position 4` or `positions 0, 3, 6 and 27 more`, for messages; they count from 0."""
    listed = ", ".join(f"{one:,}" for one in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return f"position{'s' if len(found) > 1 else ''} {listed}{more}"


def tensor(given: Any, name: str) -> torch.Tensor:
    """Numbers as a tensor, by position; a tensor itself as it is. Rows of a table are its rows.

    Raises UserError for values that are no numbers, missing ones, and rows of different lengths.
    """
    import numpy as np
    import torch

    if isinstance(given, torch.Tensor):
        return given
    if isinstance(given, int | float | bool):
        if isinstance(given, int) and abs(given) >= 2**63:
            raise UserError(f"{name}: a whole number of more than 63 bits; expected numbers")
        return torch.as_tensor(given)
    if isinstance(given, np.ndarray) and given.dtype != object and given.dtype.names is None:
        array = given
    elif is_table(given):
        found = table(given)
        array = np.array([found.column(one, name) for one in found.names]).T
    else:
        values = column(given, name)
        if gaps := [row for row, value in enumerate(values) if value is None]:
            raise UserError(f"{name}: missing at {positions(gaps)}; expected numbers")
        try:
            array = np.array(values)
        except ValueError:
            raise UserError(
                f"{name}: rows of different lengths; expected as many values in each"
            ) from None
    return torch.from_numpy(_numeric(array, name))


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
    """The array as torch takes it: its own, in this machine's order of bytes, of a type torch has."""
    import numpy as np

    gone = np.ma.getmaskarray(array)
    if array.dtype == object:
        gone = np.array([missing(value) for value in array.flat]).reshape(array.shape)
        if not gone.any() and all(isinstance(value, Number) for value in array.flat):
            with suppress(TypeError, OverflowError):  # decimals and fractions; not complex numbers
                array = array.astype(float)
    if gone.any():
        gaps = np.flatnonzero(np.atleast_1d(gone).reshape(len(np.atleast_1d(gone)), -1).any(1))
        raise UserError(f"{name}: missing at {positions(gaps.tolist())}; expected numbers")
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name}: {array.dtype} values, expected numbers")
    kind = array.dtype.newbyteorder("=")
    if kind.kind == "u" and kind.itemsize > 1:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise UserError(f"{name}: {array.max()}: expected numbers of up to 63 bits")
        kind = np.dtype(np.int64)
    elif kind.kind == "f" and kind.itemsize > 8:  # long doubles
        kind = np.dtype(np.float64)
    array = np.asarray(array, dtype=kind, order="C")
    return array if array.flags.writeable else array.copy()


def numbers(given: Any, name: str) -> np.ndarray:
    """One number after another as a float array (n,) of its own; missing ones are NaN.

    Raises UserError for values that are no numbers.
    """
    import numpy as np

    try:
        plain = isinstance(given, np.ndarray) and not np.ma.isMaskedArray(given)
        if plain and given.ndim == 1 and given.dtype.kind in "biuf":
            return np.array(given, dtype=float)
        values = [np.nan if value is None else float(value) for value in column(given, name)]
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected numbers") from None
    return np.array(values, dtype=float)


# -- tables ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table's column names, in order, and its columns by name."""

    names: tuple[str, ...]
    _read: Callable[[int], Any]

    def column(self, name: str, what: str) -> list[Any]:
        """A column as `columns.column` gives it. `what` is the setting that asked for it.

        Raises UserError, listing the columns, where there is none of that name or there are two.
        """
        name = str(name)
        if (count := self.names.count(name)) != 1:
            listed = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
            why = "no column of that name" if not count else f"{count} columns of that name"
            hint = "" if count else nearest(name, self.names)
            raise UserError(f"{what} = {name!r}: {why}{hint}; columns: {listed or 'none'}")
        return column(self._read(self.names.index(name)), what)

    def rows(self) -> list[dict[str, Any]]:
        """Every row as a mapping of column name to value."""
        columns = [self.column(name, name) for name in self.names]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]


def is_table(given: Any) -> bool:
    """Whether `table` takes this as a table."""
    return _reader(given) is not None


def table(given: Any, *, index: bool = False) -> Table:
    """A DataFrame (pandas, polars), Arrow table or record batch, a data set of Hugging Face, a
    structured array, a mapping of columns, or a list of records, as a table.

    With `index` the levels of a DataFrame's index that have a name are columns too. UserError for
    anything else.
    """
    if (found := _reader(given)) is None:
        raise UserError(f"{type(given).__name__}: expected a table with named columns")
    names, read = tuple(map(str, found[0])), found[1]
    levels = getattr(getattr(given, "index", None), "names", ()) if index else ()
    more = [place for place, one in enumerate(levels) if one is not None and str(one) not in names]

    def whole(place: int) -> Any:
        if place < len(names):
            return read(place)
        return given.index.get_level_values(more[place - len(names)])

    return Table((*names, *(str(levels[place]) for place in more)), whole)


def records(given: Any) -> list[Mapping[str, Any]]:
    """The rows of a table, or a list of them as it is; none for None."""
    if given is None:
        return []
    if isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given):
        return list(given)
    return table(given).rows()


def _reader(given: Any) -> tuple[Sequence[Any], Callable[[int], Any]] | None:
    """Column names and a function that reads the column at a place; None for what is no table."""
    if isinstance(given, (bytes, *_PLAIN)):
        return None
    if isinstance(given, Mapping):
        if not given or any(isinstance(one, _PLAIN) for one in given.values()):
            return None
        keys = list(given)
        return keys, lambda place: given[keys[place]]
    if isinstance(given, list | tuple):
        if not given or not all(isinstance(row, Mapping) for row in given):
            return None
        keys = list(dict.fromkeys(key for row in given for key in row))
        return keys, lambda place: [row.get(keys[place]) for row in given]
    if hasattr(given, "iloc") and hasattr(given, "columns"):  # pandas; names may repeat
        return list(given.columns), lambda place: given.iloc[:, place]
    if (names := getattr(given, "column_names", None)) is not None and not callable(names):
        if hasattr(given, "to_pydict"):  # Arrow
            return list(names), lambda place: given.column(place)
        return list(names), lambda place: given[names[place]]  # a data set of Hugging Face
    if hasattr(given, "schema") and hasattr(given, "to_pydict"):  # a record batch
        return list(given.schema.names), lambda place: given.column(place)
    if hasattr(given, "get_columns") and hasattr(given, "columns"):  # polars
        return list(given.columns), lambda place: given.get_columns()[place]
    fields = getattr(getattr(given, "dtype", None), "names", None)
    if isinstance(fields, tuple):  # a structured array
        return fields, lambda place: given[fields[place]]
    return None


# -- values ----------------------------------------------------------------------------------------


def _values(given: Any) -> Iterable[Any] | None:
    """The values in order; None for what is no ordered collection."""
    if isinstance(given, list | tuple | range | Iterator):
        return given
    if isinstance(given, set | frozenset) or getattr(given, "ndim", 1) == 0:
        return None
    if hasattr(given, "to_pylist"):  # Arrow
        return given.to_pylist()
    if hasattr(given, "detach"):  # a tensor, wherever it is
        return given.detach().to_dense().cpu().tolist()
    for name in ("tolist", "to_list"):  # NumPy, pandas, polars
        if callable(getattr(given, name, None)):
            return getattr(given, name)()
    return given if isinstance(given, Iterable) else None


def _plain(value: Any) -> Any:
    """One value as plain Python has it."""
    if type(value) in _PLAIN:
        return None if value != value else value
    if missing(value):
        return None
    if isinstance(value, str):  # NumPy's and others' own kinds of text
        return str(value)
    if hasattr(value, "as_py"):  # a scalar of Arrow
        return _plain(value.as_py())
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of NumPy, of torch
        inner = value.item()
        return _plain(inner if type(inner) is not type(value) else float(inner))  # long doubles
    if isinstance(value, Mapping | set | frozenset | bytes):
        return value
    inner = _values(value) if hasattr(value, "__len__") else None
    return value if inner is None else [_plain(one) for one in inner]


def _key(name: str) -> str:
    """What is left of a name without case, blanks around it, and the ways to write a letter."""
    text = unicodedata.normalize("NFKC", name)
    text = "".join(
        one for one in text if unicodedata.category(one) not in ("Cf", "Cc") or one.isspace()
    )
    text = unicodedata.normalize("NFKC", " ".join(text.split()).casefold())
    text = {"true": "1", "false": "0"}.get(text, text)
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:g}" if number == number else text
