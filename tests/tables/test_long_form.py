"""Histories in long form and in pandas' JSON: the figures of a table of one row per step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.tables.recorded_runs import read_history_file, read_recorded

WIDE = {"step": [0, 10], "train_loss": [3.0, 2.0], "val_loss": [3.5, 2.5]}
NAMES = list(WIDE)
ROWS = [list(row) for row in zip(*WIDE.values(), strict=True)]
TAGGED = [
    ("train_loss", 0, 3.0),
    ("val_loss", 0, 3.5),
    ("train_loss", 10, 2.0),
    ("val_loss", 10, 2.5),
]


def csv(*rows: tuple) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def long(key: str, value: str, *more: tuple) -> str:
    return csv((key, "step", value), *TAGGED, *more)


PARTED = [("train", 0, 3.0), ("val", 0, 3.5), ("train", 10, 2.0), ("val", 10, 2.5)]
FORMS = {
    "tag.csv": long("tag", "value"),
    "metric.csv": long("Metric", "Value"),
    "variable.csv": csv(("variable", "epoch", "value"), *TAGGED),
    "split.csv": csv(("split", "step", "loss"), *PARTED),
    "other-word.csv": csv(("portion", "step", "loss"), *PARTED),
    "two-keys.csv": csv(
        ("metric", "step", "value", "split"),
        *(("loss", step, value, part) for part, step, value in PARTED),
    ),
    "numbered.csv": csv(("", "tag", "step", "value"), *((n, *row) for n, row in enumerate(TAGGED))),
    "untagged-row.csv": long("tag", "value", ("", 10, 99.0)),
    "again.csv": csv(("tag", "step", "value"), ("val_loss", 10, 99.0), *TAGGED),
    "lines.jsonl": "".join(
        json.dumps(dict(zip(("tag", "step", "value"), row, strict=True))) + "\n" for row in TAGGED
    ),
    "split.json": json.dumps({"columns": NAMES, "index": [0, 1], "data": ROWS}),
    "square.json": json.dumps({"columns": NAMES, "index": [0, 1, 2], "data": [*ROWS, ROWS[-1]]}),
    "columns.json": json.dumps(
        {name: {str(row): one for row, one in enumerate(values)} for name, values in WIDE.items()}
    ),
    "table.json": json.dumps(
        {"schema": {"fields": []}, "data": [dict(zip(NAMES, row, strict=True)) for row in ROWS]}
    ),
    "long-split.json": json.dumps({"columns": ["tag", "step", "value"], "data": TAGGED}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_figures_of_the_wide_one(name, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name])
    found = read_history_file(tmp_path / name)
    assert found.history.to_pydict() == WIDE
    assert ("a row for each" in str(found.notices)) == (
        name.endswith(("csv", "jsonl")) or "long" in name
    )


def test_a_lone_series_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(csv(("tag", "step", "value"), ("val_loss", 0, 3.5)))
    assert read_history_file(tmp_path / "one.csv").history.to_pydict() == {
        "step": [0],
        "val_loss": [3.5],
    }


def test_runs_in_long_form_are_told_apart(tmp_path: Path) -> None:
    rows = [(run, tag, step, value + (run == "b")) for run in "ab" for tag, step, value in TAGGED]
    (tmp_path / "runs.csv").write_text(csv(("run", "tag", "step", "value"), *rows))
    first, second = read_recorded([tmp_path / "runs.csv"])
    assert first.content.history.to_pydict() == WIDE
    assert second.content.history["val_loss"].to_pylist() == [4.5, 3.5]


def test_texts_that_are_times_are_no_series(tmp_path: Path) -> None:
    rows = [("time", "step", "loss"), ("9:00", 0, 3.0), ("9:01", 0, 2.5), ("9:02", 10, 2.0)]
    (tmp_path / "times.csv").write_text(csv(*rows))
    found = read_history_file(tmp_path / "times.csv")
    assert found.history.to_pydict() == {"step": [0, 10], "train_loss": [2.5, 2.0]}


@pytest.mark.parametrize("key", ["name", "note"])
def test_a_text_that_is_the_same_in_every_row_is_no_series(key, tmp_path: Path) -> None:
    rows = [(key, "step", "loss"), *(("mine", step, step / 10) for step in (0, 10, 10, 20))]
    (tmp_path / "resumed.csv").write_text(csv(*rows))
    assert read_history_file(tmp_path / "resumed.csv").history.to_pydict() == {
        "step": [0, 10, 20],
        "train_loss": [0.0, 1.0, 2.0],
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ROWS, "0 is no time"),
        ({"columns": NAMES, "data": [[1, 2]]}, "expected rows of 3 values"),
        ({"columns": ["step", "loss", "loss"], "data": ROWS}, "holds a name twice"),
        ({"columns": NAMES, "data": [None]}, "expected rows of 3 values"),
    ],
)
def test_lists_whose_columns_are_not_known_are_refused(content, told, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=told):
        read_history_file(tmp_path / "odd.json")
