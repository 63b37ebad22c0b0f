"""Sweeps as real processes: failures, kills, signals, and going on afterwards."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from conftest import PATIENCE, command
from cutaway.cli.main import run
from cutaway.runs.folder import Run
from cutaway.runs.store import RunStore
from stopping import slowed, wait_until

GROKKING = {
    "p": 11,
    "model_type": "baseline",
    "hidden_dim": 16,
    "train_frac": 0.6,
    "epochs": 500,
    "log_every": 50,
    "checkpoint_every": 50,
    "compute_weight_curvature": False,
    "compute_sensitivity": False,
}
LONG = 100_000  # steps no test waits for


def sweep_file(folder: Path, settings: dict, **axes) -> Path:
    """A sweep file of the language study, JSON being YAML."""
    file = folder / "trial.yaml"
    shared = {key: value for key, value in settings.items() if key not in axes.get("sweep", {})}
    file.write_text(json.dumps({"study": "language", **shared, **axes}))
    return file


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, out, errors


def writer(folder: Path) -> int:
    """The process that writes a run."""
    return json.loads((folder / ".owner.json").read_text())["pid"]


def has_saved(folder: Path) -> bool:
    """Whether a run has a checkpoint (older ones are deleted as it goes on)."""
    return any((folder / "checkpoints").glob("step-*"))


def statuses(folder: Path) -> dict[str, str]:
    return {record.name: record.status for record in RunStore(folder).runs()}


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    checkpoints = Run.open(folder).checkpoints
    last = checkpoints.load(checkpoints.last())
    return {f"{g}.{k}": v for g, named in last.tensors.items() for k, v in named.items()}


# -- one failure never stops the rest ------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tiny) -> tuple[Path, tuple[int, str, str]]:
    """A sweep of four runs, one of which diverges and one has no data; how the command ended."""
    folder = tmp_path_factory.mktemp("mixed")
    runs = [
        {"name": "fast", "data": tiny["data"], "learning_rate": 0.01},
        {"name": "wild", "data": tiny["data"], "learning_rate": 1e30},
        {"name": "lost", "data": str(folder / "none.txt"), "learning_rate": 0.01},
        {"name": "slow", "data": tiny["data"], "learning_rate": 0.003},
    ]
    shared = {key: tiny[key] for key in tiny if key not in runs[0]}
    file = sweep_file(folder, shared, runs=runs)
    return folder / "out", finished(command("sweep", file, "--out", folder / "out", "--json"))


def test_one_failure_stops_nothing_and_is_told_with_its_reason(mixed) -> None:
    out, (code, printed, errors) = mixed
    assert code == 1
    rows = {row["run"]: row for row in json.loads(printed)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "fast": "done",
        "wild": "failed",
        "lost": "failed",
        "slow": "done",
    }
    assert "wild: failed: step 1: the loss became non-finite at step 1" in errors
    assert "[1/4] fast: started" in errors
    assert "2 of 4 runs did not come to their end" in errors.splitlines()[-1]
    for name in ("fast", "wild", "slow"):
        record, row = Run.open(out / name).record, rows[name]
        assert (row["steps"], row["reason"]) == (record.steps_done, record.reason)
        assert row.get("val_loss") == record.metrics.get("val_loss")
    assert rows["fast"]["val_loss"] != rows["slow"]["val_loss"]


def test_a_run_that_cannot_start_leaves_its_reason_and_nothing_else(mixed) -> None:
    out, (_, printed, errors) = mixed
    [row] = [row for row in json.loads(printed) if row["run"] == "lost"]
    assert "none.txt" in row["reason"]
    assert f"lost: failed: {row['reason']}" in errors
    assert not (out / "lost").exists()


def test_the_summary_is_kept_beside_the_runs(mixed) -> None:
    out, (_, printed, _) = mixed
    with open(out / "summary.csv", newline="") as handle:
        kept = list(csv.DictReader(handle))
    printed_rows = json.loads(printed)
    for column in ("run", "group", "status", "reason"):
        assert [row[column] or None for row in kept] == [row[column] for row in printed_rows]
    assert float(kept[0]["val_loss"]) == Run.open(out / "fast").record.metrics["val_loss"]


def test_a_folder_with_runs_of_the_sweep_is_refused_without_resume(mixed, capsys) -> None:
    out, _ = mixed

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    before = files()
    file = str(out.parent / "trial.yaml")
    assert run(["sweep", file, "--out", str(out)]) == 2
    assert "holds runs of this sweep already (fast); --resume" in capsys.readouterr().err
    assert run(["sweep", str(out)]) == 2
    assert "is a sweep; --resume goes on with it" in capsys.readouterr().err
    assert run(["sweep", file, "--out", str(out), "--resume", "--n-embd", "32"]) == 2
    assert "run fast: n_embd = 32" in capsys.readouterr().err
    assert run(["sweep", file, "--out", str(out / "fast")]) == 2
    assert "holds a run, not a sweep" in capsys.readouterr().err
    assert files() == before


# -- kill -9 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A sweep file of six grokking runs."""
    file = tmp_path_factory.mktemp("grid") / "trial.yaml"
    axes = {"sweep": {"lr": [0.01, 0.003, 0.001]}, "seeds": 2}
    file.write_text(json.dumps({"study": "grokking", **GROKKING, **axes}))
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory, grid) -> Path:
    """The sweep trained without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    code, _, errors = finished(command("sweep", grid, "--no-ensemble", "--out", out))
    assert code == 0, errors
    return out


@pytest.mark.parametrize("killed", ["the sweep alone", "sweep and worker"])
def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_run(
    grid, whole, tmp_path, killed
) -> None:
    out = tmp_path / "out"
    slow = slowed(tmp_path / "slow", after=GROKKING["epochs"] + 100)  # within the second run
    process = command("sweep", grid, "--no-ensemble", "--out", out, **slow)
    second = out / "lr0.01_s1"
    wait_until(lambda: has_saved(second), process)
    worker = writer(second)
    process.kill()
    if killed == "sweep and worker":
        os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: statuses(out)["lr0.01_s1"] != "running")  # it notices, and ends
    assert statuses(out) == {"lr0.01_s0": "done", "lr0.01_s1": "interrupted"}
    done = (out / "lr0.01_s0" / "run.json").read_bytes()

    code, _, errors = finished(command("sweep", out, "--resume", "--no-ensemble"))
    assert code == 0, errors
    assert "1 of 6 runs are done already" in errors
    assert "lr0.01_s1: resumed" in errors
    assert (out / "lr0.01_s0" / "run.json").read_bytes() == done  # not repeated
    assert statuses(out) == statuses(whole)
    assert list(statuses(whole).values()) == ["done"] * 6
    for name in statuses(whole):
        cut, uncut = final_state(out / name), final_state(whole / name)
        assert cut.keys() == uncut.keys()
        assert not [key for key in cut if not torch.equal(cut[key], uncut[key])]
        one, other = Run.open(out / name).read(), Run.open(whole / name).read()
        for column in ("step", "train_loss", "test_acc", "weight_norm"):
            assert one[column].to_pylist() == other[column].to_pylist()


def test_a_worker_that_dies_is_replaced_and_its_run_told(tiny, tmp_path) -> None:
    short = [("a", 20), ("b", 21), ("c", 22)]
    runs = [{"name": "long", "max_iters": LONG}, *({"name": n, "max_iters": k} for n, k in short)]
    file = sweep_file(tmp_path, {k: v for k, v in tiny.items() if k != "max_iters"}, runs=runs)
    out = tmp_path / "out"
    process = command("sweep", file, "--out", out, "--jobs", 2, "--json")
    wait_until(lambda: has_saved(out / "long"), process)
    os.kill(writer(out / "long"), signal.SIGKILL)
    code, printed, errors = finished(process)
    assert code == 1
    told = {row["run"]: (row["status"], row["reason"]) for row in json.loads(printed)}
    reason = "its process was killed by SIGKILL (out of memory?)"
    assert told == {"long": ("interrupted", reason), **dict.fromkeys("abc", ("done", None))}
    assert f"long: interrupted: {reason}" in errors


# -- signals -------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_runs_in_order_and_starts_no_others(
    tiny, tmp_path, how, expected
) -> None:
    file = sweep_file(tmp_path, {**tiny, "max_iters": LONG}, seeds=4)
    out = tmp_path / "out"
    process = command("sweep", file, "--out", out, "--jobs", 2, "--json")
    wait_until(lambda: has_saved(out / "s0") and has_saved(out / "s1"), process)
    process.send_signal(how)
    code, printed, errors = finished(process)
    assert code == expected
    rows = {row["run"]: row for row in json.loads(printed)}
    assert [rows[f"s{n}"]["status"] for n in range(4)] == [
        *("interrupted", "interrupted", "not started", "not started")
    ]
    for name in ("s0", "s1"):  # each saved where it stopped
        opened = Run.open(out / name)
        assert opened.checkpoints.last() == opened.record.steps_done
        assert opened.record.reason == ("Ctrl-C" if how == signal.SIGINT else "SIGTERM")
    assert "--resume goes on" in errors.splitlines()[-1]


# -- choosing ------------------------------------------------------------------------------


def test_parts_of_a_sweep_add_up_in_one_folder(tiny, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**tiny, "max_iters": 5}
    file = str(sweep_file(tmp_path, settings, sweep={"n_layer": [1, 2]}, seeds=2))
    assert run(["sweep", file, "--start-from", "3"]) == 0
    out = Path("runs/trial")
    assert statuses(out) == {"n-layer2_s1": "done"}
    assert run(["sweep", file, "--start-from", "2"]) == 2  # it has one of these
    assert run(["sweep", file, "--experiment", "n-layer1"]) == 0  # a group
    assert set(statuses(out)) == {"n-layer1_s0", "n-layer1_s1", "n-layer2_s1"}
    capsys.readouterr()
    assert run(["sweep", str(out), "--resume", "--experiment", "n-layer2_s1", "--csv"]) == 0
    shown = capsys.readouterr()
    assert "1 of 1 runs are done already" in shown.err
    assert [line.split(",")[0] for line in shown.out.splitlines()] == ["run", "n-layer2_s1"]
    with open(out / "summary.csv", newline="") as handle:
        kept = {row["run"]: row["status"] for row in csv.DictReader(handle)}
    assert [name for name, status in kept.items() if status != "done"] == ["n-layer2_s0"]
    assert kept["n-layer2_s0"] == "not started"
