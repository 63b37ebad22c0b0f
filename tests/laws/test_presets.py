"""Laws for every preset and every study's settings."""

from __future__ import annotations

import pytest

from cutaway.studies.presets import find_preset, presets
from cutaway.studies.registry import STUDIES, config_of, infer
from cutaway.studies.settings import describe, resolve

ALL = presets()


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_it_is_valid_and_says_what_it_is_for(preset) -> None:
    config = resolve(config_of(preset.study), preset.values)
    assert config.loop().steps > 0
    assert len(preset.about) > 20
    assert find_preset(preset.name) == preset


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_its_study_is_inferred_from_its_fields(preset) -> None:
    assert infer(preset.values) == preset.study


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_writing_the_config_out_and_reading_it_back_changes_nothing(preset) -> None:
    model = config_of(preset.study)
    config = resolve(model, preset.values)
    assert resolve(model, config.model_dump(mode="json")) == config


@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_is_described(study) -> None:
    silent = [row["field"] for row in describe(config_of(study)) if len(row["meaning"]) < 10]
    assert silent == []


def test_the_promised_presets_are_there() -> None:
    names = {preset.name for preset in ALL}
    assert {
        "europarl-tiny",
        "europarl-tiny-gpt2",
        "docstrings-tiny",
        "docstrings-tiny-gpt2",
    } <= names
    assert {"backpack-small", "gpt2-small"} <= names


def test_twins_differ_in_the_model_alone() -> None:
    by_name = {preset.name: preset.values for preset in ALL}
    for one, twin in (
        ("europarl-tiny", "europarl-tiny-gpt2"),
        ("docstrings-tiny", "docstrings-tiny-gpt2"),
        ("backpack-small", "gpt2-small"),
    ):
        differing = {
            key
            for key in by_name[one].keys() | by_name[twin].keys()
            if by_name[one].get(key) != by_name[twin].get(key)
        }
        assert differing == {"model", "n_senses"}


def test_the_document_of_the_tiny_europarl_run_holds() -> None:
    values = find_preset("europarl-tiny").values
    wanted = {"block_size": 128, "n_layer": 2, "n_head": 2, "n_embd": 48, "n_senses": 4}
    wanted |= {"eval_interval": 100, "vocab_size": 8000}
    assert {key: values[key] for key in wanted} == wanted


def test_small_presets_have_gpt2_smalls_shape() -> None:
    from cutaway.language.sizing import total

    config = resolve(config_of("language"), find_preset("gpt2-small").values)
    assert total(config.model_copy(update={"vocab_size": 50257})) == 124_439_808


def test_the_promised_grokking_presets_and_sweeps_are_there() -> None:
    from cutaway.sweeps.grid import read_sweep

    names = {preset.name for preset in ALL}
    assert {"baseline", "validate", "transformer", "validate-transformer", "routed"} <= names
    assert "grok-in-seconds" in names
    transformers = read_sweep("transformer-sweep")
    assert len(transformers.runs) == 18
    assert transformers.runs[4].name == "p17_lr1e-3_wd1.0"
    assert {(run.config.p, run.config.train_frac) for run in transformers.runs} == {
        (17, 0.5), (113, 0.5),
    }  # fmt: skip
    decays = read_sweep("weight-decay-sweep")
    assert [run.config.weight_decay for run in decays.runs] == [0.5, 0.75, 1.0, 1.25, 1.5]
    assert {run.config.lr for run in decays.runs} == {3e-4}
