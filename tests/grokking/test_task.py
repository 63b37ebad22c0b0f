"""The grokking task: its figures, its options, and stacks that equal runs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cutaway.base.errors import UserError
from cutaway.grokking.config import GrokkingConfig
from cutaway.grokking.data import results, split
from cutaway.grokking.study import GrokkingStudy
from cutaway.grokking.task import GrokkingTask
from cutaway.runs.folder import Run
from cutaway.studies.settings import resolve
from cutaway.studies.together import train_together
from cutaway.studies.train import train
from cutaway.training.task import Part

TINY = {"p": 11, "hidden_dim": 16, "n_heads": 2, "epochs": 20, "log_every": 5, "train_frac": 0.6}
MODELS = ("baseline", "routed", "transformer")


def config(**over) -> GrokkingConfig:
    return resolve(GrokkingConfig, {**TINY, **over})


def task(**over) -> GrokkingTask:
    return GrokkingStudy().prepare(config(**over)).task


@pytest.mark.parametrize("model_type", MODELS)
def test_evaluation_is_the_network_on_the_test_pairs(model_type) -> None:
    made = task(model_type=model_type, precision="float64")
    data = split(11, "add", 0.6, 0)
    logits = made.model(data.test_pairs)
    figures = made.evaluate()
    assert float(figures["test_loss"]) == pytest.approx(
        F.cross_entropy(logits, data.test_labels).item(), abs=1e-12
    )
    right = (logits.argmax(-1) == data.test_labels).double().mean()
    assert float(figures["test_acc"]) == pytest.approx(float(right), abs=1e-7)


def test_the_output_table_is_indexed_by_a_and_b() -> None:
    made = task(operation="divide")
    assert torch.allclose(
        made.output_table()[3, 5], made.model(torch.tensor([[3, 5]]))[0], atol=1e-6
    )


def test_the_output_table_is_never_that_of_older_weights(tmp_path) -> None:
    made = task()
    before = made.output_table().clone()
    with torch.no_grad():
        made.model.norm.bias.add_(1.0)
    made.after_step(0)
    assert not torch.equal(made.output_table(), before)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    made = task(precision="float64")
    whole = made.loss(made.batch(0))
    parts = [made.loss(made.batch(0, Part(index, 3))) for index in range(3)]
    assert sum(part.weight for part in parts) == pytest.approx(1.0)
    total = sum(float(part.total.detach()) * part.weight for part in parts)
    assert total == pytest.approx(float(whole.total.detach()), abs=1e-12)


def test_what_only_routed_networks_use_does_not_keep_others_apart() -> None:
    """Of unequal epochs the default intervals differ; snapshots of routing are for routed only."""
    given = {"checkpoint_every": 10}
    plain = [config(epochs=n, model_type="baseline", **given).stack_key() for n in (40, 200)]
    assert plain[0] == plain[1]
    routed = [config(epochs=n, model_type="routed", **given).stack_key() for n in (40, 200)]
    assert routed[0] != routed[1]
    given["save_routing_every"] = 7
    routed = [config(epochs=n, model_type="routed", **given).stack_key() for n in (40, 200)]
    assert routed[0] == routed[1]


def test_members_of_unequal_length_leave_what_they_leave_alone(tmp_path) -> None:
    """Also the tables: no row of a member's folder is owed to the end of another."""
    shared = {
        "model_type": "routed", "log_every": 7, "checkpoint_every": 9, "save_routing_every": 11,
        "weight_curvature_interval": 5, "precision": "float64", "lr": 1e-4,
    }  # fmt: skip
    configs = [config(**shared, epochs=epochs, seed=epochs) for epochs in (16, 40, 25)]
    stacked = train_together("grokking", configs, [tmp_path / f"m{i}" for i in range(3)])
    for index, (own, member) in enumerate(zip(configs, stacked, strict=True)):
        assert_same_run(member, train("grokking", own, tmp_path / f"alone{index}"), 1e-9)


def test_the_line_is_the_one_people_know() -> None:
    figures = {
        "train_acc": 1.0, "test_acc": 0.471, "train_loss": 1.23e-4, "representation_norm": 45.21,
        "spectral_smoothness": 0.2341, "jacobian_norm": 1500.0, "hessian_trace": -230.0,
    }  # fmt: skip
    assert task().line(12300, figures) == (
        "Epoch 12300 | Train: 100.0% | Test:  47.1% | Loss: 1.23e-04, "
        "rnorm=45.2, smooth=0.234, jac=1.50e+03, |hess|=2.30e+02"
    )
    assert task().line(5, {"train_loss": 1.0}) is None


# Calm settings: at higher rates so small a network amplifies the last bit a million times
OWN = [
    {"seed": 0, "data_seed": 0, "lr": 1e-4, "weight_decay": 0.1},
    {"seed": 1, "data_seed": 5, "lr": 3e-4, "weight_decay": 1.0, "grad_clip": 0.1},
    {"seed": 2, "data_seed": 2, "lr": 5e-4, "weight_decay": 1.0, "beta1": 0.8, "warmup_epochs": 90},
]


@pytest.mark.parametrize(
    "over",
    [
        {"model_type": "baseline"},
        {"model_type": "routed", "routing_regularizer": "entropy"},
        {"model_type": "transformer", "tie_embeddings": True, "decay_embeddings": True},
        {"model_type": "baseline", "optimizer": "orthograd_adamw", "grokfast_lambda": 2.0},
        {"model_type": "transformer", "loss_function": "stablemax", "lambda_spectral": 0.1},
    ],
)
def test_members_of_an_ensemble_equal_runs_alone_after_60_steps(over, tmp_path) -> None:
    shared = {"epochs": 60, "log_every": 20, "checkpoint_every": 30, "precision": "float64"}
    configs = [config(**{**shared, **over, **own}) for own in OWN]
    stacked = train_together("grokking", configs, [tmp_path / f"m{i}" for i in range(3)])
    for index, (own, member) in enumerate(zip(configs, stacked, strict=True)):
        alone = train("grokking", own, tmp_path / f"alone{index}")
        assert_same_run(member, alone, 1e-6)


def assert_same_run(one: Run, other: Run, tolerance: float) -> None:
    """Records, checkpoints and every column, but for clocks."""
    assert one.record.status == other.record.status == "done"
    assert one.record.config == other.record.config
    resolved = dict(one.record.resolved)
    assert resolved.pop("trained_with")  # what else is resolved is as alone
    expected = dict(other.record.resolved)
    # a stack's batches are those of all its members together
    assert len(resolved.pop("first_batches")) == len(expected.pop("first_batches"))
    assert resolved == expected
    assert one.checkpoints.steps() == other.checkpoints.steps()
    assert one.tables() == other.tables()
    for step in one.checkpoints.steps():
        first, second = (run.checkpoints.load(step) for run in (one, other))
        assert first.state == second.state
        assert first.tensors.keys() == second.tensors.keys()
        for group, tensors in first.tensors.items():
            assert tensors.keys() == second.tensors[group].keys()
            for name, value in tensors.items():
                worst = (value - second.tensors[group][name]).abs().max()
                room = tolerance if group == "model" else 10 * tolerance
                if step == 60:  # Adam enlarges roundings where a gradient should be zero
                    room = 1e-4
                assert float(worst) < room, (step, group, name)
    for table in one.tables():
        here, there = one.read(table), other.read(table)
        assert here.column_names == there.column_names
        for column in here.column_names:
            if column == "seconds" or column.startswith("cost_ms."):
                continue
            assert here[column].is_valid().equals(there[column].is_valid()), column
            for step, value, expected in zip(
                *(here["step"].to_pylist(), here[column].to_pylist(), there[column].to_pylist()),
                strict=True,
            ):
                # roundings grow as it trains, by a factor that depends on the processor
                room = {"rel": 1e-6, "abs": 1e-7} if step <= 20 else {"rel": 1e-2, "abs": 1e-4}
                if value is not None:
                    assert value == pytest.approx(expected, **room), (column, step)


def test_a_stack_leaves_the_phases_of_runs_alone(tmp_path) -> None:
    """In float64: in float32 roundings grow within a hundred steps into other phases."""
    from cutaway.grokking.phases import phases

    shared = {
        "p": 31, "hidden_dim": 128, "epochs": 150, "model_type": "baseline", "activation": "relu",
        "optimizer": "orthograd_adamw", "lr": 0.015, "beta2": 0.999, "weight_decay": 0.0,
        "grad_clip": None, "train_frac": 0.7, "compute_weight_curvature": False,
        "compute_sensitivity": False, "log_every": 10, "precision": "float64",
    }  # fmt: skip
    configs = [config(**shared, seed=seed, data_seed=seed) for seed in range(3)]
    stacked = train_together("grokking", configs, [tmp_path / f"m{i}" for i in range(3)])
    for index, (own, member) in enumerate(zip(configs, stacked, strict=True)):
        alone = train("grokking", own, tmp_path / f"alone{index}")
        together, solo = (phases(run.read(), sustain=0) for run in (member, alone))
        assert (together.memorised, together.grokked) == (solo.memorised, solo.grokked)
        assert solo.grokked is not None


def test_a_stack_in_float32_begins_as_runs_alone(tmp_path) -> None:
    shared = {"epochs": 10, "log_every": 5, "model_type": "baseline"}
    configs = [config(**shared, seed=seed, data_seed=seed) for seed in range(2)]
    stacked = train_together("grokking", configs, [tmp_path / f"m{i}" for i in range(2)])
    for index, (own, member) in enumerate(zip(configs, stacked, strict=True)):
        alone = train("grokking", own, tmp_path / f"alone{index}")
        for column in ("train_loss", "test_loss"):
            losses = (run.read()[column].to_pylist() for run in (member, alone))
            assert next(losses) == pytest.approx(next(losses), rel=1e-4)


def test_a_member_that_fails_leaves_the_others_whole(tmp_path) -> None:
    configs = [config(seed=0), config(seed=1, lr=1e30, grad_clip=None), config(seed=2)]
    runs = train_together("grokking", configs, [tmp_path / str(i) for i in range(3)])
    assert [run.record.status for run in runs] == ["done", "failed", "done"]
    assert "non-finite" in runs[1].record.reason
    assert runs[0].read()["step"].to_pylist()[-1] == 20


def test_unequal_shapes_are_not_stacked(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be stacked: their shapes differ"):
        train_together(
            "grokking", [config(), config(hidden_dim=32)], [tmp_path / "a", tmp_path / "b"]
        )
    assert not any(tmp_path.iterdir())


def test_the_document_s_keys_load_unchanged(tmp_path) -> None:
    from cutaway.studies.presets import find_preset

    file = tmp_path / "mine.yaml"
    file.write_text(
        "p: 17\noperation: add\ntrain_frac: 0.5\nmodel_type: routed\nhidden_dim: 128\nn_layers: 2\n"
        "n_heads: 4\ntie_embeddings: false\nepochs: 100000\nlr: 0.001\nweight_decay: 1.5\n"
        "optimizer: adamw\nbeta1: 0.9\nbeta2: 0.98\neps: 1.0e-8\ngrad_clip: null\n"
        "warmup_epochs: 500\nrouting_regularizer: entropy\nlambda_routing: 0.01\n"
        "lambda_spectral: 0.0\ncompute_weight_curvature: true\nweight_curvature_interval: 100\n"
        "compute_optimizer_metrics: true\nlog_every: 100\ncheckpoint_every: 1000\n"
        "save_routing_every: 1000\ndata_seed: 42\nseed: 7\nname: mine\n"
    )
    preset = find_preset(str(file))
    assert preset.study == "grokking"
    loaded = resolve(GrokkingConfig, preset.values)
    assert (loaded.weight_decay, loaded.eps, loaded.grad_clip, loaded.name) == (
        1.5,
        1e-8,
        None,
        "mine",
    )


def test_all_operations_train(tmp_path: Path) -> None:
    for operation in ("subtract", "multiply", "divide"):
        run = train("grokking", config(operation=operation), tmp_path / operation)
        rows = run.read().to_pylist()
        assert rows[-1]["train_loss"] < rows[0]["train_loss"]
        assert run.record.resolved["train_pairs"] == round(
            0.6 * (110 if operation == "divide" else 121)
        )


def test_labels_are_those_of_the_operation() -> None:
    made = task(operation="multiply")
    assert torch.equal(made.train_labels, results(made.train_pairs, 11, "multiply"))
