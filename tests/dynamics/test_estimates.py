"""Estimates against the exact figures of the same small networks, and what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cutaway.dynamics import (
    InputSensitivity,
    WeightCurvature,
    exact,
    fisher_trace,
    weight_hessian_trace,
)
from cutaway.dynamics.sensitivity import mean_and_error
from cutaway.training import Loss, Task
from cutaway.training.task import WHOLE, Part


def weights(measure, most: int, chunks: int):
    """A figure of the weights with a fixed number of probes."""

    def read(at):
        given = {"chunks": chunks, "relative_error": 0.0, "most": most}
        return measure(at.task, at.step, at.generators, **given)

    return read


def inputs(name: str, **given):
    """A figure of the inputs."""

    def read(at):
        row = InputSensitivity(1, **given).read(at)
        return row[name], row[f"{name}_se"]

    return read


MANY = {
    "weight_hessian_trace": weights(weight_hessian_trace, 60, 2),
    "fisher_trace": weights(fisher_trace, 200, 1),
    "jacobian_norm": inputs("jacobian_norm", examples=None, probes=100),
    "hessian_trace": inputs("hessian_trace", examples=None, probes=400),
}
EXACT = {
    "weight_hessian_trace": exact.weight_hessian_trace,
    "fisher_trace": exact.fisher_trace,
    "jacobian_norm": exact.jacobian_norm,
    "hessian_trace": exact.input_hessian_trace,
}


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
@pytest.mark.parametrize("name", list(EXACT))
def test_many_probes_find_the_exact_value(bench, kind, name) -> None:
    task = bench.task(kind)
    truth = EXACT[name](task, task.batch(0)).item()
    value, error = (figure.item() for figure in MANY[name](bench.moment(task)))
    assert abs(value - truth) <= 4 * error
    assert 0 < error < 0.35 * abs(truth)


FEW = [
    ("weight_hessian_trace", weights(weight_hessian_trace, 3, 4)),
    ("fisher_trace", weights(fisher_trace, 3, 4)),
    ("fisher_trace", weights(fisher_trace, 9, 1)),
    ("jacobian_norm", inputs("jacobian_norm", examples=16)),
    ("hessian_trace", inputs("hessian_trace", examples=16)),
    ("jacobian_norm", inputs("jacobian_norm", examples=None)),
    ("hessian_trace", inputs("hessian_trace", examples=None)),
]


@pytest.mark.parametrize(("name", "read"), FEW)
def test_errors_are_as_large_as_they_say(bench, name, read) -> None:
    task = bench.task("mlp")
    truth = EXACT[name](task, task.batch(0))
    readings = [read(bench.moment(task, draw=[seed])) for seed in range(100)]
    values, errors = map(torch.stack, zip(*readings))
    assert ((values.mean() - truth) / values.std() * 10).abs() < 4  # no bias
    assert values.std() == pytest.approx(errors.square().mean().sqrt(), rel=0.25)
    assert 0.75 < ((values - truth) / errors).std() < 1.6  # errors are themselves estimates


def test_the_error_allows_for_having_read_most_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(40, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(4000, 2, 40, generator=generator, dtype=torch.float64)
    for read in (10, 36, 40):
        order = torch.rand(4000, 40, generator=generator).argsort(1)[:, None, :read]
        drawn = (true + noise).gather(2, order.expand(-1, 2, -1))
        means, errors = zip(*(mean_and_error(one, 40) for one in drawn))
        spread = (torch.stack(means) - true.mean()).square().mean().sqrt()
        said = torch.stack(errors).square().mean().sqrt()
        assert said.item() == pytest.approx(spread.item(), rel=0.08)


def test_one_probe_overstates_the_error_rather_than_understating_it() -> None:
    estimates = torch.randn(1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, error = mean_and_error(estimates, 40)
    assert error == pytest.approx(estimates.std() / 30**0.5)


class Diagonal(Task):
    """½ Σ a w² + b · w: its Hessian is diag(a, 0), its gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64))
        self.linear = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.curvature = torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64)

    def batch(self, step: int, part: Part = WHOLE) -> torch.Tensor:
        return torch.tensor([1.0, 3.0], dtype=torch.float64)[part.slice(2)]

    def example_losses(self, batch: torch.Tensor) -> torch.Tensor:
        return batch * (self.curvature @ self.weight.square() / 2 + self.linear.sum())

    def loss(self, batch: torch.Tensor) -> Loss:
        return Loss(self.example_losses(batch).mean())  # weight None: equal parts


def test_a_diagonal_hessian_is_exact_with_any_probe(bench) -> None:
    task = Diagonal()
    row = WeightCurvature(1).read(bench.moment(task))
    assert row["weight_hessian_trace"].item() == pytest.approx(2 * (2 - 1 + 4))
    assert row["weight_hessian_trace_se"].item() == pytest.approx(0, abs=1e-12)
    assert exact.weight_hessian(task, task.batch(0)).diagonal()[:3].tolist() == [4, -2, 8]


def test_chunks_of_one_example_give_the_fisher_trace_exactly(bench) -> None:
    task = Diagonal()
    value, error = weights(fisher_trace, 4, 2)(bench.moment(task))  # two examples, two chunks
    squared = (task.curvature * task.weight).square().sum().item() + 2
    assert value.item() == pytest.approx((1 + 9) / 2 * squared)
    assert error.item() == pytest.approx(0, abs=1e-12)
    assert exact.fisher_trace(task, task.batch(0)).item() == pytest.approx(5 * squared)


def test_a_loss_without_curvature_has_none(bench) -> None:
    class Linear(Diagonal):
        def example_losses(self, batch):
            return batch * self.linear.sum()

    task = Linear()
    row = WeightCurvature(1).read(bench.moment(task))
    assert row["weight_hessian_trace"].item() == row["weight_hessian_trace_se"].item() == 0
    assert not exact.weight_hessian(task, task.batch(0)).any()


def test_probes_are_added_until_the_error_is_small_enough(bench) -> None:
    task = bench.task("mlp")
    for seed in range(2):
        at = bench.moment(task, draw=[seed])
        row = WeightCurvature(1, relative_error=0.1, most=10_000).read(at)
        for name in ("weight_hessian_trace", "fisher_trace"):
            assert row[f"{name}_se"] <= 0.1 * row[name].abs()
            assert row[f"{name}_se"] > 0.03 * row[name].abs()  # and no further


def test_an_inseparable_task_is_read_in_one_piece(bench) -> None:
    task = bench.task("mlp")
    task.separable = False
    asked = []
    whole = task.batch
    task.batch = lambda step, part=WHOLE: asked.append(part.of) or whole(step, part)
    WeightCurvature(1).read(bench.moment(task))
    assert set(asked) == {1}


class Uneven(Diagonal):
    """65 rows of unlike weight, which four chunks cut into 16, 16, 16 and 17."""

    rows = torch.arange(65, dtype=torch.float64).square()

    def batch(self, step: int, part: Part = WHOLE) -> torch.Tensor:
        return self.rows[part.slice(65)]

    def loss(self, batch: torch.Tensor) -> Loss:
        return Loss(self.example_losses(batch).mean(), weight=len(batch) / 65)


def test_chunks_of_unequal_size_count_by_their_size(bench) -> None:
    task = Uneven()
    truth = exact.weight_hessian_trace(task, task.batch(0)).item()
    value, error = weights(weight_hessian_trace, 3, 4)(bench.moment(task))
    assert value.item() == pytest.approx(truth, rel=1e-12)
    assert error.item() == pytest.approx(0, abs=1e-9)
    # every row a chunk: no cross terms, so exact
    value, _ = weights(fisher_trace, 3, 65)(bench.moment(task))
    assert value.item() == pytest.approx(exact.fisher_trace(task, task.batch(0)).item(), rel=1e-12)
    drawn = [weights(fisher_trace, 3, 4)(bench.moment(task, draw=[n]))[0] for n in range(200)]
    mean = torch.stack(drawn).mean().item()
    spread = torch.stack(drawn).std().item() / len(drawn) ** 0.5
    assert abs(mean - exact.fisher_trace(task, task.batch(0)).item()) < 4 * spread
