"""Columns and tables of every kind are read by position and become the same plain values."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import torch

from column_kinds import KINDS, TABLES
from cutaway.base import columns
from cutaway.base.errors import UserError

NUMBERS = [3, 1, 2, 1]
NAMES = ["c", "a", "b", "a"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", [NUMBERS, NAMES, [True, False, True, True]], ids=str)
def test_every_kind_of_column_gives_its_values_in_their_order(kind, values) -> None:
    if (made := KINDS[kind](values)) is None:
        pytest.skip("this kind does not hold such values")
    found = columns.column(made, "values")
    assert found == values
    assert {type(value) for value in found} == {type(values[0])}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_its_columns_by_name_and_in_order(kind) -> None:
    made = TABLES[kind]({"text": NAMES, "label": NUMBERS})
    assert columns.is_table(made)
    found = columns.table(made)
    assert found.names == ("text", "label")
    assert found.column("label", "label") == NUMBERS
    assert columns.records(made) == [
        {"text": text, "label": label} for text, label in zip(NAMES, NUMBERS)
    ]
    with pytest.raises(UserError, match=r"^text = 'txt': no column .* did you mean 'text'\?; col"):
        found.column("txt", "text")


def test_missing_values_of_every_kind_are_none() -> None:
    held = [pa.array(["a", None]), np.ma.array([1, 2], mask=[0, 1]), [1.0, float("nan")]]
    held += [[torch.tensor(1.0), np.float64("nan")], np.array(["a", None], dtype=object)]
    for one in held:
        assert columns.column(one, "values")[1] is None
        assert columns.column(one, "values")[0] is not None


def test_missing_values_of_pandas_are_none() -> None:
    pandas = pytest.importorskip("pandas")
    for dtype in ("Int64", "string", "category", "boolean", "object", "float"):
        values = ["a", None] if dtype in ("string", "category", "object") else [1, None]
        series = pandas.Series(values, dtype=dtype, index=[1, 0])
        assert columns.column(series, "values")[1] is None, dtype
    assert columns.column([pandas.NA, pandas.NaT], "values") == [None, None]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a text", "a text, expected a column"),
        ({"a", "b"}, "set, expected a column"),
        (3, "int, expected a column"),
        (None, "NoneType, expected a column"),
        (np.array(3), "ndarray, expected a column"),
        ({"a": [1]}, "a table, expected one column"),
        (pa.table({"a": [1]}), "a table, expected one column"),
    ],
)
def test_what_has_no_order_is_refused(given, said) -> None:
    with pytest.raises(UserError, match=said):
        columns.column(given, "values")


def test_whole_numbers_are_one_class_however_they_are_written() -> None:
    assert columns.names_of_values([1, 1.0, "1", np.int64(1), True, None, 0.5]) == [
        *("1", "1", "1", "1", "True", None, "0.5")
    ]


def test_names_that_may_be_meant_to_be_one_are_told() -> None:
    pairs = [("True", "true"), ("a", "a "), ("1", "1.0"), ("Yes", "YES"), ("New York", "new  york")]
    pairs += [
        ("caf\u00e9", "cafe\u0301"),
        ("yes", "\u200byes"),
        ("\ufb01n", "fin"),
        ("a b", "a\u00a0b"),
    ]
    pairs += [("True", "1"), ("false", "0.0")]
    for pair in pairs:
        assert "taken as two classes" in columns.look_alike(pair)
    assert columns.look_alike(["1", "2", "a", "b", "nan"]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind_become_the_same_tensor(kind) -> None:
    assert columns.tensor(KINDS[kind](NUMBERS), "values").tolist() == NUMBERS


def test_a_tensor_of_what_is_not_numbers_is_refused() -> None:
    for given, said in (
        (["a"], "expected numbers"),
        ([1, None], "missing at position 1"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([[1, None], [2, 3]], "missing at position 0"),
        (pa.table({"a": [1.0, None]}), "missing at position 1"),
        (np.ma.masked, "missing at position 0"),
        (np.array([1j]), "complex128 values, expected numbers"),
        (np.array(["2020-01-01"], dtype="M8[s]"), "expected numbers"),
        (
            np.array([2**63 + 1], dtype="u8"),
            "9223372036854775809: expected numbers of up to 63 bits",
        ),
    ):
        with pytest.raises(UserError, match=said):
            columns.tensor(given, "values")


def test_numbers_that_torch_has_no_type_for_keep_their_values() -> None:
    for given, values in (
        (np.array([1.5, 2.5], dtype=np.longdouble), [1.5, 2.5]),
        (np.array([1.5, 2.5], dtype=">f4"), [1.5, 2.5]),
        ([Decimal("1.5"), Fraction(5, 2)], [1.5, 2.5]),
        (np.array(2.5), 2.5),
    ):
        assert columns.tensor(given, "values").tolist() == values
    assert columns.column(np.array([1.5], dtype=np.longdouble), "values") == [1.5]
    assert columns.column(torch.eye(2).to_sparse(), "values") == [[1.0, 0.0], [0.0, 1.0]]
    for given in (np.array([1j]), np.array([1], dtype="m8[s]")):
        with pytest.raises(UserError, match="values: expected numbers"):
            columns.numbers(given, "values")


def test_bytes_are_named_by_the_text_they_hold() -> None:
    assert columns.names_of_values(np.array([b"yes", "é".encode(), b"\xff"])) == [
        *("yes", "é", "\\xff")
    ]


def test_the_named_levels_of_an_index_are_columns_where_asked() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": NUMBERS, "text": NAMES, "b": [4, 3, 2, 1]})
    for names in (["a"], ["text", "b"]):
        found = columns.table(frame.set_index(names), index=True)
        assert set(found.names) == {"a", "text", "b"}
        assert found.column("a", "a") == NUMBERS
        assert found.column("text", "text") == NAMES
        assert set(columns.table(frame.set_index(names)).names) == {"a", "text", "b"} - set(names)
    assert columns.table(frame.set_index("a", drop=False), index=True).names == ("a", "text", "b")
    assert columns.table(frame, index=True).names == ("a", "text", "b")
