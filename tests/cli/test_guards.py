"""A run that did nothing cannot pass for one: exit 1, the reason, and earlier records readable."""

from __future__ import annotations

import pytest

from cutaway.cli.main import run
from cutaway.dictionaries.synthetic.stream import SyntheticStream
from cutaway.dictionaries.synthetic.truth import Superposition
from cutaway.dictionaries.training.task import DictionaryTask
from cutaway.runs.folder import Run
from cutaway.training.task import WHOLE

SMALL = {
    "synthetic": "superposition",
    "true_features": 16,
    "active": 2,
    "d_model": 8,
    "d_hidden": 16,
    "target_l0": 2,
    "batch_size": 32,
    "max_steps": 40,
    "tokens": 2000,
    "log_every": 2,
    "eval_every": 10,
    "checkpoint_every": 10,
    "kernels": "dense",
    "eval_tokens": 200,
    "device": "cpu",
    "precision": "float32",
}


def train(folder, **changes) -> int:
    """`cutaway train` of a small dictionary of synthetic states, in this process."""
    settings = {**SMALL, **changes}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return run(["--quiet", "train", "sae-synthetic", *words, "--out", str(folder)])


def ended(monkeypatch, at: int) -> None:
    """The stream of training states gives nothing from this batch on."""
    whole = DictionaryTask.batch

    def batch(self, step, part=WHOLE):
        states = whole(self, step, part)
        return states[:0] if step >= at else states

    monkeypatch.setattr(DictionaryTask, "batch", batch)


def test_a_run_without_a_step_fails_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    def nothing(task, step, part=WHOLE):
        raise StopIteration

    monkeypatch.setattr(DictionaryTask, "batch", nothing)
    assert train(tmp_path / "run") == 1
    assert "trained zero steps: the data source stopped yielding" in capsys.readouterr().err
    failed = Run.open(tmp_path / "run")
    assert (failed.status, failed.record.steps_done) == ("failed", 0)
    assert failed.record.steps_planned == 40
    assert run(["runs", "show", str(tmp_path / "run")]) == 0
    assert "trained zero steps" in capsys.readouterr().out


def test_a_stream_that_runs_dry_fails_the_run_and_keeps_its_rows(
    tmp_path, monkeypatch, capsys
) -> None:
    ended(monkeypatch, 25)
    assert train(tmp_path / "run") == 1
    assert "empty batch" in capsys.readouterr().err
    failed = Run.open(tmp_path / "run")
    assert (failed.record.steps_attempted, failed.record.steps_done) == (26, 25)
    assert failed.read()["step"].to_pylist() == list(range(0, 25, 2))
    assert failed.checkpoints.latest_intact()[0] is not None
    sql = "SELECT count(*) AS rows FROM history"
    assert run(["runs", "sql", sql, "--runs", str(tmp_path), "--csv"]) == 0
    assert "13" in capsys.readouterr().out


def test_a_dictionary_none_of_whose_features_lives_fails(tmp_path, capsys) -> None:
    dead = {"lambda_sparse": 1e6, "learning_rate": 0.3, "max_steps": 200, "gradient_clip": "none"}
    assert train(tmp_path / "run", **dead, target_l0="none") == 1
    assert "no feature is active on any held-out token" in capsys.readouterr().err
    failed = Run.open(tmp_path / "run")
    assert failed.status == "failed"
    assert len(failed.read()) > 0


def test_a_part_of_the_loss_that_never_moves_is_named(tmp_path) -> None:
    assert train(tmp_path / "run", orthogonality="top_k", topk_fraction=0.5, tau=1.0) == 0
    notices = Run.open(tmp_path / "run").record.notices
    assert any("orthogonality_loss was 0 in all" in line for line in notices), notices


def test_the_record_holds_shapes_and_norms_of_the_first_batches(tmp_path) -> None:
    assert train(tmp_path / "run") == 0
    record = Run.open(tmp_path / "run").record
    first = record.resolved["first_batches"]
    assert [one["step"] for one in first] == [0, 1, 2]
    truth = Superposition(16, 8, 2, 0.0, 0)
    for one in first:  # the states themselves, drawn again
        states = SyntheticStream(truth, 32, seed=0).batch(one["step"])
        assert one["batch"]["shape"] == [32, 8]
        assert one["batch"]["mean_norm"] == pytest.approx(float(states.norm(dim=1).mean()))
    assert (record.steps_attempted, record.steps_done) == (40, 40)
