"""All runs under a root: found, listed and queried, whatever else lies there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, RunStore, compare, find_run
from cutaway.runs.store import verify


@pytest.fixture
def store(make: Callable[..., Run], tmp_path: Path) -> RunStore:
    """Two finished runs, one in a group, and one that is being written."""
    for name, rate in (("first", 0.1), ("group/second", 0.2)):
        run = make(name, config={"learning_rate": rate, "size": 3})
        run.append([{"step": s, "val_loss": rate * (s + 1)} for s in range(10)])
        run.append_table("words", pa.table({"step": [1], "word": [f"word of {name}"]}))
        run.finish({"val_loss": rate * 10})
        run.close()
    live = make("live", config={"learning_rate": 1, "text": "x"})
    live.append([{"step": s, "val_loss": 5.0, "extra": s} for s in range(3)])
    return RunStore(tmp_path / "runs")


def test_runs_are_found_at_any_depth_with_their_derived_status(store: RunStore) -> None:
    found = {record.name: record.status for record in store.runs()}
    assert found == {"first": "done", "group/second": "done", "live": "running"}
    assert store.run("group/second").record.metrics == {"val_loss": 2.0}


def test_sql_sees_finished_grouped_and_live_runs_united_by_name(store: RunStore) -> None:
    answer = store.sql(
        "SELECT run, count(*) AS n, max(val_loss) AS worst, max(extra) AS extra "
        "FROM history GROUP BY run ORDER BY run"
    )
    assert answer.to_pylist() == [
        {"run": "first", "n": 10, "worst": 1.0, "extra": None},
        {"run": "group/second", "n": 10, "worst": 2.0, "extra": None},
        {"run": "live", "n": 3, "worst": 5.0, "extra": 2},
    ]


def test_sql_joins_settings_and_final_figures(store: RunStore) -> None:
    answer = store.sql(
        "SELECT run, config.learning_rate AS lr, config.text AS t, metrics.val_loss AS v, status "
        "FROM runs ORDER BY lr"
    )
    assert answer.to_pylist() == [
        {"run": "first", "lr": 0.1, "t": None, "v": 1.0, "status": "done"},
        {"run": "group/second", "lr": 0.2, "t": None, "v": 2.0, "status": "done"},
        {"run": "live", "lr": 1.0, "t": "x", "v": None, "status": "running"},
    ]


def test_every_instruments_table_is_a_view(store: RunStore) -> None:
    assert store.sql("SELECT run, word FROM words ORDER BY 1").to_pylist() == [
        {"run": "first", "word": "word of first"},
        {"run": "group/second", "word": "word of group/second"},
    ]
    assert store.sql("SHOW TABLES").to_pydict()["name"] == ["history", "runs", "words"]
    described = store.sql("DESCRIBE history").to_pylist()
    assert {row["column_name"]: row["column_type"] for row in described} == {
        "run": "VARCHAR",
        "step": "BIGINT",
        "val_loss": "DOUBLE",
        "extra": "BIGINT",
        "not_finite": "MAP(VARCHAR, VARCHAR)",
    }


def test_a_live_run_is_seen_to_grow(store: RunStore, make: Callable[..., Run]) -> None:
    run = make("grows")
    for count in (1, 2, 3):
        run.append([{"step": count, "val_loss": 1.0 + 2.0**-40}])
        answer = store.sql(
            "SELECT count(*) AS n, max(val_loss) AS v FROM history WHERE run = 'grows'"
        )
        assert answer.to_pylist() == [{"n": count, "v": 1.0 + 2.0**-40}]


def test_nan_is_the_worst_loss_not_the_best(store: RunStore, make: Callable[..., Run]) -> None:
    run = make("diverged")
    run.append([{"step": 0, "val_loss": float("nan")}])
    run.close()
    best = store.sql("SELECT run FROM history ORDER BY val_loss LIMIT 1").to_pylist()
    assert best == [{"run": "first"}]


def test_an_empty_or_missing_root_answers_with_nothing(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        store = RunStore(root)
        assert store.runs() == []
        assert store.sql("SELECT * FROM runs").num_rows == 0
        assert store.sql("SELECT run, step FROM history").num_rows == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunStore(tmp_path / "file")


def test_names_with_quotes_spaces_and_unicode_are_told_as_they_are(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    names = ["it's", "a b=1", "ünï ☃", "x*[1]", "gro'up/in ner"]
    for name in names:
        run = make(name)
        run.append([{"step": 0}])
        run.close()
    answer = RunStore(tmp_path / "runs").sql("SELECT run FROM history ORDER BY run")
    assert answer["run"].to_pylist() == sorted(names)


def test_configs_of_different_kinds_stand_side_by_side(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    for name, value in (("a", 1), ("b", "text"), ("c", [1, 2]), ("d", None)):
        make(name, config={"x": value, "y": 1 if name == "a" else 0.5}).close()
    answer = RunStore(tmp_path / "runs").sql(
        "SELECT config.x AS x, config.y AS y FROM runs ORDER BY run"
    )
    assert answer["x"].to_pylist() == ["1", "text", "[1, 2]", None]
    assert answer["y"].to_pylist() == [1.0, 0.5, 0.5, 0.5]


# -- what does not belong or is broken --------------------------------------------------------


def test_a_damaged_record_is_skipped_with_a_notice_and_the_others_listed(
    store: RunStore, capsys: pytest.CaptureFixture
) -> None:
    path = store.root / "first" / "run.json"
    path.write_text(path.read_text()[:100])
    assert [record.name for record in store.runs()] == ["group/second", "live"]
    store.runs()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{path}: damaged" in told
    assert "skipped" in told


@pytest.mark.parametrize("damage", ["cut", "empty", "no_magic", "footer", "page"])
def test_a_damaged_parquet_file_is_skipped_with_a_notice_and_the_rest_answers(
    store: RunStore, capsys: pytest.CaptureFixture, damage: str
) -> None:
    path = store.root / "first" / "history.parquet"
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    path.write_bytes(
        {
            "cut": content[:-10],
            "empty": b"",
            "no_magic": b"XXXX" + content[4:],
            "footer": content[: -8 - footer] + b"\xff" * footer + content[-8:],
            "page": content[:200] + b"\x55" * 60 + content[260:],
        }[damage]
    )
    answer = store.sql("SELECT run, max(val_loss) FROM history GROUP BY run ORDER BY run")
    assert answer["run"].to_pylist() == ["group/second", "live"]
    assert str(path) in capsys.readouterr().err


def test_a_text_column_in_one_history_does_not_turn_everybodys_into_text(
    store: RunStore, capsys: pytest.CaptureFixture
) -> None:
    path = store.root / "first" / "history.parquet"
    pq.write_table(pa.table({"step": [0], "val_loss": ["low"]}), path)
    answer = store.sql("SELECT max(val_loss) AS v FROM history WHERE run <> 'live'")
    assert answer.to_pylist() == [{"v": 2.0}]
    assert "column val_loss of a history is no number" in capsys.readouterr().err


def test_checkpoints_figures_and_hidden_folders_are_not_searched(
    store: RunStore, make: Callable[..., Run]
) -> None:
    source = store.root / "first"
    for inside in ("checkpoints", "figures", ".trash", "wandb"):
        shutil.copytree(source, store.root / "live" / inside / "copy")
    assert len(store.runs()) == 3


def test_a_run_behind_a_link_is_listed_and_queried(
    store: RunStore, make: Callable[..., Run], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    os.rename(store.root / "first", elsewhere)
    (store.root / "linked").symlink_to(elsewhere)
    (store.root / "loop").symlink_to(store.root)
    names = {record.name for record in store.runs()}
    assert {"linked", "live", "group/second"} <= names
    answer = store.sql("SELECT count(*) AS n FROM history WHERE run = 'linked'")
    assert answer.to_pylist() == [{"n": 10}]


def test_a_moved_run_goes_by_its_new_place(store: RunStore) -> None:
    os.rename(store.root / "first", store.root / "group" / "renamed")
    assert {record.name for record in store.runs()} == {"group/renamed", "group/second", "live"}


# -- what SQL may not do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{root}/stolen.csv'",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/stolen.csv'",
        "CREATE TABLE t (a INT)",
        "DROP VIEW history",
        "INSERT INTO runs VALUES (1)",
        "DELETE FROM runs",
        "ATTACH '{root}/stolen.db'",
        "EXPORT DATABASE '{root}/stolen'",
        "SET enable_external_access = true",
        "PRAGMA enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW history",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT nothing FROM history",
        "SELECT * FROM nowhere",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('{root}/../secret.csv')",
        "SELECT * FROM '{root}/../secret.csv'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_text('{root}/link')",
        "SELECT * FROM read_csv('https://example.com/x.csv')",
        "SELECT * FROM planted",
        "WITH x AS (SELECT * FROM read_text('/etc/hostname')) SELECT * FROM x",
        "SELECT 1/'a'::INT",
        "DESCRIBE SELECT * FROM '/etc/hostname'",
    ],
)
def test_a_query_that_writes_or_looks_elsewhere_is_refused_in_one_line(
    store: RunStore, tmp_path: Path, query: str
) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (store.root / "link").symlink_to("/etc/hostname")
    planted = pa.table({"a": [1]})  # DuckDB would find Python's variables by their name
    before = sorted(store.root.rglob("*"))
    with pytest.raises(UserError, match=r"^SQL: ") as error:
        store.sql(query.replace("{root}", str(store.root)))
    assert "\n" not in str(error.value)
    assert sorted(store.root.rglob("*")) == before
    assert len(planted) == 1


def test_every_form_of_question_is_allowed(store: RunStore) -> None:
    for query in (
        "FROM history",
        "WITH h AS (SELECT * FROM history) SELECT count(*) FROM h",
        "VALUES (1)",
        "SUMMARIZE history",
        "SELECT * FROM (DESCRIBE runs)",
        "select unnest([1, 2]);",
        'SELECT "run" FROM "history"',
        "SELECT * FROM History",
    ):
        assert store.sql(query).num_rows > 0, query


# -- one run out of many ----------------------------------------------------------------------


def test_a_run_is_found_by_path_and_by_name_and_else_the_nearest_is_named(store: RunStore) -> None:
    assert find_run(store.root / "first") == store.root / "first"
    assert find_run("group/second", store.root) == store.root / "group" / "second"
    with pytest.raises(UserError, match="did you mean 'first'"):
        find_run("frist", store.root)
    with pytest.raises(UserError, match="holds no run"):
        find_run(store.root / "group", store.root)


def test_a_store_knows_its_own_runs_only(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Run.create("first", study="other", config={}).close()
    assert store.run("first").record.study == "language"
    with pytest.raises(UserError, match="no run of this name"):
        store.run("elsewhere")


def test_live_tables_that_disagree_are_announced_and_the_rest_answers(
    store: RunStore, make: Callable[..., Run], capsys: pytest.CaptureFixture
) -> None:
    make("x").append_table("words", pa.table({"step": [1], "word": [["a list"]]}))
    make("y").append_table("words", pa.table({"step": [1], "word": [2.5]}))
    assert store.sql("SELECT count(*) AS n FROM words").to_pylist() == [{"n": 2}]
    assert "disagree" in capsys.readouterr().err


def test_verify_finds_every_damaged_file(store: RunStore, make: Callable[..., Run]) -> None:
    import torch

    run = make("whole")
    run.append([{"step": s, "loss": np.sin(s)} for s in range(300)])
    for step in (1, 2):
        run.checkpoints.save(step, {"model": {"w": torch.randn(100)}}, {})
    run.finish({})
    run.close()
    assert store.verify("whole") == []
    for name in ("history.parquet", "checkpoints/step-000002/model.safetensors"):
        content = bytearray((run.path / name).read_bytes())
        content[len(content) // 3] ^= 1
        (run.path / name).write_bytes(content)
    damages = sorted(verify(run.path), reverse=True)
    assert len(damages) == 2
    assert "history.parquet: damaged" in damages[0]
    assert "step-000002/model.safetensors: damaged" in damages[1]


def test_compare_shows_what_differs_and_all_final_figures(store: RunStore) -> None:
    rows = compare([store.run("first"), store.run("group/second")])
    assert rows[0] == {"of": "config", "field": "learning_rate", "first": 0.1, "second": 0.2}
    assert [row["field"] for row in rows if row["of"] == "config"] == ["learning_rate"]
    assert rows[-1] == {"of": "metrics", "field": "val_loss", "first": 1.0, "second": 2.0}


def test_records_are_read_again_only_when_they_change(store: RunStore) -> None:
    assert len(store.runs()) == 3
    path = store.root / "first" / "run.json"
    content = json.loads(path.read_text()) | {"study": "another study"}
    path.write_text(json.dumps(content))
    assert "another study" in {record.study for record in store.runs()}


@pytest.fixture
def finished(make: Callable[..., Run], tmp_path: Path) -> RunStore:
    """Two finished runs of two rows, the first with a table of words."""
    for index, name in enumerate(("a", "b")):
        with make(name) as run:
            run.append([{"step": s, "val_loss": index + s / 7} for s in range(2)])
            if name == "a":
                run.append_table("words", pa.table({"step": [1], "word": ["one"]}))
            run.finish({})
    return RunStore(tmp_path / "runs")


def _rows(store: RunStore) -> dict[str, int]:
    answer = store.sql("SELECT run, count(*) AS n FROM history GROUP BY run").to_pylist()
    return {row["run"]: row["n"] for row in answer}


def test_a_store_that_was_asked_before_answers_with_what_is_there_now(
    finished: RunStore, make: Callable[..., Run]
) -> None:
    assert _rows(finished) == _rows(finished) == {"a": 2, "b": 2}
    with make("c") as run:
        run.append([{"step": 0, "val_loss": 1.0}])
        assert _rows(finished) == {"a": 2, "b": 2, "c": 1}
        run.append([{"step": 1, "val_loss": 1.0}])
        assert _rows(finished) == {"a": 2, "b": 2, "c": 2}
        run.finish({})
    assert _rows(finished) == {"a": 2, "b": 2, "c": 2}
    history = finished.root / "a" / "history.parquet"
    pq.write_table(pa.table({"step": [0, 1, 2], "val_loss": [1.0, 2.0, 3.0]}), history)
    assert _rows(finished) == {"a": 3, "b": 2, "c": 2}
    shutil.rmtree(finished.root / "b")
    assert _rows(finished) == {"a": 3, "c": 2}


def test_a_store_asked_for_one_table_then_another_knows_both(finished: RunStore) -> None:
    for _ in range(2):
        assert _rows(finished) == {"a": 2, "b": 2}
        assert finished.sql("SELECT word FROM words").to_pylist() == [{"word": "one"}]
        assert finished.sql("SHOW TABLES").to_pydict()["name"] == ["history", "runs", "words"]


def test_a_file_damaged_after_the_first_query_is_left_out_of_the_next(
    finished: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _rows(finished) == {"a": 2, "b": 2}
    path = finished.root / "b" / "history.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\x55" * 60 + content[260:])
    answer = finished.sql("SELECT run, max(val_loss) FROM history GROUP BY run ORDER BY run")
    assert answer["run"].to_pylist() == ["a"]
    assert str(path) in capsys.readouterr().err


def test_threads_may_ask_one_store(finished: RunStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _rows(finished), range(40)))
    assert answers == [{"a": 2, "b": 2}] * 40
