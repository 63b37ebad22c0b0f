"""Runs trained together: one that cannot start stops itself only, and nothing is lost in silence."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import Interrupted, UserError
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.task import GrokkingTask
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.together import TOGETHER, train_together

SMALL = {
    "p": 11, "model_type": "baseline", "hidden_dim": 16, "n_layers": 1, "train_frac": 0.6,
    "epochs": 60, "log_every": 10, "checkpoint_every": 20, "compute_weight_curvature": False,
    "compute_sensitivity": False,
}  # fmt: skip


def configs(count: int = 3, **over) -> list[GrokkingConfig]:
    return [resolve(GrokkingConfig, {**SMALL, **over, "seed": seed}) for seed in range(count)]


def folders(root: Path, count: int = 3) -> list[Path]:
    return [root / f"r{index}" for index in range(count)]


def interrupted(root: Path, monkeypatch, **over) -> list[Path]:
    """Three runs of one stack, stopped by Ctrl-C at step 50."""
    plain, calls = GrokkingTask.evaluate, []

    def evaluate(task):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(task)

    with monkeypatch.context() as patched:
        patched.setattr(GrokkingTask, "evaluate", evaluate)
        with pytest.raises(Interrupted):
            train_together("grokking", configs(**over), folders(root))
    assert [Run.open(out).status for out in folders(root)] == ["interrupted"] * 3
    return folders(root)


def final(out: Path) -> dict[str, torch.Tensor]:
    return Run.open(out).checkpoints.load(60).tensors["model"]


def as_whole(outs: list[Path], tmp_path: Path) -> bool:
    """Whether these are, bit for bit, what a stack of three that nothing befell leaves."""
    train_together("grokking", configs(), folders(tmp_path / "whole"))
    whole = {out.name: final(out) for out in folders(tmp_path / "whole")}
    return all(
        torch.equal(value, whole[out.name][name])
        for out in outs
        for name, value in final(out).items()
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """What a run's folder holds, but for what locks leave."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_folder_that_is_taken_stops_its_own_run_only(tmp_path) -> None:
    outs = folders(tmp_path)
    outs[1].mkdir()
    (outs[1] / "notes.txt").write_text("mine")
    first, refused, last = train_together("grokking", configs(), outs)
    assert isinstance(refused, UserError)
    assert "r1: is not empty (holds notes.txt)" in str(refused)
    assert files_of(outs[1]) == {"notes.txt": b"mine"}
    assert [run.record.status for run in (first, last)] == ["done", "done"]
    assert first.record.resolved[TOGETHER] == ["r0", "r2"]


def test_where_all_are_refused_each_says_why(tmp_path) -> None:
    outs = folders(tmp_path)
    for out in outs:
        out.write_text("a file")
    refused = train_together("grokking", configs(), outs)
    for out, error in zip(outs, refused, strict=True):
        assert isinstance(error, UserError)
        assert f"{out} is a file" in str(error)


def test_one_that_is_left_trains_and_fails_by_itself(tmp_path) -> None:
    outs = folders(tmp_path, 2)
    outs[0].write_text("a file")
    wild = configs(2, lr=1e30, grad_clip=None)
    refused, run = train_together("grokking", wild, outs)
    assert isinstance(refused, UserError)
    assert run.record.status == "failed"
    assert "non-finite at step 1" in run.record.reason
    assert TOGETHER not in run.record.resolved  # it trained alone


def no_checkpoint(out: Path) -> str:
    for path in (out / "checkpoints").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes()[:-5])
    return "no checkpoint left intact"


def no_record(out: Path) -> str:
    (out / "run.json").write_text("{")
    return "run.json"


def no_history(out: Path) -> str:
    (out / "history.parquet").write_bytes(b"PAR1 nothing PAR1")
    return "history"


@pytest.mark.parametrize("damage", [no_checkpoint, no_record, no_history])
def test_a_run_that_cannot_go_on_does_not_stop_the_others(tmp_path, monkeypatch, damage) -> None:
    outs = interrupted(tmp_path, monkeypatch)
    said = damage(outs[1])
    before = files_of(outs[1])
    first, refused, last = train_together("grokking", configs(), outs, resume=True)
    assert isinstance(refused, UserError)
    assert said in str(refused)
    assert files_of(outs[1]) == before
    assert [run.record.status for run in (first, last)] == ["done", "done"]
    assert as_whole([outs[0], outs[2]], tmp_path)


def test_a_run_of_other_settings_does_not_stop_the_others(tmp_path, monkeypatch) -> None:
    outs = interrupted(tmp_path, monkeypatch)
    given = configs()
    given[2] = given[2].model_copy(update={"lr": 0.5})
    *going, refused = train_together("grokking", given, outs, resume=True)
    assert "lr = 0.5" in str(refused)
    assert [run.record.status for run in going] == ["done", "done"]


def test_where_no_step_is_common_the_start_anew_is_said(tmp_path, monkeypatch, capsys) -> None:
    outs = interrupted(tmp_path, monkeypatch, keep_checkpoints=2)  # of steps 40 and 50
    shutil.rmtree(outs[0] / "checkpoints" / "step-000050")
    shutil.rmtree(outs[1] / "checkpoints" / "step-000040")
    (outs[0] / "checkpoints" / "last").write_text("step-000040\n")
    runs = train_together("grokking", configs(keep_checkpoints=2), outs, resume=True)
    said = "have no intact checkpoint of the same step: they begin again from step 0"
    assert said in capsys.readouterr().err
    assert any(said in line for line in runs[0].record.notices)
    assert [run.record.status for run in runs] == ["done"] * 3
    assert as_whole(outs, tmp_path)
