"""Dictionaries as a study: settings of others, stacks, streams, failures."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.activations.extraction import extract
from cutaway.activations.store import ActivationStore
from cutaway.base.errors import RunFailed, UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.dictionaries.training.task import DictionaryTask
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.together import train_together
from cutaway.studies.train import train

GUIDE = """
sae:
  d_model: 768
  d_hidden: 4096
  threshold: 0.1
  lambda_sparse: 0.01

sae_training:
  epochs: 20
  batch_size: 256
  learning_rate: 0.0001
  weight_decay: 0.0
  gradient_clip: 1.0
  target_recon_loss: 0.01
  target_sparsity_min: 50
  target_sparsity_max: 100
"""
# What keeps two trainings comparable bit for bit: nothing is chosen by a clock.
EXACT = {"kernels": "sparse", "precision": "float32", "device": "cpu"}
SMALL = {
    "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 60, "eval_every": 10,
    "eval_tokens": 500, "log_every": 10, "checkpoint_every": 60, "layer": "residual.0", **EXACT,
}  # fmt: skip
Cutaway = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def two_layers(gpt2_run: Path, corpus: Path, tmp_path_factory) -> Path:
    """A store of two sites."""
    out = tmp_path_factory.mktemp("two") / "store"
    settings = {"model": str(gpt2_run), "data": str(corpus), "layers": "embed,0"}
    extract({**settings, "tokens": 6_000}, out)
    return out


@pytest.fixture
def small(activations: Path) -> Callable[..., DictionaryConfig]:
    def make(**over: Any) -> DictionaryConfig:
        return resolve(DictionaryConfig, {"activations": str(activations), **SMALL, **over})

    return make


def weights(run: Run | Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint's dictionary."""
    run = run if isinstance(run, Run) else Run.open(run)
    return run.checkpoints.load(run.checkpoints.last()).tensors["model"]


def assert_close(one: Run, other: Run, tolerance: float = 1e-5) -> None:
    """Weights within a tolerance, and histories of the same columns and steps."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)
    left, right = one.read("history"), other.read("history")
    assert set(left.column_names) == set(right.column_names)
    assert left["step"].to_pylist() == right["step"].to_pylist()


# -- prices and targets ----------------------------------------------------------------------------


def test_an_accepted_range_is_no_setting_a_resumed_run_may_change(small, tmp_path) -> None:
    config = small(target_l0=None, target_sparsity_min=4, target_sparsity_max=8, max_steps=5)
    train("dictionary", config, tmp_path / "run")
    other = config.model_copy(update={"target_sparsity_max": 20.0})
    with pytest.raises(UserError, match=r"target_sparsity_max = 20\.0: .* was trained with 8\.0"):
        train("dictionary", other, tmp_path / "run", resume=True)


def test_a_price_alone_stays_as_it_is(small, tmp_path) -> None:
    run = train("dictionary", small(target_l0=None, lambda_sparse=0.3), tmp_path / "fixed")
    assert run.read("history")["sparsity_weight"].to_pylist() == [pytest.approx(0.3)] * 7
    figures = run.record.metrics
    assert figures["val_score"] == figures["val_normalised_mse"]  # no L0 to be off from
    assert not any("aimed at" in line for line in run.record.notices)


def test_beside_a_target_it_is_where_the_price_begins(small, tmp_path) -> None:
    run = train("dictionary", small(lambda_sparse=0.3), tmp_path / "led")
    prices = run.read("history")["sparsity_weight"].to_pylist()
    assert prices[0] == pytest.approx(0.3)
    assert prices[-1] != pytest.approx(0.3, rel=1e-3)


def test_settings_an_architecture_has_no_use_for_are_told(small, tmp_path) -> None:
    config = small(architecture="topk", threshold=0.1, lambda_sparse=0.01, max_steps=5)
    run = train("dictionary", config, tmp_path / "topk")
    assert "threshold, lambda_sparse: without effect in topk" in run.record.notices


# -- settings as others write them ----------------------------------------------------------------


def test_the_guides_yaml_trains(cutaway: Cutaway, activations: Path, tmp_path: Path) -> None:
    file = tmp_path / "guide.yaml"
    file.write_text(GUIDE)
    fit = ["--d-model", 16, "--d-hidden", 128, "--max-steps", 8]
    code, _, err = cutaway("train", file, "--activations", activations, *fit, "--out", "one")
    assert code == 0, err
    code, out, err = cutaway("sae", "train", activations, "--config", file, *fit, "--out", "all")
    assert code == 0, err
    assert "50 to 100" in out
    assert "under 0.01" in out
    for run in (Run.open(tmp_path / "one"), Run.open(tmp_path / "all" / "residual.0")):
        settings = run.record.resolved["settings"]
        assert (run.record.study, run.record.steps_done) == ("dictionary", 8)
        assert (settings["target_l0"], settings["learning_rate"]) == (75, 1e-4)
        first = run.read("history").to_pylist()[0]
        assert first["threshold"] == pytest.approx(0.1)
        assert first["sparsity_weight"] == pytest.approx(0.01)


def test_the_guides_width_is_checked(cutaway: Cutaway, activations: Path, tmp_path: Path) -> None:
    file = tmp_path / "guide.yaml"
    file.write_text(GUIDE)
    code, _, err = cutaway("train", file, "--activations", activations, "--out", "one")
    assert (code, "d_model = 768" in err, "16 wide" in err) == (2, True, True)
    assert not (tmp_path / "one").exists()


# -- several on one stream -------------------------------------------------------------------------


def test_layers_trained_side_by_side_equal_each_alone(small, two_layers, tmp_path) -> None:
    sites = ["embed", "residual.0"]
    configs = [small(activations=str(two_layers), layer=site) for site in sites]
    together = train_together("dictionary", configs, [tmp_path / site for site in sites])
    for config, stacked in zip(configs, together):
        alone = train("dictionary", config, tmp_path / f"{config.layer}-alone")
        assert stacked.record.status == "done"
        assert stacked.record.resolved["dictionary"]["site"] == config.layer
        assert_close(stacked, alone)
    assert not torch.equal(weights(together[0])["encoder_weight"], weights(alone)["encoder_weight"])


def test_two_targets_on_each_of_two_layers_equal_each_alone(small, two_layers, tmp_path) -> None:
    grid = [(site, target) for site in ("embed", "residual.0") for target in (4, 9)]
    configs = [small(activations=str(two_layers), layer=s, target_l0=t) for s, t in grid]
    together = train_together("dictionary", configs, [tmp_path / f"{s}-{t}" for s, t in grid])
    for config, stacked in zip(configs, together):
        alone = train("dictionary", config, tmp_path / f"{stacked.path.name}-alone")
        assert_close(stacked, alone)


def test_two_targets_on_one_stream_equal_each_alone(small, tmp_path) -> None:
    configs = [small(target_l0=4), small(target_l0=9)]
    together = train_together("dictionary", configs, [tmp_path / "t4", tmp_path / "t9"])
    for config, stacked in zip(configs, together):
        assert_close(stacked, train("dictionary", config, tmp_path / f"a{config.target_l0:g}"))


@pytest.mark.parametrize("first", ["jumprelu", "relu"])
def test_architectures_trained_side_by_side_record_their_own_figures(
    small, tmp_path, first: str
) -> None:
    names = [first, "relu" if first == "jumprelu" else "jumprelu"]
    configs = [small(architecture=name, max_steps=20) for name in names]
    together = train_together("dictionary", configs, [tmp_path / name for name in names])
    for name, config, stacked in zip(names, configs, together):
        alone = train("dictionary", config, tmp_path / f"{name}-alone")
        there, here = stacked.read().to_pylist()[-1], alone.read().to_pylist()[-1]
        for column in ("encoder_decoder_cosine", "threshold_low", "threshold_high"):
            expected = pytest.approx(here.get(column, math.nan), rel=1e-5, nan_ok=True)
            assert there[column] == expected


def test_a_member_of_another_width_is_refused(small, tmp_path) -> None:
    configs = [small(), small(d_model=32)]
    with pytest.raises(UserError, match="d_model = 32: the states are 16 wide"):
        train_together("dictionary", configs, [tmp_path / "a", tmp_path / "b"])


# -- straight from the model -----------------------------------------------------------------------


@pytest.fixture
def streamed(gpt2_run: Path, corpus: Path) -> Callable[..., DictionaryConfig]:
    settings = {"streaming": True, "model": str(gpt2_run), "data": str(corpus), "tokens": 4_000}

    def make(**over: Any) -> DictionaryConfig:
        return resolve(DictionaryConfig, {**SMALL, **settings, "max_steps": 30, **over})

    return make


def test_streaming_equals_itself_and_resembles_the_store(streamed, small, tmp_path) -> None:
    runs = [train("dictionary", streamed(), tmp_path / name) for name in ("a", "b")]
    first, second = map(weights, runs)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    stored = train("dictionary", small(max_steps=30), tmp_path / "stored")
    for name in ("val_explained_variance", "val_l0"):
        assert runs[0].record.metrics[name] == pytest.approx(stored.record.metrics[name], rel=0.3)
    reference = runs[0].record.resolved["dictionary"]["reference"]
    assert reference == stored.record.resolved["dictionary"]["reference"]


def test_one_pass_over_the_model_serves_several_layers(streamed, tmp_path) -> None:
    configs = [streamed(layer=layer) for layer in ("embed", "0")]
    together = train_together("dictionary", configs, [tmp_path / "embed", tmp_path / "0"])
    assert [run.record.status for run in together] == ["done", "done"]
    assert_close(together[1], train("dictionary", configs[1], tmp_path / "alone"))


def test_the_text_of_a_streaming_run_is_found_from_any_folder(
    streamed, corpus, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    run = train("dictionary", streamed(data=corpus.name, max_steps=5), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    config = resolve(DictionaryConfig, run.record.config)
    longer = train("dictionary", config, tmp_path / "run", extra_steps=5)
    assert (longer.record.status, longer.record.steps_done) == ("done", 10)


# -- going on, and failing -------------------------------------------------------------------------


def test_extra_steps_go_on_where_it_stood(cutaway: Cutaway, small, tmp_path: Path) -> None:
    train("dictionary", small(max_steps=20), tmp_path / "run")
    code, out, err = cutaway("train", tmp_path / "run", "--extra-steps", 15)
    assert (code, "done at step 35" in out) == (0, True), err
    steps = Run.open(tmp_path / "run").read("history")["step"].to_pylist()
    assert steps == sorted(set(steps))
    assert steps[-1] == 35


def test_a_dictionary_that_dies_is_a_failed_run(
    cutaway: Cutaway, activations: Path, tmp_path: Path
) -> None:
    """A price far beyond what features are worth, and none is ever revived."""
    file = tmp_path / "d.yaml"
    file.write_text(
        "architecture: relu\nlambda_sparse: 1.0e5\ndead_after: 1000000000\nlearning_rate: 0.02"
    )
    settings = ["--layer", 0, "--d-hidden", 64, "--eval-every", 5, "--log-every", 1]
    settings += ["--batch-size", 64, "--max-steps", 400]
    code, _, err = cutaway("train", file, "--activations", activations, *settings, "--out", "run")
    run = Run.open(tmp_path / "run")
    assert (code, run.record.status) == (1, "failed")
    assert "no feature is active on any held-out token" in run.record.reason
    assert "lower threshold or lambda_sparse" in err
    steps = run.read("history")["step"].to_pylist()
    assert steps == list(range(len(steps)))
    assert 0 < len(steps) < 400


def test_a_dictionary_that_dies_beside_others_says_why_as_it_does_alone(small, tmp_path) -> None:
    dying = {"architecture": "relu", "lambda_sparse": 1e5, "learning_rate": 0.02}
    steps = {"max_steps": 120, "eval_every": 5}
    config = small(**dying, **steps, target_l0=None, dead_after=10**9)
    runs = train_together(
        "dictionary", [small(**steps), config], [tmp_path / "lives", tmp_path / "dies"]
    )
    assert [run.record.status for run in runs] == ["done", "failed"]
    with pytest.raises(RunFailed, match="no feature is active on any held-out token"):
        train("dictionary", config, tmp_path / "alone")
    alone = Run.open(tmp_path / "alone")
    assert runs[1].record.reason == alone.record.reason
    assert runs[1].record.steps_attempted == alone.record.steps_attempted > 1
    assert runs[1].read()["step"].equals(alone.read()["step"])


def test_a_threshold_no_state_reaches_is_refused(small, tmp_path) -> None:
    with pytest.raises(UserError, match=r"threshold = 1e\+06: no feature is active on any of"):
        train("dictionary", small(threshold=1e6), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Memory:
    """A loss that finds no memory the first time."""

    def __init__(self) -> None:
        self.loss, self.times, self.sizes = DictionaryTask.loss, 0, []

    def __call__(self, task: DictionaryTask, batch: torch.Tensor) -> Any:
        self.sizes.append(len(batch))
        if len(self.sizes) == 3:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return self.loss(task, batch)


def test_out_of_memory_halves_the_batch_once_and_says_so(small, tmp_path, monkeypatch) -> None:
    whole = train("dictionary", small(max_steps=20), tmp_path / "whole")
    memory = Memory()
    monkeypatch.setattr(DictionaryTask, "loss", lambda task, batch: memory(task, batch))
    run = train("dictionary", small(max_steps=20), tmp_path / "run")
    assert run.record.status == "done"
    assert memory.sizes[:5] == [64, 64, 64, 32, 32]
    assert set(memory.sizes[3:]) == {32}
    assert any(
        "out of memory at step 2: going on with 2 parts a batch" in line
        for line in run.record.notices
    )
    assert_close(run, whole, 1e-4)


def test_a_batch_that_cannot_be_cut_fails_with_the_reason(small, tmp_path, monkeypatch) -> None:
    memory = Memory()
    monkeypatch.setattr(DictionaryTask, "loss", lambda task, batch: memory(task, batch))
    with pytest.raises(RunFailed, match="out of memory: tried to allocate"):
        train("dictionary", small(architecture="batch_topk"), tmp_path / "run")
    record = Run.open(tmp_path / "run").record
    assert (record.status, record.steps_attempted) == ("failed", 3)
    assert record.reason.endswith("give a smaller batch_size")
    assert "\n" not in record.reason
    assert memory.sizes == [64, 64, 64]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns(architecture: str, small, tmp_path) -> None:
    run = train("dictionary", small(architecture=architecture), tmp_path / "run")
    rows = [row for row in run.read("history").to_pylist() if row["val_l0"] is not None]
    assert rows[0]["step"] == 0
    assert rows[-1]["step"] == 60
    assert rows[-1]["val_explained_variance"] > rows[0]["val_explained_variance"] + 0.02


def spoil(store: ActivationStore, first: int, last: int) -> Path:
    """Write NaN into rows of the store's first shard, whose size stays; the shard."""
    shard = store.path / "shards" / store.manifest["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    start = 8 + length + header["residual.0"]["data_offsets"][0]
    for row in range(first, last):
        at = start + row * store.width * 4
        content[at : at + 4] = b"\x00\x00\xc0\x7f"
    shard.write_bytes(content)
    return shard


def test_states_that_are_not_finite_are_refused(
    activations: Path, tmp_path: Path, cutaway: Cutaway
) -> None:
    store = ActivationStore(shutil.copytree(activations, tmp_path / "store"))
    shard = spoil(store, 1, 200)
    code, _, err = cutaway("sae", "train", store.path, "--out", "new", "--max-steps", 5)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "residual.0" in err
    assert "not finite" in err
    assert not (tmp_path / "new").exists()
    code, _, err = cutaway("runs", "verify", store.path)
    assert (code, shard.name in err) == (1, True)


def test_one_that_comes_up_later_fails_the_run(
    activations: Path, tmp_path: Path, monkeypatch, small
) -> None:
    """The start is set from a sample; what lies beyond it is met in training."""
    from cutaway.dictionaries.training import sources

    store = ActivationStore(shutil.copytree(activations, tmp_path / "store"))
    spoil(store, 100, 101)
    monkeypatch.setattr(sources, "SAMPLE", 64)
    config = small(activations=str(store.path), max_steps=400, data_seed=3)
    with pytest.raises(RunFailed, match="non-finite at step"):
        train("dictionary", config, tmp_path / "run")
    record = Run.open(tmp_path / "run").record
    assert record.status == "failed"
    assert record.steps_done > 0


def test_the_advice_of_a_real_run_counts_what_was_held_out(small, tmp_path) -> None:
    run = train("dictionary", small(threshold=3.5, max_steps=5, dead_after=10**6), tmp_path / "r")
    held_out = run.record.resolved["validation_states"]
    assert 0 < held_out <= 500
    lines = [line for line in run.record.notices if "of the features fired on none" in line]
    assert len(lines) == 1
    assert f"none of {held_out:,} held-out tokens" in lines[0]


def test_a_run_whose_l0_is_no_number_is_compared_with_none() -> None:
    from cutaway.orthogonality.comparison import BASELINE, match

    def row(run: str, arm: str, l0: float) -> dict:
        return {"run": run, "arm": arm, "seed": 0, "target_l0": 8.0, "l0": l0}

    rows = [
        row("lost", BASELINE, float("nan")),
        row("base", BASELINE, 8.0),
        row("arm", "other", 8.1),
    ]
    match(rows)
    assert [one["matched"] for one in rows] == [False, True, True]
    assert rows[2]["beside"] == "base"
