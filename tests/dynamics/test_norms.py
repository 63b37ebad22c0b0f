"""Weight norms against a plain sum of squares."""

from __future__ import annotations

import pytest
import torch

from cutaway.dynamics.norms import component
from cutaway.nets.reference import load
from cutaway.runs.folder import Run


def test_norms_are_those_of_the_weights(backpack_run) -> None:
    run = Run.open(backpack_run)
    last = run.read().to_pylist()[-1]
    model = load(backpack_run, step="last").model
    squares = {name: p.double().square().sum() for name, p in model.named_parameters()}
    assert last["weight_norm"] == pytest.approx(sum(squares.values()).sqrt().item(), rel=1e-6)
    for wanted in {component(name) for name in squares}:
        total = sum(value for name, value in squares.items() if component(name) == wanted)
        assert last[f"weight_norm.{wanted}"] == pytest.approx(torch.sqrt(total).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("parameter", "owner"),
    [
        ("trunk.blocks.0.attention.out.weight", "blocks.0.attention"),
        ("trunk.blocks.11.norm1.bias", "blocks.11.norm1"),
        ("trunk.norm.weight", "norm"),
        ("trunk.token_embedding.weight", "token_embedding"),
        ("senses.expand.up.weight", "senses"),
    ],
)
def test_components_are_named_by_path(parameter, owner) -> None:
    assert component(parameter) == owner
