"""The Backpack is one: context-free senses, exact attribution, tied head, causal."""

from __future__ import annotations

import pytest
import torch

from cutaway.language.attribution import attribute
from cutaway.nets import build
from cutaway.nets.parameters import parameters_by_component, total_parameters
from cutaway.nets.reference import load

SHAPE = {"name": "backpack", "vocab_size": 60, "block_size": 12, "n_layer": 2, "n_head": 2}
SHAPE |= {"n_embd": 24, "n_senses": 4}


def shaken(seed: int = 0) -> torch.nn.Module:
    """A network far from its near-linear start, so that nothing holds by smallness."""
    model = build(SHAPE, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_attributions_sum_to_the_logits() -> None:
    model = shaken()
    tokens = torch.randint(0, 60, (12,), generator=torch.Generator().manual_seed(1))
    logits = model(tokens[None])[0]
    for position in (0, 5, 11):
        for target in (0, 17, 59):
            parts = attribute(model, tokens, target, position)
            assert parts.shape == (4, 12)
            assert parts.sum().item() == pytest.approx(logits[position, target].item(), abs=1e-4)


def test_attributions_of_a_trained_model_sum_to_its_logits(backpack_run) -> None:
    loaded = load(backpack_run)
    tokens = torch.tensor(loaded.tokenizer.encode("The old king sees the river"))[:16]
    logits = loaded.model(tokens[None])[0, -1]
    parts = torch.stack([attribute(loaded.model, tokens, word) for word in range(len(logits))])
    assert (parts.sum((1, 2)) - logits).abs().max() < 1e-4


def test_attribution_looks_at_no_later_token() -> None:
    parts = attribute(shaken(), torch.arange(12), target=3, position=5)
    assert parts[:, 6:].abs().max() == 0
    assert parts[:, :6].abs().min() > 0


def test_senses_are_context_free() -> None:
    model = shaken()
    one = torch.tensor([[5, 9, 3, 7]])
    other = torch.tensor([[1, 7, 7, 2, 9]])
    assert torch.allclose(
        model.sense_vectors(one)[0, 1], model.sense_vectors(other)[0, 4], atol=1e-6
    )
    assert torch.allclose(
        model.sense_vectors(one)[0, 3], model.sense_vectors(other)[0, 1], atol=1e-6
    )


def test_senses_differ_from_each_other() -> None:
    senses = shaken().sense_vectors(torch.tensor([5]))[0]
    assert (senses[0] - senses[1]).abs().max() > 0.1


def test_alpha_is_a_causal_distribution_over_earlier_positions() -> None:
    alpha = shaken().alpha(torch.arange(12)[None])
    assert alpha.shape == (1, 4, 12, 12)
    assert torch.allclose(alpha.sum(-1), torch.ones(1, 4, 12), atol=1e-6)
    assert alpha.triu(1).abs().max() == 0


def test_the_mix_is_the_sum_of_its_definition() -> None:
    model = shaken()
    tokens = torch.tensor([[4, 8, 15, 16, 23, 42]])
    alpha, senses = model.alpha(tokens), model.sense_vectors(tokens)
    by_hand = torch.einsum("bkij,bjkd->bid", alpha, senses)
    assert torch.allclose(model.state(tokens), by_hand, atol=1e-5)
    assert torch.allclose(model(tokens), by_hand @ model.embedding.t(), atol=1e-5)


def test_no_later_token_changes_a_logit() -> None:
    model = shaken()
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 8] = 50
    assert torch.equal(model(tokens)[0, :8], model(changed)[0, :8])
    assert not torch.equal(model(tokens)[0, 8:], model(changed)[0, 8:])


def test_every_parameter_is_trained() -> None:
    model = build(SHAPE)
    model.loss(torch.arange(12)[None], torch.arange(1, 13)[None]).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_parameters_counted_by_hand() -> None:
    d, v, k, t, layers = 48, 8000, 4, 128, 2
    model = build(
        {"name": "backpack", "vocab_size": v, "block_size": t, "n_layer": layers, "n_head": 2}
        | {"n_embd": d, "n_senses": k}
    )
    norm, linear = 2 * d, lambda a, b: a * b + b
    block = 2 * norm + linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
    senses = 2 * norm + 2 * linear(d, 4 * d) + linear(4 * d, d) + linear(4 * d, k * d)
    by_hand = v * d + t * d + layers * block + norm + linear(d, 2 * d) + senses
    assert total_parameters(model) == by_hand == 516_816
    assert parameters_by_component(model)["senses"] == senses
