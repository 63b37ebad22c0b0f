"""Filters of the gradient, by hand."""

from __future__ import annotations

import pytest
import torch

from cutaway.training.gradient_filters import Grokfast


def test_grokfast_adds_the_slow_gradient() -> None:
    """g ← g + λ · EMA(g), two steps by hand: the average begins at the first gradient."""
    weight = torch.nn.Parameter(torch.zeros(2))
    filtered = Grokfast(decay=0.9, weight=2.0)
    weight.grad = torch.tensor([1.0, -3.0])
    filtered.apply({"w": weight})
    assert weight.grad.tolist() == pytest.approx([1 + 2 * 1, -3 - 2 * 3])
    weight.grad = torch.tensor([5.0, 1.0])
    filtered.apply({"w": weight})
    slow = [0.9 * 1 + 0.1 * 5, 0.9 * -3 + 0.1 * 1]
    assert weight.grad.tolist() == pytest.approx([5 + 2 * slow[0], 1 + 2 * slow[1]])
