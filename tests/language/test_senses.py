"""Changing senses changes exactly what it should."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cutaway.language.attribution import attribute
from cutaway.language.senses import SenseEdit, editing, sense_effect, similarity
from cutaway.nets import build

SHAPE = {"name": "backpack", "vocab_size": 30, "block_size": 10, "n_layer": 1, "n_head": 2}
SHAPE |= {"n_embd": 12, "n_senses": 3}
TOKENS = torch.tensor([3, 7, 5, 7, 1])


@pytest.fixture
def model() -> torch.nn.Module:
    model = build(SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return model.requires_grad_(False)


def test_scaling_a_sense_changes_logits_by_its_attribution(model) -> None:
    """Doubling sense 1 of token 7 adds once more what it added: exact, by linearity."""
    rows = sense_effect(model, TOKENS, [SenseEdit(7, sense=1, scale=2.0)], top=30)
    for row in rows:
        parts = attribute(model, TOKENS, row["token_id"])
        assert row["change"] == pytest.approx(parts[1, [1, 3]].sum().item(), abs=1e-4)


def test_other_words_and_senses_stay(model) -> None:
    before = model.sense_vectors(TOKENS)
    with editing(model, [SenseEdit(7, sense=1, scale=0.0)]):
        after = model.sense_vectors(TOKENS)
    assert after[[1, 3], 1].abs().max() == 0
    changed = (before != after).any(-1)
    assert changed.nonzero().tolist() == [[1, 1], [3, 1]]


def test_the_model_is_itself_again_afterwards(model) -> None:
    before = model(TOKENS[None])
    with editing(model, [SenseEdit(7, scale=0.0)]):
        assert not torch.equal(model(TOKENS[None]), before)
    assert torch.equal(model(TOKENS[None]), before)
    with pytest.raises(IndexError), editing(model, [SenseEdit(7, scale=0.0)]):
        model(torch.tensor([[999]]))  # an error inside must not leave the edit behind
    assert torch.equal(model(TOKENS[None]), before)


def test_projecting_out_leaves_nothing_along_the_direction(model) -> None:
    direction = model.embedding[9]
    with editing(model, [SenseEdit(7, direction=direction, remove=True)]):
        after = model.sense_vectors(torch.tensor([7]))[0]
    assert (after @ F.normalize(direction, dim=0)).abs().max() < 1e-5
    # so the word no longer speaks for token 9 at all
    with editing(model, [SenseEdit(7, direction=direction, remove=True)]):
        assert attribute(model, TOKENS, 9)[:, [1, 3]].abs().max() < 1e-5


def test_adding_a_direction_raises_its_word(model) -> None:
    direction = model.embedding[9]
    rows = sense_effect(model, TOKENS, [SenseEdit(7, 0, direction=direction, add=3.0)], top=30)
    change = {row["token_id"]: row["change"] for row in rows}
    alpha = model.alpha(TOKENS[None])[0, 0, -1, [1, 3]].sum()
    expected = 3.0 * alpha * (model.embedding @ F.normalize(direction, dim=0))
    assert change[9] == pytest.approx(expected[9].item(), abs=1e-4)
    assert expected[9] > 0


def test_probabilities_are_those_of_the_logits(model) -> None:
    rows = sense_effect(model, TOKENS, [SenseEdit(None, scale=0.5)], top=30)
    assert sum(row["probability_before"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert sum(row["probability_after"] for row in rows) == pytest.approx(1, abs=1e-5)


def test_similarity_is_one_with_itself_and_its_minimum_is_the_least(model) -> None:
    cosines, least = similarity(model, 7, 7)
    assert cosines == pytest.approx([1.0] * 3)
    cosines, least = similarity(model, 7, 8)
    one, other = model.sense_vectors(torch.tensor([7, 8]))
    by_hand = [(a @ b / a.norm() / b.norm()).item() for a, b in zip(one, other, strict=True)]
    assert cosines == pytest.approx(by_hand, abs=1e-5)
    assert least == min(cosines)
