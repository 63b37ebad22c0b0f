"""Continuing tokens by rules that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutaway.nets.sampling import continued


def after(tokens: Tensor) -> Tensor:
    """The likeliest of ten tokens is one more than the first that is seen, the next two tie."""
    logits = torch.zeros(len(tokens), 10)
    logits[:, 6:8] = 1
    return logits.scatter(1, (tokens[:, :1] + 1) % 6, 2.0)


def refuse(logits: Tensor, temperature: float) -> Tensor:
    raise AssertionError("nothing is drawn at temperature 0")


def test_temperature_zero_follows_the_likeliest_within_the_context() -> None:
    start = torch.tensor([[0, 3], [4, 1]])
    whole = continued(after, start, 3, refuse, temperature=0)
    assert whole.tolist() == [[0, 3, 1, 1, 1], [4, 1, 5, 5, 5]]
    near = continued(after, start, 3, refuse, temperature=0, context=2)
    assert near.tolist() == [[0, 3, 1, 4, 2], [4, 1, 5, 2, 0]]


@pytest.mark.parametrize(("top_k", "left"), [(1, {1}), (2, {1, 6, 7}), (99, set(range(10)))])
def test_top_k_leaves_a_chance_to_the_likeliest_and_to_ties(top_k: int, left: set[int]) -> None:
    seen: list[Tensor] = []

    def draw(logits: Tensor, temperature: float) -> Tensor:
        assert temperature == 0.5
        seen.append(logits)
        return logits.argmax(-1, keepdim=True)

    drawn = continued(after, torch.tensor([[0]]), 1, draw, temperature=0.5, top_k=top_k)
    assert drawn.tolist() == [[0, 1]]
    assert set(seen[0].isfinite().nonzero()[:, 1].tolist()) == left
