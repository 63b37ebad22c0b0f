"""What a language run leaves for others: the training log, TensorBoard, W&B offline."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from conftest import DATA
from cutaway.cli.main import run as cutaway
from cutaway.runs.folder import Run
from cutaway.studies.train import train


def test_the_training_log_has_exactly_the_documents_keys(backpack_run) -> None:
    log = json.loads((backpack_run / "training_log.json").read_text())
    assert list(log) == ["iterations", "train_loss", "val_loss", "top_activating_words"]
    assert log["iterations"] == list(range(0, 301, 20))
    history = {row["step"]: row for row in Run.open(backpack_run).read().to_pylist()}
    assert log["val_loss"] == [history[step]["val_loss"] for step in log["iterations"]]
    assert log["train_loss"] == [history[step]["train_loss"] for step in log["iterations"]]
    reading = log["top_activating_words"][-1]
    assert reading["iteration"] == 300
    assert list(reading["words"][0]) == ["token_id", "word", "activation"]
    assert len(reading["words"]) == 20
    activations = [word["activation"] for word in reading["words"]]
    assert activations == sorted(activations, reverse=True)


def test_a_log_written_by_anyone_plots_and_lists_words(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = {
        "iterations": [0, 100, 200],
        "train_loss": [4.5, 3.2, 2.8],
        "val_loss": [4.6, 3.3, 2.9],
        "top_activating_words": [
            {"iteration": 100, "words": [{"token_id": 123, "word": "hello", "activation": 0.85}]},
            {"iteration": 200, "words": [{"token_id": 123, "word": "hello", "activation": 0.9},
                                         {"token_id": 7, "word": " $world_", "activation": 0.7}]},
        ],
    }  # fmt: skip
    (tmp_path / "their log.json").write_text(json.dumps(log))
    assert cutaway(["plot", "loss", "their log.json", "--out", "loss.pdf"]) == 0
    assert cutaway(["words", "their log.json", "--top", "15", "--plot", "words.svg", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["word"], row["activation"]) for row in rows] == [
        ("hello", 0.9),
        (" $world_", 0.7),
    ]
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")
    assert "hello" in (tmp_path / "words.svg").read_text()


def test_long_logs_are_thinned_and_the_history_keeps_all(tiny, tmp_path, capsys) -> None:
    settings = {**tiny, "eval_interval": 1, "eval_iters": 1, "words_interval": 50, "log_points": 16}
    run = train("language", settings, tmp_path / "run")
    log = json.loads((run.path / "training_log.json").read_text())
    assert len(log["iterations"]) <= 16
    assert log["iterations"][0] == 0
    assert log["iterations"][-1] == 60
    assert "keeps at most 16 points" in capsys.readouterr().err
    assert run.read()["val_loss"].null_count == 0
    assert len(run.read()) == 61


def test_wandb_offline_and_tensorboard_record_the_losses(tiny, tmp_path) -> None:
    pytest.importorskip("wandb")
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    settings = {
        **tiny,
        "max_iters": 20,
        "eval_interval": 5,
        "wandb": "offline",
        "tensorboard": True,
    }
    run = train("language", settings, tmp_path / "run")
    assert run.record.status == "done"
    assert list(run.path.rglob("*.wandb"))
    events = next(run.path.rglob("events.out.tfevents.*")).parent
    seen = event_accumulator.EventAccumulator(str(events))
    seen.Reload()
    written = {event.step: event.value for event in seen.Scalars("val_loss")}
    for row in run.read().to_pylist():
        if row["val_loss"] is not None:
            assert written[row["step"]] == pytest.approx(row["val_loss"], rel=1e-6)
    assert len(written) == 5


def test_accumulation_in_the_language_task_changes_nothing_but_rounding(tiny, tmp_path) -> None:
    from cutaway.language.config import LanguageConfig
    from cutaway.language.study import LanguageStudy
    from cutaway.training import fit

    config = LanguageConfig(**{**tiny, "max_iters": 20})
    rows = []
    for parts in (1, 4):
        task = LanguageStudy().prepare(config).task
        with Run.create(tmp_path / str(parts), study="language", config={}) as run:
            fit(task, replace(config.loop(), parts=parts), [run])
        rows.append(run.read().to_pylist())
    for one, other in zip(*rows, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)


@pytest.mark.skipif(not DATA.exists(), reason=f"no real data in {DATA}")
def test_europarl_is_stripped_of_its_tags_and_trains(tiny, tmp_path) -> None:
    settings = {
        **tiny,
        "data": str(DATA / "europarl" / "en-fr"),
        "vocab_size": 1000,
        "max_iters": 40,
    }
    run = train("language", settings, tmp_path / "run")
    assert run.record.metrics["val_loss"] < 6.9
    from cutaway.text.sources import source

    text = "".join(document.text for document in source(settings["data"]).documents())
    assert "<SPEAKER" not in text
    assert "<P>" not in text
    assert "Président" in text
    assert "President" in text
