"""Laws for every registered architecture: it can be described, built again, saved and loaded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutaway.base.errors import UserError
from cutaway.nets.architectures import ARCHITECTURES, build, describe

COMMON = {"vocab_size": 40, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
MODULAR = {"p": 5, "hidden_dim": 8, "n_layers": 2}
EXAMPLES = {
    "gpt2": {"name": "gpt2", **COMMON},
    "backpack": {"name": "backpack", **COMMON, "n_senses": 2},
    "modular_mlp": {"name": "modular_mlp", **MODULAR, "activation": "relu"},
    "modular_routed": {"name": "modular_routed", **MODULAR, "n_heads": 2, "gate_dim": 3},
    "modular_transformer": {"name": "modular_transformer", **MODULAR, "n_heads": 2},
}
TOKENS = torch.arange(8)[None]
PAIRS = torch.tensor([[0, 1], [4, 2]])


def test_every_architecture_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_round_trips_through_its_description_and_safetensors(name, tmp_path) -> None:
    model = build(EXAMPLES[name], seed=1).eval()
    description = json.loads(json.dumps(describe(model)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = build(description, seed=2).eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    entering = PAIRS if name.startswith("modular") else TOKENS
    assert torch.equal(model(entering), again(entering))
    assert describe(again) == description


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_seed_decides_its_weights(name) -> None:
    one, same, other = (build(EXAMPLES[name], seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_architecture_or_field_is_named() -> None:
    with pytest.raises(
        UserError, match=r"'gpt3': expected one of gpt2, backpack, .*; did you mean 'gpt2'"
    ):
        build({"name": "gpt3"})
    with pytest.raises(UserError, match="no field 'n_heads'"):
        build({**EXAMPLES["gpt2"], "n_heads": 2})
