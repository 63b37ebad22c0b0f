"""`cutaway runs ...` as a person types it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.runs import Run


@pytest.fixture
def root(make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two runs under `runs/`."""
    for name, loss in (("one", 3.5), ("two", 2.5)):
        run = make(name, config={"learning_rate": loss / 100, "size": 4}, steps_planned=10)
        run.append([{"step": s, "val_loss": loss} for s in range(5)])
        run.save_record(steps_done=10)
        run.finish({"val_loss": loss})
        run.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def cutaway(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; its exit code, stdout and stderr."""
    from cutaway.cli.main import run

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_ls_lists_runs_as_table_json_and_csv(root: Path, cutaway: Callable) -> None:
    code, out, _ = cutaway("runs", "ls")
    assert code == 0
    assert "one" in out
    assert "val_loss 3.5" in out
    rows = json.loads(cutaway("runs", "ls", "--json")[1])
    assert [(r["run"], r["status"], r["metrics.val_loss"]) for r in rows] == [
        ("one", "done", 3.5),
        ("two", "done", 2.5),
    ]
    table = list(csv.DictReader(io.StringIO(cutaway("runs", "ls", "--csv", "--runs", root)[1])))
    assert [row["run"] for row in table] == ["one", "two"]


def test_ls_of_nothing_is_no_error(tmp_path: Path, cutaway: Callable) -> None:
    assert cutaway("runs", "ls", "--runs", tmp_path)[:2] == (0, "")


def test_show_tells_record_tables_and_settings(root: Path, cutaway: Callable) -> None:
    for reference in ("one", root / "one", "runs/one"):
        code, out, _ = cutaway("runs", "show", reference)
        assert code == 0
        assert "config.learning_rate" in out
    (facts,) = json.loads(cutaway("runs", "show", "one", "--json")[1])
    assert facts["tables"] == {"history": 5}
    assert facts["metrics"] == {"val_loss": 3.5}


def test_show_has_a_line_for_each_nested_setting(root: Path, cutaway: Callable) -> None:
    path = root / "one" / "run.json"
    record = json.loads(path.read_text())
    settings = {f"field_{number}": number / 7 for number in range(100)}
    record["resolved"] = {"settings": settings, "measured": list(range(500))}
    record["parents"] = [{"kind": "activations", "id": "states"}]
    path.write_text(json.dumps(record))
    _, out, _ = cutaway("runs", "show", "one")
    lines = [line.split() for line in out.splitlines()]
    assert ["resolved.settings.field_7", "1"] in lines
    assert ["parents.0.id", "states"] in lines
    assert max(map(len, out.splitlines())) < 300
    (facts,) = json.loads(cutaway("runs", "show", "one", "--json")[1])
    assert facts["resolved"] == record["resolved"]


def test_sql_answers(root: Path, cutaway: Callable) -> None:
    query = "SELECT run, min(val_loss) AS best FROM history GROUP BY run ORDER BY best"
    assert json.loads(cutaway("runs", "sql", query, "--json")[1]) == [
        {"run": "two", "best": 2.5},
        {"run": "one", "best": 3.5},
    ]
    assert cutaway("runs", "sql", query, "--csv")[1] == "run,best\ntwo,2.5\none,3.5\n"
    assert "two" in cutaway("runs", "sql", query)[1]


def test_compare_puts_runs_side_by_side(root: Path, cutaway: Callable) -> None:
    rows = json.loads(cutaway("runs", "compare", "one", "two", "--json")[1])
    assert {"of": "config", "field": "learning_rate", "one": 0.035, "two": 0.025} in rows
    assert {"of": "metrics", "field": "val_loss", "one": 3.5, "two": 2.5} in rows


def test_verify_ends_with_1_where_a_file_is_damaged(root: Path, cutaway: Callable) -> None:
    assert cutaway("runs", "verify", "one")[0] == 0
    (root / "one" / "history.parquet").write_bytes(b"PAR1")
    code, _, err = cutaway("runs", "verify", "one")
    assert code == 1
    assert "history.parquet: damaged" in err
    code, out, _ = cutaway("runs", "verify", "one", "--json")
    assert code == 1
    assert len(json.loads(out)) == 1


def test_rm_deletes_with_yes_only(root: Path, cutaway: Callable) -> None:
    command = [sys.executable, "-m", "cutaway.cli.main", "runs", "rm", "one"]
    del command[1:3]
    command[1:1] = ["-c", "from cutaway.cli.main import main; main()"]
    asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert (root / "one").exists()
    assert cutaway("runs", "rm", "one", "two", "--yes")[0] == 0
    assert os.listdir(root) == []


def test_rm_refuses_a_run_that_is_being_written_and_deletes_none(
    root: Path, cutaway: Callable, make: Callable[..., Run]
) -> None:
    make("live")
    code, _, err = cutaway("runs", "rm", "one", "live", "--yes")
    assert code == 2
    assert f"being written by process {os.getpid()}" in err
    assert sorted(os.listdir(root)) == ["live", "one", "two"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "oen"], "did you mean 'one'"),
        (["show", "runs"], "holds no run"),
        (["ls", "nowhere"], "nowhere: no such folder"),
        (["ls", "--json", "--csv"], "choose one"),
        (["sql", "DROP TABLE runs"], "only SELECT"),
        (["sql", "SELECT * FROM hisotry"], "SQL: Catalog Error"),
        (["sql", "SELECT 1", "--runs", "nowhere"], "nowhere: no such folder"),
        (["compare", "one"], "name at least two runs"),
        (["rm"], "name at least one run"),
        (["rm", "three", "--yes"], "no run of this name or path"),
        (["verify", "three"], "no run of this name or path"),
    ],
)
def test_a_wrong_request_ends_with_2_and_one_line(
    root: Path, cutaway: Callable, arguments: list[str], told: str
) -> None:
    code, out, err = cutaway("runs", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
