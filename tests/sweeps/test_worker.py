"""What a worker tells of its unit: each run's own end, whatever ended the unit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from conftest import command
from cutaway.base.errors import RunFailed, UserError
from cutaway.cli.main import run
from cutaway.grokking.task import GrokkingTask
from cutaway.runs.folder import Run
from cutaway.studies import together
from cutaway.sweeps.worker import Worker
from sweeps.test_execute import LONG, finished, has_saved, statuses, wait_until, writer

SMALL = {
    "p": 11, "model_type": "baseline", "hidden_dim": 16, "n_layers": 1, "train_frac": 0.6,
    "log_every": 10, "checkpoint_every": 20, "compute_weight_curvature": False,
    "compute_sensitivity": False,
}  # fmt: skip
NON_FINITE = "step 1: the loss became non-finite at step 1"


def jobs(folder: Path, resume: bool = False) -> list[dict]:
    """Three that stack: one ends at step 50, one goes on to 100, one diverges at once."""
    own = {"short": (50, 1e-3), "long": (100, 1e-3), "wild": (100, 1e30)}
    return [
        {
            "study": "grokking",
            "config": {**SMALL, "name": name, "epochs": epochs, "lr": lr},
            "out": str(folder / name),
            "resume": resume,
        }
        for name, (epochs, lr) in own.items()
    ]


def told(unit: list[dict]) -> list[tuple[str, str | None]]:
    return Worker(None)._train(unit)


def at_evaluation(number: int, happens, monkeypatch) -> None:
    """Let something happen at that evaluation of a task."""
    plain, calls = GrokkingTask.evaluate, []

    def evaluate(task):
        calls.append(1)
        if len(calls) == number:
            happens()
        return plain(task)

    monkeypatch.setattr(GrokkingTask, "evaluate", evaluate)


def raising(error: Exception):
    def happens(*arguments, **named):
        raise error

    return happens


def test_a_crash_leaves_the_ends_that_members_had_already(tmp_path, monkeypatch) -> None:
    full = OSError(28, "No space left on device")
    at_evaluation(8, raising(full), monkeypatch)  # at step 70
    done, crashed, wild = told(jobs(tmp_path))
    assert done == ("done", None)
    assert wild == ("failed", NON_FINITE)
    assert crashed == ("failed", "step 70: [Errno 28] No space left on device")


def test_ctrl_c_leaves_the_ends_that_members_had_already(tmp_path, monkeypatch) -> None:
    at_evaluation(8, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    assert told(jobs(tmp_path)) == [
        ("done", None),
        ("interrupted", "Ctrl-C"),
        ("failed", NON_FINITE),
    ]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a slip"), UserError("a slip"), RunFailed("a slip"), KeyboardInterrupt()],
)
def test_whatever_is_raised_after_the_ends_they_stand(tmp_path, monkeypatch, error) -> None:
    monkeypatch.setattr(together, "advise", raising(error))
    assert told(jobs(tmp_path)) == [("done", None), ("done", None), ("failed", NON_FINITE)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("a slip"), ("failed", "RuntimeError: a slip")),
        (UserError("a slip"), ("failed", "a slip")),
        (RunFailed("a slip", 3), ("failed", "step 3: a slip")),
        (KeyboardInterrupt(), ("interrupted", "stopped before its first step")),
    ],
)
def test_what_is_raised_before_there_are_folders_is_told_of_all(
    tmp_path, monkeypatch, error, expected
) -> None:
    monkeypatch.setattr(together, "study_of", raising(error))
    assert told(jobs(tmp_path)) == [expected] * 3
    assert not any(tmp_path.iterdir())


def test_a_failed_run_that_is_refused_now_says_why_now(tmp_path) -> None:
    [*_, wild] = jobs(tmp_path)
    assert told([wild]) == [("failed", NON_FINITE)]
    again = {**wild, "resume": True, "config": {**wild["config"], "lr": 0.5}}
    [(status, reason)] = told([again])
    assert status == "failed"
    assert "lr = 0.5" in reason
    assert Run.open(tmp_path / "wild").record.reason == NON_FINITE


def test_a_taken_folder_fails_one_run_of_an_ensemble(tmp_path, capsys) -> None:
    file, out = tmp_path / "three.yaml", tmp_path / "out"
    file.write_text(json.dumps({"study": "grokking", **SMALL, "epochs": 40, "seeds": 3}))
    (out / "s1").mkdir(parents=True)
    (out / "s1" / "notes.txt").write_text("mine")
    assert run(["sweep", str(file), "--ensemble", "--out", str(out), "--json"]) == 1
    shown = capsys.readouterr()
    rows = {row["run"]: row for row in json.loads(shown.out)}
    assert [rows[f"s{n}"]["status"] for n in range(3)] == ["done", "failed", "done"], shown
    assert "is not empty (holds notes.txt)" in rows["s1"]["reason"]
    assert [path.name for path in (out / "s1").iterdir()] == ["notes.txt"]
    (out / "s1" / "notes.txt").unlink()
    assert run(["--quiet", "sweep", str(out), "--resume", "--ensemble"]) == 0
    assert list(statuses(out).values()) == ["done"] * 3


def test_a_worker_that_dies_takes_no_reason_with_it(tmp_path) -> None:
    runs = [{"name": "wild", "lr": 1e30}, {"name": "a", "lr": 0.01}, {"name": "b", "lr": 0.02}]
    file, out = tmp_path / "three.yaml", tmp_path / "out"
    settings = {**SMALL, "epochs": LONG, "checkpoint_every": 200, "keep_checkpoints": 1}
    file.write_text(json.dumps({"study": "grokking", **settings, "runs": runs}))
    process = command("sweep", file, "--ensemble", "--out", out, "--json")
    wait_until(lambda: has_saved(out / "b") and statuses(out)["wild"] == "failed", process)
    os.kill(writer(out / "b"), signal.SIGKILL)
    code, printed, _ = finished(process)
    assert code == 1
    ends = {row["run"]: (row["status"], row["reason"]) for row in json.loads(printed)}
    killed = "its process was killed by SIGKILL (out of memory?)"
    assert ends == {
        "wild": ("failed", NON_FINITE),
        "a": ("interrupted", killed),
        "b": ("interrupted", killed),
    }


def refusing_to_say_done(of: str, monkeypatch, error: OSError, times: int = 1) -> None:
    """The disk refuses the record of that run so many times as soon as it says `done`."""
    from cutaway.runs import record

    plain, left = record.write, [times]

    def write(content, folder):
        if folder.name == of and content.status == "done" and left[0]:
            left[0] -= 1
            raise error
        plain(content, folder)

    monkeypatch.setattr(record, "write", write)


def test_a_last_word_the_disk_refuses_fails_that_run_and_says_so(tmp_path, monkeypatch) -> None:
    refusing_to_say_done("short", monkeypatch, OSError(28, "No space left on device"))
    short, long, _ = told(jobs(tmp_path))
    assert short[0] == "failed"
    assert short[1].endswith("short: the record could not be saved: No space left on device")
    assert long == ("done", None)
    record = Run.open(tmp_path / "short").record
    assert (record.status, record.reason) == short
    [again] = told(jobs(tmp_path, resume=True)[:1])
    assert again == ("done", None)


def test_alone_too_a_last_word_that_is_refused_is_a_failure(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(json.dumps({"study": "grokking", **SMALL, "epochs": 10}))
    refusing_to_say_done("run", monkeypatch, OSError(5, "Input/output error"))
    assert run(["--quiet", "train", str(file), "--out", str(tmp_path / "run")]) == 1
    assert "the record could not be saved: Input/output error" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").record.status == "failed"


def test_why_a_run_lost_its_process_is_in_its_record(tmp_path) -> None:
    file, out = tmp_path / "two.yaml", tmp_path / "out"
    settings = {**SMALL, "epochs": LONG, "checkpoint_every": 200, "keep_checkpoints": 1}
    file.write_text(json.dumps({"study": "grokking", **settings, "seeds": 2}))
    process = command("sweep", file, "--ensemble", "--out", out, "--json")
    wait_until(lambda: has_saved(out / "s0") and has_saved(out / "s1"), process)
    os.kill(writer(out / "s1"), signal.SIGKILL)
    code, printed, _ = finished(process)
    assert code == 1
    for row in json.loads(printed):
        record = Run.open(out / row["run"]).record
        assert (
            record.reason == row["reason"] == "its process was killed by SIGKILL (out of memory?)"
        )
        assert record.status == row["status"] == "interrupted"
