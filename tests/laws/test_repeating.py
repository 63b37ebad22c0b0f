"""Laws for every registered study: a run's config.yaml repeats it, with what it found out as it began."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import GROK, TINY
from cutaway.base import hardware
from cutaway.runs.folder import Run
from cutaway.studies.registry import STUDIES
from cutaway.studies.train import train
from cutaway.studies.yaml_file import read_yaml
from cutaway.training import precision

# Settings of each study that leave everything `auto`, and with odd lengths.
AUTO = {
    "language": {**TINY, "max_iters": 33, "dropout": 0.1, "precision": "auto"},
    "grokking": {**GROK, "epochs": 33, "save_routing_every": 20},
    "dictionary": {
        "layer": "residual.0", "d_hidden": 64, "target_l0": 6, "batch_size": 64, "max_steps": 33,
        "eval_every": 10, "dead_after": 2000, "eval_tokens": 500, "orthogonality": "top_k",
        "topk_fraction": 0.02,
    },
    "probe": {"method": "minibatch", "layers": "embed,0", "batch_size": 48, "max_steps": 33},
}  # fmt: skip


@pytest.fixture(params=AUTO)
def auto(request: pytest.FixtureRequest, corpus: Path) -> tuple[str, dict]:
    settings = dict(AUTO[request.param])
    if request.param == "language":
        settings["data"] = str(corpus)
    if request.param == "dictionary":
        settings["activations"] = str(request.getfixturevalue("activations"))
    if request.param == "probe":
        settings["model"] = str(request.getfixturevalue("gpt2_run"))
        settings["data"] = str(request.getfixturevalue("probe_data"))
    return request.param, settings


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no measurement comes out as the one before, and both precisions exist."""
    from cutaway.dictionaries.training import study

    shares, order = iter([0.31, 0.002, 0.77, 0.0001] * 9), iter(["bfloat16", "float32"] * 9)
    monkeypatch.setattr(study, "break_even", lambda *given: next(shares))
    monkeypatch.setattr(hardware, "precisions", lambda on: ("float32", "bfloat16"))
    monkeypatch.setattr(
        precision, "choose", lambda *given: (next(order), {"float32": 1.0, "bfloat16": 1.0})
    )


def test_every_study_is_tried() -> None:
    assert set(AUTO) == set(STUDIES)


def state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint: weights, moments, buffers, instruments."""
    kept = Run.open(run).checkpoints
    last = kept.load(kept.last())
    return {f"{g}.{k}": v for g, named in last.tensors.items() for k, v in named.items()}


def rows(run: Path) -> list[dict]:
    """The history without its clocks."""
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("cost_ms.")}
        for row in Run.open(run).read().to_pylist()
    ]


def assert_repeated(one: Path, other: Path) -> None:
    mine, theirs = state(one), state(other)
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert json.dumps(rows(one)) == json.dumps(rows(other))
    records = [Run.open(run).record for run in (one, other)]
    assert records[0].config == records[1].config
    assert records[0].steps_planned == records[1].steps_planned


def fed_back(run: Path, out: Path) -> Path:
    values = read_yaml(run / "config.yaml")
    assert values == {"study": Run.open(run).record.study, **Run.open(run).record.config}
    return train(values.pop("study"), values, out).path


def test_config_yaml_repeats_a_run_whatever_was_measured(auto, moody, tmp_path) -> None:
    study, settings = auto
    run = train(study, settings, tmp_path / "a").path
    config = Run.open(run).record.config
    assert config["precision"] in ("float32", "bfloat16")
    assert (config["device"], config["threads"]) == ("cpu", torch.get_num_threads())
    if study == "dictionary":
        assert config["break_even"] == pytest.approx(
            0.31 if config["precision"] == "float32" else 0.002
        )
    assert_repeated(run, fed_back(run, tmp_path / "b"))


def test_config_yaml_repeats_an_extended_run(auto, moody, tmp_path) -> None:
    study, settings = auto
    train(study, settings, tmp_path / "a")
    train(study, settings, tmp_path / "a", extra_steps=7)
    run = train(study, settings, tmp_path / "a", extra_steps=4).path
    assert Run.open(run).record.config["extra_steps"] == [7, 4]
    assert (Run.open(run).record.steps_done, Run.open(run).record.steps_planned) == (44, 44)
    assert_repeated(run, fed_back(run, tmp_path / "b"))


def test_a_run_stopped_in_its_extension_goes_on_with_it(auto, moody, tmp_path, monkeypatch) -> None:
    from cutaway.base.errors import Interrupted
    from cutaway.training.guards import Stop

    study, settings = auto
    train(study, settings, tmp_path / "whole")
    train(study, settings, tmp_path / "whole", extra_steps=9)
    train(study, settings, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "signal", 15, raising=False)
        patch.setattr(Stop, "__init__", lambda self: setattr(self, "_previous", {}))
        with pytest.raises(Interrupted):
            train(study, settings, tmp_path / "cut", extra_steps=9)
    before = read_yaml(tmp_path / "cut" / "config.yaml")
    assert before["extra_steps"] == [9]
    run = train(study, settings, tmp_path / "cut", resume=True).path
    after = read_yaml(run / "config.yaml")
    assert after == before == {"study": study, **Run.open(run).record.config}
    assert (Run.open(run).record.status, Run.open(run).record.steps_done) == ("done", 42)


def test_a_resume_takes_what_was_measured_and_rewrites_both_records(auto, moody, tmp_path) -> None:
    study, settings = auto
    run = train(study, settings, tmp_path / "a").path
    before = Run.open(run).record.config
    free = {"log_interval" if study == "language" else "keep_checkpoints": 5}
    train(study, {**settings, **free}, run, extra_steps=2)
    after = Run.open(run).record.config
    assert after == {**before, **free, "extra_steps": [2]}
    assert read_yaml(run / "config.yaml") == {"study": study, **after}


def test_a_run_from_before_these_fields_goes_on(auto, moody, tmp_path) -> None:
    """Its record says `auto`; what was measured is in `resolved`, an extension in steps_planned."""
    study, settings = auto
    whole = train(study, settings, tmp_path / "a").path
    shutil.copytree(whole, tmp_path / "old")
    train(study, settings, whole, extra_steps=5)
    file = tmp_path / "old" / "run.json"
    record = json.loads(file.read_text())
    config, settled = record["config"], record["resolved"]
    for name in ("threads", "halvings", "extra_steps", "break_even"):
        config.pop(name, None)
    config |= {"precision": "auto", "device": "auto"}
    assert settled["precision"] in ("float32", "bfloat16")
    record["steps_planned"] += 2  # as if it had been extended by 2 and cut before it went on
    record["status"] = "interrupted"
    file.write_text(json.dumps(record))
    train(study, settings, tmp_path / "old", extra_steps=3)
    assert Run.open(tmp_path / "old").record.config["extra_steps"] == [2, 3]
    mine, theirs = state(whole), state(tmp_path / "old")
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]


def test_a_run_of_an_absent_device_says_how_it_goes_on(auto, tmp_path, capsys) -> None:
    from cutaway.cli.main import run as cli

    study, settings = auto
    run = train(study, settings, tmp_path / "a").path
    file = run / "run.json"
    record = json.loads(file.read_text())
    record["config"]["device"] = "cuda:7"
    file.write_text(json.dumps(record))
    assert cli(["--quiet", "train", str(run), "--extra-steps", "2"]) == 2
    said = capsys.readouterr().err
    assert "cuda:7" in said
    assert "--device cpu" in said
    assert cli(["--quiet", "train", str(run), "--extra-steps", "2", "--device", "cpu"]) == 0
    assert Run.open(run).record.config["device"] == "cpu"


def test_threads_are_taken_as_given_and_put_back(corpus, tmp_path) -> None:
    before = torch.get_num_threads()
    settings = {**TINY, "data": str(corpus), "max_iters": 3, "threads": before + 1}
    record = train("language", settings, tmp_path / "a").record
    assert (record.config["threads"], torch.get_num_threads()) == (before + 1, before)
    assert record.device.endswith(f"{before + 1} threads")


@pytest.mark.parametrize("method", ["exact", "mass_mean"])
def test_config_yaml_repeats_probes_that_are_solved(method, gpt2_run, probe_data, tmp_path) -> None:
    settings = {"model": str(gpt2_run), "data": str(probe_data), "layers": "embed,0"}
    run = train(
        "probe", {**settings, "method": method, "controls": "shuffled"}, tmp_path / "a"
    ).path
    config = Run.open(run).record.config
    found = (config["device"], config["dtype"], config["threads"])
    assert found == ("cpu", "float32", torch.get_num_threads())
    again = fed_back(run, tmp_path / "b")
    assert Run.open(again).record.config == config
    for table in Run.open(run).tables():
        assert Run.open(again).read(table).equals(Run.open(run).read(table)), table
