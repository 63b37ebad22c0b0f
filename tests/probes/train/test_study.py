"""Probes as a study: what a run keeps, the probes it gives, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.probes.charts.runs import sweep_pictures
from cutaway.probes.data.examples import ProbeData, from_contexts
from cutaway.probes.states import inputs
from cutaway.probes.states.collecting import States, states_of
from cutaway.probes.states.probe import Probe
from cutaway.probes.train.config import ProbeConfig
from cutaway.probes.train.study import ProbeStudy, probes_of
from cutaway.runs.folder import Run
from cutaway.runs.foreign import open_log
from cutaway.studies.settings import resolve
from cutaway.studies.train import train

STEPS = {"method": "minibatch", "layers": "embed,0", "max_steps": 60, "eval_every": 20}


@pytest.fixture
def config(gpt2_run: Path, probe_data: Path) -> Callable[..., ProbeConfig]:
    def make(**over: Any) -> ProbeConfig:
        settings = {"model": str(gpt2_run), "data": str(probe_data), "device": "cpu"}
        return resolve(ProbeConfig, settings | STEPS | over)

    return make


def balanced(probe: Probe, data: ProbeData, states: torch.Tensor, part: str) -> float:
    label = data.parts[part].label
    right = (probe.even(states).argmax(-1) == label).double()
    return float(torch.stack([right[label == one].mean() for one in label.unique()]).mean())


# -- what a run gives ------------------------------------------------------------------------------


def test_its_probes_score_what_the_run_recorded_of_its_best_step(
    probe_run: Path, gpt2_run: Path, probe_data: Path, tmp_path: Path
) -> None:
    run = Run.open(probe_run)
    probes = probes_of(run)
    assert [probe.about.site for probe in probes] == ["embed", "residual.0"]
    data, model = ProbeData.load(probe_data).reading(), open_model(gpt2_run, device="cpu")
    states = states_of(model, data.parts["validation"], [one.site for one in probes])
    best = run.checkpoints.best()
    row = next(one for one in run.read("history").to_pylist() if one["step"] == best)
    for probe, values in zip(probes, states.values):
        kept = Probe.load(probe.save(tmp_path / probe.about.site))
        for one in (probe, kept):
            found = balanced(one, data, values, "validation")
            assert found == pytest.approx(row[f"val_balanced_accuracy.{one.about.site}"])
        assert torch.equal(kept(values), probe(values))
        assert kept(values).mean() == pytest.approx(data.prevalence[1], abs=0.1)
    assert run.record.metrics["val_balanced_accuracy"] > 0.7


def test_a_probe_carries_all_a_reader_needs(
    probe_run: Path, gpt2_run: Path, probe_data: Path
) -> None:
    data, reference = ProbeData.load(probe_data), open_model(gpt2_run, device="cpu").reference
    about = probes_of(Run.open(probe_run))[1].about
    assert about.reference.same_model(reference)
    assert (about.method, about.task, about.target) == ("minibatch", "next", " the")
    assert about.classes == data.classes
    assert about.prior == pytest.approx(data.prevalence)
    assert about.trained_prior == pytest.approx((0.5, 0.5))
    assert (about.dtype, about.read, about.context_length) == ("float32", "token", 12)
    assert about.data["sha256"] == data.sha256()
    parents = {one["kind"]: one["sha256"] for one in Run.open(probe_run).record.parents}
    assert parents == {"run": reference.weights_sha256, "probe data": data.sha256()}


def test_the_confusion_of_every_evaluation_is_kept(probe_run: Path, probe_data: Path) -> None:
    run = Run.open(probe_run)
    table = run.read("validation_confusion").to_pylist()
    history = [row for row in run.read("history").to_pylist() if row["val_loss"] is not None]
    assert {row["step"] for row in table} == {row["step"] for row in history}
    counts = ProbeData.load(probe_data).counts["validation"]
    for row in history:
        for site in ("embed", "residual.0"):
            found = sum(
                one["count"]
                for one in table
                if (one["step"], one["site"], one["label"], one["predicted"])
                == (row["step"], site, " the", " the")
            )
            assert found / counts[" the"] == pytest.approx(row[f"val_recall.{site}"])


def test_the_token_itself_is_told_at_every_layer(config, tmp_path: Path) -> None:
    run = train("probe", config(task="current", max_steps=200, learning_rate=0.01), tmp_path / "r")
    assert run.record.metrics["val_balanced_accuracy.embed"] > 0.97
    assert run.record.metrics["val_balanced_accuracy.residual.0"] > 0.97
    assert probes_of(run)[0].about.task == "current"


def three_classes(probe_data: Path, read: str = "last") -> ProbeData:
    """Texts of one token each, many times over: which of three tokens, with rare ones."""
    data = ProbeData.load(probe_data)
    draw = torch.Generator().manual_seed(0)
    parts = {}
    for place, (name, count) in enumerate({"train": 300, "validation": 90, "test": 90}.items()):
        label = (torch.rand(count, generator=draw) * 5).long().clamp(max=2)
        contexts = [[20 + 7 * int(one)] * 4 for one in label]
        first = [0 if read == "mean" else 3] * count
        documents = [place] * count
        parts[name] = from_contexts(
            contexts, range(count), first, [3] * count, label.tolist(), documents
        )
    return replace(
        data,
        name="three",
        task="labels",
        classes=("a", "b", "c"),
        prevalence=(0.2, 0.2, 0.6),
        documents=("x", "y", "z"),
        parts=parts,
        target=None,
        target_id=None,
        balanced=False,
    )


@pytest.mark.parametrize("method", ["minibatch", "mlp"])
def test_several_classes_are_told_apart(config, probe_data: Path, tmp_path: Path, method) -> None:
    data = three_classes(probe_data, "mean" if method == "mlp" else "last")
    folder = data.save(tmp_path / "three")
    settings = {"data": str(folder), "method": method, "learning_rate": 0.05, "max_steps": 100}
    run = train("probe", config(**settings), tmp_path / "run")
    assert run.record.metrics["val_balanced_accuracy"] == 1
    assert "val_recall.embed" not in run.record.metrics
    probe = probes_of(run)[1]
    assert probe.about.read == ("mean" if method == "mlp" else "token")
    assert (probe.hidden_weight is not None) == (method == "mlp")
    p = probe(torch.randn(5, probe.width))
    assert p.shape == (5, 3)
    assert p.sum(-1).tolist() == pytest.approx([1] * 5)


def test_parameters_are_counted_by_part(config) -> None:
    assert ProbeStudy().parameters(config()) == {"weight": 2 * 16, "bias": 2}
    counted = ProbeStudy().parameters(config(method="mlp", mlp_width=4, layers="0"))
    assert counted == {"weight": 4, "bias": 1, "hidden_weight": 4 * 16, "hidden_bias": 4}


def test_a_sweep_s_picture_is_of_the_runs_that_have_the_figure(probe_run, gpt2_run) -> None:
    logs = [open_log(probe_run), open_log(gpt2_run)]
    assert set(sweep_pictures(logs, ["a", "b"])) == {"balanced_accuracy"}
    assert sweep_pictures(logs[1:], ["b"]) == {}


# -- what is refused, and what is said -------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "mass_mean"])
def test_what_is_solved_is_sent_to_its_command(config, method: str) -> None:
    with pytest.raises(UserError, match=f"method = '{method}': is solved, .*`cutaway probe train`"):
        ProbeStudy().prepare(config(method=method))


def test_a_preset_without_model_and_data_says_which_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model: needed"):
        train("probe", {"method": "minibatch"}, tmp_path / "run")


def test_data_of_another_tokenizer_are_refused(config, tiny_folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        train("probe", config(model=str(tiny_folder("llama"))), tmp_path / "run")


def test_half_precision_is_refused_with_the_reason(config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dtype = 'float16': .*NaN.*use bfloat16"):
        train("probe", config(dtype="float16"), tmp_path / "run")


def test_a_layer_the_model_lacks_is_refused(config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer = '7': the model has layers 0 to 0"):
        train("probe", config(layers="0,7"), tmp_path / "run")


def spoilt(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], None]) -> None:
    """Let states come out changed, as those of a broken model would."""

    def read(*args: Any, **kwargs: Any) -> States:
        found = states_of(*args, **kwargs)
        change(found.values)
        return replace(found, finite=found.values.float().sum(-1).isfinite().all(0))

    monkeypatch.setattr(inputs, "states_of", read)


def test_states_that_are_not_finite_are_counted_and_left_out(
    config, tmp_path: Path, monkeypatch, capsys
) -> None:
    def change(values: torch.Tensor) -> None:
        values[1, 3:5] = torch.nan

    spoilt(monkeypatch, change)
    run = train("probe", config(), tmp_path / "run")
    told = capsys.readouterr().err
    assert "train: 2 of" in told
    assert "not finite" in told
    assert run.record.resolved["examples"]["train"] == sum(
        run.record.resolved["counts"]["train"].values()
    ) - 2  # fmt: skip
    assert all(probe.weight.isfinite().all() for probe in probes_of(run))


def test_where_no_state_is_finite_nothing_starts(config, tmp_path: Path, monkeypatch) -> None:
    spoilt(monkeypatch, lambda values: values.fill_(torch.inf))
    with pytest.raises(UserError, match=r"not one of .* has finite states"):
        train("probe", config(), tmp_path / "run")


def test_where_a_class_has_no_finite_state_nothing_starts(
    config, probe_data: Path, tmp_path: Path, monkeypatch
) -> None:
    label = ProbeData.load(probe_data).parts["train"].label

    def change(values: torch.Tensor) -> None:
        if values.shape[1] == len(label):
            values[:, label == 1] = torch.nan

    spoilt(monkeypatch, change)
    with pytest.raises(UserError, match="train holds one class only"):
        train("probe", config(), tmp_path / "run")


def test_a_layer_whose_states_are_all_the_same_is_named(config, tmp_path, monkeypatch) -> None:
    def change(values: torch.Tensor) -> None:
        values[1] = values[1, :1]

    spoilt(monkeypatch, change)
    with pytest.raises(UserError, match=r"residual\.0: all .* states of train are the same"):
        train("probe", config(), tmp_path / "run")


def test_data_of_one_class_are_refused(config, probe_data: Path, tmp_path: Path) -> None:
    data = ProbeData.load(probe_data)
    part = data.parts["validation"]
    one = part.chosen((part.label == 0).nonzero()[:, 0])
    folder = replace(data, parts={**data.parts, "validation": one}).save(tmp_path / "one")
    with pytest.raises(UserError, match="validation holds one class only"):
        train("probe", config(data=str(folder)), tmp_path / "run")


@pytest.mark.parametrize(
    ("recall", "specificity", "told"), [(0.99, 0.03, True), (0.4, 0.995, True), (0.9, 0.6, False)]
)
def test_a_probe_that_calls_nearly_everything_the_same_is_told_of(
    config, probe_run: Path, recall: float, specificity: float, told: bool
) -> None:
    run = Run.open(probe_run)
    found = {"val_recall.embed": recall, "val_specificity.embed": specificity}
    run.record.metrics |= found | {"val_recall.residual.0": 0.8, "val_specificity.residual.0": 0.8}
    lines = ProbeStudy().advise(run, config())
    assert len(lines) == told
    assert all(line.startswith("embed: finds") and "pos_weight_cap" in line for line in lines)
