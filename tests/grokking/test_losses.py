"""Losses against their definitions, and what float32 does to a memorised pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cutaway.grokking.losses import cross_entropy, jacobian_penalty, stablemax_cross_entropy

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_cross_entropy_is_pytorchs() -> None:
    expected = F.cross_entropy(LOGITS, LABELS, reduction="none")
    assert torch.allclose(cross_entropy(LOGITS, LABELS), expected, atol=1e-14)
    stacked = torch.stack([LOGITS, LOGITS.flip(0)])
    labels = torch.stack([LABELS, LABELS.flip(0)])
    assert torch.allclose(cross_entropy(stacked, labels)[1], expected.flip(0), atol=1e-14)


def test_float32_loses_the_gradient_that_float64_keeps() -> None:
    """Softmax collapse: at a margin of 25 nats the float32 loss is exactly 0."""
    for dtype, alive in ((torch.float32, False), (torch.float64, True)):
        logits = torch.tensor([[25.0, 0.0]], dtype=dtype, requires_grad=True)
        loss = cross_entropy(logits, torch.tensor([0])).sum()
        loss.backward()
        assert (loss.item() > 0) == alive
        assert (float(logits.grad[0, 0]) != 0) == alive


def test_stablemax_is_its_definition() -> None:
    def s(x: float) -> float:
        return x + 1 if x >= 0 else 1 / (1 - x)

    for row, label, loss in zip(
        LOGITS.tolist(), LABELS.tolist(), stablemax_cross_entropy(LOGITS, LABELS)
    ):
        weights = [s(x) for x in row]
        expected = -torch.tensor(weights[label] / sum(weights), dtype=torch.float64).log()
        assert torch.allclose(loss, expected, atol=1e-13)


def test_the_gradient_of_stablemax_is_finite_and_right_everywhere() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    stablemax_cross_entropy(logits, torch.tensor([1])).sum().backward()
    assert bool(logits.grad.isfinite().all())
    calm = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, LABELS), (calm,))


def test_the_jacobian_penalty_is_the_mean_squared_norm_and_has_a_gradient() -> None:
    """Of a linear map W the Jacobian is W for every row."""
    torch.manual_seed(0)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    entering = torch.randn(20_000, 4, dtype=torch.float64, requires_grad=True)
    penalty = jacobian_penalty(entering, entering @ weight.T, 5)
    expected = weight.square().sum()
    assert torch.allclose(penalty, expected, rtol=0.02)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient, 2 * weight, rtol=0.1, atol=0.1)
