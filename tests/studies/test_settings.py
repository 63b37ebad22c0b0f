"""One resolver for files, command lines and Python."""

from __future__ import annotations

import pytest
from pydantic import Field

from cutaway.base.errors import UserError
from cutaway.studies.presets import find_preset
from cutaway.studies.registry import config_of
from cutaway.studies.settings import StudyConfig, overrides, resolve
from cutaway.studies.yaml_file import read_yaml


class Config(StudyConfig):
    """An example."""

    learning_rate: float = Field(1e-3, gt=0)
    """The rate."""
    steps: int | None = None
    """How many."""
    bias: bool = True
    """Biases."""
    name: str = "x"
    """A name."""


@pytest.mark.parametrize(
    ("tokens", "values"),
    [
        ("--learning-rate 1e-4", {"learning_rate": "1e-4"}),
        ("--learning_rate=1e-4 --steps 3", {"learning_rate": "1e-4", "steps": "3"}),
        ("--bias", {"bias": True}),
        ("--no-bias --steps 3", {"bias": False, "steps": "3"}),
        ("--steps none", {"steps": None}),
        ("--steps 3 --steps 4", {"steps": "4"}),
        ("--learning-rate -1", {"learning_rate": "-1"}),
    ],
)
def test_command_line_settings(tokens, values) -> None:
    assert overrides(tokens.split()) == values


def test_the_command_line_beats_the_file_and_the_file_the_default() -> None:
    config = resolve(Config, {"learning_rate": 0.5, "name": "file"}, {"learning_rate": "0.25"})
    assert (config.learning_rate, config.name, config.steps) == (0.25, "file", None)


def test_yaml_numbers_are_numbers(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("learning-rate: 1e-8\nsteps: 0o17\nname: yes\n")
    values = read_yaml(path)
    assert values == {"learning_rate": 1e-8, "steps": 15, "name": "yes"}  # YAML 1.2


def test_several_mistakes_are_told_at_once_in_one_line() -> None:
    with pytest.raises(UserError) as error:
        resolve(Config, {"learning_rate": -1, "stepz": 3})
    message = str(error.value)
    assert "learning_rate = -1" in message
    assert "did you mean 'steps'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", "0.1"), ("steps", "3"), ("bias", "true")]
)
def test_text_for_a_number_in_a_file_is_a_mistake(field, value) -> None:
    with pytest.raises(UserError, match=f"{field} = '{value}': expected .*, found text"):
        resolve(Config, {field: value})
    resolve(Config, {}, {field: value})  # the command line knows only text


def test_a_file_names_its_study_or_is_recognised_by_its_fields(tmp_path) -> None:
    named, unnamed = tmp_path / "named.yaml", tmp_path / "unnamed.yaml"
    named.write_text("study: language\nn_embd: 8\n")
    unnamed.write_text("n_embd: 8\nblock_size: 4\n")
    for path in (named, unnamed):
        preset = find_preset(str(path))
        assert (preset.study, preset.name) == ("language", path.stem)
        assert "study" not in preset.values


def test_a_runs_config_file_repeats_the_run(gpt2_run, tmp_path, capsys) -> None:
    from cutaway.cli.main import run
    from cutaway.runs.folder import Run

    assert run(["train", str(gpt2_run / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    one, other = Run.open(gpt2_run), Run.open(tmp_path / "again")
    assert one.record.config == other.record.config
    assert one.read()["val_loss"].to_pylist() == other.read()["val_loss"].to_pylist()
    assert "done at step 100" in capsys.readouterr().out


@pytest.mark.parametrize("study", ["[1]", "{a: 1}", "3", "true", "false", "''", "gokking"])
def test_a_study_that_is_none_is_refused_by_the_value_that_names_it(study, tmp_path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f"study: {study}\np: 7\n")
    with pytest.raises(UserError, match=r"study = .*expected one of language"):
        find_preset(str(path))


def read_and_resolved(path) -> StudyConfig:
    preset = find_preset(str(path))
    return resolve(config_of(preset.study), preset.values)


@pytest.mark.parametrize(
    "text", ["n-layers: 1\nn_layers: 2\n", "study: dictionary\nsae: {d-hidden: 8, d_hidden: 4}\n"]
)
def test_a_field_written_in_two_ways_is_given_twice(text, tmp_path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"(n_layers|d_hidden): is given twice"):
        read_and_resolved(path)


def test_a_field_beside_its_section_and_in_it_is_given_twice() -> None:
    with pytest.raises(UserError, match="batch_size: is given twice"):
        resolve(config_of("dictionary"), {"sae_training": {"batch_size": 4}, "batch_size": 8})


@pytest.mark.parametrize(
    ("study", "field"),
    [("probe", "strengths"), ("dictionary", "groups"), ("language", "extra_steps")],
)
def test_true_in_a_list_is_no_number(study, field) -> None:
    with pytest.raises(UserError, match=f"{field} = .*no true or false"):
        resolve(config_of(study), {field: [True]})


def test_a_choice_without_a_value_is_told_its_choices() -> None:
    with pytest.raises(
        UserError, match=r"^synthetic: needs a value, one of superposition, hierarchy$"
    ):
        resolve(config_of("dictionary"), {}, {"synthetic": True})


def test_a_file_that_begins_with_itself_is_told_as_the_sweep_it_is(tmp_path) -> None:
    path = tmp_path / "round.yaml"
    path.write_text(f"preset: {path}\nseeds: 2\n")
    with pytest.raises(UserError, match="is a sweep of 2 runs"):
        find_preset(str(path), sweep=True)
