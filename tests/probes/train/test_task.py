"""Probes of all layers in one task: each trains as alone, to the optimum, and fails with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cutaway.base.errors import RunFailed
from cutaway.nets.sites import Site, parse_site
from cutaway.probes.fitting.methods import normalised
from cutaway.probes.train.config import ProbeConfig
from cutaway.probes.train.task import LabelledStates, LayerProbes, ProbeTask
from cutaway.runs.folder import Run
from cutaway.stats.logistic import fit_logistic
from cutaway.studies.settings import resolve
from cutaway.training.loop import fit
from cutaway.training.task import Part

SITES = [parse_site("embed"), parse_site("0"), parse_site("mlp.1")]
WIDTH = 8


def drawn(rows: int, classes: int = 2, sites: int = 3, seed: int = 0) -> LabelledStates:
    """States that tell the classes apart in part: later sites better; means and sizes differ."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.arange(rows) % classes
    directions = torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(99))
    values = torch.randn(sites, rows, WIDTH, generator=draw)
    for index in range(sites):
        values[index] += 0.2 * (index + 1) * directions[label]
        values[index] = values[index] * 3**index + 5 * index
    return LabelledStates(values, label)


def task_of(
    train: LabelledStates,
    validation: LabelledStates,
    sites: Sequence[Site] = tuple(SITES),
    classes: int = 2,
    hidden: int | None = None,
    **over: Any,
) -> ProbeTask:
    model = LayerProbes(sites, WIDTH, 1 if classes == 2 else classes, hidden, seed=3)
    settings = {"batch_size": 48, "pos_weight_cap": 5.0, "end": 1000, "seed": 3}
    names = ["no", "yes", "perhaps", "never"][:classes]
    return ProbeTask(model, sites, names, train, validation, **{**settings, **over})


@pytest.fixture
def trained(tmp_path) -> Callable[..., Run]:
    """Trains a task by the settings of a ProbeConfig; the run."""
    count = iter(range(100))

    def go(task: ProbeTask, **over: Any) -> Run:
        settings = {"method": "minibatch", "device": "cpu", "checkpoint_every": 10_000}
        settings |= {"batch_size": task.batch_size, **over}
        config = resolve(ProbeConfig, settings).sized(len(task.train_part.label))
        with Run.create(tmp_path / f"run-{next(count)}", study="probe", config={}) as run:
            fit(task, config.loop(len(task.sites)), [run])
        return run

    return go


def chosen(states: LabelledStates, index: int) -> LabelledStates:
    return LabelledStates(states.values[index : index + 1], states.label)


# -- what is learnt --------------------------------------------------------------------------------


def test_trained_long_enough_its_loss_is_the_exact_solution_s(trained) -> None:
    train, validation = drawn(400), drawn(200, seed=1)
    task = task_of(train, validation, batch_size=100)
    trained(task, learning_rate=0.03, weight_decay=0, epochs=200)
    with torch.no_grad():
        z = task.model(train.values)[..., 0]
    own = torch.nn.functional.binary_cross_entropy_with_logits(
        z, train.label.float().expand_as(z), reduction="none"
    ).mean(1)
    for index in range(3):
        x = normalised(train.values[index], task.model.mean[index], task.model.scale[index])
        exact = fit_logistic(x, train.label, c=1e6).logits(x)
        least = torch.nn.functional.binary_cross_entropy_with_logits(exact, train.label.float())
        assert own[index] == pytest.approx(float(least), rel=0.01)
        assert 0.1 < least < 0.69


@pytest.mark.parametrize(("classes", "hidden"), [(2, None), (4, None), (2, 16)])
def test_a_layer_trains_as_it_would_alone(trained, classes: int, hidden: int | None) -> None:
    train, validation = drawn(300, classes), drawn(100, classes, seed=1)
    together = task_of(train, validation, classes=classes, hidden=hidden)
    run = trained(together, max_steps=60, eval_every=20, log_every=20)
    history = run.read("history").to_pylist()
    for index, site in enumerate(SITES):
        parts = chosen(train, index), chosen(validation, index)
        alone = task_of(*parts, [site], classes=classes, hidden=hidden)
        own = trained(alone, max_steps=60, eval_every=20, log_every=20)
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(
                together.model.state_dict()[name][index], value[0], rtol=1e-4, atol=1e-6
            )
        for mine, row in zip(own.read("history").to_pylist(), history, strict=True):
            for column in ("train_loss", "val_loss", "val_balanced_accuracy"):
                assert row[f"{column}.{site}"] == pytest.approx(mine[column], rel=1e-4)


def test_a_file_s_states_and_bfloat16_train_too(trained) -> None:
    train, validation = drawn(300), drawn(100, seed=1)
    halves = [LabelledStates(one.values.bfloat16(), one.label) for one in (train, validation)]
    run = trained(task_of(*halves), epochs=20, learning_rate=0.02)
    assert run.record.metrics["val_balanced_accuracy.mlp.1"] > 0.9


def test_an_mlp_learns_what_no_line_can_tell(trained) -> None:
    def ring(rows: int, seed: int) -> LabelledStates:
        values = torch.randn(1, rows, WIDTH, generator=torch.Generator().manual_seed(seed))
        return LabelledStates(values, (values[0].square().sum(1) > WIDTH - 0.7).long())

    train, validation = ring(2000, 0), ring(1000, 1)
    found = {}
    for hidden in (None, 32):
        task = task_of(train, validation, SITES[:1], hidden=hidden)
        metrics = trained(task, epochs=15, learning_rate=0.01).record.metrics
        found[hidden] = metrics["val_balanced_accuracy"]
    assert found[None] < 0.6
    assert found[32] > 0.85


# -- losses and weights ----------------------------------------------------------------------------


def unequal(rows: int, share: float, seed: int = 0) -> LabelledStates:
    found = drawn(rows, seed=seed)
    label = (torch.arange(rows) < share * rows).long()
    values = torch.randn(3, rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    return LabelledStates(values + label[:, None], found.label * 0 + label)


def test_the_loss_is_a_weighted_mean_whose_weights_the_cap_limits() -> None:
    train, validation = unequal(400, 0.05), unequal(100, 0.3, seed=1)
    task = task_of(train, validation, pos_weight_cap=5.0)
    assert (task.weights[1] / task.weights[0]).item() == pytest.approx(5.0)
    assert task.prior.tolist() == pytest.approx([380 / 480, 100 / 480])
    uncapped = task_of(train, validation, pos_weight_cap=100.0)
    assert uncapped.prior.tolist() == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        task.model.weight.normal_(generator=torch.Generator().manual_seed(0))
        got = task.loss(train).total
        z = task.model(train.values)[..., 0]
        logits = torch.stack([torch.zeros_like(z), z], 1)
        expected = cross_entropy(logits, train.label.expand(3, -1), weight=torch.tensor([1.0, 5.0]))
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_loss_is_what_training_s_would_be_on_the_same_states() -> None:
    """Natural shares there, balanced ones here: the same states in other numbers score the same."""
    train = drawn(200)
    repeated = torch.cat([torch.arange(200), torch.arange(0, 200, 2).repeat(4)])
    natural = LabelledStates(train.values[:, repeated], train.label[repeated])
    task = task_of(train, natural)
    with torch.no_grad():
        task.model.weight.normal_(generator=torch.Generator().manual_seed(0))
        figures = task.evaluate()
        assert float(figures["val_loss"]) == pytest.approx(task.loss(train).total.item(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_agree_with_scikit_learn(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    train, validation = drawn(300, classes), drawn(150, classes, seed=1)
    task = task_of(train, validation, classes=classes)
    with torch.no_grad():
        task.model.weight.normal_(generator=torch.Generator().manual_seed(0))
        figures = task.evaluate()
        z = task.model(validation.values)
    called = (z[..., 0] > 0).long() if classes == 2 else z.argmax(-1)
    assert task.counts().sum() == 3 * 150
    for index, site in enumerate(SITES):
        args = validation.label.numpy(), called[index].numpy()
        expected = metrics.balanced_accuracy_score(*args)
        assert float(figures[f"val_balanced_accuracy.{site}"]) == pytest.approx(expected)
        assert task.counts()[index].tolist() == metrics.confusion_matrix(*args).tolist()
        if classes == 2:
            recall = metrics.recall_score(*args)
            assert float(figures[f"val_recall.{site}"]) == pytest.approx(recall)


def test_an_example_is_called_by_what_it_would_be_at_equal_shares() -> None:
    task = task_of(unequal(400, 0.05), validation := unequal(100, 0.3, seed=1))
    with torch.no_grad():
        task.model.weight.normal_(generator=torch.Generator().manual_seed(0))
        z = task.model(validation.values)[..., 0]
    level = (task.prior[1] / task.prior[0]).log()
    assert level < -1
    called = (z > level).sum(1)
    assert task.counts()[..., 1].sum(1).tolist() == called.tolist() != (z > 0).sum(1).tolist()


@pytest.mark.parametrize("hidden", [None, 4])
def test_weights_decay_and_biases_do_not(hidden: int | None) -> None:
    task = task_of(drawn(50), drawn(50), hidden=hidden)
    decayed = {name for name, p in task.named_parameters() if task.decays(name, p)}
    hidden_too = {"model.hidden_weight"} if hidden else set()
    assert decayed == {"model.weight"} | hidden_too


def test_pieces_of_a_large_validation_part_add_up(monkeypatch) -> None:
    task = task_of(drawn(100), drawn(100, seed=1))
    with torch.no_grad():
        task.model.weight.normal_(generator=torch.Generator().manual_seed(0))
        whole = task.evaluate()
        monkeypatch.setattr("cutaway.probes.train.task._FLOATS", 3 * WIDTH * 7)
        pieces = task.evaluate()
    assert {name: float(v) for name, v in pieces.items()} == pytest.approx(
        {name: float(v) for name, v in whole.items()}
    )


# -- batches ---------------------------------------------------------------------------------------


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    train = drawn(100)
    train = LabelledStates(train.values, torch.arange(100) % 2)
    task = task_of(train, train, batch_size=30)
    seen = torch.cat([task._rows(step) for step in range(10)])
    for epoch in seen.split(100):
        assert sorted(epoch.tolist()) == list(range(100))
    assert seen[:100].tolist() != seen[100:200].tolist()


def test_batches_are_functions_of_seed_step_and_part() -> None:
    train = drawn(100)
    one, other = task_of(train, train), task_of(train, train)
    for step in (5, 0, 3, 5):
        whole: Tensor = one.batch(step).values
        parts = [other.batch(step, Part(index, 3)).values for index in range(3)]
        assert torch.equal(torch.cat(parts, 1), whole)
    assert not torch.equal(one.batch(0).values, task_of(train, train, seed=4).batch(0).values)


def test_parts_of_a_batch_add_up_to_its_gradient() -> None:
    task = task_of(drawn(100), drawn(50), batch_size=50)
    task.loss(task.batch(2)).total.backward()
    whole = task.model.weight.grad.clone()
    task.zero_grad()
    for index in range(3):
        loss = task.loss(task.batch(2, Part(index, 3)))
        (loss.weight * loss.total).backward()
    torch.testing.assert_close(task.model.weight.grad, whole)


# -- failing ---------------------------------------------------------------------------------------


def test_a_probe_that_calls_everything_the_same_fails_the_run_and_names_its_layer(trained) -> None:
    train, validation = drawn(200), drawn(100, seed=1)
    far = validation.values.clone()
    far[1] += 1000 * torch.sign(train.values[1][train.label == 1].mean(0) - train.values[1].mean(0))
    task = task_of(train, LabelledStates(far, validation.label), end=50)
    with pytest.raises(RunFailed, match=r"residual\.0: the probe calls all 100 .* 'yes'"):
        trained(task, max_steps=50, eval_every=10)


def test_one_that_does_so_on_the_way_may_still_learn(trained) -> None:
    train, validation = drawn(200), drawn(100, seed=1)
    task = task_of(train, validation, end=60)
    called = task.counts().sum(1)
    assert (called > 0).sum(1).tolist() == [1, 1, 1]  # at 0 every class is equally likely
    assert trained(task, max_steps=60, eval_every=10).record.status == "done"


def test_a_loss_that_is_no_number_fails_the_run(trained) -> None:
    train = drawn(200)
    train.values[0, 7] = torch.inf
    task = task_of(drawn(200), drawn(100, seed=1))
    task.train_part = train
    with pytest.raises(RunFailed, match="became non-finite"):
        trained(task, max_steps=20)
