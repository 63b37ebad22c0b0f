"""The chunked head equals the plain one: the number, both gradients, in every chunking."""

from __future__ import annotations

import pytest
import torch

from cutaway.nets import head
from cutaway.nets.head import head_cross_entropy, plain_cross_entropy


def problem(tokens: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, generator=generator, dtype=dtype, requires_grad=True)
    embedding = torch.randn(30, 8, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, embedding, torch.randint(0, 30, (tokens,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 7, 50, 64, 1000])
def test_loss_and_gradients_equal_autograd(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(head, "CHUNK_TOKENS", chunk)
    hidden, embedding, targets = problem(100)
    ours = head_cross_entropy(hidden, embedding, targets)
    theirs = torch.nn.functional.cross_entropy(hidden @ embedding.t(), targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for mine, true in zip(
        torch.autograd.grad(3 * ours, (hidden, embedding)),
        torch.autograd.grad(3 * theirs, (hidden, embedding)),
        strict=True,
    ):
        assert torch.allclose(mine, true, rtol=1e-10, atol=1e-12)


def test_finite_differences_agree() -> None:
    hidden, embedding, targets = problem(6)
    assert torch.autograd.gradcheck(
        lambda h, e: head_cross_entropy(h, e, targets), (hidden, embedding)
    )


def test_huge_logits_stay_finite() -> None:
    hidden, embedding, targets = problem(20, torch.float32)
    loss = head_cross_entropy(hidden * 1e4, embedding, targets)
    assert loss.item() == pytest.approx(
        plain_cross_entropy(hidden * 1e4, embedding, targets).item()
    )


def test_only_what_is_needed_is_differentiated() -> None:
    hidden, embedding, targets = problem(20)
    (gradient,) = torch.autograd.grad(
        head_cross_entropy(hidden, embedding.detach(), targets), hidden
    )
    (true,) = torch.autograd.grad(plain_cross_entropy(hidden, embedding.detach(), targets), hidden)
    assert torch.allclose(gradient.float(), true.float(), atol=1e-6)


def test_under_autocast_it_is_as_near_as_the_plain_head() -> None:
    hidden, embedding, targets = problem(300, torch.float32)
    exact = plain_cross_entropy(hidden, embedding, targets)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = (
            f(hidden, embedding, targets) for f in (head_cross_entropy, plain_cross_entropy)
        )
    assert abs(ours - exact) <= 2 * abs(plain - exact) + 1e-3
    mine = torch.autograd.grad(ours, embedding)[0]
    true = torch.autograd.grad(exact, embedding)[0]
    assert mine.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(mine.flatten(), true.flatten(), dim=0) > 0.999


def test_a_second_derivative_is_refused_not_wrong() -> None:
    hidden, embedding, targets = problem(5)
    (gradient,) = torch.autograd.grad(
        head_cross_entropy(hidden, embedding, targets), hidden, create_graph=True
    )
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
    (gradient,) = torch.autograd.grad(
        plain_cross_entropy(hidden, embedding, targets), hidden, create_graph=True
    )
    gradient.square().sum().backward()
    assert hidden.grad.abs().sum() > 0
