"""Histories of others, read from JSON lines, CSV and Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.tables import read_history_file
from cutaway.tables.tidy import renamed, tidy


def lines(*objects: object) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file to read back."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def read(path: Path) -> dict[str, list]:
    return read_history_file(path).history.to_pydict()


# -- names, steps, types -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("epoch", "step"),
        ("_step", "step"),
        ("globalStep", "step"),
        ("Iteration", "step"),
        ("accuracy", "train_acc"),
        ("loss", "train_loss"),
        ("Train Accuracy", "train_acc"),
        ("trainLoss", "train_loss"),
        ("val/acc", "val_acc"),
        ("validation_loss", "val_loss"),
        ("eval_accuracy", "val_acc"),
        ("test.accuracy", "test_acc"),
        ("test-loss", "test_loss"),
    ],
)
def test_common_spellings_are_known(theirs: str, ours: str) -> None:
    assert renamed([theirs]) == {theirs: ours}


@pytest.mark.parametrize("name", ["loss_scale", "train_loss_ema", "val_test_loss", "accumulated"])
def test_other_names_are_kept(name: str) -> None:
    assert renamed([name]) == {}


def test_of_several_candidates_our_own_spelling_counts_then_the_first() -> None:
    assert renamed(["epoch", "step", "acc", "train_acc"]) == {
        "step": "step",
        "train_acc": "train_acc",
    }
    assert renamed(["epoch", "iter", "loss", "Loss"]) == {"iter": "step", "loss": "train_loss"}


def test_lines_of_settings_are_not_rows_whatever_their_keys(write: Callable[..., Path]) -> None:
    settings = {"epochs": 2000, "lr": 0.1}
    found = read_history_file(
        write("h.jsonl", lines(settings, {"epoch": 0, "loss": 2}, {"epoch": 1, "loss": 1}))
    )
    assert found.config == settings
    assert found.history.to_pydict() == {"step": [0, 1], "train_loss": [2, 1]}
    unstepped = read_history_file(write("u.jsonl", lines({"args": settings}, {"loss": 2.0})))
    assert unstepped.config == settings
    assert unstepped.history.to_pydict() == {"step": [0], "train_loss": [2.0]}
    assert "row's number" in unstepped.notices[0]


def test_numbers_keep_their_kind_and_what_is_not_finite(write: Callable[..., Path]) -> None:
    file = write(
        "h.jsonl",
        '{"step": 0, "whole": 9007199254740993, "mixed": 1, "odd": NaN, "text": "Infinity"}\n'
        '{"step": 1, "whole": null, "mixed": 0.5, "odd": -Infinity, "flag": true}\n'
        '{"step": 2, "huge": 1' + "0" * 400 + "}\n",
    )
    found = read(file)
    assert found["whole"] == [9007199254740993, None, None]
    assert found["mixed"] == [1.0, 0.5, None]
    assert math.isnan(found["odd"][0])
    assert found["odd"][1:] == [-math.inf, None]
    assert found["text"] == [math.inf, None, None]
    assert found["flag"] == [None, 1, None]
    assert found["huge"] == [None, None, math.inf]


def test_repeated_steps_become_one_row_with_the_last_of_each_column(
    write: Callable[..., Path],
) -> None:
    file = write(
        "h.jsonl",
        lines(
            {"step": 5, "train_loss": 1.0},
            {"step": 5, "val_loss": 2.0},
            {"step": 1, "train_loss": 3.0},
            {"step": 5, "train_loss": 4.0},
        ),
    )
    assert read(file) == {"step": [1, 5], "train_loss": [3.0, 4.0], "val_loss": [None, 2.0]}


def test_steps_beyond_what_a_double_holds_stay_whole() -> None:
    steps = [2**53 + 1, 2**53 + 3, 2**62 + 1]
    table, _ = tidy(pa.table({"step": [*steps, None], "a": [1.0, 2.0, 3.0, 4.0]}), "h")
    assert table["step"].to_pylist() == steps


# -- CSV and Parquet ---------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "comma"), [("h.csv", ","), ("h.csv", ";"), ("h.tsv", "\t")])
def test_csv_is_read_with_any_delimiter_and_line_ending(
    write: Callable[..., Path], name: str, comma: str, ending: str
) -> None:
    table = [["Epoch", "Train Loss", "note"], ["0", "1.5", "x"], ["10", "nan", ""], ["20", "", "y"]]
    text = "\ufeff" + ending.join(comma.join(row) for row in table) + ending
    found = read_history_file(write(name, text))
    assert found.history["step"].to_pylist() == [0, 10, 20]
    first, second, third = found.history["train_loss"].to_pylist()
    assert (first, third) == (1.5, None)
    assert math.isnan(second)
    assert found.notices == ["left out (no numbers): note"]


def test_a_csv_cut_off_in_its_last_line_loses_that_line_only(write: Callable[..., Path]) -> None:
    found = read_history_file(write("h.csv", "step,a,b\n0,1,2\n10,3,4\n20,5"))
    assert found.history.to_pydict() == {"step": [0, 10], "a": [1, 3], "b": [2, 4]}
    assert found.notices == ["line 4 is cut off: left out"]


def test_columns_that_queries_could_not_name_are_left_out_or_told_apart(
    write: Callable[..., Path],
) -> None:
    found = read_history_file(write("h.csv", ",step,a,A,run\n0,0,1,2,3\n"))
    assert found.history.to_pydict() == {"step": [0], "a": [1], "A_2": [2]}
    assert len(found.notices) == 3


def test_parquet_of_any_numeric_types_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "iteration": pa.array([0, 10], pa.uint8()),
            "acc": pa.array([0.5, None], pa.float32()),
            "half": pa.array([0.5, 2], pa.float16()),
            "flag": [True, False],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "when": pa.array([1, 2], pa.timestamp("s")),
            "list": [[1], [2]],
        }
    )
    pq.write_table(table, tmp_path / "h.parquet")
    found = read_history_file(tmp_path / "h.parquet")
    assert found.history.to_pydict() == {
        "step": [0, 10],
        "train_acc": [0.5, None],
        "half": [0.5, 2.0],
        "flag": [1, 0],
    }
    assert found.notices == ["left out (no numbers): kind, when, list"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("h.jsonl", "", "is empty"),
        ("h.jsonl", " \n\n", "is empty"),
        ("h.jsonl", '{"step": 0, "a', "line 1 is not JSON"),
        ("h.jsonl", '{"step": 0, "a": 1}\n{"st\n{"step": 2, "a": 1}\n', "line 2 is not JSON"),
        ("h.jsonl", "[1, 2]\n", "line 1: expected an object like"),
        ("h.jsonl", "[" * 100_000, "levels deep"),
        ("h.jsonl", '{"_meta": {"p": 3}}\n', "no line holds a row of numbers"),
        ("h.jsonl", '{"step": 0}\n', "no column of numbers besides the step"),
        ("h.jsonl", '{"step": "one", "a": 1}\n', "column step holds the text 'one'"),
        ("h.jsonl", '{"step": 1e30, "a": 1}\n', "step = 1e.30: expected a whole number"),
        ("h.jsonl", '{"step": null, "a": 1}\n', "no row has a step"),
        ("h.jsonl", '{"step": 0, "test_acc": "n/a"}\n', "column test_acc holds the text 'n/a'"),
        ("h.jsonl", '{"step": 0, "test_acc": 101}\n', "test_acc = 101: an accuracy is"),
        ("h.jsonl", b'{"step": 0, "a": 1}\x00', "is not UTF-8 text"),
        ("h.csv", "step,a\n".encode("utf-16"), "is not UTF-8 text"),
        ("h.csv", "step,a\n", "holds no rows"),
        ("h.csv", "0,1\n1,2\n", "the first line must name the columns"),
        ("h.csv", "step,a\n0,1\n1\n2,3\n", "row 3: expected 2 values, found 1"),
        ("h.csv", "step;loss\n0;0,5\n", "column loss holds the text '0,5'"),
        ("h.csv", "step,note\n0,x\n", "no column of numbers besides the step"),
        ("h.parquet", b"PAR1", "damaged, or not Parquet"),
        ("h.parquet", b"PAR1" + b"x" * 40 + b"PAR1", "damaged, or not Parquet"),
        ("h.txt", "step,a\n0,1\n", r"expected a file named \*.jsonl"),
    ],
)
def test_files_without_a_history_are_refused_in_one_line(
    write: Callable[..., Path], name: str, content: str | bytes, told: str
) -> None:
    file = write(name, content)
    with pytest.raises(UserError, match=told) as refused:
        read_history_file(file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)
