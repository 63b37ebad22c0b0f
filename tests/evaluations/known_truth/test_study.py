"""Synthetic states through the public door: training, judging, what has no model, bad settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import PATIENCE, command, settings_args
from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.dictionaries.origin import require_model
from cutaway.dictionaries.synthetic.truth import Hierarchy, Superposition
from cutaway.dictionaries.training.config import DictionaryConfig
from cutaway.dictionaries.training.sources import open_source
from cutaway.evaluations.evaluate import Evaluation
from cutaway.evaluations.known_truth.measures import recovery
from cutaway.features.effects import feature_effect
from cutaway.nets.sites import parse_site
from cutaway.runs.folder import Run
from cutaway.studies.presets import find_preset
from cutaway.studies.settings import resolve
from cutaway.studies.together import train_together
from cutaway.studies.train import train

EXACT = {"kernels": "dense", "precision": "float32", "device": "cpu"}
SMALL = {
    "true_features": 32, "d_model": 16, "active": 2, "d_hidden": 32, "target_l0": 2,
    "batch_size": 256, "max_steps": 600, "learning_rate": 1e-2, "dead_after": 5000,
    "eval_every": 100, "eval_tokens": 2000, **EXACT,
}  # fmt: skip
FAMILIES = {
    "synthetic": "hierarchy", "parents": 4, "children": 2, "d_model": 12, "parent_rate": 0.4,
    "architecture": "relu", "d_hidden": 16, "batch_size": 64, "max_steps": 40, "eval_every": 10,
    "eval_tokens": 500, **EXACT,
}  # fmt: skip
Cutaway = Callable[..., tuple[int, str, str]]


def families(**over: Any) -> DictionaryConfig:
    return resolve(DictionaryConfig, {**FAMILIES, **over})


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """What the preset makes of a truth of 32 features in 16 dimensions, 2 of them active."""
    out = tmp_path_factory.mktemp("synthetic") / "found"
    process = command("train", "sae-synthetic", *settings_args(SMALL), "--out", out)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    return train("dictionary", families(), tmp_path_factory.mktemp("families") / "run").path


# -- training --------------------------------------------------------------------------------------


def test_the_preset_recovers_a_small_truth(found: Path) -> None:
    metrics = Run.open(found).record.metrics
    assert metrics["mmcs"] > 0.9
    assert metrics["val_l0"] == pytest.approx(2, rel=0.1)
    dictionary = Dictionary.load(found, step="last", device="cpu")
    score, _ = recovery(dictionary.decoder_weight, Superposition(32, 16, 2).directions())
    assert score == pytest.approx(metrics["mmcs"], abs=1e-6)
    history = Run.open(found).read("history")["mmcs"].drop_null().to_pylist()
    assert history[0] < 0.7
    assert len(history) == 7


def test_the_record_says_what_the_states_were_made_of(found: Path, family: Path) -> None:
    record = Run.open(found).record
    parent = record.parents[0]
    assert (parent["kind"], parent["id"]) == ("synthetic", "superposition")
    assert parent["settings"] == {**Superposition(32, 16, 2).to_json(), "data_seed": 0}
    known = Dictionary.load(family).metadata
    assert (known["reference"], known["site"]) == (None, None)
    truth = Hierarchy(4, 2, 12, parent_rate=0.4)
    assert known["synthetic"] == {**truth.to_json(), "data_seed": 0}


def test_what_is_not_said_fits_the_truth() -> None:
    config = resolve(DictionaryConfig, {"synthetic": "hierarchy"})
    sized = config.sized(40, config.tokens)
    assert (sized.d_model, sized.d_hidden) == (40, 48)
    assert sized.target_l0 == pytest.approx(12 * 0.15 * 1.6)
    assert sized.sized(40, config.tokens) == sized


def test_another_truth_or_order_is_another_run(tmp_path: Path) -> None:
    train("dictionary", families(max_steps=5), tmp_path / "run")
    with pytest.raises(UserError, match=r"child_rate = 0\.5: .* was trained with 0\.6"):
        train("dictionary", families(max_steps=5, child_rate=0.5), tmp_path / "run", resume=True)
    keys = {
        families(**over).stack_key()
        for over in ({}, {"child_rate": 0.5}, {"truth_seed": 1}, {"data_seed": 1}, {"d_model": 11})
    }
    assert len(keys) == 5
    assert families(architecture="topk").stack_key() in keys


def test_members_of_a_stack_are_each_compared_with_the_truth(family: Path, tmp_path: Path) -> None:
    configs = [families(), families(architecture="topk")]
    runs = train_together("dictionary", configs, [tmp_path / "relu", tmp_path / "topk"])
    alone = train("dictionary", configs[1], tmp_path / "alone")
    for one, other in ((runs[0], Run.open(family)), (runs[1], alone)):
        for name in ("mmcs", "matched_f1", "absorption", "parents_missing"):
            assert one.record.metrics[name] == pytest.approx(other.record.metrics[name], abs=1e-5)
    assert runs[0].record.metrics["mmcs"] != runs[1].record.metrics["mmcs"]


def test_settings_the_source_has_no_use_for_are_told(tmp_path: Path, activations: Path) -> None:
    run = train("dictionary", families(max_steps=5, active=3, layer="residual.0"), tmp_path / "one")
    told = "active, layer: without effect on synthetic = hierarchy"
    assert told in run.record.notices
    store = {"activations": str(activations), "d_hidden": 32, "max_steps": 5, **EXACT}
    run = train("dictionary", {**store, "parents": 9}, tmp_path / "two")
    assert "parents: without effect on states of a model" in run.record.notices


def test_held_out_states_of_several_sites_are_read_once(
    gpt2_run: Path, corpus: Path, monkeypatch
) -> None:
    settings = {
        "streaming": True, "model": str(gpt2_run), "data": str(corpus), "tokens": 4000,
        "eval_tokens": 300, "batch_size": 64,
    }  # fmt: skip
    configs = [
        resolve(DictionaryConfig, {**settings, "layer": layer}) for layer in ("embed", "0", "embed")
    ]
    source = open_source(configs)
    passes = []
    blocks = source.validation.blocks
    monkeypatch.setattr(source.validation, "blocks", lambda: passes.append(1) or blocks())
    held = [torch.cat(source.held_out(index, 300)) for index in range(3)]
    assert len(passes) == 1
    assert [tuple(one.shape) for one in held] == [(300, 16)] * 3
    assert torch.equal(held[0], held[2])
    alone = open_source([configs[1]])
    assert alone.sites == [parse_site("0")]
    torch.testing.assert_close(torch.cat(alone.held_out(0, 300)), held[1])


# -- judging ---------------------------------------------------------------------------------------


def test_eval_compares_with_the_truth_on_fresh_states(
    cutaway: Cutaway, found: Path, family: Path
) -> None:
    code, out, err = cutaway("sae", "eval", found, family, "--tokens", 3000, "--json")
    assert code == 0, err
    one, other = json.loads(out)
    assert (one["tokens"], one["held_out"], one["ce_recovered"]) == (3000, True, None)
    assert set(one["ground_truth"]) == {"mmcs", "matched_f1"}
    assert set(other["ground_truth"]) == {"mmcs", "matched_f1", "absorption", "parents_missing"}
    best = Dictionary.load(found, device="cpu")
    score, _ = recovery(best.decoder_weight, Superposition(32, 16, 2).directions())
    assert one["ground_truth"]["mmcs"] == pytest.approx(score, abs=1e-6)
    assert one["explained_variance"] > one["baselines"]["random_scaled"]["explained_variance"] + 0.2
    assert one["baselines"]["random"]["mmcs"] < 0.7 < one["ground_truth"]["mmcs"]
    kept = Evaluation.load(found)
    assert (kept.site, kept.ground_truth) == ("superposition", one["ground_truth"])


def test_the_table_has_the_truths_columns_and_no_models(
    cutaway: Cutaway, found: Path, family: Path, tmp_path: Path
) -> None:
    command = ("sae", "eval", found, family, "--tokens", 1000)
    code, out, err = cutaway(*command, "--csv", "--out", tmp_path / "judged")
    assert code == 0, err
    header = out.splitlines()[0].split(",")
    for name in ("L0", "dead", "EV", "NMSE", "cosine", "MMCS", "matched F1", "absorption"):
        assert name in header
    assert not {"CE recovered", "KL", "KL recovered", "EV with position 0"} & set(header)
    assert (tmp_path / "judged" / "figures" / "layers.png").is_file()


def test_a_saved_dictionary_keeps_its_truth(cutaway: Cutaway, family: Path, tmp_path: Path) -> None:
    code, _, err = cutaway("sae", "export", family, "--format", "cutaway", "--out", tmp_path / "d")
    assert code == 0, err
    figures = []
    for place in (family, tmp_path / "d"):
        code, out, err = cutaway("sae", "eval", place, "--tokens", 1000, "--json")
        assert code == 0, err
        figures.append(json.loads(out)[0]["ground_truth"])
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    "command",
    [
        ("sae", "features", "RUN"),
        ("sae", "effect", "RUN", "--feature", 1, "--prompt", "def"),
        ("sae", "eval", "RUN", "--data", "docstrings"),
        ("sae", "eval", "RUN", "--model", "gpt2"),
        ("sae", "eval", "RUN", "RUN", "--data", "docstrings"),
    ],
)
def test_what_needs_a_model_says_that_there_is_none(
    cutaway: Cutaway, family: Path, command: tuple[Any, ...]
) -> None:
    code, _, err = cutaway(*(family if part == "RUN" else part for part in command))
    assert code == 2
    assert (
        err.strip()
        .splitlines()[-1]
        .endswith("was trained on synthetic states; there is no model to read or change with it")
    )
    assert "Traceback" not in err


def test_in_python_too(family: Path, gpt2_run: Path) -> None:
    import cutaway

    dictionary, model = Dictionary.load(family, device="cpu"), cutaway.open_model(str(gpt2_run))
    with pytest.raises(UserError, match="synthetic states"):
        feature_effect(model, dictionary, "0", {0: 1.0})
    with pytest.raises(UserError, match="synthetic states"):
        require_model(dictionary, model.reference, 12)


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"synthetic": "superposition", "active": 200}, "active = 200: expected 1 to 128"),
        ({"synthetic": "superposition", "correlation": 1.0}, "correlation = 1.0: .*less than 1"),
        ({"synthetic": "hierarchy", "parent_rate": 1.5}, "parent_rate = 1.5: .*less than or equal"),
        ({"synthetic": "hierarchy", "child_rate": 0.0}, "child_rate = 0.0: .*greater than 0"),
        ({"synthetic": "hierarchy", "parent_rate": 0.01}, "expected at least 1 / parents"),
        ({"synthetic": "hierarchy", "d_model": 3}, "d_model = 3: too narrow"),
        ({"synthetic": "hierarchies"}, "synthetic = 'hierarchies'"),
        ({"synthetic": "superposition", "activations": "acts"}, "activations = 'acts': synthetic"),
        ({"synthetic": "superposition", "streaming": True}, "streaming = True: synthetic"),
        ({"synthetic": "superposition", "model": "gpt2"}, "model = 'gpt2': synthetic"),
        ({"synthetic": "superposition", "d_hidden": 8, "target_l0": 8}, "must be below d_hidden"),
    ],
)
def test_settings_that_cannot_be_are_one_line(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        resolve(DictionaryConfig, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("over", ["store", "model"])
def test_dictionaries_of_a_store_or_a_model_are_not_synthetic(
    cutaway: Cutaway, activations: Path, gpt2_run: Path, over: str
) -> None:
    begin = {"store": ("train", activations), "model": ("pipeline", gpt2_run)}[over]
    code, _, err = cutaway("sae", *begin, "--config", "sae-synthetic", "--out", "there")
    assert (code, err.count("\n")) == (2, 1)
    assert "synthetic = 'superposition': set for each dictionary by what is trained on" in err
    assert not Path("there").exists()


@pytest.mark.parametrize("name", ["sae-synthetic", "sae-hierarchy"])
def test_presets_fill_their_settings_in(name: str) -> None:
    config = resolve(DictionaryConfig, find_preset(name).values)
    assert config.truth is not None
    assert config.without_use() + config.ignored() == []
    sized = config.sized(config.truth.width, config.tokens)
    assert sized.target_l0 == pytest.approx(config.truth.l0)
    assert sized.max_steps == 4000
