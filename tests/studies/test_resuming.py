"""Going on with a run: from its own settings, and without touching it when refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import TINY, settings_args
from cutaway.cli.main import run
from cutaway.nets.reference import load
from cutaway.runs.folder import Run
from cutaway.studies.train import train


@pytest.fixture
def short(corpus, tmp_path, monkeypatch):
    """Arguments that train for a moment, with a relative path to the corpus."""
    (tmp_path / "texts").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    settings = {**TINY, "max_iters": 20, "eval_interval": 8, "warmup_iters": 0}
    return ["--quiet", "train", "docstrings-tiny", *settings_args(settings), "--data", "texts"]


def losses(folder) -> dict[int, float]:
    rows = Run.open(folder).read().to_pylist()
    return {row["step"]: row["val_loss"] for row in rows if row["val_loss"] is not None}


def test_the_recorded_settings_count_not_the_presets(short, tmp_path) -> None:
    assert run([*short, "--out", "a"]) == 0
    assert run(["--quiet", "train", "docstrings-tiny", "--out", "a", "--extra-steps", "4"]) == 0
    record = Run.open("a").record
    assert (record.steps_done, record.config["n_embd"]) == (24, 16)


def test_what_does_not_touch_the_path_may_change(short, capsys) -> None:
    assert run([*short, "--out", "a"]) == 0
    more = ["--quiet", "train", "a", "--extra-steps", "4"]
    assert run([*more, "--log-interval", "1", "--keep-checkpoints", "none"]) == 0
    assert Run.open("a").read()["step"].to_pylist()[-4:] == [21, 22, 23, 24]
    assert run([*more, "--seed", "5"]) == 2
    assert "seed = 5" in capsys.readouterr().err


def test_a_run_goes_on_from_any_folder_and_with_its_data_moved(
    short, tmp_path, monkeypatch, corpus
) -> None:
    assert run([*short, "--out", "a"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(["--quiet", "train", "../a", "--extra-steps", "2"]) == 0
    (tmp_path / "texts").unlink()
    assert run(["--quiet", "train", "../a", "--extra-steps", "2", "--data", str(corpus)]) == 0
    assert Run.open("../a").record.steps_done == 24


def test_other_data_is_refused(short, tmp_path, capsys) -> None:
    assert run([*short, "--out", "a"]) == 0
    (tmp_path / "other.txt").write_text("Something else entirely. " * 500)
    assert run(["--quiet", "train", "a", "--extra-steps", "2", "--data", "other.txt"]) == 2
    assert "has changed since this run began" in capsys.readouterr().err


def test_extra_steps_keep_the_last_evaluation(short) -> None:
    assert run([*short, "--out", "a"]) == 0
    before = losses("a")
    assert sorted(before) == [0, 8, 16, 20]
    assert run(["--quiet", "train", "a", "--extra-steps", "7"]) == 0
    after = losses("a")
    assert sorted(after) == [0, 8, 16, 20, 24, 27]
    assert {step: after[step] for step in before} == before
    log = json.loads(Path("a/training_log.json").read_text())
    assert log["iterations"] == sorted(after)


def test_advice_of_an_earlier_end_is_replaced(short) -> None:
    assert run([*short, "--out", "a"]) == 0
    first = [line for line in Run.open("a").record.notices if line.startswith("note: ")]
    assert run(["--quiet", "train", "a", "--extra-steps", "80"]) == 0
    second = [line for line in Run.open("a").record.notices if line.startswith("note: ")]
    assert any("in 20 steps" in line for line in first)
    assert not any("in 20 steps" in line for line in second)


def test_a_refused_resume_leaves_the_run_as_it_was(short, tmp_path, capsys) -> None:
    assert run([*short, "--out", "a"]) == 0
    before = (tmp_path / "a" / "run.json").read_bytes()
    assert run(["train", "a", "--extra-steps", "5", "--device", "cuda:9"]) == 2
    assert run(["train", "a", "--extra-steps", "5", "--weight-decay", "9"]) == 2
    assert (tmp_path / "a" / "run.json").read_bytes() == before
    assert Run.open("a").status == "done"


def test_a_run_named_without_resume_is_explained(short, capsys) -> None:
    assert run([*short, "--out", "a"]) == 0
    assert run(["train", "a"]) == 2
    assert "--resume or --extra-steps" in capsys.readouterr().err


def test_runs_without_a_name_get_one_each(short, tmp_path) -> None:
    assert run(short) == 0
    assert run(short) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "docstrings-tiny", "docstrings-tiny-2",
    ]  # fmt: skip


def test_a_refused_run_without_a_name_leaves_no_folder(short, tmp_path) -> None:
    assert run([*short, "--data", "nowhere.txt"]) == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("vocabulary", [None, 320])
def test_a_pretrained_tokenizer_resumes_and_repeats(
    backpack_run, corpus, tmp_path, vocabulary
) -> None:
    settings = {**TINY, "data": str(corpus), "tokenizer": str(backpack_run / "tokenizer")}
    settings |= {"max_iters": 20, "vocab_size": vocabulary}
    first = train("language", settings, tmp_path / "a")
    assert first.record.resolved["architecture"]["vocab_size"] == (vocabulary or 300)
    train("language", first.record.config, tmp_path / "a", extra_steps=4)
    assert Run.open(tmp_path / "a").record.steps_done == 24
    assert (
        run(["--quiet", "train", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")])
        == 0
    )
    again = Run.open(tmp_path / "b").record
    assert again.resolved["architecture"] == first.record.resolved["architecture"]


def test_a_damaged_best_checkpoint_does_not_block_reading(backpack_run, tmp_path, capsys) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(backpack_run, copy)
    opened = Run.open(copy)
    best = opened.checkpoints.best()
    updater = opened.checkpoints.path(best) / "updater.safetensors"
    updater.write_bytes(updater.read_bytes()[:-5])
    assert load(copy).step == best  # what looking does not need may be damaged
    weights = opened.checkpoints.path(best) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(bytes(content))
    assert load(copy).step != best
    assert "model.safetensors: damaged" in capsys.readouterr().err


def test_compiled_training_takes_the_same_path(corpus, tmp_path, monkeypatch) -> None:
    """Traced by the compiler, run without its slow code generation."""
    import functools

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    settings = {**TINY, "data": str(corpus), "max_iters": 10}
    plain = train("language", settings, tmp_path / "plain")
    compiled = train("language", {**settings, "compile": True}, tmp_path / "compiled")
    for one, other in zip(plain.read().to_pylist(), compiled.read().to_pylist(), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


def test_sizes_are_known_for_every_preset(capsys, gpt2_run, probe_data) -> None:
    from cutaway.studies.presets import presets

    for preset in presets():
        extra = [] if "tokenizer" not in preset.values else ["--vocab-size", "50257"]
        if preset.study == "dictionary":  # its width is that of the states it is given
            extra = ["--d-model", "768"]
        if preset.study == "probe":  # as wide as the model's states
            extra = ["--model", str(gpt2_run), "--data", str(probe_data)]
        assert run(["params", preset.name, "--json", *extra]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert rows[-1]["component"] == "total"
        assert rows[-1]["parameters"] == sum(row["parameters"] for row in rows[:-1])


def test_a_run_whose_checkpoints_were_deleted_is_not_retrained(short, tmp_path, capsys) -> None:
    import shutil

    assert run([*short, "--out", "a"]) == 0
    shutil.rmtree("a/checkpoints")
    assert run(["train", "a", "--extra-steps", "2"]) == 2
    assert "no checkpoint left" in capsys.readouterr().err
    assert Run.open("a").read()["step"].to_pylist()[-1] == 20


def test_a_preset_of_another_model_does_not_go_on_with_the_run(short, capsys) -> None:
    assert run([*short, "--out", "a"]) == 0
    assert run(["train", "docstrings-tiny-gpt2", "--out", "a", "--extra-steps", "2"]) == 2
    assert "model gpt2" in capsys.readouterr().err


def test_a_brought_tokenizer_sets_the_presets_vocabulary_aside(backpack_run, short) -> None:
    own = [part for part in short if part not in ("--vocab-size", "300")]
    assert run([*own, "--tokenizer", str(backpack_run / "tokenizer"), "--out", "a"]) == 0
    assert Run.open("a").record.resolved["architecture"]["vocab_size"] == 300
