"""NaN and infinities: told apart from missing everywhere, and winners of nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cutaway.base import display
from cutaway.runs import Run, RunStore
from cutaway.stats.ties import rank

ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@pytest.fixture
def store(make: Callable[..., Run], tmp_path: Path) -> RunStore:
    """A good run and one for each number that is not finite, at its second step."""
    with make("good") as run:
        run.append([{"step": s, "loss": 3.0 - s, "acc": s / 2} for s in range(3)])
        run.finish({"loss": 1.0, "acc": 1.0})
    for name, value in ODD.items():
        with make(f"odd{name}") as run:
            run.append(
                [
                    {"step": 0, "loss": 3.0, "acc": 0.0},
                    {"step": 1, "loss": value, "acc": value},
                    {"step": 2, "loss": None, "acc": 0.25},
                ]
            )
            run.finish({"loss": value, "acc": 0.25, "undefined": None})
    return RunStore(tmp_path / "runs")


@pytest.mark.parametrize(
    "order", ["max(acc) AS best FROM history", "max(-loss) AS best FROM history"]
)
def test_what_is_not_finite_wins_no_ranking(store: RunStore, order: str) -> None:
    answer = store.sql(f"SELECT run, {order} GROUP BY run ORDER BY best DESC")
    assert answer["run"][0].as_py() == "good"
    ordered = store.sql("SELECT run FROM history WHERE step = 1 ORDER BY acc DESC LIMIT 1")
    assert ordered.to_pylist() == [{"run": "good"}]


def test_the_views_tell_it_apart_from_missing(store: RunStore) -> None:
    asked = "SELECT step, loss, acc, not_finite FROM {} WHERE run = 'odd{}' ORDER BY step"
    for name, value in ODD.items():
        rows = store.sql(asked.format("history", name)).to_pylist()
        assert [row["loss"] for row in rows] == [3.0, None, None]
        assert rows[0]["not_finite"] is None
        assert dict(rows[1]["not_finite"]) == {"loss": name, "acc": name}
        assert rows[2]["not_finite"] is None
        raw = store.sql(f"SELECT loss FROM raw.history WHERE run = 'odd{name}' ORDER BY step")
        _, odd, missing = raw["loss"].to_pylist()
        assert odd == value or (math.isnan(odd) and math.isnan(value))
        assert missing is None
    counted = store.sql("SELECT count(*) AS n FROM history WHERE not_finite['loss'] = 'NaN'")
    assert counted.to_pylist() == [{"n": 1}]


@pytest.mark.parametrize("odd", ["NaN", "Infinity"])
def test_conditions_on_it_hold_whatever_the_files_statistics_say(store: RunStore, odd: str) -> None:
    """Parquet's statistics leave NaN out, and DuckDB concludes from them what cannot be there."""

    def count(condition: str, table: str = "history") -> int:
        query = f"SELECT count(*) AS n FROM {table} WHERE run = 'odd{odd}' AND {condition}"
        return store.sql(query)["n"][0].as_py()

    assert count("loss IS NULL") == 2
    assert count("loss > 2") == count("loss IS NOT NULL") == 1
    assert count("not_finite IS NOT NULL") == 1
    assert count("isnan(loss)", "raw.history") == (odd == "NaN")
    assert count("loss > 1000", "raw.history") == 1
    assert count("NOT isfinite(loss)", "raw.history") == 1
    best = store.sql(f"SELECT max(acc) AS acc FROM raw.history WHERE run = 'odd{odd}'")
    assert str(best["acc"][0].as_py()) == {"NaN": "nan", "Infinity": "inf"}[odd]
    assert store.sql("SELECT max(acc) AS acc FROM history")["acc"].to_pylist() == [1.0]


def test_final_figures_are_null_and_named(store: RunStore) -> None:
    rows = store.sql("SELECT run, metrics.loss, not_finite FROM runs ORDER BY run").to_pylist()
    found = {row["run"]: row["not_finite"] and dict(row["not_finite"]) for row in rows}
    assert found == {"good": None} | {f"odd{name}": {"metrics.loss": name} for name in ODD}
    assert [row["loss"] for row in rows if row["run"] != "good"] == [None] * 3


def test_records_keep_it_through_the_disk(store: RunStore) -> None:
    for name, value in ODD.items():
        written = json.loads((store.root / f"odd{name}" / "run.json").read_text())["metrics"]
        assert (written["loss"], written["undefined"]) == (name, None)
        read = store.run(f"odd{name}").record.metrics["loss"]
        assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize("table", ["history", "raw.history"])
def test_json_is_json_and_csv_reads_back(
    store: RunStore, cutaway: Callable, tmp_path: Path, table: str
) -> None:
    query = f"SELECT step, loss AS train_loss FROM {table} WHERE run LIKE 'odd%' ORDER BY run, step"
    for arguments in (
        ("runs", "sql", query, "--runs", store.root),
        ("runs", "ls", store.root),
        ("runs", "show", store.root / "oddNaN"),
        ("runs", "compare", store.root / "oddNaN", store.root / "odd-Infinity"),
    ):
        code, out, err = cutaway(*arguments, "--json")
        assert code == 0, err
        json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    wanted = {"history": [""] * 3, "raw.history": ["-Infinity", "Infinity", "NaN"]}[table]
    out = cutaway("runs", "sql", query, "--runs", store.root, "--csv")[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["train_loss"] for row in rows if row["step"] == "1"] == wanted
    assert [row["train_loss"] for row in rows if row["step"] == "2"] == [""] * 3
    (tmp_path / "back.csv").write_text(out.replace("1,NaN", "11,NaN").replace("1,Inf", "12,Inf"))
    assert cutaway("runs", "import", tmp_path / "back.csv", "--out", tmp_path / "back")[0] == 0
    history = Run.open(tmp_path / "back").read()
    kept = [v for v in history["train_loss"].to_pylist() if v is not None and not math.isfinite(v)]
    assert len(kept) == {"history": 0, "raw.history": 3}[table]


def test_every_form_of_output_has_one_word_for_each() -> None:
    for name, value in ODD.items():
        row = {"a": value, "b": [value, None], "c": {"d": value}, "e": None}
        assert display.json_value(row) == {
            "a": name,
            "b": [name, None],
            "c": {"d": name},
            "e": None,
        }
        assert display.csv_text([{"a": value, "b": None}]) == f"a,b\n{name},\n"
        assert display.cell(value) == name
    assert display.cell(None) == "-"


def test_a_run_that_was_recorded_elsewhere_and_diverged_is_told_apart(
    cutaway: Callable, tmp_path: Path
) -> None:
    (tmp_path / "nan.jsonl").write_text(
        '{"step": 0, "train_loss": 2.0, "test_loss": 2.0}\n'
        '{"step": 10, "train_loss": NaN, "test_loss": null}\n'
        '{"step": 20, "train_loss": 0.5, "test_loss": Infinity}\n'
    )
    assert cutaway("runs", "import", "nan.jsonl")[0] == 0
    out = cutaway("runs", "sql", "SELECT step, not_finite FROM history ORDER BY step", "--json")[1]
    assert [row["not_finite"] for row in json.loads(out)] == [
        None,
        {"train_loss": "NaN"},
        {"test_loss": "Infinity"},
    ]


@pytest.mark.parametrize("odd", [*ODD.values(), None])
def test_a_ranking_puts_what_is_not_finite_last(odd: float | None) -> None:
    assert max([odd, 0.25, 0.5], key=rank) == 0.5
    assert sorted([0.5, odd, 0.25], key=rank)[0] is odd


def test_what_is_not_finite_is_named_among_many_columns_of_every_precision(tmp_path: Path) -> None:
    odd = {7: math.nan, 250: math.inf, 399: -math.inf}
    with Run.create(tmp_path / "wide", study="grokking", config={}) as run:
        columns = {
            f"it's {n}": pa.array([odd.get(n, 1.5), 2.5], pa.float32() if n % 2 else pa.float64())
            for n in range(400)
        }
        run.append_table("history", pa.table({"step": [0, 1], **columns}))
        run.finish({})
    first, second = RunStore(tmp_path).sql("FROM history ORDER BY step").to_pylist()
    assert dict(first.pop("not_finite")) == {
        "it's 7": "NaN",
        "it's 250": "Infinity",
        "it's 399": "-Infinity",
    }
    assert [first[f"it's {n}"] for n in range(400)] == [
        None if n in odd else 1.5 for n in range(400)
    ]
    assert second["not_finite"] is None
