"""Instruments on training: Adam by hand, representations, stacks, and that nothing is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from cutaway.base.seeds import torch_generator
from cutaway.dynamics import (
    AdamDynamics,
    InputSensitivity,
    RepresentationNorm,
    WeightCurvature,
    WeightNorms,
)
from cutaway.runs.folder import Run
from cutaway.training import fit


def everything() -> list:
    """All instruments, as a study would make them for one training."""
    return [
        WeightNorms(1),
        AdamDynamics(1),
        RepresentationNorm(1),
        InputSensitivity(1, examples=12),
        WeightCurvature(1, most=4),
    ]


def stepped(task, configs, steps: int):
    """The task after some updates, with its updater."""
    updater = task.updater(configs)
    for step in range(steps):
        updater.zero()
        task.loss(task.batch(step)).total.sum().backward()
        updater.clip()
        updater.step([0.01] * task.members)
    return updater


def test_adams_figures_are_those_of_pytorchs_state(bench) -> None:
    task, config = bench.task("mlp"), replace(bench.loop, weight_decay=0.3, epsilon=1e-3)
    parameters = dict(task.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01, betas=(0.9, 0.98), eps=1e-3)
    ours = stepped(task, [config], 4)
    optimizer.load_state_dict(
        {
            "state": {
                i: {k: v.clone() for k, v in ours.moments(name).items()}
                for i, name in enumerate(parameters)
            },
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    row = AdamDynamics(1).read(bench.moment(task, step=4, updater=ours, configs=[config]))
    below, update, decayed, weights = [], [], [], []
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        assert state["step"] == 4
        root = (state["exp_avg_sq"] / (1 - 0.98**4)).sqrt() + 1e-3
        below.append(root.flatten())
        update.append((state["exp_avg"] / (1 - 0.9**4) / root).flatten())
        if task.decays(name, parameter):
            decayed.append(update[-1])
            weights.append(parameter.detach().flatten())
    below, update = torch.cat(below), torch.cat(update)
    rate = 0.02 * (1 + torch.cos(torch.tensor(torch.pi / 3, dtype=torch.float64))) / 2
    assert len(weights) < len(parameters)
    assert {name: value.item() for name, value in row.items()} == pytest.approx(
        {
            "effective_lr_mean": (rate / below).mean().item(),
            "effective_lr_max": (rate / below).max().item(),
            "adam_ratio_mean": update.abs().mean().item(),
            "adam_ratio_max": update.abs().max().item(),
            "update_decay_ratio": (
                torch.cat(decayed).norm() / (0.3 * torch.cat(weights).norm())
            ).item(),
        }
    )


def test_adam_says_nothing_before_the_first_update_nor_of_a_decay_of_zero(bench) -> None:
    task, config = bench.task("mlp"), replace(bench.loop, weight_decay=0.0)
    assert AdamDynamics(1).read(bench.moment(task)) == {}
    updater = stepped(task, [config], 1)
    row = AdamDynamics(1).read(bench.moment(task, updater=updater, configs=[config]))
    assert "adam_ratio_mean" in row
    assert "update_decay_ratio" not in row


def test_the_representation_norm_is_of_the_state_the_unembedding_reads(bench) -> None:
    task = bench.task("mlp")
    seen = []
    hook = task.model.unembed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pairs, labels = task.batch(0)
    cross_entropy(task.model(pairs), labels)
    hook.remove()
    row = RepresentationNorm(1).read(bench.moment(task))
    assert row["representation_norm"].item() == pytest.approx(seen[0].norm(dim=1).mean().item())


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_a_stack_reads_what_each_member_would_alone(bench, kind) -> None:
    configs = [
        replace(bench.loop, weight_decay=decay, beta2=b) for decay, b in ((1, 0.9), (0.1, 0.99))
    ]
    stack = bench.task(kind, 3, 4)
    alone = [bench.task(kind, seed) for seed in (3, 4)]
    updaters = [stepped(task, [c], 3) for task, c in zip(alone, configs)]
    together = stepped(stack, configs, 3)
    # probes are added for one member after the other has enough
    for instrument in [*everything(), WeightCurvature(1, relative_error=0.3, most=16)]:
        row = instrument.read(
            bench.moment(stack, draw=[7, 8], step=3, updater=together, configs=configs)
        )
        for member, task in enumerate(alone):
            solo = instrument.read(
                bench.moment(
                    task, draw=[7 + member], step=3,
                    updater=updaters[member], configs=[configs[member]],
                )
            )  # fmt: skip
            assert solo.keys() == row.keys()
            for name, value in solo.items():
                assert row[name].shape == (2,)
                assert row[name][member].item() == pytest.approx(value.item(), rel=1e-7), name


@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
def test_nothing_is_touched_and_readings_repeat(bench, seeds) -> None:
    task = bench.task("transformer", *seeds)
    configs = [bench.loop] * len(seeds)
    updater = stepped(task, configs, 2)
    at = bench.moment(task, draw=seeds, updater=updater, configs=configs)
    at.loss.total.sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in task.parameters()]
    streams = torch.get_rng_state()
    instruments = everything()
    first = [instrument.read(at) for instrument in instruments]
    assert torch.equal(torch.get_rng_state(), streams)
    assert task.training
    for (weight, gradient), p in zip(before, task.parameters()):
        assert torch.equal(weight, p)
        assert torch.equal(gradient, p.grad)
    again = bench.moment(task, draw=seeds, updater=updater, configs=configs)
    for row, instrument in zip(first, instruments):
        repeated = instrument.read(again)
        assert row.keys() == repeated.keys()
        assert all(torch.equal(row[name], repeated[name]) for name in row)


def test_each_member_draws_its_own_probes(bench) -> None:
    row = WeightCurvature(1, most=2).read(bench.moment(bench.task("mlp", 5, 5), draw=[0, 1]))
    value = row["fisher_trace"]
    assert value[0] != value[1]
    assert (value[0] - value[1]).abs() < 6 * row["fisher_trace_se"].norm()


def test_signs_are_fair_and_independent() -> None:
    from cutaway.dynamics.estimation import signs

    drawn = signs(80_001, torch_generator(0, 0, "signs")).double()
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert abs(drawn.sum().item()) < 4 * 80_001**0.5
    for lag in range(1, 17):  # eight come from one byte
        assert abs((drawn[lag:] * drawn[:-lag]).sum().item()) < 4 * 80_001**0.5


@pytest.mark.parametrize("seeds", [(0,), (1, 2)])
def test_a_run_carries_every_column_and_trains_the_same_without(bench, tmp_path, seeds) -> None:
    tasks, histories = [], []
    for riding in (everything(), []):
        task = bench.task("mlp", *seeds).float()
        folders = [tmp_path / f"{len(riding)}-{seed}" for seed in seeds]
        runs = [Run.create(folder, study="toy", config={}) for folder in folders]
        fit(task, [bench.loop] * len(seeds), runs, riding)
        for run in runs:
            run.close()
        tasks.append(task)
        histories.append([Run.open(folder).read().to_pylist() for folder in folders])
    for one, other in zip(*(task.parameters() for task in tasks)):
        assert torch.equal(one, other)
    for measured, plain in zip(*histories):
        assert [row["train_loss"] for row in measured] == [row["train_loss"] for row in plain]
    wanted = {f"cost_ms.{one.name}" for one in everything()}
    for name in ("weight_hessian_trace", "fisher_trace", "jacobian_norm", "hessian_trace"):
        wanted |= {name, f"{name}_se"}
    wanted |= {"effective_lr_mean", "effective_lr_max", "adam_ratio_mean", "adam_ratio_max"}
    wanted |= {"update_decay_ratio", "representation_norm", "weight_norm", "gradient_norm"}
    for rows in histories[0]:
        assert all(rows[-1][name] is not None for name in wanted)
