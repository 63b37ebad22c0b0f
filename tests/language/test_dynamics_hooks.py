"""What instruments ask of a language task, for the Backpack and its twin."""

from __future__ import annotations

import pytest
import torch

from cutaway.base.seeds import torch_generator
from cutaway.dynamics import InputSensitivity, RepresentationNorm, WeightCurvature, exact
from cutaway.language.config import LanguageConfig
from cutaway.language.study import LanguageStudy
from cutaway.nets.trunk import Attention, set_attention
from cutaway.training.instruments import Moment


@pytest.fixture(scope="module", params=["backpack", "gpt2"])
def task(request, tiny: dict):
    config = LanguageConfig(**{**tiny, "model": request.param, "dropout": 0.1, "block_size": 8})
    return LanguageStudy().prepare(config).task.double()


@pytest.fixture
def at(task):
    config, batch = task.config.loop(), task.batch(0)
    return Moment(
        *(0, task, batch, task.loss(batch), task.updater([config]), torch.zeros(())),
        *([torch_generator(0, 0, "test")], [config]),
    )


def test_the_loss_is_the_mean_of_the_windows_losses(task) -> None:
    task.eval()
    batch = task.batch(1)
    losses = task.example_losses(batch)
    assert losses.shape == (4,)
    # the head's sums and these logits are rounded to float32
    assert losses.mean().item() == pytest.approx(task.loss(batch).total.item(), rel=1e-5)


def test_outputs_of_the_embeddings_are_the_logits_at_the_last_position(task) -> None:
    task.eval()
    batch = task.batch(1)
    logits = task.model(batch.tokens)[:, -1]
    assert torch.allclose(task.outputs(task.embed(batch)), logits, atol=1e-10)
    decoded = task.representations(batch) @ task.model.embedding.T
    assert torch.allclose(decoded, logits, atol=1e-10)
    assert torch.equal(task.targets(batch), batch.targets[:, -1])


def test_twice_differentiable_holds_within_and_leaves_kernels_as_they_were(task) -> None:
    set_attention(task.model, "fused")
    parameters = list(task.parameters())
    batch = task.batch(1)
    task.eval()
    with task.twice_differentiable():
        total = task.loss(batch).total
        slopes = torch.autograd.grad(total, parameters, create_graph=True)
        square = sum(slope.square().sum() for slope in slopes)
        curved = torch.autograd.grad(square, parameters)
    assert all(one.isfinite().all() for one in curved)
    kernels = {m.kernel for m in task.model.modules() if isinstance(m, Attention)}
    assert kernels == {"fused"}
    set_attention(task.model, "auto")


def test_instruments_read_a_language_model(task, at) -> None:
    row = {}
    for instrument in (
        RepresentationNorm(1),
        InputSensitivity(1, probes=30),
        WeightCurvature(1, most=100, relative_error=0.05),
    ):
        row |= {name: value.item() for name, value in instrument.read(at).items()}
    truths = {
        "fisher_trace": exact.fisher_trace(task, at.batch),
        "jacobian_norm": exact.jacobian_norm(task, at.batch),
        "hessian_trace": exact.input_hessian_trace(task, at.batch),
    }
    for name, truth in truths.items():
        slack = 1e-5 * abs(truth.item())  # a window alone in its chunk is exact, to rounding
        assert abs(row[name] - truth.item()) <= 4 * row[f"{name}_se"] + slack
    assert row["weight_hessian_trace_se"] > 0
    assert row["representation_norm"] > 0
