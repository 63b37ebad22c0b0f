"""Settings of probes: what users write, in YAML and on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cutaway.base.errors import UserError
from cutaway.probes.train.config import ProbeConfig
from cutaway.studies.presets import find_preset
from cutaway.studies.settings import overrides, resolve


def given(*arguments: str, **file: Any) -> ProbeConfig:
    return resolve(ProbeConfig, file, overrides(arguments))


def test_it_loads_without_torch() -> None:
    code = "import sys, cutaway.probes.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("written", "kept"),
    [("auto", "auto"), (11, "11"), ("0,5,11", "0,5,11"), ([0, "mlp.5"], "0,mlp.5"), (-1, "-1")],
)
def test_layers_may_be_a_word_a_number_or_a_list(written: Any, kept: str) -> None:
    assert given(layers=written).layers == kept


def test_strengths_and_controls_are_lists_in_yaml_and_text_on_the_command_line() -> None:
    assert given(strengths=[1, 0.1, 1]).strengths == [1.0, 0.1]
    assert given("--strengths", "1e-3, 0.5").strengths == [1e-3, 0.5]
    assert given("--strengths", "2").strengths == [2.0]
    assert given(controls=["shuffled", "model"]).controls == "shuffled,model"
    assert given("--controls", "none").controls == "none"
    for wrong in ("0", "-1", "1,0"):
        with pytest.raises(UserError, match="C must be above 0"):
            given("--strengths", wrong)
    with pytest.raises(UserError, match=r"strengths.*at least 1 item"):
        given(strengths=[])


def test_a_step_is_best_last_or_a_number() -> None:
    assert [given(step=one).step for one in ("best", "last", 300)] == ["best", "last", "300"]
    with pytest.raises(UserError, match="step = 'worst': expected best, last or a step's number"):
        given(step="worst")


@pytest.mark.parametrize(
    "wrong",
    ["--pos-weight-cap 0.5", "--epochs 0", "--method newton", "--task labels", "--mlp-width 0"],
)
def test_what_cannot_be_is_refused_by_name(wrong: str) -> None:
    field = wrong.split()[0][2:].replace("-", "_")
    with pytest.raises(UserError, match=field):
        given(*wrong.split())


def test_the_preset_has_the_documents_options() -> None:
    config = resolve(ProbeConfig, find_preset("probe-next-token").values)
    assert (config.batch_size, config.epochs, config.pos_weight_cap) == (48, 10, 5.0)
    loop = config.sized(20_000).loop()
    assert (loop.learning_rate, loop.weight_decay, loop.gradient_clip) == (1e-3, 1e-4, None)
    assert loop.steps == round(10 * 20_000 / 48)


@pytest.mark.parametrize(
    ("rows", "size"), [(30, 30), (1_000, 64), (20_000, 128), (1_000_000, 1024)]
)
def test_a_batch_grows_with_the_data_and_leaves_a_thousand_steps(rows: int, size: int) -> None:
    sized = given().sized(rows)
    assert sized.batch_size == size
    assert sized.max_steps == round(10 * rows / size)
    assert sized.sized(rows) == sized


def test_paths_are_kept_absolute_wherever_the_run_is_later_read_from(tmp_path, monkeypatch) -> None:
    for folder in ("runs/lm", "data"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    anchored = given(model="lm", data="data").anchored()
    assert anchored.model == str(tmp_path / "runs" / "lm")
    assert anchored.data == str(tmp_path / "data")
    assert given(model="gpt2").anchored().model == "gpt2"


@pytest.mark.parametrize("missing", ["model", "data"])
def test_a_model_and_data_are_needed(missing: str) -> None:
    there = {"model": "a", "data": "b"}
    there.pop(missing)
    with pytest.raises(UserError, match=f"^{missing}: needed"):
        given(**there).require_named()


def test_weights_and_biases_can_be_grouped_and_switched_off(tmp_path: Path) -> None:
    assert given("--wandb-group", "layers").wandb_group == "layers"
    assert given("--no-wandb", wandb="online").wandb == "off"
    file = tmp_path / "off.yaml"
    file.write_text("study: probe\nwandb: false\n")
    assert resolve(ProbeConfig, find_preset(str(file)).values).wandb == "off"
    with pytest.raises(UserError, match="wandb: needs a value"):
        given("--wandb")
