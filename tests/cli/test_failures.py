"""Runs that fail on the way: exit 1, the reason in the record, what was recorded stays readable."""

from __future__ import annotations

import json

from conftest import GROK, PATIENCE, TINY, command, settings_args
from cutaway.cli.main import run
from cutaway.runs.folder import Run
from stopping import wait_until


def test_a_loss_that_becomes_nan_ends_the_process_with_1(corpus, tmp_path) -> None:
    """A rate so high that the weights overflow after some steps of warm-up."""
    settings = {
        **TINY,
        "eval_interval": 5,
        "learning_rate": 1e25,
        "warmup_iters": 50,
        "grad_clip": "none",
    }
    arguments = ["train", "docstrings-tiny", *settings_args(settings), "--data", corpus]
    process = command(*arguments, "--out", tmp_path / "run")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    complaints = [line for line in errors.splitlines() if line.startswith("cutaway: ")]
    assert len(complaints) == 1
    assert "non-finite at step" in complaints[0]
    failed = Run.open(tmp_path / "run")
    assert failed.status == failed.record.status == "failed"
    step = failed.record.steps_done
    assert f"step {step}" in failed.record.reason
    assert max(failed.read()["step"].to_pylist()) < step
    kept, damage = failed.checkpoints.latest_intact()
    assert damage == []
    assert all(bool(weight.isfinite().all()) for weight in kept.tensors["model"].values())
    log = json.loads((failed.path / "training_log.json").read_text())
    assert log["iterations"][0] == 0
    assert run(["plot", "loss", str(failed.path), "--out", str(tmp_path / "loss.png")]) == 0


def test_a_resume_of_the_failed_run_fails_at_the_same_step(corpus, tmp_path) -> None:
    settings = {
        **TINY,
        "eval_interval": 5,
        "learning_rate": 1e25,
        "warmup_iters": 50,
        "grad_clip": "none",
    }
    arguments = ["train", "docstrings-tiny", *settings_args(settings), "--data", str(corpus)]
    arguments = ["--quiet", *arguments, "--out", str(tmp_path / "run")]
    assert run(arguments) == 1
    first = Run.open(tmp_path / "run").record
    assert run([*arguments, "--resume"]) == 1
    again = Run.open(tmp_path / "run").record
    assert (again.reason, again.steps_done) == (first.reason, first.steps_done)


def test_a_run_killed_by_force_reads_as_interrupted_and_its_figures_can_be_asked(
    corpus, tmp_path
) -> None:
    settings = {**TINY, "max_iters": 100_000}
    process = command(
        "train",
        "docstrings-tiny",
        *settings_args(settings),
        "--data",
        corpus,
        "--out",
        tmp_path / "run",
    )
    checkpoints = tmp_path / "run" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("step-*"))) > 1, process)
    assert Run.open(tmp_path / "run").status == "running"
    process.kill()
    process.communicate(timeout=PATIENCE)
    killed = Run.open(tmp_path / "run")
    assert killed.record.status == "running"  # nobody was left to write it
    assert killed.status == "interrupted"
    assert killed.read().num_rows > 0


def test_a_grokking_run_that_diverges_ends_with_1_and_its_rows_can_be_read(tmp_path) -> None:
    """A rate that overflows after some steps of warm-up."""
    rising = {"lr": 1e13, "warmup_epochs": 10_000, "weight_decay": 0.0, "grad_clip": None}
    settings = {**GROK, "model_type": "baseline", **rising, "log_every": 1}
    file = tmp_path / "wild.yaml"
    file.write_text(json.dumps({"study": "grokking", **settings}))
    process = command("train", file, "--out", tmp_path / "run")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    complaints = [line for line in errors.splitlines() if line.startswith("cutaway: ")]
    assert len(complaints) == 1
    assert "non-finite at step" in complaints[0]
    failed = Run.open(tmp_path / "run")
    assert failed.status == failed.record.status == "failed"
    assert f"step {failed.record.steps_done}" in failed.record.reason
    rows = failed.read()
    assert 0 < rows.num_rows <= failed.record.steps_done
    assert all(value is not None for value in rows["train_loss"].to_pylist())
    assert run(["plot", "loss", str(failed.path), "--out", str(tmp_path / "loss.png")]) == 0
