"""Runs trained as one stack, as real processes: each leaves what it leaves alone, whatever happens."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from conftest import PATIENCE, command
from cutaway.base.errors import UserError
from cutaway.cli.main import run
from cutaway.runs.folder import Run
from cutaway.studies.together import TOGETHER
from cutaway.studies.train import train
from cutaway.sweeps.board import Board
from cutaway.sweeps.ensembles import require_stackable, units
from cutaway.sweeps.grid import expand
from stopping import slowed, wait_until
from sweeps.test_execute import final_state, finished, statuses, writer

SMALL = {
    "p": 11,
    "model_type": "baseline",
    "hidden_dim": 16,
    "train_frac": 0.7,
    "log_every": 20,
    "checkpoint_every": 100,
    "compute_weight_curvature": False,
    "compute_sensitivity": False,
    "compute_optimizer_metrics": False,
}
SIX = {"sweep": {"lr, weight_decay": [[1e-3, 0.1], [4e-3, 1.0]]}, "seeds": 3}
EPOCHS = 300


def sweep_file(folder: Path, **values) -> Path:
    file = folder / "stacked.yaml"
    file.write_text(json.dumps({"study": "grokking", **SMALL, **values}))
    return file


def names_of(folder: Path) -> list[str]:
    return sorted(statuses(folder))


def same_weights(one: Path, other: Path) -> bool:
    a, b = final_state(one), final_state(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- what a member leaves ------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    """Six stacked runs of 100 steps in float64, with every instrument."""
    folder = tmp_path_factory.mktemp("exact")
    measured = {"compute_sensitivity": True, "compute_optimizer_metrics": True}
    file = sweep_file(folder, **SIX, **measured, epochs=100, precision="float64")
    assert run(["--quiet", "sweep", str(file), "--ensemble", "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_every_member_leaves_a_whole_run(exact) -> None:
    assert list(statuses(exact).values()) == ["done"] * 6
    for name in names_of(exact):
        opened = Run.open(exact / name)
        assert opened.record.resolved[TOGETHER] == [
            f"lr{lr}_wd{wd}_s{seed}"
            for lr, wd in (("1e-3", "0.1"), ("4e-3", "1.0"))
            for seed in range(3)
        ]
        assert opened.record.config["name"] == name
        assert opened.record.steps_done == 100
        assert {"test_acc", "train_loss", "weight_norm"} <= opened.record.metrics.keys()
        assert opened.read()["step"].to_pylist() == list(range(0, 101, 20))
        assert opened.checkpoints.steps() == [0, 100]
        assert run(["--quiet", "runs", "verify", str(exact / name)]) == 0
        assert "p: 11" in (exact / name / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["lr1e-3_wd0.1_s0", "lr4e-3_wd1.0_s2"])
def test_a_member_is_the_run_trained_alone(exact, tmp_path, name) -> None:
    alone = train("grokking", Run.open(exact / name).record.config, tmp_path / name)
    stacked = Run.open(exact / name)
    one, other = final_state(exact / name), final_state(tmp_path / name)
    assert one.keys() == other.keys()
    for key, weight in one.items():
        assert torch.allclose(weight.double(), other[key].double(), rtol=0, atol=1e-9), key
    rows, alone_rows = stacked.read(), alone.read()
    assert set(rows.column_names) == set(alone_rows.column_names)
    for column in ("train_loss", "test_loss", "test_acc", "weight_norm", "adam_ratio_mean"):
        kept, expected = rows[column], alone_rows[column]
        assert kept.null_count == expected.null_count
        close = pytest.approx(expected.drop_null().to_pylist(), rel=1e-6, abs=1e-9)
        assert kept.drop_null().to_pylist() == close, column
    assert stacked.tables() == alone.tables()


def test_a_member_that_diverges_is_told_so_and_the_others_go_on(tmp_path, capsys) -> None:
    runs = [{"name": "a", "lr": 0.01}, {"name": "wild", "lr": 1e30}, {"name": "b", "lr": 0.02}]
    file = sweep_file(tmp_path, runs=runs, epochs=60)
    out = tmp_path / "out"
    assert run(["sweep", str(file), "--ensemble", "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert statuses(out) == {"a": "done", "b": "done", "wild": "failed"}
    wild = Run.open(out / "wild")
    assert "non-finite at step 1" in wild.record.reason
    assert f"wild: failed: {wild.record.reason}" in errors
    assert max(wild.read()["step"].to_pylist()) < 1
    assert "1 of 3 runs failed; it had lr = 1e+30" in errors
    assert Run.open(out / "b").record.metrics["train_loss"] > 0
    assert (out / "figures" / "test_acc.png").is_file()


# -- stopped and gone on with --------------------------------------------------------------


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    """A sweep file of six runs that stack."""
    return sweep_file(tmp_path_factory.mktemp("six"), **SIX, epochs=EPOCHS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, six) -> Path:
    """They as one stack that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole-stack") / "out"
    assert run(["--quiet", "sweep", str(six), "--ensemble", "--out", str(out)]) == 0
    return out


def test_ctrl_c_saves_every_member_at_one_step_and_a_resume_makes_the_same_bits(
    six, whole, tmp_path
) -> None:
    out = tmp_path / "out"
    process = command("sweep", six, "--ensemble", "--out", out, **slowed(tmp_path / "slow", 150))
    last = out / "lr4e-3_wd1.0_s2"
    wait_until(lambda: len(list((last / "checkpoints").glob("step-*"))) > 1, process)
    process.send_signal(signal.SIGINT)
    code, _, errors = finished(process)
    assert code == 130, errors
    assert set(statuses(out).values()) == {"interrupted"}
    stopped = {Run.open(out / name).checkpoints.last() for name in names_of(whole)}
    assert len(stopped) == 1
    assert 0 < stopped.pop() < EPOCHS
    assert run(["--quiet", "sweep", str(out), "--resume", "--ensemble"]) == 0
    assert statuses(out) == statuses(whole) == dict.fromkeys(names_of(whole), "done")
    for name in names_of(whole):
        assert same_weights(out / name, whole / name), name


def test_a_killed_stack_goes_on_without_losing_or_repeating_a_run(six, whole, tmp_path) -> None:
    out = tmp_path / "out"
    process = command("sweep", six, "--ensemble", "--out", out, **slowed(tmp_path / "slow", 250))
    last = out / "lr4e-3_wd1.0_s2"
    wait_until(lambda: len(list((last / "checkpoints").glob("step-*"))) > 2, process)
    worker = writer(last)
    process.kill()
    os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: set(statuses(out).values()) == {"interrupted"})
    assert run(["--quiet", "sweep", str(out), "--resume"]) == 0  # those begun together stay so
    assert statuses(out) == statuses(whole)
    for name in names_of(whole):
        assert same_weights(out / name, whole / name), name
        one, other = Run.open(out / name), Run.open(whole / name)
        assert one.record.resolved[TOGETHER] == other.record.resolved[TOGETHER]
        for column in ("step", "train_loss", "test_acc"):
            assert one.read()[column].to_pylist() == other.read()[column].to_pylist()


def test_stacks_form_by_shape_and_share_the_workers(tmp_path) -> None:
    values = {"sweep": {"hidden_dim": [16, 24], "lr": [1e-3, 2e-3, 3e-3]}}
    rest = {key: value for key, value in SMALL.items() if key != "hidden_dim"}
    file = tmp_path / "mixed.yaml"
    file.write_text(json.dumps({"study": "grokking", **rest, **values, "epochs": 40}))
    out = tmp_path / "out"
    arguments = ["--quiet", "sweep", str(file), "--ensemble", "--jobs", "2", "--out", str(out)]
    assert run(arguments) == 0
    assert list(statuses(out).values()) == ["done"] * 6
    stacks = {tuple(Run.open(out / n).record.resolved.get(TOGETHER, [])) for n in names_of(out)}
    assert stacks == {
        (),  # one of each width is alone
        *{(f"hidden-dim{width}_lr2e-3", f"hidden-dim{width}_lr3e-3") for width in (16, 24)},
    }


# -- which runs go together ----------------------------------------------------------------


def planned(runs, **how) -> list[list[str]]:
    return [[one.name for one in unit] for unit in units(runs, how.pop("ensemble", True), **how)]


def test_without_an_ensemble_every_run_is_alone(tmp_path) -> None:
    runs = expand({**SMALL, **SIX}, "grokking", "six").runs
    assert [len(unit) for unit in planned(runs, out=tmp_path)] == [6]
    assert [len(unit) for unit in planned(runs, out=tmp_path, ensemble=False)] == [1] * 6
    assert [len(unit) for unit in planned(runs, out=tmp_path, ensemble=None)] == [6]  # it is faster
    assert [len(unit) for unit in planned(runs, out=tmp_path, jobs=4)] == [1, 2, 1, 2]


def test_runs_begun_alone_go_on_alone_and_failed_ones_are_tried_alone(tmp_path) -> None:
    def left(name: str, status: str, **resolved) -> None:
        with Run.create(
            tmp_path / name, study="grokking", config={}, seed=0, resolved=resolved
        ) as opened:
            if status != "nothing saved":
                opened.checkpoints.save(0, {"model": {"w": torch.zeros(1)}}, {})
            if status == "failed":
                opened.fail("it became no number", 1)
            else:
                opened.interrupt("Ctrl-C")

    sweep = expand({**SMALL, "seeds": 8}, "grokking", "eight")
    left("s0", "begun")
    left("s1", "begun", **{TOGETHER: ["s1", "s4", "s5"]})
    left("s2", "failed", **{TOGETHER: ["s1", "s2"]})
    left("s3", "nothing saved", **{TOGETHER: ["s3", "s9"]})
    left("s4", "begun", **{TOGETHER: ["s1", "s4", "s5"]})
    expected = [["s0"], ["s1", "s4"], ["s2"], ["s3", "s5", "s6", "s7"]]
    assert planned(sweep.runs, out=tmp_path) == expected
    assert planned(sweep.runs, out=tmp_path, ensemble=None) == expected
    alone = planned(sweep.runs, out=tmp_path, ensemble=False)
    assert alone == [[f"s{n}"] for n in range(8)]


def test_an_ensemble_of_one_that_is_left_is_no_mistake(exact) -> None:
    runs = expand({**SMALL, **SIX}, "grokking", "six").runs
    require_stackable(runs)
    with pytest.raises(UserError, match="no two of these 1 runs can be stacked"):
        require_stackable(runs[:1])
    assert run(["--quiet", "sweep", str(exact), "--resume", "--ensemble"]) == 0  # all are done


# -- what is seen --------------------------------------------------------------------------


def test_the_board_tells_the_members_of_a_stack_apart(capsys) -> None:
    board = Board([["a", "b", "c"], ["d"]])
    for name in "abc":
        board.started(name, False)
    told = {"title": "training", "done": 50, "total": 100, "unit": "steps", "rate": 5.0}
    board.progress(["a", "b", "c"], {**told, "figures": {"loss": "1.25"}})
    cells = [list(column.cells) for column in board.table(8).columns]
    assert [cell.plain for cell in cells[-1]] == ["loss 1.25", "with a", "with a", ""]
    assert [cell.plain for cell in cells[2]] == ["50/100", "50/100", "50/100", ""]
    board.notice(["a", "b", "c"], "b: note: not memorised")
    board.notice(["a", "b", "c"], "out of memory: halved")
    said = capsys.readouterr().err.splitlines()[-2:]
    assert said == ["b: note: not memorised", "a and 2 more: out of memory: halved"]


def test_the_time_left_counts_a_stack_once(monkeypatch) -> None:
    import cutaway.sweeps.board as module

    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    board = Board([["a", "b", "c"], ["d", "e", "f"]])
    for name in "abc":
        board.started(name, False)
    clock[0] += 60
    for name in "abc":
        board.ended(name, "done", None)
    assert board.caption() == "3 of 6 done, about 1m00s left"
    for name in "def":
        board.started(name, False)
    clock[0] += 20
    assert board.caption() == "3 of 6 done, 3 at work, about 40s left"
