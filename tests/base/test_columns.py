"""Columns and tables of every kind are read by position and become the same plain values."""

from __future__ import annotations

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
    for pair in (("True", "true"), ("a", "a "), ("1", "1.0"), ("Yes", "YES")):
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
    ):
        with pytest.raises(UserError, match=said):
            columns.tensor(given, "values")
