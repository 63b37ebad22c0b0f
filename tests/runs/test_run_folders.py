"""A run's folder: made whole or not at all, written by one, readable by all, gone on with."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from conftest import PATIENCE
from cutaway.base.errors import UserError
from cutaway.runs import Run, lock

WRITER = """
    import sys, time
    from cutaway.runs import Run, table
    table.TAIL_ROWS, table.MAX_PARTS = 30, 3
    folder, first = sys.argv[1], int(sys.argv[2])
    if first < 0:
        run, first = Run.create(folder, study="language", config={}), 0
    else:
        run = Run.resume(folder)
        run.truncate(first)
    print("begun", flush=True)
    for step in range(first, 10**9):
        run.append([{"step": step, "loss": step / 2}])
        if step % 10 == 0:
            run.append([{"step": step, "norm": 1.0}], "norms")
"""

HOLDER = """
    import sys, time
    from cutaway.runs import Run
    run = Run.create(sys.argv[1], study="language", config={})
    run.append([{"step": 0, "loss": 1.0}])
    print("begun", flush=True)
    time.sleep(60)
"""


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Until `condition()`; fails after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def steps(run: Run, table: str = "history") -> list[int]:
    found = run.read(table)
    return [] if found is None else found["step"].to_pylist()


# -- making one -------------------------------------------------------------------------------


def test_a_new_run_has_its_record_and_a_config_that_can_be_read_back(
    make: Callable[..., Run],
) -> None:
    config = {"learning_rate": 1e-8, "text": "1e-8", "yes": True, "none": None, "name": "é: ü"}
    run = make(config=config, seed=7, steps_planned=50, resolved={"device": "cpu"})
    content = json.loads((run.path / "run.json").read_text())
    assert content["format"] == 1
    assert (content["study"], content["seed"], content["steps_planned"]) == ("language", 7, 50)
    assert (content["status"], content["device"]) == ("running", "cpu")
    assert (content["pid"], content["host"]) == (os.getpid(), platform.node())
    assert content["versions"]["torch"]
    assert content["config"] == config
    read = YAML(typ="safe", pure=True).load((run.path / "config.yaml").read_text())
    assert read == {"study": "language", **config}


def test_a_run_that_ends_well_leaves_figures_and_folded_tables(make: Callable[..., Run]) -> None:
    run = make()
    run.append([{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}])
    run.append_table("words", pa.table({"step": [1], "word": ["hello"]}))
    run.finish({"val_loss": 3.25, "odd": float("nan")})
    run.close()
    left = {entry.name for entry in run.path.iterdir() if entry.name[0] != "."}
    assert left == {
        *("run.json", "config.yaml", "history.parquet", "words.parquet", "checksums.json")
    }
    again = Run.open(run.path)
    assert again.status == "done"
    assert again.record.metrics["val_loss"] == 3.25
    assert math.isnan(again.record.metrics["odd"])
    assert json.loads((run.path / "run.json").read_text())["metrics"]["odd"] == "NaN"
    assert again.record.finished >= again.record.started
    assert again.tables() == ["history", "words"]
    assert steps(again) == [0, 1]


def test_a_failed_run_says_at_which_step_and_why(make: Callable[..., Run]) -> None:
    run = make()
    run.fail("loss became NaN", step=41)
    assert Run.open(run.path).record.reason == "step 41: loss became NaN"
    assert (run.status, run.record.steps_attempted) == ("failed", 42)


@pytest.mark.parametrize("name", ["with space", "ünïcode ☃", "a=b", "star*[x]", "deep/er/still"])
def test_any_folder_name_will_do(make: Callable[..., Run], name: str) -> None:
    run = make(name)
    run.append([{"step": 0, "loss": 1.0}])
    run.close()
    assert steps(Run.open(run.path)) == [0]


def test_a_folder_that_holds_a_run_is_refused(make: Callable[..., Run]) -> None:
    run = make()
    run.close()
    with pytest.raises(UserError, match=r"holds another run; .*--resume.*--out"):
        make()


def test_a_folder_in_other_use_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    (tmp_path / "letters" / "b.txt").write_text("sir")
    with pytest.raises(UserError, match=r"not empty \(holds a\.txt and 1 more\)"):
        Run.create(tmp_path / "letters", study="language", config={})
    assert sorted(os.listdir(tmp_path / "letters")) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file"):
        Run.create(tmp_path / "file" / below, study="language", config={})
    assert os.listdir(tmp_path) == ["file"]


def test_a_config_that_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    for wrong in ({"a": float("inf")}, {"a": object()}):
        with pytest.raises(UserError, match="config: cannot be written as JSON"):
            Run.create(tmp_path / "run", study="language", config=wrong)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, process: Callable) -> None:
    one = process(
        """
        import resource, sys
        from cutaway.base.errors import UserError
        from cutaway.runs import Run
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        try:
            Run.create(sys.argv[1], study="language", config={"a": "x" * 1000})
        except UserError as error:
            print(error)
        """,
        tmp_path / "new" / "run",
    )
    out, err = one.communicate()
    assert "cannot write: File too large" in out, err
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_running_fails_with_one_line_and_keeps_whole_rows(
    tmp_path: Path, process: Callable
) -> None:
    one = process(
        """
        import resource, sys
        from cutaway.base.errors import RunFailed
        from cutaway.runs import Run
        run = Run.create(sys.argv[1], study="language", config={})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            for step in range(10**6):
                run.append([{"step": step, "loss": 1 / (step + 3)}])
        except RunFailed as error:
            print(step, error)
            run.fail(error.reason, step)
        run.close()
        """,
        tmp_path / "run",
    )
    out, err = one.communicate()
    assert one.returncode == 0, err
    step, _, told = out.partition(" ")
    assert "cannot write: File too large" in told
    run = Run.open(tmp_path / "run")
    assert run.status == "failed"
    assert steps(run) == list(range(int(step)))


# -- one process at a time --------------------------------------------------------------------


def test_a_second_process_on_the_same_run_is_refused_with_the_firsts_id_and_host(
    tmp_path: Path, process: Callable
) -> None:
    holder = process(HOLDER, tmp_path / "run")
    assert holder.stdout.readline() == "begun\n"
    told = f"being written by process {holder.pid} on {platform.node()}"
    with pytest.raises(UserError, match=told):
        Run.resume(tmp_path / "run")
    with pytest.raises(UserError, match=told):
        Run.create(tmp_path / "run", study="language", config={})
    with pytest.raises(UserError, match=told):
        Run.remove(tmp_path / "run")
    reader = Run.open(tmp_path / "run")
    assert (reader.status, steps(reader)) == ("running", [0])


def test_the_lock_falls_with_kill_9_and_readers_see_interrupted(
    tmp_path: Path, process: Callable
) -> None:
    holder = process(HOLDER, tmp_path / "run")
    holder.stdout.readline()
    holder.kill()
    wait_for(lambda: Run.open(tmp_path / "run").status == "interrupted")
    with Run.resume(tmp_path / "run") as run:
        assert Run.open(tmp_path / "run").status == "running"
        assert run.record.pid == os.getpid()
        run.finish({})
    assert Run.open(tmp_path / "run").status == "done"


def test_a_child_that_outlives_its_killed_parent_does_not_hold_the_run(
    tmp_path: Path, process: Callable
) -> None:
    one = process(
        """
        import os, sys, time
        from cutaway.runs import Run
        run = Run.create(sys.argv[1], study="language", config={})
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
        """,
        tmp_path / "run",
    )
    child = int(one.stdout.readline())
    one.kill()
    one.wait()
    try:
        Run.resume(tmp_path / "run").close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_id_given_to_another_process_does_not_pass_for_the_first(
    make: Callable[..., Run],
) -> None:
    run = make()
    owner = json.loads((run.path / lock.OWNER).read_text())
    assert lock.alive(run.path)
    (run.path / lock.OWNER).write_text(json.dumps({**owner, "ticks": owner["ticks"] + 1}))
    assert not lock.alive(run.path)
    assert Run.open(run.path).status == "interrupted"


def test_a_process_on_another_host_is_known_by_its_heartbeat(make: Callable[..., Run]) -> None:
    run = make()
    path = run.path / lock.OWNER
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "host": "elsewhere", "pid": 1}))
    assert Run.open(run.path).status == "running"
    old = time.time() - 1.5 * lock.SILENCE
    os.utime(path, (old, old))
    assert Run.open(run.path).status == "interrupted"


def test_the_heartbeat_beats(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    path = make().path / lock.OWNER
    os.utime(path, (1, 1))
    wait_for(lambda: path.stat().st_mtime > time.time() - 5)


def test_two_processes_that_create_one_run_at_once_make_one(
    tmp_path: Path, process: Callable
) -> None:
    code = """
        import sys, time
        from cutaway.base.errors import UserError
        from cutaway.runs import Run
        time.sleep(max(0, float(sys.argv[2]) - time.time()))
        try:
            run = Run.create(sys.argv[1], study="language", config={})
            print("made", flush=True)
            sys.stdin.read()  # it has the run until all have been told
        except UserError as error:
            print(error, flush=True)
    """
    start = time.time() + 1.5
    racers = [process(code, tmp_path / "run", start) for _ in range(4)]
    told = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate()
    assert told.count("made") == 1
    assert all("being written by process" in one for one in told if one != "made")


def test_two_runs_under_one_root_do_not_disturb_each_other(
    tmp_path: Path, process: Callable
) -> None:
    writers = [process(WRITER, tmp_path / "runs" / name, -1) for name in "ab"]
    for writer in writers:
        writer.stdout.readline()
    for name in "ab":
        wait_for(lambda name=name: len(steps(Run.open(tmp_path / "runs" / name))) > 100)
    for writer in writers:
        writer.kill()
        writer.wait()
    for name in "ab":
        run = Run.open(tmp_path / "runs" / name)
        found = steps(run)
        assert len(found) > 100
        assert found == list(range(len(found)))
        assert run.read()["loss"].to_pylist() == [step / 2 for step in found]


# -- going on ---------------------------------------------------------------------------------


def test_killed_at_random_moments_and_resumed_there_is_no_gap_and_no_duplicate(
    tmp_path: Path, process: Callable
) -> None:
    draw = random.Random(0)
    first = -1
    for _ in range(6):
        writer = process(WRITER, tmp_path / "run", first)
        assert writer.stdout.readline() == "begun\n", writer.stderr.read()
        time.sleep(draw.uniform(0.0, 0.25))
        writer.kill()
        writer.wait()
        run = Run.open(tmp_path / "run")
        found = steps(run)
        assert found == list(range(len(found)))
        norms = [step for step in found if step % 10 == 0]
        assert steps(run, "norms") in (norms, norms[:-1])  # killed between the two tables
        first = draw.randint(0, max(len(found) - 1, 0))  # the checkpoint a resume begins from
    with Run.resume(tmp_path / "run") as run:
        run.truncate(first)
        assert steps(run) == list(range(first))
        assert all(step < first for step in steps(run, "norms"))
    assert not list((tmp_path / "run").glob("*.live"))


def test_seconds_count_over_resumes(make: Callable[..., Run]) -> None:
    run = make()
    run.save_record(seconds=100.0)
    run.interrupt("SIGTERM")
    run.close()
    assert Run.open(run.path).record.reason == "SIGTERM"
    with Run.resume(run.path) as again:
        time.sleep(0.05)
        again.finish({})
    assert 100.05 <= Run.open(run.path).record.seconds < 100 + PATIENCE
    assert Run.open(run.path).record.reason is None


def test_resume_needs_a_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds no run"):
            Run.resume(place)
    assert os.listdir(tmp_path) == []


def test_a_reader_cannot_write(make: Callable[..., Run]) -> None:
    run = make()
    run.close()
    reader = Run.open(run.path)
    for act in (
        lambda: reader.append([{"step": 0}]),
        lambda: reader.save_record(seed=1),
        lambda: reader.truncate(0) or reader.finish({}),
    ):
        with pytest.raises(RuntimeError, match="open for reading only"):
            act()


def test_a_checkpoint_puts_rows_and_record_on_the_disk_first(make: Callable[..., Run]) -> None:
    run = make()
    run.append([{"step": 0, "loss": 1.0}])
    run.record.steps_done = 5
    run.checkpoints.save(5, {"model": {}}, {})
    assert Run.open(run.path).record.steps_done == 5


# -- the record -------------------------------------------------------------------------------


def test_unknown_keys_of_a_record_are_kept(make: Callable[..., Run]) -> None:
    run = make()
    run.close()
    content = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**content, "mood": {"x": 1}}))
    with Run.resume(run.path):
        pass
    assert json.loads((run.path / "run.json").read_text())["mood"] == {"x": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "damaged, not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"format": 2}', "format 2 is newer than this cutaway reads (1)"),
        ('{"hello": 1}', "not a run's record: format = None"),
        ('{"format": 1, "name": "x"}', "study: Field required"),
        ('{"format": 1, "name": "x", "study": "s", "status": "odd"}', "status: "),
        (b"\xff\xfe\x00garbage", "damaged, not JSON"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        Run.open(tmp_path)
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_field_of_the_record_is_refused(make: Callable[..., Run]) -> None:
    with pytest.raises(TypeError, match="stpes_done"):
        make().save_record(stpes_done=3)


def test_the_git_commit_is_recorded_where_there_is_one(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    assert make("a").record.git_commit is None
    monkeypatch.setenv("PATH", str(outside))
    assert make("b").record.git_commit is None


def test_a_run_is_removed_whole(make: Callable[..., Run]) -> None:
    run = make()
    run.append([{"step": 0}])
    run.close()
    Run.remove(run.path)
    assert os.listdir(run.path.parent) == []


def test_a_folder_that_holds_other_runs_is_not_removed(make: Callable[..., Run]) -> None:
    outer, inner = make("group"), make("group2/inner")
    outer.close()
    inner.close()
    os.rename(inner.path, outer.path / "inner")
    with pytest.raises(UserError, match=r"holds other runs \(inner"):
        Run.remove(outer.path)
    assert (outer.path / "inner" / "run.json").exists()


@pytest.mark.parametrize("kind", ["link", "link to a folder", "dead link", "pipe"])
def test_what_was_added_and_has_no_content_is_named_by_verify(
    kind: str, make: Callable[..., Run], cutaway: Callable
) -> None:
    run = make()
    run.finish({})
    run.close()
    added = run.path / "added"
    if kind == "pipe":
        os.mkfifo(added)
    else:
        added.symlink_to({"link": "config.yaml", "dead link": "gone"}.get(kind, run.path.parent))
    code, _, err = cutaway("runs", "verify", run.path)
    assert code == 0
    assert "not compared: added" in err
