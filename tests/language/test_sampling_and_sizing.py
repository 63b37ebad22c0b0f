"""Sampling against the model's own probabilities; sizes against built networks."""

from __future__ import annotations

import pytest
import torch

from cutaway.language.config import LanguageConfig
from cutaway.language.sampling import sample
from cutaway.language.sizing import components, nearest_configurations, total
from cutaway.nets import build
from cutaway.nets.parameters import parameters_by_component
from cutaway.nets.reference import load


def test_temperature_zero_takes_the_likeliest_token(backpack_run) -> None:
    loaded = load(backpack_run)
    start = torch.tensor([loaded.tokenizer.encode("The old king")])
    drawn = sample(loaded.model, start, 5, temperature=0)
    for position in range(start.shape[1], drawn.shape[1]):
        logits = loaded.model(drawn[:, max(0, position - 16) : position])[0, -1]
        assert drawn[0, position] == logits.argmax()


def test_draws_follow_the_models_probabilities() -> None:
    shape = {
        "name": "gpt2",
        "vocab_size": 6,
        "block_size": 4,
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 8,
    }
    model = build(shape).eval()
    with torch.no_grad():
        model.trunk.token_embedding.weight *= 60
    chances = model(torch.tensor([[2]]))[0, -1].softmax(0)
    drawn = sample(model, torch.full((20_000, 1), 2), 1)[:, 1]
    share = torch.bincount(drawn, minlength=6) / 20_000
    assert (share - chances).abs().max() < 0.015  # four standard errors of a share
    top = sample(model, torch.full((2000, 1), 2), 1, top_k=2)[:, 1]
    assert set(top.tolist()) == set(chances.topk(2).indices.tolist())


def test_the_same_seed_draws_the_same_text(backpack_run) -> None:
    model = load(backpack_run).model
    start = torch.tensor([[5, 6]])
    assert torch.equal(sample(model, start, 20, seed=1), sample(model, start, 20, seed=1))
    assert not torch.equal(sample(model, start, 20, seed=1), sample(model, start, 20, seed=2))


@pytest.mark.parametrize("model", ["backpack", "gpt2"])
def test_sizes_are_those_of_the_built_network(model) -> None:
    config = LanguageConfig(model=model, vocab_size=700, n_embd=24, n_senses=3, n_head=2)
    assert components(config) == parameters_by_component(build(config.architecture(700)))


def test_the_document_of_the_tiny_model_holds() -> None:
    """vocab_size 8000: about 500K parameters; 2000: about 227K."""
    config = LanguageConfig(vocab_size=8000, n_embd=48, n_layer=2, n_head=2, n_senses=4)
    assert total(config) == pytest.approx(500_000, rel=0.05)
    assert total(config.model_copy(update={"vocab_size": 2000})) == pytest.approx(227_000, rel=0.02)


def test_the_nearest_configurations_reach_the_target() -> None:
    config = LanguageConfig(vocab_size=8000, n_embd=48, n_layer=2, n_head=2, n_senses=4)
    rows = nearest_configurations(config, 500_000)
    assert {row["field"] for row in rows} == {"vocab_size", "n_embd", "n_senses"}
    for row in rows:
        changed = config.model_copy(update={row["field"]: row["value"]})
        LanguageConfig(**changed.model_dump())  # still valid
        assert total(changed) == row["parameters"] == 500_000 + row["off"]
    by_vocabulary = next(row for row in rows if row["field"] == "vocab_size")
    for other in (by_vocabulary["value"] - 1, by_vocabulary["value"] + 1):
        changed = config.model_copy(update={"vocab_size": other})
        assert abs(total(changed) - 500_000) >= abs(by_vocabulary["off"])
