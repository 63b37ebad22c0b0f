"""SQL beside writers: an answer counts only if nothing it was read from changed meanwhile.

The store has a hook between planning a query and reading the files; the tests replace files there,
so that what other processes do by chance happens here every time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.base.errors import UserError
from cutaway.runs import Run, RunStore
from cutaway.runs import query as queries

ASKED = """SELECT run, count(*) AS n, count(DISTINCT step) AS steps, max(loss) AS most
           FROM history GROUP BY run ORDER BY run"""


@pytest.fixture
def finished(make: Callable[..., Run], tmp_path: Path) -> RunStore:
    """Two finished runs of 200 rows, loss = 1000 − step, with a store that was asked before."""
    for name in ("a", "b"):
        with make(name) as run:
            run.append([{"step": s, "loss": 1000.0 - s} for s in range(200)])
            run.finish({})
    store = RunStore(tmp_path / "runs")
    assert store.sql(ASKED).num_rows == 2
    return store


def meanwhile(store: RunStore, *happenings: Callable[[], None]) -> list[int]:
    """Let each of `happenings` take place between planning and reading, at one attempt each; the
    list that is returned grows by one with every attempt."""
    attempts: list[int] = []

    def hook() -> None:
        attempts.append(len(attempts))
        if len(attempts) <= len(happenings):
            happenings[len(attempts) - 1]()

    store._queries.before_reading = hook
    return attempts


def replace_history(folder: Path, rows: int, value: float) -> None:
    """Another history in its place, written beside it and moved there, as the writers do."""
    table = pa.table({"step": list(range(rows)), "loss": [value] * rows})
    pq.write_table(table, folder / ".new.tmp")
    os.replace(folder / ".new.tmp", folder / "history.parquet")


def line(run: str, rows: int, most: float) -> dict:
    return {"run": run, "n": rows, "steps": rows, "most": most}


def test_a_file_replaced_while_it_is_read_is_read_again(finished: RunStore) -> None:
    attempts = meanwhile(finished, lambda: replace_history(finished.root / "b", 50, 7.0))
    assert finished.sql(ASKED).to_pylist() == [line("a", 200, 1000.0), line("b", 50, 7.0)]
    assert len(attempts) == 2


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_noticed(finished: RunStore) -> None:
    path = finished.root / "b" / "history.parquet"
    state = path.stat()

    def copy() -> None:
        shutil.copy2(path, path.with_name(".new.tmp"))
        os.replace(path.with_name(".new.tmp"), path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    attempts = meanwhile(finished, copy)
    assert finished.sql(ASKED).num_rows == 2
    assert len(attempts) == 2


def test_a_file_that_is_replaced_each_time_is_copied_first(finished: RunStore) -> None:
    """Readers of a run that is rewritten all the time still come to an end, with the right rows."""
    rows = iter(range(51, 500))
    many = [lambda: replace_history(finished.root / "b", next(rows), 7.0)] * 400
    attempts = meanwhile(finished, *many)
    answer = finished.sql(ASKED).to_pylist()
    assert answer[0] == line("a", 200, 1000.0)
    assert answer[1] == line("b", answer[1]["n"], 7.0)
    assert len(attempts) == 2


def test_a_run_moved_while_it_is_read_is_counted_once_under_its_new_name(
    finished: RunStore,
) -> None:
    meanwhile(finished, lambda: os.rename(finished.root / "a", finished.root / "c"))
    assert finished.sql(ASKED).to_pylist() == [line("b", 200, 1000.0), line("c", 200, 1000.0)]


def test_a_run_deleted_while_it_is_read_is_gone(finished: RunStore) -> None:
    meanwhile(finished, lambda: Run.remove(finished.root / "a"))
    assert finished.sql(ASKED).to_pylist() == [line("b", 200, 1000.0)]


@pytest.fixture
def writer(make: Callable[..., Run]) -> Iterator[Run]:
    """A run of 100 rows that is being written."""
    with make("w") as run:
        run.append([{"step": s, "loss": 1000.0 - s} for s in range(100)])
        yield run


@pytest.mark.parametrize("rows", [100, 130])
def test_rows_that_a_run_folds_at_its_end_are_neither_twice_there_nor_missing(
    finished: RunStore, writer: Run, rows: int
) -> None:
    def end() -> None:
        writer.append([{"step": s, "loss": 1000.0 - s} for s in range(100, rows)])
        writer.finish({})
        writer.close()

    meanwhile(finished, end)
    # What was there when the query began, or what is there now; nothing between the two.
    found = {row["run"]: row for row in finished.sql(ASKED).to_pylist()}["w"]
    assert found in (line("w", 100, 1000.0), line("w", rows, 1000.0))
    found = {row["run"]: row for row in finished.sql(ASKED).to_pylist()}["w"]
    assert found == line("w", rows, 1000.0)


def test_a_finished_run_that_is_resumed_from_a_checkpoint_meanwhile_has_each_row_once(
    finished: RunStore,
) -> None:
    def go_on() -> None:
        with Run.resume(finished.root / "a") as run:
            run.truncate(150)
            run.append([{"step": s, "loss": 2000.0 - s} for s in range(150, 300)])
            run.finish({})

    attempts = meanwhile(finished, go_on)
    assert finished.sql(ASKED).to_pylist() == [line("a", 300, 1850.0), line("b", 200, 1000.0)]
    assert len(attempts) == 2


def test_a_folder_that_never_rests_is_named_in_one_line(
    finished: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "ATTEMPTS", 3)
    folder = finished.root / "b"

    def swap() -> None:
        shutil.copytree(folder, finished.root / ".copy")
        shutil.rmtree(folder)
        os.rename(finished.root / ".copy", folder)

    attempts = meanwhile(finished, *[swap] * 10)
    with pytest.raises(UserError, match="replaced or changed during each of 3 attempts") as error:
        finished.sql(ASKED)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(attempts) == 3


def test_real_writers_that_are_killed_and_resumed_are_read_right(tmp_path: Path) -> None:
    """The benchmark beside_writers.py in small: every answer it gets is checked row by row."""
    import subprocess
    import sys

    script = Path(__file__).resolve().parents[2] / "benchmarks" / "beside_writers.py"
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 wrong;" in done.stdout


@pytest.mark.parametrize("gone", ["record", "folder"])
def test_a_run_that_goes_while_its_folder_is_listed_is_not_there_and_disables_no_other(
    gone: str, finished: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Between the names in a folder and the look at each of them another process deletes or moves it."""
    folder = finished.root / "a"
    listing = os.scandir

    def scandir(path: Path) -> contextlib.AbstractContextManager:
        entries = list(listing(path))
        if str(path) == str(folder):
            (folder / "run.json").unlink(missing_ok=True)
            if gone == "folder":
                shutil.rmtree(folder, ignore_errors=True)
        return contextlib.nullcontext(iter(entries))

    monkeypatch.setattr(os, "scandir", scandir)
    assert finished.sql(ASKED)["run"].to_pylist() == ["b"]
    assert [one.name for one in finished.runs()] == ["b"]
    assert "skipped" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["sql", "SELECT 1"]])
def test_a_root_that_cannot_be_read_is_an_error_not_an_empty_one(
    words: list[str], finished: RunStore, cutaway, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path):
        if str(path) == str(finished.root):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    code, out, err = cutaway("runs", *words, "--runs", finished.root)
    assert (code, out) == (2, "")
    assert err == f"cutaway: {finished.root}: cannot read: Permission denied\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_be_listed_and_not_entered_is_named(
    finished: RunStore, capsys: pytest.CaptureFixture
) -> None:
    (finished.root / "a").chmod(0o400)
    try:
        assert finished.sql(ASKED)["run"].to_pylist() == ["b"]
    finally:
        (finished.root / "a").chmod(0o700)
    assert "a/run.json: cannot read" in capsys.readouterr().err
